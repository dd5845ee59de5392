"""Small ONNX graphs, each breaking one rule of pipeline/graphs/rules.py or just keeping it, in ONNX's own text form."""

from __future__ import annotations

from typing import NamedTuple

from onnx import ModelProto, parser

QDQ = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d)"
ACTIVATION = "g (float[1,3,4,4] x) => (float[1,3,4,4] y)"
RELU = "g (float[1,3,16,16] x) => (float[1,3,16,16] y) { y = Relu(x) }"
ZOOM = "g (float[4] x) => (float[4] y) { y = my.ops.Zoom(x) }"
POOL = "g (float[1,3,8,8] x) => (float[1,3,6,6] y)"


class Case(NamedTuple):
    name: str
    rule: str | None
    """The rule that it breaks; None for a graph that breaks none."""
    body: str
    opset: int = 18
    imports: str = ""
    functions: str = ""

    def model(self) -> ModelProto:
        ir = 8 if self.opset < 19 else 9 if self.opset < 21 else 10
        head = f'<ir_version: {ir}, opset_import: ["" : {self.opset}{self.imports}]>\n'
        return parser.parse_model(head + self.body + self.functions)


def resize(attributes: str, to: str = "1,3,32,32", x: str = "float[1,3,16,16]") -> str:
    kind = x.partition("[")[0]
    rank = to.count(",") + 1
    return f"g ({x} x) => ({kind}[{to}] y) <int64[{rank}] n = {{{to}}}> {{ y = Resize<{attributes}>(x, , , n) }}"


def convolution(body: str, constants: str = "") -> str:
    """A convolution of int8 weights w (scales ws) over a quantized frame d."""
    weights = "int8[4,3,1,1] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[4] ws = {0.1,0.2,0.3,0.4}, int8[4] wz = {0,0,0,0}"
    head = f"<{weights}, float s = {{0.1}}, int8 z = {{0}}{constants}>"
    quantized = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
    return f"g (float[1,3,16,16] x) => (float[1,4,16,16] y) {head} {{ {quantized} {body} }}"


def quantized(scale: str = "float s = {0.1}", zero: str = "int8 z = {0}") -> str:
    return f"{ACTIVATION} <{scale}, {zero}> {{ {QDQ} }}"


HALF = f"g (float16[1,3,4,4] x) => (float16[1,3,4,4] y) <float one = {{0.5}}, int8 z = {{0}}> {{ s = Cast<to=10>(one) {QDQ} }}"

