"""What a TensorRT asks of an ONNX graph, one small function a rule; RULES, at the end, is the table.

A rule yields what it finds; it says nothing where types or shapes are not known. Where a rule's source is a document of one
version, the version stands in `source`; "seen" is what the parser and builder of TensorRT for RTX 1.7.1 answered.

int64 needs no rule: all these targets take it as it is (since TensorRT 9.0). Layers' memory formats, limits of one GPU and
what makes a graph slow are the builder's to say, not this table's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from .view import STANDARD, GraphView, attribute, given

Target = Literal["trt10.3", "trt10.16", "trt11", "rtx"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""trt10.3 is JetPack 6, trt10.16 JetPack 7.2, trt11 what follows; rtx is TensorRT for RTX 1.7."""

OPSETS: dict[Target, tuple[int, int]] = {"trt10.3": (9, 20), "trt10.16": (9, 24), "trt11": (9, 24), "rtx": (9, 24)}

_NOWHERE = """
    AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress
    ConcatFromSequence ConvInteger CumProd DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool
    MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv
    QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength
    SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer StringSplit TfIdfVectorizer Unique
"""
_LATER = "BlackmanWindow HammingWindow HannWindow STFT Attention RMSNormalization RotaryEmbedding Swish TensorScatter"
UNSUPPORTED: dict[Target, frozenset[str]] = {
    "trt10.3": frozenset((*_NOWHERE.split(), *_LATER.split())),
    "trt10.16": frozenset(_NOWHERE.split()),
    "trt11": frozenset(_NOWHERE.split()),
    "rtx": frozenset((*_NOWHERE.split(), "DeformConv")),  # a plugin elsewhere, and this one has none
}

RUNTIME_INPUTS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "Expand": (1,), "Tile": (1,), "Pad": (1, 3),
    "Slice": (1, 2, 3, 4), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,), "TopK": (1,), "OneHot": (1,), "CumSum": (1,),
    "Range": (0, 1, 2), "ConstantOfShape": (0,),
    **{f"Reduce{kind}": (1,) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
}  # fmt: skip
"""Inputs that say a shape, an axis or a count: computed from the frame they would make shapes that vary."""

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
_DTYPES = ("double", "float", "float16", "bfloat16", "int32", "int64", "int8", "int4", "uint8", "bool")
"""8-bit floats need a GPU of its own kind, and no precision here uses them."""


class Hit(NamedTuple):
    """One place where a rule is broken."""

    node: NodeProto | None
    """None where it is the graph as a whole."""
    what: str
    fix: str


@dataclass(frozen=True)
class Rule:
    """One thing that a target asks for."""

    id: str
    find: Callable[[GraphView, Target], Iterator[Hit]]
    source: str
    targets: tuple[Target, ...] = TARGETS


def opset(g: GraphView, target: Target) -> Iterator[Hit]:
    low, high = OPSETS[target]
    if not low <= g.opset <= high:
        yield Hit(None, f"the graph's operators are of opset {g.opset}; {target} takes {low} to {high}", "export with opset 18")


