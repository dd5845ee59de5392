"""Charts of a report as inline SVG, drawn by hand: line, histogram, heat map. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .report_page import clean, number, percent

_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 44, 44


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, evenly spaced, from at most `low` to at least `high`."""
    span = high - low if high > low else abs(high) or 1.0
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def line_chart(
    points: Sequence[tuple[float, float]], x_name: str, y_name: str, marks: Sequence[tuple[str, int]], unit: str = ""
) -> str:
    """One line through `points` (x whole numbers, rising). `marks` are (name, index of the point), the first filled.

    Points that are not finite are left out.
    """
    finite = [p for p in points if math.isfinite(p[1])]
    if not finite:
        return ""
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    ys = ticks(0 if 0 < low < 0.4 * high else low, high)
    first, last = finite[0][0], finite[-1][0]
    frame = _Frame(460, 290, (first - 0.5, last + 0.5) if first == last else (first, last), (ys[0], ys[-1]))
    xs = [x for x in ticks(first, last, 6) if x == int(x) and first <= x <= last]
    parts = [*frame.axes(xs, ys, x_name, y_name)]
    path = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in finite)
    parts.append(f'<path class="line" d="M{path}"/>')
    digits = _digits(ys) + 2
    at = 0.0
    for i, (name, index) in enumerate(marks):
        x, y = points[index]
        words = f"{name} {x_name} {x:g}: {number(y, digits, unit)}"
        dot = f'class="{"ring" if i else "best"}" r="{4.5 if i else 5}"'
        if math.isfinite(y):
            parts.append(f'<circle {dot} cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}"/>')
        parts.append(
            f'<circle {dot} cx="{_LEFT + at + 5:.1f}" cy="14"/><text x="{_LEFT + at + 16:.1f}" y="18">{clean(words)}</text>'
        )
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
    frame = _Frame(460, 290, (edges[0], edges[-1]), (0, ys[-1]), top=66)
    xs = [x for x in ticks(edges[0], edges[-1], 6) if edges[0] - width / 2 < x < edges[-1] + width / 2]
    parts = [*frame.axes(xs, ys, f"{x_name}, {unit}", "frames")]
    digits = _digits(edges)
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


class _Frame:
    """The plot area: from data to pixels, and the axes."""

    def __init__(
        self, width: int, height: int, x_range: tuple[float, float], y_range: tuple[float, float], top: int = _TOP
    ) -> None:
        self.width, self.height, self._top = width, height, top
        self._x_range, self._y_range = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self._x_range
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y_range
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _BOTTOM - self._top)

    def axes(self, xs: Sequence[float], ys: Sequence[float], x_name: str, y_name: str) -> list[str]:
        floor, right = self.height - _BOTTOM, self.width - _RIGHT
        x_digits, y_digits = _digits(xs), _digits(ys)
        parts = []
        for y in ys:
            parts.append(f'<path class="grid" d="M{_LEFT} {self.y(y):.1f}H{right}"/>')
            parts.append(
                f'<text class="soft" x="{_LEFT - 8}" y="{self.y(y) + 4:.1f}" text-anchor="end">{number(y, y_digits)}</text>'
            )
        for x in xs:
            parts.append(f'<path class="axis" d="M{self.x(x):.1f} {floor}v4"/>')
            parts.append(
                f'<text class="soft" x="{self.x(x):.1f}" y="{floor + 18}" text-anchor="middle">{number(x, x_digits)}</text>'
            )
        parts.append(f'<path class="axis" d="M{_LEFT} {floor}H{right}"/>')
        parts.append(
            f'<text class="soft" x="{(_LEFT + right) / 2:.1f}" y="{floor + 37}" text-anchor="middle">{clean(x_name)}</text>'
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


def _digits(values: Sequence[float]) -> int:
    """Decimals that tell neighbouring ticks apart."""
    if len(values) < 2:
        return 0
    return max(0, -math.floor(math.log10(abs(values[1] - values[0])) + 1e-9))
