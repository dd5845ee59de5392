from __future__ import annotations

import dataclasses
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from edgesmith import models
from edgesmith.models import cost
from edgesmith.pipeline import recipe
from edgesmith.pipeline.data.spec import Data
from edgesmith.pipeline.search.fasterseg import FasterSegSearch
from edgesmith.pipeline.search.squeezenas import SqueezeNasSearch


@pytest.mark.parametrize("name", recipe.names())
def test_every_named_recipe_reads_and_its_resolved_form_reads_back(name: str, tmp_path: Path) -> None:
    read = recipe.read(name)
    assert read.about
    (tmp_path / "resolved.yaml").write_text(recipe.dump(read.resolved))
    assert recipe.read(str(tmp_path / "resolved.yaml")) == read.resolved


def test_stages_without_a_dataset_get_the_recipes() -> None:
    resolved = recipe.read("street").resolved
    assert resolved.train.data == resolved.validate.data == resolved.data


def test_overrides_reach_nested_fields() -> None:
    read = recipe.read("street", ["train.epochs=3", "train.augment.crop_hw=[64, 96]", "data.seed=7"])
    assert (read.train.epochs, read.train.augment.crop_hw, read.data.seed) == (3, (64, 96), 7)


def test_an_override_of_the_dataset_reaches_every_stage_of_a_runs_own_recipe(tiny_run: Path) -> None:
    again = recipe.read(str(tiny_run / "recipe.yaml"), ["data.seed=9"]).resolved
    assert [d and d.seed for d in (again.train.data, again.export.golden, again.validate.data)] == [9, 9, 9]


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean 'street'"):
        recipe.read("sreet")


def test_every_field_has_a_sentence_and_can_be_set() -> None:
    from edgesmith.pipeline.fields import fields_of

    found = {f.key: f for f in fields_of(recipe.Recipe)}
    assert found["train.epochs"].default == "10"
    assert "opacity" not in found
    assert (found["export.frame_hw"].default, found["derive.arch"].default) == ("required", "null")
    assert found["search.temperature"].default == "[5.0, 1.0]"
    assert found["pretrain"].type == "tuple[Train, ...]"
    assert found["search.space"].type == "Literal['small', 'large', 'xlarge']"
    assert found["derive.net"].type == "Literal['student', 'teacher', 'pruned_teacher']"
    assert found["build.backends"].type.startswith("tuple[Literal['")
    assert found["validate.backend"].type.endswith("'] or null")
    assert [key for key, f in found.items() if not f.doc] == []


SEARCH = "about: x\nexport: {frame_hw: [64, 96]}\nsearch: {}\n"


def test_a_recipe_names_an_architecture_or_searches_for_one(tmp_path: Path) -> None:
    def problem(text: str) -> str:
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ValueError) as raised:  # noqa: PT011  (the message is what is looked at)
            recipe.read(str(tmp_path / "r.yaml"))
        return str(raised.value)

    assert "r.yaml:1: derive: names no arch" in problem("about: x\nexport: {frame_hw: [64, 96]}\n")
    assert "names an arch, so there is nothing to search for" in problem(SEARCH + "derive: {arch: zoo:squeezenas-mac-small}\n")
    assert "start goes with a named arch" in problem(SEARCH + "train: {start: {weights: runs/x}}\n")
    assert "start is for the first" in problem(SEARCH + "pretrain: [{start: {weights: runs/x}}]\n")


def test_a_search_gets_the_recipes_dataset_and_the_exports_size() -> None:
    resolved = recipe.read("camvid-squeezenas").resolved
    assert resolved.search is not None
    assert resolved.search.data == resolved.data
    assert resolved.search.input_hw == (360, 480)


