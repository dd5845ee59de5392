"""The plugins' kernels without TensorRT: built by nvcc at first use, launched through ctypes on memory that the caller owns.

For the benchmark and for GPU tests. Addresses are integers, as torch's `data_ptr()` and `cuda_stream` give them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from functools import cache
from typing import Any

import numpy as np

from edgesmith.deploy.plugins.native import built
from edgesmith.deploy.plugins.twin import ZoomedConv


@cache
def library(compute_capability: str) -> ctypes.CDLL:
    """The kernels for one architecture, such as `sm_90`. Raises RuntimeError when nvcc is missing or fails."""
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc")) or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        raise RuntimeError("the CUDA kernels need nvcc: install the CUDA toolkit, or name the compiler in NVCC")
    arguments = ("-std=c++17", "-O3", f"-arch={compute_capability}", "-shared", "-Xcompiler=-fPIC")
    found = built("kernels", nvcc, arguments, ("kernels.cu", "cuda_api.cpp"), compute_capability)
    found.edgesmith_zoomed_pack.restype = found.edgesmith_zoomed_workspace.restype = ctypes.c_size_t
    return found


class CudaZoomedConv:
    """A zoomed convolution on maps (N, C, h, w) of one size. A pitch of 0 means planes, else channels last.

    Raises ValueError for an operator that the kernels refuse.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        op: ZoomedConv,
        dtype: str,
        shape: tuple[int, int, int],
        pitches: tuple[int, int],
        tile: int = -1,
    ) -> None:
        self._library, self._data = library, op.data(np.dtype(dtype))
        self._sizes = tuple(ctypes.c_int(v) for v in (*shape, *pitches, tile))
        weights, biases, held = op.pointers()
        size = library.edgesmith_zoomed_pack(ctypes.byref(self._data), weights, biases, None)
        if size == 0:
            raise ValueError(f"{op.layers[0][0].shape} is no zoomed convolution that the kernels take")
        self.weights = np.empty(size, np.uint8)
        """Packed weights, to be copied to the device."""
        library.edgesmith_zoomed_pack(ctypes.byref(self._data), weights, biases, ctypes.c_void_p(self.weights.ctypes.data))
        del held
        self.workspace_bytes: int = library.edgesmith_zoomed_workspace(ctypes.byref(self._data), *self._sizes)

    def launch(self, x: int, weights: int, workspace: int, y: int, stream: int) -> None:
        """Enqueue. Raises RuntimeError with CUDA's error number."""
        addresses = [ctypes.c_void_p(v) for v in (x, weights, workspace, y, stream)]
        if error := self._library.edgesmith_zoomed_launch(ctypes.byref(self._data), *self._sizes, *addresses):
            raise RuntimeError(f"the zoomed convolution was not launched: CUDA error {error}")


def enlarge_argmax(library: ctypes.CDLL, sizes: tuple[int, ...], half: bool, logits: int, labels: int, stream: int) -> None:
    """Enqueue EnlargeArgmax to bytes. `sizes`: images, classes, h, w, H, W, align_corners, pitch (0 for planes)."""
    numbers: list[Any] = [ctypes.c_int(v) for v in (*sizes, half, False)]
    addresses = [ctypes.c_void_p(v) for v in (logits, labels, stream)]
    if error := library.edgesmith_enlarge_launch(*numbers, *addresses):
        raise RuntimeError(f"EnlargeArgmax was not launched: CUDA error {error}")
