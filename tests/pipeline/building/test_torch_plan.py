"""What Torch-TensorRT is given: a module that labels a frame as the graph does. It compiles on no machine of the tests."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesmith.deploy.engines.tensorrt_options import PlanOptions
from edgesmith.deploy.files import write_json
from edgesmith.pipeline.building import torch_plan
from edgesmith.pipeline.building.torch_plan import FrameToLabels, build_torch_plan
from tests.fakes import ORIN


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
        build_torch_plan(tmp_path, tmp_path, tmp_path / "engine.plan", "int8", PlanOptions(), print)
    assert not any(tmp_path.iterdir())


def test_fp32_is_fp32_and_a_timing_cache_is_announced(
    tiny: Any, tmp_path: Path, fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def convert(program: Any, **settings: Any) -> bytes:
        """A fake of Torch-TensorRT, which needs a GPU."""
        asked.update(settings)
        return b"plan"

    fake = SimpleNamespace(
        __version__="2.8.0", dynamo=SimpleNamespace(convert_exported_program_to_serialized_trt_engine=convert)
    )
    monkeypatch.setitem(sys.modules, "torch_tensorrt", fake)
    monkeypatch.setattr(torch_plan, "current_gpu", lambda: ORIN)
    monkeypatch.setattr(torch_plan.models, "load", lambda weights: nn.Identity())
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, device=None: tensor)
    write_json(tmp_path / "meta.json", tiny.META.to_json())
    said: list[str] = []
    options = PlanOptions(timing_cache="orin.cache", workspace_mib=2)
    built = build_torch_plan(tmp_path, tmp_path, tmp_path / "engine.plan", "fp32", options, said.append)
    assert (asked["disable_tf32"], asked["use_explicit_typing"], asked["workspace_size"]) == (True, True, 2 << 20)
    assert built.notices == tuple(said)
    assert said == [
        "timing_cache orin.cache is not honoured by torch_tensorrt 2.8.0: it keeps its timings in a file of its own"
    ]
