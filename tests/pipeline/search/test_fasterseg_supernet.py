from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesmith import models
from edgesmith.models.arch import Cell, FasterSeg, Segmentation
from edgesmith.pipeline.search import conv3x3
from edgesmith.pipeline.search.fasterseg_relaxed import Pass, Relaxed, Widths
from edgesmith.pipeline.search.fasterseg_space import OPERATORS, Logits, Net, Space
from edgesmith.pipeline.search.fasterseg_step import backward
from edgesmith.pipeline.search.fasterseg_supernet import Supercell, Supernet, departures
from edgesmith.pipeline.training import losses
from tests.pipeline.search.plain_fasterseg import PlainCell, PlainSupernet, mixed, plain_loss
from tests.pipeline.search.supernet_path import path_state

TASK = Segmentation(4)
SPACE = Space(layers=5, ratios=(1, 2), stem_ratio=1, teacher_stem_ratio=2)


def spread(net: nn.Module) -> None:
    """Betas away from 0, where the ReLUs' and the next batch norm's invariance to scale would leave gammas no gradient."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -1, 1)


def both(space: Space = SPACE) -> tuple[Supernet, PlainSupernet]:
    """The supernet and the plain one with the same weights."""
    torch.manual_seed(0)
    fast, plain = Supernet(space, TASK), PlainSupernet(space, TASK)
    spread(fast)
    plain.load_state_dict(fast.state_dict())
    return fast, plain


def relaxed(space: Space, dtype: torch.dtype = torch.float64) -> dict[Net, Relaxed]:
    nets: dict[Net, Relaxed] = {"student": Relaxed(space), "teacher": Relaxed(space, widest=True)}
    for net in nets.values():
        for p in net.parameters():
            nn.init.normal_(p)
        net.to(dtype)
    return nets


def passes(space: Space, nets: dict[Net, Relaxed]) -> list[Pass]:
    """Those of a search step: the teacher's, the student's sampled one, its widest and its slimmest."""
    student, teacher = nets["student"], nets["teacher"]
    alpha, beta, _ = student.probabilities()
    teacher_alpha, teacher_beta, _ = teacher.probabilities()
    rng = np.random.default_rng(0)
    return [
        Pass("teacher", teacher_alpha, teacher_beta, teacher.sample(rng)),
        Pass("student", alpha, beta, student.sample(rng)),
        Pass("student", alpha, beta, Widths.all(space, -1)),
        Pass("student", alpha, beta, Widths.all(space, 0)),
    ]


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, size, size), torch.randint(0, TASK.classes, (2, size, size))


def distance(a: Tensor | None, b: Tensor | None) -> float:
    """|a - b| relative to |b|."""
    if a is None or b is None:
        given = a if b is None else b
        return 0.0 if given is None or not given.any() else float("inf")
    return float((a.detach().double() - b.detach().double()).norm() / b.detach().double().norm().clamp(min=1e-12))


def compared(space: Space, dtype: torch.dtype, architecture: bool = False) -> dict[str, float]:
    """How far loss, gradients and statistics of a step are from the plain ones, by name."""
    fast, plain = (net.to(dtype) for net in both(space))
    torch.manual_seed(2)
    mine = relaxed(space, dtype)
    others = copy.deepcopy(mine)
    x, labels = batch()
    x = x.to(dtype)
    if architecture:
        fast.requires_grad_(False)
    found = backward(fast, x, labels, passes(space, mine), losses.ohem)
    expected = plain_loss(plain, x, labels, passes(space, others), losses.ohem)
    expected.backward()
    far = {"loss": abs(found.total - float(expected.detach())) / float(expected.detach())}
    for net in mine:
        for k, p in others[net].named_parameters():
            far[f"{net} {k}"] = distance(mine[net].get_parameter(k).grad, p.grad)
    for k, p in plain.named_parameters():
        far[k] = distance(fast.get_parameter(k).grad, None if architecture else p.grad)
    return far | {k: distance(fast.get_buffer(k), b) for k, b in plain.named_buffers()}


@pytest.mark.parametrize("architecture", [False, True])
def test_step_is_the_plain_step(architecture: bool) -> None:
    far = {k: d for k, d in compared(SPACE, torch.float64, architecture).items() if d > 1e-9}
    assert not far


def test_step_is_the_plain_step_without_skip_branches_and_search_of_widths() -> None:
    space = Space(layers=4, operators=OPERATORS[1:], ratios=(1,), branches=1, stem_ratio=1, teacher_stem_ratio=1)
    far = {k: d for k, d in compared(space, torch.float64).items() if d > 1e-9}
    assert not far


def test_the_labels_tell_every_width_apart() -> None:
    supernet, _ = both(Space(layers=5, ratios=(1, 2, 3), stem_ratio=1, teacher_stem_ratio=3))
    student = relaxed(supernet.space)["student"]
    supernet.double().requires_grad_(False)
    x, labels = batch()
    alpha, beta, _ = student.probabilities()
    widest = tuple((2,) * supernet.space.tensors(scale) for scale in range(3))
    gates = tuple(torch.ones(len(row), 3, dtype=torch.float64, requires_grad=True) for row in widest)
    backward(supernet, x.double(), labels, [Pass("student", alpha, beta, Widths(widest, gates))], losses.ohem)
    for gate in gates:
        assert gate.grad is not None
        assert gate.grad.abs().min() > 1e-6  # every group of channels of every tensor, also those before the last cells


def test_halvings_are_expected_where_derivation_has_them() -> None:
    space = Space(layers=9)
    beta = [torch.rand(space.merges(scale), 2).softmax(1) for scale in (1, 2)]
    found = departures(space, beta)
    assert all(float(table.sum()) == pytest.approx(1) for table in found.values())
    # Rows of beta that `downsamplings` may choose, one cell on: what a branch leaves with.
    one, two = space.places()
    assert (found[1, 0] > 0).tolist() == [False, *one]
    assert (found[2, 0] > 0).tolist() == [False, *two.any(1)]
    assert (found[2, 1] > 0).tolist() == [False, *two.any(0)]
    assert not one.all()
    likely = torch.outer(beta[0][:, 0], beta[1][:, 0]) * torch.from_numpy(two)
    torch.testing.assert_close(found[2, 1][1:], likely.sum(0) / likely.sum())


# (scale, input channels, side of the map): both sides, and a cell without one of stride 2.
CELLS = ((0, 8, 12, True), (1, 32, 8, True), (2, 64, 6, False))


@pytest.mark.parametrize(("scale", "cin", "side", "down"), CELLS)
@pytest.mark.parametrize("form", ["direct", "product"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_cell_is_the_plain_cell(
    scale: int, cin: int, side: int, down: bool, form: str, dtype: torch.dtype, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv3x3, "SMALL_PIXELS", 10**9 if form == "product" else 0)
    torch.manual_seed(0)
    rate = 8 * 2**scale
    cell = Supercell(OPERATORS, 2 * rate, (1, 2), rate, down).to(memory_format=torch.channels_last)
    plain = PlainCell(OPERATORS, 2 * rate, (1, 2), rate, down)
    spread(cell)
    plain.load_state_dict(cell.state_dict())
    cell, plain = cell.to(dtype), plain.to(dtype)
    sides = 2 if down else 1
    far: dict[str, float] = {}
    for chis in ((2, 1), (1, 2)):  # the second adds to the first one's gradients
        x = torch.randn(2, cin, side, side, dtype=dtype).relu().requires_grad_()
        mixes = [torch.randn(len(OPERATORS), dtype=dtype).softmax(0).requires_grad_() for _ in range(sides)]
        with torch.no_grad():
            mixes[0][1] = 0.0  # a one-hot row has such weights, and gradients for them
        dys = [torch.randn(2, rate * (s + 1) * chis[s], side // (s + 1), side // (s + 1), dtype=dtype) for s in range(sides)]
        found = cell(x, mixes, chis[:sides])
        torch.autograd.backward(found, dys)
        got = [x.grad, *(m.grad for m in mixes)]
        x.grad, mixes = None, [m.detach().requires_grad_() for m in mixes]
        groups = (plain.keep, plain.down)[:sides]
        expected = [mixed(ops, x, mix, chi) for ops, mix, chi in zip(groups, mixes, chis, strict=False)]
        torch.autograd.backward(expected, dys)
        far |= {f"y {i} {chis}": distance(a, b) for i, (a, b) in enumerate(zip(found, expected, strict=True))}
        for name, a, b in zip(("x", "keep", "down"), got, [x.grad, *(m.grad for m in mixes)], strict=False):
            far[f"{name} {chis}"] = distance(a, b)
    far |= {k: distance(cell.get_parameter(k).grad, p.grad) for k, p in plain.named_parameters()}
    far |= {k: distance(cell.get_buffer(k), b) for k, b in plain.named_buffers()}
    assert not {k: d for k, d in far.items() if d > most}


def test_fp32_step_has_the_plain_steps_loss_gradients_and_statistics() -> None:
    # Roundings turn single ReLUs on or off, as they do in the plain step with another layout or number of threads, and each
    # changes gradients by up to a tenth. Here no ReLU is near its bend: every channel is on, or off, as a whole.
    fast, plain = both()
    torch.manual_seed(0)
    for m in fast.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.bias.data = 4 * m.bias.sign()
            m.weight.data.clamp_(max=1)
    plain.load_state_dict(fast.state_dict())
    mine = relaxed(SPACE, torch.float32)
    others = copy.deepcopy(mine)
    x, labels = batch(192)
    found = backward(fast, x, labels, passes(SPACE, mine), losses.ohem)
    expected = plain_loss(plain, x, labels, passes(SPACE, others), losses.ohem)
    expected.backward()
    assert found.total == pytest.approx(expected.item(), rel=1e-5)
    # What the logits get is what is left of the operators' products with the softmax's derivative, and roundings weigh more.
    for ours, theirs, most in ((fast, plain, 1e-5), *((mine[net], others[net], 5e-5) for net in mine)):
        names = [k for k, p in theirs.named_parameters() if p.grad is not None]
        a, b = (torch.cat([m.get_parameter(k).grad.flatten() for k in names]) for m in (ours, theirs))
        assert distance(a, b) < most
    statistics = [k for k, _ in plain.named_buffers() if "running" in k]
    a, b = (torch.cat([m.get_buffer(k).flatten() for k in statistics]) for m in (fast, plain))
    assert distance(a, b) < 1e-5


def test_bf16_cell_is_near_the_plain_cell() -> None:
    torch.manual_seed(0)
    cell, plain = Supercell(OPERATORS, 16, (1, 2), 8, True), PlainCell(OPERATORS, 16, (1, 2), 8, True)
    spread(cell)
    plain.load_state_dict(cell.state_dict())
    x, mix = torch.randn(2, 16, 16, 16), torch.rand(len(OPERATORS)).softmax(0).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = cell(x, [mix, mix], (2, 2))
    expected = [mixed(ops, x, mix, 2) for ops in (plain.keep, plain.down)]
    assert found[0].dtype == torch.bfloat16
    assert max(distance(a, b) for a, b in zip(found, expected, strict=True)) < 0.03
    torch.autograd.backward(found, [torch.ones_like(y) for y in found])
    got, mix.grad = mix.grad, None
    torch.autograd.backward(expected, [torch.ones_like(y) for y in expected])
    assert distance(got, mix.grad) < 0.05
    for k, p in plain.named_parameters():
        assert distance(cell.get_parameter(k).grad, p.grad) < 0.3, k


def path(layers: int, downs: tuple[int, ...], last: int) -> tuple[tuple[str, int, int], ...]:
    """(operator, ratio, stride) of each cell of a branch, of which those in the layers `downs` have stride 2."""
    ops = [OPERATORS[1 + (3 * i) % 4] for i in range(layers)]
    ratios = [*(1 + (i % 2) for i in range(layers - 1)), last]
    return tuple((op, chi, 2 if i in downs else 1) for i, (op, chi) in enumerate(zip(ops, ratios, strict=True)))


def branch(cells: tuple[tuple[str, int, int], ...]) -> tuple[Cell, ...]:
    rate, found = 8, []
    for op, chi, stride in cells:
        rate *= stride
        found.append(Cell(op, rate * chi, stride))  # type: ignore[arg-type]
    return tuple(found)


@pytest.mark.parametrize("net", ["student", "teacher"])
@pytest.mark.parametrize("downs", [((1, 3), ()), ((2, 3), (2,)), ((2,), ()), ((2, 3),), ((2,),), ((),)])
def test_path_is_the_derived_network(net: Net, downs: tuple[tuple[int, ...], ...]) -> None:
    supernet, _ = both()
    x, labels = batch()
    nets = relaxed(SPACE, torch.float32)
    backward(supernet, x, labels, passes(SPACE, nets), losses.ohem)  # so that running statistics are not the first ones
    supernet.eval()
    chi = SPACE.chi(net)
    cells = [path(SPACE.layers, d, chi) for d in downs]
    branches = tuple(map(branch, cells))
    shared = 0
    if len(cells) == 2:
        shared = min(next(i for i in range(SPACE.layers) if a != b) for a, b in [branches])
    arch = FasterSeg("path", chi, branches, shared, chi)
    module = models.build(arch, TASK).eval()
    state = path_state(supernet, arch, net, [range(len(b)) for b in arch.branches])
    missing = module.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(k.startswith("auxiliary") for k in missing.missing_keys)
    expected = module.low_logits(x)

    alpha, beta, index = one_hot(cells)
    with torch.no_grad():
        maps = supernet.branch_maps(supernet.stem(x, net), net, alpha, beta, Widths(index))
        found = supernet.head(net, [len(d) for d in downs], maps)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def one_hot(
    cells: list[tuple[tuple[str, int, int], ...]],
) -> tuple[list[Tensor], list[Tensor], tuple[tuple[int, ...], ...]]:
    """alpha, beta and widths of the relaxed space that mean these branches; what no branch takes is anything."""
    s = Logits.uniform(SPACE, "student")
    alpha = [torch.full(t.shape, 0.2) for t in s.alpha]
    beta = [torch.tensor([0.0, 1.0]).repeat(len(t), 1) for t in s.beta]
    index = [[0] * SPACE.tensors(scale) for scale in range(3)]
    for branch_cells in cells:
        scale = 0
        for layer, (op, chi, stride) in enumerate(branch_cells):
            alpha[scale][layer - scale] = torch.tensor([float(o == op) for o in OPERATORS])
            if stride == 2:
                scale += 1
                beta[scale - 1][layer - scale] = torch.tensor([1.0, 0.0])
            if layer + 1 < SPACE.layers:
                index[scale][layer + 1 - max(scale, 1)] = SPACE.ratios.index(chi)
    for table in beta:  # of halvings that no branch takes some place has to be likely
        if not table[:, 0].any():
            table[-1] = torch.tensor([1.0, 0.0])
    return alpha, beta, tuple(map(tuple, index))


def test_path_names_what_is_wrong() -> None:
    supernet, _ = both()
    cells = (Cell("conv", 8), Cell("conv", 8))
    with pytest.raises(ValueError, match="stem and head of ratio 2 and 2 are not those of the student, 1"):
        path_state(supernet, FasterSeg("a", 2, (cells,), 0, 2), "student", [(0, 1)])
    with pytest.raises(ValueError, match="24 channels at rate 8 is of no ratio"):
        path_state(supernet, FasterSeg("a", 1, ((Cell("conv", 24),),), 0, 1), "student", [(0,)])
    with pytest.raises(ValueError, match="layer 7 has no cell at scale 0"):
        path_state(supernet, FasterSeg("a", 1, (cells,), 0, 1), "student", [(0, 7)])
    with pytest.raises(ValueError, match="needs one a cell"):
        path_state(supernet, FasterSeg("a", 1, (cells,), 0, 1), "student", [(0,)])


def test_path_takes_the_layers_that_its_cells_come_from() -> None:
    supernet, _ = both()
    arch = FasterSeg("a", 1, ((Cell("conv", 16), Cell("conv_x2", 8)),), 0, 1)
    state = path_state(supernet, arch, "student", [(1, 4)])
    kernel = supernet.cells[0][1].keep["conv"].layers[0]  # type: ignore[index, union-attr]
    assert torch.equal(state["branches.0.0.0.weight"], kernel.weights[0][:16, :8])
    models.build(arch, TASK).load_state_dict(state, strict=False)


def test_cells_that_branches_share_come_from_the_first_branchs_layers() -> None:
    supernet, _ = both()
    first, last = Cell("conv", 16), Cell("conv_x2", 8)
    arch = FasterSeg("a", 1, ((first, Cell("conv", 16, 2), Cell("conv", 16)), (first, last)), 1, 1)
    state = path_state(supernet, arch, "student", [(1, 2, 4), (0, 4)])
    kernel = supernet.cells[0][1].keep["conv"].layers[0]  # type: ignore[index, union-attr]
    assert torch.equal(state["shared.0.0.weight"], kernel.weights[0][:16, :8])


def test_sizes_and_spaces_that_do_not_fit_are_refused() -> None:
    supernet, _ = both()
    with pytest.raises(ValueError, match="48x64; needs multiples of 32"):
        supernet.stem(torch.zeros(1, 3, 48, 64), "student")
    with pytest.raises(ValueError, match="layers: 3 have no place"):
        Supernet(Space(layers=3), TASK)


@pytest.mark.gpu
def test_step_on_a_gpu_is_the_plain_step() -> None:
    fast, plain = (net.double().cuda() for net in both())
    x, labels = (t.cuda() for t in batch())
    mine = {net: one.cuda() for net, one in relaxed(SPACE).items()}
    others = copy.deepcopy(mine)
    found = backward(fast, x.double(), labels, passes(SPACE, mine), losses.ohem)
    expected = plain_loss(plain, x.double(), labels, passes(SPACE, others), losses.ohem)
    expected.backward()
    assert found.total == pytest.approx(float(expected.detach()), rel=1e-9)
    assert not {k for k, p in plain.named_parameters() if distance(fast.get_parameter(k).grad, p.grad) > 1e-8}
