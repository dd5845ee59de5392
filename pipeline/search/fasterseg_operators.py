"""The operators of a FasterSeg supernet, each of which holds those of all widths (paper, section 3.1.3).

A superkernel's batch norms are one a width, each with affine and statistics of its own (slimmable networks, which the paper
names), as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith.models.ops import resize, shifted
from edgesmith.models.parts import zoomed_hw

from .fasterseg_space import Op


class Superkernel(nn.Module):
    """A convolution without bias that holds those of all widths, as its first rows and columns, and a batch norm for each."""

    def __init__(self, cin: int, chis: Sequence[int], rate: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.rate, self.stride, self.kernel = rate, stride, kernel
        # The skip of stride 2 is two convolutions, the second on the map shifted by one pixel.
        self.parts = 2 if kernel == 1 and stride == 2 else 1
        shape = (max(chis) * rate // self.parts, cin, kernel, kernel)
        self.weights = nn.ParameterList(
            nn.Parameter(nn.init.kaiming_normal_(torch.empty(shape, memory_format=torch.channels_last), nonlinearity="relu"))
            for _ in range(self.parts)
        )
        self.norms = nn.ModuleDict({str(chi): nn.BatchNorm2d(chi * rate) for chi in chis})

    def weight(self, part: int, cin: int, chi: int) -> Tensor:
        """The weight from `cin` channels to ratio `chi`."""
        return self.weights[part][: chi * self.rate // self.parts, :cin]  # type: ignore[no-any-return]

    def norm(self, chi: int) -> nn.BatchNorm2d:
        return cast(nn.BatchNorm2d, self.norms[str(chi)])

    def forward(self, x: Tensor, chi: int) -> Tensor:
        maps = [x, shifted(x)] if self.parts == 2 else [x]
        ys = [F.conv2d(m, self.weight(i, x.shape[1], chi), None, self.stride, self.kernel // 2) for i, m in enumerate(maps)]
        return self.norm(chi)(torch.cat(ys, 1))  # type: ignore[no-any-return]


class Operator(nn.Module):
    """One operator at one stride: x (N, C, H, W) -> (N, rate * chi, H, W), or (..., H/2, W/2) where it has stride 2."""

    def __init__(self, op: Op, cin: int, chis: Sequence[int], rate: int, stride: int) -> None:
        super().__init__()
        self.zoomed = op in ("zoomed_conv", "zoomed_conv_x2")
        self.stride = stride
        layers = [Superkernel(cin, chis, rate, 1 if op == "skip" else 3, 1 if self.zoomed else stride)]
        if op in ("conv_x2", "zoomed_conv_x2"):
            layers.append(Superkernel(max(chis) * rate, chis, rate, 3, 1))
        self.layers = nn.ModuleList(layers)

    @property
    def kernels(self) -> list[Superkernel]:
        return list(self.layers)  # type: ignore[arg-type]

    def forward(self, x: Tensor, chi: int) -> Tensor:
        hw = (x.shape[-2], x.shape[-1])
        y = resize(x, zoomed_hw(hw), True) if self.zoomed else x
        y = self.kernels[0](y, chi)
        for kernel in self.kernels[1:]:
            y = kernel(F.relu(y), chi)
        return F.relu(resize(y, hw, True) if self.zoomed and self.stride == 1 else y)
