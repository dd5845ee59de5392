from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith import models
from edgesmith.models.arch import InvertedResidual, SqueezeNas


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


@given(squeezenas_archs())
def test_json_round_trip_gives_the_equal_architecture(arch: SqueezeNas) -> None:
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
