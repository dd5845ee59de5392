"""Which convolutions to hold back from INT8, so that the rest costs no more than a limit and holds most of the MACs.

Rounding errors of different layers are nearly independent, so their squares add up at the logits: holding a layer back
buys its squared error and costs its MACs. Layers are therefore held back by squared error for each MAC, the dearest first,
as many as the limit needs (found by bisection); then those of them that turn out not to be needed are given back, those
with most MACs first. Whether the limit is kept is always measured, on whole networks, never added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A choice that was measured."""

    held: frozenset[str]
    """Layers that are not in INT8."""
    int8_share: float
    """Share of all MACs in INT8."""
    drop: float
    """Points of mIoU that it costs."""


@dataclass(frozen=True)
class Choice:
    best: Point
    """Within the limit, and of those that were measured the one with most MACs in INT8."""
    order: tuple[str, ...]
    """All layers, the one to hold back first at the front."""
    tried: tuple[Point, ...]


def fall_back(
    macs: Mapping[str, int], errors: Mapping[str, float], drop_of: Callable[[frozenset[str]], float], limit: float
) -> Choice:
    """Choose by each layer's `macs` and by its error alone in INT8; `drop_of` measures a network with those layers held back.

    With every layer held back nothing is in INT8 and the drop counts as 0, so there is always a point within the limit.
    """
    order = tuple(sorted(macs, key=lambda name: (-(errors[name] ** 2) / macs[name], name)))
    whole = sum(macs.values())
    tried: dict[frozenset[str], Point] = {}

    def point(held: frozenset[str]) -> Point:
        if held not in tried:
            drop = drop_of(held) if len(held) < len(order) else 0.0
            tried[held] = Point(held, 1 - sum(macs[name] for name in held) / whole, drop)
        return tried[held]

    best = point(frozenset())
    if best.drop > limit:
        few, enough = 1, len(order)
        while few < enough:
            middle = (few + enough) // 2
            if point(frozenset(order[:middle])).drop <= limit:
                enough = middle
            else:
                few = middle + 1
        best = point(frozenset(order[:enough]))
    for name in sorted(best.held, key=lambda n: (-macs[n], n)):
        if (without := point(best.held - {name})).drop <= limit:
            best = without
    return Choice(best, order, tuple(tried.values()))
