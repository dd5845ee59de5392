"""The strict YAML reader: every problem in one error with its place, and nothing but ValueError for any input."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesmith.pipeline.fields import as_text, fields_of
from edgesmith.pipeline.yamlfile import dump, parse, read


@dataclass(frozen=True)
class Optimiser:
    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1


@dataclass(frozen=True)
class Recipe:
    epochs: int
    crop_hw: tuple[int, int] | None = None
    optimiser: Optimiser = Optimiser()
    names: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    arch: str | Optimiser = "mac_small"
    clip: float | Literal["off"] = "off"
    ema: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError("epochs: needs at least 1")


VALID = """\
# a comment
epochs: 3
crop_hw: [336, 448]
optimiser:
  kind: adamw
  lr: 1e-3
names: [road, "yes", 'a: b']
weights: {road: 1, sky: 2.5}
arch: {lr: 3}
clip: 0.5
ema: true
"""


def problems_of(text: str, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what the callers look at
        parse(text, "r.yaml", Recipe, overrides)
    return str(caught.value).splitlines()


def test_a_valid_file_becomes_the_dataclass(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(VALID)
    assert read(path, Recipe) == Recipe(
        epochs=3,
        crop_hw=(336, 448),
        optimiser=Optimiser("adamw", 0.001),
        names=("road", "yes", "a: b"),
        weights={"road": 1.0, "sky": 2.5},
        arch=Optimiser(lr=3.0),
        clip=0.5,
        ema=True,
    )


def test_all_problems_come_at_once_each_with_its_line_key_and_value() -> None:
    text = "epochs: many\ncrop_hw: [1]\noptimiser:\n  kind: adamm\n  lrr: 3\nnames: [yes]\nema: 1\nzz: 0\n"
    assert problems_of(text) == [
        "r.yaml:1: epochs = many: needs a whole number",
        "r.yaml:2: crop_hw = [1]: needs a list of 2, each a whole number, such as [360, 480]",
        "r.yaml:4: optimiser.kind = adamm: needs one of sgd, adamw; did you mean adamw?",
        "r.yaml:5: optimiser.lrr = 3: unknown key; did you mean optimiser.lr?",
        "r.yaml:6: names[0] = yes: is not text as it stands; put it in quotes",
        "r.yaml:7: ema = 1: needs true or false",
        "r.yaml:8: zz = 0: unknown key; valid keys are epochs, crop_hw, optimiser, names, weights, arch, clip, ema",
    ]


def test_what_a_dataclass_refuses_is_located_at_the_field() -> None:
    assert problems_of("ema: true\nepochs: 0\n") == ["r.yaml:2: epochs = 0: needs at least 1"]
    assert problems_of("epochs: 2\n", ("epochs=0",)) == ["--set epochs=0: epochs = 0: needs at least 1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty; needs a mapping"),
        ("[1, 2]", "holds [1, 2]; needs a mapping"),
        ("epochs: 1\nepochs: 2", "r.yaml:2: epochs: this key stands twice, first at r.yaml:1"),
        ("ema: true", "epochs: missing; needs a whole number"),
        ("epochs: &a 1\nema: *a", "r.yaml:1: anchors and aliases"),
        ("epochs: !!python/object/apply:os.system [ls]", "r.yaml:1: the tag "),
        ("epochs: 1\n--- \nepochs: 2", "r.yaml:2: a second document"),
        ("epochs: 1\nnames: [a", "r.yaml:2: not valid YAML, column 10"),
        ("epochs: 1.0", "needs a whole number"),
        ("epochs: 017", "needs a whole number"),
        ("epochs: true", "needs a whole number"),
        ("epochs: '3'", "epochs = '3': needs a whole number"),
        ("epochs: 2024-01-31", "epochs = 2024-01-31: needs a whole number"),
        ("epochs: " + "9" * 40, "too large"),
        ("epochs: 1\nclip: .nan", "clip = .nan: needs a number or off"),
        ("epochs: 1\noptimiser: {lr: .inf}", "is not finite"),
        ("epochs: 1\noptimiser: {lr: 1e999}", "is not finite"),
        ("epochs: 1\nnames: [2024-01-31]", "put it in quotes"),
        ("epochs: 1\noptimiser: 3", "optimiser = 3: needs a mapping with the keys kind, lr"),
        ("epochs: 1\narch: [1]", "arch = [1]: needs text or a mapping"),
        ("epochs: 1\n? [a]\n: 1", "r.yaml:2: a key must be a name"),
        ('epochs: "\\U99999999"', "not valid YAML"),
        ('names: ["\\ud800"]', "half a surrogate pair"),
        ("epochs: 1\x00", "control character"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1", "not valid YAML"),
        ("[" * 5000, "nested more than"),
        ("a: " * 40, "not valid YAML"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(text: str, expected: str) -> None:
    assert any(expected in line for line in problems_of(text)), problems_of(text)


def test_overrides_are_applied_before_the_check_and_named_in_errors() -> None:
    got = parse(VALID, "r.yaml", Recipe, ("optimiser.lr=2", "crop_hw=null", "arch=lat_small", "weights.tree=3"))
    assert (got.optimiser.lr, got.crop_hw, got.arch, got.weights["tree"]) == (2.0, None, "lat_small", 3.0)
    assert parse("epochs: many", "r.yaml", Recipe, ("epochs=4", "optimiser.lr=1")).optimiser.lr == 1.0
    assert problems_of(VALID, ("optimiser.lt=2", "epoch", "ema.x=1", "clip={a: [}")) == [
        "--set epoch: needs the form key=value or key.key=value, such as --set train.epochs=3",
        "--set ema.x=1: ema is true at r.yaml:11, without keys; set ema itself",
        "--set clip={a: [}: not valid YAML, column 6: while parsing a flow node, expected the node content, but found '}'",
        "--set optimiser.lt=2: optimiser.lt = 2: unknown key; did you mean optimiser.lr?",
    ]


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"epochs: 1\nnames: [\xff]\n")
    with pytest.raises(ValueError, match=r"r\.yaml:2: byte 18 is not UTF-8"):
        read(path, Recipe)
    path.write_bytes(b"# " + b"x" * (1 << 20))
    with pytest.raises(ValueError, match="larger than 1024 KiB"):
        read(path, Recipe)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent.yaml", Recipe)


TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["yes", "1e-3", "~", "", "12:30", "2024-01-31", "0x1", "1_0", "null", ".nan", "a: b", "- a", "=", "<<"]),
)


@given(
    st.builds(
        Recipe,
        epochs=st.integers(1, 10**17),
        crop_hw=st.none() | st.tuples(st.integers(-9, 9), st.integers()).filter(lambda t: abs(t[1]) < 10**17),
        optimiser=st.builds(Optimiser, lr=st.floats(allow_nan=False, allow_infinity=False)),
        names=st.lists(TEXT, max_size=4).map(tuple),
        weights=st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
        arch=TEXT | st.builds(Optimiser),
        clip=st.just("off") | st.floats(0, 1),
        ema=st.booleans(),
    )
)
@settings(max_examples=60, deadline=None)
def test_what_is_dumped_reads_back_equal(recipe: Recipe) -> None:
    assert parse(dump(recipe), "dumped", Recipe) == recipe


def mutate(text: str, rng: random.Random) -> str:
    """`text` with a few random edits; a harness for the tests below, not a model of what people type."""
    scraps = ["&a ", "*a", "!!int ", "{", "}", "[", "]", ": ", "- ", "\t", "'", '"', "|", ">", "%", "\x00", "é", "1e9", "~"]
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + rng.choice(scraps) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + rng.randint(1, 8) :]
        elif kind == 2:
            text = text[:at] + chr(rng.randrange(1, 0x3000)) + text[at + 1 :]
        else:
            lines = text.split("\n")
            rng.shuffle(lines)
            text = "\n".join(lines)
    return text


def fuzz(seeds: range) -> None:
    for seed in seeds:
        text = mutate(VALID, random.Random(seed))
        try:
            parse(text, "r.yaml", Recipe, ("optimiser.lr=0.5",))
        except ValueError as e:
            if not all(line.startswith(("r.yaml:", "--set")) for line in str(e).splitlines()):
                pytest.fail(f"seed {seed}: {e}")


def test_damaged_recipes_give_clear_errors() -> None:
    fuzz(range(50))


@pytest.mark.slow
def test_many_damaged_recipes_give_clear_errors() -> None:
    fuzz(range(50, 5000))


@dataclass(frozen=True)
class Walk:
    way: Literal["walk"] = "walk"
    """How one goes."""
    speed: float = 4.0
    """In km/h."""
    shoes: str = "boots"
    """Worn."""


@dataclass(frozen=True)
class Ride:
    way: Literal["ride"] = "ride"
    """How one goes."""
    speed: float = 4.0
    """In km/h."""
    bicycle: int = 1
    """Its number."""

    def __post_init__(self) -> None:
        if self.bicycle < 1:
            raise ValueError(f"bicycle: {self.bicycle} is not at least 1")


@dataclass(frozen=True)
class Trip:
    go: Walk | Ride | None = None
    """Whether and how one goes."""


def test_a_field_of_one_word_says_which_dataclass_is_meant() -> None:
    def trip(text: str, *overrides: str) -> Trip:
        return parse(text, "r.yaml", Trip, overrides)

    assert trip("go: {way: ride, bicycle: 2}") == Trip(Ride(bicycle=2))
    assert trip("go: {shoes: sandals}") == Trip(Walk(shoes="sandals"))
    assert trip("go: {}") == Trip(Walk())
    assert trip("go: null") == Trip()
    assert trip("go: {}", "go.way=ride", "go.bicycle=3") == Trip(Ride(bicycle=3))
    assert parse(dump(Trip(Ride())), "r.yaml", Trip) == Trip(Ride())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("go:\n  way: ride\n  shoes: x", "r.yaml:3: go.shoes = x: unknown key; valid keys are way, speed, bicycle"),
        ("go:\n  way: rode", "r.yaml:2: go.way = rode: needs one of walk, ride; did you mean ride?"),
        ("go:\n  way: []", "r.yaml:2: go.way = []: needs one of walk, ride"),
        ("go: {way: ride, bicycle: 0}", "r.yaml:1: go.bicycle = 0: 0 is not at least 1"),
        ("go: {bicycle: 2}", "r.yaml:1: go: bicycle is a field of way ride; add `way: ride`"),
        ("go: {shoes: x, bicycle: 2}", "r.yaml:1: go.bicycle = 2: unknown key; valid keys are way, speed, shoes"),
    ],
)
def test_problems_of_a_section_are_those_of_the_dataclass_that_is_meant(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is looked at
        parse(text, "r.yaml", Trip)
    assert str(caught.value) == message


def test_a_wrong_or_missing_word_hides_no_other_problem_of_its_section() -> None:
    def problems(text: str, *overrides: str) -> list[str]:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is looked at
            parse(text, "r.yaml", Trip, overrides)
        return str(caught.value).splitlines()

    assert problems("go:\n  way: rode\n  speed: fast\n  bicycle: 0\n  bell: 1") == [
        "r.yaml:2: go.way = rode: needs one of walk, ride; did you mean ride?",
        "r.yaml:3: go.speed = fast: needs a number",
        "r.yaml:5: go.bell = 1: unknown key; valid keys are way, speed, bicycle",
    ]
    assert problems("go: {way: fly, bicycle: 0}") == [
        "r.yaml:1: go.way = fly: needs one of walk, ride",
        "r.yaml:1: go.bicycle = 0: 0 is not at least 1",
    ]
    assert problems("go:\n  speed: fast\n  bicycle: 2") == [
        "r.yaml:1: go: bicycle is a field of way ride; add `way: ride`",
        "r.yaml:2: go.speed = fast: needs a number",
    ]
    assert problems("{}", "go.bicycle=2") == ["--set go.bicycle=2: go: bicycle is a field of way ride; add `way: ride`"]


def test_a_recipe_with_the_other_searchs_fields_is_told_to_name_its_method() -> None:
    from edgesmith.pipeline.recipe import Recipe

    text = "about: x\nexport: {frame_hw: [64, 96]}\nsearch:\n  alternate: {epochs: 2}\n  arch_lr: fast\n"
    with pytest.raises(ValueError, match="search") as caught:
        parse(text, "r.yaml", Recipe)
    hint, other = str(caught.value).splitlines()
    assert hint == "r.yaml:3: search: alternate, arch_lr are fields of method fasterseg; add `method: fasterseg`"
    assert other == "r.yaml:5: search.arch_lr = fast: needs a number"
    with pytest.raises(ValueError, match="search") as caught:
        parse(text.replace("search:\n", "search:\n  method: fasterseq\n"), "r.yaml", Recipe)
    wrong, other = str(caught.value).splitlines()
    assert wrong == "r.yaml:4: search.method = fasterseq: needs one of squeezenas, fasterseg; did you mean fasterseg?"
    assert other == "r.yaml:6: search.arch_lr = fast: needs a number"


def test_help_says_which_fields_belong_to_which_word() -> None:
    found = {f.key: f for f in fields_of(Trip)}
    assert list(found) == ["go", "go.way", "go.speed", "go.shoes", "go.bicycle"]
    assert found["go.way"].type == "walk or ride"
    assert [found[f"go.{k}"].when for k in ("way", "speed", "shoes", "bicycle")] == ["", "", "way walk", "way ride"]
    assert "go.bicycle: int = 1   (way ride)" in as_text(Trip)
