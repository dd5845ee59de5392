from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesmith import models
from edgesmith.models import fasterseg, squeezenas
from edgesmith.models.arch import Arch, FasterSeg, InvertedResidual, SqueezeNas
from edgesmith.models.parts import Join, Part, parts
from tests.pieces import piece

from .test_arch import fasterseg_archs, squeezenas_archs

TASK = models.Segmentation(5)
SIZES = st.tuples(st.integers(64, 200), st.integers(64, 200))


def given_to_the_module(part: Part) -> tuple[tuple[int, ...], ...]:
    """The maps that the module takes: what is joined, as one."""
    if isinstance(part.config, Join):
        return ((sum(c for c, _, _ in part.inputs), *part.inputs[0][1:]),)
    return part.inputs


@settings(max_examples=10, deadline=None)
@given(st.one_of(squeezenas_archs(), fasterseg_archs()), SIZES)
def test_pieces_take_the_maps_that_run_through_the_network(arch: Arch, hw: tuple[int, int]) -> None:
    with torch.device("meta"):
        module = models.build(arch, TASK).eval()
        seen: dict[str, tuple[tuple[int, ...], ...]] = {}
        for name, child in module.named_modules():

            def note(_: Any, maps: tuple[torch.Tensor, ...], name: str = name) -> None:
                seen[name] = tuple(tuple(m.shape[1:]) for m in maps if isinstance(m, torch.Tensor))

            child.register_forward_pre_hook(note)
        logits = module.low_logits(torch.empty(1, 3, *hw))  # type: ignore[operator]
    found = dict(parts(arch, TASK, hw))
    inside = {name: part for name, part in found.items() if part.family != "engine"}
    assert {name: given_to_the_module(part) for name, part in inside.items()} == {name: seen[name] for name in inside}
    assert list(found) == ["frame", *inside, "labels"]
    assert found["frame"].inputs == ((3, *hw),)
    assert found["labels"].inputs == (tuple(logits.shape[1:]),)
    assert found["labels"].config.align_corners == module.enlarge_align_corners  # type: ignore[union-attr]
    assert found["labels"].config.frame_hw == hw  # type: ignore[union-attr]
    with_weights = [n for n, _ in module.named_parameters() if not n.startswith("auxiliary.")]
    assert all(any(n.startswith(f"{name}.") for name in inside) for n in with_weights)  # nothing with weights is in no piece


@settings(max_examples=10, deadline=None)
@given(squeezenas_archs(), SIZES)
def test_a_piece_is_built_as_it_stands_in_the_network(arch: SqueezeNas, hw: tuple[int, int]) -> None:
    with torch.device("meta"):
        module = squeezenas.build(arch, TASK)
        for name, part in parts(arch, TASK, hw):
            if part.family == "engine":
                continue
            built, cut = models.build_part(part), piece(module, name, part)
            assert str(built) == str(cut)
            assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in cut.state_dict().items()}
            assert part.empty == (isinstance(cut, torch.nn.Identity))


@settings(max_examples=10, deadline=None)
@given(fasterseg_archs(), SIZES)
def test_a_piece_of_fasterseg_is_built_as_it_stands_in_the_network(arch: FasterSeg, hw: tuple[int, int]) -> None:
    with torch.device("meta"):
        module = fasterseg.build(arch, TASK)
        for name, part in parts(arch, TASK, hw):
            if part.family == "engine":
                continue
            assert not part.empty
            built, cut = models.build_part(part), piece(module, name, part)
            assert str(built) == str(cut)
            assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in cut.state_dict().items()}


@settings(max_examples=5, deadline=None)
@given(fasterseg_archs(), st.sampled_from([(64, 96), (75, 90)]))
def test_the_pieces_of_fasterseg_put_together_are_the_network(arch: FasterSeg, hw: tuple[int, int]) -> None:
    module = fasterseg.build(arch, TASK).eval()
    found = {n: p for n, p in parts(arch, TASK, hw) if p.family != "engine"}

    def run(name: str, *maps: torch.Tensor) -> torch.Tensor:
        assert tuple(tuple(m.shape[1:]) for m in maps) == found[name].inputs
        made: torch.Tensor = piece(module, name, found.pop(name))(*maps)
        return made

    with torch.no_grad():
        x = torch.randn(1, 3, *hw)
        stem = run("stem", x)
        finest = []
        for b, cells in enumerate(arch.branches):
            y, finer = stem, []
            for i, cell in enumerate(cells):
                if cell.stride == 2:
                    finer.append(y)
                name = f"shared.{i}" if i < arch.shared else f"branches.{b}.{i - arch.shared}"
                y = run(name, y) if name in found else module.get_submodule(name)(y)  # shared cells occur once
            for step, fine in enumerate(reversed(finer)):
                y = run(f"aggregation.{b}.{step}.refine", run(f"aggregation.{b}.{step}.reduce", y), fine)
            finest.append(y)
        made = run("head", run("fuse", *finest))
        torch.testing.assert_close(made, module.low_logits(x))
    assert not found


