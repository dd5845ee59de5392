"""The SqueezeNAS study as one page: python bench/study_squeezenas.py --page OUT.html. Shows what is done of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from edgesmith.bench.markdown import Rows, row
from edgesmith.bench.page_searches import check, compare_searches, finished
from edgesmith.pipeline.reports.compare import Measured


def write_page(folders: Sequence[Path], rows: Rows, fitted: int, out: Path) -> Path:
    """Write the page `out` over the searches in `folders` that are finished; ends the program where none is. Returns `out`.

    `fitted` of the random networks made the table's scale and offset.
    """
    held = row(rows, "time random networks")
    tested = check({**held, "fitted": fitted} if held else {})
    return compare_searches(finished(folders), out, measured(rows), tested, "SqueezeNAS on CamVid")


def measured(rows: Rows) -> list[Measured]:
    """The five networks: their times, and test mIoU as the mean over the seeds."""
    found = []
    for name, n in row(rows, "time the five").get("networks", {}).items():
        scores = [r["test_miou"] for r in rows if r.get("network") == name]
        miou = statistics.fmean(scores) if scores else None
        found.append(Measured(name, n["gmacs"], n["params"], n["median_ms"], n["error_ms"], n["table_ms"], miou))
    return found
