from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesmith import models
from edgesmith.models import published
from edgesmith.models.arch import Cell, FasterSeg
from edgesmith.models.fasterseg import FasterSegModule

from .test_arch import fasterseg_archs
from .test_squeezenas import built_on_meta, counted_macs

NAMES = ("fasterseg-student", "fasterseg-teacher", "fasterseg-pruned-teacher")


def tiny(**changes: Any) -> FasterSeg:
    """A small network with every operator at every stride, two branches and shared cells."""
    common = (Cell("conv", 6), Cell("skip", 5))
    deep = (*common, Cell("zoomed_conv", 8, 2), Cell("zoomed_conv_x2", 7), Cell("skip", 9, 2), Cell("conv_x2", 6))
    flat = (*common, Cell("zoomed_conv", 6), Cell("conv", 8, 2), Cell("zoomed_conv_x2", 8))
    values: dict[str, Any] = {"name": "tiny", "stem_width": 1, "branches": (deep, flat), "shared": 2, "head_ratio": 1}
    return FasterSeg(**{**values, **changes})


def built(arch: models.Arch, classes: int = 3) -> FasterSegModule:
    torch.manual_seed(0)
    module = models.build(arch, models.Segmentation(classes))
    assert isinstance(module, FasterSegModule)
    return module


def without_gradient(module: nn.Module, outputs: tuple[Tensor, ...]) -> list[str]:
    torch.stack([o.square().mean() for o in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    return [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("name", NAMES)
def test_published_networks_have_their_counted_macs_and_parameters(name: str) -> None:
    known = published.read(name)
    module = built_on_meta(known.arch, known.task)
    assert counted_macs(module, known.input_hw) == known.counted["macs"]
    sizes = {n: p.numel() for n, p in module.named_parameters()}
    assert sum(sizes.values()) == known.counted["params_train"]
    assert sum(v for n, v in sizes.items() if not n.startswith("auxiliary.")) == known.counted["params"]


def test_the_counts_are_those_of_the_authors_networks() -> None:
    counted = {name: published.read(name).counted for name in NAMES}
    assert (counted[NAMES[0]]["params"], counted[NAMES[0]]["params_train"]) == (3_421_875, 4_352_921)
    gmacs = [counted[name]["macs"] / 1e9 for name in NAMES]
    assert gmacs == pytest.approx([27.770, 107.779, 29.054], rel=1e-3)


@pytest.mark.parametrize(
    ("hw", "gmacs"), [((512, 1024), 6.943), ((256, 512), 1.736), ((720, 960), 9.127), ((720, 1280), 12.170)]
)
def test_the_student_has_the_authors_macs_at_other_sizes_too(hw: tuple[int, int], gmacs: float) -> None:
    module = built_on_meta(models.zoo("fasterseg-student"), models.Segmentation(19))
    assert counted_macs(module, hw) / 1e9 == pytest.approx(gmacs, abs=5.1e-4)


def test_with_the_references_weights_every_convolution_and_the_logits_equal_the_authors(shared: Path) -> None:
    folder = shared / "facts/reference"
    reference = json.loads((folder / "fasterseg_student_bilinear.json").read_text())
    module = built(models.zoo("fasterseg-student"), 19).eval()
    convs = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Conv2d) and not n.startswith("auxiliary.")]
    # The authors run the branches' cells in turns, we one branch after the other.
    theirs = sorted(reference["convolutions_in_execution_order"], key=lambda c: branch_of(c["name"]))
    found: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        return lambda _module, _given, output: found.update({name: output})

    for (_, conv), known in zip(convs, theirs, strict=True):
        assert [*conv.weight.shape] == known["weight"]
        generator = torch.Generator().manual_seed(zlib.crc32(f"{known['name']}.weight".encode()))
        fan_in = conv.weight[0].numel()
        conv.weight.data = torch.randn(conv.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
        conv.register_forward_hook(note(known["name"]))
    torch.manual_seed(0)
    x = torch.randn(1, 3, 256, 512)
    with torch.no_grad():
        outputs = {"logits_os8": module.low_logits(x), "full_sub8": module(x)[:, :, ::8, ::8]}
    for known in theirs:
        y = found[known["name"]].double()
        assert [*y.shape] == known["out"], known["name"]
        assert float(y.mean()) == pytest.approx(known["mean"], abs=1e-3 * known["std"]), known["name"]
        assert float(y.std()) == pytest.approx(known["std"], rel=1e-3), known["name"]
    for name, half in np.load(folder / "fasterseg_student_bilinear.npz").items():
        expected = half.astype(np.float32)
        assert np.abs(outputs[name].numpy() - expected).max() <= 1e-3 * np.abs(expected).max(), name


def branch_of(name: str) -> int:
    """Stem 0, shared cells 1, cells of the first and the second branch 2 and 3, all behind them 4."""
    if cell := re.match(r"cells\.(\d+)-(\d)", name):
        return 1 if int(cell[1]) < 3 else 2 + int(cell[2])
    return 0 if name.startswith("stem.") else 4


@pytest.mark.parametrize("hw", [(64, 64), (97, 131), (65, 200), (135, 240)])
def test_any_input_size_gives_logits_at_that_size(hw: tuple[int, int]) -> None:
    module = built(models.zoo("fasterseg-student")).eval()
    x = torch.zeros(1, 3, *hw)
    with torch.no_grad():
        assert module(x).shape == (1, 3, *hw)
        main, *auxiliary = module.train_logits(x)
    eighth = [-(-v // 8) for v in hw]
    assert [*main.shape[2:]] == eighth
    assert len(auxiliary) == 2
    for logits, rate in zip(auxiliary, (16, 32), strict=True):
        assert all(abs(n - v / rate) < 1 for n, v in zip(logits.shape[2:], hw, strict=True))


@pytest.mark.parametrize("hw", [(1080, 1920), (500, 700)])
def test_sizes_on_which_the_released_code_fails_work(hw: tuple[int, int]) -> None:
    module = built_on_meta(models.zoo("fasterseg-student"), models.Segmentation(3)).eval()
    x = torch.empty(1, 3, *hw, device="meta")
    assert module(x).shape == (1, 3, *hw)
    assert len(module.train_logits(x)) == 3  # type: ignore[operator]


@pytest.mark.parametrize("arch", [models.zoo("fasterseg-student"), tiny()], ids=lambda a: a.name)
def test_every_parameter_gets_a_gradient_in_training(arch: FasterSeg) -> None:
    module = built(arch)
    assert without_gradient(module, module.train_logits(torch.randn(2, 3, 64, 96))) == []


def test_only_auxiliary_heads_get_none_without_them() -> None:
    module = built(tiny())
    missing = without_gradient(module, (module.low_logits(torch.randn(2, 3, 64, 96)),))
    assert missing
    assert all(n.startswith("auxiliary.") for n in missing)


@settings(max_examples=15, deadline=None)
@given(fasterseg_archs(), st.tuples(st.integers(64, 140), st.integers(64, 140)))
def test_any_architecture_at_any_size_trains_and_answers(arch: FasterSeg, hw: tuple[int, int]) -> None:
    module = built(arch)
    outputs = module.train_logits(torch.randn(2, 3, *hw))
    assert len(outputs) == len(arch.map_widths[0])
    assert without_gradient(module, outputs) == []
    with torch.no_grad():
        assert module.eval()(torch.zeros(1, 3, *hw)).shape == (1, 3, *hw)


def test_shared_cells_are_one_module_that_runs_once() -> None:
    module = built(tiny()).eval()
    runs: list[str] = []
    for name, m in module.named_modules():
        m.register_forward_hook(lambda *_, name=name: runs.append(name))
    with torch.no_grad():
        module(torch.zeros(1, 3, 64, 64))
    assert [n for n in runs if re.fullmatch(r"shared\.\d", n)] == ["shared.0", "shared.1"]
    assert [len(b) for b in module.branches] == [4, 3]  # type: ignore[arg-type]


def test_the_last_map_at_each_scale_is_what_its_cell_of_stride_2_takes() -> None:
    module = built(tiny()).eval()
    with torch.no_grad():
        deep, flat = module._maps(torch.randn(1, 3, 64, 64))
    assert [(m.shape[1], m.shape[2]) for m in deep] == [(5, 8), (7, 4), (6, 2)]
    assert [(m.shape[1], m.shape[2]) for m in flat] == [(6, 8), (8, 4)]


@pytest.mark.parametrize(
    ("branches", "auxiliary"),
    [
        (((Cell("conv", 8),),), 0),
        (((Cell("conv", 8, 2),),), 1),
        (((Cell("skip", 8, 2), Cell("skip", 16, 2)), (Cell("zoomed_conv", 9),)), 2),
        (((Cell("conv", 8), Cell("conv", 8, 2)), (Cell("conv", 8),)), 1),
    ],
)
def test_branches_may_end_at_any_scale(branches: tuple[tuple[Cell, ...], ...], auxiliary: int) -> None:
    module = built(tiny(branches=branches, shared=0))
    outputs = module.train_logits(torch.randn(2, 3, 70, 90))
    assert len(outputs) == 1 + auxiliary
    assert without_gradient(module, outputs) == []


def test_half_pixel_coordinates_reach_every_resize() -> None:
    aligned, half = built(tiny()), built(tiny(align_corners=False))
    half.load_state_dict(aligned.state_dict())
    assert (aligned.enlarge_align_corners, half.enlarge_align_corners) == (True, False)
    seen = set()

    def spy(x: Tensor, size: Any, *, mode: str, align_corners: bool) -> Tensor:
        assert mode == "bilinear"
        seen.add(align_corners)
        return real(x, size, mode=mode, align_corners=align_corners)

    real = torch.nn.functional.interpolate
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "interpolate", spy)
        half.eval()(torch.zeros(1, 3, 64, 64))
        assert seen == {False}
        aligned.eval()(torch.zeros(1, 3, 64, 64))
    assert seen == {False, True}


def test_heads_wider_than_256_channels_work_on_half() -> None:
    teacher = built_on_meta(models.zoo("fasterseg-teacher"), models.Segmentation(19))
    widths = [head.classifier.in_channels for head in (teacher.head, *teacher.auxiliary)]  # type: ignore[misc]
    assert widths == [192, 192, 192]  # of 192, 384 and 384


def test_only_the_last_layer_of_each_head_is_called_classifier() -> None:
    """The trainer's own learning rate and the transfer to other classes go by that name."""
    module = built(tiny(), classes=7)
    shapes = {n: [*p.shape] for n, p in module.named_parameters() if "classifier" in n}
    assert len(shapes) == 6
    assert all(s[0] == 7 for s in shapes.values())
    assert all(n.split(".")[-2] == "classifier" for n in shapes)


def test_convolutions_start_at_kaiming_fan_in() -> None:
    module = built(models.zoo("fasterseg-student"))
    conv = module.branches[0][6].convs[1][0]  # type: ignore[index]
    assert isinstance(conv, nn.Conv2d)
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert not module.head.classifier.bias.any()  # type: ignore[union-attr]


def test_another_familys_architecture_is_refused() -> None:
    from edgesmith.models import fasterseg

    with pytest.raises(TypeError, match="SqueezeNas"):
        fasterseg.build(models.zoo("squeezenas-mac-small"), models.Segmentation(3))
