"""Deriving from logits, held against the published networks and against a plain reading that tries all paths."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith import models
from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Arch, FasterSeg
from edgesmith.pipeline import cli
from edgesmith.pipeline.artifacts import SearchResult
from edgesmith.pipeline.derive import Derive
from edgesmith.pipeline.search.fasterseg_derive import (
    RULES,
    Rule,
    Target,
    branch,
    choose_scales,
    derive,
    downsamplings,
    pruned,
)
from edgesmith.pipeline.search.fasterseg_space import NETS, Found, Logits, Net, Scales, Score, Space, read_logits, write_logits
from edgesmith.pipeline.stage import stage_key

SPACE = Space()


@pytest.fixture(scope="module")
def released(shared: Path) -> Found:
    return read_logits(shared / "facts" / "fasterseg_arch_logits.json")


@pytest.mark.parametrize("net", NETS)
def test_the_released_logits_give_the_published_network(released: Found, net: Net) -> None:
    scales = choose_scales(released.candidates(net), Target())
    assert scales == (2, 1)
    assert derive(released.space, released.logits[net], net, scales, "replay").digest == models.zoo(f"fasterseg-{net}").digest
    assert derive(released.space, released.logits[net], net, scales, "paper").digest != models.zoo(f"fasterseg-{net}").digest


@pytest.mark.parametrize("net", NETS)
def test_the_rules_differ_by_one_layer_where_there_is_one_downsampling(released: Found, net: Net) -> None:
    logits = released.logits[net]
    assert downsamplings(SPACE, logits, 1, "paper") == tuple(d + 1 for d in downsamplings(SPACE, logits, 1, "replay"))
    for scale in (0, 2):
        assert branch(SPACE, logits, net, scale, "paper") == branch(SPACE, logits, net, scale, "replay")


def test_the_pruned_teacher_is_the_published_one() -> None:
    teacher = models.zoo("fasterseg-teacher")
    assert isinstance(teacher, FasterSeg)
    assert pruned(teacher).digest == models.zoo("fasterseg-pruned-teacher").digest


def raised(logits: Logits, kind: str, scale: int, row: int, column: int) -> Logits:
    """`logits` with one number larger than all others."""
    tables = list(getattr(logits, kind))
    index = scale - (kind == "beta")
    tables[index] = tables[index].copy()
    tables[index][row, column] = 50.0
    return dataclasses.replace(logits, **{kind: tuple(tables)})


@pytest.mark.parametrize(
    ("kind", "scale", "row", "column"),
    [("alpha", 0, 3, 1), ("alpha", 0, 0, 0), ("alpha", 2, 13, 1), ("beta", 1, 4, 0), ("beta", 2, 8, 0), ("ratio", 0, 0, 4)],
)
def test_a_logit_that_is_changed_changes_the_network(released: Found, kind: str, scale: int, row: int, column: int) -> None:
    changed = raised(released.logits["student"], kind, scale, row, column)
    assert derive(SPACE, changed, "student", (2, 1), "replay").digest != models.zoo("fasterseg-student").digest


# A plain reading. It knows a branch as the scale of its cell in each layer, and asks every branch there is.

Path_ = tuple[int, ...]


def all_paths(layers: int) -> dict[int, list[Path_]]:
    """Every branch, by its last scale."""
    steps = itertools.product((0, 1), repeat=layers - 1)
    paths = [tuple(itertools.accumulate(s, initial=0)) for s in steps if sum(s) <= 2]
    return {last: [p for p in paths if p[-1] == last] for last in (0, 1, 2)}


PATHS = all_paths(SPACE.layers)


def test_there_are_as_many_pairs_as_the_paper_says() -> None:
    pairs = itertools.chain(*(itertools.product(PATHS[a], PATHS[b]) for a, b in SPACE.choices()))
    assert sum(1 for _ in pairs) == 1695


def probability(table: Any, row: int, column: int) -> float:
    e = np.exp(np.asarray(table[row]))
    return float(e[column] / e.sum())


def likelihood(path: Path_, logits: Logits, rule: Rule) -> float:
    """How likely the branch steps down where it does; 0 where it may not."""
    steps = [layer for layer in range(len(path) - 1) if path[layer] < path[layer + 1]]
    late = 1 if rule == "replay" and len(steps) == 1 else 0  # the layer to whose logits the released code looks
    meant = [layer + late for layer in steps]
    if any(not 2 <= layer <= len(path) - 3 for layer in meant) or (len(steps) == 2 and steps[1] - steps[0] < 3):
        return 0.0
    found = 1.0
    for scale, layer in enumerate(meant, 1):
        # The cell of `scale` in the next layer; the first that has two predecessors is in layer scale + 1.
        found *= probability(logits.beta[scale - 1], layer + 1 - (scale + 1), 0)
    return found


def plain_cells(path: Path_, logits: Logits, net: Net) -> list[tuple[str, int, int]]:
    layers, last = len(path), len(path) - 1
    downs = [layer for layer in range(last) if path[layer] < path[layer + 1]]
    names = SPACE.operators
    cells: list[list[Any]] = []
    for layer, scale in enumerate(path):
        row = logits.alpha[scale][layer - scale]
        order = sorted(range(5), key=lambda k: -row[k])
        if net == "teacher":
            order.remove(0)
        ratio = 4
        if layer < last and net == "student":
            after = path[layer + 1]
            entering = logits.ratio[after][layer + 1 - after] if after else logits.ratio[0][layer]
            ratio = int(np.argmax(entering))
        skip = probability(logits.alpha[scale], layer - scale, 0)
        cells.append([layer, [names[k] for k in order], skip, SPACE.ratios[ratio]])
    may_go = [c for c in cells if c[1][0] == "skip" and c[0] not in downs]
    gone = list(may_go)
    for start, end in itertools.pairwise([*downs, layers]):
        inside = [c for c in gone if start < c[0] < end]
        if len(inside) == end - start - 1:
            gone.remove(min(inside, key=lambda c: c[2]))
    while layers - len(gone) < round(layers / 3) + 2 * len(downs):
        gone.remove(min(gone, key=lambda c: c[2]))
    left = [c for c in cells if c not in gone]
    rates, chi = (8, 16, 32), 8 if net == "student" else 12
    found = []
    for layer, order, _, ratio in left:
        op = next(name for name in order if name != "skip")
        stride = 2 if layer in downs else 1
        found.append((op, rates[path[min(layer + 1, last)]] * ratio, stride))
    found[-1] = (found[-1][0], rates[path[-1]] * chi, found[-1][2])
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", NETS)
def test_random_logits_agree_with_a_search_over_all_pairs_of_branches(net: Net, rule: Rule) -> None:
    random = np.random.default_rng(5)
    for number in range(12):
        logits = Logits.random(SPACE, net, random)
        logits.alpha[number % 3][:, 0] += number % 4  # so that skips are rare, or nearly all there is
        score = {path: likelihood(path, logits, rule) for paths in PATHS.values() for path in paths}
        for scales in SPACE.choices():
            best = max(itertools.product(*(PATHS[s] for s in scales)), key=lambda pair: score[pair[0]] * score[pair[1]])
            expected = [plain_cells(path, logits, net) for path in best]
            arch = derive(SPACE, logits, net, scales, rule)
            assert [[(c.op, c.width, c.stride) for c in b] for b in arch.branches] == expected
            same = [a == b for a, b in zip(*expected, strict=False)][: min(map(len, expected)) - 1]
            assert arch.shared == len(list(itertools.takewhile(bool, same)))


def test_a_network_of_skips_keeps_its_least_depth() -> None:
    logits = Logits.uniform(SPACE, "student")
    for table in logits.alpha:
        table[:, 0] += 1
    for scale, cells in ((0, 5), (1, 7), (2, 9)):
        found = branch(SPACE, logits, "student", scale)
        assert len(found) == cells
        assert all(c.op != "skip" for c in found)
        assert sum(c.stride == 2 for c in found) == len(downsamplings(SPACE, logits, scale)) == scale
        assert found[-1].width == 8 * 2**scale * 8


def test_logits_of_any_size_are_compared_and_not_their_probabilities() -> None:
    logits = Logits.uniform(SPACE, "student")
    for table in logits.alpha:
        table[:] = [0, -2000, -1000, -1500, -1200]  # all but one have the probability 0
    assert {c.op for c in branch(SPACE, logits, "student", 2)} == {"zoomed_conv"}


@pytest.mark.parametrize("branches", [1, 2])
def test_every_network_of_every_space_is_an_architecture(branches: Any) -> None:
    random = np.random.default_rng(0)
    for space in (
        Space(layers=8, branches=branches),
        Space(layers=9, operators=("conv", "zoomed_conv_x2"), ratios=(8,), branches=branches),
    ):
        for net in NETS:
            for scales in space.choices():
                arch = derive(space, Logits.random(space, net, random), net, scales)
                assert arch.last_scales == tuple(8 * 2**s for s in scales)
                assert Arch.from_json(arch.to_json()) == arch


def test_too_few_layers_and_impossible_scales_are_refused() -> None:
    space = Space(layers=7)
    logits = Logits.uniform(space, "student")
    with pytest.raises(ValueError, match="layers: 7 leave no place for two downsamplings; needs at least 8"):
        derive(space, logits, "student", (2, 1))
    with pytest.raises(ValueError, match="needs at least 5"):
        derive(Space(layers=4), Logits.uniform(Space(layers=4), "student"), "student", (1, 0))
    for scales in ((1, 2), (1, 1), (3,), (), (2, 1, 0)):
        with pytest.raises(ValueError, match=r"^scales: "):
            derive(space, logits, "student", scales)


# Which branches


def test_the_target_is_the_papers() -> None:
    target = Target(T=8.0, alpha=-0.07, beta=-1.0)
    assert target.of(Score(0.5, 8.0)) == pytest.approx(0.5)
    assert target.of(Score(0.5, 4.0)) == pytest.approx(0.5 * 2**0.07)
    assert target.of(Score(0.5, 16.0)) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="latency: 0 is not above 0"):
        target.of(Score(0.5, 0))
    with pytest.raises(ValueError, match="T: 0 is not above 0"):
        Target(T=0)


def test_branches_are_chosen_by_miou_and_latency() -> None:
    slow, fast = Score(0.50, 16.0), Score(0.49, 8.0)
    assert choose_scales({(2, 1): slow, (1, 0): fast}, Target()) == (1, 0)
    assert choose_scales({(2, 1): slow, (1, 0): fast}, Target(alpha=0, beta=0)) == (2, 1)
    assert choose_scales({(2, 1): slow, (1, 0): fast}, Target(alpha=0, beta=0), budget=10) == (1, 0)
    with pytest.raises(ValueError, match="budget: none of 2 sets of branches takes at most 1, the fastest 8"):
        choose_scales({(2, 1): slow, (1, 0): fast}, Target(), budget=1)
    with pytest.raises(ValueError, match="no set of branches"):
        choose_scales({}, Target())


# The stage


@pytest.fixture
def searched(tmp_path: Path) -> SearchResult:
    """The folder that a search leaves."""
    space = Space(layers=8)
    random = np.random.default_rng(3)
    scores: dict[Scales, Score] = {(1, 0): Score(0.30, 5.0), (2, 0): Score(0.40, 6.0), (2, 1): Score(0.39, 9.0)}
    logits = {net: Logits.random(space, net, random) for net in NETS}
    folder = tmp_path / "search"
    folder.mkdir()
    write_logits(folder / "logits.json", Found(space, logits, {"student": scores, "teacher": {(2, 1): Score(0.5, 20.0)}}))
    target = {"T": 8.3, "alpha": -0.07, "beta": -0.07}
    (folder / "search.json").write_text(json.dumps({"method": "fasterseg", "unit": "ms", "target": target}))
    return SearchResult(folder)


def test_the_stage_derives_the_networks_of_a_search(searched: SearchResult) -> None:
    found = read_logits(searched.path / "logits.json")
    student = Derive().chosen(searched)
    assert student.digest == derive(found.space, found.logits["student"], "student", (2, 0)).digest
    assert student.name == f"fasterseg-student-{student.digest[:8]}"
    small = Derive(budget=5.5).chosen(searched)
    assert isinstance(small, FasterSeg)
    assert small.last_scales == (16, 8)
    teacher, narrow = Derive(net="teacher").chosen(searched), Derive(net="pruned_teacher").chosen(searched)
    assert isinstance(teacher, FasterSeg)
    assert teacher.digest == derive(found.space, found.logits["teacher"], "teacher", (2, 1)).digest
    assert narrow == dataclasses.replace(pruned(teacher), name=f"fasterseg-pruned-teacher-{narrow.digest[:8]}")


def test_the_network_enters_the_key() -> None:
    keys = [stage_key(Derive(net=net)) for net in ("student", "teacher", "pruned_teacher")]
    assert len(set(keys)) == 3


def test_what_a_search_does_not_have_is_said(searched: SearchResult) -> None:
    with pytest.raises(
        ValueError, match=r"derive\.budget: none of 3 sets of branches takes at most 1, .*; raise the budget, or "
    ):
        Derive(budget=1).chosen(searched)
    found = read_logits(searched.path / "logits.json")
    write_logits(searched.path / "logits.json", Found(found.space, {"student": found.logits["student"]}, found.scores))
    with pytest.raises(ValueError, match=r"derive\.net: teacher needs a search with a teacher"):
        Derive(net="teacher").chosen(searched)
    with pytest.raises(ValueError, match="net: 'teacher' goes without arch"):
        Derive("zoo:fasterseg-teacher", net="teacher")
    with pytest.raises(ValueError, match="net: 'tutor' is not known"):
        Derive(net="tutor")  # type: ignore[arg-type]


# The verb


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["edgesmith", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as e:
        code = int(e.code or 0)
    return code, *capsys.readouterr()


@pytest.mark.parametrize("net", NETS)
def test_the_verb_writes_the_published_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared: Path, tmp_path: Path, net: Net
) -> None:
    logits, out = shared / "facts" / "fasterseg_arch_logits.json", tmp_path / "arch.json"
    arguments = ("derive", "fasterseg", "--logits", logits, "--net", net, "--rule", "replay", "--out", out, "--json")
    code, said, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    result = json.loads(said)
    expected = models.zoo(f"fasterseg-{net}")
    assert Arch.from_json(out.read_text()).digest == result["digest"] == expected.digest
    assert result["rates"] == [32, 16]
    assert [(c["rates"], c["chosen"]) for c in result["candidates"]] == [([32, 8], False), ([32, 16], True)]


def test_the_verb_takes_the_branches_that_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], searched: SearchResult, tmp_path: Path
) -> None:
    base = ("derive", "fasterseg", "--logits", searched.path / "logits.json", "--out", tmp_path / "arch.json", "--json")
    for scales, expected in (("16,8", [16, 8]), ("8,32", [32, 8]), ("32", [32])):
        code, said, err = call(monkeypatch, capsys, *base, "--scales", scales, "--name", "mine")
        assert code == 0, err
        assert json.loads(said)["rates"] == expected
        assert json.loads(said)["arch"] == "mine"
    for wrong in ("64", "8,8", "8,16,32", ""):
        code, _, err = call(monkeypatch, capsys, *base, "--scales", wrong)
        assert code == 2
        assert "as in 32,16" in err


def test_the_verb_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    logits, out = tmp_path / "logits.json", tmp_path / "arch.json"
    write_logits(logits, Found(SPACE, {"student": Logits.uniform(SPACE, "student")}))
    code, _, err = call(monkeypatch, capsys, "derive", "fasterseg", "--logits", logits, "--out", out)
    assert code == 2
    assert "--scales 32,16" in err
    code, _, err = call(monkeypatch, capsys, "derive", "fasterseg", "--logits", logits, "--net", "teacher", "--out", out)
    assert code == 2
    assert "has no teacher, only student" in err
    code, _, err = call(monkeypatch, capsys, "derive", "fasterseg", "--logits", tmp_path / "none.json", "--out", out)
    assert code == 2
    assert f"--logits: {tmp_path / 'none.json'} does not exist; a search leaves them" in err
    assert not out.exists()


def test_the_verb_takes_the_target_of_the_search_and_says_whose_it_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], searched: SearchResult, tmp_path: Path
) -> None:
    logits, summary = searched.path / "logits.json", searched.path / "search.json"
    base = ("derive", "fasterseg", "--logits", logits, "--out", tmp_path / "arch.json", "--json")

    def derived(*options: object) -> tuple[list[int], dict[str, Any]]:
        code, said, err = call(monkeypatch, capsys, *base, *options)
        assert code == 0, err
        result = json.loads(said)
        assert [c["rates"] for c in result["candidates"] if c["chosen"]] == [result["rates"]]
        return result["rates"], result["target"]

    # mIoU 0.30, 0.40, 0.39 in 5, 6 and 9 ms: whose latency is above T matters more, the larger -beta.
    own = {"T": 5.5, "alpha": 0.0, "beta": -9.0}
    summary.write_text(json.dumps({"method": "fasterseg", "unit": "ms", "target": own}))
    assert derived() == ([16, 8], {**own, "of": str(summary)})
    assert derived("--target", 7) == ([32, 8], {**own, "T": 7.0, "of": f"--target, else {summary}"})
    assert derived("--target", 8, "--alpha", 0, "--beta", 0)[1]["of"] == "--target --alpha --beta"
    assert derived("--beta", 0)[0] == [32, 8]
    assert derived("--scales", "32,16")[0] == [32, 16]
    for other in (None, {"method": "squeezenas"}):
        summary.write_text(json.dumps(other))
        assert derived() == ([32, 8], {"T": 8.3, "alpha": -0.07, "beta": -0.07, "of": "the paper"})
    summary.unlink()
    assert derived()[1]["of"] == "the paper"
    code, _, err = call(monkeypatch, capsys, *base, "--target", 0)
    assert (code, "--target: T: 0.0 is not above 0" in err) == (2, True)
    numbers = {"T": 8.3, "alpha": 0, "beta": 0}
    for broken in ({"T": 8.3, "gamma": 0}, *({**numbers, **wrong} for wrong in ({"T": "x"}, {"T": 0}, {"beta": "x"})), [1]):
        summary.write_text(json.dumps({"method": "fasterseg", "target": broken}))
        code, _, err = call(monkeypatch, capsys, *base)
        assert (code, f"{summary}: target must hold" in err) == (2, True)


def test_the_verb_derives_the_pruned_teacher_that_the_stage_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], searched: SearchResult, tmp_path: Path
) -> None:
    out = tmp_path / "arch.json"
    arguments = ("derive", "fasterseg", "--logits", searched.path / "logits.json", "--net", "pruned_teacher", "--out", out)
    assert call(monkeypatch, capsys, *arguments)[0] == 0
    assert Arch.from_json(read_json(out)) == Derive(net="pruned_teacher").chosen(searched)


def test_the_verb_writes_over_an_architecture_and_over_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], searched: SearchResult, tmp_path: Path
) -> None:
    logits, out = searched.path / "logits.json", tmp_path / "arch.json"
    for net in ("student", "teacher"):
        code, _, err = call(monkeypatch, capsys, "derive", "fasterseg", "--logits", logits, "--net", net, "--out", out)
        assert (code, Arch.from_json(read_json(out)).name.split("-")[1]) == (0, net), err
    for other in (logits, searched.path / "search.json", tmp_path / "photo.jpg", tmp_path / "list.json"):
        if not other.exists():
            other.write_bytes(b"\xff\xd8\xff" if other.suffix == ".jpg" else b'{"family": []}')
        before = other.read_bytes()
        code, _, err = call(monkeypatch, capsys, "derive", "fasterseg", "--logits", logits, "--out", other)
        assert (code, other.read_bytes()) == (2, before)
        assert f"--out: {other} exists and is no architecture; name another file, nothing was overwritten" in err
    code, _, err = call(monkeypatch, capsys, "derive", "fasterseg", "--logits", logits, "--out", out / "below.json")
    assert code == 2
    assert f"--out: {out / 'below.json'} can not lie there, {out} is a file" in err
