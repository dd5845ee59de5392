"""A graph in another precision: explicit casts and explicit Q/DQ, never a flag of a builder.

`lowered` is a pure function of a graph and a calibration; what comes out is plain ONNX that ONNX Runtime runs and that
TensorRT 10.3 to 11 read as strongly typed.

* **Core.** Lower precision is used from the first convolution to the last: a node belongs to the core when it is a
  convolution or lies between two. What stands before (a frame of 0 to 255, its resize, the mean) and after (enlargement and
  ArgMax, where a rounded logit is a tie that the lower class wins) stays fp32; neither holds a convolution.
* **fp16.** Every float of the core, but for sums over whole maps (SUMS), which can leave fp16's range.
* **int8.** Input and weights of a convolution, unless the calibration holds it back: one scale for the input, one for each
  output channel of the weights, zero points 0, biases left alone. The rest of the core is fp16, which Q/DQ takes from opset
  19 on. Scales are fp16 numbers, rounded up so that nothing is clipped by it.

Nodes keep their names, and so do the values that they compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgesmith.calibration.int8 import Calibration
from edgesmith.deploy.engines import PRECISIONS, Precision

from .graph import OPSET, copied, graph_digest

INT8_OPSET = 19
"""The first that takes Q/DQ of fp16 values. TensorRT 10 reads up to 20."""
SUMS = ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool", "Softmax")
LEVELS = 127
"""Largest int8 value in use: -128 would make the range lopsided, and TensorRT's weights end at -127."""


def lowered(model: ModelProto, precision: Precision, calibration: Calibration | None = None) -> ModelProto:
    """`model` (fp32, opset 18, static shapes) in `precision`; the model itself is left as it is.

    int8 needs the calibration that was made for this very graph; the others take none.

    Raises ValueError for an unknown precision, a calibration that is missing or of another graph, a constant that fp16
    cannot hold, or a graph that has no convolution.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; there are: {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return copied(model)
    if precision == "fp16":
        return _Lowering(model, precision).lower({})
    if calibration is None:
        raise ValueError("precision int8 needs a calibration: edgesmith calibrate DIR --data SPEC --out OUT makes one")
    calibration.require_graph(graph_digest(model))
    return quantised(model, calibration.amax())


def quantised(model: ModelProto, amax: Mapping[str, float], rest: Literal["fp16", "fp32"] = "fp16") -> ModelProto:
    """`model` with the convolutions named in `amax` in INT8, `amax` their inputs' ranges; the core's rest in `rest`."""
    return _Lowering(model, rest).lower(amax)


@dataclass(frozen=True)
class Convolution:
    """A convolution of a graph."""

    name: str
    """Of its node."""
    input: str
    weight: str
    output: str
    macs: int


def convolutions(model: ModelProto) -> tuple[Convolution, ...]:
    """The convolutions in order of execution. Raises ValueError where a shape is not static or a node has no name."""
    shapes = {name: shape for name, (_, shape) in value_types(model).items()}
    found = []
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        (cout, cin_per_group, *kernel), out = shapes[node.input[1]], shapes.get(node.output[0], ())
        if len(out) < 3 or 0 in out:
            raise ValueError(f"node {node.name!r}: its output has no static shape ({list(out)}); export the graph again")
        macs = int(np.prod(out[2:])) * out[0] * cout * cin_per_group * int(np.prod(kernel))
        found.append(Convolution(node.name, node.input[0], node.input[1], node.output[0], macs))
    names = [c.name for c in found]
    if "" in names or len(set(names)) != len(names):
        raise ValueError("two convolutions have the same name or none; precision is chosen by name: export the graph again")
    return tuple(found)


def logits_of(model: ModelProto) -> str:
    """The value that enlargement and ArgMax start from: the way back from the labels as long as nodes only move or mix it.

    Raises ValueError when the graph has no ArgMax.
    """
    producer = {o: n for n in model.graph.node for o in n.output}
    constants = {c.name for c in model.graph.initializer}
    name = next((n.input[0] for n in model.graph.node if n.op_type == "ArgMax"), None)
    if name is None:
        raise ValueError("the graph has no ArgMax: it returns no labels")
    moves = ("Reshape", "Transpose", "Slice", "Gather", "MatMul", "Resize", "Cast")
    while name in producer and producer[name].op_type in moves:
        name = next(i for i in producer[name].input if i and i not in constants)
    return str(name)


def value_types(model: ModelProto) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Element type (a TensorProto.DataType) and shape of every value of the graph; 0 stands for a size that is not known."""
    known = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    ports = {v.name: v.type.tensor_type for v in (*known.input, *known.value_info, *known.output)}
    types = {name: (t.elem_type, tuple(d.dim_value for d in t.shape.dim)) for name, t in ports.items()}
    return types | {c.name: (c.data_type, tuple(c.dims)) for c in known.initializer}


