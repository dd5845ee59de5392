"""A FasterSeg search that is killed at any moment of either phase and started again ends as an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SEARCH = """
method: fasterseg
data: {dataset: street, frame_hw: [64, 96], train_frames: 12, val_frames: 3, test_frames: 2}
space: {layers: 5, operators: [skip, conv, zoomed_conv_x2], ratios: [1, 2], branches: 2, stem_ratio: 1, teacher_stem_ratio: 2}
input_hw: [64, 96]
pretrain: {epochs: 2, batch: 2, augment: {crop_hw: [64, 64]}, optim: {lr: 0.02, schedule: exponential}}
alternate: {epochs: 2, batch: 2, augment: {crop_hw: [64, 64]}, optim: {lr: 0.02, schedule: exponential}}
arch_lr: 0.1
recalibrate: 2
device: cpu
checkpoint_seconds: 0.000001
"""
# Prints each event as a line and waits for the parent to read it, so that the parent can kill at a known place.
DRIVER = """
import json, sys
from pathlib import Path
from edgesmith.pipeline import yamlfile
from edgesmith.pipeline.artifacts import Slot
from edgesmith.pipeline.search.fasterseg import FasterSegSearch
folder = Path(sys.argv[2])
def view(event, **fields):
    print(json.dumps({"event": event, "phase": fields.get("phase")}), flush=True)
    sys.stdin.readline()
yamlfile.read(sys.argv[1], FasterSegSearch)(Slot(folder / "out", "key", folder / "scratch", view))
"""


def digest(folder: Path) -> str:
    return str(json.loads((folder / "out" / "artifact.json").read_text())["digest"])


def run_and_kill(search: Path, folder: Path, phase: str | None, event: str, count: int, delay_s: float) -> bool:
    """Start the search and SIGKILL it `delay_s` after it goes on from the count-th `event` of `phase`.

    False when it ended before that.
    """
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(search), str(folder)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            seen = json.loads(line)
            child.stdin.write("go on\n")
            child.stdin.flush()
            count -= seen == {"event": event, "phase": phase}
            if count == 0:
                time.sleep(delay_s)
                child.send_signal(signal.SIGKILL)
                break
        child.stdout.read()
    return child.returncode == -signal.SIGKILL


def finish(search: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(search), str(folder)],
        input="go on\n" * 1000,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return digest(folder)


@pytest.mark.slow
def test_killed_in_both_phases_and_while_networks_are_evaluated(tmp_path: Path) -> None:
    search = tmp_path / "search.yaml"
    search.write_text(SEARCH)
    undisturbed = finish(search, tmp_path / "undisturbed")
    for seed in range(3):
        rng = random.Random(seed)
        places: list[tuple[str | None, str, int]] = [
            ("pretrain", "step", rng.randint(1, 4)),
            ("search", "step", rng.randint(1, 2)),
            (None, "job", rng.randint(1, 2)),
            ("search", "epoch", 1),
        ]
        folder = tmp_path / str(seed)
        for phase, event, count in places:
            assert run_and_kill(search, folder, phase, event, count, rng.uniform(0, 0.1)), f"it ended before {phase} {event}"
            assert not (folder / "out").exists()
        assert finish(search, folder) == undisturbed
        assert not list(folder.glob(".*.tmp"))
