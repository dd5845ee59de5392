"""Which precision is fastest here: measured, frame by frame in turn, on the backend that will run it.

Lower precision is not faster everywhere: ONNX Runtime on a CPU computes fp16 as fp32 between casts, and INT8 costs more than
it saves where few MACs stand between its edges. So nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from edgesmith.deploy.bundle import META, graph_name
from edgesmith.deploy.engines.onnxruntime import OnnxRuntimeEngine
from edgesmith.deploy.engines.turns import inference, medians_ms
from edgesmith.deploy.meta import Meta
from edgesmith.pipeline.frames import golden_frames

ROUNDS = 30
MARGIN = 0.05
"""Part of the time that a lower precision must save before it is taken: what two runs of the same engine differ by."""


class Choice(NamedTuple):
    """A precision, and what it was chosen by."""

    precision: str
    why: str
    median_ms: dict[str, float]


def choose(folder: Path, precisions: Sequence[str], rounds: int = ROUNDS) -> Choice:
    """The fastest of `precisions`, the most exact first, on ONNX Runtime with the golden frames of graph folder `folder`.

    Engines take turns, frame by frame. Raises ValueError without golden frames or when a graph does not load.
    """
    meta = Meta.read(folder / META)
    frames = golden_frames(folder, meta)
    if not frames:
        raise ValueError(f"{folder} has no golden frames to measure with; export the graph again")
    with ExitStack() as stack:
        engines = {
            p: stack.enter_context(OnnxRuntimeEngine(folder / graph_name(p), meta.frame_hw, precision=p)) for p in precisions
        }
        for engine in engines.values():
            engine.infer(frames[0])  # the first run allocates
        median_ms = medians_ms({p: inference(engine, frames) for p, engine in engines.items()}, rounds)
    return fastest(median_ms, rounds)


def fastest(median_ms: dict[str, float], rounds: int) -> Choice:
    """Pick from medians in ms, the most exact precision first: one that is later must be faster by MARGIN."""
    chosen = next(iter(median_ms))
    for precision, median in median_ms.items():
        if median < (1 - MARGIN) * median_ms[chosen]:
            chosen = precision
    shown = ", ".join(f"{p} {m:.2f} ms" for p, m in median_ms.items())
    missing = "" if "int8" in median_ms else "; int8 was not measured, because the graph is not calibrated"
    why = f"medians of {rounds} frames in turn: {shown}; less exact must be {MARGIN:.0%} faster{missing}"
    return Choice(chosen, why, {p: round(m, 3) for p, m in median_ms.items()})
