"""What a network is, as plain data: frozen, comparable, with a JSON round trip and a digest.

One dataclass a family, and the numbers that are the same in all networks of one. Which module interprets the data is not said
here: `edgesmith.models.build` knows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args, get_type_hints

LRASPP_POOL = 49
"""Side of the windows of LR-ASPP's pool; a smaller map is pooled whole."""
LRASPP_POOL_STRIDE = (16, 20)
ASPP_RATES = (6, 12, 18)
"""Dilations of ASPP's atrous convolutions."""
ASPP_LOW_WIDTH = 32
"""Channels to which ASPP takes the low-level map."""
HEAD_FULL_WIDTH = 256
"""A FasterSeg head that takes more channels than these works on half as many."""


@dataclass(frozen=True)
class Segmentation:
    """The task of labelling each pixel with one of `classes` classes."""

    classes: int

    def __post_init__(self) -> None:
        if type(self.classes) is not int or not 1 <= self.classes <= 255:
            raise ValueError(f"classes: {self.classes!r} is not a whole number from 1 to 255 (labels are uint8, 255 is void)")


@dataclass(frozen=True)
class Arch:
    """An architecture. The subclasses below add the fields of their family."""

    family: ClassVar[str]
    name: str
    """How people call it. Not part of the digest."""

    @property
    def digest(self) -> str:
        """SHA-256 over family and structure (hexadecimal); name, task and input size do not enter."""
        structure = self.to_json()
        del structure["name"]
        return hashlib.sha256(json.dumps(structure, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A value for `json.dumps`; `from_json` gives the equal architecture back."""
        return json.loads(json.dumps({"family": self.family, **asdict(self)}))  # type: ignore[no-any-return]  # tuples become lists

    @staticmethod
    def from_json(value: Any) -> Arch:
        """The architecture that `to_json` described, or that a JSON text holds. Raises ValueError naming the field."""
        if isinstance(value, (str, bytes)):
            value = json.loads(value)
        if not isinstance(value, dict) or value.get("family") not in FAMILIES:
            family = value.get("family") if isinstance(value, dict) else value
            raise ValueError(f"architecture family {family!r} is not known; known: {', '.join(FAMILIES)}")
        return FAMILIES[value["family"]]._from_fields(value)

    @classmethod
    def _from_fields(cls, value: dict[str, Any]) -> Arch:
        raise TypeError(f"{cls.__name__} is not a family")


@dataclass(frozen=True)
class InvertedResidual:
    """One block of a SqueezeNAS encoder (paper, Figure 2 and Appendix B)."""

    width: int
    """Output channels."""
    stride: int
    op: Literal["mbconv", "skip"] = "mbconv"
    kernel: int = 3
    """Kernel size k of the depthwise convolution."""
    dilation: int = 1
    expand: int = 1
    """Expansion e: the block's inner width is e times its input width."""
    groups: int = 1
    """Groups g of the two 1x1 convolutions."""


@dataclass(frozen=True)
class SqueezeNas(Arch):
    """A SqueezeNAS network: stem, inverted residual blocks, optional last 1x1 convolution, decoder (paper, section 3)."""

    family: ClassVar[str] = "squeezenas"
    stem_width: int
    blocks: tuple[InvertedResidual, ...]
    neck_width: int | None
    """Width of the 1x1 convolution behind the last block, or None."""
    decoder: Literal["lraspp", "aspp"]
    decoder_width: int
    low_level_block: int
    """Index (from 0) of the block whose output is the decoder's low-level feature."""

    def __post_init__(self) -> None:
        if not 0 <= self.low_level_block < len(self.blocks):
            raise ValueError(f"low_level_block: {self.low_level_block} is not the index of one of {len(self.blocks)} blocks")
        if self.decoder not in ("lraspp", "aspp"):
            raise ValueError(f"decoder: {self.decoder!r} is not 'lraspp' or 'aspp'")
        widths = (self.stem_width, self.decoder_width, *([] if self.neck_width is None else [self.neck_width]))
        if any(w < 1 for w in widths):
            raise ValueError(f"stem_width, neck_width, decoder_width: {widths} must be at least 1")
        width = self.stem_width
        for i, b in enumerate(self.blocks):
            good = b.width >= 1 and b.stride in (1, 2) and b.op in ("mbconv", "skip")
            good = good and b.kernel in (3, 5, 7) and b.dilation >= 1 and b.expand >= 1 and b.groups >= 1
            if not good:
                raise ValueError(f"blocks[{i}]: {b} has an impossible value")
            if b.op == "mbconv" and (width % b.groups or b.width % b.groups):
                raise ValueError(f"blocks[{i}]: widths {width} and {b.width} are not divisible by groups {b.groups}")
            width = b.width
        if self.decoder == "aspp" and (self.neck_width or width) % self.decoder_width:
            raise ValueError(
                f"decoder_width: {self.decoder_width} does not divide {self.neck_width or width}, the width that the grouped "
                "convolutions of aspp take"
            )

    @classmethod
    def _from_fields(cls, value: dict[str, Any]) -> Arch:
        value = _checked(cls, {k: v for k, v in value.items() if k != "family"}, "arch")
        if not isinstance(value["blocks"], list):
            raise ValueError("arch.blocks: must be a list")
        blocks = (InvertedResidual(**_checked(InvertedResidual, b, f"arch.blocks[{i}]")) for i, b in enumerate(value["blocks"]))
        return cls(**{**value, "blocks": tuple(blocks)})


@dataclass(frozen=True)
class Cell:
    """One cell of a FasterSeg branch: a single operator (paper, sections 3.1.2 and 3.1.3)."""

    op: Literal["skip", "conv", "conv_x2", "zoomed_conv", "zoomed_conv_x2"]
    """Each has weights. `skip` is a 1x1 convolution where the others are 3x3 ones; a cell that does nothing is left out."""
    width: int
    """Output channels. Where the stride is 2 they are those of the next scale."""
    stride: int = 1
    """2: the last cell at its scale; its output is at twice the downsampling rate."""


@dataclass(frozen=True)
class FasterSeg(Arch):
    """A FasterSeg network: stem to 1/8, one or two branches of cells, aggregation and head (paper, section 3.1, Figure 1)."""

    family: ClassVar[str] = "fasterseg"
    stem_width: int
    """F': the stem's five convolutions have 4F', 8F', 8F', 8F', 8F' channels."""
    branches: tuple[tuple[Cell, ...], ...]
    """One or two, the one with the deepest last scale first."""
    shared: int
    """How many first cells the two branches have in common, weights included; 0 with one branch."""
    head_ratio: int
    """Expansion ratio chi of aggregation and head: their width at scale s is s * chi."""
    align_corners: bool = True
    """Coordinates of every bilinear resize in the network: corners aligned, as trained, or half-pixel."""

    @property
    def last_scales(self) -> tuple[int, ...]:
        """Downsampling rate of each branch's output: 8, 16 or 32."""
        return tuple(8 * 2 ** sum(c.stride == 2 for c in branch) for branch in self.branches)

    @property
    def map_widths(self) -> tuple[tuple[int, ...], ...]:
        """For each branch the width of its last map at 1/8, 1/16 and 1/32, as deep as it goes: what aggregation takes."""
        found = []
        for branch in self.branches:
            widths = [8 * self.stem_width, *(c.width for c in branch)]
            found.append((*(w for w, c in zip(widths, branch, strict=False) if c.stride == 2), widths[-1]))
        return tuple(found)

    def __post_init__(self) -> None:
        if self.stem_width < 1 or self.head_ratio < 1:
            raise ValueError(f"stem_width, head_ratio: {(self.stem_width, self.head_ratio)} must be at least 1")
        if len(self.branches) not in (1, 2) or not all(self.branches):
            raise ValueError(f"branches: needs one or two with at least one cell each, got {[len(b) for b in self.branches]}")
        ops = get_args(get_type_hints(Cell)["op"])
        for i, branch in enumerate(self.branches):
            for j, cell in enumerate(branch):
                if cell.op not in ops or cell.stride not in (1, 2) or cell.width < (2 if cell.op == "skip" else 1):
                    raise ValueError(f"branches[{i}][{j}]: {cell} has an impossible value")
        lasts = self.last_scales
        if max(lasts) > 32 or len(set(lasts)) < len(lasts) or lasts[0] != max(lasts):
            raise ValueError(f"branches: they end at scales {lasts}; needs different ones of 32, 16 and 8, the largest first")
        if len(self.branches) == 1:
            if self.shared != 0:
                raise ValueError(f"shared: {self.shared} cells cannot be shared by one branch; needs 0")
            return
        first, second = self.branches
        # The last cell of a branch is its own: aggregation needs two outputs.
        if not 0 <= self.shared < min(len(first), len(second)) or first[: self.shared] != second[: self.shared]:
            raise ValueError(
                f"shared: {self.shared} is not a number of first cells in which the branches agree, their last cells apart"
            )

    @classmethod
    def _from_fields(cls, value: dict[str, Any]) -> Arch:
        value = _checked(cls, {k: v for k, v in value.items() if k != "family"}, "arch")
        branches = value["branches"]
        if not isinstance(branches, list) or not all(isinstance(b, list) for b in branches):
            raise ValueError("arch.branches: must be a list of lists")
        cells = (
            tuple(Cell(**_checked(Cell, c, f"arch.branches[{i}][{j}]")) for j, c in enumerate(b))
            for i, b in enumerate(branches)
        )
        return cls(**{**value, "branches": tuple(cells)})


FAMILIES: dict[str, type[Arch]] = {SqueezeNas.family: SqueezeNas, FasterSeg.family: FasterSeg}


def _checked(kind: type, value: Any, where: str) -> dict[str, Any]:
    """`value` if it has exactly the fields of the dataclass `kind`, scalars of the right type among them."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r} is not an object with fields")
    names = {f.name for f in fields(kind)}
    if wrong := sorted(set(value) ^ names):
        raise ValueError(f"{where}: unknown or missing fields {', '.join(wrong)}; needs exactly {', '.join(sorted(names))}")
    hints = get_type_hints(kind)
    for name, v in value.items():
        options = get_args(hints[name]) or (hints[name],)
        scalar = {int, str, bool, type(None)} & set(options)
        if all(isinstance(o, str) for o in options):  # a Literal
            good = v in options
        else:
            good = not scalar or type(v) in scalar
        if not good:
            raise ValueError(f"{where}.{name}: {v!r} is not {hints[name]}")
    return value
