"""Look at what a stage left: show, verify, validate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import FOLDER, alone, json_option, show_result


@click.command()
@click.argument("artifact", type=FOLDER)
@json_option
def show(artifact: Path, as_json: bool) -> None:
    """Print what ARTIFACT holds.

    ARTIFACT is a run folder, weights, a graph, a bundle, a validation or an architecture.
    """
    from edgesmith.pipeline.show import describe

    show_result(describe(artifact), as_json)


@click.command()
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
            show_result({**result, "golden": f"inconclusive: no engine runs here: {e}"}, as_json)
            sys.exit(3)
        with engine:
            golden = check_golden(opened, engine)
        result |= {
            "backend": engine.backend,
            "golden_agreement": golden.agreement,
            "golden": "pass" if golden.passed else "FAIL",
        }
        show_result(result, as_json)
        sys.exit(0 if golden.passed else 1)
    show_result(result, as_json)


@click.command()
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
        alone(Validation, stage, given, target)
        if as_json:
            click.echo((target / "validation.json").read_text(), nl=False)
        else:
            shown = describe(target)
            if out is None:  # the folder is gone when this is read
                shown = {k: v for k, v in shown.items() if k not in ("path", "digest", "made_by", "written")}
            show_result(shown, False)
