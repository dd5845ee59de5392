"""What a network is. Architectures are plain data; `build` is the only way from one to a module.

Nothing here imports torch until a module is built or loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgesmith.models.arch import Arch, Segmentation

if TYPE_CHECKING:
    from torch import nn

    from edgesmith.models.parts import Part

__all__ = ["Arch", "Segmentation", "build", "build_part", "load", "zoo", "zoo_names"]


def build(arch: Arch, task: Segmentation) -> nn.Module:
    """The untrained module of `arch` for `task`.

    Its forward takes normalised float (N, 3, H, W) and returns logits (N, classes, H, W).
    """
    if arch.family == "squeezenas":
        from edgesmith.models import squeezenas

        return squeezenas.build(arch, task)
    if arch.family == "fasterseg":
        from edgesmith.models import fasterseg

        return fasterseg.build(arch, task)
    raise ValueError(f"no module is known for family {arch.family!r}")


def build_part(part: Part) -> nn.Module:
    """The untrained module of one piece of a network (see `edgesmith.models.parts`): what a cost table times.

    It is made of the very modules that `build` puts together. Its forward takes as many maps as the piece has inputs.
    """
    if part.family == "squeezenas":
        from edgesmith.models import squeezenas

        return squeezenas.build_part(part)
    if part.family == "fasterseg":
        from edgesmith.models import fasterseg

        return fasterseg.build_part(part)
    raise ValueError(f"no module is known for {part.key!r} of family {part.family!r}")


def load(folder: str | Path) -> nn.Module:
    """The module in a weights folder, with its weights, in eval mode (see `edgesmith.models.weights`)."""
    from edgesmith.models import weights

    return weights.load(Path(folder))


def zoo(name: str) -> Arch:
    """The published architecture `name`. Raises ValueError listing the names."""
    from edgesmith.models import published

    return published.read(name).arch


def zoo_names() -> tuple[str, ...]:
    """Names that `zoo` knows, sorted."""
    from edgesmith.models import published

    return published.names()
