"""What a search may have its networks be sparing with: what convolutions count, or the latency of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from edgesmith.models.arch import Segmentation
from edgesmith.pipeline.data.spec import Data, named, open_split

if TYPE_CHECKING:
    from edgesmith.calibration.tables import LatencyTable
    from edgesmith.models.trace import Conv

Resource = Literal["macs", "params", "activations", "latency"]
UNITS: dict[Resource, str] = {"macs": "GMAC", "params": "M parameters", "activations": "MB", "latency": "ms"}
"""The unit of each resource: 1e9 multiply-accumulates, 1e6 parameters, 1e6 bytes of fp32 maps, milliseconds."""
COUNTED: dict[Resource, Callable[[Conv], float]] = {
    "macs": lambda c: c.macs / 1e9,
    "params": lambda c: c.params / 1e6,
    "activations": lambda c: 4 * c.activations / 1e6,
}
"""What one convolution costs of each resource that is counted, in its unit."""


def task_and_size(data: Data | None, input_hw: tuple[int, int] | None) -> tuple[Segmentation, tuple[int, int]]:
    """What the networks of a search on `data` are for, and the size that their costs count at: `input_hw`, or the val frames'.

    Raises ValueError or OSError where there is no dataset.
    """
    split = open_split(named(data, "search.data"), "val")
    height, width = input_hw or split[0].label.shape
    return Segmentation(len(split.labels.names)), (height, width)


def measuring(space: str | None, task: Segmentation, input_hw: tuple[int, int], going_on: str | None = None) -> str:
    """The command that measures the pieces of the space of that name; None: of one that has no name, only a recipe.

    `going_on` are the options of `Table.going_on`; without them it makes a new table.
    """
    h, w = input_hw
    out = f"--out table-{h}x{w}-{task.classes}.json" if going_on is None else going_on
    if space is None:
        return f"edgesmith table measure RECIPE.yaml {out}"
    return f"edgesmith table measure {space} --input {h}x{w} --classes {task.classes} {out}"


def fitting(table: LatencyTable | None, space: str | None, task: Segmentation, input_hw: tuple[int, int]) -> LatencyTable:
    """`table`, which the latencies of the space of that name (see `measuring`) come from.

    Raises ValueError with the command that makes it when there is none, or it is of another size or number of classes.
    """
    if table is None:
        raise ValueError("search.table: latency needs a table; `edgesmith table measure` makes one")
    if (table.input_hw, table.classes) != (input_hw, task.classes):
        (h, w), (height, width) = table.input_hw, input_hw
        raise ValueError(
            f"search.table: {table.source} is of {h}x{w} and {table.classes} classes, the search of {height}x{width} and "
            f"{task.classes}: {measuring(space, task, input_hw)}"
        )
    return table
