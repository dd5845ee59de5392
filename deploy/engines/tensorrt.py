"""TensorRT and TensorRT for RTX: one builder, parametrised by the module's name.

The vendor's library can end the process that uses it (an operator that it does not know, a driver that is not there), so a
plan is always built in a child process: `python -m edgesmith.deploy.engines.tensorrt JOB`, JOB a JSON object. The child
writes one JSON object a line to its standard output; the last is `done` or `failed`. What the library itself prints
goes to standard error. A child that dies or hangs costs its own life only, and is reported with its signal and with what
it was doing.

Networks are strongly typed: precision is what the graph says (casts, Q/DQ), never a builder flag; those are gone in
TensorRT 11. TensorRT for RTX builds for any of its architectures without a GPU; TensorRT builds on the device, for it.

**Running a plan is not in this version.** `open_plan` says so after it has looked for a driver; the libraries themselves
crash the interpreter when they are asked to run without one.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

PLAN = "engine.plan"
MODULES = ("tensorrt_rtx", "tensorrt")
RTX_COMPUTE_CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""What TensorRT for RTX 1.7 builds for: Turing, A100, Ampere, Ada, Blackwell. No Jetson, no Hopper."""

_INSTALL = {
    "tensorrt_rtx": "pip install 'edgesmith[rtx]' (x86-64 Linux and Windows)",
    "tensorrt": "on a Jetson it comes with JetPack (apt install python3-libnvinfer); "
    "elsewhere pip install 'edgesmith[tensorrt]' with NVIDIA's package index",
}


@dataclass(frozen=True)
class BuiltPlan:
    """What building a plan gave."""

    backend: str
    version: str
    compute_capability: str
    """Architecture that the plan runs on; `current` where it was built for the GPU at hand."""
    plan_bytes: int
    build_seconds: float
    """Wall time in the child, parsing included, library loading not."""


def engine_key(backend: str, version: str, compute_capability: str, precision: str) -> str:
    """Plans are portable neither across versions nor across architectures, so both are in the name."""
    return f"{backend}-{version}-{compute_capability}-{precision}"


def library(module: str) -> ModuleType:
    """The TensorRT module of that name. Raises ImportError with what installs it, ValueError for an unknown name."""
    require_library(module)
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ImportError(f"backend {module!r} does not load ({e}): {_INSTALL[module]}") from e


def require_library(module: str) -> None:
    """Raise ImportError, with what installs it, when the module is not there; it is not loaded into this process."""
    if module not in MODULES:
        raise ValueError(f"unknown TensorRT module {module!r}; there are: {', '.join(MODULES)}")
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"backend {module!r} is not installed: {_INSTALL[module]}")


def build_plan(
    graph: Path,
    plan: Path,
    *,
    module: str = "tensorrt_rtx",
    compute_capability: str = "sm86",
    timeout_s: float = 1200.0,
    progress: Callable[[str], None] | None = None,
) -> BuiltPlan:
    """Build the serialized engine of `graph` (model.onnx) into the file `plan`, in a child process.

    `compute_capability` is read by `tensorrt_rtx` only (see RTX_COMPUTE_CAPABILITIES). `progress` is called with one line
    for each phase that the builder enters.
    Raises ImportError when the module is not installed, ValueError when the library refuses the graph (with the node's
    name and the parser's own words), RuntimeError when the child died (with its signal), TimeoutError when it was
    stopped after `timeout_s` seconds. What `progress` raises ends the build and comes through. `plan` is written only on
    success.
    """
    if module == "tensorrt_rtx" and compute_capability not in RTX_COMPUTE_CAPABILITIES:
        known = ", ".join(RTX_COMPUTE_CAPABILITIES)
        raise ValueError(f"compute_capability is {compute_capability!r}; TensorRT for RTX builds for: {known}")
    if not graph.is_file():
        raise FileNotFoundError(f"{graph}: there is no such graph")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}; it must be above 0")
    require_library(module)
    with tempfile.TemporaryDirectory(prefix=".plan.", dir=plan.parent) as scratch:
        job = {
            "module": module,
            "graph": str(graph.resolve()),
            "plan": str(Path(scratch).resolve() / PLAN),
            "compute_capability": compute_capability if module == "tensorrt_rtx" else "current",
        }
        outcome = _Child(job, scratch).run(timeout_s, progress)
        os.replace(job["plan"], plan)
    return BuiltPlan(
        module, str(outcome["version"]), job["compute_capability"], plan.stat().st_size, float(outcome["build_seconds"])
    )


