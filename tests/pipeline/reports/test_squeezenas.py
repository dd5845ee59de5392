"""The search in a report. Most tests use a made-up search in the real format; one holds that format against a real search."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Segmentation, SqueezeNas
from edgesmith.models.cost import macs, params
from edgesmith.pipeline.reports import searches
from edgesmith.pipeline.reports.compare import Measured, TableCheck, device_charts, table_chart
from edgesmith.pipeline.reports.html import SECTIONS, write_report
from edgesmith.pipeline.reports.run import RunFolder
from edgesmith.pipeline.search.pareto import choose, front
from edgesmith.pipeline.search.squeezenas_costs import Costs, costs
from edgesmith.pipeline.search.squeezenas_space import NAMES, Space, space
from edgesmith.pipeline.stage import LOCK
from edgesmith.pipeline.verbs.report import report as verb
from tests.pipeline.reports.test_html import Parsed, make_run, write

HW, TASK = (64, 96), Segmentation(11)
EPOCHS, SAMPLES = 8, 30
EXTRA = ["search", "probabilities", "pareto", "networks", "speed"]


def costs_of(resource: str) -> Costs:
    """Real costs; those in milliseconds are made up from the MACs."""
    whole = space("small")
    if resource != "latency":
        return costs(whole, TASK, resource, HW)  # type: ignore[arg-type]
    counted = costs(whole, TASK, "macs", HW)
    rate = np.linspace(0.03, 0.012, len(whole))  # GMACs a ms: faster at the start
    blocks = tuple(tuple(float(c / r) + 0.02 * (c > 0) for c in row) for row, r in zip(counted.blocks, rate, strict=True))
    return Costs("latency", blocks, 0.9)


def make_search(folder: Path, resource: str = "macs", seed: int = 0) -> SqueezeNas:
    """Write a made-up search in the format of a real one, with real architectures and costs; the network that it found."""
    rng = np.random.default_rng(seed)
    whole, priced = space("small"), costs_of(resource)
    direction = rng.normal(size=(len(whole), len(NAMES)))
    direction[np.arange(len(whole)), rng.integers(0, len(NAMES), len(whole))] += 3.0
    alive = np.ones((len(whole), len(NAMES)), bool)
    history = []
    for epoch in range(1, EPOCHS + 1):
        p = np.where(alive, np.exp(1.6 * direction * epoch / EPOCHS), 0)
        p /= p.sum(1, keepdims=True)
        removed = np.argwhere(alive & (p < 0.005))
        alive[tuple(removed.T)] = False
        row = {
            "epoch": epoch,
            "loss": 2.4 * 0.8**epoch + 0.6,
            "pixel_loss": 2.1 * 0.8**epoch + 0.4,
            "cost": float((p * np.array(priced.blocks)).sum() + priced.fixed),
            "lr": 0.05,
            "temperature": 5 - 4 * (epoch - 0.5) / EPOCHS,
            "entropy": float(-(p * np.log(np.where(p > 0, p, 1))).sum(1).mean()),
            "alive": int(alive.sum()),
            "probabilities": p.tolist(),
            "removed": [[int(i), NAMES[j]] for i, j in removed],
        }
        history.append(row)
    p = np.where(alive, p, 0)
    p /= p.sum(1, keepdims=True)
    choices = {tuple(int(j) for j in p.argmax(1)): None}
    while len(choices) < SAMPLES:
        choices[tuple(int(rng.choice(len(NAMES), p=row)) for row in p)] = None
    archs = [whole.arch(c, "network") for c in choices]
    samples: list[dict[str, Any]] = [
        {
            "arch_digest": arch.digest,
            "choice": [NAMES[j] for j in choice],
            "cost": priced.of(choice),
            "macs": macs(arch, TASK, HW),
            "params": params(arch, TASK),
            "val_miou": float(0.3 + 0.05 * np.log(1e-7 * macs(arch, TASK, HW)) + 0.01 * rng.normal()),
        }
        for choice, arch in zip(choices, archs, strict=True)
    ]
    points = [(row["cost"], row["val_miou"]) for row in samples]
    for row, good in zip(samples, front(points), strict=True):
        row["on_front"] = good
    target = float(np.median([c for c, _ in points]))
    summary = {
        "method": "squeezenas",
        "space": "small",
        "resource": resource,
        "unit": priced.unit,
        "alpha": 0.05,
        "table": None,
        "target": target,
        "input_hw": list(HW),
        "classes": TASK.classes,
        "candidates": list(NAMES),
        "costs": priced.to_json(),
        "theta": direction.tolist(),
        "probabilities": p.tolist(),
        "alive": [[n for n, a in zip(NAMES, row, strict=True) if a] for row in alive],
        "history": history,
    }
    write(folder / "search" / "search.json", summary)
    write(folder / "search" / "samples.json", samples)
    write(folder / "search" / "artifact.json", {"kind": "search", "key": "k", "digest": "5e" * 32, "stage": "SqueezeNasSearch"})
    best = choose(points, target)
    assert best is not None
    return dataclasses.replace(archs[best], name="squeezenas-small-found")


def make_searched_run(folder: Path, resource: str = "macs", seed: int = 0) -> Path:
    """A run whose network was found: the made-up run of the report's tests, on a made-up search."""
    make_run(folder, HW)
    arch = make_search(folder, resource, seed)
    model = json.loads((folder / "train" / "model.json").read_text())
    write(folder / "train" / "model.json", {**model, "arch": arch.to_json()})
    write(folder / "arch" / "arch.json", arch.to_json())
    budget = json.loads((folder / "search" / "search.json").read_text())["target"]
    write(folder / "arch" / "artifact.json", {"kind": "architecture", "key": "k", "digest": "a", "config": {"budget": budget}})
    (folder / LOCK).touch()
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A search for MACs and one for latency."""
    root = tmp_path_factory.mktemp("runs")
    return make_searched_run(root / "macs"), make_searched_run(root / "latency", "latency", 1)


@pytest.fixture
def run(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the search for MACs that a test may change."""
    return Path(shutil.copytree(runs[0], tmp_path / "macs"))


