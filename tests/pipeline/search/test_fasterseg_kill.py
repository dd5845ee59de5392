"""A FasterSeg search that is killed at any moment of either phase and started again ends as an undisturbed one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.stopping import finish, run_and_kill

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


@pytest.mark.slow
def test_killed_in_both_phases_and_while_networks_are_evaluated(tmp_path: Path) -> None:
    search = tmp_path / "search.yaml"
    search.write_text(SEARCH)
    finish(DRIVER, [str(search), str(tmp_path / "undisturbed")])
    undisturbed = digest(tmp_path / "undisturbed")
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
            sought = {"event": event, "phase": phase}
            killed = run_and_kill(DRIVER, [str(search), str(folder)], sought.__eq__, count, rng.uniform(0, 0.1))
            assert killed, f"it ended before {phase} {event}"
            assert not (folder / "out").exists()
        finish(DRIVER, [str(search), str(folder)])
        assert digest(folder) == undisturbed
        assert not list(folder.glob(".*.tmp"))
