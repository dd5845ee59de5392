"""Operators of our own: `ZoomedConv` and `EnlargeArgmax`, domain `edgesmith`, for TensorRT; their CPU twin; what they compute.

    numbers.h axis.h execute.h    half precision, one axis of a bilinear resize, a block of threads (real or emulated)
    zoomed.h zoomed_tile.h        ZoomedConv: its data, weights and launch plan; one block's work
    enlarge_argmax.h              EnlargeArgmax: why it is exact; one block's work
    enlarge_cpu.h                 EnlargeArgmax for processors
    kernels.h kernels.cu          CUDA: the launches
    tensorrt.cpp                  TensorRT: a thin adapter around them
    cuda_api.cpp cuda.py          CUDA without TensorRT, for the benchmark
    twin.cpp twin.py              the same source by g++, for tests and for hosts without a GPU
    native.py                     libraries built at first use

Nothing here imports TensorRT or CUDA.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DOMAIN = "edgesmith"
VERSIONS = {"EnlargeArgmax": 1, "ZoomedConv": 1}
"""Versions of the operators. One is raised when the operator means something else."""
SOURCES = Path(__file__).parent
LIBRARY = "libedgesmith_plugins.so"
"""Name of the library beside a plan that needs it."""
HOW_TO_BUILD = (
    f"cmake -S {SOURCES} -B build/plugins -DTENSORRT_INCLUDE=DIR && cmake --build build/plugins; "
    "DIR is the folder with NvInfer.h"
)


def source_digest() -> str:
    """SHA-256 over names and bytes of all C++ and CUDA sources (hexadecimal). Libraries built from them carry it."""
    names = sorted(p.name for p in SOURCES.iterdir() if p.suffix in (".h", ".cpp", ".cu"))
    lines = "".join(f"{n} {hashlib.sha256((SOURCES / n).read_bytes()).hexdigest()}\n" for n in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def require_ours(library: ctypes.CDLL, path: Path, digest: str | None = None) -> None:
    """Raise RuntimeError unless `library` was built from sources of this digest, by default these: each one tells its own."""
    try:
        tell = library.edgesmith_source_digest
    except AttributeError:
        raise RuntimeError(f"{path} is not a library of edgesmith's plugins") from None
    tell.restype = ctypes.c_char_p
    tell.argtypes = []
    wanted = digest or source_digest()
    if (found := tell().decode()) != wanted:
        raise RuntimeError(f"{path} was built from other sources ({found[:12]}, not {wanted[:12]}); build it again")


class PluginLibrary(NamedTuple):
    """The compiled library for TensorRT (see CMakeLists.txt), and what a graph or a plan wants of it."""

    path: Path
    operators: tuple[str, ...]
    """Those that are used: names of VERSIONS."""
    digest: str
    """Of the sources that it must have been built from."""

    def load(self) -> ctypes.CDLL:
        """Load it into this process; it needs neither TensorRT nor a driver for that, and registers nothing by itself.

        Raises FileNotFoundError, OSError when it does not load, RuntimeError when it was built from other sources.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: there is no such library; {HOW_TO_BUILD}")
        library = ctypes.CDLL(str(self.path.resolve()))
        require_ours(library, self.path, self.digest)
        return library


def our_library(path: Path, operators: Sequence[str] = tuple(VERSIONS)) -> PluginLibrary:
    """A library that is to be of this package's own sources."""
    return PluginLibrary(path, tuple(operators), source_digest())
