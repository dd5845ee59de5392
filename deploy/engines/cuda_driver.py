"""The few calls of CUDA's driver that running and timing a plan takes, by ctypes: a device need have no other binding.

For a child process: what is allocated is freed when it ends.
"""

from __future__ import annotations

import ctypes
from typing import Any

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class Stream:
    """A stream on the first GPU, with memory and events, for the thread that made it: the context is current there alone.

    Raises RuntimeError, like all of its methods, with the driver's error number; OSError where there is no driver.
    """

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        self.handle = int(stream.value or 0)
        self._begin, self._end = self._event(), self._event()

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes: its address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def upload(self, address: int, data: bytes) -> None:
        """Enqueue a copy of `data` to `address`: what is enqueued after it finds it there. `data` is free at once.

        On this stream, because a non-blocking one does not wait for copies on the default stream, which return before pageable
        memory has arrived.
        """
        size, stream = ctypes.c_size_t(len(data)), ctypes.c_void_p(self.handle)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), data, size, stream)

    def download(self, address: int, size: int) -> bytes:
        """`size` bytes from `address`, when all that was enqueued is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.handle))
        data = ctypes.create_string_buffer(size)
        self._call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(address), ctypes.c_size_t(size))
        return data.raw

    def begin(self) -> None:
        """Time what is enqueued from here on."""
        self._call("cuEventRecord", self._begin, ctypes.c_void_p(self.handle))

    def elapsed_ms(self) -> float:
        """What the GPU took since `begin`; waits for it."""
        taken = ctypes.c_float()
        self._call("cuEventRecord", self._end, ctypes.c_void_p(self.handle))
        self._call("cuEventSynchronize", self._end)
        self._call("cuEventElapsedTime", ctypes.byref(taken), self._begin, self._end)
        return taken.value

    def _event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        return event

    def _call(self, name: str, *arguments: Any) -> None:
        if error := getattr(self._cuda, name)(*arguments):
            raise RuntimeError(f"CUDA's driver: {name} failed with error {error}")
