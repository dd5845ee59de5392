"""ONNX Runtime with the last enlargement taken out of its graph: the network runs there, the rest in the plugins' CPU form.

`split.json` in the engine's folder says where the graph is cut; `edgesmith build --plugins auto` writes it where that was
measured to be faster on the device. The cut is made when the engine is loaded, on the protocol buffer's own level: a device
has no onnx.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.engines.onnxruntime import BACKEND, BoundSession, SessionOptions, library, processor
from edgesmith.deploy.fields import Fields
from edgesmith.deploy.files import read_json
from edgesmith.deploy.plugins import VERSIONS
from edgesmith.deploy.plugins.twin import CpuEnlargement

if TYPE_CHECKING:
    from typing_extensions import Self

SPLIT = "split.json"
FORMAT = 1
_GRAPH = 7  # field numbers in onnx.proto
_NODE, _OUTPUT = 1, 12


@dataclass(frozen=True)
class Split:
    """Where a graph is cut: its last `nodes` nodes are the enlargement of the value `logits` and the argmax."""

    logits: str
    """Value (1, classes, *low_hw), float32."""
    classes: int
    low_hw: tuple[int, int]
    hw: tuple[int, int]
    align_corners: bool
    nodes: int

    @classmethod
    def read(cls, path: Path) -> Split:
        """Raises FileNotFoundError, or ValueError naming the file and the field."""
        f = Fields(read_json(path), str(path))
        f.one_of("format", (FORMAT,))
        f.one_of("enlarge_argmax", (VERSIONS["EnlargeArgmax"],))
        split = cls(
            logits=f.text("logits"),
            classes=f.integer("classes", 1, 255),
            low_hw=f.size("low_hw"),
            hw=f.size("hw"),
            align_corners=f.one_of("align_corners", (False, True)),
            nodes=f.integer("nodes", 1, 1 << 20),
        )
        f.done()
        return split

    def to_json(self) -> dict[str, Any]:
        """The value that `read` takes from a file."""
        said = asdict(self) | {"low_hw": list(self.low_hw), "hw": list(self.hw)}
        return {"format": FORMAT, "enlarge_argmax": VERSIONS["EnlargeArgmax"], **said}


def engine_key(precision: str) -> str:
    return f"{BACKEND}-cpu-{precision}-enlarge_argmax{VERSIONS['EnlargeArgmax']}"


def cut(model: bytes, split: Split) -> bytes:
    """`model` (a serialised ModelProto) without its last `split.nodes` nodes, returning the logits instead.

    Raises ValueError when it is no model, or has not so many nodes.
    """
    return b"".join(
        _field(_GRAPH, _cut_graph(value, split)) if number == _GRAPH else whole for number, value, whole in _fields(model)
    )


def _cut_graph(graph: bytes, split: Split) -> bytes:
    fields = list(_fields(graph))
    keep = sum(number == _NODE for number, _, _ in fields) - split.nodes
    if keep < 1:
        raise ValueError(f"the graph has no {split.nodes} nodes to be cut off, and more; the split is of another graph")
    kept = []
    for number, _, whole in fields:
        if number == _NODE:
            keep -= 1
        if number != _OUTPUT and not (number == _NODE and keep < 0):
            kept.append(whole)
    dims = b"".join(_field(1, _number(1, size)) for size in (1, split.classes, *split.low_hw))
    tensor = _number(1, 1) + _field(2, dims)  # float32
    return b"".join(kept) + _field(_OUTPUT, _field(1, split.logits.encode()) + _field(2, _field(1, tensor)))


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, value (of the length-delimited ones) and whole bytes of each field of a message."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        kind = key & 7
        value = b""
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("the graph is no ONNX model")
        if at > len(message):
            raise ValueError("the graph is cut short")
        yield key >> 3, value, message[start:at]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("the graph is no ONNX model")


def _encoded(value: int) -> bytes:
    low = bytearray()
    while value > 127:
        low.append(value & 127 | 128)
        value >>= 7
    return bytes([*low, value])


def _field(number: int, value: bytes) -> bytes:
    return _encoded(number << 3 | 2) + _encoded(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _encoded(number << 3) + _encoded(value)


def open_split(graph: Path, engine_folder: Path, frame_hw: tuple[int, int], precision: str) -> SplitOnnxRuntimeEngine:
    """The engine of a folder with split.json. Raises as the engine does, and ValueError when it is for other frames."""
    split = Split.read(engine_folder / SPLIT)
    if split.hw != frame_hw:
        raise ValueError(f"{engine_folder / SPLIT}: hw is {split.hw}, but meta.json says that frames are {frame_hw}")
    return SplitOnnxRuntimeEngine(graph, split, precision=precision)


class SplitOnnxRuntimeEngine:
    """An `Engine` on ONNX Runtime's CPU provider and the plugins' CPU form of EnlargeArgmax.

    Raises ValueError naming the file when graph and split do not fit, RuntimeError when the CPU form cannot be built.
    """

    backend = BACKEND

    def __init__(
        self,
        graph: Path,
        split: Split,
        *,
        precision: str = "fp32",
        options: SessionOptions | None = None,
    ) -> None:
        options = options or SessionOptions()
        self.frame_hw = split.hw
        self.precision = precision
        self.version: str = library().__version__
        self.device = processor()
        self.key = engine_key(precision)
        self._labels = np.zeros(split.hw, np.uint8)  # (H, W)
        self._logits = np.zeros((1, split.classes, *split.low_hw), np.float32)
        refusal = f"{graph} cannot be split at {split.logits!r}"
        try:
            model = cut(graph.read_bytes(), split)
        except ValueError as e:
            raise ValueError(f"{refusal}: {e}") from e
        named = f"{graph}, split at {split.logits!r},"
        self._session = BoundSession(model, split.hw, split.logits, self._logits, options, named=named, refusal=refusal)
        # While ONNX Runtime's threads wait actively, another thread of ours would wait for a core longer than it saves.
        threads = 1 if options.spinning else options.threads or os.cpu_count() or 1
        self._enlarge = CpuEnlargement(
            split.classes, split.low_hw, split.hw, align_corners=split.align_corners, threads=threads
        )

    def infer(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Engine.infer`: (H, W, 3) uint8 in, (H, W) uint8 out, in a buffer that the next call overwrites."""
        self._session.run(frame)
        self._enlarge(self._logits, self._labels)
        return self._labels

    def close(self) -> None:
        """Free the session. Closing twice is allowed."""
        self._session.close()
        self._enlarge.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
