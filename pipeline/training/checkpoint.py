"""A whole training or search in one file that is replaced atomically: all its tensors, random state, history and place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from edgesmith.deploy.files import remove_unfinished, write_bytes
from edgesmith.models.weights import tensor_pieces

if TYPE_CHECKING:
    from edgesmith.pipeline.artifacts import Slot

    from .loop import Learner


@dataclass
class Progress:
    """How far a training or a search is."""

    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Steps finished of the next epoch."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of those steps' numbers: the loss and whatever else is followed."""
    best_miou: float | None = None
    place: str = ""
    """Where the last of it was computed (`Placement.place`)."""
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """One file that holds a whole training, or none."""

    path: Path | None
    key: str
    """Key of the training; a checkpoint of another is not taken up."""
    damaged: Path | None = None
    """Where a checkpoint that could not be read was moved."""
    _saved: str = "none yet"

    @classmethod
    def of(cls, slot: Slot) -> Checkpoint:
        """The checkpoint of the slot's training. Each key has a file of its own, so that one training never takes another's."""
        return cls(slot.scratch / f"checkpoint-{slot.key[:12]}.safetensors" if slot.scratch else None, slot.key)

    def describe(self) -> str:
        return self._saved

    def save(self, learner: Learner[Any], progress: Progress) -> None:
        if self.path is None:
            return
        tensors = {**dict(learner.state()), **{f"best/{k}": v for k, v in learner.best.items()}, "rng": torch.get_rng_state()}
        place = json.dumps({"key": self.key, **vars(progress)})
        write_bytes(self.path, tensor_pieces(tensors, {"progress": place}))
        self._saved = f"{self.path} (epoch {progress.epoch + 1}, step {progress.step})"

    def load(self, learner: Learner[Any]) -> Progress | None:
        """Restore `learner` and return the place, or None when there is no checkpoint of this training."""
        if self.path is None:
            return None
        remove_unfinished(self.path)
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as f:
                place = json.loads((f.metadata() or {}).get("progress", "{}"))
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  (not a dict)
        except (SafetensorError, ValueError):
            # Writing is atomic, so this is a damaged disk or a foreign file: start again rather than guess.
            self.damaged = self.path.with_suffix(".damaged")
            self.path.replace(self.damaged)
            return None
        if place.pop("key", None) != self.key:
            return None
        progress = Progress(**place)
        torch.set_rng_state(tensors.pop("rng"))
        learner.resume(progress)
        learner.best = {k.removeprefix("best/"): tensors.pop(k) for k in list(tensors) if k.startswith("best/")}
        with torch.no_grad():
            for name, t in learner.state():
                t.copy_(tensors[name])  # in place, so that memory layouts are those of a training never interrupted
        self._saved = f"{self.path} (epoch {progress.epoch + 1}, step {progress.step})"
        return progress
