"""The verbs. Each parses its arguments, calls one function, and prints its result for a person or, with --json, a machine.

Exit codes: 0 done, 1 failed, 2 the user's input, 3 inconclusive.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

import edgesmith
from edgesmith.deploy.engines import BACKENDS

F = TypeVar("F", bound=Callable[..., Any])

MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE)
"""Errors of the system that are no fault of the input."""


class SizeType(click.ParamType):  # type: ignore[type-arg]  # older click has no type argument
    """HxW in pixels: 360x480."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        height, x, width = str(value).partition("x")
        if not (x and height.isdecimal() and width.isdecimal() and int(height) >= 64 and int(width) >= 64):
            self.fail(f"{value!r} is not a size: write height x width in pixels, at least 64x64, as in 360x480", param, ctx)
        return int(height), int(width)


SIZE = SizeType()
FOLDER = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")


def out_option(help_text: str) -> Callable[[F], F]:
    return click.option("--out", type=FOLDER, required=True, metavar="DIR", help=help_text)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(edgesmith.__version__, prog_name="edgesmith")
def cli() -> None:
    """From a segmentation network to a validated batch-1 engine on an edge device.

    \b
    edgesmith run street --out runs/street      the whole chain on data that needs no download
    edgesmith data show camvid                  look at a dataset
    edgesmith validate runs/street/bundle --data street
    edgesmith verify runs/street/bundle         is the bundle whole, does it run here

    A dataset (SPEC) is street, camvid, camvid:ROOT or a YAML file that describes a folder, each with @SPLIT where one split
    is meant. Named datasets are looked for below $EDGESMITH_DATA.

    Exit codes: 0 done, 1 failed, 2 your input, 3 inconclusive.
    """


