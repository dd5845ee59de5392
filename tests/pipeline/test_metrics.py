"""The confusion matrix against hand-computed and brute-force values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesmith.pipeline.metrics import ConfusionMatrix, labelled_miou, or_none


def of(truth: list[list[int]], prediction: list[list[int]], classes: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes)
    matrix.add(np.array(truth, np.uint8), np.array(prediction, np.uint8))
    return matrix


def test_values_computed_by_hand() -> None:
    m = of([[0, 0, 1], [1, 1, 255]], [[0, 1, 1], [1, 0, 2]], classes=3)
    assert m.counts.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert m.pixels == 5
    np.testing.assert_allclose(m.iou, [1 / 3, 2 / 4, np.nan])
    np.testing.assert_allclose(m.accuracy, [1 / 2, 2 / 3, np.nan])
    np.testing.assert_allclose(m.share, [2 / 5, 3 / 5, 0])
    assert m.miou == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert m.pixel_accuracy == pytest.approx(3 / 5)


def test_a_class_that_is_only_predicted_has_iou_zero_and_no_accuracy() -> None:
    m = of([[0, 0]], [[0, 1]], classes=2)
    assert m.iou.tolist() == [0.5, 0.0]
    assert np.isnan(m.accuracy[1])
    assert m.miou == 0.25


def test_void_never_counts_whatever_is_predicted_there() -> None:
    m = of([[255, 255, 0]], [[0, 200, 0]], classes=2)
    assert m.counts.tolist() == [[1, 0], [0, 0]]


def test_frames_add_up() -> None:
    m = of([[0]], [[0]], classes=2)
    m.add(np.array([[1, 1]], np.uint8), np.array([[1, 0]], np.uint8))
    assert m.counts.tolist() == [[1, 0], [1, 1]]


def test_nothing_counted_has_no_values() -> None:
    m = of([[255]], [[0]], classes=2)
    assert np.isnan([m.miou, m.pixel_accuracy]).all()
    assert np.isnan(m.iou).all()
    assert np.isnan(m.share).all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 19), pixels=st.integers(1, 400))
def test_brute_force_agrees(seed: int, classes: int, pixels: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (1, pixels), dtype=np.uint8)
    truth[rng.random((1, pixels)) < 0.2] = 255
    prediction = rng.integers(0, classes, (1, pixels), dtype=np.uint8)
    m = ConfusionMatrix(classes)
    m.add(truth, prediction)
    ious = []
    for c in range(classes):
        pairs = [(t, p) for t, p in zip(truth.flat, prediction.flat, strict=True) if t != 255]
        union = sum(c in (t, p) for t, p in pairs)
        iou = sum(t == c and p == c for t, p in pairs) / union if union else float("nan")
        np.testing.assert_allclose(m.iou[c], iou)
        if union:
            ious.append(iou)
    np.testing.assert_allclose(m.miou, np.mean(ious) if ious else np.nan)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([[3]], [[0]], "truth holds label 3, but there are 3 classes"),
        ([[254]], [[0]], "truth holds label 254"),
        ([[0]], [[3]], "prediction holds label 3"),
        ([[0]], [[255]], "prediction holds label 255"),
        ([[0]], [[0, 0]], "both must be uint8 of one shape"),
    ],
)
def test_stray_labels_and_shapes_are_refused(truth: list[list[int]], prediction: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of(truth, prediction, classes=3)


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="int64"):
        ConfusionMatrix(2).add(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.uint8))


@pytest.mark.parametrize("classes", [0, 256])
def test_an_impossible_number_of_classes_is_refused(classes: int) -> None:
    with pytest.raises(ValueError, match=f"classes is {classes}"):
        ConfusionMatrix(classes)


def test_255_classes_leave_room_for_void() -> None:
    assert of([[254, 255]], [[254, 0]], classes=255).pixels == 1


def test_the_mean_over_the_classes_of_the_truth_does_not_hang_on_strays_of_others() -> None:
    counts = np.array([[[3, 1, 0], [0, 4, 0], [0, 0, 0]], [[4, 0, 0], [0, 3, 1], [0, 0, 0]], np.zeros((3, 3), int)])
    found = labelled_miou(counts)
    assert found[:2] == pytest.approx([(3 / 4 + 4 / 5) / 2, (1 + 3 / 4) / 2])
    assert np.isnan(found[2])
    perfect, stray = (of([[0, 0, 1, 1]], [said], classes=3) for said in ([0, 0, 1, 1], [0, 0, 1, 2]))
    assert perfect.labelled_miou == perfect.miou == 1
    assert stray.labelled_miou == pytest.approx((1 + 1 / 2) / 2)
    assert stray.miou == pytest.approx((1 + 1 / 2) / 3)


def test_what_does_not_exist_is_none_in_json() -> None:
    assert or_none(float("nan")) is None
    found = or_none(np.float64(0.5))
    assert found == 0.5
    assert type(found) is float
