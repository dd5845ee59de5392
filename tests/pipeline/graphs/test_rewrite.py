"""The plugins' operators in a graph: put in and taken out without loss, and the same labels in ONNX Runtime."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from edgesmith import models
from edgesmith.models.arch import Cell, FasterSeg
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD
from edgesmith.pipeline.export import enlargement, module_graph
from edgesmith.pipeline.graphs import graph, rewrite


class LowLogits(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module.low_logits(x)  # type: ignore[operator,no-any-return]


def native(arch: models.Arch, hw: tuple[int, int]) -> ModelProto:
    """An exported graph, with batch norms that change something."""
    torch.manual_seed(0)
    module = models.build(arch, models.Segmentation(7)).eval()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.bias, 0, 0.2)
            nn.init.uniform_(m.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    network = module_graph(LowLogits(module), ((3, *hw),))
    assembled = graph.assemble(
        network,
        frame_hw=hw,
        colour_order="bgr",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        enlargement=enlargement(graph.low_hw(network), hw, hw, bool(module.enlarge_align_corners)),
    )
    return graph.cleaned(assembled.model)


def bytes_of(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def labels(model: ModelProto, frame: NDArray[np.uint8]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(bytes_of(model), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["labels"], {"frame": frame})[0])


def require_lossless(model: ModelProto, expected: dict[str, int]) -> ModelProto:
    """There and back gives the same bytes; between, the operators are there and ONNX Runtime labels alike."""
    before = bytes_of(model)
    fused = rewrite.fused(model)
    assert rewrite.operators(fused) == expected
    assert bytes_of(model) == before, "the given model was changed"
    assert bytes_of(rewrite.unfused(fused)) == before
    onnx.checker.check_model(fused)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(labels(model, frame), labels(fused, frame))
    return fused


def expected_of(arch: FasterSeg) -> dict[str, int]:
    """One zoomed convolution for each zoomed cell that is computed, and the enlargement."""
    cells = [c for i, b in enumerate(arch.branches) for c in b[arch.shared * min(i, 1) :]]
    zoomed = sum(c.op.startswith("zoomed") for c in cells)
    return {"EnlargeArgmax": 1} | ({"ZoomedConv": zoomed} if zoomed else {})


@pytest.fixture(scope="module")
def student() -> ModelProto:
    return native(models.zoo("fasterseg-student"), (96, 160))


def test_student_there_and_back(student: ModelProto) -> None:
    arch = models.zoo("fasterseg-student")
    assert isinstance(arch, FasterSeg)
    fused = require_lossless(student, expected_of(arch))
    said = {n.name: {a.name: helper.get_attribute_value(a) for a in n.attribute} for n in fused.graph.node if n.domain}
    assert {v.get("stride") for v in said.values()} == {None, 1, 2}
    assert not any(n.op_type == "ArgMax" for n in fused.graph.node)


@pytest.mark.slow
def test_teacher_there_and_back() -> None:
    arch = models.zoo("fasterseg-teacher")
    assert isinstance(arch, FasterSeg)
    require_lossless(native(arch, (96, 160)), expected_of(arch))


def random_network(seed: int) -> tuple[FasterSeg, tuple[int, int]]:
    """One or two branches of any cells, with or without common ones, and an input size, odd ones among them."""
    rng = random.Random(seed)
    ops = ("skip", "conv", "conv_x2", "zoomed_conv", "zoomed_conv_x2", "zoomed_conv", "zoomed_conv_x2")

    def cells(strides: list[int]) -> list[Cell]:
        return [Cell(rng.choice(ops), rng.randint(2, 9), s) for s in strides]  # type: ignore[arg-type]

    halvings = rng.choice([(0,), (1,), (2,), (1, 0), (2, 0), (2, 1)])
    common = cells([1] * rng.randint(0, 2)) if len(halvings) == 2 else []
    branches = []
    for count in halvings:
        strides = [2] * count + [1] * rng.randint(1, 3)
        rng.shuffle(strides)
        branches.append((*common, *cells(strides)))
    widths = {"stem_width": rng.randint(1, 2), "head_ratio": rng.randint(1, 2)}
    arch = FasterSeg("random", branches=tuple(branches), shared=len(common), align_corners=rng.random() < 0.5, **widths)
    return arch, (rng.randint(64, 150), rng.randint(64, 150))


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(s, marks=pytest.mark.slow) for s in range(3, 50))])
def test_random_networks_there_and_back(seed: int) -> None:
    arch, hw = random_network(seed)
    require_lossless(native(arch, hw), expected_of(arch))


@pytest.mark.parametrize("align_corners", [True, False])
def test_an_enlargement_alone_is_found_and_two_in_a_row_are_not(align_corners: bool) -> None:
    once = graph.enlarging(7, enlargement((8, 12), (64, 96), (64, 96), align_corners)).model
    fused = rewrite.fused(once)
    assert rewrite.operators(fused) == {"EnlargeArgmax": 1}
    assert bytes_of(rewrite.unfused(fused)) == bytes_of(once)
    logits = np.random.default_rng(0).normal(size=(1, 7, 8, 12)).astype(np.float32)
    found = [onnxruntime.InferenceSession(bytes_of(m)).run(None, {"logits": logits})[0] for m in (once, fused)]
    assert np.array_equal(found[0], found[1])
    split = rewrite.split_of(once)
    assert split is not None
    assert (split.logits, split.low_hw, split.hw, split.align_corners) == ("logits", (8, 12), (64, 96), align_corners)
    twice = graph.enlarging(7, enlargement((8, 12), (64, 96), (80, 100), align_corners)).model
    assert rewrite.split_of(twice) is None
    assert bytes_of(rewrite.fused(twice)) == bytes_of(twice)


def test_for_plugins_leaves_operators_and_nothing_of_the_record(student: ModelProto) -> None:
    fused = rewrite.fused(student)
    bare = rewrite.for_plugins(fused)
    assert rewrite.operators(bare) == rewrite.operators(fused)
    assert not bare.functions
    assert not bare.metadata_props
    assert bare.ir_version == student.ir_version
    assert not any(n.overload for n in bare.graph.node)


@pytest.mark.parametrize("name", ["EnlargeArgmax", "ZoomedConv"])
def test_one_operator_alone_is_put_in(student: ModelProto, name: str) -> None:
    both = rewrite.operators(rewrite.fused(student))
    alone = rewrite.fused(student, (name,))
    assert rewrite.operators(alone) == {name: both[name]}
    assert bytes_of(rewrite.unfused(alone)) == bytes_of(student)


def test_a_fused_model_is_not_fused_again_and_a_changed_one_not_taken_apart(student: ModelProto) -> None:
    fused = rewrite.fused(student)
    with pytest.raises(ValueError, match="fused already"):
        rewrite.fused(fused)
    del fused.graph.node[[n.op_type for n in fused.graph.node].index("ZoomedConv")]
    with pytest.raises(ValueError, match="a record of"):
        rewrite.unfused(fused)


def zoomed_graph(**changes: Any) -> ModelProto:
    """Resize - Conv - Relu - Conv - Resize - Relu on (1, 4, 9, 12), by hand."""
    mode = changes.get("mode", "align_corners")
    resize = {"mode": "linear", "coordinate_transformation_mode": mode} | changes.get("resize", {})
    node = helper.make_node
    nodes = [
        node("Resize", ["x", "", "", "small"], ["a"], **resize),
        node("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1], **changes.get("conv", {})),
        node("Relu", ["b"], ["c"]),
        node("Conv", ["c", "v", "bias"], ["d"], pads=[1, 1, 1, 1]),
        node("Resize", ["d", "", "", "large"], ["e"], **resize),
        node("Relu", ["e"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    k = changes.get("width", 6)
    constants = {
        "small": np.array(changes.get("small", [1, 4, 4, 6])),
        "w": rng.normal(size=(k, 4, 3, 3)).astype(np.float32),
        "v": rng.normal(size=(6, k, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=6).astype(np.float32),
        "large": np.array([1, 6, 9, 12]),
    }
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 4, 9, 12]), ("y", [1, 6, 9, 12])))
    outputs = [y, *(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in changes.get("outputs", []))]
    tensors = [numpy_helper.from_array(v, n) for n, v in constants.items()]
    return graph.as_model(helper.make_graph(nodes, "g", [x], outputs, tensors))


@pytest.mark.parametrize("mode", ["align_corners", "half_pixel"])
def test_one_operator_by_hand(mode: str) -> None:
    model = zoomed_graph(mode=mode)
    fused = rewrite.fused(model)
    assert rewrite.operators(fused) == {"ZoomedConv": 1}
    assert bytes_of(rewrite.unfused(fused)) == bytes_of(model)
    x = np.random.default_rng(1).normal(size=(1, 4, 9, 12)).astype(np.float32)
    found = [onnxruntime.InferenceSession(bytes_of(m)).run(None, {"x": x})[0] for m in (model, fused)]
    assert np.abs(found[0] - found[1]).max() <= 1e-6 * np.abs(found[0]).max()


@pytest.mark.parametrize(
    ("changes", "stride"),
    [
        ({"resize": {"antialias": 1}}, None),
        ({"mode": "asymmetric"}, None),
        ({"small": [1, 4, 5, 6]}, None),  # rounded up
        ({"conv": {"strides": [1, 1], "auto_pad": "VALID"}}, None),
        # What is left are a reduction, a convolution and ReLU, which is the form with stride 2.
        ({"width": 8}, 2),  # the two convolutions differ in width
        ({"outputs": ["d"]}, 2),  # an inner value is asked for
    ],
)
def test_what_is_not_quite_a_zoomed_convolution_stays(changes: dict[str, Any], stride: int | None) -> None:
    model = zoomed_graph(**changes)
    left = rewrite.fused(model)
    ours = [helper.get_node_attr_value(n, "stride") for n in left.graph.node if n.domain]
    assert ours == ([] if stride is None else [stride])
    assert bytes_of(rewrite.unfused(left)) == bytes_of(model)


@settings(deadline=None, max_examples=100)
@given(low=st.integers(1, 600), high=st.integers(1, 2100), align_corners=st.booleans())
def test_matrices_are_torch_s_to_the_bit(low: int, high: int, align_corners: bool) -> None:
    by_torch = F.interpolate(torch.eye(low)[None], size=high, mode="linear", align_corners=align_corners)[0].T
    assert np.array_equal(graph.bilinear(low, high, align_corners), by_torch.numpy())
