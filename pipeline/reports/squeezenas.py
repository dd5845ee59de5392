"""A SqueezeNAS search in a report: its course, the probabilities that it ended with, the networks that it sampled."""

from __future__ import annotations

import math
from typing import Any

from edgesmith.pipeline.search.squeezenas_space import NAMES

from .charts import line_chart
from .page import NONE, clean, details, figure, note, number, percent, remark, table, tile, tiles
from .plots import Point, Series, candidate_map, scatter
from .run import RunFolder, Section
from .searches import SqueezeNasResult, candidates


def course(run: RunFolder) -> str:
    """Entropy, temperature, expected cost and loss over the epochs."""
    s, rows = run.squeezenas, run.squeezenas.epochs
    target = s.summary["target"]
    charts = ""
    for key, name, unit in (
        ("entropy", "entropy of a block's candidates, nats", "nats"),
        ("temperature", "temperature of Gumbel-softmax", ""),
        ("cost", f"expected cost, {s.unit}", s.unit),
        ("pixel_loss", "cross-entropy", ""),
    ):
        points = [(row["epoch"], row[key]) for row in rows]
        level = ("target", target) if key == "cost" and target is not None else None
        charts += figure(line_chart(points, "epoch", name, [("last", len(rows) - 1)], unit, level))
    pressed = "all of the cost counts" if target is None else f"what is above {target:.4g} {s.unit} counts"
    words = (
        f"Space {s.summary['space']}, sparing with {s.resource_words}: the loss is cross-entropy + "
        f"{s.summary['alpha']:g} a {s.unit} of expected cost, of which {pressed}. The entropy is the mean over the blocks: "
        f"{math.log(len(NAMES)):.2f} nats when all {len(NAMES)} candidates are alike, 0 when the network is settled."
    )
    keys = ("loss", "pixel_loss", "cost", "entropy", "temperature")
    body = [
        [str(int(row["epoch"])), *(number(row[k], 4) for k in keys), str(row["alive"]), str(len(row["removed"]))]
        for row in rows
    ]
    head = ("epoch", "loss", "cross-entropy", f"expected cost, {s.unit}", "entropy, nats", "temperature", "alive", "removed")
    every = details("Every epoch", table(head, body, text_columns=0))
    return f'{_headline(s)}<div class="pair" style="margin-top:18px">{charts}</div>{remark(words)}{every}'


def _headline(s: SqueezeNasResult) -> str:
    last, blocks = s.epochs[-1], len(s.space)
    failed = len(s.samples) - len(s.scored)
    by = ", by its table" if s.resource == "latency" else ""
    items = []
    if s.chosen is not None:
        items += [
            tile("Found network", f"{s.chosen['cost']:.4g}", s.unit, f"{s.resource_words}{by}"),
            tile("Its mIoU in the supernet", f"{100 * s.chosen['val_miou']:.1f}", "%", "on the val split, before training"),
        ]
    front = f"{sum(row['on_front'] for row in s.scored)} on the front"
    items += [
        tile("Networks sampled", str(len(s.samples)), "", f"{front}, {failed} failed" if failed else front),
        tile("Candidates left", str(last["alive"]), f"of {blocks * len(NAMES)}", f"in {blocks} blocks"),
        tile("Entropy", number(last["entropy"], 2), "nats", f"{math.log(len(NAMES)):.2f} at the start"),
    ]
    return tiles(items)


def probabilities(run: RunFolder) -> str:
    """Which candidates each block is left with."""
    s = run.squeezenas
    p, removed = s.summary["probabilities"], s.removed
    chosen = None if s.chosen is None else candidates(s.chosen)
    caption = (
        "Probability of each candidate at the end, in percent; strength grows with its square root. Names give the kernel k, "
        "dilation d, expansion e and groups g. ×12: removed after epoch 12. A frame: in the found network."
    )
    rows = []
    for i, row in enumerate(p):
        living = sorted((j for j in range(len(NAMES)) if (i, j) not in removed), key=lambda j: -row[j])
        left = sorted((removed[i, j], NAMES[j]) for j in range(len(NAMES)) if (i, j) in removed)
        said = ", ".join(f"{NAMES[j]} {percent(row[j], 2)}" for j in living)
        rows.append([str(i), said, ", ".join(f"{name} after {epoch}" for epoch, name in left) or NONE])
    head = ("block", "candidates by probability", "removed, after which epoch")
    every = details("The probabilities as numbers", table(head, rows, 3, ("", "wrap", "wrap")))
    return figure(candidate_map(p, NAMES, removed, chosen), caption, "heat") + every


def pareto(run: RunFolder) -> str:
    """The networks that were sampled: what they cost, how good they are in the supernet, which one was taken."""
    s = run.squeezenas
    if not s.scored:
        return note("None of the sampled networks could be evaluated.")

    def points(rows: list[dict[str, Any]]) -> list[Point]:
        return [Point(row["cost"], 100 * row["val_miou"], _about(row, s.unit)) for row in rows]

    likeliest = s.samples[:1] if s.samples[0]["val_miou"] is not None else []
    series = [
        Series("sampled", "dot", points([row for row in s.scored if not row["on_front"]])),
        Series("on the front", "fill", points([row for row in s.scored if row["on_front"]]), stairs=True),
        Series("found network", "best", points([] if s.chosen is None else [s.chosen])),
        Series("most probable network", "hoop", points(likeliest)),
    ]
    limit = None if run.budget is None else (f"budget {run.budget:.4g} {s.unit}", run.budget)
    x_name = s.unit if s.resource == "params" else f"{s.resource_words}, {s.unit}"
    chart = scatter(series, x_name, "mIoU in the supernet, %", size=(720, 380), limit=limit)
    words = (
        "Each point is a network drawn from the final probabilities, evaluated with the supernet's weights on the val split. "
        f"The line is the front: no sampled network is as cheap and better. {len(s.samples) - len(s.scored)} of "
        f"{len(s.samples)} could not be evaluated."
    )
    body = []
    for row in sorted(s.scored, key=lambda row: float(row["cost"])):
        is_a = ((row is s.chosen, "found"), (row is s.samples[0], "most probable"), (row["on_front"], "front"))
        marks = ", ".join(name for good, name in is_a if good)
        numbers = [number(row["macs"] / 1e9, 4), number(row["params"] / 1e6, 3), percent(row["val_miou"], 2)]
        body.append([clean(marks) or NONE, number(row["cost"], 4), *numbers, f"<code>{clean(row['arch_digest'][:12])}</code>"])
    head = ("", f"cost, {s.unit}", "GMACs", "M parameters", "mIoU in the supernet", "digest")
    return figure(chart, words) + details("The networks as numbers", table(head, body))


def _about(row: dict[str, Any], unit: str) -> str:
    skipped = row["choice"].count("skip")
    return (
        f"{row['arch_digest'][:12]}: {row['cost']:.4g} {unit}, {row['macs'] / 1e9:.3g} GMACs, "
        f"mIoU {percent(row['val_miou'], 2)} in the supernet, {len(row['choice']) - skipped} blocks, {skipped} skipped"
    )


SQUEEZENAS_SECTIONS: list[Section] = [
    ("search", "Search", course),
    ("probabilities", "Candidates by block", probabilities),
    ("pareto", "Sampled networks", pareto),
]
"""Sections of a run that searched by SqueezeNAS."""
