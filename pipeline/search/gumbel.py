"""Noise for the Gumbel-Softmax trick."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gumbel(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard Gumbel noise."""
    return rng.gumbel(size=shape).astype(np.float32)
