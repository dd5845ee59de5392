"""The recipe file's schema: one YAML file holds all that a run needs to know. The stages' own fields are its sections."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import yamlfile
from .build import Build
from .data.spec import Data
from .derive import Derive
from .export import Export
from .recipes import FOLDER, names
from .search.fasterseg import FasterSegSearch
from .search.squeezenas import SqueezeNasSearch
from .train import Train
from .validate import Validate


@dataclass(frozen=True)
class Teacher:
    """A network that is trained before the others, for trainings with `distil` to learn from."""

    arch: str | None = None
    """`zoo:NAME` for a published network, or the path of an architecture in JSON. Null: the teacher that the search found."""
    train: Train = field(default_factory=Train)
    """How the teacher itself is trained."""

    def __post_init__(self) -> None:
        _ = self.derive
        if self.train.distil is not None and self.train.distil.weights is None:
            raise ValueError("train: distil names no weights, and the teacher cannot be its own teacher")
        if self.train.start is not None and self.arch is None:
            raise ValueError("train: start goes with a named arch: its weights are of one network")

    @property
    def derive(self) -> Derive:
        """The stage that settles its architecture."""
        return Derive(self.arch, net="teacher" if self.arch is None else "student")


@dataclass(frozen=True)
class Recipe:
    """A run from architecture to validated bundle."""

    about: str
    """What this recipe is for, in a sentence or two."""
    export: Export
    data: Data = field(default_factory=Data)
    """Dataset of every stage that does not name its own."""
    search: SqueezeNasSearch | FasterSegSearch | None = None
    """Search for the architecture, by its method; null where `derive` names one."""
    derive: Derive = field(default_factory=Derive)
    teacher: Teacher | None = None
    """A network that is trained first, and that every training whose `distil` names no weights learns from."""
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
        self._check_search()
        self._check_teacher()

    def _check_search(self) -> None:
        cosearch = self.search if isinstance(self.search, FasterSegSearch) else None
        if self.derive.net != "student" and (cosearch is None or not cosearch.teacher):
            raise ValueError(f"derive: net {self.derive.net} needs a search of method fasterseg that searches a teacher too")
        if cosearch is not None and cosearch.alternate.epochs == 0:
            raise ValueError("search: alternate.epochs is 0, so it finds no network; others can begin with it, a recipe cannot")

    def _check_teacher(self) -> None:
        finds = isinstance(self.search, FasterSegSearch) and self.search.teacher
        waiting = [n for n, t in self.trainings() if t.distil is not None and t.distil.weights is None]
        if waiting and self.teacher is None:
            raise ValueError(f"{waiting[0]}: distil names no weights, and there is no section teacher")
        if self.teacher is None:
            return
        if not waiting:
            raise ValueError("teacher: no training learns from it; add `distil: {}` to train, or leave out teacher")
        if self.teacher.arch is None and not finds:
            raise ValueError("teacher: names no arch, and there is no search of method fasterseg that finds a teacher")

    def trainings(self) -> tuple[tuple[str, Train], ...]:
        """The trainings of the recipe's network, in order, each with its section."""
        return (*((f"pretrain[{i}]", t) for i, t in enumerate(self.pretrain)), ("train", self.train))

    @property
    def resolved(self) -> Recipe:
        """The same recipe with `data` filled in wherever a stage leaves it out, and the input sizes of search and training."""

        def trained(train: Train) -> Train:
            return dataclasses.replace(train, data=train.data or self.data, input_hw=train.input_hw or self.export.input_hw)

        # Both searches have these fields; dataclasses.replace takes one kind at a time.
        search: Any = self.search and dataclasses.replace(
            self.search,
            data=self.search.data or self.data,
            input_hw=self.search.input_hw or self.export.input_hw or self.export.frame_hw,
        )
        return dataclasses.replace(
            self,
            search=search,
            teacher=self.teacher and dataclasses.replace(self.teacher, train=trained(self.teacher.train)),
            pretrain=tuple(trained(t) for t in self.pretrain),
            train=trained(self.train),
            export=dataclasses.replace(self.export, golden=self.export.golden or self.data),
            validate=dataclasses.replace(self.validate, data=self.validate.data or self.data),
        )


def read(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called `name`, or in the file `name`, with `section.field=value` overrides, checked whole.

    Raises FileNotFoundError with the nearest name, or ValueError with file, line, key and value of every problem.
    """
    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "give a name or the path of a .yaml file."
        raise FileNotFoundError(f"no recipe {name!r}; {hint} Named recipes: {', '.join(names())}")
    return yamlfile.read(path, Recipe, overrides)


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `read` takes back."""
    return yamlfile.dump(recipe)
