"""Write the generated tables of docs/measurements.md from docs/measurements/*.json: python bench/tables.py [--check]

A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgesmith.deploy.files import read_json, write_text

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    page = DOCS / "measurements.md"
    old = page.read_text()
    new = re.sub(
        r"(<!-- table (\S+) -->\n).*?(<!-- end -->)",
        lambda m: m[1] + TABLES[m[2]](read_json(DOCS / "measurements" / f"{m[2].partition('-')[0]}.json")) + m[3],
        old,
        flags=re.DOTALL,
    )
    if "--check" in sys.argv:
        sys.exit(0 if new == old else "docs/measurements.md is not what its JSON files say; run python bench/tables.py")
    write_text(page, new)


def camvid(rows: list[dict[str, Any]]) -> str:
    tuned = [r for r in rows if "seed" in r]
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


def camvid_classes(rows: list[dict[str, Any]]) -> str:
    tuned = [r for r in rows if "seed" in r]
    street = next((r for r in rows if r["job"] == "street alone"), None)
    lines = []
    for name in tuned[0]["iou"]:
        alone = "-" if street is None else f"{street['iou'][name]:.3f}"
        lines.append([name, f"{statistics.mean(r['iou'][name] for r in tuned):.3f}", alone])
    alone = "-" if street is None else f"{street['miou']:.3f}"
    lines.append(["mean", f"{statistics.mean(r['miou'] for r in tuned):.3f}", alone])
    return markdown(["class", "IoU, fine-tuned (mean of seeds)", "IoU, trained on street alone"], lines)


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


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "".join("| " + " | ".join(row) + " |\n" for row in lines)


TABLES: dict[str, Callable[[Any], str]] = {
    "camvid": camvid,
    "camvid-classes": camvid_classes,
    "frame_loop": frame_loop,
    "train_step": train_step,
}

if __name__ == "__main__":
    main()
