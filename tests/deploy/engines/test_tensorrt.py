"""TensorRT for RTX builds real plans in a child process; a fake stands in only for how a library dies."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgesmith.deploy.engines.tensorrt import build_plan, engine_key, open_plan, require_library

FAKE = '''
"""A fake of the vendor's module: reads one node, then does what the test is about."""
import ctypes, os, signal, sys, time
__version__ = "0.0"

class ILogger:
    ERROR, INTERNAL_ERROR = "error", "internal"

class IProgressMonitor:
    pass

class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 1

class BuilderFlag:
    TF32 = 6

class Config:
    def __init__(self):
        self.cleared = set()
    def clear_flag(self, flag):
        self.cleared.add(flag)

config = Config()

class Builder:
    def __init__(self, logger):
        self.logger = logger
    def create_network(self, flags):
        assert flags == 2
    def create_builder_config(self):
        return config

class OnnxParser:
    def __init__(self, network, logger):
        self.logger = logger
    def parse_from_file(self, path):
        if BuilderFlag.TF32 not in config.cleared:
            raise RuntimeError("TF32 is on: fp32 would have 10 bits of mantissa")
        self.logger.log("verbose", "Parsing node: zoomed_3 [Zoom]")
        print("printed by the library", flush=True)
        DEATH
'''


@pytest.fixture
def fake_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))

    def that(death: str) -> None:
        (folder / "tensorrt.py").write_text(FAKE.replace("DEATH", death))

    return SimpleNamespace(that=that)


def require_rtx() -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:  # importing it here is what the builder avoids
        pytest.skip("TensorRT for RTX is not installed")


def test_a_real_plan_is_built_without_a_gpu_and_outside_this_process(graph: Path, tmp_path: Path) -> None:
    require_rtx()
    phases: list[str] = []
    plan = tmp_path / "engine.plan"
    built = build_plan(graph, plan, progress=phases.append)
    assert built.backend == "tensorrt_rtx"
    assert built.compute_capability == "sm86"
    assert built.plan_bytes == plan.stat().st_size > 1000
    assert built.build_seconds > 0
    assert "Building engine" in phases
    assert "tensorrt_rtx" not in sys.modules
    assert sorted(p.name for p in tmp_path.iterdir()) == ["engine.plan", "model.onnx"]


def test_equal_builds_give_equal_bytes_and_architectures_differ(graph: Path, tmp_path: Path) -> None:
    require_rtx()
    for name, capability in (("a", "sm86"), ("b", "sm86"), ("c", "sm120")):
        build_plan(graph, tmp_path / name, compute_capability=capability)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("domain", ["my.ops", ""])
def test_an_unknown_operator_is_refused_with_the_nodes_name(
    graph: Path, tmp_path: Path, tiny: SimpleNamespace, domain: str
) -> None:
    require_rtx()
    tiny.write_graph(graph, custom="Zoom", domain=domain)
    with pytest.raises((ValueError, RuntimeError), match=r"zoomed_3.*Zoom"):
        build_plan(graph, tmp_path / "engine.plan")
    assert not (tmp_path / "engine.plan").exists()


def test_a_truncated_graph_is_refused_with_its_path_and_the_parsers_words(graph: Path, tmp_path: Path) -> None:
    require_rtx()
    graph.write_bytes(graph.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"model\.onnx: .*Failed to parse the ONNX model"):
        build_plan(graph, tmp_path / "engine.plan")


def test_a_library_that_kills_its_process_costs_the_child_only(
    graph: Path, tmp_path: Path, fake_library: SimpleNamespace
) -> None:
    fake_library.that("os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(RuntimeError, match=r"killed by SIGSEGV while reading node zoomed_3 \[Zoom\].*printed by the library"):
        build_plan(graph, tmp_path / "engine.plan", module="tensorrt")


def test_a_library_that_exits_is_reported_with_its_code(graph: Path, tmp_path: Path, fake_library: SimpleNamespace) -> None:
    fake_library.that("os._exit(7)")
    with pytest.raises(RuntimeError, match=r"ended with exit code 7 while reading node zoomed_3"):
        build_plan(graph, tmp_path / "engine.plan", module="tensorrt")


def test_a_build_that_hangs_is_stopped(graph: Path, tmp_path: Path, fake_library: SimpleNamespace) -> None:
    fake_library.that("time.sleep(600)")
    with pytest.raises(TimeoutError, match=r"stopped after 1\.5 s while reading node zoomed_3"):
        build_plan(graph, tmp_path / "engine.plan", module="tensorrt", timeout_s=1.5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fake", "model.onnx"]


@pytest.mark.parametrize("error", ["RuntimeError", "AttributeError", "TypeError"])
def test_an_error_of_the_library_comes_back_as_text(
    graph: Path, tmp_path: Path, fake_library: SimpleNamespace, error: str
) -> None:
    fake_library.that(f"raise {error}('no device')")
    with pytest.raises(RuntimeError, match=rf"model\.onnx: {error}: no device"):
        build_plan(graph, tmp_path / "engine.plan", module="tensorrt")


def test_what_the_callers_progress_raises_ends_the_build_and_comes_through(
    graph: Path, tmp_path: Path, fake_library: SimpleNamespace
) -> None:
    def full(phase: str) -> None:
        raise OSError(f"no space left to log {phase!r}")

    fake_library.that("config.progress_monitor.phase_start('Tactics', None, 1); time.sleep(600)")
    start = time.monotonic()
    with pytest.raises(OSError, match="no space left to log 'Tactics'"):
        build_plan(graph, tmp_path / "engine.plan", module="tensorrt", progress=full)
    assert time.monotonic() - start < 60
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fake", "model.onnx"]


@pytest.mark.skipif("tensorrt" in sys.modules, reason="TensorRT is installed")
def test_a_missing_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if getattr(f, "__name__", "") == "PathFinder"])
    with pytest.raises(ImportError, match=r"pip install 'edgesmith\[rtx\]'"):
        build_plan(graph, tmp_path / "engine.plan")
    with pytest.raises(ImportError, match="JetPack"):
        require_library("tensorrt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capability": "sm87"}, "compute_capability is 'sm87'; TensorRT for RTX builds for: sm75, sm80, sm86"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"module": "tensorrt9"}, "unknown TensorRT module 'tensorrt9'"),
    ],
)
def test_impossible_options_are_refused(graph: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_plan(graph, tmp_path / "engine.plan", **options)


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        build_plan(tmp_path / "absent.onnx", tmp_path / "engine.plan")


def test_running_a_plan_without_a_driver_says_so_instead_of_crashing(tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
        message = "builds tensorrt_rtx plans but does not execute them yet"
    except OSError:
        message = r"needs an NVIDIA GPU and its driver.*libcuda\.so\.1"
    with pytest.raises(RuntimeError, match=message):
        open_plan(tmp_path, "tensorrt_rtx")


def test_a_plans_key_holds_what_it_is_not_portable_across() -> None:
    assert engine_key("tensorrt_rtx", "1.7.1", "sm86", "fp16") == "tensorrt_rtx-1.7.1-sm86-fp16"
