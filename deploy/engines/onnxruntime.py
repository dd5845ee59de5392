"""ONNX Runtime on the CPU: runs the bundle's graph as it is, nothing is built.

The output buffer is bound once and the input is bound to the caller's own memory on every call, so that between camera
and label map no pixel is copied.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.engines import require_frame

if TYPE_CHECKING:
    from typing_extensions import Self

BACKEND = "onnxruntime"


@dataclass(frozen=True)
class SessionOptions:
    """How a session uses the processor."""

    threads: int = 0
    """Threads of one operator; 0 takes one for each core."""
    spinning: bool = True
    """Idle threads wait actively for the next operator. Lowest latency on cores of its own; False leaves cores and
    power to a camera or an encoder that runs beside it."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; it must be 0 (one for each core) or more")


def engine_key(precision: str) -> str:
    return f"{BACKEND}-cpu-{precision}"


def library() -> ModuleType:
    """The onnxruntime module. Raises ImportError with the command that installs it."""
    try:
        import onnxruntime
    except ImportError as e:
        raise ImportError(f"backend 'onnxruntime' is not installed ({e}): pip install 'edgesmith[cpu]'") from e
    module: ModuleType = onnxruntime
    return module


class BoundSession:
    """A graph from a frame to one output, which goes to a buffer of ours; the frame is bound where the caller has it.

    Raises ValueError that begins with `refusal` when ONNX Runtime does not take `model` (a path, or the graph itself), and
    one that begins with `named` when it is not a graph from `frame` uint8 (H, W, 3) to `output` of the buffer's type and shape.
    """

    def __init__(
        self,
        model: str | bytes,
        frame_hw: tuple[int, int],
        output: str,
        buffer: NDArray[Any],
        options: SessionOptions,
        *,
        named: str,
        refusal: str,
    ) -> None:
        ort = library()
        self.version: str = ort.__version__
        self.frame_hw = frame_hw
        self._failures = failures(ort)
        self._session: Any = open_session(model, options, refusal)
        self._require_signature(output, buffer, named)
        self._binding = self._session.io_binding()
        # The OrtValue shares the numpy buffer; both must outlive the binding.
        self._output = ort.OrtValue.ortvalue_from_numpy(buffer)
        self._binding.bind_ortvalue_output(output, self._output)

    def run(self, frame: NDArray[np.uint8]) -> None:
        """Fill the buffer for `frame` (H, W, 3) uint8. Raises as `Engine.infer` does."""
        if self._session is None:
            raise RuntimeError("this engine is closed")
        require_frame(frame, self.frame_hw)
        frame = np.ascontiguousarray(frame)
        try:
            self._binding.bind_cpu_input("frame", frame)
            self._session.run_with_iobinding(self._binding)
        except self._failures as e:
            raise RuntimeError(f"ONNX Runtime {self.version} failed on a frame: {e}") from e

    def close(self) -> None:
        self._session = None
        self._binding = None

    def _require_signature(self, output: str, buffer: NDArray[Any], named: str) -> None:
        def ports(values: Any) -> list[tuple[str, str, list[int]]]:
            return [(v.name, v.type, list(v.shape)) for v in values]

        kind = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}[buffer.dtype.name]
        given = ports(self._session.get_inputs()), ports(self._session.get_outputs())
        wanted = [("frame", "tensor(uint8)", [*self.frame_hw, 3])], [(output, kind, list(buffer.shape))]
        if given != wanted:
            raise ValueError(f"{named} takes {given[0]} and returns {given[1]}; meta.json asks for {wanted[0]}, {wanted[1]}")


class OnnxRuntimeEngine:
    """An `Engine` on ONNX Runtime's CPU provider.

    Raises ValueError naming the file when `graph` is missing, damaged, uses operators that this ONNX Runtime does not
    have, or does not take `frame` uint8 (H, W, 3) and return `labels` uint8 (H, W) for `frame_hw`.
    """

    backend = BACKEND

    def __init__(
        self,
        graph: Path,
        frame_hw: tuple[int, int],
        *,
        precision: str = "fp32",
        options: SessionOptions = SessionOptions(),
    ) -> None:
        self.frame_hw = frame_hw
        self.precision = precision
        self.version: str = library().__version__
        self.device = processor()
        self.key = engine_key(precision)
        self._labels = np.zeros(frame_hw, np.uint8)  # (H, W)
        refusal = f"{graph} does not load in ONNX Runtime {self.version}"
        self._session = BoundSession(str(graph), frame_hw, "labels", self._labels, options, named=str(graph), refusal=refusal)

    def infer(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Engine.infer`: (H, W, 3) uint8 in, (H, W) uint8 out, in a buffer that the next call overwrites."""
        self._session.run(frame)
        return self._labels

    def close(self) -> None:
        """Free the session. Closing twice is allowed."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_session(model: str | bytes, options: SessionOptions, refusal: str | None = None) -> Any:
    """An ONNX Runtime session of `model` (a path, or the graph itself) on the CPU.

    Raises ImportError as `library` does, and ValueError that begins with `refusal` when ONNX Runtime does not take the graph.
    """
    ort = library()
    try:
        return ort.InferenceSession(model, _session_options(ort, options), providers=["CPUExecutionProvider"])
    except failures(ort) as e:
        refusal = refusal or f"ONNX Runtime {ort.__version__} does not take the graph"
        raise ValueError(f"{refusal}: {e}") from e


def _session_options(ort: ModuleType, options: SessionOptions) -> Any:
    o = ort.SessionOptions()
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    o.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    o.intra_op_num_threads = options.threads
    o.inter_op_num_threads = 1
    o.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    # Else it quantises the biases of Q/DQ graphs too (from 1.21 on), by a scale that fp16 cannot hold: wrong logits.
    o.add_session_config_entry("session.disable_quant_qdq", "1")
    o.log_severity_level = 3  # errors only; they also come back as exceptions
    return o


def failures(ort: ModuleType) -> tuple[type[Exception], ...]:
    """ONNX Runtime's error classes. They have no common base but Exception and are named nowhere public."""
    state = ort.capi.onnxruntime_pybind11_state
    found = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (*found, RuntimeError)


def processor() -> str:
    """The processor's name as far as the system tells, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    # "model name" on x86 and on Jetsons; other ARM boards name themselves below the list of cores.
    return said.get("model name") or said.get("Model") or said.get("Hardware") or platform.processor() or platform.machine()
