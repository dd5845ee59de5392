"""From a network's ONNX graph to the graph that a device runs: camera frame uint8 (H, W, 3) in, label map uint8 (H, W) out.

Around the network lies more memory traffic than inside it, so what stands there was chosen by measurement (`bench/enlarge.py`):

* Enlarging logits and taking the argmax. Bilinear enlargement is linear and separable: a matrix over the rows, a matrix over
  the columns, each with two numbers in a row. The matrices are cut into bands, small dense blocks, and multiplied as one
  batched MatMul; both stay exact for any sizes and for two enlargements in a row, whose matrices simply multiply. Classes
  are the last axis, so that ArgMax runs over neighbouring numbers instead of jumping from plane to plane.
* Large maps go in parts, so that the enlarged logits, the largest tensor by far, never exist whole.
* Colour order and the division by the standard deviation go into the weights of the first convolution. The mean stays a
  subtraction: a convolution pads with zeros, and a padded zero must be the mean's colour, so it has no exact place in a bias.

Cast is the first operator on the frame and the last before the labels: TensorRT takes uint8 nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 18
BAND = 24
"""Rows of an enlargement matrix that make one dense block, roughly. From 15 to 45 there is no measurable difference; at 8 the
blocks are too many, and from 60 on the zeros in them cost more than the numbers."""
PART_BYTES = 8 << 20
"""Bound for the enlarged logits of one part. Smaller is hardly faster and makes many more operators."""

Float = NDArray[np.float32]
M = TypeVar("M", ModelProto, NodeProto, TensorProto)


@dataclass(frozen=True)
class Assembled:
    """A graph from frame to labels, and where in it the values are that a check looks at."""

    model: ModelProto
    enlarged: tuple[str, ...]
    """Values with the enlarged logits, each (rows, W, classes); stacked and cut to H rows they are the whole frame."""
    resized: str | None
    """Value with the frame at the network's size, (1, 3, h, w) in the frame's colour order; None where it needs no resize."""


@dataclass
class _Nodes:
    """A graph under construction. Names count upwards, so that equal calls give equal graphs."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, value: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """One node; its output's name."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.integers(*shape))

    def cut(self, x: str, first: int, last: int, axis: int) -> str:
        """`x` from `first` to `last` (exclusive) along `axis`."""
        return self.add("Slice", x, self.integers(first), self.integers(last), self.integers(axis))


class _Part(NamedTuple):
    """Some rows of the enlarged logits: a value of shape (computed, W, classes), of which the first `rows` count."""

    name: str
    computed: int
    rows: int


def assemble(
    network: ModelProto,
    *,
    frame_hw: tuple[int, int],
    colour_order: Literal["bgr", "rgb"],
    mean: Sequence[float],
    std: Sequence[float],
    enlargement: tuple[Float, Float],
) -> Assembled:
    """Put a network between a camera's frame and a label map.

    `network` takes normalised RGB (1, 3, input height, input width) and returns logits (1, classes, h, w). `mean` and `std`
    are of RGB in [0, 1]. `enlargement` is (H, h) and (W, w): logits at frame size are rows @ logits @ columns.T.

    Raises ValueError when the network's input and output are not of these shapes, or its operators not of opset OPSET.
    """
    _require_opset(network)
    input_name, (_, _, *input_hw) = _only_port(network.graph.input, "input")
    output_name, (_, classes, *low_hw) = _only_port(network.graph.output, "output")
    rows, columns = enlargement
    if (rows.shape, columns.shape) != ((frame_hw[0], low_hw[0]), (frame_hw[1], low_hw[1])):
        raise ValueError(
            f"enlargement of {rows.shape} rows and {columns.shape} columns does not lead from {low_hw} to {frame_hw}"
        )
    g = _Nodes()
    fold = _first_convolution(network, input_name)
    x, resized = _frame_planes(g, frame_hw, (input_hw[0], input_hw[1]))
    x = _normalised(g, x, colour_order, mean, std, folded=fold is not None)
    if fold is not None:
        network = _with_folded_weights(network, fold, colour_order, std)
    inside = {input_name: x}
    for node in network.graph.node:
        copy = copied(node)
        copy.input[:] = [inside.get(v, f"net/{v}" if v else "") for v in node.input]
        copy.output[:] = [f"net/{v}" if v else "" for v in node.output]
        g.nodes.append(copy)
    for constant in network.graph.initializer:
        renamed = copied(constant)
        renamed.name = f"net/{constant.name}"
        g.constants.append(renamed)
    parts = _enlarged_parts(g, f"net/{output_name}", classes, rows, columns)
    _labels(g, parts)
    return Assembled(_model(g, _frame(frame_hw), _label_map(frame_hw)), tuple(p.name for p in parts), resized)


