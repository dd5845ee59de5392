"""Trainings in a report: the network's own, and that of the teacher that it learnt from."""

from __future__ import annotations

import math
from typing import Any

from edgesmith.models.cost import macs, params
from edgesmith.models.draw import draw
from edgesmith.pipeline.artifacts import SIDECAR

from .charts import line_chart
from .page import NONE, details, figure, note, percent, remark, table, tile, tiles
from .run import RunFolder, Section


def training(run: RunFolder) -> str:
    """Loss and validation mIoU over the epochs."""
    if run.history:
        return _from_whom(run) + curves(run.history)
    if run.model is None:
        return note("Not trained yet.")
    return note("There is no history of a training: these weights were imported, not trained in this run.")


def teacher(run: RunFolder) -> str:
    """The network that the run's own learnt from: what it is, how good it became, how it was trained."""
    model = run.teacher
    if model is None:
        return note("The teacher is not trained yet.")
    hw = run.input_hw or (360, 480)
    items = [tile("Teacher", f"{params(model.arch, model.task) / 1e6:.2f}", "M parameters", model.arch.name)]
    items.append(tile("Compute", f"{macs(model.arch, model.task, hw) / 1e9:.3g}", "GMACs", f"a frame of {hw[0]}x{hw[1]}"))
    for name, rows in (("Teacher", run.teacher_history), ("Student", run.history)):
        scored = [(r["val_miou"], r["epoch"]) for r in rows if r.get("val_miou") is not None]
        if scored:
            best, epoch = max(scored, key=lambda pair: float(pair[0]))
            last = f"epoch {epoch}; last {percent(scored[-1][0])}"
            items.append(tile(f"{name}'s best val mIoU", f"{100 * best:.1f}", "%", last))
    drawn = figure(draw(model.arch, model.task, hw), "", "drawing")
    shown = f'{tiles(items)}<div style="margin:18px 0">{drawn}</div>'
    return shown + (curves(run.teacher_history) if run.teacher_history else note("There is no history of its training."))


def curves(rows: list[dict[str, Any]]) -> str:
    """A history as charts and as a table."""
    scored = [(r["epoch"], r["val_miou"]) for r in rows if r.get("val_miou") is not None]
    last = len(rows) - 1
    best = max(range(len(rows)), key=lambda i: -math.inf if rows[i].get("val_miou") is None else rows[i]["val_miou"])
    marks = [("best", best), ("last", last)] if scored else [("last", last)]
    charts = figure(line_chart([(r["epoch"], r["loss"]) for r in rows], "epoch", "training loss", marks))
    if scored:
        epochs = [e for e, _ in scored]
        marks = [(name, epochs.index(rows[i]["epoch"])) for name, i in marks if rows[i]["epoch"] in epochs]
        charts += figure(line_chart([(e, 100 * m) for e, m in scored], "epoch", "validation mIoU, %", marks, "%"))
        kept = "Best is the epoch with the highest mIoU on the validation split; the weights of both epochs are kept."
    else:
        kept = "No epoch was validated."
    body = [
        [
            str(int(r["epoch"])),
            f"{r['loss']:.4f}",
            f"{r['lr']:.3g}" if r.get("lr") is not None else NONE,
            percent(r.get("val_miou"), 2),
        ]
        for r in rows
    ]
    every = details("Every epoch", table(("epoch", "loss", "learning rate", "val mIoU"), body, text_columns=0))
    return f'<div class="pair">{charts}</div>{remark(kept)}{every}'


def _from_whom(run: RunFolder) -> str:
    """What the training learnt from beside the labels, in a sentence; empty where that is nothing."""
    distil = ((run.json(f"train/{SIDECAR}") or {}).get("config") or {}).get("distil")
    if not distil:
        return ""
    who = "the run's teacher" if run.teacher is not None else f"the teacher in {distil['weights']}"
    kl = "KL(student || teacher)" if distil["divergence"] == "student_teacher" else "KL(teacher || student)"
    per = "a pixel" if distil["per"] == "pixel" else "a pixel and class"
    words = f"It learns from the labels and from {who}: the loss has {distil['weight']:g} times {kl}, the mean {per}, in it."
    return remark(words)


TEACHER: Section = ("teacher", "Teacher", teacher)
"""The section of a run that has a teacher."""
