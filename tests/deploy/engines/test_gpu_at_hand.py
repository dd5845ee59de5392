"""Asking the driver which GPU there is. The driver is a fake: the real one is tested where there is a GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from edgesmith.deploy.engines.gpu import Gpu, current_gpu


class FakeDriver:
    """Answers as libcuda does on an Orin; `broken` is the code of cuInit."""

    def __init__(self, broken: int = 0) -> None:
        self.broken = broken

    def cuInit(self, flags: int) -> int:
        return self.broken

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        return self.broken

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"Orin (nvgpu)"
        return 0

    def cuDeviceGetAttribute(self, number: Any, what: int, device: Any) -> int:
        number._obj.value = {75: 8, 76: 7}[what]
        return 0


def test_the_gpus_name_and_architecture_are_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    assert current_gpu() == Gpu("Orin (nvgpu)", "sm87")
    assert current_gpu().slug == "orin-nvgpu"


def test_a_driver_that_does_not_work_is_said_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(100))
    with pytest.raises(RuntimeError, match=r"driver of this machine does not work \(CUDA error 100\)"):
        current_gpu()


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(RuntimeError, match=r"no NVIDIA driver \(libcuda\.so\.1"):
        current_gpu()
