"""The latency table that FasterSeg's authors released: a GTX 1080 Ti, TensorRT 5.1.5, fp32, batch 1, 1024x2048.

It names operators by the released code's classes and has the convolutions of stem, arms and refinements as such. This adapter
answers for the project's own pieces, so that a network sums up by it as by a measured table. What the authors leave out of
their sum is left out: normalising the frame, resizes between the pieces, enlarging the logits and their argmax. So the student
of Table 3 comes to 5.702 ms where it takes 6.10 ms (163.9 FPS), and the teacher to 17.94 ms.

The released code prices zoomed conv. x2 as conv. x2, under whose name it looks it up; its 6.414 ms for the student are that.
The right entries are taken here.

Entries for the fusion ("ff") have lost their width in the file; they stand in the order of the heads, which have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from edgesmith.deploy.fields import Fields
from edgesmith.deploy.files import read_json, sha256_json
from edgesmith.models.arch import Arch, Segmentation
from edgesmith.models.parts import Arm, BranchCell, FasterSegStem, Frame, Head, Join, Labels, Part, parts

from .table import Total

Key: TypeAlias = "tuple[str | int, ...]"
"""(operator, H, W, input channels, output channels, stride, kernel) of an entry; what one does not have is 0."""
KEYS = ("h", "w", "cin", "cout", "stride", "kernel")
CELLS = {
    "skip": "FactorizedReduce",
    "conv": "BasicResidual1x",
    "conv_x2": "BasicResidual2x",
    "zoomed_conv": "BasicResidual_downup_1x",
    "zoomed_conv_x2": "BasicResidual_downup_2x",
}
"""Operator of a cell -> its name in the released code."""


@dataclass(frozen=True)
class Gtx1080Ti:
    """The released table."""

    device: str
    runtime: str
    times_ms: Mapping[Key, float]
    source: str = field(default="the released table", compare=False)
    """The file it came from, for messages."""

    input_hw: ClassVar[tuple[int, int]] = (1024, 2048)
    classes: ClassVar[int] = 19

    @classmethod
    def read(cls, path: Path) -> Gtx1080Ti:
        """Raises FileNotFoundError, or ValueError naming the file, the entry and what it must be."""
        return cls.from_json(read_json(path), str(path))

    @classmethod
    def from_json(cls, value: Any, source: str) -> Gtx1080Ti:
        f = Fields(value, source)
        device, runtime = f.text("device"), f.text("runtime")
        f.text("source")
        rows = f.take("entries")
        f.done()
        if not isinstance(rows, list):
            f.refuse("entries", "a list with one object for each operator")
        found: dict[Key, float] = {}
        fusions: list[float] = []
        heads: list[int] = []
        for i, row in enumerate(rows):
            key, time_ms = _entry(row, f"{source}: entries[{i}]")
            if key[0] == "ff":
                fusions.append(time_ms)
                continue
            if key in found:
                raise ValueError(f"{source}: entries[{i}] is there twice: {row}")
            found[key] = time_ms
            if key[0] == "head":
                heads.append(int(key[3]))
        if len(fusions) != len(heads):
            raise ValueError(f"{source}: has {len(fusions)} entries ff, but {len(heads)} entries head, whose widths they have")
        h, w = _halved(cls.input_hw, 8)
        found |= {_key("ff", (width, h, w)): ms for width, ms in zip(heads, fusions, strict=True)}
        return cls(device, runtime, found, source)

    @property
    def digest(self) -> str:
        """SHA-256 over all that the table says (hexadecimal)."""
        return sha256_json([self.device, self.runtime, sorted([list(map(str, k)), v] for k, v in self.times_ms.items())])

    def latency_ms(self, part: Part, of: str = "") -> float:
        """The time of `part` in ms, 0 where the authors do not count it. Raises ValueError when it is not in the table.

        The time of a head does not depend on the number of classes here. `of` is what a `Table` would tell to measure.
        """
        given = part.inputs[0]
        match part.config:
            case Frame() | Labels():
                return 0.0
            case FasterSegStem(width=f):
                _, h, w = given
                first = self._time(part, _key("ConvNorm", given, 4 * f, 2, 3))
                second = self._time(part, _key(CELLS["conv_x2"], (4 * f, *_halved((h, w), 2)), 8 * f, 2))
                return first + second + self._time(part, _key(CELLS["conv_x2"], (8 * f, *_halved((h, w), 4)), 8 * f, 2))
            case BranchCell(cell=cell):
                return self._time(part, _key(CELLS[cell.op], given, cell.width, cell.stride))
            case Arm(width=width):
                return self._time(part, _key("ConvNorm", given, width, 1, 1))
            case Join(kernel=3, width=width):
                return self._time(part, _key("ConvNorm", (_channels(part), *given[1:]), width, 1, 3))
            case Join():
                return self._time(part, _key("ff", (_channels(part), *given[1:])))
            case Head():
                return self._time(part, _key("head", given, self.classes))
        raise ValueError(f"{self.source} is of FasterSeg; it has no entry {part.key!r} of {part.family}")

    def total(self, arch: Arch, task: Segmentation, of: str = "") -> Total:
        """The summed latency of a FasterSeg network at 1024x2048: stem, distinct cells, arms, refinements, fusion, head.

        `of` as in `latency_ms`. Raises ValueError for another family and for pieces that the table does not have.
        """
        found = ((name, part.key, self.latency_ms(part)) for name, part in parts(arch, task, self.input_hw))
        rows = tuple(row for row in found if row[2] > 0)
        return Total(sum(ms for _, _, ms in rows), None, rows)

    def _time(self, part: Part, key: Key) -> float:
        if key not in self.times_ms:
            said = ", ".join(f"{name} {v}" for name, v in zip(KEYS, key[1:], strict=True) if v)
            raise ValueError(f"{self.source} has no entry for {part.key!r}, there called {key[0]} with {said}")
        return self.times_ms[key]


def _entry(row: Any, source: str) -> tuple[Key, float]:
    f = Fields(row, source)
    op = f.text("op")
    numbers = [f.integer(name, 1, 1 << 14) if name in row else 0 for name in KEYS]
    if "dilation" in row:
        f.one_of("dilation", (1,))
    time_ms = f.take("latency_ms")
    if type(time_ms) not in (int, float) or not 0 < time_ms < 1e6:
        f.refuse("latency_ms", "a time in ms above 0")
    f.done()
    return (op, *numbers), float(time_ms)


def _key(op: str, given: tuple[int, int, int], cout: int = 0, stride: int = 0, kernel: int = 0) -> Key:
    """The key of operator `op` on a map (C, H, W)."""
    cin, h, w = given
    return op, h, w, cin, cout, stride, kernel


def _channels(part: Part) -> int:
    return sum(c for c, _, _ in part.inputs)


def _halved(hw: tuple[int, int], by: int) -> tuple[int, int]:
    return -(-hw[0] // by), -(-hw[1] // by)
