from __future__ import annotations

from pathlib import Path

import pytest

from edgesmith.pipeline import recipe


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
    assert search is not None
    assert (search.samples, search.removal, search.temperature) == (200, 0.005, (5.0, 1.0))
    assert (search.resource_weights, search.target) == ("softmax", None)
    for stage in (search, coarse, fine):
        assert stage.augment.crop_hw == (768, 768)
        assert (stage.optimizer, stage.lr, stage.weight_decay, stage.momentum) == ("sgd", 0.05, 1e-5, 0.9)
    assert (coarse.epochs, fine.epochs, fine.schedule, fine.milestones) == (40, 100, "step", (0.5, 0.75))
    assert coarse.data != fine.data
