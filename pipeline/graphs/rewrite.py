"""Between ONNX's own operators and the plugins' (`edgesmith.deploy.plugins`), both ways and without loss.

`fused` finds

* Resize - Conv - Resize - Relu, Resize - Conv - Relu and the forms with a second Relu - Conv: `ZoomedConv`, which takes the
  map and has the rest as attributes: `weight`, `bias`, `weight_2`, `bias_2`, `stride` (2: no enlargement), `low_hw`, `hw`,
  `coordinate_transformation_mode`;
* what `graph.assemble` puts behind a network, without its last Cast: `EnlargeArgmax`, which takes the low logits
  (1, classes, h, w) and has `classes`, `low_hw`, `hw`, `coordinate_transformation_mode`. It returns class indices (H, W) as
  fp16 numbers, because that is the least that a TensorRT plugin may return and a Cast behind it may take.

Both are operators of the domain `edgesmith`, version 1, and ONNX functions in the model, so that a runtime without the plugins
computes the same. A parser that prefers plugins wants the model without the functions: `for_plugins`.

`unfused` gives the very bytes back. Weights and shapes are read from the operators; what these do not say, the names and
places of the nodes and constants that they stand for, lies in the model's metadata.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Sequence
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper

from edgesmith.deploy.engines.onnxruntime_split import Split
from edgesmith.deploy.plugins import DOMAIN, VERSIONS

from .graph import attributes_of, bilinear, copied, enlarging
from .rewrite_find import MODES, Match, enlargement, zoomed

RECORD = "edgesmith.native"
"""Metadata of a fused model: how it was."""
IR_VERSION = 10
"""The first in which an operator may have several function bodies."""


def fused(model: ModelProto, only: Collection[str] = tuple(VERSIONS)) -> ModelProto:
    """A copy in which the plugins' operators, or those named, stand for the nodes that they compute.

    A model without any comes back as it is.

    Raises ValueError for a model that is fused already.
    """
    if any(p.key == RECORD for p in model.metadata_props):
        raise ValueError("this graph is fused already; `unfused` gives the native one")
    found = [m for m in (*zoomed(model), *enlargement(model)) if m.node.op_type in only]
    return _replaced(model, found) if found else copied(model)


def unfused(model: ModelProto) -> ModelProto:
    """The native model that `fused` was given; a model that was not fused comes back as it is.

    Raises ValueError when the record of what was fused does not fit the graph.
    """
    copy = copied(model)
    records = [p.value for p in copy.metadata_props if p.key == RECORD]
    if not records:
        return copy
    record = json.loads(records[0])
    ours = [n for n in copy.graph.node if n.domain == DOMAIN]
    if len(ours) != len(record["nodes"]):
        raise ValueError(f"the graph has {len(ours)} fused operators and a record of {len(record['nodes'])}; fuse it again")
    places: list[tuple[int, NodeProto]] = []
    for at, native in record["nodes"]:
        places += [(i, NodeProto.FromString(base64.b64decode(n))) for i, n in zip(at, native, strict=True)]
    constants = [(at, _native_constant(name, ours[node], what)) for at, name, node, what in record["constants"]]
    nodes = _inserted([n for n in copy.graph.node if n.domain != DOMAIN], places)
    for node, (name, old, new) in ((n, r) for n in nodes for r in record["renamed"]):
        if node.name == name:
            node.input[:] = [old if v == new else v for v in node.input]
    initializers = _inserted(list(copy.graph.initializer), constants)
    _refill(copy, nodes, initializers)
    copy.ClearField("functions")
    copy.ir_version = record["ir_version"]
    for repeated, keep in (
        (copy.opset_import, [o for o in copy.opset_import if o.domain != DOMAIN]),
        (copy.metadata_props, [p for p in copy.metadata_props if p.key != RECORD]),
    ):
        del repeated[:]
        repeated.extend(keep)
    return copy


def for_plugins(model: ModelProto) -> ModelProto:
    """A fused model without function bodies and record: only a runtime that has the plugins reads it, an old one too."""
    copy = copied(model)
    for record in (json.loads(p.value) for p in model.metadata_props if p.key == RECORD):
        copy.ir_version = record["ir_version"]
    copy.ClearField("functions")
    copy.ClearField("metadata_props")
    for node in copy.graph.node:
        node.ClearField("overload")
    return copy


def operators(model: ModelProto) -> dict[str, int]:
    """How many of each of the plugins' operators the graph has, by name."""
    names = [n.op_type for n in model.graph.node if n.domain == DOMAIN]
    return {name: names.count(name) for name in VERSIONS if name in names}


