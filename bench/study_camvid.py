"""The CamVid study, as a list of jobs that can be stopped and started again (see study.py): python bench/study_camvid.py

Needs EDGESMITH_DATA (the folder that holds camvid/) and the imported weights that the recipe `camvid` names. Each finished job
is appended to docs/measurements/camvid.json at once.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from edgesmith.bench import study
from edgesmith.bench.study import Job
from edgesmith.deploy.files import new_folder, read_json
from edgesmith.pipeline import recipe, run
from edgesmith.pipeline.artifacts import BundleFolder, Slot, Weights
from edgesmith.pipeline.data.spec import Data
from edgesmith.pipeline.events import view_for
from edgesmith.pipeline.stage import LOCK
from edgesmith.pipeline.validate import Validate

RESULTS = Path("docs/measurements/camvid.json")
SEEDS = (0, 1, 2)


def jobs() -> dict[str, Job]:
    every = {f"fine-tune, seed {s}": Job(partial(fine_tune, s)) for s in SEEDS}
    every["street alone"] = Job(street_alone)
    return every | {f"student, seed {s}": Job(partial(student, s)) for s in SEEDS}


def fine_tune(seed: int) -> dict[str, Any]:
    """The recipe `camvid` with one seed."""
    chosen = recipe.read("camvid", [f"train.seed={seed}"])
    folder = Path(f"runs/camvid-seed{seed}")
    run.run(chosen, "camvid", folder, view_for(sys.stderr), [f"train.seed={seed}"])
    return outcome(folder, seed, chosen.train.keep)


def student(seed: int) -> dict[str, Any]:
    """The recipe `camvid-fasterseg-student` with one seed. All seeds go on from one pretraining on the street."""
    name = "camvid-fasterseg-student"
    first, folder = Path(f"runs/{name}-seed{SEEDS[0]}"), Path(f"runs/{name}-seed{seed}")
    if seed != SEEDS[0] and not (folder / "pretrain-1").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
        with new_folder(folder / "pretrain-1") as copied:
            shutil.copytree(first / "pretrain-1", copied, dirs_exist_ok=True)
    chosen = recipe.read(name, [f"train.seed={seed}"])
    run.run(chosen, name, folder, view_for(sys.stderr), [f"train.seed={seed}"])
    return {"network": "fasterseg-student", **outcome(folder, seed, chosen.train.keep)}


def outcome(folder: Path, seed: int, kept: str) -> dict[str, Any]:
    """What a finished run came to."""
    history = read_json(folder / "train" / "history.json")
    value = read_json(folder / "validation" / "validation.json")
    scored = [row for row in history if row["val_miou"] is not None]
    best = max(scored, key=lambda row: row["val_miou"])
    return {
        "seed": seed,
        "kept": kept,
        "epochs": len(history),
        "best_val": {"epoch": best["epoch"], "miou": best["val_miou"]},
        "last_val_miou": scored[-1]["val_miou"],
        **summary(value),
        "torch_miou": value["agreement"]["torch_miou"],
        "pixel_agreement": value["agreement"]["pixel_agreement"],
        "train_digest": Weights(folder / "train").digest,
    }


def street_alone() -> dict[str, Any]:
    """The network of the recipe `street-lat-small`, which saw the procedural street alone, on CamVid's test split."""
    name = "street-lat-small"
    made = Path(f"runs/{name}")
    run.run(recipe.read(name), name, made, view_for(sys.stderr), [])
    validation = Validate(Data("camvid"), "test")(BundleFolder(made / "bundle"), Slot(Path("runs/street-on-camvid")))
    street = read_json(made / "validation" / "validation.json")
    return {**summary(read_json(validation.path / "validation.json")), "street_test_miou": street["miou"]}


def summary(value: dict[str, Any]) -> dict[str, Any]:
    """Of a validation, what the tables show."""
    return {
        "split": value["data"]["split"],
        "frames": value["data"]["frames"],
        "frame_hw": value["frame_hw"],
        "input_hw": value["input_hw"],
        "miou": value["miou"],
        "pixel_accuracy": value["pixel_accuracy"],
        "iou": {c["name"]: c["iou"] for c in value["classes"]},
        "latency_ms": {k: {q: v[q] for q in ("p50", "p90", "p99")} for k, v in value["latency_ms"].items()},
    }


if __name__ == "__main__":
    study.run(study.parser(__doc__).parse_args(), RESULTS, jobs())