def report_of(folder: Path, against: tuple[Path, ...] = ()) -> Parsed:
    return Parsed(write_report(folder, against).read_text())


def whole(page: Parsed) -> bool:
    return not any("could not be made" in text for text in page.text.values())


# The sections


def test_a_run_that_searched_has_the_sections_of_a_search(runs: tuple[Path, Path]) -> None:
    for folder in runs:
        page = report_of(folder)
        plain = [anchor for anchor, _, _ in SECTIONS]
        assert [s["id"] for s in page.all("section")] == [plain[0], *EXTRA, *plain[1:]]
        assert whole(page)
        assert "search" in page.text["provenance"]
        assert all(s["role"] == "img" and s["aria-label"] for s in page.all("svg"))


def test_the_course_says_where_it_ended_and_lists_every_epoch(runs: tuple[Path, Path]) -> None:
    said = report_of(runs[0]).text["search"]
    last = read_json(runs[0] / "search" / "search.json")["history"][-1]
    assert f"last epoch {EPOCHS}: {last['entropy']:.3f}" in said
    assert "target" in said
    assert f"{last['alive']} of 260" in said
    for name in ("entropy of a block's candidates, nats", "temperature", "expected cost, GMAC", "cross-entropy"):
        assert name in said
    assert f"{last['cost']:.4f}" in said


def test_candidates_show_probability_removal_and_the_found_network(runs: tuple[Path, Path]) -> None:
    text = write_report(runs[0]).read_text()
    search = RunFolder(runs[0]).squeezenas
    titles = re.findall(r"<title>(block \d+, [^<]*)</title>", text)
    cells = [t for t in titles if re.match(r"block \d+, (k\d|skip)", t)]
    assert len(cells) == 20 * 13
    for (i, j), epoch in search.removed.items():
        assert any(t.startswith(f"block {i}, {NAMES[j]}") and t.endswith(f"removed after epoch {epoch}") for t in cells)
    assert search.removed
    assert search.chosen is not None
    found = [t for t in cells if "in the found network" in t]
    assert [t.split(",")[1].strip() for t in found] == search.chosen["choice"]
    assert text.count('class="picked"') == 20


def test_the_pareto_plot_shows_every_network_the_front_the_found_and_the_most_probable(runs: tuple[Path, Path]) -> None:
    for folder, unit in zip(runs, ("GMAC", "ms"), strict=True):
        text = write_report(folder).read_text()
        section = text[text.index('<section id="pareto">') : text.index('<section id="networks">')]
        search = RunFolder(folder).squeezenas
        on_front = sum(row["on_front"] for row in search.samples)
        assert section.count('class="dot"') == SAMPLES - on_front + 1  # one in the legend
        assert section.count('class="fill"') == on_front + 1
        assert section.count('class="best"') == section.count('class="hoop"') == 2
        assert f"{unit}</text>" in section
        assert "budget" in section
        assert search.chosen is not None
        titles = re.findall(r"<title>(\w{12}): ", section)
        assert sorted(titles) == sorted(
            [r["arch_digest"][:12] for r in [*search.samples, search.chosen, search.samples[0]]]
        )  # the found and the most probable one twice
        assert "most probable" in section


