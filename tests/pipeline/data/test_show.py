"""Colours, shares and the contact sheet."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgesmith.pipeline.data.dataset import VOID, LabelSet, Sample
from edgesmith.pipeline.data.show import class_shares, contact_sheet, paint, png


class Stripes:
    """A fake split: upper half class 0, lower half class 1, the first row void."""

    digest = "0" * 64

    def __init__(self, count: int, names: tuple[str, ...] = ("upper", "lower", "never")) -> None:
        self.count = count
        self.labels = LabelSet(names, tuple((i % 7 * 30 + 40, 10, 200) for i in range(len(names))))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index >= self.count:
            raise IndexError(index)
        label = np.repeat(np.array([0, 1], np.uint8), 20)[:, None].repeat(60, axis=1)
        label[0] = VOID
        return Sample(f"frame-{index}", np.full((40, 60, 3), 90 + index, np.uint8), label)


def test_labels_are_painted_in_their_colours_and_void_black() -> None:
    painted = paint(np.array([[0, 1, VOID, 9]], np.uint8), ((1, 2, 3), (4, 5, 6)))
    assert painted.tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0], [0, 0, 0]]]


def test_shares_are_of_all_pixels() -> None:
    shares = class_shares(Stripes(3))
    assert (shares.frames, shares.pixels, shares.frames_with) == (3, 3 * 2400, (3, 3, 0))
    assert shares.shares == pytest.approx((19 / 40, 20 / 40, 0))
    assert shares.void == pytest.approx(1 / 40)
    assert shares.to_json()["share"]["lower"] == pytest.approx(0.5)
    assert class_shares(Stripes(3), [1]).frames == 1


@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_a_contact_sheet_shows_frames_labels_and_legend(count: int) -> None:
    split = Stripes(7)
    sheet = contact_sheet(split, count, seed=3)
    assert np.array_equal(sheet, contact_sheet(split, count, seed=3))
    for colour in split.labels.palette[:2]:
        assert (sheet == colour).all(axis=-1).sum() > 320 * 50  # a label map, and the legend
    assert 200 < (sheet == split.labels.palette[2]).all(axis=-1).sum() < 400  # the legend alone
    shown = sum(bool((sheet == 90 + i).all(axis=-1).sum() > 320 * 100) for i in range(7))
    assert shown == min(count, 7)
    back = cv2.imdecode(np.frombuffer(png(sheet), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(back[..., ::-1], sheet)


def test_many_classes_with_odd_names_have_a_legend_too() -> None:
    names = tuple(f"Straße {i} " + "x" * (i % 90) for i in range(150))
    sheet = contact_sheet(Stripes(1, names), 1)
    assert sheet.shape[1] < 6000


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(ValueError, match="the split is empty"):
        contact_sheet(Stripes(0))
    with pytest.raises(ValueError, match="count=0"):
        contact_sheet(Stripes(2), 0)
