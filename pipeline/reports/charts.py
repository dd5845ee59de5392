"""Charts of a report as inline SVG, drawn by hand: line, histogram, heat map. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .page import clean, number, percent

LEFT, RIGHT, TOP, BOTTOM = 54, 14, 44, 44
"""Margins of a plot area; the left one is wider where numbers are long."""


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, evenly spaced, from at most `low` to at least `high`."""
    span = high - low if high > low else abs(high) or 1.0
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def line_chart(
    points: Sequence[tuple[float, float]],
    x_name: str,
    y_name: str,
    marks: Sequence[tuple[str, int]],
    unit: str = "",
    level: tuple[str, float] | None = None,
) -> str:
    """One line through `points` (x whole numbers, rising). `marks` are (name, index of the point), the first filled.

    `level` is a value (name, y) that is drawn across. Points that are not finite are left out.
    """
    finite = [p for p in points if math.isfinite(p[1])]
    if not finite:
        return ""
    values = [y for _, y in finite] + ([level[1]] if level else [])
    low, high = min(values), max(values)
    ys = ticks(0 if 0 < low < 0.4 * high else low, high)
    first, last = finite[0][0], finite[-1][0]
    frame = Frame(460, 290, (first - 0.5, last + 0.5) if first == last else (first, last), ys)
    xs = [x for x in ticks(first, last, 6) if x == int(x) and first <= x <= last]
    parts = [*frame.axes(xs, x_name, y_name)]
    path = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in finite)
    parts.append(f'<path class="line" d="M{path}"/>')
    digits = decimals(ys) + 2
    if level is not None:
        y = frame.y(level[1])
        parts.append(f'<path class="mark" d="M{frame.left} {y:.1f}H{frame.width - RIGHT}"/>')
        words = f"{level[0]} {number(level[1], digits, unit)}"
        parts.append(
            f'<text class="name" x="{frame.width - RIGHT - 4}" y="{y - 6:.1f}" text-anchor="end">{clean(words)}</text>'
        )
    at = 0.0
    for i, (name, index) in enumerate(marks):
        x, y = points[index]
        words = f"{name} {x_name} {x:g}: {number(y, digits, unit)}"
        dot = f'class="{"ring" if i else "best"}" r="{4.5 if i else 5}"'
        if math.isfinite(y):
            parts.append(f'<circle {dot} cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}"/>')
        left = frame.left + at
        parts.append(f'<circle {dot} cx="{left + 5:.1f}" cy="14"/><text x="{left + 16:.1f}" y="18">{clean(words)}</text>')
        at += 34 + 6.6 * len(words)
    said = ", ".join(f"{name} {x_name} {points[i][0]:g}: {number(points[i][1], digits, unit)}" for name, i in marks)
    return frame.svg(f"{y_name} by {x_name}. {said}", parts)


def histogram(samples: Sequence[float], marks: Sequence[tuple[str, float]], x_name: str, unit: str) -> str:
    """How often each range of values occurs, with vertical marks (name, value)."""
    samples = [s for s in samples if math.isfinite(s)]
    if not samples:
        return ""
    low, high = min(samples), max(samples)
    edges = ticks(low, high, 24)
    width = edges[1] - edges[0]
    counts = [0] * (len(edges) - 1)
    for s in samples:
        counts[min(max(int((s - edges[0]) / width + 1e-9), 0), len(counts) - 1)] += 1
    ys = [y for y in ticks(0, max(counts), 4) if y == int(y)]
    frame = Frame(460, 290, (edges[0], edges[-1]), ys, top=66)
    xs = [x for x in ticks(edges[0], edges[-1], 6) if edges[0] - width / 2 < x < edges[-1] + width / 2]
    parts = [*frame.axes(xs, f"{x_name}, {unit}", "frames")]
    digits = decimals(edges)
    for start, count in zip(edges, counts, strict=False):
        if count:
            x0, x1, y = frame.x(start), frame.x(start + width), frame.y(count)
            words = f"{number(start, digits)} to {number(start + width, digits, unit)}: {count} frames"
            box = f'x="{x0 + 0.5:.1f}" y="{y:.1f}" width="{max(x1 - x0 - 1, 1):.1f}" height="{frame.y(0) - y:.1f}"'
            parts.append(f'<rect class="fill" {box}><title>{clean(words)}</title></rect>')
    for row, (name, value) in enumerate(marks):
        x, y = frame.x(min(max(value, edges[0]), edges[-1])), 14 + 17 * row
        parts.append(f'<path class="mark" d="M{x:.1f} {y - 9}V{frame.y(0):.1f}"/>')
        right = x > frame.width * 0.7
        where = f'x="{x - 6:.1f}" text-anchor="end"' if right else f'x="{x + 6:.1f}"'
        parts.append(f'<text {where} y="{y}">{clean(name)} {number(value, 2, unit)}</text>')
    said = ", ".join(f"{name} {number(value, 2, unit)}" for name, value in marks)
    return frame.svg(f"Distribution of {x_name} over {len(samples)} frames: {said}", parts)


