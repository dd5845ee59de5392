"""Random FasterSeg students for a study, and what a supernet's latency is sensitive to by a given table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesmith.models.arch import Arch, FasterSeg, Segmentation
from edgesmith.pipeline.search.fasterseg import FasterSegSearch
from edgesmith.pipeline.search.fasterseg_costs import costs
from edgesmith.pipeline.search.fasterseg_derive import derive
from edgesmith.pipeline.search.fasterseg_space import Logits, Space

if TYPE_CHECKING:
    from edgesmith.calibration.tables import LatencyTable

POOL = 20_000
"""Random networks that are looked at for such as take a given time."""
LEAN = 4.0
"""How far these may lean to slim or wide tensors, and to light or heavy operators (see random_students)."""
WEIGHT = {"skip": -1.0, "zoomed_conv": -0.5, "zoomed_conv_x2": 0.0, "conv": 0.5, "conv_x2": 1.0}
"""Operators from light to heavy."""


def random_students(search: FasterSegSearch, seed: int, lean: float) -> Iterator[FasterSeg]:
    """What random logits with random sets of branches derive to in the search's space, without end.

    Each network as a whole leans to slim or to wide tensors and to light or to heavy operators, by random amounts of up to
    `lean` in the logits of the ends. Choices that are all independent hardly ever make a network as fast as a search may find.
    """
    rng = np.random.default_rng(seed)
    while True:
        scales = search.choices[int(rng.integers(len(search.choices)))]
        logits = Logits.random(search.space, "student", rng)
        slope = rng.uniform(-lean, lean)
        logits = replace(logits, ratio=tuple(t + slope * np.linspace(-1, 1, t.shape[1]) for t in logits.ratio))
        if lean:
            lift = rng.uniform(-lean, lean) * np.array([WEIGHT[op] for op in search.space.operators])
            logits = replace(logits, alpha=tuple(t + lift for t in logits.alpha))
        yield derive(search.space, logits, "student", scales, name="fasterseg-random")


def as_fast_as(
    student: Arch, others: Iterator[Arch], latency_ms: Callable[[Arch], float], close: float, count: int
) -> list[Arch]:
    """The first `count` different ones of `others` whose latency is within the share `close` of the student's.

    Where the first POOL have too few, the nearest of them: how far the table says that they are is for the caller to tell.
    """
    goal = latency_ms(student)
    far: dict[str, tuple[float, Arch]] = {student.digest: (float("inf"), student)}
    near = []
    for arch in itertools.islice(others, POOL):
        if arch.digest in far:
            continue
        far[arch.digest] = abs(latency_ms(arch) / goal - 1), arch
        if far[arch.digest][0] <= close:
            near.append(arch)
        if len(near) == count:
            return near
    far.pop(student.digest)
    return [arch for _, arch in sorted(far.values(), key=lambda pair: pair[0])[:count]]


def sensitivity(space: Space, task: Segmentation, hw: tuple[int, int], table: LatencyTable) -> dict[str, Any]:
    """Table 2 of the paper by `table`, and the weights of Eq. 3 that footnote 1 makes of it."""
    from edgesmith.pipeline.search.fasterseg_latency import RelaxedLatency

    found = RelaxedLatency(space, costs(space, task, "latency", hw, table)).sensitivity()
    return {"input_hw": list(hw), "delta_ms": asdict(found), "weights": list(found.weights())}
