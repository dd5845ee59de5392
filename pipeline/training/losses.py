"""Losses over logits (N, C, H, W) and labels (N, H, W) with void pixels left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgesmith.pipeline.data.dataset import VOID


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over labelled pixels; 0 where a batch has none. `weight` (C,) weighs pixels by their class."""
    labels = labels.long()
    total = F.cross_entropy(logits, labels, weight, ignore_index=VOID, reduction="sum")
    counted = labels != VOID
    scale = counted.sum() if weight is None else (weight[labels.clamp(max=len(weight) - 1)] * counted).sum()
    return total / scale.clamp(min=1e-6)


def ohem(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, *, threshold: float = 0.7, min_kept: float = 1 / 16
) -> Tensor:
    """Cross-entropy over the hard pixels only: those whose true class has a probability of at most `threshold`.

    At least the hardest `min_kept` share of the labelled pixels counts (online hard example mining as FasterSeg trains with).
    """
    labels = labels.long()
    valid = labels != VOID
    with torch.no_grad():
        true = logits.log_softmax(1).gather(1, labels.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]  # (N, H, W)
        true = torch.where(valid, true, torch.zeros_like(true))  # void: probability 1, last in the order of hardness
        kept = (valid.sum() * min_kept).long().clamp(min=1)
        hardest = true.flatten().sort().values
        limit = hardest.gather(0, (kept - 1).clamp(min=0)[None])[0]
        hard = valid & (true <= torch.maximum(limit, torch.full_like(limit, threshold).log()))
    return cross_entropy(logits, torch.where(hard, labels, torch.full_like(labels, VOID)), weight)


def divergence(
    student: Tensor,
    teacher: Tensor,
    way: Literal["student_teacher", "teacher_student"] = "student_teacher",
    per: Literal["pixel", "class"] = "pixel",
) -> Tensor:
    """Kullback-Leibler divergence of the two networks' soft labels, both from logits (N, C, H, W), mean over all pixels.

    student_teacher is KL(student || teacher) (FasterSeg, Eq. 4), teacher_student KL(teacher || student). Per class, the mean
    goes over the classes too: 1 / C of the other.
    """
    ours, theirs = student.log_softmax(1), teacher.log_softmax(1)
    p, q = (ours, theirs) if way == "student_teacher" else (theirs, ours)
    pixels = (p.exp() * (p - q)).sum(1).mean()
    return pixels if per == "pixel" else pixels / student.shape[1]


def class_weights(shares: Sequence[float]) -> list[float]:
    """Weights 1 / log(1.02 + share) for class shares in 0..1 (ENet, section 5.2), scaled to a mean of 1."""
    raw = [1.0 / float(torch.tensor(1.02 + s, dtype=torch.float64).log()) for s in shares]
    return [w * len(raw) / sum(raw) for w in raw]
