"""The relaxed latency of a FasterSeg supernet (paper, section 3.2, Appendix E) and what it is sensitive to (Table 2).

In Eq. 1 and 2 every operator is replaced by its latency, and latencies add up along a path: a cell's output took what its input
took, and its own operator. What comes out for the branch that ends at scale s is the mean latency of that branch when every
operator, width and predecessor is drawn by its probability. The three scales are added up. "Latency" stands for whatever
resource the costs count.

Decoupled (Eq. 3), this is taken three times: with the probabilities of the operators, of the predecessors, and of the widths,
the other two being uniform each time. Coupled, once, with all three.

Deviations from the paper and the released code, and why:

* The widths' term takes their probabilities where the released code takes the widths sampled for the pass: the mean is the
  same, and it is exact.
* What is not searched in a term is uniform, as for Table 2; the released code sets widths to the largest.
* The released code merges scale 1 by the predecessors of scale 2. Here each scale has its own.
* Stem, aggregation and head are the same for all that is searched, but for the few channels of the map that aggregation takes
  up on the way; they are left out. `Costs.of` of a derived network counts them all.
* Of the authors' published latency table the rule above makes 15.40, 1.53 and 12.16 ms for operators, resolutions and widths,
  where Table 2 has 10.42, 0.01 and 5.54. Which extremes the authors took is not said; those here are the slowest and the
  fastest there are. The paper's weights stay the default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .fasterseg_costs import Costs
from .fasterseg_space import RATES, Space

Tables = Sequence[Tensor]
"""Probabilities of one kind, by scale, as `Relaxed.probabilities` gives them."""


@dataclass(frozen=True)
class Sensitivity:
    """How far the latency moves between the slowest and the fastest choice of one kind, the others uniform (Table 2)."""

    operator: float
    resolution: float
    width: float

    def weights(self) -> tuple[float, float, float]:
        """w1, w2, w3 of Eq. 3: their products with the sensitivities are equal, their sum is 1 (paper, footnote 1).

        Raises ValueError where one of them is nothing beside the others: multiply-accumulates do not depend on resolution.
        """
        values = {"operator": self.operator, "resolution": self.resolution, "width": self.width}
        if flat := [name for name, value in values.items() if not value > 1e-6 * max(values.values())]:
            raise ValueError(
                f"latency_weights: balanced cannot be solved, the latency does not depend on {' and '.join(flat)}; "
                "give three numbers"
            )
        inverse = [1 / value for value in values.values()]
        operator, resolution, width = (v / sum(inverse) for v in inverse)
        return operator, resolution, width


class RelaxedLatency:
    """The latency of a student's supernet as a differentiable function of its probabilities."""

    def __init__(self, space: Space, costs: Costs, device: torch.device | None = None) -> None:
        self.space = space

        def tensor(values: object) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        self.first = tensor(costs.first)  # (2 strides, operators, out)
        self.cells = [tensor(c) for c in costs.cells]  # (2 strides, operators, in, out)
        self.last = [tensor(c) for c in costs.last]  # (operators, in)

    def coupled(self, alpha: Tables, beta: Tables, gamma: Tables) -> Tensor:
        """The mean latency of the three branches, added up, as a scalar."""
        return self._accumulate(alpha, gamma, lambda scale, row, down, keep: beta[scale - 1][row] @ torch.stack([down, keep]))

    def decoupled(self, alpha: Tables, beta: Tables, gamma: Tables, weights: Sequence[float]) -> Tensor:
        """Eq. 3: the sum of three latencies in which only one kind of choice is not uniform."""
        alpha0, beta0, gamma0 = (tuple(map(_uniform, tables)) for tables in (alpha, beta, gamma))
        operator, resolution, width = weights
        return (
            operator * self.coupled(alpha, beta0, gamma0)
            + resolution * self.coupled(alpha0, beta, gamma0)
            + width * self.coupled(alpha0, beta0, gamma)
        )

    @torch.no_grad()
    def sensitivity(self) -> Sensitivity:
        """Table 2 of this supernet."""
        space, at = self.space, self.first.device
        alpha, beta, gamma = (
            [torch.full(shape, 1 / shape[1], device=at) for shape in shapes]
            for shapes in (
                [(space.cells(s), len(space.operators)) for s in range(len(RATES))],
                [(space.merges(s), 2) for s in (1, 2)],
                [(space.tensors(s), len(space.ratios)) for s in range(len(RATES))],
            )
        )
        with torch.enable_grad():
            # The latency is linear in alpha, so its gradient says what each operator of each cell adds.
            leaves = [a.requires_grad_() for a in alpha]
            by_operator = torch.autograd.grad(self.coupled(leaves, beta, gamma), leaves)
        operator = sum(float((c.amax(1) - c.amin(1)).sum()) for c in by_operator)
        slowest, fastest = (
            float(self._accumulate(alpha, gamma, lambda scale, row, down, keep, pick=pick: pick(down, keep)))  # type: ignore[misc]
            for pick in (torch.maximum, torch.minimum)
        )
        narrow, wide = (float(self.coupled(alpha, beta, [_only(g, k) for g in gamma])) for k in (0, -1))
        return Sensitivity(operator, slowest - fastest, wide - narrow)

    def _accumulate(self, alpha: Tables, gamma: Tables, merge: Callable[[int, int, Tensor, Tensor], Tensor]) -> Tensor:
        """Latencies added up along the paths, at the end over the scales.

        merge(scale, row, down, keep) is the latency of what enters the cell that row `row` of beta belongs to, where its two
        predecessors took `down` and `keep`.
        """
        layers = self.space.layers
        keeps, downs = self._own(alpha, gamma)
        enters = {0: self.first.new_zeros(())}  # what entered the cells of this layer took
        for layer in range(layers - 1):
            kept = {s: t + keeps[s][layer - s] for s, t in enters.items()}
            down = {s + 1: t + downs[s][layer - s] for s, t in enters.items() if s < 2}
            enters = {0: kept[0]}
            for s, t in down.items():
                enters[s] = merge(s, layer - s, t, kept[s]) if s in kept else t
        ends = [t + torch.einsum("k,ki,i->", alpha[s][-1], self.last[s], gamma[s][-1]) for s, t in enters.items()]
        return torch.stack(ends).sum()

    def _own(self, alpha: Tables, gamma: Tables) -> tuple[list[Tensor], list[Tensor]]:
        """What each cell takes itself, by scale (cells but the last,): with stride 1, and (scales 0 and 1) with stride 2."""
        keeps, downs = [], []
        for s, table in enumerate(self.cells):
            # Row i of a kind is in layer i + scale; gamma of scale 0 begins a layer later, behind the stem.
            here = alpha[s][:-1]
            entering = gamma[s][:-1]
            leaving = {0: gamma[s] if s == 0 else gamma[s][1:]}
            if s < 2:
                leaving[1] = gamma[1] if s == 0 else gamma[2]
            own = []
            for stride, out in leaving.items():
                if s > 0:
                    own.append(torch.einsum("lk,kio,li,lo->l", here, table[stride], entering, out))
                    continue
                begin = torch.einsum("k,ko,o->", here[0], self.first[stride], out[0])
                rest = torch.einsum("lk,kio,li,lo->l", here[1:], table[stride], entering, out[1:])
                own.append(torch.cat([begin[None], rest]))
            keeps.append(own[0])
            downs += own[1:]
        return keeps, downs


def _uniform(table: Tensor) -> Tensor:
    return torch.full_like(table, 1 / table.shape[1])


def _only(table: Tensor, column: int) -> Tensor:
    """All probability on one column."""
    chosen = torch.zeros_like(table)
    chosen[:, column] = 1
    return chosen
