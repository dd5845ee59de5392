"""Measuring a latency table: what is timed is what ships, and a kill costs nothing that was finished."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from edgesmith import models
from edgesmith.calibration.table import Table
from edgesmith.deploy.engines.onnxruntime import SessionOptions
from edgesmith.models import squeezenas
from edgesmith.models.arch import InvertedResidual, SqueezeNas
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD
from edgesmith.models.parts import Part, distinct, parts
from edgesmith.pipeline import cli, export
from edgesmith.pipeline.graphs import graph
from edgesmith.pipeline.graphs.graph import cleaned, graph_digest
from edgesmith.pipeline.latency import measure, timing
from edgesmith.pipeline.latency.neighbours import between_neighbours, nothing, two_neighbours
from edgesmith.pipeline.stage import locked
from tests.pieces import cut_graph

HW = (64, 96)
TASK = models.Segmentation(5)
ARCH = SqueezeNas(
    name="short",
    stem_width=8,
    blocks=(
        InvertedResidual(8, 2, expand=3),
        InvertedResidual(8, 1, kernel=5, expand=3),
        InvertedResidual(8, 1, "skip"),
        InvertedResidual(12, 2, "skip"),
        InvertedResidual(16, 2, dilation=2, groups=2),
    ),
    neck_width=24,
    decoder="lraspp",
    decoder_width=16,
    low_level_block=3,
)


@pytest.fixture(scope="module")
def shipped() -> squeezenas.SqueezeNasModule:
    """The network as it ships, with weights of its own."""
    return squeezenas.build(ARCH, TASK).eval()


@pytest.fixture(scope="module")
def cut(shipped: squeezenas.SqueezeNasModule) -> dict[str, ModelProto]:
    """The graphs of the pieces that were cut out of it, by name; `shipped` has the weights of measuring from then on."""
    return {name: cut_graph(shipped, name, part) for name, part in parts(ARCH, TASK, HW) if not part.empty}


@pytest.fixture(scope="module")
def network(shipped: squeezenas.SqueezeNasModule, cut: dict[str, ModelProto]) -> ModelProto:
    """The graph of the whole network, with the pieces' weights: a bias of zeros would be left out."""
    return export.network_graph(shipped, HW)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """The table of ARCH, measured once."""
    path = tmp_path_factory.mktemp("table") / "t.json"
    table = measured_into(path, distinct([ARCH], TASK, HW))
    assert Table.read(path) == table
    assert [p.name for p in path.parent.iterdir()] == ["t.json"]  # nothing is left beside it
    return table


def measured_into(path: Path, pieces: dict[str, Part], **settings: Any) -> Table:
    return measure.measure(pieces, path, input_hw=HW, classes=5, **{"rounds": 2, "threads": 1, **settings})


def test_every_piece_that_runs_is_measured(measured: Table) -> None:
    assert list(measured.entries) == list(dict.fromkeys(p.key for _, p in parts(ARCH, TASK, HW) if not p.empty))
    assert all(len(e.rounds_ms) == 2 for e in measured.entries.values())
    total = measured.total(ARCH, TASK)
    assert 0 < total.latency_ms < 1000
    assert set(measure.timing_errors(measured)) == {"error_percent", "largest_error_percent"}


def test_without_torch_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(ImportError, match=r"needs torch: pip install 'edgesmith\[host\]'"):
        measured_into(tmp_path / "t.json", distinct([ARCH], TASK, HW))
    assert not list(tmp_path.iterdir())


def test_the_timed_piece_is_the_piece_of_the_shipped_network(measured: Table, cut: dict[str, ModelProto]) -> None:
    found = dict(parts(ARCH, TASK, HW))
    assert {n: graph_digest(g) for n, g in cut.items()} == {n: measured.entry(found[n]).digest for n in cut}
    assert len({e.digest for e in measured.entries.values()}) == len(measured.entries)


def operators(model: ModelProto) -> list[tuple[object, ...]]:
    """Type, attributes and shapes of the weights of every node, in order."""
    shapes = {c.name: tuple(c.dims) for c in model.graph.initializer}
    values = {c.name: numpy_helper.to_array(c).tolist() for c in model.graph.initializer if c.data_type == 7}  # sizes, axes
    return [
        (
            node.op_type,
            sorted(a.SerializeToString(deterministic=True) for a in node.attribute),
            [(shapes[v], values.get(v)) for v in node.input if v in shapes],
        )
        for node in model.graph.node
    ]