def split_of(model: ModelProto) -> Split | None:
    """Where `deploy.engines.onnxruntime_split` may cut a native graph; None where its end is no one enlargement."""
    for match in enlargement(model):
        said = attributes_of(match.node)
        low, hw = said["low_hw"], said["hw"]
        aligned = MODES[said["coordinate_transformation_mode"].decode()]
        nodes = len(model.graph.node) - match.members[0]
        return Split(match.node.input[0], said["classes"], (low[0], low[1]), (hw[0], hw[1]), aligned, nodes)
    return None


def _replaced(model: ModelProto, found: list[Match]) -> ModelProto:
    """A copy with each match's operator in the place of its last member, and the record that leads back."""
    copy = copied(model)
    found = sorted(found, key=lambda m: m.members[-1])
    last = {m.members[-1]: m for m in found}
    gone = {i for m in found for i in m.members}
    renamed = {m.renamed[0]: m.renamed for m in found if m.renamed}
    nodes = []
    for i, node in enumerate(copy.graph.node):
        if i in last:
            nodes.append(last[i].node)
        elif i not in gone:
            if node.name in renamed:
                _, old, new = renamed[node.name]
                node.input[:] = [new if v == old else v for v in node.input]
            nodes.append(node)
    used = {v for n in nodes for v in n.input}
    sources = {name: (i, what) for i, m in enumerate(found) for name, what in m.constants.items()}
    kept, removed = [], []
    for i, constant in enumerate(copy.graph.initializer):
        if constant.name in sources and constant.name not in used:
            removed.append((i, constant.name, *sources[constant.name]))
        else:
            kept.append(constant)
    record = {
        "ir_version": model.ir_version,
        "nodes": [[m.members, [_packed(model.graph.node[i]) for i in m.members]] for m in found],
        "constants": removed,
        "renamed": list(renamed.values()),
    }
    _refill(copy, nodes, kept)
    functions = {(m.function.name, m.function.overload): m.function for m in found}
    copy.functions.extend(functions[key] for key in sorted(functions))
    copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    copy.ir_version = max(model.ir_version, IR_VERSION)
    copy.metadata_props.add(key=RECORD, value=json.dumps(record, sort_keys=True, separators=(",", ":")))
    return copy


def _native_constant(name: str, node: NodeProto, what: str) -> TensorProto:
    """A constant as it was: `=...`, its bytes; `#3`, the third of the enlargement's; else the operator's attribute."""
    constant = TensorProto()
    if what.startswith("="):
        constant.ParseFromString(base64.b64decode(what[1:]))
    elif what.startswith("#"):
        said = attributes_of(node)
        aligned = MODES[said["coordinate_transformation_mode"].decode()]
        matrices = [bilinear(low, high, aligned) for low, high in zip(said["low_hw"], said["hw"], strict=True)]
        native = enlarging(said["classes"], (matrices[0], matrices[1])).model.graph
        constant.CopyFrom(native.initializer[int(what[1:])])
    else:
        constant.CopyFrom(attributes_of(node)[what])
    constant.name = name
    return constant


def _inserted(rest: list[Any], places: list[tuple[int, Any]]) -> list[Any]:
    """`rest` in its order, with each of `places` at its index of the whole."""
    whole: list[Any] = [None] * (len(rest) + len(places))
    for i, value in places:
        if not 0 <= i < len(whole) or whole[i] is not None:
            raise ValueError("the record of what was fused does not fit the graph; export it again")
        whole[i] = value
    left = iter(rest)
    return [next(left) if v is None else v for v in whole]


def _refill(model: ModelProto, nodes: Sequence[NodeProto], initializers: Sequence[TensorProto]) -> None:
    """Set a graph's nodes and constants, which may be its own."""
    nodes, initializers = [copied(n) for n in nodes], [copied(c) for c in initializers]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(initializers)


def _packed(node: NodeProto) -> str:
    return base64.b64encode(node.SerializeToString(deterministic=True)).decode()
