"""How weights learn: optimizer, learning rate and its course. The torch part is in torch_optim.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Optim:
    """An optimizer of weights and the schedule of its learning rate."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW with its usual betas."""
    lr: float = 0.05
    """Peak learning rate."""
    head_lr_factor: float = 1.0
    """The classifiers learn at lr times this."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-5
    """Not applied to batch norms and biases."""
    schedule: Literal["poly", "cosine", "step", "exponential"] = "poly"
    """How the learning rate falls."""
    power: float = 0.9
    """Exponent of the poly schedule."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where in the course (0 to 1) the step schedule divides the learning rate by 10."""
    decay: float = 0.99
    """Factor that the exponential schedule applies after each epoch."""
    warmup: float = 0.0
    """Share of the course over which the learning rate rises linearly from 0."""
    grad_clip: float | None = None
    """Largest norm of the gradient; null for no limit."""

    def __post_init__(self) -> None:
        limits: list[tuple[bool, str, str]] = [
            *((getattr(self, n) > 0, n, "is not above 0") for n in ("lr", "head_lr_factor", "power")),
            (self.weight_decay >= 0, "weight_decay", "is below 0"),
            *((0 <= getattr(self, n) <= 1, n, "is not between 0 and 1") for n in ("momentum", "warmup")),
            (0 < self.decay <= 1, "decay", "is not above 0 and at most 1"),
            (self.grad_clip is None or self.grad_clip > 0, "grad_clip", "is not above 0"),
            (
                list(self.milestones) == sorted(self.milestones) and all(0 < m < 1 for m in self.milestones),
                "milestones",
                "are not rising numbers between 0 and 1",
            ),
        ]
        if problems := [f"{name}: {getattr(self, name)} {what}" for good, name, what in limits if not good]:
            raise ValueError("\n".join(problems))
