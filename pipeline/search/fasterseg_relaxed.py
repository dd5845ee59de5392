"""The relaxed architecture of a FasterSeg network: alpha, beta and gamma as parameters, and the widths that a pass takes.

Widths are sampled with the straight-through Gumbel-Softmax trick (paper, Appendix C), which does not say what the sample
multiplies. The authors' code multiplies all that an operator makes by the score of the width that was drawn. The next batch
norm takes such a factor out again: gamma's gradient then says how much a map counts beside others, not which width is better,
and is zero for a tensor that enters a last cell. Here the sample masks channels, as in FBNetV2 (Wan et al., CVPR 2020): those
that a ratio has beyond the next smaller one are multiplied by the sum of the sample over all ratios that have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fasterseg_space import RATES, Logits, Net, Space

SCALES = range(len(RATES))


@dataclass(frozen=True, eq=False)
class Widths:
    """A width for each searched tensor of a supernet. Rows are those of the ratio logits (`fasterseg_space.Logits`)."""

    index: tuple[tuple[int, ...], ...]
    """By scale and row: which of the space's ratios."""
    gates: tuple[Tensor, ...] | None = None
    """By scale (rows, ratios): what multiplies the channels that each ratio adds to the smaller ones, 1 for those that the
    width has. Through it gamma gets its gradient; None where the choice is nobody's."""

    @staticmethod
    def all(space: Space, index: int) -> Widths:
        """Every tensor of the ratio with this index: 0 for the slimmest, -1 for the widest."""
        return Widths(tuple((index % len(space.ratios),) * space.tensors(s) for s in SCALES))

    @staticmethod
    def random(space: Space, rng: np.random.Generator) -> Widths:
        return Widths(tuple(tuple(map(int, rng.integers(len(space.ratios), size=space.tensors(s)))) for s in SCALES))


@dataclass(frozen=True, eq=False)
class Pass:
    """One way through the supernet whose loss is wanted."""

    net: Net
    """Whose stem and heads."""
    alpha: Sequence[Tensor]
    """By scale (cells, operators): probabilities, rows as in `fasterseg_space.Logits`."""
    beta: Sequence[Tensor]
    """By scale 1, 2 (merges, 2): probabilities."""
    widths: Widths


class Relaxed(nn.Module):
    """One network's logits as parameters, all 1e-3 at first. `widest`: the widths are not searched (the teacher)."""

    def __init__(self, space: Space, widest: bool = False) -> None:
        super().__init__()
        self.space = space
        self.widest = widest
        first = Logits.uniform(space, "teacher" if widest else "student")
        self.alpha, self.beta, self.ratio = (
            nn.ParameterList(nn.Parameter(torch.tensor(t, dtype=torch.float32)) for t in tables)
            for tables in (first.alpha, first.beta, first.ratio)
        )

    def logits(self) -> Logits:
        tables = (
            tuple(t.detach().cpu().double().numpy().copy() for t in group) for group in (self.alpha, self.beta, self.ratio)
        )
        return Logits(*tables)

    def probabilities(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """alpha, beta and gamma as probabilities (Eq. 7), with gradients; each by scale, beta from scale 1 on."""
        alpha, beta, gamma = (tuple(t.softmax(1) for t in group) for group in (self.alpha, self.beta, self.ratio))
        return alpha, beta, gamma

    def likeliest(self) -> Widths:
        """The most probable width of each tensor. The widest if not searched."""
        if self.widest or len(self.space.ratios) == 1:
            return Widths.all(self.space, -1)
        return Widths(tuple(tuple(logits.argmax(1).tolist()) for logits in self.ratio))

    def sample(self, rng: np.random.Generator) -> Widths:
        """Widths by the Gumbel-Softmax trick with tau = 1. The widest if not searched."""
        if self.widest or len(self.space.ratios) == 1:
            return Widths.all(self.space, -1)
        index, gates = [], []
        for logits in self.ratio:
            noise = torch.from_numpy(rng.gumbel(size=tuple(logits.shape)).astype(np.float32)).to(logits)
            soft = (logits.log_softmax(1) + noise).softmax(1)  # (rows, ratios)
            best = soft.argmax(1)
            sample = F.one_hot(best, soft.shape[1]) + (soft - soft.detach())
            index.append(tuple(best.tolist()))
            gates.append(sample.flip(1).cumsum(1).flip(1))
        return Widths(tuple(index), tuple(gates))