def enlarging(classes: int, enlargement: tuple[Float, Float]) -> Assembled:
    """Only what `assemble` puts behind a network: `logits` float (1, classes, h, w) -> `labels` uint8 (H, W)."""
    g = _Nodes()
    (height, h), (width, w) = (m.shape for m in enlargement)
    parts = _enlarged_parts(g, "logits", classes, *enlargement)
    _labels(g, parts)
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes, h, w])
    return Assembled(_model(g, given, _label_map((height, width))), tuple(p.name for p in parts), None)


def framing(frame_hw: tuple[int, int], colour_order: Literal["bgr", "rgb"], mean: Sequence[float]) -> ModelProto:
    """Only what `assemble` puts before a network of the frame's size: `frame` uint8 (H, W, 3) -> float (1, 3, H, W)."""
    g = _Nodes()
    planes, _ = _frame_planes(g, frame_hw, frame_hw)
    x = _normalised(g, planes, colour_order, mean, (), folded=True)
    return _model(g, _frame(frame_hw), helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 3, *frame_hw]))


def low_hw(network: ModelProto) -> tuple[int, int]:
    """Size of the logits that `network` returns. Raises ValueError when it is not fixed."""
    _, (_, _, h, w) = _only_port(network.graph.output, "output")
    return h, w


def _frame(frame_hw: tuple[int, int]) -> ValueInfoProto:
    return helper.make_tensor_value_info("frame", TensorProto.UINT8, [*frame_hw, 3])


def _label_map(frame_hw: tuple[int, int]) -> ValueInfoProto:
    return helper.make_tensor_value_info("labels", TensorProto.UINT8, frame_hw)


def _model(g: _Nodes, given: ValueInfoProto, returned: ValueInfoProto) -> ModelProto:
    return as_model(helper.make_graph(g.nodes, "frame_to_labels", [given], [returned], g.constants))


def as_model(graph: GraphProto) -> ModelProto:
    """A model of `graph` for runtimes that may be years older than the tools here: opset 18 and its lowest IR version."""
    opset = helper.make_opsetid("", OPSET)
    version = helper.find_min_ir_version_for([opset])
    return helper.make_model(graph, opset_imports=[opset], ir_version=version, producer_name="edgesmith")


def copied(message: M) -> M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name, texts as bytes."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def graph_digest(model: ModelProto) -> str:
    """SHA-256 of a graph (hexadecimal): that of its file, as export writes it."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def cleaned(model: ModelProto) -> ModelProto:
    """A copy without what an exporter writes about itself: doc strings, metadata, source paths, shapes inside the graph.

    Raises ValueError when the model needs more than ONNX's own operators.
    """
    clean = copied(model)
    if foreign := sorted({n.domain for n in clean.graph.node if n.domain not in ("", "ai.onnx")}):
        raise ValueError(f"the graph has operators of {', '.join(foreign)}; only ONNX's own can be exported")
    for message in (clean, clean.graph, *clean.graph.node, *clean.graph.initializer, *clean.graph.input, *clean.graph.output):
        for name in ("doc_string", "metadata_props"):
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)
    for node in clean.graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
    clean.graph.ClearField("value_info")
    clean.ClearField("producer_version")
    return clean


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy that also returns the inner values `names`, of whatever type they are, after its own outputs."""
    probe = copied(model)
    probe.graph.output.extend(ValueInfoProto(name=n) for n in names)
    return probe


