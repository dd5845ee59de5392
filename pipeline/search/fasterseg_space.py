"""FasterSeg's search space, the logits that a search settles over it, and the file that holds them (paper, section 3.1).

A supernet has `layers` layers of cells at the downsampling rates 8, 16 and 32, here called scales s = 0, 1, 2. The cell of
scale s in layer l takes what the cells of scale s (at stride 1) and s - 1 (at stride 2) in layer l - 1 made, so scale s begins
in layer s. A branch is a path through the layers that starts at scale 0 and may step to the next scale; b = 2 paths of
different last scales make a network.

Of two things the paper or the released files say otherwise:

* The paper, and the note in the file of released logits, list the operators as skip, conv, conv x2, zoomed conv, zoomed conv
  x2. The columns of the released logits are skip, conv, zoomed conv, conv x2, zoomed conv x2: only so do they derive to the
  published networks.
* The paper names the pairs {8, 16}, {8, 32} and {16, 32}; the released code trains no head for the first. It is trained here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.files import read_json, write_json

Op = Literal["skip", "conv", "zoomed_conv", "conv_x2", "zoomed_conv_x2"]
OPERATORS: tuple[Op, ...] = get_args(Op)
"""Candidates of a cell, by the names of `models.arch.Cell.op`, in the order of the released logits' columns."""
RATIOS = (4, 6, 8, 10, 12)
"""Expansion ratios chi: a tensor at downsampling rate r has r * chi channels."""
RATES = (8, 16, 32)
"""Downsampling rates of the scales 0, 1, 2."""
Net = Literal["student", "teacher"]
NETS: tuple[Net, ...] = get_args(Net)
Scales: TypeAlias = "tuple[int, ...]"
"""Last scales of a network's branches, the deepest first."""
LEAST_LAYERS = 4
"""Layers without which a supernet has no place for two downsamplings."""
MAX_LAYERS = 64


