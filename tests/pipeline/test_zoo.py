"""The verb `zoo`: what it lists is what the papers say and what counting gives."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgesmith import models
from edgesmith.models import cost, published
from edgesmith.pipeline.verbs.zoo import zoo

KEYS = ["name", "family", "task", "input_hw", "params", "params_train", "macs", "published", "note"]
NAMES = [f"squeezenas-{goal}-{size}" for goal in ("mac", "lat") for size in ("small", "large", "xlarge")]
NAMES += ["fasterseg-student", "fasterseg-teacher", "fasterseg-pruned-teacher"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(zoo, [str(a) for a in arguments])


def value(*arguments: object) -> Any:
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_the_list_has_every_published_network_with_the_promised_fields() -> None:
    rows = value()
    assert [list(r) for r in rows] == [KEYS] * len(rows)
    assert sorted(r["name"] for r in rows) == sorted(NAMES)


@pytest.mark.parametrize("row", value(), ids=lambda r: r["name"])
def test_numbers_are_those_counted_on_the_authors_networks(row: dict[str, Any]) -> None:
    known = published.read(row["name"])
    assert (row["family"], row["task"]) == (known.arch.family, {"name": "segmentation", "classes": 19})
    assert row["input_hw"] == [1024, 2048]
    assert (row["params"], row["macs"]) == (known.counted["params"], known.counted["macs"])
    assert row["params_train"] == known.counted.get("params_train", row["params"])
    assert row["published"] == known.paper


def test_the_text_gives_every_network_its_printed_numbers_and_the_reason_of_a_difference() -> None:
    said = call().output
    for name in NAMES:
        assert f"\n{name} " in said
        assert f"\n\n{name}\n" in said
    words = " ".join(said.split())
    assert "Counted over printed: parameters -22.2 %, MACs -1.5 %" in words
    assert "163.9 FPS (gtx1080ti with nearest neighbour resizes)" in words
    assert "The printed 4.4 M parameters are those of training" in words
    assert max(map(len, said.splitlines())) <= 110


@pytest.mark.parametrize("name", ["fasterseg-student", "squeezenas-lat-xlarge"])
def test_the_stages_of_one_network_add_up_to_it(name: str) -> None:
    found = value(name)
    assert list(found)[: len(KEYS)] == KEYS
    for key in ("params", "macs"):
        assert sum(s[key] for s in found["stages"]) == found[key]
    assert found["stages"][-1]["stage"] == ("head" if name.startswith("fasterseg") else "decoder")
    assert found["receptive_field_hw"][0] == 1024
    assert found["macs_per_byte"] == pytest.approx(found["macs"] / (found["weight_bytes"] + found["activation_bytes"]))
    said = call(name).output
    for s in found["stages"]:
        assert f"\n{s['stage']} " in said


def test_stages_are_blocks_and_cells() -> None:
    cells = [s["stage"] for s in value("fasterseg-student")["stages"]]
    assert cells[:5] == ["stem", "shared.0", "shared.1", "shared.2", "branches.0.0"]
    assert cells[-4:] == ["aggregation.0", "aggregation.1", "fuse", "head"]
    # The skips of LAT-S have no convolution and so no line.
    blocks = [s["stage"] for s in value("squeezenas-lat-small")["stages"]]
    assert blocks[:4] == ["stem", "blocks.0", "blocks.4", "blocks.5"]


def test_a_network_is_counted_at_the_size_that_is_asked_for() -> None:
    student = models.zoo("fasterseg-student")
    found = value("zoo:fasterseg-student", "--input", "360x480")
    assert found["input_hw"] == [360, 480]
    assert found["macs"] == cost.macs(student, models.Segmentation(19), (360, 480))
    assert found["params"] == 3_421_875


def test_what_is_printed_is_compared_at_its_own_size() -> None:
    published, smaller = (" ".join(call("fasterseg-student", *size).output.split()) for size in ((), ("--input", "360x480")))
    said = published.partition(" difference ")[2].partition(" source ")[0]
    assert "MACs " in said
    assert f" difference {said}, at 1024x2048 source " in smaller


@pytest.mark.parametrize("size", ["63x64", "64x16385", "999999x999999", f"{'9' * 5000}x64", "64", "64x64x64", "0x0", "६४x६४"])
def test_a_size_is_within_what_export_takes(size: str) -> None:
    done = call("fasterseg-student", "--input", size)
    assert done.exit_code == 2
    assert "each 64 to 16384, as in 360x480" in " ".join(done.output.split())


def test_a_drawing_is_written_for_the_size_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "pictures" / "student.svg"
    found = value("fasterseg-student", "--input", "360x480", "--draw", file)
    assert found["picture"] == str(file)
    words = ["".join(t.itertext()) for t in ET.parse(file).getroot().iter("{http://www.w3.org/2000/svg}text")]
    assert "fasterseg-student" in words
    assert "45x60" in words


def test_a_drawing_is_drawn_again_and_over_no_other_file(tmp_path: Path) -> None:
    drawing, letter, photograph = (tmp_path / name for name in ("student.svg", "letter.svg", "photograph.png"))
    for _ in range(2):
        assert value("fasterseg-student", "--draw", drawing)["picture"] == str(drawing)
    letter.write_text("Dear sir")
    photograph.write_bytes(b"\x89PNG\r\n\x1a\n")
    for file in (letter, photograph):
        before = file.read_bytes()
        done = call("fasterseg-student", "--draw", file)
        assert f"--draw: {file} exists and is no SVG" in str(done.exception)
        assert file.read_bytes() == before


def test_an_unknown_name_gets_the_nearest_one() -> None:
    done = call("fasterseg-studnt")
    assert isinstance(done.exception, ValueError)
    assert "'fasterseg-student'" in str(done.exception)


@pytest.mark.parametrize("option", [["--draw", "x.svg"], ["--input", "360x480"]])
def test_options_for_one_network_need_its_name(option: list[str]) -> None:
    done = call(*option)
    assert done.exit_code == 2
    assert f"{option[0]} needs the NAME" in done.output
