"""OnnxModel -> OnnxModel with calibration.json: which convolutions are computed in INT8, and with which ranges. Needs no torch.

Three steps, each of which goes on after a kill where it was:

1. Ranges: the fp32 graph labels frames of the training split, chosen so that rare classes occur too, and the range of every
   convolution's input is taken from what was seen (see `calibration/ranges.py`).
2. Sensitivity: on frames held out, each convolution alone in INT8; what that costs in logits and in mIoU.
3. Fallback: where all in INT8 costs more than the limit, the worst are held back (see `fallback.py`).

Held-out frames are half of the split val and half training frames that gave no ranges; the test split is never read. Some
hundred frames tell a drop of mIoU to a tenth of a point or two, so a limit counts as met when the drop and its standard error
together keep within it.
INT8 is what ONNX Runtime's CPU makes of explicit Q/DQ: values are rounded to int8 and computed on in fp32, so that what is
measured is the rounding, not a device's order of summation. In steps 2 and 3 the rest is fp32; the result is measured once
more as it is shipped, with the rest in fp16. ONNX Runtime runs on one thread, so that two calibrations agree to the bit;
frames run side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgesmith.calibration.int8 import METHODS, Calibration, Layer, Method, Outcome, Source
from edgesmith.deploy import bundle as bundles
from edgesmith.deploy.files import sha256_json
from edgesmith.deploy.images import in_colour_order
from edgesmith.deploy.meta import Meta

from .artifacts import OnnxModel, Slot, exported_from
from .data.choose import end_to_end, stratified
from .data.spec import Data, open_split, splits, splits_digest
from .events import Log
from .frames import Frames, label_table
from .int8.fallback import fall_back
from .int8.journal import Journal
from .stage import stage_key

if TYPE_CHECKING:
    from onnx import ModelProto

    from .int8.judge import Judge, Loss, Pick

PREPROCESSING = ("frame_hw", "input_hw", "colour_order", "mean", "std")
"""Of meta.json, what is done to a frame before the network."""
PROBES = 16
"""Held-out frames that each convolution's sensitivity is measured on: there are as many networks as convolutions."""
FP16_PART = 0.1
"""Part of the limit that the fallback leaves to the fp16 rest."""


