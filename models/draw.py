"""A network as a picture: its blocks in a row, coloured by operator, as in Figures 8 and 9 of the SqueezeNAS paper.

The outline of a block is what it does to the width: it enters at its input width, bulges to the inner width of the expansion
and leaves at its output width. Below each block stand its settings and its share of the MACs. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import groupby

from edgesmith.models.arch import Arch, InvertedResidual, Segmentation, SqueezeNas
from edgesmith.models.cost import Conv, convolutions

WIDTH, HEIGHT = 1100, 536
"""Size of the drawing in its own units; pixels where it is shown at full width."""
_LEFT, _RIGHT = 84, 14
_DECODER_COLUMNS = 2.4
_BAND_Y, _TAP_Y, _AXIS_Y, _HALF = 128, 156, 250, 84
_ROWS_Y, _ROW = 374, 16
_BARS_Y, _BAR = 508, 44
_ROWS = ("kernel", "dilation", "expansion", "groups", "width")

_HUES = {(3, 1): "#3d7fc9", (5, 1): "#e0941a", (3, 2): "#1f9a86", (5, 2): "#9460c4", (7, 1): "#d0609c", (7, 2): "#8a8f2c"}
"""(kernel, dilation) -> colour; all are readable on white and on black. Red is kept for what halves the resolution."""
_OTHER_HUE, _PLAIN_HUE = "#8d6e63", "#8492a0"
_DECODERS = {"lraspp": "LR-ASPP", "aspp": "ASPP"}

_STYLE = """
.net{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
.net text{fill:#1d2733}.net .net-soft{fill:#586674}.net-paper{fill:#fff}.net-rule{stroke:#cfd6dd;fill:none}
.net-tap{stroke:#1d2733;stroke-width:1.3;fill:none}.net-head{fill:#1d2733}.net-mark{stroke:#d1242f;fill:none}
.net .net-red{fill:#d1242f}.net-hatch{stroke:#fff}.net-box{fill:#f1f4f7;stroke:#586674}.net-bar{fill:#6b7a89}
@media screen and (prefers-color-scheme:dark){
.net text{fill:#e4e9ee}.net .net-soft{fill:#9aa7b4}.net-paper{fill:#161b22}.net-rule{stroke:#343c46}
.net-tap{stroke:#e4e9ee}.net-head{fill:#e4e9ee}.net-mark{stroke:#ff6b6b}
.net .net-red{fill:#ff6b6b}.net-hatch{stroke:#161b22}.net-box{fill:#222a33;stroke:#9aa7b4}.net-bar{fill:#8b98a5}}
"""


@dataclass(frozen=True)
class _Column:
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
        return _PLAIN_HUE if self.block is None else _HUES.get((self.block.kernel, self.block.dilation), _OTHER_HUE)

    @property
    def skip(self) -> bool:
        return self.block is not None and self.block.op == "skip"

    @property
    def about(self) -> str:
        b = self.block
        size = f"{self.cin} to {self.cout} channels, output {self.hw[0]}x{self.hw[1]}, {self.macs / 1e6:.1f} M MACs"
        if b is None or b.op == "skip":
            return f"{self.name}: {'skip, ' if b else ''}{size}"
        depthwise = f"{b.kernel}x{b.kernel}, dilation {b.dilation}, expansion {b.expand}, groups {b.groups}"
        return f"{self.name}: {depthwise}{', stride 2' if b.stride == 2 else ''}, {size}"


def draw(arch: Arch, task: Segmentation, input_hw: tuple[int, int]) -> str:
    """The network as a self-contained SVG, drawn for an input of `input_hw` = (H, W) pixels.

    It follows the reader's light or dark theme. Raises ValueError for a family that cannot be drawn.
    """
    if not isinstance(arch, SqueezeNas):
        raise ValueError(f"architectures of family {arch.family!r} cannot be drawn")
    convs = tuple(convolutions(arch, task, input_hw))
    columns = _columns(arch, task, convs)
    params, macs = sum(c.params for c in convs), sum(c.macs for c in convs)
    size = f"{input_hw[0]}x{input_hw[1]}"
    parameters = f"{params / 1e6:.2f} M parameters" if params >= 1e5 else f"{params / 1e3:.1f} k parameters"
    classes = f"{task.classes} {'class' if task.classes == 1 else 'classes'}"
    caption = f"{classes}, input {size} pixels: {parameters}, {macs / 1e9:.3g} GMACs"
    unit = (WIDTH - _LEFT - _RIGHT) / sum(c.columns for c in columns)
    edges = [_LEFT + unit * sum(c.columns for c in columns[:i]) for i in range(len(columns) + 1)]
    parts = [
        _text(20, 34, arch.name, "font-size:18px;font-weight:600"),
        _text(20, 54, caption, "font-size:13px", "soft"),
        *_legend(columns),
        *_bands(columns, edges),
        *_outlines(columns, edges),
        *_decoder(arch, task, columns[-1], edges, input_hw),
        *_settings(columns, edges),
        *_bars(columns, edges, macs),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="net" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{_clean(f"{arch.name}, {len(arch.blocks)} blocks; {caption}")}">\n<style>{_STYLE}</style>\n'
        '<defs><pattern id="net-hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path class="net-hatch" d="M0 0V5" stroke-width="2.4"/></pattern></defs>\n'
        f'<rect class="net-paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _columns(arch: SqueezeNas, task: Segmentation, convs: tuple[Conv, ...]) -> list[_Column]:
    def cost(prefix: str) -> int:
        return sum(c.macs for c in convs if c.name == prefix or c.name.startswith(f"{prefix}."))

    width, reduction, hw = arch.stem_width, 2, convs[0].out_hw
    columns = [_Column("stem", None, 3, width, width, ("3", "", "", "", str(width)), 2, hw, cost("stem"))]
    low = (reduction, hw)
    for i, b in enumerate(arch.blocks):
        own = [c for c in convs if c.name.startswith(f"blocks.{i}.")]
        hw = own[-1].out_hw if own else hw
        reduction *= b.stride
        settings: tuple[str, ...] = (str(b.kernel), str(b.dilation), str(b.expand), str(b.groups), str(b.width))
        inner = width * b.expand
        if b.op == "skip":
            settings, inner = ("skip", "", "", "", str(b.width)), width
        columns.append(_Column(f"block {i}", b, width, inner, b.width, settings, reduction, hw, cost(f"blocks.{i}")))
        width = b.width
        if i == arch.low_level_block:
            low = (reduction, hw)
    if (neck := arch.neck_width) is not None:
        columns.append(_Column("neck", None, width, neck, neck, ("1", "", "", "", str(neck)), reduction, hw, cost("neck")))
        width = neck
    name, settings = _DECODERS[arch.decoder], ("", "", "", "", str(arch.decoder_width))
    columns.append(_Column(name, None, width, 0, task.classes, settings, *low, cost("decoder"), _DECODER_COLUMNS))
    return columns


def _legend(columns: list[_Column]) -> Iterator[str]:
    """The operators that occur, then what strength, hatching and red stand for."""
    blocks = [c.block for c in columns if c.block is not None and not c.skip]
    x, y = 20.0, 80

    def entry(swatch: str, words: str) -> str:
        nonlocal x
        at, x = x, x + 22 + 6.1 * len(words) + 16
        return f'<g transform="translate({at:.1f} {y - 10})">{swatch}{_text(22, 10, words)}</g>'

    for kernel, dilation in sorted({(b.kernel, b.dilation) for b in blocks}):
        hue = _HUES.get((kernel, dilation), _OTHER_HUE)
        words = f"{kernel}x{kernel}" + (f" dilated by {dilation}" if dilation > 1 else "")
        yield entry(f'<rect width="16" height="12" rx="2" fill="{hue}"/>', words)
    expansions = sorted({b.expand for b in blocks})
    steps = "".join(
        f'<rect x="{i * 16 / len(expansions):.1f}" width="{16 / len(expansions):.1f}" height="12" fill="{_PLAIN_HUE}" '
        f'fill-opacity="{_strength(e):.2f}"/>'
        for i, e in enumerate(expansions)
    )
    yield entry(steps, f"expansion {', '.join(map(str, expansions))}")
    if any(b.groups > 1 for b in blocks):
        plain = f'<rect width="16" height="12" rx="2" fill="{_PLAIN_HUE}"/>'
        yield entry(f'{plain}<rect width="16" height="12" rx="2" fill="url(#net-hatch)"/>', "1x1 in groups")
    if any(c.skip for c in columns):
        yield entry(f'<rect width="16" height="12" rx="2" {_SKIP}/>', "skip")
    if any(c.halves for c in columns):
        yield entry('<rect class="net-mark" x="1" y="1" width="14" height="10" stroke-width="2"/>', "halves the resolution")
    yield entry('<path class="net-tap" d="M0 6H16"/>', "to the decoder")
    yield _text(WIDTH - _RIGHT, 54, "height: channels, square-root scale", "text-anchor:end", "soft")


def _bands(columns: list[_Column], edges: list[float]) -> Iterator[str]:
    """A bracket over all neighbours of one resolution."""
    indices = range(len(columns) - 1)
    for _, group in groupby(indices, key=lambda i: (columns[i].reduction, columns[i].hw)):
        members = list(group)
        first = columns[members[0]]
        left, right = edges[members[0]], edges[members[-1] + 1]
        middle, size = (left + right) / 2, f"{first.hw[0]}x{first.hw[1]}"
        yield f'<path class="net-rule" stroke-width="2" d="M{left + 3:.1f} {_BAND_Y}H{right - 3:.1f}"/>'
        yield _text(middle, _BAND_Y - 20, f"1/{first.reduction}", "text-anchor:middle;font-weight:600")
        yield _text(middle, _BAND_Y - 7, size, "text-anchor:middle;font-size:10px", "soft")
        if first.halves:
            yield f'<path class="net-mark" stroke-dasharray="2 3" d="M{left:.1f} {_BAND_Y}V{_ROWS_Y - 16}"/>'


def _outlines(columns: list[_Column], edges: list[float]) -> Iterator[str]:
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
        look = _SKIP if c.skip else f'fill="{c.hue}" fill-opacity="{_strength(c.block.expand if c.block else 1):.2f}"'
        edge = "" if c.skip else f' stroke="{c.hue}"'
        shape = f"<polygon {points} {look}{edge}/>"
        if c.block is not None and c.block.groups > 1 and not c.skip:
            shape += f'<polygon {points} fill="url(#net-hatch)"/>'
        if c.halves:
            shape += f'<polygon class="net-mark" {points} stroke-width="2.2" stroke-linejoin="round"/>'
        yield f"<g><title>{_clean(c.about)}</title>{shape}</g>"


def _decoder(
    arch: SqueezeNas, task: Segmentation, decoder: _Column, edges: list[float], input_hw: tuple[int, int]
) -> Iterator[str]:
    """The decoder's box, what enters it from behind and from the side, and what leaves it."""
    left, right = edges[-2] + 12, edges[-1]
    middle, top, bottom = (left + right) / 2, _AXIS_Y - 56, _AXIS_Y + 56
    box = f'<rect class="net-box" x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{bottom - top}" rx="6"/>'
    yield f"<g><title>{_clean(decoder.about)}</title>{box}</g>"
    yield f'<path class="net-tap" d="M{edges[-2]:.1f} {_AXIS_Y}H{left - 5:.1f}"/>{_arrow(left, _AXIS_Y, "right")}'
    yield _text(middle, top + 28, decoder.name, "text-anchor:middle;font-size:14px;font-weight:600")
    lines = (f"{task.classes} logits", f"at {decoder.hw[0]}x{decoder.hw[1]},", "enlarged to")
    for i, line in enumerate(lines):
        yield _text(middle, top + 54 + 17 * i, line, "text-anchor:middle", "soft")
    yield f'<path class="net-tap" d="M{middle:.1f} {bottom}V{bottom + 13}"/>{_arrow(middle, bottom + 18, "down")}'
    yield _text(middle, bottom + 32, f"{input_hw[0]}x{input_hw[1]}", "text-anchor:middle")
    start = edges[arch.low_level_block + 2]  # column 0 is the stem
    yield f'<path class="net-tap" d="M{start:.1f} {_AXIS_Y}V{_TAP_Y}H{middle:.1f}V{top - 5}"/>{_arrow(middle, top, "down")}'
    yield f'<circle class="net-head" cx="{start:.1f}" cy="{_AXIS_Y}" r="3"/>'
    low = arch.blocks[arch.low_level_block].width
    words = f"low-level feature: {low} channels at 1/{decoder.reduction}"
    yield _text((start + middle) / 2, _TAP_Y - 5, words, "text-anchor:middle", "soft")


def _settings(columns: list[_Column], edges: list[float]) -> Iterator[str]:
    """The numbers below the blocks, a row each."""
    yield _text(_LEFT - 12, _ROWS_Y - 18, "block", "text-anchor:end", "soft")
    for row, name in enumerate(_ROWS):
        y = _ROWS_Y + _ROW * row
        yield _text(_LEFT - 12, y, name, "text-anchor:end", "soft")
        yield f'<path class="net-rule" d="M{_LEFT} {y - 12}H{WIDTH - _RIGHT}"/>'
    for c, left, right in zip(columns, edges, edges[1:], strict=False):
        middle = (left + right) / 2
        name = "decoder" if c is columns[-1] else c.name.removeprefix("block ")
        yield _text(middle, _ROWS_Y - 18, name, "text-anchor:middle", "soft")
        for row, value in enumerate(c.settings):
            # What a plain block has (dilation 1, groups 1) steps back, so that the rest shows.
            faint = "soft" if _ROWS[row] in ("dilation", "groups") and value == "1" else ""
            red = "red" if c.halves and row == 0 else faint
            if value:
                yield _text(middle, _ROWS_Y + _ROW * row, value, "text-anchor:middle", red)


def _bars(columns: list[_Column], edges: list[float], macs: int) -> Iterator[str]:
    """Each part's share of all MACs, as a bar with its number."""
    most = max(c.macs for c in columns)
    yield _text(_LEFT - 12, _BARS_Y - 4, "MACs", "text-anchor:end", "soft")
    yield _text(_LEFT - 12, _BARS_Y + 15, "%", "text-anchor:end", "soft")
    yield f'<path class="net-rule" d="M{_LEFT} {_BARS_Y}.5H{WIDTH - _RIGHT}"/>'
    for c, left, right in zip(columns, edges, edges[1:], strict=False):
        middle, high, share = (left + right) / 2, _BAR * c.macs / most, 100 * c.macs / macs
        look = 'class="net-bar"' if c.block is None else f'fill="{c.hue}"'
        yield f'<rect {look} x="{middle - 9:.1f}" y="{_BARS_Y - high:.1f}" width="18" height="{high:.1f}"/>'
        yield _text(middle, _BARS_Y + 15, f"{share:.1f}" if c.macs else "0", "text-anchor:middle;font-size:10.5px")


_SKIP = f'fill="{_PLAIN_HUE}" fill-opacity=".12" stroke="{_PLAIN_HUE}" stroke-dasharray="3 2"'


def _strength(expand: int) -> float:
    """Opacity that stands for an expansion: pale at 1, full at 6 and more."""
    return 0.36 + 0.64 * min(1.0, (expand - 1) / 5)


def _arrow(x: float, y: float, way: str) -> str:
    points = f"{x - 7:.1f},{y - 4:.1f} {x:.1f},{y:.1f} {x - 7:.1f},{y + 4:.1f}"
    if way == "down":
        points = f"{x - 4:.1f},{y - 7:.1f} {x:.1f},{y:.1f} {x + 4:.1f},{y - 7:.1f}"
    return f'<polygon class="net-head" points="{points}"/>'


def _text(x: float, y: float, words: str, style: str = "", kind: str = "") -> str:
    attributes = (f' class="net-{kind}"' if kind else "") + (f' style="{style}"' if style else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{_clean(words)}</text>'


def _clean(words: str) -> str:
    """Escaped for XML, without the characters that XML does not allow at all."""
    return escape("".join(c if c.isprintable() else " " for c in words))
