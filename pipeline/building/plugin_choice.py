"""Whether the plugins' CPU form of the last enlargement is faster here than the graph's own operators: measured in turn."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgesmith.deploy.bundle import META, graph_name
from edgesmith.deploy.engines.onnxruntime import OnnxRuntimeEngine
from edgesmith.deploy.engines.turns import inference, medians_ms
from edgesmith.deploy.meta import Meta
from edgesmith.pipeline.frames import golden_frames

if TYPE_CHECKING:
    from edgesmith.deploy.engines import Engine
    from edgesmith.deploy.engines.onnxruntime_split import Split

BLOCK, WARM_UP, ROUNDS = 4, 2, 10
MARGIN = 0.03
"""Part of the time that it must save before it is taken."""
NATIVE, PLUGIN = "native", "EnlargeArgmax"


class Choice(NamedTuple):
    """Where to split the graph, None for not at all; and what that was chosen by."""

    split: Split | None
    why: str
    median_ms: dict[str, float]
    """Of a whole frame, by `native` and `EnlargeArgmax`; empty where nothing could be measured."""


def choose(folder: Path, precision: str) -> Choice:
    """Time the engine of graph folder `folder` both ways on its golden frames.

    The two take turns in blocks that begin with frames that do not count: idle threads of the one wait actively for a while.
    Raises ValueError when the graph does not load.
    """
    if importlib.util.find_spec("onnx") is None:
        return Choice(None, "onnx is not installed here, and it finds where the graph is cut: pip install onnx", {})
    from edgesmith.deploy.engines.onnxruntime_split import SplitOnnxRuntimeEngine
    from edgesmith.deploy.plugins import twin
    from edgesmith.pipeline.graphs.rewrite import split_of
    from edgesmith.pipeline.graphs.view import read_graph

    meta, graph = Meta.read(folder / META), folder / graph_name(precision)
    frames = golden_frames(folder, meta)
    split = split_of(read_graph(graph))
    if split is None:
        return Choice(None, "the graph does not end in one bilinear enlargement and an argmax", {})
    if not frames:
        return Choice(None, "there are no golden frames to measure with", {})
    try:
        twin.library()
    except RuntimeError as e:
        return Choice(None, str(e), {})
    with ExitStack() as stack:
        engines: dict[str, Engine] = {
            NATIVE: stack.enter_context(OnnxRuntimeEngine(graph, meta.frame_hw, precision=precision)),
            PLUGIN: stack.enter_context(SplitOnnxRuntimeEngine(graph, split, precision=precision)),
        }
        runs = {name: inference(engine, frames) for name, engine in engines.items()}
        median_ms = medians_ms(runs, ROUNDS, BLOCK, WARM_UP)
    return faster(split, median_ms, ROUNDS)


def faster(split: Split, median_ms: dict[str, float], rounds: int) -> Choice:
    """Pick by medians in ms: the split must save MARGIN."""
    taken = median_ms[PLUGIN] < (1 - MARGIN) * median_ms[NATIVE]
    shown = ", ".join(f"{name} {ms:.2f} ms" for name, ms in median_ms.items())
    why = f"medians of {rounds} blocks in turn: {shown}; a plugin must be {MARGIN:.0%} faster"
    return Choice(split if taken else None, why, {name: round(ms, 3) for name, ms in median_ms.items()})
