"""Those that are timed take turns in blocks, and what warms up does not count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from edgesmith.deploy.engines.turns import Run, blocks_ms, inference, medians_ms


def test_blocks_take_turns_and_runs_that_warm_up_do_not_count() -> None:
    ran: list[str] = []

    def runs(name: str, times: list[float]) -> Run:
        def run(number: int) -> float:
            ran.append(f"{name}{number}")
            return times[number]

        return run

    a, b = [99.0, 1.0, 2.0, 99.0, 99.0, 5.0, 6.0, 99.0, 3.0], [0.0] * 9
    # Blocks of two behind one: their medians are 1.5, 52 and 51.
    assert medians_ms({"a": runs("a", a), "b": runs("b", b)}, rounds=3, block=2, warm_up=1) == {"a": 51.0, "b": 0.0}
    assert blocks_ms({"a": runs("a", a)}, rounds=3, block=2, warm_up=1) == {"a": [1.5, 52.0, 51.0]}
    assert ran[:9] == ["a0", "a1", "a2", "b0", "b1", "b2", "a3", "a4", "a5"]
    assert len(ran) == 18 + 9


def test_one_run_a_round_is_the_median_of_all_runs() -> None:
    assert medians_ms({"a": float}, rounds=5) == {"a": 2.0}


def test_an_engine_gets_one_frame_after_the_other() -> None:
    seen: list[Any] = []
    frames = [np.full((2, 2, 3), i, np.uint8) for i in range(3)]
    run = inference(SimpleNamespace(infer=lambda frame: seen.append(frame[0, 0, 0])), frames)  # type: ignore[arg-type]
    assert all(run(i) >= 0 for i in range(4))
    assert seen == [0, 1, 2, 0]
