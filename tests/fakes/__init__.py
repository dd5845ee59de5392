"""Fakes of what no test machine has: TensorRT, NVIDIA's driver and plugins for them. Each says that it is one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edgesmith.deploy import plugins
from edgesmith.deploy.engines import tensorrt
from edgesmith.deploy.engines.gpu import Gpu

ORIN = Gpu("Orin", "sm87")
HERE = Path(__file__).parent


class FakeGpu:
    """A machine with an Orin and TensorRT 10.3, as children of this process see it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, monkeypatch
        folder.mkdir()
        shutil.copyfile(HERE / "tensorrt.py", folder / "tensorrt.py")
        compiled(HERE / "libcuda.c", folder / "libcuda.so.1")
        self.library = self.plugin_library(plugins.source_digest())
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setattr(tensorrt, "current_gpu", lambda: ORIN)

    def plugin_library(self, digest: str) -> Path:
        """A library that says it was built from sources of this digest."""
        path = self.folder / f"plugins-{digest[:8]}.so"
        return compiled(HERE / "plugins.c", path, f'-DDIGEST="{digest}"')

    def takes(self, **median_ms: float) -> None:
        """How long plans run, by operators; `native` is the one without."""
        self.says("MS", json.dumps({name.replace("_and_", "+"): ms for name, ms in median_ms.items()}))

    def says(self, what: str, value: str) -> None:
        """See tensorrt.py."""
        self._patch.setenv(f"FAKE_{what}", value)


def compiled(source: Path, target: Path, *arguments: str) -> Path:
    """`source` as a library; skips the test where there is no compiler."""
    if shutil.which("gcc") is None:
        pytest.skip(f"needs gcc, which compiles the fake {source.name}")
    subprocess.run(["gcc", "-shared", "-fPIC", *arguments, str(source), "-o", str(target)], check=True)
    return target
