"""The enlargement outside ONNX Runtime: same labels as inside, and a split that does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgesmith.deploy.engines.onnxruntime import OnnxRuntimeEngine, SessionOptions
from edgesmith.deploy.engines.onnxruntime_split import Split, SplitOnnxRuntimeEngine, cut
from edgesmith.deploy.files import write_json
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD
from edgesmith.pipeline.export import enlargement, module_graph
from edgesmith.pipeline.graphs import graph, rewrite

HW = (72, 104)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 9, 5, 4, 2))
    network = module_graph(module, ((3, *HW),))
    matrices = enlargement(graph.low_hw(network), HW, HW, True)
    order = {"colour_order": "rgb", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    made = graph.assemble(network, frame_hw=HW, enlargement=matrices, **order)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("native") / "model.onnx"
    onnx.save(made.model, str(path))
    return path


@pytest.fixture(scope="module")
def split(native: Path) -> Split:
    found = rewrite.split_of(onnx.load(str(native)))
    assert found is not None
    return found


@pytest.mark.parametrize("threads", [1, 2])
def test_labels_are_the_graph_s_own(native: Path, split: Split, threads: int) -> None:
    options = SessionOptions(threads=threads)
    with (
        OnnxRuntimeEngine(native, HW, options=options) as whole,
        SplitOnnxRuntimeEngine(native, split, options=options) as parts,
    ):
        assert parts.key == "onnxruntime-cpu-fp32-enlarge_argmax1"
        assert parts.frame_hw == HW
        for seed in range(3):
            frame = np.random.default_rng(seed).integers(0, 256, (*HW, 3), dtype=np.uint8)
            expected = whole.infer(frame).copy()
            assert np.mean(parts.infer(frame) == expected) > 0.9999  # but for ties


def test_the_cut_graph_is_valid_and_ends_at_the_logits(native: Path, split: Split) -> None:
    whole, parts = onnx.load(str(native)), onnx.load_from_string(cut(native.read_bytes(), split))
    assert list(whole.graph.node)[: -split.nodes] == list(parts.graph.node)
    assert [o.name for o in parts.graph.output] == [split.logits]
    assert list(parts.graph.initializer) == list(whole.graph.initializer)
    onnx.checker.check_model(parts)


def test_a_split_survives_its_file(split: Split, tmp_path: Path) -> None:
    write_json(tmp_path / "split.json", split.to_json())
    assert Split.read(tmp_path / "split.json") == split
    write_json(tmp_path / "split.json", split.to_json() | {"enlarge_argmax": 2})
    with pytest.raises(ValueError, match="enlarge_argmax is 2; it must be 1"):
        Split.read(tmp_path / "split.json")


def test_a_split_of_another_graph_is_refused(native: Path, split: Split, tmp_path: Path) -> None:
    for wrong in (replace(split, nodes=10_000), replace(split, logits="nothing")):
        with pytest.raises(ValueError, match=r"model\.onnx cannot be split"):
            SplitOnnxRuntimeEngine(native, wrong)
    for wrong in (replace(split, classes=split.classes + 1), replace(split, hw=(HW[0] + 1, HW[1]))):
        with pytest.raises(ValueError, match=r"model\.onnx, split at '.*', takes .* meta\.json asks for"):
            SplitOnnxRuntimeEngine(native, wrong)
    (tmp_path / "model.onnx").write_bytes(native.read_bytes()[:-5])
    with pytest.raises(ValueError, match="cannot be split"):
        SplitOnnxRuntimeEngine(tmp_path / "model.onnx", split)


def test_closed_and_wrong_frames_are_refused(native: Path, split: Split) -> None:
    engine = SplitOnnxRuntimeEngine(native, split)
    with pytest.raises(ValueError, match="this engine takes uint8"):
        engine.infer(np.zeros((4, 4, 3), np.uint8))
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.infer(np.zeros((*HW, 3), np.uint8))
