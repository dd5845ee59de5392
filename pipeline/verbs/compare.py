"""Where do two forms of one network differ?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import PATH, json_option, show_result

if TYPE_CHECKING:
    from edgesmith.pipeline.data.dataset import Sample

SHOWN = 8
"""Values with the largest errors that are shown to a person; --json has all."""


@click.command()
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--frames", "pattern", metavar="GLOB", help="Images to compare on, in quotes: 'frames/*.png'.")
@click.option(
    "--data", "spec", metavar="SPEC", help="Dataset to compare on, which also gives IoU; split val unless @SPLIT is given."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N frames.")
@click.option("--tolerance", type=click.FloatRange(0, min_open=True), help="Relative error from which on a value diverges.")
@json_option
def compare(
    a: Path, b: Path, pattern: str | None, spec: str | None, limit: int | None, tolerance: float | None, as_json: bool
) -> None:
    """Compare two forms A and B of one network.

    Each is a weights folder (torch), an ONNX file or graph folder, a bundle, or one of its engines/KEY. Shows the error of
    the logits, the pixels with the same label, the change of IoU by class (with --data), the first value inside at which they
    part, and every Resize.
    """
    from edgesmith.pipeline.compare import compare as run
    from edgesmith.pipeline.data.spec import open_split, parse_spec

    if (pattern is None) == (spec is None):
        raise ValueError("give --frames GLOB or --data SPEC, one of them")
    if spec is None:
        result = run(a, b, islice(_images(str(pattern)), limit), None, tolerance)
    else:
        parsed, name = parse_spec(spec)
        split = open_split(parsed, name or "val")
        result = run(a, b, (split[i] for i in range(min(len(split), limit or len(split)))), split.labels, tolerance)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        show_result(_shown(result), False)


def _images(pattern: str) -> Iterator[Sample]:
    """The files that `pattern` names, without labels."""
    import glob

    import numpy as np

    from edgesmith.pipeline.data.dataset import VOID, Sample
    from edgesmith.pipeline.data.images import decode_frame

    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise FileNotFoundError(f"--frames: no file is called {pattern}")
    for name in found:
        if Path(name).is_dir():
            raise IsADirectoryError(f"--frames: {name} is a folder; name its images, as in '{name.rstrip('/')}/*.png'")
        frame = decode_frame(Path(name).read_bytes(), Path(name))
        yield Sample(Path(name).name, frame, np.full(frame.shape[:2], VOID, np.uint8))


def _shown(result: dict[str, Any]) -> dict[str, Any]:
    worst = sorted(result["layers"], key=lambda row: -row["error"])[:SHOWN]
    nodes = [{"in": side, **node} for side in ("a", "b") for node in result["resizes"].get(side, [])]
    shown = {k: v for k, v in result.items() if k not in ("layers", "resizes")}
    return {**shown, "values_compared": len(result["layers"]), "largest_errors": worst, "resizes": nodes}
