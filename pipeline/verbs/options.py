"""What several verbs share: options, running one stage alone, printing a result."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgesmith.pipeline.artifacts import Artifact
    from edgesmith.pipeline.stage import Stage

F = TypeVar("F", bound=Callable[..., Any])


class SizeType(click.ParamType):  # type: ignore[type-arg]  # older click has no type argument
    """HxW in pixels: 360x480."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        from edgesmith.deploy.fields import MAX_SIDE

        found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", str(value))
        height, width = map(int, found.groups()) if found else (0, 0)
        if not (64 <= height <= MAX_SIDE and 64 <= width <= MAX_SIDE):
            fix = f"write height x width in pixels, each 64 to {MAX_SIDE}, as in 360x480"
            self.fail(f"{value!r} is not a size: {fix}", param, ctx)
        return height, width


SIZE = SizeType()
PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")


def out_option(help_text: str) -> Callable[[F], F]:
    return click.option("--out", type=PATH, required=True, metavar="DIR", help=help_text)


def require_writable(option: str, out: Path, what: str, holds: Callable[[Path], bool]) -> None:
    """Raise ValueError or OSError unless a file may be written at `out`: none is there, or one that `holds` says is `what`."""
    from edgesmith.deploy.files import require_folder_above

    if out.is_dir():
        raise IsADirectoryError(f"{option}: {out} is a folder; name a file in it")
    require_folder_above(out, option)
    if out.exists() and not (out.is_file() and holds(out)):
        raise ValueError(f"{option}: {out} exists and is no {what}; name another file, nothing was overwritten")


def is_png(path: Path) -> bool:
    """Whether the file begins as a PNG does."""
    return _begins(path, b"\x89PNG\r\n")


def is_svg(path: Path) -> bool:
    """Whether the file begins as drawings of networks do."""
    return _begins(path, b"<svg")


def _begins(path: Path, beginning: bytes) -> bool:
    with path.open("rb") as f:
        return f.read(len(beginning)) == beginning


def alone(
    kind: type[Artifact], stage: Stage, given: Artifact, out: Path, scratch: Path | None = None, anew: bool = False
) -> None:
    """Run one stage outside a pipeline, unless `out` holds its result. Raises ValueError when it holds anything else.

    `scratch` is a folder for what a stage that was killed goes on with; when the result is there, it is removed. `anew` runs
    the stage even so, and replaces its result.
    """
    from edgesmith.pipeline.artifacts import require_free
    from edgesmith.pipeline.events import viewing
    from edgesmith.pipeline.stage import is_current, stage_key, standalone_slot

    key = stage_key(stage, given)
    current = is_current(kind(out), key)
    if not current:
        require_free(out)
    if current and not anew:
        click.echo(f"{out} is up to date; nothing was done", err=True)
    else:
        with viewing(sys.stderr) as view:
            stage(given, standalone_slot(out, stage, key, view, scratch))
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)


def show_result(value: dict[str, Any], as_json: bool) -> None:
    """Print `value` as text, or as one JSON object."""
    if as_json:
        click.echo(json.dumps(value, indent=1))
        return
    from edgesmith.pipeline.show import as_text

    click.echo(as_text(value))
