"""SqueezeNAS (Shaw, Hunter, Iandola, Sidhu, 2019): inverted residual encoders with an LR-ASPP or ASPP decoder.

Follows the authors' released networks where the paper leaves things out or contradicts them:

* Blocks with e = 1 keep their expansion convolution; grouped 1x1 convolutions are not followed by a channel shuffle.
* The pool of LR-ASPP is 49x49 with stride (16, 20), which needs a 1/16 map of at least 49x49. On smaller maps the released
  network fails; here the pool is then the mean over the whole map. A graph has one input size, so there the choice is made
  when it is built; a torch module follows the size of each input.
* Feature maps are enlarged to the size of the map that they meet rather than by a fixed factor, so any input of at least
  64x64 pixels works. At multiples of 16 this is the released network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith.models.arch import (
    ASPP_LOW_WIDTH,
    ASPP_RATES,
    LRASPP_POOL,
    LRASPP_POOL_STRIDE,
    Arch,
    InvertedResidual,
    Segmentation,
    SqueezeNas,
)
from edgesmith.models.ops import conv_bn, conv_bn_relu, shifted
from edgesmith.models.parts import Decoder, Neck, Part, Stem


def build(arch: Arch, task: Segmentation) -> SqueezeNasModule:
    if not isinstance(arch, SqueezeNas):
        raise TypeError(f"{type(arch).__name__} is not a SqueezeNas architecture")
    return SqueezeNasModule(arch, task)


def build_part(part: Part) -> nn.Module:
    """The module of one piece, as the network has it: untrained, inputs (N, C, H, W) in the order of `part.inputs`."""
    width = part.inputs[0][0]
    match part.config:
        case Stem():
            return _stem(part.config.width)
        case InvertedResidual():
            return _block(width, part.config)
        case Neck():
            return _neck(width, part.config.width)
        case Decoder(op=op, width=inner, classes=classes):
            return Logits(DECODERS[op](width, part.inputs[1][0], inner, classes))
    raise ValueError(f"{part.key} is no piece of a SqueezeNAS module")


class MbConv(nn.Module):
    """Inverted residual block (Figure 2): 1x1 expansion, depthwise kxk, linear 1x1; residual where the shapes allow it."""

    def __init__(self, cin: int, block: InvertedResidual) -> None:
        super().__init__()
        inner = cin * block.expand
        self.expand = conv_bn_relu(cin, inner, 1, groups=block.groups)
        self.depthwise = conv_bn_relu(inner, inner, block.kernel, stride=block.stride, dilation=block.dilation, groups=inner)
        self.project = conv_bn(inner, block.width, 1, groups=block.groups)
        self.residual = block.stride == 1 and cin == block.width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Reduce(nn.Module):
    """A skip that changes the width or halves the map.

    Stride 1: ReLU, 1x1, BN. Stride 2: ReLU, then two 1x1 convolutions of stride 2, the second on the map shifted by one pixel.
    """

    def __init__(self, cin: int, block: InvertedResidual) -> None:
        super().__init__()
        self.stride = block.stride
        widths = (block.width,) if block.stride == 1 else (block.width - block.width // 2, block.width // 2)
        self.parts = nn.ModuleList(conv_bn(cin, w, 1, stride=block.stride) for w in widths)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        if self.stride == 1:
            return self.parts[0](x)  # type: ignore[no-any-return]
        return torch.cat([part(m) for part, m in zip(self.parts, (x, shifted(x)), strict=True)], 1)


def _block(cin: int, block: InvertedResidual) -> nn.Module:
    if block.op == "mbconv":
        return MbConv(cin, block)
    return nn.Identity() if block.stride == 1 and cin == block.width else Reduce(cin, block)


class LrAspp(nn.Module):
    """Lite R-ASPP decoder (MobileNetV3, as SqueezeNAS uses it): logits at the size of the low-level map."""

    def __init__(self, cin: int, low: int, width: int, classes: int) -> None:
        super().__init__()
        self.value = conv_bn_relu(cin, width, 1)
        self.gate = nn.Conv2d(cin, width, 1)
        self.high_classifier = nn.Conv2d(width, classes, 1)
        self.low_classifier = nn.Conv2d(low, classes, 1)

    def forward(self, x: Tensor, low: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits, and the deep features' share of them."""
        # x (N, C, H/16, W/16), low (N, C', H/8, W/8)
        if min(x.shape[-2:]) >= LRASPP_POOL:
            gate = torch.sigmoid(self.gate(F.avg_pool2d(x, LRASPP_POOL, LRASPP_POOL_STRIDE)))
            gate = F.interpolate(gate, x.shape[-2:], mode="bilinear", align_corners=False)
        else:
            gate = torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))  # (N, width, 1, 1), broadcast
        y = self.value(x) * gate
        y = F.interpolate(y, low.shape[-2:], mode="bilinear", align_corners=False)  # (N, width, H/8, W/8)
        high: Tensor = self.high_classifier(y)
        return high + self.low_classifier(low), high


