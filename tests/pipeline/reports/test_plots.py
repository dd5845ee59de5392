from __future__ import annotations

import re

import pytest

from edgesmith.pipeline.reports.charts import line_chart
from edgesmith.pipeline.reports.plots import Point, Rule, Series, candidate_map, scatter


def test_a_plot_takes_one_point_equal_points_and_unfinite_ones() -> None:
    one = scatter([Series("networks", "dot", [Point(1.0, 2.0, "a")])], "x", "y")
    assert one.count("<circle") == 2
    same = scatter([Series("networks", "fill", [Point(3.0, 3.0, "a"), Point(3.0, 3.0, "b")], stairs=True)], "x", "y")
    assert "nan" not in same
    odd = scatter([Series("networks", "dot", [Point(float("nan"), 1, "a"), Point(1, 1, "b")])], "x", "y")
    assert "nan" not in odd
    assert scatter([Series("networks", "dot", [Point(1, float("inf"), "a")])], "x", "y") == ""


def test_names_beside_points_cover_no_point_and_no_other_name() -> None:
    points = [Point(10 + 0.1 * i, 50 + 0.2 * i, "", f"network {i}") for i in range(5)]
    svg = scatter([Series("networks", "fill", points)], "latency, ms", "mIoU, %")
    boxes = [(float(x), float(y)) for x, y in re.findall(r'<text class="name" x="([\d.]+)" y="([\d.]+)">network \d', svg)]
    assert len(boxes) == 5
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert abs(a[1] - b[1]) > 10 or abs(a[0] - b[0]) > 55


def test_a_name_that_finds_no_place_beside_its_point_stands_apart_with_a_line() -> None:
    points = [Point(10 + 0.1 * i, 50, "", f"a network with a long name {i}") for i in range(7)]
    svg = scatter([Series("networks", "fill", [*points, Point(90, 60, "")])], "latency, ms", "mIoU, %")
    heights = [float(y) for y in re.findall(r'class="name" x="[\d.]+" y="([\d.]+)">a network', svg)]
    assert len({*heights}) == len(points)
    assert svg.count('class="even"') == 2


def test_rules_end_at_the_edge_of_the_plot() -> None:
    points = [Point(2, 8, "a"), Point(9, 3, "b")]
    rules = [Rule("equal", 1, 0, "even"), Rule("steep", 4, -3, "mark"), Rule("outside", 1, 50, "mark")]
    svg = scatter([Series("networks", "dot", points)], "sum, ms", "measured, ms", rules=rules)
    lines = re.findall(r'class="(?:even|mark)" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    assert len(lines) == 2
    for x0, y0, x1, y1 in (map(float, line) for line in lines):
        assert 54 <= x0 < x1 <= 446
        assert 0 < y1 < y0 <= 276.1


def test_a_candidate_map_refuses_rows_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="rows of 2 numbers"):
        candidate_map([[0.5, 0.3, 0.2]], ["a", "b"], {})
    with pytest.raises(ValueError, match="each of the rows"):
        candidate_map([[0.5, 0.5]], ["a", "b"], {}, [0, 1])


def test_a_level_is_drawn_across_and_lies_in_the_chart() -> None:
    svg = line_chart([(1, 5.0), (2, 4.0)], "epoch", "cost, ms", [("last", 1)], "ms", ("target", 1.0))
    y = float(re.findall(r'class="mark" d="M\d+ ([\d.]+)H', svg)[0])
    assert 44 <= y <= 246
    assert "target" in svg
