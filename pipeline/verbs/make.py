"""One stage by itself: import weights, export a graph, build a bundle."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesmith.deploy.engines import BACKENDS

from .build_options import build_options
from .options import PATH, SIZE, alone, json_option, out_option, show_result

if TYPE_CHECKING:
    from edgesmith.pipeline.build import Build


@click.group()
def weights() -> None:
    """Bring in weights that were trained elsewhere, as a folder that a recipe can start from."""


@weights.command("import")
@click.argument("family", type=click.Choice(["squeezenas"]))
@click.argument("file", type=PATH)
@out_option("Weights folder to write.")
@click.option("--arch", metavar="NAME", help="Published network that FILE belongs to. Default: the one that it fits.")
@json_option
def weights_import(family: str, file: Path, out: Path, arch: str | None, as_json: bool) -> None:
    """Import the authors' trained weights FILE.

    FILE is a state dict as the authors released it; it is read with weights_only, so that nothing in it is executed.
    """
    from edgesmith.pipeline.imports import import_squeezenas
    from edgesmith.pipeline.show import describe

    show_result(describe(import_squeezenas(file, out, arch).path), as_json)


@click.command()
@click.argument("source", metavar="DIR|zoo:NAME")
@click.option("--frame", type=SIZE, default="360x480", help="Frame size of camera and label map. Default: 360x480.")
@click.option("--input", "input_hw", type=SIZE, help="Size at which the network runs. Default: the frame size.")
@click.option("--colour-order", type=click.Choice(["bgr", "rgb"]), default="bgr", show_default=True, help="Of the camera.")
@out_option("Graph folder to write.")
@json_option
def export(
    source: str, frame: tuple[int, int], input_hw: tuple[int, int] | None, colour_order: str, out: Path, as_json: bool
) -> None:
    """Make one ONNX graph of weights DIR or zoo:NAME.

    The graph takes a camera's uint8 frame and gives the uint8 label map at frame size; resize, colour order, normalisation,
    enlargement and argmax are inside. zoo:NAME is a published network with random weights, for its shape and speed.
    """
    from edgesmith.pipeline.artifacts import OnnxModel
    from edgesmith.pipeline.export import Export
    from edgesmith.pipeline.imports import weights_of
    from edgesmith.pipeline.show import describe

    stage = Export(frame, input_hw, "rgb" if colour_order == "rgb" else "bgr")
    with weights_of(source) as given:
        alone(OnnxModel, stage, given, out)
    show_result(describe(out), as_json)


@click.command()
@click.argument("model", metavar="DIR", type=PATH)
@click.option(
    "--backend",
    "backends",
    type=click.Choice(BACKENDS),
    multiple=True,
    default=["onnxruntime"],
    show_default=True,
    help="Engine to build; may be given more than once.",
)
@build_options
@out_option("Bundle folder to write.")
@json_option
def build(model: Path, backends: tuple[Any, ...], out: Path, as_json: bool, stage: partial[Build]) -> None:
    """Build the bundle for a device from graph DIR.

    int8 takes a graph folder that edgesmith calibrate wrote. best measures fp32, fp16 and, where calibrated, int8, and says why
    it chose; for onnxruntime only. Plans of tensorrt_rtx are built without a GPU. This version builds TensorRT plans and does
    not run them.
    """
    from edgesmith.pipeline.artifacts import BundleFolder, OnnxModel, open_artifact
    from edgesmith.pipeline.show import describe

    alone(BundleFolder, stage(backends), open_artifact(OnnxModel, model), out)
    show_result(describe(out), as_json)
