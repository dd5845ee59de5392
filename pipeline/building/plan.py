"""Build's TensorRT part: one plan with its record, native or with plugins where these were measured to be faster."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgesmith.deploy.bundle import graph_name
from edgesmith.deploy.engines import Backend
from edgesmith.deploy.engines import tensorrt as trt
from edgesmith.deploy.engines.gpu import Gpu
from edgesmith.deploy.engines.tensorrt_options import version_number
from edgesmith.deploy.files import sha256_file, write_json
from edgesmith.deploy.meta import EngineRecord
from edgesmith.deploy.plugins import LIBRARY, PluginLibrary
from edgesmith.pipeline.build import Build, installed_version, known_graph, remove_engines
from edgesmith.pipeline.events import Log

from .plugin_plans import Candidate, choose

LAYERS = "layers.json"


def add_plan(
    build: Build, backend: Backend, precision: str, folder: Path, source: Path, log: Log
) -> tuple[EngineRecord, dict[str, Any]]:
    """Write engines/<key>/ below `folder`, but for engine.json; the record, and what is worth a note in the sidecar.

    Raises as calling the stage does.
    """
    engines = folder / "engines"
    engines.mkdir(exist_ok=True)
    notes: dict[str, Any] = {}

    def progress(phase: str) -> None:
        log("build", backend=backend, phase=phase)

    def plan_of(graph: Path, plan: Path, plugins: PluginLibrary | None) -> trt.BuiltPlan:
        return trt.build_plan(
            graph,
            plan,
            module=backend,
            compute_capability=build.compute_capability,
            options=build.plan,
            plugins=plugins,
            timeout_s=build.timeout_s,
            progress=progress,
        )

    with tempfile.TemporaryDirectory(prefix=".plans.", dir=engines) as scratch:
        plan = Path(scratch) / trt.PLAN
        if backend == "torch_tensorrt":
            from .torch_plan import build_torch_plan

            built = build_torch_plan(Path(str(build.weights)), folder, plan, precision, build.plan, progress)
        else:
            graph = known_graph(folder, source, precision)
            with _explained(graph, backend):
                built = plan_of(graph, plan, None)
        chosen = Candidate(plan, built)
        if build.plugins == "auto":
            chosen, notes["plugins"] = choose(
                chosen, backend, precision, folder, build.plugin_library, plan_of, log, build.timeout_s
            )
        built, digest = chosen.built, sha256_file(folder / graph_name(precision))
        slug = Gpu(built.device, built.compute_capability).slug
        key = trt.engine_key(backend, built.version, built.compute_capability, precision, digest, slug)
        remove_engines(folder, key)
        record = _record(build, key, precision, digest, chosen)
        home = engines / record.key
        home.mkdir()
        chosen.plan.rename(home / trt.PLAN)
    if chosen.plugins is not None:
        shutil.copyfile(chosen.plugins.path, home / LIBRARY)
    if built.device:
        _write_layers(home, trt.MODULE_OF[backend], trt.plan_plugins(home, record), build.timeout_s, log)
    notes = {"build_seconds": built.build_seconds, "plan_bytes": built.plan_bytes, **notes}
    return record, {**notes, **({"not_honoured": list(built.notices)} if built.notices else {})}


def _record(build: Build, key: str, precision: str, graph_sha256: str, chosen: Candidate) -> EngineRecord:
    """The record of a plan; `key` is the engine's without plugins."""
    built, plugins = chosen.built, chosen.plugins
    return EngineRecord(
        key=trt.with_plugins(key, chosen.operators),
        backend=built.backend,
        version=built.version,
        device=f"NVIDIA GPU, {built.device or built.compute_capability}",
        precision=precision,
        graph_sha256=graph_sha256,
        graph=graph_name(precision),
        compute_capability=built.compute_capability,
        gpu=built.device or None,
        plan_bytes=built.plan_bytes,
        version_compatible=build.plan.version_compatible,
        plugins=chosen.operators,
        plugins_digest=None if plugins is None else plugins.digest,
    )


@contextlib.contextmanager
def _explained(graph: Path, backend: Backend) -> Iterator[None]:
    """Add to a builder's refusal what the rules say of the graph: node, fix and source."""
    try:
        yield
    except (ValueError, RuntimeError) as e:
        if importlib.util.find_spec("onnx") is None:  # a device need not have it
            raise
        from edgesmith.pipeline.graphs.check import check_graph
        from edgesmith.pipeline.graphs.rules import Target
        from edgesmith.pipeline.graphs.view import read_graph

        number = version_number(installed_version(backend))
        target: Target = "trt10.3" if number < (10, 16) else "trt10.16" if number < (11,) else "trt11"
        try:
            found = check_graph(read_graph(graph), "rtx" if backend == "tensorrt_rtx" else target)
        except ValueError:  # it cannot even be read, and the builder has said so
            raise e from None
        if not found:
            raise
        raise type(e)(f"{e}\nedgesmith check-graph says of it:\n" + "\n".join(str(f) for f in found)) from None


def _write_layers(home: Path, module: str, plugins: PluginLibrary | None, timeout_s: float, log: Log) -> None:
    """What the plan is made of, beside it. A library that does not tell is no reason to throw the plan away."""
    try:
        write_json(home / LAYERS, trt.inspect_plan(home / trt.PLAN, module, plugins, timeout_s).to_json())
    except (RuntimeError, ValueError, TimeoutError) as e:
        log("warning", message=f"no {LAYERS}: {e}")
