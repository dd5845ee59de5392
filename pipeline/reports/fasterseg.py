"""A FasterSeg search in a report: its course, the probabilities over time, what its latency is sensitive to (Table 2), whether
it collapsed (Figure 4), and the networks that it found (Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from edgesmith.models.arch import FasterSeg
from edgesmith.models.cost import macs, params
from edgesmith.models.draw import draw
from edgesmith.pipeline.search.fasterseg_space import RATES, Net, Scales

from .lines import Bands, Choice, Line, bands, lines
from .page import NONE, bar, clean, details, figure, note, number, percent, remark, table, tile, tiles
from .run import RunFolder, Section
from .searches import FasterSegResult, Found, branch_words

PAPER = {"operator": (10.42, 0.001), "resolution": (0.01, 0.997), "width": (5.54, 0.002)}
"""Table 2: how far the latency moves, in ms on a GTX 1080 Ti at 1024x2048; and the weights of Eq. 3."""
KINDS = {"operator": "O, operator", "resolution": "s, downsampling rate", "width": "χ, expansion ratio"}
_BLUE, _ORANGE = "#3d7fc9", "#e0941a"
OPERATORS = {
    "skip": ("skip", 'fill="#8492a0" fill-opacity=".45"', "grey"),
    "conv": ("conv", f'fill="{_BLUE}" fill-opacity=".4"', "blue dashed"),
    "conv_x2": ("conv, twice", f'fill="{_BLUE}"', "blue"),
    "zoomed_conv": ("zoomed conv", f'fill="{_ORANGE}" fill-opacity=".4"', "orange dashed"),
    "zoomed_conv_x2": ("zoomed conv, twice", f'fill="{_ORANGE}"', "orange"),
}
"""Operator -> its name, area and line, in the colours of the networks' drawings."""
LINES: dict[Scales, str] = {(2, 1): "blue", (2, 0): "orange", (1, 0): "grey", (2,): "blue", (1,): "orange", (0,): "grey"}
"""Last scales of a network's branches -> its line, the same in all charts."""
MAX_EPOCHS = 40
"""So many epochs of probabilities are drawn, spread evenly."""


def course(run: RunFolder) -> str:
    """Losses, relaxed latency, lambda and entropy over the epochs."""
    s, rows = run.fasterseg, run.fasterseg.alternated
    begin = ("search", rows[0][0] - 0.5) if rows and rows[0][0] > 1 else None

    def curve(key: str) -> list[tuple[float, float]]:
        return [(i, _float(row.get(key))) for i, row in s.epochs]

    halves = [Line("the weights' half", curve("pixel_loss")), Line("the architecture's", curve("arch_pixel_loss"), "orange")]
    charts = figure(lines(halves, "epoch", "OHEM loss a head and pass", begin=begin))
    charts += figure(lines([Line("supernet", curve("latency"))], "epoch", f"relaxed {s.resource_words}, {s.unit}", s.unit))
    entropies = [
        Line(name, [(i, _float((row.get("entropy") or {}).get(key))) for i, row in rows], look)
        for key, name, look in (("alpha", "operators", "blue"), ("beta", "predecessors", "grey"), ("ratio", "widths", "orange"))
    ]
    charts += figure(lines(entropies, "epoch", "entropy of the student's choices, nats", "nats"))
    if len({row.get("lambda") for _, row in rows}) > 1:
        charts += figure(lines([Line("λ", curve("lambda"))], "epoch", "weight λ of the latency"))
    space = s.space
    most = ", ".join(
        f"{math.log(n):.2f} for {n} {what}" for n, what in ((len(space.operators), "operators"), (len(space.ratios), "widths"))
    )
    words = (
        f"L = {space.layers} layers, {len(space.operators)} operators, ratios {', '.join(map(str, space.ratios))}, "
        f"b = {space.branches}; {'decoupled' if s.summary['decoupled'] else 'one coupled'} {s.resource_words} term. "
        "Losses are those of the half of the train split that the step was on. "
        f"{'The line marks where the architecture begins to learn. ' if begin else ''}"
        f"Relaxed {s.resource_words}: the mean over networks drawn by the probabilities, the three scales' added up. "
        f"Entropy when all choices are alike: {most}; 0 when they are settled."
    )
    keys = ("loss", "pixel_loss", "arch_loss", "arch_pixel_loss", "latency", "lambda", "lr")
    body = [[str(i), clean(row["phase"]), *(_cell(row.get(k)) for k in keys)] for i, row in s.epochs]
    losses = ("weights: loss", "weights: OHEM loss", "architecture: loss", "architecture: OHEM loss")
    head = ("epoch", "phase", *losses, f"relaxed {s.resource_words}, {s.unit}", "λ", "learning rate")
    every = details("Every epoch", table(head, body, text_columns=2))
    return f'{_headline(s)}<div class="pair" style="margin-top:18px">{charts}</div>{remark(words)}{every}'


