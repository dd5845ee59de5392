from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgesmith import models
from edgesmith.deploy.files import read_json, write_json
from edgesmith.models.arch import Cell, FasterSeg
from edgesmith.pipeline.artifacts import Architecture, Slot, Weights
from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.derive import Derive
from edgesmith.pipeline.stage import stage_key
from edgesmith.pipeline.train import Distil, Train
from edgesmith.pipeline.training import losses
from edgesmith.pipeline.training.fit import Trainer, initial_module, teacher_module
from edgesmith.pipeline.training.loader import Batch, Batches
from edgesmith.pipeline.training.optim import Optim

STREET = Data("street", frame_hw=(64, 96), train_frames=4, val_frames=1, test_frames=1)
TINY = Train(data=STREET, epochs=1, batch=4, optim=Optim(lr=0.02), augment=Augment(crop_hw=(64, 64)), device="cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Of another family than the students, and with another rule for its resizes."""
    root = tmp_path_factory.mktemp("teacher")
    cell = Cell("zoomed_conv", 16)
    arch = FasterSeg("teacher", 4, ((cell, dataclasses.replace(cell, stride=2), cell),), 0, 4, align_corners=False)
    write_json(root / "arch.json", arch.to_json())
    return TINY(Derive(str(root / "arch.json"))(Slot(root / "arch")), Slot(root / "weights"))


@pytest.fixture
def arch(tmp_path: Path) -> Architecture:
    return Derive("zoo:squeezenas-lat-small")(Slot(tmp_path / "arch"))


def taught(teacher: Weights, precision: Literal["fp32", "bf16"] = "fp32", **distil: Any) -> tuple[Trainer, Batch]:
    """A trainer with a teacher, and a batch for it."""
    train = dataclasses.replace(TINY, precision=precision, distil=Distil(str(teacher.path), **distil))
    split = open_split(STREET, "train")
    module, _ = initial_module(train, models.zoo("squeezenas-lat-small"), split.labels)
    network = teacher_module(Distil(str(teacher.path)), split.labels)
    batch = next(iter(Batches(split, train.augment, train.batch, train.seed).epoch(0)))
    return Trainer(train, module, torch.device("cpu"), None, network), batch


@pytest.mark.parametrize("way", ["student_teacher", "teacher_student"])
@pytest.mark.parametrize("per", ["pixel", "class"])
def test_the_loss_is_that_of_the_labels_and_the_weighted_divergence_at_their_size(teacher: Weights, way: str, per: str) -> None:
    trainer, batch = taught(teacher, weight=0.5, divergence=way, per=per)
    x, labels = trainer.placement.batch(batch)
    loss = trainer.loss(x, labels)
    with torch.no_grad():
        student = F.interpolate(trainer.module.low_logits(x), (64, 64), mode="bilinear", align_corners=True)
        network: Any = models.load(teacher.path)
        soft = F.interpolate(network.low_logits(x), (64, 64), mode="bilinear", align_corners=False)
    p, q = (t.softmax(1).double() for t in ((student, soft) if way == "student_teacher" else (soft, student)))
    every = p * (p / q).log()
    divergence = every.mean() if per == "class" else every.sum(1).mean()
    plain = F.cross_entropy(student, labels.long(), ignore_index=255)
    assert divergence > 0.01
    assert loss.item() == pytest.approx(float(plain + 0.5 * divergence), rel=1e-4)


def test_the_teacher_teaches_the_main_head_alone_and_soft_labels_are_not_adjusted(teacher: Weights) -> None:
    arch = models.zoo("fasterseg-student")
    ways = {"loss": "ohem", "ohem_threshold": 0.3, "aux_weight": 0.2, "class_weights": "log", "logit_adjustment": 0.75}
    train = dataclasses.replace(TINY, distil=Distil(str(teacher.path), weight=2.0), **ways)
    split = open_split(STREET, "train")
    module, _ = initial_module(train, arch, split.labels)
    weight = [0.5 + 0.1 * k for k in range(len(split.labels.names))]
    network = teacher_module(Distil(str(teacher.path)), split.labels)
    trainer = Trainer(train, module, torch.device("cpu"), weight, network)
    x, labels = trainer.placement.batch(next(iter(Batches(split, train.augment, train.batch, train.seed).epoch(0))))
    loss = trainer.loss(x, labels).item()
    with torch.no_grad():
        heads = [F.interpolate(y, (64, 64), mode="bilinear", align_corners=True) for y in trainer.module.train_logits(x)]
        soft = F.interpolate(network.low_logits(x), (64, 64), mode="bilinear", align_corners=False)
        shift = 0.75 * torch.tensor(weight).log()[:, None, None]
        found = [losses.ohem(y + shift, labels, torch.tensor(weight), threshold=0.3) for y in heads]
    p, q = heads[0].softmax(1), soft.softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    assert len(heads) == 3
    assert divergence > 0.01
    assert loss == pytest.approx(float(found[0] + 0.2 * sum(found[1:]) + 2 * divergence), rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_leaves_the_teacher_as_it_was_and_gives_it_no_gradient(teacher: Weights, precision: Any) -> None:
    trainer, batch = taught(teacher, precision)
    before = {k: v.clone() for k, v in trainer.teacher.state_dict().items()}
    student = {k: v.clone() for k, v in trainer.module.state_dict().items()}
    assert trainer.step(batch, 0.1).isfinite()
    assert not trainer.teacher.training
    assert all(p.grad is None for p in trainer.teacher.parameters())
    torch.testing.assert_close(trainer.teacher.state_dict(), before, rtol=0, atol=0)
    assert any(not torch.equal(v, student[k]) for k, v in trainer.module.state_dict().items())


def test_a_student_with_and_without_a_teacher_begins_with_the_same_weights_and_ends_with_others(
    teacher: Weights, arch: Architecture, tmp_path: Path
) -> None:
    alone = TINY(arch, Slot(tmp_path / "alone"))
    taught = dataclasses.replace(TINY, distil=Distil(str(teacher.path)))(arch, Slot(tmp_path / "taught"))
    assert {"kind": "weights", "digest": teacher.digest} in taught.sidecar["parents"]
    assert taught.digest != alone.digest
    first = [read_json(w.path / "history.json")[0]["loss"] for w in (alone, taught)]
    assert first[0] < first[1]  # one step: the same network, and the divergence above it


def test_a_stopped_distillation_goes_on_to_the_same_weights_bit_for_bit(
    teacher: Weights, arch: Architecture, tmp_path: Path
) -> None:
    train = dataclasses.replace(TINY, epochs=3, ema=0.9, checkpoint_seconds=1e-6, distil=Distil(str(teacher.path)))
    whole = train(arch, Slot(tmp_path / "whole", "key"))

    def log(event: str, **fields: Any) -> None:
        if event == "epoch" and fields["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(arch, Slot(tmp_path / "parts", "key", tmp_path / "scratch", log))
    assert train(arch, Slot(tmp_path / "parts", "key", tmp_path / "scratch")).digest == whole.digest


def test_the_key_follows_the_content_of_the_teacher_and_the_settings_not_the_place(teacher: Weights, tmp_path: Path) -> None:
    def key(folder: Path, **distil: Any) -> str:
        return stage_key(dataclasses.replace(TINY, distil=Distil(str(folder), **distil)))

    first = key(teacher.path)
    shutil.copytree(teacher.path, tmp_path / "elsewhere")
    assert key(tmp_path / "elsewhere") == first
    assert len({first, stage_key(TINY), key(teacher.path, weight=2.0), key(teacher.path, per="class")}) == 4
    again = dataclasses.replace(TINY, seed=1)(Derive("zoo:squeezenas-mac-small")(Slot(tmp_path / "a")), Slot(tmp_path / "w"))
    assert key(again.path) != first


def test_a_teacher_that_cannot_teach_is_refused(teacher: Weights, arch: Architecture, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"distil\.weights: no teacher is named"):
        dataclasses.replace(TINY, distil=Distil())(arch, Slot(tmp_path / "w"))
    with pytest.raises(FileNotFoundError, match=r"distil\.weights: .*absent is not a folder"):
        dataclasses.replace(TINY, distil=Distil(str(tmp_path / "absent")))(arch, Slot(tmp_path / "w"))
    with pytest.raises(ValueError, match=r"^weight: 0\.0 is not above 0"):
        Distil(weight=0.0)

    def changed(name: str, **fields: Any) -> Distil:
        with Slot(tmp_path / name).writing(Weights) as folder:
            for file in ("best.safetensors", "model.json"):
                shutil.copy(teacher.path / file, folder)
            write_json(folder / "model.json", {**read_json(folder / "model.json"), **fields})
        return Distil(str(tmp_path / name))

    names = open_split(STREET, "train").labels.names
    with pytest.raises(
        ValueError, match=rf"distil\.weights: the teacher in .* knows the classes {names[1]}, {names[0]}, .* same order"
    ):
        teacher_module(changed("order", classes=[names[1], names[0], *names[2:]]), open_split(STREET, "train").labels)
    with pytest.raises(ValueError, match=r"takes frames of mean \(0\.0, 0\.0, 0\.0\)"):
        teacher_module(changed("mean", mean=[0.0, 0.0, 0.0]), open_split(STREET, "train").labels)


def test_a_step_with_a_teacher_creates_no_tensor_off_its_device() -> None:
    train = dataclasses.replace(TINY, distil=Distil("unused"))
    with torch.device("meta"):
        module, network = (models.build(models.zoo("squeezenas-lat-small"), models.Segmentation(11)) for _ in range(2))
    trainer = Trainer(train, module, torch.device("meta"), None, network)
    batch = Batch(np.zeros((4, 64, 64, 3), np.uint8), np.zeros((4, 64, 64), np.uint8))
    assert trainer.step(batch, 0.1).device.type == "meta"