class Aspp(nn.Module):
    """ASPP with grouped atrous convolutions (section 3.1, after DeepLabV3+): logits at the size of the low-level map."""

    def __init__(self, cin: int, low: int, width: int, classes: int) -> None:
        super().__init__()
        self.point = conv_bn_relu(cin, width, 1)
        self.atrous = nn.ModuleList(conv_bn_relu(cin, width, 3, dilation=r, groups=width) for r in ASPP_RATES)
        self.merge = conv_bn_relu(width * (1 + len(ASPP_RATES)) + cin, width, 1)
        self.low = nn.Conv2d(low, ASPP_LOW_WIDTH, 1)
        joined = width + ASPP_LOW_WIDTH
        self.refine = conv_bn_relu(joined, joined, 3, groups=joined)
        self.classifier = nn.Conv2d(joined, classes, 1)

    def forward(self, x: Tensor, low: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits, and None: no part of them stands alone."""
        # x (N, C, H/16, W/16), low (N, C', H/4, W/4)
        mean = x.mean((2, 3), keepdim=True).expand_as(x)
        y = self.merge(torch.cat([self.point(x), *(branch(x) for branch in self.atrous), mean], 1))
        y = F.interpolate(y, low.shape[-2:], mode="bilinear", align_corners=True)  # (N, width, H/4, W/4)
        return self.classifier(self.refine(torch.cat([y, self.low(low)], 1))), None


DECODERS: dict[str, Callable[[int, int, int, int], nn.Module]] = {"lraspp": LrAspp, "aspp": Aspp}


class Logits(nn.Module):
    """A decoder as a graph has it: the logits alone, without what only training asks for."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        return self.decoder(x, low)[0]  # type: ignore[no-any-return]


def _stem(width: int) -> nn.Module:
    return conv_bn_relu(3, width, 3, stride=2)


def _neck(cin: int, width: int) -> nn.Module:
    return conv_bn_relu(cin, width, 1)


class SqueezeNasModule(nn.Module):
    """A SqueezeNAS network. Forward: normalised (N, 3, H, W), H and W at least 64 -> logits (N, classes, H, W)."""

    enlarge_align_corners = True
    """How `forward` enlarges `low_logits` to the input's size: bilinear, corners aligned."""

    def __init__(self, arch: SqueezeNas, task: Segmentation) -> None:
        super().__init__()
        self.low_level_block = arch.low_level_block
        self.stem = _stem(arch.stem_width)
        widths = [arch.stem_width, *(b.width for b in arch.blocks)]
        self.blocks = nn.ModuleList(_block(cin, b) for cin, b in zip(widths, arch.blocks, strict=False))
        self.neck = nn.Identity() if arch.neck_width is None else _neck(widths[-1], arch.neck_width)
        decoder = DECODERS[arch.decoder]
        low_width = arch.blocks[arch.low_level_block].width
        self.decoder = decoder(arch.neck_width or widths[-1], low_width, arch.decoder_width, task.classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def low_logits(self, x: Tensor) -> Tensor:
        """Logits before the last enlargement: (N, classes, H/8, W/8) with LR-ASPP, (N, classes, H/4, W/4) with ASPP."""
        return self._decode(x)[0]

    def train_logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """`low_logits`, then what auxiliary losses may be put on: with LR-ASPP the deep features' share of the logits."""
        logits, deep = self._decode(x)
        return (logits,) if deep is None else (logits, deep)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.low_logits(x)
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=self.enlarge_align_corners)

    def _decode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.stem(x)  # (N, C, H/2, W/2)
        low = x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == self.low_level_block:
                low = x
        return self.decoder(self.neck(x), low)  # type: ignore[no-any-return]
