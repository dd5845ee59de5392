"""SqueezeNAS as a picture: its blocks in a row, coloured by operator, as in Figures 8 and 9 of the paper.

The outline of a block is what it does to the width: it enters at its input width, bulges to the inner width of the expansion
and leaves at its output width. Below each block stand its settings and its share of the MACs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from edgesmith.models.arch import InvertedResidual, Segmentation, SqueezeNas
from edgesmith.models.cost import convolutions
from edgesmith.models.svg import HALVES, MARGIN, PLAIN_HUE, SKIP, WIDTH, arrow, clean, legend, page, text
from edgesmith.models.trace import Conv

HEIGHT = 536
_LEFT = 84
_DECODER_COLUMNS = 2.4
_BAND_Y, _TAP_Y, _AXIS_Y, _HALF = 128, 156, 250, 84
_ROWS_Y, _ROW = 374, 16
_BARS_Y, _BAR = 508, 44
_ROWS = ("kernel", "dilation", "expansion", "groups", "width")

_HUES = {(3, 1): "#3d7fc9", (5, 1): "#e0941a", (3, 2): "#1f9a86", (5, 2): "#9460c4", (7, 1): "#d0609c", (7, 2): "#8a8f2c"}
"""(kernel, dilation) -> colour; all are readable on white and on black."""
_OTHER_HUE = "#8d6e63"
_DECODERS = {"lraspp": "LR-ASPP", "aspp": "ASPP"}


@dataclass(frozen=True)
class Column:
    """One drawn part of the network, with what stands above and below it."""

    name: str
    block: InvertedResidual | None
    """None for stem, neck and decoder."""
    cin: int
    inner: int
    cout: int
    settings: tuple[str, ...]
    """What to write in each of _ROWS."""
    reduction: int
    """The output's size is the input's divided by this."""
    hw: tuple[int, int]
    macs: int
    columns: float = 1.0

    @property
    def halves(self) -> bool:
        return self.block is not None and self.block.stride == 2

    @property
    def hue(self) -> str:
        return PLAIN_HUE if self.block is None else _HUES.get((self.block.kernel, self.block.dilation), _OTHER_HUE)

    @property
    def skip(self) -> bool:
        return self.block is not None and self.block.op == "skip"

    @property
    def grouped(self) -> bool:
        return self.block is not None and self.block.groups > 1 and not self.skip

    @property
    def look(self) -> str:
        """Fill and outline, as attributes."""
        if self.skip:
            return SKIP
        strength = _strength(1 if self.block is None else self.block.expand)
        return f'fill="{self.hue}" fill-opacity="{strength:.2f}" stroke="{self.hue}"'

    @property
    def about(self) -> str:
        b = self.block
        size = f"{self.cin} to {self.cout} channels, output {self.hw[0]}x{self.hw[1]}, {self.macs / 1e6:.1f} M MACs"
        if b is None or b.op == "skip":
            return f"{self.name}: {'skip, ' if b else ''}{size}"
        depthwise = f"{b.kernel}x{b.kernel}, dilation {b.dilation}, expansion {b.expand}, groups {b.groups}"
        return f"{self.name}: {depthwise}{', stride 2' if b.stride == 2 else ''}, {size}"


def draw(arch: SqueezeNas, task: Segmentation, input_hw: tuple[int, int], caption: str) -> str:
    """The network as an SVG, for an input of `input_hw` = (H, W) pixels; `caption` stands below its name."""
    convs = tuple(convolutions(arch, task, input_hw))
    columns = columns_of(arch, task, convs)
    unit = (WIDTH - _LEFT - MARGIN) / sum(c.columns for c in columns)
    edges = [_LEFT + unit * sum(c.columns for c in columns[:i]) for i in range(len(columns) + 1)]
    parts = [
        *legend([*swatches(columns), ('<path class="net-tap" d="M0 6H16"/>', "to the decoder")], 80),
        text(WIDTH - MARGIN, 54, "height: channels, square-root scale", "text-anchor:end", "soft"),
        *_bands(columns, edges),
        *_outlines(columns, edges),
        *_decoder(arch, task, columns[-1], edges, input_hw),
        *_settings(columns, edges),
        *_bars(columns, edges, sum(c.macs for c in convs)),
    ]
    return page(arch.name, caption, f"{arch.name}, {len(arch.blocks)} blocks; {caption}", HEIGHT, parts)


def columns_of(arch: SqueezeNas, task: Segmentation, convs: tuple[Conv, ...]) -> list[Column]:
    """Stem, blocks, neck where there is one, decoder; `convs` are the network's convolutions at the size that is drawn."""

    def cost(prefix: str) -> int:
        return sum(c.macs for c in convs if c.name == prefix or c.name.startswith(f"{prefix}."))

    width, reduction, hw = arch.stem_width, 2, convs[0].out_hw
    columns = [Column("stem", None, 3, width, width, ("3", "", "", "", str(width)), 2, hw, cost("stem"))]
    low = (reduction, hw)
    for i, b in enumerate(arch.blocks):
        own = [c for c in convs if c.name.startswith(f"blocks.{i}.")]
        hw = own[-1].out_hw if own else hw
        reduction *= b.stride
        settings: tuple[str, ...] = (str(b.kernel), str(b.dilation), str(b.expand), str(b.groups), str(b.width))
        inner = width * b.expand
        if b.op == "skip":
            settings, inner = ("skip", "", "", "", str(b.width)), width
        columns.append(Column(f"block {i}", b, width, inner, b.width, settings, reduction, hw, cost(f"blocks.{i}")))
        width = b.width
        if i == arch.low_level_block:
            low = (reduction, hw)
    if (neck := arch.neck_width) is not None:
        columns.append(Column("neck", None, width, neck, neck, ("1", "", "", "", str(neck)), reduction, hw, cost("neck")))
        width = neck
    name, settings = _DECODERS[arch.decoder], ("", "", "", "", str(arch.decoder_width))
    columns.append(Column(name, None, width, 0, task.classes, settings, *low, cost("decoder"), _DECODER_COLUMNS))
    return columns


