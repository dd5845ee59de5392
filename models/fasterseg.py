"""FasterSeg (Chen, Gong, Liu, Zhang, Li, Wang, ICLR 2020): branches of different resolutions over one stem, aggregated.

Follows the authors' released networks where the paper leaves things out or contradicts them:

* Of the stem's convolutions of stride 2 the first two raise the width, the third does not (Appendix A says that all do).
* The last cell at a scale has the width of the next one (Table 7 prints that of its own).
* Behind the aggregation stands a 1x1 convolution over all branches. The released networks follow it with a channel attention
  whose result they never use; it is not built here.
* Auxiliary heads at 1/16 and 1/32, which the paper does not mention, serve training; `forward` does not run them.
* Maps are resized to the size of the map that they meet, never by a factor, and a cell's scale follows from the number of
  halvings before it rather than from the size of its map. So any input of at least 64x64 pixels works, 1080x1920 included,
  on which the released code fails. At multiples of 32 this is the released network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith.models.arch import HEAD_FULL_WIDTH, Arch, Cell, FasterSeg, Segmentation
from edgesmith.models.ops import ZoomedConv, conv_bn_relu, resize, shifted
from edgesmith.models.parts import Arm, BranchCell, FasterSegStem, Join, Part
from edgesmith.models.parts import Head as HeadPart


def build(arch: Arch, task: Segmentation) -> FasterSegModule:
    if not isinstance(arch, FasterSeg):
        raise TypeError(f"{type(arch).__name__} is not a FasterSeg architecture")
    return FasterSegModule(arch, task)


def build_part(part: Part) -> nn.Module:
    """The module of one piece, as the network has it: untrained, inputs (N, C, H, W) in the order of `part.inputs`."""
    width = part.inputs[0][0]
    match part.config:
        case FasterSegStem():
            return _stem(part.config.width)
        case BranchCell(cell=cell, align_corners=aligned):
            return _cell(width, cell, bool(aligned))
        case Arm() as arm:
            return Enlarged(conv_bn_relu(width, arm.width, 1), arm.hw, arm.align_corners)
        case Join(kernel=kernel, width=out):
            return Joined(conv_bn_relu(sum(c for c, _, _ in part.inputs), out, kernel))
        case HeadPart():
            return Head(width, part.config.classes)
    raise ValueError(f"{part.key} is no piece of a FasterSeg module")


class Enlarged(nn.Module):
    """A module and the enlargement of its map behind it."""

    def __init__(self, module: nn.Module, hw: tuple[int, int], align_corners: bool) -> None:
        super().__init__()
        self.module, self.hw, self.align_corners = module, hw, align_corners

    def forward(self, x: Tensor) -> Tensor:
        return resize(self.module(x), self.hw, self.align_corners)


class Joined(nn.Module):
    """A module on several maps, one beside the other."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *maps: Tensor) -> Tensor:
        return self.module(torch.cat(maps, 1))  # type: ignore[no-any-return]


