"""TensorRT for RTX builds real plans in a child process; a fake stands in only for how a library dies."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgesmith.deploy.engines import tensorrt
from edgesmith.deploy.engines.gpu import Gpu, current_gpu
from edgesmith.deploy.engines.tensorrt import build_plan, engine_key, inspect_plan, open_plan, require_match, with_plugins
from edgesmith.deploy.engines.tensorrt_builder import require_library
from edgesmith.deploy.engines.tensorrt_options import PlanOptions
from edgesmith.deploy.files import write_json
from edgesmith.deploy.meta import EngineRecord
from edgesmith.deploy.plugins import our_library

FAKE = '''
"""A fake of the vendor's module: reads one node, then does what the test is about."""
import ctypes, json, os, signal, sys, time
__version__ = "10.3.0"

class ILogger:
    ERROR, INTERNAL_ERROR = "error", "internal"

class IProgressMonitor:
    pass

class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 1

class BuilderFlag:
    TF32, VERSION_COMPATIBLE = 6, 13

class MemoryPoolType:
    WORKSPACE = 0

class LayerInformationFormat:
    JSON = 1

class Cache:
    def __init__(self, held):
        self.held = held
    def serialize(self):
        return self.held + b"+timed"

class Config:
    def __init__(self):
        self.cleared, self.set, self.pools, self.cache = set(), [], {}, None
    def clear_flag(self, flag):
        self.cleared.add(flag)
    def set_flag(self, flag):
        self.set.append(flag)
    def set_memory_pool_limit(self, pool, size):
        self.pools[pool] = size
    def create_timing_cache(self, held):
        return Cache(held)
    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return not cache.held.startswith(b"foreign")
    def get_timing_cache(self):
        return self.cache

config = Config()

class Builder:
    def __init__(self, logger):
        self.logger = logger
    def create_network(self, flags):
        assert flags == 2
    def create_builder_config(self):
        return config
    def build_serialized_network(self, network, config):
        level = getattr(config, "builder_optimization_level", None)
        return json.dumps([config.set, config.pools, level]).encode()

class Runtime:
    def __init__(self, logger):
        pass
    def deserialize_cuda_engine(self, plan):
        return self if plan != b"foreign" else None
    def create_engine_inspector(self):
        return self
    def get_engine_information(self, form):
        return json.dumps({"Layers": [{"Name": "head", "LayerType": "CaskConvolution"}], "Bindings": ["frame", "labels"]})

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


ORIN = Gpu("Orin", "sm87")


@pytest.fixture
def fake_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(tensorrt, "current_gpu", lambda: ORIN)  # TensorRT builds for the GPU at hand

    def that(death: str) -> None:
        (folder / "tensorrt.py").write_text(FAKE.replace("DEATH", death))

    yield SimpleNamespace(that=that)
    sys.modules.pop("tensorrt", None)  # where a test had it loaded here


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


def test_options_reach_the_builder_and_the_device_is_known(graph: Path, tmp_path: Path, fake_library: SimpleNamespace) -> None:
    fake_library.that("return True")
    options = PlanOptions(workspace_mib=2, optimization_level=5, version_compatible=True)
    built = build_plan(graph, tmp_path / "engine.plan", module="tensorrt", options=options)
    assert (tmp_path / "engine.plan").read_text() == '[[13], {"0": 2097152}, 5]'
    assert (built.version, built.compute_capability, built.device, built.notices) == ("10.3.0", "sm87", "Orin", ())


def test_a_timing_cache_is_kept_and_a_foreign_one_is_begun_anew(
    graph: Path, tmp_path: Path, fake_library: SimpleNamespace
) -> None:
    fake_library.that("return True")
    cache = tmp_path / "orin.cache"
    options = PlanOptions(timing_cache=str(cache))
    for held in (b"+timed", b"+timed+timed"):
        assert build_plan(graph, tmp_path / "engine.plan", module="tensorrt", options=options).notices == ()
        assert cache.read_bytes() == held
    cache.write_bytes(b"foreign")
    said: list[str] = []
    built = build_plan(graph, tmp_path / "engine.plan", module="tensorrt", options=options, progress=said.append)
    assert "another device or version" in built.notices[0]
    assert said == list(built.notices)
    assert cache.read_bytes() == b"+timed"


