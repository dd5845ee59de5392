"""Networks beside each other in a report: drawn in rows, and by what they cost, take and reach on the device.

The networks are those of a run and of the runs that it is compared with; a study brings more, with its own measurements.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgesmith.models.arch import Arch, Segmentation, SqueezeNas
from edgesmith.models.cost import macs, params
from edgesmith.models.draw import draw
from edgesmith.models.draw_lineup import lineup

from .page import clean, details, figure, note, number, percent, table
from .plots import Point, Rule, Series, scatter
from .run import RunFolder, Section
from .searches import FasterSegResult, SqueezeNasResult

FOUND = {"macs": "MAC-found", "latency": "latency-found", "params": "parameter-found", "activations": "activation-found"}


@dataclass(frozen=True)
class Measured:
    """A network with what is known of it; None where nobody measured it."""

    name: str
    gmacs: float
    params: int
    latency_ms: float | None
    """Of the engine, from camera frame to label map: the median."""
    error_ms: float | None = None
    """Standard error of `latency_ms`."""
    table_ms: float | None = None
    """What a latency table sums up to."""
    miou: float | None = None
    """Of the trained network, 0 to 1."""

    @property
    def gmacs_per_s(self) -> float | None:
        return None if not self.latency_ms else 1e3 * self.gmacs / self.latency_ms


@dataclass(frozen=True)
class TableCheck:
    """Whole networks that were timed to test the sums of a latency table."""

    table_ms: Sequence[float]
    measured_ms: Sequence[float]
    fitted: int = 0
    """So many of them, the first ones, made `scale` and `offset_ms`; the others are what errors are counted on."""
    scale: float = 1.0
    offset_ms: float = 0.0

    def __post_init__(self) -> None:
        if len(self.table_ms) != len(self.measured_ms) or not 0 <= self.fitted <= len(self.table_ms):
            raise ValueError(f"table_ms: {len(self.table_ms)} sums for {len(self.measured_ms)} times, {self.fitted} fitted")

    @property
    def words(self) -> str:
        """Correlation and error of the sums, before and after scale and offset."""
        sums, times = list(self.table_ms)[self.fitted :], list(self.measured_ms)[self.fitted :]
        if not sums:
            return ""
        said = "1 network" if len(sums) == 1 else f"{len(sums)} networks"
        if len(sums) > 2 and len(set(sums)) > 1 and len(set(times)) > 1:
            said += f", correlation {statistics.correlation(sums, times):.4f}"
        said += f"; error of the sum {_error(sums, times)}"
        if self.fitted:
            after = [self.scale * x + self.offset_ms for x in sums]
            fit = f"{self.scale:.3f} x sum {'+' if self.offset_ms >= 0 else '-'} {abs(self.offset_ms):.2f} ms"
            said += f"; after {fit}, fitted on {self.fitted} others, {_error(after, times)}"
        return f"{said}."


def _error(predicted: Sequence[float], truth: Sequence[float]) -> str:
    relative = [100 * (p - t) / t for p, t in zip(predicted, truth, strict=True)]
    mean, bias = statistics.fmean(abs(r) for r in relative), statistics.fmean(relative)
    return f"{mean:.1f} % in the mean (bias {bias:+.1f} %, largest {max(abs(r) for r in relative):.1f} %)"


# Sections


def networks(run: RunFolder) -> str:
    """The runs' networks one below the other, and each drawn in full."""
    archs = _archs(run)
    if not archs:
        return note("No network was found yet.")
    task, hw = _seen(run)
    in_line = [(name, arch) for name, arch in archs if isinstance(arch, SqueezeNas)]
    words = "The same blocks stand below each other. Point at a block for its settings and costs."
    if len(archs) == 1:
        words += " With `edgesmith report RUN --against OTHER` the network of another run stands beside it."
    figures = figure(lineup(in_line, task, hw), words, "drawing") if in_line else ""
    # The run's own network has a section of its own.
    own = 0 if run.arch is None else 1
    full = [(name, arch, figure(draw(arch, task, hw), "", "drawing")) for name, arch in archs[own:]]
    for name, arch, picture in full:
        figures += details(f"{name}, in full", picture) if isinstance(arch, SqueezeNas) else f"<h3>{clean(name)}</h3>{picture}"
    return figures or note("There is no other network to show beside it.")


