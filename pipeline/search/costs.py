"""What each candidate of each block costs: C(i, j) of a search (SqueezeNAS, section 4.3), counted or read from a latency table.

A network's cost is the sum of its blocks' costs and of a fixed part (stem, neck, decoder, and with latency also what the engine
does before and after the network), so that costs here are those of the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgesmith.models.arch import Segmentation
from edgesmith.models.cost import convolutions
from edgesmith.models.parts import parts

from .squeezenas_space import NAMES, Space

if TYPE_CHECKING:
    from edgesmith.calibration.table import Table
    from edgesmith.models.trace import Conv

Resource = Literal["macs", "params", "activations", "latency"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)
UNITS: dict[Resource, str] = {"macs": "GMAC", "params": "M parameters", "activations": "MB", "latency": "ms"}
"""The unit of each resource: 1e9 multiply-accumulates, 1e6 parameters, 1e6 bytes of fp32 maps, milliseconds."""


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


def costs(space: Space, task: Segmentation, resource: Resource, input_hw: tuple[int, int], table: Table | None = None) -> Costs:
    """The costs of `space` for `task` at `input_hw`.

    Raises ValueError when latency is asked for without a table, or when the table is of another size or lacks a piece.
    """
    if resource == "latency":
        if table is None:
            raise ValueError("table: latency needs a table; `edgesmith table measure` makes one")
        return _measured(space, task, input_hw, table)
    of: dict[str, Callable[[Conv], float]] = {
        "macs": lambda c: c.macs / 1e9,
        "params": lambda c: c.params / 1e6,
        "activations": lambda c: 4 * c.activations / 1e6,
    }
    rows, fixed = [[0.0] * len(NAMES) for _ in range(len(space))], 0.0
    for j in range(len(NAMES)):
        # Blocks do not depend on each other: 13 networks of one candidate each hold all there is.
        fixed = 0.0
        for conv in convolutions(space.arch([j] * len(space), NAMES[j]), task, input_hw):
            place = conv.name.split(".")
            if place[0] == "blocks":
                rows[int(place[1])][j] += of[resource](conv)
            else:
                fixed += of[resource](conv)
    return Costs(resource, tuple(tuple(row) for row in rows), fixed)


def _measured(space: Space, task: Segmentation, input_hw: tuple[int, int], table: Table) -> Costs:
    if (table.input_hw, table.classes) != (input_hw, task.classes):
        h, w = input_hw
        raise ValueError(
            f"table: was measured at {table.input_hw[0]}x{table.input_hw[1]} with {table.classes} classes; this search needs "
            f"{h}x{w} with {task.classes}: edgesmith table measure {space.name} --input {h}x{w} --classes {task.classes}"
        )
    rows, fixed = [[0.0] * len(NAMES) for _ in range(len(space))], 0.0
    for j in range(len(NAMES)):
        fixed = 0.0
        for name, part in parts(space.arch([j] * len(space), NAMES[j]), task, input_hw):
            latency_ms = table.latency_ms(part)
            place = name.split(".")
            if place[0] == "blocks":
                rows[int(place[1])][j] = latency_ms
            else:
                fixed += latency_ms
    return Costs("latency", tuple(tuple(row) for row in rows), fixed)
