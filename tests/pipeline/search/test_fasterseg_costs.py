from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edgesmith import models
from edgesmith.calibration.fasterseg_1080ti import Gtx1080Ti
from edgesmith.calibration.fingerprint import Fingerprint
from edgesmith.calibration.table import Table
from edgesmith.models.arch import Segmentation
from edgesmith.models.cost import convolutions
from edgesmith.models.parts import parts
from edgesmith.pipeline.search.fasterseg_costs import Costs, costs, pieces, require_whole
from edgesmith.pipeline.search.fasterseg_derive import branch, derive, pruned
from edgesmith.pipeline.search.fasterseg_space import NETS, RATES, Logits, Space
from edgesmith.pipeline.search.resources import COUNTED, Resource

TASK = Segmentation(7)
HW = (72, 104)  # neither 1/8 nor 1/16 of it is even
SPACE = Space(layers=8, ratios=(4, 8))


def measured(space: Space, hw: tuple[int, int]) -> Table:
    """A table that holds every piece of a space; the times are made up."""
    table = Table(hw, TASK.classes, "onnxruntime", 1, Fingerprint("none", 1, None, "none", 1, {}))
    for part in pieces(space, TASK, hw).values():
        table = table.with_round(part, 0.01 * (1 + sum(map(ord, part.key)) % 97), 1, "0" * 64, table.fingerprint)
    return table


