"""Charts of things that change together, as inline SVG: several lines over the epochs, and probabilities as stacked bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .charts import RIGHT, TOP, Frame, ticks
from .page import clean, number
from .plots import legend


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """x rising; points that are not finite are left out."""
    look: str = "blue"
    """CSS classes: a colour (blue, orange, grey), with `dashed` or a strength o1 (faint) to o4."""

    @property
    def finite(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if math.isfinite(y)]


def lines(
    drawn: Sequence[Line],
    x_name: str,
    y_name: str,
    unit: str = "",
    *,
    begin: tuple[str, float] | None = None,
    level: tuple[str, float] | None = None,
    covers: Sequence[float] = (),
) -> str:
    """Lines over whole numbers x. `begin` (name, x) is drawn upright, `level` (name, y) across.

    The vertical axis covers `covers` too, so that charts can have the same. Empty when no point is finite.
    """
    drawn = [line for line in drawn if line.finite]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.finite]
    values = [y for line in drawn for _, y in line.finite] + [y for y in covers if math.isfinite(y)]
    values += [level[1]] if level else []
    low, high = min(values), max(values)
    ys = ticks(0 if 0 < low < 0.4 * high else low, high)
    keys, rows = legend([(line.name, f"curve {line.look}") for line in drawn], 460)
    first, last = min(xs), max(xs)
    span = (first - 0.5, last + 0.5) if first == last else (first, last)
    frame = Frame(460, 290 + 18 * (rows - 1), span, ys, top=TOP - 8 + 18 * (rows - 1))
    marks = [x for x in ticks(first, last, 6) if x == int(x) and first <= x <= last]
    parts = [*frame.axes(marks, x_name, y_name), *keys]
    if begin is not None and first < begin[1] < last:
        at = frame.x(begin[1])
        parts.append(f'<path class="mark" d="M{at:.1f} {frame.y(ys[-1]):.1f}V{frame.y(ys[0]):.1f}"/>')
        end, off = (' text-anchor="end"', -6) if at > frame.width / 2 else ("", 6)
        parts.append(f'<text class="name" x="{at + off:.1f}" y="{frame.y(ys[-1]) + 12:.1f}"{end}>{clean(begin[0])}</text>')
    if level is not None:
        y = frame.y(level[1])
        parts.append(f'<path class="mark" d="M{frame.left} {y:.1f}H{frame.width - RIGHT}"/>')
        parts.append(f'<text class="name" x="{frame.left + 6}" y="{y - 6:.1f}">{clean(level[0])}</text>')
    for line in drawn:
        parts.append(_line(line, frame, x_name, unit))
    said = ", ".join(f"{line.name}: {_shown(line.finite[-1][1], unit)}" for line in drawn)
    return frame.svg(f"{y_name} by {x_name}. At the end {said}", parts)


def _line(line: Line, frame: Frame, x_name: str, unit: str) -> str:
    points = line.finite
    path = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)
    path += f"L{frame.x(points[0][0]):.1f} {frame.y(points[0][1]):.1f}" if len(points) == 1 else ""
    (x0, y0), (x1, y1) = points[0], points[-1]
    words = f"{line.name}: {_shown(y0, unit)} at {x_name} {x0:g}, {_shown(y1, unit)} at {x1:g}"
    dot = f'<circle class="curve {line.look}" r="2.2" cx="{frame.x(x1):.1f}" cy="{frame.y(y1):.1f}"/>'
    return f'<g><title>{clean(words)}</title><path class="curve {line.look}" d="M{path}"/>{dot}</g>'


def _shown(value: float, unit: str) -> str:
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return number(value, min(digits, 6), unit)


# Bands


@dataclass(frozen=True)
class Choice:
    """One of the things whose probabilities are stacked."""

    name: str
    fill: str
    """SVG attributes of its area."""


@dataclass(frozen=True)
class Bands:
    """Probabilities of one kind of choice at one scale, over the epochs."""

    title: str
    choices: Sequence[Choice]
    rows: Mapping[int, Sequence[Sequence[float]]]
    """Layer -> probabilities (epochs, choices); each epoch's sum to 1."""


_GAP, _LABELS, _ROW, _BAR = 12, 46, 25, 20
_TOP, _BOTTOM, _WIDTH = 42, 26, 1100


