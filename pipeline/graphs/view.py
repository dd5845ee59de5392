"""An ONNX graph as a rule looks at it: every node, who makes and who takes a value, its type and shape, what is constant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

STANDARD = ("", "ai.onnx")
"""Names of ONNX's own operator set."""


@dataclass
class GraphView:
    """What `view` found. Nodes of subgraphs (If, Loop) stand among the others: a parser reads them too."""

    model: ModelProto
    opset: int
    """Version of ONNX's own operators; 0 where the model names none."""
    functions: set[tuple[str, str]] = field(default_factory=set)
    """(domain, name) of the functions that the model itself defines."""
    nodes: list[NodeProto] = field(default_factory=list)
    makers: dict[str, NodeProto] = field(default_factory=dict)
    takers: dict[str, list[NodeProto]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    """TensorProto data type of each value, as far as it is known."""
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Shape of each value, as far as it is known; None for a size that is not fixed."""
    arrays: dict[str, TensorProto] = field(default_factory=dict)
    """Initializers and the tensors of Constant nodes."""
    constant: set[str] = field(default_factory=set)
    """Values that the frame has no part in: constants, what is computed from these alone, shapes of fixed size."""

    def type_name(self, value: str) -> str:
        """Name of a value's type as ONNX spells it, in lower case; empty where it is not known."""
        return TensorProto.DataType.Name(self.types[value]).lower() if value in self.types else ""

    def array(self, value: str) -> NDArray[Any] | None:
        """The numbers of a constant that stands in the graph; None for anything else."""
        return numpy_helper.to_array(self.arrays[value]) if value in self.arrays else None

    def of(self, *operators: str) -> Iterator[NodeProto]:
        """The nodes of ONNX's own `operators`, in the graph's order."""
        return (n for n in self.nodes if n.op_type in operators and n.domain in STANDARD)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute, bytes as text."""
    for a in node.attribute:
        if a.name == name:
            value = onnx.helper.get_attribute_value(a)
            return value.decode() if isinstance(value, bytes) else value
    return default


def given(node: NodeProto, i: int) -> str:
    """Name of input `i`; empty where the node does without it."""
    return node.input[i] if i < len(node.input) else ""


def read_graph(path: Path) -> ModelProto:
    """The ONNX model in the file `path`. Raises OSError, or ValueError when it is none or is cut off."""
    try:
        model = onnx.load(str(path))
    except DecodeError:
        raise ValueError(f"{path} is not an ONNX graph, or was cut off; export it again") from None
    except onnx.checker.ValidationError as e:  # weights that lie in other files
        raise ValueError(f"{path}: {e}") from None
    if not model.graph.node:
        raise ValueError(f"{path} holds no operator; it is not an ONNX graph, or was cut off")
    return model


def view(model: ModelProto) -> GraphView:
    """Look at `model`. Types and shapes are ONNX's own inference; what it cannot tell (foreign operators) stays unknown."""
    opset = next((o.version for o in model.opset_import if o.domain in STANDARD), 0)
    seen = GraphView(model, opset, {(f.domain, f.name) for f in model.functions})
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:  # the graph contradicts itself: the rules find out where
        inferred = model
    _read(inferred.graph, seen)
    for node in seen.nodes:
        for name in node.output:
            seen.makers[name] = node
        for name in node.input:
            seen.takers.setdefault(name, []).append(node)
    _find_constants(seen)
    return seen


def _read(graph: GraphProto, seen: GraphView) -> None:
    """Take in one graph and those inside its nodes."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        _note(value, seen)
    for tensor in graph.initializer:
        seen.types[tensor.name] = tensor.data_type
        seen.shapes[tensor.name] = tuple(tensor.dims)
        seen.arrays[tensor.name] = tensor
    for node in graph.node:
        seen.nodes.append(node)
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                _read(a.g, seen)
            if node.op_type == "Constant" and a.name == "value":
                seen.arrays[node.output[0]] = a.t


def _note(value: ValueInfoProto, seen: GraphView) -> None:
    tensor = value.type.tensor_type
    if not tensor.elem_type:  # a sequence, or nothing is known
        return
    seen.types[value.name] = tensor.elem_type
    if tensor.HasField("shape"):
        sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        seen.shapes[value.name] = sizes


def _find_constants(seen: GraphView) -> None:
    """Fill `constant`. One pass: nodes are in an order in which each comes behind those that it takes from."""
    seen.constant |= {*seen.arrays, ""}
    for node in seen.nodes:
        fixed = node.op_type in ("Shape", "Size") and None not in seen.shapes.get(node.input[0], (None,))
        subgraph = any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
        if fixed or (not subgraph and all(name in seen.constant for name in node.input)):
            seen.constant |= set(node.output)
