"""Ranges come from what a graph's convolutions saw, the same whatever the order, the workers and the kills."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from edgesmith.calibration.int8 import Layer
from edgesmith.pipeline.int8 import observe as module
from edgesmith.pipeline.int8.journal import Journal
from edgesmith.pipeline.int8.observe import Watched, observe

Frame = Callable[[], NDArray[np.uint8]]


@pytest.fixture
def network(small: Any) -> ModelProto:
    found: ModelProto = small.network()
    return found


@pytest.fixture
def frames(small: Any) -> list[Frame]:
    return [partial(small.frame, i) for i in range(5)]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is kept after every second frame."""
    monkeypatch.setattr(module, "CHUNK", 2)


def seen(graph: ModelProto, frames: list[Frame], journal: Journal | None = None, **how: Any) -> dict[str, Layer]:
    workers, log = how.pop("workers", 1), how.pop("log", lambda event, **fields: None)
    watched = Watched(frames, workers, journal or Journal(None, ""), log)
    return observe(graph, watched, how.get("method", "percentile"), how.get("percentile", 99.0))


def test_the_range_of_an_input_is_the_largest_that_the_frames_had(network: ModelProto, frames: list[Frame]) -> None:
    layers = seen(network, frames, method="minmax")
    largest = max(float(np.abs(frame().astype(np.float32) - 120).max()) for frame in frames)
    assert layers["stem"].amax == layers["stem"].seen == largest
    assert layers["stem"].clipped == 0
    assert layers["stem"].macs == 8 * 3 * 9 * 12 * 16
    assert list(layers) == ["stem", "spread", "after_spread", "gate", "value", "classifier"]


def test_neither_order_nor_workers_change_anything(network: ModelProto, frames: list[Frame]) -> None:
    assert seen(network, frames) == seen(network, frames[::-1], workers=3)


def test_a_pass_that_failed_goes_on_behind_the_frames_that_it_kept(
    network: ModelProto, frames: list[Frame], tmp_path: Path
) -> None:
    given: list[int] = []

    def damaged(i: int, broken: int | None) -> NDArray[np.uint8]:
        given.append(i)
        if i == broken:
            raise ValueError(f"frame {i} is damaged")
        return frames[i]()

    with pytest.raises(ValueError, match="frame 3 is damaged"):
        seen(network, [partial(damaged, i, 3) for i in range(5)], Journal(tmp_path, "key"))
    assert given == [0, 1, 2, 3]
    given.clear()
    done: list[int] = []
    layers = seen(
        network,
        [partial(damaged, i, None) for i in range(5)],
        Journal(tmp_path, "key"),
        log=lambda event, **fields: done.append(fields["done"]),
    )
    assert given == [2, 3, 4, *range(5)]  # the first pass goes on, the second is new
    assert done == [3, 4, 5, 1, 2, 3, 4, 5]
    assert layers == seen(network, frames)
    given.clear()
    assert seen(network, [partial(damaged, i, 0) for i in range(5)], Journal(tmp_path, "key")) == layers
    assert given == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_value_that_is_not_finite_is_named(network: ModelProto, frames: list[Frame], value: float) -> None:
    weights = {c.name: c for c in network.graph.initializer}
    bias = weights["spread/bias"]
    bias.CopyFrom(numpy_helper.from_array(np.full(8, value, np.float32), bias.name))
    with pytest.raises(ValueError, match="value 'spread_relu/out' is not finite on some frame: the weights are broken"):
        seen(network, frames)
