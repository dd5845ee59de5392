"""What a dataset is to the rest of the pipeline: named classes, and splits of frames with label maps, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy import meta

VOID = meta.VOID
"""Label of pixels that no class claims; ignored by losses and metrics. Every loader maps its own void to this."""
MIN_SIDE = 64
"""Smallest height and width in pixels of frames: networks take no smaller ones, and the street is drawn no smaller."""


@dataclass(frozen=True)
class LabelSet:
    """The classes of a dataset, in label order: class `i` has `names[i]` and is drawn in `palette[i]` (RGB)."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= VOID or len(self.names) != len(self.palette):
            raise ValueError(
                f"{len(self.names)} class names and {len(self.palette)} colours: need as many of each, 1 to {VOID}"
            )
        if len(set(self.names)) != len(self.names):
            twice = sorted({n for n in self.names if self.names.count(n) > 1})
            raise ValueError(f"class names occur twice: {', '.join(twice)}")


class Sample(NamedTuple):
    """One frame and its label map."""

    name: str
    frame: NDArray[np.uint8]
    """(H, W, 3), RGB."""
    label: NDArray[np.uint8]
    """(H, W), class index or VOID."""


class Split(Protocol):
    """A finite, ordered, random-access part of a dataset. Reading the same index twice gives the same arrays."""

    @property
    def labels(self) -> LabelSet: ...

    @property
    def digest(self) -> str:
        """Identity of the content (hexadecimal): equal digests mean equal samples in equal order, wherever they lie."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`. Raises IndexError past the end, ValueError naming the file when it cannot be read."""
        ...
