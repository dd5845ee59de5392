"""Work on a bundle that is there."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesmith.deploy.engines import BACKENDS

from .build_options import build_options
from .options import PATH, json_option

if TYPE_CHECKING:
    from edgesmith.pipeline.build import Build


@click.group()
def bundle() -> None:
    """Add engines to a bundle, on the device that will run them."""


@bundle.command("add")
@click.argument("folder", metavar="BUNDLE", type=PATH)
@click.option("--backend", type=click.Choice(BACKENDS), required=True, help="Engine to build.")
@build_options
@json_option
def bundle_add(folder: Path, backend: Any, as_json: bool, stage: partial[Build]) -> None:
    """Build an engine on this machine into BUNDLE.

    What the bundle holds stays beside it; an engine of the same key is replaced. The bundle must be whole, and is put in
    place whole: a build that fails or is killed leaves it as it was (where the file system cannot swap two folders, the next
    call puts that right).
    """
    from edgesmith.pipeline.building.bundle_add import add_engines
    from edgesmith.pipeline.events import viewing

    with viewing(sys.stderr) as view:
        added = add_engines(folder, stage((backend,)), view)
    if as_json:
        click.echo(json.dumps({"bundle": str(folder), "added": added}, indent=1))
    else:
        for engine in added:
            click.echo(f"{folder}: {engine['key']} added")
