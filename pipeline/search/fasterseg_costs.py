"""What each operator of each cell of a FasterSeg supernet costs at each width: what its relaxed latency is made of.

Costs are counted, or read from a latency table. A cell costs what it would at the size that its scale has behind convolutions
of stride 2; of an odd size a zoomed cell keeps a row less, which `Costs.of` a network does count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgesmith.calibration.table import Table
from edgesmith.models.arch import Arch, Cell, FasterSeg, Segmentation
from edgesmith.models.cost import convolutions
from edgesmith.models.parts import Arm, Join, Map, Part, cell_part, parts, zoomed_hw

from .fasterseg_space import NETS, RATES, Net, Space
from .resources import COUNTED, UNITS, Resource, fitting, measuring

if TYPE_CHECKING:
    from edgesmith.calibration.tables import LatencyTable
    from edgesmith.models.trace import Conv

Size: TypeAlias = "tuple[int, int]"


@dataclass(frozen=True, eq=False)
class Costs:
    """The costs of a student's cells at one input size, in `unit`. Strides are 1, then 2; widths are the space's ratios."""

    resource: Resource
    task: Segmentation
    input_hw: tuple[int, int]
    table: LatencyTable | None
    """Where latency comes from."""
    first: NDArray[np.float64]
    """(strides, operators, widths out): the cell in layer 0, which takes the stem's map."""
    cells: tuple[NDArray[np.float64], ...]
    """By scale: (strides, operators, widths in, widths out). The last scale has stride 1 only."""
    last: tuple[NDArray[np.float64], ...]
    """By scale: (operators, widths in), the cell in the last layer, whose width is the head's."""

    @property
    def unit(self) -> str:
        return UNITS[self.resource]

    def of(self, arch: Arch) -> float:
        """Cost of a whole network, stem, aggregation and head included. Raises ValueError when the table lacks a piece."""
        if self.table is not None:
            return sum(self.table.latency_ms(part) for _, part in parts(arch, self.task, self.input_hw))
        return sum(map(COUNTED[self.resource], convolutions(arch, self.task, self.input_hw)))


def costs(
    space: Space, task: Segmentation, resource: Resource, input_hw: tuple[int, int], table: LatencyTable | None = None
) -> Costs:
    """The costs of `space` for `task` at `input_hw`.

    Raises ValueError when latency is asked for without a table, or when the table is of another size or lacks a piece.
    """
    table = fitting(table, _name(space), task, input_hw) if resource == "latency" else None

    def price(cell: Cell, given: Map) -> float:
        if table is not None:
            return table.latency_ms(cell_part(cell, given))
        return sum(map(COUNTED[resource], _convolutions(cell, given)))

    sizes = [largest for largest, *_ in _sizes(input_hw)]
    widths = [[rate * ratio for ratio in space.ratios] for rate in RATES]

    def cells(scale: int, entering: list[int]) -> NDArray[np.float64]:
        strides = (1, 2) if scale < 2 else (1,)
        return np.array(
            [
                [
                    [[price(Cell(op, w, stride), (cin, *sizes[scale])) for w in widths[scale + stride - 1]] for cin in entering]
                    for op in space.operators
                ]
                for stride in strides
            ]
        )

    def last(scale: int) -> NDArray[np.float64]:
        out = RATES[scale] * space.stem_ratio
        return np.array([[price(Cell(op, out), (cin, *sizes[scale])) for cin in widths[scale]] for op in space.operators])

    return Costs(
        resource,
        task,
        input_hw,
        table,
        cells(0, [RATES[0] * space.stem_ratio])[:, :, 0],
        tuple(cells(scale, widths[scale]) for scale in range(len(RATES))),
        tuple(last(scale) for scale in range(len(RATES))),
    )


