"""The child process that builds, inspects or times TensorRT plans: `python -m edgesmith.deploy.engines.tensorrt_builder JOB`.

One builder for TensorRT and TensorRT for RTX; the module's name is in the job, and what the two and their versions do not
share stands in tensorrt_options. The child writes one JSON object a line to its standard output (`doing`, `notice`, and last
`done` or `failed`); what the library itself prints goes to standard error.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from edgesmith.deploy.engines.tensorrt_options import SUPPORT, PlanOptions, ignored, supports
from edgesmith.deploy.files import write_bytes
from edgesmith.deploy.plugins import VERSIONS, PluginLibrary

MODULES = ("tensorrt_rtx", "tensorrt")
INSTALL = {
    "tensorrt_rtx": "pip install 'edgesmith[rtx]' (x86-64 Linux and Windows)",
    "tensorrt": "on a Jetson it comes with JetPack (apt install python3-libnvinfer); "
    "elsewhere pip install 'edgesmith[tensorrt]' with NVIDIA's package index",
}


class GraphRefused(Exception):
    """The library does not take this graph."""


def library(module: str) -> ModuleType:
    """The TensorRT module of that name. Raises ImportError with what installs it, ValueError for an unknown name."""
    require_library(module)
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ImportError(f"backend {module!r} does not load ({e}): {INSTALL[module]}") from e


def require_library(module: str) -> None:
    """Raise ImportError, with what installs it, when the module is not there; it is not loaded into this process."""
    if module not in MODULES:
        raise ValueError(f"unknown TensorRT module {module!r}; there are: {', '.join(MODULES)}")
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"backend {module!r} is not installed: {INSTALL[module]}")


def build(trt: ModuleType, job: dict[str, Any], send: Callable[..., None]) -> None:
    """Build the plan that `job` describes (see tensorrt.build_plan) and write it.

    `send(event, **fields)` hears what is going on. Raises GraphRefused with the library's words, or what its bindings raise.
    """
    options = PlanOptions(**job["options"])
    logger = _logger(trt, send)
    builder = trt.Builder(logger)
    _load_plugins(trt, job, logger)
    network = builder.create_network(_strongly_typed(trt, job["module"]))
    config = builder.create_builder_config()
    if supports("progress_monitor", job["module"], trt.__version__):
        config.progress_monitor = _monitor(trt, send)
    _configure(trt, config, job, options)
    for words in ignored(options, job["module"], trt.__version__):
        send("notice", what=words)
    timed = options.timing_cache is not None and supports("timing_cache", job["module"], trt.__version__)
    if timed:
        _load_timing_cache(config, Path(str(options.timing_cache)), send)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job["graph"]):
        errors = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
        raise GraphRefused("; ".join(errors) or "the parser refused the graph without a word")
    send("doing", what="building the engine", phase=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GraphRefused("; ".join(logger.errors) or "the builder refused the graph without a word")
    if timed:
        write_bytes(Path(str(options.timing_cache)), bytes(config.get_timing_cache().serialize()))
    with open(job["plan"], "wb") as f:
        f.write(plan)
        f.flush()
        os.fsync(f.fileno())


def inspect(trt: ModuleType, job: dict[str, Any], send: Callable[..., None]) -> dict[str, Any]:
    """What the engine inspector says of a plan, as it says it. Needs the GPU: the plan is deserialized.

    Raises RuntimeError when the library does not read the plan.
    """
    logger = _logger(trt, send)
    runtime = _runtime(trt, logger)
    _load_plugins(trt, job, logger)
    engine = runtime.deserialize_cuda_engine(Path(job["plan"]).read_bytes())
    if engine is None:
        raise RuntimeError("; ".join(logger.errors) or "the library does not read this plan")
    said = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return dict(json.loads(said))


def time_plans(trt: ModuleType, job: dict[str, Any], send: Callable[..., None]) -> dict[str, Any]:
    """What tensorrt_timing measures. Needs the GPU. Raises RuntimeError with the library's words when a plan does not run."""
    from edgesmith.deploy.engines.tensorrt_timing import measure

    logger = _logger(trt, send)
    runtime = _runtime(trt, logger)
    _load_plugins(trt, job, logger)
    try:
        return measure(trt, runtime, job, send)
    except RuntimeError as e:
        raise RuntimeError("; ".join((str(e), *logger.errors))) from None


def _runtime(trt: ModuleType, logger: Any) -> Any:
    """A runtime for plans that were just built here: version-compatible ones bring code along, which needs leave."""
    runtime = trt.Runtime(logger)
    if hasattr(runtime, "engine_host_code_allowed"):  # not before 8.6, and such plans neither
        runtime.engine_host_code_allowed = True
    return runtime