@dataclass(frozen=True)
class Space:
    """What a search chooses from (paper, section 4.2)."""

    layers: int = 16
    """L: layers of cells."""
    operators: tuple[Op, ...] = OPERATORS
    """Candidates of a cell; "skip" may be left out."""
    ratios: tuple[int, ...] = RATIOS
    """Candidates for the width of a tensor between two cells, ascending. A single one: width is not searched."""
    branches: Literal[1, 2] = 2
    """b: branches of a network."""
    stem_ratio: int = 8
    """chi of the student's stem, of the last map of each branch and of the head."""
    teacher_stem_ratio: int = 12
    """The same of the teacher."""

    def __post_init__(self) -> None:
        if type(self.layers) is not int or not 3 <= self.layers <= MAX_LAYERS:
            raise ValueError(f"layers: {self.layers!r} is not a whole number from 3 to {MAX_LAYERS}")
        known = [o for o in OPERATORS if o in self.operators]
        if list(self.operators) != known or known in ([], ["skip"]):
            raise ValueError(f"operators: {', '.join(self.operators)} are not some of {', '.join(OPERATORS)}, in this order")
        if not self.ratios or list(self.ratios) != sorted(set(self.ratios)) or self.ratios[0] < 1:
            raise ValueError(f"ratios: {self.ratios} are not different whole numbers from 1 on, ascending")
        if self.branches not in (1, 2):
            raise ValueError(f"branches: {self.branches!r} is not 1 or 2")
        for name in ("stem_ratio", "teacher_stem_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")

    def cells(self, scale: int) -> int:
        """Cells of a scale; the first lies in layer `scale`."""
        return self.layers - scale

    def tensors(self, scale: int) -> int:
        """Tensors of a scale whose width is searched: those that enter a cell, the stem's apart."""
        return self.layers - max(scale, 1)

    def merges(self, scale: int) -> int:
        """Cells of a scale (1 or 2) that have two predecessors; the first lies in layer `scale` + 1."""
        return self.layers - 1 - scale

    def places(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Where a derived branch may come down (section 3.4, second footnote): (merges,) and (merges, merges).

        Rows of scale 1's beta for a branch that ends there; pairs of rows of both tables for one that ends at scale 2.
        """
        last = self.layers - 4
        i, j = np.ogrid[: self.merges(1), : self.merges(2)]
        return (i[:, 0] >= 1) & (i[:, 0] <= last), (i >= 1) & (i < j - 1) & (j < last)

    def chi(self, net: Net) -> int:
        """Expansion ratio of a network's stem, last maps and head."""
        return self.stem_ratio if net == "student" else self.teacher_stem_ratio

    def ratios_of(self, net: Net) -> tuple[int, ...]:
        """Ratios that a network chooses from: the teacher always takes the widest (section 3.3)."""
        return self.ratios if net == "student" else self.ratios[-1:]

    def heads(self) -> tuple[Scales, ...]:
        """Sets of last scales for which a head is trained: one branch alone, then the pairs."""
        single: tuple[Scales, ...] = ((0,), (1,), (2,))
        return single if self.branches == 1 else (*single, (1, 0), (2, 0), (2, 1))

    def choices(self) -> tuple[Scales, ...]:
        """Sets of last scales that a network of this space may have: `branches` of them."""
        return tuple(scales for scales in self.heads() if len(scales) == self.branches)

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Any, source: str = "space") -> Space:
        """The inverse of `to_json`. Raises ValueError naming `source` and the field."""
        names = set(cls.__dataclass_fields__)
        if not isinstance(value, dict) or set(value) != names:
            raise ValueError(f"{source}: needs exactly the fields {', '.join(sorted(names))}")
        for name, v in value.items():
            entry = str if name == "operators" else int
            items = v if name in ("operators", "ratios") else [v]
            if not isinstance(items, list) or not all(type(i) is entry for i in items):
                raise ValueError(f"{source}.{name}: {v!r} is not {'a list of ' * (items is v)}{entry.__name__}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        try:
            return cls(**fields)
        except ValueError as e:
            raise ValueError(f"{source}.{e}") from None


@dataclass(frozen=True, eq=False)
class Logits:
    """The architecture of one network of a space before it is discrete: soft-maxed, the rows are probabilities (Eq. 7)."""

    alpha: tuple[NDArray[np.float64], ...]
    """By scale: (cells, operators). Row i is the cell in layer scale + i."""
    beta: tuple[NDArray[np.float64], ...]
    """By scale 1, 2: (merges, 2), from the finer scale and from the same one. Row k is the cell in layer scale + 1 + k."""
    ratio: tuple[NDArray[np.float64], ...]
    """By scale: (tensors, ratios), one column where the widest is always taken. The tensor that enters layer l has row l - 1 at
    scale 0 and row l - scale otherwise."""

    def named(self) -> Iterator[tuple[str, int, NDArray[np.float64]]]:
        """(kind, scale, table) of each table."""
        for kind, tables, first in (("alpha", self.alpha, 0), ("beta", self.beta, 1), ("ratio", self.ratio, 0)):
            yield from ((kind, scale, table) for scale, table in enumerate(tables, first))

    @classmethod
    def uniform(cls, space: Space, net: Net, value: float = 1e-3) -> Logits:
        """All logits equal, as a search begins."""
        return cls(**{k: tuple(np.full(s, value) for s in shapes) for k, shapes in _shapes(space, net).items()})

    @classmethod
    def random(cls, space: Space, net: Net, random: np.random.Generator) -> Logits:
        """Logits from a normal distribution: what is derived from them is a random network of the space."""
        return cls(**{k: tuple(random.normal(size=s) for s in shapes) for k, shapes in _shapes(space, net).items()})


@dataclass(frozen=True)
class Score:
    """What a search measured of a network with one set of branches."""

    miou: float
    latency: float
    """In the search's unit; ms in the authors' file."""


@dataclass(frozen=True)
class Found:
    """What a search leaves: the logits of its networks, and what their sets of branches scored."""

    space: Space
    logits: Mapping[Net, Logits]
    scores: Mapping[Net, Mapping[Scales, Score]] = field(default_factory=dict)
    """By last scales, the deepest first."""

    def candidates(self, net: Net) -> dict[Scales, Score]:
        """The scores of those sets of branches that a network of the space may have."""
        return {scales: self.scores[net][scales] for scales in self.space.choices() if scales in self.scores.get(net, {})}


def read_logits(path: Path) -> Found:
    """What lies in a file of the authors' form, or in one of `write_logits`.

    The form is `{"student": {...}, "teacher": {...}}`, either of which may be missing, with tables `alpha_N_S`, `beta_N_S` and
    `ratio_N_S` for scale S of network N (0: teacher, 1: student), and numbers `mIoUXY` and `latencyXY` for branches of last
    scales X < Y. A key `space` says what is searched where it is not the paper's space; other keys that begin with an
    underscore are notes.

    Raises FileNotFoundError, or ValueError naming the file, the key and what it must be.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds no object; logits are {{'student': {{...}}, 'teacher': {{...}}}}")
    nets = [net for net in NETS if net in value]
    if unknown := sorted(k for k in value if k not in (*NETS, "space") and not k.startswith("_")):
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}; needs {' and '.join(NETS)}")
    if not nets:
        raise ValueError(f"{path}: has neither a student nor a teacher")
    for net in nets:
        if not isinstance(value[net], dict):
            raise ValueError(f"{path}: {net} must be an object with the tables alpha, beta and ratio")
    if "space" in value:
        space = Space.from_json(value["space"], f"{path}: space")
    else:
        first = value[nets[0]].get(_key("alpha", nets[0], 0))
        layers = len(first) if isinstance(first, list) else Space.layers
        if not 3 <= layers <= MAX_LAYERS:
            raise ValueError(
                f"{path}: {nets[0]}.{_key('alpha', nets[0], 0)} has {layers} rows, one a layer; needs 3 to {MAX_LAYERS}"
            )
        space = Space(layers=layers)
    read = {net: _read_net(value[net], space, net, f"{path}: {net}") for net in nets}
    return Found(space, {net: logits for net, (logits, _) in read.items()}, {net: scores for net, (_, scores) in read.items()})


def write_logits(path: Path, found: Found) -> None:
    """Write `found` so that `read_logits` gives it back."""
    write_json(path, logits_json(found))


def logits_json(found: Found) -> dict[str, Any]:
    """The value that `write_logits` writes: the authors' form, and the space where it is not the paper's."""
    value: dict[str, Any] = {}
    if found.space != Space(layers=found.space.layers):
        value["space"] = found.space.to_json()
    for net, logits in found.logits.items():
        value[net] = {_key(kind, net, scale): table.tolist() for kind, scale, table in logits.named()}
        for scales, score in found.scores.get(net, {}).items():
            digits = "".join(map(str, sorted(scales)))
            value[net] |= {f"mIoU{digits}": score.miou, f"latency{digits}": score.latency}
    return value


def _key(kind: str, net: Net, scale: int) -> str:
    return f"{kind}_{int(net == 'student')}_{scale}"


def _shapes(space: Space, net: Net) -> dict[str, list[tuple[int, int]]]:
    """Shape of each table, by kind and then by scale."""
    scales, widths = range(len(RATES)), len(space.ratios_of(net))
    return {
        "alpha": [(space.cells(s), len(space.operators)) for s in scales],
        "beta": [(space.merges(s), 2) for s in scales[1:]],
        "ratio": [(space.tensors(s), widths) for s in scales],
    }


def _read_net(value: dict[str, Any], space: Space, net: Net, source: str) -> tuple[Logits, dict[Scales, Score]]:
    tables: dict[str, tuple[NDArray[np.float64], ...]] = {}
    left = dict(value)
    for kind, shapes in _shapes(space, net).items():
        keys = [_key(kind, net, scale) for scale in range(3 - len(shapes), 3)]
        tables[kind] = tuple(_table(left.pop(k, None), s, f"{source}.{k}") for k, s in zip(keys, shapes, strict=True))
    numbers: dict[str, dict[Scales, float]] = {"mIoU": {}, "latency": {}}
    for key, v in left.items():
        matched = re.fullmatch(r"(mIoU|latency)(0?1?2?)", key)
        if matched is None or not matched[2]:
            raise ValueError(f"{source}.{key}: unknown; known are tables such as {_key('alpha', net, 0)}, mIoU12 and latency12")
        if type(v) not in (int, float) or not math.isfinite(v) or v < 0 or (v == 0 and matched[1] == "latency"):
            raise ValueError(f"{source}.{key}: {v!r} is not a number {'above' if matched[1] == 'latency' else 'of at least'} 0")
        numbers[matched[1]][tuple(map(int, reversed(matched[2])))] = float(v)
    if lonely := numbers["mIoU"].keys() ^ numbers["latency"].keys():
        digits = "".join(map(str, reversed(sorted(lonely)[0])))
        raise ValueError(f"{source}: has only one of mIoU{digits} and latency{digits}; needs both or neither")
    return Logits(**tables), {s: Score(numbers["mIoU"][s], numbers["latency"][s]) for s in sorted(numbers["mIoU"])}


def _table(value: Any, shape: tuple[int, int], source: str) -> NDArray[np.float64]:
    rows, columns = shape
    must_be = f"{rows} rows of {columns} finite numbers"
    if value is None:
        raise ValueError(f"{source}: missing; needs {must_be}")
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise ValueError(f"{source}: is not a table; needs {must_be}")
    if len(value) != rows or any(len(row) != columns for row in value):
        found = f"{len(value)} rows of {'/'.join(str(n) for n in sorted({len(row) for row in value}))}"
        raise ValueError(f"{source}: has {found}; needs {must_be}")
    for i, row in enumerate(value):
        if any(type(v) not in (int, float) or not math.isfinite(v) for v in row):
            raise ValueError(f"{source}[{i}]: {row} must be {columns} finite numbers")
    return np.array(value, np.float64)
