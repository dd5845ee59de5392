"""The grid of frames in a report: what the camera saw, the labels, the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesmith.pipeline.data.dataset import VOID

from .page import clean, image, note, percent, swatch

MOST = 12
"""Samples shown at most."""
WIDTH = 480
"""Pixels: wider pictures are shrunk, so that the page stays small."""


def grid(folder: Path, palette: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """HTML for the samples NNN.frame.jpg, NNN.label.png, NNN.prediction.png in `folder`; a sentence when there are none.

    Labels and predictions are 8-bit class indices, painted here with `palette` (RGB). Raises ValueError naming a file
    that cannot be read.
    """
    found = sorted(folder.glob("*.frame.jpg"))[:MOST] if folder.is_dir() else []
    if not found:
        return note("There are no sample frames.")
    samples = "\n".join(_sample(path, palette) for path in found)
    key = "".join(f"<li>{swatch(c)}{clean(n)}</li>" for c, n in zip(palette, names, strict=False))
    void = f"<li>{swatch((0, 0, 0))}void, or no class</li>"
    heading = '<p class="soft small">Frame, labels, prediction of the bundle\'s engine.</p>'
    return f'{heading}{samples}\n<ul class="key">{key}{void}</ul>'


def _sample(path: Path, palette: Sequence[Sequence[int]]) -> str:
    name = path.name.removesuffix(".frame.jpg")
    frame = _read(path, colour=True)
    pictures = [image(_jpeg(_shrunk(frame, smooth=True)), "jpeg", f"Frame {name}")]
    maps = {}
    for kind, about in (("label", "labels"), ("prediction", "prediction")):
        maps[kind] = _read(path.with_name(f"{name}.{kind}.png"), colour=False)
        painted = _paint(_shrunk(maps[kind], smooth=False), palette)
        pictures.append(image(_png(painted), "png", f"Frame {name}, {about}"))
    words = f"Frame {name}"
    truth, prediction = maps["label"], maps["prediction"]
    if truth.shape == prediction.shape and (counted := truth != VOID).any():
        words += f": {percent(float(np.mean(truth[counted] == prediction[counted])))} of its labelled pixels are right"
    return (
        f'<figure class="sample"><div class="frames">{"".join(pictures)}</div><figcaption>{clean(words)}</figcaption></figure>'
    )


def _paint(labels: NDArray[np.uint8], palette: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """(H, W) class indices -> (H, W, 3) RGB; what is no class is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8).reshape(-1, 3)
    painted: NDArray[np.uint8] = table[labels]
    return painted


def _shrunk(picture: NDArray[np.uint8], smooth: bool) -> NDArray[np.uint8]:
    """At most WIDTH wide; `smooth` averages, otherwise the nearest pixel stands, so that no label is invented."""
    import cv2

    h, w = picture.shape[:2]
    if w <= WIDTH:
        return picture
    size = (WIDTH, max(1, round(h * WIDTH / w)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if smooth else cv2.INTER_NEAREST), np.uint8)


def _read(path: Path, colour: bool) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, or (H, W) class indices."""
    import cv2

    if not path.is_file():
        raise ValueError(f"{path.name} is missing from {path.parent.name}")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR if colour else cv2.IMREAD_UNCHANGED) if data.size else None
    if picture is None or picture.dtype != np.uint8 or picture.ndim != (3 if colour else 2):
        kind = "a picture" if colour else "a picture of 8-bit class indices"
        raise ValueError(f"{path.name} cannot be read as {kind}")
    return np.asarray(picture[:, :, ::-1] if colour else picture, np.uint8)


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    import cv2

    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 84])[1])


def _png(rgb: NDArray[np.uint8]) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1])
