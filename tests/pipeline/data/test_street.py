from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from edgesmith.pipeline.data.camvid import CAMVID
from edgesmith.pipeline.data.dataset import MIN_SIDE, VOID, Split
from edgesmith.pipeline.data.street import STREET, StreetSplit, render

CAMVID_TRAIN_SHARES = {
    "Sky": 16.845,
    "Building": 23.259,
    "Pole": 0.983,
    "Road": 31.658,
    "Sidewalk": 4.486,
    "Tree": 9.724,
    "SignSymbol": 1.173,
    "Fence": 1.127,
    "Car": 5.866,
    "Pedestrian": 0.639,
    "Bicyclist": 0.292,
    "void": 3.948,
}
"""Per cent of all pixels of CamVid's 367 training frames."""
CAMVID_MEAN, CAMVID_STD = (0.4119, 0.4251, 0.4327), (0.3071, 0.3116, 0.3072)
"""Of the same frames: RGB in [0, 1]."""

PRINT_HASH = """
import hashlib
from edgesmith.pipeline.data.street import render
digest = hashlib.sha256()
for index in range(3):
    sample = render(5, index, (120, 161))
    digest.update(sample.frame.tobytes() + sample.label.tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def frames_of_many_streets() -> list[tuple[np.ndarray, np.ndarray]]:
    return [render(2024, index, (180, 240))[1:] for index in range(160)]


def shares(labels: list[np.ndarray]) -> dict[str, float]:
    counts = sum(np.bincount(label.ravel(), minlength=256) for label in labels)
    total = sum(label.size for label in labels)
    ids = dict(zip((*STREET.names, "void"), (*range(11), VOID), strict=True))
    return {name: 100 * float(counts[number]) / total for name, number in ids.items()}


def test_classes_are_camvids_in_its_order_and_colours() -> None:
    assert STREET.names == tuple(CAMVID_TRAIN_SHARES)[:-1]
    assert STREET is CAMVID


def test_same_seed_and_index_give_the_same_frame_in_another_process() -> None:
    digest = hashlib.sha256()
    for index in (2, 0, 1):  # the order of reading does not matter either
        render(5, index, (120, 161))
    for index in range(3):
        sample = render(5, index, (120, 161))
        digest.update(sample.frame.tobytes() + sample.label.tobytes())
    environment = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "3"}
    run = subprocess.run([sys.executable, "-c", PRINT_HASH], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest.hexdigest()


def test_frame_does_not_depend_on_the_number_of_threads_or_on_other_random_numbers() -> None:
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = [render(6, index, (360, 480)) for index in range(4)]
        cv2.setNumThreads(4)
        cv2.setRNGSeed(99)
        np.random.seed(99)
        four = [render(6, index, (360, 480)) for index in range(4)]
    finally:
        cv2.setNumThreads(before)
    for a, b in zip(one, four, strict=True):
        assert np.array_equal(a.frame, b.frame)
        assert np.array_equal(a.label, b.label)


@pytest.mark.parametrize("hw", [(64, 64), (65, 97), (64, 400), (400, 64), (360, 480), (1024, 2048)])
def test_any_size_of_at_least_64_is_drawn(hw: tuple[int, int]) -> None:
    for index in range(3 if hw[0] * hw[1] > 1e6 else 12):
        sample = render(3, index, hw)
        assert sample.frame.shape == (*hw, 3)
        assert sample.label.shape == hw
        assert sample.frame.dtype == sample.label.dtype == np.uint8
        assert sample.frame.flags.c_contiguous
        assert sample.label.flags.c_contiguous
        assert set(np.unique(sample.label).tolist()) <= {*range(11), VOID}
        assert sample.frame.std() > 10


def test_same_street_is_seen_at_every_size() -> None:
    for index in range(8):
        small, large = render(8, index, (120, 160)).label, render(8, index, (360, 480)).label
        assert (small == large[1::3, 1::3]).mean() > 0.9


def test_class_shares_follow_camvid_within_a_factor_of_two(
    frames_of_many_streets: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    drawn = shares([label for _, label in frames_of_many_streets])
    ratios = {name: drawn[name] / share for name, share in CAMVID_TRAIN_SHARES.items()}
    assert all(0.5 <= ratio <= 2.0 for ratio in ratios.values()), ratios


def test_shares_hold_at_camvids_own_size_and_for_another_seed() -> None:
    drawn = shares([render(41, index, (360, 480)).label for index in range(60)])
    ratios = {name: drawn[name] / share for name, share in CAMVID_TRAIN_SHARES.items()}
    assert all(0.5 <= ratio <= 2.0 for ratio in ratios.values()), ratios


def test_frames_differ_in_what_they_hold(frames_of_many_streets: list[tuple[np.ndarray, np.ndarray]]) -> None:
    held = np.array([[(label == klass).any() for klass in range(11)] for _, label in frames_of_many_streets]).mean(axis=0)
    rare = {name: share for name, share in zip(STREET.names, held, strict=True) if share < 0.95}
    assert {"Fence", "Bicyclist", "Pedestrian"} <= set(rare)
    assert held.min() > 0.2
    brightness = np.array([frame.mean() for frame, _ in frames_of_many_streets])
    assert brightness.min() < 60  # dusk
    assert brightness.max() > 130  # a bright day


def test_colours_are_roughly_camvids(frames_of_many_streets: list[tuple[np.ndarray, np.ndarray]]) -> None:
    pixels = np.stack([frame[::3, ::3] for frame, _ in frames_of_many_streets]).reshape(-1, 3) / 255
    assert np.allclose(pixels.mean(axis=0), CAMVID_MEAN, atol=0.05)
    assert np.allclose(pixels.std(axis=0), CAMVID_STD, atol=0.05)


def test_neighbouring_frames_and_other_seeds_are_other_streets() -> None:
    seen = {render(seed, index, (64, 64)).frame.tobytes() for seed in range(8) for index in range(8)}
    assert len(seen) == 64


def test_split_reads_by_index_and_ends() -> None:
    split: Split = StreetSplit(seed=1, frames=3, hw=(64, 80))
    samples = [split[index] for index in range(len(split))]
    assert len({sample.name for sample in samples}) == 3
    assert np.array_equal(samples[2].frame, render(1, 2, (64, 80)).frame)
    assert split.labels is STREET
    for index in (3, -1):
        with pytest.raises(IndexError, match=r"0\.\.2"):
            split[index]


def test_digest_covers_seed_frames_size_and_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    split = StreetSplit(seed=1, frames=3, hw=(64, 80))
    others = [dataclasses.replace(split, **{k: v}) for k, v in {"seed": 2, "frames": 4, "hw": (80, 64)}.items()]
    assert split.digest == StreetSplit(1, 3, (64, 80)).digest
    digests = {split.digest, *(other.digest for other in others)}
    monkeypatch.setattr("edgesmith.pipeline.data.street.GENERATOR_VERSION", 0)
    assert len({*digests, split.digest}) == 5


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hw": (63, 80)}, r"63x80.*at least 64x64"),
        ({"seed": -1}, "seed is -1"),
        ({"frames": 0}, "frames is 0"),
    ],
)
def test_impossible_splits_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        StreetSplit(**{"seed": 1, "frames": 1, "hw": (64, 64), **fields})


def test_negative_index_of_render_is_refused() -> None:
    with pytest.raises(ValueError, match="index is -1"):
        render(1, -1, (64, 64))


def test_the_street_can_be_drawn_at_every_size_that_a_recipe_may_ask_for() -> None:
    assert render(0, 0, (MIN_SIDE, MIN_SIDE)).frame.shape == (MIN_SIDE, MIN_SIDE, 3)
