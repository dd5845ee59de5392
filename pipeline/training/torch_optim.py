"""What torch makes of an `Optim`: the optimizer of a module, and the learning rate of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .optim import Optim


def make_optimizer(optim: Optim, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a module's weights, its state allocated at once so that a checkpoint can be restored into it."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        factor = optim.head_lr_factor if "classifier" in name else 1.0
        groups.setdefault((factor, optim.weight_decay if p.ndim > 1 else 0.0), []).append(p)
    parameters = [{"params": ps, "factor": f, "weight_decay": d} for (f, d), ps in groups.items()]
    if optim.optimizer == "sgd":
        return allocated(torch.optim.SGD(parameters, lr=optim.lr, momentum=optim.momentum))
    return allocated(torch.optim.AdamW(parameters, lr=optim.lr))


def allocated(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """`optimizer` (SGD, Adam or AdamW) with the state that it would else allocate in its first step."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if isinstance(optimizer, torch.optim.SGD):
                if group["momentum"]:
                    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
                continue
            zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            optimizer.state[p].update({"step": torch.zeros((), dtype=torch.float32), **zeros})
    return optimizer


def forget_removed(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Drop the parameters that `module` no longer has, with their state."""
    left = {id(p) for p in module.parameters()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if id(p) not in left:
                optimizer.state.pop(p, None)
        group["params"] = [p for p in group["params"] if id(p) in left]


def optimizer_state(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the optimizer's state, by the place of its parameter."""
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        for k, v in optimizer.state[p].items():
            yield f"{i}/{k}", v


def learning_rate(optim: Optim, done: float, epochs: int) -> float:
    """Learning rate when the share `done` (0 to 1) of the steps of `epochs` epochs has passed."""
    if done < optim.warmup:
        return optim.lr * (done + 1e-3) / (optim.warmup + 1e-3)
    if optim.schedule == "exponential":
        return optim.lr * optim.decay ** math.floor(done * epochs + 1e-9)  # done is a quotient: 3 epochs may be 2.999...
    done = (done - optim.warmup) / (1 - optim.warmup) if optim.warmup < 1 else 1.0
    if optim.schedule == "poly":
        return optim.lr * float((1 - done) ** optim.power)
    if optim.schedule == "cosine":
        return optim.lr * 0.5 * (1 + math.cos(math.pi * done))
    return optim.lr * 0.1 ** sum(done >= m for m in optim.milestones)


def clipped_step(optimizer: torch.optim.Optimizer, module: nn.Module, limit: float | None) -> None:
    """A step by the gradients at hand, those of `module` clipped to the norm `limit` if there is one."""
    if limit is not None:
        nn.utils.clip_grad_norm_(module.parameters(), limit)
    optimizer.step()


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
