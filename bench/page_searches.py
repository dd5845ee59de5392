"""A study's searches beside each other on one page, with its ablation: what each part brings (FasterSeg, Table 3)."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesmith.bench.markdown import NOT_RUN
from edgesmith.deploy.files import write_text
from edgesmith.pipeline.reports.compare import (
    NETWORKS,
    Measured,
    TableCheck,
    device_charts,
    measured_table,
    named,
    networks,
    sampled_throughput,
    speed,
    table_chart,
)
from edgesmith.pipeline.reports.html import search_sections
from edgesmith.pipeline.reports.page import clean, figure, guarded, number, page, percent, remark, table
from edgesmith.pipeline.reports.plots import Point, Series, scatter
from edgesmith.pipeline.reports.run import RunFolder


@dataclass(frozen=True)
class Setting:
    """A row of Table 3."""

    name: str
    mious: Sequence[float] = ()
    """Of the trained network, 0 to 1, one a seed; empty where it was not run."""
    latency_ms: float | None = None
    """Of the engine, from camera frame to label map: the median."""
    gmacs: float | None = None
    params: int | None = None
    paper: tuple[float, float] | None = None
    """The paper's mIoU in percent on Cityscapes and its FPS on a GTX 1080 Ti at 1024x2048."""

    @property
    def miou(self) -> float | None:
        """The mean over the seeds."""
        return statistics.fmean(self.mious) if self.mious else None


def finished(folders: Sequence[Path]) -> list[Path]:
    """Those of `folders` that hold a finished search; ends the program where none does."""
    found = [folder for folder in folders if (folder / "search" / "search.json").is_file()]
    if not found:
        sys.exit(f"--page: no search is finished yet: {' and '.join(str(f / 'search') for f in folders)} are missing")
    return found


def check(row: dict[str, Any]) -> TableCheck | None:
    """Random whole networks against the table, as `whole_networks.against_table` found it; None for an empty row."""
    return TableCheck(row["table_ms"], row["measured_ms"], row["fitted"], row["scale"], row["offset_ms"]) if row else None


def compare_searches(
    folders: Sequence[Path],
    out: Path,
    measured: Sequence[Measured] = (),
    check: TableCheck | None = None,
    title: str = "",
    settings: Sequence[Setting] = (),
) -> Path:
    """Write the page `out` that shows the searches in `folders` beside each other; the first one leads. Returns `out`.

    `measured` are networks that were timed and trained elsewhere, `check` whole networks that test a latency table,
    `settings` the rows of an ablation. Raises FileNotFoundError when a folder is not there, ValueError when there is none.
    """
    if not folders:
        raise ValueError("folders: name at least one folder with a search")
    for folder in folders:
        if not (folder / "search").is_dir():
            raise FileNotFoundError(f"{folder} holds no search: there is no folder {folder / 'search'}")
    runs = [RunFolder(folder, searches_only=True) for folder in folders]
    first = RunFolder(folders[0], tuple(runs[1:]), searches_only=True)

    def measured_elsewhere(first: RunFolder) -> str:
        charts = device_charts(measured) + sampled_throughput(first)
        charts += "" if check is None else table_chart(check, [])
        return f'<div class="pair">{charts}</div>' + measured_table(measured)

    made = [("ablation", "Ablation", guarded(ablation, settings))] if settings else []
    if any(NETWORKS in search_sections(run) for run in runs):
        made.append(("networks", "Found networks", guarded(networks, first)))
    made.append(("speed", "Cost and latency", guarded(measured_elsewhere if measured or check else speed, first)))
    for i, (run, name) in enumerate(named(first)):
        for anchor, heading, section in search_sections(run):
            if anchor != "networks" and (i == 0 or anchor != "collapse"):  # the first one's shows all
                made.append((f"{anchor}-{len(made)}", f"{name}: {heading.lower()}", guarded(section, run)))
    title = title or "Searches beside each other"
    write_text(out, page(f"{title} · edgesmith", f"<h1>{clean(title)}</h1>", made))
    return out


def ablation(settings: Sequence[Setting]) -> str:
    """The settings as a chart of mIoU against latency, and as Table 3."""
    points = [
        Point(s.latency_ms, 100 * s.miou, f"{s.name}: mIoU {percent(s.miou, 2)}, {s.latency_ms:.2f} ms", s.name)
        for s in settings
        if s.miou is not None and s.latency_ms is not None
    ]
    chart = scatter([Series("settings", "fill", points)], "measured latency, ms", "mIoU, %", size=(720, 360))
    body = []
    for s in settings:
        miou, fps = s.paper or (None, None)
        rate = None if not s.latency_ms else 1e3 / s.latency_ms
        numbers = [number(s.latency_ms, 2), number(rate, 1), number(s.gmacs, 3), number(s.params and s.params / 1e6, 3)]
        body.append([clean(s.name), _scored(s), *numbers, number(miou, 1), number(fps, 1)])
    head = ("setting", "mIoU", "measured, ms", "FPS", "GMACs", "M params", "paper: mIoU", "FPS")
    words = (
        "mIoU is the mean over the seeds, and how far the smallest is from the largest. The paper's numbers (mIoU in %) are of "
        "Cityscapes at 1024x2048 on a GTX 1080 Ti: what can be compared is the order of the rows."
    )
    shown = figure(chart) if len(points) > 1 else ""
    return shown + table(head, body) + remark(words)


def _scored(s: Setting) -> str:
    if not s.mious:
        return NOT_RUN
    seeds = f"{len(s.mious)} seed{'s' * (len(s.mious) > 1)}"
    spread = f", {100 * (max(s.mious) - min(s.mious)):.2f} apart" if len(s.mious) > 1 else ""
    return f'{percent(s.miou, 2)} <span class="soft small">({seeds}{spread})</span>'
