"""The relaxed latency against the mean over every branch of a tiny space, one at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from edgesmith.models.arch import Segmentation
from edgesmith.pipeline.search.fasterseg_costs import Costs
from edgesmith.pipeline.search.fasterseg_latency import RelaxedLatency, Sensitivity
from edgesmith.pipeline.search.fasterseg_space import Space

TINY = Space(layers=4, operators=("conv", "zoomed_conv"), ratios=(4, 8))
Probabilities = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]


def tiny_costs(space: Space = TINY, seed: int = 0) -> Costs:
    """Random costs: what is added up is tested, not what a piece takes."""
    rng = np.random.default_rng(seed)
    ops, chis = len(space.operators), len(space.ratios)
    return Costs(
        resource="macs",
        task=Segmentation(2),
        input_hw=(64, 64),
        table=None,
        first=rng.uniform(0.1, 1, (2, ops, chis)),
        cells=tuple(rng.uniform(0.1, 1, (2, ops, chis, chis)) for _ in range(3)),
        last=tuple(rng.uniform(0.1, 1, (ops, chis)) for _ in range(3)),
    )


def probabilities(space: Space = TINY, seed: int = 1) -> Probabilities:
    rng = np.random.default_rng(seed)

    def table(rows: int, columns: int) -> torch.Tensor:
        return torch.tensor(rng.dirichlet(np.ones(columns), rows), dtype=torch.float32)

    return (
        [table(space.cells(s), len(space.operators)) for s in range(3)],
        [table(space.merges(s), 2) for s in (1, 2)],
        [table(space.tensors(s), len(space.ratios)) for s in range(3)],
    )


def paths(space: Space, last: int) -> Iterator[tuple[int, ...]]:
    """The scale in each layer, for each branch that ends at scale `last`."""
    for downs in itertools.combinations(range(1, space.layers), last):
        yield tuple(sum(d <= layer for d in downs) for layer in range(space.layers))


def chance(path: tuple[int, ...], beta: list[torch.Tensor]) -> float:
    """That a branch traced back from its end takes this path: only cells with two predecessors have a choice."""
    found = 1.0
    for layer in range(1, len(path)):
        scale = path[layer]
        if scale not in (0, layer):
            found *= float(beta[scale - 1][layer - scale - 1, int(path[layer - 1] == scale)])
    return found


def row(scale: int, layer: int) -> int:
    """Of the ratio table for the tensor that enters a layer."""
    return layer - 1 if scale == 0 else layer - scale


def by_hand(space: Space, costs: Costs, p: Probabilities) -> float:
    """The mean latency over every path, operator and width, of each of the three branches."""
    alpha, beta, gamma = p
    total = 0.0
    for path in (path for last in range(3) for path in paths(space, last)):
        layers = range(space.layers)
        for ops in itertools.product(range(len(space.operators)), repeat=space.layers):
            for chis in itertools.product(range(len(space.ratios)), repeat=space.layers - 1):
                likely, latency = chance(path, beta), 0.0
                for layer in layers:
                    s, op = path[layer], ops[layer]
                    likely *= float(alpha[s][layer - s, op])
                    if layer > 0:
                        likely *= float(gamma[s][row(s, layer), chis[layer - 1]])
                    if layer == layers[-1]:
                        latency += costs.last[s][op, chis[layer - 1]]
                        continue
                    stride = path[layer + 1] - s
                    if layer == 0:
                        latency += costs.first[stride, op, chis[0]]
                    else:
                        latency += costs.cells[s][stride, op, chis[layer - 1], chis[layer]]
                total += likely * latency
    return total


def uniform(tables: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.full_like(t, 1 / t.shape[1]) for t in tables]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_relaxed_latency_is_the_mean_over_all_branches(seed: int) -> None:
    costs, p = tiny_costs(), probabilities(seed=seed)
    assert float(RelaxedLatency(TINY, costs).coupled(*p)) == pytest.approx(by_hand(TINY, costs, p), rel=1e-5)


def test_decoupled_each_term_knows_one_kind_of_probability() -> None:
    costs, (alpha, beta, gamma) = tiny_costs(), probabilities()
    latency = RelaxedLatency(TINY, costs)
    alone = [
        by_hand(TINY, costs, (alpha, uniform(beta), uniform(gamma))),
        by_hand(TINY, costs, (uniform(alpha), beta, uniform(gamma))),
        by_hand(TINY, costs, (uniform(alpha), uniform(beta), gamma)),
    ]
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.2, 0.5, 0.3)):
        expected = sum(w * a for w, a in zip(weights, alone, strict=True))
        assert float(latency.decoupled(alpha, beta, gamma, weights)) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_the_mean() -> None:
    costs, p = tiny_costs(), probabilities()
    leaves = [[t.clone().requires_grad_() for t in tables] for tables in p]
    RelaxedLatency(TINY, costs).coupled(*leaves).backward()
    step = 0.05  # from the second column to the first: the mean is linear in each row, so no step is too large
    for kind, scale, row_at in ((0, 0, 2), (0, 2, 1), (1, 0, 1), (1, 1, 0), (2, 0, 1), (2, 1, 2), (2, 2, 0)):
        moved = [[t.clone() for t in tables] for tables in p]
        moved[kind][scale][row_at] += torch.tensor([step, -step])
        slope = (by_hand(TINY, costs, (moved[0], moved[1], moved[2])) - by_hand(TINY, costs, p)) / step
        first, second = leaves[kind][scale].grad[row_at].tolist()
        assert first - second == pytest.approx(slope, rel=1e-3, abs=1e-4), (kind, scale, row_at)


def test_scale_one_is_merged_by_its_own_beta() -> None:
    # The released code takes those of scale 2, which leave the branch that ends at scale 1 without a gradient.
    space = Space(layers=6, operators=("conv",), ratios=(4,))
    alpha, beta, gamma = probabilities(space)
    latency = RelaxedLatency(space, tiny_costs(space))
    moved = [beta[0].flip(1), beta[1]]
    assert float(latency.coupled(alpha, moved, gamma)) != pytest.approx(float(latency.coupled(alpha, beta, gamma)), rel=1e-3)
    first = [beta[0].clone().requires_grad_(), beta[1]]
    latency.coupled(alpha, first, gamma).backward()
    assert (first[0].grad.abs().sum(1) > 0).all()


def test_the_smallest_space_has_no_merge_at_scale_two() -> None:
    space = Space(layers=3, operators=("conv",), ratios=(4, 8))
    costs, p = tiny_costs(space), probabilities(space)
    assert p[1][1].shape == (0, 2)
    assert float(RelaxedLatency(space, costs).coupled(*p)) == pytest.approx(by_hand(space, costs, p), rel=1e-5)


def extremes(values: list[float]) -> float:
    return max(values) - min(values)


def one_hot(shape: tuple[int, ...], columns: tuple[int, ...]) -> torch.Tensor:
    table = torch.zeros(shape)
    table[range(shape[0]), columns] = 1
    return table


def test_sensitivities_are_the_gaps_between_the_slowest_and_the_fastest_supernet() -> None:
    space = Space(layers=3, operators=("conv", "zoomed_conv"), ratios=(4, 8))
    costs, p = tiny_costs(space), probabilities(space)
    alpha, beta, gamma = map(uniform, p)
    latency = RelaxedLatency(space, costs)

    def choices(tables: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        rows = [range(t.shape[1]) for t in tables for _ in range(t.shape[0])]
        for columns in itertools.product(*rows):
            left = iter(columns)
            yield [one_hot(tuple(t.shape), tuple(itertools.islice(left, t.shape[0]))) for t in tables]

    found = latency.sensitivity()
    assert found.operator == pytest.approx(extremes([float(latency.coupled(a, beta, gamma)) for a in choices(alpha)]), rel=1e-4)
    assert found.resolution == pytest.approx(
        extremes([float(latency.coupled(alpha, b, gamma)) for b in choices(beta)]), rel=1e-4
    )
    widths = [float(latency.coupled(alpha, beta, [one_hot(tuple(g.shape), (k,) * len(g)) for g in gamma])) for k in (0, 1)]
    assert found.width == pytest.approx(widths[1] - widths[0], rel=1e-4)


def test_the_papers_sensitivities_give_the_papers_weights() -> None:
    weights = Sensitivity(10.42, 0.01, 5.54).weights()
    assert weights == pytest.approx((0.001, 0.997, 0.002), abs=5e-4)
    assert sum(weights) == pytest.approx(1.0)
    assert 10.42 * weights[0] == pytest.approx(0.01 * weights[1]) == pytest.approx(5.54 * weights[2])


def test_weights_that_cannot_be_solved_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="does not depend on width; give three numbers"):
        Sensitivity(1.0, 1.0, 0.0).weights()
