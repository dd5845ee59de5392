"""A run that is killed at any moment and started again ends with the weights and graphs of an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Prints each event as a line, so that the parent can kill at a known place.
DRIVER = """
import json, sys
from pathlib import Path
from edgesmith.pipeline import recipe, run
def view(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
run.run(recipe.read(sys.argv[1]), "tiny", Path(sys.argv[2]), view)
"""


def digests(folder: Path) -> dict[str, str]:
    """Content digests of all that a run makes but its measurements."""
    return {name: json.loads((folder / name / "artifact.json").read_text())["digest"] for name in ("arch", "train", "onnx")}


def run_and_kill(recipe: Path, folder: Path, stage: str, event: str, count: int, delay_s: float) -> bool:
    """Start the run and SIGKILL it `delay_s` after the count-th `event` of `stage`. False when it ended before that."""
    command = [sys.executable, "-c", DRIVER, str(recipe), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            seen = json.loads(line)
            count -= seen.get("stage") == stage and seen["event"] == event
            if count == 0:
                time.sleep(delay_s)
                child.send_signal(signal.SIGKILL)
                break
        child.stdout.read()
    return child.returncode == -signal.SIGKILL


def finish(recipe: Path, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER, str(recipe), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def moment(seed: int, event: str) -> tuple[int, float]:
    """A seeded (count, delay): which step, and how far into the next one; or how far into a stage."""
    rng = random.Random(seed)
    return (rng.randint(1, 7), rng.uniform(0, 0.15)) if event == "step" else (1, rng.uniform(0, 0.6))


def check(recipe: Path, undisturbed: Path, folder: Path, kills: list[tuple[str, str, int]]) -> None:
    for stage, event, seed in kills:
        count, delay_s = moment(seed, event)
        run_and_kill(recipe, folder, stage, event, count, delay_s)
    finish(recipe, folder)
    assert digests(folder) == digests(undisturbed)
    assert not list(folder.glob(".*.tmp"))
    assert not list(folder.glob(".*.old"))


def test_killed_three_times_inside_training_steps(tiny_recipe: Path, tiny_run: Path, tmp_path: Path) -> None:
    check(tiny_recipe, tiny_run, tmp_path / "run", [("train", "step", 1), ("train", "step", 2), ("train", "step", 3)])


def test_killed_in_every_other_stage(tiny_recipe: Path, tiny_run: Path, tmp_path: Path) -> None:
    stages = ("arch", "onnx", "bundle", "validation")
    check(tiny_recipe, tiny_run, tmp_path / "run", [(s, "start", i) for i, s in enumerate(stages)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_seeded_moments(tiny_recipe: Path, tiny_run: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    places = [("train", "step"), ("train", "start"), ("onnx", "start"), ("bundle", "start"), ("validation", "start")]
    check(tiny_recipe, tiny_run, tmp_path / "run", [(*rng.choice(places), 100 * seed + i) for i in range(3)])