@dataclass
class _Lowering:
    """One graph being rewritten. Casts and Q/DQ are made where they are first asked for, once for each value."""

    model: ModelProto
    rest: Literal["fp16", "fp32"]
    """What the core is computed in where it is not INT8."""
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    half_values: set[str] = field(default_factory=set)
    """Values of the graph that are fp16 now."""

    def __post_init__(self) -> None:
        self.initializers = {c.name: c for c in self.model.graph.initializer}
        self.types = {name: kind for name, (kind, _) in value_types(self.model).items()}
        self.core = _core(self.model)
        if not self.core:
            raise ValueError("the graph has no convolution: there is nothing to compute in lower precision")

    def lower(self, amax: Mapping[str, float]) -> ModelProto:
        """The core in `rest`, and the convolutions in `amax` in INT8."""
        for index, node in enumerate(self.model.graph.node):
            copy = copied(node)
            half = self.rest == "fp16" and index in self.core and node.op_type not in SUMS
            copy.input[:] = [
                self._half(v) if half and i in _data_inputs(node) else self._full(v) for i, v in enumerate(node.input)
            ]
            if node.op_type == "Conv" and node.name in amax:
                copy.input[0] = self._activation(node.input[0], amax[node.name])
                copy.input[1] = self._weight(node.input[1])
            self.nodes.append(copy)
            if half:
                self.half_values.update(v for v in node.output if self.types.get(v) == TensorProto.FLOAT)
        for port in self.model.graph.output:
            if port.name in self.half_values:
                raise ValueError(f"the graph returns {port.name!r} as a float of its core; labels are what it is to return")
        return self._model(INT8_OPSET if amax else OPSET)

    def _model(self, opset: int) -> ModelProto:
        model = copied(self.model)
        used = {v for n in self.nodes for v in n.input}
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:], model.opset_import[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(c for name, c in {**self.initializers, **self.constants}.items() if name in used)
        # From 18 to 19 the operators only took on types and options: the number alone says it all.
        model.opset_import.append(helper.make_opsetid("", opset))
        model.ir_version = max(model.ir_version, helper.find_min_ir_version_for(list(model.opset_import)))
        onnx.checker.check_model(model, full_check=True)
        return model

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """A node of our own, named after its output, unless it is there."""
        if not any(n.name == name for n in self.nodes):
            self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def _half(self, value: str) -> str:
        """`value` as fp16, where it is a float."""
        if value in self.half_values or self.types.get(value) != TensorProto.FLOAT:
            return value
        if value in self.initializers:
            return self._constant(f"{value}/fp16", _as_half(numpy_helper.to_array(self.initializers[value]), value))
        return self._node("Cast", [value], f"{value}/fp16", to=TensorProto.FLOAT16)

    def _full(self, value: str) -> str:
        """`value` as it was in the graph that was given."""
        return self._node("Cast", [value], f"{value}/fp32", to=TensorProto.FLOAT) if value in self.half_values else value

    def _activation(self, value: str, amax: float) -> str:
        scale = self._constant(f"{value}/scale", self._scale(np.array(amax)))
        zero = self._constant("int8_zero", np.zeros((), np.int8))
        given = self._half(value) if self.rest == "fp16" else value
        q = self._node("QuantizeLinear", [given, scale, zero], f"{value}/q")
        return self._node("DequantizeLinear", [q, scale, zero], f"{value}/dq")

    def _weight(self, name: str) -> str:
        if name not in self.initializers:
            raise ValueError(f"the weights {name!r} are computed in the graph; only constant ones are quantised")
        weights = numpy_helper.to_array(self.initializers[name])
        scale = self._scale(np.abs(weights).reshape(len(weights), -1).max(1))
        steps = np.rint(weights.astype(np.float64) / scale.reshape(-1, *[1] * (weights.ndim - 1)))
        inputs = [
            self._constant(f"{name}/int8", steps.clip(-LEVELS, LEVELS).astype(np.int8)),
            self._constant(f"{name}/scale", scale),
            self._constant(f"{name}/zero", np.zeros(len(weights), np.int8)),
        ]
        return self._node("DequantizeLinear", inputs, f"{name}/dq", axis=0)

    def _scale(self, amax: NDArray[Any]) -> NDArray[Any]:
        return scale_of(amax) if self.rest == "fp16" else scale_of(amax).astype(np.float32)


def scale_of(amax: NDArray[Any]) -> NDArray[np.float16]:
    """Step between two int8 values for magnitudes up to `amax`: an fp16 number above 0, rounded up. 1 where all is 0."""
    exact = np.asarray(amax, np.float64) / LEVELS
    with np.errstate(over="ignore"):
        scale = exact.astype(np.float16)
    scale = np.where(scale.astype(np.float64) < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    if not np.isfinite(scale).all():
        raise ValueError(f"a value of {float(np.max(amax)):g} is beyond what an fp16 scale can reach")
    return np.where(exact > 0, scale, np.float16(1)).astype(np.float16)


def _as_half(value: NDArray[Any], name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"constant {name!r} has {np.abs(value).max():g}, and fp16 ends at 65504; keep this graph in fp32")
    return half


def _data_inputs(node: NodeProto) -> range:
    """Inputs that follow the node's precision; a Resize's others are parameters, fp32 by the standard."""
    return range(1 if node.op_type == "Resize" else len(node.input))


def _core(model: ModelProto) -> set[int]:
    """Indices of the nodes that are a convolution, or lie behind one and before one."""
    nodes = list(enumerate(model.graph.node))
    behind: set[str] = set()  # values
    after: set[int] = set()
    for index, n in nodes:
        if n.op_type == "Conv" or not behind.isdisjoint(n.input):
            behind.update(n.output)
            after.add(index)
    ahead: set[str] = set()
    core: set[int] = set()
    for index, n in reversed(nodes):
        if n.op_type == "Conv" or not ahead.isdisjoint(n.output):
            ahead.update(n.input)
            if index in after and n.op_type != "Cast":  # a Cast says its own type
                core.add(index)
    return core
