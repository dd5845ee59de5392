"""A FasterSeg search in a report. The search is made up in the real format; one test holds that format against a real one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Arch, FasterSeg
from edgesmith.pipeline.artifacts import content_digest
from edgesmith.pipeline.reports.html import SEARCHES, SECTIONS, write_report
from edgesmith.pipeline.reports.lines import Bands, Choice, Line, bands, lines
from edgesmith.pipeline.reports.run import METHODS, RunFolder
from edgesmith.pipeline.reports.searches import Found
from edgesmith.pipeline.search.fasterseg_derive import pruned
from edgesmith.pipeline.search.fasterseg_space import OPERATORS, Space
from edgesmith.pipeline.show import describe
from tests.pipeline.cosearch import HW, PRETRAIN, SEARCH, make_cosearch
from tests.pipeline.reports.test_html import Parsed, make_run, write
from tests.pipeline.reports.test_squeezenas import make_searched_run

EXTRA = ["search", "probabilities", "sensitivity", "collapse", "found"]


def make_taught_run(folder: Path, **search: Any) -> Path:
    """A made-up run on a made-up search, with a student and, where the search has one, a teacher."""
    make_run(folder, HW)
    summary = make_cosearch(folder, **search)
    model = read_json(folder / "train" / "model.json")
    for net, name in (("student", "train"), ("teacher", "teacher")):
        scales = summary["chosen"].get(net)
        if scales is None:
            continue
        arch = next(row["arch"] for row in summary["networks"] if (row["net"], row["scales"]) == (net, scales))
        write(folder / ("arch" if net == "student" else "teacher-arch") / "arch.json", arch)
        write(folder / name / "model.json", {**model, "arch": arch})
        if net == "teacher":
            shutil.copy(folder / "train" / "history.json", folder / "teacher" / "history.json")
            for made in ("teacher", "teacher-arch"):
                write(folder / made / "artifact.json", {"kind": "weights", "key": "k", "digest": "7e" * 32})
    sidecar = read_json(folder / "train" / "artifact.json")
    distil = {"weights": "x", "weight": 1.0, "divergence": "student_teacher", "per": "pixel"}
    write(folder / "train" / "artifact.json", {**sidecar, "config": {"distil": distil}})
    write(folder / "events.jsonl", json.dumps({"event": "run", "recipe": folder.name, "folder": str(folder)}) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A decoupled search and one that collapses."""
    root = tmp_path_factory.mktemp("runs")
    return make_taught_run(root / "decoupled"), make_taught_run(root / "coupled", decoupled=False, seed=1)


@pytest.fixture
def run(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(runs[0], tmp_path / "decoupled"))


def report_of(folder: Path, against: tuple[Path, ...] = ()) -> Parsed:
    return Parsed(write_report(folder, against).read_text())


def whole(page: Parsed) -> bool:
    return not any("could not be made" in text for text in page.text.values())


def test_a_run_with_a_fasterseg_search_and_a_teacher_has_their_sections(runs: tuple[Path, Path]) -> None:
    page = report_of(runs[0])
    ids = [s["id"] for s in page.all("section")]
    assert ids[: 1 + len(EXTRA)] == ["result", *EXTRA]
    assert ids.index("teacher") == ids.index("training") - 1
    assert set(ids) == {*EXTRA, "speed", "teacher", *(anchor for anchor, _, _ in SECTIONS)}
    assert whole(page)
    assert all(s["role"] == "img" and s["aria-label"] for s in page.all("svg"))
    assert "teacher-arch" in page.text["provenance"]


def test_the_course_says_what_was_found_and_lists_every_epoch(runs: tuple[Path, Path]) -> None:
    said = report_of(runs[0]).text["search"]
    search = RunFolder(runs[0]).fasterseg
    student = search.chosen("student")
    assert student is not None
    assert f"{student.latency:.4g} ms" in said
    assert student.branches in said
    assert f"{PRETRAIN} + {SEARCH}" in said
    assert said.count("pretrain") > PRETRAIN
    assert "decoupled latency term" in said
    for name in (
        "the weights' half",
        "the architecture's",
        "relaxed latency, ms",
        "entropy of the student's choices",
        "weight λ of the latency",
    ):
        assert name in said


