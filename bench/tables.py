"""Write the generated tables of docs/measurements.md from docs/measurements/*.json: python bench/tables.py [--check]

A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import itertools
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgesmith.bench import tables_fasterseg
from edgesmith.bench.markdown import NOT_RUN, Rows, against_table, markdown, row
from edgesmith.deploy.files import read_json, write_text

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    page = DOCS / "measurements.md"
    old = page.read_text()
    new = re.sub(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", lambda m: m[1] + made(m[2]) + m[3], old, flags=re.DOTALL)
    if "--check" in sys.argv:
        sys.exit(0 if new == old else "docs/measurements.md is not what its JSON files say; run python bench/tables.py")
    write_text(page, new)


def made(name: str) -> str:
    """The table called `name`, of what its file holds."""
    record = DOCS / "measurements" / f"{name.partition('-')[0]}.json"
    return TABLES[name](read_json(record)) if record.is_file() else f"{NOT_RUN}\n"


def camvid(rows: Rows, network: str | None = None) -> str:
    tuned = _seeds(rows, network)
    if not tuned:
        return f"{NOT_RUN}\n"
    lines = [
        [
            str(r["seed"]),
            f"{r['miou']:.4f}",
            f"{r['torch_miou']:.4f}",
            f"{r['pixel_agreement']:.6f}",
            f"{r['pixel_accuracy']:.4f}",
            f"{r['best_val']['miou']:.4f} (epoch {r['best_val']['epoch']})",
            f"{r['last_val_miou']:.4f}",
        ]
        for r in tuned
    ]
    mious = [r["miou"] for r in tuned]
    spread = f" ± {statistics.stdev(mious):.4f}" if len(mious) > 1 else ""
    lines.append([f"mean of {len(mious)}", f"**{statistics.mean(mious):.4f}**{spread}", "", "", "", "", ""])
    heads = [
        "seed",
        "test mIoU, engine",
        "test mIoU, torch",
        "equal labels",
        "pixel accuracy",
        "best val mIoU",
        "last val mIoU",
    ]
    return markdown(heads, lines)


def _seeds(rows: Rows, network: str | None) -> Rows:
    """The rows of one network's trainings; None: LAT-S, whose rows came first and do not name it."""
    return [r for r in rows if "seed" in r and r.get("network") == network]


def camvid_student(rows: Rows) -> str:
    return camvid(rows, "fasterseg-student")


def camvid_classes(rows: Rows) -> str:
    tuned, students = _seeds(rows, None), _seeds(rows, "fasterseg-student")
    street = row(rows, "street alone")
    lines = []
    for name in tuned[0]["iou"]:
        alone = "-" if not street else f"{street['iou'][name]:.3f}"
        scratch = f"{statistics.mean(r['iou'][name] for r in students):.3f}" if students else NOT_RUN
        lines.append([name, f"{statistics.mean(r['iou'][name] for r in tuned):.3f}", scratch, alone])
    alone = "-" if not street else f"{street['miou']:.3f}"
    scratch = f"{statistics.mean(r['miou'] for r in students):.3f}" if students else NOT_RUN
    lines.append(["mean", f"{statistics.mean(r['miou'] for r in tuned):.3f}", scratch, alone])
    heads = ["class", "IoU, LAT-S fine-tuned (mean of seeds)", "FasterSeg student from scratch (mean)", "LAT-S on street alone"]
    return markdown(heads, lines)


def frame_loop(found: dict[str, Any]) -> str:
    rows = [
        [name, *(f"{found[key][p]:.2f}" for p in ("p10", "p50", "p90"))]
        for name, key in (("naive loop, ms", "naive_ms"), ("graph, ms", "graph_ms"), ("naive / graph", "ratio"))
    ]
    return markdown(["a frame", "p10", "p50", "p90"], rows)


def train_step(found: dict[str, Any]) -> str:
    rows = [
        [
            row["precision"],
            "channels_last" if row["channels_last"] else "NCHW",
            "kept" if row["freed_memory_kept"] else "given back",
            f"{row['step_s'] * 1e3:.0f}",
            "{:.2f} ({:.2f} to {:.2f})".format(*row["faster"]),
        ]
        for row in found["rows"]
    ]
    return markdown(["precision", "layout", "freed memory", "step, ms", "faster than the first, median (range)"], rows)


PRINTED = {"plain": (1.21, 0.59, 1.0), "two groups": (0.60, 0.29, 0.87), "dilated by 2, padding 1": (1.10, 0.59, 1.67)}
PRINTED["zoomed"] = (0.30, 0.59, 0.60)
"""Of Table 1 of the FasterSeg paper: G "FLOPs", M parameters, latency as a ratio to the first row's."""


