"""Run a graph over frames and take the range of every convolution's input from what was seen.

Two passes: the first finds the largest magnitudes, the second counts how often which magnitude occurs. Both only add up, in
whole numbers or as a maximum, so the order of frames changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesmith.calibration import ranges
from edgesmith.calibration.int8 import Layer, Method
from edgesmith.pipeline.events import Log
from edgesmith.pipeline.graphs.cpu import run_frames, session
from edgesmith.pipeline.graphs.graph import with_outputs
from edgesmith.pipeline.graphs.precision import convolutions

from .journal import Journal

if TYPE_CHECKING:
    from onnx import ModelProto

CHUNK = 8
"""Frames after which what was found is kept."""


class Watched(NamedTuple):
    """What to look at, and how."""

    frames: Sequence[Callable[[], NDArray[np.uint8]]]
    """Each gives one frame as the graph takes it."""
    workers: int
    """Frames that run side by side."""
    journal: Journal
    log: Log


def observe(graph: ModelProto, watched: Watched, method: Method, percentile: float) -> dict[str, Layer]:
    """The convolutions of `graph` with their inputs' ranges, by node. Raises ValueError when a value is not finite."""
    found = convolutions(graph)
    names = list(dict.fromkeys(c.input for c in found))  # in order: of broken values the first is named
    largest = _passed(graph, watched, names, "largest", _largest, max)
    counts: dict[str, Any] = {name: [] for name in names}
    if method != "minmax":

        def count(name: str, value: NDArray[Any]) -> list[int]:
            return list(map(int, ranges.magnitudes(value, largest[name])))

        counts = _passed(graph, watched, names, "counts", count, lambda a, b: [x + y for x, y in zip(a, b, strict=True)])
    layers = {}
    for c in found:
        seen, histogram = largest[c.input], np.array(counts[c.input], np.int64)
        amax = ranges.range_of(method, histogram, seen, percentile)
        layers[c.name] = Layer(c.input, c.macs, amax, seen, ranges.clipped(histogram, seen, amax))
    return layers


def _largest(name: str, value: NDArray[Any]) -> float:
    if not np.isfinite(largest := float(np.abs(value).max())):
        raise ValueError(f"value {name!r} is not finite on some frame: the weights are broken; train or export again")
    return largest


def _passed(
    graph: ModelProto,
    watched: Watched,
    names: list[str],
    what: str,
    look: Callable[[str, NDArray[Any]], Any],
    add: Callable[[Any, Any], Any],
) -> dict[str, Any]:
    """One pass: `look` at each value of each frame, `add` it to that of the frames before. Goes on after a kill."""
    kept = watched.journal.get(what) or {"done": 0, "found": {}}
    found, done = dict(kept["found"]), int(kept["done"])
    runner = session(with_outputs(graph, names))

    def watch(frame: Callable[[], NDArray[np.uint8]]) -> dict[str, Any]:
        values = runner.run(names, {"frame": frame()})
        return {name: look(name, value) for name, value in zip(names, values, strict=True)}

    while done < len(watched.frames):
        for seen in run_frames(watch, watched.frames[done : done + CHUNK], watched.workers):
            found = {name: add(found[name], value) if name in found else value for name, value in seen.items()}
            done += 1
            watched.log("progress", done=done, total=len(watched.frames))
        watched.journal.put(what, {"done": done, "found": found})
    return found
