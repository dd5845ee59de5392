"""A run folder -> report.html: one self-contained page that opens offline. Reads files only; needs no torch.

A section is a function from the run to HTML, listed in SECTIONS. What is not there is said in words, and a section that
cannot be made from damaged files says so instead of taking the page down.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesmith.deploy.files import payload_files, write_text
from edgesmith.models.arch import SqueezeNas
from edgesmith.models.cost import macs, params
from edgesmith.models.draw import draw
from edgesmith.models.model import Model
from edgesmith.pipeline.artifacts import SIDECAR
from edgesmith.pipeline.export import PARITY
from edgesmith.pipeline.validate import PHASES

from . import frames as report_frames
from .charts import heat_map, histogram, line_chart
from .compare import NETWORKS, SPEED
from .fasterseg import FASTERSEG_SECTIONS
from .page import (
    NONE,
    bar,
    clean,
    details,
    figure,
    guarded,
    note,
    number,
    page,
    percent,
    pre,
    remark,
    swatch,
    table,
    tile,
    tiles,
)
from .run import RunFolder, Section
from .squeezenas import SQUEEZENAS_SECTIONS
from .training import TEACHER, training

NOT_VALIDATED = "Not validated yet: the run folder has no validation/validation.json."


def write_report(run_folder: Path, against: Sequence[Path] = ()) -> Path:
    """Write `run_folder`/report.html from what lies in the folder, and return its path.

    `against` are other run folders that the run's network is compared with. The same files give the same bytes. Raises
    FileNotFoundError when one of the folders is not there.
    """
    for folder in (run_folder, *against):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a run folder; name one that `edgesmith run` made")
    run = RunFolder(run_folder, tuple(RunFolder(folder) for folder in against))
    made = [(anchor, title, guarded(section, run)) for anchor, title, section in _sections(run)]
    text = page(f"{run.name} · edgesmith", guarded(_head, run), made)
    write_text(run_folder / "report.html", text)
    return run_folder / "report.html"


def _sections(run: RunFolder) -> list[Section]:
    """SECTIONS, with those of a search, of a comparison and of a teacher where the run has them."""
    extra = search_sections(run)
    if run.against and NETWORKS not in extra:
        extra = [*extra, NETWORKS]
    found = [SECTIONS[0], *extra, *([SPEED] if extra else ()), *SECTIONS[1:]]
    if run.taught:
        found.insert([anchor for anchor, _, _ in found].index("training"), TEACHER)
    return found


def _head(run: RunFolder) -> str:
    about = _about(run.recipe)
    return f"<h1>{clean(run.name)}</h1>" + (f'<p class="soft">{clean(about)}</p>' if about else "")


def _about(recipe: str) -> str:
    import yaml

    try:
        value = yaml.safe_load(recipe)
    except yaml.YAMLError:
        return ""
    return str(value.get("about") or "") if isinstance(value, dict) else ""


# Sections


def result(run: RunFolder) -> str:
    """The numbers that matter, and what they are numbers of."""
    v, items = run.validation, []
    if v is not None:
        latency = v["latency_ms"]
        total, engine = latency["total"], latency["engine"]
        items += [
            tile("Mean IoU", *_split(percent(v["miou"])), sub=_classes_met(v["classes"])),
            tile("Pixel accuracy", *_split(percent(v["pixel_accuracy"])), sub="void pixels left out"),
            tile(
                "Latency, frame to labels",
                number(total["p50"], 1),
                "ms p50",
                f"p99 {number(total['p99'], 1, 'ms')}, reading included",
            ),
            tile("Latency, engine alone", number(engine["p50"], 1), "ms p50", f"p99 {number(engine['p99'], 1, 'ms')}"),
            tile("Throughput", number(v["fps"], 1), "FPS", "frame in memory to label map, batch 1"),
        ]
    items += _size_tiles(run)
    if run.model is not None:
        items.append(_parameters_tile(run.model))
        if run.input_hw is not None:
            cost, size = macs(run.model.arch, run.model.task, run.input_hw), _by(run.input_hw)
            items.append(tile("Compute", f"{cost / 1e9:.3g}", "GMACs", f"a frame, network at {size}"))
    if v is not None and v.get("peak_memory_mb") is not None:
        items.append(tile("Peak memory", number(v["peak_memory_mb"], 0), "MB", "of the validating process"))
    return tiles(items) + (
        '<p class="soft small" style="margin-top:14px">' + _measured_on(v) + "</p>" if v else note(NOT_VALIDATED)
    )


def network(run: RunFolder) -> str:
    """The network drawn."""
    if run.model is None:
        return note("No network yet: the run folder has no train/model.json.")
    hw = run.input_hw or (360, 480)
    words = "" if run.input_hw else "No graph was exported yet; the costs are those at 360x480 pixels. "
    if isinstance(run.model.arch, SqueezeNas):  # drawings of other families say it themselves
        words += "Blocks run from left to right. Their outline is their width; the bars below are their shares of the compute."
    return figure(draw(run.model.arch, run.model.task, hw), words, "drawing")


def classes(run: RunFolder) -> str:
    """IoU of each class."""
    if run.validation is None:
        return note(NOT_VALIDATED)
    rows = []
    for i, c in enumerate(run.validation["classes"]):
        mark = swatch(run.palette[i]) if i < len(run.palette) else ""
        iou = c["iou"]
        shown = bar(iou, f"IoU {percent(iou)}") if iou is not None else '<span class="soft small">not in this split</span>'
        rows.append([mark + clean(c["name"]), shown, percent(iou), percent(c["accuracy"]), percent(c["share"], 2)])
    caption = (
        f"Mean IoU {percent(run.validation['miou'], 2)}: the mean over the classes in the labels or in the prediction. "
        "Accuracy is the part of a class's pixels that was labelled so; share is the class's part of all labelled pixels."
    )
    head = ("class", "", "IoU", "accuracy", "share")
    return table(head, rows, 2, ("", "wide")) + remark(caption)


def confusion(run: RunFolder) -> str:
    """What is taken for what."""
    v = run.validation
    if v is None:
        return note(NOT_VALIDATED)
    caption = (
        "Each row is one true class; the numbers are percent of its pixels. Blue is right, orange is wrong, and strength grows "
        "with the square root of the share, so that small confusions show. Point at a cell for its pixels."
    )
    return figure(heat_map(v["confusion"], [c["name"] for c in v["classes"]]), caption, "heat")


def latency(run: RunFolder) -> str:
    """How long a frame takes, and where the time goes."""
    v = run.validation
    if v is None:
        return note(NOT_VALIDATED)
    by_phase = v["latency_ms"]
    total = by_phase["total"]
    marks = [(q, total[q]) for q in ("p50", "p90", "p99")]
    charts = figure(histogram(total["samples"], marks, "time from frame to label map", "ms"))
    charts += figure(line_chart(_slowest(total["samples"]), "frame", "time, ms", [], "ms"))
    rows = []
    for phase in PHASES:
        d = by_phase[phase]
        share = d["p50"] / total["p50"] if total["p50"] else 0.0
        numbers = [number(d[k], 2) for k in ("p50", "p90", "p99", "mean")]
        rows.append([clean(phase), bar(share, f"{percent(share)} of the median total"), *numbers])
    words = (
        f"{total['n']} frames, one after the other, batch 1: how often which time, and the same in order. "
        "Decode reads a sample with its label (or draws it), copy brings it to the engine's size and colour order, engine goes "
        "from camera frame to label map; resizing, normalisation, enlargement and argmax are inside the graph."
    )
    head = ("phase", "", "p50, ms", "p90, ms", "p99, ms", "mean, ms")
    return f'<div class="pair">{charts}</div>' + table(head, rows, 2, ("", "wide")) + remark(words)


def agreement(run: RunFolder) -> str:
    """Does the engine do what the trained network does."""
    rows = []
    if run.meta is not None and (parity := run.meta.get("parity")):
        largest = (
            f"{_power(parity['max_abs_diff'])}, {_power(parity['relative'])} of the largest ({parity['max_abs_logit']:.3g})"
        )
        verdict = "within" if parity["relative"] <= PARITY else "above"
        rows.append(["Exported graph, largest difference of a logit", largest, f"{verdict} the limit of {_power(PARITY)}"])
        rows.append(["Exported graph, pixels with torch's label", percent(parity["label_agreement"], 4), "at export"])
    if run.validation is not None and (a := run.validation.get("agreement")):
        of = "golden frames" if a["source"] == "golden" else f"frames of split {run.validation['data']['split']}"
        rows.append(["Engine, pixels with torch's label", percent(a["pixel_agreement"], 4), f"{a['frames']} {of}"])
        if a.get("torch_miou") is not None:
            miou = run.validation["miou"]
            difference = f"engine {percent(miou, 2)}, difference {abs(miou - a['torch_miou']) * 100:.3f} points"
            rows.append(["Mean IoU of torch on the same frames", percent(a["torch_miou"], 2), difference])
    if not rows:
        return note("Neither a graph nor a validation is there to compare with torch.")
    cells = [[clean(c) for c in row] for row in rows]
    return table(("what", "value", ""), cells, 3, ("wrap", "wrap", "wrap"))


def frames(run: RunFolder) -> str:
    """Frames beside label and prediction."""
    names = [c["name"] for c in run.validation["classes"]] if run.validation else []
    return report_frames.grid(run.path / "validation" / "samples", run.palette, names)


def reproduce(run: RunFolder) -> str:
    """The commands, and all that went into them."""
    folder, lines = run.shown_path, []
    shown = shlex.quote(folder)
    if run.started:
        overrides = "".join(f" --set {shlex.quote(str(o))}" for o in run.started[-1].get("overrides", []))
        recipe_name = shlex.quote(str(run.started[-1].get("recipe", "")))
        lines += ["# as it was started", f"edgesmith run {recipe_name}{overrides} --out {shown}", ""]
    again = shlex.quote(f"{folder.rstrip('/')}-again")
    lines += ["# exactly this run, once more", f"edgesmith run {shlex.quote(f'{folder}/recipe.yaml')} --out {again}", ""]
    bundle = shlex.quote(f"{folder}/bundle")
    lines += ["# is the bundle whole, does it run here", f"edgesmith verify {bundle}", "", *_validate_lines(run, bundle)]
    recipe = details("The recipe, resolved", pre(run.recipe)) if run.recipe else note("There is no recipe.yaml.")
    return pre("\n".join(lines)) + recipe


def provenance(run: RunFolder) -> str:
    """Artifacts with their digests, and the machine."""
    rows: list[list[str]] = []
    tools: dict[str, str] = {}
    taught = ("teacher-arch", "teacher") if run.taught else ()
    for name in (*(("search",) if run.searched else ()), "arch", *taught, "train", "onnx", "bundle", "validation"):
        sidecar = run.json(f"{name}/{SIDECAR}")
        if sidecar is None:
            rows.append([name, NONE, "not made", NONE, NONE])
            continue
        tools = sidecar.get("tools", tools)
        stage = f"{sidecar.get('stage', '')} v{sidecar.get('version', '')}" if sidecar.get("stage") else NONE
        device = sidecar.get("device") or NONE
        rows.append([name, stage, sidecar["digest"], device, sidecar.get("written", NONE)])
    cells = [[clean(c) if i != 2 else f"<code>{clean(c)}</code>" for i, c in enumerate(row)] for row in rows]
    times = len(run.started)
    again = f"<p>The run was started {times} times and went on where it had stopped.</p>" if times > 1 else ""
    digests = table(("artifact", "stage", "content digest (SHA-256)", "device", "written"), cells, 5, ("", "", "wrap", "wrap"))
    environment = run.json("environment.json")
    facts = [[clean(k), clean(v)] for k, v in _flat({**(environment or {}), "tools": (environment or {}).get("tools", tools)})]
    machine = table(("", ""), facts, 2, ("", "wrap")) if facts else note("There is no environment.json.")
    return details("Artifacts and their digests", again + digests) + details("Environment", machine)


SECTIONS: list[Section] = [
    ("result", "Result", result),
    ("network", "Network", network),
    ("training", "Training", training),
    ("classes", "Classes", classes),
    ("confusion", "Confusion", confusion),
    ("latency", "Latency", latency),
    ("agreement", "Agreement with torch", agreement),
    ("frames", "Frames", frames),
    ("reproduce", "Reproduce", reproduce),
    ("provenance", "Provenance", provenance),
]
"""Anchor, title and function of each section, in order."""


SEARCHES: dict[str, list[Section]] = {
    "squeezenas": [*SQUEEZENAS_SECTIONS, NETWORKS],
    "fasterseg": FASTERSEG_SECTIONS,  # its networks stand among them
}
"""Sections of a run with a search, by its method."""


def search_sections(run: RunFolder) -> list[Section]:
    """The sections of the run's search; of a method that is not known, one that says so."""
    return [] if run.method is None else SEARCHES.get(run.method, [("search", "Search", _of_another_method)])


