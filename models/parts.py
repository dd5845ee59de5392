"""The pieces that an engine runs one after another, as plain data: what a cost table has one entry each for.

The costs of a network are modelled as the sum over its pieces, each independent of the others (SqueezeNAS, section 4.3). A
piece is said by its operator and the sizes that it takes, so that networks, and the candidates of a search, share pieces.
Two pieces belong to the engine and to no family: `frame`, which normalises the camera's picture, and `labels`, which enlarges
the logits and takes the argmax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgesmith.models.arch import Arch, Cell, FasterSeg, InvertedResidual, Segmentation, SqueezeNas

Kind = Literal["frame", "stem", "block", "neck", "decoder", "cell", "arm", "refine", "fuse", "head", "labels"]


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
class FasterSegStem:
    """Five 3x3 convolutions from the picture to 1/8 of it and 8 * `width` channels."""

    width: int


@dataclass(frozen=True)
class BranchCell:
    """One cell of a FasterSeg branch."""

    cell: Cell
    align_corners: bool | None
    """Of the resizes in a zoomed convolution; None where nothing is resized."""


@dataclass(frozen=True)
class Arm:
    """1x1 convolution to `width` channels, and the enlargement to `hw` behind it."""

    width: int
    hw: tuple[int, int]
    align_corners: bool


@dataclass(frozen=True)
class Join:
    """Convolution over its inputs, one beside the other, to `width` channels: 3x3 refines, 1x1 fuses."""

    kernel: Literal[1, 3]
    width: int


@dataclass(frozen=True)
class Head:
    """3x3 convolution and a 1x1 one to `classes` logits."""

    classes: int


@dataclass(frozen=True)
class Labels:
    """Logits -> label map uint8 of `frame_hw`: bilinear enlargement, argmax."""

    frame_hw: tuple[int, int]
    align_corners: bool


Config: TypeAlias = "Frame | Stem | InvertedResidual | Neck | Decoder | FasterSegStem | BranchCell | Arm | Join | Head | Labels"


@dataclass(frozen=True)
class Part:
    """One piece. `models.build_part` makes its module, unless it is `frame` or `labels`, which no module has."""

    family: str
    """Whose operators these are; "engine" for `frame` and `labels`."""
    kind: Kind
    config: Config
    inputs: tuple[tuple[int, int, int], ...]
    """(channels, height, width) of each input. A decoder takes the deep map, then the low-level one; a refinement takes the
    enlarged map, then the finer one."""

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
            case FasterSegStem():
                return f"stem x5 {width}->{8 * self.config.width} {at}"
            case BranchCell(cell=cell, align_corners=aligned):
                return f"cell {cell.op} s{cell.stride} {width}->{cell.width} {at}{_coordinates(aligned)}"
            case Arm(hw=(height, wide), align_corners=aligned):
                return f"arm {width}->{self.config.width} {at} -> {height}x{wide}{_coordinates(aligned)}"
            case Join():
                maps = "+".join(str(c) for c, _, _ in self.inputs)
                return f"{self.kind} {maps}->{self.config.width} {at}"
            case Head():
                return f"head {width}->{self.config.classes} {at}"
            case Labels(frame_hw=(height, wide), align_corners=aligned):
                return f"labels {width} {at} -> {height}x{wide}{_coordinates(aligned)}"


def parts(arch: Arch, task: Segmentation, input_hw: tuple[int, int]) -> Iterator[tuple[str, Part]]:
    """Every piece of the engine at frame and network size `input_hw`, in order of execution, each with its name.

    Names are those of the module (`stem`, `blocks.3`, `neck`, `decoder`; `shared.0`, `branches.1.2`, `aggregation.0.1.refine`,
    `fuse`, `head`) and `frame`, `labels`. Empty pieces are among them. Raises ValueError for a family that has no pieces here.
    """
    if isinstance(arch, SqueezeNas):
        return _squeezenas(arch, task, input_hw)
    if isinstance(arch, FasterSeg):
        return _fasterseg(arch, task, input_hw)
    raise ValueError(f"pieces of family {arch.family!r} are not known")


def distinct(archs: Iterable[Arch], task: Segmentation, input_hw: tuple[int, int]) -> dict[str, Part]:
    """All pieces of `archs` that run, by key, in the order in which they first occur."""
    found = (part for arch in archs for _, part in parts(arch, task, input_hw))
    return {part.key: part for part in found if not part.empty}


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


Map: TypeAlias = "tuple[int, int, int]"
"""(channels, height, width)"""


def _fasterseg(arch: FasterSeg, task: Segmentation, input_hw: tuple[int, int]) -> Iterator[tuple[str, Part]]:
    yield "frame", Part("engine", "frame", Frame(), ((3, *input_hw),))
    yield "stem", Part(arch.family, "stem", FasterSegStem(arch.stem_width), ((3, *input_hw),))
    stem = (8 * arch.stem_width, *_halved(_halved(_halved(input_hw))))
    found, (*before, fork) = _cells("shared", arch.branches[0][: arch.shared], stem, arch.align_corners)
    yield from found
    branches: list[list[Map]] = []  # of each branch, its last map at each of its scales
    for b, cells in enumerate(arch.branches):
        found, own = _cells(f"branches.{b}", cells[arch.shared :], fork, arch.align_corners)
        yield from found
        branches.append([*before, *own])
    aggregated = []
    for b, (*finer, deepest) in enumerate(branches):
        y = deepest
        for i, fine in enumerate(reversed(finer)):
            name, width = f"aggregation.{b}.{i}", 8 * 2 ** (len(finer) - 1 - i) * arch.head_ratio
            yield f"{name}.reduce", Part(arch.family, "arm", Arm(width, fine[1:], arch.align_corners), (y,))
            y = (width, *fine[1:])
            yield f"{name}.refine", Part(arch.family, "refine", Join(3, width), (y, fine))
        aggregated.append(y)
    fused = (8 * arch.head_ratio * len(branches), *aggregated[0][1:])
    yield "fuse", Part(arch.family, "fuse", Join(1, fused[0]), tuple(aggregated))
    yield "head", Part(arch.family, "head", Head(task.classes), (fused,))
    logits = (task.classes, *fused[1:])
    yield "labels", Part("engine", "labels", Labels(input_hw, arch.align_corners), (logits,))


def _cells(name: str, cells: Sequence[Cell], x: Map, align_corners: bool) -> tuple[list[tuple[str, Part]], list[Map]]:
    """The pieces of cells one after the other; the maps that enter those of stride 2, then the output."""
    found, maps = [], []
    for i, cell in enumerate(cells):
        if cell.stride == 2:
            maps.append(x)
        found.append((f"{name}.{i}", cell_part(cell, x, align_corners)))
        x = (cell.width, *_halved_by(cell, x[1:]))
    return found, [*maps, x]


def cell_part(cell: Cell, given: Map, align_corners: bool = True) -> Part:
    """The piece that a cell of a FasterSeg branch is on a map (C, H, W)."""
    zoomed = cell.op in ("zoomed_conv", "zoomed_conv_x2")
    return Part(FasterSeg.family, "cell", BranchCell(cell, align_corners if zoomed else None), (given,))


def _halved_by(cell: Cell, hw: tuple[int, int]) -> tuple[int, int]:
    """The size of a cell's output: of an odd size a zoomed cell keeps the smaller half, a convolution the larger."""
    if cell.stride == 1:
        return hw
    if cell.op in ("zoomed_conv", "zoomed_conv_x2"):
        return zoomed_hw(hw)
    return _halved(hw)


def zoomed_hw(hw: tuple[int, int]) -> tuple[int, int]:
    """The size on which a zoomed convolution works: half, rounded down, at least 1."""
    return max(1, hw[0] // 2), max(1, hw[1] // 2)


def _coordinates(align_corners: bool | None) -> str:
    return "" if align_corners is None else " corners" if align_corners else " half-pixel"


def _halved(hw: tuple[int, int]) -> tuple[int, int]:
    return (hw[0] + 1) // 2, (hw[1] + 1) // 2
