"""What the scripts that time things in turn share, beside `edgesmith.deploy.engines.turns`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgesmith.deploy.engines.turns import Run


def wall_ms(call: Callable[[], Any]) -> Run:
    """Wall time of `call`, for `blocks_ms`."""

    def run(number: int) -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    return run


def summary(values: Any) -> dict[str, float]:
    """The 10th, 50th and 90th percentile, to three digits behind the point."""
    p10, p50, p90 = np.percentile(values, (10, 50, 90))
    return {"p10": round(float(p10), 3), "p50": round(float(p50), 3), "p90": round(float(p90), 3)}


def size(text: str) -> tuple[int, int]:
    """Height and width of an option such as 360x480."""
    h, w = text.split("x")
    return int(h), int(w)
