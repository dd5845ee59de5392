from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgesmith import models
from edgesmith.models.arch import Segmentation
from edgesmith.models.squeezenas import MbConv
from edgesmith.pipeline.search import squeezenas_mixture
from edgesmith.pipeline.search.depthwise import Depthwise, from_subgrids, subgrids
from edgesmith.pipeline.search.squeezenas_mixture import mixture
from edgesmith.pipeline.search.squeezenas_space import CANDIDATES, NAMES, SKIP, SPACES, SpaceName, space
from edgesmith.pipeline.search.squeezenas_supernet import Supernet
from edgesmith.pipeline.training import losses
from tests.pipeline.search.plain_supernet import PlainSupernet, path_logits

TASK = Segmentation(5)
HW = (80, 96)
"""The maps at 1/8 and 1/16 are 10x12 and 5x6: dilated candidates take both their ways, even sizes and odd."""


def spread(net: nn.Module) -> None:
    """Betas away from 0, where the ReLUs' and the next batch norm's invariance to scale would leave gammas no gradient."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -1, 1)


def both(name: SpaceName) -> tuple[Supernet, PlainSupernet]:
    """The supernet and the plain one with the same weights."""
    torch.manual_seed(0)
    fast, plain = Supernet(space(name), TASK), PlainSupernet(space(name), TASK)
    spread(fast)
    plain.load_state_dict(fast.state_dict())
    return fast, plain


def drawn(n: int, net: Supernet) -> Tensor:
    """A mixture for each of n images, 0 for candidates that are gone: (n, blocks, 13)."""
    alive = torch.zeros(len(net.alive), len(NAMES), dtype=torch.bool)
    for i, living in enumerate(net.alive):
        alive[i, living] = True
    return torch.randn(n, *alive.shape).masked_fill(~alive, -torch.inf).softmax(2)


def step(net: Supernet | PlainSupernet, x: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and its gradients by the names of what they belong to."""
    weights = weights.clone().requires_grad_()
    logits = F.interpolate(net.low_logits(x, weights), x.shape[-2:], mode="bilinear", align_corners=True)
    loss = losses.cross_entropy(logits, labels)
    names, tensors = zip(*net.named_parameters(), strict=True)
    return loss.detach(), dict(zip(("mixture", *names), torch.autograd.grad(loss, [weights, *tensors]), strict=True))


def distance(a: Tensor, b: Tensor) -> float:
    """|a - b| relative to |b|."""
    return float((a.detach().double() - b.detach().double()).norm() / b.detach().double().norm())


def whole(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients.values()])


def batch(n: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, *HW), torch.randint(0, TASK.classes, (n, *HW))


@pytest.mark.parametrize("name", ["small", *(pytest.param(name, marks=pytest.mark.slow) for name in ("large", "xlarge"))])
def test_step_is_the_plain_step(name: SpaceName) -> None:
    fast, plain = (net.double() for net in both(name))
    x, labels = batch()
    weights = drawn(2, fast).double()
    (loss, found), (plain_loss, expected) = (step(net, x.double(), labels, weights) for net in (fast, plain))
    assert distance(loss, plain_loss) < 1e-12
    assert not {k for k in expected if distance(found[k], expected[k]) > 1e-9}
    assert not {k for k, b in plain.named_buffers() if distance(fast.get_buffer(k), b) > 1e-12}


@pytest.mark.parametrize("name", ["small", "large", pytest.param("xlarge", marks=pytest.mark.slow)])
def test_fp32_step_is_the_plain_step_as_far_as_fp32_says_what_that_is(name: SpaceName) -> None:
    # Twenty blocks deep, roundings turn single ReLUs on or off, and gradients of the plain step itself change by 1e-2 with
    # layout and number of threads. So loss and statistics are held to 1e-5 here, gradients to that; to 1e-5 below, by block.
    fast, plain = both(name)
    x, labels = batch()
    weights = drawn(2, fast)
    (loss, found), (plain_loss, expected) = (step(net, x, labels, weights) for net in (fast, plain))
    assert distance(loss, plain_loss) < 1e-5
    assert not {k for k, b in plain.named_buffers() if distance(fast.get_buffer(k), b) > 1e-5}
    assert distance(found["mixture"], expected["mixture"]) < 0.1
    assert distance(whole(found), whole(expected)) < 0.1


def sides(cin: int, i: int, name: SpaceName, dtype: torch.dtype) -> tuple[list[MbConv], nn.ModuleList]:
    """Block i's MbConvs without residuals, twice."""
    blocks = nn.ModuleList(MbConv(cin, c) for c in space(name).choices(i)[:SKIP]).to(dtype)
    spread(blocks)
    for block in blocks:
        block.residual = False
    return list(copy.deepcopy(blocks)), blocks


