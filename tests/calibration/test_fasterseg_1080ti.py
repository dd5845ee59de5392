"""The released latency table: the sums that the authors stored and printed, and what is no such table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgesmith import models
from edgesmith.calibration.fasterseg_1080ti import Gtx1080Ti
from edgesmith.calibration.fingerprint import Fingerprint
from edgesmith.calibration.table import Table
from edgesmith.calibration.tables import open_table
from edgesmith.models.arch import FasterSeg, Segmentation
from edgesmith.models.parts import parts
from edgesmith.pipeline import cli

TASK = Segmentation(19)


@pytest.fixture(scope="module")
def path(shared: Path) -> Path:
    return shared / "facts" / "fasterseg_1080ti_lut.json"


@pytest.fixture(scope="module")
def table(path: Path) -> Gtx1080Ti:
    return Gtx1080Ti.read(path)


def published(name: str) -> FasterSeg:
    arch = models.zoo(f"fasterseg-{name}")
    assert isinstance(arch, FasterSeg)
    return arch


def test_the_published_networks_sum_up(table: Gtx1080Ti) -> None:
    assert table.total(published("student"), TASK).latency_ms == pytest.approx(5.702, abs=5e-4)
    assert table.total(published("teacher"), TASK).latency_ms == pytest.approx(17.94, abs=5e-3)
    assert table.total(published("student"), TASK).error_ms is None


def test_priced_as_the_released_code_does_it_is_the_sum_that_the_authors_stored(table: Gtx1080Ti) -> None:
    """They look zoomed conv. x2 up as conv. x2."""
    plain = {key: ms for key, ms in table.times_ms.items() if key[0] == "BasicResidual2x"}
    wrong = {**table.times_ms, **{("BasicResidual_downup_2x", *key[1:]): ms for key, ms in plain.items()}}
    total = replace(table, times_ms=wrong).total(published("student"), TASK)
    assert total.latency_ms == pytest.approx(6.41398, abs=5e-6)


def test_distinct_cells_are_counted_once_and_what_stands_around_is_not(table: Gtx1080Ti) -> None:
    found = [name for name, _, _ in table.total(published("student"), TASK).parts]
    everything = [name for name, _ in parts(published("student"), TASK, (1024, 2048))]
    assert found == [name for name in everything if name not in ("frame", "labels")]
    assert len(found) == 1 + (3 + 7 + 6) + 2 * 3 + 2  # stem, cells, arms with refinements, fusion and head
    apart = replace(published("student"), shared=0)
    twice = sum(ms for name, _, ms in table.total(published("student"), TASK).parts if name.startswith("shared."))
    assert table.total(apart, TASK).latency_ms == pytest.approx(table.total(published("student"), TASK).latency_ms + twice)


def test_what_is_not_in_the_table_is_named(table: Gtx1080Ti, path: Path) -> None:
    arch = published("student")
    cells = (replace(arch.branches[1][0], width=40), *arch.branches[1][1:])
    other = replace(arch, branches=(arch.branches[0], cells), shared=0)
    with pytest.raises(
        ValueError, match=re.escape("no entry for 'cell conv_x2 s1 64->40 @ 128x256', there called BasicResidual2x")
    ):
        table.total(other, TASK)
    with pytest.raises(ValueError, match="is of FasterSeg; it has no entry 'stem k3"):
        table.total(models.zoo("squeezenas-lat-small"), TASK)


def test_a_table_is_told_by_its_form(path: Path, tmp_path: Path) -> None:
    assert isinstance(open_table(path), Gtx1080Ti)
    measured = Table((64, 96), 5, "onnxruntime", 2, Fingerprint("none", 1, None, "none", 1, {}))
    measured.write(tmp_path / "t.json")
    assert open_table(tmp_path / "t.json") == measured
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(ValueError, match="format is missing"):
        open_table(tmp_path / "t.json")


def test_the_digest_is_of_what_the_table_says(table: Gtx1080Ti) -> None:
    key = next(iter(table.times_ms))
    assert replace(table, source="elsewhere").digest == table.digest
    assert replace(table, times_ms={**table.times_ms, key: 1.0}).digest != table.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.pop("entries"), "entries is missing"),
        (lambda v: v.update(entries={}), "entries is {}; it must be a list"),
        (lambda v: v.update(more=1), "unknown field more"),
        (lambda v: v["entries"].append(7), "entries[667] is 7; it must be a JSON object"),
        (lambda v: v["entries"].append(v["entries"][0]), "entries[667] is there twice"),
        (lambda v: v["entries"][0].update(latency_ms=-1), "entries[0]: latency_ms is -1; it must be a time in ms above 0"),
        (lambda v: v["entries"][0].update(latency_ms="1"), "entries[0]: latency_ms is '1'"),
        (lambda v: v["entries"][0].update(cin=0), "entries[0]: cin is 0; it must be an integer"),
        (lambda v: v["entries"][0].update(dilation=2), "entries[0]: dilation is 2; it must be 1"),
        (lambda v: v["entries"][0].update(depth=2), "entries[0]: unknown field depth"),
        (lambda v: v["entries"][0].pop("op"), "entries[0]: op is missing"),
        (lambda v: v["entries"].pop(), "has 5 entries ff, but 4 entries head"),
    ],
)
def test_malformed_tables_are_refused(path: Path, tmp_path: Path, change: Callable[[Any], Any], said: str) -> None:
    value = json.loads(path.read_text())
    change(value)
    (tmp_path / "t.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        open_table(tmp_path / "t.json")
    assert str(raised.value).startswith(str(tmp_path / "t.json"))


def test_the_verb_sums_up_by_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(published("student").to_json()))
    monkeypatch.setattr("sys.argv", ["edgesmith", "table", "sum", str(arch), "--table", str(path), "--json"])
    cli.main()
    said = json.loads(capsys.readouterr().out)
    assert said["latency_ms"] == pytest.approx(5.702, abs=5e-4)
    assert said["latency_ms"] == pytest.approx(sum(p["latency_ms"] for p in said["parts"]))
    assert said["error_ms"] is None
