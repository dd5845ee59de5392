"""Ranges for INT8."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from edgesmith.calibration.int8 import METHODS

from .options import PATH, alone, json_option, out_option, show_result


@click.command()
@click.argument("model", metavar="DIR", type=PATH)
@click.option("--data", "spec", required=True, metavar="SPEC", help="Dataset; its training split gives the ranges.")
@click.option("--method", type=click.Choice(METHODS), default="percentile", show_default=True, help="From values to ranges.")
@out_option("Graph folder to write: DIR's files and calibration.json.")
@click.option("--frames", type=click.IntRange(1), default=64, show_default=True, help="Training frames that give the ranges.")
@click.option("--held-out", type=click.IntRange(1), default=128, show_default=True, help="Frames that the loss is measured on.")
@click.option("--limit-drop", type=float, default=0.5, show_default=True, help="Points of mIoU that INT8 may cost.")
@click.option("--min-share", type=float, default=0.7, show_default=True, help="Least share of convolution MACs in INT8.")
@click.option("--no-fallback", is_flag=True, help="All convolutions in INT8, or refuse.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses the frames.")
@click.option("--workers", type=click.IntRange(1), help="Frames that run side by side. Default: one a core.")
@json_option
def calibrate(
    model: Path, spec: str, out: Path, no_fallback: bool, workers: int | None, as_json: bool, **settings: Any
) -> None:
    """Find out how graph DIR runs in INT8.

    Ranges come from the training split; what INT8 costs is measured on val, or on training frames that gave no ranges. The
    convolutions that cost most stay in fp16 until mIoU loses no more than --limit-drop. Stopped or killed, the same command
    goes on; one that was refused measures nothing again with another limit.
    Then: edgesmith build OUT --precision int8 --out BUNDLE.
    """
    from edgesmith.calibration.int8 import Calibration
    from edgesmith.deploy.bundle import CALIBRATION
    from edgesmith.pipeline.artifacts import OnnxModel, open_artifact
    from edgesmith.pipeline.calibrate import Calibrate
    from edgesmith.pipeline.data.spec import parse_spec

    parsed, split = parse_spec(spec)
    if split is not None:
        raise ValueError(f"--data {spec}: calibration reads split train, and val where there is one; leave @{split} out")
    stage = Calibrate(parsed, fallback=not no_fallback, workers=workers or len(os.sched_getaffinity(0)), **settings)
    given = open_artifact(OnnxModel, model)
    alone(OnnxModel, stage, given, out, scratch=out.parent / f".{out.name}.resume")
    found = Calibration.read(out / CALIBRATION)
    show_result({"path": str(out), **found.summary(), "layers": found.rows()}, as_json)
