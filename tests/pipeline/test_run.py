from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgesmith.pipeline import recipe, run
from edgesmith.pipeline.artifacts import Weights

PRETRAINED = """
about: Two trainings before the training.
data: {dataset: street, frame_hw: [64, 96], train_frames: 4, val_frames: 1, test_frames: 1}
derive: {arch: "zoo:squeezenas-lat-small"}
pretrain:
- {epochs: 1, batch: 4, device: cpu, data: {dataset: street, frame_hw: [64, 96], train_frames: 4, val_frames: 1, seed: 3}}
- {epochs: 1, batch: 2, device: cpu}
train: {epochs: 1, batch: 4, device: cpu}
export: {frame_hw: [64, 96]}
"""


def test_each_training_begins_with_the_weights_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(PRETRAINED)

    def view(event: str, **fields: Any) -> None:
        if fields.get("stage") == "onnx":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(recipe.read(str(tmp_path / "r.yaml")), "r", tmp_path / "run", view)
    first, second, last = (Weights(tmp_path / "run" / name) for name in ("pretrain-1", "pretrain-2", "train"))
    assert "weights" not in [p["kind"] for p in first.sidecar["parents"]]
    assert {"kind": "weights", "digest": first.digest} in second.sidecar["parents"]
    assert {"kind": "weights", "digest": second.digest} in last.sidecar["parents"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.target=0.00001", r"search\.target: 1e-05 GMAC, but the cheapest network of the space costs"),
        ("derive.budget=0.00001", r"derive\.budget: 1e-05 GMAC, but the cheapest"),
        ("search.batch=99", r"search\.batch: 99 frames a step"),
    ],
)
def test_a_search_that_cannot_come_to_anything_is_refused_before_it_starts(
    searching_recipe: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run.run(recipe.read(str(searching_recipe), [override]), "x", tmp_path / "run", lambda event, **fields: None)
    assert not (tmp_path / "run").exists()
