from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.pipeline.search.fasterseg_space import (
    NETS,
    OPERATORS,
    Found,
    Logits,
    Score,
    Space,
    logits_json,
    read_logits,
    write_logits,
)

SMALL = Space(layers=8)


def test_combinations_of_operators_and_widths_are_those_of_the_paper() -> None:
    """A skip has one width, the others have all; the cells are those behind a tensor of searched width."""
    space = Space()
    cell = 1 + (len(space.operators) - 1) * len(space.ratios)
    cells = sum(space.cells(scale) - 1 for scale in range(3))
    count = cell**cells + len(space.ratios) ** 3
    assert count == 21**42 + 5**3
    assert math.isclose(count, 3.4e55, rel_tol=0.01)


def test_a_head_is_trained_for_every_branch_and_pair() -> None:
    assert Space().heads() == ((0,), (1,), (2,), (1, 0), (2, 0), (2, 1))
    assert Space().choices() == ((1, 0), (2, 0), (2, 1))
    assert Space(branches=1).heads() == Space(branches=1).choices() == ((0,), (1,), (2,))


def test_a_space_survives_json() -> None:
    space = Space(layers=9, operators=("conv", "zoomed_conv_x2"), ratios=(4, 8), branches=1, stem_ratio=6)
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"layers": 2}, "layers: 2 is not"),
        ({"operators": ("conv", "skip")}, "in this order"),
        ({"operators": ("skip",)}, "operators: skip are not some of"),
        ({"operators": ("conv", "dilated")}, "dilated"),
        ({"ratios": ()}, "ratios"),
        ({"ratios": (8, 4)}, "ascending"),
        ({"branches": 3}, "branches: 3 is not 1 or 2"),
        ({"stem_ratio": 0}, "stem_ratio: 0"),
    ],
)
def test_impossible_spaces_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Space(**fields)
    value = {**Space().to_json(), **fields}
    with pytest.raises(ValueError, match=r"^file: space\.\w+"):
        Space.from_json(json.loads(json.dumps(value)), "file: space")


@pytest.mark.parametrize("space", [SMALL, Space(layers=8, operators=OPERATORS[1:], ratios=(8,), branches=1)])
def test_logits_and_scores_survive_the_file(space: Space, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scores = {scales: Score(0.1 * i, 5.0 + i) for i, scales in enumerate(space.heads())}
    found = Found(space, {net: Logits.random(space, net, random) for net in NETS}, {"student": scores, "teacher": {}})
    write_logits(tmp_path / "logits.json", found)
    again = read_logits(tmp_path / "logits.json")
    assert again.space == space
    assert again.scores == found.scores
    assert again.candidates("student") == {scales: scores[scales] for scales in space.choices()}
    for net in NETS:
        for (*name, table), (*other, mine) in zip(found.logits[net].named(), again.logits[net].named(), strict=True):
            assert name == other
            np.testing.assert_array_equal(table, mine)


def test_the_released_file_is_read_and_written_in_its_form(shared: Path, tmp_path: Path) -> None:
    path = shared / "facts" / "fasterseg_arch_logits.json"
    released = json.loads(path.read_text())
    del released["_note"]
    found = read_logits(path)
    assert found.space == Space()
    assert logits_json(found) == released
    assert found.logits["teacher"].ratio[0].shape == (15, 1)


@pytest.fixture
def value() -> dict[str, Any]:
    scores = {scales: Score(0.5, 6.0) for scales in SMALL.choices()}
    found = Found(SMALL, {net: Logits.uniform(SMALL, net) for net in NETS}, {"student": scores})
    return logits_json(found)


def change(value: Any, path: str, new: Any) -> Any:
    *folders, last = path.split("/")
    inner = value
    for name in folders:
        inner = inner[int(name) if isinstance(inner, list) else name]
    if new is None:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = new
    return value


@pytest.mark.parametrize(
    ("path", "new", "said"),
    [
        ("student/alpha_1_1", None, "student.alpha_1_1: missing; needs 7 rows of 5 finite numbers"),
        ("student/alpha_1_1", [[0.0] * 5] * 6, "student.alpha_1_1: has 6 rows of 5; needs 7 rows of 5"),
        ("student/alpha_1_0", [[0.0] * 5] * 2, "student.alpha_1_0 has 2 rows"),
        ("student/beta_1_2/0", [0.0], "student.beta_1_2: has 5 rows of 1/2; needs 5 rows of 2"),
        ("student/ratio_1_0", 3, "student.ratio_1_0: is not a table"),
        ("teacher/ratio_0_0", [[0.0] * 5] * 7, "teacher.ratio_0_0: has 7 rows of 5; needs 7 rows of 1"),
        ("student/beta_1_1/0/0", "x", "student.beta_1_1[0]: ['x', 0.001] must be 2 finite numbers"),
        ("student/beta_1_1/0/0", True, "student.beta_1_1[0]"),
        ("student/beta_1_1/0/0", math.inf, "not JSON"),
        ("student/beta_1_3", [], "student.beta_1_3: unknown"),
        ("student/alpha_0_0", [], "student.alpha_0_0: unknown; known are tables such as alpha_1_0"),
        ("student/mIoU21", 0.5, "student.mIoU21: unknown"),
        ("student/mIoU", 0.5, "student.mIoU: unknown"),
        ("student/latency12", 0, "student.latency12: 0 is not a number above 0"),
        ("student/mIoU12", -0.1, "student.mIoU12: -0.1 is not a number of at least 0"),
        ("student/mIoU02", None, "has only one of mIoU02 and latency02"),
        ("student", [], "student must be an object"),
        ("pupil", {}, "unknown key pupil"),
        ("space", {"layers": 8}, "space: needs exactly the fields"),
    ],
)
def test_malformed_files_are_refused_with_the_key(
    value: dict[str, Any], path: str, new: Any, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "logits.json"
    file.write_text(json.dumps(change(value, path, new)))
    if new is math.inf:  # Python reads what is no JSON
        said = "must be 2 finite numbers"
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        read_logits(file)
    assert str(raised.value).startswith(str(file))


@pytest.mark.parametrize(
    ("text", "said"), [("[]", "holds no object"), ("{}", "neither a student nor a teacher"), ("{", "not JSON")]
)
def test_what_holds_no_logits_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "logits.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_logits(tmp_path / "logits.json")