def test_what_tensorrt_for_rtx_does_not_honour_is_announced_and_the_rest_is_done(graph: Path, tmp_path: Path) -> None:
    require_rtx()
    options = PlanOptions(str(tmp_path / "cache"), workspace_mib=64, optimization_level=5, version_compatible=True)
    said: list[str] = []
    built = build_plan(graph, tmp_path / "a", options=options, progress=said.append)
    assert [words.partition(" ")[0] for words in built.notices] == ["timing_cache", "optimization_level"]
    assert set(built.notices) <= set(said)
    assert not (tmp_path / "cache").exists()
    build_plan(graph, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    with pytest.raises(ValueError, match="workspace limit"):
        build_plan(graph, tmp_path / "c", options=PlanOptions(workspace_mib=1))


def test_a_plans_layers_are_told_by_a_child(tmp_path: Path, fake_library: SimpleNamespace) -> None:
    fake_library.that("")
    (tmp_path / "engine.plan").write_bytes(b"plan")
    info = inspect_plan(tmp_path / "engine.plan", "tensorrt")
    assert [(layer.name, layer.kind) for layer in info.layers] == [("head", "CaskConvolution")]
    assert info.io == ("frame", "labels")
    (tmp_path / "engine.plan").write_bytes(b"foreign")
    with pytest.raises(RuntimeError, match=r"engine\.plan: RuntimeError: the library does not read this plan"):
        inspect_plan(tmp_path / "engine.plan", "tensorrt")


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


def test_tensorrt_for_rtx_is_given_no_plugins(graph: Path, tmp_path: Path) -> None:
    require_rtx()
    with pytest.raises(ValueError, match="plugins: TensorRT for RTX has no plugins"):
        build_plan(graph, tmp_path / "engine.plan", plugins=our_library(tmp_path / "plugins.so"))


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        build_plan(tmp_path / "absent.onnx", tmp_path / "engine.plan")


def no_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


@pytest.mark.skipif("not no_driver()", reason="there is a driver")
def test_without_a_driver_nothing_is_built_for_the_gpu_at_hand_or_run(
    graph: Path, tmp_path: Path, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_library.that("return True")
    monkeypatch.setattr(tensorrt, "current_gpu", current_gpu)
    with pytest.raises(RuntimeError, match=r"TensorRT builds on the device, for it, but this machine has no NVIDIA driver"):
        build_plan(graph, tmp_path / "engine.plan", module="tensorrt")
    require_rtx()
    with pytest.raises(RuntimeError, match="compute_capability is current, but this machine has no NVIDIA driver"):
        build_plan(graph, tmp_path / "engine.plan", compute_capability="current")
    write_json(tmp_path / "engine.json", RECORD.to_json())
    with pytest.raises(RuntimeError, match=r"needs an NVIDIA GPU and its driver.*libcuda\.so\.1.*runs them nowhere yet"):
        open_plan(tmp_path)


RECORD = EngineRecord(
    key="tensorrt-10.3.0-orin-sm87-fp16-0123",
    backend="tensorrt",
    version="10.3.0",
    device="NVIDIA GPU, Orin",
    precision="fp16",
    graph_sha256="0" * 64,
    compute_capability="sm87",
    gpu="Orin",
    plan_bytes=1,
)


@pytest.mark.parametrize(
    ("gpu", "version", "said"),
    [
        (Gpu("Thor", "sm101"), "10.3.0", "is for sm87 and Orin, this machine has sm101 and Thor; build it here"),
        (Gpu("Orin Nano", "sm87"), "10.3.0", "is for Orin, this machine has Orin Nano; build it here"),
        (
            ORIN,
            "10.16.1",
            r"is for tensorrt 10\.3\.0, this machine has tensorrt 10\.16\.1; build it here: edgesmith bundle",
        ),
    ],
)
def test_a_foreign_plan_is_refused_in_one_sentence(gpu: Gpu, version: str, said: str) -> None:
    with pytest.raises(RuntimeError, match=said) as e:
        require_match(RECORD, gpu, version)
    assert "\n" not in str(e.value)
    require_match(RECORD, ORIN, "10.3.0")


@pytest.mark.parametrize(
    ("backend", "more"),
    [("tensorrt", ""), ("tensorrt_rtx", " --compute-capability current"), ("torch_tensorrt", " --weights DIR")],
)
def test_the_advice_for_a_foreign_plan_is_a_command_that_builds_it(backend: str, more: str) -> None:
    with pytest.raises(RuntimeError, match=rf"bundle add BUNDLE --backend {backend} --precision fp16{more}$"):
        require_match(replace(RECORD, backend=backend), Gpu("Thor", "sm101"), "10.3.0")


def test_a_plan_that_was_built_so_runs_on_later_versions_only() -> None:
    lasting = replace(RECORD, version_compatible=True)
    require_match(lasting, ORIN, "10.16.1")
    with pytest.raises(RuntimeError, match=r"is for tensorrt 10\.3\.0"):
        require_match(lasting, ORIN, "9.2.0")


def test_a_foreign_plan_is_refused_before_anything_reads_it(tmp_path: Path, fake_library: SimpleNamespace) -> None:
    fake_library.that("")
    write_json(tmp_path / "engine.json", {**RECORD.to_json(), "gpu": "Thor", "compute_capability": "sm101"})
    with pytest.raises(RuntimeError, match="is for sm101 and Thor"):  # there is not even a plan
        open_plan(tmp_path)
    write_json(tmp_path / "engine.json", RECORD.to_json())
    with pytest.raises(RuntimeError, match="builds tensorrt plans but does not execute them yet"):
        open_plan(tmp_path)


def test_a_plans_key_holds_what_it_is_not_portable_across() -> None:
    digest = "0123456789abcdef"
    assert engine_key("tensorrt_rtx", "1.7.1", "sm86", "fp16", digest) == "tensorrt_rtx-1.7.1-sm86-fp16-0123456789ab"
    key = engine_key("tensorrt", "10.3.0", "sm87", "int8", digest, "orin")
    assert key == "tensorrt-10.3.0-orin-sm87-int8-0123456789ab"
    assert with_plugins(key, ()) == key
    assert with_plugins(key, ("EnlargeArgmax", "ZoomedConv")) == f"{key}-enlarge_argmax1-zoomed_conv1"
