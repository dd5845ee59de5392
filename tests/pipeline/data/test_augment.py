"""Augmentation keeps frame and label together, repeats with its seed, and never alters what it was given."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgesmith.pipeline.data.augment import PADDING, Augment, Cached
from edgesmith.pipeline.data.dataset import VOID, LabelSet, Sample

PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def pair(height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Smooth colours in blocks; the label is the block, which the red channel tells too."""
    label = (np.arange(height)[:, None] // 20 * 4 + np.arange(width)[None] // 20).astype(np.uint8)
    frame = np.stack([label * 20, 255 - label * 20, np.full_like(label, 90)], axis=-1)
    return frame, label


class Few:
    """A fake split that counts how often it is read."""

    labels = LabelSet(("a",), ((1, 2, 3),))
    digest = "0" * 64

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        if index >= 6:
            raise IndexError(index)
        self.reads += 1
        return Sample(str(index), np.full((10, 10, 3), index, np.uint8), np.full((10, 10), index, np.uint8))


def test_the_same_seed_gives_the_same_arrays_and_nothing_given_is_altered() -> None:
    frame, label = pair()
    augment = Augment(crop_hw=(48, 64))
    runs = [augment(frame, label, np.random.default_rng(5)) for _ in range(2)]
    assert np.array_equal(runs[0][0], runs[1][0])
    assert np.array_equal(runs[0][1], runs[1][1])
    assert all(np.array_equal(a, b) for a, b in zip(pair(), (frame, label), strict=True))


@pytest.mark.parametrize("crop_hw", [(48, 64), (33, 95), (120, 160), (1, 1), None])
def test_results_have_the_crops_size_and_are_contiguous(crop_hw: tuple[int, int] | None) -> None:
    frame, label = pair()
    rng = np.random.default_rng(0)
    for _ in range(40):
        f, lab = Augment(crop_hw=crop_hw, scale=(0.3, 3.0))(frame, label, rng)
        assert f.shape == (*(crop_hw or (60, 80)), 3)
        assert lab.shape == f.shape[:2]
        assert f.dtype == lab.dtype == np.uint8
        assert f.flags.c_contiguous
        assert lab.flags.c_contiguous
        assert not np.shares_memory(f, frame)
        assert not np.shares_memory(lab, label)
        assert set(np.unique(lab)) <= {*range(12), VOID}


def test_frame_and_label_move_together() -> None:
    frame, label = pair()
    rng = np.random.default_rng(1)
    for _ in range(40):
        f, lab = Augment(crop_hw=(50, 70), scale=(0.6, 2.5), **PLAIN)(frame, label, rng)
        inside = lab != VOID
        says = np.round(f[..., 0] / 20)
        # Bilinear frames blend over a block's edge, nearest labels do not: that is one pixel of some twenty.
        assert (says == lab)[inside].mean() > 0.85
        assert (f[~inside] == PADDING).all()


def test_what_is_smaller_than_the_crop_is_padded_with_void() -> None:
    frame, label = pair()
    f, lab = Augment(crop_hw=(60, 80), scale=(0.5, 0.5), flip=0, **PLAIN)(frame, label, np.random.default_rng(2))
    assert (lab != VOID).sum() == 30 * 40
    assert (f[lab == VOID] == PADDING).all()


def test_without_any_change_the_pair_comes_back_as_it_was() -> None:
    frame, label = pair()
    f, lab = Augment(scale=(1, 1), flip=0, **PLAIN)(frame, label, np.random.default_rng(0))
    assert np.array_equal(f, frame)
    assert np.array_equal(lab, label)
    f, lab = Augment(scale=(1, 1), flip=1, **PLAIN)(frame, label, np.random.default_rng(0))
    assert np.array_equal(f, frame[:, ::-1])
    assert np.array_equal(lab, label[:, ::-1])


def test_colour_changes_frames_within_bounds_and_keeps_greys_grey() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    label = np.zeros((8, 8), np.uint8)
    rng = np.random.default_rng(3)
    values = []
    for _ in range(200):
        f, lab = Augment(scale=(1, 1), brightness=0.5, contrast=0.3, saturation=0.5, hue=0.5)(grey, label, rng)
        assert (f.max(axis=-1) - f.min(axis=-1)).max() <= 1
        assert not lab.any()
        values.append(int(f[0, 0, 0]))
    assert 48 <= min(values) < 60
    assert 140 < max(values) <= 152


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"crop_hw": (0, 3)}, "crop_hw: "),
        ({"scale": (2.0, 1.0)}, "scale: "),
        ({"flip": 1.5}, "flip: "),
        ({"hue": 0.7}, "hue: "),
        ({"contrast": 1.0}, "contrast: "),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Augment(**settings)  # type: ignore[arg-type]


def test_the_cache_reads_once_and_stays_within_its_bytes() -> None:
    source = Few()
    cached = Cached(source, limit_bytes=3 * 400)
    for _ in range(5):
        assert [int(s.frame[0, 0, 0]) for s in cached] == list(range(6))
    assert source.reads == 3 + 5 * 3
    assert cached.used_bytes == 1200
    assert (cached.digest, cached.labels, len(cached)) == (source.digest, source.labels, 6)


def test_what_is_cached_cannot_be_altered_from_outside() -> None:
    cached = Cached(Few(), limit_bytes=1 << 20)
    first = cached[2]
    first.frame[:] = 0
    first.label[:] = 0
    assert cached[2].frame.min() == cached[2].label.min() == 2


def test_the_cache_serves_several_threads() -> None:
    cached = Cached(Few(), limit_bytes=4 * 400)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: int(cached[i % 6].label[0, 0]), range(600)))
    assert got == [i % 6 for i in range(600)]
    assert cached.used_bytes == 1600
