"""What the plugins' operators mean in ONNX's own: the function bodies that a fused model carries (see `rewrite.py`)."""

from __future__ import annotations

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper

from edgesmith.deploy.plugins import DOMAIN

from .graph import OPSET


def zoomed_function(layers: int, stride: int) -> FunctionProto:
    """ZoomedConv of one form. ONNX tells the forms apart by the function's overload."""
    ends = ("", "_2")[:layers]
    attributes = [
        "stride",
        "low_hw",
        "hw",
        "coordinate_transformation_mode",
        *(f"{w}{e}" for e in ends for w in ("weight", "bias")),
    ]
    nodes = [_constant(f"{w}{e}", "value", AttributeProto.TENSOR) for e in ends for w in ("weight", "bias")]
    nodes += [_constant("low_hw", "value_ints", AttributeProto.INTS), _resized("x", "low_hw", "y0")]
    for i, end in enumerate(ends):
        nodes.append(helper.make_node("Conv", [f"y{i}", f"weight{end}", f"bias{end}"], [f"z{i}"], pads=[1, 1, 1, 1]))
        if i + 1 < layers:
            nodes.append(helper.make_node("Relu", [f"z{i}"], [f"y{i + 1}"]))
    value = f"z{layers - 1}"
    if stride == 1:
        nodes += [_constant("hw", "value_ints", AttributeProto.INTS), _resized(value, "hw", "large")]
        value = "large"
    nodes.append(helper.make_node("Relu", [value], ["y"]))
    made = helper.make_function(DOMAIN, "ZoomedConv", ["x"], ["y"], nodes, [helper.make_opsetid("", OPSET)], attributes)
    made.overload = f"x{layers}_stride{stride}"
    return made


def enlarge_function(native: GraphProto) -> FunctionProto:
    """The native enlargement of one size: its constants cannot follow from attributes inside a function."""
    attributes = ["classes", "low_hw", "hw", "coordinate_transformation_mode"]
    nodes = [helper.make_node("Constant", [], [c.name], value=c) for c in native.initializer]
    nodes += native.node[:-1]
    nodes.append(helper.make_node("Cast", [native.node[-1].input[0]], ["classes_of"], to=TensorProto.FLOAT16))
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, "EnlargeArgmax", ["logits"], ["classes_of"], nodes, opset, attributes)


def _constant(name: str, kind: str, type_: int) -> NodeProto:
    """A Constant whose value is the operator's attribute of that name."""
    node = helper.make_node("Constant", [], [name])
    node.attribute.add(name=kind, ref_attr_name=name, type=type_)
    return node


def _resized(x: str, hw: str, y: str) -> NodeProto:
    node = helper.make_node("Resize", [x, "", "", hw], [y], mode="linear", axes=[2, 3])
    mode = "coordinate_transformation_mode"
    node.attribute.add(name=mode, ref_attr_name=mode, type=AttributeProto.STRING)
    return node