def _headline(s: FasterSegResult) -> str:
    items = []
    for net in s.nets:
        found = s.chosen(net)
        if found is None:
            continue
        about = f"{found.branches}; mIoU {percent(found.val_miou)} in the supernet"
        items.append(tile(f"{net.title()} found", f"{found.latency:.4g}", s.unit, about))
    if s.pruned is not None:
        items.append(tile("The run's network", "pruned", "teacher", f"{s.pruned.branches}, at the smallest expansion ratio"))
    counts = [sum(row["phase"] == phase for _, row in s.epochs) for phase in ("pretrain", "search")]
    items.append(tile("Epochs", f"{counts[0]} + {counts[1]}", "", "pretraining + search"))
    entropy = s.alternated[-1][1].get("entropy") if s.alternated else None
    if entropy:
        items.append(tile("Entropy of operators", number(entropy["alpha"], 2), "nats", f"{_most(s):.2f} at the start"))
    return tiles(items)


def _most(s: FasterSegResult) -> float:
    return math.log(len(s.space.operators))


# Probabilities


def probabilities(run: RunFolder) -> str:
    """What the choices of each cell, merge and tensor were worth over the epochs."""
    s = run.fasterseg
    rows = [(i, row["probabilities"]) for i, row in s.alternated if row.get("probabilities")]
    if not rows:
        return note("The architecture has not learnt yet: the search ended with its pretraining.")
    charts, every = "", ""
    nets = [net for net in s.nets if net in rows[-1][1]]
    for net in nets:
        charts += figure(lines(_mean_operators(s, rows, net), "epoch", f"{net}: mean probability of an operator, %", "%"))
    if len(s.space.ratios) > 1:
        charts += figure(lines(_mean_ratios(s, rows), "epoch", "student: mean probability of a ratio, %", "%"))
    step = math.ceil(len(rows) / MAX_EPOCHS)
    shown = rows[::-step][::-1]
    epochs = [i for i, _ in shown]
    maps = ""
    for k, net in enumerate(nets):
        drawn = figure(bands(panels(s, [p[net] for _, p in shown], net), epochs), "", "drawing")
        maps += f'<h3 style="margin-top:20px">Student</h3>{drawn}' if k == 0 else details(f"The {net}", drawn)
        every += details(f"The {net}'s last probabilities as numbers", _last_table(s, rows[-1][1][net], net))
    words = (
        "Above: the mean over all cells. Below: each cell for itself, the probabilities stacked from the first epoch to the "
        "last. α chooses a cell's operator; β says where what enters a cell comes from, red: from the finer scale, halved on "
        "the way; γ chooses the width of what enters a layer, stronger for wider."
    )
    return f'<div class="pair">{charts}</div>{remark(words)}{maps}{every}'


