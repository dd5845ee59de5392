from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesmith import models
from edgesmith.deploy.files import read_json, write_json
from edgesmith.models.weights import read_tensors
from edgesmith.pipeline.artifacts import Architecture, Slot, Weights
from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.dataset import Sample
from edgesmith.pipeline.data.spec import Data
from edgesmith.pipeline.derive import Derive
from edgesmith.pipeline.show import describe
from edgesmith.pipeline.stage import stage_key
from edgesmith.pipeline.train import Start, Train
from edgesmith.pipeline.training import fit
from edgesmith.pipeline.training.device import Placement
from edgesmith.pipeline.training.fit import Trainer
from edgesmith.pipeline.training.loader import Batch, Batches
from edgesmith.pipeline.training.optim import Optim
from tests.stopping import stopping_at

STREET = Data("street", frame_hw=(64, 96), train_frames=12, val_frames=2, test_frames=2)
TINY = Train(
    data=STREET,
    epochs=2,
    batch=4,
    optim=Optim(lr=0.02),
    ema=0.9,
    augment=Augment(crop_hw=(64, 64)),
    aux_weight=0.2,
    checkpoint_seconds=1e-6,
    device="cpu",
)


@pytest.fixture
def arch(tmp_path: Path) -> Architecture:
    return Derive("zoo:squeezenas-lat-small")(Slot(tmp_path / "arch"))


@pytest.mark.parametrize("change", [{}, {"optim": Optim("adamw", lr=1e-3), "ema": None}, {"precision": "bf16", "loss": "ohem"}])
def test_a_stopped_training_goes_on_to_the_same_weights_bit_for_bit(
    arch: Architecture, tmp_path: Path, change: dict[str, Any]
) -> None:
    train = dataclasses.replace(TINY, **change)
    whole = train(arch, Slot(tmp_path / "whole", "key"))
    scratch = tmp_path / "scratch"
    for step in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            train(arch, Slot(tmp_path / "parts", "key", scratch, stopping_at("step", step)))
    parts = train(arch, Slot(tmp_path / "parts", "key", scratch))
    assert parts.digest == whole.digest


