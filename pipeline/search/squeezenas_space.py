"""The three search spaces of SqueezeNAS: a fixed macro-architecture and 13 candidates for each block (paper, section 3).

Appendix C prints the channels of Large under XLarge and the reverse; the macro-architectures here are those of the published
networks, which reproduce all six published MACs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgesmith import models
from edgesmith.models.arch import InvertedResidual, SqueezeNas

SpaceName = Literal["small", "large", "xlarge"]
SPACES: tuple[SpaceName, ...] = get_args(SpaceName)

CANDIDATES: dict[str, tuple[int, ...]] = {
    f"k{k}_d{d}_e{e}_g{g}": (k, d, e, g) for k, d in ((3, 1), (3, 2), (5, 1)) for e, g in ((1, 2), (1, 1), (3, 1), (6, 1))
} | {"skip": ()}
"""Name -> kernel, dilation, expansion, groups of a candidate, in the order of Appendix B; skip is the last and has none."""
NAMES: tuple[str, ...] = tuple(CANDIDATES)
SKIP = NAMES.index("skip")


@dataclass(frozen=True)
class Space:
    """What stays the same in all architectures of one search, and what a block may be."""

    name: SpaceName
    macro: SqueezeNas
    """A network of the space: stem, widths, strides, decoder are the space's; its blocks' operators mean nothing."""

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.macro.blocks)

    def choices(self, i: int) -> tuple[InvertedResidual, ...]:
        """The 13 candidates of block `i`, in the order of `CANDIDATES`."""
        b = self.macro.blocks[i]
        built = tuple(InvertedResidual(b.width, b.stride, "mbconv", *fields) for fields in CANDIDATES.values() if fields)
        return (*built, InvertedResidual(b.width, b.stride, "skip"))

    def arch(self, choice: Sequence[int], name: str) -> SqueezeNas:
        """The architecture that takes candidate `choice[i]` in block `i`. Raises ValueError for another number of blocks."""
        if len(choice) != len(self):
            raise ValueError(f"choice: {len(choice)} candidates for the {len(self)} blocks of space {self.name}")
        return dataclasses.replace(self.macro, name=name, blocks=tuple(self.choices(i)[j] for i, j in enumerate(choice)))

    def choice(self, arch: SqueezeNas) -> tuple[int, ...]:
        """The inverse of `arch`. Raises ValueError when the architecture is not of this space."""
        found = tuple(self.choices(i).index(b) if b in self.choices(i) else -1 for i, b in enumerate(arch.blocks))
        if -1 in found or len(found) != len(self) or self.arch(found, arch.name) != arch:
            raise ValueError(f"{arch.name} is not an architecture of the space {self.name}")
        return found


def space(name: SpaceName) -> Space:
    """The space `name`."""
    macro = models.zoo(f"squeezenas-mac-{name}")
    if not isinstance(macro, SqueezeNas):
        raise TypeError(f"squeezenas-mac-{name} is a {type(macro).__name__}")
    return Space(name, macro)
