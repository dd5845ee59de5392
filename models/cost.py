"""What an architecture costs, counted from its data without building it.

One MAC is one multiply-accumulate of a convolution at batch 1; the papers' "FLOPs" are these. Enlargements, batch norms and
activations are not counted. Parameters are the trainable ones: weights, biases, batch norm scale and shift. Bytes are of fp32:
each convolution reads its input map and its weights and writes its output map once, what a cache or a fused kernel saves not
taken off. Auxiliary heads are counted only where `training` asks for them.

A receptive field is the span of input pixels, from the first to the last, that one value depends on, at the place where it is
largest; padding is not counted. Bilinear resizes count with the neighbours that they read, so that a zoomed convolution at
stride 1 sees 8 pixels where the paper's Table 1 sets it to twice the 3 of a plain one: there the enlargement is left out.
What a mean over the whole map brings in (the gate of LR-ASPP, the mean of ASPP) is not counted: it would make every field
the image. Nor is the last enlargement of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgesmith.models.arch import (
    ASPP_LOW_WIDTH,
    ASPP_RATES,
    HEAD_FULL_WIDTH,
    LRASPP_POOL,
    LRASPP_POOL_STRIDE,
    Arch,
    Cell,
    FasterSeg,
    Segmentation,
    SqueezeNas,
)
from edgesmith.models.parts import zoomed_hw
from edgesmith.models.trace import Conv, FeatureMap, Size, Trace, image, joined, pooled, resized, shifted


def params(arch: Arch, task: Segmentation, *, training: bool = False) -> int:
    """Trainable parameters of the deployed network; of the whole built module where `training`."""
    return sum(c.params for c in convolutions(arch, task, (64, 64), training=training))


def macs(arch: Arch, task: Segmentation, input_hw: Size) -> int:
    """MACs of all convolutions at `input_hw`, batch 1."""
    return sum(c.macs for c in convolutions(arch, task, input_hw))


def weight_bytes(arch: Arch, task: Segmentation) -> int:
    """Bytes of the deployed network's parameters."""
    return 4 * params(arch, task)


def activation_bytes(arch: Arch, task: Segmentation, input_hw: Size) -> int:
    """Bytes of all maps that convolutions read and write at `input_hw`, batch 1."""
    return 4 * sum(c.activations for c in convolutions(arch, task, input_hw))


def arithmetic_intensity(arch: Arch, task: Segmentation, input_hw: Size) -> float:
    """MACs a byte of maps and weights."""
    return macs(arch, task, input_hw) / (activation_bytes(arch, task, input_hw) + weight_bytes(arch, task))


def receptive_field(arch: Arch, input_hw: Size) -> Size:
    """Rows and columns of the input that one logit depends on (see above), at most `input_hw`."""
    trace = Trace()
    return _traced(arch, Segmentation(1), input_hw, False, trace).receptive_hw


def convolutions(arch: Arch, task: Segmentation, input_hw: Size, *, training: bool = False) -> Iterator[Conv]:
    """Every convolution of the network in the order in which it runs; the auxiliary heads' last, where `training`.

    Raises ValueError for a family whose costs are not known.
    """
    trace = Trace()
    _traced(arch, task, input_hw, training, trace)
    return iter(trace.convs)


def _traced(arch: Arch, task: Segmentation, input_hw: Size, training: bool, trace: Trace) -> FeatureMap:
    """The logits before their last enlargement."""
    if isinstance(arch, SqueezeNas):
        return _squeezenas(arch, task, image(input_hw), trace)
    if isinstance(arch, FasterSeg):
        return _fasterseg(arch, task, image(input_hw), training, trace)
    raise ValueError(f"costs of family {arch.family!r} are not known")


def _squeezenas(arch: SqueezeNas, task: Segmentation, x: FeatureMap, trace: Trace) -> FeatureMap:
    x = trace.conv("stem", x, arch.stem_width, 3, stride=2)
    low = x
    for i, b in enumerate(arch.blocks):
        given, name = x, f"blocks.{i}"
        if b.op == "mbconv":
            x = trace.conv(f"{name}.expand", x, x.channels * b.expand, groups=b.groups)
            x = trace.conv(
                f"{name}.depthwise", x, x.channels, b.kernel, stride=b.stride, dilation=b.dilation, groups=x.channels
            )
            x = trace.conv(f"{name}.project", x, b.width, groups=b.groups)
            if x.channels == given.channels and b.stride == 1:
                x = joined(x, given, channels=b.width)
        elif b.stride == 2 or b.width != x.channels:
            x = _reduced(name, x, b.width, b.stride, trace)
        if i == arch.low_level_block:
            low = x
    if arch.neck_width is not None:
        x = trace.conv("neck", x, arch.neck_width)
    decoder = _lraspp if arch.decoder == "lraspp" else _aspp
    return decoder(x, low, arch.decoder_width, task.classes, trace)


