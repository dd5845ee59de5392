"""What an artifact is and holds, as data for --json and as text for people. Reads files only; needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Arch, Segmentation
from edgesmith.models.cost import macs, params
from edgesmith.models.model import read_model
from edgesmith.pipeline.search.fasterseg_space import RATES

from .artifacts import KINDS, SIDECAR, Artifact
from .reports.run import METHODS, RunFolder
from .reports.searches import FasterSegResult


def describe(folder: Path) -> dict[str, Any]:
    """What lies in `folder`, or in an architecture's file. Raises FileNotFoundError or ValueError when it is nothing of ours
    or damaged.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist")
    if folder.is_file():
        return _architecture_file(folder)
    if (folder / SIDECAR).is_file():
        return _artifact(folder)
    if (folder / "recipe.yaml").is_file():
        return _run(folder)
    if (folder / "manifest.json").is_file():
        return {"kind": "bundle", "path": str(folder), **_bundle(folder)}
    raise ValueError(
        f"{folder} is neither an artifact ({SIDECAR}), nor a run folder (recipe.yaml), nor a bundle (manifest.json)"
    )


def as_text(value: dict[str, Any], indent: str = "") -> str:
    """Nested fields as aligned lines; lists of objects as tables."""
    width = max((len(k) for k in value), default=0)
    lines = []
    for key, v in value.items():
        if isinstance(v, dict) and v:
            lines += [f"{indent}{key}", as_text(v, indent + "  ")]
        elif isinstance(v, list) and v and all(isinstance(row, dict) for row in v):
            lines += [f"{indent}{key}", _table(v, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<{width}}  {_cell(v)}")
    return "\n".join(lines)


def _artifact(folder: Path) -> dict[str, Any]:
    sidecar = Artifact(folder).sidecar
    kinds = {k.kind: k for k in KINDS}
    if sidecar["kind"] not in kinds:
        raise ValueError(f"{folder / SIDECAR}: kind {sidecar['kind']!r} is not one of {', '.join(kinds)}")
    kinds[sidecar["kind"]](folder).check()
    readers = {
        "search": _search,
        "architecture": _architecture,
        "weights": _weights,
        "onnx": _onnx,
        "bundle": _bundle,
        "validation": _validation,
    }
    return {
        "kind": sidecar["kind"],
        "path": str(folder),
        "digest": sidecar["digest"],
        "made_by": f"{sidecar.get('stage', '?')} v{sidecar.get('version', '?')}",
        "written": sidecar.get("written", "?"),
        **readers[sidecar["kind"]](folder),
    }


def _search(folder: Path) -> dict[str, Any]:
    value = read_json(folder / "search.json")
    method = value.get("method", "squeezenas")
    if method not in METHODS:
        raise ValueError(f"{folder / 'search.json'}: method {method!r} is not one of {', '.join(METHODS)}")
    if method == "fasterseg":
        return _cosearch(FasterSegResult(value))
    samples = read_json(folder / "samples.json")
    last = value["history"][-1]
    best = [row for row in samples if row["on_front"]]
    front = [
        {"val_miou": row["val_miou"], "cost": row["cost"], "gmacs": row["macs"] / 1e9, "params": row["params"]} for row in best
    ]
    return {
        **{k: value[k] for k in ("method", "space", "resource", "unit", "alpha", "target", "input_hw")},
        "epochs": len(value["history"]),
        "entropy": last["entropy"],
        "expected_cost": last["cost"],
        "candidates_left": sum(len(names) for names in value["alive"]),
        "networks": len(samples),
        "front": sorted(front, key=lambda row: row["cost"]),
    }


def _cosearch(search: FasterSegResult) -> dict[str, Any]:
    """A FasterSeg search: where its course ended, and the networks that it means, each net's chosen one marked."""
    value, networks = search.summary, []
    for found in search.networks:
        branches = ", ".join(f"1/{RATES[s]}" for s in found.scales)
        chosen = found == search.chosen(found.net)
        numbers = {"cost": found.latency, "val_miou": found.val_miou, "target": found.target}
        networks.append(
            {"net": found.net, "branches": branches, "chosen": chosen, **numbers, "arch_digest": found.arch.digest[:12]}
        )
    return {
        **{k: value[k] for k in ("method", "space", "resource", "unit", "decoupled", "latency_weights", "target", "input_hw")},
        "epochs": {phase: sum(row["phase"] == phase for row in value["history"]) for phase in ("pretrain", "search")},
        "entropy": value["history"][-1].get("entropy"),
        "networks": networks,
    }


def _architecture(folder: Path) -> dict[str, Any]:
    arch = Arch.from_json(read_json(folder / "arch.json"))
    return {"name": arch.name, "family": arch.family, "arch_digest": arch.digest}


def _architecture_file(file: Path) -> dict[str, Any]:
    try:
        arch = Arch.from_json(read_json(file))
    except (ValueError, TypeError) as e:
        raise ValueError(f"{file} is a file, and holds no architecture; else name a folder of ours: {e}") from None
    task = Segmentation(19)
    return {
        "kind": "architecture",
        "path": str(file),
        "name": arch.name,
        "family": arch.family,
        "arch_digest": arch.digest,
        "counted_for": f"{task.classes} classes",
        "params": params(arch, task),
        "gmacs_at_360x480": macs(arch, task, (360, 480)) / 1e9,
    }


def _weights(folder: Path) -> dict[str, Any]:
    model = read_model(folder)
    value = {
        "name": model.arch.name,
        "family": model.arch.family,
        "arch_digest": model.arch.digest,
        "classes": list(model.classes),
        "params": params(model.arch, model.task),
        "gmacs_at_360x480": macs(model.arch, model.task, (360, 480)) / 1e9,
        "weights": model.weights,
    }
    if (folder / "history.json").is_file():
        rows = read_json(folder / "history.json")
        scored = [r for r in rows if r["val_miou"] is not None]
        best = max(scored, key=lambda r: r["val_miou"], default=None)
        value["training"] = {
            "epochs": len(rows),
            "best_epoch": best and best["epoch"],
            "best_val_miou": best and best["val_miou"],
            "last_val_miou": scored[-1]["val_miou"] if scored else None,
        }
    return value


def _onnx(folder: Path) -> dict[str, Any]:
    meta = read_json(folder / "meta.json")
    keys = ("frame_hw", "input_hw", "colour_order", "precision", "opset", "classes", "plugins", "parity")
    size = (folder / "model.onnx").stat().st_size
    return {**{k: meta[k] for k in keys if k in meta}, "graph_mb": size / 1e6}


def _bundle(folder: Path) -> dict[str, Any]:
    engines = [read_json(p) for p in sorted(folder.glob("engines/*/engine.json"))]
    return {**_onnx(folder), "engines": engines}


def _validation(folder: Path) -> dict[str, Any]:
    value = read_json(folder / "validation.json")
    phases = {k: {q: v[q] for q in ("p50", "p90", "p99")} for k, v in value["latency_ms"].items()}
    keys = ("engine", "data", "miou", "pixel_accuracy", "agreement", "fps", "peak_memory_mb")
    classes = [{k: c[k] for k in ("name", "iou", "accuracy", "share")} for c in value["classes"]]
    return {**{k: value[k] for k in keys}, "latency_ms": phases, "classes": classes}


def _run(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = {"kind": "run", "path": str(folder)}
    for name in ("search", "arch", "teacher-arch", "teacher", "train", "onnx", "bundle", "validation"):
        done = (folder / name / SIDECAR).is_file()
        if done or name not in ("search", "teacher-arch", "teacher"):  # not every run has these
            value[name] = _artifact(folder / name) if done else "not made yet"
    run = RunFolder(folder)
    if "search" in value and run.method == "fasterseg":  # which of its networks is chosen, the run may have said otherwise
        value["search"] |= _cosearch(run.fasterseg)
    return value


def _table(rows: list[dict[str, Any]], indent: str) -> str:
    keys = list(rows[0])
    cells = [keys, *([_cell(row.get(k)) for k in keys] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    return "\n".join(indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_cell(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items()) or "-"
    return str(value)
