"""One file a backend. Each offers what builds (where it needs building) and an `Engine` where it runs.

Backends and what they need:

* `onnxruntime`: the CPU, and the default on the device. Runs the bundle's graph as it is. `pip install 'edgesmith[cpu]'`.
* `tensorrt_rtx`: TensorRT for RTX. Builds plans on any x86-64 machine, with or without a GPU. `pip install 'edgesmith[rtx]'`.
* `tensorrt`: TensorRT of the device's own system (JetPack), or `pip install 'edgesmith[tensorrt]'` with NVIDIA's index.
* `torch_tensorrt`: a plan of TensorRT that Torch-TensorRT makes of the weights instead of the graph; needs torch as well.

Importing this module imports none of them.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

Backend = Literal["onnxruntime", "tensorrt_rtx", "tensorrt", "torch_tensorrt"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class Engine(Protocol):
    """A network that is ready to run at batch 1: camera frame in, label map out. Use it as a context manager.

    An engine belongs to one thread at a time.
    """

    @property
    def key(self) -> str:
        """Name of the engine's folder in a bundle: backend, device and precision, such as `onnxruntime-cpu-fp32`."""
        ...

    @property
    def backend(self) -> str: ...

    @property
    def version(self) -> str:
        """Version of the backend's library that runs here."""
        ...

    @property
    def device(self) -> str:
        """What it runs on, in words."""
        ...

    @property
    def precision(self) -> str: ...

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Height and width in pixels of the frames that it takes and of the label maps that it returns."""
        ...

    def infer(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Label one frame.

        `frame` is uint8 (H, W, 3) in the colour order that the bundle's meta.json names; it is read during the call only.
        A frame that is not C-contiguous is copied first, so hand over contiguous ones where time counts.
        Returns uint8 (H, W), class indices. **The returned array is the engine's own buffer: the next call overwrites it.**
        Copy what you keep, and do not use it after the engine is closed.
        Raises ValueError when shape or type differ, RuntimeError when the engine is closed or the backend fails.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def require_frame(frame: NDArray[np.uint8], frame_hw: tuple[int, int]) -> None:
    """Raise ValueError unless `frame` is uint8 of shape (*frame_hw, 3)."""
    shape, dtype = getattr(frame, "shape", None), getattr(frame, "dtype", None)
    if shape != (*frame_hw, 3) or dtype != "uint8":
        h, w = frame_hw
        raise ValueError(f"frame is {dtype} {shape}; this engine takes uint8 ({h}, {w}, 3)")


def open_engine(backend: str, graph: Path, engine_folder: Path | None, frame_hw: tuple[int, int], precision: str) -> Engine:
    """Open the engine of one backend: `graph` is an ONNX file, `engine_folder` holds engine.json and, where built, the plan.

    Raises ValueError for an unknown backend or files that the backend cannot read, ImportError when its library is not
    installed, RuntimeError when this machine cannot run it.
    """
    if backend == "onnxruntime":
        from edgesmith.deploy.engines.onnxruntime import OnnxRuntimeEngine

        if engine_folder is not None and (engine_folder / "split.json").is_file():
            from edgesmith.deploy.engines.onnxruntime_split import open_split

            return open_split(graph, engine_folder, frame_hw, precision)
        return OnnxRuntimeEngine(graph, frame_hw, precision=precision)
    if backend in ("tensorrt_rtx", "tensorrt", "torch_tensorrt"):
        from edgesmith.deploy.engines.tensorrt import open_plan

        if engine_folder is None:
            raise ValueError(f"backend {backend!r} runs a built plan, and there is none: edgesmith build --backend {backend}")
        return open_plan(engine_folder)
    raise ValueError(f"unknown backend {backend!r}; there are: {', '.join(BACKENDS)}")
