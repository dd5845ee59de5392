"""The recipe at the paper's scale on three frames of Cityscapes: its search and both its trainings take two steps."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgesmith.pipeline import recipe, run
from edgesmith.pipeline.artifacts import Slot
from edgesmith.pipeline.data.cityscapes import CITYSCAPES
from edgesmith.pipeline.derive import Derive
from edgesmith.pipeline.recipe import Recipe


@pytest.fixture
def described(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two descriptions that the recipe names; the sample frames stand for every split of both."""
    classes = "\n".join(
        f"- {{name: {n}, colour: [{', '.join(map(str, c))}]}}"
        for n, c in zip(CITYSCAPES.names, CITYSCAPES.palette, strict=True)
    )
    split = (
        "{images: 'leftImg8bit/val/{city}/{stem}_leftImg8bit.png', masks: 'gtFine/val/{city}/{stem}_gtFine_labelTrainIds.png'}"
    )
    root = shared / "data" / "format_samples" / "cityscapes"
    for name in ("cityscapes", "cityscapes-coarse"):
        (tmp_path / f"{name}.yaml").write_text(
            f"name: {name}\nroot: {root}\nignore_index: 255\nclasses:\n{classes}\nsplits:\n  train: {split}\n  val: {split}\n"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def two_steps() -> Any:
    """A log that stops after two steps, both with a loss of usual size."""
    steps = itertools.count(1)

    def log(event: str, **fields: Any) -> None:
        if event == "step":
            assert 0 < fields["loss"] < 100
            if next(steps) == 2:
                raise KeyboardInterrupt

    return log


def stages(chosen: Recipe, folder: Path) -> Iterator[Any]:
    """The recipe's long stages, each as a call that takes a log."""
    arch = Derive("zoo:squeezenas-mac-small")(Slot(folder / "arch"))
    yield lambda log: chosen.search(Slot(folder / "search", log=log)) if chosen.search else None
    for train in (*chosen.pretrain, chosen.train):
        yield lambda log, train=train: train(arch, Slot(folder / "train", log=log))


def take_two_steps(folder: Path, *overrides: str) -> None:
    # Three frames make one step at the recipe's batch: a batch of one gives three.
    settings = ["search.batch=1", "train.batch=1", *overrides]
    chosen = recipe.read("squeezenas-cityscapes", [*settings, 'search.device="cpu"', 'train.device="cpu"']).resolved
    coarse = (dataclasses.replace(t, batch=1, device="cpu", augment=chosen.train.augment) for t in chosen.pretrain)
    chosen = dataclasses.replace(chosen, pretrain=tuple(coarse))
    run.preflight(chosen)
    for stage in stages(chosen, folder):
        with pytest.raises(KeyboardInterrupt):
            stage(two_steps())


def test_two_steps_of_each_stage_on_small_crops(described: Path) -> None:
    take_two_steps(described, "search.augment.crop_hw=[128, 128]", "train.augment.crop_hw=[128, 128]")


@pytest.mark.slow
def test_two_steps_of_each_stage_at_the_papers_crops(described: Path) -> None:
    take_two_steps(described)
