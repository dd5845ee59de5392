"""What the scripts that time in turn share."""

from __future__ import annotations

import numpy as np
import pytest

from edgesmith.bench.rounds import size, summary, wall_ms


def test_a_call_is_timed_each_time() -> None:
    called: list[None] = []
    run = wall_ms(lambda: called.append(None))
    assert all(run(i) >= 0 for i in range(3))
    assert len(called) == 3


def test_a_summary_is_three_percentiles() -> None:
    assert summary(np.arange(11) / 3) == {"p10": 0.333, "p50": 1.667, "p90": 3.0}


def test_sizes_are_height_times_width() -> None:
    assert size("360x480") == (360, 480)
    with pytest.raises(ValueError, match="unpack"):
        size("360")