def _reduced(name: str, x: FeatureMap, width: int, stride: int, trace: Trace) -> FeatureMap:
    """A skip with weights: one 1x1 convolution, or at stride 2 two of half the width."""
    if stride == 1:
        return trace.conv(f"{name}.parts.0", x, width)
    whole = trace.conv(f"{name}.parts.0", x, width - width // 2, stride=2)
    return joined(whole, trace.conv(f"{name}.parts.1", shifted(x), width // 2, stride=2))


def _lraspp(x: FeatureMap, low: FeatureMap, width: int, classes: int, trace: Trace) -> FeatureMap:
    windows = ((LRASPP_POOL, LRASPP_POOL), LRASPP_POOL_STRIDE) if min(x.hw) >= LRASPP_POOL else (x.hw, x.hw)
    trace.conv("decoder.gate", pooled(x, *windows), width, bias=True)
    value = trace.conv("decoder.value", x, width)
    high = trace.conv("decoder.high_classifier", resized(value, low.hw, False), classes, bias=True)
    return joined(high, trace.conv("decoder.low_classifier", low, classes, bias=True), channels=classes)


def _aspp(x: FeatureMap, low: FeatureMap, width: int, classes: int, trace: Trace) -> FeatureMap:
    maps = [trace.conv("decoder.point", x, width)]
    for i, rate in enumerate(ASPP_RATES):
        maps.append(trace.conv(f"decoder.atrous.{i}", x, width, 3, dilation=rate, groups=width))
    y = trace.conv("decoder.merge", joined(*maps, x), width)  # x stands for its mean
    y = joined(resized(y, low.hw, True), trace.conv("decoder.low", low, ASPP_LOW_WIDTH, bias=True))
    y = trace.conv("decoder.refine", y, y.channels, 3, groups=y.channels)
    return trace.conv("decoder.classifier", y, classes, bias=True)


def _fasterseg(arch: FasterSeg, task: Segmentation, x: FeatureMap, training: bool, trace: Trace) -> FeatureMap:
    f = arch.stem_width
    for i, (width, stride) in enumerate(((4 * f, 2), (8 * f, 2), (8 * f, 1), (8 * f, 2), (8 * f, 1))):
        x = trace.conv(f"stem.{i}", x, width, 3, stride=stride)
    first = [(f"shared.{i}", cell) for i, cell in enumerate(arch.branches[0][: arch.shared])]
    x, left = _cells(first, x, arch.align_corners, trace)
    maps = []  # of each branch, its last map at each of its scales
    for b, branch in enumerate(arch.branches):
        own = [(f"branches.{b}.{i}", cell) for i, cell in enumerate(branch[arch.shared :])]
        y, more = _cells(own, x, arch.align_corners, trace)
        maps.append([*left, *more, y])
    aggregated = [_aggregated(f"aggregation.{b}", m, arch, trace) for b, m in enumerate(maps)]
    fused = trace.conv("fuse", joined(*aggregated), 8 * arch.head_ratio * len(maps))
    logits = _head("head", fused, task.classes, trace)
    for i in (1, 2) if training else ():
        if deep := [m[i] for m in maps if len(m) > i]:
            joint = joined(*(resized(m, deep[0].hw, arch.align_corners) for m in deep))
            _head(f"auxiliary.{i - 1}", joint, task.classes, trace)
    return logits


def _aggregated(name: str, maps: list[FeatureMap], arch: FasterSeg, trace: Trace) -> FeatureMap:
    """A branch's deepest map, taken up to 1/8 over its last maps at the finer scales."""
    *finer, x = maps
    for i, fine in enumerate(reversed(finer)):
        width = arch.head_ratio * 8 * 2 ** (len(finer) - 1 - i)
        x = trace.conv(f"{name}.{i}.reduce", x, width)
        x = trace.conv(f"{name}.{i}.refine", joined(resized(x, fine.hw, arch.align_corners), fine), width, 3)
    return x


def _cells(
    cells: list[tuple[str, Cell]], x: FeatureMap, align_corners: bool, trace: Trace
) -> tuple[FeatureMap, list[FeatureMap]]:
    """What the cells make of `x`, and the maps that entered those of stride 2."""
    left = []
    for name, cell in cells:
        if cell.stride == 2:
            left.append(x)
        x = _cell(name, cell, x, align_corners, trace)
    return x, left


def _cell(name: str, cell: Cell, x: FeatureMap, align_corners: bool, trace: Trace) -> FeatureMap:
    if cell.op == "skip":
        return _reduced(name, x, cell.width, cell.stride, trace)
    if cell.op == "conv":
        return trace.conv(name, x, cell.width, 3, stride=cell.stride)
    if cell.op == "conv_x2":
        return trace.conv(f"{name}.1", trace.conv(f"{name}.0", x, cell.width, 3, stride=cell.stride), cell.width, 3)
    y = resized(x, zoomed_hw(x.hw), align_corners)
    for i in range(2 if cell.op == "zoomed_conv_x2" else 1):
        y = trace.conv(f"{name}.convs.{i}", y, cell.width, 3)
    return y if cell.stride == 2 else resized(y, x.hw, align_corners)


def _head(name: str, x: FeatureMap, classes: int, trace: Trace) -> FeatureMap:
    width = x.channels if x.channels <= HEAD_FULL_WIDTH else x.channels // 2
    return trace.conv(f"{name}.classifier", trace.conv(f"{name}.conv", x, width, 3), classes, bias=True)
