from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest

from edgesmith import models
from edgesmith.models import published
from edgesmith.models.arch import InvertedResidual, SqueezeNas
from edgesmith.models.draw import HEIGHT, WIDTH, draw

SVG = "{http://www.w3.org/2000/svg}"
HW = (360, 480)


def texts(svg: str) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}text")]


def titles(svg: str) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}title")]


@pytest.mark.parametrize("name", models.zoo_names())
def test_every_published_network_is_drawn_with_its_counted_costs(name: str) -> None:
    known = published.read(name)
    svg = draw(known.arch, known.task, known.input_hw)
    said = texts(svg)
    assert name in said
    caption = next(t for t in said if "GMACs" in t)
    assert f"{known.counted['params'] / 1e6:.2f} M parameters" in caption
    assert f"{known.counted['macs'] / 1e9:.3g} GMACs" in caption
    assert "1024x2048" in caption
    assert {"1/2", "1/4", "1/8", "1/16", "64x128"} <= set(said)
    assert isinstance(known.arch, SqueezeNas)
    blocks = [t for t in titles(svg) if re.match(r"block \d+: ", t)]
    assert len(blocks) == len(known.arch.blocks)
    assert ("ASPP" if known.arch.decoder == "aspp" else "LR-ASPP") in said


@pytest.mark.parametrize("name", models.zoo_names())
def test_shares_of_compute_add_up_and_everything_lies_within_the_drawing(name: str) -> None:
    known = published.read(name)
    root = ET.fromstring(draw(known.arch, known.task, HW))
    shares = [float("".join(t.itertext())) for t in root.iter(f"{SVG}text") if "10.5px" in t.get("style", "")]
    assert sum(shares) == pytest.approx(100, abs=1.5)
    for t in root.iter(f"{SVG}text"):
        if t.get("x") and t.get("y"):
            assert 0 <= float(t.get("x", "")) <= WIDTH
            assert 0 <= float(t.get("y", "")) <= HEIGHT
    numbers = [float(v) for p in root.iter(f"{SVG}polygon") for v in re.split("[ ,]", p.get("points", ""))]
    assert min(numbers) >= 0
    assert max(numbers) <= WIDTH


def test_skips_and_halving_blocks_are_told_apart() -> None:
    arch = models.zoo("squeezenas-lat-small")
    assert isinstance(arch, SqueezeNas)
    svg = draw(arch, models.Segmentation(11), HW)
    assert sum(", skip, " in t or ": skip, " in t for t in titles(svg)) == sum(b.op == "skip" for b in arch.blocks)
    assert sum("stride 2" in t for t in titles(svg)) == sum(b.stride == 2 for b in arch.blocks)
    assert len(re.findall('<polygon class="net-mark"', svg)) == sum(b.stride == 2 for b in arch.blocks)


def test_the_tap_is_drawn_from_the_low_level_block() -> None:
    arch = models.zoo("squeezenas-mac-xlarge")
    assert "low-level feature: 32 channels at 1/4" in texts(draw(arch, models.Segmentation(11), HW))


def test_a_hostile_name_stays_text() -> None:
    arch = dataclasses.replace(models.zoo("squeezenas-mac-small"), name='</svg><script>alert(1)</script>"\x00\ud800')
    svg = draw(arch, models.Segmentation(11), HW)
    assert "<script" not in svg
    assert any("<script>" in t for t in texts(svg))
    svg.encode()


def test_nothing_is_loaded_from_elsewhere() -> None:
    svg = draw(models.zoo("squeezenas-lat-large"), models.Segmentation(11), HW)
    assert not re.search(r"href|@import|url\((?!#)", svg)
    assert svg.count("http") == 1  # the name of SVG's namespace


def test_unusual_networks_are_drawn_too() -> None:
    blocks = (InvertedResidual(8, 2, kernel=7, dilation=3, expand=9), InvertedResidual(12, 2, op="skip"))
    arch = SqueezeNas("odd", 8, blocks, None, "lraspp", 16, 0)
    svg = draw(arch, models.Segmentation(1), (65, 97))
    assert any(t.startswith("1 class, input 65x97 pixels: ") for t in texts(svg))


def test_a_family_that_cannot_be_drawn_is_refused_by_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class Other(models.Arch):
        family = "other"

    with pytest.raises(ValueError, match="'other'"):
        draw(Other("x"), models.Segmentation(2), HW)
