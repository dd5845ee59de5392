"""The options that `build` and `bundle add` share: precision, and how TensorRT's builder works."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click

from edgesmith.deploy.engines import PRECISIONS

_OPTIONS = (
    click.option(
        "--precision",
        type=click.Choice((*PRECISIONS, "best")),
        default="fp32",
        show_default=True,
        help="best: the fastest as measured here; onnxruntime only.",
    ),
    click.option(
        "--compute-capability",
        default="sm86",
        show_default=True,
        metavar="SM",
        help="GPU that tensorrt_rtx builds for, or current.",
    ),
    click.option(
        "--workspace", "workspace_mib", type=click.IntRange(1), metavar="MIB", help="Scratch memory of one layer, at most."
    ),
    click.option("--optimization-level", type=click.IntRange(0, 5), metavar="0-5", help="TensorRT's effort; its default is 3."),
    click.option("--version-compatible", is_flag=True, help="The plan also runs on later versions of TensorRT."),
    click.option("--timing-cache", type=click.Path(), metavar="FILE", help="Keeps TensorRT's timings for the next build."),
    click.option("--weights", type=click.Path(), metavar="DIR", help="Weights that torch_tensorrt compiles."),
    click.option(
        "--plugins",
        type=click.Choice(["none", "auto"]),
        default="none",
        show_default=True,
        help="auto measures operators of our own, and takes those that are faster here.",
    ),
    click.option(
        "--plugin-library",
        type=click.Path(),
        metavar="FILE",
        envvar="EDGESMITH_PLUGINS",
        show_envvar=True,
        help="These operators for TensorRT, compiled on this machine.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(0, min_open=True),
        default=1200,
        show_default=True,
        metavar="SECONDS",
        help="Give up building one plan, or timing those with plugins, after this long; not for torch_tensorrt.",
    ),
)
_OF_BUILD = ("precision", "compute_capability", "weights", "timeout_s", "plugins", "plugin_library")
"""Options that are fields of `Build`; the others are those of its `plan`."""


def build_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` these options; it is called with `stage`, which makes of backends the Build that they ask for."""

    @functools.wraps(command)
    def called(**options: Any) -> None:
        from edgesmith.deploy.engines.tensorrt_options import PlanOptions
        from edgesmith.pipeline.build import Build

        plan = PlanOptions(**{field.name: options.pop(field.name) for field in dataclasses.fields(PlanOptions)})
        rest = {name: options.pop(name) for name in _OF_BUILD}
        command(stage=functools.partial(Build, plan=plan, **rest), **options)

    for option in reversed(_OPTIONS):
        called = option(called)
    return called
