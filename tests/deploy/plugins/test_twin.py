"""The kernels' own source, run by an emulated launch, against torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from edgesmith.deploy.plugins import twin
from edgesmith.deploy.plugins.twin import CpuEnlargement, ZoomedConv, enlarge_argmax, zoomed_conv
from edgesmith.models import ops

Array = NDArray[Any]
SIZES = st.tuples(st.integers(1, 45), st.integers(1, 45))
LAYOUTS = st.sampled_from(["planar", "channels_last"])


def operator(cin: int, cout: int, layers: int, stride: int, align_corners: bool, seed: int = 0) -> ZoomedConv:
    rng = np.random.default_rng(seed)
    widths = [cin, *([cout] * layers)]
    pairs = []
    for before, after in pairwise(widths):
        weights = rng.normal(0, (9 * before) ** -0.5, (after, before, 3, 3)).astype(np.float16).astype(np.float32)
        pairs.append((weights, rng.normal(0, 0.1, after).astype(np.float32)))
    return ZoomedConv(pairs, stride, align_corners)  # type: ignore[arg-type]


def by_torch(x: Array, op: ZoomedConv) -> Array:
    """What `op` is, in torch's operators, in fp32."""
    hw = (x.shape[-2], x.shape[-1])
    y = ops.resize(torch.from_numpy(x.astype(np.float32)), (max(1, hw[0] // 2), max(1, hw[1] // 2)), op.align_corners)
    for i, (weights, biases) in enumerate(op.layers):
        y = F.conv2d(F.relu(y) if i else y, torch.from_numpy(weights), torch.from_numpy(biases), padding=1)
    return np.asarray(F.relu(ops.resize(y, hw, op.align_corners) if op.stride == 1 else y).numpy())


def relative(found: Array, expected: Array) -> float:
    """Largest difference, as part of the largest value."""
    assert found.shape == expected.shape
    return float(np.abs(found.astype(np.float32) - expected).max() / max(1e-3, float(np.abs(expected).max())))


@settings(deadline=None, max_examples=80)
@given(
    hw=SIZES,
    widths=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    layers=st.sampled_from([1, 2]),
    stride=st.sampled_from([1, 2]),
    align_corners=st.booleans(),
    layout=LAYOUTS,
    images=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_zoomed_conv_is_torch_s_to_1e_5_in_fp32(
    hw: tuple[int, int],
    widths: tuple[int, int],
    layers: int,
    stride: int,
    align_corners: bool,
    layout: Any,
    images: int,
    seed: int,
) -> None:
    op = operator(*widths, layers, stride, align_corners, seed)
    x = np.random.default_rng(seed).normal(size=(images, widths[0], *hw)).astype(np.float32)
    assert relative(zoomed_conv(x, op, layout=layout), by_torch(x, op)) <= 1e-5


@settings(deadline=None, max_examples=60)
@given(
    hw=SIZES,
    widths=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    layers=st.sampled_from([1, 2]),
    stride=st.sampled_from([1, 2]),
    align_corners=st.booleans(),
    layout=LAYOUTS,
    shape=st.integers(-1, 3),
    seed=st.integers(0, 99),
)
def test_zoomed_conv_on_tensor_cores_is_torch_s_to_fp16_s_rounding(
    hw: tuple[int, int],
    widths: tuple[int, int],
    layers: int,
    stride: int,
    align_corners: bool,
    layout: Any,
    shape: int,
    seed: int,
) -> None:
    # Weights are exact in fp16. Rounded are the reduced map, each convolution's result and the output: 2**-11 each.
    op = operator(*widths, layers, stride, align_corners, seed)
    x = np.random.default_rng(seed).normal(size=(1, widths[0], *hw)).astype(np.float16)
    assert relative(zoomed_conv(x, op, layout=layout, shape=shape), by_torch(x, op)) <= 4e-3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_more_channels_than_shared_memory_holds_go_in_chunks(dtype: str) -> None:
    op = operator(300, 40, 1, 1, True)
    x = np.random.default_rng(1).normal(size=(1, 300, 19, 22)).astype(dtype)
    assert relative(zoomed_conv(x, op, layout="channels_last"), by_torch(x, op)) <= (1e-5 if dtype == "float32" else 4e-3)


def test_zoomed_conv_is_the_network_s_operator_with_batch_norm_folded() -> None:
    torch.manual_seed(0)
    module = ops.ZoomedConv(24, 40, layers=2, align_corners=False).eval()
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            for value in (m.weight, m.bias, m.running_mean):
                torch.nn.init.normal_(value, 0.5, 0.3)  # type: ignore[arg-type]
    pairs = []
    for conv, bn in (module.convs[0][:2], module.convs[1]):  # type: ignore[index,misc]
        fused = torch.nn.utils.fuse_conv_bn_eval(conv, bn)
        pairs.append((fused.weight.detach().numpy(), fused.bias.detach().numpy()))  # type: ignore[union-attr]
    x = torch.randn(1, 24, 33, 46)
    with torch.inference_mode():
        expected = module(x).numpy()
    assert relative(zoomed_conv(x.numpy(), ZoomedConv(pairs, 1, False)), expected) <= 1e-5


def test_an_operator_survives_serialisation_and_damage_is_refused() -> None:
    op = operator(20, 30, 2, 1, True)
    for dtype in ("float32", "float16"):
        whole = op.serialised(dtype)
        assert twin.reads(whole)
        assert not any(
            twin.reads(b) for b in (b"", whole[:-1], whole + b"\0", b"XXXX" + whole[4:], whole[:4] + b"\2" + whole[5:])
        )
        assert not twin.reads(whole[:12] + b"\xff\xff\xff\x7f" + whole[16:]), "more outputs than there are numbers"


def test_impossible_operators_are_refused() -> None:
    op = operator(8, 8, 1, 1, True)
    with pytest.raises(ValueError, match=r"needs float32 or float16 \(N, 8, H, W\)"):
        zoomed_conv(np.zeros((1, 9, 4, 4), np.float32), op)
    with pytest.raises(ValueError, match="are no zoomed convolution"):
        ZoomedConv([*op.layers, operator(9, 8, 1, 1, True).layers[0]])
    with pytest.raises(ValueError, match="shape is 1; float32 has 1"):
        zoomed_conv(np.zeros((1, 8, 4, 4), np.float32), op, shape=1)


@settings(deadline=None, max_examples=150)
@given(low=st.integers(1, 80), high=st.integers(1, 400), align_corners=st.booleans())
def test_an_axis_is_torch_s_to_the_bit_and_its_cells_hold_its_outputs(low: int, high: int, align_corners: bool) -> None:
    index, weight, first = twin.axis(low, high, align_corners)
    matrix = F.interpolate(torch.eye(low)[None], size=high, mode="linear", align_corners=align_corners)[0].T.numpy()
    found = np.zeros((high, low), np.float32)
    np.add.at(found, (np.arange(high), index), 1 - weight)
    np.add.at(found, (np.arange(high), np.minimum(index + 1, low - 1)), weight)
    assert np.array_equal(found, matrix)
    assert (first[0], first[-1]) == (0, high)
    assert all((index[first[c] : first[c + 1]] == c).all() for c in range(low))


# EnlargeArgmax ----------------------------------------------------------------------------------------------------------------


def enlarged(logits: Array, hw: tuple[int, int], align_corners: bool) -> Tensor:
    return F.interpolate(torch.from_numpy(logits.astype(np.float32)), hw, mode="bilinear", align_corners=align_corners)


def require_labels(found: Array, large: Tensor) -> None:
    """Labels are torch's wherever the top two logits differ by more than 1e-6 of the largest one.

    Of the largest one of all, because corners of either sign may cancel: their sum is then nothing but rounding.
    """
    best = large.topk(min(2, large.shape[1]), 1).values
    clear = (best[:, 0] - best[:, -1] > 1e-6 * large.abs().amax()).numpy() | (large.shape[1] == 1)
    assert np.array_equal(found[clear], large.argmax(1).numpy().astype(np.uint8)[clear])


def logits_of(seed: int, classes: int, low: tuple[int, int], kind: str) -> Array:
    """Noise; or a network's, smooth with clear regions; or whole numbers, full of ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, classes, *low)).astype(np.float32)
    if kind == "ties":
        return np.round(x)
    if kind == "regions":
        small = torch.from_numpy(rng.normal(size=(1, classes, 3, 3)).astype(np.float32)) * 8
        x = x * 0.1 + F.interpolate(small, low, mode="bicubic", align_corners=True).numpy()
    return x


ENLARGEMENTS = {
    "low": st.tuples(st.integers(1, 24), st.integers(1, 24)),
    "hw": st.tuples(st.integers(1, 120), st.integers(1, 150)),
    "classes": st.integers(1, 40),
    "kind": st.sampled_from(["noise", "regions", "ties"]),
    "align_corners": st.booleans(),
    "seed": st.integers(0, 99),
}


@settings(deadline=None, max_examples=60)
@given(**ENLARGEMENTS, layout=LAYOUTS, labels=st.sampled_from(["uint8", "float16"]))
def test_the_kernel_labels_as_torch_does(
    low: tuple[int, int], hw: tuple[int, int], classes: int, kind: str, align_corners: bool, seed: int, layout: Any, labels: str
) -> None:
    logits = logits_of(seed, classes, low, kind)
    found = enlarge_argmax(logits, hw, align_corners=align_corners, layout=layout, labels=labels)
    require_labels(found, enlarged(logits, hw, align_corners))
    half = logits.astype(np.float16)
    found = enlarge_argmax(half, hw, align_corners=align_corners, layout=layout, labels=labels)
    require_labels(found, enlarged(half, hw, align_corners))


@settings(deadline=None, max_examples=120)
@given(**ENLARGEMENTS, threads=st.sampled_from([1, 3]))
def test_the_cpu_form_labels_as_torch_does(
    low: tuple[int, int], hw: tuple[int, int], classes: int, kind: str, align_corners: bool, seed: int, threads: int
) -> None:
    logits = logits_of(seed, classes, low, kind)
    found = np.full(hw, 255, np.uint8)
    with CpuEnlargement(classes, low, hw, align_corners=align_corners, threads=threads) as enlarge:
        enlarge(logits, found)
    require_labels(found[None], enlarged(logits, hw, align_corners))


def test_ties_go_to_the_first_class_where_all_corners_tie() -> None:
    logits = np.zeros((1, 5, 4, 6), np.float32)
    logits[0, 2:4] = 1.0
    found = np.full((30, 50), 255, np.uint8)
    with CpuEnlargement(5, (4, 6), (30, 50)) as enlarge:
        enlarge(logits, found)
    assert (found == 2).all()
    assert (enlarge_argmax(logits, (30, 50)) == 2).all()


def test_a_class_that_wins_at_no_corner_can_win_between_them() -> None:
    logits = np.array([[[[4.0, 0.0]]], [[[0.0, 4.0]]], [[[3.0, 3.0]]]], np.float32).transpose(1, 0, 2, 3)
    found = np.full((1, 9), 255, np.uint8)
    with CpuEnlargement(3, (1, 2), (1, 9)) as enlarge:
        enlarge(logits, found)
    assert found.tolist() == enlarge_argmax(logits, (1, 9))[0].tolist() == [[0, 0, 0, 2, 2, 2, 1, 1, 1]]


def test_the_cpu_form_refuses_other_arrays_and_use_after_close() -> None:
    enlarge = CpuEnlargement(3, (2, 2), (8, 8))
    labels = np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match="logits: float64"):
        enlarge(np.zeros((1, 3, 2, 2)), labels)
    with pytest.raises(ValueError, match=r"labels: uint8 \(8, 4\)"):
        enlarge(np.zeros((1, 3, 2, 2), np.float32), labels[:, ::2])
    enlarge.close()
    enlarge.close()
    with pytest.raises(RuntimeError, match="closed"):
        enlarge(np.zeros((1, 3, 2, 2), np.float32), labels)
    with pytest.raises(ValueError, match="at most 255 classes"):
        CpuEnlargement(256, (2, 2), (8, 8))