def test_the_paper_scale_recipe_holds_the_papers_numbers() -> None:
    """Section 5.3 and 4.1, 4.2."""
    paper = recipe.read("squeezenas-cityscapes")
    search, (coarse,), fine = paper.search, paper.pretrain, paper.train
    assert isinstance(search, SqueezeNasSearch)
    assert (search.samples, search.removal, search.temperature) == (200, 0.005, (5.0, 1.0))
    assert (search.resource_weights, search.target) == ("softmax", None)
    for stage in (search, coarse, fine):
        assert stage.augment.crop_hw == (768, 768)
        assert (stage.optim.optimizer, stage.optim.lr, stage.optim.weight_decay, stage.optim.momentum) == (
            "sgd",
            0.05,
            1e-5,
            0.9,
        )
    assert (coarse.epochs, fine.epochs, fine.optim.schedule, fine.optim.milestones) == (40, 100, "step", (0.5, 0.75))
    assert coarse.data != fine.data


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("train: {optim: {lr: 0.0}}\nsearch: {}", "train.optim.lr = 0.0: 0.0 is not above 0"),
        ("search: {optim: {milestones: [0.8, 0.5]}}", "search.optim.milestones = [0.8, 0.5]: "),
        ("search: {method: fasterseg, alternate: {optim: {decay: 2.0}}}", "search.alternate.optim.decay = 2.0: 2.0"),
        ("train: {lr: 0.1}\nsearch: {}", "train.lr = 0.1: unknown key"),
    ],
)
def test_settings_of_an_optimizer_are_refused_by_their_whole_name(tmp_path: Path, text: str, place: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"about: x\nexport: {{frame_hw: [64, 96]}}\n{text}\n")
    with pytest.raises(ValueError, match=re.escape(place)):
        recipe.read(file)


COSEARCH = """
about: x
export: {frame_hw: [64, 96]}
search: {method: fasterseg, resource: macs}
teacher: {train: {epochs: 2}}
train: {distil: {}}
"""


