from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesmith.pipeline.reference import labels_by_torch, logits_by_torch

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Brightest(nn.Module):
    """Logits are the normalised channels themselves: label 0 where red is highest, 1 green, 2 blue."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(3)
        self.seen: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        self.seen = tuple(x.shape)
        self.norm(x)  # would change its statistics in training mode
        return x * self.scale


def frames(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 20, 30, 3), np.uint8)


def test_labels_are_those_of_the_normalised_rgb_frame() -> None:
    frame = frames()[0]

    labels = labels_by_torch(Brightest(), frame, MEAN, STD)

    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, ((frame / 255 - MEAN) / STD).argmax(-1))


def test_frames_of_one_size_go_as_a_batch() -> None:
    module = Brightest()

    labels = labels_by_torch(module, frames(), MEAN, STD)

    assert module.seen == (3, 3, 20, 30)
    np.testing.assert_array_equal(labels, [labels_by_torch(module, f, MEAN, STD) for f in frames()])


def test_the_network_runs_at_input_size_and_labels_have_frame_size() -> None:
    module = Brightest()

    assert labels_by_torch(module, frames()[0], MEAN, STD, (64, 48)).shape == (20, 30)
    assert module.seen == (1, 3, 64, 48)
    assert logits_by_torch(module, frames(), MEAN, STD, (10, 15)).shape == (3, 3, 20, 30)


def test_a_module_in_training_is_evaluated_and_stays_in_training() -> None:
    module = Brightest().train()

    labels_by_torch(module, frames()[0], MEAN, STD)

    assert module.training
    assert not module.norm.running_mean.any()  # type: ignore[union-attr]


def test_a_frame_of_another_kind_is_refused() -> None:
    for bad in (frames()[0].astype(np.float32), frames()[0, ..., :1], frames()[0, 0]):
        with pytest.raises(ValueError, match="must be RGB uint8"):
            labels_by_torch(Brightest(), bad, MEAN, STD)


def test_a_frame_that_is_read_only_or_a_view_will_do() -> None:
    frame = frames()[0]
    expected = labels_by_torch(Brightest(), frame, MEAN, STD)
    bgr = np.ascontiguousarray(frame[..., ::-1])
    bgr.flags.writeable = False

    np.testing.assert_array_equal(labels_by_torch(Brightest(), bgr[..., ::-1], MEAN, STD), expected)
