"""What a graph costs is measured against fp32 on labelled frames, each read once; frames that tell nothing are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from edgesmith.pipeline.data.dataset import LabelSet, Sample
from edgesmith.pipeline.frames import Frames
from edgesmith.pipeline.int8.judge import Judge, Pick, _difference

CLASSES = ("sky", "road", "car")


class Split:
    """Frames of the small network, labelled by itself; remembers what was read."""

    labels = LabelSet(CLASSES, ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    digest = "small"

    def __init__(self, small: Any, graph: ModelProto, void: bool = False) -> None:
        from tests.small_network import labels

        self.read: list[int] = []
        self._samples = []
        for i in range(4):
            truth = np.full((24, 32), 255, np.uint8) if void else labels(graph, small.frame(i))
            self._samples.append(Sample(str(i), small.frame(i), truth))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        return self._samples[index]


@pytest.fixture
def graph(small: Any) -> ModelProto:
    found: ModelProto = small.network()
    return found


def judge(graph: ModelProto, split: Split, tiny: Any, **more: Any) -> Judge:
    frames = Frames(split, len(split), tiny.META, None)
    return Judge(graph, tuple(Pick(frames, i) for i in range(len(split))), **more)


def shifted(graph: ModelProto, by: float) -> ModelProto:
    """The graph with the last class's logit raised."""
    changed = ModelProto()
    changed.CopyFrom(graph)
    bias = next(c for c in changed.graph.initializer if c.name == "classifier/bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.array([0, 0, by], np.float32), bias.name))
    return changed


def test_a_graph_costs_nothing_against_itself(graph: ModelProto, small: Any, tiny: Any) -> None:
    loss = judge(graph, Split(small, graph), tiny).loss(graph)
    assert (loss.error, loss.agreement, loss.fp32, loss.miou, loss.uncertainty, loss.drop) == (0, 1, 1, 1, 0, 0)


def test_a_graph_that_labels_otherwise_costs_what_its_labels_lose(graph: ModelProto, small: Any, tiny: Any) -> None:
    held = judge(graph, Split(small, graph), tiny)
    little, all_car = held.loss(shifted(graph, 0.05)), held.loss(shifted(graph, 1e4))
    assert 0 < little.error < all_car.error
    assert 1 >= little.agreement > all_car.agreement
    assert little.fp32 == all_car.fp32 == 1.0
    assert all_car.miou <= 1 / 3
    assert all_car.drop == pytest.approx(100 * (1 - all_car.miou))
    assert all_car.uncertainty > 0


def test_frames_are_read_once_and_the_first_few_can_be_asked_alone(graph: ModelProto, small: Any, tiny: Any) -> None:
    split, events = Split(small, graph), []
    held = judge(graph, split, tiny, workers=2, log=lambda event, **fields: events.append((fields["done"], fields["total"])))
    few, one_worker = held.loss(shifted(graph, 1.0), count=2), judge(graph, Split(small, graph), tiny)
    assert few == one_worker.loss(shifted(graph, 1.0), count=2) != held.loss(shifted(graph, 1.0))
    assert split.read == [0, 1, 2, 3]
    assert events == [*((i, 4) for i in range(1, 5)), (1, 2), (2, 2), *((i, 4) for i in range(1, 5))]


def test_frames_without_a_labelled_pixel_are_refused(graph: ModelProto, small: Any, tiny: Any) -> None:
    with pytest.raises(ValueError, match="no pixel of the frames held out is labelled"):
        judge(graph, Split(small, graph, void=True), tiny).loss(graph)


def test_the_standard_error_is_that_of_a_mean_over_frames() -> None:
    rng = np.random.default_rng(1)
    right, n, pixels = rng.integers(600, 1000, 400), 400, 1000
    counts = np.zeros((n, 2, 2, 2), int)
    counts[:, 0, 0, 0] = pixels
    counts[:, 1, 0, 0], counts[:, 1, 0, 1] = right, pixels - right
    fp32, miou, uncertainty = _difference(counts)
    assert fp32 == 1.0
    assert miou == pytest.approx(right.mean() / pixels)  # class 1 occurs among the predictions only, and does not count
    assert uncertainty == pytest.approx(100 * right.std() / pixels / n**0.5, rel=0.2)


def test_a_class_that_no_frame_shows_neither_hides_a_loss_nor_makes_one() -> None:
    clean, stray = np.zeros((3, 3), int), np.zeros((3, 3), int)
    clean[0, 0] = clean[1, 1] = 100
    stray[:] = clean
    stray[1, 1:] = 99, 1  # one pixel of class 2
    worse = np.array([[70, 30, 0], [30, 70, 0], [0, 0, 0]])
    fp32, miou, _ = _difference(np.array([[clean, stray]] + [[clean, clean]] * 63))
    assert 0 < fp32 - miou < 1e-3
    fp32, miou, _ = _difference(np.array([[stray, worse]] * 64))
    assert fp32 - miou == pytest.approx(0.995 - 70 / 130, abs=1e-3)


def test_frames_that_all_lose_the_same_leave_no_doubt() -> None:
    counts = np.tile(np.array([[[2, 0], [0, 2]], [[1, 1], [0, 2]]]), (5, 1, 1, 1))
    assert _difference(counts)[2] == pytest.approx(0, abs=1e-9)
