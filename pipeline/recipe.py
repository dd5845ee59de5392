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
from .search.squeezenas import SqueezeNasSearch
from .train import Train
from .validate import Validate

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A run from architecture to validated bundle."""

    about: str
    """What this recipe is for, in a sentence or two."""
    export: Export
    data: Data = field(default_factory=Data)
    """Dataset of every stage that does not name its own."""
    search: SqueezeNasSearch | None = None
    """Search for the architecture; null where `derive` names one."""
    derive: Derive = field(default_factory=Derive)
    pretrain: tuple[Train, ...] = ()
    """Trainings before `train`, in order, usually each on its own data: each begins with the weights of the one before it, and
    `train` with those of the last."""
    train: Train = field(default_factory=Train)
    build: Build = field(default_factory=Build)
    validate: Validate = field(default_factory=Validate)

    def __post_init__(self) -> None:
        if self.search is None and self.derive.arch is None:
            raise ValueError("derive: names no arch (zoo:NAME or a .json file), and there is no section search that finds one")
        if self.search is not None and self.derive.arch is not None:
            raise ValueError("derive: names an arch, so there is nothing to search for; leave out arch or the section search")
        if (self.search or self.pretrain) and self.train.start:
            raise ValueError("train: start goes with a named arch and no pretrain: its weights are of one network")
        if any(t.start for t in (self.pretrain if self.search else self.pretrain[1:])):
            raise ValueError("pretrain: start is for the first training alone, and for a named arch")

    @property
    def resolved(self) -> Recipe:
        """The same recipe with `data` filled in wherever a stage leaves it out, and the input sizes of search and training."""

        def trained(train: Train) -> Train:
            return dataclasses.replace(train, data=train.data or self.data, input_hw=train.input_hw or self.export.input_hw)

        search = self.search and dataclasses.replace(
            self.search,
            data=self.search.data or self.data,
            input_hw=self.search.input_hw or self.export.input_hw or self.export.frame_hw,
        )
        return dataclasses.replace(
            self,
            search=search,
            pretrain=tuple(trained(t) for t in self.pretrain),
            train=trained(self.train),
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
