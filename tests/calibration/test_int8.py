"""calibration.json: a round trip, ranges from counts, and that nothing damaged or foreign is taken."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.calibration.int8 import Calibration, Layer, Outcome, Source
from edgesmith.calibration.ranges import BINS, clipped, magnitudes, range_of

CALIBRATION = Calibration(
    "percentile",
    {
        "conv_0": Layer("x", 900, 1.5, 2.0, 1e-4, 0.01, 0.2),
        "conv_1": Layer("y", 100, 0.1 + 0.2, 9.0, 0.0, 0.5, 3.0, "alone in INT8 it costs 3 points"),
    },
    Source("a" * 64, "b" * 64, "c" * 64, "camvid", "d" * 64, ("train/1", "train/2"), ("val/3",)),
    Outcome(0.65, 0.648, 0.5, 0.1),
)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    CALIBRATION.write(tmp_path / "calibration.json")
    read = Calibration.read(tmp_path / "calibration.json")
    assert read == CALIBRATION
    assert read.digest == CALIBRATION.digest
    assert list(read.layers) == ["conv_0", "conv_1"]


def test_what_is_held_back_is_not_in_int8() -> None:
    assert CALIBRATION.amax() == {"conv_0": 1.5}
    assert CALIBRATION.int8_share == 0.9
    assert CALIBRATION.outcome.drop == pytest.approx(0.2)
    assert CALIBRATION.summary()["held_back"] == ["conv_1"]


def test_the_digest_covers_every_range() -> None:
    layers = {**CALIBRATION.layers, "conv_0": replace(CALIBRATION.layers["conv_0"], amax=1.5000001)}
    assert replace(CALIBRATION, layers=layers).digest != CALIBRATION.digest


def change(value: dict[str, Any], *path: str, to: Any) -> dict[str, Any]:
    at = value
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return value


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("1.5", "1.6"),
        lambda text: text.replace('"conv_0"', '"conv_9"'),
        lambda text: "[]",
        lambda text: '{"format": 2}',
        lambda text: re.sub(r'"digest": "[0-9a-f]{64}"', '"digest": null', text),
        lambda text: "\x00\xff",
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: Callable[[str], str]) -> None:
    path = tmp_path / "calibration.json"
    CALIBRATION.write(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        Calibration.read(path)


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("layers", "conv_0", "amax"), -1.0),
        (("layers", "conv_0", "amax"), "1"),
        (("layers", "conv_0", "macs"), None),
        (("layers", "conv_0"), {}),
        (("layers",), []),
        (("method",), "best"),
        (("source",), {"frames": []}),
        (("outcome", "limit"), None),
    ],
)
def test_values_of_another_kind_are_refused_though_the_digest_fits(tmp_path: Path, path: tuple[str, ...], to: Any) -> None:
    from edgesmith.deploy.files import sha256_json

    file = tmp_path / "calibration.json"
    CALIBRATION.write(file)
    value = change(json.loads(file.read_text()), *path, to=to)
    del value["digest"]
    file.write_text(json.dumps({**value, "digest": sha256_json(value)}))
    with pytest.raises(ValueError, match=re.escape(str(file))):
        Calibration.read(file)


def test_a_calibration_of_another_graph_is_refused() -> None:
    CALIBRATION.require_graph("a" * 64)
    with pytest.raises(ValueError, match="calibrate this graph"):
        CALIBRATION.require_graph("b" * 64)


def test_magnitudes_are_counted_without_zeros() -> None:
    counts = magnitudes(np.array([0, 0, -1, 0.5, 0.50001, 1], np.float32), 1.0)
    assert counts.sum() == 4
    assert counts[-1] == 2
    assert counts[BINS // 2] == 2
    assert magnitudes(np.zeros(3, np.float32), 0.0).sum() == 0


def test_minmax_clips_nothing() -> None:
    counts = magnitudes(np.arange(100, dtype=np.float32), 99.0)
    assert range_of("minmax", counts, 99.0, 99.99) == 99.0
    assert clipped(counts, 99.0, 99.0) == 0


def test_percentile_leaves_out_the_outliers() -> None:
    values = np.concatenate([np.linspace(0.001, 1, 9990), np.full(10, 100.0)]).astype(np.float32)
    counts = magnitudes(values, 100.0)
    amax = range_of("percentile", counts, 100.0, 99.9)
    assert 1 <= amax < 1.1
    assert clipped(counts, 100.0, amax) == pytest.approx(0.001)
    assert range_of("percentile", counts, 100.0, 100) == 100.0


def test_entropy_keeps_a_flat_distribution_and_cuts_a_tail() -> None:
    rng = np.random.default_rng(0)
    flat = magnitudes(rng.uniform(0, 4, 200_000).astype(np.float32), 4.0)
    assert range_of("entropy", flat, 4.0, 99.99) > 3.9
    tail = np.concatenate([rng.normal(0, 1, 200_000), [50.0]]).astype(np.float32)
    amax = range_of("entropy", magnitudes(tail, 50.0), 50.0, 99.99)
    assert 2 < amax < 10


def test_a_value_that_is_always_zero_has_no_range() -> None:
    counts = np.zeros(BINS, np.int64)
    for method in ("minmax", "percentile", "entropy"):
        assert range_of(method, counts, 0.0, 99.99) == 0.0  # type: ignore[arg-type]
    assert clipped(counts, 0.0, 0.0) == 0
