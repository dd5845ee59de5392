"""Engines or plans of one network timed in turn, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgesmith.deploy.engines import Engine

Run = Callable[[int], float]
"""Runs once, given how often it ran before, and says how many milliseconds that took."""


def blocks_ms(runs: Mapping[str, Run], rounds: int, block: int = 1, warm_up: int = 0) -> dict[str, list[float]]:
    """The median of each round's block, by name, in ms.

    In a round each has its block of `block` runs, behind `warm_up` that do not count.
    """
    blocks: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        first = number * (warm_up + block)
        for name, run in runs.items():
            times = [run(first + i) for i in range(warm_up + block)]
            blocks[name].append(statistics.median(times[warm_up:]))
    return blocks


def medians_ms(runs: Mapping[str, Run], rounds: int, block: int = 1, warm_up: int = 0) -> dict[str, float]:
    """The median over the rounds of what `blocks_ms` gives."""
    return {name: statistics.median(each) for name, each in blocks_ms(runs, rounds, block, warm_up).items()}


def inference(engine: Engine, frames: Sequence[NDArray[np.uint8]]) -> Run:
    """Wall time of `engine` on one frame after the other."""

    def run(number: int) -> float:
        start = time.perf_counter()
        engine.infer(frames[number % len(frames)])
        return 1000 * (time.perf_counter() - start)

    return run
