"""A piece of a network for timing: between neighbours such as it has in the network.

Alone, a piece is not what it is inside. ONNX Runtime keeps maps between convolutions in a blocked layout; a graph's inputs and
outputs are in ONNX's own. A piece alone therefore has its maps rearranged, which in a network is done at the ends only, and
its residual addition is not fused, as one operand is an input. For small pieces that is a third of the time and more.

So each map that goes from convolution to convolution passes through a neighbour, a 1x1 depthwise convolution with weights of
one, and the time of the neighbours and the rearranging is taken off: half the time of two such neighbours on the same map
with nothing between them, for each map that has one.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgesmith.pipeline.graphs.graph import as_model, copied

Shape = tuple[int, int, int]


def between_neighbours(model: ModelProto, *, inputs: bool, outputs: bool) -> ModelProto:
    """A copy of `model` with a neighbour before each input and behind each output, all of them maps (1, C, H, W)."""
    copy = copied(model)
    graph = copy.graph
    before = [_neighbour(p.name, _inner(p.name), _channels(p)) for p in graph.input] if inputs else []
    behind = [_neighbour(_inner(p.name), p.name, _channels(p)) for p in graph.output] if outputs else []
    renamed = {
        p.name: _inner(p.name) for ports, wanted in ((graph.input, inputs), (graph.output, outputs)) if wanted for p in ports
    }
    for node in graph.node:
        node.input[:] = [renamed.get(v, v) for v in node.input]
        node.output[:] = [renamed.get(v, v) for v in node.output]
    nodes = [*(n for n, _ in before), *graph.node, *(n for n, _ in behind)]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(w for _, w in (*before, *behind))
    return copy


def two_neighbours(shape: Shape) -> ModelProto:
    """Two neighbours one after the other on one map (1, C, H, W)."""
    first, second = _neighbour("x", "between", shape[0]), _neighbour("between", "y", shape[0])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *shape]) for name in ("x", "y")]
    return as_model(helper.make_graph([first[0], second[0]], "neighbours", ports[:1], ports[1:], [first[1], second[1]]))


def nothing() -> ModelProto:
    """A graph of one number, which takes what a call takes."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    return as_model(helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "nothing", ports[:1], ports[1:]))


def _neighbour(given: str, returned: str, channels: int) -> tuple[NodeProto, TensorProto]:
    weights = numpy_helper.from_array(np.ones((channels, 1, 1, 1), np.float32), f"{returned}/weights")
    node = helper.make_node(
        "Conv", [given, weights.name], [returned], f"{returned}/neighbour", group=channels, kernel_shape=[1, 1]
    )
    return node, weights


def _inner(name: str) -> str:
    return f"{name}/inner"


def _channels(port: ValueInfoProto) -> int:
    dims = [d.dim_value for d in port.type.tensor_type.shape.dim]
    return int(dims[1])