def test_a_sample_that_failed_is_counted_and_not_drawn(run: Path) -> None:
    samples = read_json(run / "search" / "samples.json")
    for row in samples[:2]:
        row.update(val_miou=None, error="out of memory", on_front=False)
    write(run / "search" / "samples.json", samples)
    page = report_of(run)
    assert whole(page)
    assert f"2 of {SAMPLES} could not be evaluated" in page.text["pareto"]
    assert "2 failed" in page.text["search"]


def test_a_search_without_removal_target_or_budget_is_shown(run: Path) -> None:
    summary = read_json(run / "search" / "search.json")
    summary["target"] = None
    for row in summary["history"]:
        row["removed"] = []
    write(run / "search" / "search.json", summary)
    write(run / "arch" / "artifact.json", {"kind": "architecture", "key": "k", "digest": "a", "config": {}})
    page = report_of(run)
    assert whole(page)
    assert "all of the cost counts" in page.text["search"]
    assert "budget" not in page.text["pareto"]


def test_a_run_without_a_search_has_none_of_its_sections(tmp_path: Path) -> None:
    page = report_of(make_run(tmp_path / "plain", HW))
    assert not {s["id"] for s in page.all("section")} & set(EXTRA)


def test_a_search_whose_run_got_no_further_is_shown(tmp_path: Path) -> None:
    arch = make_search(tmp_path / "only")
    page = report_of(tmp_path / "only")
    assert whole(page)
    assert RunFolder(tmp_path / "only").arch == dataclasses.replace(arch, name="only, found")
    assert "Nothing was measured yet" in page.text["speed"]


# Comparisons


def test_networks_of_two_searches_stand_below_each_other(runs: tuple[Path, Path]) -> None:
    said = report_of(runs[0], (runs[1],)).text["networks"]
    assert "street, MAC-found" in said
    assert "street, latency-found, in full" in said
    assert said.count("GMACs") >= 3
    assert "lined up" in said


def test_the_table_sum_is_held_against_the_measured_latency(runs: tuple[Path, Path]) -> None:
    own = report_of(runs[1]).text["speed"]
    search = RunFolder(runs[1]).squeezenas
    assert search.chosen is not None
    measured = read_json(runs[1] / "validation" / "validation.json")["latency_ms"]["engine"]["p50"]
    assert f"{search.chosen['cost']:.2f}" in own
    assert f"{measured:.2f}" in own
    assert f"sum {search.chosen['cost']:.3f} ms, measured {measured:.3f} ms" in own
    assert "throughput, GMAC/s" in own
    both = report_of(runs[0], (runs[1],)).text["speed"]  # the other's costs price this one's network too
    assert "2 networks; error of the sum" in both
    alone = report_of(runs[0]).text["speed"]
    assert "sum of the latency table" not in alone
    assert "throughput, GMAC/s" in alone


def test_the_table_is_not_held_against_an_engine_of_another_kind(runs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs[1], tmp_path / "int8")
    v = read_json(folder / "validation" / "validation.json")
    v["engine"]["precision"] = "int8"
    write(folder / "validation" / "validation.json", v)
    page = report_of(folder)
    assert whole(page)
    assert "measured" in page.text["speed"]
    assert "sum of the latency table, ms" not in page.text["speed"]


def test_runs_of_one_name_are_told_apart(runs: tuple[Path, Path], run: Path) -> None:
    said = report_of(runs[0], (run,)).text["networks"]
    assert said.count("MAC-found (macs)") >= 1


def test_a_run_that_did_not_search_can_be_compared(tmp_path: Path) -> None:
    plain, other = make_run(tmp_path / "plain", HW), make_searched_run(tmp_path / "other", "latency")
    page = report_of(plain, (other,))
    assert whole(page)
    ids = [s["id"] for s in page.all("section")]
    assert "networks" in ids
    assert "search" not in ids
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report(plain, (tmp_path / "nowhere",))