def test_the_network_is_its_pieces_put_together(network: ModelProto, cut: dict[str, ModelProto]) -> None:
    inside = [graph for name, graph in cut.items() if name not in ("frame", "labels")]
    assert [op for graph in inside for op in operators(graph)] == operators(cleaned(network))


def test_frame_and_labels_are_what_stands_around_the_network(network: ModelProto, cut: dict[str, ModelProto]) -> None:
    matrices = export.enlargement(graph.low_hw(network), HW, HW, squeezenas.SqueezeNasModule.enlarge_align_corners)
    whole = graph.assemble(network, frame_hw=HW, colour_order="bgr", mean=IMAGENET_MEAN, std=IMAGENET_STD, enlargement=matrices)
    assert operators(cleaned(whole.model)) == [*operators(cut["frame"]), *operators(network), *operators(cut["labels"])]


@pytest.mark.parametrize(("name", "added"), [("blocks.1", 2), ("blocks.3", 2), ("blocks.4", 2), ("decoder", 2)])
def test_neighbours_do_not_change_what_is_computed(name: str, added: int, cut: dict[str, ModelProto]) -> None:
    between = between_neighbours(cut[name], inputs=True, outputs=name != "decoder")
    assert len(between.graph.node) == len(cut[name].graph.node) + added
    results = []
    for model in (cut[name], between):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(1)
        given = {p.name: rng.uniform(-1, 1, p.shape).astype(np.float32) for p in session.get_inputs()}
        results.append(session.run(None, given)[0])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-5)
    assert np.ptp(results[0]) > 0.1