def test_the_moving_average_forgets_where_a_short_training_began() -> None:
    train = dataclasses.replace(TINY, ema=0.98)
    module = torch.nn.Conv2d(1, 1, 1)
    trainer = Trainer(train, module, torch.device("cpu"), None)
    expected, weight = 5.0, trainer.module.weight
    with torch.no_grad():
        trainer.averaged.weight.fill_(expected)
        for step in range(500):
            weight.fill_(step)
            decay = min(0.98, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * step
            trainer._average(0.98)
            if step == 49:
                assert trainer.averaged.weight.item() == pytest.approx(expected, rel=1e-5)
                assert 40 < expected < 49
    assert trainer.averaged.weight.item() == pytest.approx(expected, rel=1e-5)
    assert 499 - expected == pytest.approx(0.98 / 0.02, rel=0.15)


def test_a_checkpoint_of_another_training_is_not_taken_up(arch: Architecture, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        TINY(arch, Slot(tmp_path / "a", "one key", scratch, stopping_at("step", 4)))
    events: list[str] = []
    TINY(arch, Slot(tmp_path / "b", "another key", scratch, lambda event, **fields: events.append(event)))
    assert "resumed" not in events


def test_going_on_in_another_place_is_said(arch: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def remarks() -> list[str]:
        seen, stop = [], stopping_at("step", 2)

        def log(event: str, **fields: Any) -> None:
            seen.extend([fields["text"]] if event == "remark" else [])
            stop(event, **fields)

        with pytest.raises(KeyboardInterrupt):
            TINY(arch, Slot(tmp_path / "w", "key", tmp_path / "scratch", log))
        return seen

    assert remarks() == remarks() == []
    monkeypatch.setattr(Placement, "place", "a GPU, bf16")
    (said,) = remarks()
    assert said.endswith("threads, fp32; it goes on on a GPU, bf16, to other bits")


def test_what_a_kill_left_of_a_checkpoint_half_written_is_cleared(arch: Architecture, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        TINY(arch, Slot(tmp_path / "w", "key", scratch, stopping_at("step", 4)))
    (checkpoint,) = scratch.iterdir()
    half = scratch / f".{checkpoint.name}.abcd1234.tmp"
    half.write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt):
        TINY(arch, Slot(tmp_path / "w", "key", scratch, stopping_at("step", 1)))
    assert [path.name for path in scratch.iterdir()] == [checkpoint.name]


def test_a_training_keeps_best_and_last_and_their_history(arch: Architecture, tmp_path: Path) -> None:
    weights = TINY(arch, Slot(tmp_path / "w"))
    assert {"best.safetensors", "last.safetensors", "model.json", "history.json"} <= {p.name for p in weights.path.iterdir()}
    history = read_json(weights.path / "history.json")
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(0 <= row["val_miou"] <= 1 for row in history)
    module = models.load(weights.path)
    assert not module.training
    torch.testing.assert_close(module.state_dict(), read_tensors(weights.path / "best.safetensors"))


def test_weights_that_are_not_finite_stop_with_the_step_and_a_checkpoint_that_is_whole(
    arch: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "learning_rate", lambda train, done, epochs: 1e-3 if done < 0.5 else 1e18)
    with pytest.raises(
        FloatingPointError, match=r"epoch 2, step \d of 3; the last good checkpoint is .*checkpoint-key"
    ) as raised:
        TINY(arch, Slot(tmp_path / "w", "key", tmp_path / "scratch"))
    assert not (tmp_path / "w").exists()
    (checkpoint,) = (tmp_path / "scratch").iterdir()
    assert str(checkpoint) in str(raised.value)
    assert all(t.isfinite().all() for t in read_tensors(checkpoint).values() if t.is_floating_point())


def test_a_loss_that_is_not_finite_stops_too(arch: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "loss", lambda self, x, labels: self.module(x).mean() * float("nan"))
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at epoch 1, step 1 of 3; the last good checkpoint is none yet"
    ):
        TINY(arch, Slot(tmp_path / "w", "key", tmp_path / "scratch"))


def test_a_damaged_checkpoint_is_moved_aside_and_said(arch: Architecture, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        TINY(arch, Slot(tmp_path / "a", "key", scratch, stopping_at("step", 4)))
    (scratch / "checkpoint-key.safetensors").write_bytes(b"damaged")
    seen: list[str] = []
    TINY(arch, Slot(tmp_path / "a", "key", scratch, lambda event, **fields: seen.append(event)))
    assert "checkpoint-damaged" in seen
    assert (scratch / "checkpoint-key.damaged").read_bytes() == b"damaged"


def test_a_val_split_of_void_alone_gives_no_score_and_no_failure(
    arch: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "evaluate", lambda module, split, input_hw: None)
    weights = TINY(arch, Slot(tmp_path / "w"))
    assert [row["val_miou"] for row in read_json(weights.path / "history.json")] == [None, None]
    models.load(weights.path)
    assert describe(weights.path)["training"]["best_val_miou"] is None


def test_training_starts_from_earlier_weights_with_another_head(arch: Architecture, tmp_path: Path) -> None:
    earlier = TINY(arch, Slot(tmp_path / "earlier"))
    start = Start(str(earlier.path), {"Car": "Road"})
    again = dataclasses.replace(TINY, start=start, optim=Optim(lr=1e-9), ema=None, aux_weight=0.0, epochs=1)
    later = again(arch, Slot(tmp_path / "later"))
    old, new = (read_tensors(w.path / "best.safetensors")["decoder.high_classifier.weight"] for w in (earlier, later))
    torch.testing.assert_close(new[8], old[3], atol=1e-5, rtol=0)
    torch.testing.assert_close(new[3], old[3], atol=1e-5, rtol=0)


def test_start_refuses_other_architectures_and_unknown_classes(arch: Architecture, tmp_path: Path) -> None:
    earlier = TINY(arch, Slot(tmp_path / "earlier"))
    other = Derive("zoo:squeezenas-mac-small")(Slot(tmp_path / "other"))
    with pytest.raises(ValueError, match="squeezenas-lat-small"):
        dataclasses.replace(TINY, start=Start(str(earlier.path)))(other, Slot(tmp_path / "later"))
    start = Start(str(earlier.path), {"Cat": "Car"})
    with pytest.raises(ValueError, match="'Cat' is not a class of the dataset"):
        dataclasses.replace(TINY, start=start)(arch, Slot(tmp_path / "later"))
    with pytest.raises(FileNotFoundError, match="edgesmith weights import"):
        Start(str(tmp_path / "absent")).open()


@pytest.mark.parametrize("change", [{}, {"loss": "ohem", "optim": Optim("adamw", grad_clip=1.0)}])
def test_a_step_creates_no_tensor_off_its_device(change: dict[str, Any]) -> None:
    train = dataclasses.replace(TINY, **change)
    with torch.device("meta"):
        module = models.build(models.zoo("squeezenas-lat-small"), models.Segmentation(11))
    # A tensor that is made on the CPU by accident cannot be combined with those on the meta device.
    trainer = Trainer(train, module, torch.device("meta"), [1.0] * 11)
    batch = Batch(np.zeros((4, 64, 64, 3), np.uint8), np.zeros((4, 64, 64), np.uint8))
    assert trainer.step(batch, 0.1).device.type == "meta"


def test_batches_depend_on_seed_epoch_and_index_alone() -> None:
    from edgesmith.pipeline.data.spec import open_split

    split = open_split(STREET, "train")
    one = Batches(split, TINY.augment, 4, seed=1, workers=1, ahead=1)
    many = Batches(split, TINY.augment, 4, seed=1, workers=4, ahead=5)
    for a, b in zip(one.epoch(3), many.epoch(3), strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.labels, b.labels)
    first = next(iter(one.epoch(3)))
    late = list(one.epoch(3, first=2))
    assert len(late) == 1
    assert not np.array_equal(first.frames, next(iter(one.epoch(4))).frames)
    np.testing.assert_array_equal(late[0].frames, list(one.epoch(3))[2].frames)


def test_frames_of_different_sizes_without_a_crop_are_refused_with_the_fix() -> None:
    from edgesmith.pipeline.data.spec import open_split

    split = open_split(STREET, "train")

    class Odd:
        labels, digest = split.labels, split.digest

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Sample:
            name, frame, label = split[index]
            return Sample(name, frame[index:], label[index:])

    with pytest.raises(ValueError, match=r"different sizes \(61x96, 62x96, 63x96, 64x96\); set augment\.crop_hw"):
        next(Batches(Odd(), Augment(), 4, 0).epoch(0))


def test_a_batch_larger_than_the_split_is_refused() -> None:
    from edgesmith.pipeline.data.spec import open_split

    with pytest.raises(ValueError, match="batch: 16 frames"):
        Batches(open_split(STREET, "train"), TINY.augment, 16, seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"ema": 1.0},
        {"seed": -1},
    ],
)
def test_impossible_settings_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: "):
        dataclasses.replace(TINY, **change)


def test_an_architecture_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    write_json(file, models.zoo("squeezenas-mac-small").to_json())
    made = Derive(str(file))(Slot(tmp_path / "arch"))
    assert models.Arch.from_json(read_json(made.path / "arch.json")) == models.zoo("squeezenas-mac-small")
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"mine\.json"):
        Derive(str(file))(Slot(tmp_path / "arch2"))