def bands(panels: Sequence[Bands], epochs: Sequence[int], row_name: str = "layer") -> str:
    """Panels beside each other, their layers in line; in each row the probabilities of a layer's choices over the epochs.

    Raises ValueError when a row does not have a value for each of `epochs` and of its choices.
    """
    for panel in panels:
        for layer, row in panel.rows.items():
            if len(row) != len(epochs) or any(len(p) != len(panel.choices) for p in row):
                raise ValueError(f"{panel.title}, {row_name} {layer}: needs {len(epochs)} rows of {len(panel.choices)} numbers")
    layers = sorted({layer for panel in panels for layer in panel.rows})
    if not layers or not epochs:
        return ""
    keys, key_rows = _keys(panels)
    top = _TOP + 20 * key_rows
    height = top + _ROW * len(layers) + _BOTTOM
    wide = (_WIDTH - _LABELS - _GAP * (len(panels) - 1)) / len(panels)
    parts = [*keys, f'<text class="soft" x="{_LABELS - 8}" y="{top - 8}" text-anchor="end">{clean(row_name)}</text>']
    for i, layer in enumerate(layers):
        parts.append(f'<text x="{_LABELS - 8}" y="{top + _ROW * i + _BAR / 2 + 4:g}" text-anchor="end">{layer}</text>')
    for k, panel in enumerate(panels):
        left = _LABELS + k * (wide + _GAP)
        parts.append(f'<text x="{left:.1f}" y="{top - 8}">{clean(panel.title)}</text>')
        for layer, row in panel.rows.items():
            y = top + _ROW * layers.index(layer)
            parts += _stack(panel, layer, row, (left, y, wide), row_name)
        y = top + _ROW * len(layers) + 12
        ends = [(left, "", epochs[0])] + ([(left + wide, ' text-anchor="end"', epochs[-1])] if len(epochs) > 1 else [])
        parts += [
            f'<text class="soft" x="{x:.1f}" y="{y}"{anchor}>{"epoch " if not anchor else ""}{e}</text>'
            for x, anchor, e in ends
        ]
    about = f"Probabilities over epochs {epochs[0]} to {epochs[-1]}: {', '.join(p.title for p in panels)}"
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{clean(about)}">{"".join(parts)}</svg>'


def _stack(
    panel: Bands, layer: int, row: Sequence[Sequence[float]], place: tuple[float, float, float], row_name: str
) -> list[str]:
    """The areas of one row, each choice's on top of those before it."""
    left, y, wide = place
    steps = list(row) if len(row) > 1 else [row[0], row[0]]
    xs = [left + wide * i / (len(steps) - 1) for i in range(len(steps))]
    floor = [0.0] * len(steps)
    parts = []
    for j, choice in enumerate(panel.choices):
        roof = [f + p[j] for f, p in zip(floor, steps, strict=True)]
        there = [f"{x:.1f} {y + _BAR * (1 - r):.1f}" for x, r in zip(xs, roof, strict=True)]
        back = [f"{x:.1f} {y + _BAR * (1 - f):.1f}" for x, f in zip(reversed(xs), reversed(floor), strict=True)]
        words = (
            f"{panel.title}, {row_name} {layer}: {choice.name} {100 * row[0][j]:.1f} % at first, {100 * row[-1][j]:.1f} % last"
        )
        parts.append(f'<path {choice.fill} d="M{"L".join([*there, *back])}Z"><title>{clean(words)}</title></path>')
        floor = roof
    parts.append(f'<rect class="cell" x="{left:.1f}" y="{y}" width="{wide:.1f}" height="{_BAR}"/>')
    return parts


def _keys(panels: Sequence[Bands]) -> tuple[list[str], int]:
    """What the areas stand for, each kind of choice in a line of its own, and how many lines these are."""
    kinds = list(dict.fromkeys(tuple(panel.choices) for panel in panels))
    parts = []
    for i, choices in enumerate(kinds):
        x, y = float(_LABELS), 14 + 20 * i
        for choice in choices:
            swatch = f'<rect {choice.fill} x="{x:.1f}" y="{y - 10}" width="16" height="12"/>'
            frame = f'<rect class="cell" x="{x:.1f}" y="{y - 10}" width="16" height="12"/>'
            parts.append(f'{swatch}{frame}<text x="{x + 22:.1f}" y="{y}">{clean(choice.name)}</text>')
            x += 40 + 6.6 * len(choice.name)
    return parts, len(kinds)
