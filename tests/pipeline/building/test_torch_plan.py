"""What Torch-TensorRT is given: a module that labels a frame as the graph does. It compiles on no machine of the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesmith.deploy.engines.tensorrt_options import PlanOptions
from edgesmith.pipeline.building.torch_plan import FrameToLabels, build_torch_plan


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_module_labels_a_frame_in_its_colour_order_and_size(tiny: Any, order: Any) -> None:
    meta = replace(tiny.META, colour_order=order, input_hw=(12, 16))
    rgb = np.kron(tiny.frame_of(0, (12, 16)), np.ones((2, 2, 1), np.uint8))  # halving it gives the small one back
    frame = rgb if order == "rgb" else np.ascontiguousarray(rgb[..., ::-1])
    labels = FrameToLabels(nn.Identity(), meta, torch.float32)(torch.from_numpy(frame))
    assert (labels.shape, labels.dtype) == ((24, 32), torch.uint8)
    logits = (rgb / 255 - np.array(meta.mean)) / np.array(meta.std)
    corners = labels.numpy()[[0, 0, -1, -1], [0, -1, 0, -1]]  # where enlargement mixes nothing
    assert corners.tolist() == logits[[0, 0, -1, -1], [0, -1, 0, -1]].argmax(-1).tolist()


def test_int8_is_refused_with_what_builds_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8 is explicit in the graph: --backend tensorrt"):
        build_torch_plan(tmp_path, tmp_path, tmp_path / "engine.plan", "int8", PlanOptions())
    assert not any(tmp_path.iterdir())