def register(trt: ModuleType, library: PluginLibrary) -> None:
    """Give TensorRT the plugins of `library`, once its sources' digest and its operators' versions were found to be right.

    Raises FileNotFoundError, OSError or RuntimeError with the reason.
    """
    if unknown := set(library.operators) - set(VERSIONS):
        raise RuntimeError(f"{library.path}: this edgesmith does not know the operator {min(unknown)}")
    library.load()
    registry = trt.get_plugin_registry()
    if registry.load_library(str(library.path.resolve())) is None:
        raise RuntimeError(f"{library.path}: the library does not take it, or has an operator of the same name already")
    for name in library.operators:
        if registry.get_creator(name, str(VERSIONS[name]), "") is None:
            raise RuntimeError(f"{library.path} has no {name} of version {VERSIONS[name]}")


def _load_plugins(trt: ModuleType, job: dict[str, Any], logger: Any) -> None:
    """Register what `job` wants, before anything is parsed or deserialized."""
    if (said := job.get("plugins")) is None:
        return
    if not supports("plugins", job["module"], trt.__version__):
        raise RuntimeError(f"{job['module']} {trt.__version__} takes no plugins: {SUPPORT['plugins'][job['module']].instead}")
    try:
        register(trt, PluginLibrary(Path(said["path"]), tuple(said["operators"]), said["digest"]))
    except RuntimeError as e:
        raise RuntimeError("; ".join((str(e), *logger.errors))) from None


def _configure(trt: ModuleType, config: Any, job: dict[str, Any], options: PlanOptions) -> None:
    if hasattr(trt.BuilderFlag, "TF32"):  # on by default; fp32 is to mean fp32, in the enlargement's MatMul above all
        config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt, "ProfilingVerbosity"):  # so that the inspector can say what became of each node
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job["compute_capability"] != "current":
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, job["compute_capability"].upper())
        if not config.set_compute_capability(capability, 0):
            raise RuntimeError(f"the library does not build for {job['compute_capability']}")
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None and supports("optimization_level", job["module"], trt.__version__):
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if not supports("lean_runtime_in_plan", job["module"], trt.__version__):
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)


def _load_timing_cache(config: Any, file: Path, send: Callable[..., None]) -> None:
    """Give the builder what was timed before; what another device or version timed is left out, and said to be."""
    held = file.read_bytes() if file.exists() else b""
    if not config.set_timing_cache(config.create_timing_cache(held), False):
        send("notice", what=f"timing cache {file} is of another device or version, or damaged: it is begun anew")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _strongly_typed(trt: ModuleType, module: str) -> int:
    if not supports("strongly_typed_flag", module, trt.__version__):
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _describe(error: Any) -> str:
    node = error.node_name() or (f"number {error.node()}" if error.node() >= 0 else "")
    where = f"node {node!r} ({error.node_operator()}): " if node else ""
    return f"{where}{error.desc()}"


def _logger(trt: ModuleType, send: Callable[..., None]) -> Any:
    """Keeps errors, and passes on which node is being read: the last one before a crash is the one that caused it."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())
            for start in ("Static check for parsing node: ", "Parsing node: "):
                if message.startswith(start):
                    send("doing", what=f"reading node {message.removeprefix(start)}", phase=False)

    return Logger()


def _monitor(trt: ModuleType, send: Callable[..., None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            send("doing", what=phase_name, phase=True)

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

    return Monitor()


def _main(argument: str) -> int:
    """Do one job and report on standard output. Exit code 0 when it is done, 1 when not."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # from here on whatever the library prints is not taken for the protocol

    def send(event: str, **fields: Any) -> None:
        channel.write(json.dumps({"event": event, **fields}) + "\n")

    job = json.loads(argument)
    try:
        trt = library(job["module"])
    except ImportError as e:
        send("failed", kind="missing", message=str(e))
        return 1
    try:
        start = time.monotonic()
        if job["do"] == "inspect":
            send("done", said=inspect(trt, job, send))
        elif job["do"] == "time":
            send("done", said=time_plans(trt, job, send))
        else:
            build(trt, job, send)
            send("done", version=trt.__version__, build_seconds=round(time.monotonic() - start, 3))
    except GraphRefused as e:
        send("failed", kind="graph", message=str(e))
        return 1
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        OSError,
    ) as e:  # what the bindings raise or lack, and a full disk
        send("failed", kind="library", message=f"{type(e).__name__}: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
