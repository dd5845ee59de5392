"""Measure a latency table: every distinct piece of some architectures, exported alone and timed on an engine backend.

Every piece goes through the exporter that ships the network (`export.module_graph`), with weights that its shapes alone
determine, so that its graph has a digest which anyone can make again. The digest covers the piece alone; what is timed is the
piece between neighbours (see neighbours.py), and the time less theirs and less what a call takes is its time. The call that a
whole network takes too stays in the entry of `frame`.

Rounds go over all pieces, so that drift of the machine hits all alike, and each round opens its sessions anew, so that no
lucky placement in memory lasts. One round's time of a piece is the median of some runs behind a warm-up. The table is rewritten
after each: measuring that was stopped goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import statistics
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgesmith import models
from edgesmith.calibration.fingerprint import Fingerprint, this_machine
from edgesmith.calibration.table import Table
from edgesmith.deploy.engines import Backend
from edgesmith.deploy.engines.onnxruntime import SessionOptions
from edgesmith.deploy.files import read_json, write_bytes, write_json
from edgesmith.models.model import IMAGENET_MEAN
from edgesmith.models.parts import Frame, Labels, Part
from edgesmith.pipeline.artifacts import tool_versions
from edgesmith.pipeline.events import Log, silent
from edgesmith.pipeline.jobs import Processes, Result, run_jobs
from edgesmith.pipeline.stage import locked

from .timing import REPEATS, Stopwatch

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto
    from torch import nn

    from .neighbours import Shape

ROUNDS = 15
RECORD, TOOLS = "exported.json", "tools.json"
"""Beside the graphs that wait to be timed: what became of each export, and the versions of what made them."""
LIBRARIES = ("numpy", "onnxruntime", "torch", "onnx", "onnxscript", "onnxsim")
"""Whose versions enter the fingerprint: one runs the graphs, the others make them."""


def export_pieces(pieces: Mapping[str, Part], out: Path, *, workers: int = 1, log: Log = silent) -> int:
    """Export `pieces` beside the table `out` to be, so that `measure` need only time them; how many there are.

    With more than one of `workers`, in so many processes. Stopped, it goes on where it was. Measuring removes the graphs when
    it ends. Raises BlockingIOError when another process measures into `out`; RuntimeError, when all else is exported, if
    pieces could not be.
    """
    scratch = _scratch(out)
    with locked(scratch):
        exported = _exported(pieces, scratch, workers, log)
    _require_exported(exported, f"; to try again, remove {scratch / RECORD}")
    return len(exported)


def measure(
    pieces: Mapping[str, Part],
    out: Path,
    *,
    input_hw: tuple[int, int],
    classes: int,
    backend: Backend = "onnxruntime",
    threads: int = 0,
    rounds: int = ROUNDS,
    workers: int = 1,
    log: Log = silent,
) -> Table:
    """Measure `pieces` into the table `out`; entries that are finished there are left as they are.

    `threads` is the backend's, 0 for one a core. On a virtual machine that shares its cores, one thread has far steadier times.
    `workers` processes export the pieces; they have ended when the first is timed.

    Raises ValueError before anything is measured when `out` is no table, was measured elsewhere or otherwise, or when the
    backend has no timing here; ImportError where what exports is not installed; BlockingIOError when another process measures
    into it; RuntimeError, when all else is measured, if pieces could not be exported.
    """
    if backend != "onnxruntime":
        raise ValueError(f"--backend: pieces are timed on onnxruntime only, not on {backend}")
    machine = this_machine(SessionOptions(threads).threads, _tools())
    table = _opened(out, Table(input_hw, classes, backend, rounds, machine, source=str(out)), machine)
    missing = {key: part for key, part in pieces.items() if _rounds_of(table, key) < table.rounds}
    if not missing:
        return table
    if absent := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        needs = f"a table's pieces are exported to be timed, and that needs {absent[0]}: pip install 'edgesmith[host]'"
        raise ImportError(needs, name=absent[0])
    scratch = _scratch(out)
    with locked(scratch):
        table = _opened(out, table, machine)  # another process may have gone on with it until now
        table.write(out)
        exported = _exported(missing, scratch, workers, log)
        good = {k: _Piece(missing[k], _file(scratch, k), done.value) for k, done in exported.items() if done.error is None}
        table = _rounds(table, out, good, machine, log)
        shutil.rmtree(scratch)
    _require_exported(exported)
    return table


def _tools() -> dict[str, str]:
    return {k: v for k, v in tool_versions().items() if k in LIBRARIES}


def _scratch(out: Path) -> Path:
    """The folder that graphs wait in to be timed."""
    return out.parent / f".{out.name}.graphs"


def _exported(pieces: Mapping[str, Part], scratch: Path, workers: int, log: Log) -> dict[str, Result]:
    if (scratch / TOOLS).is_file() and read_json(scratch / TOOLS) != _tools():
        for stale in (scratch / RECORD, *scratch.glob("*.onnx")):  # a table says by what versions its graphs were made
            stale.unlink(missing_ok=True)
    write_json(scratch / TOOLS, _tools())
    jobs = {key: (part, _file(scratch, key)) for key, part in pieces.items()}
    with Processes(workers) if workers > 1 else nullcontext() as executor:
        return run_jobs(_export, jobs, scratch / RECORD, executor, log=log)


def _require_exported(exported: Mapping[str, Result], advice: str = "") -> None:
    if failed := [f"{key!r}: {done.error}" for key, done in exported.items() if done.error is not None]:
        raise RuntimeError(f"{len(failed)} of {len(exported)} pieces could not be exported; the first is {failed[0]}{advice}")


def _opened(out: Path, new: Table, machine: Fingerprint) -> Table:
    """The table in `out`, or `new`. Raises ValueError when the two cannot be one."""
    if not out.exists():
        return new
    table = Table.read(out)
    table.require_same_machine(machine)
    for name in ("input_hw", "classes", "backend", "rounds"):
        if (there := getattr(table, name)) != (wanted := getattr(new, name)):
            raise ValueError(f"{out}: {name} is {there}, not {wanted}; name another --out")
    return table


def _rounds_of(table: Table, key: str) -> int:
    entry = table.entries.get(key)
    return 0 if entry is None else len(entry.rounds_ms)


def _rounds(table: Table, out: Path, pieces: Mapping[str, _Piece], machine: Fingerprint, log: Log) -> Table:
    total = sum(table.rounds - _rounds_of(table, key) for key in pieces)
    done = 0
    for number in range(table.rounds):
        watch = Stopwatch(SessionOptions(machine.threads))  # the references too are placed anew
        for key, piece in pieces.items():
            if _rounds_of(table, key) > number:
                continue
            table = table.with_round(piece.part, piece.time_ms(watch), REPEATS, piece.digest, machine)
            table.write(out)
            done += 1
            log("progress", done=done, total=total, round=number + 1, rounds=table.rounds)
    return table


def part_graph(part: Part) -> ModelProto:
    """The graph of one piece as it is shipped, with weights that its shapes alone determine."""
    from edgesmith.pipeline import export
    from edgesmith.pipeline.graphs import graph

    match part.config:
        case Frame():
            model = graph.framing(part.inputs[0][1:], "bgr", IMAGENET_MEAN)
        case Labels(frame_hw=frame_hw, align_corners=aligned):
            classes, *low_hw = part.inputs[0]
            matrices = export.enlargement((low_hw[0], low_hw[1]), frame_hw, frame_hw, aligned)
            model = graph.enlarging(classes, matrices).model
        case _:
            module = models.build_part(part)
            _fill(module)
            model = export.module_graph(module, part.inputs)
    return graph.cleaned(model)


def _fill(module: nn.Module) -> None:
    """Give every tensor values that depend on its place and shape only, and keep the maps' size about the same."""
    import numpy as np
    import torch

    random = np.random.default_rng(0)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue  # a batch norm's count of steps
        if tensor.ndim == 4:
            bound = (6 / tensor[0].numel()) ** 0.5
            low, high = -bound, bound
        else:
            low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.1, 0.1)
        tensor.copy_(torch.from_numpy(random.uniform(low, high, tuple(tensor.shape)).astype(np.float32)))


