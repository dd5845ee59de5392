"""The pieces that an engine runs one after another, as plain data: what a cost table has one entry each for.

The costs of a network are modelled as the sum over its pieces, each independent of the others (SqueezeNAS, section 3.3). A
piece is said by its operator and the sizes that it takes, so that networks, and the candidates of a search, share pieces.
Two pieces belong to the engine and to no family: `frame`, which normalises the camera's picture, and `labels`, which enlarges
the logits and takes the argmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgesmith.models.arch import Arch, InvertedResidual, Segmentation, SqueezeNas

Kind = Literal["frame", "stem", "block", "neck", "decoder", "labels"]


@dataclass(frozen=True)
class Frame:
    """Camera frame uint8 (H, W, 3) -> what the network's first convolution takes, float (1, 3, H, W)."""


@dataclass(frozen=True)
class Stem:
    """3x3 convolution of stride 2 to `width` channels."""

    width: int


@dataclass(frozen=True)
class Neck:
    """1x1 convolution to `width` channels."""

    width: int


@dataclass(frozen=True)
class Decoder:
    """Decoder of `width` channels: deep and low-level map -> logits at the low-level map's size."""

    op: Literal["lraspp", "aspp"]
    width: int
    classes: int


@dataclass(frozen=True)
class Labels:
    """Logits -> label map uint8 of `frame_hw`: bilinear enlargement, argmax."""

    frame_hw: tuple[int, int]
    align_corners: bool


Config: TypeAlias = "Frame | Stem | InvertedResidual | Neck | Decoder | Labels"


@dataclass(frozen=True)
class Part:
    """One piece. `models.build_part` makes its module, unless it is `frame` or `labels`, which no module has."""

    family: str
    """Whose operators these are; "engine" for `frame` and `labels`."""
    kind: Kind
    config: Config
    inputs: tuple[tuple[int, int, int], ...]
    """(channels, height, width) of each input; a decoder takes the deep map, then the low-level one."""

    @property
    def empty(self) -> bool:
        """True where nothing runs: a skip that keeps width and size is no operator in the graph."""
        c = self.config
        return isinstance(c, InvertedResidual) and c.op == "skip" and c.stride == 1 and c.width == self.inputs[0][0]

    @property
    def key(self) -> str:
        """The piece in words, such as `block mbconv k3 d1 e6 g1 s2 16->24 @ 90x120`; equal for equal pieces only."""
        width, h, w = self.inputs[0]
        at = f"@ {h}x{w}"
        match self.config:
            case Frame():
                return f"frame {at}"
            case Stem():
                return f"stem k3 s2 {width}->{self.config.width} {at}"
            case InvertedResidual(op="skip", stride=stride, width=out):
                return f"block skip s{stride} {width}->{out} {at}"
            case InvertedResidual() as b:
                return f"block mbconv k{b.kernel} d{b.dilation} e{b.expand} g{b.groups} s{b.stride} {width}->{b.width} {at}"
            case Neck():
                return f"neck {width}->{self.config.width} {at}"
            case Decoder() as d:
                low, low_h, low_w = self.inputs[1]
                return f"decoder {d.op} {width} {at} with {low} @ {low_h}x{low_w}, w{d.width} ->{d.classes}"
            case Labels(frame_hw=(height, wide), align_corners=aligned):
                return f"labels {width} {at} -> {height}x{wide} {'corners' if aligned else 'half-pixel'}"


def parts(arch: Arch, task: Segmentation, input_hw: tuple[int, int]) -> Iterator[tuple[str, Part]]:
    """Every piece of the engine at frame and network size `input_hw`, in order of execution, each with its name.

    Names are those of the module (`stem`, `blocks.3`, `neck`, `decoder`) and `frame`, `labels`. Empty pieces are among them.
    Raises ValueError for a family that has no pieces here.
    """
    if isinstance(arch, SqueezeNas):
        return _squeezenas(arch, task, input_hw)
    raise ValueError(f"pieces of family {arch.family!r} are not known")


def _squeezenas(arch: SqueezeNas, task: Segmentation, input_hw: tuple[int, int]) -> Iterator[tuple[str, Part]]:
    x = (3, *input_hw)
    yield "frame", Part("engine", "frame", Frame(), (x,))
    yield "stem", Part(arch.family, "stem", Stem(arch.stem_width), (x,))
    x = low = (arch.stem_width, *_halved(input_hw))
    for i, block in enumerate(arch.blocks):
        yield f"blocks.{i}", Part(arch.family, "block", block, (x,))
        x = (block.width, *(_halved(x[1:]) if block.stride == 2 else x[1:]))
        if i == arch.low_level_block:
            low = x
    if arch.neck_width is not None:
        yield "neck", Part(arch.family, "neck", Neck(arch.neck_width), (x,))
        x = (arch.neck_width, *x[1:])
    yield "decoder", Part(arch.family, "decoder", Decoder(arch.decoder, arch.decoder_width, task.classes), (x, low))
    logits = (task.classes, *low[1:])
    yield "labels", Part("engine", "labels", Labels(input_hw, align_corners=True), (logits,))


def _halved(hw: tuple[int, int]) -> tuple[int, int]:
    return (hw[0] + 1) // 2, (hw[1] + 1) // 2
