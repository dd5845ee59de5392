"""Two networks on the same frames: logits, labels, IoU, and the first value inside at which they part.

For graphs the values are matched by name, which export and `lowered` keep; where one side is torch, or names have nothing in
common, by the convolutions' parameters. Both ONNX Runtime sessions run on one thread with all values marked as outputs, as
Polygraphy does it; that library is not used because it knows neither torch's modules nor the names of folded parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.meta import Meta

from .data.dataset import LabelSet, Sample
from .frames import fit, label_table, score
from .metrics import ConfusionMatrix, or_none
from .sides import Answer, Frame, GraphSide, Side, Sizes, TorchSide, open_side

TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.25}
"""Root mean square error of a value, relative to the value's, from which on it counts as diverging; of the coarser side."""


@dataclass(frozen=True)
class Layer:
    """One value that both sides have."""

    name: str
    error: float
    """Root mean square of the difference, relative to that of A's value."""
    largest: float
    """Largest difference."""


@dataclass
class _Seen:
    """What the frames came to, summed up."""

    frames: int = 0
    agreement: float = 0.0
    lowest: float = 2.0
    name: str = ""
    worst: Frame | None = None
    """The frame with the lowest agreement, and its name above."""
    square: float = 0.0
    whole: float = 0.0
    largest: float = 0.0

    def add(self, name: str, frame: Frame, a: Answer, b: Answer) -> None:
        equal = float((a.labels == b.labels).mean())
        self.frames += 1
        self.agreement += equal
        if equal < self.lowest:
            self.lowest, self.name, self.worst = equal, name, frame
        if a.logits is None or b.logits is None:
            return
        if a.logits.shape != b.logits.shape:
            raise ValueError(f"logits are {a.logits.shape} of A and {b.logits.shape} of B: not two forms of one network")
        difference = a.logits.astype(np.float64) - b.logits
        self.square += float(np.square(difference).sum())
        self.whole += float(np.square(a.logits, dtype=np.float64).sum())
        self.largest = max(self.largest, float(np.abs(difference).max()))

    def summary(self) -> dict[str, Any]:
        error = {"relative_error": float(np.sqrt(self.square / self.whole)), "largest": self.largest} if self.whole else None
        return {
            "frames": self.frames,
            "pixel_agreement": self.agreement / self.frames,
            "worst_frame": {"name": self.name, "pixel_agreement": self.lowest},
            "logits": error,
        }


def compare(
    a: Path, b: Path, samples: Iterable[Sample], dataset: LabelSet | None = None, tolerance: float | None = None
) -> dict[str, Any]:
    """Compare what lies at `a` and `b` (see `open_side`) on samples, and by IoU where `dataset` says what their labels mean.

    Frames of another size are resized, bilinear. `tolerance` is relative (see TOLERANCE). Raises ValueError when the sides are
    no two forms of one network, or there is no frame.
    """
    (side_a, meta_a), (side_b, meta_b) = open_side(a), open_side(b)
    meta = meta_a or meta_b
    classes = _classes(side_a, meta_a)
    if classes != _classes(side_b, meta_b) or (meta_a and meta_b and meta_a.frame_hw != meta_b.frame_hw):
        raise ValueError(f"{a} and {b} differ in classes or frame size: compare two forms of one network")
    sizes = None if meta is None else Sizes(meta.frame_hw, meta.input_hw)
    table = None if dataset is None else label_table(dataset.names, classes)
    confusions = ConfusionMatrix(len(classes)), ConfusionMatrix(len(classes))
    seen = _Seen()
    for sample in samples:
        hw = (sample.frame.shape[0], sample.frame.shape[1])
        sizes = sizes or Sizes(hw, hw)
        frame = fit(sample.frame, sizes.frame_hw)
        answers = side_a.answer(frame, sizes), side_b.answer(frame, sizes)
        seen.add(sample.name, frame, *answers)
        if dataset is not None:
            for confusion, answer in zip(confusions, answers, strict=True):
                score(confusion, sample, answer.labels, table)
    if sizes is None or seen.worst is None:
        raise ValueError("there is no frame to compare on")
    bound = tolerance or max(TOLERANCE[side_a.precision], TOLERANCE[side_b.precision])
    layers = list(_layers(side_a, side_b, seen.worst, sizes))
    return {
        "a": _said(side_a),
        "b": _said(side_b),
        "frame_hw": list(sizes.frame_hw),
        **seen.summary(),
        **({} if dataset is None else _iou(confusions, classes)),
        "tolerance": bound,
        "first_diverging": next((vars(layer) for layer in layers if not layer.error <= bound), None),
        "layers": [vars(layer) for layer in layers],
        "resizes": _resizes(side_a, side_b),
    }