def test_both_halves_losses_are_drawn_and_one_alone_where_a_search_recorded_one(run: Path) -> None:
    both = r'aria-label="OHEM loss a head and pass [^"]*half: [^"]*, the architecture'
    assert re.search(both, page_of(run))
    summary = read_json(run / "search" / "search.json")
    for row in summary["history"]:
        row.pop("arch_loss", None)
        row.pop("arch_pixel_loss", None)
    write(run / "search" / "search.json", summary)
    assert whole(report_of(run))
    assert not re.search(both, page_of(run))


def page_of(run: Path) -> str:
    return write_report(run, ()).read_text()


def test_probabilities_of_every_cell_are_drawn_over_the_epochs(runs: tuple[Path, Path]) -> None:
    text = write_report(runs[0]).read_text()
    section = text[text.index('<section id="probabilities">') : text.index('<section id="sensitivity">')]
    space = RunFolder(runs[0]).fasterseg.space
    cells = sum(space.cells(s) for s in range(3))
    titles = re.findall(r"<title>(α at 1/\d+, layer \d+): [^<]*</title>", section)
    assert len(titles) == 2 * cells * len(OPERATORS)  # of student and teacher
    last = read_json(runs[0] / "search" / "search.json")["history"][-1]["probabilities"]
    k = space.operators.index("conv_x2")
    share = last["student"]["alpha"][1][2][k]  # the third cell at 1/16
    assert re.search(rf"α at 1/16, layer 3: conv, twice [\d.]+ % at first, {100 * share:.1f} % last", section)
    down = last["student"]["beta"][1][0][0]
    assert re.search(rf"β at 1/32, layer 3: from the finer scale [\d.]+ % at first, {100 * down:.1f} % last", section)
    width = last["student"]["ratio"][0][0][-1]
    assert re.search(rf"γ at 1/8, layer 1: χ = 12 [\d.]+ % at first, {100 * width:.1f} % last", section)
    assert f"{100 * share:.1f}" in report_of(runs[0]).text["probabilities"]


def test_table_2_stands_beside_the_papers(runs: tuple[Path, Path]) -> None:
    said = report_of(runs[0]).text["sensitivity"]
    for words in ("12.4", "6.2", "0.991", "10.42", "0.997", "O, operator", "Eq. 3 weighs the three apart"):
        assert words in said, words
    assert "the weights did not count" in report_of(runs[1]).text["sensitivity"]


def test_the_collapse_shows_every_evaluated_network_and_the_other_search_below(runs: tuple[Path, Path]) -> None:
    alone, both = report_of(runs[0]), report_of(runs[0], (runs[1],))
    assert whole(both)
    search = RunFolder(runs[0]).fasterseg
    found = search.course("student")
    assert [len(row) for row in found.values()] == [SEARCH] * 3
    epoch, first = found[2, 1][0]
    assert epoch == PRETRAIN + 1
    assert f"{first.latency:.3f}" in alone.text["collapse"]
    assert "decoupled latency term" not in alone.text["collapse"]
    assert "decoupled: decoupled latency term" in both.text["collapse"]
    assert "coupled: coupled latency term" in both.text["collapse"]
    assert "coupled, latency-found" in both.text["networks"]
    # Both pairs of charts have the same axes.
    labels = [s["aria-label"] for s in both.all("svg") if s["aria-label"].startswith("mIoU in the supernet")]
    assert len(labels) == 2


@pytest.mark.parametrize("other", [{"resource": "macs", "unit": "GMAC"}, {"input_hw": [640, 960]}])
def test_searches_whose_costs_are_of_other_things_have_axes_of_their_own(
    runs: tuple[Path, Path], tmp_path: Path, other: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(runs[1], tmp_path / "other"))
    summary = read_json(folder / "search" / "search.json")
    for row in [network for epoch in summary["history"] for network in epoch.get("networks", [])]:
        row["latency"] *= 1000
    write(folder / "search" / "search.json", {**summary, **other})
    alike = Path(shutil.copytree(runs[1], tmp_path / "alike"))
    write(alike / "search" / "search.json", summary)

    def first_cost_axis(against: tuple[Path, ...]) -> list[str]:
        text = write_report(runs[0], against).read_text()
        chart = text[text.index('aria-label="latency of the network, ms') :]
        return re.findall(r'text-anchor="end">([\d.]+)</text>', chart[: chart.index("</svg>")])

    assert whole(report_of(runs[0], (folder,)))
    assert first_cost_axis((folder,)) == first_cost_axis(())
    assert first_cost_axis((alike,)) != first_cost_axis(())


