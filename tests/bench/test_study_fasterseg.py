"""The FasterSeg study: its list of jobs, what a job refuses, the tables of any part of its rows, and all of it at toy size."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.bench import fasterseg_networks, study, tables_fasterseg
from edgesmith.bench.fasterseg_jobs import SEARCHES, TEACHER, TRAININGS, Study
from edgesmith.bench.fasterseg_networks import LEAN, WEIGHT, as_fast_as, random_students, sensitivity
from edgesmith.bench.page_fasterseg import write_page
from edgesmith.bench.study_fasterseg import CAMVID
from edgesmith.bench.tables_fasterseg import DISTILLED, RELEASED
from edgesmith.bench.whole_networks import against_table
from edgesmith.calibration.table import Table
from edgesmith.deploy.files import write_json
from edgesmith.models.arch import Arch, Cell
from edgesmith.pipeline.artifacts import SearchResult, open_artifact
from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.spec import Data
from edgesmith.pipeline.search.fasterseg import FasterSegSearch, Phase
from edgesmith.pipeline.search.fasterseg_derive import derive
from edgesmith.pipeline.search.fasterseg_space import Logits, Space
from edgesmith.pipeline.train import Train
from tests.pipeline.cosearch import make_cosearch

ROOT = Path(__file__).parents[2]
JOBS = CAMVID.jobs()
NETWORKS = ("teacher", "student", "student without decoupling", "pruned teacher", "random 1", "random 2", "random 3")


def call(made: Study, only: str) -> None:
    study.run(Namespace(list=False, only=only, timings=None), made.results, made.jobs())


def test_the_jobs_are_listed_without_any_data() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGESMITH_")}
    command = [sys.executable, "bench/study_fasterseg.py", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert [line[14:] for line in done.stdout.splitlines()] == list(JOBS)


def test_every_job_stands_behind_what_it_needs_and_has_a_place_of_its_own() -> None:
    before: list[str] = []
    for name, job in JOBS.items():
        assert set(job.needs) <= set(before), name
        before.append(name)
    assert len({t.name for t in TRAININGS}) == len({CAMVID.folder_of(t) for t in TRAININGS}) == len(TRAININGS)
    searched = {CAMVID.folder_of_search(name) for name in SEARCHES}
    assert len(searched) == 2
    assert not searched & {CAMVID.folder_of(t) for t in TRAININGS}


def test_all_networks_but_the_teacher_are_trained_equally_long() -> None:
    assert {CAMVID.stage(t).epochs for t in TRAININGS if t != TEACHER} == {CAMVID.training.epochs}
    assert CAMVID.stage(TEACHER).epochs == CAMVID.teacher_epochs


def test_what_learns_from_the_teacher_differs_in_nothing_else() -> None:
    stages = {t.teaching: CAMVID.stage(t) for t in TRAININGS if (t.network, t.seed) == ("student", 0)}
    assert {replace(stage, distil=None) for stage in stages.values()} == {stages[""]}
    divergences = {name: stage.distil and (stage.distil.divergence, stage.distil.per) for name, stage in stages.items()}
    assert divergences == {"": None, DISTILLED: ("student_teacher", "pixel"), RELEASED: ("teacher_student", "class")}


@pytest.mark.parametrize(("name", "missing"), [(name, need) for name, job in JOBS.items() for need in job.needs])
def test_a_job_refuses_where_its_predecessor_is_missing(name: str, missing: str, tmp_path: Path) -> None:
    made = replace(CAMVID, results=tmp_path / "results.json", folder=tmp_path / "study")
    write_json(made.results, [{"job": other} for other in JOBS if other not in (name, missing)])
    with pytest.raises(SystemExit, match=f"{name}: needs the result of '{missing}'; run that first"):
        call(made, name)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


# Tables and page


def network() -> dict[str, Any]:
    arch = derive(Space(), Logits.uniform(Space(), "student"), "student")
    return {"arch": arch.to_json(), "gmacs": 1.5, "params": 2_500_000, "table_ms": 40.0}


def search_row(job: str, decoupled: bool) -> dict[str, Any]:
    found = [
        {"net": net, "scales": [2, 1], "latency": 40.0, "val_miou": miou, "target": 0.1}
        for net, miou in (("student", 0.123), ("teacher", 0.234))
    ]
    entropy = {"alpha": 1.1, "beta": 0.6, "ratio": 1.5}
    return {
        "job": job,
        "decoupled": decoupled,
        "lambda": 0.0012,
        "target": {"T": 61.0, "alpha": -0.07, "beta": -0.07},
        "latency_weights": [0.1, 0.7, 0.2],
        "relaxed_ms": [90.0, 70.0],
        "entropy": [entropy, entropy],
        "chosen": {"student": [2, 1], "teacher": [2, 0]},
        "evaluated": [{"epoch": epoch, "networks": found} for epoch in (3, 6)],
    }


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """One of each job, as far as tables read them."""
    sums = np.linspace(20, 60, 60)
    side = {"delta_ms": {"operator": 5.0, "resolution": 0.5, "width": 2.0}, "weights": [0.1, 0.7, 0.2]}
    pulls = {"alpha": 0.01, "beta": 0.02, "ratio": 0.003}
    times = {name: {"median_ms": 41.5, "error_ms": 0.2} for name in NETWORKS}
    found = [
        {"job": "time random networks", **against_table(sums.tolist(), (1.1 * sums + 0.5).tolist(), 10)},
        {"job": "sensitivity", "here": side},
        {"job": "gradients", **dict.fromkeys(("batch", "mean", "decoupled", "coupled"), pulls)},
        *(search_row(job, decoupled) for job, decoupled in SEARCHES.items()),
        {"job": "derive", "networks": {name: network() for name in NETWORKS}},
        {"job": "time the networks", "networks": times},
    ]
    for i, t in enumerate(TRAININGS):
        miou = 0.3 + 0.01 * i
        found.append({"job": t.job, "network": t.network, "distilled": bool(t.teaching), "seed": t.seed, "test_miou": miou})
    return [*found, {"job": "student's bundle", "test_miou": 0.4, "torch_miou": 0.4, "pixel_agreement": 1.0}]


def cells(table: str) -> dict[str, list[str]]:
    """The cells of a table by the first one; every line has as many."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    return {line[0]: line[1:] for line in lines}