def operators(found: dict[str, Any]) -> str:
    rows = []
    for r in found["rows"]:
        ratio, printed = r["ratio"], PRINTED.get(r["operator"])
        rows.append(
            [
                r["operator"],
                f"{r['macs'] / 1e9:.3f}",
                f"{printed[0]:.2f}" if printed else "-",
                f"{r['weights'] / 1e6:.3f}",
                f"{printed[1]:.2f}" if printed else "-",
                "{}x{}".format(*r["output_hw"]),
                str(r["sees_rows"]),
                f"{ratio['p50']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f})",
                f"{printed[2]:.2f}" if printed else "-",
            ]
        )
    heads = [
        "3x3, 256 to 256",
        "GMACs",
        "paper",
        "M weights",
        "paper",
        "output",
        "sees rows",
        "time over the plain one's",
        "paper",
    ]
    return markdown(heads, rows)


def squeezenas_networks(rows: Rows) -> str:
    timed = row(rows, "time the five").get("networks")
    if timed is None:
        return f"{NOT_RUN}\n"
    scores: dict[str, list[float]] = {name: [r["test_miou"] for r in rows if r.get("network") == name] for name in timed}
    lines = []
    for name, r in timed.items():
        miou = [f"{m:.4f}" for m in scores[name]] + [NOT_RUN] * (2 - len(scores[name]))
        middle = f"{statistics.mean(scores[name]):.4f}" if scores[name] else "-"
        latency = f"{r['median_ms']:.2f} ± {r['error_ms']:.2f}"
        rate = f"{r['gmacs'] / r['median_ms'] * 1e3:.1f}"
        lines.append(
            [name, f"{r['gmacs']:.3f}", f"{r['params'] / 1e6:.3f}", f"{r['table_ms']:.2f}", latency, rate, *miou, middle]
        )
    means = sorted(statistics.mean(s) for name, s in scores.items() if name.startswith("random") and s)
    if means:
        lines.append([f"median of {len(means)} random", *[""] * 7, f"{statistics.median(means):.4f}"])
    heads = ["network", "GMACs", "M params", "table, ms", "measured, ms", "GMAC/s", "test mIoU, seed 0", "seed 1", "mean"]
    return markdown(heads, lines)


def squeezenas_blocks(rows: Rows) -> str:
    found = {r["job"].removeprefix("search for "): r["choice"] for r in rows if r["job"].startswith("search for ")}
    if not found:
        return f"{NOT_RUN}\n"
    return markdown(
        ["block", *found], [[str(i), *(c[i] for c in found.values())] for i in range(len(next(iter(found.values()))))]
    )


def squeezenas_searches(rows: Rows) -> str:
    searches = [r for r in rows if r["job"].startswith("search for ")]
    if not searches:
        return f"{NOT_RUN}\n"
    lines = [
        [
            r["job"].removeprefix("search for "),
            f"{r['target']:.3g}",
            f"{100 * r['removal']:.3g} %",
            f"{r['alive'][-1]} of 260",
            f"{r['entropy'][-1]:.2f}",
            f"{r['cost']:.3g}",
            f"{r['val_miou_in_supernet']:.3f}",
        ]
        for r in searches
    ]
    heads = [
        "search",
        "target, GMACs or ms",
        "removal below",
        "candidates left",
        "entropy, nats",
        "cost of the chosen, GMACs or ms",
        "its val mIoU as a path",
    ]
    return markdown(heads, lines)


def squeezenas_removal(rows: Rows) -> str:
    found = row(rows, "time early removal")
    if not found:
        return f"{NOT_RUN}\n"
    steps = [
        ["candidates at the start of epoch", *map(str, range(1, len(found["alive"]) + 1))],
        ["alive", *map(str, found["alive"])],
        ["a step, s", *(f"{s:.2f}" for s in found["step_s"])],
    ]
    said = (
        f"All steps: {found['with_s']} s with early removal, {found['without_s']} s without, a share of {found['share']:.2f}.\n"
    )
    return markdown(steps[0], steps[1:]) + "\n" + said


def squeezenas_table(rows: Rows) -> str:
    return against_table(row(rows, "time random networks"))


def zoo_precision(rows: Rows) -> str:
    lines = [
        [
            row["network"],
            row["precision"],
            ", ".join(f"{target} {n}" for target, n in row["findings"].items() if n) or "none",
            "refused" if "refused" in row else f"{row['plan_bytes'] / 1e6:.2f}",
            "-" if "refused" in row else f"{row['build_s']:.1f}",
        ]
        for row in rows
    ]
    return markdown(["network", "precision", "findings, any target", "plan, MB", "build, s"], lines)


