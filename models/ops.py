"""What families share: convolution with batch norm and ReLU, bilinear resizing, the shifted map, zoomed convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith.models.parts import zoomed_hw


def conv_bn(cin: int, cout: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Bias-free convolution of "same" padding, batch norm. Where the stride is 2 an odd size is rounded up."""
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(cin, cout, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


def conv_bn_relu(cin: int, cout: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """`conv_bn`, ReLU."""
    return conv_bn(cin, cout, kernel, stride=stride, dilation=dilation, groups=groups).append(nn.ReLU(inplace=True))


def resize(x: Tensor, hw: tuple[int, int], align_corners: bool) -> Tensor:
    """`x` (N, C, H, W) at `hw` = (height, width): bilinear, no antialias. A map that has the size already is returned."""
    if tuple(x.shape[-2:]) == hw:
        return x
    return F.interpolate(x, hw, mode="bilinear", align_corners=align_corners)


def shifted(x: Tensor) -> Tensor:
    """`x` (N, C, H, W) moved up and left by one pixel; zeros enter at the other side."""
    return F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]


class ZoomedConv(nn.Module):
    """Zoomed convolution (FasterSeg, section 3.1.2): halve the map, convolve 3x3, enlarge it to its size, ReLU.

    `layers` = 2 is the paper's "zoomed conv. x2": conv-BN-ReLU, conv-BN on the small map. The small map is
    max(1, floor(H / 2)) x max(1, floor(W / 2)). Stride 2 leaves the enlargement out, so the output has that size; no
    convolution here has a stride. Both resizes are bilinear: with `align_corners`, as the published networks are trained, or
    with half-pixel coordinates without. They are never nearest-neighbour, which is another operator with other outputs.
    """

    def __init__(self, cin: int, cout: int, *, layers: int = 1, stride: int = 1, align_corners: bool = True) -> None:
        super().__init__()
        if layers not in (1, 2) or stride not in (1, 2):
            raise ValueError(f"layers, stride: {(layers, stride)} must be 1 or 2")
        self.stride = stride
        self.align_corners = align_corners
        before = (conv_bn_relu(cin, cout, 3),) if layers == 2 else ()
        self.convs = nn.Sequential(*before, conv_bn(cout if before else cin, cout, 3))

    def forward(self, x: Tensor) -> Tensor:
        hw = (x.shape[-2], x.shape[-1])
        y = resize(x, zoomed_hw(hw), self.align_corners)  # (N, C, H/2, W/2)
        y = self.convs(y)
        if self.stride == 1:
            y = resize(y, hw, self.align_corners)  # (N, C', H, W)
        return F.relu(y)
