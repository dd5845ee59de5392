from __future__ import annotations

from pathlib import Path

import pytest

from edgesmith.pipeline import recipe


@pytest.mark.parametrize("name", recipe.names())
def test_every_named_recipe_reads_and_its_resolved_form_reads_back(name: str, tmp_path: Path) -> None:
    read = recipe.read(name)
    assert read.about
    (tmp_path / "resolved.yaml").write_text(recipe.dump(read.resolved))
    assert recipe.read(str(tmp_path / "resolved.yaml")) == read.resolved


def test_stages_without_a_dataset_get_the_recipes() -> None:
    resolved = recipe.read("street").resolved
    assert resolved.train.data == resolved.validate.data == resolved.data


def test_overrides_reach_nested_fields() -> None:
    read = recipe.read("street", ["train.epochs=3", "train.augment.crop_hw=[64, 96]", "data.seed=7"])
    assert (read.train.epochs, read.train.augment.crop_hw, read.data.seed) == (3, (64, 96), 7)


def test_an_override_of_the_dataset_reaches_every_stage_of_a_runs_own_recipe(tiny_run: Path) -> None:
    again = recipe.read(str(tiny_run / "recipe.yaml"), ["data.seed=9"]).resolved
    assert [d and d.seed for d in (again.train.data, again.export.golden, again.validate.data)] == [9, 9, 9]


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean 'street'"):
        recipe.read("sreet")


def test_every_field_has_a_sentence_and_can_be_set() -> None:
    from edgesmith.pipeline.fields import fields_of

    found = {f.key: f for f in fields_of(recipe.Recipe)}
    assert found["train.epochs"].default == "10"
    assert "opacity" not in found
    assert found["derive.arch"].default == "required"
    assert [key for key, f in found.items() if not f.doc] == []