def test_tables_are_made_of_any_part_of_the_rows(rows: list[dict[str, Any]]) -> None:
    assert {row["job"] for row in rows} <= set(JOBS)
    parts = [
        [],
        *([row] for row in rows),
        *(rows[:i] for i in range(len(rows))),
        *(rows[:i] + rows[i + 1 :] for i in range(len(rows))),
    ]
    for part in parts:
        for make in tables_fasterseg.TABLES.values():
            table = make(part)
            assert table == "not run\n" or cells(table)
    everything = {name: make(rows) for name, make in tables_fasterseg.TABLES.items()}
    assert [name for name, table in everything.items() if "not run" in table] == ["fasterseg-networks", "fasterseg-sensitivity"]


def test_the_table_of_networks_says_what_was_run(rows: list[dict[str, Any]]) -> None:
    mious = {row["job"]: row["test_miou"] for row in rows if row["job"].startswith("train ")}
    part = [row for row in rows if row["job"] != "train student with distillation, seed 1"]
    found = cells(tables_fasterseg.networks(part))
    assert found["O, s at χ = 8; b = 1"][:7] == [*["not run"] * 6, "-"]
    student = found["S: O, s, χ; b = 2"]
    both = [mious[f"train student, seed {seed}"] for seed in (0, 1)]
    assert student[:7] == ["1.500", "2.500", "40.00", "41.50 ± 0.20", *(f"{m:.4f}" for m in both), f"{sum(both) / 2:.4f}"]
    first = mious["train student with distillation, seed 0"]
    assert found["T → S (FasterSeg)"][4:7] == [f"{first:.4f}", "not run", "-"]
    assert found["T → pruned T"][5:] == ["not run", "-", "66.1", "146.7"]
    assert found["median of 3 random"][6] == found["random, 2"][6]
    part = [row for row in rows if row["job"] != "train random 2, seed 1"]
    found = cells(tables_fasterseg.networks(part))
    assert found["random, 2"][4:7] == [f"{mious['train random 2, seed 0']:.4f}", "not run", "-"]
    assert "median of 2 random" in found


def test_the_page_shows_the_searches_that_are_finished(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    folders = [tmp_path / "co-search", tmp_path / "search-without-decoupling"]
    with pytest.raises(SystemExit, match="--page: no search is finished yet"):
        write_page(folders, rows, tmp_path / "page.html")
    make_cosearch(folders[0])
    text = write_page(folders, rows, tmp_path / "page.html").read_text()
    assert "T → S (FasterSeg)" in text
    assert "search-without-decoupling" not in text
    make_cosearch(folders[1], decoupled=False)
    text = write_page(folders, rows[:1], tmp_path / "page.html").read_text()
    assert "search-without-decoupling" in text
    assert "50 networks, correlation 1.0000" in text
    assert "not run" in text


# All of it, small


SPACE = Space(layers=5, operators=("skip", "conv"), ratios=(1, 8), stem_ratio=1, teacher_stem_ratio=1)
HW = (64, 96)
STREET = Data("street", frame_hw=(72, 96), train_frames=4, val_frames=2, test_frames=2)
CROPS = Augment(crop_hw=(64, 64))
TOY = replace(
    CAMVID,
    data=STREET,
    frame_hw=(72, 96),
    hw=HW,
    reference=derive(SPACE, Logits.uniform(SPACE, "student"), "student", (1, 0)),
    pretraining=FasterSegSearch(
        data=STREET, input_hw=HW, space=SPACE, recalibrate=2, pretrain=Phase(1, 2, CROPS), alternate=Phase(0, 2, CROPS)
    ),
    epochs=2,
    evaluate_every=1,
    training=Train(data=STREET, input_hw=HW, epochs=1, batch=2, augment=CROPS, keep="last"),
    teacher_epochs=2,
    table_rounds=1,
    networks=6,
    fitted=3,
    close=10.0,
    gradient_batches=2,
    network_rounds=1,
    network_repeats=1,
)


def test_random_networks_as_fast_as_the_student_are_not_looked_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fasterseg_networks, "POOL", 20)

    seen: dict[str, float] = {TOY.reference.digest: 1.0}

    def latency_ms(arch: Arch) -> float:
        return seen.setdefault(arch.digest, 2.0 + len(seen))

    others = random_students(CAMVID.pretraining, 2, LEAN)
    found = as_fast_as(TOY.reference, others, latency_ms, 0.03, 3)
    assert [latency_ms(arch) for arch in found] == [3.0, 4.0, 5.0]  # the nearest
    assert len(seen) == 21
    assert [latency_ms(arch) for arch in as_fast_as(TOY.reference, others, latency_ms, 25.0, 2)] == [23.0, 24.0]  # the first