def compared(cin: int, i: int, name: SpaceName, hw: tuple[int, int], dtype: torch.dtype) -> dict[str, float]:
    """How far a superblock's outputs, gradients and statistics are from the plain ones, by name."""
    fast, plain = sides(cin, i, name, dtype)
    x = torch.randn(3, cin, *hw, dtype=dtype).relu().requires_grad_()
    weights = torch.randn(3, SKIP, dtype=dtype).softmax(1).requires_grad_()
    expected = torch.stack([weights[:, j, None, None, None] * block(x) for j, block in enumerate(plain)]).sum(0)
    found = mixture(x, weights, fast)
    dy = torch.randn_like(expected)
    pairs = {"y": (found, expected)}
    for got, want in zip(
        torch.autograd.grad(found, [x, weights, *(p for b in fast for p in b.parameters())], dy),
        torch.autograd.grad(expected, [x, weights, *plain.parameters()], dy),
        strict=True,
    ):
        pairs[f"gradient {len(pairs)}"] = got, want
    for block, (j, other) in zip(fast, plain.named_children(), strict=True):
        pairs |= {f"{j}.{k}": (block.get_buffer(k), b) for k, b in other.named_buffers()}
    return {k: distance(*pair) for k, pair in pairs.items()}


# (input channels, block of Small, size of the map): both strides, the same and another width, even and odd maps.
KINDS = ((16, 0, (8, 10)), (16, 0, (7, 9)), (16, 1, (6, 8)), (16, 1, (5, 7)), (24, 8, (7, 6)), (40, 12, (4, 6)))


@pytest.mark.parametrize(("cin", "i", "hw"), KINDS)
@pytest.mark.parametrize("part", [1, 6000, squeezenas_mixture.PART_ELEMENTS])
def test_superblock_is_the_plain_sum(cin: int, i: int, hw: tuple[int, int], part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squeezenas_mixture, "PART_ELEMENTS", part)
    torch.manual_seed(0)
    far = {k: d for k, d in compared(cin, i, "small", hw, torch.float64).items() if d > 1e-11}
    assert not far