def custom_operator(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.nodes:
        if node.domain not in STANDARD and (node.domain, node.op_type) not in g.functions:
            where = f"{node.domain}.{node.op_type} is not an operator of ONNX; {target} "
            no = "has no plugins" if target == "rtx" else "needs a plugin for it"
            yield Hit(node, where + no, "export it as ONNX operators (a zoomed convolution is Resize, Conv, Resize)")


def operator(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.nodes:
        if node.domain not in STANDARD or (node.domain, node.op_type) in g.functions:
            continue
        if not onnx.defs.has(node.op_type):
            yield Hit(node, f"ONNX has no operator {node.op_type}", "export it as ONNX operators")
        elif node.op_type in UNSUPPORTED[target]:
            yield Hit(node, f"{target} does not have the operator {node.op_type}", "write it with others")


def uint8_first(g: GraphView, target: Target) -> Iterator[Hit]:
    inputs = {v.name for v in g.model.graph.input}
    for name in g.types:
        if g.types[name] == TensorProto.UINT8 and name in inputs | g.arrays.keys():
            for node in g.takers.get(name, []):
                if node.op_type not in ("Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"):
                    yield Hit(node, f"takes {name!r}, which is uint8; only a Cast may", "Cast to float first")


def uint8_inside(g: GraphView, target: Target) -> Iterator[Hit]:
    outputs = {v.name for v in g.model.graph.output}
    for name, node in g.makers.items():
        if g.types.get(name) != TensorProto.UINT8 or node.op_type in ("Constant", "QuantizeLinear"):
            continue
        if any(g.types.get(i) == TensorProto.UINT8 for i in node.input):
            continue  # uint8 has not begun here
        if name not in outputs:
            yield Hit(node, f"makes {name!r}, uint8 inside the graph", "keep it int32 or float until the last Cast")
        elif node.op_type not in ("Cast", "CastLike"):
            yield Hit(node, f"makes the output {name!r}, which is uint8", "let a Cast to uint8 be the last operator")


def static_input(g: GraphView, target: Target) -> Iterator[Hit]:
    for value in g.model.graph.input:
        sizes = g.shapes.get(value.name)
        if value.name not in g.arrays and (sizes is None or None in sizes):
            shown = "unknown" if sizes is None else [("?" if s is None else s) for s in sizes]
            yield Hit(None, f"input {value.name!r} has shape {shown}", "export with fixed sizes, batch 1")


def runtime_shape(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.nodes:
        for i in RUNTIME_INPUTS.get(node.op_type, ()) if node.domain in STANDARD else ():
            if given(node, i) not in g.constant:
                yield Hit(node, f"input {i} ({given(node, i)!r}) is computed while the graph runs", "make it a constant")


def data_dependent(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("NonZero", "NonMaxSuppression"):
        yield Hit(node, "its result's size depends on the frame", "do it behind the graph, or with TopK of a fixed K")


def dtype(g: GraphView, target: Target) -> Iterator[Hit]:
    for name in g.types:
        kind, maker = g.type_name(name), g.makers.get(name)
        taker = next(iter(g.takers.get(name, [])), None)
        quantized = {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in (maker, taker) if n is not None}
        elsewhere = (quantized and "int" in kind) or (maker is not None and maker.op_type == "Constant")
        if kind not in _DTYPES and not elsewhere:  # quantized_type's and string_constant's
            yield Hit(maker or taker, f"{name!r} is {kind}, which {target} does not have", "use float, float16, int32 or int64")


def double(g: GraphView, target: Target) -> Iterator[Hit]:
    for name in g.types:
        if g.type_name(name) == "double":
            maker = g.makers.get(name) or next(iter(g.takers.get(name, [])), None)
            yield Hit(maker, f"{name!r} is double, which {target} silently narrows to float", "export in float32")


def bfloat16(g: GraphView, target: Target) -> Iterator[Hit]:
    for name in g.types:
        if g.type_name(name) == "bfloat16":
            maker = g.makers.get(name) or next(iter(g.takers.get(name, [])), None)
            yield Hit(maker, f"{name!r} is bfloat16; ONNX has such convolutions from opset 22 on", "use float16")


def zero_point(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("QuantizeLinear", "DequantizeLinear"):
        zero = g.array(given(node, 2))
        if zero is not None and np.any(zero):
            yield Hit(node, f"its zero point is {zero.ravel()[np.flatnonzero(zero)[0]]}", "quantize symmetrically")


def quantized_type(g: GraphView, target: Target) -> Iterator[Hit]:
    """Without a zero point the type is uint8 by ONNX's rule up to opset 20, which TensorRT reads as int8."""
    for node in g.of("QuantizeLinear", "DequantizeLinear"):
        quantized = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        zero = given(node, 2)
        kind = g.type_name(zero) if zero else g.type_name(quantized)
        if kind in ("uint8", "int16", "uint16", "uint4", "int2", "uint2"):
            yield Hit(node, f"it quantizes to {kind}; {target} has symmetric int8", "give it an int8 zero point of 0")


def int32_dequantize(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("DequantizeLinear"):
        if g.type_name(node.input[0]) == "int32":
            yield Hit(node, f"it dequantizes {node.input[0]!r}, an int32 bias", "leave the bias float (QuantizeBias=False)")


def scale_positive(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("QuantizeLinear", "DequantizeLinear"):
        scale = g.array(given(node, 1))
        if scale is not None and not np.all(scale > 0):
            yield Hit(node, f"its smallest scale is {scale.min():g}", "calibrate again: a range of no width has no scale")


def scale_count(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("QuantizeLinear", "DequantizeLinear"):
        scale, sizes = g.shapes.get(given(node, 1), ()), g.shapes.get(node.input[0])
        axis = attribute(node, "axis", 1)
        if len(scale) != 1 or scale == (1,) or sizes is None or not -len(sizes) <= axis < len(sizes):
            continue
        if sizes[axis] not in (None, scale[0]):
            yield Hit(node, f"it has {scale[0]} scales for {sizes[axis]} channels", "one scale, or one for each channel")


def scale_constant(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("QuantizeLinear", "DequantizeLinear"):
        if given(node, 1) not in g.constant:
            yield Hit(node, f"its scale {given(node, 1)!r} is computed while the graph runs", "calibrate to constants")


def half_scale(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("QuantizeLinear", "DequantizeLinear"):
        if g.opset < 19 and "float16" in (g.type_name(node.input[0]), g.type_name(given(node, 1))):
            yield Hit(node, f"Q/DQ of float16 begins with opset 19; this is {g.opset}", "write INT8 graphs with opset 19")


def resize_antialias(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("Resize"):
        if attribute(node, "antialias", 0):
            yield Hit(node, "antialias is 1", "resize without antialias, here and in training")


def resize_coordinates(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("Resize"):
        mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
        if mode not in COORDINATES:
            yield Hit(node, f"coordinate_transformation_mode is {mode}", f"use one of {', '.join(COORDINATES)}")


def resize_aspect(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("Resize"):
        policy = attribute(node, "keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            yield Hit(node, f"keep_aspect_ratio_policy is {policy}", "compute the size and use stretch")


def resize_rank(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("Resize", "Upsample"):
        before, after = g.shapes.get(node.input[0]), g.shapes.get(node.output[0])
        if before and after and len(before) == len(after) > 3 and attribute(node, "mode", "nearest") == "linear":
            changed = [i for i, (b, a) in enumerate(zip(before, after, strict=True)) if b != a]
            if changed and changed[0] < len(before) - 3:
                yield Hit(node, f"it resizes axis {changed[0]} of {len(before)}", "linear modes reach the last three axes only")


def resize_type(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("Resize", "Upsample"):
        kind = g.type_name(node.input[0])
        if kind in ("int32", "int64", "bool"):
            yield Hit(node, f"it resizes {kind}", "Cast to float before it and back behind it")


def pool_dilation(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("MaxPool", "AveragePool", "LpPool"):
        if any(d != 1 for d in attribute(node, "dilations", [])):
            yield Hit(node, f"dilations are {list(attribute(node, 'dilations', []))}", "pool without dilation")


def one_output(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("MaxPool", "LayerNormalization"):
        if any(node.output[1:]):
            yield Hit(node, f"its second output {node.output[1]!r} is used", "only the first output exists there")


def training(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("BatchNormalization", "Dropout"):
        mode = g.array(given(node, 2)) if node.op_type == "Dropout" else None
        if attribute(node, "training_mode", 0) or (mode is not None and np.any(mode)):
            yield Hit(node, "it is in training mode", "export after module.eval()")


def top_k(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("TopK"):
        k = g.array(given(node, 1))
        if k is not None and int(k.ravel()[0]) > 3840:
            yield Hit(node, f"K is {int(k.ravel()[0])}", "K up to 3840")


def scatter_reduction(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("ScatterND"):
        if attribute(node, "reduction", "none") != "none":
            yield Hit(node, f"reduction is {attribute(node, 'reduction', 'none')}", "scatter without reduction")


def convolution_rank(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("Conv", "ConvTranspose"):
        sizes = g.shapes.get(node.input[0])
        if sizes is not None and len(sizes) > 5:
            yield Hit(node, f"it convolves over {len(sizes) - 2} axes", "convolutions have one to three")


def string_constant(g: GraphView, target: Target) -> Iterator[Hit]:
    for node in g.of("Constant"):
        if bad := [a.name for a in node.attribute if a.name in ("sparse_value", "value_string", "value_strings")]:
            yield Hit(node, f"it holds a {bad[0]}", "only dense numbers can be constants")


_TABLE = "onnx-tensorrt docs/operators.md, 10.1 and 10.15"
_SEEN = "seen: TensorRT for RTX 1.7.1"

RULES: tuple[Rule, ...] = (
    Rule("opset", opset, _TABLE),
    Rule("custom-operator", custom_operator, "TensorRT developer guide, plugins; TensorRT for RTX has none"),
    Rule("operator", operator, f"{_TABLE}; rtx: its OnnxParser.supports_operator"),
    Rule("uint8-first", uint8_first, f"{_TABLE} (UINT8 is for inputs and outputs only); {_SEEN}"),
    Rule("uint8-inside", uint8_inside, f"{_TABLE} (UINT8 is for inputs and outputs only); {_SEEN}"),
    Rule("static-input", static_input, f"edgesmith builds without optimization profiles; {_SEEN}"),
    Rule("runtime-shape", runtime_shape, f"{_TABLE} (axes must be an initializer); {_SEEN}"),
    Rule("data-dependent", data_dependent, f"edgesmith's buffers have fixed sizes; {_SEEN}"),
    Rule("dtype", dtype, f"{_TABLE}, list of data types; {_SEEN}"),
    Rule("double", double, f"{_TABLE} (DOUBLE is cast down to FLOAT)"),
    Rule("bfloat16", bfloat16, "ONNX operators, Conv since 22; opsets of TensorRT 10.3", ("trt10.3",)),
    Rule("zero-point", zero_point, f"{_TABLE}, QuantizeLinear and DequantizeLinear; {_SEEN}"),
    Rule("quantized-type", quantized_type, f"{_TABLE}, DequantizeLinear's types"),
    Rule("int32-dequantize", int32_dequantize, f"{_TABLE}, DequantizeLinear's types; {_SEEN}"),
    Rule("scale-positive", scale_positive, "NvInfer.h 10.3, IQuantizeLayer (scale must be positive); seen"),
    Rule("scale-count", scale_count, f"NvInfer.h 10.3, IQuantizeLayer; {_SEEN}"),
    Rule("scale-constant", scale_constant, "NvInfer.h 10.3, IQuantizeLayer; gone in 10.16", ("trt10.3",)),
    Rule("half-scale", half_scale, "ONNX operators, QuantizeLinear since 19"),
    Rule("resize-antialias", resize_antialias, f"{_TABLE}, Resize; {_SEEN}"),
    Rule("resize-coordinates", resize_coordinates, f"{_TABLE}, Resize; tf_half_pixel_for_nn left ONNX with opset 13; {_SEEN}"),
    Rule("resize-aspect", resize_aspect, f"{_TABLE}, Resize; {_SEEN}"),
    Rule("resize-rank", resize_rank, _SEEN),
    Rule("resize-type", resize_type, f"{_TABLE}, Resize's types; {_SEEN}"),
    Rule("pool-dilation", pool_dilation, f"{_TABLE}, MaxPool; {_SEEN}"),
    Rule("one-output", one_output, f"{_TABLE}, MaxPool and LayerNormalization; {_SEEN}"),
    Rule("training", training, f"{_TABLE}, Dropout; {_SEEN}"),
    Rule("top-k", top_k, f"{_TABLE}, TopK; {_SEEN}"),
    Rule("scatter-reduction", scatter_reduction, f"{_TABLE}, ScatterND; {_SEEN}"),
    Rule("convolution-rank", convolution_rank, f"NvInfer.h, addConvolutionNd; {_SEEN}"),
    Rule("string-constant", string_constant, f"{_TABLE}, Constant; {_SEEN}"),
)
