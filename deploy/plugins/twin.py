"""The plugins without a GPU: their sources built by g++ at first use, and called through ctypes.

`zoomed_conv` and `enlarge_argmax` run the kernels' own source in an emulated launch: they prove it, slowly.
`CpuEnlargement` is EnlargeArgmax written for processors: that one is fast.

`native.py` says where the library lies.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.engines.onnxruntime import processor
from edgesmith.deploy.plugins.native import built

if TYPE_CHECKING:
    from typing_extensions import Self

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-pthread")
"""Without contraction: coordinates are torch's only if no product and sum are fused."""
SHAPES = {"float32": 1, "float16": 4}
"""How many tile shapes there are: SHAPES_FLOAT, SHAPES_HALF in zoomed.h."""

Float = NDArray[np.float32]
Layout = Literal["planar", "channels_last"]


class _Zoomed(ctypes.Structure):
    """`Zoomed` in zoomed.h."""

    _fields_ = [(n, ctypes.c_int32) for n in ("channels", "outputs", "layers", "stride", "aligned", "half")]


def compiler() -> str | None:
    """The C++ compiler: g++, or what CXX names. None where it is not here."""
    return shutil.which(os.environ.get("CXX", "g++"))


@cache
def library() -> ctypes.CDLL:
    """The twin, built if the cache has none of these sources.

    Raises RuntimeError when there is no C++ compiler, or with its words when it fails.
    """
    tool = compiler()
    if tool is None:
        raise RuntimeError("the plugins' CPU form needs a C++ compiler: apt install g++, or name one in CXX")
    found = built("twin", tool, FLAGS, ("twin.cpp",), processor())
    for name in ("edgesmith_enlarge_open", "edgesmith_zoomed_serialised"):
        getattr(found, name).restype = ctypes.c_void_p if name.endswith("open") else ctypes.c_size_t
    found.edgesmith_enlarge_run.argtypes = [ctypes.c_void_p] * 3
    found.edgesmith_enlarge_close.argtypes = [ctypes.c_void_p]
    found.edgesmith_enlarge_run.restype = found.edgesmith_enlarge_close.restype = None
    return found