def heat_map(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """A confusion matrix, each row shown as shares of its sum. Rows are the truth, columns the prediction.

    What is right is cool, what is wrong warm, and strength grows with the square root, so that few wrong pixels show too.
    """
    n = len(names)
    if any(len(row) != n for row in counts) or len(counts) != n:
        raise ValueError(f"confusion: needs {n} rows of {n} numbers")
    cell = 46 if n <= 12 else 34 if n <= 20 else 16
    short = [name if len(name) <= 16 else f"{name[:15]}…" for name in names]
    longest = round(6.9 * max(map(len, short)))
    left, top = max(96, longest + 18), max(44, round(longest * 0.72) + 26)
    width, height = left + n * cell + round(0.5 * top), top + n * cell + 6
    corner = f'class="soft" x="{left - 8}" text-anchor="end"'
    parts = [f'<text {corner} y="{top - 26}">prediction →</text>', f'<text {corner} y="{top - 8}">truth ↓</text>']
    for i, name in enumerate(short):
        y, x = top + i * cell + cell / 2 + 4, left + i * cell + cell / 2
        parts.append(f'<text x="{left - 8}" y="{y:.1f}" text-anchor="end">{clean(name)}</text>')
        parts.append(f'<text transform="translate({x:.1f} {top - 8}) rotate(-45)">{clean(name)}</text>')
    for t, row in enumerate(counts):
        total = sum(row)
        for p, count in enumerate(row):
            parts.append(_heat_cell((left + p * cell, top + t * cell), cell, (names[t], names[p]), t == p, count, total))
    about = f"Confusion matrix of {n} classes, rows are the truth, columns the prediction"
    return (
        f'<svg class="chart" style="max-width:{width}px" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{about}">{"".join(parts)}</svg>'
    )


def _heat_cell(at: tuple[int, int], cell: int, names: tuple[str, str], right: bool, count: int, total: int) -> str:
    x, y = at
    frame = f'<rect class="cell" x="{x}" y="{y}" width="{cell}" height="{cell}"/>'
    if not total:
        return frame
    share = count / total
    strength = math.sqrt(share)
    words = f"truth {names[0]}, prediction {names[1]}: {percent(share, 2)} of {number(total, 0)} pixels"
    kind, where = "good" if right else "miss", f'x="{x}" y="{y}" width="{cell}" height="{cell}"'
    fill = f'<rect class="{kind}" fill-opacity="{strength:.3f}" {where}/>'
    shown = ""
    if cell >= 30 and share >= 0.005:
        shade = ' class="on"' if strength > 0.62 else ""
        shown = f'<text{shade} x="{x + cell / 2:g}" y="{y + cell / 2 + 4:g}" text-anchor="middle">{100 * share:.0f}</text>'
    return f"<g><title>{clean(words)}</title>{fill if count else ''}{frame}{shown}</g>"


class Frame:
    """The plot area: from data to pixels, and the axes."""

    def __init__(self, width: int, height: int, x_range: tuple[float, float], ys: Sequence[float], top: int = TOP) -> None:
        self.width, self.height, self._top = width, height, top
        self._x_range, self._ys = x_range, ys
        longest = max(len(number(y, decimals(ys))) for y in ys)
        self.left = max(LEFT, round(32 + 6.9 * longest))

    def x(self, value: float) -> float:
        low, high = self._x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - RIGHT)

    def y(self, value: float) -> float:
        low, high = self._ys[0], self._ys[-1]
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - BOTTOM - self._top)

    def axes(self, xs: Sequence[float], x_name: str, y_name: str) -> list[str]:
        floor, right = self.height - BOTTOM, self.width - RIGHT
        x_digits, y_digits = decimals(xs), decimals(self._ys)
        parts = []
        for y in self._ys:
            parts.append(f'<path class="grid" d="M{self.left} {self.y(y):.1f}H{right}"/>')
            parts.append(
                f'<text class="soft" x="{self.left - 8}" y="{self.y(y) + 4:.1f}" text-anchor="end">{number(y, y_digits)}</text>'
            )
        for x in xs:
            parts.append(f'<path class="axis" d="M{self.x(x):.1f} {floor}v4"/>')
            shown = number(x, x_digits)
            at = min(self.x(x), self.width - 3.6 * len(shown))  # so that the last one is not cut off
            parts.append(f'<text class="soft" x="{at:.1f}" y="{floor + 18}" text-anchor="middle">{shown}</text>')
        parts.append(f'<path class="axis" d="M{self.left} {floor}H{right}"/>')
        parts.append(
            f'<text class="soft" x="{(self.left + right) / 2:.1f}" y="{floor + 37}" text-anchor="middle">{clean(x_name)}</text>'
        )
        middle = (self._top + floor) / 2
        parts.append(
            f'<text class="soft" transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">{clean(y_name)}</text>'
        )
        return parts

    def svg(self, about: str, parts: Sequence[str]) -> str:
        return (
            f'<svg class="chart" style="max-width:{round(self.width * 1.25)}px" viewBox="0 0 {self.width} {self.height}" '
            f'role="img" aria-label="{clean(about)}">{"".join(parts)}</svg>'
        )


def decimals(values: Sequence[float]) -> int:
    """Decimals that tell neighbouring ticks apart."""
    if len(values) < 2:
        return 0
    return max(0, -math.floor(math.log10(abs(values[1] - values[0])) + 1e-9))
