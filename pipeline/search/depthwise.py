"""Depthwise convolutions with gradients by way of the shapes for which oneDNN, torch's library on a CPU, has fast kernels.

Those are undilated kernels of at most three columns, channels last; others take ten times as long. So the gradients of a
dilated convolution are those of an undilated one on the sub-grids that its taps see, and the weight gradient of a wide kernel
is put together from strips of columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 3
"""Columns of a kernel whose weight gradient is fast."""


class Depthwise(NamedTuple):
    """A depthwise convolution of odd kernel k with "same" padding. Maps are (N, C, H, W), weights (C, 1, k, k)."""

    kernel: int
    stride: int = 1
    dilation: int = 1

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, self.stride, self.dilation * (self.kernel // 2), self.dilation, len(weight))

    def gradients(self, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of x and weight, given the output's."""
        if self.stride == 1 and self.dilation > 1:
            grids = subgrids(x, self.dilation), weight, subgrids(dy, self.dilation)
            dgrids, dweight = Depthwise(self.kernel).gradients(*grids)
            dx = from_subgrids(dgrids, self.dilation)[:, :, : x.shape[2], : x.shape[3]]
            return dx.contiguous(memory_format=torch.channels_last), dweight
        padding = self.dilation * (self.kernel // 2)
        if self.dilation > 1 or self.kernel <= STRIP:
            return self._backward(x, weight, dy, (padding, padding), (True, True))
        dx, _ = self._backward(x, weight, dy, (padding, padding), (True, False))
        strips: list[Tensor] = []
        for strip in torch.split(weight, STRIP, 3):
            left = STRIP * len(strips)
            right = self.kernel - left - strip.shape[3]
            # The map as these columns of the kernel see it: the first output pixel meets its first columns.
            seen = F.pad(x, (padding - left, padding - right))
            strips.append(self._backward(seen, strip, dy, (padding, 0), (False, True))[1])
        return dx, torch.cat(strips, 3)

    def _backward(
        self, x: Tensor, weight: Tensor, dy: Tensor, padding: tuple[int, int], wanted: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor]:
        # Not torch.nn.grad.conv2d_input, which does not see x and takes its layout for the other one.
        strides, dilations = (self.stride, self.stride), (self.dilation, self.dilation)
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            dy, x, weight, None, strides, padding, dilations, False, (0, 0), len(weight), (*wanted, False)
        )
        return dx, dweight


def subgrids(x: Tensor, d: int) -> Tensor:
    """The d * d maps that x consists of when only every d-th row and column is taken, zeros at the ends where one is short.

    (N, C, H, W) -> (d * d * N, C, ceil(H / d), ceil(W / d)), channels last.
    """
    x = F.pad(x, (0, -x.shape[3] % d, 0, -x.shape[2] % d))
    n, c, h, w = x.shape
    grids = x.permute(0, 2, 3, 1).reshape(n, h // d, d, w // d, d, c).permute(2, 4, 0, 1, 3, 5)  # (d, d, N, H/d, W/d, C)
    return grids.reshape(-1, h // d, w // d, c).permute(0, 3, 1, 2)


def from_subgrids(grids: Tensor, d: int) -> Tensor:
    """The map (N, C, H, W) whose `subgrids` these are, with the zeros that they had at the ends."""
    _, c, h, w = grids.shape
    x = grids.permute(0, 2, 3, 1).reshape(d, d, -1, h, w, c).permute(2, 3, 0, 4, 1, 5)  # (N, H/d, d, W/d, d, C)
    return x.reshape(-1, h * d, w * d, c).permute(0, 3, 1, 2)
