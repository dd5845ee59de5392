"""Every published architecture as data: one JSON file a network, with its published and its counted numbers."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesmith.models.arch import Arch, Segmentation


@dataclass(frozen=True)
class Published:
    """A published network: its architecture, what its paper says of it, and what counting gives."""

    arch: Arch
    task: Segmentation
    input_hw: tuple[int, int]
    """Input size (pixels) for which the numbers hold."""
    paper: dict[str, Any]
    """Values as printed: macs_g, params_m, val_miou and so on."""
    counted: dict[str, int]
    """`params` (trainable, deployed), `macs` (convolutions, batch 1) and, where training adds heads, `params_train`, as counted
    on the authors' own network without what it never uses."""
    note: str


def names() -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in Path(__file__).parent.glob("*.json")))


def read(name: str) -> Published:
    """The published network `name`. Raises ValueError with the nearest name."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
        raise ValueError(f"no published network is called {name!r}; {hint}")
    value = json.loads((Path(__file__).parent / f"{name}.json").read_text())
    return Published(
        arch=Arch.from_json(value["arch"]),
        task=Segmentation(value["classes"]),
        input_hw=(value["input_hw"][0], value["input_hw"][1]),
        paper=value["paper"],
        counted=value["counted"],
        note=value["note"],
    )
