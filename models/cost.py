"""What an architecture costs, counted from its data without building it: parameters and multiply-accumulates (MACs).

One MAC is one multiply-accumulate of a convolution at batch 1; the papers' "FLOPs" are these. Enlargements, batch norms and
activations are not counted. Parameters are the trainable ones: weights, biases, batch norm scale and shift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgesmith.models.arch import Arch, Segmentation, SqueezeNas


@dataclass(frozen=True)
class Conv:
    """One convolution with what directly follows it, at a known size."""

    name: str
    cin: int
    cout: int
    kernel: int
    out_hw: tuple[int, int]
    groups: int = 1
    bias: bool = False
    """True: a bias; False: a batch norm."""
    stride: int = 1
    dilation: int = 1

    @property
    def macs(self) -> int:
        return self.cout * (self.cin // self.groups) * self.kernel**2 * self.out_hw[0] * self.out_hw[1]

    @property
    def params(self) -> int:
        return self.cout * (self.cin // self.groups) * self.kernel**2 + self.cout * (1 if self.bias else 2)


def params(arch: Arch, task: Segmentation) -> int:
    """Trainable parameters of the built module."""
    return sum(c.params for c in convolutions(arch, task, (64, 64)))


def macs(arch: Arch, task: Segmentation, input_hw: tuple[int, int]) -> int:
    """MACs of all convolutions at `input_hw`, batch 1."""
    return sum(c.macs for c in convolutions(arch, task, input_hw))


def convolutions(arch: Arch, task: Segmentation, input_hw: tuple[int, int]) -> Iterator[Conv]:
    """Every convolution of the network in the order in which it runs."""
    if isinstance(arch, SqueezeNas):
        return _squeezenas(arch, task, input_hw)
    raise ValueError(f"costs of family {arch.family!r} are not known")


def _squeezenas(arch: SqueezeNas, task: Segmentation, input_hw: tuple[int, int]) -> Iterator[Conv]:
    hw = _halve(input_hw)
    width = arch.stem_width
    yield Conv("stem", 3, width, 3, hw, stride=2)
    low_hw = hw
    for i, b in enumerate(arch.blocks):
        in_hw, hw = hw, _halve(hw) if b.stride == 2 else hw
        if b.op == "mbconv":
            inner = width * b.expand
            yield Conv(f"blocks.{i}.expand", width, inner, 1, in_hw, b.groups)
            yield Conv(f"blocks.{i}.depthwise", inner, inner, b.kernel, hw, inner, False, b.stride, b.dilation)
            yield Conv(f"blocks.{i}.project", inner, b.width, 1, hw, b.groups)
        elif b.stride == 2:
            yield Conv(f"blocks.{i}.parts.0", width, b.width - b.width // 2, 1, hw, stride=2)
            yield Conv(f"blocks.{i}.parts.1", width, b.width // 2, 1, hw, stride=2)
        elif width != b.width:
            yield Conv(f"blocks.{i}.parts.0", width, b.width, 1, hw)
        width = b.width
        if i == arch.low_level_block:
            low_hw = hw
    if arch.neck_width is not None:
        yield Conv("neck", width, arch.neck_width, 1, hw)
        width = arch.neck_width
    low, mid = arch.blocks[arch.low_level_block].width, arch.decoder_width
    if arch.decoder == "lraspp":
        yield Conv("decoder.value", width, mid, 1, hw)
        yield Conv("decoder.gate", width, mid, 1, _lraspp_gate_hw(hw), bias=True)
        yield Conv("decoder.high_classifier", mid, task.classes, 1, low_hw, bias=True)
        yield Conv("decoder.low_classifier", low, task.classes, 1, low_hw, bias=True)
        return
    yield Conv("decoder.point", width, mid, 1, hw)
    for i, rate in enumerate((6, 12, 18)):
        yield Conv(f"decoder.atrous.{i}", width, mid, 3, hw, mid, dilation=rate)
    yield Conv("decoder.merge", 4 * mid + width, mid, 1, hw)
    yield Conv("decoder.low", low, 32, 1, low_hw, bias=True)
    yield Conv("decoder.refine", mid + 32, mid + 32, 3, low_hw, mid + 32)
    yield Conv("decoder.classifier", mid + 32, task.classes, 1, low_hw, bias=True)


def _lraspp_gate_hw(hw: tuple[int, int]) -> tuple[int, int]:
    """Size of LR-ASPP's pooled map: 49x49 windows at stride (16, 20), or the mean of the whole map when that is smaller."""
    return ((hw[0] - 49) // 16 + 1, (hw[1] - 49) // 20 + 1) if min(hw) >= 49 else (1, 1)


def _halve(hw: tuple[int, int]) -> tuple[int, int]:
    return (hw[0] + 1) // 2, (hw[1] + 1) // 2
