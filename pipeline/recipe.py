"""The recipe file's schema: one YAML file holds all that a run needs to know. The stages' own fields are its sections."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import yamlfile
from .build import Build
from .data.spec import Data
from .derive import Derive
from .export import Export
from .train import Train
from .validate import Validate

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A run from architecture to validated bundle."""

    about: str
    """What this recipe is for, in a sentence or two."""
    derive: Derive
    export: Export
    data: Data = field(default_factory=Data)
    """Dataset of every stage that does not name its own."""
    train: Train = field(default_factory=Train)
    build: Build = field(default_factory=Build)
    validate: Validate = field(default_factory=Validate)

    @property
    def resolved(self) -> Recipe:
        """The same recipe with `data` filled in wherever a stage leaves it out, and the input size of training."""
        input_hw = self.train.input_hw or self.export.input_hw
        return dataclasses.replace(
            self,
            train=dataclasses.replace(self.train, data=self.train.data or self.data, input_hw=input_hw),
            export=dataclasses.replace(self.export, golden=self.export.golden or self.data),
            validate=dataclasses.replace(self.validate, data=self.validate.data or self.data),
        )


def names() -> tuple[str, ...]:
    """Names of the recipes that come with edgesmith."""
    return tuple(sorted(p.stem for p in RECIPES.glob("*.yaml")))


def read(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called `name`, or in the file `name`, with `section.field=value` overrides, checked whole.

    Raises FileNotFoundError with the nearest name, or ValueError with file, line, key and value of every problem.
    """
    path = RECIPES / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "give a name or the path of a .yaml file."
        raise FileNotFoundError(f"no recipe {name!r}; {hint} Named recipes: {', '.join(names())}")
    return yamlfile.read(path, Recipe, overrides)


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `read` takes back."""
    return yamlfile.dump(recipe)
