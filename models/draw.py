"""A network as a picture, drawn as its paper draws it. Needs no torch."""

from __future__ import annotations

from edgesmith.models import draw_fasterseg, draw_squeezenas
from edgesmith.models.arch import Arch, FasterSeg, Segmentation, SqueezeNas
from edgesmith.models.cost import macs, params


def draw(arch: Arch, task: Segmentation, input_hw: tuple[int, int]) -> str:
    """The network as a self-contained SVG, drawn for an input of `input_hw` = (H, W) pixels.

    It follows the reader's light or dark theme. Raises ValueError for a family that cannot be drawn.
    """
    if isinstance(arch, SqueezeNas):
        return draw_squeezenas.draw(arch, task, input_hw, _caption(arch, task, input_hw))
    if isinstance(arch, FasterSeg):
        return draw_fasterseg.draw(arch, task, input_hw, _caption(arch, task, input_hw))
    raise ValueError(f"architectures of family {arch.family!r} cannot be drawn")


def _caption(arch: Arch, task: Segmentation, input_hw: tuple[int, int]) -> str:
    count = params(arch, task)
    parameters = f"{count / 1e6:.2f} M parameters" if count >= 1e5 else f"{count / 1e3:.1f} k parameters"
    classes = f"{task.classes} {'class' if task.classes == 1 else 'classes'}"
    size = f"{input_hw[0]}x{input_hw[1]}"
    return f"{classes}, input {size} pixels: {parameters}, {macs(arch, task, input_hw) / 1e9:.3g} GMACs"
