"""Logits of a FasterSeg search -> the discrete network (paper, section 3.4), and which branches it has (Appendix B, Eq. 5-6).

What the paper leaves out follows the released networks, which the released logits give exactly:

* The argmax goes over the layers from 2 to L - 3, and two downsamplings lie at least three layers apart.
* Probabilities of a downsampling are the soft-maxed in-degree weights; those of two are multiplied.
* A skip of stride 1 is dropped, but the network keeps round(L / 3) cells and two more for each downsampling. Where that is too
  few, the likeliest skips go and the others become the next best operator. So do a skip that would downsample, and the least
  likely one where all cells from one downsampling to the next, or to the end, are skips.
* The last cell that is left has the width of the head.
* Branches have their first cells in common as long as operator, width and the next scale are equal, counted behind the
  shrinking; never the last cell of either.

The released code is off by one for a branch with a single downsampling: it puts it one layer before that which the row of beta
means. The rule "replay" does so too, and only with it do the published networks come out; "paper" does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgesmith.models.arch import Cell, FasterSeg

from .fasterseg_space import RATES, Found, Logits, Net, Scales, Score, Space

Rule = Literal["paper", "replay"]
RULES: tuple[Rule, ...] = get_args(Rule)
Outcome = Literal["student", "teacher", "pruned_teacher"]
"""A network that comes of a search; pruned_teacher is the teacher at the smallest expansion ratio."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def source_of(net: Outcome) -> Net:
    """The network of the search whose logits and scores it comes of."""
    return "student" if net == "student" else "teacher"


@dataclass(frozen=True)
class Target:
    """Which set of branches is best: mIoU * (latency / T)**w, with w = alpha up to T and beta above (Eq. 5 and 6)."""

    T: float = 8.3
    """Target latency in the unit of the scores. The paper's is 8.3 ms, which means a GTX 1080 Ti."""
    alpha: float = -0.07
    """w where the latency is at most T."""
    beta: float = -0.07
    """w where it is above T."""

    def __post_init__(self) -> None:
        if not self.T > 0:
            raise ValueError(f"T: {self.T} is not above 0")

    def of(self, score: Score) -> float:
        """Raises ValueError for a latency that is not above 0."""
        if not score.latency > 0:
            raise ValueError(f"latency: {score.latency} is not above 0")
        exponent = self.alpha if score.latency <= self.T else self.beta
        return float(score.miou * (score.latency / self.T) ** exponent)


def choose_scales(scores: Mapping[Scales, Score], target: Target, budget: float | None = None) -> Scales:
    """The set of branches with the largest target, of those whose latency is within the budget; the first of equal ones.

    Raises ValueError when there are no scores, or none is within the budget.
    """
    if not scores:
        raise ValueError("scores: no set of branches has mIoU and latency; name its scales, such as 32,16")
    within = {scales: score for scales, score in scores.items() if budget is None or score.latency <= budget}
    if not within:
        least = min(score.latency for score in scores.values())
        raise ValueError(
            f"budget: none of {len(scores)} sets of branches takes at most {budget:g}, the fastest {least:.4g}; "
            "raise the budget, or search with a larger latency_weight"
        )
    return max(within, key=lambda scales: target.of(within[scales]))


def derive(
    space: Space, logits: Logits, net: Net, scales: Scales = (2, 1), rule: Rule = "paper", name: str = "fasterseg-derived"
) -> FasterSeg:
    """The network that `logits` mean, with branches that end at `scales`, the deepest first.

    Raises ValueError for scales that are not one or two different ones in that order, and where the space has too few layers
    for the downsamplings.
    """
    chi = space.chi(net)
    cells = tuple(branch(space, logits, net, scale, rule) for scale in _checked(scales))
    return FasterSeg(name, stem_width=chi, branches=cells, shared=_common(*cells) if len(cells) == 2 else 0, head_ratio=chi)


def branch(space: Space, logits: Logits, net: Net, scale: int, rule: Rule = "paper") -> tuple[Cell, ...]:
    """The cells of the branch that ends at `scale`, shrunk.

    The teacher takes no skip, and the widest ratio everywhere (section 3.3).
    """
    downs = downsamplings(space, logits, scale, rule)
    path = [sum(down < layer for down in downs) for layer in range(space.layers)]
    alpha = np.stack([logits.alpha[s][layer - s] for layer, s in enumerate(path)])  # (layers, operators)
    is_skip = np.array([op == "skip" for op in space.operators])
    op_if_kept = [space.operators[k] for k in np.where(is_skip, -np.inf, alpha).argmax(1)]
    dropped = _dropped(alpha, is_skip, downs) if net == "student" else set()
    layers = [layer for layer in range(space.layers) if layer not in dropped]
    cells = []
    for layer in layers:
        last, down = layer == layers[-1], layer in downs
        after = path[layer] + down
        chi = space.chi(net) if last else _ratio(space, logits, net, after, layer + 1)
        cells.append(Cell(op_if_kept[layer], RATES[after] * chi, 2 if down else 1))
    return tuple(cells)


