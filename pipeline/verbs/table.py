"""Latency tables: measure one, sum one up."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import click

from edgesmith.deploy.engines import BACKENDS

from .options import FILE, SIZE, json_option, show_result


@click.group()
def table() -> None:
    """Measure how long each piece of a network takes here, or sum a network up from its pieces."""


@table.command("measure")
@click.argument("space", metavar="SPACE|ARCH|RECIPE")
@click.option("--input", "input_hw", type=SIZE, help="Frame and network size. A recipe says it itself.")
@click.option("--out", type=FILE, required=True, metavar="JSON", help="Table to write, or to go on with.")
@click.option("--classes", type=click.IntRange(1, 255), help="Classes of the network. Default: 19, or the recipe's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one field of the recipe. Repeatable.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="onnxruntime",
    show_default=True,
    help="Engine that runs it; only onnxruntime can be timed so far.",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads of the engine. Default: one a core.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that export pieces side by side, half a GB each; they have ended before anything is timed.",
)
@json_option
def table_measure(
    space: str,
    input_hw: tuple[int, int] | None,
    out: Path,
    classes: int | None,
    overrides: tuple[str, ...],
    backend: Any,
    threads: int,
    workers: int,
    as_json: bool,
) -> None:
    """Time every piece that the networks of SPACE are made of.

    SPACE is a search space of SqueezeNAS (small, large, xlarge) or that of FasterSeg (fasterseg), whose cells are measured with
    every operator and at every width; zoo:NAME or ARCH.json measures the pieces of one network, and a recipe (its name or
    RECIPE.yaml) those that its search needs, for its dataset and at its size. Each distinct piece is exported alone, by what
    exports whole networks, and timed warm in rounds over all of them. Stopped or killed, the same command goes on; what is
    measured is not measured again. Its times hold for
    the machine that measured them; a search on another machine may read them.
    """
    from edgesmith.deploy.files import require_folder_above
    from edgesmith.pipeline.events import viewing
    from edgesmith.pipeline.latency.measure import measure, timing_errors

    require_folder_above(out, "--out")
    with viewing(sys.stderr) as view:
        pieces, task, hw = _wanted(space, classes, input_hw, overrides)
        options = {"backend": backend, "threads": threads, "workers": workers, "log": _staged(view)}
        measured = measure(pieces, out, input_hw=hw, classes=task.classes, **options)
    result = {"table": str(out), "digest": measured.digest, "entries": len(measured.entries), **timing_errors(measured)}
    show_result({**result, "machine": measured.fingerprint.to_json()}, as_json)


@table.command("sum")
@click.argument("arch", metavar="ARCH.json|zoo:NAME")
@click.option("--table", "path", type=FILE, required=True, metavar="JSON", help="Measured table.")
@json_option
def table_sum(arch: str, path: Path, as_json: bool) -> None:
    """Estimate the latency of ARCH as the sum over its pieces.

    From camera frame to label map, at the table's input size and number of classes. The error is that of the timings; how far
    sums lie from measured networks has to be measured. The table that FasterSeg's authors released for a GTX 1080 Ti is read
    too: it counts neither the frame nor the last enlargement, and gives no errors.
    """
    from edgesmith.calibration.tables import open_table
    from edgesmith.deploy.files import existing_file
    from edgesmith.models import Segmentation
    from edgesmith.pipeline.derive import Derive

    fix = f"edgesmith table measure {arch} --input HxW --classes N --out {path} makes it"
    read = open_table(existing_file(path, "--table", fix))
    network = Derive(arch).value
    task = Segmentation(read.classes)
    total = read.total(network, task, arch)
    rows = [{"name": name, "latency_ms": ms, "piece": key} for name, key, ms in total.parts]
    found = {"arch": network.name, "latency_ms": total.latency_ms, "error_ms": total.error_ms, "table": str(path)}
    show_result({**found, "parts": rows}, as_json)


def _wanted(
    space: str, classes: int | None, input_hw: tuple[int, int] | None, overrides: tuple[str, ...]
) -> tuple[dict[str, Any], Any, tuple[int, int]]:
    """The pieces that `space` means, by key, with the task that they are measured for and the size."""
    from edgesmith.models import Segmentation
    from edgesmith.pipeline import recipe
    from edgesmith.pipeline.recipes import names
    from edgesmith.pipeline.search.squeezenas_space import SPACES

    spaces = (*SPACES, "fasterseg")
    known = space in (*spaces, *names()) or space.startswith("zoo:") or space.endswith((".json", ".yaml", ".yml"))
    if not known:
        near = difflib.get_close_matches(space, (*spaces, *names()), n=1)
        hint = f"; did you mean {near[0]}?" if near else f". Named recipes: {', '.join(names())}"
        raise ValueError(
            f"SPACE: {space!r} is neither a search space ({', '.join(spaces)}) nor zoo:NAME nor a .json file nor a recipe{hint}"
        )
    if space in names() or space.endswith((".yaml", ".yml")):
        if classes is not None or input_hw is not None:
            raise ValueError(f"--{'input' if classes is None else 'classes'}: goes without a recipe, which says it")
        search = recipe.read(space, overrides).resolved.search
        if search is None:
            raise ValueError(f"RECIPE: {space} has no section search, so that there is nothing to measure for it")
        return search.pieces()
    if overrides:
        raise ValueError(f"--set: goes with a recipe, and {space!r} is none")
    if input_hw is None:
        raise ValueError("--input: missing; the frame and network size, as in 360x480")
    task = Segmentation(19 if classes is None else classes)
    return _pieces(space, task, input_hw), task, input_hw


def _pieces(space: str, task: Any, input_hw: tuple[int, int]) -> dict[str, Any]:
    """All pieces of `space`, or of the one network that it names, by key."""
    from edgesmith.models.parts import distinct
    from edgesmith.pipeline.derive import Derive
    from edgesmith.pipeline.search import fasterseg_costs, squeezenas_costs
    from edgesmith.pipeline.search.fasterseg_space import Space
    from edgesmith.pipeline.search.squeezenas_space import SPACES
    from edgesmith.pipeline.search.squeezenas_space import space as squeezenas

    if space == "fasterseg":
        return fasterseg_costs.pieces(Space(), task, input_hw)
    if found := [name for name in SPACES if name == space]:
        return squeezenas_costs.pieces(squeezenas(found[0]), task, input_hw)
    try:
        return distinct([Derive(space).value], task, input_hw)
    except (FileNotFoundError, IsADirectoryError) as e:
        raise type(e)(f"SPACE: {str(e).removeprefix('arch: ')}") from None


def _staged(view: Any) -> Any:
    """The view, with the name of what goes on: jobs export pieces, progress is timing."""
    names = {"job": "export", "progress": "timing"}

    def log(event: str, **fields: Any) -> None:
        view(event, stage=names[event], **fields)

    return log
