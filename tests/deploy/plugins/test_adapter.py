"""The library for TensorRT, compiled with the vendor's compiler and headers and driven as far as that goes without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgesmith.deploy import plugins

pytestmark = pytest.mark.slow
CUDA = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that cmake built, for Orin alone."""
    if not (shutil.which("cmake") and shutil.which("nvcc")):
        pytest.skip("needs cmake and nvcc")
    folder = tmp_path_factory.mktemp("build")
    configure = ["cmake", "-S", str(plugins.SOURCES), "-B", str(folder), "-DPLUGIN_ARCHITECTURES=87"]
    for command in (configure, ["cmake", "--build", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def library(built: Path) -> Path:
    if "TENSORRT_INCLUDE" not in os.environ:
        pytest.skip("needs TENSORRT_INCLUDE, the folder with NvInfer.h")
    return built / plugins.LIBRARY


def test_cmake_builds_the_kernels(built: Path) -> None:
    assert (built / "libedgesmith_kernels.a").stat().st_size > 100_000


def test_the_library_loads_without_tensorrt_and_says_its_sources(library: Path) -> None:
    plugins.our_library(library).load()
    with pytest.raises(RuntimeError, match="was built from other sources"):
        plugins.PluginLibrary(library, (), "0" * 64).load()


def test_plugins_are_made_from_nodes_and_plans_and_keep_what_they_are(library: Path, tmp_path: Path) -> None:
    check = tmp_path / "check"
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", str(Path(__file__).with_name("adapter_check.cpp"))]
    command += ["-isystem", os.environ["TENSORRT_INCLUDE"], "-isystem", str(CUDA), "-o", str(check), "-ldl"]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (compiled.returncode, compiled.stderr) == (0, "")
    done = subprocess.run([str(check), str(library)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


REGISTER = """
import json, sys
from pathlib import Path
from edgesmith.deploy import plugins
from edgesmith.deploy.engines import tensorrt_builder as builder
trt = builder.library("tensorrt_rtx")
log = trt.Logger(trt.Logger.INFO)
library, graph = sys.argv[1:]
builder.register(trt, plugins.our_library(Path(library)))
try:
    builder.register(trt, plugins.our_library(Path(library)))
except RuntimeError as e:
    print(e, flush=True)
print("of another version:", trt.get_plugin_registry().get_creator("ZoomedConv", "2", ""), flush=True)
trt_builder = trt.Builder(log)
network = trt_builder.create_network(0)
trt.OnnxParser(network, log).parse_from_file(graph)
"""


@pytest.mark.parametrize("operator", ["ZoomedConv", "EnlargeArgmax"])
def test_a_real_parser_finds_the_library_and_makes_the_operator_of_a_rewritten_graph(
    library: Path, tmp_path: Path, plugin_model: Any, operator: str
) -> None:
    """TensorRT for RTX has TensorRT's registry and parser; it ends the process when a plugin is to join the network."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    import onnx

    from edgesmith.pipeline.graphs.rewrite import for_plugins, fused

    native = onnx.load(str(plugin_model(zoomed=True).path / "model.onnx"))
    graph = tmp_path / "rewritten.onnx"
    onnx.save(for_plugins(fused(native, (operator,))), str(graph))
    done = subprocess.run(
        [sys.executable, "-c", REGISTER, str(library), str(graph)], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert "has an operator of the same name already" in said, said
    assert "of another version: None" in said, said
    assert f"Successfully created plugin: {operator}" in said, said


def test_the_builders_child_loads_the_library_only_where_the_product_takes_plugins(library: Path, tmp_path: Path) -> None:
    """Asked past the parent's own refusal, the child refuses too."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    wanted = {"path": str(library), "operators": ["ZoomedConv"], "digest": plugins.source_digest()}
    job = {"do": "build", "module": "tensorrt_rtx", "graph": "", "plan": "", "options": {}, "plugins": wanted}
    command = [sys.executable, "-m", "edgesmith.deploy.engines.tensorrt_builder", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "takes no plugins: TensorRT for RTX has no plugins" in json.loads(done.stdout.splitlines()[-1])["message"]
