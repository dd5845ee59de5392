"""Charts of a search in a report, as inline SVG: a plot of networks by two numbers, and a map of candidates by block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .charts import LEFT, RIGHT, TOP, Frame, ticks
from .page import clean, percent


@dataclass(frozen=True)
class Point:
    """A network in a plot."""

    x: float
    y: float
    about: str
    """What is said of it when it is pointed at."""
    name: str = ""
    """Stands beside it; for few points only."""


@dataclass(frozen=True)
class Series:
    """Points that look the same."""

    name: str
    kind: Literal["dot", "fill", "best", "hoop"]
    points: Sequence[Point]
    stairs: bool = False
    """Joined by steps, as a front is: what a cost buys at most."""

    @property
    def finite(self) -> list[Point]:
        return [p for p in self.points if math.isfinite(p.x) and math.isfinite(p.y)]


@dataclass(frozen=True)
class Rule:
    """A straight line y = slope * x + offset across a plot."""

    name: str
    slope: float
    offset: float
    kind: Literal["even", "mark"]


RADIUS = {"dot": 3.5, "fill": 4, "best": 6, "hoop": 7}
_LETTER = 6.6
"""Width of a letter, about."""
_APART = (-45, 53, -65, 73)
"""How far below its point a name may stand that a line leads to."""


def scatter(
    series: Sequence[Series],
    x_name: str,
    y_name: str,
    *,
    size: tuple[int, int] = (460, 320),
    limit: tuple[str, float] | None = None,
    rules: Sequence[Rule] = (),
) -> str:
    """Networks by two numbers; later series lie above earlier ones.

    `limit` (name, x) is drawn upright. With `rules` both axes cover the same range, from 0. Points that are not finite are
    left out; empty when none is left.
    """
    points = [p for s in series for p in s.finite]
    if not points:
        return ""
    xs, ys = [p.x for p in points] + ([limit[1]] if limit else []), [p.y for p in points]
    if rules:
        x_ticks = y_ticks = ticks(0, max(xs + ys))
    else:
        x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    keys, rows = legend([*((s.name, s.kind) for s in series if s.finite), *((r.name, r.kind) for r in rules)], size[0])
    frame = Frame(*size, (x_ticks[0], x_ticks[-1]), y_ticks, top=TOP + 18 * (rows - 1))
    parts = [*frame.axes(x_ticks, x_name, y_name), *keys]
    parts += [_rule(rule, frame, x_ticks[-1]) for rule in rules]
    if limit is not None:
        at = frame.x(limit[1])
        end = ' text-anchor="end"' if at > size[0] / 2 else ""
        parts.append(f'<path class="mark" d="M{at:.1f} {frame.y(y_ticks[-1]):.1f}V{frame.y(y_ticks[0]):.1f}"/>')
        label = f'x="{at + (-6 if end else 6):.1f}" y="{frame.y(y_ticks[0]) - 6:.1f}"{end}'
        parts.append(f'<text class="name" {label}>{clean(limit[0])}</text>')
    for s in series:
        parts += _drawn(s, frame)
    parts += _names(points, frame)
    counted = ", ".join(f"{s.name}: {len(s.finite)}" for s in series if s.finite)
    return frame.svg(f"{y_name} by {x_name}. {counted}", parts)


def _drawn(series: Series, frame: Frame) -> list[str]:
    parts = []
    if series.stairs and len(series.finite) > 1:
        steps = sorted(series.finite, key=lambda p: (p.x, p.y))
        path = "".join(f"H{frame.x(b.x):.1f}V{frame.y(b.y):.1f}" for _, b in pairwise(steps))
        parts.append(f'<path class="line" d="M{frame.x(steps[0].x):.1f} {frame.y(steps[0].y):.1f}{path}"/>')
    for p in series.finite:
        mark = f'<circle class="{series.kind}" r="{RADIUS[series.kind]}" cx="{frame.x(p.x):.1f}" cy="{frame.y(p.y):.1f}"/>'
        parts.append(f"<g><title>{clean(p.about)}</title>{mark}</g>")
    return parts


def _rule(rule: Rule, frame: Frame, x_most: float) -> str:
    """The line as far as it lies in the frame, whose axes both go from 0 to `x_most`."""
    crossings = [0.0, x_most]
    if rule.slope:
        crossings += [(y - rule.offset) / rule.slope for y in (0.0, x_most)]
    inside = sorted(x for x in crossings if 0 <= x <= x_most and -1e-9 <= rule.slope * x + rule.offset <= x_most * (1 + 1e-9))
    if len(inside) < 2:
        return ""
    ends = [f"{frame.x(x):.1f} {frame.y(rule.slope * x + rule.offset):.1f}" for x in (inside[0], inside[-1])]
    return f'<path class="{rule.kind}" d="M{ends[0]}L{ends[1]}"/>'


def legend(entries: Sequence[tuple[str, str]], width: int) -> tuple[list[str], int]:
    """Marks with their words, in as many rows as they need, and how many these are."""
    parts, at, row = [], float(LEFT), 0
    for name, kind in entries:
        wide = 22 + _LETTER * len(name)
        if at > LEFT and at + wide > width:
            at, row = float(LEFT), row + 1
        y = 14 + 18 * row
        if kind in RADIUS:
            mark = f'<circle class="{kind}" r="{min(RADIUS[kind], 5.5)}" cx="{at + 5:.1f}" cy="{y}"/>'
        else:
            mark = f'<path class="{kind}" d="M{at - 3:.1f} {y}H{at + 12:.1f}"/>'
        parts.append(f'{mark}<text x="{at + 16:.1f}" y="{y + 4}">{clean(name)}</text>')
        at += wide + 16
    return parts, row + 1


def _names(points: Sequence[Point], frame: Frame) -> list[str]:
    """Names beside their points, where they cover no other point or name as far as there is such a place; a line leads to those
    that stand apart."""
    taken = [(frame.x(p.x) - 5, frame.y(p.y) - 5, frame.x(p.x) + 5, frame.y(p.y) + 5) for p in points]
    parts = []
    for p in points:
        if not p.name:
            continue
        x, y, wide = frame.x(p.x), frame.y(p.y), _LETTER * len(p.name)
        places = [(x + 10, y + 4), (x - 10 - wide, y + 4)]
        places += [(x - wide * share, y + down) for down in (-11, 19, -25, 33, *_APART) for share in (0.5, 0.0, 1.0)]
        places = [q for q in places if q[0] >= frame.left and q[0] + wide <= frame.width - RIGHT] or places
        left, base = next((q for q in places if not any(_meet(_box(q, wide), t) for t in taken)), places[0])
        taken.append(_box((left, base), wide))
        if abs(base - y) > min(map(abs, _APART)) - 1:
            parts.append(f'<path class="even" d="M{x:.1f} {y:.1f}V{base + 3 if base < y else base - 12:.1f}"/>')
        parts.append(f'<text class="name" x="{left:.1f}" y="{base:.1f}">{clean(p.name)}</text>')
    return parts


def _box(at: tuple[float, float], wide: float) -> tuple[float, float, float, float]:
    return at[0], at[1] - 11, at[0] + wide, at[1] + 3


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def candidate_map(
    probabilities: Sequence[Sequence[float]],
    names: Sequence[str],
    removed: Mapping[tuple[int, int], int],
    chosen: Sequence[int] | None = None,
) -> str:
    """Probabilities (blocks, candidates) as a map: a row for each block, a column for each candidate of `names`.

    `removed` has the epoch after which a candidate (block, candidate) left; `chosen` is the candidate of each block that gets
    a frame. Strength grows with the square root of the probability. Raises ValueError when rows and names do not fit.
    """
    if any(len(row) != len(names) for row in probabilities) or (chosen and len(chosen) != len(probabilities)):
        raise ValueError(f"probabilities: needs rows of {len(names)} numbers, and a chosen candidate for each of the rows")
    wide, high, left, top = 48, 25, 76, round(0.72 * _LETTER * max(map(len, names))) + 20
    width, height = left + len(names) * wide + round(0.5 * top), top + len(probabilities) * high + 8
    parts = [f'<text class="soft" x="{left - 8}" y="{top - 8}" text-anchor="end">block</text>']
    for j, name in enumerate(names):
        x = left + (j + 0.5) * wide
        parts.append(f'<text transform="translate({x:.1f} {top - 8}) rotate(-45)">{clean(name)}</text>')
    frames = []
    for i, row in enumerate(probabilities):
        y = top + i * high
        parts.append(f'<text x="{left - 8}" y="{y + high / 2 + 4:g}" text-anchor="end">{i}</text>')
        for j, p in enumerate(row):
            picked = chosen is not None and chosen[i] == j
            words = f"block {i}, {names[j]}{', in the found network' if picked else ''}"
            parts.append(_candidate((left + j * wide, y), (wide, high), words, p, removed.get((i, j))))
            if picked:
                inner = f'x="{left + j * wide + 1.5}" y="{y + 1.5}" width="{wide - 3}" height="{high - 3}"'
                frames.append(f'<rect class="picked" {inner}/>')
    about = f"Probability of {len(names)} candidates in {len(probabilities)} blocks"
    return (
        f'<svg class="chart" style="max-width:{width}px" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{about}">{"".join(parts)}{"".join(frames)}</svg>'
    )


def _candidate(at: tuple[int, int], size: tuple[int, int], name: str, p: float, removed: int | None) -> str:
    box = f'x="{at[0]}" y="{at[1]}" width="{size[0]}" height="{size[1]}"'
    where = f'x="{at[0] + size[0] / 2:g}" y="{at[1] + size[1] / 2 + 4:g}" text-anchor="middle"'
    fill = shown = ""
    if removed is not None:
        words, shown = f"removed after epoch {removed}", f'<text class="soft" {where}>×{removed}</text>'
    else:
        words, strength = percent(p, 2), math.sqrt(min(max(p, 0.0), 1.0))
        fill = f'<rect class="fill" fill-opacity="{strength:.3f}" {box}/>'
        if p >= 0.005:
            shade = ' class="on"' if strength > 0.62 else ""
            shown = f"<text{shade} {where}>{100 * p:.0f}</text>"
    return f'<g><title>{clean(name)}: {clean(words)}</title>{fill}<rect class="cell" {box}/>{shown}</g>'
