"""Look at what a stage left: show, verify, validate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesmith.deploy.engines import BACKENDS, PRECISIONS

from .options import PATH, alone, json_option, show_result

if TYPE_CHECKING:
    from edgesmith.deploy.bundle import Bundle
    from edgesmith.deploy.engines import Engine

backend_option = click.option("--backend", type=click.Choice(BACKENDS), help="Run this backend's engine. Default: see above.")
precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Run the engine of this precision. Default: see above."
)


@click.command()
@click.argument("artifact", type=PATH)
@json_option
def show(artifact: Path, as_json: bool) -> None:
    """Print what ARTIFACT holds.

    ARTIFACT is a run folder, weights, a graph, a bundle, a validation or an architecture, which may be a file: ARCH.json.
    """
    from edgesmith.pipeline.show import describe

    show_result(describe(artifact), as_json)


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--no-run", is_flag=True, help="Check the files only; do not run the golden frames.")
@backend_option
@precision_option
@json_option
def verify(bundle: Path, no_run: bool, backend: str | None, precision: str | None, as_json: bool) -> None:
    """Check that BUNDLE is whole and runs here.

    Whole: every file is as it was written. Runs: an engine labels the golden frames as torch did when they were made. It is the
    first that runs here: ONNX Runtime's before TensorRT's, fp32 before fp16 before int8. Of the others only the files are
    checked; --backend and --precision name another. Exit code 3 when the files are whole but none of the engines runs on this
    machine.
    """
    from edgesmith.deploy.bundle import Bundle, check_golden

    opened = Bundle.open(bundle)
    opened.verify()
    result: dict[str, Any] = {"bundle": str(bundle), "files": "whole"}
    if no_run:
        show_result(result, as_json)
        return
    engine, not_run = _first_that_runs(opened, backend, precision)
    if not_run:
        result["not_run"] = not_run
    if engine is None:
        show_result({**result, "golden": "inconclusive: no engine runs here"}, as_json)
        sys.exit(3)
    with engine:
        golden = check_golden(opened, engine)
    result |= {
        "engine": engine.key,
        "backend": engine.backend,
        "golden_agreement": golden.agreement,
        "golden": "pass" if golden.passed else "FAIL",
    }
    show_result(result, as_json)
    sys.exit(0 if golden.passed else 1)


def _first_that_runs(bundle: Bundle, backend: str | None, precision: str | None) -> tuple[Engine | None, dict[str, str]]:
    """The first engine that can be opened here; and by key why those before it cannot."""
    not_run: dict[str, str] = {}
    for record in bundle.ranked(backend, precision):
        try:
            return bundle.open_engine(record), not_run
        except (ImportError, RuntimeError) as e:
            not_run[record.key] = str(e)
    return None, not_run


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--data", "spec", required=True, metavar="SPEC", help="Dataset; split test unless @SPLIT is given.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N frames.")
@backend_option
@precision_option
@click.option("--weights", type=PATH, metavar="DIR", help="Also run these weights in torch and compare (needs torch).")
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="Validation folder to write; an earlier one of the same bundle and data is replaced. Default: only print.",
)
@json_option
def validate(
    bundle: Path,
    spec: str,
    limit: int | None,
    backend: Any,
    precision: Any,
    weights: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure an engine of BUNDLE over a dataset.

    IoU by class, pixel accuracy, latency as p50, p90 and p99, memory, agreement with torch. The engine is ONNX Runtime's if
    BUNDLE has one, in the first of fp32, fp16 and int8 that it has; --backend and --precision name another. Of the others only
    the files are checked.
    """
    import tempfile

    from edgesmith.deploy.bundle import Bundle
    from edgesmith.pipeline.artifacts import BundleFolder, Validation
    from edgesmith.pipeline.data.spec import parse_spec
    from edgesmith.pipeline.show import describe
    from edgesmith.pipeline.validate import Validate

    parsed, split = parse_spec(spec)
    compared = None if weights is None else str(weights)
    stage = Validate(parsed, split or "test", limit=limit, backend=backend, precision=precision, weights=compared)
    Bundle.open(bundle).verify()
    given = BundleFolder(bundle)  # a device has the bundle without the pipeline's sidecar
    with tempfile.TemporaryDirectory() as temporary:
        target = out or Path(temporary) / "validation"
        alone(Validation, stage, given, target, anew=True)  # times of another day are not today's
        if as_json:
            click.echo((target / "validation.json").read_text(), nl=False)
        else:
            shown = describe(target)
            if out is None:  # the folder is gone when this is read
                shown = {k: v for k, v in shown.items() if k not in ("path", "digest", "made_by", "written")}
            show_result(shown, False)