@dataclass(frozen=True)
class Calibrate:
    """OnnxModel -> OnnxModel with a calibration: the same files, and calibration.json beside them.

    Raises ValueError when the graph's folder is damaged or the dataset has not its classes, RuntimeError, with the best point
    found, when the limit cannot be met with `min_share` of the MACs in INT8.
    """

    data: Data = field(metadata={"identity": False})
    """Dataset whose training split gives the ranges. Enters the key by content (see `environment`)."""
    method: Method = "percentile"
    """minmax, percentile or entropy."""
    frames: int = 64
    """Frames of the training split that give the ranges."""
    held_out: int = 128
    """Frames that the loss of mIoU is measured on."""
    limit_drop: float = 0.5
    """Points of mIoU (0 to 100) that INT8 may cost, the standard error of what was measured included."""
    min_share: float = 0.7
    """Least share of the convolution MACs that is to stay in INT8, 0 to 1."""
    fallback: bool = True
    """Hold back the convolutions that cost most until the limit is met; without, all are in INT8 or it is refused."""
    percentile: float = 99.99
    """Only percentile: part of the non-zero values, in percent, that the range covers."""
    seed: int = 0
    """Chooses the frames."""
    workers: int = field(default=1, metadata={"identity": False})
    """Frames that run side by side."""
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        problems = []
        if self.method not in METHODS:
            problems.append(f"method: {self.method!r} is not one of {', '.join(METHODS)}")
        problems += [
            f"{n}: {getattr(self, n)} is not at least 1" for n in ("frames", "held_out", "workers") if getattr(self, n) < 1
        ]
        if not (math.isfinite(self.limit_drop) and self.limit_drop > 0):
            problems.append(f"limit_drop: {self.limit_drop} is not above 0")
        if not 0 <= self.min_share <= 1:
            problems.append(f"min_share: {self.min_share} is not between 0 and 1")
        if not 50 <= self.percentile <= 100:
            problems.append(f"percentile: {self.percentile} is not between 50 and 100")
        if not 0 <= self.seed < 2**31:
            problems.append("seed: needs 0 to 2147483647")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def environment(self) -> dict[str, str]:
        """What the result depends on beside configuration and graph: the frames, and what computes."""
        from edgesmith.deploy.engines.onnxruntime import library

        return {"data": splits_digest(self.data, self._splits), "onnxruntime": str(library().__version__)}

    @property
    def _splits(self) -> tuple[str, ...]:
        return ("train", "val") if "val" in splits(self.data) else ("train",)

    def __call__(self, model: OnnxModel, slot: Slot) -> OnnxModel:
        from .graphs.graph import graph_digest
        from .graphs.view import read_graph
        from .int8.judge import Judge
        from .int8.observe import Watched, observe

        model.check()
        meta = Meta.read(model.path / bundles.META)
        graph = read_graph(model.path / bundles.GRAPH)
        # What is measured hangs on neither limit nor fallback: with others of these it need not be measured again.
        measured = replace(self, limit_drop=1.0, min_share=0.0, fallback=True)
        journal = Journal(slot.scratch, stage_key(measured, model))
        shown, held = self._frames(meta, journal)
        watched = Watched([partial(_given, pick) for pick in shown.picks], self.workers, journal, slot.log)
        layers = observe(graph, watched, self.method, self.percentile)
        for name, layer in layers.items():
            if layer.clipped > 0:
                slot.log("clips", layer=name, share=layer.clipped, range=layer.amax, largest=layer.seen)
        judged = _Judged(graph, layers, Judge(graph, held.picks, self.workers, slot.log), journal, slot.log)
        if self.fallback:
            layers = judged.fall_back(self.limit_drop * (1 - FP16_PART))
        loss = judged.loss(f"as shipped without {_held(layers)}", layers, rest="fp16")
        source = Source(
            graph=graph_digest(graph),
            weights=exported_from(model.path),
            preprocessing=sha256_json({k: v for k, v in meta.to_json().items() if k in PREPROCESSING}),
            dataset=Path(self.data.dataset).name,
            data=splits_digest(self.data, self._splits),
            frames=shown.names,
            held_out=held.names,
        )
        calibration = Calibration(self.method, layers, source, Outcome(loss.fp32, loss.miou, self.limit_drop, loss.uncertainty))
        slot.log(
            "int8",
            drop=loss.drop,
            uncertainty=loss.uncertainty,
            int8_share=calibration.int8_share,
            held=len(layers) - len(calibration.amax()),
        )
        self._require(calibration)
        with slot.writing(OnnxModel, parents=[model], calibration=calibration.digest, seed=self.seed) as folder:
            model.copy_to(folder)
            calibration.write(folder / bundles.CALIBRATION)
        return OnnxModel(slot.out)

    def _frames(self, meta: Meta, journal: Journal) -> tuple[_Chosen, _Chosen]:
        """The frames that give the ranges, and those held out: val and training frames that gave none, in turn."""
        from .int8.judge import Pick

        train = self._open("train", meta)
        chosen = journal.get("chosen")
        if chosen is None:
            chosen = stratified(train.split, self.frames, self.seed)
            journal.put("chosen", chosen)
        left = sorted(set(range(len(train.split))) - set(chosen))
        sources = {"train": end_to_end(left, self.held_out)}
        opened = {"train": train}
        if "val" in self._splits:
            opened["val"] = self._open("val", meta)
            half = self.held_out // 2
            sources = {
                "val": end_to_end(list(range(len(opened["val"].split))), self.held_out - half),
                "train": end_to_end(left, half),
            }
        turns = zip_longest(*([(name, i) for i in indices] for name, indices in sources.items()))
        held = [(name, Pick(opened[name], i)) for turn in turns for name, i in filter(None, turn)]
        if not held:
            raise ValueError(f"frames: all {len(train.split)} frames of split train give ranges, and none is left to judge by")
        return _Chosen(tuple(("train", Pick(train, i)) for i in chosen)), _Chosen(tuple(held))

    def _open(self, name: str, meta: Meta) -> Frames:
        split = open_split(self.data, name)
        if not len(split):
            raise ValueError(f"data: split {name!r} of {self.data.dataset} has no frames to calibrate with")
        return Frames(split, len(split), meta, label_table(split.labels.names, meta.classes))

    def _require(self, calibration: Calibration) -> None:
        outcome, share = calibration.outcome, calibration.int8_share
        if outcome.drop + outcome.uncertainty <= self.limit_drop and share >= self.min_share:
            return
        held = ", ".join(name for name, layer in calibration.layers.items() if layer.held) or "nothing"
        raise RuntimeError(
            f"INT8 by {self.method} does not keep within {self.limit_drop:g} points of mIoU with {self.min_share:.0%} of the "
            f"convolution MACs. The best point found costs {outcome.drop:.2f} ± {outcome.uncertainty:.2f} points with "
            f"{share:.1%} of them in INT8 and holds back {held}. Try another method, more frames, or a wider limit "
            "(limit_drop, min_share); fp16 needs no calibration"
        )