def swatches(columns: list[Column]) -> Iterator[tuple[str, str]]:
    """For the legend: the operators that occur, then what strength, hatching and red stand for."""
    blocks = [c.block for c in columns if c.block is not None and not c.skip]
    for kernel, dilation in sorted({(b.kernel, b.dilation) for b in blocks}):
        hue = _HUES.get((kernel, dilation), _OTHER_HUE)
        words = f"{kernel}x{kernel}" + (f" dilated by {dilation}" if dilation > 1 else "")
        yield f'<rect width="16" height="12" rx="2" fill="{hue}"/>', words
    expansions = sorted({b.expand for b in blocks})
    steps = "".join(
        f'<rect x="{i * 16 / len(expansions):.1f}" width="{16 / len(expansions):.1f}" height="12" fill="{PLAIN_HUE}" '
        f'fill-opacity="{_strength(e):.2f}"/>'
        for i, e in enumerate(expansions)
    )
    yield steps, f"expansion {', '.join(map(str, expansions))}"
    if any(b.groups > 1 for b in blocks):
        plain = f'<rect width="16" height="12" rx="2" fill="{PLAIN_HUE}"/>'
        yield f'{plain}<rect width="16" height="12" rx="2" fill="url(#net-hatch)"/>', "1x1 in groups"
    if any(c.skip for c in columns):
        yield f'<rect width="16" height="12" rx="2" {SKIP}/>', "skip"
    if any(c.halves for c in columns):
        yield HALVES


def _bands(columns: list[Column], edges: list[float]) -> Iterator[str]:
    """A bracket over all neighbours of one resolution."""
    indices = range(len(columns) - 1)
    for _, group in groupby(indices, key=lambda i: (columns[i].reduction, columns[i].hw)):
        members = list(group)
        first = columns[members[0]]
        left, right = edges[members[0]], edges[members[-1] + 1]
        middle, size = (left + right) / 2, f"{first.hw[0]}x{first.hw[1]}"
        yield f'<path class="net-rule" stroke-width="2" d="M{left + 3:.1f} {_BAND_Y}H{right - 3:.1f}"/>'
        yield text(middle, _BAND_Y - 20, f"1/{first.reduction}", "text-anchor:middle;font-weight:600")
        yield text(middle, _BAND_Y - 7, size, "text-anchor:middle;font-size:10px", "soft")
        if first.halves:
            yield f'<path class="net-mark" stroke-dasharray="2 3" d="M{left:.1f} {_BAND_Y}V{_ROWS_Y - 16}"/>'


def _outlines(columns: list[Column], edges: list[float]) -> Iterator[str]:
    """Each block as the outline of its widths."""
    drawn = columns[:-1]
    widest = max(max(c.cin, c.inner, c.cout) for c in drawn)

    def half(channels: int) -> float:
        return _HALF * math.sqrt(channels / widest)

    for c, left, right in zip(drawn, edges, edges[1:], strict=False):
        a, m, b = half(c.cin), half(c.inner), half(c.cout)
        x0, x1 = left + 1.5, right - 1.5
        flank = (x1 - x0) * 0.24
        top = f"{x0:.1f},{_AXIS_Y - a:.1f} {x0 + flank:.1f},{_AXIS_Y - m:.1f} {x1 - flank:.1f},{_AXIS_Y - m:.1f}"
        tail = f"{x1:.1f},{_AXIS_Y - b:.1f} {x1:.1f},{_AXIS_Y + b:.1f} {x1 - flank:.1f},{_AXIS_Y + m:.1f}"
        points = f'points="{top} {tail} {x0 + flank:.1f},{_AXIS_Y + m:.1f} {x0:.1f},{_AXIS_Y + a:.1f}"'
        shape = f"<polygon {points} {c.look}/>"
        if c.grouped:
            shape += f'<polygon {points} fill="url(#net-hatch)"/>'
        if c.halves:
            shape += f'<polygon class="net-mark" {points} stroke-width="2.2" stroke-linejoin="round"/>'
        yield f"<g><title>{clean(c.about)}</title>{shape}</g>"


