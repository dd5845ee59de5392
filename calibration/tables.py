"""Latency tables of any kind: one that was measured here, or the one that FasterSeg's authors released."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from edgesmith.deploy.files import read_json

from .fasterseg_1080ti import Gtx1080Ti
from .table import Table

LatencyTable: TypeAlias = Table | Gtx1080Ti


def open_table(path: Path) -> LatencyTable:
    """The latency table in `path`, of the kind that its fields tell.

    Raises FileNotFoundError, or ValueError naming the file, the field and what it must be.
    """
    value = read_json(path)
    if isinstance(value, dict) and "runtime" in value and "format" not in value:
        return Gtx1080Ti.from_json(value, str(path))
    return Table.read(path)
