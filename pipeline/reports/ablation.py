"""The ablation of a FasterSeg study in a report (paper, Table 3): what the parts of the method bring, beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .page import clean, figure, note, number, percent, table
from .plots import Point, Series, scatter


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


def ablation(settings: Sequence[Setting]) -> str:
    """The settings as a chart of mIoU against latency, and as Table 3."""
    if not settings:
        return note("Nothing was run yet.")
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
    head = ("setting", "mIoU", "measured, ms", "FPS", "GMACs", "M parameters", "paper: mIoU, %", "paper: FPS")
    words = (
        "mIoU is the mean over the seeds, with the distance from the smallest to the largest. The paper's numbers are of "
        "Cityscapes at 1024x2048 on a GTX 1080 Ti: what can be compared is the order of the rows."
    )
    shown = figure(chart) if len(points) > 1 else ""
    return f'{shown}{table(head, body)}<p class="soft small" style="margin-top:10px">{clean(words)}</p>'


def _scored(s: Setting) -> str:
    if not s.mious:
        return "not run"
    seeds = f"{len(s.mious)} seed{'s' * (len(s.mious) > 1)}"
    spread = f", spread {100 * (max(s.mious) - min(s.mious)):.2f}" if len(s.mious) > 1 else ""
    return f'{percent(s.miou, 2)} <span class="soft small">({seeds}{spread})</span>'
