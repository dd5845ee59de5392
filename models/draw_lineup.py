"""SqueezeNAS networks one below the other, lined up where they halve the resolution (Figures 8 and 9 of the paper).

A block's height is its expansion, its colour the operator; the bar below it is its share of the network's MACs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgesmith.models.arch import Segmentation, SqueezeNas
from edgesmith.models.cost import convolutions, macs
from edgesmith.models.draw_squeezenas import Column, columns_of, swatches
from edgesmith.models.svg import MARGIN, WIDTH, clean, legend, page, text

_LEFT, _TOP, _ROW = 196, 104, 122
_AXIS, _TALL = 34, 52
_BARS, _BAR = 112, 30
"""Within a row: the middle of the blocks and how tall one may be, the foot of the bars and how tall these may be."""


@dataclass(frozen=True)
class _Network:
    name: str
    macs: int
    stages: tuple[tuple[Column, ...], ...]
    """Its blocks; each stage but perhaps the first begins with a block that halves the resolution."""

    @property
    def blocks(self) -> list[Column]:
        return [c for stage in self.stages for c in stage]


def lineup(networks: Sequence[tuple[str, SqueezeNas]], task: Segmentation, input_hw: tuple[int, int]) -> str:
    """The networks (name, architecture) as one SVG, with their costs for `task` and an input of `input_hw` = (H, W) pixels.

    Raises ValueError when there is none.
    """
    if not networks:
        raise ValueError("networks: there is none to draw")
    rows = [_network(name, arch, task, input_hw) for name, arch in networks]
    stages = max(len(r.stages) for r in rows)
    wide = [max(len(r.stages[-1 - k]) if k < len(r.stages) else 0 for r in rows) for k in reversed(range(stages))]
    unit = (WIDTH - MARGIN - _LEFT) / sum(wide)
    starts = [_LEFT + unit * sum(wide[:k]) for k in range(stages)]
    most = max(c.macs / r.macs for r in rows for c in r.blocks)
    parts = [*legend(swatches([c for r in rows for c in r.blocks]), 80)]
    for k, row in enumerate(rows):
        parts += _drawn(row, starts[stages - len(row.stages) :], _TOP + _ROW * k, unit, most)
    caption = f"Input {input_hw[0]}x{input_hw[1]} pixels; height: expansion; bars: share of the network's MACs"
    names = ", ".join(r.name for r in rows)
    title = "Networks lined up where they halve the resolution"
    return page(
        title, caption, f"{len(rows)} networks, blocks from left to right: {names}", _TOP + _ROW * len(rows) + 14, parts
    )


def _network(name: str, arch: SqueezeNas, task: Segmentation, input_hw: tuple[int, int]) -> _Network:
    blocks = [c for c in columns_of(arch, task, tuple(convolutions(arch, task, input_hw))) if c.block is not None]
    firsts = [0] + [i for i, c in enumerate(blocks) if c.halves and i > 0]
    stages = tuple(tuple(blocks[a:b]) for a, b in zip(firsts, [*firsts[1:], len(blocks)], strict=True))
    return _Network(name, macs(arch, task, input_hw), stages)


def _drawn(row: _Network, starts: Sequence[float], top: float, unit: float, most: float) -> Iterator[str]:
    """One network; `starts` is where its stages begin, `most` the largest share of MACs that any block has."""
    yield f'<path class="net-rule" d="M{MARGIN} {top - 6}H{WIDTH - MARGIN}"/>'
    skips = sum(c.skip for c in row.blocks)
    name = textwrap.wrap(row.name, 22, max_lines=3, placeholder="…") or [""]
    for i, line in enumerate(name):
        yield text(20, top + 22 + 16 * i, line, "font-weight:600;font-size:12.5px")
    below = top + 22 + 16 * len(name)
    yield text(20, below, f"{row.macs / 1e9:.3g} GMACs", "", "soft")
    yield text(20, below + 16, f"{len(row.blocks) - skips} blocks, {skips} skipped", "", "soft")
    yield f'<path class="net-rule" d="M{_LEFT} {top + _BARS}.5H{WIDTH - MARGIN}"/>'
    for stage, start in zip(row.stages, starts, strict=True):
        for i, c in enumerate(stage):
            yield from _block(c, start + i * unit, top, unit, c.macs / row.macs, most)


def _block(c: Column, left: float, top: float, unit: float, share: float, most: float) -> Iterator[str]:
    expand = 1 if c.block is None else c.block.expand
    tall = 8 if c.skip else 14 + (_TALL - 14) * min(1.0, (expand - 1) / 5)
    box = f'x="{left + 2:.1f}" y="{top + _AXIS - tall / 2:.1f}" width="{unit - 4:.1f}" height="{tall:.1f}" rx="2"'
    shape = f"<rect {box} {c.look}/>"
    if c.grouped:
        shape += f'<rect {box} fill="url(#net-hatch)"/>'
    if c.halves:
        shape += f'<rect class="net-mark" stroke-width="2.2" {box}/>'
    high = _BAR * share / most if most else 0.0
    bar = f'x="{left + unit / 2 - 7:.1f}" y="{top + _BARS - high:.1f}" width="14" height="{high:.1f}"'
    shape += f'<rect class="net-bar" {bar}/>'
    yield f"<g><title>{clean(c.about)}, {100 * share:.1f} % of the network</title>{shape}</g>"
    words = "skip" if c.skip or c.block is None else f"k{c.block.kernel}e{expand}"
    yield text(left + unit / 2, top + _AXIS + _TALL / 2 + 14, words, "text-anchor:middle;font-size:10px", "soft")
