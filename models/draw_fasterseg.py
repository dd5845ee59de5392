"""FasterSeg as a picture: cells over the rates 1/8, 1/16 and 1/32, coloured by operator, as in the paper's Figure 6.

Beyond that figure stem, aggregation and head are drawn too, with the width of every map and every part's share of the MACs. A
row belongs to one branch at one rate. A branch goes down where a cell halves its map and comes up again in the aggregation,
where each step takes in the branch's last map at the finer rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from edgesmith.models.arch import Cell, FasterSeg, Segmentation
from edgesmith.models.cost import convolutions
from edgesmith.models.svg import HALVES, MARGIN, PLAIN_HUE, SKIP, WIDTH, arrow, clean, legend, page, text
from edgesmith.models.trace import Conv

_LEFT, _TOP, _ROW = 92, 126, 84
_HALF = 21
"""Half the height of the widest box; a tap runs above it, over the number."""
_TAP = 38
_WIDEST_COLUMN = 56.0
_BOX = 0.72
"""Width of a box, in columns."""
_STEM, _GAP, _STEP, _HEAD = 0.74, 0.5, 2.6, 3.5
"""In columns: a convolution of the stem, the space behind stem and cells, a step of the aggregation, the head."""
_WORDS = 92
"""Space for what is said behind the head."""

_BLUE, _ORANGE = "#3d7fc9", "#e0941a"
_LOOKS = {
    "skip": (SKIP, "skip: 1x1 conv"),
    "conv": (f'fill="{_BLUE}" fill-opacity=".45" stroke="{_BLUE}"', "conv 3x3"),
    "conv_x2": (f'fill="{_BLUE}" stroke="{_BLUE}"', "conv 3x3, twice"),
    "zoomed_conv": (f'fill="{_ORANGE}" fill-opacity=".45" stroke="{_ORANGE}"', "zoomed conv"),
    "zoomed_conv_x2": (f'fill="{_ORANGE}" stroke="{_ORANGE}"', "zoomed conv, twice"),
}
"""Operator -> how its cells are filled, and what the legend calls it. Both colours are readable on white and on black."""
_PLAIN = f'fill="{PLAIN_HUE}" fill-opacity=".36" stroke="{PLAIN_HUE}"'

Point = tuple[float, float]


def draw(arch: FasterSeg, task: Segmentation, input_hw: tuple[int, int], caption: str) -> str:
    """The network as an SVG, for an input of `input_hw` = (H, W) pixels; `caption` stands below its name."""
    drawing = _Drawing(arch, list(convolutions(arch, task, input_hw)))
    forks, lasts = drawing.cells(drawing.stem())
    drawing.head([drawing.aggregation(b, forks[b], lasts[b]) for b in range(len(arch.branches))], task.classes, input_hw)
    cells = " and ".join(f"{len(b)} cells to 1/{s}" for b, s in zip(arch.branches, arch.last_scales, strict=True))
    parts = [*legend(_swatches(arch), 80), *drawing.rates(), *drawing.lines, *drawing.crossings, *drawing.boxes]
    hint = "above: channels; below: % of the MACs"
    parts.append(text(WIDTH - MARGIN, 54, hint, "text-anchor:end", "soft"))
    height = _TOP + _ROW * len(drawing.rows) + 10
    return page(arch.name, caption, f"{arch.name}, {cells}; {caption}", height, parts)


class _Drawing:
    """What has been drawn, and where things belong. Columns go along the network, a row is one branch at one rate."""

    def __init__(self, arch: FasterSeg, convs: list[Conv]) -> None:
        self.arch = arch
        self.convs = {c.name: c for c in convs}
        self.macs = sum(c.macs for c in convs)
        self.widest = max(c.cout for c in convs)
        self.depths = [s.bit_length() - 4 for s in arch.last_scales]  # 1/8 is 0
        # From fine to coarse; of two branches at one rate the shallower lies above.
        self.rows = [
            (s, b) for s in range(max(self.depths) + 1) for b in (1, 0) if b < len(self.depths) and self.depths[b] >= s
        ]
        self.cells_at = 5 * _STEM + _GAP
        self.steps_at = self.cells_at + max(map(len, arch.branches)) + _GAP
        self.tail_at = self.steps_at + _STEP * max(self.depths)
        self.unit = min(_WIDEST_COLUMN, (WIDTH - _LEFT - MARGIN - _WORDS) / (self.tail_at + _HEAD))
        self.lines: list[str] = []
        self.crossings: list[str] = []
        self.boxes: list[str] = []

    def stem(self) -> Point:
        """The stem's convolutions; where their output leaves."""
        at: Point = (_LEFT, self.between(0))
        for i in range(5):
            conv = self.convs[f"stem.{i}"]
            at = self.box(_STEM * (i + 0.5), at[1], conv.name, f"stem {i}", at, halves=conv.stride == 2, columns=_STEM)
        self.boxes.append(text(self.x(_STEM * 2.5), self.between(0) - 48, "stem", "text-anchor:middle", "soft"))
        return at

    def cells(self, at: Point) -> tuple[list[list[Point]], list[Point]]:
        """Every branch's cells. Of each branch: where its last maps at the finer rates are taken, and where its output is."""
        taps, scale = [], 0
        for i, cell in enumerate(self.arch.branches[0][: self.arch.shared]):
            taps += [(self.x(self.cells_at + i) + 4, at[1])] if cell.stride == 2 else []
            at = self.cell(i, f"shared.{i}", "shared, ", cell, at, self.between(scale))
            scale += cell.stride == 2
        found = [self.branch(b, scale, at) for b in range(len(self.arch.branches))]
        return [[*taps, *more] for more, _ in found], [last for _, last in found]

    def branch(self, branch: int, scale: int, at: Point) -> tuple[list[Point], Point]:
        """A branch's own cells, which begin at `scale`."""
        taps, about = [], f"branch to 1/{self.arch.last_scales[branch]}, "
        for i, cell in list(enumerate(self.arch.branches[branch]))[self.arch.shared :]:
            y = self.row_y(scale, branch)
            taps += [(self.x(self.cells_at + i) + 4, y)] if cell.stride == 2 else []
            at = self.cell(i, f"branches.{branch}.{i - self.arch.shared}", about, cell, at, y)
            scale += cell.stride == 2
        return taps, at

    def cell(self, index: int, name: str, about: str, cell: Cell, at: Point, y: float) -> Point:
        look, operator = _LOOKS[cell.op]
        twice = cell.op.endswith("_x2")
        words = f"{about}cell {index}: {operator}"
        column = self.cells_at + index + 0.5
        return self.box(column, y, name, words, at, look=look, twice=twice, halves=cell.stride == 2)

    def aggregation(self, branch: int, taps: list[Point], at: Point) -> Point:
        """The way up from a branch's output at `at` to 1/8; where it ends."""
        for step, (scale, tap) in enumerate(reversed(list(enumerate(taps)))):
            column, name = self.steps_at + _STEP * (max(self.depths) - 1 - scale), f"aggregation.{branch}.{step}"
            at = self.box(column + 0.5, self.row_y(scale + 1, branch), f"{name}.reduce", "reduced", at, label="1x1")
            y, middle = self.row_y(scale, branch), column + 2.0
            left = self.x(middle - _BOX / 2)
            meet = left - 11 - 9 * branch  # the branches' lines beside each other
            self.line(tap, (tap[0], y - _TAP), (meet, y - _TAP), (meet, y))
            self.line(at, (meet, at[1]), (meet, y), (left - 5, y))
            self.boxes += [_dot(tap), _dot((meet, y)), arrow(left, y, "right")]
            at = self.box(middle, y, f"{name}.refine", f"refined with the last map at 1/{8 << scale}", None, label="3x3")
        return at

    def head(self, ends: list[Point], classes: int, input_hw: tuple[int, int]) -> None:
        y = self.between(0)
        bend = self.x(self.tail_at + 0.5) - 2
        for end in ends[1:]:
            self.line(end, (bend, end[1]), (bend, y))
        at = self.box(self.tail_at + 1.0, y, "fuse", "branches fused", ends[0], label="1x1")
        at = self.box(self.tail_at + 2.0, y, "head.conv", "head", at, label="3x3")
        at = self.box(self.tail_at + 3.0, y, "head.classifier", "classifier", at, label="1x1")
        x, low = at[0] + 20, self.convs["head.classifier"].out_hw
        self.line(at, (x - 9, y))
        self.boxes.append(arrow(x - 4, y, "right"))
        logits = "1 logit" if classes == 1 else f"{classes} logits"
        for i, words in enumerate((logits, f"at {low[0]}x{low[1]},", "enlarged to", f"{input_hw[0]}x{input_hw[1]}")):
            self.boxes.append(text(x, y - 20 + 15 * i, words))

    def rates(self) -> Iterator[str]:
        """What the rows stand for."""
        deepest = self.depths[0]
        sizes = [self.convs["stem.4"].out_hw]
        sizes += [self.convs[f"aggregation.0.{deepest - 1 - scale}.refine"].in_hw for scale in range(1, deepest)]
        sizes += [self.convs["aggregation.0.0.reduce"].in_hw] if deepest else []
        for scale, hw in enumerate(sizes):
            y = self.between(scale)
            yield text(20, y, f"1/{8 << scale}", "font-weight:600;font-size:13px")
            yield text(20, y + 15, f"{hw[0]}x{hw[1]}", "", "soft")
            if scale:
                top = min(self.row_y(s, b) for s, b in self.rows if s == scale) - _ROW / 2
                yield f'<path class="net-rule" d="M20 {top:.1f}H{WIDTH - MARGIN}"/>'

    def box(
        self,
        column: float,
        y: float,
        name: str,
        about: str,
        source: Point | None,
        *,
        look: str = _PLAIN,
        label: str = "",
        twice: bool = False,
        halves: bool = False,
        columns: float = 1.0,
    ) -> Point:
        """The part of the convolutions below `name`, around (column, y), with a line from `source`; where its output leaves."""
        own = [c for n, c in self.convs.items() if n == name or n.startswith(f"{name}.")]
        beside = ".parts." in own[-1].name  # two convolutions beside each other, where others stand behind each other
        cout, macs = sum(c.cout for c in own) if beside else own[-1].cout, sum(c.macs for c in own)
        x, half = self.x(column), max(6.0, _HALF * math.sqrt(cout / self.widest))
        left, right = x - columns * _BOX * self.unit / 2, x + columns * _BOX * self.unit / 2
        if source is not None:
            bend = left - (1 - _BOX) * self.unit / 2 - 2  # a tap at the same place lies to its right
            self.line(source, *([] if source[1] == y else [(bend, source[1]), (bend, y)]), (left, y))
        words = f"{about}{', stride 2' if halves else ''}, {own[0].cin} to {cout} channels"
        words += f", convolves to {own[-1].out_hw[0]}x{own[-1].out_hw[1]}, {macs / 1e6:.1f} M MACs"
        place = f'x="{left:.1f}" y="{y - half:.1f}" width="{right - left:.1f}" height="{2 * half:.1f}" rx="2"'
        shape = f'<rect class="net-paper" {place}/><rect {place} {look}/>'
        if twice:
            shape += f'<path class="net-hatch" stroke-width="1.6" d="M{x:.1f} {y - half:.1f}V{y + half:.1f}"/>'
        if halves:
            shape += f'<rect class="net-mark" {place} stroke-width="2.2"/>'
        self.boxes += [
            f"<g><title>{clean(words)}</title>{shape}</g>",
            text(x, y - half - 5, str(cout), "text-anchor:middle"),
            text(x, y + half + 13, f"{100 * macs / self.macs:.1f}", "text-anchor:middle;font-size:10.5px", "soft"),
        ]
        if label:
            self.boxes.append(text(x, y + 3.5, label, "text-anchor:middle;font-size:9.5px"))
        return right, y

    def line(self, *points: Point) -> None:
        """A line through `points`. Where it runs up or down it crosses over others, which leave a gap for it."""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.lines.append(f'<path class="net-tap" d="{path}"/>')
        for (x, y), (_, end) in ((a, b) for a, b in pairwise(points) if a[0] == b[0]):
            low, high = min(y, end) + 5, max(y, end) - 5  # what it meets at its ends is no crossing
            if low < high:
                self.crossings += [f'<path class="net-{k}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>' for k in ("halo", "tap")]

    def x(self, column: float) -> float:
        return _LEFT + self.unit * column

    def row_y(self, scale: int, branch: int) -> float:
        return _TOP + _ROW * (self.rows.index((scale, branch)) + 0.5)

    def between(self, scale: int) -> float:
        """The middle of a rate's rows: where branches run as one."""
        found = [self.row_y(s, b) for s, b in self.rows if s == scale]
        return sum(found) / len(found)


def _dot(at: Point) -> str:
    return f'<circle class="net-head" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="2.6"/>'


def _swatches(arch: FasterSeg) -> Iterator[tuple[str, str]]:
    """The operators that occur, then what the other marks stand for."""
    cells = [c for b in arch.branches for c in b]
    for op, (look, words) in _LOOKS.items():
        if any(c.op == op for c in cells):
            mark = '<path class="net-hatch" stroke-width="1.6" d="M8 0V12"/>' if op.endswith("_x2") else ""
            yield f'<rect width="16" height="12" rx="2" {look}/>{mark}', words
    yield f'<rect width="16" height="12" rx="2" {_PLAIN}/>', "stem, aggregation, head"
    yield HALVES
