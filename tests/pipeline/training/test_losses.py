from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from edgesmith.pipeline.data.dataset import VOID
from edgesmith.pipeline.training.losses import class_weights, cross_entropy, divergence, ohem


def example() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 5, 7), dtype=torch.uint8)
    labels[0, 0, :4] = VOID
    return torch.randn(2, 3, 5, 7), labels


def pixel_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    flat = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).log_softmax(1)
    true = labels.flatten().long()
    return -flat[true != VOID, true[true != VOID]]


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    logits, labels = example()
    torch.testing.assert_close(cross_entropy(logits, labels), pixel_losses(logits, labels).mean())


def test_class_weights_weigh_pixels_by_their_class() -> None:
    logits, labels = example()
    weight = torch.tensor([1.0, 2.0, 0.5])
    true = labels.flatten().long()
    w = weight[true[true != VOID]]
    torch.testing.assert_close(cross_entropy(logits, labels, weight), (pixel_losses(logits, labels) * w).sum() / w.sum())


@pytest.mark.parametrize("loss", [cross_entropy, ohem])
def test_a_batch_of_void_alone_has_loss_zero_and_no_nan_gradient(loss: object) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((1, 4, 4), VOID, dtype=torch.uint8))  # type: ignore[operator]
    value.backward()
    assert float(value.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_ohem_keeps_the_pixels_below_the_threshold() -> None:
    logits, labels = example()
    each = pixel_losses(logits, labels)
    hard = each[each >= -math.log(0.3)]
    assert 5 < len(hard) < len(each)
    torch.testing.assert_close(ohem(logits, labels, threshold=0.3, min_kept=0.01), hard.mean())


def test_ohem_keeps_at_least_its_share_of_the_hardest_pixels() -> None:
    logits, labels = example()
    each = pixel_losses(logits, labels).sort(descending=True).values
    kept = int((labels != VOID).sum() * 0.5)
    torch.testing.assert_close(ohem(logits, labels, threshold=1e-6, min_kept=0.5), each[:kept].mean())


def test_rare_classes_weigh_more_and_the_mean_is_one() -> None:
    weights = class_weights([0.7, 0.25, 0.05])
    assert weights == sorted(weights)
    assert sum(weights) / 3 == pytest.approx(1)


def test_the_divergence_of_soft_labels_is_that_of_a_hand_computed_example() -> None:
    # One pixel says (3/4, 1/4) and is taught (1/2, 1/2); on the other both agree.
    student = torch.tensor([[3.0, 9.0], [1.0, 1.0]]).log()[None, :, None]  # (1, 2, 1, 2)
    teacher = torch.tensor([[1.0, 9.0], [1.0, 1.0]]).log()[None, :, None]
    forward = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(divergence(student, teacher)) == pytest.approx(forward / 2)
    assert float(divergence(student, teacher, "teacher_student")) == pytest.approx(reverse / 2)
    assert float(divergence(student, teacher, per="class")) == pytest.approx(forward / 4)
    assert float(divergence(student, teacher, "teacher_student", "class")) == pytest.approx(reverse / 4)


@pytest.mark.parametrize("way", ["student_teacher", "teacher_student"])
def test_the_divergence_is_zero_between_equals_and_its_gradient_pulls_towards_the_teacher(way: Any) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, 4, requires_grad=True), torch.randn(2, 5, 3, 4)
    assert float(divergence(teacher, teacher + 7, way)) == pytest.approx(0, abs=1e-6)
    before = divergence(student, teacher, way)
    before.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert divergence(student - 0.1 * student.grad, teacher, way) < before


def test_the_divergence_of_logits_far_apart_is_finite() -> None:
    sure, doubtful = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1), torch.tensor([-200.0, 200.0]).view(1, 2, 1, 1)
    assert float(divergence(sure, doubtful)) == pytest.approx(400)
