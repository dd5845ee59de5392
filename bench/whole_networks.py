"""Whole networks for a study: exported, timed in turn, and held against the sums of a latency table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgesmith import models
from edgesmith.calibration.table import error_of_median
from edgesmith.deploy.engines.onnxruntime import OnnxRuntimeEngine, SessionOptions
from edgesmith.deploy.files import write_bytes
from edgesmith.models.arch import Arch, Segmentation
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD

Numbers: TypeAlias = "NDArray[np.float64]"


@dataclass(frozen=True)
class WholeNetworks:
    """Networks at one size on an engine of so many threads."""

    folder: Path
    """Where graphs are kept, by the architecture's digest."""
    task: Segmentation
    hw: tuple[int, int]
    """Of frame and network."""
    threads: int

    def export(self, arch: Arch) -> Path:
        """The graph of `arch` from frame to labels, with initial weights: latency does not depend on what they are."""
        from edgesmith.pipeline.export import enlargement, network_graph
        from edgesmith.pipeline.graphs import graph

        path = self.folder / f"{arch.digest[:16]}.onnx"
        if not path.is_file():
            module = models.build(arch, self.task)
            network = network_graph(module, self.hw)
            enlarged = enlargement(graph.low_hw(network), self.hw, self.hw, bool(module.enlarge_align_corners))
            whole = graph.assemble(
                network, frame_hw=self.hw, colour_order="bgr", mean=IMAGENET_MEAN, std=IMAGENET_STD, enlargement=enlarged
            )
            write_bytes(path, graph.cleaned(whole.model).SerializeToString(deterministic=True))
        return path

    def times(self, archs: Sequence[Arch], rounds: int = 15, repeats: int = 10) -> list[dict[str, float]]:
        """Latency of each: the median of rounds in which every one was timed in turn, in a new session, and its error."""
        graphs = [self.export(arch) for arch in archs]
        frame = np.random.default_rng(0).integers(0, 256, (*self.hw, 3), np.uint8)
        taken: list[list[float]] = [[] for _ in graphs]
        for _ in range(rounds):
            for path, row in zip(graphs, taken, strict=True):
                with OnnxRuntimeEngine(path, self.hw, options=SessionOptions(self.threads)) as engine:
                    for _ in range(3):
                        engine.infer(frame)
                    runs = []
                    for _ in range(repeats):
                        start = time.perf_counter()
                        engine.infer(frame)
                        runs.append(1e3 * (time.perf_counter() - start))
                    row.append(statistics.median(runs))
        return [{"median_ms": statistics.median(row), "error_ms": error_of_median(row)} for row in taken]


def against_table(table_ms: Sequence[float], measured_ms: Sequence[float], fitted: int) -> dict[str, Any]:
    """Sums of a table against measured times: correlation and error, before and after one scale and offset.

    The first `fitted` networks make scale and offset, the others judge.
    """
    summed, measured = np.array(table_ms), np.array(measured_ms)
    scale, offset = np.polyfit(summed[:fitted], measured[:fitted], 1)
    tested, truth = summed[fitted:], measured[fitted:]
    return {
        "table_ms": summed.tolist(),
        "measured_ms": measured.tolist(),
        "fitted": fitted,
        "scale": float(scale),
        "offset_ms": float(offset),
        "correlation": float(np.corrcoef(tested, truth)[0, 1]),
        "error_before": error(tested, truth),
        "error_after": error(scale * tested + offset, truth),
    }


def error(predicted: Numbers, truth: Numbers) -> dict[str, float]:
    """Relative error: mean of its size, bias, and largest."""
    relative = (predicted - truth) / truth
    return {"mean": float(abs(relative).mean()), "bias": float(relative.mean()), "largest": float(abs(relative).max())}
