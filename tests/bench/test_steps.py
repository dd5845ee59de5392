"""What the scripts of steps share: real processes that take turns, and rows that replace their last ones."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from edgesmith.bench import steps
from edgesmith.bench.steps import SETTINGS, Step


def make(name: str, log: Path, mib: int, bf16: bool) -> Step:
    held = bytearray(mib << 20)

    def step() -> None:
        with log.open("a") as f:
            f.write(f"{name} {os.getpid()} {bf16} {len(held)}\n")

    return step


def make_and_die(when: str, bf16: bool) -> Step:
    def step() -> None:
        os._exit(7)

    if when == "making":
        step()
    return step


def test_implementations_take_turns_in_processes_of_their_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ours = bytearray(256 << 20)  # what this process holds is not theirs
    makers = {"plain": partial(make, "plain", log, 200), "fast": partial(make, "fast", log, 1)}
    row = steps.compare(makers, SETTINGS["default"], rounds=2)
    assert len(ours) == 256 << 20
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [name for name, *_ in lines] == ["plain", "fast"] * 3  # two rounds, and one that does not count
    assert len({pid for _, pid, *_ in lines} - {str(os.getpid())}) == 2
    assert {bf16 for _, _, bf16, _ in lines} == {"False"}
    assert list(row) == ["rounds", "plain_s", "fast_s", "faster", "plain_gib", "fast_gib", "smaller"]
    assert row["rounds"] == 2
    assert row["plain_gib"] > row["fast_gib"] + 0.15
    assert row["smaller"] > 1
    median, least, most = row["faster"]
    assert least <= median <= most


@pytest.mark.parametrize("when", ["making", "stepping"])
def test_an_implementation_that_dies_ends_the_comparison(tmp_path: Path, when: str) -> None:
    makers = {"plain": partial(make, "plain", tmp_path / "log", 1), "fast": partial(make_and_die, when)}
    with pytest.raises(RuntimeError, match="the process of fast ended with exit code 7"):
        steps.compare(makers, SETTINGS["default"], rounds=1)


def test_a_row_replaces_its_last_one_and_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    for names, value in ((("a", "x"), 1), (("a", "y"), 2), (("b", "x"), 3), (("a", "x"), 4)):
        steps.record(file, names, {"s": value})
    assert json.loads(file.read_text()) == {"a": {"x": {"s": 4}, "y": {"s": 2}}, "b": {"x": {"s": 3}}}
    steps.record(None, ("c",), {"s": 5})
    assert capsys.readouterr().out.splitlines()[-1] == 'c {"s": 5}'
