"""A run that is killed at any moment and started again ends with the weights and graphs of an undisturbed one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.stopping import finish, run_and_kill

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


def check(recipe: Path, undisturbed: Path, folder: Path, kills: list[tuple[str, str, int, float]]) -> None:
    """Each of `kills`, (stage, event, count, delay in seconds), must happen; what the last restart makes must be the same."""
    for stage, event, count, delay_s in kills:

        def sought(seen: dict[str, Any], stage: str = stage, event: str = event) -> bool:
            return seen.get("stage") == stage and seen["event"] == event

        killed = run_and_kill(DRIVER, [str(recipe), str(folder)], sought, count, delay_s)
        assert killed, f"{stage} ended before it was killed"
        assert not (folder / stage / "artifact.json").exists(), f"{stage} was finished when the kill came"
    finish(DRIVER, [str(recipe), str(folder)])
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