@settings(max_examples=50, deadline=None)
@given(fasterseg_archs(), fasterseg_archs(), st.sampled_from([(64, 96), (96, 64), (65, 97)]))
def test_two_pieces_of_fasterseg_have_one_key_only_if_they_are_the_same(
    a: FasterSeg, b: FasterSeg, hw: tuple[int, int]
) -> None:
    found = [p for arch, size in ((a, hw), (b, (64, 96))) for _, p in parts(arch, TASK, size)]
    assert len({p.key for p in found}) == len(set(found))


@settings(max_examples=50, deadline=None)
@given(squeezenas_archs(), squeezenas_archs(), st.sampled_from([(64, 96), (96, 64), (65, 97)]))
def test_two_pieces_have_one_key_only_if_they_are_the_same(a: SqueezeNas, b: SqueezeNas, hw: tuple[int, int]) -> None:
    def structure(part: Part) -> Part:
        c = part.config
        if isinstance(c, InvertedResidual) and c.op == "skip":  # a skip has no kernel, dilation, expansion and groups
            return dataclasses.replace(part, config=InvertedResidual(c.width, c.stride, "skip"))
        return part

    found = [structure(p) for arch, size in ((a, hw), (b, (64, 96))) for _, p in parts(arch, TASK, size)]
    assert len({p.key for p in found}) == len(set(found))


def test_keys_can_be_read() -> None:
    arch = models.zoo("squeezenas-lat-small")
    keys = {name: part.key for name, part in parts(arch, models.Segmentation(19), (360, 480))}
    assert keys["frame"] == "frame @ 360x480"
    assert keys["stem"] == "stem k3 s2 3->16 @ 360x480"
    assert keys["blocks.4"] == "block mbconv k3 d1 e6 g1 s2 16->24 @ 90x120"
    assert keys["blocks.1"] == "block skip s1 16->16 @ 90x120"
    assert keys["neck"] == "neck 96->256 @ 23x30"
    assert keys["decoder"] == "decoder lraspp 256 @ 23x30 with 24 @ 45x60, w128 ->19"
    assert keys["labels"] == "labels 19 @ 45x60 -> 360x480 corners"


def test_keys_of_fasterseg_can_be_read() -> None:
    arch = models.zoo("fasterseg-student")
    keys = {name: part.key for name, part in parts(arch, models.Segmentation(19), (360, 480))}
    assert keys["stem"] == "stem x5 3->64 @ 360x480"
    assert keys["shared.0"] == "cell conv_x2 s1 64->32 @ 45x60"
    assert keys["branches.0.0"] == "cell zoomed_conv s2 32->128 @ 45x60 corners"
    assert keys["branches.1.3"] == "cell zoomed_conv_x2 s1 64->64 @ 23x30 corners"
    assert keys["aggregation.0.0.reduce"] == "arm 256->128 @ 11x15 -> 22x30 corners"
    assert keys["aggregation.0.0.refine"] == "refine 128+64->128 @ 22x30"
    assert keys["fuse"] == "fuse 64+64->128 @ 45x60"
    assert keys["head"] == "head 128->19 @ 45x60"


def test_what_is_no_module_is_said_so() -> None:
    found = dict(parts(models.zoo("squeezenas-lat-small"), TASK, (64, 64)))
    with pytest.raises(ValueError, match="no module is known for 'frame @ 64x64'"):
        models.build_part(found["frame"])
    with pytest.raises(ValueError, match="is no piece of a SqueezeNAS module"):
        models.build_part(dataclasses.replace(found["labels"], family="squeezenas"))
    with pytest.raises(ValueError, match="is no piece of a FasterSeg module"):
        models.build_part(dataclasses.replace(found["labels"], family="fasterseg"))


def test_a_family_without_pieces_is_refused() -> None:
    class Other(Arch):
        family = "other"

    with pytest.raises(ValueError, match="pieces of family 'other' are not known"):
        parts(Other("other"), TASK, (64, 64))


def test_pieces_are_data_and_need_no_torch() -> None:
    code = "import sys, edgesmith.models.parts, edgesmith.calibration.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