def test_the_found_networks_are_drawn_and_counted(runs: tuple[Path, Path]) -> None:
    page = report_of(runs[0])
    said = page.text["found"]
    search = RunFolder(runs[0]).fasterseg
    assert said.count("chosen") == 3  # two rows, and the sentence
    for found in search.networks:
        assert f"{found.latency:.4f}" in said
    assert "drawn under Network" in said
    assert "drawn under Teacher" in said
    assert "T = 8.3 ms and w = -0.07" in said


def test_the_teachers_section_says_what_it_is_and_how_it_learnt(runs: tuple[Path, Path]) -> None:
    page = report_of(runs[0])
    assert "fasterseg-teacher" in page.text["teacher"]
    assert "best epoch 10: 55.1" in page.text["teacher"]
    assert "Student's best val mIoU" in page.text["teacher"]
    assert "1 times KL(student || teacher), the mean a pixel" in page.text["training"]


def test_the_estimate_of_the_search_is_held_against_the_measured_latency(runs: tuple[Path, Path]) -> None:
    said = report_of(runs[0]).text["speed"]
    student = RunFolder(runs[0]).fasterseg.chosen("student")
    measured = read_json(runs[0] / "validation" / "validation.json")["latency_ms"]["engine"]["p50"]
    assert student is not None
    assert f"sum {student.latency:.3f} ms, measured {measured:.3f} ms" in said
    assert "1 network; error of the sum" in said


def test_a_search_that_only_pretrained_says_so(tmp_path: Path) -> None:
    make_cosearch(tmp_path / "only", epochs=0)
    page = report_of(tmp_path / "only")
    assert whole(page)
    assert "ended with its pretraining" in page.text["probabilities"]
    assert "found no network" in page.text["found"]
    assert RunFolder(tmp_path / "only").arch is None


def test_a_search_of_one_width_without_skips_and_teacher_and_with_one_branch(tmp_path: Path) -> None:
    space = Space(layers=9, operators=("conv", "zoomed_conv", "conv_x2", "zoomed_conv_x2"), ratios=(8,), branches=1)
    page = report_of(make_taught_run(tmp_path / "narrow", space=space, teacher=False))
    assert whole(page)
    assert "γ" not in page.text["probabilities"].replace("γ chooses", "")
    assert "skip" not in page.text["probabilities"]
    assert "teacher" not in [s["id"] for s in page.all("section")]


def test_epochs_without_an_evaluation_are_passed_over(run: Path) -> None:
    summary = read_json(run / "search" / "search.json")
    for row in summary["history"][PRETRAIN:-1]:
        del row["networks"]
    write(run / "search" / "search.json", summary)
    page = report_of(run)
    assert whole(page)


def test_a_damaged_search_takes_only_its_own_sections_down(run: Path) -> None:
    write(run / "search" / "search.json", '{"method": "fasterseg", "history": 3}')
    page = report_of(run)
    for anchor in EXTRA:
        assert "could not be made" in page.text[anchor]
    for anchor in ("result", "network", "teacher", "training", "provenance"):
        assert "could not be made" not in page.text[anchor]
    write(run / "search" / "search.json", "{")
    assert "could not be made" in report_of(run).text["search"]


def test_a_search_of_a_method_that_is_not_known_is_said_to_be_so(run: Path) -> None:
    folder = run / "search"
    write(folder / "search.json", {**read_json(folder / "search.json"), "method": "another"})
    page = report_of(run)
    assert "method 'another'" in page.text["search"]
    assert "method 'another' is not one of squeezenas, fasterseg" in page.text["speed"]
    assert "found" not in page.text
    for anchor in ("result", "network", "teacher", "training", "provenance"):
        assert "could not be made" not in page.text[anchor]
    seal(folder, "search")
    with pytest.raises(ValueError, match=r"search\.json: method 'another' is not one of squeezenas, fasterseg"):
        describe(folder)
    assert set(SEARCHES) == set(METHODS)


