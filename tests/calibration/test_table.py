"""The latency table as a file: what it holds, what it adds up, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from edgesmith import models
from edgesmith.calibration.fingerprint import Fingerprint, this_machine
from edgesmith.calibration.table import Entry, Table
from edgesmith.models.parts import parts
from edgesmith.pipeline import cli

HW = (64, 96)
TASK = models.Segmentation(5)
ARCH = models.zoo("squeezenas-lat-small")
MACHINE = Fingerprint("A processor", 2, None, "Linux 6.1 x86_64", 1, {"onnxruntime": "1.24.1"})


@pytest.fixture
def table() -> Table:
    """A made-up table with every piece of ARCH: piece i takes i + 1 ms."""
    keys = dict.fromkeys(part.key for _, part in parts(ARCH, TASK, HW) if not part.empty)
    entries = {key: Entry((i + 0.9, i + 1.0, i + 1.3), 10, f"{i:064x}") for i, key in enumerate(keys)}
    return Table(HW, 5, "onnxruntime", 3, MACHINE, entries)


def test_a_table_reads_back_as_it_was_written(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "t.json")
    again = Table.read(tmp_path / "t.json")
    assert again == table
    assert again.digest == table.digest
    assert again.source == str(tmp_path / "t.json")


def test_an_entry_has_the_median_of_its_rounds_and_its_standard_error() -> None:
    entry = Entry((1.0, 1.1, 1.2, 1.3, 9.0), 10, "0" * 64)
    assert entry.median_ms == 1.2
    assert entry.error_ms == pytest.approx(1.2533 * 1.4826 * 0.1 / 5**0.5)


def test_the_error_is_how_far_medians_of_such_rounds_scatter() -> None:
    dice = random.Random(0)
    entries = [Entry(tuple(dice.gauss(1, 0.1) for _ in range(15)), 10, "0" * 64) for _ in range(2000)]
    medians = [e.median_ms for e in entries]
    scatter = (sum((m - 1) ** 2 for m in medians) / len(medians)) ** 0.5
    assert sum(e.error_ms for e in entries) / len(entries) == pytest.approx(scatter, rel=0.15)


def test_a_total_adds_every_piece_that_runs(table: Table) -> None:
    total = table.total(ARCH, TASK)
    running = [(name, part.key) for name, part in parts(ARCH, TASK, HW) if not part.empty]
    assert [(name, key) for name, key, _ in total.parts] == running
    assert total.latency_ms == pytest.approx(sum(table.entries[key].median_ms for _, key in running))
    # The error of an entry that occurs twice counts twice; those of different entries add in squares.
    counts = {key: [k for _, k in running].count(key) for _, key in running}
    assert max(counts.values()) > 1
    squares = sum((n * table.entries[key].error_ms) ** 2 for key, n in counts.items())
    assert total.error_ms == pytest.approx(squares**0.5)


def test_an_empty_piece_takes_no_time_and_needs_no_entry(table: Table) -> None:
    empty = [part for _, part in parts(ARCH, TASK, HW) if part.empty]
    assert empty
    assert [table.latency_ms(part) for part in empty] == [0.0] * len(empty)


def test_what_is_missing_is_named_with_the_command_that_measures_it(table: Table) -> None:
    stem = dict(parts(ARCH, TASK, HW))["stem"]
    without = dataclasses.replace(table, entries={k: v for k, v in table.entries.items() if k != stem.key})
    with pytest.raises(ValueError, match=r"no entry 'stem k3 s2 3->16 @ 64x96': edgesmith table measure .*--input 64x96"):
        without.total(ARCH, TASK)
    for threads, said in ((0, ""), (2, " --threads 2")):
        used = dataclasses.replace(without, fingerprint=dataclasses.replace(table.fingerprint, threads=threads))
        with pytest.raises(ValueError, match=rf"--classes \d+{said} --out "):
            used.total(ARCH, TASK)
    with pytest.raises(ValueError, match="edgesmith table measure zoo:mine --input 64x96 "):
        without.total(ARCH, TASK, "zoo:mine")
    unfinished = dataclasses.replace(table, entries={**table.entries, stem.key: Entry((1.0, 2.0), 10, "0" * 64)})
    with pytest.raises(ValueError, match="no finished entry 'stem"):
        unfinished.latency_ms(stem)
    with pytest.raises(ValueError, match="for 5 classes, not for 19"):
        table.total(ARCH, models.Segmentation(19))


def test_rounds_are_added_from_the_same_machine_and_graph_only(table: Table) -> None:
    stem = dict(parts(ARCH, TASK, HW))["stem"]
    old = table.entries[stem.key]
    more = table.with_round(stem, 2.0, old.repeats, old.digest, MACHINE)
    assert more.entries[stem.key].rounds_ms == (*old.rounds_ms, 2.0)
    assert table.entries[stem.key] == old
    for change in ({"cores": 4}, {"processor": "Another"}, {"threads": 2}, {"libraries": {"onnxruntime": "1.25.0"}}):
        with pytest.raises(ValueError, match=f"measured elsewhere: here {next(iter(change))} is"):
            table.with_round(stem, 2.0, old.repeats, old.digest, dataclasses.replace(MACHINE, **change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="graph"):
        table.with_round(stem, 2.0, old.repeats, "f" * 64, MACHINE)
    with pytest.raises(ValueError, match="repeats"):
        table.with_round(stem, 2.0, old.repeats + 1, old.digest, MACHINE)


def test_this_machine_has_a_fingerprint_that_survives_a_file() -> None:
    here = this_machine(0, {"b": "2", "a": "1"})
    assert here == Fingerprint.from_json(json.loads(json.dumps(here.to_json())), "t.json")
    assert here.differences(here) == []
    assert here.cores >= 1
    assert here.processor


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("format",), 2, "format is 2"),
        (("input_hw",), [64], "input_hw"),
        (("classes",), 0, "classes is 0"),
        (("backend",), "torch", "backend is 'torch'"),
        (("rounds",), True, "rounds is True"),
        (("entries",), [], "entries is"),
        (("more",), 1, "unknown field more"),
        (("fingerprint", "cores"), 0, "fingerprint: cores is 0"),
        (("fingerprint", "libraries"), {"torch": 2}, "libraries"),
        (("fingerprint", "governor"), "", "governor"),
        (("entries", "stem k3 s2 3->16 @ 64x96", "rounds_ms"), [], "3->16 @ 64x96'.*rounds_ms"),
        (("entries", "stem k3 s2 3->16 @ 64x96", "rounds_ms"), [1.0, "2", 3.0], "rounds_ms"),
        (("entries", "stem k3 s2 3->16 @ 64x96", "rounds_ms"), [1.0, 2.0, 3.0], "median_ms is 2.0; .*2.0|error_ms"),
        (("entries", "stem k3 s2 3->16 @ 64x96", "median_ms"), 0.5, "median_ms is 0.5"),
        (("entries", "stem k3 s2 3->16 @ 64x96", "error_ms"), None, "error_ms is None"),
        (("entries", "stem k3 s2 3->16 @ 64x96", "digest"), "abc", "digest is 'abc'"),
        (("entries", "stem k3 s2 3->16 @ 64x96"), 3, "must be a JSON object"),
    ],
)
def test_a_wrong_value_is_named_with_file_and_field(
    table: Table, tmp_path: Path, where: tuple[str, ...], value: Any, said: str
) -> None:
    path = tmp_path / "t.json"
    damaged = table.to_json()
    inner: Any = damaged
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    path.write_text(json.dumps(damaged))
    with pytest.raises(ValueError, match=said) as caught:
        Table.read(path)
    assert str(caught.value).startswith(str(path))


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["edgesmith", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_sum_prints_the_parts_and_their_sum(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write(tmp_path / "t.json")
    (tmp_path / "arch.json").write_text(json.dumps(ARCH.to_json()))
    total = table.total(ARCH, TASK)
    for arch in ("zoo:squeezenas-lat-small", tmp_path / "arch.json"):
        assert run_cli(monkeypatch, "table", "sum", arch, "--table", tmp_path / "t.json", "--json") == 0
        said = json.loads(capsys.readouterr().out)
        assert said["latency_ms"] == pytest.approx(total.latency_ms)
        assert said["error_ms"] == pytest.approx(total.error_ms)
        assert [(p["name"], p["piece"]) for p in said["parts"]] == [(n, k) for n, k, _ in total.parts]
    assert run_cli(monkeypatch, "table", "sum", "zoo:squeezenas-lat-small", "--table", tmp_path / "t.json") == 0
    assert "blocks.19" in capsys.readouterr().out


def test_damage_of_any_kind_ends_in_words_and_exit_code_2_and_overwrites_nothing(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    table.write(path)
    whole = path.read_bytes()
    dice = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        kind = dice.randrange(4)
        at = dice.randrange(len(whole))
        if kind == 0:
            damaged = damaged[:at]
        elif kind == 1:
            damaged[at] = dice.randrange(256)
        elif kind == 2:
            del damaged[at : at + dice.randrange(1, 60)]
        else:
            damaged[at:at] = bytes(dice.randrange(256) for _ in range(4))
        path.write_bytes(damaged)
        code = run_cli(monkeypatch, "table", "sum", "zoo:squeezenas-lat-small", "--table", path)
        said = capsys.readouterr()
        assert code in (0, 2), said.err  # a changed digit or letter may leave a table that is whole
        if code == 2:
            refused += 1
            assert str(path) in said.err
            assert "Traceback" not in said.err
        assert path.read_bytes() == damaged
    assert refused > 100


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', "\0\1\2", "[" * 100_000])
def test_measuring_into_what_is_no_table_overwrites_nothing(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    path.write_text(content)
    assert run_cli(monkeypatch, "table", "measure", "small", "--input", "64x96", "--classes", 5, "--out", path) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == content
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_measuring_into_a_table_of_another_machine_or_size_is_refused(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    table.write(path)
    whole = path.read_bytes()
    assert run_cli(monkeypatch, "table", "measure", "small", "--input", "64x96", "--classes", 5, "--out", path) == 2
    assert "was measured elsewhere: here processor is" in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_sources_that_are_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    for space in ("tiny", "zoo:squeezenas", str(tmp_path / "no.json")):
        assert run_cli(monkeypatch, "table", "measure", space, "--input", "64x96", "--out", path) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert run_cli(monkeypatch, "table", "sum", "zoo:squeezenas-lat-small", "--table", path) == 2
    assert str(path) in capsys.readouterr().err
    assert not path.exists()