class Skip(nn.Module):
    """The skip cell of the supernet: 1x1 convolution, BN, ReLU.

    Stride 2: two 1x1 convolutions of stride 2, the second on the map shifted by one pixel, concatenated; then BN, ReLU.
    """

    def __init__(self, cin: int, cell: Cell) -> None:
        super().__init__()
        self.stride = cell.stride
        widths = (cell.width,) if cell.stride == 1 else (cell.width - cell.width // 2, cell.width // 2)
        self.parts = nn.ModuleList(nn.Conv2d(cin, w, 1, cell.stride, bias=False) for w in widths)
        self.bn = nn.BatchNorm2d(cell.width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.parts[0](x)
        if self.stride == 2:
            y = torch.cat([y, self.parts[1](shifted(x))], 1)  # (N, C', H/2, W/2)
        return F.relu(self.bn(y))


def _stem(f: int) -> nn.Sequential:
    """From the picture to 1/8 of it, 8F' channels."""
    return nn.Sequential(
        conv_bn_relu(3, 4 * f, 3, stride=2),
        conv_bn_relu(4 * f, 8 * f, 3, stride=2),
        conv_bn_relu(8 * f, 8 * f, 3),
        conv_bn_relu(8 * f, 8 * f, 3, stride=2),
        conv_bn_relu(8 * f, 8 * f, 3),
    )


def _cell(cin: int, cell: Cell, align_corners: bool) -> nn.Module:
    if cell.op == "skip":
        return Skip(cin, cell)
    if cell.op == "conv":
        return conv_bn_relu(cin, cell.width, 3, stride=cell.stride)
    if cell.op == "conv_x2":
        first = conv_bn_relu(cin, cell.width, 3, stride=cell.stride)
        return nn.Sequential(first, conv_bn_relu(cell.width, cell.width, 3))
    layers = 2 if cell.op == "zoomed_conv_x2" else 1
    return ZoomedConv(cin, cell.width, layers=layers, stride=cell.stride, align_corners=align_corners)


class Cells(nn.ModuleList):
    """Cells one after the other."""

    def __init__(self, cin: int, cells: Sequence[Cell], align_corners: bool) -> None:
        widths = [cin, *(c.width for c in cells)]
        super().__init__(_cell(w, c, align_corners) for w, c in zip(widths, cells, strict=False))
        self.strides = [c.stride for c in cells]

    def forward(self, x: Tensor) -> list[Tensor]:
        """What each cell of stride 2 is given, which is the last map at its scale, then the output."""
        last = []
        for cell, stride in zip(self, self.strides, strict=True):
            if stride == 2:
                last.append(x)
            x = cell(x)
        return [*last, x]


class Aggregate(nn.Module):
    """One step of the aggregation (Appendix A): a map is reduced in width, enlarged, and refined with the finer map."""

    def __init__(self, cin: int, fine: int, width: int, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.reduce = conv_bn_relu(cin, width, 1)
        self.refine = conv_bn_relu(width + fine, width, 3)

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        # x (N, C, H/2s, W/2s), fine (N, C', H/s, W/s)
        y = resize(self.reduce(x), (fine.shape[-2], fine.shape[-1]), self.align_corners)
        return self.refine(torch.cat([y, fine], 1))  # type: ignore[no-any-return]


class Aggregation(nn.ModuleList):
    """From a branch's deepest map up to 1/8, one step a scale."""

    def __init__(self, widths: Sequence[int], head_ratio: int, align_corners: bool) -> None:
        """`widths` are those of the branch's last maps at 1/8, 1/16, 1/32."""
        super().__init__()
        *finer, cin = widths
        for scale, fine in reversed(list(enumerate(finer))):
            width = 8 * 2**scale * head_ratio
            self.append(Aggregate(cin, fine, width, align_corners))
            cin = width

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, x = maps
        for step, fine in zip(self, reversed(finer), strict=True):
            x = step(x, fine)
        return x


class Head(nn.Module):
    """3x3 convolution and a 1x1 one to the classes: logits at the size of the map."""

    def __init__(self, cin: int, classes: int) -> None:
        super().__init__()
        width = cin if cin <= HEAD_FULL_WIDTH else cin // 2
        self.conv = conv_bn_relu(cin, width, 3)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(x))  # type: ignore[no-any-return]


class FasterSegModule(nn.Module):
    """A FasterSeg network. Forward: normalised (N, 3, H, W), H and W at least 64 -> logits (N, classes, H, W)."""

    enlarge_align_corners: bool
    """How `forward` enlarges `low_logits` to the input's size: bilinear, corners aligned or half-pixel."""

    def __init__(self, arch: FasterSeg, task: Segmentation) -> None:
        super().__init__()
        self.enlarge_align_corners = arch.align_corners
        f = arch.stem_width
        self.stem = _stem(f)
        common = arch.branches[0][: arch.shared]
        self.shared = Cells(8 * f, common, arch.align_corners)
        fork = common[-1].width if common else 8 * f
        self.branches = nn.ModuleList(Cells(fork, b[arch.shared :], arch.align_corners) for b in arch.branches)

        widths = arch.map_widths
        self.aggregation = nn.ModuleList(Aggregation(w, arch.head_ratio, arch.align_corners) for w in widths)
        aggregated = sum(8 * arch.head_ratio if len(w) > 1 else w[0] for w in widths)
        fused = 8 * arch.head_ratio * len(arch.branches)
        self.fuse = conv_bn_relu(aggregated, fused, 1)
        self.head = Head(fused, task.classes)
        joined = (sum(w[scale] for w in widths if len(w) > scale) for scale in range(1, len(widths[0])))
        self.auxiliary = nn.ModuleList(Head(w, task.classes) for w in joined)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_in", nonlinearity="relu")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def low_logits(self, x: Tensor) -> Tensor:
        """Logits before the last enlargement: (N, classes, H/8, W/8)."""
        return self._logits(self._maps(x))

    def train_logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """`low_logits`, then those of the auxiliary heads at 1/16 and 1/32, as deep as the branches go."""
        maps = self._maps(x)
        return (self._logits(maps), *(head(self._joined(maps, scale)) for scale, head in enumerate(self.auxiliary, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return resize(self.low_logits(x), (x.shape[-2], x.shape[-1]), self.enlarge_align_corners)

    def _maps(self, x: Tensor) -> list[list[Tensor]]:
        """Each branch's last map at each of its scales: at 1/8, then at 1/16 and 1/32 if it goes so deep."""
        *before, x = self.shared(self.stem(x))
        return [[*before, *branch(x)] for branch in self.branches]

    def _logits(self, maps: list[list[Tensor]]) -> Tensor:
        aggregated = [up(m) for up, m in zip(self.aggregation, maps, strict=True)]  # (N, 8 chi, H/8, W/8) each
        return self.head(self.fuse(torch.cat(aggregated, 1)))  # type: ignore[no-any-return]

    def _joined(self, maps: list[list[Tensor]], scale: int) -> Tensor:
        """The branches' last maps at 1/(8 * 2**scale), one beside the other.

        Of an odd size a zoomed cell keeps floor(H / 2) and a convolution ceil(H / 2), so the maps may need resizing.
        """
        found = [m[scale] for m in maps if len(m) > scale]
        hw = (found[0].shape[-2], found[0].shape[-1])
        return torch.cat([resize(m, hw, self.enlarge_align_corners) for m in found], 1)
