"""A frame's pixels: the order of their channels, and PNG files. OpenCV is imported at use: it is not always there."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def in_colour_order(
    frame: NDArray[np.uint8], order: Literal["bgr", "rgb"], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """An RGB frame (H, W, 3) with its channels in `order`, C-contiguous, written into `out` where given.

    Raises ValueError when `out` is no C-contiguous uint8 array of the frame's shape.
    """
    if out is None:
        out = np.empty(frame.shape, np.uint8)
    elif out.shape != frame.shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}; it must be uint8 {frame.shape} without gaps, like the frame")
    if order == "rgb":
        np.copyto(out, frame)
    else:
        cv2 = _opencv()
        cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR, dst=out)
    return out


def read_png(path: Path, colour: bool) -> NDArray[np.uint8]:
    """An 8-bit PNG: RGB (H, W, 3) with `colour`, else one channel (H, W). Raises ValueError naming the file."""
    cv2 = _opencv()
    data = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        pixels: NDArray[np.uint8] | None = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error as e:
        raise ValueError(f"{path} cannot be decoded: {str(e).strip()}") from None
    wanted = 3 if colour else 2
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != wanted or (colour and pixels.shape[2] != 3):
        raise ValueError(f"{path} is not an 8-bit {'RGB' if colour else 'single-channel'} PNG")
    if colour:
        pixels = np.ascontiguousarray(pixels[:, :, ::-1])  # OpenCV gives BGR
    return pixels


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as e:
        raise ImportError(
            f"reading images needs OpenCV, which is not installed ({e}): "
            "pip install 'edgesmith[cpu]', or on a Jetson apt install python3-opencv"
        ) from e
    return cv2
