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
from edgesmith.models import squeezenas
from edgesmith.models.arch import InvertedResidual, SqueezeNas
from edgesmith.models.parts import Part, parts

from .test_arch import squeezenas_archs

TASK = models.Segmentation(5)
SIZES = st.tuples(st.integers(64, 200), st.integers(64, 200))


@settings(max_examples=10, deadline=None)
@given(squeezenas_archs(), SIZES)
def test_pieces_take_the_maps_that_run_through_the_network(arch: SqueezeNas, hw: tuple[int, int]) -> None:
    with torch.device("meta"):
        module = models.build(arch, TASK).eval()
        seen: dict[str, tuple[tuple[int, ...], ...]] = {}
        for name, child in module.named_modules():

            def note(_: Any, maps: tuple[torch.Tensor, ...], name: str = name) -> None:
                seen[name] = tuple(tuple(m.shape[1:]) for m in maps)

            child.register_forward_pre_hook(note)
        logits = module.low_logits(torch.empty(1, 3, *hw))  # type: ignore[operator]
    found = dict(parts(arch, TASK, hw))
    inside = {name: part for name, part in found.items() if part.family != "engine"}
    assert {name: part.inputs for name, part in inside.items()} == {name: seen[name] for name in inside}
    assert list(found) == ["frame", *inside, "labels"]
    assert found["frame"].inputs == ((3, *hw),)
    assert found["labels"].inputs == (tuple(logits.shape[1:]),)
    assert found["labels"].config.align_corners == module.enlarge_align_corners  # type: ignore[union-attr]
    assert found["labels"].config.frame_hw == hw  # type: ignore[union-attr]
    rest = {n.partition(".")[0] for n, _ in module.named_parameters()} - {"blocks"}
    assert rest <= set(inside)  # nothing with weights is in no piece


@settings(max_examples=10, deadline=None)
@given(squeezenas_archs(), SIZES)
def test_a_piece_is_built_as_it_stands_in_the_network(arch: SqueezeNas, hw: tuple[int, int]) -> None:
    with torch.device("meta"):
        module = squeezenas.build(arch, TASK)
        for name, part in parts(arch, TASK, hw):
            if part.family == "engine":
                continue
            built, cut = models.build_part(part), squeezenas.piece(module, name)
            assert str(built) == str(cut)
            assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in cut.state_dict().items()}
            assert part.empty == (isinstance(cut, torch.nn.Identity))


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


def test_what_is_no_module_is_said_so() -> None:
    found = dict(parts(models.zoo("squeezenas-lat-small"), TASK, (64, 64)))
    with pytest.raises(ValueError, match="no module is known for 'frame @ 64x64'"):
        models.build_part(found["frame"])
    with pytest.raises(ValueError, match="is no piece of a SqueezeNAS module"):
        models.build_part(dataclasses.replace(found["labels"], family="squeezenas"))


def test_a_family_without_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match="pieces of family 'fasterseg' are not known"):
        parts(models.zoo("fasterseg-student"), TASK, (64, 64))


def test_pieces_are_data_and_need_no_torch() -> None:
    code = "import sys, edgesmith.models.parts, edgesmith.calibration.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
