"""The plugins' sources: what they are built to carries their digest, and the vendor's compilers take them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgesmith.deploy import plugins
from edgesmith.deploy.plugins import native, twin


def test_the_twin_is_built_once_and_carries_its_sources_digest() -> None:
    library = twin.library()
    assert library is twin.library()
    plugins.require_ours(library, Path("twin"))


def test_a_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library = twin.library()
    monkeypatch.setattr(plugins, "source_digest", lambda: "0" * 64)
    with pytest.raises(RuntimeError, match="was built from other sources"):
        plugins.require_ours(library, Path("twin.so"))
    with pytest.raises(RuntimeError, match="is not a library of edgesmith's plugins"):
        plugins.require_ours(ctypes.CDLL(None), Path("python"))
    with pytest.raises(FileNotFoundError, match="cmake -S"):
        plugins.our_library(Path("missing.so")).load()


def test_without_a_compiler_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"apt install g\+\+"):
        twin.library.__wrapped__()


BUILT = """
from edgesmith.deploy.plugins.native import built
library = built("twin", "g++", ("-std=c++17", "-fPIC", "-shared", "-pthread"), ("twin.cpp",), "here")
"""


def test_a_library_that_a_power_loss_cut_short_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESMITH_CACHE", str(tmp_path))
    for _ in range(2):  # in children: a library that is loaded already would not be read again
        subprocess.run([sys.executable, "-c", BUILT], check=True)
        (path,) = (tmp_path / "plugins").iterdir()
        assert path.stat().st_size > 1000
        path.write_bytes(b"")


def test_a_library_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    flush, replace = os.fsync, os.replace

    def flushed(fd: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        flush(fd)

    def replaced(source: Path, target: Path) -> None:
        done.append(f"renamed to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    native._build(["g++", "-shared", "-x", "c++", os.devnull], tmp_path / "x.so")
    assert done[0] == "x.so"
    assert done[-1] == "renamed to x.so"


def test_a_cache_that_cannot_be_written_is_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGESMITH_CACHE", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match=r"file/plugins takes no library of plugins: .*; name another .* EDGESMITH_CACHE"):
        twin.library.__wrapped__()


def test_versions_are_those_of_the_sources() -> None:
    told = (plugins.SOURCES / "zoomed.h").read_text() + (plugins.SOURCES / "enlarge_argmax.h").read_text()
    assert f"ZOOMED_VERSION = {plugins.VERSIONS['ZoomedConv']};" in told
    assert f"ENLARGE_ARGMAX_VERSION = {plugins.VERSIONS['EnlargeArgmax']};" in told


def test_the_adapter_compiles_without_warnings_against_tensorrt(tmp_path: Path) -> None:
    vendor = os.environ.get("TENSORRT_INCLUDE")
    cuda = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    if vendor is None or not (cuda / "cuda_runtime_api.h").is_file():
        pytest.skip("needs CUDA's headers, and TENSORRT_INCLUDE, the folder with NvInfer.h")
    assert (Path(vendor) / "NvInfer.h").is_file(), f"TENSORRT_INCLUDE: {vendor} has no NvInfer.h"
    command = ["g++", "-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-isystem", vendor, "-isystem", str(cuda)]
    command += ['-DEDGESMITH_SOURCE_DIGEST="0"', "-c", str(plugins.SOURCES / "tensorrt.cpp"), "-o", str(tmp_path / "a.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_twin_compiles_without_warnings() -> None:
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", '-DEDGESMITH_SOURCE_DIGEST="0"']
    done = subprocess.run([*command, str(plugins.SOURCES / "twin.cpp")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
