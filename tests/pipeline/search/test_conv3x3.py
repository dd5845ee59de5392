from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgesmith.pipeline.search import conv3x3
from edgesmith.pipeline.search.conv3x3 import convolutions, gradients


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def compared(hw: tuple[int, int], stride: int, dtype: torch.dtype) -> float:
    """The largest relative difference of two convolutions of one map, and of their gradients, from torch's in fp64."""
    torch.manual_seed(0)
    x, *weights = (
        torch.randn(shape).contiguous(memory_format=torch.channels_last) for shape in ((2, 5, *hw), (3, 5, 3, 3), (4, 5, 3, 3))
    )
    precise = [t.double().requires_grad_() for t in (x, *weights)]
    expected = [F.conv2d(precise[0], w, None, stride, 1) for w in precise[1:]]
    dys = [torch.randn_like(y) for y in expected]
    torch.autograd.backward(expected, dys)

    x, weights, dys = x.to(dtype), [w.to(dtype) for w in weights], [dy.to(dtype) for dy in dys]
    sums = [
        torch.ones(3, 5, 3, 3, dtype=dtype),
        torch.ones(6, 9, 3, 3, dtype=dtype)[:4, :5],
    ]  # as large as the weight, or larger
    sums[0] = sums[0].contiguous(memory_format=torch.channels_last)
    found = convolutions(x, weights, stride)
    dx = gradients(x, weights, dys, stride, True, sums)
    assert dx is not None
    assert gradients(x, weights, dys, stride, False, [s.clone() for s in sums]) is None
    alone = gradients(x, weights, dys, stride, True, [])
    assert alone is not None
    pairs = [*zip(found, expected, strict=True), (dx, precise[0].grad), (alone, precise[0].grad)]
    pairs += [(s - 1, w.grad) for s, w in zip(sums, precise[1:], strict=True)]
    return max(distance(a.detach(), b.detach()) for a, b in pairs if b is not None)


@pytest.mark.parametrize("hw", [(8, 12), (7, 14), (5, 6), (3, 3), (1, 1), (4, 9)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("form", ["direct", "product"])
def test_convolutions_and_gradients(hw: tuple[int, int], form: str, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv3x3, "SMALL_PIXELS", 10**9 if form == "product" else 0)
    assert compared(hw, stride, torch.float64) < 1e-12
    assert compared(hw, stride, torch.float32) < 1e-5
