"""The FasterSeg study's tables for docs/measurements.md (see tables.py), from any part of its jobs' rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from edgesmith.bench.markdown import NOT_RUN, Rows, against_table, markdown, row
from edgesmith.pipeline.reports.fasterseg import PAPER

DISTILLED, RELEASED = " with distillation", " with distillation as released"
"""Behind the name of a network that learns from the teacher: by Eq. 4, and by the divergence of the authors' code."""
SEEDS = (0, 1)
"""Of every training but the teachers'."""
ABLATION: dict[str, tuple[str, tuple[float, float] | None]] = {
    "O, s at χ = 8; b = 1": ("", (66.9, 177.8)),
    "O, s at χ = 8; b = 2": ("", (69.5, 119.9)),
    "S: O, s, χ; b = 2": ("student", (70.5, 163.9)),
    "T → pruned T": (f"pruned teacher{DISTILLED}", (66.1, 146.7)),
    "T → S (FasterSeg)": (f"student{DISTILLED}", (73.1, 163.9)),
    "T → S, divergence of the authors' code": (f"student{RELEASED}", None),
    "T itself, trained longer": ("teacher", None),
    "S of the search without decoupling": ("student without decoupling", None),
    "random, as fast as S by the table: 1": ("random 1", None),
    "random, 2": ("random 2", None),
    "random, 3": ("random 3", None),
}
"""A row of Table 3 or of ours -> what was trained for it, and the paper's mIoU in percent and FPS."""
KINDS = {"operator": "operator O", "resolution": "resolution s", "width": "width χ"}


def known(rows: Rows, trained: str) -> dict[str, Any]:
    """What is known of the network that was trained: arch, gmacs, params, table_ms, and when it was timed median_ms and
    error_ms."""
    network = trained.removesuffix(RELEASED).removesuffix(DISTILLED)
    found, timed = (row(rows, job).get("networks", {}).get(network, {}) for job in ("derive", "time the networks"))
    return {**found, **timed}


def scores(rows: Rows, trained: str) -> dict[int, float]:
    """Test mIoU by seed of what was trained: a network's name, and DISTILLED or RELEASED where it learnt from the teacher."""
    return {seed: r["test_miou"] for seed in SEEDS if (r := row(rows, f"train {trained}, seed {seed}"))}


def networks(rows: Rows) -> str:
    """Table 3 as far as it was run, and what it is held against."""
    lines = []
    for name, (trained, paper) in ABLATION.items():
        n, found = known(rows, trained), scores(rows, trained)
        latency = f"{n['median_ms']:.2f} ± {n['error_ms']:.2f}" if "median_ms" in n else NOT_RUN
        costs = [f"{n['gmacs']:.3f}", f"{n['params'] / 1e6:.3f}", f"{n['table_ms']:.2f}"] if "gmacs" in n else [NOT_RUN] * 3
        seeds = [f"{found[seed]:.4f}" if seed in found else NOT_RUN for seed in SEEDS]
        middle = f"{statistics.mean(found.values()):.4f}" if len(found) > 1 else "-"
        lines.append([name, *costs, latency, *seeds, middle, *(f"{p:.1f}" if p else "-" for p in paper or (None, None))])
    controls = [list(scores(rows, trained).values()) for trained, _ in ABLATION.values() if trained.startswith("random")]
    if means := [statistics.mean(found) for found in controls if len(found) == len(SEEDS)]:
        lines.append([f"median of {len(means)} random", *[""] * 6, f"{statistics.median(means):.4f}", "", ""])
    heads = ["setting", "GMACs", "M params", "table, ms", "measured, ms", "test mIoU, seed 0", "seed 1", "mean"]
    return markdown([*heads, "paper: mIoU, %", "paper: FPS"], lines)


