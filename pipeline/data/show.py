"""A dataset to look at: colours for label maps, class shares, and a contact sheet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .dataset import VOID, LabelSet, Split
from .pairs import FileSplit

INK = (32, 33, 36)
PAPER = (255, 255, 255)
_TILE_WIDTH, _GAP, _LINE = 320, 16, 22
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Shares:
    """How much of a split each class takes. Shares are of all pixels, void included."""

    names: tuple[str, ...]
    frames: int
    pixels: int
    shares: tuple[float, ...]
    """Per class, 0 to 1."""
    void: float
    frames_with: tuple[int, ...]
    """Per class, the frames in which it occurs."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON value with the classes by name."""
        return {
            "frames": self.frames,
            "pixels": self.pixels,
            "void_share": self.void,
            "share": dict(zip(self.names, self.shares, strict=True)),
            "frames_with_class": dict(zip(self.names, self.frames_with, strict=True)),
        }


def class_shares(split: Split, indices: Sequence[int] | None = None) -> Shares:
    """Class shares over the frames `indices` (default: all). Raises ValueError or OSError for a file that is damaged."""

    def count(index: int) -> NDArray[np.int64]:
        label = split.label(index) if isinstance(split, FileSplit) else split[index].label
        return label_counts(label)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        counts = list(pool.map(count, range(len(split)) if indices is None else indices))
    return shares_of(split.labels, counts)


def label_counts(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels per label value, (256,)."""
    return np.bincount(label.ravel(), minlength=256).astype(np.int64)


def shares_of(labels: LabelSet, counts: Sequence[NDArray[np.int64]]) -> Shares:
    """Class shares from the pixel counts of each frame."""
    table = np.stack(counts) if counts else np.zeros((0, 256), np.int64)
    classes = len(labels.names)
    pixels = int(table.sum())
    shares = table.sum(axis=0) / max(1, pixels)
    present = (table[:, :classes] > 0).sum(axis=0)
    return Shares(
        names=labels.names,
        frames=len(counts),
        pixels=pixels,
        shares=tuple(float(s) for s in shares[:classes]),
        void=float(shares[VOID]),
        frames_with=tuple(int(n) for n in present),
    )


def paint(label: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """A label map (H, W) in colours (H, W, 3); void is black."""
    lut = np.zeros((256, 3), np.uint8)
    lut[: len(palette)] = palette
    return np.take(lut, label, axis=0)


def contact_sheet(split: Split, count: int = 12, seed: int = 0, shares: Shares | None = None) -> NDArray[np.uint8]:
    """`count` frames, drawn with `seed`, beside their coloured label maps, and a legend, as an RGB image.

    The legend shows `shares`; without them they are counted over the whole split, which reads every label map.
    """
    if count < 1:
        raise ValueError(f"count={count}: needs at least one frame")
    if len(split) == 0:
        raise ValueError("the split is empty; there is nothing to show")
    shares = shares or class_shares(split)
    chosen = np.random.default_rng(seed).choice(len(split), min(count, len(split)), replace=False)
    tiles = [_tile(split, int(index)) for index in sorted(chosen)]
    legend = _legend(split.labels, shares)
    across = 1 if len(tiles) < 3 else 2
    height = max(t.shape[0] for t in tiles)
    cells = [_on_paper(t, height + _GAP, t.shape[1] + _GAP) for t in tiles]
    cells += [_on_paper(cells[0][:0], height + _GAP, cells[0].shape[1])] * (-len(cells) % across)
    grid = np.vstack([np.hstack(cells[i : i + across]) for i in range(0, len(cells), across)])
    total = max(grid.shape[0], legend.shape[0])
    body = np.hstack([_on_paper(grid, total, grid.shape[1]), _on_paper(legend, total, legend.shape[1])])
    sheet = np.full((body.shape[0] + _GAP, body.shape[1] + 2 * _GAP, 3), PAPER, np.uint8)
    sheet[_GAP:, _GAP:-_GAP] = body
    return sheet


def png(image: NDArray[np.uint8]) -> bytes:
    """An RGB (H, W, 3) or grey (H, W) image as the bytes of a PNG file."""
    stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", stored)
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as PNG")
    return bytes(data.tobytes())


def _tile(split: Split, index: int) -> NDArray[np.uint8]:
    """One frame, its label map beside it, its name below."""
    name, frame, label = split[index]
    size = (_TILE_WIDTH, max(1, round(frame.shape[0] * _TILE_WIDTH / frame.shape[1])))
    left = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    right = paint(np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), np.uint8), split.labels.palette)
    tile = _on_paper(np.hstack([left, right]), size[1] + _LINE, 2 * size[0])
    _write(tile, f"{index}  {name}", 0, size[1] + 15)
    return tile


def _legend(labels: LabelSet, shares: Shares) -> NDArray[np.uint8]:
    """Colour, name and share of each class; a second and third column where there are many classes."""
    rows = [(n, c, s) for n, c, s in zip(labels.names, labels.palette, shares.shares, strict=True)]
    rows.append(("void", (0, 0, 0), shares.void))
    widest = max(_width(name) for name, _, _ in rows)
    column = 28 + widest + 70
    per_column = min(len(rows), 32)
    columns = -(-len(rows) // per_column)
    legend = np.full((_LINE * (per_column + 1), column * columns, 3), PAPER, np.uint8)
    _write(legend, f"{shares.frames} frames, share of pixels", 0, 15)
    for i, (name, colour, share) in enumerate(rows):
        x, y = column * (i // per_column), _LINE * (1 + i % per_column)
        cv2.rectangle(legend, (x, y + 3), (x + 18, y + 17), colour, cv2.FILLED)
        cv2.rectangle(legend, (x, y + 3), (x + 18, y + 17), INK, 1)
        _write(legend, name, x + 26, y + 15)
        _write(legend, f"{100 * share:.2f} %", x + 34 + widest, y + 15)
    return _on_paper(legend, legend.shape[0], max(legend.shape[1], 220))


def _on_paper(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The image at the top left of a white sheet of this size."""
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    sheet[: image.shape[0], : image.shape[1]] = image
    return sheet


def _ascii(text: str) -> str:
    """OpenCV's fonts have ASCII only."""
    text = text if len(text) <= 60 else text[:57] + "..."
    return text.encode("ascii", "replace").decode()


def _width(text: str) -> int:
    (width, _), _ = cv2.getTextSize(_ascii(text), _FONT, 0.45, 1)
    return int(width)


def _write(image: NDArray[np.uint8], text: str, x: int, y: int) -> None:
    cv2.putText(image, _ascii(text), (x, y), _FONT, 0.45, INK, 1, cv2.LINE_AA)
