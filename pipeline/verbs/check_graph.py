"""Will a device's TensorRT take this graph?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from .options import json_option


@click.command("check-graph")
@click.argument("onnx", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--target",
    type=click.Choice(["trt10.3", "trt10.16", "trt11", "rtx"]),
    required=True,
    help="trt10.3 is JetPack 6, trt10.16 JetPack 7.2, rtx TensorRT for RTX.",
)
@click.option("--plugin", "plugins", multiple=True, metavar="DOMAIN.OP", help="Operator that the device has a plugin for.")
@json_option
def check_graph(onnx: Path, target: Any, plugins: tuple[str, ...], as_json: bool) -> None:
    """Check the graph ONNX against the rules of one TensorRT version.

    Each line names a node, what is wrong with it, the fix, the rule and where the rule comes from. Nothing is built: a
    graph that passes can still meet a limit of one GPU. Exit code 2 when a rule is broken.
    """
    from edgesmith.pipeline.graphs import check as graph_check
    from edgesmith.pipeline.graphs.view import read_graph

    found = graph_check.check_graph(read_graph(onnx), target, plugins)
    if as_json:
        result = {"graph": str(onnx), "target": target, "findings": [f.to_json() for f in found]}
        click.echo(json.dumps(result, indent=1))
    else:
        for f in found:
            click.echo(str(f))
        click.echo(f"{onnx}: {len(found)} finding{'' if len(found) == 1 else 's'} for {target}")
    sys.exit(2 if found else 0)