@pytest.mark.parametrize(("cin", "i", "hw"), KINDS)
def test_superblock_is_the_plain_sum_to_1e5_in_fp32(cin: int, i: int, hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    far = {k: d for k, d in compared(cin, i, "small", hw, torch.float32).items() if d > 1e-5}
    assert not far


def test_bf16_superblock_is_near_the_plain_sum() -> None:
    torch.manual_seed(0)
    fast, plain = sides(16, 1, "small", torch.float32)
    x, weights = torch.randn(2, 16, 12, 10), torch.rand(2, SKIP).softmax(1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = mixture(x, weights, fast)
    expected = torch.stack([weights[:, j, None, None, None] * block(x) for j, block in enumerate(plain)]).sum(0)
    assert y.dtype == torch.bfloat16
    assert distance(y, expected) < 0.03
    dy = torch.randn_like(expected)
    found = torch.autograd.grad(y, [weights, *(p for b in fast for p in b.parameters())], dy.bfloat16())
    wanted = torch.autograd.grad(expected, [weights, *plain.parameters()], dy)
    assert distance(torch.cat([g.flatten() for g in found]), torch.cat([g.flatten() for g in wanted])) < 0.1


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_depthwise_gradients(kernel: int, stride: int, dilation: int) -> None:
    conv = Depthwise(kernel, stride, dilation)
    x = torch.randn(2, 5, 11, 8, dtype=torch.float64).requires_grad_()
    weight = torch.randn(5, 1, kernel, kernel, dtype=torch.float64).requires_grad_()
    y = conv(x, weight)
    dy = torch.randn_like(y)
    found, expected = conv.gradients(x.detach(), weight.detach(), dy), torch.autograd.grad(y, [x, weight], dy)
    assert max(distance(a, b) for a, b in zip(found, expected, strict=True)) < 1e-13


def test_subgrids_are_every_second_row_and_column() -> None:
    x = torch.randn(2, 3, 6, 4)
    grids = subgrids(x, 2)
    torch.testing.assert_close(grids.view(2, 2, 2, 3, 3, 2)[1, 0], x[:, :, 1::2, ::2])
    torch.testing.assert_close(from_subgrids(grids, 2), x)


def operations(net: Supernet, x: Tensor, labels: Tensor, weights: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        step(net, x, labels, weights)
    return counter.get_total_flops()


def test_removed_candidate_takes_its_work_and_weights_along_and_leaves_the_others_gradients() -> None:
    torch.manual_seed(0)
    net = Supernet(space("small"), TASK).double()
    spread(net)
    gone = [(i, NAMES.index(name)) for i in (0, 5, 12) for name in ("k3_d2_e6_g1", "k5_d1_e1_g2", "skip")]
    reduced = copy.deepcopy(net)
    for i, j in gone:
        reduced.remove(i, j)
    x, labels = batch()
    weights = drawn(2, reduced).double()
    (loss, found), (full_loss, expected) = (step(n, x.double(), labels, weights) for n in (reduced, net))
    assert distance(loss, full_loss) < 1e-12
    assert set(expected) - set(found) == {
        f"blocks.{i}.candidates.{NAMES[j]}.{k}"
        for i, j in gone
        for k, _ in net.blocks[i].candidates[NAMES[j]].named_parameters()
    }
    alive = weights != 0
    found["mixture"], expected["mixture"] = found["mixture"][alive], expected["mixture"][alive]
    assert not {k for k in found if distance(found[k], expected[k]) > 1e-9}

    # Each convolution costs at least its forward and its two gradients.
    spared = operations(net.float(), x, labels, weights.float()) - operations(reduced.float(), x, labels, weights.float())
    with FlopCounterMode(display=False) as counter:
        for i, j in gone:
            side = {0: (40, 48), 5: (10, 12), 12: (5, 6)}[i]
            block = net.blocks[i].candidates[NAMES[j]]
            cin = next((m.in_channels for m in block.modules() if isinstance(m, nn.Conv2d)), 1)
            block(torch.randn(2, cin, *side))
    assert spared >= 2.9 * counter.get_total_flops()


def test_what_cannot_be_removed_is_named() -> None:
    net = Supernet(space("small"), TASK)
    for j in range(SKIP):
        net.remove(0, j)
    net.remove(1, 3)
    assert net.alive[:3] == [[SKIP], [0, 1, 2, *range(4, 13)], [*range(13)]]
    with pytest.raises(ValueError, match=r"candidate 12 of block 0 cannot be removed; living ones: \[12\]"):
        net.remove(0, SKIP)
    with pytest.raises(ValueError, match=r"candidate 3 of block 1 cannot be removed"):
        net.remove(1, 3)


@pytest.mark.parametrize("name", SPACES)
def test_path_is_the_shipped_network(name: SpaceName) -> None:
    torch.manual_seed(0)
    s = space(name)
    net = Supernet(s, TASK)
    net.low_logits(torch.randn(2, 3, *HW), drawn(2, net))  # so that running statistics are no longer those of an untrained one
    choice = [i % len(NAMES) for i in range(len(s))]
    module = models.build(s.arch(choice, "path"), TASK).eval()
    module.load_state_dict(net.path_state(choice))
    x = torch.randn(1, 3, *HW)
    torch.testing.assert_close(path_logits(net.eval(), x, choice), module.low_logits(x), rtol=0, atol=0)
    one_hot = F.one_hot(torch.tensor(choice), len(NAMES)).float()[None]
    torch.testing.assert_close(net.low_logits(x, one_hot), module.low_logits(x), rtol=1e-4, atol=1e-4)


def test_path_in_training_is_the_shipped_networks_step() -> None:
    torch.manual_seed(0)
    s = space("small")
    net = Supernet(s, TASK).double()
    choice = [NAMES.index("k5_d1_e3_g1")] * len(s)
    module = models.build(s.arch(choice, "path"), TASK).double()
    module.load_state_dict(net.path_state(choice))
    x = torch.randn(2, 3, *HW, dtype=torch.float64)
    one_hot = F.one_hot(torch.tensor([choice, choice]), len(NAMES)).double()
    expected = module.low_logits(x)
    torch.testing.assert_close(copy.deepcopy(net).low_logits(x, one_hot), expected)
    torch.testing.assert_close(path_logits(net, x, choice), expected)


def test_initial_weights_are_the_shipped_blocks() -> None:
    torch.manual_seed(0)
    net = Supernet(space("large"), TASK)
    module = models.build(space("large").arch([3] * 22, "large"), TASK)
    mine = net.path_state([3] * 22)
    for k, p in module.state_dict().items():
        if p.dim() == 4:
            assert float(mine[k].std() / p.std()) == pytest.approx(1, abs=0.5)
        else:
            torch.testing.assert_close(mine[k], p)


def test_state_dict_has_the_shipped_names() -> None:
    names = Supernet(space("small"), TASK).state_dict()
    assert {"stem.0.weight", "decoder.low_classifier.bias", "blocks.3.candidates.k5_d1_e6_g1.project.1.running_var"} <= set(
        names
    )
    assert {n.split(".")[3] for n in names if n.startswith("blocks.4.")} == set(CANDIDATES)


@pytest.mark.gpu
def test_step_on_a_gpu_is_the_plain_step() -> None:
    fast, plain = (net.double().cuda() for net in both("small"))
    x, labels = (t.cuda() for t in batch())
    weights = drawn(2, fast).double().cuda()
    (loss, found), (plain_loss, expected) = (step(net, x.double(), labels, weights) for net in (fast, plain))
    assert distance(loss, plain_loss) < 1e-12
    assert not {k for k in expected if distance(found[k], expected[k]) > 1e-9}