def _classes(side: Side, meta: Meta | None) -> tuple[str, ...]:
    if isinstance(side, TorchSide):
        return side.classes
    return () if meta is None else meta.classes  # only weights have no meta


def _said(side: Side) -> dict[str, str]:
    return {"path": str(side.path), "as": type(side).__name__.removesuffix("Side").lower(), "precision": side.precision}


def _layers(a: Side, b: Side, frame: Frame, sizes: Sizes) -> Iterator[Layer]:
    """The values that both sides have, in A's order of execution; none where a side is an engine."""
    for name, ours, theirs in _pairs(a, b, frame, sizes):
        if ours.shape != theirs.shape:
            continue
        difference = np.abs(ours.astype(np.float64) - theirs)
        whole = float(np.sqrt(np.square(ours, dtype=np.float64).mean()))
        error = float(np.sqrt(np.square(difference).mean()))
        yield Layer(name, error / whole if whole > 0 else error, float(difference.max()))


def _pairs(a: Side, b: Side, frame: Frame, sizes: Sizes) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    if isinstance(a, GraphSide) and isinstance(b, GraphSide):
        common = [name for name in a.floats if b.floats.get(name) == a.floats[name]]
        if common:
            for (name, ours), (_, theirs) in zip(a.values(frame, common), b.values(frame, common), strict=True):
                yield name, ours, theirs
            return
    if isinstance(a, (GraphSide, TorchSide)) and isinstance(b, (GraphSide, TorchSide)):
        ours_all, theirs_all = _convolutions(a, frame, sizes), _convolutions(b, frame, sizes)
        for name, value in ours_all.items():
            if name in theirs_all:
                yield name, value, theirs_all[name]


def _convolutions(side: GraphSide | TorchSide, frame: Frame, sizes: Sizes) -> dict[str, NDArray[np.float32]]:
    if isinstance(side, TorchSide):
        return side.convolutions(frame, sizes)
    names = {value: name for name, value in side.convolutions.items()}
    return {names[value]: array for value, array in side.values(frame, list(names))}


def _iou(confusions: tuple[ConfusionMatrix, ConfusionMatrix], classes: tuple[str, ...]) -> dict[str, Any]:
    a, b = confusions
    rows = [
        {"name": name, "iou_a": or_none(x), "iou_b": or_none(y), "change": or_none(y - x)}
        for name, x, y in zip(classes, a.iou, b.iou, strict=True)
    ]
    return {"miou": {"a": or_none(a.miou), "b": or_none(b.miou), "change": or_none(b.miou - a.miou)}, "classes": rows}


def _resizes(a: Side, b: Side) -> dict[str, Any]:
    """The Resize nodes of either graph, and whether they mean the same."""
    from .graphs.resizes import resizes

    found = {key: resizes(side.graph) for key, side in (("a", a), ("b", b)) if isinstance(side, GraphSide)}
    value: dict[str, Any] = {key: [r.to_json() for r in nodes] for key, nodes in found.items()}
    if len(found) == 2:
        value["same"] = [r.meaning for r in found["a"]] == [r.meaning for r in found["b"]]
    return value