@pytest.mark.parametrize("name", ["stem", "blocks.1", "neck", "decoder", "labels"])
def test_neighbours_and_the_call_are_taken_off_the_time(
    name: str, cut: dict[str, ModelProto], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class FakeSession:
        """Takes 1 ms a call and 10 ms a convolution."""

        def __init__(self, model: ModelProto, options: SessionOptions) -> None:
            self._convolutions = sum(node.op_type == "Conv" for node in model.graph.node)

        def time_ms(self) -> float:
            return 1.0 + 10 * self._convolutions

    monkeypatch.setattr(timing, "Session", FakeSession)
    (tmp_path / "piece.onnx").write_bytes(cut[name].SerializeToString())
    piece = measure._Piece(dict(parts(ARCH, TASK, HW))[name], tmp_path / "piece.onnx", "")
    own = 10 * sum(node.op_type == "Conv" for node in cut[name].graph.node)
    assert piece.time_ms(timing.Stopwatch(SessionOptions(1))) == own


def test_each_round_opens_the_references_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept for all rounds, their placement in memory would be in every time and in no error."""
    opened: list[bytes] = []

    class FakeSession:
        def __init__(self, model: ModelProto, options: SessionOptions) -> None:
            opened.append(model.SerializeToString())

        def time_ms(self) -> float:
            return 1.0

    monkeypatch.setattr(timing, "Session", FakeSession)
    pieces = {k: p for k, p in distinct([ARCH], TASK, HW).items() if p.kind in ("frame", "stem", "neck")}
    measured_into(tmp_path / "t.json", pieces, rounds=3)
    neck = next(p for p in pieces.values() if p.kind == "neck")
    (shape,) = neck.inputs
    for reference in (nothing(), two_neighbours(shape)):
        assert opened.count(reference.SerializeToString()) == 3


def test_finished_entries_are_left_alone_and_the_rest_is_added(measured: Table, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    pieces = distinct([ARCH], TASK, HW)
    keys = list(pieces)
    finished = {k: measured.entries[k] for k in keys[:-2]}
    half = replace(measured.entries[keys[-2]], rounds_ms=measured.entries[keys[-2]].rounds_ms[:1])
    replace(measured, entries={**finished, keys[-2]: half}).write(path)
    events: list[tuple[str, dict[str, Any]]] = []
    table = measured_into(path, pieces, log=lambda event, **f: events.append((event, f)))
    assert {k: table.entries[k] for k in finished} == finished
    assert table.entries[keys[-2]].rounds_ms[0] == half.rounds_ms[0]
    assert {k: e.digest for k, e in table.entries.items()} == {k: e.digest for k, e in measured.entries.items()}
    assert [f["name"] for event, f in events if event == "job"] == keys[-2:]
    assert [(f["done"], f["total"]) for event, f in events if event == "progress"] == [(1, 3), (2, 3), (3, 3)]
    before = path.read_bytes()
    assert measured_into(path, pieces) == table  # nothing is left to do
    assert path.read_bytes() == before


DRIVER = """
import json, os, signal, sys
from pathlib import Path
from edgesmith.models import Segmentation
from edgesmith.models.arch import Arch
from edgesmith.models.parts import distinct
from edgesmith.pipeline.latency import measure
kind, count = sys.argv[3], int(sys.argv[4])
def log(event, **fields):
    if event == kind and fields["done"] == count:
        os.kill(os.getpid(), signal.SIGKILL)
pieces = distinct([Arch.from_json(Path(sys.argv[1]).read_text())], Segmentation(5), (64, 96))
pieces = {k: p for k, p in pieces.items() if p.kind in ("frame", "stem", "labels")}
measure.measure(pieces, Path(sys.argv[2]), input_hw=(64, 96), classes=5, threads=1, rounds=2, log=log)
"""


def test_graphs_that_other_versions_made_are_exported_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = {k: p for k, p in distinct([ARCH], TASK, HW).items() if p.kind in ("frame", "labels")}
    made: list[str] = []

    def log(event: str, **fields: object) -> None:
        made.append(event)

    for _ in range(2):
        measure.export_pieces(pieces, tmp_path / "t.json", log=log)
    assert len(made) == len(pieces)
    monkeypatch.setattr(measure, "tool_versions", lambda: {"onnx": "0.0"})
    measure.export_pieces(pieces, tmp_path / "t.json", log=log)
    assert len(made) == 2 * len(pieces)


def test_killed_while_it_exports_and_while_it_times_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "arch.json").write_text(json.dumps(ARCH.to_json()))
    path = tmp_path / "t.json"

    def start(kind: str, count: int) -> int:
        command = [sys.executable, "-c", DRIVER, tmp_path / "arch.json", path, kind, str(count)]
        return subprocess.run([str(c) for c in command], check=False).returncode

    assert start("job", 2) == -signal.SIGKILL
    assert Table.read(path).entries == {}
    exported = {p.name: p.stat().st_mtime_ns for p in (tmp_path / ".t.json.graphs").glob("*.onnx")}
    assert len(exported) == 2
    assert start("progress", 4) == -signal.SIGKILL
    there = Table.read(path)
    assert sum(len(e.rounds_ms) for e in there.entries.values()) == 4
    again = {p.name: p.stat().st_mtime_ns for p in (tmp_path / ".t.json.graphs").glob("*.onnx")}
    assert {name: again[name] for name in exported} == exported  # not exported again
    assert start("none", 0) == 0
    done = Table.read(path)
    assert [len(e.rounds_ms) for e in done.entries.values()] == [2, 2, 2]
    for key, entry in there.entries.items():
        assert done.entries[key].rounds_ms[: len(entry.rounds_ms)] == entry.rounds_ms
    assert sorted(p.name for p in tmp_path.iterdir()) == ["arch.json", "t.json"]


def test_a_piece_that_cannot_be_exported_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = measure.part_graph

    def fails(part: Part) -> ModelProto:
        if part.kind == "labels":
            raise RuntimeError("no such operator")
        return real(part)

    monkeypatch.setattr(measure, "part_graph", fails)
    pieces = {k: p for k, p in distinct([ARCH], TASK, HW).items() if p.kind in ("frame", "stem", "labels")}
    with pytest.raises(RuntimeError, match=r"1 of 3 pieces could not be exported; the first is 'labels .*no such operator"):
        measured_into(tmp_path / "t.json", pieces)
    assert [p.partition(" ")[0] for p in Table.read(tmp_path / "t.json").entries] == ["frame", "stem"]
    monkeypatch.undo()
    assert len(measured_into(tmp_path / "t.json", pieces).entries) == 3


def test_pieces_that_were_exported_before_are_only_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, path = measure.part_graph, tmp_path / "t.json"
    pieces = {k: p for k, p in distinct([ARCH], TASK, HW).items() if p.kind in ("frame", "stem", "labels")}

    def fails(part: Part) -> ModelProto:
        raise RuntimeError("exported again")

    with monkeypatch.context() as patched:
        patched.setattr(measure, "part_graph", lambda part: fails(part) if part.kind == "labels" else real(part))
        with pytest.raises(RuntimeError, match=r"1 of 3 pieces could not be exported; .*remove .*exported\.json"):
            measure.export_pieces(pieces, path)
    exported = sorted((tmp_path / ".t.json.graphs").glob("*.onnx"))
    assert len(exported) == 2
    (tmp_path / ".t.json.graphs" / "exported.json").unlink()  # a failure is a result: to try again, it goes
    assert measure.export_pieces(pieces, path) == 3
    assert not path.exists()
    monkeypatch.setattr(measure, "part_graph", fails)
    assert measure.export_pieces(pieces, path) == 3
    assert list(measured_into(path, pieces).entries) == list(pieces)
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_processes_export_the_same_graphs_side_by_side(tmp_path: Path) -> None:
    pieces = dict(list(distinct([ARCH], TASK, HW).items())[:3])
    assert measure.export_pieces(pieces, tmp_path / "one.json") == 3
    assert measure.export_pieces(pieces, tmp_path / "two.json", workers=2) == 3
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / f".{n}.json.graphs").glob("*.onnx")} for n in ("one", "two"))
    assert len(one) == 3
    assert one == two


def test_a_table_of_another_kind_is_not_gone_on_with(measured: Table, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    pieces = distinct([ARCH], TASK, HW)
    foreign = replace(measured, fingerprint=replace(measured.fingerprint, cores=measured.fingerprint.cores + 1))
    for other, said in (
        (foreign, "measured elsewhere: here cores is"),
        (replace(measured, classes=6), "classes is 6, not 5"),
        (replace(measured, input_hw=(96, 64)), r"input_hw is \(96, 64\), not \(64, 96\)"),
        (replace(measured, rounds=3), "rounds is 3, not 2"),
    ):
        other.write(path)
        before = path.read_bytes()
        with pytest.raises(ValueError, match=said):
            measured_into(path, pieces)
        assert path.read_bytes() == before
    with pytest.raises(ValueError, match="on onnxruntime only, not on tensorrt"):
        measured_into(tmp_path / "new.json", pieces, backend="tensorrt")
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_two_processes_do_not_measure_into_one_table(tmp_path: Path) -> None:
    pieces = distinct([ARCH], TASK, HW)
    with locked(tmp_path / ".t.json.graphs"):
        with pytest.raises(BlockingIOError, match="another edgesmith"):
            measured_into(tmp_path / "t.json", pieces)
        with pytest.raises(BlockingIOError, match="another edgesmith"):
            measure.export_pieces(pieces, tmp_path / "t.json")


def test_the_verb_measures_a_network_and_sum_adds_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arch, table = tmp_path / "arch.json", tmp_path / "t.json"
    arch.write_text(json.dumps(replace(ARCH, blocks=ARCH.blocks[:1], low_level_block=0).to_json()))
    arguments = ["table", "measure", arch, "--input", "64x96", "--classes", 5, "--threads", 1, "--out", table, "--json"]
    monkeypatch.setattr("sys.argv", ["edgesmith", *map(str, arguments)])
    cli.main()
    said = json.loads(capsys.readouterr().out)
    assert said["entries"] == 6
    assert said["digest"] == Table.read(table).digest
    monkeypatch.setattr("sys.argv", ["edgesmith", "table", "sum", str(arch), "--table", str(table), "--json"])
    cli.main()
    summed = json.loads(capsys.readouterr().out)
    assert summed["latency_ms"] == pytest.approx(sum(p["latency_ms"] for p in summed["parts"]))
