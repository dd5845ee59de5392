"""3x3 convolutions of "same" padding with their gradients, each in the form that is fastest on a CPU.

oneDNN, torch's library there, comes near the peak of multiplications with direct convolutions, so only fewer of them help:

* With stride 1, on maps that are large beside their channels, Winograd's F(4x4, 3x3) (Lavin and Gray, "Fast algorithms for
  convolutional neural networks", CVPR 2016): tiles of 4x4 outputs take 36 multiplications in place of 144, forward and in both
  gradients, and convolutions of one map share the transformed tiles.
* The weight gradient of a small map, which oneDNN computes at a third of its speed, is one matrix product.

Maps (N, C, H, W) and weights (C', C, 3, 3) are channels-last.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .maps import flat, pixels

TILE = 4
"""Rows and columns of outputs that a tile has; it sees two more of the map."""
PATCH = TILE + 2
WINOGRAD_PIXELS = 600
WINOGRAD_CHANNELS = 256
"""Winograd's form is taken from so many pixels and up to so many channels: elsewhere the weights' transforms cost more."""
SMALL_PIXELS = 400
"""Up to so many output pixels a weight gradient is one matrix product."""

# The one-dimensional transforms of inputs, weights and outputs for the points 0, 1, -1, 2, -2.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_WEIGHT = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


@cache
def _plane(rows: tuple[tuple[float, ...], ...], dtype: torch.dtype) -> Tensor:
    """The two-dimensional transform of a one-dimensional one, rows and columns flattened."""
    one = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(one, one).to(dtype)


class Tiles:
    """How a map of this size is taken apart into tiles."""

    def __init__(self, x: Tensor) -> None:
        self.n, self.c, self.h, self.w = x.shape
        self.rows, self.columns = -(-self.h // TILE), -(-self.w // TILE)

    def inputs(self, x: Tensor) -> Tensor:
        """What the tiles see, transformed: (36, tiles, C)."""
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + TILE * self.columns - self.w, 1, 1 + TILE * self.rows - self.h))
        n, row, column, _ = x.stride()
        shape = (PATCH, PATCH, self.n, self.rows, self.columns, self.c)
        seen = x.as_strided(shape, (row, column, n, TILE * row, TILE * column, 1))
        return (_plane(_INPUT, x.dtype) @ seen.reshape(PATCH**2, -1)).view(PATCH**2, -1, self.c)

    def inputs_gradient(self, dv: Tensor) -> Tensor:
        """The map's gradient, given that of `inputs`."""
        seen = _plane(_INPUT, dv.dtype).t() @ dv.view(PATCH**2, -1)
        seen = seen.view(PATCH, PATCH, self.n, self.rows, self.columns, self.c).permute(2, 3, 0, 4, 1, 5)
        x = dv.new_zeros(self.n, self.rows + 1, TILE, self.columns + 1, TILE, self.c)
        own, over = slice(None, TILE), slice(TILE, None)
        x[:, :-1, :, :-1] = seen[:, :, own, :, own]
        x[:, 1:, :2, :-1] += seen[:, :, over, :, own]
        x[:, :-1, :, 1:, :2] += seen[:, :, own, :, over]
        x[:, 1:, :2, 1:, :2] += seen[:, :, over, :, over]
        x = x.view(self.n, TILE * (self.rows + 1), -1, self.c)[:, 1 : 1 + self.h, 1 : 1 + self.w]
        return x.contiguous().permute(0, 3, 1, 2)

    def outputs(self, m: Tensor) -> Tensor:
        """The map (N, C', H, W) of products (36, tiles, C')."""
        y = (_plane(_OUTPUT, m.dtype) @ m.view(PATCH**2, -1)).view(TILE, TILE, self.n, self.rows, self.columns, -1)
        y = y.permute(2, 3, 0, 4, 1, 5).reshape(self.n, TILE * self.rows, TILE * self.columns, -1)
        return y[:, : self.h, : self.w].contiguous().permute(0, 3, 1, 2)

    def outputs_gradient(self, dy: Tensor) -> Tensor:
        """The products' gradient, given the map's."""
        y = F.pad(dy.permute(0, 2, 3, 1), (0, 0, 0, TILE * self.columns - self.w, 0, TILE * self.rows - self.h))
        y = y.view(self.n, self.rows, TILE, self.columns, TILE, -1).permute(2, 4, 0, 1, 3, 5)
        return (_plane(_OUTPUT, dy.dtype).t() @ y.reshape(TILE**2, -1)).view(PATCH**2, -1, dy.shape[1])


