"""Graphs on the CPU for measuring, not for speed: one thread a frame, so that results do not depend on how many there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from edgesmith.deploy.engines.onnxruntime import SessionOptions, open_session

if TYPE_CHECKING:
    from onnx import ModelProto

T = TypeVar("T")
R = TypeVar("R")


def session(model: ModelProto) -> Any:
    """An ONNX Runtime session of `model` on one thread; several threads may call its `run`.

    Raises ValueError when ONNX Runtime does not take the graph.
    """
    return open_session(model.SerializeToString(), SessionOptions(threads=1, spinning=False))


def run_frames(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`work` on each item, `workers` of them at a time; results in the items' order, none far ahead of its turn."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
