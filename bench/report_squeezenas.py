"""The SqueezeNAS study as one page: python bench/report_squeezenas.py   (after its jobs are done)

Reads docs/measurements/squeezenas.json and the searches in runs/study-squeezenas; writes runs/study-squeezenas/report.html.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from edgesmith.bench.page_searches import compare_searches
from edgesmith.deploy.files import read_json
from edgesmith.pipeline.reports.compare import Measured, TableCheck

RESULTS = Path("docs/measurements/squeezenas.json")
FOLDER = Path("runs/study-squeezenas")


def main() -> None:
    rows = {row["job"]: row for row in read_json(RESULTS)}
    searches = [FOLDER / name for name in ("search-macs", "search-latency") if (FOLDER / name / "search").is_dir()]
    out = compare_searches(searches, FOLDER / "report.html", measured(rows), check(rows), "SqueezeNAS on CamVid")
    print(out)


def measured(rows: dict[str, dict[str, Any]]) -> list[Measured]:
    """The five networks: their times, and test mIoU as the mean over the seeds."""
    found = []
    for name, n in rows.get("time the five", {}).get("networks", {}).items():
        scores = [row["test_miou"] for row in rows.values() if row.get("network") == name]
        miou = statistics.fmean(scores) if scores else None
        found.append(Measured(name, n["gmacs"], n["params"], n["median_ms"], n["error_ms"], n["table_ms"], miou))
    return found


def check(rows: dict[str, dict[str, Any]]) -> TableCheck | None:
    """Random whole networks against the table; the first ten made scale and offset."""
    row = rows.get("time random networks")
    if row is None:
        return None
    fitted = len(row["table_ms"]) - 30
    return TableCheck(row["table_ms"], row["measured_ms"], fitted, row["scale"], row["offset_ms"])


if __name__ == "__main__":
    main()