def _of_another_method(run: RunFolder) -> str:
    return note(f"The search is of method {run.method!r}; this report knows {' and '.join(SEARCHES)}.", bad=True)


# What sections are made of


def _split(shown: str) -> tuple[str, str]:
    value, _, unit = shown.partition("\u00a0")
    return value, unit


def _power(value: float) -> str:
    """1.5e-06 as it is written by hand."""
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+00", "")


def _slowest(samples: list[float], most: int = 600) -> list[tuple[float, float]]:
    """(frame, time) in order; of many frames the slowest of each few, so that no peak is lost."""
    step = math.ceil(len(samples) / most)
    return [(i, max(samples[i : i + step])) for i in range(0, len(samples), step)] if samples else []


def _by(hw: Any) -> str:
    return f"{int(hw[0])}x{int(hw[1])}"


def _classes_met(rows: list[dict[str, Any]]) -> str:
    met = sum(c["iou"] is not None for c in rows)
    return f"over {met} classes" if met == len(rows) else f"over {met} of {len(rows)} classes"


def _parameters_tile(model: Model) -> str:
    count = params(model.arch, model.task)
    value, unit = (f"{count / 1e6:.2f}", "M") if count >= 1e5 else (f"{count / 1e3:.0f}", "k")
    return tile("Parameters", value, unit, model.arch.name)