def panels(s: FasterSegResult, steps: Sequence[Mapping[str, Any]], net: Net) -> list[Bands]:
    """Operators, predecessors and widths by scale; `steps` are the probabilities of each epoch."""
    operators = [Choice(OPERATORS[o][0], OPERATORS[o][1]) for o in s.space.operators]
    order = sorted(range(len(operators)), key=lambda k: list(OPERATORS).index(s.space.operators[k]))
    merge = (Choice("from the finer scale", 'fill="#d1242f" fill-opacity=".75"'), Choice("from the same", 'fill="none"'))
    ratios = s.space.ratios_of(net)
    widths = [
        Choice(f"χ = {r}", f'fill="{_BLUE}" fill-opacity="{0.12 + 0.88 * k / max(1, len(ratios) - 1):.2f}"')
        for k, r in enumerate(ratios)
    ]

    def rows(kind: str, index: int, first: int, columns: Sequence[int]) -> dict[int, list[list[float]]]:
        count = len(steps[0][kind][index])
        return {first + i: [[float(step[kind][index][i][j]) for j in columns] for step in steps] for i in range(count)}

    found = [Bands(f"α at 1/{rate}", [operators[j] for j in order], rows("alpha", k, k, order)) for k, rate in enumerate(RATES)]
    found += [Bands(f"β at 1/{RATES[k]}", merge, rows("beta", k - 1, k + 1, (0, 1))) for k in (1, 2)]
    if len(ratios) > 1:
        columns = range(len(ratios))
        found += [Bands(f"γ at 1/{rate}", widths, rows("ratio", k, max(k, 1), columns)) for k, rate in enumerate(RATES)]
    return found


def _mean_operators(s: FasterSegResult, rows: Sequence[tuple[int, Any]], net: Net) -> list[Line]:
    found = []
    for name, (words, _, look) in OPERATORS.items():
        if name in s.space.operators:
            k = s.space.operators.index(name)
            found.append(Line(words, [(i, _mean(p[net]["alpha"], k)) for i, p in rows], look))
    return found


def _mean_ratios(s: FasterSegResult, rows: Sequence[tuple[int, Any]]) -> list[Line]:
    count = len(s.space.ratios)
    looks = [f"blue o{1 + round(4 * k / max(1, count - 1))}" for k in range(count)]
    return [
        Line(f"χ = {r}", [(i, _mean(p["student"]["ratio"], k)) for i, p in rows], looks[k])
        for k, r in enumerate(s.space.ratios)
    ]


def _mean(tables: Sequence[Sequence[Sequence[float]]], column: int) -> float:
    return 100 * fmean(row[column] for rows in tables for row in rows)


def _last_table(s: FasterSegResult, p: Mapping[str, Any], net: Net) -> str:
    ratios = s.space.ratios_of(net)
    body = []
    for k, rate in enumerate(RATES):
        for i, row in enumerate(p["alpha"][k]):
            layer = k + i
            merge = p["beta"][k - 1][i - 1][0] if k and i else None
            tensor = layer - max(k, 1)
            widths = p["ratio"][k][tensor] if len(ratios) > 1 and 0 <= tensor < len(p["ratio"][k]) else ()
            wide = ", ".join(f"{r} {percent(v, 0)}" for r, v in zip(ratios, widths, strict=False)) or NONE
            body.append([f"1/{rate}", str(layer), *(percent(v) for v in row), percent(merge), wide])
    names = (OPERATORS[o][0] for o in s.space.operators)
    return table(("scale", "layer", *names, "from the finer scale", "width of what enters"), body, 2)


# Table 2


