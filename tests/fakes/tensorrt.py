"""A fake of the vendor's module, for children of tests: it builds and runs nothing, and says what a test told it to.

A plan is JSON with the operators of ours in the graph, the size of its frame, and whether it brings code along, which a
version-compatible one does. Running one takes FAKE_MS milliseconds (JSON
by operators, joined with +; `native` without any) on the fake driver's clock. Its labels are the frame's first channel, and
one more where FAKE_WRONG names the operators. FAKE_HANGS, FAKE_DIES, FAKE_FAILS and FAKE_FLOATS name
those of a plan that never comes back, ends the process, is not run, or whose labels are no bytes. FAKE_REFUSES names an
operator that the parser refuses; with FAKE_SILENT the inspector says nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

__version__ = os.environ.get("FAKE_VERSION", "10.3.0")
BuilderFlag = SimpleNamespace(VERSION_COMPATIBLE=13)
NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
LayerInformationFormat = SimpleNamespace(JSON=1)
DataType = SimpleNamespace(UINT8="uint8")
TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
registered: dict[str, str] = {}


class ILogger:
    ERROR, INTERNAL_ERROR = "error", "internal"


class IProgressMonitor:
    pass


class Registry:
    def load_library(self, path: str) -> Any:
        tell = ctypes.CDLL(path).fake_operators
        tell.restype = ctypes.c_char_p
        found = dict(o.split(":") for o in tell().decode().split())
        if set(found) & set(registered):
            return None
        registered.update(found)
        return object()

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self if registered.get(name) == version and namespace == "" else None


def get_plugin_registry() -> Registry:
    return Registry()


class Builder:
    def __init__(self, logger: Any) -> None:
        pass

    def create_network(self, flags: int) -> Any:
        return SimpleNamespace()

    def create_builder_config(self) -> Any:
        flags: list[int] = []
        return SimpleNamespace(flags=flags, set_flag=flags.append)

    def build_serialized_network(self, network: Any, config: Any) -> bytes:
        code = BuilderFlag.VERSION_COMPATIBLE in config.flags
        return json.dumps({"operators": network.operators, "hw": network.hw, "code": code}).encode()


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self.network, self.said = network, list[str]()

    def parse_from_file(self, path: str) -> bool:
        import onnx

        model = onnx.load(path)
        used = [n.op_type for n in model.graph.node if n.domain == "edgesmith"]
        if model.functions:  # the real parser would take a function's body and leave the plugin out
            self.said.append("there are functions in the graph")
        self.said += [f"no plugin {name}" for name in used if name not in registered]
        refused = os.environ.get("FAKE_REFUSES")
        self.said += [f"{n.op_type} is refused" for n in model.graph.node if n.op_type == refused]
        self.network.operators = sorted(set(used))
        self.network.hw = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[:2]]
        return not self.said

    @property
    def num_errors(self) -> int:
        return len(self.said)

    def get_error(self, i: int) -> Any:
        return SimpleNamespace(desc=lambda: self.said[i], node_name=lambda: "", node=lambda: -1)


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        said = json.loads(plan)
        if said.get("code") and not self.engine_host_code_allowed:
            self.logger.log(ILogger.ERROR, "the plan brings host code, which is not allowed")
            return None
        if set(said["operators"]) <= set(registered):
            return Engine(said)
        self.logger.log(ILogger.ERROR, "a plugin is missing")
        return None


class Engine:
    """Also its own context."""

    num_io_tensors = 2

    def __init__(self, said: dict[str, Any]) -> None:
        self.name, self.hw = "+".join(said["operators"]) or "native", said["hw"]
        self.addresses: dict[str, int] = {}
        self.driver = ctypes.CDLL("libcuda.so.1")

    def create_execution_context(self) -> Engine:
        return self

    def create_engine_inspector(self) -> Any:
        if "FAKE_SILENT" in os.environ:
            return SimpleNamespace(get_engine_information=lambda form: "{}")
        layers = [{"Name": self.name, "LayerType": "Fake"}]
        return SimpleNamespace(
            get_engine_information=lambda form: json.dumps({"Layers": layers, "Bindings": ["frame", "labels"]})
        )

    def get_tensor_name(self, i: int) -> str:
        return ("labels", "frame")[i]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "frame" else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return "float" if name == "labels" and self.name == os.environ.get("FAKE_FLOATS") else "uint8"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (*self.hw, 3) if name == "frame" else tuple(self.hw)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        if self.name == os.environ.get("FAKE_HANGS"):
            time.sleep(600)
        if self.name == os.environ.get("FAKE_DIES"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.name == os.environ.get("FAKE_FAILS"):
            return False
        pixels = self.hw[0] * self.hw[1]
        frame = np.frombuffer(ctypes.string_at(self.addresses["frame"], 3 * pixels), np.uint8)
        labels = frame[::3] + np.uint8(self.name == os.environ.get("FAKE_WRONG"))
        ctypes.memmove(self.addresses["labels"], labels.tobytes(), pixels)
        self.driver.fake_run(ctypes.c_double(json.loads(os.environ["FAKE_MS"])[self.name]))
        return bool(stream)
