"""Look at a dataset, or check its files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .options import PATH, is_png, json_option, require_writable, show_result


@click.group()
def data() -> None:
    """Look at a dataset, or check its files, before training on it."""


@data.command("show")
@click.argument("spec", metavar="SPEC")
@click.option("--out", type=PATH, metavar="PNG", help="Picture to write. Default: NAME-SPLIT.png here.")
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
    require_writable("--out", target, "PNG", is_png)
    shares = class_shares(split)
    write_bytes(target, png(contact_sheet(split, count, seed, shares)))
    show_result({"dataset": parsed.dataset, "split": split_name, **shares.to_json(), "picture": str(target)}, as_json)


@data.command("check")
@click.argument("spec", metavar="SPEC")
@json_option
def data_check(spec: str, as_json: bool) -> None:
    """Report all that is wrong with SPEC's files.

    Missing or truncated files, wrong sizes, labels that are no class, frames that are in two splits. Exit code 2 when there is
    any.
    """
    from edgesmith.pipeline.data.check import inspect
    from edgesmith.pipeline.data.spec import parse_spec

    parsed, split = parse_spec(spec)
    found = inspect(parsed)
    if split is not None and split not in found.shares:
        raise ValueError(f"{spec}: there is no split {split!r}; it has {', '.join(found.shares)}")
    problems = [p for p in found.problems if split in (None, p.split)]
    shares = {name: s for name, s in found.shares.items() if split in (None, name)}
    if as_json:
        splits = {name: s.to_json() for name, s in shares.items()}
        click.echo(json.dumps({"problems": [vars(p) for p in problems], "splits": splits}, indent=1))
    else:
        for p in problems:
            click.echo(str(p))
        for name, s in shares.items():
            shown = ", ".join(f"{c} {x:.2%}" for c, x in zip(s.names, s.shares, strict=True))
            of = "" if s.frames == found.frames[name] else f" of {found.frames[name]}"
            click.echo(f"{name}: {s.frames}{of} frames; {shown}, void {s.void:.2%}")
        click.echo(f"{len(problems)} problem{'' if len(problems) == 1 else 's'}")
    sys.exit(2 if problems else 0)
