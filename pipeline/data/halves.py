"""Two disjoint halves of a split, for searches that learn weights on one and the architecture on the other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from .dataset import LabelSet, Sample, Split


@dataclass(frozen=True)
class Subset:
    """Some samples of a split, as a split."""

    whole: Split
    indices: tuple[int, ...]

    @property
    def labels(self) -> LabelSet:
        return self.whole.labels

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.whole.digest} {self.indices}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.indices[index]]


def halves(split: Split, seed: int) -> tuple[Subset, Subset]:
    """Every sample of `split` in one of two parts, at random; an odd one goes to the first."""
    order = np.random.default_rng((seed,)).permutation(len(split)).tolist()
    middle = (len(order) + 1) // 2
    return Subset(split, tuple(order[:middle])), Subset(split, tuple(order[middle:]))
