"""The options that `build` and `bundle add` share: precision, and how TensorRT's builder works."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .options import FOLDER

if TYPE_CHECKING:
    from edgesmith.pipeline.build import Build


class HowToBuild(NamedTuple):
    """What the options said."""

    precision: Any
    compute_capability: str
    workspace: int | None
    optimization_level: int | None
    version_compatible: bool
    timing_cache: Path | None
    weights: Path | None
    plugins: Any
    plugin_library: Path | None
    timeout: float

    def stage(self, backends: tuple[Any, ...]) -> Build:
        """The stage that builds so. Raises ValueError."""
        from edgesmith.deploy.engines.tensorrt_options import PlanOptions
        from edgesmith.pipeline.build import Build

        plan = PlanOptions(
            timing_cache=None if self.timing_cache is None else str(self.timing_cache),
            workspace_mib=self.workspace,
            optimization_level=self.optimization_level,
            version_compatible=self.version_compatible,
        )
        return Build(
            backends,
            self.precision,
            self.compute_capability,
            plan,
            weights=None if self.weights is None else str(self.weights),
            timeout_s=self.timeout,
            plugins=self.plugins,
            plugin_library=None if self.plugin_library is None else str(self.plugin_library),
        )


_OPTIONS = (
    click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "int8", "best"]),
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
    click.option("--workspace", type=click.IntRange(1), metavar="MIB", help="Scratch memory of one layer, at most."),
    click.option("--optimization-level", type=click.IntRange(0, 5), metavar="0-5", help="TensorRT's effort; its default is 3."),
    click.option("--version-compatible", is_flag=True, help="The plan also runs on later versions of TensorRT."),
    click.option("--timing-cache", type=FOLDER, metavar="FILE", help="Keeps TensorRT's timings for the next build."),
    click.option("--weights", type=FOLDER, metavar="DIR", help="Weights that torch_tensorrt compiles."),
    click.option(
        "--plugins",
        type=click.Choice(["none", "auto"]),
        default="none",
        show_default=True,
        help="auto measures operators of our own, and takes those that are faster here.",
    ),
    click.option(
        "--plugin-library",
        type=FOLDER,
        metavar="FILE",
        envvar="EDGESMITH_PLUGINS",
        show_envvar=True,
        help="These operators for TensorRT, compiled on this machine.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=1200,
        show_default=True,
        metavar="SECONDS",
        help="Then building one plan, or timing those with plugins, is given up; not for torch_tensorrt.",
    ),
)


def build_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` these options; it is called with `how`, a HowToBuild."""

    @functools.wraps(command)
    def called(**options: Any) -> None:
        how = HowToBuild(*(options.pop(name) for name in HowToBuild._fields))
        command(how=how, **options)

    for option in reversed(_OPTIONS):
        called = option(called)
    return called
