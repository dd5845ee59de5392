"""Fallback holds back what costs most for its MACs, gives back what was not needed, and believes only what it measured."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgesmith.pipeline.int8.fallback import fall_back


def test_fallback_holds_back_little_and_keeps_the_limit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        names = [f"n{i}" for i in range(8)]
        macs = {n: int(rng.integers(1, 100)) for n in names}
        errors = {n: float(rng.exponential(0.1)) for n in names}
        limit = 0.5 * sum(v**2 for v in errors.values())

        def drop(held: frozenset[str], errors: dict[str, float] = errors) -> float:
            return sum(v**2 for n, v in errors.items() if n not in held)

        best = fall_back(macs, errors, drop, limit)
        assert drop(best.held) <= limit
        subsets = itertools.chain.from_iterable(itertools.combinations(names, k) for k in range(9))
        least = min(sum(macs[n] for n in s) for s in subsets if drop(frozenset(s)) <= limit)
        assert best.int8_share == pytest.approx(1 - sum(macs[n] for n in best.held) / sum(macs.values()))
        assert sum(macs[n] for n in best.held) <= max(2 * least, least + 30)


def test_fallback_does_nothing_when_nothing_is_needed() -> None:
    asked: list[frozenset[str]] = []

    def drop(held: frozenset[str]) -> float:
        asked.append(held)
        return 0.4

    assert fall_back({"a": 1}, {"a": 1.0}, drop, 0.5).held == frozenset()
    assert asked == [frozenset()]
    assert fall_back({"a": 1}, {"a": 1.0}, lambda held: 0.6, 0.5).int8_share == 0


def test_layers_that_turn_out_not_to_be_needed_are_given_back() -> None:
    # The dearest for its MACs is tried first, and alone is not enough; with the big one held back it is not needed.
    asked: list[frozenset[str]] = []

    def drop(held: frozenset[str]) -> float:
        asked.append(held)
        return 0.1 if "big" in held else 2.0

    best = fall_back({"small": 1, "big": 100, "rest": 10}, {"small": 1.0, "big": 1.0, "rest": 0.0}, drop, 0.5)
    assert asked[:3] == [set(), {"small", "big"}, {"small"}]
    assert best.held == {"big"}
    assert best.drop == 0.1
    assert best.int8_share == pytest.approx(11 / 111)


def test_no_network_is_measured_twice_and_one_without_int8_never() -> None:
    asked: list[frozenset[str]] = []

    def drop(held: frozenset[str]) -> float:
        asked.append(held)
        return 1.0

    names = [f"n{i}" for i in range(6)]
    best = fall_back(dict.fromkeys(names, 1), dict.fromkeys(names, 1.0), drop, 0.5)
    assert len(asked) == len(set(asked))
    assert frozenset(names) not in asked
    assert (best.held, best.int8_share, best.drop) == (frozenset(names), 0.0, 0.0)


def test_what_drop_of_raises_comes_through() -> None:
    def drop(held: frozenset[str]) -> float:
        raise ValueError("no pixel is labelled")

    with pytest.raises(ValueError, match="no pixel is labelled"):
        fall_back({"a": 1}, {"a": 1.0}, drop, 0.5)