def speed(run: RunFolder) -> str:
    """What the networks reach on the device: compute a second against latency, table sums against measured latency."""
    known = [measured_of(r, name, _table(run)) for r, name in named(run)]
    found = [m for m in known if m is not None]
    charts = device_charts(found)
    charts += sampled_throughput(run)
    if (check := check_of(found)) is not None:
        charts += table_chart(check, found)
    if not charts:
        return note("Nothing was measured yet that a network's cost could be held against.")
    return f'<div class="pair">{charts}</div>' + measured_table(found)


NETWORKS: Section = ("networks", "Found networks", networks)
SPEED: Section = ("speed", "Cost and latency", speed)


# Charts and the table of networks


def device_charts(measured: Sequence[Measured]) -> str:
    """Figures: mIoU against MACs and against latency (Figures 5, 6), GMACs a second against latency (Figure 10)."""
    timed = [m for m in measured if m.latency_ms is not None]
    scored = [m for m in measured if m.miou is not None]
    charts = ""
    if len(scored) > 1:
        by_macs = [Point(m.gmacs, 100 * (m.miou or 0), _about(m), m.name) for m in scored]
        charts += figure(scatter([Series("trained networks", "fill", by_macs)], "MACs, GMAC", "mIoU, %"))
        both = [Point(m.latency_ms, 100 * (m.miou or 0), _about(m), m.name) for m in scored if m.latency_ms is not None]
        charts += figure(scatter([Series("trained networks", "fill", both)], "measured latency, ms", "mIoU, %"))
    if timed:
        rate = [Point(m.latency_ms or 0, m.gmacs_per_s or 0, _about(m), m.name) for m in timed]
        words = "How much the engine computes in a second. Where this is higher, more MACs take no more time."
        charts += figure(scatter([Series("measured", "fill", rate)], "measured latency, ms", "throughput, GMAC/s"), words)
    return charts


def table_chart(check: TableCheck, named: Sequence[Measured]) -> str:
    """Sums of a latency table against measured latencies; `named` are those among them that have a name."""
    names = {(m.table_ms, m.latency_ms): m.name for m in named}
    pairs = list(zip(check.table_ms, check.measured_ms, strict=True))
    points = [Point(x, y, f"sum {x:.3f} ms, measured {y:.3f} ms", names.get((x, y), "")) for x, y in pairs]
    series = [
        Series("networks", "dot" if len(points) > 12 else "fill", points[check.fitted :]),
        Series("the fit was made on", "hoop", points[: check.fitted]),
    ]
    rules = [Rule("sum = measured", 1.0, 0.0, "even")]
    if check.fitted:
        rules.append(Rule("scale and offset", check.scale, check.offset_ms, "mark"))
    return figure(scatter(series, "sum of the latency table, ms", "measured latency, ms", rules=rules), check.words)


def measured_table(measured: Sequence[Measured]) -> str:
    """The networks as numbers; empty when there are none."""
    if not measured:
        return ""
    rows = [
        [
            clean(m.name),
            number(m.gmacs, 3),
            number(m.params / 1e6, 3),
            number(m.table_ms, 2),
            number(m.latency_ms, 2) + (f" ± {number(m.error_ms, 2)}" if m.error_ms is not None else ""),
            number(m.gmacs_per_s, 1),
            percent(m.miou, 2),
        ]
        for m in measured
    ]
    head = ("network", "GMACs", "M parameters", "table sum, ms", "measured, ms", "GMAC/s", "mIoU")
    return details("The networks as numbers", table(head, rows))


def _about(m: Measured) -> str:
    parts = [f"{m.gmacs:.3g} GMACs"]
    parts += [f"{m.latency_ms:.2f} ms, {m.gmacs_per_s:.1f} GMAC/s"] if m.latency_ms else []
    parts += [f"mIoU {percent(m.miou, 2)}"] if m.miou is not None else []
    return f"{m.name}: {', '.join(parts)}"


