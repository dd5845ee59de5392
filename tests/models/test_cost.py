from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesmith import models
from edgesmith.models import cost, published
from edgesmith.models.arch import Cell, FasterSeg, InvertedResidual, SqueezeNas

from .test_arch import fasterseg_archs, squeezenas_archs

TASK = models.Segmentation(3)


def one_cell(*cells: Cell, align_corners: bool = True) -> FasterSeg:
    return FasterSeg("cells", 2, (cells,), 0, 1, align_corners)


def field_of(arch: models.Arch, name: str, hw: tuple[int, int]) -> tuple[int, int]:
    return next(c.receptive_hw for c in cost.convolutions(arch, TASK, hw) if c.name == name)


@pytest.mark.parametrize("name", models.zoo_names())
def test_published_networks_cost_what_was_counted_on_the_authors_networks(name: str) -> None:
    known = published.read(name)
    assert cost.params(known.arch, known.task) == known.counted["params"]
    assert cost.params(known.arch, known.task, training=True) == known.counted.get("params_train", known.counted["params"])
    assert cost.macs(known.arch, known.task, known.input_hw) == known.counted["macs"]


def test_bytes_and_intensity_follow_from_the_convolutions() -> None:
    arch = models.zoo("fasterseg-student")
    convs = list(cost.convolutions(arch, TASK, (97, 131)))
    weights, maps = cost.weight_bytes(arch, TASK), cost.activation_bytes(arch, TASK, (97, 131))
    assert weights == 4 * sum(c.params for c in convs)
    assert maps == 4 * sum(c.activations for c in convs)
    assert cost.arithmetic_intensity(arch, TASK, (97, 131)) == pytest.approx(sum(c.macs for c in convs) / (weights + maps))


def test_auxiliary_heads_are_counted_for_training_only() -> None:
    arch = models.zoo("fasterseg-student")
    deployed = [c.name for c in cost.convolutions(arch, TASK, (64, 64))]
    training = [c.name for c in cost.convolutions(arch, TASK, (64, 64), training=True)]
    assert training[: len(deployed)] == deployed
    assert training[len(deployed) :] == [f"auxiliary.{i}.{part}" for i in (0, 1) for part in ("conv", "classifier")]


def test_a_family_without_costs_is_refused_by_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class Other(models.Arch):
        family = "other"

    with pytest.raises(ValueError, match="'other'"):
        cost.params(Other("x"), TASK)


@pytest.mark.parametrize(
    ("op", "grown"),
    [("skip", 0), ("conv", 2), ("conv_x2", 4)],
)
def test_receptive_fields_of_plain_cells_grow_by_their_kernels(op: Any, grown: int) -> None:
    # Behind the stem a step is 8 pixels: 39 + 8 for each neighbour on either side.
    arch = one_cell(Cell(op, 8))
    name = {"skip": "branches.0.0.parts.0", "conv": "branches.0.0", "conv_x2": "branches.0.0.1"}[op]
    assert field_of(arch, name, (512, 512)) == (39 + 8 * grown,) * 2


@pytest.mark.parametrize(("op", "low"), [("zoomed_conv", 6), ("zoomed_conv_x2", 10)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_zoomed_convolutions_see_twice_as_far(op: Any, low: int, align_corners: bool) -> None:
    """A window of 3 (5) on the small map is one of 6 (10) on the large one: twice a plain one's, as Table 1 has it."""
    arch = one_cell(Cell(op, 8, 2), align_corners=align_corners)
    name = f"branches.0.0.convs.{0 if op == 'zoomed_conv' else 1}"
    assert field_of(arch, name, (512, 512)) == (39 + 8 * (low - 1),) * 2
    # Enlarged again a value reads two neighbours: one step of the small map more.
    whole = one_cell(Cell(op, 8), align_corners=align_corners)
    assert field_of(whole, "fuse", (512, 512)) == (39 + 8 * (low + 1),) * 2
    # 65 rows to 32: a step is over 2 pixels.
    assert field_of(arch, name, (520, 512)) == (39 + 8 * low, 39 + 8 * (low - 1))


def test_dilation_widens_a_field_and_its_holes_do_not() -> None:
    blocks = (InvertedResidual(8, 2), InvertedResidual(8, 1, kernel=5, dilation=3))
    arch = SqueezeNas("dilated", 8, blocks, None, "lraspp", 8, 0)
    plain, dilated = (field_of(arch, f"blocks.{i}.depthwise", (512, 512))[0] for i in (0, 1))
    assert plain == 3 + 2 * 2
    assert dilated == plain + 4 * 4 * 3


def test_a_field_ends_at_the_input() -> None:
    arch = models.zoo("fasterseg-teacher")
    assert cost.receptive_field(arch, (64, 96)) == (64, 96)
    rows, columns = cost.receptive_field(arch, (512, 8192))
    assert rows == 512
    assert columns < 8192


def by_support(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch's resizes read with weight 1 whatever they read at all, so that gradients tell what is read."""
    real = F.interpolate

    def reads(low: int, high: int, align_corners: bool) -> Tensor:
        eye = torch.eye(low, dtype=torch.float64)[None]
        return (real(eye, high, mode="linear", align_corners=align_corners)[0].T > 1e-9).double()  # (high, low)

    def resize(x: Tensor, size: tuple[int, int], mode: str, align_corners: bool) -> Tensor:
        rows, columns = (reads(n, m, align_corners) for n, m in zip(x.shape[2:], size, strict=True))
        return rows @ x @ columns.T

    monkeypatch.setattr(F, "interpolate", resize)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(squeezenas_archs(), fasterseg_archs()), st.tuples(st.integers(64, 170), st.integers(64, 170)))
def test_receptive_fields_are_what_gradients_reach(
    monkeypatch: pytest.MonkeyPatch, arch: models.Arch, hw: tuple[int, int]
) -> None:
    module = models.build(arch, models.Segmentation(1)).double().eval()
    for m in module.modules():
        if isinstance(m, nn.Conv2d):  # averages: nothing cancels, no ReLU closes
            nn.init.constant_(m.weight, 1 / m.weight[0].numel())
    if isinstance(arch, SqueezeNas) and arch.decoder == "lraspp":
        nn.init.zeros_(module.decoder.gate.weight)  # type: ignore[union-attr, arg-type]
    if isinstance(arch, SqueezeNas) and arch.decoder == "aspp":
        width = arch.neck_width or arch.blocks[-1].width
        nn.init.zeros_(module.decoder.merge[0].weight.data[:, -width:])  # type: ignore[union-attr, index]
    x = torch.ones(1, 3, *hw, dtype=torch.float64, requires_grad=True)
    with monkeypatch.context() as patch:
        by_support(patch)
        logits = module.low_logits(x)  # type: ignore[operator]
        h, w = logits.shape[2:]
        rows = columns = 0
        for i in range(max(h, w)):
            (grad,) = torch.autograd.grad(logits[0, 0, i % h, i % w], x, retain_graph=True)
            reached = grad.abs().sum((0, 1)) > 0
            at_rows, at_columns = reached.any(1).nonzero(), reached.any(0).nonzero()
            rows = max(rows, int(at_rows.max() - at_rows.min()) + 1)
            columns = max(columns, int(at_columns.max() - at_columns.min()) + 1)
    assert cost.receptive_field(arch, hw) == (rows, columns)