@dataclass(frozen=True)
class ZoomedConv:
    """A zoomed convolution with its weights: `layers` one or two of (weights (K, C, 3, 3), biases (K,)), BN folded in."""

    layers: Sequence[tuple[Float, Float]]
    stride: Literal[1, 2] = 1
    """2: without the enlargement, so that the output is of half the size."""
    align_corners: bool = True
    """Coordinates of both resizes: corners aligned, or half-pixel."""

    def __post_init__(self) -> None:
        wrong = len(self.layers) not in (1, 2) or self.stride not in (1, 2)
        width = 0 if wrong else self.layers[0][0].shape[1]
        for weights, biases in () if wrong else self.layers:
            wrong = wrong or weights.shape[1:] != (width, 3, 3) or biases.shape != weights.shape[:1]
            width = weights.shape[0]
        wrong = wrong or len({w.shape[0] for w, _ in self.layers}) != 1
        if wrong:
            shapes = [(w.shape, b.shape) for w, b in self.layers]
            raise ValueError(f"layers, stride: {shapes} and {self.stride} are no zoomed convolution")

    def out_hw(self, h: int, w: int) -> tuple[int, int]:
        return (h, w) if self.stride == 1 else (max(1, h // 2), max(1, w // 2))

    def data(self, dtype: np.dtype[Any]) -> _Zoomed:
        k, c = self.layers[0][0].shape[:2]
        return _Zoomed(c, k, len(self.layers), self.stride, self.align_corners, dtype == np.float16)

    def pointers(self) -> tuple[Any, Any, list[Float]]:
        """Arrays of pointers to weights and biases, and what they point into."""
        held = [np.ascontiguousarray(v, np.float32) for pair in self.layers for v in pair]
        kind = ctypes.c_void_p * len(self.layers)
        return kind(*(v.ctypes.data for v in held[::2])), kind(*(v.ctypes.data for v in held[1::2])), held

    def serialised(self, dtype: str = "float16") -> bytes:
        """What an engine's plan keeps of the operator."""
        data = self.data(np.dtype(dtype))
        weights, biases, held = self.pointers()
        size = library().edgesmith_zoomed_serialised(ctypes.byref(data), weights, biases, None)
        made = ctypes.create_string_buffer(size)
        library().edgesmith_zoomed_serialised(ctypes.byref(data), weights, biases, made)
        del held
        return made.raw


def zoomed_conv(x: NDArray[Any], op: ZoomedConv, *, layout: Layout = "planar", shape: int = -1) -> NDArray[Any]:
    """`op` on `x` (N, C, H, W) in float32 or float16, by the CUDA kernels' source; the same type and order come back.

    `layout` is how the maps lie in memory: as TensorRT's kLINEAR, or with channels last as its kHWC (float32) and kHWC8
    (float16). `shape` names the tile's shape; -1 lets the launch plan choose.
    Raises ValueError when type, channels or shape do not fit.
    """
    if x.dtype.name not in SHAPES or x.ndim != 4 or x.shape[1] != op.layers[0][0].shape[1]:
        raise ValueError(f"x is {x.dtype} {x.shape}; needs float32 or float16 (N, {op.layers[0][0].shape[1]}, H, W)")
    if not -1 <= shape < SHAPES[x.dtype.name]:
        raise ValueError(f"shape is {shape}; {x.dtype} has {SHAPES[x.dtype.name]}")
    n, c, h, w = x.shape
    k = op.layers[0][0].shape[0]
    out_h, out_w = op.out_hw(h, w)
    given = _laid_out(x, layout)
    in_pitch = 0 if layout == "planar" else given.shape[3]
    out_pitch = 0 if layout == "planar" else _pitch(k, x.dtype)
    out = np.full((n, k, out_h, out_w) if layout == "planar" else (n, out_h, out_w, out_pitch), np.nan, x.dtype)
    weights, biases, held = op.pointers()
    sizes = (n, h, w, in_pitch, out_pitch, shape)
    data = op.data(x.dtype)
    if library().edgesmith_zoomed(ctypes.byref(data), *sizes, _address(given), weights, biases, _address(out)):
        raise ValueError(f"a zoomed convolution of {c} to {k} channels on {h} x {w} is refused")
    del held
    return out if layout == "planar" else np.ascontiguousarray(out[..., :k].transpose(0, 3, 1, 2))


def enlarge_argmax(
    logits: NDArray[Any], hw: tuple[int, int], *, align_corners: bool = True, layout: Layout = "planar", labels: str = "uint8"
) -> NDArray[np.uint8]:
    """Labels (N, H, W) of `logits` (N, classes, h, w) in float32 or float16 enlarged to `hw`, by the CUDA kernel's source.

    `labels` is the type that the kernel writes: uint8, or float16 as in TensorRT.
    """
    if logits.dtype.name not in SHAPES or logits.ndim != 4:
        raise ValueError(f"logits are {logits.dtype} {logits.shape}; needs float32 or float16 (N, classes, h, w)")
    n, classes, h, w = logits.shape
    given = _laid_out(logits, layout)
    pitch = 0 if layout == "planar" else given.shape[3]
    out = np.full((n, *hw), 255, labels)
    kinds = (logits.dtype == np.float16, labels == "float16")
    if library().edgesmith_enlarge(n, classes, h, w, *hw, align_corners, pitch, *kinds, _address(given), _address(out)):
        raise ValueError(f"{classes} classes on {h} x {w} enlarged to {hw} are refused")
    return out.astype(np.uint8)


class CpuEnlargement:
    """EnlargeArgmax on the processor: float32 logits (1, classes, h, w) -> labels uint8 (H, W). Use it as a context manager.

    An object belongs to one thread at a time; it keeps its scratch memory. `threads` is how many of its own it uses at most.
    Raises ValueError for impossible sizes, RuntimeError when the twin cannot be built.
    """

    def __init__(
        self, classes: int, low_hw: tuple[int, int], hw: tuple[int, int], *, align_corners: bool = True, threads: int = 1
    ) -> None:
        self.shape = (1, classes, *low_hw)
        self.hw = hw
        self._library = library()
        self._handle = self._library.edgesmith_enlarge_open(classes, *low_hw, *hw, align_corners, threads)
        if not self._handle:
            raise ValueError(
                f"{classes} classes on {low_hw} enlarged to {hw} are refused: at most 255 classes, sizes of 1 or more"
            )

    def __call__(self, logits: Float, labels: NDArray[np.uint8]) -> None:
        """Fill `labels`. Raises ValueError when shape, type or memory order differ, RuntimeError when it is closed."""
        if self._handle is None:
            raise RuntimeError("this enlargement is closed")
        for name, array, shape, dtype in (("logits", logits, self.shape, np.float32), ("labels", labels, self.hw, np.uint8)):
            if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
                raise ValueError(f"{name}: {array.dtype} {array.shape}; needs contiguous {np.dtype(dtype)} {shape}")
        self._library.edgesmith_enlarge_run(self._handle, _address(logits), _address(labels))

    def close(self) -> None:
        """Free the scratch memory. Closing twice is allowed."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.edgesmith_enlarge_close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def axis(low: int, high: int, align_corners: bool) -> tuple[NDArray[np.int32], Float, NDArray[np.int32]]:
    """Each output's first input and its second's weight, (high,); where each cell's outputs begin, (low + 1,)."""
    index, weight, first = np.empty(high, np.int32), np.empty(high, np.float32), np.empty(low + 1, np.int32)
    if library().edgesmith_axis(low, high, align_corners, _address(index), _address(weight), _address(first)):
        raise ValueError(f"an axis from {low} to {high} is refused")
    return index, weight, first


def planned_shared_bytes(rows: int, cols: int, outputs: int, channels: int, half: bool) -> int:
    """Shared memory in bytes of a block that computes rows x cols pixels and `outputs` channels from `channels`."""
    return int(library().edgesmith_shared_bytes(rows, cols, outputs, channels, half))


def reads(serialised: bytes) -> bool:
    """Whether the plugin takes these bytes for a serialised operator of its version."""
    return bool(library().edgesmith_zoomed_reads(serialised, ctypes.c_size_t(len(serialised))))


def _pitch(channels: int, dtype: np.dtype[Any]) -> int:
    """Elements of a pixel where channels are last: TensorRT rounds them up to 8 in kHWC8, not in kHWC."""
    return -(-channels // 8) * 8 if dtype == np.float16 else channels


def _laid_out(x: NDArray[Any], layout: Layout) -> NDArray[Any]:
    if layout == "planar":
        return np.ascontiguousarray(x)
    n, c, h, w = x.shape
    # What pads a pixel is nothing that a kernel may rely on.
    given = np.full((n, h, w, _pitch(c, x.dtype)), np.nan, x.dtype)
    given[..., :c] = x.transpose(0, 2, 3, 1)
    return given


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
