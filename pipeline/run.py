"""Run a recipe: search, architecture, teacher, training, graph, bundle, validation, report; a folder that can be run again."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesmith.deploy.engines.onnxruntime import processor
from edgesmith.deploy.files import existing_file, require_folder_above, write_json, write_text
from edgesmith.models.arch import Arch

from . import recipe as recipes
from .artifacts import Architecture, Artifact, BundleFolder, OnnxModel, SearchResult, Validation, Weights, tool_versions
from .data.augment import Augment
from .data.dataset import Split
from .data.spec import Data, named, open_split, splits, user_path
from .derive import Derive
from .events import EventLog
from .export import Export
from .recipe import Recipe, Teacher
from .search.fasterseg import FasterSegSearch
from .search.squeezenas import SqueezeNasSearch
from .stage import LOCK, Pipeline, locked
from .train import Start, Train


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    weights: Weights
    bundle: BundleFolder
    validation: Validation
    report: Path


def run(recipe: Recipe, name: str, folder: Path, view: Callable[..., None], overrides: Sequence[str] = ()) -> Run:
    """Run `recipe` (called `name`) in `folder`; what is up to date there is not done again.

    `overrides` are those that the recipe was read with; they are noted, for the report's command.

    Raises ValueError or OSError before anything is written when an input is wrong, BlockingIOError when another process
    is running in `folder`.
    """
    text = recipes.dump(recipe)  # with stages' datasets left to the recipe's own, so that --set data.root still reaches them
    recipe = recipe.resolved
    remarks = preflight(recipe)
    require_run_folder(folder)
    with locked(folder):
        write_text(folder / "recipe.yaml", text)
        write_json(folder / "environment.json", environment())
        log = EventLog(folder, view)
        try:
            log("run", recipe=name, folder=str(folder), overrides=list(overrides))
            for remark in remarks:
                log("remark", text=remark)
            pipeline = Pipeline(folder, log)
            _set_aside_others(pipeline, recipe)
            searched = [pipeline.run("search", SearchResult, recipe.search)] if recipe.search else []
            arch = pipeline.run("arch", Architecture, recipe.derive, *searched)
            weights = _trained(pipeline, recipe, arch, searched)
            onnx = pipeline.run("onnx", OnnxModel, recipe.export, weights)
            build = dataclasses.replace(recipe.build, weights=str(weights.path))
            bundle = pipeline.run("bundle", BundleFolder, build, onnx)
            validate = dataclasses.replace(recipe.validate, weights=str(weights.path))
            validation = pipeline.run("validation", Validation, validate, bundle)
            from .reports.html import write_report

            report = write_report(folder)
            log("report", file=str(report))
            return Run(folder, weights, bundle, validation, report)
        finally:
            log.close()


def _set_aside_others(pipeline: Pipeline, recipe: Recipe) -> None:
    """Set aside what an earlier recipe left of stages that this one has not: report and `show` are to tell of one run."""
    found: list[Artifact] = [] if recipe.search else [SearchResult(pipeline.folder / "search")]
    if recipe.teacher is None:
        found += [Architecture(pipeline.folder / "teacher-arch"), Weights(pipeline.folder / "teacher")]
    wanted = {f"pretrain-{i}" for i, _ in enumerate(recipe.pretrain, 1)}
    found += [Weights(path) for path in pipeline.folder.glob("pretrain-*") if path.name not in wanted]
    for artifact in found:
        pipeline.set_aside(artifact)


def _trained(pipeline: Pipeline, recipe: Recipe, arch: Architecture, searched: Sequence[SearchResult]) -> Weights:
    """The teacher where the recipe has one, the trainings before the last, and the last."""
    teacher = None
    if recipe.teacher is not None:
        given = searched if recipe.teacher.arch is None else ()
        found = pipeline.run("teacher-arch", Architecture, recipe.teacher.derive, *given)
        teacher = pipeline.run("teacher", Weights, recipe.teacher.train, found)
    start = recipe.train.start
    for i, train in enumerate(recipe.pretrain, 1):
        stage = dataclasses.replace(_taught(train, teacher), start=start or train.start)
        start = Start(str(pipeline.run(f"pretrain-{i}", Weights, stage, arch).path))
    return pipeline.run("train", Weights, dataclasses.replace(_taught(recipe.train, teacher), start=start), arch)


def _taught(train: Train, teacher: Weights | None) -> Train:
    """`train`, learning from the recipe's teacher where it names no other."""
    if train.distil is None or train.distil.weights is not None or teacher is None:
        return train
    return dataclasses.replace(train, distil=dataclasses.replace(train.distil, weights=str(teacher.path)))