def show_fields(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Print every field that a recipe may set, and end."""
    if wanted:
        from edgesmith.pipeline.fields import as_text
        from edgesmith.pipeline.recipe import Recipe

        click.echo(as_text(Recipe))
        context.exit()


@cli.command()
@click.argument("recipe", metavar="RECIPE|NAME")
@click.option(
    "--fields", is_flag=True, is_eager=True, expose_value=False, callback=show_fields, help="List all fields of recipes."
)
@click.option("--out", type=FOLDER, metavar="DIR", help="Run folder. Default: runs/NAME.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override one field, e.g. train.epochs=3.")
@click.option("--dry-run", is_flag=True, help="Check the recipe and its inputs, print it in full, run nothing.")
@json_option
def run(recipe: str, out: Path | None, overrides: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Run a recipe: train, export, build, validate, report.

    RECIPE is the path of a YAML file or the name of one that comes along (camvid, street). A run that was stopped or
    killed goes on where it was when it is started again; stages that are up to date are not run again. What a changed
    recipe replaces is kept in DIR/replaced.
    """
    from edgesmith.pipeline import recipe as recipes
    from edgesmith.pipeline import run as runs
    from edgesmith.pipeline.events import view_for
    from edgesmith.pipeline.show import describe

    checked = recipes.read(recipe, overrides)
    name = Path(recipe).stem
    if dry_run:
        runs.preflight(checked.resolved)
        resolved = recipes.dump(checked)
        click.echo(json.dumps({"recipe": name, "resolved": resolved}, indent=1) if as_json else resolved.rstrip())
        return
    done = runs.run(checked, recipe, out or Path("runs") / name, view_for(sys.stderr), overrides)
    result = {**describe(done.validation.path), "folder": str(done.folder), "report": str(done.report)}
    _show(result, as_json)


@cli.command()
@click.argument("bundle", type=FOLDER)
@click.option("--no-run", is_flag=True, help="Check the files only; do not run the golden frames.")
@json_option
def verify(bundle: Path, no_run: bool, as_json: bool) -> None:
    """Check that BUNDLE is whole and runs here.

    Whole: every file is as it was written. Runs: its engine labels the golden frames as torch did when they were made.
    Exit code 3 when the files are whole but none of its engines runs on this machine.
    """
    from edgesmith.deploy.bundle import Bundle, check_golden

    opened = Bundle.open(bundle)
    opened.verify()
    result: dict[str, Any] = {"bundle": str(bundle), "files": "whole"}
    if not no_run:
        try:
            engine = opened.engine()
        except (ImportError, RuntimeError) as e:
            _show({**result, "golden": f"inconclusive: no engine runs here: {e}"}, as_json)
            sys.exit(3)
        with engine:
            golden = check_golden(opened, engine)
        result |= {
            "backend": engine.backend,
            "golden_agreement": golden.agreement,
            "golden": "pass" if golden.passed else "FAIL",
        }
        _show(result, as_json)
        sys.exit(0 if golden.passed else 1)
    _show(result, as_json)


@cli.command()
@click.argument("artifact", type=FOLDER)
@json_option
def show(artifact: Path, as_json: bool) -> None:
    """Print what ARTIFACT holds.

    ARTIFACT is a run folder, weights, a graph, a bundle, a validation or an architecture.
    """
    from edgesmith.pipeline.show import describe

    _show(describe(artifact), as_json)


@cli.group()
def data() -> None:
    """Look at a dataset, or check its files, before training on it."""


@data.command("show")
@click.argument("spec", metavar="SPEC")
@click.option("--out", type=FOLDER, metavar="PNG", help="Picture to write. Default: NAME-SPLIT.png here.")
@click.option("--count", type=click.IntRange(1, 64), default=8, show_default=True, help="Frames in the picture.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses the frames.")
@json_option
def data_show(spec: str, out: Path | None, count: int, seed: int, as_json: bool) -> None:
    """Draw frames of SPEC with their labels; print class shares.

    Split train unless @SPLIT is given.
    """
    from edgesmith.deploy.files import write_bytes
    from edgesmith.pipeline.data.show import class_shares, contact_sheet, png
    from edgesmith.pipeline.data.spec import open_split, parse_spec

    parsed, split_name = parse_spec(spec)
    split_name = split_name or "train"
    split = open_split(parsed, split_name)
    target = out or Path(f"{Path(parsed.dataset).stem}-{split_name}.png")
    shares = class_shares(split)
    write_bytes(target, png(contact_sheet(split, count, seed, shares)))
    _show({"dataset": parsed.dataset, "split": split_name, **shares.to_json(), "picture": str(target)}, as_json)


@data.command("check")
@click.argument("spec", metavar="SPEC")
@json_option
def data_check(spec: str, as_json: bool) -> None:
    """Report all that is wrong with SPEC's files.

    Missing, truncated, of the wrong size, labelled with what is no class, in two splits. Exit code 2 when anything is.
    """
    from edgesmith.pipeline.data.check import inspect
    from edgesmith.pipeline.data.spec import parse_spec

    parsed, split = parse_spec(spec)
    found = inspect(parsed)
    if split is not None and split not in found.shares:
        raise ValueError(f"{spec}: there is no split {split!r}; it has {', '.join(found.shares)}")
    problems = [p for p in found.problems if split in (None, p.split)]
    if as_json:
        shares = {name: s.to_json() for name, s in found.shares.items() if split in (None, name)}
        click.echo(json.dumps({"problems": [vars(p) for p in problems], "splits": shares}, indent=1))
    else:
        for p in problems:
            click.echo(str(p))
        for name, s in found.shares.items():
            shown = ", ".join(f"{c} {x:.2%}" for c, x in zip(s.names, s.shares, strict=True))
            click.echo(f"{name}: {s.frames} frames; {shown}, void {s.void:.2%}")
        click.echo(f"{len(problems)} problem{'' if len(problems) == 1 else 's'}")
    sys.exit(2 if problems else 0)


@cli.group()
def weights() -> None:
    """Bring in weights that were trained elsewhere, as a folder that a recipe can start from."""


@weights.command("import")
@click.argument("family", type=click.Choice(["squeezenas"]))
@click.argument("file", type=click.Path(path_type=Path))
@out_option("Weights folder to write.")
@click.option("--arch", metavar="NAME", help="Published network that FILE belongs to. Default: the one that it fits.")
@json_option
def weights_import(family: str, file: Path, out: Path, arch: str | None, as_json: bool) -> None:
    """Import the authors' trained weights FILE.

    FILE is a state dict as the authors released it; it is read with weights_only, so that nothing in it is executed.
    """
    from edgesmith.pipeline.imports import import_squeezenas
    from edgesmith.pipeline.show import describe

    _show(describe(import_squeezenas(file, out, arch).path), as_json)


@cli.command()
@click.argument("source", metavar="DIR|zoo:NAME")
@click.option("--frame", type=SIZE, default="360x480", help="Frame size of camera and label map. Default: 360x480.")
@click.option("--input", "input_hw", type=SIZE, help="Size at which the network runs. Default: the frame size.")
@click.option("--colour-order", type=click.Choice(["bgr", "rgb"]), default="bgr", show_default=True, help="Of the camera.")
@out_option("Graph folder to write.")
@json_option
def export(
    source: str, frame: tuple[int, int], input_hw: tuple[int, int] | None, colour_order: str, out: Path, as_json: bool
) -> None:
    """Make one ONNX graph of weights DIR or zoo:NAME.

    The graph takes a camera's uint8 frame and gives the uint8 label map at frame size; resize, colour order, normalisation,
    enlargement and argmax are inside. zoo:NAME is a published network with random weights, for its shape and speed.
    """
    from edgesmith.pipeline.artifacts import OnnxModel
    from edgesmith.pipeline.export import Export
    from edgesmith.pipeline.imports import weights_of
    from edgesmith.pipeline.show import describe

    stage = Export(frame, input_hw, "rgb" if colour_order == "rgb" else "bgr")
    with weights_of(source) as given:
        _alone(OnnxModel, stage, given, out)
    _show(describe(out), as_json)


@cli.command()
@click.argument("model", metavar="DIR", type=FOLDER)
@click.option(
    "--backend",
    "backends",
    type=click.Choice(BACKENDS),
    multiple=True,
    default=["onnxruntime"],
    show_default=True,
    help="Engine to build; may be given more than once.",
)
@out_option("Bundle folder to write.")
@json_option
def build(model: Path, backends: tuple[Any, ...], out: Path, as_json: bool) -> None:
    """Build the bundle for a device from graph DIR.

    tensorrt_rtx builds its serialized engine without a GPU; running it needs one.
    """
    from edgesmith.pipeline.artifacts import BundleFolder, OnnxModel, open_artifact
    from edgesmith.pipeline.build import Build
    from edgesmith.pipeline.show import describe

    _alone(BundleFolder, Build(backends), open_artifact(OnnxModel, model), out)
    _show(describe(out), as_json)


@cli.command()
@click.argument("bundle", type=FOLDER)
@click.option("--data", "spec", required=True, metavar="SPEC", help="Dataset; split test unless @SPLIT is given.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N frames.")
@click.option("--weights", type=FOLDER, metavar="DIR", help="Also run these weights in torch and compare (needs torch).")
@click.option("--out", type=FOLDER, metavar="DIR", help="Validation folder to write. Default: only print.")
@json_option
def validate(bundle: Path, spec: str, limit: int | None, weights: Path | None, out: Path | None, as_json: bool) -> None:
    """Measure BUNDLE's engine over a dataset.

    IoU by class, pixel accuracy, latency as p50, p90 and p99, memory, agreement with torch.
    """
    import tempfile

    from edgesmith.deploy.bundle import Bundle
    from edgesmith.pipeline.artifacts import BundleFolder, Validation
    from edgesmith.pipeline.data.spec import parse_spec
    from edgesmith.pipeline.show import describe
    from edgesmith.pipeline.validate import Validate

    parsed, split = parse_spec(spec)
    stage = Validate(parsed, split or "test", limit=limit, weights=None if weights is None else str(weights))
    Bundle.open(bundle).verify()
    given = BundleFolder(bundle)  # a device has the bundle without the pipeline's sidecar
    with tempfile.TemporaryDirectory() as temporary:
        target = out or Path(temporary) / "validation"
        _alone(Validation, stage, given, target)
        if as_json:
            click.echo((target / "validation.json").read_text(), nl=False)
        else:
            shown = describe(target)
            if out is None:  # the folder is gone when this is read
                shown = {k: v for k, v in shown.items() if k not in ("path", "digest", "made_by", "written")}
            _show(shown, False)


def main() -> None:
    """Entry point: errors in words and an exit code; a traceback only with EDGESMITH_DEBUG=1."""
    debug = os.environ.get("EDGESMITH_DEBUG", "") not in ("", "0")
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        e.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("stopped; start the same command again to go on", err=True)
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as e:
        if debug:
            raise
        click.echo(f"edgesmith: {e}", err=True)
        machine = isinstance(e, TimeoutError) or getattr(e, "errno", None) in MACHINE_ERRORS
        sys.exit(1 if machine else 2)
    except ImportError as e:
        if debug:
            raise
        click.echo(f"edgesmith: {missing_library(e)}", err=True)
        sys.exit(1)
    except Exception as e:
        if debug:
            raise
        click.echo(f"edgesmith failed: {type(e).__name__}: {e}", err=True)
        click.echo("EDGESMITH_DEBUG=1 shows where", err=True)
        sys.exit(1)


def missing_library(error: ImportError) -> str:
    """An ImportError in words, with the extra that brings the library."""
    if "pip install" in str(error):
        return str(error)
    name = (error.name or "").partition(".")[0]
    extra = "cpu" if name in ("cv2", "yaml", "onnxruntime") else "rtx" if name == "tensorrt_rtx" else "host"
    return f"{error}; pip install 'edgesmith[{extra}]' brings it"


def _alone(kind: Any, stage: Any, given: Any, out: Path) -> None:
    """Run one stage outside a pipeline, unless `out` holds its result. Raises ValueError when it holds anything else."""
    from edgesmith.pipeline.artifacts import require_free
    from edgesmith.pipeline.events import close_view, view_for
    from edgesmith.pipeline.stage import is_current, stage_key, standalone_slot

    key = stage_key(stage, given)
    if is_current(kind(out), key):
        return
    require_free(out)
    view = view_for(sys.stderr)
    try:
        stage(given, standalone_slot(out, stage, key, view))
    finally:
        close_view(view)


def _show(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(value, indent=1))
        return
    from edgesmith.pipeline.show import as_text

    click.echo(as_text(value))


if __name__ == "__main__":
    main()
