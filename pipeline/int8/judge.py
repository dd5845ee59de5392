"""What another graph of the same network costs on labelled frames, against the fp32 graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.images import in_colour_order
from edgesmith.pipeline.data.dataset import Sample
from edgesmith.pipeline.events import Log, silent
from edgesmith.pipeline.frames import Frames
from edgesmith.pipeline.graphs.cpu import run_frames, session
from edgesmith.pipeline.graphs.graph import with_outputs
from edgesmith.pipeline.graphs.precision import logits_of
from edgesmith.pipeline.metrics import ConfusionMatrix, labelled_miou

if TYPE_CHECKING:
    from onnx import ModelProto


DRAWS = 200
"""Samples of the bootstrap."""


class Answer(NamedTuple):
    """What a graph says of one frame."""

    labels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    """As the network gives them, before enlargement: (1, classes, h, w)."""


@dataclass(frozen=True)
class Loss:
    """What a graph costs against fp32."""

    error: float
    """Root mean square of the logits' differences, relative to that of the fp32 logits."""
    agreement: float
    """Share of pixels with the same label, 0 to 1."""
    fp32: float
    """mIoU of the fp32 graph, 0 to 1, over the classes that the frames show."""
    miou: float
    """mIoU of the graph, over the same classes."""
    uncertainty: float
    """Standard error of `drop`, in points: what it would vary by on other frames like these (bootstrap over frames)."""

    @property
    def drop(self) -> float:
        """Points of mIoU (0 to 100) lost."""
        return 100 * (self.fp32 - self.miou)


class Pick(NamedTuple):
    """One frame of a split."""

    frames: Frames
    number: int


@dataclass(frozen=True)
class Judge:
    """Holds graphs against `graph` on some frames. They are read once and kept."""

    graph: ModelProto
    picks: tuple[Pick, ...]
    workers: int = 1
    log: Log = silent

    def loss(self, graph: ModelProto, count: int | None = None) -> Loss:
        """On the first `count` frames, all by default. Raises ValueError when none of their pixels is labelled."""
        square = whole = agreement = 0.0
        counts = []
        for pick, sample, ours, theirs in zip(
            self.picks, self._samples, self._reference, self._answers(graph, count), strict=False
        ):
            square += float(np.square(theirs.logits - ours.logits, dtype=np.float64).sum())
            whole += float(np.square(ours.logits, dtype=np.float64).sum())
            agreement += float((theirs.labels == ours.labels).mean())
            confusions = [ConfusionMatrix(len(pick.frames.meta.classes)) for _ in (ours, theirs)]
            for confusion, answer in zip(confusions, (ours, theirs), strict=True):
                pick.frames.score(confusion, sample, answer.labels)
            counts.append([c.counts for c in confusions])
        error = float(np.sqrt(square / whole)) if whole > 0 else 0.0
        if not np.any(counts):
            raise ValueError("no pixel of the frames held out is labelled: what INT8 costs cannot be told")
        fp32, miou, uncertainty = _difference(np.array(counts))
        return Loss(error, agreement / len(counts), fp32, miou, uncertainty)

    @cached_property
    def _samples(self) -> list[Sample]:
        return [pick.frames.split[pick.number] for pick in self.picks]

    @cached_property
    def _reference(self) -> list[Answer]:
        return self._answers(self.graph, None)

    def _answers(self, graph: ModelProto, count: int | None) -> list[Answer]:
        name = logits_of(graph)
        runner = session(with_outputs(graph, [name]))
        given = list(zip(self.picks, self._samples, strict=True))[:count]

        def run(one: tuple[Pick, Sample]) -> Answer:
            (frames, _), sample = one
            frame = in_colour_order(frames.fit(sample.frame), frames.meta.colour_order)
            labels, logits = runner.run(["labels", name], {"frame": frame})
            return Answer(labels, logits.astype(np.float32))

        found: list[Answer] = []
        for answer in run_frames(run, given, self.workers):
            found.append(answer)
            self.log("progress", done=len(found), total=len(given))
        return found


def _difference(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """mIoU of both and the standard error of their difference in points, of confusion counts (frames, 2, classes, classes)."""
    whole = counts.sum(0)
    draws = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), DRAWS)
    redrawn = labelled_miou(np.tensordot(draws, counts, 1))  # (DRAWS, 2)
    fp32, miou = map(float, labelled_miou(whole))
    return fp32, miou, 100 * float(np.nanstd(redrawn[:, 0] - redrawn[:, 1]))  # NaN: only frames without a label were drawn