def require_run_folder(folder: Path) -> None:
    """Raise ValueError or OSError unless `folder` is free, empty, or one that a run made (it has our lock file)."""
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / LOCK).is_file())):
        raise ValueError(f"--out: {folder} holds what is no run of ours; name another folder, nothing was overwritten")
    require_folder_above(folder, "--out")


def preflight(recipe: Recipe) -> list[str]:
    """Find what would stop a later stage before the first one runs. Raises ValueError, OSError or ImportError.

    What stops nothing, and is hardly meant, comes back in words.
    """
    for library in ("torch", "onnx", "onnxscript", "onnxsim", "safetensors", "tensorboard"):
        if importlib.util.find_spec(library) is None:
            raise ImportError(f"training and export need {library}: pip install 'edgesmith[host]'", name=library)
    arch = None if recipe.search else _named_arch(recipe.derive, "derive")
    train, validate = recipe.train, recipe.validate
    if train.data is None or validate.data is None:
        raise ValueError("data: no dataset is named")
    remarks: list[str] = []
    taught: tuple[str, ...] = ()
    if recipe.search is not None:
        _require_searchable(recipe.search, recipe.derive.budget)
        remarks += _search_scales(recipe.search)
    if recipe.teacher is not None:
        split = _require_teacher(recipe.teacher)
        taught = split.labels.names
        remarks += _sizes(recipe.teacher.train, "teacher.train", split, recipe.export)
    for section, each in recipe.trainings():
        split = _require_trainable(each, section)
        remarks += _sizes(each, section, split, recipe.export)
        if each.start is not None and arch is not None:
            each.start.rows(split.labels.names, each.start.model(arch))
        if each.distil is not None and each.distil.weights is None and taught != split.labels.names:
            raise ValueError(
                f"{section}.distil: the teacher learns the classes {', '.join(taught)}, {section} has "
                f"{', '.join(split.labels.names)}; they must be the same in the same order"
            )
    tested = _tested(validate.data, validate.split)
    if set(tested.labels.names) != set(split.labels.names):
        raise ValueError(
            f"validate.data: {validate.data.dataset} has classes {', '.join(tested.labels.names)}, "
            f"the training data {', '.join(split.labels.names)}"
        )
    if validate.weights is not None:
        raise ValueError("validate.weights: a run compares with the weights that it trained; leave it out")
    stages = (recipe.search, *([recipe.teacher.train] if recipe.teacher else []), *recipe.pretrain, train)
    if any(stage is not None and stage.device == "cuda" for stage in stages):
        from .training.device import pick_device

        pick_device("cuda")  # raises ValueError where torch sees none
    if validate.backend is not None and validate.backend not in recipe.build.backends:
        raise ValueError(f"validate.backend: {validate.backend} is not among build.backends {list(recipe.build.backends)}")
    if "onnxruntime" not in ([validate.backend] if validate.backend else recipe.build.backends):
        raise ValueError("build.backends, validate.backend: only onnxruntime's engine can be validated so far; name it")
    if recipe.build.precision != "best" and validate.precision not in (None, recipe.build.precision):
        raise ValueError(
            f"validate.precision: {validate.precision} is not {recipe.build.precision}, which build.precision makes"
        )
    if recipe.build.precision == "int8":
        raise ValueError(
            "build.precision: a run does not calibrate; leave int8 out, then give the run's folder onnx/ to "
            "edgesmith calibrate, and what that writes to edgesmith build --precision int8"
        )
    dataclasses.replace(recipe.build, weights=recipe.build.weights or "the run's own").require_backends()
    return remarks


