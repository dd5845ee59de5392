"""The published networks that can be built, with what their papers say and what counting gives. Needs no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from edgesmith.models import cost, published
from edgesmith.models.published import Published
from edgesmith.models.trace import Conv

NESTED = {"blocks": 2, "shared": 2, "branches": 3, "aggregation": 2, "auxiliary": 2}
"""How many parts of a convolution's name say to which stage it belongs, where it is more than one."""


def listing() -> list[dict[str, Any]]:
    """Every published network: name, family, task, input_hw, params, params_train, macs, published, note."""
    return [_row(published.read(name)) for name in published.names()]


def detail(name: str, input_hw: tuple[int, int] | None = None) -> dict[str, Any]:
    """One network in full, counted at `input_hw` or at the published size, with its costs and its stages in order.

    Raises ValueError with the nearest name where there is no such network.
    """
    known = published.read(name)
    arch, task, hw = known.arch, known.task, input_hw or known.input_hw
    return {
        **_row(known),
        "input_hw": list(hw),
        "macs": cost.macs(arch, task, hw),
        "weight_bytes": cost.weight_bytes(arch, task),
        "activation_bytes": cost.activation_bytes(arch, task, hw),
        "macs_per_byte": cost.arithmetic_intensity(arch, task, hw),
        "receptive_field_hw": list(cost.receptive_field(arch, hw)),
        "stages": [_stage(name, own) for name, own in _stages(list(cost.convolutions(arch, task, hw)))],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """`listing` as text: a line a network, then what there is to know about its numbers."""
    cells = [["name", "family", "task", "input", "params", "printed", "GMACs", "printed"]]
    notes = []
    for row in rows:
        (task, size, params, gmacs), paper = _facts(row), row["published"]
        printed = [f"{paper[key]}{unit}" if key in paper else "-" for key, unit in (("params_m", " M"), ("macs_g", ""))]
        cells.append([row["name"], row["family"], task, size, params, printed[0], gmacs, printed[1]])
        about = f"Published: {_published(paper)}. Counted over printed: {_difference(row)}. {row['note']}"
        notes += ["", row["name"], textwrap.fill(about, 108, initial_indent="  ", subsequent_indent="  ")]
    return "\n".join([*_aligned(cells), *notes])


def page(value: dict[str, Any]) -> str:
    """`detail` as text."""
    task, size, _, gmacs = _facts(value)
    rows, columns = value["receptive_field_hw"]
    printed = _row(published.read(value["name"]))  # there is nothing to compare with at another size
    at = "" if printed["input_hw"] == value["input_hw"] else f", at {_facts(printed)[1]}"
    training = f"; {value['params_train']:,} with the auxiliary heads of training"
    lines = [
        ["family", value["family"]],
        ["task", task],
        ["parameters", f"{value['params']:,}" + (training if value["params_train"] > value["params"] else "")],
        ["compute", f"{gmacs} GMACs at {size}, batch 1"],
        ["weights", f"{value['weight_bytes'] / 1e6:.2f} MB in fp32"],
        ["maps", f"{value['activation_bytes'] / 1e6:.0f} MB in fp32, read and written by all convolutions"],
        ["intensity", f"{value['macs_per_byte']:.1f} MACs a byte"],
        ["receptive field", f"{rows}x{columns} pixels a logit, pooled context apart"],
        ["published", _published(value["published"])],
        ["difference", _difference(printed) + at],
        ["source", str(value["published"].get("source", "-"))],
    ]
    heads = ["stage", "output", "channels", "params", "MMACs", "MACs, %", "MACs/byte", "receptive field"]
    stages = [
        [
            s["stage"],
            f"{s['output_hw'][0]}x{s['output_hw'][1]}",
            str(s["channels"]),
            f"{s['params']:,}",
            f"{s['macs'] / 1e6:.1f}",
            f"{100 * s['macs'] / value['macs']:.1f}",
            f"{s['macs_per_byte']:.1f}",
            f"{s['receptive_field_hw'][0]}x{s['receptive_field_hw'][1]}",
        ]
        for s in value["stages"]
    ]
    note = textwrap.fill(value["note"], 108)
    return "\n".join([value["name"], *_aligned(lines), "", note, "", *_aligned([heads, *stages])])


def _row(known: Published) -> dict[str, Any]:
    return {
        "name": known.arch.name,
        "family": known.arch.family,
        "task": {"name": "segmentation", "classes": known.task.classes},
        "input_hw": list(known.input_hw),
        "params": cost.params(known.arch, known.task),
        "params_train": cost.params(known.arch, known.task, training=True),
        "macs": cost.macs(known.arch, known.task, known.input_hw),
        "published": known.paper,
        "note": known.note,
    }


def _stages(convs: list[Conv]) -> Iterator[tuple[str, list[Conv]]]:
    """Runs of convolutions that belong together, under the name that they share."""

    def stage(conv: Conv) -> str:
        parts = conv.name.split(".")
        return ".".join(parts[: NESTED.get(parts[0], 1)])

    return ((name, list(own)) for name, own in groupby(convs, stage))


def _stage(name: str, own: list[Conv]) -> dict[str, Any]:
    macs, params = sum(c.macs for c in own), sum(c.params for c in own)
    moved = 4 * (params + sum(c.activations for c in own))
    rows, columns = zip(*(c.receptive_hw for c in own), strict=True)
    return {
        "stage": name,
        "output_hw": list(own[-1].out_hw),
        "channels": own[-1].cout if len(own) == 1 or not own[-1].name.endswith("parts.1") else sum(c.cout for c in own),
        "params": params,
        "macs": macs,
        "macs_per_byte": macs / moved,
        "receptive_field_hw": [max(rows), max(columns)],
    }


def _facts(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Task, size, parameters and GMACs in words."""
    (h, w), classes = row["input_hw"], row["task"]["classes"]
    return f"{row['task']['name']}, {classes} classes", f"{h}x{w}", f"{row['params'] / 1e6:.3f} M", f"{row['macs'] / 1e9:.3f}"


def _published(paper: dict[str, Any]) -> str:
    """The printed numbers in words, behind a latency or frame rate what it was taken on."""
    units = {"params_m": "{} M parameters", "macs_g": "{} GMACs", "val_miou": "{} mIoU on val", "test_miou": "{} on test"}
    said = [shape.format(paper[key]) for key, shape in units.items() if key in paper]
    for start, unit in (("latency_ms_", "ms"), ("fps_", "FPS")):
        said += [
            f"{v} {unit} ({key.removeprefix(start).replace('_', ' ')})" for key, v in paper.items() if key.startswith(start)
        ]
    return ", ".join(said) or "nothing"


def _difference(row: dict[str, Any]) -> str:
    """What counting gives over what is printed."""
    paper, said = row["published"], []
    for words, counted, key, unit in (("parameters", "params", "params_m", 1e6), ("MACs", "macs", "macs_g", 1e9)):
        if key in paper:
            said.append(f"{words} {100 * (row[counted] / (unit * paper[key]) - 1):+.1f} %")
    return ", ".join(said) or "nothing to compare"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
