from __future__ import annotations

import re

import pytest

from edgesmith import models
from edgesmith.models.arch import Segmentation, SqueezeNas
from edgesmith.models.draw_lineup import lineup


def test_networks_of_several_spaces_are_lined_up_where_they_halve() -> None:
    names = ("squeezenas-mac-small", "squeezenas-lat-large", "squeezenas-mac-small")
    archs = [(name, arch) for name in names if isinstance(arch := models.zoo(name), SqueezeNas)]
    svg = lineup(archs, Segmentation(11), (64, 96))
    marks = [float(x) for x in re.findall(r'class="net-mark" stroke-width="2.2" x="([\d.]+)"', svg)]
    small, large = 3, 3
    assert len(marks) == 2 * small + large
    assert marks[:3] == marks[3:6] == marks[6:]
    assert svg.count("blocks, ") == 3
    with pytest.raises(ValueError, match="none"):
        lineup([], Segmentation(11), (64, 96))
