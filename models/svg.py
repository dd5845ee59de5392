"""The paper that networks are drawn on: an SVG that follows the reader's light or dark theme, and the marks on it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

WIDTH = 1100
"""Width of a drawing in its own units; pixels where it is shown at full width."""
MARGIN = 14
PLAIN_HUE = "#8492a0"
"""For what is not an operator that was chosen. Red is kept for what halves the resolution."""
SKIP = f'fill="{PLAIN_HUE}" fill-opacity=".12" stroke="{PLAIN_HUE}" stroke-dasharray="3 2"'
HALVES = ('<rect class="net-mark" x="1" y="1" width="14" height="10" stroke-width="2"/>', "halves the resolution")
"""For the legend."""

_STYLE = """
.net{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
.net text{fill:#1d2733}.net .net-soft{fill:#586674}.net-paper{fill:#fff}.net-rule{stroke:#cfd6dd;fill:none}
.net-tap{stroke:#1d2733;stroke-width:1.3;fill:none}.net-head{fill:#1d2733}.net-mark{stroke:#d1242f;fill:none}
.net .net-red{fill:#d1242f}.net-hatch{stroke:#fff}
.net-halo{stroke:#fff;stroke-width:6;fill:none}.net-box{fill:#f1f4f7;stroke:#586674}.net-bar{fill:#6b7a89}
@media screen and (prefers-color-scheme:dark){
.net text{fill:#e4e9ee}.net .net-soft{fill:#9aa7b4}.net-paper{fill:#161b22}.net-rule{stroke:#343c46}
.net-tap{stroke:#e4e9ee}.net-head{fill:#e4e9ee}.net-mark{stroke:#ff6b6b}
.net .net-red{fill:#ff6b6b}.net-hatch,.net-halo{stroke:#161b22}.net-box{fill:#222a33;stroke:#9aa7b4}.net-bar{fill:#8b98a5}}
"""


def page(title: str, caption: str, about: str, height: int, parts: Iterable[str]) -> str:
    """The whole drawing; `about` says for those who cannot see it what it shows."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="net" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{clean(about)}">\n<style>{_STYLE}</style>\n'
        '<defs><pattern id="net-hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path class="net-hatch" d="M0 0V5" stroke-width="2.4"/></pattern></defs>\n'
        f'<rect class="net-paper" width="{WIDTH}" height="{height}" rx="8"/>\n'
        + "\n".join(
            [text(20, 34, title, "font-size:18px;font-weight:600"), text(20, 54, caption, "font-size:13px", "soft"), *parts]
        )
        + "\n</svg>\n"
    )


def legend(entries: Iterable[tuple[str, str]], y: float) -> Iterable[str]:
    """Swatches of 16x12 with their words, in one line."""
    x = 20.0
    for swatch, words in entries:
        yield f'<g transform="translate({x:.1f} {y - 10:g})">{swatch}{text(22, 10, words)}</g>'
        x += 22 + 6.1 * len(words) + 16


def arrow(x: float, y: float, way: str) -> str:
    """An arrow's head whose point is at (x, y); `way` is right, down or up."""
    points = {
        "right": f"{x - 7:.1f},{y - 4:.1f} {x:.1f},{y:.1f} {x - 7:.1f},{y + 4:.1f}",
        "down": f"{x - 4:.1f},{y - 7:.1f} {x:.1f},{y:.1f} {x + 4:.1f},{y - 7:.1f}",
        "up": f"{x - 4:.1f},{y + 7:.1f} {x:.1f},{y:.1f} {x + 4:.1f},{y + 7:.1f}",
    }[way]
    return f'<polygon class="net-head" points="{points}"/>'


def text(x: float, y: float, words: str, style: str = "", kind: str = "") -> str:
    attributes = (f' class="net-{kind}"' if kind else "") + (f' style="{style}"' if style else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{clean(words)}</text>'


def clean(words: str) -> str:
    """Escaped for XML, without the characters that XML does not allow at all."""
    return escape("".join(c if c.isprintable() else " " for c in words))