def precision(rows: Rows) -> str:
    trained = [r for r in rows if "precision" in r]
    lines = [
        [n, "fp32", "-", *["-"] * 2, f"{m:.4f}", *["-"] * 3] for n, m in {r["network"]: r["fp32"] for r in trained}.items()
    ]
    for r in trained:
        how = "" if "method" not in r else f", {r['method']}" + (", fallback" if r["fallback"] else "")
        if "refused" in r:
            lines.append([r["network"], f"int8{how}", r["refused"], *[""] * 6])
            continue
        held = "-" if "held_back" not in r else str(len(r["held_back"]))
        lines.append(
            [
                r["network"],
                r["precision"] + how,
                f"{r['int8_share']:.1%}" if "int8_share" in r else "-",
                held,
                f"{r['held_out_drop']:.2f} ± {r['held_out_uncertainty']:.2f}" if "held_out_drop" in r else "-",
                f"{r['miou']:.4f}",
                f"{round(100 * (r['fp32'] - r['miou']), 2) + 0.0:.2f} ± {r['uncertainty']:.2f}",
                f"{r['error']:.4f}",
                f"{r['agreement']:.4f}",
            ]
        )
    heads = [
        "network",
        "precision",
        "MACs in INT8",
        "held back",
        "points lost, held-out frames",
        "test mIoU",
        "points lost, test",
        "logit error",
        "equal labels",
    ]
    return markdown(heads, lines)


def precision_imported(rows: Rows) -> str:
    keys = ("fp16_agreement", "fp16_worst", "int8_agreement", "int8_worst")
    lines = [
        [r["job"].removeprefix("imported "), f"{r['frames']}", "{}x{}".format(*r["frame_hw"]), *(f"{r[k]:.4f}" for k in keys)]
        for r in rows
        if r["job"].startswith("imported ")
    ]
    return markdown(["network, frames", "frames", "size", "fp16", "worst frame", "int8", "worst frame"], lines)


SETTINGS = {"default": "fp32", "kept": "fp32, freed memory kept", "bf16": "bf16, freed memory kept"}
SIDES = ["plain, s", "plain, GiB", "supernet, s", "supernet, GiB", "faster, median (range)", "smaller"]


def supernet_step(found: dict[str, Any]) -> str:
    return markdown(["setting", *SIDES], [[name, *sides(found.get(key))] for key, name in SETTINGS.items()])


def fasterseg_step(found: dict[str, Any]) -> str:
    steps = ("weight", "architecture", "pretrain")
    rows = []
    for step, (key, name) in itertools.product(steps, SETTINGS.items()):
        row = found.get(key, {}).get(step)
        rows.append([step, name, *sides(row)])
        if row is not None and "plain_lean_s" in row:
            rows.append([f"{step}, plain without weights' gradients", name, *lean_sides(row)])
    return markdown(["step", "setting", *SIDES], rows)


def lean_sides(row: dict[str, Any]) -> list[str]:
    """The plain step that leaves out what the supernet's does, beside it; ratios of medians."""
    plain_s, plain_gib, fast_s, fast_gib = (row[f"{side}_{unit}"] for side in ("plain_lean", "fast") for unit in ("s", "gib"))
    shown = [f"{v:.2f}" for v in (plain_s, plain_gib, fast_s, fast_gib)]
    return [*shown, f"{plain_s / fast_s:.2f}", f"{plain_gib / fast_gib:.2f}"]


def sides(row: dict[str, Any] | None) -> list[str]:
    """A plain step and a supernet's, side by side."""
    if row is None:
        return [NOT_RUN] * len(SIDES)
    faster = "{:.2f} ({:.2f} to {:.2f})".format(*row["faster"])
    plain, fast = ([f"{row[f'{side}_s']:.2f}", f"{row[f'{side}_gib']:.2f}"] for side in ("plain", "fast"))
    return [*plain, *fast, faster, f"{row['smaller']:.2f}"]


TABLES: dict[str, Callable[[Any], str]] = {
    "camvid": camvid,
    "camvid-classes": camvid_classes,
    "camvid-student": camvid_student,
    "frame_loop": frame_loop,
    "squeezenas-blocks": squeezenas_blocks,
    "squeezenas-networks": squeezenas_networks,
    "squeezenas-removal": squeezenas_removal,
    "squeezenas-searches": squeezenas_searches,
    "squeezenas-table": squeezenas_table,
    "supernet_step": supernet_step,
    "fasterseg_step": fasterseg_step,
    "train_step": train_step,
    "precision": precision,
    "precision-imported": precision_imported,
    "operators": operators,
    "zoo_precision": zoo_precision,
    **tables_fasterseg.TABLES,
}

if __name__ == "__main__":
    main()
