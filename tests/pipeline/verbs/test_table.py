"""What `edgesmith table measure` takes for a recipe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgesmith.calibration.fingerprint import Fingerprint
from edgesmith.calibration.table import Table
from edgesmith.models.arch import Segmentation
from edgesmith.models.parts import Part
from edgesmith.pipeline import cli, recipe
from edgesmith.pipeline.latency import measure
from edgesmith.pipeline.search import squeezenas_costs
from edgesmith.pipeline.search.squeezenas_space import space

HEAD = """\
about: For tests.
data: {dataset: street, frame_hw: [64, 96], train_frames: 9, val_frames: 2, test_frames: 1}
export: {frame_hw: [64, 96]}
"""
FASTERSEG = """\
search:
  method: fasterseg
  resource: latency
  table: TABLE
  space: {layers: 5, operators: [conv, zoomed_conv], ratios: [1, 2], stem_ratio: 1, teacher_stem_ratio: 2}
  teacher: false
"""


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring that writes a table of made-up times."""

    def measured(pieces: Mapping[str, Part], out: Path, *, input_hw: tuple[int, int], classes: int, **options: Any) -> Table:
        table = Table(input_hw, classes, "onnxruntime", 1, Fingerprint("none", 1, None, "none", 1, {}))
        for part in pieces.values():
            table = table.with_round(part, 0.5, 1, "0" * 64, table.fingerprint)
        table.write(out)
        return table

    monkeypatch.setattr(measure, "measure", measured)


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["edgesmith", "table", "measure", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.mark.usefixtures("made_up")
def test_a_recipe_is_measured_for_its_own_space_and_the_search_can_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "r.yaml", tmp_path / "t.json"
    file.write_text(HEAD + FASTERSEG.replace("TABLE", str(out)))
    search = recipe.read(str(file)).resolved.search
    assert search is not None
    with pytest.raises(FileNotFoundError, match=r"t\.json"):
        search.require_startable()
    assert run_cli(monkeypatch, file, "--set", "search.seed=3", "--out", out, "--json") == 0, capsys.readouterr().err
    table = Table.read(out)
    assert json.loads(capsys.readouterr().out)["entries"] == len(table.entries)
    assert (table.input_hw, table.classes) == ((64, 96), 11)
    dataclasses.replace(search).require_startable()
    with pytest.raises(
        ValueError, match=r"lacks \d+ of the \d+ pieces of the space, .* measure RECIPE\.yaml --threads 1 --out"
    ):
        dataclasses.replace(search, teacher=True).require_startable()


@pytest.mark.usefixtures("made_up")
def test_a_recipe_of_squeezenas_is_measured_for_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "r.yaml", tmp_path / "t.json"
    file.write_text(f"{HEAD}search: {{space: small, resource: latency, table: {out}}}\n")
    assert run_cli(monkeypatch, file, "--out", out) == 0, capsys.readouterr().err
    table = Table.read(out)
    assert table.entries.keys() == squeezenas_costs.pieces(space("small"), Segmentation(11), table.input_hw).keys()


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("camvid-squeezenas", "--input", "64x96"), "--input: goes without a recipe"),
        (("camvid-squeezenas", "--classes", 5), "--classes: goes without a recipe"),
        (("camvid",), "has no section search"),
        (("small",), "--input: missing"),
        (("small", "--input", "64x96", "--set", "search.seed=1"), "--set: goes with a recipe"),
        (("nowhere.yaml",), "no recipe 'nowhere.yaml'"),
        (("camvid-squeezenet",), "nor a recipe; did you mean camvid-squeezenas?"),
        (("zzz",), "Named recipes: camvid, "),
        (("camvid-squeezenas",), "where camvid lies is not known: set EDGESMITH_DATA"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    said: str,
) -> None:
    monkeypatch.delenv("EDGESMITH_DATA", raising=False)
    assert run_cli(monkeypatch, *arguments, "--out", tmp_path / "t.json") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "t.json").exists()
