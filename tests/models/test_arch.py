from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith import models
from edgesmith.models.arch import Cell, FasterSeg, InvertedResidual, SqueezeNas


@st.composite
def squeezenas_archs(draw: st.DrawFn) -> SqueezeNas:
    """Random SqueezeNAS architectures: any depth, widths, strides and block types, at most four halvings."""
    strides = [2, 2, 2, *([1] * draw(st.integers(0, 4)))]
    strides = draw(st.permutations(strides))
    blocks = tuple(
        InvertedResidual(
            width=2 * draw(st.integers(1, 8)),
            stride=s,
            op=draw(st.sampled_from(["mbconv", "skip"])),
            kernel=draw(st.sampled_from([3, 5])),
            dilation=draw(st.sampled_from([1, 2])),
            expand=draw(st.sampled_from([1, 3, 6])),
            groups=draw(st.sampled_from([1, 2])),
        )
        for s in strides
    )
    neck = draw(st.sampled_from([None, 16]))
    return SqueezeNas(
        name="random",
        stem_width=2 * draw(st.integers(1, 8)),
        blocks=blocks,
        neck_width=neck,
        decoder=draw(st.sampled_from(["lraspp", "aspp"])),
        decoder_width=(neck or blocks[-1].width) // draw(st.sampled_from([1, 2])),
        low_level_block=draw(st.integers(0, len(blocks) - 1)),
    )


@st.composite
def fasterseg_archs(draw: st.DrawFn) -> FasterSeg:
    """Random FasterSeg architectures: one or two branches to any scales, any cells, widths and number of shared cells."""
    cells = st.builds(
        Cell, st.sampled_from(["skip", "conv", "conv_x2", "zoomed_conv", "zoomed_conv_x2"]), st.integers(2, 9), st.just(1)
    )
    lasts = draw(st.sampled_from([(0,), (1,), (2,), (1, 0), (2, 0), (2, 1)]))
    common = draw(st.lists(cells, max_size=2)) if len(lasts) == 2 else []
    if len(lasts) == 2 and min(lasts) and draw(st.booleans()):
        common.append(dataclasses.replace(draw(cells), stride=2))
    branches = []
    for halvings in lasts:
        strides = [2] * (halvings - sum(c.stride == 2 for c in common)) + [1] * draw(st.integers(1, 2))
        own = [dataclasses.replace(draw(cells), stride=s) for s in draw(st.permutations(strides))]
        branches.append((*common, *own))
    return FasterSeg(
        name="random",
        stem_width=draw(st.integers(1, 2)),
        branches=tuple(branches),
        shared=draw(st.integers(0, len(common))),
        head_ratio=draw(st.integers(1, 2)),
        align_corners=draw(st.booleans()),
    )


@given(st.one_of(squeezenas_archs(), fasterseg_archs()))
def test_json_round_trip_gives_the_equal_architecture(arch: models.Arch) -> None:
    assert models.Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch
    assert models.Arch.from_json(json.dumps(arch.to_json())) == arch


def test_digest_covers_structure_but_not_the_name() -> None:
    arch = models.zoo("squeezenas-lat-small")
    assert isinstance(arch, SqueezeNas)
    assert dataclasses.replace(arch, name="other").digest == arch.digest
    assert dataclasses.replace(arch, stem_width=24).digest != arch.digest
    changed = (dataclasses.replace(arch.blocks[0], dilation=2), *arch.blocks[1:])
    assert dataclasses.replace(arch, blocks=changed).digest != arch.digest


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"family": "nothing"}, "nothing"),
        ({"stem_width": "16"}, "stem_width"),
        ({"stem_width": True}, "stem_width"),
        ({"decoder": "unet"}, "decoder"),
        ({"blocks": 3}, "blocks"),
        ({"low_level_block": 99}, "low_level_block"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_field_is_refused_by_name(change: dict[str, object], named: str) -> None:
    value = {**models.zoo("squeezenas-lat-small").to_json(), **change}
    with pytest.raises(ValueError, match=named):
        models.Arch.from_json(value)


def test_a_wrong_block_is_refused_with_its_index() -> None:
    value = models.zoo("squeezenas-lat-small").to_json()
    value["blocks"][4]["kernel"] = 4
    with pytest.raises(ValueError, match=r"blocks\[4\]"):
        models.Arch.from_json(value)


def test_an_unknown_published_name_gets_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="squeezenas-lat-small"):
        models.zoo("squeezenas-lat-smal")


@pytest.mark.parametrize("classes", [0, 256, 1.5, True])
def test_an_impossible_number_of_classes_is_refused(classes: object) -> None:
    with pytest.raises(ValueError, match="classes"):
        models.Segmentation(classes)  # type: ignore[arg-type]


CELL = {"op": "conv", "width": 8, "stride": 1}
DOWN = {**CELL, "stride": 2}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"branches": 3}, "branches"),
        ({"branches": [3]}, "branches"),
        ({"branches": [[3]]}, r"branches\[0\]\[0\]"),
        ({"branches": []}, "one or two"),
        ({"branches": [[]]}, "one or two"),
        ({"branches": [[DOWN], [CELL], [CELL]]}, "one or two"),
        ({"branches": [[DOWN, {**CELL, "op": "pool"}], [CELL]]}, r"branches\[0\]\[1\]\.op"),
        ({"branches": [[DOWN], [{**CELL, "stride": 3}]]}, r"branches\[1\]\[0\]"),
        ({"branches": [[DOWN], [{**CELL, "width": 0}]]}, r"branches\[1\]\[0\]"),
        ({"branches": [[DOWN], [{**CELL, "kernel": 3}]]}, "kernel"),
        ({"branches": [[CELL], [DOWN]]}, r"\(8, 16\)"),
        ({"branches": [[DOWN], [DOWN]]}, r"\(16, 16\)"),
        ({"branches": [[DOWN, DOWN, DOWN], [DOWN]]}, r"\(64, 16\)"),
        ({"shared": 4}, "shared"),
        ({"shared": -1}, "shared"),
        ({"branches": [[CELL, DOWN], [CELL]], "shared": 1}, "shared"),  # the last cell of a branch is never shared
        ({"branches": [[DOWN, CELL]], "shared": 1}, "shared"),
        ({"stem_width": 0}, "stem_width"),
        ({"head_ratio": 0}, "head_ratio"),
        ({"head_ratio": 1.5}, "head_ratio"),
        ({"align_corners": 1}, "align_corners"),
    ],
)
def test_a_wrong_fasterseg_field_is_refused_by_name(change: dict[str, object], named: str) -> None:
    value = {**models.zoo("fasterseg-student").to_json(), **change}
    if "branches" in change and "shared" not in change:
        value["shared"] = 0
    with pytest.raises(ValueError, match=named):
        models.Arch.from_json(value)


def test_a_branchs_last_maps_are_those_before_its_cells_of_stride_2_and_its_output() -> None:
    arch = models.zoo("fasterseg-student")
    assert isinstance(arch, FasterSeg)
    assert arch.last_scales == (32, 16)
    assert arch.map_widths == ((32, 64, 256), (32, 128))
    at_once = FasterSeg("at-once", 2, ((Cell("conv", 8, 2), Cell("conv", 9, 2)),), 0, 1)
    assert at_once.map_widths == ((16, 8, 9),)