def sensitivity(run: RunFolder) -> str:
    """Table 2: how far the supernet's latency moves with each kind of choice, and how Eq. 3 weighs it."""
    s = run.fasterseg
    found = s.summary.get("sensitivity")
    if not found:
        return note("The search did not say what its latency is sensitive to.")
    weights = dict(zip(KINDS, s.summary["latency_weights"] or [None] * len(KINDS), strict=True))  # none where coupled
    largest = max([abs(float(found[k])) for k in KINDS] + [1e-12])
    body = []
    for k, words in KINDS.items():
        delta = float(found[k])
        ours, (theirs, weight) = weights[k], PAPER[k]
        weighed = None if ours is None else delta * ours
        shown = bar(abs(delta) / largest, f"{delta:.4g} {s.unit}")
        body.append([clean(words), shown, *(_cell(v) for v in (delta, ours, weighed, theirs, weight))])
    head = ("granularity", "", f"Δ, {s.unit}", "weight w", "w · Δ", "paper: Δ, ms", "paper: w")
    regular = (
        "Eq. 3 weighs the three apart."
        if s.summary["decoupled"]
        else "This search took one coupled term, so that the weights did not count."
    )
    words = (
        f"Difference of the supernet's {s.resource_words} between the costliest and the cheapest choices of one kind, the "
        f"others even, at {s.input_hw[0]}x{s.input_hw[1]} (paper, Table 2: a GTX 1080 Ti, 1024x2048). {regular}"
    )
    return table(head, body, 2, ("", "wide")) + remark(words)


# Figure 4


def collapse(run: RunFolder) -> str:
    """Figure 4: latency and mIoU of the networks that the logits mean, by epoch; other searches below, on the same axes where
    their numbers are of the same kind."""
    runs = [r for r in (run, *run.against) if r.method == "fasterseg"]
    courses = [(r, r.fasterseg.course("student")) for r in runs]
    if not any(courses[0][1].values()):
        return note("No network was evaluated on the way.")
    seen = [(_costs_of(r.fasterseg), f) for r, course in courses for row in course.values() for _, f in row]
    scores = [100 * f.val_miou for _, f in seen]
    parts = []
    for r, found in courses:
        s = r.fasterseg
        latencies = [f.latency for costs, f in seen if costs == _costs_of(s)]
        chosen = s.chosen("student")
        order = sorted(found, key=lambda scales: (chosen is None or scales != chosen.scales, scales))
        names = {k: branch_words(k) + (", chosen" if chosen and k == chosen.scales else "") for k in order}
        slow = [Line(names[k], [(i, f.latency) for i, f in found[k]], LINES[k]) for k in order]
        good = [Line(names[k], [(i, 100 * f.val_miou) for i, f in found[k]], LINES[k]) for k in order]
        level = _level(s, latencies) if latencies else None
        charts = figure(
            lines(slow, "epoch", f"{s.resource_words} of the network, {s.unit}", s.unit, level=level, covers=latencies)
        )
        charts += figure(lines(good, "epoch", "mIoU in the supernet, %", "%", covers=scores))
        kind = "decoupled" if s.summary["decoupled"] else "coupled"
        head = f"<h3>{clean(r.name)}: {kind} {clean(s.resource_words)} term</h3>" if len(courses) > 1 else ""
        parts.append(f'{head}<div class="pair" style="margin-bottom:16px">{charts}</div>')
    words = (
        "The student as the logits mean it after each epoch, with each set of branches. The mIoU is the supernet's by its head "
        "for these branches, with all operators mixed. "
        "A search collapses when it ends among fast networks that label badly."
    )
    body = [
        [str(i), clean(f.branches), number(f.latency, 3), percent(f.val_miou, 2), number(f.target, 4)]
        for scales in courses[0][1]
        for i, f in courses[0][1][scales]
    ]
    columns = (
        "epoch",
        "branches",
        f"{run.fasterseg.resource_words}, {run.fasterseg.unit}",
        "mIoU in the supernet",
        "target (Eq. 5)",
    )
    numbers = details("Every network as numbers", table(columns, body, 2))
    return "".join(parts) + remark(words) + numbers


def _costs_of(s: FasterSegResult) -> tuple[str, str, tuple[int, int]]:
    """What a search's costs are of; only those of the same are on one axis."""
    return s.resource, s.unit, s.input_hw