CASES = (
    # Opset
    Case("opset 8", "opset", RELU, 8),
    Case("opset 9", None, RELU, 9),
    Case("opset 20", None, RELU, 20),
    Case("opset 24", None, RELU, 24),
    Case("opset 25", "opset", RELU, 25),
    # Operators
    Case("own domain", "custom-operator", ZOOM, imports=', "my.ops" : 1'),
    Case("own domain, imported only", None, RELU, imports=', "my.ops" : 1'),
    Case(
        "own domain, a function of the model", None, ZOOM, imports=', "my.ops" : 1',
        functions='\n<domain: "my.ops", opset_import: ["" : 18]> Zoom (a) => (b) { b = Relu(a) }',
    ),
    Case(
        "another runtime's operator", "custom-operator",
        "g (float[4] x) => (float[4] y) { y = com.microsoft.Gelu(x) }", imports=', "com.microsoft" : 1',
    ),
    Case("no such operator", "operator", "g (float[4] x) => (float[4] y) { y = Zoom(x) }"),
    Case("Det", "operator", "g (float[1,4,4] x) => (float[1] y) { y = Det(x) }"),
    Case(
        "Det inside an If", "operator",
        "g (float[1,2,2] x, bool c) => (float[1] y) { y = If(c)<then_branch = t () => (float[1] a) { a = Det(x) }, "
        "else_branch = e () => (float[1] b) { b = ReduceSum<keepdims=0>(x) }> }",
    ),
    Case(
        "If", None,
        "g (float[4] x, bool c) => (float[4] y) { y = If(c)<then_branch = t () => (float[4] a) { a = Relu(x) }, "
        "else_branch = e () => (float[4] b) { b = Abs(x) }> }",
    ),
    Case("BitwiseNot", "operator", "g (int32[4] x) => (int32[4] y) { y = BitwiseNot(x) }"),
    Case("CenterCropPad", "operator", "g (float[8] x) => (float[4] y) <int64[1] n = {4}> { y = CenterCropPad(x, n) }"),
    Case("Hardmax", None, "g (float[1,4] x) => (float[1,4] y) { y = Hardmax(x) }"),
    Case(
        "DeformConv", "operator",
        "g (float[1,1,4,4] x, float[1,8,3,3] o) => (float[1,1,3,3] y) <float[1,1,2,2] w = {1,1,1,1}> "
        "{ y = DeformConv(x, w, o) }", 19,
    ),
    Case(
        "QLinearConv", "operator",
        "g (int8[1,3,16,16] x) => (int8[1,1,16,16] y) <int8[1,3,1,1] w = {1,2,3}, float s = {0.1}, int8 z = {0}> "
        "{ y = QLinearConv(x, s, z, w, s, z, s, z) }",
    ),
    # uint8
    Case("frame to labels", None, "g (uint8[4,4,3] x) => (uint8[4,4,3] y) { f = Cast<to=1>(x) r = Relu(f) y = Cast<to=2>(r) }"),
    Case("Transpose before Cast", "uint8-first",
         "g (uint8[4,4,3] x) => (float[3,4,4] y) { f = Transpose<perm=[2,0,1]>(x) y = Cast<to=1>(f) }"),
    Case("two Casts of one frame", None,
         "g (uint8[4,4,3] x) => (float[4,4,3] y, float16[4,4,3] v) { y = Cast<to=1>(x) v = Cast<to=10>(x) }"),
    Case("a Cast and a Transpose of one frame", "uint8-first",
         "g (uint8[4,4,3] x) => (float[4,4,3] y, uint8[3,4,4] v) { y = Cast<to=1>(x) v = Transpose<perm=[2,0,1]>(x) }"),
    Case("Gather from the frame", "uint8-first",
         "g (uint8[4,4,3] x) => (uint8[4,4,1] y) <int64[1] i = {0}> { y = Gather<axis=2>(x, i) }"),
    Case("the frame handed through", "uint8-first", "g (uint8[4,4,3] x) => (uint8[4,4,3] y) { y = Identity(x) }"),
    Case("uint8 constant", None, "g (float[2] x) => (float[2] y) <uint8[2] c = {1,2}> { f = Cast<to=1>(c) y = Add(x, f) }"),
    Case("uint8 between two Casts", "uint8-inside",
         "g (float[4,4] x) => (float[4,4] y) { c = Cast<to=2>(x) y = Cast<to=1>(c) }"),
    Case("Reshape behind the last Cast", "uint8-inside",
         "g (float[4,4] x) => (uint8[16] y) <int64[1] n = {16}> { c = Cast<to=2>(x) y = Reshape(c, n) }"),
    Case("labels from ArgMax", None,
         "g (float[4,4] x) => (uint8[4] y) { a = ArgMax<axis=0,keepdims=0>(x) y = Cast<to=2>(a) }"),
    # Shapes
    Case("free batch", "static-input", "g (float[N,3,16,16] x) => (float[N,3,16,16] y) { y = Relu(x) }"),
    Case("free size", "static-input", "g (float[1,3,H,W] x) => (float[1,3,H,W] y) { y = Relu(x) }"),
    Case("Reshape to what the graph computes", "runtime-shape",
         "g (float[4,4] x, int64[1] n) => (float[m] y) { y = Reshape(x, n) }"),
    Case("Reshape to the shape of another value", None,
         "g (float[4,4] x, float[16] v) => (float[16] y) { n = Shape(v) y = Reshape(x, n) }"),
    Case("ReduceMean over an axis from outside", "runtime-shape",
         "g (float[2,4] x, int64[1] a) => (float[2,1] y) { y = ReduceMean(x, a) }"),
    Case("ReduceMean over a constant axis", None,
         "g (float[2,4] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceMean(x, a) }"),
    Case("Slice from a computed start", "runtime-shape",
         "g (float[2,4] x, int64[1] s) => (float[p,q] y) <int64[1] a = {0}, int64[1] e = {1}> { y = Slice(x, s, e, a) }"),
    Case("TopK of a computed K", "runtime-shape",
         "g (float[16] x, int64[1] k) => (float[n] y, int64[n] i) { y, i = TopK(x, k) }"),
    Case("Squeeze of an axis from outside", "runtime-shape",
         "g (float[1,4] x, int64[1] a) => (float[k] y) { y = Squeeze(x, a) }"),
    Case("NonZero", "data-dependent", "g (float[16] x) => (int64[1,N] y) { y = NonZero(x) }"),
    # Types
    *(Case(kind, None, f"g ({kind}[4] x) => ({kind}[4] y) {{ y = Add(x, x) }}") for kind in ("int64", "int32", "float16")),
    *(Case(kind, "dtype", f"g ({kind}[4] x) => ({kind}[4] y) {{ y = Identity(x) }}")
      for kind in ("int16", "uint16", "uint32", "uint64", "string", "complex64")),
    Case("float8", "dtype", "g (float8e4m3fn[4] x) => (float8e4m3fn[4] y) { y = Identity(x) }", 19),
    Case("int16 constant", "dtype",
         "g (float[2] x) => (float[2] y) <int16[2] c = {1,2}> { f = Cast<to=1>(c) y = Add(x, f) }"),
    Case("double", "double", "g (float[2] x) => (float[2] y) { d = Cast<to=11>(x) e = Add(d, d) y = Cast<to=1>(e) }"),
    Case("two types in one sum", "valid-onnx", "g (float[4] x, float16[4] v) => (float[4] y) { y = Add(x, v) }"),
    # Quantization
    Case("int8 activation", None, quantized()),
    Case("zero point 3", "zero-point", quantized(zero="int8 z = {3}")),
    Case("uint8 with zero point 0", "quantized-type", quantized(zero="uint8 z = {0}")),
    Case("quantized to int16", "quantized-type", quantized(zero="int16 z = {0}"), 21),
    Case("no zero point, so uint8", "quantized-type",
         f"{ACTIVATION} <float s = {{0.1}}> {{ q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) y = Relu(d) }}"),
    Case("no zero point, but int8", None,
         f"{ACTIVATION} <float s = {{0.1}}> {{ q = QuantizeLinear<output_dtype=3>(x, s) y = DequantizeLinear(q, s) }}", 21),
    Case("scale below 0", "scale-positive", quantized("float s = {-0.1}")),
    Case("scale 0", "scale-positive", quantized("float s = {0.0}")),
    Case("a scale for each channel", None, quantized("float[3] s = {0.1,0.2,0.3}", "int8[3] z = {0,0,0}")),
    Case("two scales for three channels", "scale-count", quantized("float[2] s = {0.1,0.2}", "int8[2] z = {0,0}")),
    Case("scale from outside", None, f"g (float[1,3,4,4] x, float s) => (float[1,3,4,4] y) <int8 z = {{0}}> {{ {QDQ} }}"),
    Case("fp16 Q/DQ at opset 18", "half-scale", HALF, 18),
    Case("fp16 Q/DQ at opset 19", None, HALF, 19),
    Case("int8 weights", None, convolution("k = DequantizeLinear<axis=0>(w, ws, wz) y = Conv(d, k)")),
    Case("int8 weights, float bias", None, convolution(
        "k = DequantizeLinear<axis=0>(w, ws, wz) y = Conv(d, k, b)", ", float[4] b = {1,2,3,4}")),
    Case("int32 bias", "int32-dequantize", convolution(
        "k = DequantizeLinear<axis=0>(w, ws, wz) c = DequantizeLinear<axis=0>(b, ws) y = Conv(d, k, c)",
        ", int32[4] b = {1,2,3,4}")),
    # Resize
    *(Case(f"Resize {mode} {c}", None, resize(f'mode="{mode}",coordinate_transformation_mode="{c}"'))
      for mode in ("linear", "nearest") for c in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")),
    Case("Resize cubic", None, resize('mode="cubic"')),
    Case("Resize tf_half_pixel_for_nn", "resize-coordinates",
         resize('mode="nearest",coordinate_transformation_mode="tf_half_pixel_for_nn"')),
    Case("Resize half_pixel_symmetric", "resize-coordinates",
         resize('mode="linear",coordinate_transformation_mode="half_pixel_symmetric"'), 19),
    Case("Resize antialias", "resize-antialias", resize('mode="linear",antialias=1', "1,3,8,8")),
    Case("Resize antialias 0", None, resize('mode="linear",antialias=0', "1,3,8,8")),
    Case("Resize not_larger", "resize-aspect", resize('mode="linear",keep_aspect_ratio_policy="not_larger"')),
    Case("Resize channels too", None, resize('mode="linear"', "1,6,32,32")),
    Case("Resize batch too", "resize-rank", resize('mode="linear"', "2,3,32,32")),
    Case("Resize nearest, batch too", None, resize('mode="nearest"', "2,3,32,32")),
    Case("Resize int32", "resize-type", resize('mode="nearest"', x="int32[1,3,16,16]")),
    Case("Resize fp16", None, resize('mode="linear"', x="float16[1,3,16,16]")),
    Case("Resize to a size from outside", "runtime-shape",
         'g (float[1,3,4,4] x, int64[4] n) => (float[1,3,a,b] y) { y = Resize<mode="linear">(x, , , n) }'),
    Case("Resize by scales", None,
         'g (float[1,3,4,4] x) => (float[1,3,5,5] y) <float[4] n = {1,1,1.3,1.3}> { y = Resize<mode="linear">(x, , n) }'),
    # Single operators
    Case("MaxPool dilated", "pool-dilation", f"{POOL} {{ y = MaxPool<kernel_shape=[2,2],dilations=[2,2]>(x) }}"),
    Case("MaxPool dilated by 1", None, f"{POOL} {{ y = MaxPool<kernel_shape=[3,3],dilations=[1,1]>(x) }}"),
    Case("MaxPool with indices", "one-output",
         "g (float[1,3,8,8] x) => (float[1,3,6,6] y, int64[1,3,6,6] i) { y, i = MaxPool<kernel_shape=[3,3]>(x) }"),
    Case("LayerNormalization's mean", "one-output",
         "g (float[2,4] x) => (float[2,4] y, float[2,1] m) <float[4] s = {1,1,1,1}> { y, m = LayerNormalization(x, s) }"),
    Case("Dropout in training", "training",
         "g (float[4] x) => (float[4] y) <float r = {0.5}, bool t = {1}> { y = Dropout(x, r, t) }"),
    Case("Dropout", None, "g (float[4] x) => (float[4] y) { y = Dropout(x) }"),
    Case("K 3840", None, "g (float[5000] x) => (float[3840] y, int64[3840] i) <int64[1] k = {3840}> { y, i = TopK(x, k) }"),
    Case("K 3841", "top-k", "g (float[5000] x) => (float[3841] y, int64[3841] i) <int64[1] k = {3841}> { y, i = TopK(x, k) }"),
    Case("ScatterND add", "scatter-reduction",
         'g (float[4] x, float[2] u) => (float[4] y) <int64[2,1] i = {0,1}> { y = ScatterND<reduction="add">(x, i, u) }'),
    Case("ScatterND", None,
         "g (float[4] x, float[2] u) => (float[4] y) <int64[2,1] i = {0,1}> { y = ScatterND(x, i, u) }"),
    Case("convolution over one axis", None,
         "g (float[1,3,8] x) => (float[1,1,8] y) <float[1,3,1] w = {1,2,3}> { y = Conv(x, w) }"),
    Case("convolution over four axes", "convolution-rank",
         "g (float[1,1,2,2,2,2] x) => (float[1,1,2,2,2,2] y) <float[1,1,1,1,1,1] w = {1}> { y = Conv(x, w) }"),
    Case("a text", "string-constant",
         'g (float[4] x) => (float[4] y, string[1] t) { t = Constant<value_strings=["a"]>() y = Relu(x) }'),
    Case("output that nothing makes", "valid-onnx", "g (float[4] x) => (float[4] y) { v = Relu(x) }"),
)  # fmt: skip

LAXER = {
    "opset 8": "documented from 9 on; the parser reads older operators as well as it knows them",
    "opset 25": "documented up to 24; the parser warns and reads on with the operators that it knows",
    "another runtime's operator": "the parser goes by the name Gelu and ignores the domain; other TensorRTs need a plugin",
    "the frame handed through": "no layer computes with it; a graph of ours never only hands its frame through",
    "double": "narrowed to float without a word, so that the numbers are not those of ONNX Runtime",
    "uint8 with zero point 0": "read as an 8-bit type by this parser; undocumented, and refused by TensorRT 10",
    "no zero point, so uint8": "as above: ONNX says uint8",
    "fp16 Q/DQ at opset 18": "not valid ONNX: ONNX Runtime refuses what this parser reads",
}
"""Graphs that the checker refuses and the builder takes, with the reason why the checker stays with its rule."""
