"""Frames as a graph takes them, at its size and in its colour order, with the truth in its class indices; golden frames too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.images import in_colour_order, read_png
from edgesmith.deploy.meta import Meta

from .data.dataset import VOID, Sample, Split
from .metrics import ConfusionMatrix


@dataclass(frozen=True)
class Frames:
    """The samples to validate on, seen with the bundle's eyes."""

    split: Split
    count: int
    meta: Meta
    table: NDArray[np.uint8] | None
    """Dataset label -> the network's, 256 entries; None where they are the same."""

    def buffer(self) -> NDArray[np.uint8]:
        """An input buffer for the engine."""
        return np.empty((*self.meta.frame_hw, 3), np.uint8)

    def fit(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame at the engine's size."""
        return fit(frame, self.meta.frame_hw)

    def arrange(self, frame: NDArray[np.uint8], buffer: NDArray[np.uint8]) -> None:
        """Write the frame into the engine's buffer, in the engine's size and colour order."""
        in_colour_order(self.fit(frame), self.meta.colour_order, buffer)

    def score(self, confusion: ConfusionMatrix, sample: Sample, labels: NDArray[np.uint8]) -> None:
        """Count one frame at the size of its truth. Raises ValueError naming the sample."""
        score(confusion, sample, labels, self.table)


def fit(frame: NDArray[np.uint8], hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The frame at size `hw`: itself where it has it, else resized, bilinear."""
    if frame.shape[:2] == hw:
        return frame
    import cv2

    return np.asarray(cv2.resize(frame, hw[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def score(
    confusion: ConfusionMatrix, sample: Sample, labels: NDArray[np.uint8], table: NDArray[np.uint8] | None = None
) -> None:
    """Count one frame at the size of its truth, whose labels `table` translates. Raises ValueError naming the sample."""
    if labels.shape != sample.label.shape:
        import cv2

        size = sample.label.shape[::-1]
        # INTER_NEAREST takes the pixel at the upper left corner of the new one, not at its centre.
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    try:
        confusion.add(sample.label if table is None else table[sample.label], labels)
    except ValueError as e:
        raise ValueError(f"sample {sample.name}: {e}") from e


def label_table(dataset: tuple[str, ...], network: tuple[str, ...]) -> NDArray[np.uint8] | None:
    """Dataset label -> the network's, None where they are the same. Raises ValueError unless the names are the same."""
    if set(dataset) != set(network):
        raise ValueError(
            "the dataset's classes are not the network's, so its labels mean nothing to it. "
            f"Dataset ({len(dataset)}): {', '.join(dataset)}. Network ({len(network)}): {', '.join(network)}"
        )
    if dataset == network:
        return None
    table = np.arange(VOID + 1, dtype=np.uint8)
    for label, name in enumerate(dataset):
        table[label] = network.index(name)
    return table


def golden_frames(folder: Path, meta: Meta) -> list[NDArray[np.uint8]]:
    """The golden frames of a graph folder as its graph takes them."""
    images = sorted(p for p in (folder / "golden").glob("*.png") if not p.name.endswith(".mask.png"))
    return [in_colour_order(read_png(p, True), meta.colour_order) for p in images]
