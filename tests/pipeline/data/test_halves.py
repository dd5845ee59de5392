"""Two halves of a split share nothing and lose nothing."""

from __future__ import annotations

import numpy as np

from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.halves import halves
from edgesmith.pipeline.data.street import StreetSplit
from edgesmith.pipeline.training.loader import Batches, Pairs

STREET = StreetSplit(0, 9, (64, 96))


def test_every_frame_is_in_one_half_and_none_in_both() -> None:
    one, other = halves(STREET, 0)
    assert sorted(one.indices + other.indices) == list(range(9))
    assert (len(one), len(other)) == (5, 4)
    assert one.labels is STREET.labels
    for part in (one, other):
        for i, index in enumerate(part.indices):
            assert np.array_equal(part[i].frame, STREET[index].frame)


def test_the_halves_depend_on_the_seed_alone() -> None:
    assert halves(STREET, 3) == halves(STREET, 3)
    assert halves(STREET, 3)[0].digest != halves(STREET, 4)[0].digest != STREET.digest


def test_streams_of_one_seed_differ_in_order_and_augmentation_and_stream_0_is_as_without() -> None:
    none, two = (Batches(STREET, Augment(), 2, seed=1, stream=stream) for stream in (0, 2))
    order = np.random.default_rng((1, 3)).permutation(9)
    expected = STREET[order[0]]
    frame, _ = Augment()(expected.frame, expected.label, np.random.default_rng((1, 3, int(order[0]))))
    assert np.array_equal(next(none.epoch(3)).frames[0], frame)
    assert not np.array_equal(none._sample(3, 0)[0], two._sample(3, 0)[0])
    whole = [Batches(STREET, lambda frame, label, random: (frame, label), 9, 1, stream=stream) for stream in (0, 2)]
    assert not np.array_equal(*(next(batches.epoch(3)).frames for batches in whole))


def test_pairs_are_the_batches_of_both_and_go_on_anywhere() -> None:
    one, other = (Batches(half, Augment(), 2, seed=1) for half in halves(STREET, 0))
    pairs = Pairs(Batches(one.split, Augment(), 1, seed=1), other)
    assert len(pairs) == 2
    all_of_it = list(pairs.epoch(3))
    assert [(len(a.labels), len(b.labels)) for a, b in all_of_it] == [(1, 2), (1, 2)]
    assert all(np.array_equal(b.frames, c.frames) for (_, b), c in zip(all_of_it, other.epoch(3), strict=True))
    ((a, b),) = pairs.epoch(3, 1)
    assert np.array_equal(a.frames, all_of_it[1][0].frames)
    assert np.array_equal(b.frames, all_of_it[1][1].frames)
