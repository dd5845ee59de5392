"""Complete, named, runnable recipes: `edgesmith run NAME`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Names of the recipes that come with edgesmith."""
    return tuple(sorted(p.stem for p in FOLDER.glob("*.yaml")))