def test_the_method_says_which_search_a_recipe_means(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(COSEARCH)
    read = recipe.read(str(tmp_path / "r.yaml"), ["search.space.layers=9", "search.pretrain.epochs=2"])
    assert isinstance(read.search, FasterSegSearch)
    assert (read.search.space.layers, read.search.pretrain.epochs) == (9, 2)
    assert isinstance(recipe.read("street").search, SqueezeNasSearch)
    with pytest.raises(ValueError, match=r"search\.temperature = .*: unknown key"):
        recipe.read(str(tmp_path / "r.yaml"), ["search.temperature=[5.0, 1.0]"])
    with pytest.raises(
        ValueError, match=r"search\.method = fastseg: needs one of squeezenas, fasterseg; did you mean fasterseg"
    ):
        recipe.read(str(tmp_path / "r.yaml"), ["search.method=fastseg"])


def test_help_says_which_fields_belong_to_which_search() -> None:
    from edgesmith.pipeline.fields import as_text, fields_of

    found = {f.key: f for f in fields_of(recipe.Recipe)}
    assert (found["search.method"].type, found["search.method"].default) == ("squeezenas or fasterseg", "squeezenas")
    assert found["search.temperature"].when == "method squeezenas"
    assert found["search.decoupled"].when == "method fasterseg"
    assert found["search.precision"].when == ""
    assert {"teacher.arch", "teacher.train.epochs", "train.distil.weight"} <= set(found)
    assert "search.space.layers: int = 16   (method fasterseg)" in as_text(recipe.Recipe)


def test_a_search_keeps_the_key_that_it_had_when_there_was_one_method_alone() -> None:
    counted = {f.name for f in dataclasses.fields(SqueezeNasSearch) if f.metadata.get("identity", True)}
    assert "alpha" in counted
    assert "method" not in counted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("train: {distil: {}}", ""), "teacher = a mapping: no training learns from it; add `distil: {}`"),
        (("teacher: {train: {epochs: 2}}", ""), "train = a mapping: distil names no weights, and there is no section teacher"),
        (
            ("{method: fasterseg, resource: macs}", "{}"),
            "teacher = a mapping: names no arch, and there is no search of method fasterseg",
        ),
        (
            ("resource: macs", "teacher: false"),
            "teacher = a mapping: names no arch, and there is no search of method fasterseg",
        ),
        (("resource: macs", "alternate: {epochs: 0}"), r"search = .*: alternate\.epochs is 0, so it finds no network"),
        (("{epochs: 2}", "{distil: {}}"), r"teacher\.train = .*: distil names no weights, and the teacher cannot be its own"),
        (("{epochs: 2}", "{start: {weights: x}}"), r"teacher\.train = .*: start goes with a named arch"),
        (
            ("{train: {epochs: 2}}", "{arch: zoo:fasterseg-teacer}"),
            r"teacher\.arch = zoo:fasterseg-teacer: .*fasterseg-teacher",
        ),
    ],
)
def test_a_teacher_that_cannot_come_to_be_or_teaches_nobody_is_refused(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    (tmp_path / "r.yaml").write_text(COSEARCH.replace(*change))
    with pytest.raises(ValueError, match=message):
        recipe.read(str(tmp_path / "r.yaml"))


def test_the_pruned_teacher_is_a_network_of_a_search_with_a_teacher(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(COSEARCH + "derive: {net: pruned_teacher}\n")
    assert recipe.read(str(tmp_path / "r.yaml")).derive.net == "pruned_teacher"
    (tmp_path / "r.yaml").write_text(SEARCH + "derive: {net: pruned_teacher}\n")
    with pytest.raises(ValueError, match="net pruned_teacher needs a search of method fasterseg"):
        recipe.read(str(tmp_path / "r.yaml"))


def test_a_teacher_gets_the_recipes_dataset_and_the_exports_size(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(COSEARCH)
    resolved = recipe.read(str(tmp_path / "r.yaml")).resolved
    assert resolved.teacher is not None
    assert resolved.search is not None
    assert resolved.teacher.train.data == resolved.search.data == resolved.data
    assert resolved.search.input_hw == (64, 96)
    (tmp_path / "again.yaml").write_text(recipe.dump(resolved))
    assert recipe.read(str(tmp_path / "again.yaml")) == resolved


@pytest.mark.parametrize("name", ["camvid-fasterseg", "fasterseg-cityscapes"])
def test_networks_that_were_found_are_trained_without_searching_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for net in ("student", "teacher"):
        Path(f"{net}.json").write_text(json.dumps(models.zoo(f"fasterseg-{net}").to_json()))
    overrides = ["search=null", "derive.arch=student.json", "teacher.arch=teacher.json", "data.dataset=mine.yaml"]
    resolved = recipe.read(name, overrides).resolved
    assert resolved.search is None
    assert resolved.teacher is not None
    found = (resolved.derive.value, resolved.teacher.derive.value)
    assert found == (models.zoo("fasterseg-student"), models.zoo("fasterseg-teacher"))
    assert resolved.train.distil is not None
    assert resolved.train.data == resolved.teacher.train.data == Data("mine.yaml")


def test_the_recipes_of_the_documentations_commands_read() -> None:
    text = "".join((Path(__file__).parents[2] / page).read_text() for page in ("README.md", "docs/data.md")).replace("\\\n", "")
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^edgesmith run .*$", text, re.MULTILINE)]
    assert len(commands) > 8
    for _, _, name, *options in commands:
        recipe.read(name, [value for key, value in pairwise(options) if key == "--set"])


def test_a_search_at_another_size_takes_target_and_weight_by_the_cost_there() -> None:
    """As docs/data.md has them for 720x1280."""
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    told = {key: float(value) for key, value in re.findall(r"--set search\.(target\.T|latency_weight)=([\d.]+)", page)}
    own, student = recipe.read("camvid-fasterseg").search, models.zoo("fasterseg-student")
    assert isinstance(own, FasterSegSearch)
    there, here = (cost.macs(student, models.Segmentation(19), hw) for hw in ((720, 1280), (360, 480)))
    assert there / here == pytest.approx(5.4, abs=0.05)
    assert told["target.T"] == pytest.approx(own.target.T * there / here, rel=0.15)
    assert told["latency_weight"] == pytest.approx(own.latency_weight * here / there, rel=0.15)


def test_a_squeezenas_search_at_another_size_takes_its_numbers_by_the_cost_there() -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    told = {k: float(v) for k, v in re.findall(r"--set (search\.target|search\.alpha|derive\.budget)=([\d.]+)", page)}
    own, network = recipe.read("camvid-squeezenas"), models.zoo("squeezenas-mac-small")
    assert isinstance(own.search, SqueezeNasSearch)
    there, here = (cost.macs(network, models.Segmentation(19), hw) for hw in ((720, 1280), (360, 480)))
    assert told["search.target"] == told["derive.budget"] == pytest.approx(there / 1e9, rel=0.05)
    assert told["search.alpha"] == pytest.approx(own.search.alpha * here / there, rel=0.05)


def test_the_latency_search_of_the_readme_presses_about_as_hard_as_its_recipe() -> None:
    """alpha is a unit of cost's: per GMAC it is another number than per millisecond."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    example = next(block for block in readme.split("edgesmith run ") if block.startswith("camvid-squeezenas --set search.res"))
    told = {key: float(value) for key, value in re.findall(r"--set search\.(target|alpha)=([\d.]+)", example)}
    own = recipe.read("camvid-squeezenas").search
    assert isinstance(own, SqueezeNasSearch)
    assert own.target is not None
    assert 1 / 3 <= (told["alpha"] * told["target"]) / (own.alpha * own.target) <= 3