def sampled_throughput(run: RunFolder) -> str:
    """GMACs a second of all sampled networks by the latency table of a search that had one."""
    search = _table(run)
    if not isinstance(search, SqueezeNasResult):
        return ""

    def point(row: dict[str, float]) -> Point:
        rate = 1e-6 * row["macs"] / row["cost"]
        return Point(row["cost"], rate, f"{row['macs'] / 1e9:.3g} GMACs, {row['cost']:.2f} ms by the table, {rate:.1f} GMAC/s")

    series = [
        Series("sampled", "dot", [point(row) for row in search.samples]),
        Series("found network", "best", [] if search.chosen is None else [point(search.chosen)]),
    ]
    chart = scatter(series, "latency by the table, ms", "throughput, GMAC/s")
    return figure(chart, "The networks that the latency-aware search sampled.")


# What the runs say


def measured_of(run: RunFolder, name: str, table: SqueezeNasResult | FasterSegResult | None) -> Measured | None:
    """The network of `run` with what its validation measured; `table` is a search that knows latencies of candidates."""
    if run.arch is None:
        return None
    task, hw = _seen(run)
    v = run.validation
    latency_ms = None if v is None else float(v["latency_ms"]["engine"]["p50"])
    return Measured(
        name=name,
        gmacs=macs(run.arch, task, hw) / 1e9,
        params=params(run.arch, task),
        latency_ms=latency_ms,
        table_ms=None if table is None or not _as_in_table(v, hw) else _table_sum(table, run.arch, task, hw),
        miou=None if v is None else v["miou"],
    )


def check_of(measured: Sequence[Measured]) -> TableCheck | None:
    """The networks that have both a sum and a time; None when there is none."""
    both = [(m.table_ms, m.latency_ms) for m in measured if m.table_ms is not None and m.latency_ms is not None]
    return TableCheck([x for x, _ in both], [y for _, y in both]) if both else None


def _as_in_table(validation: dict[str, Any] | None, hw: tuple[int, int]) -> bool:
    """Whether the validated engine is one whose pieces a table times: fp32 in ONNX Runtime, frames of the network's size."""
    if validation is None:
        return True
    engine = validation["engine"]
    return (engine["backend"], engine["precision"], tuple(validation["frame_hw"])) == ("onnxruntime", "fp32", hw)


def _table_sum(table: SqueezeNasResult | FasterSegResult, arch: Arch, task: Segmentation, hw: tuple[int, int]) -> float | None:
    """Latency of `arch` by the costs of `table`; None where these are of another size, task or space."""
    if (table.input_hw, table.task) != (hw, task):
        return None
    try:
        return table.cost(arch)
    except ValueError:
        return None


def _table(run: RunFolder) -> SqueezeNasResult | FasterSegResult | None:
    """The first search among the runs that was latency-aware: it holds what its table says of its candidates or networks."""
    return next((r.any_search for r in (run, *run.against) if r.searched and r.any_search.resource == "latency"), None)


def named(run: RunFolder) -> list[tuple[RunFolder, str]]:
    """The run and those that it is compared with, each with a name that no other has."""
    runs = [run, *run.against]
    names = [f"{r.name}, {FOUND.get(r.any_search.resource, 'found')}" if r.searched else r.name for r in runs]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [(r, f"{name} ({r.path.resolve().name})" if name in twice else name) for r, name in zip(runs, names, strict=True)]


def _archs(run: RunFolder) -> list[tuple[str, Arch]]:
    return [(name, r.arch) for r, name in named(run) if r.arch is not None]


def _seen(run: RunFolder) -> tuple[Segmentation, tuple[int, int]]:
    """Task and input size at which the run's network is shown: its own, or those of its search."""
    if run.model is not None and run.input_hw is not None:
        return run.model.task, run.input_hw
    if run.searched:
        return run.any_search.task, run.input_hw or run.any_search.input_hw or (360, 480)
    return Segmentation(19) if run.model is None else run.model.task, run.input_hw or (360, 480)
