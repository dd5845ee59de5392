"""What the supernet does with channels-last maps (N, C, H, W) beside depthwise convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

COLUMNS = 64
"""Sums for statistics are taken in so many columns, or in fewer where that does not divide the map."""
MAP = (0, 2, 3)
"""The dimensions over which batch norm takes its statistics."""


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance by channel.

    Torch sums a channels-last map down its pixels, in fp32, and long columns lose digits. So up to COLUMNS pixels side by side
    are taken for one with so many times the channels, and the statistics of these are joined.
    """
    k = math.gcd(pixels(x), COLUMNS)
    columns = flat(x).view(1, -1, 1, k * x.shape[1]).permute(0, 3, 1, 2)
    running = x.new_zeros(2, k * x.shape[1], dtype=wide(x))  # not used, but with these it counts in fp32 for bf16 maps too
    mean, var = (t.view(k, -1) for t in torch.ops.aten.batch_norm_update_stats(columns, running[0], running[1], 0.0))
    return mean.mean(0), var.mean(0) + mean.var(0, unbiased=False)


def point(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The 1x1 convolution by `weight` (outputs, inputs)."""
    return F.conv2d(x, weight.to(x.dtype)[..., None, None], None if bias is None else bias.to(x.dtype))


def point_weight(x: Tensor, dy: Tensor) -> Tensor:
    """The gradient of a 1x1 convolution's weight (outputs, inputs)."""
    weight: Tensor = conv2d_weight(x, (dy.shape[1], x.shape[1], 1, 1), dy)  # type: ignore[no-untyped-call]
    return weight.flatten(1)


def masked(gradient: Tensor, output: Tensor) -> Tensor:
    """The gradient behind a ReLU of which `output` came, in place."""
    behind: Tensor = torch.ops.aten.threshold_backward.grad_input(gradient, output, 0, grad_input=gradient)
    return behind


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def flat(x: Tensor) -> Tensor:
    """A channels-last map, or some of its channels, as a matrix (pixels, channels) in the same memory."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def pixels(x: Tensor) -> int:
    """How many values batch norm takes a statistic of."""
    return x.numel() // x.shape[1]


def wide(x: Tensor) -> torch.dtype:
    """The type for sums: x's, at least fp32."""
    return torch.promote_types(x.dtype, torch.float32)
