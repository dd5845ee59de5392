"""Finds in a graph the nodes that the plugins' operators stand for (see `rewrite.py`)."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgesmith.deploy.plugins import DOMAIN
from edgesmith.models.parts import zoomed_hw

from .graph import attributes_of, bilinear, copied, enlarging
from .rewrite_bodies import enlarge_function, zoomed_function

MODES = {"align_corners": True, "half_pixel": False}
RESIZE = {
    "mode": b"linear",
    "antialias": 0,
    "exclude_outside": 0,
    "keep_aspect_ratio_policy": b"stretch",
    "extrapolation_value": 0.0,
}
"""What a Resize must say, where it says it; each is the default but the first. Other attributes do not matter to `linear`."""
CONV = {"pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1, "kernel_shape": [3, 3], "auto_pad": b"NOTSET"}


@dataclass
class Match:
    """Some nodes of a graph and the operator that stands for them."""

    members: list[int]
    """Their places among the graph's nodes, ascending."""
    node: NodeProto
    """The operator; it takes the place of the last member."""
    constants: dict[str, str]
    """Constants of the members, by name, and where in the operator each is: see `_native_constant`."""
    function: FunctionProto
    renamed: tuple[str, str, str] | None = None
    """A node that is left, by name, whose input had the first name and has the second."""


@dataclass
class _View:
    """A graph's nodes by what they take and give."""

    model: ModelProto
    users: dict[str, list[int]] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for i, node in enumerate(self.model.graph.node):
            for name in node.input:
                self.users.setdefault(name, []).append(i)
        for port in self.model.graph.output:
            self.users.setdefault(port.name, []).append(-1)
        self.constants = {c.name: c for c in self.model.graph.initializer}
        known = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        for v in (*known.input, *known.value_info, *known.output):
            self.shapes[v.name] = tuple(d.dim_value for d in v.type.tensor_type.shape.dim)

    def then(self, index: int, op: str) -> int | None:
        """The node of kind `op` that alone takes what node `index` gives."""
        users = self.users.get(self.model.graph.node[index].output[0], [])
        good = len(users) == 1 and users[0] >= 0 and self.model.graph.node[users[0]].op_type == op
        return users[0] if good else None

    def array(self, name: str) -> Any:
        return numpy_helper.to_array(self.constants[name])


def zoomed(model: ModelProto) -> Iterator[Match]:
    """The zoomed convolutions. Several may share a reduction, where branches part: then it goes with the first of them."""
    view = _View(model)
    for first, node in enumerate(model.graph.node):
        users = view.users.get(node.output[0], []) if node.op_type == "Resize" else []
        found = [_zoomed_at(view, first, conv) for conv in users]
        matches = [m for m in found if m is not None]
        if not matches or len(matches) < len(found):
            continue  # without all of its users gone, the reduced map has to be computed anyway
        matches[0].members.insert(0, first)
        matches[0].constants |= _size(view, node)
        yield from matches


def _zoomed_at(view: _View, first: int, conv: int | None) -> Match | None:
    """The zoomed convolution of the reduction `first` and the convolution `conv` behind it: its longest form."""
    nodes = view.model.graph.node
    x = view.shapes.get(nodes[first].input[0], ())
    mode = _mode(nodes[first])
    if len(x) != 4 or 0 in x or mode is None or conv == -1:
        return None
    (n, channels, *hw), low = x, zoomed_hw((x[2], x[3]))
    if not _resizes_to(view, nodes[first], [n, channels, *low]):
        return None
    said = {"low_hw": low, "hw": hw, "coordinate_transformation_mode": mode}
    members, convs = list[int](), list[int]()
    found: Match | None = None
    while conv is not None and len(convs) < 2 and _plain_conv(view, nodes[conv], channels):
        width = view.constants[nodes[conv].input[1]].dims[0]
        if convs and width != channels:
            break
        members, convs, channels = [*members, conv], [*convs, conv], width
        large, relu = view.then(conv, "Resize"), view.then(conv, "Relu")
        if large is not None and _mode(nodes[large]) == mode and _resizes_to(view, nodes[large], [n, channels, *hw]):
            last = view.then(large, "Relu")
            return None if last is None else _zoomed_match(view, first, [*members, large, last], convs, said | {"stride": 1})
        if relu is None:
            break
        members = [*members, relu]
        found = _zoomed_match(view, first, members, convs, said | {"stride": 2})
        conv = view.then(relu, "Conv")
    return found


