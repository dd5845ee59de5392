"""Gradients of several passes through the FasterSeg supernet, as a step of its search needs them, in little time and memory.

Passes are done one after the other, so that the maps of one are held at a time. The stem runs once for those of one network;
its gradient is collected and goes through it once. Gradients of parameters that need none (`requires_grad_(False)`, as the
supernet's in an architecture step) are not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from .fasterseg_relaxed import Pass
from .fasterseg_space import RATES, Net
from .fasterseg_supernet import Supernet


@dataclass(frozen=True)
class Losses:
    """The losses of all heads in all passes."""

    total: float
    """Their sum: the loss whose gradients were computed."""
    count: int

    @property
    def mean(self) -> float:
        """Of a head in a pass."""
        return self.total / self.count


def backward(
    supernet: Supernet, x: Tensor, labels: Tensor, passes: Sequence[Pass], loss: Callable[[Tensor, Tensor], Tensor]
) -> Losses:
    """Add the gradients of the sum of all passes' losses to the `grad` of weights and of what alpha, beta and gates hang on.

    x (N, 3, H, W) with H and W that 32 divides, labels (N, H, W). `loss` takes logits (N, classes, H/8, W/8) and labels
    (N, H/8, W/8). Passes of a network may share the graph of their alpha and beta: it is gone through once.
    """
    labels = labels[:, :: RATES[0], :: RATES[0]]  # logits are at 1/8 of the input's size
    cut = _Cut()
    stems: dict[Net, Tensor] = {}
    losses: list[Tensor] = []
    for i, p in enumerate(passes):
        if p.net not in stems:
            with repeated(supernet.stems[p.net], sum(q.net == p.net for q in passes)):
                stems[p.net] = supernet.stem(x, p.net)
        losses += _pass(supernet, cut(stems[p.net]), labels, cut.all(p), loss)
        if all(q.net != p.net for q in passes[i + 1 :]):
            cut.backward([stems.pop(p.net)])
    cut.backward()
    return Losses(sum(map(float, losses)), len(losses))


def _pass(supernet: Supernet, stem: Tensor, labels: Tensor, p: Pass, loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """The gradients of one pass behind the stem, a head at a time; its losses."""
    supernet.arena.clear()
    maps = supernet.branch_maps(stem, p.net, p.alpha, p.beta, p.widths, supernet.arena)
    cut = _Cut()
    losses = []
    for scales in supernet.space.heads():
        logits = supernet.head(p.net, scales, list(map(cut, maps)))
        one = loss(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
        one.backward()  # type: ignore[no-untyped-call]
        losses.append(one.detach())
    cut.backward()
    return losses


class _Cut:
    """Tensors at which graphs are cut, so that what is behind is gone through and freed apart, and what came before once."""

    def __init__(self) -> None:
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, t: Tensor) -> Tensor:
        """A copy of `t` that collects its gradient, the same one each time."""
        if id(t) not in self.copies:
            self.copies[id(t)] = t, t.detach().requires_grad_(t.requires_grad)
        return self.copies[id(t)][1]

    def all(self, p: Pass) -> Pass:
        """The pass with copies of its alphas, betas and gates."""
        gates = p.widths.gates
        widths = p.widths if gates is None else replace(p.widths, gates=tuple(map(self, gates)))
        return replace(p, alpha=tuple(map(self, p.alpha)), beta=tuple(map(self, p.beta)), widths=widths)

    def backward(self, only: Sequence[Tensor] | None = None) -> None:
        """On from the copies, or from those of `only` these tensors, into the graphs of what they are copies of."""
        wanted = list(self.copies) if only is None else [id(t) for t in only]
        reached = [(t, copy.grad) for t, copy in map(self.copies.pop, wanted) if copy.grad is not None]
        if reached:
            tensors, gradients = zip(*reached, strict=True)
            torch.autograd.backward(tensors, gradients)


@contextmanager
def repeated(module: nn.Module, times: int) -> Iterator[None]:
    """What runs once here tells batch norms' running statistics as often as it would run."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [cast(float, m.momentum) for m in norms]
    for m, momentum in zip(norms, before, strict=True):
        m.momentum = 1 - (1 - momentum) ** times
        if m.training and m.num_batches_tracked is not None:
            m.num_batches_tracked += times - 1
    try:
        yield
    finally:
        for m, momentum in zip(norms, before, strict=True):
            m.momentum = momentum
