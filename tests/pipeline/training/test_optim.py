"""Optimizer settings and what the schedules make of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from edgesmith.pipeline.training.optim import Optim
from edgesmith.pipeline.training.torch_optim import learning_rate, make_optimizer


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.0},
        {"head_lr_factor": 0.0},
        {"momentum": 1.5},
        {"weight_decay": -1.0},
        {"power": 0.0},
        {"milestones": (0.7, 0.5)},
        {"decay": 0.0},
        {"decay": 1.01},
        {"warmup": 2.0},
        {"grad_clip": 0.0},
    ],
)
def test_impossible_settings_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: "):
        dataclasses.replace(Optim(), **change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schedule": "poly", "power": 1.0}, [1.0, 0.5, 0.0]),
        ({"schedule": "cosine"}, [1.0, 0.5, 0.0]),
        ({"schedule": "step", "milestones": (0.5, 0.75)}, [1.0, 0.1, 0.01]),
    ],
)
def test_schedules(change: dict[str, Any], expected: list[float]) -> None:
    optim = Optim(lr=1.0, **change)
    assert [learning_rate(optim, done, 2) for done in (0.0, 0.5, 1.0)] == pytest.approx(expected)


def test_warm_up_rises_to_the_peak() -> None:
    optim = Optim(lr=1.0, warmup=0.2, schedule="cosine")
    rates = [learning_rate(optim, done, 2) for done in (0.0, 0.1, 0.2, 1.0)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1.0)
    assert rates[3] == pytest.approx(0.0)


def test_the_exponential_schedule_falls_after_each_epoch_and_not_within_one() -> None:
    optim = Optim(lr=0.02, schedule="exponential", decay=0.9)
    epochs, steps = 30, 7
    rates = [learning_rate(optim, (e * steps + s) / (epochs * steps), epochs) for e in range(epochs) for s in range(steps)]
    assert rates == [0.02 * 0.9**e for e in range(epochs) for _ in range(steps)]


def test_exponential_begins_behind_the_warmup_where_it_would_be_anyway() -> None:
    optim = Optim(lr=1.0, schedule="exponential", decay=0.5, warmup=0.1)
    assert learning_rate(optim, 0.0, 4) < 0.02
    assert [learning_rate(optim, done, 4) for done in (0.1, 0.25, 0.5, 0.99)] == [1.0, 0.5, 0.25, 0.125]


def test_an_optim_alone_makes_an_optimizer() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    found = make_optimizer(Optim(weight_decay=0.1), module)
    assert [(len(g["params"]), g["weight_decay"]) for g in found.param_groups] == [(1, 0.1), (3, 0.0)]
    assert isinstance(make_optimizer(Optim(optimizer="adamw"), module), torch.optim.AdamW)
