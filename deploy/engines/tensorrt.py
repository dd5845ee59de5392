"""TensorRT and TensorRT for RTX: plans are built in a child process, and checked before anything is deserialized.

The vendor's library can end the process that uses it (an operator that it does not know, a driver that is not there), so it
is only ever loaded in a child: see tensorrt_builder. A child that dies or hangs costs its own life only, and is reported
with its signal and with what it was doing.

Networks are strongly typed: precision is what the graph says (casts, Q/DQ), never a builder flag; those are gone in
TensorRT 11. TensorRT for RTX builds for any of its architectures without a GPU; TensorRT builds on the device, for it.

Plugins are of one library (`edgesmith.deploy.plugins`), which the child loads before it parses or deserializes, once its digest
and its operators' versions were found to be right. TensorRT for RTX has no plugins.

**Running a plan as an engine is not in this version**; the child runs plans only to time them. `open_plan` says so after it
has looked for a driver; the libraries themselves crash the interpreter when they are asked to run without one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.engines.gpu import Gpu, current_gpu
from edgesmith.deploy.engines.tensorrt_builder import MODULES, library, require_library
from edgesmith.deploy.engines.tensorrt_layers import PlanInfo, normalised
from edgesmith.deploy.engines.tensorrt_options import DEFAULTS, SUPPORT, PlanOptions, version_number
from edgesmith.deploy.meta import EngineRecord
from edgesmith.deploy.plugins import LIBRARY, VERSIONS, PluginLibrary

PLAN = "engine.plan"
RTX_COMPUTE_CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""What TensorRT for RTX 1.7 builds for: Turing, A100, Ampere, Ada, Blackwell. No Jetson, no Hopper."""


MODULE_OF = {"tensorrt_rtx": "tensorrt_rtx", "tensorrt": "tensorrt", "torch_tensorrt": "tensorrt"}
"""Library that runs a backend's plans."""


@dataclass(frozen=True)
class BuiltPlan:
    """What building a plan gave."""

    backend: str
    version: str
    compute_capability: str
    """Architecture that the plan runs on, such as `sm86`; never `current`."""
    device: str
    """Name of the GPU that it was built on and for; empty where it was built for an architecture."""
    plan_bytes: int
    build_seconds: float
    """Wall time in the child, parsing included, library loading not."""
    notices: tuple[str, ...] = ()
    """Options that could not be honoured, in words."""


class Timed(NamedTuple):
    """How plans of one network did on the GPU at hand, by name."""

    median_ms: dict[str, float]
    agreement: dict[str, float]
    """Part of the labels that are those of the first plan, 0 to 1."""


def engine_key(backend: str, version: str, compute_capability: str, precision: str, graph_sha256: str, device: str = "") -> str:
    """Name of a plan's folder: all that it is not portable across, and which graph it is of. See also `with_plugins`."""
    parts = (backend, version, device, compute_capability, precision, graph_sha256[:12])
    return "-".join(part for part in parts if part)


def with_plugins(key: str, operators: Sequence[str]) -> str:
    """`key` of an engine that uses these operators."""
    return "-".join((key, *(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() + str(VERSIONS[name]) for name in operators)))


def target_gpu(module: str, compute_capability: str) -> Gpu:
    """What a plan is built for, `current` resolved to this machine's GPU; the name is empty for an architecture alone.

    Raises ValueError for an architecture that TensorRT for RTX does not build for, RuntimeError without a driver.
    """
    if module == "tensorrt_rtx" and compute_capability not in (*RTX_COMPUTE_CAPABILITIES, "current"):
        known = ", ".join(RTX_COMPUTE_CAPABILITIES)
        raise ValueError(f"compute_capability is {compute_capability!r}; TensorRT for RTX builds for: {known}, or current")
    if module == "tensorrt_rtx" and compute_capability != "current":
        return Gpu("", compute_capability)
    try:
        return current_gpu()
    except RuntimeError as e:
        what = "TensorRT builds on the device, for it" if module == "tensorrt" else "compute_capability is current"
        raise RuntimeError(f"{what}, but {e}") from None