def _tested(data: Data, split: str) -> Split:
    """The split that is validated on. Raises ValueError naming the field that chooses another."""
    if split not in splits(data):
        raise ValueError(f"validate.split: {data.dataset} has no split {split!r}; it has {', '.join(splits(data))}")
    return open_split(data, split)


def _sizes(train: Train, section: str, split: Split, export: Export) -> list[str]:
    """Remarks on a training that sees frames at other scales than the exported network."""
    frame_hw, network_hw = split[0].label.shape, export.network_hw
    watched_hw = train.input_hw or frame_hw
    remarks = _scale(train.augment, section, frame_hw, network_hw, "the exported network")
    if watched_hw != network_hw:
        remarks.append(f"{section}.input_hw: val is watched at {_hw(watched_hw)}, the exported network takes {_hw(network_hw)}")
    return remarks


def _search_scales(search: SqueezeNasSearch | FasterSegSearch) -> list[str]:
    """Remarks on phases of a FasterSeg search that learn at other scales than its networks are scored at."""
    if search.data is None or not isinstance(search, FasterSegSearch):
        return []
    frame_hw = open_split(search.data, "train")[0].label.shape
    scored_hw = search.evaluate_hw or search.input_hw or frame_hw
    phases = {"pretrain": search.pretrain if search.pretrained is None else None, "alternate": search.alternate}
    return [
        remark
        for name, phase in phases.items()
        if phase is not None and phase.epochs
        for remark in _scale(phase.augment, f"search.{name}", frame_hw, scored_hw, "the search's evaluation")
    ]


def _scale(augment: Augment, section: str, frame_hw: tuple[int, ...], seen_hw: tuple[int, ...], who: str) -> list[str]:
    """A remark where `who` sees frames at a scale that training never does."""
    low, high = augment.scale
    scale = math.sqrt(math.prod(seen_hw) / math.prod(frame_hw))
    if low <= scale <= high:
        return []
    return [
        f"{section}.augment.scale: {low:g} to {high:g} leaves out {scale:.2g}, at which {who}, of {_hw(seen_hw)}, "
        f"sees frames of {_hw(frame_hw)}"
    ]


def _hw(hw: tuple[int, ...]) -> str:
    return f"{hw[0]}x{hw[1]}"


def _require_trainable(train: Train, section: str) -> Split:
    """The train split. Raises ValueError or OSError unless it and the val split can be read and a batch can be filled."""
    data = named(train.data, f"{section}.data")
    split = open_split(data, "train")
    open_split(data, "val")
    if len(split) < train.batch:
        raise ValueError(f"{section}.batch: {train.batch} frames a step, but the train split has only {len(split)}")
    if train.distil is not None and train.distil.weights is not None:
        train.distil.model(split.labels.names)
    return split


def _require_teacher(teacher: Teacher) -> Split:
    """What it learns from. Raises ValueError or OSError unless it can be trained."""
    split = _require_trainable(teacher.train, "teacher.train")
    if teacher.arch is not None:
        arch = _named_arch(teacher.derive, "teacher")
        if teacher.train.start is not None:
            teacher.train.start.rows(split.labels.names, teacher.train.start.model(arch))
    return split


def _named_arch(derive: Derive, section: str) -> Arch:
    """The architecture that the field `arch` of a section names. Raises ValueError, or OSError naming the field."""
    try:
        return derive.value
    except (FileNotFoundError, IsADirectoryError) as e:
        raise type(e)(f"{section}.{e}") from None


def _require_searchable(search: SqueezeNasSearch | FasterSegSearch, budget: float | None) -> None:
    """Raise ValueError or OSError unless the search can start and, as far as can be known, find a network within the budget."""
    if search.table is not None:
        fix = "`edgesmith table measure RECIPE --out TABLE.json` makes one"
        existing_file(user_path("search.table", search.table), "search.table", fix)
    search.require_startable()
    if budget is None or not isinstance(search, SqueezeNasSearch):
        return
    costs = search.costs()
    if budget < costs.least:
        raise ValueError(
            f"derive.budget: {budget:g} {costs.unit}, but the cheapest network of the space costs {costs.least:.4g}"
        )


def environment() -> dict[str, Any]:
    """The machine and the tools of this run, as JSON."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "tools": tool_versions(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
    }