def _decoder(
    arch: SqueezeNas, task: Segmentation, decoder: Column, edges: list[float], input_hw: tuple[int, int]
) -> Iterator[str]:
    """The decoder's box, what enters it from behind and from the side, and what leaves it."""
    left, right = edges[-2] + 12, edges[-1]
    middle, top, bottom = (left + right) / 2, _AXIS_Y - 56, _AXIS_Y + 56
    box = f'<rect class="net-box" x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{bottom - top}" rx="6"/>'
    yield f"<g><title>{clean(decoder.about)}</title>{box}</g>"
    yield f'<path class="net-tap" d="M{edges[-2]:.1f} {_AXIS_Y}H{left - 5:.1f}"/>{arrow(left, _AXIS_Y, "right")}'
    yield text(middle, top + 28, decoder.name, "text-anchor:middle;font-size:14px;font-weight:600")
    lines = (f"{task.classes} logits", f"at {decoder.hw[0]}x{decoder.hw[1]},", "enlarged to")
    for i, line in enumerate(lines):
        yield text(middle, top + 54 + 17 * i, line, "text-anchor:middle", "soft")
    yield f'<path class="net-tap" d="M{middle:.1f} {bottom}V{bottom + 13}"/>{arrow(middle, bottom + 18, "down")}'
    yield text(middle, bottom + 32, f"{input_hw[0]}x{input_hw[1]}", "text-anchor:middle")
    start = edges[arch.low_level_block + 2]  # column 0 is the stem
    yield f'<path class="net-tap" d="M{start:.1f} {_AXIS_Y}V{_TAP_Y}H{middle:.1f}V{top - 5}"/>{arrow(middle, top, "down")}'
    yield f'<circle class="net-head" cx="{start:.1f}" cy="{_AXIS_Y}" r="3"/>'
    low = arch.blocks[arch.low_level_block].width
    words = f"low-level feature: {low} channels at 1/{decoder.reduction}"
    yield text((start + middle) / 2, _TAP_Y - 5, words, "text-anchor:middle", "soft")


def _settings(columns: list[Column], edges: list[float]) -> Iterator[str]:
    """The numbers below the blocks, a row each."""
    yield text(_LEFT - 12, _ROWS_Y - 18, "block", "text-anchor:end", "soft")
    for row, name in enumerate(_ROWS):
        y = _ROWS_Y + _ROW * row
        yield text(_LEFT - 12, y, name, "text-anchor:end", "soft")
        yield f'<path class="net-rule" d="M{_LEFT} {y - 12}H{WIDTH - MARGIN}"/>'
    for c, left, right in zip(columns, edges, edges[1:], strict=False):
        middle = (left + right) / 2
        name = "decoder" if c is columns[-1] else c.name.removeprefix("block ")
        yield text(middle, _ROWS_Y - 18, name, "text-anchor:middle", "soft")
        for row, value in enumerate(c.settings):
            # What a plain block has (dilation 1, groups 1) steps back, so that the rest shows.
            faint = "soft" if _ROWS[row] in ("dilation", "groups") and value == "1" else ""
            red = "red" if c.halves and row == 0 else faint
            if value:
                yield text(middle, _ROWS_Y + _ROW * row, value, "text-anchor:middle", red)


def _bars(columns: list[Column], edges: list[float], macs: int) -> Iterator[str]:
    """Each part's share of all MACs, as a bar with its number."""
    most = max(c.macs for c in columns)
    yield text(_LEFT - 12, _BARS_Y - 4, "MACs", "text-anchor:end", "soft")
    yield text(_LEFT - 12, _BARS_Y + 15, "%", "text-anchor:end", "soft")
    yield f'<path class="net-rule" d="M{_LEFT} {_BARS_Y}.5H{WIDTH - MARGIN}"/>'
    for c, left, right in zip(columns, edges, edges[1:], strict=False):
        middle, high, share = (left + right) / 2, _BAR * c.macs / most, 100 * c.macs / macs
        look = 'class="net-bar"' if c.block is None else f'fill="{c.hue}"'
        yield f'<rect {look} x="{middle - 9:.1f}" y="{_BARS_Y - high:.1f}" width="18" height="{high:.1f}"/>'
        yield text(middle, _BARS_Y + 15, f"{share:.1f}" if c.macs else "0", "text-anchor:middle;font-size:10.5px")


def _strength(expand: int) -> float:
    """Opacity that stands for an expansion: pale at 1, full at 6 and more."""
    return 0.36 + 0.64 * min(1.0, (expand - 1) / 5)