def _level(s: FasterSegResult, latencies: Sequence[float]) -> tuple[str, float] | None:
    """The target latency, where it is near enough to what was found not to flatten the chart."""
    target = float(s.summary["target"]["T"])
    near = min(latencies) / 1.5 <= target <= max(latencies) * 1.5
    return (f"T = {target:.4g} {s.unit}", target) if near else None


# Figure 6


def found(run: RunFolder) -> str:
    """Figure 6: the networks of the last epoch, the chosen ones drawn."""
    s = run.fasterseg
    if not s.networks:
        return note("The search found no network: it ended with its pretraining.")
    body, pictures, others = [], "", ""
    sections = () if run.searches_only else ((run.teacher, "Teacher"), (run.model, "Network"))
    trained = {m.arch.digest: section for m, section in sections if m is not None}
    for f in sorted(s.networks, key=lambda f: (f.net, f != s.chosen(f.net), f.scales)):
        chosen = f == s.chosen(f.net)
        numbers = [number(f.latency, 4), percent(f.val_miou, 2), number(f.target, 4)]
        numbers += [] if s.resource == "macs" else [number(macs(f.arch, s.task, s.input_hw) / 1e9, 4)]
        numbers += [number(params(f.arch, s.task) / 1e6, 3), _cells(f)]
        body.append([clean(f.net), clean(f.branches), "chosen" if chosen else "", *numbers])
        name = f"{f.net.title()}, branches to {f.branches}"
        if f.arch.digest in trained:
            pictures += remark(f"{name}: drawn under {trained[f.arch.digest]}.")
            continue
        picture = figure(draw(f.arch, s.task, s.input_hw), "", "drawing")
        if chosen:
            pictures += f"<h3>{clean(name)}</h3>{picture}"
        else:
            others += details(name, picture)
    compute = () if s.resource == "macs" else ("GMACs",)
    columns = (f"{s.resource_words}, {s.unit}", "mIoU in the supernet", "target", *compute, "M parameters", "cells")
    t = s.summary["target"]
    w = f"{t['alpha']:g}" if t["alpha"] == t["beta"] else f"{t['alpha']:g} up to T and {t['beta']:g} above"
    words = (
        f"The target is mIoU · ({s.resource_words} / T)^w with T = {t['T']:g} {s.unit} and w = {w} (Eq. 5 and 6). "
        "By it is chosen where the branches end."
    )
    if run.budget is not None:
        words += f" The run's network had to keep within its budget of {run.budget:.4g} {s.unit}."
    if s.pruned is not None and run.arch is not None:
        words += f" The run's network is none of these: it is the pruned teacher, with branches to {s.pruned.branches}."
        if run.arch.digest in trained:
            pictures = remark(f"Pruned teacher: drawn under {trained[run.arch.digest]}.") + pictures
        else:
            pictures = f"<h3>Pruned teacher</h3>{figure(draw(run.arch, s.task, s.input_hw), '', 'drawing')}{pictures}"
    shown = table(("", "branches", "", *columns), body, 3) + remark(words)
    return f'{shown}<div style="margin-top:16px">{pictures}{others}</div>'


def _cells(f: Found) -> str:
    """Cells of each branch, and how many are shared."""
    if not isinstance(f.arch, FasterSeg):
        return NONE
    counts = " + ".join(str(len(b)) for b in f.arch.branches)
    return f"{counts}, {f.arch.shared} shared" if len(f.arch.branches) > 1 else counts


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _cell(value: Any) -> str:
    return NONE if value is None else f"{float(value):.4g}"


FASTERSEG_SECTIONS: list[Section] = [
    ("search", "Search", course),
    ("probabilities", "Probabilities over time", probabilities),
    ("sensitivity", "Sensitivity", sensitivity),
    ("collapse", "Cost and accuracy over the epochs", collapse),
    ("found", "What the search found", found),
]
"""Sections of a run with a FasterSeg search."""
