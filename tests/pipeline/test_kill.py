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

# Prints each event as a line, so that the parent can kill at a known place, and waits for the parent to read it: the events
# of a stage that takes milliseconds would else be read when it is long over.
DRIVER = """
import json, sys
from pathlib import Path
from edgesmith.pipeline import recipe, run
def view(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
    sys.stdin.readline()
run.run(recipe.read(sys.argv[1]), "tiny", Path(sys.argv[2]), view)
"""
STEPS = 16
"""Training steps of the tiny recipe."""


def digests(folder: Path) -> dict[str, str]:
    """Content digests of all that a run makes but its measurements."""
    made = [name for name in ("search", "arch", "train", "onnx") if (folder / name).is_dir()]
    return {name: json.loads((folder / name / "artifact.json").read_text())["digest"] for name in made}


def run_and_kill(recipe: Path, folder: Path, stage: str, event: str, count: int, delay_s: float) -> bool:
    """Start the run and SIGKILL it `delay_s` after it goes on from the count-th `event` of `stage`.

    False when it ended before that.
    """
    command = [sys.executable, "-c", DRIVER, str(recipe), str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as child:  # type: ignore[call-overload]
        for line in child.stdout:
            seen = json.loads(line)
            child.stdin.write("go on\n")
            child.stdin.flush()
            count -= seen.get("stage") == stage and seen["event"] == event
            if count == 0:
                time.sleep(delay_s)
                child.send_signal(signal.SIGKILL)
                break
        child.stdout.read()
    return bool(child.returncode == -signal.SIGKILL)


def finish(recipe: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(recipe), str(folder)],
        input="go on\n" * 1000,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def check(recipe: Path, undisturbed: Path, folder: Path, kills: list[tuple[str, str, int, float]]) -> None:
    """Each of `kills`, (stage, event, count, delay in seconds), must happen; what the last restart makes must be the same."""
    for stage, event, count, delay_s in kills:
        assert run_and_kill(recipe, folder, stage, event, count, delay_s), f"{stage} ended before it was killed"
        assert not (folder / stage / "artifact.json").exists(), f"{stage} was finished when the kill came"
    finish(recipe, folder)
    assert digests(folder) == digests(undisturbed)
    assert not list(folder.glob(".*.tmp"))
    assert not list(folder.glob(".*.old"))


def test_killed_three_times_inside_training_steps(tiny_recipe: Path, tiny_run: Path, tmp_path: Path) -> None:
    # A step takes tens of milliseconds: the kill falls into the one after the event. Each restart has made some progress.
    rng = random.Random(0)
    check(
        tiny_recipe, tiny_run, tmp_path / "run", [("train", "step", rng.randint(1, 4), rng.uniform(0, 0.02)) for _ in range(3)]
    )


def test_killed_in_every_other_stage(tiny_recipe: Path, tiny_run: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    stages = {"arch": 0.0, "onnx": 0.5, "bundle": 0.02, "validation": 0.02}
    check(tiny_recipe, tiny_run, tmp_path / "run", [(s, "start", 1, rng.uniform(0, longest)) for s, longest in stages.items()])


@pytest.mark.slow
def test_killed_inside_a_search_and_while_its_networks_are_evaluated(
    searching_recipe: Path, searching_run: Path, tmp_path: Path
) -> None:
    # Candidates leave after the first epoch (three steps): the second kill comes when some are gone.
    rng = random.Random(2)
    places = [("step", 2), ("step", 3), ("job", 1)]
    kills = [("search", event, count, rng.uniform(0, 0.02)) for event, count in places]
    check(searching_recipe, searching_run, tmp_path / "run", kills)
    assert set(digests(searching_run)) == {"search", "arch", "train", "onnx"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_search_killed_at_seeded_moments(searching_recipe: Path, searching_run: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    steps = [("search", "step", rng.randint(1, 2), rng.uniform(0, 0.5)) for _ in range(2)]
    check(
        searching_recipe, searching_run, tmp_path / "run", [*steps, ("search", "job", rng.randint(1, 2), rng.uniform(0, 0.1))]
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_seeded_moments(tiny_recipe: Path, tiny_run: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    steps = [("train", "step", rng.randint(1, STEPS // 4), rng.uniform(0, 0.1)) for _ in range(2)]
    stage, longest = rng.choice([("onnx", 1.0), ("bundle", 0.02), ("validation", 0.02)])
    check(tiny_recipe, tiny_run, tmp_path / "run", [*steps, (stage, "start", 1, rng.uniform(0, longest))])