@dataclass(frozen=True)
class _Chosen:
    """Some frames, each with the name of its split."""

    named: tuple[tuple[str, Pick], ...]

    @property
    def picks(self) -> tuple[Pick, ...]:
        return tuple(pick for _, pick in self.named)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{split}/{frames.split[index].name}" for split, (frames, index) in self.named)


def _given(pick: Pick) -> NDArray[np.uint8]:
    """One frame as the graph takes it."""
    frames, index = pick
    return in_colour_order(frames.fit(frames.split[index].frame), frames.meta.colour_order)


@dataclass(frozen=True)
class _Judged:
    """Layers whose ranges are known, and what they cost in INT8. Every number is measured once, kills or not."""

    graph: ModelProto
    layers: Mapping[str, Layer]
    judge: Judge
    journal: Journal
    log: Log

    def fall_back(self, limit: float) -> dict[str, Layer]:
        """The layers with what each costs alone, and those held back that the limit needs to be."""
        layers = {}
        for number, (name, layer) in enumerate(self.layers.items(), 1):
            alone = self.loss(f"alone {name}", {name: layer}, count=PROBES)
            layers[name] = replace(layer, error=alone.error, miou_drop=alone.drop)
            self.log("layer", number=f"{number}/{len(self.layers)}", name=name, error=alone.error, drop=alone.drop)

        def drop_of(held: frozenset[str]) -> float:
            rest = {name: layer for name, layer in layers.items() if name not in held}
            loss = self.loss(f"without {sha256_json(sorted(held))}", rest)
            share = sum(layer.macs for layer in rest.values()) / whole
            self.log("tried", held=len(held), int8_share=share, drop=loss.drop, uncertainty=loss.uncertainty)
            return loss.drop + loss.uncertainty

        macs = {name: layer.macs for name, layer in layers.items()}
        whole = sum(macs.values())
        best = fall_back(macs, {name: layer.error or 0.0 for name, layer in layers.items()}, drop_of, limit)
        return {name: replace(layer, held=_reason(layer) if name in best.held else None) for name, layer in layers.items()}

    def loss(
        self, name: str, layers: Mapping[str, Layer], rest: Literal["fp16", "fp32"] = "fp32", count: int | None = None
    ) -> Loss:
        """Those of `layers` in INT8 that are not held back; `name` is for the journal."""
        from .graphs.precision import quantised
        from .int8.judge import Loss

        if (kept := self.journal.get(name)) is None:
            amax = {node: layer.amax for node, layer in layers.items() if layer.held is None}
            kept = asdict(self.judge.loss(quantised(self.graph, amax, rest), count))
            self.journal.put(name, kept)
        return Loss(**kept)


def _held(layers: Mapping[str, Layer]) -> str:
    """Which are held back, for the journal."""
    return sha256_json(sorted(name for name, layer in layers.items() if layer.held is not None))


def _reason(layer: Layer) -> str:
    return f"alone in INT8 it moves the logits by {layer.error:.2%} and costs {layer.miou_drop:.2f} points of mIoU"