def build_plan(
    graph: Path,
    plan: Path,
    *,
    module: str = "tensorrt_rtx",
    compute_capability: str = "sm86",
    options: PlanOptions = DEFAULTS,
    plugins: PluginLibrary | None = None,
    timeout_s: float = 1200.0,
    progress: Callable[[str], None] | None = None,
) -> BuiltPlan:
    """Build the serialized engine of `graph` (an ONNX file) into the file `plan`, in a child process.

    `compute_capability` is read by `tensorrt_rtx` only (see RTX_COMPUTE_CAPABILITIES, or `current`). `progress` is called
    with one line for each phase that the builder enters, and for each option that the library does not honour. `plugins` is the
    library with the operators of our own that `graph` has; a graph that has some without it is refused.
    Raises ImportError when the module is not installed, ValueError when the library refuses the graph (with the node's
    name and the parser's own words), RuntimeError when there is no GPU to build for or the child died (with its signal),
    TimeoutError when it was stopped after `timeout_s` seconds. What `progress` raises ends the build and comes through.
    `plan` is written only on success.
    """
    if module not in MODULES:
        raise ValueError(f"unknown TensorRT module {module!r}; there are: {', '.join(MODULES)}")
    if not graph.is_file():
        raise FileNotFoundError(f"{graph}: there is no such graph")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}; it must be above 0")
    require_library(module)
    if plugins is not None and module == "tensorrt_rtx":
        raise ValueError(f"plugins: {SUPPORT['plugins'][module].instead}; build the graph as it was before the rewrite")
    gpu = target_gpu(module, compute_capability)
    if options.timing_cache is not None:  # the child works elsewhere
        options = PlanOptions(**{**asdict(options), "timing_cache": str(Path(options.timing_cache).resolve())})
    with tempfile.TemporaryDirectory(prefix=".plan.", dir=plan.parent) as scratch:
        target = Path(scratch).resolve() / PLAN
        job = {
            "do": "build",
            "module": module,
            "graph": str(graph.resolve()),
            "plan": str(target),
            "compute_capability": "current" if gpu.name else gpu.compute_capability,
            "options": asdict(options),
            "plugins": _to_send(plugins),
        }
        child = _Child(job, str(graph.resolve()), scratch)
        outcome = child.run(timeout_s, progress)
        os.replace(target, plan)
    return BuiltPlan(
        backend=module,
        version=str(outcome["version"]),
        compute_capability=gpu.compute_capability,
        device=gpu.name,
        plan_bytes=plan.stat().st_size,
        build_seconds=float(outcome["build_seconds"]),
        notices=tuple(child.notices),
    )


def inspect_plan(plan: Path, module: str, plugins: PluginLibrary | None = None, timeout_s: float = 120.0) -> PlanInfo:
    """The layers of a plan. Needs the GPU that it was built for: the child that asks deserializes it.

    Raises ImportError when the module is not installed, RuntimeError without a driver, when the library does not read the
    plan or the child died, ValueError when it answers in an unknown form, TimeoutError.
    """
    require_library(module)
    current_gpu()
    job = {"do": "inspect", "module": module, "plan": str(plan.resolve()), "plugins": _to_send(plugins)}
    with tempfile.TemporaryDirectory(prefix=".plan.") as scratch:
        return normalised(_Child(job, str(plan), scratch).run(timeout_s, None)["said"])


def time_plans(
    plans: Mapping[str, Path],
    frames: Sequence[NDArray[np.uint8]],
    module: str,
    plugins: PluginLibrary | None = None,
    rounds: int = 10,
    timeout_s: float = 300.0,
) -> Timed:
    """Run plans of one network in turn on `frames`, uint8 (H, W, 3) of one size, on the GPU that they were built for.

    Raises as `inspect_plan` does.
    """
    require_library(module)
    current_gpu()
    with tempfile.TemporaryDirectory(prefix=".time.") as scratch:
        np.save(Path(scratch) / "frames.npy", np.stack(frames), allow_pickle=False)
        job = {
            "do": "time",
            "module": module,
            "plans": {name: str(path.resolve()) for name, path in plans.items()},
            "frames": str((Path(scratch) / "frames.npy").resolve()),
            "plugins": _to_send(plugins),
            "rounds": rounds,
        }
        said = _Child(job, " and ".join(plans), scratch).run(timeout_s, None)["said"]
    return Timed(said["median_ms"], said["agreement"])


