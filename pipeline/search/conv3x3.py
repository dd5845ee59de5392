"""3x3 convolutions of "same" padding with their gradients, each in the form that is fastest on a CPU.

oneDNN, torch's library there, comes near the peak of multiplications with direct convolutions. Only the weight gradient of a
small map it computes at a third of its speed: here that is one matrix product. (Winograd's F(4x4, 3x3) on large maps was
tried: its transforms took what its fewer multiplications gained.)

Maps (N, C, H, W) and weights (C', C, 3, 3) are channels-last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .maps import flat, pixels

SMALL_PIXELS = 400
"""Up to so many output pixels a weight gradient is one matrix product."""


def convolutions(x: Tensor, weights: Sequence[Tensor], stride: int = 1) -> list[Tensor]:
    """`x` convolved by each of `weights`."""
    return [F.conv2d(x, w, None, stride, 1) for w in weights]


def gradients(
    x: Tensor, weights: Sequence[Tensor], dys: Sequence[Tensor], stride: int, wanted: bool, sums: Sequence[Tensor]
) -> Tensor | None:
    """The gradient of `x` if it is wanted, given those of what `convolutions` made.

    Those of the weights are added to `sums`, which is empty where they are not wanted.
    """
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
