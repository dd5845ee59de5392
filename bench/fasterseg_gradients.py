"""How hard the labels and the latency pull at a FasterSeg student's architecture when its search begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesmith.models.arch import Segmentation
from edgesmith.pipeline.data.halves import halves
from edgesmith.pipeline.data.spec import named, open_split
from edgesmith.pipeline.search.fasterseg import FasterSegSearch
from edgesmith.pipeline.search.fasterseg_loop import Searching
from edgesmith.pipeline.search.fasterseg_relaxed import Relaxed
from edgesmith.pipeline.training.loader import Batches

KINDS = ("alpha", "beta", "ratio")
STREAM = 8
"""Of the batches: none that a search has (fasterseg_loop.py)."""


def gradients(search: FasterSegSearch, batches: int) -> dict[str, Any]:
    """Root mean squares over the entries of alpha, beta and gamma of the student's logits, by kind.

    `search` has a table and names its pretraining. `batch`: the gradient of the segmentation loss of one batch; `mean`: what of
    it all batches have in common, estimated from pairs of them; `decoupled` and `coupled`: the latency term's, with lambda such
    that operators, resolutions and widths, each alone, move the term by 1 in all.
    """
    split = open_split(named(search.data, "search.data"), "train")
    torch.manual_seed(search.seed)
    searching = Searching(search, Segmentation(len(split.labels.names)), torch.device("cpu"))
    searching.take_pretrained()
    searching.supernet.requires_grad_(False)
    student, rng = searching.relaxed["student"], np.random.default_rng(search.seed)
    phase, (_, half) = search.alternate, halves(split, search.seed)
    seen = []
    for batch in Batches(half, phase.augment, phase.batch, search.seed, stream=STREAM).first(batches):
        student.zero_grad()
        searching.backward(batch, searching.passes(rng))
        seen.append(_taken(student))
    of_a_kind = [torch.stack(g).double() for g in zip(*seen, strict=True)]  # each (batches, entries)
    delta, latency = searching.sensitivity, searching.latency
    weights, moves = delta.weights(), (delta.operator, delta.resolution, delta.width)
    terms: dict[str, Tensor] = {
        "decoupled": latency.decoupled(*student.probabilities(), weights) / float(np.dot(weights, moves)),
        "coupled": latency.coupled(*student.probabilities()) / sum(moves),
    }
    pulls = {"batch": [_rms(g) for g in of_a_kind], "mean": [_common(g) for g in of_a_kind]}
    for form, term in terms.items():
        student.zero_grad()
        torch.autograd.backward(term)
        pulls[form] = [_rms(g) for g in _taken(student)]
    return {"batches": batches, **{name: dict(zip(KINDS, values, strict=True)) for name, values in pulls.items()}}


def _taken(relaxed: Relaxed) -> list[Tensor]:
    """The gradients of alpha, beta and gamma, each as one vector."""
    tables = (relaxed.alpha, relaxed.beta, relaxed.ratio)
    return [torch.cat([p.grad.flatten() for p in table if p.grad is not None]).clone() for table in tables]


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _common(g: Tensor) -> float:
    """The root mean square of the mean of which the rows (rows, entries) are noisy samples, without the noise's share."""
    rows = len(g)
    pairs = (g.sum(0).square() - g.square().sum(0)).mean() / (rows * (rows - 1))
    return float(max(0.0, float(pairs)) ** 0.5)