def open_plan(folder: Path, backend: str) -> NoReturn:
    """Always raises RuntimeError: first when there is no driver, else because this version does not run plans yet."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise RuntimeError(
            f"{folder / PLAN} needs an NVIDIA GPU and its driver to run, and this machine has none (libcuda.so.1 is not "
            "found); the bundle's onnxruntime engine runs anywhere"
        ) from None
    raise RuntimeError(
        f"{folder / PLAN} cannot be run by this version of edgesmith, which builds {backend} plans but does not execute "
        "them yet; use the onnxruntime engine"
    )


class _Child:
    """One child process that builds one plan."""

    def __init__(self, job: dict[str, str], cwd: str) -> None:
        self._job = job
        # A folder of our own as the working directory: -m puts it first on the path, and whatever lies in the caller's
        # must not stand in for the vendor's module.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "edgesmith.deploy.engines.tensorrt",
                json.dumps(job),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
        )
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        """What the child says, in order; None when it has fallen silent."""
        self._last: dict[str, Any] = {}
        self._doing = "loading the library"
        self._stderr: deque[str] = deque(maxlen=20)

    def run(self, timeout_s: float, progress: Callable[[str], None] | None) -> dict[str, Any]:
        """The child's `done` message. Raises as `build_plan` says."""
        assert self._process.stdout is not None  # both are pipes: see Popen above
        assert self._process.stderr is not None
        readers = [
            threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._drain, args=(self._process.stderr,), daemon=True),
        ]
        for reader in readers:
            reader.start()
        deadline = time.monotonic() + min(timeout_s, threading.TIMEOUT_MAX / 2)
        try:
            # `progress` is called here and not by the reader: what it raises must end the build, not the reading.
            while (message := self._messages.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                self._note(message, progress)
                if time.monotonic() > deadline:
                    raise queue.Empty
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except (queue.Empty, subprocess.TimeoutExpired):
            raise TimeoutError(
                f"building the {self._job['module']} plan of {self._job['graph']} was stopped after {timeout_s:g} s "
                f"while {self._doing}; raise timeout_s if it only needs longer"
            ) from None
        finally:
            self._process.kill()  # does nothing when it has ended
            self._process.wait()
            for reader in readers:
                reader.join()
            self._process.stdout.close()
            self._process.stderr.close()
        return self._outcome(code)

    def _outcome(self, code: int) -> dict[str, Any]:
        event = self._last.get("event")
        if event == "done" and code == 0:
            return self._last
        what = f"{self._job['module']} and {self._job['graph']}"
        if event == "failed" and self._last.get("kind") == "missing":
            raise ImportError(str(self._last["message"]))
        if event == "failed" and self._last.get("kind") == "graph":
            raise ValueError(f"{what}: {self._last['message']}")
        if event == "failed":
            raise RuntimeError(f"{what}: {self._last['message']}")
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        said = " | ".join(self._stderr)
        raise RuntimeError(
            f"{what}: the library ended the build process, which {how} while {self._doing}"
            + (f"; it said: {said}" if said else "")
        )

    def _note(self, message: dict[str, Any], progress: Callable[[str], None] | None) -> None:
        if message["event"] != "doing":
            self._last = message
            return
        self._doing = message["what"]
        if progress is not None and message["phase"]:
            progress(message["what"])

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            with contextlib.suppress(ValueError):  # cut off by the child's death
                self._messages.put(json.loads(line))
        self._messages.put(None)

    def _drain(self, stream: IO[bytes]) -> None:
        for line in stream:
            if text := line.decode(errors="replace").strip():
                self._stderr.append(text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# ---- in the child ----


class _GraphRefused(Exception):
    """The library does not take this graph."""


def _main(argument: str) -> int:
    """Build one plan and report on standard output. Exit code 0 when it is written, 1 when not."""
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
        size = _build(trt, job, send)
        send("done", version=trt.__version__, plan_bytes=size, build_seconds=round(time.monotonic() - start, 3))
    except _GraphRefused as e:
        send("failed", kind="graph", message=str(e))
        return 1
    except (RuntimeError, TypeError, AttributeError, OSError) as e:  # what the bindings raise or lack, and a full disk
        send("failed", kind="library", message=f"{type(e).__name__}: {e}")
        return 1
    return 0


def _build(trt: ModuleType, job: dict[str, str], send: Callable[..., None]) -> int:
    logger = _logger(trt, send)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, send)
    if hasattr(trt.BuilderFlag, "TF32"):  # on by default; fp32 is to mean fp32, in the enlargement's MatMul above all
        config.clear_flag(trt.BuilderFlag.TF32)
    if job["compute_capability"] != "current":
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, job["compute_capability"].upper())
        if not config.set_compute_capability(capability, 0):
            raise RuntimeError(f"the library does not build for {job['compute_capability']}")
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job["graph"]):
        errors = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
        raise _GraphRefused("; ".join(errors) or "the parser refused the graph without a word")
    send("doing", what="building the engine", phase=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _GraphRefused("; ".join(logger.errors) or "the builder refused the graph without a word")
    with open(job["plan"], "wb") as f:
        f.write(plan)
        f.flush()
        os.fsync(f.fileno())
    return int(plan.nbytes)


def _strongly_typed(trt: ModuleType) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)  # TensorRT for RTX and TensorRT 11 know nothing else


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


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
