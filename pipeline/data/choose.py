"""Which frames stand for a split."""

from __future__ import annotations

import numpy as np

from .dataset import VOID, Split

POOL = 4
"""Candidates looked at for each frame that is wanted: reading a whole split for its labels can take minutes."""


def stratified(split: Split, count: int, seed: int) -> list[int]:
    """Indices of `count` frames, in ascending order, chosen so that rare classes occur too; all, where there are no more.

    From a seeded shuffle, again and again the first frame that shows the class which the fewest frames chosen so far show.
    """
    pool = np.random.default_rng(seed).permutation(len(split))[: POOL * count]
    shown = np.zeros((len(pool), len(split.labels.names)), bool)  # frame shows class
    for row, index in zip(shown, pool, strict=True):
        row[np.setdiff1d(split[int(index)].label, VOID)] = True
    chosen: list[int] = []
    often = np.zeros(shown.shape[1], np.int64)
    left = np.ones(len(pool), bool)
    for _ in range(min(count, len(pool))):
        possible = (shown & left[:, None]).any(0)
        if possible.any():
            rarest = int(np.where(possible, often, len(pool) + 1).argmin())
            row_index = int((shown[:, rarest] & left).argmax())
        else:
            row_index = int(left.argmax())
        left[row_index] = False
        often += shown[row_index]
        chosen.append(int(pool[row_index]))
    return sorted(chosen)


def end_to_end(indices: list[int], count: int) -> list[int]:
    """`count` of `indices`, evenly spread from first to last; all, where there are no more."""
    at = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [indices[i] for i in at]
