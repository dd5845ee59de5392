"""The GPU of this machine, as the driver names it; asked through ctypes, so that no library is loaded that could crash."""

from __future__ import annotations

import ctypes
import re
from typing import NamedTuple

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class Gpu(NamedTuple):
    """One NVIDIA GPU."""

    name: str
    """As the driver says it, such as `Orin`."""
    compute_capability: str
    """Such as `sm87`."""

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def current_gpu() -> Gpu:
    """The first GPU of this machine. Raises RuntimeError when there is no driver, or none that works."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise RuntimeError("this machine has no NVIDIA driver (libcuda.so.1 is not found)") from None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    numbers = ctypes.c_int(), ctypes.c_int()
    codes = [cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), 0)]
    if not any(codes):
        codes.append(cuda.cuDeviceGetName(name, len(name), device))
        for number, what in zip(numbers, (_MAJOR, _MINOR), strict=True):
            codes.append(cuda.cuDeviceGetAttribute(ctypes.byref(number), what, device))
    if failed := next((c for c in codes if c), 0):
        raise RuntimeError(f"the NVIDIA driver of this machine does not work (CUDA error {failed}); nvidia-smi says more")
    return Gpu(name.value.decode(errors="replace"), "sm{}{}".format(*(n.value for n in numbers)))