def transformed(weight: Tensor) -> Tensor:
    """(C', C, 3, 3) -> (36, C', C)."""
    return (_plane(_WEIGHT, weight.dtype) @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(PATCH**2, *weight.shape[:2])


def convolutions(x: Tensor, weights: Sequence[Tensor], stride: int = 1) -> list[Tensor]:
    """`x` convolved by each of `weights`."""
    if not _winograd(x, stride):
        return [F.conv2d(x, w, None, stride, 1) for w in weights]
    tiles = Tiles(x)
    v = tiles.inputs(x)
    return [tiles.outputs(torch.bmm(v, transformed(w).transpose(1, 2))) for w in weights]


def gradients(
    x: Tensor, weights: Sequence[Tensor], dys: Sequence[Tensor], stride: int, wanted: bool, sums: Sequence[Tensor]
) -> Tensor | None:
    """The gradient of `x` if it is wanted, given those of what `convolutions` made.

    Those of the weights are added to `sums`, which is empty where they are not wanted.
    """
    if _winograd(x, stride):
        return _winograd_gradients(x, weights, dys, wanted, sums)
    small = x.device.type == "cpu" and pixels(dys[0]) <= SMALL_PIXELS
    asked = (wanted, bool(sums) and not small, False)
    seen = _seen(x, stride) if sums and small else x
    dx: Tensor | None = None
    for i, (w, dy) in enumerate(zip(weights, dys, strict=True)):
        part = dw = None
        if any(asked):
            part, dw, _ = torch.ops.aten.convolution_backward(dy, x, w, None, *_shape(stride), 1, asked)
        if part is not None:
            dx = part if dx is None else dx.add_(part)
        if not sums:
            continue
        matrix = _matrix(sums[i]) if small and sums[i].dtype == seen.dtype else None
        if matrix is not None:
            matrix.addmm_(flat(dy).t(), seen)
        else:
            sums[i].add_((flat(dy).t() @ seen).view(len(w), 3, 3, -1).permute(0, 3, 1, 2) if dw is None else dw)
    return dx


def _matrix(weight: Tensor) -> Tensor | None:
    """A weight (C', C, 3, 3) as (C', 9 C) in the same memory, if that can be."""
    if not weight.is_contiguous(memory_format=torch.channels_last):
        return None
    return weight.permute(0, 2, 3, 1).view(len(weight), -1)


def _winograd_gradients(
    x: Tensor, weights: Sequence[Tensor], dys: Sequence[Tensor], wanted: bool, sums: Sequence[Tensor]
) -> Tensor | None:
    tiles = Tiles(x)
    v = tiles.inputs(x) if sums else x
    back = _plane(_WEIGHT, x.dtype).t()
    dv: Tensor | None = None
    for i, (w, dy) in enumerate(zip(weights, dys, strict=True)):
        dm = tiles.outputs_gradient(dy)
        if wanted:
            u = transformed(w)
            dv = torch.bmm(dm, u) if dv is None else dv.baddbmm_(dm, u)
        if sums:
            du = torch.bmm(dm.transpose(1, 2), v)  # (36, C', C)
            sums[i].add_((back @ du.view(PATCH**2, -1)).view(3, 3, *w.shape[:2]).permute(2, 3, 0, 1))
    return None if dv is None else tiles.inputs_gradient(dv)


def _winograd(x: Tensor, stride: int) -> bool:
    exact = x.dtype in (torch.float32, torch.float64) and x.device.type == "cpu"
    return exact and stride == 1 and x.shape[1] <= WINOGRAD_CHANNELS and pixels(x) >= WINOGRAD_PIXELS


def _seen(x: Tensor, stride: int) -> Tensor:
    """For each output pixel what its kernel sees: (pixels, 9 C)."""
    h, w = (-(-side // stride) for side in x.shape[-2:])
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    n, row, column, _ = padded.stride()
    shape = (x.shape[0], h, w, 3, 3, x.shape[1])
    return padded.as_strided(shape, (n, stride * row, stride * column, row, column, 1)).reshape(-1, 9 * x.shape[1])


def _shape(stride: int) -> tuple[object, ...]:
    """Stride, padding, dilation, and what makes it no transposed convolution."""
    return (stride, stride), (1, 1), (1, 1), False, (0, 0)