def test_weights_open_only_unchanged(arch: Architecture, tmp_path: Path) -> None:
    weights = TINY(arch, Slot(tmp_path / "w"))
    (weights.path / "history.json").write_text("[]")
    with pytest.raises(ValueError, match=r"history\.json differs"):
        Weights(weights.path).check()


def test_only_the_splits_that_training_reads_enter_its_key() -> None:
    key = stage_key(TINY)
    more_test = dataclasses.replace(TINY, data=dataclasses.replace(STREET, test_frames=9))
    more_train = dataclasses.replace(TINY, data=dataclasses.replace(STREET, train_frames=16))
    assert stage_key(more_test) == key
    assert stage_key(more_train) != key
    assert stage_key(dataclasses.replace(TINY, checkpoint_seconds=9.0)) == key


def test_logit_adjustment_moves_the_logits_in_the_loss_alone() -> None:
    """The loss without it, of a network whose classifier's bias is larger by the log of the weights, is the loss with it."""
    weights = [0.5, 1.0, 2.5]
    train = dataclasses.replace(TINY, class_weights="log", ema=None, aux_weight=0.0)
    module = models.build(models.zoo("squeezenas-lat-small"), models.Segmentation(3))
    device = torch.device("cpu")
    plain = Trainer(train, module, device, weights)
    adjusted = Trainer(dataclasses.replace(train, logit_adjustment=0.75), module, device, weights)
    x, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    with torch.no_grad():
        module.eval()
        found, before = float(adjusted.loss(x, labels)), float(plain.loss(x, labels))
        module.decoder.low_classifier.bias += 0.75 * torch.tensor(weights).log()
        expected = float(plain.loss(x, labels))
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"logit_adjustment": 0.5}, "logit_adjustment: 0.5 goes with class_weights"),
        ({"logit_adjustment": 1.5, "class_weights": "log"}, "logit_adjustment: 1.5 is not between 0 and 1"),
    ],
)
def test_a_logit_adjustment_that_means_nothing_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Train(**change)
