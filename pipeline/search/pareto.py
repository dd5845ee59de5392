"""The choice among networks that were scored: the front of cost against accuracy, and the best under a budget."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the points (cost, score) no other point beats: none is as cheap and better, or as good and cheaper."""
    kept = [False] * len(points)
    best = float("-inf")
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            kept[i], best = True, points[i][1]
    return kept


def choose(points: Sequence[tuple[float, float]], budget: float | None) -> int | None:
    """Index of the point (cost, score) with the best score among those that cost at most `budget`, the cheapest of equals.

    None when no point is that cheap. What is chosen lies on the front.
    """
    within = [i for i, (cost, _) in enumerate(points) if budget is None or cost <= budget]
    return min(within, key=lambda i: (-points[i][1], points[i][0], i), default=None)
