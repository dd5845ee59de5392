"""What several verbs share: options, running one stage alone, printing a result."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class SizeType(click.ParamType):  # type: ignore[type-arg]  # older click has no type argument
    """HxW in pixels: 360x480."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        from edgesmith.deploy.meta import MAX_SIDE

        found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", str(value))
        height, width = map(int, found.groups()) if found else (0, 0)
        if not (64 <= height <= MAX_SIDE and 64 <= width <= MAX_SIDE):
            fix = f"write height x width in pixels, each 64 to {MAX_SIDE}, as in 360x480"
            self.fail(f"{value!r} is not a size: {fix}", param, ctx)
        return height, width


SIZE = SizeType()
FOLDER = click.Path(path_type=Path)
PICTURES = {".png": b"\x89PNG\r\n", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff", ".svg": b"<svg"}
"""How the files begin that have these names."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")


def out_option(help_text: str) -> Callable[[F], F]:
    return click.option("--out", type=FOLDER, required=True, metavar="DIR", help=help_text)


def require_writable(option: str, out: Path, what: str, holds: Callable[[Path], bool]) -> None:
    """Raise ValueError or OSError unless a file may be written at `out`: none is there, or one that `holds` says is `what`."""
    from edgesmith.deploy.files import require_folder_above

    if out.is_dir():
        raise IsADirectoryError(f"{option}: {out} is a folder; name a file in it")
    require_folder_above(out, option)
    if out.exists() and not (out.is_file() and holds(out)):
        raise ValueError(f"{option}: {out} exists and is no {what}; name another file, nothing was overwritten")


def is_picture(path: Path) -> bool:
    """Whether the file is one by its name and its beginning."""
    with path.open("rb") as f:
        return path.suffix.lower() in PICTURES and f.read(16).startswith(tuple(PICTURES.values()))


def alone(kind: Any, stage: Any, given: Any, out: Path) -> None:
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


def show_result(value: dict[str, Any], as_json: bool) -> None:
    """Print `value` as text, or as one JSON object."""
    if as_json:
        click.echo(json.dumps(value, indent=1))
        return
    from edgesmith.pipeline.show import as_text

    click.echo(as_text(value))
