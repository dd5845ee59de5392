"""The page of a study's searches, of either method and of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesmith.bench.page_searches import Setting, compare_searches
from edgesmith.bench.page_squeezenas import write_page
from edgesmith.bench.whole_networks import against_table
from edgesmith.pipeline.reports.compare import Measured, TableCheck
from tests.pipeline.reports.test_fasterseg import make_taught_run, whole
from tests.pipeline.reports.test_html import Parsed
from tests.pipeline.reports.test_squeezenas import make_search, make_searched_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A decoupled FasterSeg search and one that collapses."""
    root = tmp_path_factory.mktemp("runs")
    return make_taught_run(root / "decoupled"), make_taught_run(root / "coupled", decoupled=False, seed=1)


def test_the_searches_of_a_study_stand_on_one_page_with_its_ablation(runs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [
        Setting("O, s | χ = 8, b = 1", (0.41, 0.43), 9.0, 1.9, 3_100_000, (66.9, 177.8)),
        Setting("S: O, s, χ | b = 2", (0.45,), 8.2, 1.7, 2_800_000, (70.5, 163.9)),
        Setting("T -> pruned T", paper=(66.1, 146.7)),
    ]
    check = TableCheck([10.0, 20.0, 30.0, 40.0], [11.0, 21.0, 32.0, 41.0], 1, 1.05, 0.2)
    page = Parsed(compare_searches(runs, tmp_path / "page.html", check=check, settings=settings, title="A study").read_text())
    assert whole(page)
    ids = [s["id"] for s in page.all("section")]
    assert len(set(ids)) == len(ids) == 2 + 5 + 4
    assert sum(i.startswith("collapse") for i in ids) == 1
    found = [text for i, text in page.text.items() if i.startswith("found")]
    assert len(found) == 2
    assert not any("drawn under" in text for text in found)  # these runs trained, and the page has no such sections
    assert all("Student, branches to" in text and "Teacher, branches to" in text for text in found)
    said = page.text["ablation"]
    assert "42.00 % (2 seeds, 2.00 apart)" in said.replace("\u00a0", " ")
    assert "not run" in said
    assert "163.9" in said
    assert "coupled: coupled latency term" in next(text for i, text in page.text.items() if i.startswith("collapse"))


def test_searches_of_a_study_on_one_page(tmp_path: Path) -> None:
    for name, resource in (("search-macs", "macs"), ("search-latency", "latency")):
        make_search(tmp_path / name, resource)
    measured = [
        Measured("MAC-found", 0.25, 290_000, 14.2, 0.1, 13.1, 0.581),
        Measured("LAT-found", 0.31, 330_000, 14.0, 0.1, 13.3, 0.592),
        Measured("random 1", 0.28, 310_000, 14.3, 0.1, None, None),
    ]
    sums = np.linspace(10, 20, 40)
    check = TableCheck(sums.tolist(), (1.1 * sums + 0.5).tolist(), 10, 1.1, 0.5)
    out = compare_searches([tmp_path / "search-macs", tmp_path / "search-latency"], tmp_path / "page.html", measured, check)
    page = Parsed(out.read_text())
    assert whole(page)
    assert len(page.all("section")) == 8
    assert len({s["id"] for s in page.all("section")}) == 8
    said = page.text["speed"]
    assert "30 networks, correlation 1.0000" in said
    assert "after 1.100 x sum + 0.50 ms, fitted on 10 others, 0.0 % in the mean" in said
    assert "14.20 ± 0.10" in said.replace("\u2009", "")
    with pytest.raises(FileNotFoundError, match="no search"):
        compare_searches([tmp_path], tmp_path / "page.html")
    with pytest.raises(ValueError, match="at least one"):
        compare_searches([], tmp_path / "page.html")


def test_the_page_of_the_squeezenas_study_shows_what_is_done(tmp_path: Path) -> None:
    folders, out = [tmp_path / "search-macs", tmp_path / "search-latency"], tmp_path / "page.html"
    with pytest.raises(SystemExit, match="--page: no search is finished yet"):
        write_page(folders, [], 10, out)
    make_search(folders[0], "macs")
    assert whole(Parsed(write_page(folders, [], 10, out).read_text()))
    sums = np.linspace(10, 20, 40)
    network = {"gmacs": 0.25, "params": 290_000, "median_ms": 14.2, "error_ms": 0.1, "table_ms": 13.1}
    rows = [
        {"job": "time random networks", **against_table(sums.tolist(), (1.1 * sums + 0.5).tolist(), 10)},
        {"job": "time the five", "networks": {"MAC-found": network}},
        *({"job": f"train MAC-found, seed {i}", "network": "MAC-found", "test_miou": 0.3 + 0.1 * i} for i in (0, 1)),
    ]
    said = Parsed(write_page(folders, rows, 10, out).read_text()).text["speed"]
    assert "30 networks, correlation 1.0000" in said
    assert "35.0" in said


def test_searches_of_both_methods_stand_on_one_page(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_searched_run(tmp_path / "squeezenas", "latency")
    mixed = Parsed(compare_searches([other, runs[0]], tmp_path / "page.html").read_text())
    assert whole(mixed)