def test_random_networks_lean_to_slim_or_wide_tensors_and_to_light_or_heavy_operators() -> None:
    def spread(of: Callable[[Cell], float], lean: float) -> float:
        archs = itertools.islice(random_students(CAMVID.pretraining, 2, lean), 60)
        return float(np.std([np.mean([of(cell) for cells in arch.branches for cell in cells]) for arch in archs]))

    for of in (lambda cell: cell.width, lambda cell: WEIGHT[cell.op]):
        assert spread(of, LEAN) > 1.4 * spread(of, 0.0)


def stop_in_its_second_epoch(made: Study, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its limit would; see that it went on from there as far as the end of the next step, and was stopped again."""
    events: list[str] = []

    def view(event: str, **fields: Any) -> None:
        events.append(event)
        if event == "step" and fields["epoch"] == 2:
            signal.raise_signal(signal.SIGALRM)

    with monkeypatch.context() as patched:
        patched.setattr(Study, "_view", lambda self, stage="": view)
        for _ in range(2):
            with pytest.raises(SystemExit) as stopped:
                call(made, job)
            assert stopped.value.code == study.TIME_IS_UP
    assert events.count("resumed") == 1
    assert job not in {row["job"] for row in study.rows(made.results)}


@pytest.mark.slow
def test_the_whole_study_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGESMITH_SHARED", raising=False)
    made = replace(TOY, results=tmp_path / "results.json", folder=tmp_path / "study")
    for name in made.jobs():
        if name == "co-search":
            stop_in_its_second_epoch(made, name, monkeypatch)
        call(made, name)
    rows = {row["job"]: row for row in study.rows(made.results)}
    assert list(rows) == list(made.jobs())
    table = Table.read(made.table_file)
    assert len(table.entries) == rows["export pieces"]["pieces"]
    assert all(len(entry.rounds_ms) == 1 for entry in table.entries.values())
    one, other = (rows[name] for name in SEARCHES)
    total = table.total(made.reference, made.task).latency_ms
    found = sensitivity(SPACE, made.task, HW, table)
    moves = [weight * delta for weight, delta in zip(found["weights"], found["delta_ms"].values(), strict=True)]
    assert moves == pytest.approx([moves[0]] * 3)
    assert one["lambda"] * sum(moves) == pytest.approx(made.pressure, rel=1e-3)
    assert other["lambda"] * sum(found["delta_ms"].values()) == pytest.approx(made.pressure, rel=1e-3)
    assert one["target"]["T"] == pytest.approx(8.3 * total / 5.702, rel=1e-3)
    assert {k for k in one if one[k] != other[k]} >= {"decoupled", "digest"}
    assert all(one[k] == other[k] for k in ("pressure", "target", "arch_lr", "epochs", "reference_ms"))
    configs = [open_artifact(SearchResult, made.folder_of_search(name) / "search").sidecar["config"] for name in SEARCHES]
    assert {k for k in configs[0] if configs[0][k] != configs[1][k]} == {"decoupled", "latency_weight"}
    pulls = rows["gradients"]
    for kind in ("alpha", "beta", "ratio"):
        assert 0 <= pulls["mean"][kind] <= pulls["batch"][kind] * 1.5
        assert min(pulls["decoupled"][kind], pulls["coupled"][kind]) > 0
    assert list(rows["derive"]["networks"]) == list(NETWORKS)
    archs = {name: Arch.from_json(row["arch"]).digest for name, row in rows["derive"]["networks"].items()}
    assert all(row["arch_digest"] == archs[row["network"]] for row in rows.values() if "network" in row)
    assert len({archs[name] for name in ("student", *NETWORKS[-3:])}) == 4
    assert rows["student's bundle"]["pixel_agreement"] == pytest.approx(1.0, abs=1e-3)
    run = made.folder / "student"
    assert {p.name for p in run.iterdir()} >= {"recipe.yaml", "train", "onnx", "bundle", "validation", "report.html"}
    sidecar = json.loads((run / "train" / "artifact.json").read_text())
    assert [p["kind"] for p in sidecar["parents"]] == ["architecture", "weights"]  # it had a teacher
    folders = [made.folder_of_search(name) for name in SEARCHES]
    assert "not run" in write_page(folders, list(rows.values()), tmp_path / "page.html").read_text()
    for make in tables_fasterseg.TABLES.values():
        assert make(list(rows.values())) != "not run\n"
