"""Optimizers and learning-rate schedules of a training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from .train import Train


def make_optimizer(train: Train, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer, its state allocated at once so that a checkpoint can be restored into it."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        factor = train.head_lr_factor if "classifier" in name else 1.0
        groups.setdefault((factor, train.weight_decay if p.ndim > 1 else 0.0), []).append(p)
    parameters = [{"params": ps, "factor": f, "weight_decay": d} for (f, d), ps in groups.items()]
    if train.optimizer == "sgd":
        sgd = torch.optim.SGD(parameters, lr=train.lr, momentum=train.momentum)
        for group in sgd.param_groups if train.momentum else ():
            for p in group["params"]:
                sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return sgd
    adamw = torch.optim.AdamW(parameters, lr=train.lr)
    for group in adamw.param_groups:
        for p in group["params"]:
            zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            adamw.state[p].update({"step": torch.zeros((), dtype=torch.float32), **zeros})
    return adamw


def learning_rate(train: Train, done: float) -> float:
    """Learning rate when the share `done` (0 to 1) of the training has passed."""
    if done < train.warmup:
        return train.lr * (done + 1e-3) / (train.warmup + 1e-3)
    done = (done - train.warmup) / (1 - train.warmup) if train.warmup < 1 else 1.0
    if train.schedule == "poly":
        return train.lr * float((1 - done) ** train.power)
    if train.schedule == "cosine":
        return train.lr * 0.5 * (1 + math.cos(math.pi * done))
    return train.lr * 0.1 ** sum(done >= m for m in train.milestones)