def bilinear(low: int, high: int, align_corners: bool) -> Float:
    """The matrix (high, low) of a bilinear resize, with torch's numbers to the last bit (and `axis.h`'s)."""
    at = np.arange(high, dtype=np.float32)
    if align_corners:
        source = at * (np.float32(low - 1) / np.float32(high - 1) if high > 1 else np.float32(0))
    else:  # a product and a sum that are rounded once: fp64 holds the product of two fp32 numbers
        scale = np.float64(np.float32(low) / np.float32(high))
        source = np.maximum((scale * (at + np.float32(0.5)) - 0.5).astype(np.float32), np.float32(0))
    first = np.minimum(source.astype(np.int64), low - 1)
    weight = np.minimum(source - first.astype(np.float32), np.float32(1))
    matrix: Float = np.zeros((high, low), np.float32)
    np.add.at(matrix, (np.arange(high), first), np.float32(1) - weight)
    np.add.at(matrix, (np.arange(high), np.minimum(first + 1, low - 1)), weight)
    return matrix


def band_rows(rows: int) -> int:
    """Rows of a block near BAND that `rows` is a multiple of, or almost: what is left over is computed for nothing."""
    return min(range(min(rows, 16), min(rows, 40) + 1), key=lambda size: (-rows % size, abs(size - BAND)))


