"""Random architectures of every family at random sizes: what is told without building a network holds for the built one."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgesmith import models
from edgesmith.deploy.files import write_bytes, write_json
from edgesmith.models import cost
from edgesmith.models.draw import draw
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD, Model, model_json
from edgesmith.models.weights import tensor_bytes
from edgesmith.pipeline.artifacts import Slot, Weights
from edgesmith.pipeline.export import PARITY, Export

from .test_arch import fasterseg_archs, squeezenas_archs

TASK = models.Segmentation(5)
ARCHS = {"squeezenas": squeezenas_archs(), "fasterseg": fasterseg_archs()}
SIDES = st.integers(64, 200)
SIZES = st.one_of(
    SIDES.map(lambda side: (side, side)),
    st.tuples(SIDES, st.integers(2, 4)).map(lambda given: (given[0], given[0] * given[1])),  # wide
    st.tuples(SIDES, SIDES).map(lambda hw: (hw[0] | 1, hw[1] | 1)),  # odd
)
family = pytest.mark.parametrize("family", ARCHS)


@family
@settings(max_examples=12, deadline=None)
@given(data=st.data(), hw=SIZES)
def test_costs_equal_what_hooks_see_on_the_built_module(family: str, data: st.DataObject, hw: tuple[int, int]) -> None:
    arch = data.draw(ARCHS[family])
    with torch.device("meta"):
        module = models.build(arch, TASK).eval()
    for training in (True, False):
        seen = observed(module, hw, training)
        told = [[c.name, c.cin, c.in_hw, c.cout, c.out_hw] for c in cost.convolutions(arch, TASK, hw, training=training)]
        assert len(seen) == len(told)
        for (name, *shape), (prefix, *expected) in zip(seen, told, strict=True):
            assert shape == expected, name
            assert name == prefix or name.startswith(f"{prefix}."), name
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, 3, *hw, device="meta"))
    assert counter.get_total_flops() == 2 * cost.macs(arch, TASK, hw)
    values = sum(s[1] * s[2][0] * s[2][1] + s[3] * s[4][0] * s[4][1] for s in seen)
    assert cost.activation_bytes(arch, TASK, hw) == 4 * values


def observed(module: nn.Module, hw: tuple[int, int], training: bool) -> list[list[Any]]:
    """Name, input channels and size, output channels and size of every convolution, in the order in which they run."""
    seen: list[list[Any]] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
            seen.append([name, given[0].shape[1], tuple(given[0].shape[2:]), made.shape[1], tuple(made.shape[2:])])

        return hook

    hooks = [m.register_forward_hook(note(n)) for n, m in module.named_modules() if isinstance(m, nn.Conv2d)]
    x = torch.empty(1, 3, *hw, device="meta")
    (module.train_logits if training else module.low_logits)(x)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    return seen


@family
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_parameters_equal_those_of_the_built_module(family: str, data: st.DataObject) -> None:
    arch = data.draw(ARCHS[family])
    with torch.device("meta"):
        module = models.build(arch, TASK)
    sizes = {n: p.numel() for n, p in module.named_parameters()}
    assert cost.params(arch, TASK, training=True) == sum(sizes.values())
    deployed = sum(size for n, size in sizes.items() if not n.startswith("auxiliary."))
    assert cost.params(arch, TASK) == deployed
    assert cost.weight_bytes(arch, TASK) == 4 * deployed


@family
@settings(max_examples=12, deadline=None)
@given(data=st.data(), hw=SIZES)
def test_every_parameter_has_a_gradient_from_train_logits(family: str, data: st.DataObject, hw: tuple[int, int]) -> None:
    module = averaging(models.build(data.draw(ARCHS[family]), TASK))
    outputs = module.train_logits(torch.rand(1, 3, *hw, dtype=torch.float64))  # type: ignore[operator]
    torch.stack([o.sum() for o in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def averaging(module: nn.Module) -> nn.Module:
    """The module with weights that average their inputs: nothing cancels and no ReLU closes, so zero means unused.

    With random weights some gradients are zero for good reasons: of channels that a narrow network's ReLU cuts off, of a
    shift that the next batch norm takes out again.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.constant_(m.weight, 1 / m.weight[0].numel())
    return module.double().eval()


@family
@settings(max_examples=25, deadline=None)
@given(data=st.data(), hw=SIZES)
def test_any_architecture_survives_json_and_can_be_drawn(family: str, data: st.DataObject, hw: tuple[int, int]) -> None:
    arch = data.draw(ARCHS[family])
    assert models.Arch.from_json(json.dumps(arch.to_json())) == arch
    assert draw(arch, TASK, hw).count("<title>") >= 5


def parity_of(arch: models.Arch, hw: tuple[int, int]) -> None:
    """Export `arch` with random weights: the stage itself refuses a graph whose logits or labels are not torch's."""
    torch.manual_seed(0)
    module = models.build(arch, TASK)
    with torch.no_grad():
        module(torch.randn(4, 3, *hw))  # batch norm's statistics: those of a network that has seen something
    with tempfile.TemporaryDirectory() as scratch:
        with Slot(Path(scratch) / "weights").writing(Weights) as folder:
            write_bytes(folder / "weights.safetensors", tensor_bytes(module.state_dict()))
            palette = tuple((i, i, i) for i in range(TASK.classes))
            names = tuple(f"class {i}" for i in range(TASK.classes))
            model = Model(arch, names, palette, IMAGENET_MEAN, IMAGENET_STD, "weights.safetensors")
            write_json(folder / "model.json", model_json(model))
        made = Export(hw)(Weights(Path(scratch) / "weights"), Slot(Path(scratch) / "onnx"))
        parity = json.loads((made.path / "meta.json").read_text())["parity"]
    assert parity["max_abs_diff"] <= PARITY * parity["max_abs_logit"]


EXPORT = settings(
    max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow], database=None
)


@family
@seed(0)
@EXPORT
@given(data=st.data(), hw=SIZES)
def test_the_graph_of_any_architecture_equals_torch(family: str, data: st.DataObject, hw: tuple[int, int]) -> None:
    parity_of(data.draw(ARCHS[family]), hw)


@pytest.mark.slow
@family
@seed(1)
@settings(EXPORT, max_examples=25)
@given(data=st.data(), hw=SIZES)
def test_the_graphs_of_many_architectures_equal_torch(family: str, data: st.DataObject, hw: tuple[int, int]) -> None:
    parity_of(data.draw(ARCHS[family]), hw)
