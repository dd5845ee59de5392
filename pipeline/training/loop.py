"""The loop that trainings and searches share: epochs of steps, checkpoints, events, and a stop when a number is not finite.

What is advanced is a `Learner`; what a step does is its own business. After each step its tensors are a function of
configuration, data and initial weights alone, so work that is killed at any moment goes on from its last checkpoint to the same
end, bit for bit on one CPU with one number of threads (sums in another order differ in their last bits).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

from torch import Tensor

from edgesmith.pipeline.artifacts import Slot

from .checkpoint import Checkpoint, Progress
from .optim import Optim

B = TypeVar("B")
Given = TypeVar("Given", contravariant=True)
Made = TypeVar("Made", covariant=True)


class Source(Protocol[Made]):
    """What a step learns from, epoch by epoch. `loader.Batches` and `loader.Pairs` are such."""

    def __len__(self) -> int:
        """Steps an epoch."""
        ...

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Made]:
        """What the steps of one epoch get, from step `first` on."""
        ...


class Learner(Protocol[Given]):
    """What the loop advances. `fit.Training` and the searches are such."""

    place: str
    """Where and how it computes (`Placement.place`)."""
    advice: str
    """What may help when a number is not finite."""
    best: dict[str, Tensor]
    """Tensors that were set aside; they are part of a checkpoint."""

    def advance(self, batch: Given, progress: Progress, done: float) -> dict[str, float]:
        """One step when the share `done` (0 to 1) of all steps has passed. Returns what to follow, `loss` among it: a number
        that is not finite ends the course."""
        ...

    def end_epoch(self, progress: Progress) -> dict[str, Any]:
        """What is done after the last step of an epoch; a row for the history beside the means of the epoch's numbers."""
        ...

    def finite(self) -> bool:
        """Whether every number of the state is finite."""
        ...

    def resume(self, progress: Progress) -> None:
        """Take the shape that the state had at `progress`, before its tensors are copied in."""
        ...

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that a step changes, by name."""
        ...


def run_epochs(learner: Learner[B], batches: Source[B], epochs: int, checkpoint_seconds: float, slot: Slot) -> Progress:
    """Advance `learner` over `epochs` epochs of `batches`, from the slot's checkpoint where there is one.

    Raises FloatingPointError naming the step and the last good checkpoint when a number is no longer finite.
    """
    checkpoint = Checkpoint.of(slot)
    progress = checkpoint.load(learner) or Progress()
    if checkpoint.damaged is not None:
        slot.log("checkpoint-damaged", moved_to=str(checkpoint.damaged), going_on="from the start")
    if progress.epoch or progress.step:
        slot.log("resumed", epoch=progress.epoch + 1, step=progress.step)
    if progress.place not in ("", learner.place):
        slot.log("remark", text=f"so far this was computed on {progress.place}; it goes on on {learner.place}, to other bits")
    progress.place = learner.place
    steps = len(batches)
    saved = time.monotonic()
    while progress.epoch < epochs:
        since, start = time.monotonic(), progress.step
        for batch in batches.epoch(progress.epoch, progress.step):
            numbers = learner.advance(batch, progress, (progress.epoch * steps + progress.step) / (epochs * steps))
            for name, value in numbers.items():
                _require_finite(math.isfinite(value), f"the {name} is {value}", learner, progress, steps, checkpoint)
            progress.step += 1
            for name, value in numbers.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            slot.log("step", epoch=progress.epoch + 1, step=progress.step, steps=steps, epochs=epochs, **numbers)
            if progress.step < steps and time.monotonic() - saved > checkpoint_seconds:
                _require_finite(learner.finite(), "a weight is no longer finite", learner, progress, steps, checkpoint)
                checkpoint.save(learner, progress)
                saved = time.monotonic()
        _require_finite(learner.finite(), "a weight is no longer finite", learner, progress, steps, checkpoint)
        row = {"epoch": progress.epoch + 1, **{k: v / steps for k, v in progress.sums.items()}, **learner.end_epoch(progress)}
        row["seconds"] = round((time.monotonic() - since) * steps / max(1, steps - start), 2)
        progress.history.append(row)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        slot.log("epoch", epochs=epochs, **{k: v for k, v in row.items() if not isinstance(v, (list, dict))})
        checkpoint.save(learner, progress)
        saved = time.monotonic()
    return progress


def advice(section: str, field: str, optim: Optim) -> str:
    """What to try where numbers are not finite: `section` of the recipe has the precision, its `field` is `optim`."""
    return f"Lower {field}.lr (now {optim.lr:g}), set its grad_clip, or set {section}.precision to fp32"


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history without wall times: these stay out of payloads, and so does a resumed run keep its digest."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def _require_finite(
    finite: bool, what: str, learner: Learner[B], progress: Progress, steps: int, checkpoint: Checkpoint
) -> None:
    """Raise FloatingPointError naming the step, the last good checkpoint and what may help unless `finite`.

    Asked of the numbers of each step and of the weights before each checkpoint, so that no checkpoint is ever a broken one.
    """
    if finite:
        return
    raise FloatingPointError(
        f"{what} at epoch {progress.epoch + 1}, step {min(progress.step + 1, steps)} of {steps}; the last good checkpoint is "
        f"{checkpoint.describe()}. {learner.advice}"
    )
