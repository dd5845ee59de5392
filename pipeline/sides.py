"""The sides of a comparison: a network as torch weights, as a graph, or as a built engine, each asked the same questions.

An engine answers with labels alone. A graph, and an engine of ONNX Runtime, which runs a graph as it is, also give the logits
before enlargement and every value inside; torch gives the logits and what each convolution puts out, after its normalisation,
which the export folds into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.bundle import GRAPH, MANIFEST, META, Bundle
from edgesmith.deploy.engines import Engine
from edgesmith.deploy.images import in_colour_order
from edgesmith.deploy.meta import EngineRecord, Meta

from .artifacts import SIDECAR, Weights, open_artifact
from .graphs.cpu import session

if TYPE_CHECKING:
    from onnx import ModelProto

Frame = NDArray[np.uint8]
AT_ONCE = 24
"""Inner values that are fetched in one run: all of them together would not fit into memory for large frames."""


@dataclass(frozen=True)
class Sizes:
    """What both sides of a comparison must agree on."""

    frame_hw: tuple[int, int]
    input_hw: tuple[int, int]
    """Size at which the network runs."""


class Answer(NamedTuple):
    """What a side says of a frame."""

    labels: Frame
    """(H, W)."""
    logits: NDArray[np.float32] | None
    """Before enlargement, (1, classes, h, w); None where the side has none to show."""


@dataclass(frozen=True)
class TorchSide:
    """Weights in torch, on the CPU."""

    path: Path
    precision: ClassVar[str] = "fp32"

    def answer(self, frame: Frame, sizes: Sizes) -> Answer:
        """Of one RGB frame at `sizes.frame_hw`, as every side gives it."""
        from .reference import labels_by_torch

        model = self._model
        labels = labels_by_torch(self._module, frame, model.mean, model.std, sizes.input_hw)
        return Answer(labels, self._run(frame, sizes))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._model.classes)

    def convolutions(self, frame: Frame, sizes: Sizes) -> dict[str, NDArray[np.float32]]:
        """What each convolution puts out, by its name in the module, in order of execution."""
        from torch import Tensor, nn

        names = {m: n for n, m in self._module.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))}
        found: dict[str, NDArray[np.float32]] = {}
        made_by: dict[int, str] = {}
        alive: list[Tensor] = []  # keeps the ids in `made_by` from being given to other tensors

        def note(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            name = names[module] if isinstance(module, nn.Conv2d) else made_by.get(id(given[0]))
            if name is not None:
                found[name] = np.array(out.float().numpy())  # a copy: what follows may work in place
                made_by[id(out)] = name
                alive.append(out)

        hooks = [m.register_forward_hook(note) for m in names]
        try:
            self._run(frame, sizes)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _run(self, frame: Frame, sizes: Sizes) -> NDArray[np.float32]:
        import torch

        from .reference import normalisation, resized

        x = resized(torch.from_numpy(frame.transpose(2, 0, 1)[None].astype(np.float32)), sizes.input_hw)
        mean, std = normalisation(self._model.mean, self._model.std)
        with torch.inference_mode():
            return np.asarray(self._module.low_logits((x - mean) / std).float().numpy())

    @cached_property
    def _model(self) -> Any:
        from edgesmith.models.model import read_model

        return read_model(self.path)

    @cached_property
    def _module(self) -> Any:
        from edgesmith import models

        return models.load(self.path).eval()


@dataclass(frozen=True)
class GraphSide:
    """An ONNX graph, by ONNX Runtime."""

    path: Path
    graph: ModelProto
    colour_order: str

    @cached_property
    def precision(self) -> str:
        from onnx import TensorProto

        if any(n.op_type == "QuantizeLinear" for n in self.graph.graph.node):
            return "int8"
        half = any(c.data_type == TensorProto.FLOAT16 for c in self.graph.graph.initializer)
        return "fp16" if half else "fp32"

    def answer(self, frame: Frame, sizes: Sizes) -> Answer:
        labels, logits = self._session.run(["labels", self._logits], {"frame": self._ordered(frame)})
        return Answer(labels, logits.astype(np.float32))

    def values(self, frame: Frame, names: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The inner values `names`, a few at a time. No operator is fused across a value that is asked for."""
        from .graphs.graph import with_outputs

        given = {"frame": self._ordered(frame)}
        for first in range(0, len(names), AT_ONCE):
            some = list(names[first : first + AT_ONCE])
            for name, value in zip(some, session(with_outputs(self.graph, some)).run(some, given), strict=True):
                yield name, value.astype(np.float32)

    @cached_property
    def floats(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all inner values that are fp32 or fp16, in order of execution."""
        from onnx import TensorProto

        from .graphs.precision import value_types

        types = value_types(self.graph)
        made = [o for n in self.graph.graph.node for o in n.output if o]
        return {o: types[o][1] for o in made if o in types and types[o][0] in (TensorProto.FLOAT, TensorProto.FLOAT16)}

    @cached_property
    def convolutions(self) -> dict[str, str]:
        """The value that each convolution puts out, by the name that its weights have in the module."""
        nodes = [n for n in self.graph.graph.node if n.op_type == "Conv"]
        return {n.input[1].removeprefix("net/").removeprefix("module.").partition(".weight")[0]: n.output[0] for n in nodes}

    def _ordered(self, frame: Frame) -> Frame:
        return in_colour_order(frame, "bgr" if self.colour_order == "bgr" else "rgb")

    @cached_property
    def _logits(self) -> str:
        from .graphs.precision import logits_of

        return logits_of(self.graph)

    @cached_property
    def _session(self) -> Any:
        from .graphs.graph import with_outputs

        return session(with_outputs(self.graph, [self._logits]))


@dataclass(frozen=True)
class EngineSide:
    """A built engine: labels only."""

    path: Path
    engine: Engine
    colour_order: str

    @property
    def precision(self) -> str:
        return self.engine.precision

    def answer(self, frame: Frame, sizes: Sizes) -> Answer:
        ordered = in_colour_order(frame, "bgr" if self.colour_order == "bgr" else "rgb")
        return Answer(self.engine.infer(ordered).copy(), None)


Side = TorchSide | GraphSide | EngineSide


def open_side(path: Path) -> tuple[Side, Meta | None]:
    """What lies at `path`, and its contract: none for weights, which have no size of their own.

    `path` is a weights folder, a graph file with meta.json beside it, a graph folder, a bundle, or engines/KEY in one.
    Raises FileNotFoundError or ValueError when it is none of these or damaged, RuntimeError when its engine cannot run here.
    """
    from .graphs.view import read_graph

    if (path / MANIFEST).is_file():
        return _engine_side(path, Bundle.open(path), None)
    if (path / "engine.json").is_file():
        return _engine_side(path, Bundle.open(path.parents[1]), EngineRecord.read(path / "engine.json"))
    if path.is_file() or (path / GRAPH).is_file():
        file = path if path.is_file() else path / GRAPH
        if not (file.parent / META).is_file():
            raise FileNotFoundError(f"{file.parent / META} is missing: it says how frames are given to {file.name}")
        meta = Meta.read(file.parent / META)
        return GraphSide(path, read_graph(file), meta.colour_order), meta
    if (path / SIDECAR).is_file():
        return TorchSide(open_artifact(Weights, path).path), None
    raise FileNotFoundError(f"{path} is no weights folder, no ONNX file, no graph folder, no bundle and no engine of one")


def _engine_side(path: Path, bundle: Bundle, record: EngineRecord | None) -> tuple[GraphSide | EngineSide, Meta]:
    from .graphs.view import read_graph

    bundle.verify()
    meta = bundle.meta
    engine = bundle.engine() if record is None else bundle.open_engine(record)
    if engine.backend != "onnxruntime":
        return EngineSide(path, engine, meta.colour_order), meta
    return GraphSide(path, read_graph(bundle.folder / bundle.engines[engine.key].graph), meta.colour_order), meta