def downsamplings(space: Space, logits: Logits, scale: int, rule: Rule = "paper") -> tuple[int, ...]:
    """Layers of the cells of stride 2 in the branch that ends at `scale`: the likeliest (section 3.4, its second footnote).

    Raises ValueError where the space has too few layers.
    """
    if scale == 0:
        return ()
    rows, columns = (softmax(table)[:, 0] for table in logits.beta)  # of scale 1 and 2: to come from the finer scale
    one, two = space.places()
    if scale == 1:
        if not one.any():
            raise ValueError(f"layers: {space.layers} leave no place for a downsampling; needs at least 5")
        row = int(np.where(one, rows, -1.0).argmax())
        return (row if rule == "replay" else row + 1,)
    if not two.any():
        raise ValueError(f"layers: {space.layers} leave no place for two downsamplings; needs at least 8")
    first, second = np.unravel_index(np.where(two, np.outer(rows, columns), -1.0).argmax(), two.shape)
    return int(first) + 1, int(second) + 2


def pruned(teacher: FasterSeg, space: Space | None = None, name: str = "fasterseg-pruned") -> FasterSeg:
    """The pruned-teacher baseline (section 4.3): the teacher's cells at the smallest ratio, stem and head of the student."""
    space = space or Space()
    branches = []
    for cells in teacher.branches:
        scale, narrow = 0, []
        for cell in cells:
            scale += cell.stride == 2
            narrow.append(replace(cell, width=RATES[scale] * space.ratios[0]))
        branches.append((*narrow[:-1], replace(narrow[-1], width=RATES[scale] * space.stem_ratio)))
    chi = space.stem_ratio
    return replace(teacher, name=name, stem_width=chi, branches=tuple(branches), head_ratio=chi)


def derived(found: Found, net: Outcome, scales: Scales, rule: Rule = "paper") -> FasterSeg:
    """The network that a search found, with these branches, named after its digest.

    Raises KeyError where the search had no teacher, ValueError as `derive` does.
    """
    source = source_of(net)
    arch = derive(found.space, found.logits[source], source, scales, rule)
    arch = pruned(arch, found.space) if net == "pruned_teacher" else arch
    return replace(arch, name=f"fasterseg-{net.replace('_', '-')}-{arch.digest[:8]}")


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities along the last axis (Appendix D, Eq. 7)."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)  # type: ignore[no-any-return]


def _dropped(alpha: NDArray[np.float64], is_skip: NDArray[np.bool_], downs: tuple[int, ...]) -> set[int]:
    """Layers that go: skips of stride 1, as far as the network stays deep enough. `alpha` (layers, operators) is the path's."""
    count = len(alpha)
    chance = softmax(alpha)[:, is_skip].sum(1)
    skips = [layer for layer, best in enumerate(alpha.argmax(1)) if is_skip[best] and layer not in downs]
    for start, end in pairwise((*downs, count)):
        stretch = range(start + 1, end)
        if set(stretch) <= set(skips):
            skips.remove(min(stretch, key=lambda layer: chance[layer]))
    least = round(count / 3) + 2 * len(downs)
    return set(sorted(skips, key=lambda layer: -chance[layer])[: count - least])


def _ratio(space: Space, logits: Logits, net: Net, scale: int, layer: int) -> int:
    """Expansion ratio of the tensor of `scale` that enters `layer`."""
    return space.ratios_of(net)[int(logits.ratio[scale][layer - max(scale, 1)].argmax())]


def _common(first: tuple[Cell, ...], second: tuple[Cell, ...]) -> int:
    """How many first cells are the same, the last of either apart. A stride that differs ends it: the next scales differ."""
    shared = 0
    for mine, other in zip(first[:-1], second[:-1], strict=False):
        if mine != other:
            break
        shared += 1
    return shared


def _checked(scales: Scales) -> Scales:
    if len(scales) not in (1, 2) or sorted(set(scales), reverse=True) != list(scales) or not set(scales) <= {0, 1, 2}:
        raise ValueError(f"scales: {scales} are not one or two different ones of 2, 1 and 0, the deepest first")
    return scales