def test_the_verb_writes_the_report_again_and_refuses_other_folders(runs: tuple[Path, Path], run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(verb, [str(run), "--against", str(runs[1]), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == {"report": str(run / "report.html")}
    assert "latency-found" in (run / "report.html").read_text()
    with pytest.raises(ValueError, match="not a run folder"):
        CliRunner().invoke(verb, [str(tmp_path)], catch_exceptions=False)
    assert not (tmp_path / "report.html").exists()


def test_device_charts_leave_out_what_was_not_measured() -> None:
    timed = Measured("a", 0.2, 1000, 10.0)
    assert timed.gmacs_per_s == pytest.approx(20)
    assert device_charts([Measured("b", 0.2, 1000, None)]) == ""
    assert device_charts([timed]).count("<svg") == 1
    assert device_charts([dataclasses.replace(timed, miou=0.5), Measured("b", 0.2, 1000, None, miou=0.4)]).count("<svg") == 3


def test_a_check_counts_errors_on_networks_that_no_fit_has_seen() -> None:
    check = TableCheck([1.0, 10.0, 20.0], [5.0, 11.0, 22.0], 1, 1.1, 0.0)
    assert "2 networks; error of the sum 9.1 % in the mean (bias -9.1 %, largest 9.1 %)" in check.words
    assert "fitted on 1 others, 0.0 % in the mean" in check.words
    assert "<svg" in table_chart(check, [])
    with pytest.raises(ValueError, match="2 sums for 1 times"):
        TableCheck([1.0, 2.0], [1.0])


# Damage


@pytest.mark.parametrize("name", ["search.json", "samples.json"])
@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", "3", '{"history": 5, "space": "small"}', '[{"val_miou": 1}]', '{"space": "']
)
def test_a_damaged_search_costs_only_its_own_sections(run: Path, name: str, damage: str) -> None:
    (run / "search" / name).write_text(damage)
    page = report_of(run)
    assert re.search("could not be made|None of the sampled networks", page.text["pareto"])
    for anchor, _, _ in SECTIONS:
        assert "could not be made" not in page.text[anchor]


def test_a_missing_file_of_the_search_is_named(run: Path) -> None:
    (run / "search" / "samples.json").unlink()
    assert "samples.json" in report_of(run).text["search"]


@pytest.mark.parametrize("value", [None, "much", -1, [], {}, 1e308])
@pytest.mark.parametrize("field", ["probabilities", "history", "unit", "space", "resource", "costs", "target", "input_hw"])
def test_no_value_of_a_search_stops_the_report(run: Path, field: str, value: Any) -> None:
    summary = read_json(run / "search" / "search.json")
    write(run / "search" / "search.json", {**summary, field: value})
    page = report_of(run)
    for anchor, _, _ in SECTIONS:
        assert "could not be made" not in page.text[anchor]


def test_names_in_a_search_stay_text(run: Path) -> None:
    hostile = "<script>alert('x')</script>"
    summary, samples = (read_json(run / "search" / f"{n}.json") for n in ("search", "samples"))
    write(run / "search" / "search.json", {**summary, "unit": hostile, "resource": hostile})
    for row in samples:
        row["on_front"] = hostile
    write(run / "search" / "samples.json", samples)
    assert report_of(run).all("script") == []


# The format


def test_the_made_up_search_has_the_fields_of_a_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgesmith.pipeline.artifacts import SearchResult
    from edgesmith.pipeline.data.augment import Augment
    from edgesmith.pipeline.data.spec import Data
    from edgesmith.pipeline.search import squeezenas, squeezenas_loop
    from edgesmith.pipeline.stage import Pipeline

    small = space("small")
    macro = dataclasses.replace(small.macro, blocks=tuple(small.macro.blocks[i] for i in (0, 4, 8)), low_level_block=1)
    for module in (squeezenas, squeezenas_loop, searches):
        monkeypatch.setattr(module, "space", lambda name: Space("small", macro))
    stage = squeezenas.SqueezeNasSearch(
        data=Data("street", frame_hw=HW, train_frames=4, val_frames=2, test_frames=1),
        input_hw=HW,
        epochs=2,
        batch=2,
        removal=0.05,
        theta_lr=20.0,
        samples=3,
        recalibrate=2,
        augment=Augment(crop_hw=(64, 64)),
        device="cpu",
    )
    Pipeline(tmp_path / "real", lambda event, **fields: None).run("search", SearchResult, stage)
    page = report_of(tmp_path / "real")
    assert whole(page)
    assert "could not be made" not in page.text["pareto"]
    monkeypatch.undo()
    make_search(tmp_path / "fake")
    real, fake = (read_json(tmp_path / n / "search" / "search.json") for n in ("real", "fake"))
    assert set(real) == set(fake)
    assert set(real["history"][0]) == set(fake["history"][0])
    assert set(real["costs"]) == set(fake["costs"])
    real, fake = (read_json(tmp_path / n / "search" / "samples.json") for n in ("real", "fake"))
    assert set(real[0]) == set(fake[0])


def test_the_report_of_a_search_is_written_without_torch(runs: tuple[Path, Path]) -> None:
    code = (
        "import sys, pathlib; from edgesmith.pipeline.reports.html import write_report; "
        f"write_report(pathlib.Path({str(runs[0])!r}), [pathlib.Path({str(runs[1])!r})]); "
        "assert not {'torch', 'matplotlib', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
