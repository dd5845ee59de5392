from __future__ import annotations

import random

from edgesmith.pipeline.search.pareto import choose, front


def test_the_front_holds_the_points_that_none_beats() -> None:
    points = [(1.0, 0.3), (2.0, 0.5), (2.0, 0.4), (3.0, 0.5), (4.0, 0.2), (5.0, 0.9), (1.0, 0.3)]
    assert front(points) == [True, True, False, False, False, True, False]
    assert front([]) == []


def test_the_front_is_the_front_of_its_definition() -> None:
    rng = random.Random(0)
    points = [(rng.random(), rng.random()) for _ in range(200)]
    beaten = [any((c < cost and s >= score) or (c <= cost and s > score) for c, s in points) for cost, score in points]
    assert front(points) == [not b for b in beaten]


def test_the_choice_is_the_best_within_the_budget_and_lies_on_the_front() -> None:
    points = [(1.0, 0.3), (2.0, 0.5), (1.5, 0.5), (3.0, 0.6)]
    assert choose(points, None) == 3
    assert choose(points, 2.5) == 2
    assert choose(points, 1.0) == 0
    assert choose(points, 0.9) is None
    for budget in (1.0, 1.6, 2.5, 9.0):
        chosen = choose(points, budget)
        assert chosen is not None
        assert front(points)[chosen]
