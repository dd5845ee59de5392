"""Frames and masks from the bytes of their files. Damaged files are told from whole ones before they are decoded."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray


def decode_frame(data: bytes, path: Path) -> NDArray[np.uint8]:
    """An image file's bytes -> (H, W, 3) RGB. Raises ValueError naming `path` for what is damaged or no image.

    Orientation tags are ignored: masks are drawn on the pixels as stored.
    """
    check_whole(data, path)
    bgr = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, path)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr), np.uint8)


def decode_mask(data: bytes, path: Path, kind: Literal["index", "colour"]) -> NDArray[np.uint8]:
    """A mask PNG's bytes -> (H, W) values as stored (kind index) or (H, W, 3) RGB (kind colour).

    Palette PNGs give the palette's index, PNGs of fewer than 8 bits the stored number, not the displayed grey.
    """
    check_whole(data, path)
    if not data.startswith(_PNG):
        raise ValueError(f"{path}: a mask must be a PNG; lossy formats change labels")
    depth, colour_type = data[24], data[25]
    if kind == "colour":
        if colour_type in (0, 4) or depth == 16:
            raise ValueError(f"{path}: has {depth}-bit grey values, but the masks are said to hold colours")
        bgr = _imdecode(data, cv2.IMREAD_COLOR, path)
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr), np.uint8)
    if colour_type not in (0, 3):
        raise ValueError(f"{path}: has colours, but the masks are said to hold class values")
    if depth == 16:
        raise ValueError(f"{path}: has 16-bit values; a mask of classes has 8 bits (is this an instance or depth map?)")
    raw = _imdecode(_as_grey(data) if colour_type == 3 else data, cv2.IMREAD_UNCHANGED, path)
    if raw.ndim != 2:
        raise ValueError(f"{path}: is not a single-channel mask")
    return raw if depth == 8 else raw // (255 // ((1 << depth) - 1))  # the decoder spreads 0..2^depth-1 over 0..255


def check_whole(data: bytes, path: Path) -> None:
    """Raise ValueError for a JPEG or PNG that ends early, which decoders silently fill up with grey, and for an altered PNG.

    An altered JPEG goes unseen: it has no checksums.
    """
    if not data:
        raise ValueError(f"{path}: is empty")
    if data.startswith(_PNG):
        for kind, start, end, sound in _chunks(data):
            if not sound:
                raise ValueError(f"{path}: damaged PNG: the checksum of {kind!r} does not fit; copy the file again")
            if start == len(_PNG) and (kind != b"IHDR" or end - start != 25):
                raise ValueError(f"{path}: damaged PNG: it has no header; copy the file again")
            if kind == b"IEND":
                return
        raise ValueError(f"{path}: truncated PNG: it ends after {len(data)} bytes; copy the file again")
    if data.startswith(b"\xff\xd8") and not _jpeg_ends(data):
        raise ValueError(f"{path}: truncated JPEG: it ends after {len(data)} bytes; copy the file again")


_PNG = b"\x89PNG\r\n\x1a\n"
# In compressed data 0xFF is followed by 0x00 or a restart marker; anything else is the next segment. 0xFF may repeat.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


def _jpeg_ends(data: bytes) -> bool:
    """Whether the end marker follows the scans, walking the segments so that an embedded thumbnail's does not count."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker = data[found.end() - 1]
        if marker == 0xD9:
            return True
        if found.end() + 2 > len(data):
            return False
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return False


def _chunks(data: bytes) -> list[tuple[bytes, int, int, bool]]:
    """A PNG's chunks as far as the data goes: (kind, start, end, checksum fits)."""
    found, at = [], len(_PNG)
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data):
            break
        sound = zlib.crc32(data[at + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]
        found.append((kind, at, end, sound))
        at = end
    return found


def _as_grey(data: bytes) -> bytes:
    """A palette PNG rewritten as a grey one: same pixels, header says grey, palette left out. OpenCV gives no indices."""
    out = [_PNG]
    for kind, start, end, _ in _chunks(data):
        if kind == b"IHDR":
            header = bytearray(data[start + 4 : end - 4])
            header[4 + 9] = 0  # colour type: grey
            out.append(data[start : start + 4] + header + struct.pack(">I", zlib.crc32(header)))
        elif kind in (b"IDAT", b"IEND"):
            out.append(data[start:end])
    return b"".join(out)


def _imdecode(data: bytes, flags: int, path: Path) -> NDArray[np.uint8]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as e:
        raise ValueError(f"{path}: cannot be decoded: {str(e).strip()}") from None
    if image is None or image.size == 0:
        raise ValueError(f"{path}: is not an image that can be decoded")
    return np.asarray(image, np.uint8)