def test_a_network_before_its_training_is_the_chosen_student(tmp_path: Path) -> None:
    make_cosearch(tmp_path / "only")
    student = RunFolder(tmp_path / "only").fasterseg.chosen("student")
    assert student is not None
    assert RunFolder(tmp_path / "only").arch == student.arch
    assert whole(report_of(tmp_path / "only"))


def settle(run: Path, arch: Arch, budget: float | None = None) -> None:
    """Make `arch` what the run took from its search and trained."""
    write(run / "arch" / "arch.json", arch.to_json())
    write(run / "arch" / "artifact.json", {"kind": "architecture", "key": "k", "digest": "a", "config": {"budget": budget}})
    write(run / "train" / "model.json", {**read_json(run / "train" / "model.json"), "arch": arch.to_json()})


def not_chosen(run: Path, net: str) -> Found:
    """A network that the search itself did not choose."""
    scales = read_json(run / "search" / "search.json")["chosen"][net]
    return next(f for f in RunFolder(run).fasterseg.networks if f.net == net and list(f.scales) != scales)


def test_the_network_that_was_chosen_within_a_budget_is_the_reports(run: Path) -> None:
    other = not_chosen(run, "student")
    settle(run, other.arch, 1.01 * other.latency)
    said = report_of(run).text
    assert RunFolder(run).fasterseg.chosen("student") == other
    assert f"{other.latency:.4g} ms" in said["search"]
    assert f"{other.branches}; mIoU" in said["search"]
    assert f"{other.branches}, chosen" in said["collapse"]
    assert f"Student, branches to {other.branches}: drawn under Network" in said["found"]
    assert f"its budget of {1.01 * other.latency:.4g} ms" in said["found"]


def test_a_teacher_that_is_the_runs_network_is_drawn_where_that_is(run: Path) -> None:
    other = not_chosen(run, "teacher")
    settle(run, other.arch)
    said = report_of(run).text["found"]
    assert RunFolder(run).fasterseg.chosen("teacher") == other
    assert f"Teacher, branches to {other.branches}: drawn under Network" in said
    assert "drawn under Teacher" in said  # the one that it learnt from


def test_a_pruned_teacher_that_was_trained_is_found_in_the_report(run: Path) -> None:
    search = RunFolder(run).fasterseg
    teacher = search.chosen("teacher")
    assert teacher is not None
    assert isinstance(teacher.arch, FasterSeg)
    settle(run, pruned(teacher.arch, search.space))
    said = report_of(run).text
    assert f"it is the pruned teacher, with branches to {teacher.branches}" in said["found"]
    assert "Pruned teacher: drawn under Network" in said["found"]
    assert "pruned teacher" in said["search"]
    assert "Student, branches to" in said["found"]
    shutil.rmtree(run / "train")
    assert whole(report_of(run))
    assert "Pruned teacher" in report_of(run).text["found"]
    assert "drawn under Network" not in report_of(run).text["found"]


def seal(folder: Path, kind: str) -> None:
    """Give an artifact the sidecar that it is checked by."""
    write(folder / "artifact.json", {"kind": kind, "key": "k", "digest": content_digest(folder)})


def test_show_of_a_run_says_which_network_it_took(run: Path, tmp_path: Path) -> None:
    other, folder = not_chosen(run, "student"), tmp_path / "shown"
    shutil.copytree(run / "search", folder / "search")
    write(folder / "recipe.yaml", "about: One.")
    write(folder / "arch" / "arch.json", other.arch.to_json())
    for name, kind in (("search", "search"), ("arch", "architecture")):
        seal(folder / name, kind)
    chosen = [row["arch_digest"] for row in describe(folder)["search"]["networks"] if row["chosen"]]
    assert other.arch.digest[:12] in chosen
    assert len(chosen) == 2
    assert describe(folder)["search"]["method"] == "fasterseg"


def test_show_says_what_a_search_found(run: Path) -> None:
    folder = run / "search"
    seal(folder, "search")
    shown = describe(folder)
    assert (shown["method"], shown["epochs"]) == ("fasterseg", {"pretrain": PRETRAIN, "search": SEARCH})
    assert sum(row["chosen"] for row in shown["networks"]) == 2
    assert shown["networks"][0]["branches"] == "1/16, 1/8"


