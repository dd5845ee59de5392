"""The pieces of a built network, cut out of it: what `build_part` makes, and a latency table times, has to be equal."""

from __future__ import annotations

from onnx import ModelProto
from torch import nn

from edgesmith.models.fasterseg import Enlarged, Joined
from edgesmith.models.parts import Arm, Decoder, Join, Part
from edgesmith.models.squeezenas import Logits
from edgesmith.pipeline import export
from edgesmith.pipeline.graphs.graph import cleaned
from edgesmith.pipeline.latency import measure


def piece(module: nn.Module, name: str, part: Part) -> nn.Module:
    """The piece `name` (see `edgesmith.models.parts.parts`), sharing its weights, with what the network counts to it."""
    found = module.get_submodule(name)
    match part.config:
        case Decoder():
            return Logits(found)
        case Arm(hw=hw, align_corners=aligned):
            return Enlarged(found, hw, aligned)
        case Join():
            return Joined(found)
    return found


def cut_graph(module: nn.Module, name: str, part: Part) -> ModelProto:
    """The graph of the piece `name`; `module` has the weights of measuring from then on."""
    if part.family == "engine":
        return measure.part_graph(part)
    found = piece(module, name, part)
    measure._fill(found)
    return cleaned(export.module_graph(found, part.inputs))
