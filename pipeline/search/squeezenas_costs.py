"""What each candidate of each block of a SqueezeNAS supernet costs, counted or read from a latency table: C(i, j), section 4.3.

A network's cost is the sum of its blocks' costs and of a fixed part (stem, neck, decoder, and with latency also what the engine
does before and after the network), so that costs here are those of the whole network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesmith.models.arch import Arch, Segmentation
from edgesmith.models.cost import convolutions
from edgesmith.models.parts import Part, distinct, parts

from .resources import COUNTED, UNITS, Resource, fitting
from .squeezenas_space import NAMES, Space

if TYPE_CHECKING:
    from edgesmith.calibration.tables import LatencyTable


@dataclass(frozen=True)
class Costs:
    """The costs of a space at one input size."""

    resource: Resource
    blocks: tuple[tuple[float, ...], ...]
    """C(i, j): candidate j in block i, in `unit`."""
    fixed: float
    """What every network of the space costs besides."""

    @property
    def unit(self) -> str:
        return UNITS[self.resource]

    @property
    def least(self) -> float:
        """Cost of the cheapest network of the space."""
        return self.fixed + sum(min(row) for row in self.blocks)

    def of(self, choice: Sequence[int]) -> float:
        """Cost of the network that takes candidate `choice[i]` in block `i`."""
        return self.fixed + sum(row[j] for row, j in zip(self.blocks, choice, strict=True))

    def to_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "fixed": self.fixed, "blocks": [list(row) for row in self.blocks]}


def costs(
    space: Space, task: Segmentation, resource: Resource, input_hw: tuple[int, int], table: LatencyTable | None = None
) -> Costs:
    """The costs of `space` for `task` at `input_hw`.

    Raises ValueError when latency is asked for without a table, or when the table is of another size or lacks a piece.
    """
    table = fitting(table, space.name, task, input_hw) if resource == "latency" else None

    def prices(arch: Arch) -> Iterator[tuple[str, float]]:
        if table is not None:
            return ((name, table.latency_ms(part, space.name)) for name, part in parts(arch, task, input_hw))
        return ((conv.name, COUNTED[resource](conv)) for conv in convolutions(arch, task, input_hw))

    rows, fixed = [[0.0] * len(NAMES) for _ in range(len(space))], 0.0
    for j, candidate in enumerate(NAMES):
        # Blocks do not depend on each other: 13 networks of one candidate each hold all there is.
        fixed = 0.0
        for name, price in prices(space.arch([j] * len(space), candidate)):
            place = name.split(".")
            if place[0] == "blocks":
                rows[int(place[1])][j] += price
            else:
                fixed += price
    return Costs(resource, tuple(tuple(row) for row in rows), fixed)


def pieces(space: Space, task: Segmentation, input_hw: tuple[int, int]) -> dict[str, Part]:
    """Every piece that a network of the space may have and that takes time, by key."""
    return distinct((space.arch([j] * len(space), name) for j, name in enumerate(NAMES)), task, input_hw)
