"""Tables in Markdown, of the rows that a study's finished jobs left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Rows: TypeAlias = "list[dict[str, Any]]"
NOT_RUN = "not run"


def row(rows: Rows, job: str) -> dict[str, Any]:
    """The row of `job`, empty where it was not run."""
    return next((r for r in rows if r["job"] == job), {})


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def against_table(row: dict[str, Any]) -> str:
    """What `whole_networks.against_table` found of a latency table's sums; empty: not run."""
    if not row:
        return f"{NOT_RUN}\n"
    fit = f"{row['scale']:.3f} x {'+' if row['offset_ms'] >= 0 else '-'} {abs(row['offset_ms']):.2f} ms"
    lines = [
        [when, f"{row['correlation']:.4f}", *(f"{100 * row[key][k]:.1f} %" for k in ("mean", "bias", "largest"))]
        for when, key in (("as summed", "error_before"), (fit, "error_after"))
    ]
    return markdown(["table against measured", "correlation", "mean error", "bias", "largest error"], lines)
