"""Runs plans of one network in turn on the GPU at hand, in the builder's child process: how long each takes, what it labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.engines.cuda_driver import Stream
from edgesmith.deploy.engines.turns import medians_ms

BLOCK, WARM_UP = 10, 3


class LoadedPlan:
    """A deserialized plan from camera frame uint8 (H, W, 3) to label map uint8 (H, W), with memory of its own."""

    def __init__(self, trt: ModuleType, runtime: Any, plan: Path, stream: Stream) -> None:
        self._engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise RuntimeError(f"the library does not read {plan.name}")
        self._context, self._stream = self._engine.create_execution_context(), stream
        self._sizes: dict[bool, int] = {}
        self._addresses: dict[bool, int] = {}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            if self._engine.get_tensor_dtype(name) != trt.DataType.UINT8:
                raise RuntimeError(f"{plan.name}: {name} is not of bytes")
            given = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            self._sizes[given] = int(np.prod(tuple(self._engine.get_tensor_shape(name))))
            self._addresses[given] = stream.allocate(self._sizes[given])
            self._context.set_tensor_address(name, self._addresses[given])

    def give(self, frame: NDArray[np.uint8]) -> None:
        """Put a frame where the plan reads it."""
        if frame.nbytes != self._sizes[True]:
            raise RuntimeError(f"the plan takes {self._sizes[True]} bytes; the frame has {frame.nbytes}")
        self._stream.upload(self._addresses[True], frame.tobytes())

    def enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise RuntimeError("the library did not run the plan")

    def labels(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._stream.download(self._addresses[False], self._sizes[False]), np.uint8)


def measure(trt: ModuleType, runtime: Any, job: dict[str, Any], send: Callable[..., None]) -> dict[str, Any]:
    """Median milliseconds of each plan of `job` by name, and the part of labels that it shares with the first.

    Plans take turns in blocks that begin with runs that do not count. Times are the GPU's own, between events, without copies
    of frames and labels, which are the same for all. Raises RuntimeError when a plan cannot be read or run.
    """
    stream, frames = Stream(), np.load(job["frames"], allow_pickle=False)
    plans = {}
    for name, path in job["plans"].items():
        send("doing", what=f"reading the plan {name}", phase=False)
        plans[name] = LoadedPlan(trt, runtime, Path(path), stream)
    equal: dict[str, list[float]] = {name: [] for name in plans}
    for frame in frames:
        first = None
        for name, plan in plans.items():
            send("doing", what=f"running the plan {name}", phase=False)
            plan.give(frame)
            plan.enqueue()
            labels = plan.labels()
            first = labels if first is None else first
            equal[name].append(float(np.mean(labels == first)))
    send("doing", what="timing the plans", phase=False)
    timed = medians_ms({name: partial(_timed, plan, stream) for name, plan in plans.items()}, job["rounds"], BLOCK, WARM_UP)
    return {
        "median_ms": {name: round(ms, 4) for name, ms in timed.items()},
        "agreement": {name: float(np.mean(e)) for name, e in equal.items()},
    }


def _timed(plan: LoadedPlan, stream: Stream, number: int) -> float:
    stream.begin()
    plan.enqueue()
    return stream.elapsed_ms()