def searches(rows: Rows) -> str:
    """The two searches: their terms and where they ended."""
    lines = []
    for job in ("co-search", "search without decoupling"):
        r = row(rows, job)
        if not r:
            lines.append([job, *[NOT_RUN] * 7])
            continue
        weights = ", ".join(f"{w:.4g}" for w in r["latency_weights"]) if r["decoupled"] else "one term"
        entropy = r["entropy"][-1]
        course = f"{r['relaxed_ms'][0]:.1f} to {r['relaxed_ms'][-1]:.1f}"
        best = _chosen(r, r["evaluated"][-1]["networks"], "student")
        settled = ", ".join(f"{entropy[k]:.2f}" for k in ("alpha", "beta", "ratio"))
        found = [_branches(best["scales"]), f"{best['latency']:.2f}"] if best else [NOT_RUN] * 2
        lines.append([job, f"{r['lambda']:.4g}", f"{r['target']['T']:.4g}", weights, course, settled, *found])
    heads = ["search", "λ, 1/ms", "T, ms", "w1, w2, w3", "relaxed latency, ms", "entropy of O, s, χ, nats"]
    return markdown([*heads, "student's branches", "its sum in the table, ms"], lines)


def collapse(rows: Rows) -> str:
    """Figure 4: the student of each evaluated epoch, with the branches that were chosen in the end."""
    pair = {job: row(rows, job) for job in ("co-search", "search without decoupling")}
    epochs = sorted({e["epoch"] for r in pair.values() for e in r.get("evaluated", [])})
    lines = []
    for epoch in epochs:
        line = [str(epoch)]
        for r in pair.values():
            there = next((e["networks"] for e in r.get("evaluated", []) if e["epoch"] == epoch), None)
            best = None if there is None else _chosen(r, there, "student")
            line += [NOT_RUN] * 2 if best is None else [f"{best['latency']:.2f}", f"{best['val_miou']:.3f}"]
        lines.append(line)
    return markdown(["epoch", *(f"{job}: {what}" for job in pair for what in ("table, ms", "val mIoU in the supernet"))], lines)


def sensitivity(rows: Rows) -> str:
    """Table 2: of this device, of the authors' times, and as printed; with the weights that footnote 1 makes of them."""
    r = row(rows, "sensitivity")
    lines = []
    for i, (kind, words) in enumerate(KINDS.items()):
        line = [words]
        for side in ("here", "gtx_1080_ti"):
            found = r.get(side)
            line += [f"{found['delta_ms'][kind]:.3f}", f"{found['weights'][i]:.4f}"] if found else [NOT_RUN] * 2
        lines.append([*line, *(f"{v:g}" for v in PAPER[kind])])
    heads = [f"{side}: {what}" for side in ("this CPU", "the authors' table", "paper") for what in ("Δ, ms", "w")]
    return markdown(["granularity", *heads], lines)


def gradients(rows: Rows) -> str:
    """What pulls at the student's architecture when the searches begin."""
    r = row(rows, "gradients")
    lines = []
    for kind, words in {"alpha": "α, operators", "beta": "β, resolutions", "ratio": "γ, widths"}.items():
        pulls = ("batch", "mean", "decoupled", "coupled")
        lines.append([words, *(f"{1e3 * r[of][kind]:.2f}" if r else NOT_RUN for of in pulls)])
    heads = [
        f"{pull}, 1e-3" for pull in ("labels, one batch", "labels, common to all", "latency, decoupled", "latency, coupled")
    ]
    return markdown(["gradient of", *heads], lines)


def table(rows: Rows) -> str:
    """Figure 3: sums of the table against whole random networks."""
    return against_table(row(rows, "time random networks"))


def bundle(rows: Rows) -> str:
    r = row(rows, "student's bundle")
    line = [f"{r['test_miou']:.4f}", f"{r['torch_miou']:.4f}", f"{r['pixel_agreement']:.6f}"] if r else [NOT_RUN] * 3
    return markdown(["the student's bundle", "test mIoU, engine", "test mIoU, torch", "equal labels"], [["360x480", *line]])


def _chosen(search: dict[str, Any], networks: Rows, net: str) -> dict[str, Any] | None:
    """Of the networks of one epoch, that with the branches that `search` chose in the end."""
    return next((n for n in networks if n["net"] == net and n["scales"] == search["chosen"][net]), None)


def _branches(scales: Sequence[int]) -> str:
    return " + ".join(f"1/{8 * 2**s}" for s in scales)


TABLES: dict[str, Callable[[Rows], str]] = {
    "fasterseg-networks": networks,
    "fasterseg-searches": searches,
    "fasterseg-collapse": collapse,
    "fasterseg-sensitivity": sensitivity,
    "fasterseg-gradients": gradients,
    "fasterseg-table": table,
    "fasterseg-bundle": bundle,
}
