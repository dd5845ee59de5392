"""From the values that a tensor took to the range that INT8 is to represent.

Ranges are symmetric, so only magnitudes count. Zeros do not: every scale represents them exactly, and behind a ReLU they are
most of what there is.

* `minmax`: the largest magnitude. Nothing is clipped, and one outlier makes every step coarser.
* `percentile`: the magnitude below which that part of the values lies.
* `entropy`: the range whose 128 levels lose least of the distribution, by Kullback-Leibler divergence (S. Migacz, "8-bit
  Inference with TensorRT", GTC 2017). Here candidates are STRIDE bins apart: a range is off by less than one hundredth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .int8 import Method

BINS = 2048
STRIDE = 16
_LEVELS = 128

Counts = NDArray[np.int64]


def magnitudes(values: NDArray[Any], largest: float) -> Counts:
    """How often magnitudes occur: (BINS,), equal bins from 0 to `largest`; zeros are left out."""
    if not largest > 0:
        return np.zeros(BINS, np.int64)
    bins = np.abs(values[values != 0]) * np.float32(BINS / largest)
    return np.bincount(np.minimum(bins.astype(np.int32), BINS - 1), minlength=BINS)


def range_of(method: Method, counts: Counts, largest: float, percentile: float) -> float:
    """The magnitude that INT8 is to reach, at most `largest`; `counts` as `magnitudes` gives them, summed over frames."""
    if method == "minmax" or not counts.any():
        return largest
    if method == "percentile":
        wanted = counts.sum() * percentile / 100 * (1 - 1e-12)  # 99.9 / 100 is a little more than 0.999
        kept = int(np.searchsorted(np.cumsum(counts), wanted)) + 1
    else:
        kept = min(range(_LEVELS, BINS + 1, STRIDE), key=lambda bins: _divergence(counts, bins))
    return largest * min(kept, BINS) / BINS


def clipped(counts: Counts, largest: float, amax: float) -> float:
    """Share of the non-zero values that lie beyond `amax`, 0 to 1."""
    if not counts.any():
        return 0.0
    return float(counts[round(amax / largest * BINS) :].sum() / counts.sum())


def _divergence(counts: Counts, kept: int) -> float:
    """Kullback-Leibler divergence of the distribution clipped to `kept` bins from what _LEVELS levels make of it."""
    inside = counts[:kept].astype(np.float64)
    clipped_to = inside.copy()
    clipped_to[-1] += counts[kept:].sum()
    level = np.arange(kept) * _LEVELS // kept
    occupied = inside > 0
    mass, width = np.bincount(level, inside), np.bincount(level, occupied)
    spread = np.where(occupied, (mass / np.maximum(width, 1))[level], 0)
    if not spread.any():
        return float("inf")
    p, q = clipped_to / clipped_to.sum(), spread / spread.sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())
