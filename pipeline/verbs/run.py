"""Run a recipe."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from edgesmith.pipeline.recipes import names

from .options import PATH, json_option, show_result


def show_fields(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Print every field that a recipe may set, and end."""
    if wanted:
        from edgesmith.pipeline.fields import as_text
        from edgesmith.pipeline.recipe import Recipe

        click.echo(as_text(Recipe))
        context.exit()


@click.command(epilog=f"Built-in recipes: {', '.join(names())}.")
@click.argument("recipe", metavar="RECIPE|NAME")
@click.option(
    "--fields", is_flag=True, is_eager=True, expose_value=False, callback=show_fields, help="List all fields of recipes."
)
@click.option("--out", type=PATH, metavar="DIR", help="Run folder. Default: runs/NAME.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override one field, e.g. train.epochs=3.")
@click.option("--dry-run", is_flag=True, help="Check the recipe and its inputs, print it in full, run nothing.")
@json_option
def run(recipe: str, out: Path | None, overrides: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Run a recipe: search where it asks for it, train, export, build, validate, report.

    RECIPE is the path of a YAML file or the name of one that comes along. A run that was stopped or
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
        remarks = runs.preflight(checked.resolved)
        resolved = recipes.dump(checked)
        for remark in remarks:
            click.echo(f"remark: {remark}", err=True)
        found = {"recipe": name, "resolved": resolved, "remarks": remarks}
        click.echo(json.dumps(found, indent=1) if as_json else resolved.rstrip())
        return
    done = runs.run(checked, recipe, out or Path("runs") / name, view_for(sys.stderr), overrides)
    result = {**describe(done.validation.path), "folder": str(done.folder), "report": str(done.report)}
    show_result(result, as_json)
