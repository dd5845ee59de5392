"""What a plan is made of: the engine inspector's JSON in one form for TensorRT 10, TensorRT 11 and TensorRT for RTX.

TensorRT 10 lists layers under `Layers`, I/O as names under `Bindings`, and has `Format/Datatype` for a tensor in one text.
TensorRT 11 has `I/O Tensors` as objects, and `Format` and `DataType` apart (NVIDIA's migration guide, IEngineInspector).
A plan that was not built with detailed verbosity lists layers as plain names in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_TYPES = {
    "float": "fp32", "fp32": "fp32", "half": "fp16", "fp16": "fp16", "int8": "int8", "int32": "int32", "int64": "int64",
    "uint8": "uint8", "bool": "bool", "bf16": "bf16", "bfloat16": "bf16", "fp8": "fp8",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """A tensor at a layer's edge."""

    name: str
    dtype: str
    """fp32, fp16, int8, ...; empty where the inspector does not say."""
    format: str
    """Memory layout in the library's words; empty where it does not say."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LayerInfo:
    """A layer of a plan: what the builder made of one or more nodes."""

    name: str
    kind: str
    """The library's own word, such as `CaskConvolution`; empty without detailed verbosity."""
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    tactic: str = ""
    reformat: bool = False
    """It only moves numbers from one layout or type to another."""


@dataclass(frozen=True)
class PlanInfo:
    """A plan's layers, and the names of what it takes and returns."""

    layers: tuple[LayerInfo, ...]
    io: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def normalised(value: Any) -> PlanInfo:
    """The inspector's JSON (`get_engine_information`, parsed). Raises ValueError when it has another form."""
    if not isinstance(value, Mapping) or not isinstance(value.get("Layers"), list):
        raise ValueError("the engine inspector's JSON has no list of Layers: this version of TensorRT is not known here")
    io = value.get("I/O Tensors", value.get("Bindings", []))
    names = tuple(t["Name"] if isinstance(t, Mapping) else str(t) for t in io)
    return PlanInfo(tuple(_layer(layer) for layer in value["Layers"]), names)


def _layer(value: Any) -> LayerInfo:
    if isinstance(value, str):
        return LayerInfo(value, "", reformat=_is_reformat(value, ""))
    name, kind = str(value.get("Name", "")), str(value.get("LayerType", ""))
    inputs, outputs = (tuple(_tensor(t) for t in value.get(side, [])) for side in ("Inputs", "Outputs"))
    tactic = str(value.get("TacticName") or value.get("TacticValue") or "")
    return LayerInfo(name, kind, inputs, outputs, tactic, _is_reformat(name, kind))


def _tensor(value: Mapping[str, Any]) -> TensorInfo:
    layout = str(value.get("Format/Datatype", value.get("Format", "")))
    words = str(value.get("DataType", layout)).lower()
    dtype = next((_TYPES[w] for w in re.findall(r"[a-z]+\d*", words) if w in _TYPES), "")
    return TensorInfo(str(value.get("Name", "")), dtype, layout, tuple(value.get("Dimensions", ())))


def _is_reformat(name: str, kind: str) -> bool:
    return kind in ("Reformat", "NoOp") or name.startswith("Reformatting CopyNode")
