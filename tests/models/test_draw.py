from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest

from edgesmith import models
from edgesmith.models import published
from edgesmith.models.arch import Cell, FasterSeg, InvertedResidual, SqueezeNas
from edgesmith.models.draw import draw
from edgesmith.models.svg import WIDTH

SVG = "{http://www.w3.org/2000/svg}"
HW = (360, 480)


def texts(svg: str) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}text")]


def titles(svg: str) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}title")]


def named(family: str) -> list[str]:
    return [n for n in models.zoo_names() if n.startswith(family)]


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
    assert {"1/8", "1/16", "64x128"} <= set(said)


@pytest.mark.parametrize("name", named("squeezenas"))
def test_every_block_of_a_squeezenas_network_is_drawn(name: str) -> None:
    known = published.read(name)
    svg = draw(known.arch, known.task, known.input_hw)
    assert {"1/2", "1/4"} <= set(texts(svg))
    assert isinstance(known.arch, SqueezeNas)
    blocks = [t for t in titles(svg) if re.match(r"block \d+: ", t)]
    assert len(blocks) == len(known.arch.blocks)
    assert ("ASPP" if known.arch.decoder == "aspp" else "LR-ASPP") in texts(svg)


@pytest.mark.parametrize("name", named("fasterseg"))
def test_every_cell_of_a_fasterseg_network_is_drawn_once(name: str) -> None:
    known = published.read(name)
    arch = known.arch
    svg = draw(arch, known.task, known.input_hw)
    assert {"1/32", "32x64", "128x256", "enlarged to"} <= set(texts(svg))
    assert isinstance(arch, FasterSeg)
    cells = [t for t in titles(svg) if re.search(r"cell \d+: ", t)]
    assert len(cells) == sum(map(len, arch.branches)) - arch.shared
    assert sum(t.startswith("shared, ") for t in cells) == arch.shared
    assert sum("zoomed conv, twice" in t for t in cells) == len(
        {
            (b if i >= arch.shared else 0, i)
            for b, cs in enumerate(arch.branches)
            for i, c in enumerate(cs)
            if c.op == "zoomed_conv_x2"
        }
    )
    assert sum("refined" in t for t in titles(svg)) == 3  # two steps up from 1/32, one from 1/16


def test_the_widths_of_the_students_cells_stand_above_them() -> None:
    said = texts(draw(models.zoo("fasterseg-student"), models.Segmentation(19), (1024, 2048)))
    widths = [int(t) for t in said if t.isdecimal()]
    stem, shared, deep, flat = (
        [32, 64, 64, 64, 64],
        [32, 32, 32],
        [128, 64, 64, 64, 128, 128, 256],
        [32, 32, 64, 64, 192, 128],
    )
    assert widths == [*stem, *shared, *deep, *flat, *[128, 128, 64, 64], *[64, 64], 128, 128, 19]


@pytest.mark.parametrize("name", models.zoo_names())
def test_shares_of_compute_add_up_and_everything_lies_within_the_drawing(name: str) -> None:
    known = published.read(name)
    root = ET.fromstring(draw(known.arch, known.task, HW))
    height = float(root.get("viewBox", "").split()[3])
    shares = [float("".join(t.itertext())) for t in root.iter(f"{SVG}text") if "10.5px" in t.get("style", "")]
    assert sum(shares) == pytest.approx(100, abs=1.5)
    for t in root.iter(f"{SVG}text"):
        if t.get("x") and t.get("y"):
            length = 6.2 * len("".join(t.itertext())) if "anchor" not in t.get("style", "") else 0
            assert 0 <= float(t.get("x", "")) <= float(t.get("x", "")) + length <= WIDTH
            assert 0 <= float(t.get("y", "")) <= height
    numbers = [float(v) for p in root.iter(f"{SVG}polygon") for v in re.split("[ ,]", p.get("points", ""))]
    assert min(numbers) >= 0
    assert max(numbers) <= WIDTH
    for r in root.iter(f"{SVG}rect"):
        assert float(r.get("x", 0)) + float(r.get("width", 0)) <= WIDTH
        assert float(r.get("y", 0)) + float(r.get("height", 0)) <= height


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


@pytest.mark.parametrize(
    "branches",
    [
        ((Cell("skip", 8),),),
        ((Cell("conv", 8, 2),),),
        ((Cell("skip", 8, 2), Cell("zoomed_conv", 16, 2)), (Cell("conv", 9),)),
        (tuple(Cell("conv_x2", 8) for _ in range(40)),),
    ],
)
def test_unusual_branches_are_drawn_too(branches: tuple[tuple[Cell, ...], ...]) -> None:
    arch = FasterSeg("odd", 1, branches, 0, 1)
    svg = draw(arch, models.Segmentation(1), (65, 97))
    assert sum("cell" in t for t in titles(svg)) == sum(map(len, branches))
    assert "1 logits" not in texts(svg)
    assert "9x13" in texts(svg)


def test_a_family_that_cannot_be_drawn_is_refused_by_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class Other(models.Arch):
        family = "other"

    with pytest.raises(ValueError, match="'other'"):
        draw(Other("x"), models.Segmentation(2), HW)
