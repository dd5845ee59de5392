"""The published networks: list them, look at one, draw it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import FILE, SIZE, is_svg, require_writable


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--input", "input_hw", type=SIZE, help="Count and draw NAME for this input size. Default: the published one.")
@click.option("--draw", "picture", type=FILE, metavar="SVG", help="Draw NAME to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of all networks, or NAME as one JSON object.")
def zoo(name: str | None, input_hw: tuple[int, int] | None, picture: Path | None, as_json: bool) -> None:
    """List the published networks that can be built, or show NAME.

    \b
    edgesmith zoo                                        all of them, with the published numbers and why ours differ
    edgesmith zoo fasterseg-student                      one: costs, receptive field, every stage
    edgesmith zoo fasterseg-student --draw student.svg   as its paper draws it
    edgesmith export zoo:fasterseg-student --frame 1024x2048 --out runs/student/onnx

    Parameters are those of the deployed network. MACs are multiply-accumulates of convolutions at batch 1, which papers
    call FLOPs. All numbers are counted from the architecture here and now; nothing is built for it.
    """
    from edgesmith.models import published
    from edgesmith.pipeline import zoo as networks

    if name is None:
        if picture is not None or input_hw is not None:
            raise click.UsageError(
                f"{'--draw' if picture else '--input'} needs the NAME of a network; `edgesmith zoo` lists them"
            )
        rows = networks.listing()
        click.echo(json.dumps(rows, indent=1) if as_json else networks.table(rows))
        return
    if name.endswith(".json"):
        raise ValueError(f"NAME: {name} is not a published network's; for an architecture in a file: edgesmith show {name}")
    name = name.removeprefix("zoo:")
    if picture is not None:
        require_writable("--draw", picture, "SVG", is_svg)
    value = networks.detail(name, input_hw)
    if picture is not None:
        from edgesmith.deploy.files import write_text
        from edgesmith.models.draw import draw

        known = published.read(name)
        write_text(picture, draw(known.arch, known.task, input_hw or known.input_hw))
        value["picture"] = str(picture)
    click.echo(json.dumps(value, indent=1) if as_json else networks.page(value))
