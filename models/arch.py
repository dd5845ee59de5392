"""What a network is, as plain data: frozen, comparable, with a JSON round trip and a digest.

One dataclass a family. Which module interprets the data is not said here: `edgesmith.models.build` knows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args, get_type_hints


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


FAMILIES: dict[str, type[Arch]] = {SqueezeNas.family: SqueezeNas}


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
        scalar = {int, str, type(None)} & set(options)
        if all(isinstance(o, str) for o in options):  # a Literal
            good = v in options
        else:
            good = not scalar or type(v) in scalar
        if not good:
            raise ValueError(f"{where}.{name}: {v!r} is not {hints[name]}")
    return value
