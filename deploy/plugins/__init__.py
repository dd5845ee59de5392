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
from pathlib import Path

DOMAIN = "edgesmith"
VERSIONS = {"EnlargeArgmax": 1, "ZoomedConv": 1}
"""Versions of the operators. One is raised when the operator means something else."""
SOURCES = Path(__file__).parent


def source_digest() -> str:
    """SHA-256 over names and bytes of all C++ and CUDA sources (hexadecimal). Libraries built from them carry it."""
    names = sorted(p.name for p in SOURCES.iterdir() if p.suffix in (".h", ".cpp", ".cu"))
    lines = "".join(f"{n} {hashlib.sha256((SOURCES / n).read_bytes()).hexdigest()}\n" for n in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def require_ours(library: ctypes.CDLL, path: Path) -> None:
    """Raise RuntimeError unless `library` was built from these very sources: each one tells its digest."""
    try:
        tell = library.edgesmith_source_digest
    except AttributeError:
        raise RuntimeError(f"{path} is not a library of edgesmith's plugins") from None
    tell.restype = ctypes.c_char_p
    tell.argtypes = []
    if (found := tell().decode()) != source_digest():
        raise RuntimeError(f"{path} was built from other sources ({found[:12]}, not {source_digest()[:12]}); build it again")


def load(path: Path) -> ctypes.CDLL:
    """Load the TensorRT plugins' library into this process, which registers them. TensorRT must be loaded already.

    Raises FileNotFoundError, OSError when it does not load, RuntimeError when it was built from other sources.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such library; see deploy/plugins/CMakeLists.txt")
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    require_ours(library, path)
    return library
