"""What a calibration found: for each convolution the range of its input, and whether it is computed in INT8.

A calibration belongs to one graph, and says which: `pipeline.graphs.precision.lowered` refuses it for any other.
Read and written without ONNX or torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgesmith.deploy.files import read_json, sha256_json, write_json

FORMAT = 1
Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Layer:
    """One convolution: the range of its input, and what it costs to compute it in INT8."""

    input: str
    """The value that it takes."""
    macs: int
    """Multiply-accumulates for one frame."""
    amax: float
    """Largest magnitude of the input that INT8 represents; what is larger is clipped to it."""
    seen: float
    """Largest magnitude that occurred."""
    clipped: float
    """Share of the input's non-zero values that are larger than `amax`, 0 to 1."""
    error: float | None = None
    """Root mean square error of the logits, relative to theirs, with this convolution alone in INT8; None: not measured."""
    miou_drop: float | None = None
    """Points of mIoU that this convolution alone costs in INT8, on the frames held out; below 0 where it gains."""
    held: str | None = None
    """Why it is not computed in INT8; None when it is."""


@dataclass(frozen=True)
class Source:
    """What a calibration was made from. Names and digests, no paths: it travels with the graph."""

    graph: str
    """SHA-256 of the fp32 graph."""
    weights: str
    """Digest of the weights that the graph says it was exported from; empty where it does not say."""
    preprocessing: str
    """Digest of sizes, colour order and normalisation, as meta.json has them."""
    dataset: str
    data: str
    """Digest of the splits that were read."""
    frames: tuple[str, ...]
    """Frames of the training split that the ranges come from."""
    held_out: tuple[str, ...]
    """Frames that the losses were measured on, as split/name; none of them is among `frames`."""


@dataclass(frozen=True)
class Outcome:
    """mIoU on the frames held out, 0 to 1."""

    fp32: float
    int8: float
    limit: float
    """Points of mIoU that it was allowed to lose."""
    uncertainty: float = 0.0
    """Standard error of the points lost."""

    @property
    def drop(self) -> float:
        """Points of mIoU lost."""
        return 100 * (self.fp32 - self.int8)


@dataclass(frozen=True)
class Calibration:
    """Ranges of one graph by one method."""

    method: Method
    layers: Mapping[str, Layer]
    """By the name of the convolution's node, in order of execution."""
    source: Source
    outcome: Outcome

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method: {self.method!r} is not one of {', '.join(METHODS)}")

    @property
    def digest(self) -> str:
        """SHA-256 over all of it (hexadecimal)."""
        return sha256_json(self._content())

    @property
    def int8_share(self) -> float:
        """Share of the graph's convolution MACs that are computed in INT8."""
        return int8_share(self.layers)

    def amax(self) -> dict[str, float]:
        """Range of the input of each convolution that is computed in INT8, by node."""
        return {name: layer.amax for name, layer in self.layers.items() if layer.held is None}

    def summary(self) -> dict[str, Any]:
        """What it came to, for people and as JSON."""
        return {
            "method": self.method,
            "digest": self.digest,
            "frames": len(self.source.frames),
            "held_out": len(self.source.held_out),
            "miou_fp32": self.outcome.fp32,
            "miou_int8": self.outcome.int8,
            "drop": self.outcome.drop,
            "drop_uncertainty": self.outcome.uncertainty,
            "int8_share": self.int8_share,
            "held_back": [name for name, layer in self.layers.items() if layer.held is not None],
        }

    def rows(self) -> list[dict[str, Any]]:
        """Its layers, each with its name, as a table."""
        keys = ("macs", "amax", "seen", "clipped", "error", "miou_drop")
        rows = [(name, asdict(layer)) for name, layer in self.layers.items()]
        return [{"name": n, **{k: row[k] for k in keys}, "int8": "no" if row["held"] else "yes"} for n, row in rows]

    def require_graph(self, digest: str) -> None:
        """Raise ValueError unless the calibration was made for the graph of that digest."""
        if digest != self.source.graph:
            raise ValueError(
                f"the calibration was made for graph {self.source.graph[:12]}, this one is {digest[:12]}: its ranges mean "
                "nothing here; calibrate this graph (edgesmith calibrate)"
            )

    def write(self, path: Path) -> None:
        write_json(path, {**self._content(), "digest": self.digest})

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Raises FileNotFoundError, or ValueError naming the file and what is wrong with it."""
        value = read_json(path)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError(f"{path} is no calibration of format {FORMAT}; make it again: edgesmith calibrate")
        said = value.pop("digest", None)
        if said != sha256_json(value):
            raise ValueError(f"{path} was changed after it was written: its digest is not {said}; calibrate again")
        try:
            return cls(
                value["method"],
                {name: _layer(layer) for name, layer in value["layers"].items()},
                _source(value["source"]),
                _outcome(value["outcome"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            raise ValueError(f"{path} is no calibration: {type(e).__name__}: {e}; make it again: edgesmith calibrate") from None

    def _content(self) -> dict[str, Any]:
        layers = {name: asdict(layer) for name, layer in self.layers.items()}
        source = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.source).items()}
        return {"format": FORMAT, "method": self.method, "layers": layers, "source": source, "outcome": asdict(self.outcome)}


def int8_share(layers: Mapping[str, Layer]) -> float:
    """Share of the MACs of `layers` that are computed in INT8."""
    whole = sum(layer.macs for layer in layers.values())
    return sum(layer.macs for layer in layers.values() if layer.held is None) / whole if whole else 0.0


def _layer(value: Any) -> Layer:
    layer = Layer(**value)
    _require_numbers(f"input {layer.input!r}", 0, amax=layer.amax, seen=layer.seen, clipped=layer.clipped, macs=layer.macs)
    return layer


def _outcome(value: Any) -> Outcome:
    outcome = Outcome(**value)
    _require_numbers("outcome", 0, **asdict(outcome))
    return outcome


def _require_numbers(what: str, low: float, **values: Any) -> None:
    for name, value in values.items():
        if type(value) not in (int, float) or not math.isfinite(value) or value < low:
            raise ValueError(f"{what}: {name} is {value!r}; it must be a number of at least {low}")


def _source(value: Any) -> Source:
    texts = {k: v for k, v in value.items() if k not in ("frames", "held_out")}
    return Source(**texts, frames=tuple(value["frames"]), held_out=tuple(value["held_out"]))