def bands(matrix: Float, size: int) -> tuple[NDArray[np.int64], Float]:
    """Cut a banded matrix (o, i) into S dense blocks of `size` rows R and K columns.

    Returns the columns of each block (S, K) and the blocks (S, R, K): rows s * R to (s + 1) * R of `matrix @ x` are
    `blocks[s] @ x[columns[s]]`. S * R may exceed o; the rows beyond are zero.
    """
    o, i = matrix.shape
    count = -(-o // size)
    padded = np.zeros((count * size, i), np.float32)
    padded[:o] = matrix
    blocks = padded.reshape(count, size, i)
    used = [np.flatnonzero(b.any(0)) for b in blocks]
    first = np.array([u[0] if u.size else 0 for u in used])
    last = np.array([u[-1] if u.size else 0 for u in used])
    width = int((last - first).max()) + 1
    columns = np.minimum(first, i - width)[:, None] + np.arange(width)  # (S, K)
    return columns.astype(np.int64), np.stack([b[:, c] for b, c in zip(blocks, columns, strict=True)])


def _frame_planes(g: _Nodes, frame_hw: tuple[int, int], input_hw: tuple[int, int]) -> tuple[str, str | None]:
    """frame uint8 (H, W, 3) -> float (1, 3, h, w) in 0..255; the name once more where it was resized."""
    x = g.add("Cast", "frame", to=TensorProto.FLOAT)
    x = g.reshape(g.add("Transpose", x, perm=[2, 0, 1]), 1, 3, *frame_hw)
    if input_hw == frame_hw:
        return x, None
    sizes = g.integers(1, 3, *input_hw)
    x = g.add("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
    return x, x


def _normalised(g: _Nodes, x: str, colour_order: str, mean: Sequence[float], std: Sequence[float], *, folded: bool) -> str:
    """The frame's planes -> what the network takes; if `folded`, what is left to do before its first convolution."""
    order = [2, 1, 0] if colour_order == "bgr" else [0, 1, 2]

    def a_channel(values: Sequence[float]) -> str:
        return g.constant(np.array(values, np.float64)[order].astype(np.float32).reshape(1, 3, 1, 1))

    x = g.add("Sub", x, a_channel([m * 255 for m in mean]))
    if folded:
        return x
    x = g.add("Mul", x, a_channel([1 / (s * 255) for s in std]))
    return x if colour_order == "rgb" else g.add("Gather", x, g.integers(*order), axis=1)


def _enlarged_parts(g: _Nodes, low: str, classes: int, rows: Float, columns: Float) -> list[_Part]:
    """Logits (1, classes, h, w) -> the enlarged logits in parts, from top to bottom."""
    (height, h), (width, w) = rows.shape, columns.shape
    x = g.reshape(g.add("Transpose", low, perm=[0, 2, 3, 1]), h, w, classes)
    index, blocks = bands(columns, band_rows(width))
    x = g.add("Gather", x, g.constant(index), axis=1)  # (h, S, K, classes)
    x = g.add("MatMul", g.constant(blocks[None]), x)  # (h, S, R, classes)
    computed = blocks.shape[0] * blocks.shape[1]
    x = g.reshape(x, h, computed * classes)
    if computed > width:
        x = g.cut(x, 0, width * classes, axis=1)
    size = band_rows(height)
    step = max(1, PART_BYTES // (size * width * classes * 4)) * size
    parts = []
    for first in range(0, height, step):
        part = rows[first : first + step]
        index, blocks = bands(part, size)
        y = g.add("MatMul", g.constant(blocks), g.add("Gather", x, g.constant(index), axis=0))  # (S, R, W * classes)
        computed = blocks.shape[0] * blocks.shape[1]
        parts.append(_Part(g.reshape(y, computed, width, classes), computed, len(part)))
    return parts


def _labels(g: _Nodes, parts: Sequence[_Part]) -> None:
    """Parts of the enlarged logits -> `labels` uint8 (H, W)."""
    found = []
    for part in parts:
        x = g.add("ArgMax", part.name, axis=2, keepdims=0)
        found.append(x if part.computed == part.rows else g.cut(x, 0, part.rows, axis=0))
    x = found[0] if len(found) == 1 else g.add("Concat", *found, axis=0)
    g.nodes.append(helper.make_node("Cast", [x], ["labels"], "labels", to=TensorProto.UINT8))


def _only_port(ports: Sequence[Any], what: str) -> tuple[str, list[int]]:
    """Name and static shape of the network's one input or output."""
    shapes = [[d.dim_value for d in p.type.tensor_type.shape.dim] for p in ports]
    if len(ports) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1 or 0 in shapes[0]:
        raise ValueError(f"the network's {what} has shape {shapes}; needs one tensor of four fixed sizes, batch 1")
    return ports[0].name, shapes[0]


def _require_opset(network: ModelProto) -> None:
    """Nodes are copied as they are into a graph that says OPSET: of another one they would mean something else."""
    found = sorted({o.version for o in network.opset_import if o.domain in ("", "ai.onnx")})
    if found != [OPSET]:
        raise ValueError(f"the network's operators are of opset {found or 'none'}; it must be exported with {OPSET}")


def _first_convolution(network: ModelProto, input_name: str) -> str | None:
    """The weights of the convolution that alone takes the input, if colour order and scale can go into them."""
    users = [n for n in network.graph.node if input_name in n.input]
    if len(users) != 1 or users[0].op_type != "Conv" or users[0].input[0] != input_name:
        return None
    weights = users[0].input[1]
    shared = sum(list(n.input).count(weights) for n in network.graph.node) > 1
    shape = next((list(c.dims) for c in network.graph.initializer if c.name == weights), None)
    return None if shared or shape is None or shape[1] != 3 else weights


def _with_folded_weights(network: ModelProto, name: str, colour_order: str, std: Sequence[float]) -> ModelProto:
    """A copy whose convolution weights `name` take frames in `colour_order`, less their mean, in 0..255."""
    copy = copied(network)
    tensor = next(c for c in copy.graph.initializer if c.name == name)
    weights = numpy_helper.to_array(tensor).astype(np.float64) / (np.array(std, np.float64) * 255).reshape(1, 3, 1, 1)
    if colour_order == "bgr":
        weights = weights[:, ::-1]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights, np.float32), name))
    return copy


def check(model: ModelProto) -> None:
    """ONNX's own checker, with shapes inferred strictly. Raises RuntimeError with its finding."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise RuntimeError(f"the exported graph is not valid ONNX: {e}") from e
