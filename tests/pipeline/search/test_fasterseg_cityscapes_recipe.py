"""The FasterSeg recipe at the paper's scale: its numbers, and two steps of each phase and training on sample frames."""

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
from edgesmith.pipeline.search.fasterseg import FasterSegSearch
from edgesmith.pipeline.search.fasterseg_space import Space
from edgesmith.pipeline.train import Distil, Train


@pytest.fixture
def described(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the description that the recipe names; the sample frames stand for every split."""
    classes = "\n".join(
        f"- {{name: {n}, colour: [{', '.join(map(str, c))}]}}"
        for n, c in zip(CITYSCAPES.names, CITYSCAPES.palette, strict=True)
    )
    split = (
        "{images: 'leftImg8bit/val/{city}/{stem}_leftImg8bit.png', masks: 'gtFine/val/{city}/{stem}_gtFine_labelTrainIds.png'}"
    )
    root = shared / "data" / "format_samples" / "cityscapes"
    (tmp_path / "cityscapes.yaml").write_text(
        f"name: cityscapes\nroot: {root}\nignore_index: 255\nclasses:\n{classes}\nsplits:\n  train: {split}\n  val: {split}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(*overrides: str) -> tuple[Recipe, FasterSegSearch]:
    chosen = recipe.read("fasterseg-cityscapes", overrides)
    assert isinstance(chosen.search, FasterSegSearch)
    return chosen, chosen.search


def test_the_recipe_has_the_papers_numbers() -> None:
    chosen, search = read()
    assert search.space == Space()
    assert (search.pretrain.epochs, search.alternate.epochs, chosen.train.epochs) == (20, 30, 600)
    assert (search.pretrain.batch, search.alternate.batch) == (3, 2)
    assert search.latency_weights == (0.001, 0.997, 0.002)
    assert (search.target.alpha, search.target.beta) == (-0.07, -0.07)
    assert (search.arch_lr, search.arch_betas) == (3e-4, (0.5, 0.999))
    for phase, lr in ((search.pretrain, 0.02), (search.alternate, 0.01)):
        assert phase.augment.crop_hw == (160, 320)
        assert (phase.optim.lr, phase.optim.momentum, phase.optim.weight_decay) == (lr, 0.9, 5e-4)
        assert (phase.optim.schedule, phase.optim.decay, phase.optim.grad_clip) == ("exponential", 0.99, 5.0)
    assert chosen.teacher is not None
    for train in (chosen.teacher.train, chosen.train):
        assert (train.optim.lr, train.optim.decay, train.optim.schedule) == (0.01, 0.992, "exponential")
        assert train.batch == 12
        assert (train.loss, train.aux_weight, train.augment.crop_hw) == ("ohem", 0.2, (512, 1024))
    assert chosen.train.distil == Distil()
    assert chosen.teacher.train.distil is None


def test_latency_takes_the_papers_lambda_and_target(shared: Path) -> None:
    table = shared / "facts" / "fasterseg_1080ti_lut.json"
    _, search = read(
        "search.resource=latency", f'search.table="{table}"', "search.latency_weight=0.01", "search.target.T=8.3",
        "search.fps_band=[155, 175]", "search.latency_weights=balanced",
    )  # fmt: skip
    assert (search.latency_weights, search.fps_band) == ("balanced", (155.0, 175.0))
    assert set(search.environment) == {"table"}


def two_steps(phase: str | None) -> Any:
    """A log that stops after two steps of `phase`, all steps with a loss of usual size."""
    steps = itertools.count(1)

    def log(event: str, **fields: Any) -> None:
        if event == "step":
            assert 0 < fields["loss"] < 1000
            if fields.get("phase") == phase and next(steps) == 2:
                raise KeyboardInterrupt

    return log


def stages(chosen: Recipe, search: FasterSegSearch, folder: Path) -> Iterator[Any]:
    """The recipe's long stages, each as a call that takes no more."""
    # Three frames make two steps of pretraining at a batch of one, and one step an epoch of the alternation.
    pretrain = dataclasses.replace(search.pretrain, epochs=1)
    short = dataclasses.replace(search, pretrain=pretrain, recalibrate=0, evaluate_every=9)
    yield lambda: short(Slot(folder / "search", log=two_steps("search")))
    assert chosen.teacher is not None
    for name, train in (("fasterseg-teacher", chosen.teacher.train), ("fasterseg-student", chosen.train)):
        arch = Derive(f"zoo:{name}")(Slot(folder / name))
        stage: Train = dataclasses.replace(train, distil=None)  # the teacher would first have to be trained
        yield lambda arch=arch, stage=stage: stage(arch, Slot(folder / "train", log=two_steps(None)))


def take_two_steps(folder: Path, *overrides: str) -> None:
    settings = ["search.pretrain.batch=1", "search.alternate.batch=1", "train.batch=1", "teacher.train.batch=1"]
    devices = [f'{section}.device="cpu"' for section in ("search", "train", "teacher.train")]
    chosen, _ = read(*settings, *devices, *overrides)
    chosen = chosen.resolved
    run.preflight(chosen)
    assert isinstance(chosen.search, FasterSegSearch)
    for stage in stages(chosen, chosen.search, folder):
        with pytest.raises(KeyboardInterrupt):
            stage()


def test_two_steps_of_each_stage_on_a_small_space_and_small_crops(described: Path) -> None:
    space = ["layers=8", "operators=[conv, zoomed_conv]", "ratios=[1, 2]", "stem_ratio=1", "teacher_stem_ratio=2"]
    take_two_steps(
        described,
        *(f"search.space.{field}" for field in space),
        *(f"search.{phase}.augment.crop_hw=[64, 128]" for phase in ("pretrain", "alternate")),
        *(f"{train}.augment.crop_hw=[128, 128]" for train in ("train", "teacher.train")),
        "search.input_hw=[128, 256]",
    )


@pytest.mark.slow
def test_two_steps_of_each_stage_at_the_papers_size(described: Path) -> None:
    take_two_steps(described)
