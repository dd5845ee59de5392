"""The FasterSeg study as one page: python bench/study_fasterseg.py --page OUT.html. Shows what is done of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from edgesmith.bench.markdown import Rows, row
from edgesmith.bench.page_searches import Setting, check, compare_searches, finished
from edgesmith.bench.tables_fasterseg import ABLATION, known, scores
from edgesmith.pipeline.reports.compare import Measured


def write_page(folders: Sequence[Path], rows: Rows, out: Path) -> Path:
    """Write the page `out` over the searches in `folders` that are finished; ends the program where none is. Returns `out`."""
    tested = check(row(rows, "time random networks"))
    return compare_searches(finished(folders), out, measured(rows), tested, "FasterSeg on CamVid", settings(rows))


def settings(rows: Rows) -> list[Setting]:
    """The rows of Table 3, and the networks that the student is held against."""
    found = []
    for name, (trained, paper) in ABLATION.items():
        n, mious = known(rows, trained), list(scores(rows, trained).values())
        found.append(Setting(name, mious, n.get("median_ms"), n.get("gmacs"), n.get("params"), paper))
    return found


def measured(rows: Rows) -> list[Measured]:
    """The derived networks with their times; mIoU of a training without a teacher, the mean over the seeds."""
    found = []
    for name in row(rows, "derive").get("networks", {}):
        n, mious = known(rows, name), scores(rows, name).values()
        miou = statistics.fmean(mious) if mious else None
        found.append(Measured(name, n["gmacs"], n["params"], n.get("median_ms"), n.get("error_ms"), n["table_ms"], miou))
    return found