def _export(job: tuple[Part, Path]) -> str:
    """Write a piece's graph; its digest."""
    from edgesmith.pipeline.graphs.graph import graph_digest

    part, path = job
    model = part_graph(part)
    write_bytes(path, model.SerializeToString(deterministic=True))
    return graph_digest(model)


def _file(scratch: Path, key: str) -> Path:
    return scratch / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.onnx"


@dataclass(frozen=True)
class _Piece:
    """An exported piece."""

    part: Part
    path: Path
    digest: str

    def time_ms(self, watch: Stopwatch) -> float:
        """One round's time. Only maps that go from convolution to convolution have neighbours."""
        import onnx

        model = onnx.load(str(self.path))
        kind = self.part.kind
        inputs = [] if kind in ("frame", "stem", "labels") else list(self.part.inputs)
        outputs = [] if kind in ("frame", "decoder", "head", "labels") else [_shape(port) for port in model.graph.output]
        time_ms = watch.piece_ms(model, inputs, outputs)
        return time_ms + watch.call_ms() if kind == "frame" else time_ms


def _shape(port: ValueInfoProto) -> Shape:
    _, c, h, w = (d.dim_value for d in port.type.tensor_type.shape.dim)
    return c, h, w


def timing_errors(table: Table) -> dict[str, float]:
    """Errors of the entries as percent of their times: the middle one and the largest, entries of under 10 us left out."""
    errors = [100 * e.error_ms / e.median_ms for e in table.entries.values() if e.median_ms >= 0.01]
    return {"error_percent": statistics.median(errors), "largest_error_percent": max(errors)} if errors else {}
