"""The contract of a bundle's graph: meta.json and engine.json as checked, frozen data.

`from_json` takes nothing on trust: these files cross from one machine to another, and a wrong value here labels every
frame wrongly without an error anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgesmith.deploy.fields import Fields, is_number
from edgesmith.deploy.files import read_json

FORMAT = 1
VOID = 255
"""Label of pixels that no class claims."""


@dataclass(frozen=True)
class Parity:
    """How far the exported graph's logits are from torch's, measured at export.

    Where frame and network differ in size, torch is given the graph's own resized frame: these numbers are the network's and
    the enlargement's. The resize is held against torch's by itself, and is not in them.
    """

    max_abs_diff: float
    max_abs_logit: float
    relative: float
    """max_abs_diff / max_abs_logit."""
    label_agreement: float
    """Part of pixels with the same label, 0 to 1."""


@dataclass(frozen=True)
class Meta:
    """meta.json: what the graph takes, what it returns, and what the labels mean."""

    frame_hw: tuple[int, int]
    """Height and width in pixels of the frames that the graph takes and of its label maps."""
    input_hw: tuple[int, int]
    """Size at which the network inside runs."""
    layout: Literal["HWC"]
    colour_order: Literal["bgr", "rgb"]
    """Order of the channels in the frames that the graph takes."""
    mean: tuple[float, float, float]
    """Of RGB in [0, 1]; the graph itself normalises."""
    std: tuple[float, float, float]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """RGB, one for each class."""
    ignore_index: int
    precision: str
    plugins: tuple[str, ...]
    opset: int
    parity: Parity

    @classmethod
    def read(cls, path: Path) -> Meta:
        """Raises FileNotFoundError, or ValueError naming the file and the field."""
        return cls.from_json(read_json(path), path)

    @classmethod
    def from_json(cls, value: Any, source: Path | str = "meta.json") -> Meta:
        """Check every value. Raises ValueError naming `source` (the file), the field, the value and what it must be."""
        f = Fields(value, str(source))
        f.one_of("format", (FORMAT,))
        classes = f.names("classes", 1, VOID)
        meta = cls(
            frame_hw=f.size("frame_hw"),
            input_hw=f.size("input_hw"),
            layout=f.one_of("layout", ("HWC",)),
            colour_order=f.one_of("colour_order", ("bgr", "rgb")),
            mean=f.triple("mean", is_number, "three numbers"),
            std=f.triple("std", lambda v: is_number(v) and v > 0, "three numbers above 0"),
            classes=classes,
            palette=f.palette("palette", len(classes)),
            ignore_index=f.one_of("ignore_index", (VOID,)),
            precision=f.text("precision"),
            plugins=f.names("plugins", 0, 64),
            opset=f.integer("opset", 1, 99),
            parity=_parity(f.take("parity"), f"{source}: parity"),
        )
        f.done()
        return meta

    def to_json(self) -> dict[str, Any]:
        """The value that `from_json` takes."""
        return {"format": FORMAT, **_listed(asdict(self))}


@dataclass(frozen=True)
class EngineRecord:
    """engine.json: which engine lies in a bundle, for which device, and which graph it came from."""

    key: str
    """Its folder below engines/."""
    backend: str
    version: str
    """Version of the backend's library that built it, or first ran it."""
    device: str
    """Device that it was built for, in words."""
    precision: str
    graph_sha256: str
    """SHA-256 of the graph that it came from."""
    graph: str = "model.onnx"
    """Name of that graph in the bundle: model.onnx for fp32, model.fp16.onnx, model.int8.onnx."""
    compute_capability: str | None = None
    """GPU architecture, such as `sm86`; None on a CPU."""
    gpu: str | None = None
    """Name of the GPU that the plan was built on and only runs on; None where it runs on an architecture, or on a CPU."""
    plan_bytes: int | None = None
    """Size of engine.plan; None where the backend runs the graph itself."""
    version_compatible: bool = False
    """The plan also runs on later versions of the backend's library."""
    plugins: tuple[str, ...] = ()
    """Operators of `deploy.plugins` that it uses."""
    plugins_digest: str | None = None
    """Digest of the sources of the plugins' library that lies beside the plan; None where there is none."""

    @classmethod
    def read(cls, path: Path) -> EngineRecord:
        """Raises FileNotFoundError, or ValueError naming the file and the field."""
        return cls.from_json(read_json(path), path)

    @classmethod
    def from_json(cls, value: Any, source: Path | str = "engine.json") -> EngineRecord:
        """Check every value. Raises ValueError naming `source`, the field, the value and what it must be."""
        if isinstance(value, dict):  # bundles of edgesmith 0.1 hold one graph, and no engine of a single GPU
            value = {
                "graph": "model.onnx",
                "gpu": None,
                "version_compatible": False,
                "plugins": [],
                "plugins_digest": None,
                **value,
            }
        f = Fields(value, str(source))
        f.one_of("format", (FORMAT,))
        record = cls(
            key=f.text("key"),
            backend=f.text("backend"),
            version=f.text("version"),
            device=f.text("device"),
            precision=f.text("precision"),
            graph_sha256=f.sha256("graph_sha256"),
            graph=f.text("graph"),
            compute_capability=f.optional("compute_capability", f.text),
            gpu=f.optional("gpu", f.text),
            plan_bytes=f.optional("plan_bytes", lambda name: f.integer(name, 1, 1 << 40)),
            version_compatible=f.one_of("version_compatible", (False, True)),
            plugins=f.names("plugins", 0, 64),
            plugins_digest=f.optional("plugins_digest", f.sha256),
        )
        f.done()
        return record

    def to_json(self) -> dict[str, Any]:
        """The value that `from_json` takes."""
        return {"format": FORMAT, **_listed(asdict(self))}


def _parity(value: Any, source: str) -> Parity:
    f = Fields(value, source)

    def amount(name: str, high: float) -> float:
        v = f.take(name)
        if not (is_number(v) and 0 <= v <= high):
            f.refuse(name, "a number of at least 0" if math.isinf(high) else f"a number from 0 to {high:g}")
        return float(v)

    parity = Parity(
        amount("max_abs_diff", math.inf),
        amount("max_abs_logit", math.inf),
        amount("relative", math.inf),
        amount("label_agreement", 1),
    )
    f.done()
    return parity


def _listed(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_listed(v) for v in value]
    return value
