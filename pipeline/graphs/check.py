"""Hold an ONNX graph against what a TensorRT asks for, before a device's builder does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from onnx import ModelProto, NodeProto

from .rules import RULES, TARGETS, Target
from .view import GraphView, view

INVALID = "valid-onnx"
"""The rule that is asked last: a graph that breaks no other is still to be valid ONNX."""


@dataclass(frozen=True)
class Finding:
    """One place where a graph breaks a rule."""

    node: str
    """The node's name; what it makes where it has none; empty where it is the graph as a whole."""
    operator: str
    rule: str
    what: str
    fix: str
    source: str
    """Where the rule comes from: a document with its version, or what a builder was seen to do."""

    def __str__(self) -> str:
        where = f"node {self.node!r} ({self.operator})" if self.operator else "graph"
        return f"{where}: {self.what}; {self.fix} [{self.rule}: {self.source}]"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_graph(model: ModelProto, target: Target, plugins: Collection[str] = ()) -> list[Finding]:
    """All that `target` would refuse or silently compute otherwise; empty when `model` breaks no rule.

    `plugins` names operators as `domain.Name` that the device brings a plugin for. Raises ValueError for an unknown target.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; there are: {', '.join(TARGETS)}")
    seen = view(model)
    found = []
    for rule in RULES:
        for hit in rule.find(seen, target) if target in rule.targets else ():
            node = hit.node
            if rule.id == "custom-operator" and node is not None and f"{node.domain}.{node.op_type}" in plugins:
                continue
            found.append(Finding(_name(node), node.op_type if node else "", rule.id, hit.what, hit.fix, rule.source))
    return found or _invalid(seen, plugins)


def _name(node: NodeProto | None) -> str:
    return "" if node is None else node.name or f"-> {', '.join(filter(None, node.output))}"


def _invalid(seen: GraphView, plugins: Collection[str]) -> list[Finding]:
    try:
        onnx.checker.check_model(seen.model, full_check=not plugins)  # shapes end at an operator that ONNX does not know
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        said = " ".join(str(e).split())
        return [Finding("", "", INVALID, f"it is not valid ONNX: {said}", "export it again", "onnx.checker")]
    return []
