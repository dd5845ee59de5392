"""An audit of a graph's Resize nodes: the operator that runtimes agree on least."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper

from .precision import value_types
from .view import attribute

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Resize:
    """One Resize node."""

    node: str
    mode: str
    """nearest, linear or cubic."""
    coordinates: str
    """coordinate_transformation_mode."""
    from_hw: tuple[int, ...]
    to_hw: tuple[int, ...]
    by: str
    """What says the new size: sizes or scales."""
    notes: tuple[str, ...]
    """What may come out otherwise elsewhere; empty where nothing is known."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"from_hw": list(self.from_hw), "to_hw": list(self.to_hw), "notes": list(self.notes)}

    @property
    def meaning(self) -> tuple[Any, ...]:
        """What two graphs of one network must have in common."""
        return self.mode, self.coordinates, self.from_hw, self.to_hw


def resizes(model: ModelProto) -> list[Resize]:
    """The Resize nodes in order of execution."""
    types = value_types(model)
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    return [_resize(n, types, constants) for n in model.graph.node if n.op_type == "Resize"]


def _resize(node: NodeProto, types: dict[str, tuple[int, tuple[int, ...]]], constants: dict[str, Any]) -> Resize:
    mode = attribute(node, "mode", "nearest")
    coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
    given, made = types[node.input[0]][1], types[node.output[0]][1]
    by_sizes = len(node.input) > 3 and bool(node.input[3])
    notes = []
    if not by_sizes:
        scales = np.asarray(constants.get(node.input[2], ()), np.float64)
        ratios = np.array(made) / np.array(given)
        if scales.shape != ratios.shape:
            notes.append("its scales are computed in the graph")
        elif not np.allclose(scales, ratios, rtol=1e-6, atol=0):
            notes.append(
                f"scales {scales.tolist()} are not the sizes' ratio {ratios.tolist()}: runtimes take the one or the other"
            )
    if mode == "cubic":
        notes.append("cubic: its coefficient differs between runtimes")
    if mode == "nearest":
        notes.append(f"nearest rounds by {attribute(node, 'nearest_mode', 'round_prefer_floor')}")
    if attribute(node, "antialias", 0):
        notes.append("antialias: TensorRT does not take it")
    if coordinates not in ("half_pixel", "align_corners", "asymmetric"):
        notes.append(f"coordinates by {coordinates}, which not every runtime has")
    if coordinates == "align_corners" and 1 in made[2:]:
        notes.append("aligned corners of a size of 1 are not defined")
    return Resize(node.name, mode, coordinates, given[2:], made[2:], "sizes" if by_sizes else "scales", tuple(notes))
