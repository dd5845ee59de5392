"""The page that a report is: its look, and the few pieces of HTML that sections are made of.

Every function that takes text or a value from a file escapes it; what is called `html` is HTML already.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, TypeVar

NONE = "–"
"""Stands for a number that does not exist."""
DAMAGED = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
"""What reading a value of the wrong shape out of a JSON file can raise."""

T = TypeVar("T")

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ground:#f4f6f8;--ink:#1d2733;--soft:#566472;--rule:#d8dee4;--accent:#2f6db5;
--warm:#c2410c;--on:#fff;--code:#eef1f4}
@media screen and (prefers-color-scheme:dark){:root{--paper:#161b22;--ground:#0d1117;--ink:#e4e9ee;--soft:#9aa7b4;
--rule:#30373f;--accent:#6aa9f0;--warm:#f59e5b;--on:#0d1117;--code:#0d1117}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.5;-webkit-text-size-adjust:100%;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1140px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:30px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 12px}h3{font-size:14px;margin:0 0 8px}
p{margin:0 0 10px;max-width:84ch}
.small,figcaption{max-width:110ch}.soft,figcaption,.note{color:var(--soft)}.small,figcaption{font-size:13.5px}
nav{font-size:14px;margin:12px 0 0;display:flex;flex-wrap:wrap;gap:2px 16px}a{color:var(--accent)}
section{background:var(--paper);border:1px solid var(--rule);border-radius:10px;padding:20px 22px;margin-top:20px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:16px 20px;margin:4px 0 0}
.tile dt{font-size:13px;color:var(--soft)}.tile dd{margin:0}.tile .value{font-size:28px;font-weight:600;line-height:1.25;
font-variant-numeric:tabular-nums}.tile .unit{font-size:15px;font-weight:400;color:var(--soft)}
.tile .sub{font-size:13px;color:var(--soft)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14.5px;font-variant-numeric:tabular-nums}
th{font-weight:600;font-size:13px;color:var(--soft)}th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--rule);
white-space:nowrap}th.text,td.text{text-align:left}th:first-child,td:first-child{padding-left:0}th:last-child,
td:last-child{padding-right:0}tr:last-child td{border-bottom:0}td.wide{width:36%;min-width:110px}td.wrap{white-space:normal;
overflow-wrap:anywhere}
.bar{display:block;height:10px;border-radius:2px;background:var(--accent);min-width:1px}.track{display:block;background:var(--code);
border-radius:2px}.swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:8px;vertical-align:-1px;
box-shadow:0 0 0 1px var(--rule)}
figure{margin:0}figcaption{margin-top:8px}figure+.scroll{margin-top:18px}figure+details,.pair+details{margin-top:12px}
.pair{display:grid;gap:20px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
svg,img{max-width:100%;height:auto;display:block}.drawing svg{min-width:940px;width:100%}.heat svg{margin:0 auto}
.frames{display:grid;gap:6px;grid-template-columns:repeat(3,1fr);margin:0 0 4px}.frames img{width:100%;border-radius:4px;
background:var(--code)}.sample{margin:0 0 18px}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13.5px;padding:0;margin:0;list-style:none}
pre{background:var(--code);border-radius:6px;padding:12px 14px;overflow-x:auto;font-size:13.5px;line-height:1.45;
margin:0 0 10px}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}.comment{color:var(--soft)}
summary{cursor:pointer;font-weight:600}details>:nth-child(2){margin-top:12px}details+details{margin-top:10px}
.note{border-left:3px solid var(--rule);padding-left:12px;margin:0}.note.bad{border-color:var(--warm);color:var(--ink)}
.chart{width:100%}.chart text{fill:var(--ink);font-size:12px}.chart .soft{fill:var(--soft)}.chart .grid{stroke:var(--rule)}
.chart .axis{stroke:var(--soft)}.chart .line{stroke:var(--accent);stroke-width:2;fill:none;stroke-linejoin:round}
.chart .fill{fill:var(--accent)}.chart .ring{fill:var(--paper);stroke:var(--warm);stroke-width:2}.chart .best{fill:var(--warm)}
.chart .mark{stroke:var(--warm);stroke-width:1.5;stroke-dasharray:4 3}
.chart .good{fill:var(--accent)}.chart .miss{fill:var(--warm)}
.chart text.on{fill:var(--on)}.chart .cell{fill:none;stroke:var(--rule)}
.chart .dot{fill:var(--accent);fill-opacity:.35;stroke:var(--accent)}.chart .even{stroke:var(--soft);stroke-width:1.2}
.chart .curve{fill:none;stroke:var(--soft);stroke-width:2;stroke-linejoin:round}.chart .blue{stroke:#3d7fc9}
.chart .orange{stroke:#e0941a}.chart path.dashed{stroke-dasharray:4 3}.chart .o1{opacity:.42}.chart .o2{opacity:.56}
.chart .o3{opacity:.7}.chart .o4{opacity:.85}.chart .hoop{fill:none;stroke:var(--warm);stroke-width:2;pointer-events:all}
.chart .name{paint-order:stroke;
stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}.chart .picked{fill:none;stroke:var(--warm);stroke-width:2.5}
@media (max-width:640px){main{padding:18px 10px 32px}section{padding:16px 14px;border-radius:8px}h1{font-size:25px}
.tiles{grid-template-columns:1fr 1fr;gap:14px}.tile .value{font-size:23px}.frames{grid-template-columns:1fr 1fr}
.frames img:first-child{grid-column:1/3}table{font-size:13px}th{font-size:12px}th,td{padding:5px 4px}
td.wide{width:20%;min-width:34px}.swatch{margin-right:5px}
.heat svg{min-width:520px}}
@media print{body{background:#fff;font-size:11pt}main{max-width:none;padding:0}section{border:0;padding:0;break-inside:auto}
nav{display:none}tr,figure,.tile,.sample{break-inside:avoid}h2{break-after:avoid}.drawing svg{min-width:0}
.scroll{overflow:visible;break-inside:avoid}.pair{grid-template-columns:1fr 1fr}
details::details-content{content-visibility:visible}
pre{white-space:pre-wrap}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""

# The page could not reach the network even if something in it tried to.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, head_html: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole file. `sections` are (anchor, title, html)."""
    links = "".join(f'<a href="#{clean(a)}">{clean(t)}</a>' for a, t, _ in sections)
    body = "\n".join(f'<section id="{clean(a)}">\n<h2>{clean(t)}</h2>\n{html}\n</section>' for a, t, html in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{clean(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header>\n{head_html}\n<nav aria-label="Sections">{links}</nav>\n</header>\n{body}\n</main>\n</body>\n</html>\n'
    )


def clean(value: Any) -> str:
    """`value` as text for HTML: escaped, characters that show nothing or cannot be encoded replaced by a space."""
    return escape("".join(c if c.isprintable() else " " for c in str(value)))


def percent(value: Any, digits: int = 1) -> str:
    """0.5 as `50.0 %`; NONE where there is no number."""
    return number(None if value is None else 100 * value, digits, "%")


def number(value: Any, digits: int, unit: str = "") -> str:
    """A number with thin spaces between thousands and its unit."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.{digits}f}".replace(",", "\u2009") + (f"\u00a0{clean(unit)}" if unit else "")


def tile(label: str, value: str, unit: str = "", sub: str = "") -> str:
    """One number of the headline. Goes into `tiles`."""
    small = f'<div class="sub">{clean(sub)}</div>' if sub else ""
    shown = f'<span class="value">{clean(value)}</span> <span class="unit">{clean(unit)}</span>'
    return f'<div class="tile"><dt>{clean(label)}</dt><dd>{shown}{small}</dd></div>'


def tiles(items: Sequence[str]) -> str:
    return f'<dl class="tiles">{"".join(items)}</dl>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1, kinds: Sequence[str] = ()) -> str:
    """A table of HTML cells: the first `text_columns` columns to the left, numbers to the right.

    `kinds` are further CSS classes, one a column.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        classes = (
            f"{'text' if i < text_columns else ''} {kinds[i] if i < len(kinds) else ''}".strip() for i in range(len(row))
        )
        return "".join(
            f'<{tag} class="{c}">{cell}</{tag}>' if c else f"<{tag}>{cell}</{tag}>"
            for c, cell in zip(classes, row, strict=True)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    titles = cells("th", [clean(h) for h in head])
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def bar(share: float | None, label: str) -> str:
    """A horizontal bar of `share` (0 to 1) of its cell."""
    width = 0.0 if share is None or not math.isfinite(share) else 100 * min(max(share, 0.0), 1.0)
    filled = f'<span class="bar" style="width:{width:.1f}%"></span>'
    return f'<span class="track" role="img" aria-label="{clean(label)}">{filled}</span>'


def swatch(colour: Sequence[int]) -> str:
    return f'<span class="swatch" style="background:rgb({",".join(str(int(c) & 255) for c in colour[:3])})"></span>'


def guarded(section: Callable[[T], str], of: T) -> str:
    """What `section` makes of `of`, or a note saying why it cannot be made.

    A report comes after hours of work: one file that is not as its stage writes it must not cost the rest.
    """
    try:
        return section(of)
    except DAMAGED as e:
        return note(f"This part could not be made from the files of the run: {type(e).__name__}: {e}", bad=True)


def note(words: str, bad: bool = False) -> str:
    """A sentence in place of what is not there."""
    return f'<p class="note{" bad" if bad else ""}">{clean(words)}</p>'


def remark(words: str) -> str:
    """What is to be known of a chart or a table above, in small letters."""
    return f'<p class="soft small" style="margin-top:10px">{clean(words)}</p>'


def figure(html: str, caption: str = "", kind: str = "") -> str:
    below = f"<figcaption>{clean(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="scroll {kind}">{html}</div>{below}</figure>'


def details(summary: str, html: str) -> str:
    return f"<details><summary>{clean(summary)}</summary>\n{html}\n</details>"


def pre(text: str) -> str:
    """Text as it stands, line by line; what follows a # is paler."""
    lines = []
    for line in text.splitlines():
        code, mark, comment = ("", "# ", line[2:]) if line.startswith("# ") else line.partition("  # ")
        lines.append(clean(code) + (f'<span class="comment">{clean(mark + comment)}</span>' if mark else ""))
    return f'<pre tabindex="0"><code>{chr(10).join(lines)}</code></pre>'


def image(data: bytes, kind: str, alt: str) -> str:
    """An `img` with its bytes inside; `kind` is `png` or `jpeg`."""
    return f'<img alt="{clean(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