def pieces(space: Space, task: Segmentation, input_hw: Size, nets: Sequence[Net] = NETS) -> dict[str, Part]:
    """Every piece that a student or a teacher of the space may have, and every cell of its supernet, by key."""
    return {part.key: part for net in nets for part in _pieces(space, net, task, input_hw)}


def require_whole(table: LatencyTable, space: Space, task: Segmentation, input_hw: Size, nets: Sequence[Net]) -> None:
    """Raise ValueError with the command that measures it unless `table` has every piece that `nets` of the space may have."""
    fitting(table, _name(space), task, input_hw)
    wanted = pieces(space, task, input_hw, nets)
    if missing := [key for key, part in wanted.items() if not _has(table, part)]:
        raise ValueError(
            f"search.table: {table.source} lacks {len(missing)} of the {len(wanted)} pieces of the space, "
            f"first {missing[0]!r}: "
            f"{measuring(_name(space), task, input_hw, table.going_on if isinstance(table, Table) else None)}"
        )


def _name(space: Space) -> str | None:
    """What `edgesmith table measure` calls it. The pieces of a space do not depend on how deep it is."""
    return "fasterseg" if space == Space(layers=space.layers) else None


def _has(table: LatencyTable, part: Part) -> bool:
    try:
        table.latency_ms(part)
    except ValueError:
        return False
    return True


def _pieces(space: Space, net: Net, task: Segmentation, input_hw: tuple[int, int]) -> Iterator[Part]:
    chi, sizes = space.chi(net), _sizes(input_hw)
    for scales in space.heads():
        downs = ([Cell("conv", rate * chi, 2) for rate in RATES[1 : last + 1]] for last in scales)
        branches = ((*cells, Cell("conv", RATES[last] * chi)) for cells, last in zip(downs, scales, strict=True))
        around = FasterSeg("any", chi, tuple(branches), 0, chi)
        yield from (
            part for _, part in parts(around, task, input_hw) if part.kind in ("frame", "stem", "fuse", "head", "labels")
        )
    # A map of searched width, or the stem's at scale 0, or the last one.
    ratios = sorted({*space.ratios_of(net), chi})
    for scale, stride in product(range(len(RATES)), (1, 2)):
        if scale + stride > len(RATES):
            continue
        rate, after = RATES[scale], RATES[scale + stride - 1]
        for hw, op, given, made in product(sizes[scale], space.operators, ratios, ratios):
            yield cell_part(Cell(op, after * made, stride), (rate * given, *hw))
    for rate, fine_hws in zip(RATES[:2], sizes[:2], strict=True):
        for hw in fine_hws:
            for coarse in _halves(hw):
                yield Part(FasterSeg.family, "arm", Arm(rate * chi, hw, True), ((2 * rate * chi, *coarse),))
            for fine in ratios:
                yield Part(FasterSeg.family, "refine", Join(3, rate * chi), ((rate * chi, *hw), (rate * fine, *hw)))


def _sizes(input_hw: Size) -> list[list[Size]]:
    """Sizes that maps of each scale may have, the largest first: a convolution of stride 2 rounds up, a zoomed one down."""
    first = (-(-input_hw[0] // RATES[0]), -(-input_hw[1] // RATES[0]))
    second = _halves(first)
    return [[first], second, list(dict.fromkeys(hw for half in second for hw in _halves(half)))]


def _halves(hw: Size) -> list[Size]:
    return list(dict.fromkeys([((hw[0] + 1) // 2, (hw[1] + 1) // 2), zoomed_hw(hw)]))


def _convolutions(cell: Cell, given: Map) -> Iterator[Conv]:
    """The convolutions of one cell, of a network whose stem leaves such a map."""
    cin, h, w = given
    around = FasterSeg("one", cin // 8, ((cell,) if cell.stride == 1 else (cell, Cell("conv", 1)),), 0, 1)
    found = convolutions(around, Segmentation(1), (8 * h, 8 * w))
    return (conv for conv in found if f"{conv.name}.".startswith("branches.0.0."))