def plan_plugins(folder: Path, record: EngineRecord) -> PluginLibrary | None:
    """The library that lies beside a plan, None where it needs none; `load` proves it."""
    if record.plugins_digest is None:
        return None
    return PluginLibrary(folder / LIBRARY, record.plugins, record.plugins_digest)


def _to_send(plugins: PluginLibrary | None) -> dict[str, Any] | None:
    """The library as a job says it to a child, which works in another folder."""
    return None if plugins is None else {**plugins._asdict(), "path": str(plugins.path.resolve())}


def require_match(record: EngineRecord, gpu: Gpu, version: str) -> None:
    """Raise RuntimeError, in one sentence, unless a plan is for this GPU and this version of its library."""
    wanted, here = [], []
    if record.compute_capability != gpu.compute_capability:
        wanted.append(str(record.compute_capability))
        here.append(gpu.compute_capability)
    if record.gpu and record.gpu != gpu.name:
        wanted.append(record.gpu)
        here.append(gpu.name)
    later = record.version_compatible and version_number(version) > version_number(record.version)
    if record.version != version and not later:
        wanted.append(f"{record.backend} {record.version}")
        here.append(f"{record.backend} {version}")
    if wanted:
        more = {"tensorrt_rtx": " --compute-capability current", "torch_tensorrt": " --weights DIR"}.get(record.backend, "")
        raise RuntimeError(
            f"engine {record.key} is for {' and '.join(wanted)}, this machine has {' and '.join(here)}; "
            f"build it here: edgesmith bundle add BUNDLE --backend {record.backend} --precision {record.precision}{more}"
        )


def open_plan(folder: Path) -> NoReturn:
    """Always raises RuntimeError: when there is no driver, when the plan is for another GPU or another version of the
    library, when its plugins are of other sources than it was built with, and else because this version does not run plans
    yet. Nothing is deserialized for that.

    Raises ImportError where there is a driver and the library is not installed.
    """
    record = EngineRecord.read(folder / "engine.json")
    try:
        gpu = current_gpu()
    except RuntimeError as e:
        raise RuntimeError(
            f"{folder / PLAN} needs an NVIDIA GPU and its driver to run, and {e}; the onnxruntime engine runs anywhere. "
            f"This version of edgesmith builds {record.backend} plans but runs them nowhere yet"
        ) from None
    require_match(record, gpu, library(MODULE_OF[record.backend]).__version__)
    if plugins := plan_plugins(folder, record):
        try:
            plugins.load()
        except OSError as e:
            raise RuntimeError(f"{folder / PLAN} needs its library of plugins: {e}") from None
    raise RuntimeError(
        f"{folder / PLAN} cannot be run by this version of edgesmith, which builds {record.backend} plans but does not "
        "execute them yet; use the onnxruntime engine"
    )


class _Child:
    """One child process that does one job with the file `about`."""

    def __init__(self, job: dict[str, Any], about: str, cwd: str) -> None:
        self._module, self._about = str(job["module"]), about
        self.notices: list[str] = []
        # A folder of our own as the working directory: -m puts it first on the path, and whatever lies in the caller's
        # must not stand in for the vendor's module.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "edgesmith.deploy.engines.tensorrt_builder",
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
                f"{self._module} and {self._about}: stopped after {timeout_s:g} s while {self._doing}; "
                "raise timeout_s (--timeout on the command line) if it only needs longer"
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
        what = f"{self._module} and {self._about}"
        if event == "failed" and self._last.get("kind") == "missing":
            raise ImportError(str(self._last["message"]))
        if event == "failed" and self._last.get("kind") == "graph":
            raise ValueError(f"{what}: {self._last['message']}")
        if event == "failed":
            raise RuntimeError(f"{what}: {self._last['message']}")
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        said = " | ".join(self._stderr)
        raise RuntimeError(
            f"{what}: the library ended the child process, which {how} while {self._doing}"
            + (f"; it said: {said}" if said else "")
        )

    def _note(self, message: dict[str, Any], progress: Callable[[str], None] | None) -> None:
        if message["event"] == "notice":
            self.notices.append(message["what"])
        elif message["event"] == "doing":
            self._doing = message["what"]
        else:
            self._last = message
            return
        if progress is not None and message.get("phase", True):
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