def _size_tiles(run: RunFolder) -> list[str]:
    """Size of what the engine is made from, and of the whole bundle."""
    key = (run.validation or {}).get("engine", {}).get("key")
    plan = run.path / "bundle" / "engines" / str(key) / "engine.plan"
    file = plan if key and plan.is_file() else run.path / "bundle" / "model.onnx"
    if not file.is_file():
        return []
    whole = sum((run.path / "bundle" / n).stat().st_size for n in payload_files(run.path / "bundle", without=(SIDECAR,)))
    return [
        tile("Size", number(file.stat().st_size / 1e6, 2), "MB", f"{file.name}; whole bundle {number(whole / 1e6, 1, 'MB')}")
    ]


def _measured_on(v: dict[str, Any]) -> str:
    engine, data = v["engine"], v["data"]
    return clean(
        f"Measured with the bundle's engine, {engine['backend']} {engine['version']} ({engine['precision']}), "
        f"on {engine['device']}, "
        f"over {data['frames']} frames of {data['dataset']}, split {data['split']}. Frames of {_by(v['frame_hw'])} pixels, "
        f"network at {_by(v['input_hw'])}."
    )


def _validate_lines(run: RunFolder, bundle: str) -> list[str]:
    v = run.validation
    if v is None:
        return []
    config = (run.json(f"validation/{SIDECAR}") or {}).get("config", {})
    spec = shlex.quote(f"{v['data']['dataset']}@{v['data']['split']}")
    limit = f" --limit {int(config['limit'])}" if config.get("limit") else ""
    weights = f" --weights {shlex.quote(f'{run.shown_path}/train')}" if v.get("agreement", {}).get("source") == "split" else ""
    data = config.get("data") or {}
    words = "# the numbers of this page, measured again"
    if any(data.get(k) for k in ("root", "frame_hw", "seed")):
        words += "; give the data as the resolved recipe has it"
    return [words, f"edgesmith validate {bundle} --data {spec}{limit}{weights}"]


def _flat(value: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for k, v in value.items():
        rows += [(name, str(x)) for name, x in v.items()] if isinstance(v, dict) else [(k.replace("_", " "), str(v))]
    return rows
