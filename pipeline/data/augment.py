"""Augmentation of a frame with its label map, and a cache of decoded frames; both on uint8 arrays."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dataset import VOID, LabelSet, Sample, Split

PADDING = (104, 108, 110)
"""RGB of the border of frames that are smaller than the crop: CamVid's mean, near zero once normalised."""
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Augment:
    """Random scale, crop, flip and colour of a frame and its label map.

    Only the part of the frame that the crop shows is resized. The same `rng` state gives the same result, and every call
    draws equally many numbers, so that one setting does not change what the others do.
    """

    crop_hw: tuple[int, int] | None = None
    """Size of the result, height x width. Default: the size of the frame."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range from which the enlargement is drawn, evenly in its logarithm."""
    flip: float = 0.5
    """Probability of a mirror image, left for right."""
    brightness: float = 0.3
    """Colours are multiplied by 1 plus or minus up to this."""
    contrast: float = 0.3
    """Distance from the mean grey is multiplied by 1 plus or minus up to this."""
    saturation: float = 0.3
    """Distance from a pixel's grey is multiplied by 1 plus or minus up to this."""
    hue: float = 0.05
    """Colours turn about the grey axis by up to this part of a full turn, either way."""

    def __post_init__(self) -> None:
        problems = []
        if self.crop_hw is not None and not all(1 <= side <= 8192 for side in self.crop_hw):
            problems.append("crop_hw: needs a height and a width of 1 to 8192 pixels")
        if not 0.05 <= self.scale[0] <= self.scale[1] <= 20:
            problems.append("scale: needs two numbers from 0.05 to 20, the smaller first")
        if not 0 <= self.flip <= 1:
            problems.append("flip: needs a probability, 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name}: needs a number from 0 to less than 1")
        if not 0 <= self.hue <= 0.5:
            problems.append("hue: needs a number from 0 to 0.5")
        if problems:
            raise ValueError("\n".join(problems))

    def __call__(
        self, frame: NDArray[np.uint8], label: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(H, W, 3) RGB and (H, W) -> new contiguous arrays of the crop's size; padding is VOID in the label map."""
        import cv2  # at use: recipes hold an Augment, and reading one needs no OpenCV

        u = rng.random(8)
        low, high = self.scale
        scale = low * (high / low) ** float(u[0])
        crop_hw = self.crop_hw or (frame.shape[0], frame.shape[1])
        rows = _window(frame.shape[0], crop_hw[0], scale, float(u[1]))
        columns = _window(frame.shape[1], crop_hw[1], scale, float(u[2]))
        source = (slice(rows[0], rows[1]), slice(columns[0], columns[1]))
        size = (columns[3] - columns[2], rows[3] - rows[2])  # OpenCV's order: width, height
        seen = np.asarray(cv2.resize(frame[source], size, interpolation=cv2.INTER_LINEAR), np.uint8)
        named = np.asarray(cv2.resize(label[source], size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
        if u[3] < self.flip:
            cv2.flip(seen, 1, dst=seen)
            cv2.flip(named, 1, dst=named)
        if self.brightness or self.contrast or self.saturation or self.hue:
            cv2.transform(seen, self._colour(cv2.mean(seen)[:3], u[4:]), dst=seen)
        if size == (crop_hw[1], crop_hw[0]):
            return seen, named
        target = (slice(rows[2], rows[3]), slice(columns[2], columns[3]))
        frame_out = np.empty((*crop_hw, 3), np.uint8)
        frame_out[:] = PADDING
        label_out = np.full(crop_hw, VOID, np.uint8)
        frame_out[target], label_out[target] = seen, named
        return frame_out, label_out

    def _colour(self, mean_rgb: Sequence[float], u: NDArray[np.float64]) -> NDArray[np.float32]:
        """All four colour changes as one affine map of RGB, (3, 4): they are linear, so one pass over the pixels does."""
        bright, contrast, saturation = 1 + (2 * u[:3] - 1) * (self.brightness, self.contrast, self.saturation)
        grey = np.tile(_LUMA, (3, 1))
        matrix = bright * contrast * (saturation * np.eye(3) + (1 - saturation) * grey) @ _turn((2 * u[3] - 1) * self.hue)
        mean = float(_LUMA @ mean_rgb)
        offset = np.full((3, 1), bright * (1 - contrast) * mean)
        return np.hstack([matrix, offset]).astype(np.float32)


def _turn(part: float) -> NDArray[np.float64]:
    """Rotation of RGB about the grey axis by `part` of a full turn, (3, 3); greys stay (Rodrigues' formula)."""
    cos, sin = math.cos(2 * math.pi * part), math.sin(2 * math.pi * part)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return np.asarray(cos * np.eye(3) + sin * cross + (1 - cos) / 3)


def _window(length: int, crop: int, scale: float, u: float) -> tuple[int, int, int, int]:
    """One axis: [from, to) in the source that lands on [from, to) in the crop, at a random place."""
    wanted = max(1, round(crop / scale))
    if wanted <= length:
        start = int(u * (length - wanted + 1))
        return start, start + wanted, 0, crop
    shown = min(crop, max(1, round(length * scale)))
    start = int(u * (crop - shown + 1))
    return 0, length, start, start + shown


class Cached:
    """A split that keeps decoded samples in memory, up to `limit_bytes`; samples beyond are read each time.

    Nothing is thrown out: an epoch touches every sample once, where throwing out the oldest would never give a hit.
    Samples are copies, so that nobody can alter what is kept. Safe for use from several threads.
    """

    def __init__(self, split: Split, limit_bytes: int) -> None:
        self.split = split
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: dict[int, Sample] = {}
        self._lock = threading.Lock()

    @property
    def labels(self) -> LabelSet:
        return self.split.labels

    @property
    def digest(self) -> str:
        return self.split.digest

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        kept = self._kept.get(index)
        if kept is None:
            kept = self.split[index]
            size = kept.frame.nbytes + kept.label.nbytes
            with self._lock:
                if index in self._kept or self.used_bytes + size > self.limit_bytes:
                    return kept
                self._kept[index] = kept
                self.used_bytes += size
        return Sample(kept.name, kept.frame.copy(), kept.label.copy())