def _zoomed_match(view: _View, first: int, members: list[int], convs: list[int], attributes: dict[str, Any]) -> Match:
    """The match of `members`, which come behind the reduction `first`."""
    nodes = view.model.graph.node
    constants: dict[str, str] = {}
    for end, conv in zip(("", "_2"), convs, strict=False):
        weight, *bias = (view.constants[name] for name in nodes[conv].input[1:] if name)
        attributes[f"weight{end}"] = weight
        zeros = np.zeros(weight.dims[0], numpy_helper.to_array(weight).dtype)
        attributes[f"bias{end}"] = bias[0] if bias else numpy_helper.from_array(zeros)
        constants |= {t.name: f"{what}{end}" for what, t in zip(("weight", "bias"), (weight, *bias), strict=False)}
    for i in members:
        if nodes[i].op_type == "Resize":
            constants |= _size(view, nodes[i])
    function = zoomed_function(len(convs), attributes["stride"])
    x, y, name = nodes[first].input[0], nodes[members[-1]].output[0], f"zoomed/{nodes[convs[0]].name}"
    node = helper.make_node("ZoomedConv", [x], [y], name, domain=DOMAIN, overload=function.overload, **attributes)
    return Match(members, node, constants, function)


def _size(view: _View, resize: NodeProto) -> dict[str, str]:
    """The constant with a Resize's size. It is small, and written in many ways: it is kept as it is."""
    raw = view.constants[resize.input[3]].SerializeToString(deterministic=True)
    return {resize.input[3]: f"={base64.b64encode(raw).decode()}"}


def _mode(node: NodeProto) -> str | None:
    """The coordinates of a bilinear Resize that the plugins compute, or None."""
    said = attributes_of(node)
    mode = said.get("coordinate_transformation_mode", b"half_pixel").decode()
    plain = all(said.get(k, v) == v for k, v in RESIZE.items()) and said.get("mode") == RESIZE["mode"]
    return mode if plain and mode in MODES and "axes" not in said else None


def _resizes_to(view: _View, node: NodeProto, shape: Sequence[int]) -> bool:
    """Whether a Resize takes a constant size, and that is `shape`."""
    given = list(node.input)
    good = len(given) == 4 and not given[1] and not given[2] and given[3] in view.constants
    return good and view.array(given[3]).tolist() == list(shape)


def _plain_conv(view: _View, node: NodeProto, channels: int) -> bool:
    """Whether a Conv is 3x3 of "same" padding, on `channels` channels, with constant weights."""
    said = attributes_of(node)
    if any(said.get(k, v) != v for k, v in CONV.items()) or said.get("pads") != CONV["pads"]:
        return False
    if not all(name in view.constants for name in node.input[1:] if name):
        return False
    return list(view.constants[node.input[1]].dims[1:]) == [channels, 3, 3]


def enlargement(model: ModelProto) -> Iterator[Match]:
    """What `graph.assemble` puts behind a network, if its matrices are those of one bilinear enlargement."""
    transposes = [n for n in model.graph.node if n.op_type == "Transpose" and list(attributes_of(n)["perm"]) == [0, 2, 3, 1]]
    if not transposes or len(model.graph.output) != 1:
        return
    view, logits = _View(model), transposes[-1].input[0]
    low, hw = view.shapes.get(logits, ()), view.shapes[model.graph.output[0].name]
    if len(low) != 4 or 0 in low or low[0] != 1 or len(hw) != 2:
        return
    for mode, aligned in MODES.items():
        native = enlarging(low[1], (bilinear(low[2], hw[0], aligned), bilinear(low[3], hw[1], aligned))).model.graph
        tail = list(model.graph.node)[-len(native.node) :]
        constants = _same(view, tail, native, {"logits": logits})
        if constants is None:
            continue
        *members, cast = range(len(model.graph.node) - len(tail), len(model.graph.node))
        classes_of = f"{tail[-1].name}/classes"
        attributes: dict[str, Any] = {"classes": low[1], "low_hw": low[2:], "hw": hw, "coordinate_transformation_mode": mode}
        node = helper.make_node(
            "EnlargeArgmax", [logits], [classes_of], f"enlarge/{transposes[-1].name}", domain=DOMAIN, **attributes
        )
        function = enlarge_function(native)
        yield Match(members, node, constants, function, (model.graph.node[cast].name, tail[-1].input[0], classes_of))
        return


def _same(view: _View, nodes: Sequence[NodeProto], native: Any, names: dict[str, str]) -> dict[str, str] | None:
    """Whether `nodes` are `native`'s up to names: then their constants by name, and which of `native`'s each is."""
    if len(nodes) != len(native.node):
        return None
    wanted = {c.name: (i, c) for i, c in enumerate(native.initializer)}
    found: dict[str, str] = {}
    for ours, theirs in zip(nodes, native.node, strict=True):
        same = ours.op_type == theirs.op_type and attributes_of(ours) == attributes_of(theirs)
        if not same or len(ours.input) != len(theirs.input) or len(ours.output) != 1:
            return None
        for a, b in zip(ours.input, theirs.input, strict=True):
            if b not in wanted:
                if names.get(b) != a:
                    return None
                continue
            index, constant = wanted[b]
            renamed = copied(constant)
            renamed.name = a
            if a not in view.constants or view.constants[a] != renamed:
                return None
            found[a] = f"#{index}"
        names[theirs.output[0]] = ours.output[0]
    return found