def test_the_made_up_search_has_the_fields_of_a_real_one(tmp_path: Path) -> None:
    from edgesmith.pipeline.artifacts import SearchResult
    from edgesmith.pipeline.data.augment import Augment
    from edgesmith.pipeline.data.spec import Data
    from edgesmith.pipeline.search.fasterseg import FasterSegSearch, Phase
    from edgesmith.pipeline.stage import Pipeline

    space = Space(layers=8, operators=("skip", "conv"), ratios=(2, 4), stem_ratio=2, teacher_stem_ratio=4)
    phase = Phase(1, 2, Augment(crop_hw=(64, 64)))
    data = Data("street", frame_hw=HW, train_frames=4, val_frames=1, test_frames=1)
    stage = FasterSegSearch(data=data, space=space, input_hw=HW, pretrain=phase, alternate=phase, recalibrate=2, device="cpu")
    Pipeline(tmp_path / "real", lambda event, **fields: None).run("search", SearchResult, stage)
    make_cosearch(tmp_path / "fake", space=space)
    real, fake = (read_json(tmp_path / n / "search" / "search.json") for n in ("real", "fake"))
    assert set(real) == set(fake)
    for row in (0, -1):
        assert set(real["history"][row]) == set(fake["history"][row])
    assert set(real["networks"][0]) == set(fake["networks"][0])
    assert _shape(real["history"][-1]["probabilities"]) == _shape(fake["history"][-1]["probabilities"])
    assert set(real["sensitivity"]) == set(fake["sensitivity"])
    page = report_of(tmp_path / "real")
    assert whole(page)
    assert describe(tmp_path / "real" / "search")["epochs"] == {"pretrain": 1, "search": 1}


def _shape(value: Any) -> Any:
    """Keys and lengths, without numbers."""
    if isinstance(value, dict):
        return {k: _shape(v) for k, v in value.items()}
    return [_shape(v) for v in value] if isinstance(value, list) else None


# Charts


def test_lines_say_where_they_end_and_leave_out_what_is_not_finite() -> None:
    drawn = [Line("a", [(1, 2.0), (2, float("nan")), (3, 4.0)]), Line("b", [(1, float("inf"))])]
    text = lines(drawn, "epoch", "loss", begin=("here", 2.0), level=("top", 9.0))
    assert 'aria-label="loss by epoch. At the end a: 4.00"' in text
    assert text.count("<title>") == 1
    assert "here" in text
    assert "top" in text
    assert lines([Line("b", [(1, float("nan"))])], "epoch", "loss") == ""
    assert 'class="curve blue"' in lines([Line("one", [(3, 0.0)])], "epoch", "loss")


def test_lines_that_cover_the_same_have_the_same_axis() -> None:
    a, b = (lines([Line("x", [(0, low), (9, high)])], "e", "y", covers=(0.0, 50.0)) for low, high in ((1, 2), (30, 50)))
    ticks_of = [re.findall(r'text-anchor="end">([\d.]+)</text>', text) for text in (a, b)]
    assert ticks_of[0] == ticks_of[1]


def test_bands_stack_to_the_full_height_and_refuse_rows_that_do_not_fit() -> None:
    choices = [Choice("a", 'fill="red"'), Choice("b", 'fill="blue"')]
    text = bands([Bands("one", choices, {2: [[0.25, 0.75], [1.0, 0.0]]})], [1, 2])
    areas = re.findall(r'<path fill="\w+" d="M([^"]*)Z">', text)
    ys = [[float(p.split()[1]) for p in area.split("L")] for area in areas]
    assert max(ys[0]) - min(ys[1]) == pytest.approx(20)
    assert ys[0][0] == pytest.approx(max(ys[0]) - 5)  # a quarter
    with pytest.raises(ValueError, match="one, layer 2: needs 3 rows of 2 numbers"):
        bands([Bands("one", choices, {2: [[0.25, 0.75], [1.0, 0.0]]})], [1, 2, 3])
    assert bands([], [1]) == ""


def test_searches_of_both_methods_can_be_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_searched_run(tmp_path / "squeezenas", "latency")
    for page in (report_of(runs[0], (other,)), report_of(other, (runs[0],))):
        assert whole(page)
        assert "lined up" in page.text["networks"]
        assert "2 networks" not in page.text["speed"]  # each table prices its own networks
