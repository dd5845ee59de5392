"""Segmentation metrics from one confusion matrix: per-class IoU and accuracy, mean IoU, pixel accuracy.

Void pixels (label 255) never count. A class that occurs neither in truth nor in prediction has no IoU (NaN here, null in
JSON) and is left out of the mean: giving it 0 or 1 would make the mean depend on classes that were never at stake.

A class that occurs in the prediction alone counts as 0, as in the benchmarks. So one stray pixel of it can cost a third of the
mean of three classes: networks are chosen by the mean over the classes of the truth alone (`labelled_miou`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgesmith.pipeline.data.dataset import VOID

_VALUES = 256


@dataclass
class ConfusionMatrix:
    """Counts of (truth, prediction) pairs, summed over frames: `counts[t, p]` pixels of class t were labelled p."""

    classes: int
    """Number of classes, 1 to 255."""
    counts: NDArray[np.int64] = field(init=False)
    """(classes, classes); rows are the truth, columns the prediction."""

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= VOID:
            raise ValueError(f"classes is {self.classes}; it must be 1 to {VOID}")
        self.counts = np.zeros((self.classes, self.classes), np.int64)

    def add(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Count one frame. Both are uint8 (H, W).

        Raises ValueError when the shapes differ, when `truth` holds a label that is neither a class nor void, or when a
        pixel that counts is predicted as something that is no class.
        """
        if truth.shape != prediction.shape or truth.dtype != np.uint8 or prediction.dtype != np.uint8:
            raise ValueError(
                f"truth is {truth.dtype} {truth.shape}, prediction {prediction.dtype} {prediction.shape}: "
                "both must be uint8 of one shape"
            )
        # All 256 values get a row and a column, so that no pixel is masked out before counting and stray labels show.
        pairs = truth.reshape(-1).astype(np.intp) * _VALUES + prediction.reshape(-1)
        table = np.bincount(pairs, minlength=_VALUES * _VALUES).reshape(_VALUES, _VALUES)
        stray = np.flatnonzero(table[self.classes : VOID].sum(axis=1))
        if stray.size:
            raise ValueError(f"truth holds label {stray[0] + self.classes}, but there are {self.classes} classes")
        stray = np.flatnonzero(table[: self.classes, self.classes :].sum(axis=0))
        if stray.size:
            raise ValueError(f"prediction holds label {stray[0] + self.classes}, but there are {self.classes} classes")
        self.counts += table[: self.classes, : self.classes]

    @property
    def pixels(self) -> int:
        """Pixels that were counted, all of them not void."""
        return int(self.counts.sum())

    @property
    def iou(self) -> NDArray[np.float64]:
        """(classes,): intersection over union; NaN where a class occurs neither in truth nor in prediction."""
        hit = np.diag(self.counts)
        return _ratio(hit, self.counts.sum(axis=0) + self.counts.sum(axis=1) - hit)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(classes,): part of a class's true pixels that were labelled so (recall); NaN where the truth has none."""
        return _ratio(np.diag(self.counts), self.counts.sum(axis=1))

    @property
    def share(self) -> NDArray[np.float64]:
        """(classes,): part of all counted pixels that truly belong to each class; NaN when nothing was counted."""
        return _ratio(self.counts.sum(axis=1), np.full(self.classes, self.pixels))

    @property
    def miou(self) -> float:
        """Mean of the IoUs that exist; NaN when none does."""
        present = self.iou[~np.isnan(self.iou)]
        return float(present.mean()) if present.size else float("nan")

    @property
    def labelled_miou(self) -> float:
        """Mean of the IoUs of the classes that the truth has; NaN when nothing was counted."""
        return float(labelled_miou(self.counts))

    @property
    def pixel_accuracy(self) -> float:
        """Part of all counted pixels that were labelled right; NaN when nothing was counted."""
        return float(np.trace(self.counts) / self.pixels) if self.pixels else float("nan")


def labelled_miou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean IoU (...) of confusion counts (..., classes, classes), each over the classes that its truth has.

    NaN where nothing was counted.
    """
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    union = counts.sum(-1) + counts.sum(-2) - hit
    true = counts.sum(-1) > 0
    iou = np.divide(hit, union, out=np.zeros(hit.shape), where=true)
    present = true.sum(-1)
    return np.asarray(np.divide(iou.sum(-1), present, out=np.full(present.shape, np.nan), where=present > 0))


def or_none(value: float) -> float | None:
    """The number for JSON, which has no NaN: None stands for what does not exist."""
    return None if math.isnan(value) else float(value)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
