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


def fall_back(
    macs: Mapping[str, int], errors: Mapping[str, float], drop_of: Callable[[frozenset[str]], float], limit: float
) -> Point:
    """Choose by each layer's `macs` and by its error alone in INT8; `drop_of` measures a network with those layers held back.

    What comes back is within the limit, and of what was measured that with most MACs in INT8. With every layer held back
    nothing is in INT8 and the drop counts as 0, so there is always such a point.
    """
    order = sorted(macs, key=lambda name: (-(errors[name] ** 2) / macs[name], name))
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
    return best
