"""Measuring the pieces of a FasterSeg network: what is timed is what ships."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from edgesmith import models
from edgesmith.calibration.table import Table
from edgesmith.models import fasterseg
from edgesmith.models.arch import Cell, FasterSeg
from edgesmith.models.parts import Part, distinct, parts
from edgesmith.pipeline import export
from edgesmith.pipeline.graphs.graph import cleaned, graph_digest
from edgesmith.pipeline.latency import measure
from edgesmith.pipeline.search import fasterseg_costs
from edgesmith.pipeline.search.fasterseg_space import Space
from edgesmith.pipeline.verbs.table import _pieces
from tests.pieces import cut_graph

HW = (64, 96)
TASK = models.Segmentation(5)
ARCH = FasterSeg(
    name="short",
    stem_width=1,
    branches=(
        (Cell("zoomed_conv_x2", 8), Cell("skip", 12, 2), Cell("zoomed_conv", 16)),
        (Cell("zoomed_conv_x2", 8), Cell("conv_x2", 8)),
    ),
    shared=1,
    head_ratio=1,
)


@pytest.fixture(scope="module")
def shipped() -> fasterseg.FasterSegModule:
    return fasterseg.build(ARCH, TASK).eval()


@pytest.fixture(scope="module")
def cut(shipped: fasterseg.FasterSegModule) -> dict[str, ModelProto]:
    """The graphs of the pieces that were cut out of it, by name; `shipped` has the weights of measuring from then on."""
    return {name: cut_graph(shipped, name, part) for name, part in parts(ARCH, TASK, HW)}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Table:
    path = tmp_path_factory.mktemp("table") / "t.json"
    return measure.measure(distinct([ARCH], TASK, HW), path, input_hw=HW, classes=5, rounds=1, threads=1)


def test_the_timed_piece_is_the_piece_of_the_shipped_network(measured: Table, cut: dict[str, ModelProto]) -> None:
    found = dict(parts(ARCH, TASK, HW))
    assert {n: graph_digest(g) for n, g in cut.items()} == {n: measured.entry(found[n]).digest for n in cut}
    assert len({e.digest for e in measured.entries.values()}) == len(measured.entries)
    assert set(measured.entries) == {p.key for p in found.values()}
    assert measured.total(ARCH, TASK).latency_ms == pytest.approx(sum(measured.latency_ms(p) for p in found.values()))


def operators(model: ModelProto) -> dict[tuple[object, ...], int]:
    """How often an operator occurs with given shapes of weights, and how many resizes to which size."""
    shapes = {c.name: tuple(c.dims) for c in model.graph.initializer}
    found: dict[tuple[object, ...], int] = {}
    for node in model.graph.node:
        key = (node.op_type, *(shapes[v] for v in node.input if v in shapes))
        found[key] = found.get(key, 0) + 1
    return found


def test_the_network_is_its_pieces_put_together(shipped: fasterseg.FasterSegModule, cut: dict[str, ModelProto]) -> None:
    together: dict[tuple[object, ...], int] = {}
    for name, graph in cut.items():
        for key, count in operators(graph).items() if name not in ("frame", "labels") else ():
            together[key] = together.get(key, 0) + count
    assert together == operators(cleaned(export.network_graph(shipped, HW)))


def test_the_space_is_measured_by_its_name() -> None:
    found = _pieces("fasterseg", TASK, HW)
    assert found == fasterseg_costs.pieces(Space(), TASK, HW)
    assert all(isinstance(p, Part) for p in found.values())
    for net in ("student", "teacher", "pruned-teacher"):
        assert set(distinct([models.zoo(f"fasterseg-{net}")], TASK, HW)) <= set(found)