@pytest.mark.parametrize("hw", [(64, 128), HW])
def test_a_table_of_the_space_has_every_piece_of_every_network(hw: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    table = measured(SPACE, hw)
    for _ in range(20):
        for net in NETS:
            for scales in SPACE.heads():
                logits = Logits.random(SPACE, net, random)
                arch = derive(SPACE, logits, net, scales)
                assert table.total(arch, TASK).latency_ms > 0
                if net == "teacher":
                    assert table.total(pruned(arch, SPACE), TASK).latency_ms > 0
    # Cells that are all skips in front of a downsampling leave the stem's map to the aggregation.
    for net in NETS:
        logits = Logits.uniform(SPACE, net)
        for row in logits.alpha:
            row[:, 0] += 1
        assert all(table.total(derive(SPACE, logits, net, scales), TASK).latency_ms > 0 for scales in SPACE.heads())


def test_no_piece_is_measured_that_no_network_has() -> None:
    """But for the skips, of which the supernet has more than a network."""
    found = pieces(Space(), TASK, (64, 128))
    cells = [p for p in found.values() if p.kind == "cell"]
    assert len(cells) == 5 * (5 * 5) * (2 + 2 + 1)
    kinds = {
        kind: sum(p.kind == kind for p in found.values())
        for kind in ("frame", "stem", "arm", "refine", "fuse", "head", "labels")
    }
    # A student's and a teacher's of each; refinements for five widths of the finer map, the teacher's for one.
    assert kinds == {"frame": 1, "stem": 2, "arm": 4, "refine": 2 * (5 + 1), "fuse": 4, "head": 4, "labels": 1}


def by_cells(found: Costs, logits: Logits, space: Space, scale: int) -> float:
    """The cost of one branch's cells from the arrays, without those that were shrunk."""
    made = branch(space, logits, "student", scale)
    total, at, entering = 0.0, 0, None  # the index of the width of the map that enters the next cell
    for cell in made:
        op, stride = space.operators.index(cell.op), cell.stride - 1
        after = at + stride
        if cell is made[-1]:
            assert entering is not None
            return total + float(found.last[scale][op, entering])
        leaving = space.ratios.index(cell.width // RATES[after])
        row = found.first[stride] if entering is None else found.cells[at][stride][:, entering]
        total += float(row[op, leaving])
        at, entering = after, leaving
    raise AssertionError("a branch has no cells")


@pytest.mark.parametrize("resource", get_args(Resource))
def test_cells_cost_what_they_do_in_a_network(resource: Resource) -> None:
    hw = (64, 128)
    table = measured(SPACE, hw)
    found = costs(SPACE, TASK, resource, hw, table)
    random = np.random.default_rng(1)
    for _ in range(5):
        logits = Logits.random(SPACE, "student", random)
        for scale in range(3):
            arch = derive(SPACE, logits, "student", (scale,))
            if resource == "latency":
                rows = [(name, table.latency_ms(part)) for name, part in parts(arch, TASK, hw)]
            else:
                rows = [(conv.name, COUNTED[resource](conv)) for conv in convolutions(arch, TASK, hw)]
            assert found.of(arch) == pytest.approx(sum(cost for _, cost in rows))
            cells = sum(cost for name, cost in rows if name.startswith("branches."))
            assert by_cells(found, logits, SPACE, scale) == pytest.approx(cells)


def test_counted_costs_are_those_of_the_published_network() -> None:
    space = Space()
    found = costs(space, Segmentation(19), "macs", (1024, 2048))
    assert found.of(models.zoo("fasterseg-student")) == pytest.approx(27.770486784)
    assert found.unit == "GMAC"
    assert [c.shape for c in (found.first, *found.cells, *found.last)] == [
        (2, 5, 5),
        *((2, 5, 5, 5), (2, 5, 5, 5), (1, 5, 5, 5)),
        *((5, 5), (5, 5), (5, 5)),
    ]
    conv, conv_x2 = space.operators.index("conv"), space.operators.index("conv_x2")
    assert found.first[0, conv, 0] == pytest.approx(128 * 256 * 9 * 64 * 32 / 1e9)
    assert found.first[0, conv_x2, 0] - found.first[0, conv, 0] == pytest.approx(128 * 256 * 9 * 32 * 32 / 1e9)
    assert found.cells[1][1][conv, 0, 4] == pytest.approx(32 * 64 * 9 * 64 * 384 / 1e9)
    assert found.last[2][conv, 1] == pytest.approx(32 * 64 * 9 * 192 * 256 / 1e9)


def test_the_released_table_has_all_costs(shared: Path) -> None:
    table = Gtx1080Ti.read(shared / "facts" / "fasterseg_1080ti_lut.json")
    found = costs(Space(), Segmentation(19), "latency", (1024, 2048), table)
    assert found.of(models.zoo("fasterseg-student")) == pytest.approx(5.702, abs=5e-4)
    assert min(c.min() for c in (found.first, *found.cells, *found.last)) > 0
    at = (0, Space().operators.index("conv"), 4, 4)
    assert found.cells[0][at] == pytest.approx(0.3615, abs=5e-5)  # 96 -> 96 at 128x256


def test_latency_needs_a_table_of_its_own_size() -> None:
    with pytest.raises(ValueError, match="table: latency needs a table"):
        costs(SPACE, TASK, "latency", HW)
    table = measured(SPACE, HW)
    with pytest.raises(
        ValueError, match=r"is of 72x104 and 7 classes, the search of 64x64 and 7: .* RECIPE\.yaml --out table-64x64-7\.json$"
    ):
        costs(SPACE, TASK, "latency", (64, 64), table)
    with pytest.raises(
        ValueError, match="is of 72x104 and 7 classes, the search of 72x104 and 5: edgesmith table measure RECIPE"
    ):
        costs(SPACE, Segmentation(5), "latency", HW, table)


@pytest.mark.parametrize("kind", ["cell", "refine", "head"])
def test_a_table_with_holes_is_refused_with_their_number_the_first_and_the_command(kind: str) -> None:
    space = Space(layers=8)
    table = measured(space, HW)
    require_whole(table, space, TASK, HW, NETS)
    of_kind = [key for key, part in pieces(space, TASK, HW).items() if part.kind == kind]
    holed = replace(table, entries={k: v for k, v in table.entries.items() if k not in of_kind}, source="t.json")
    with pytest.raises(ValueError, match=rf"t.json lacks {len(of_kind)} of the \d+ pieces of the space, first ") as refused:
        require_whole(holed, space, TASK, HW, NETS)
    assert repr(of_kind[0]) in str(refused.value)
    assert "edgesmith table measure fasterseg --input 72x104 --classes 7 --threads 1 --out t.json" in str(refused.value)


def test_a_search_of_a_student_alone_needs_no_piece_of_a_teacher() -> None:
    space = Space(layers=8)
    entries = dict(measured(space, HW).entries)
    own = pieces(space, TASK, HW, ("student",))
    table = replace(measured(space, HW), entries={k: v for k, v in entries.items() if k in own})
    require_whole(table, space, TASK, HW, ("student",))
    with pytest.raises(ValueError, match="of the space, first 'stem "):
        require_whole(table, space, TASK, HW, NETS)
