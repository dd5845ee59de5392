"""The training loop. Its state after each step is a function of configuration, data and initial weights alone.

So a training that is killed at any moment goes on from its last checkpoint to the same weights, bit for bit on one CPU with one
number of threads (sums in another order differ in their last bits): batches depend on (seed, epoch, index) only, and a
checkpoint holds weights, moving average, batch norm statistics, optimizer state, best weights, random state, history and place,
in one file that is replaced atomically.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith import models
from edgesmith.deploy.files import write_bytes, write_json
from edgesmith.models.arch import Arch, Segmentation
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD, Model, model_json
from edgesmith.models.weights import read_tensors, tensor_bytes, transfer

from . import losses
from .artifacts import Architecture, Slot, Weights
from .checkpoint import Checkpoint, Progress
from .data.augment import Cached
from .data.dataset import LabelSet, Split
from .data.spec import open_split
from .derive import read_architecture
from .device import cache_bytes, keep_freed_memory, normalisation, normalise, pick_device, pick_precision
from .loader import Batch, Batches
from .metrics import ConfusionMatrix
from .optim import learning_rate, make_optimizer
from .reference import labels_by_torch

if TYPE_CHECKING:
    from .train import Train


def fit(train: Train, arch_artifact: Architecture, slot: Slot) -> Weights:
    """Run the training that `train` describes and write its Weights."""
    if train.data is None:
        raise ValueError("train.data: no dataset is named")
    keep_freed_memory()
    arch = read_architecture(arch_artifact)
    limit = cache_bytes()
    train_split, val_split = (Cached(open_split(train.data, name), limit // 2) for name in ("train", "val"))
    device = pick_device(train.device)
    module, started = initial_module(train, arch, train_split.labels)
    trainer = Trainer(train, module, device, class_weights_of(train, train_split))
    if started:
        slot.log("started-from", weights=str(train.start and train.start.weights), fresh=started)
    batches = Batches(train_split, train.augment, train.batch, train.seed)
    progress = _train(train, trainer, batches, val_split, slot)
    parents = [arch_artifact, *([train.start.open()] if train.start else [])]
    with slot.writing(Weights, parents, seed=train.seed, device=str(device), precision=trainer.precision) as folder:
        _write(folder, train, arch, train_split.labels, trainer, progress)
    return Weights(slot.out)


def _train(train: Train, trainer: Trainer, batches: Batches, val: Split, slot: Slot) -> Progress:
    checkpoint = Checkpoint.of(slot)
    progress = checkpoint.load(trainer) or Progress()
    if checkpoint.damaged is not None:
        slot.log("checkpoint-damaged", moved_to=str(checkpoint.damaged), going_on="from the start")
    if progress.epoch or progress.step:
        slot.log("resumed", epoch=progress.epoch + 1, step=progress.step)
    steps = len(batches)
    saved = time.monotonic()
    while progress.epoch < train.epochs:
        since, start = time.monotonic(), progress.step
        for batch in batches.epoch(progress.epoch, progress.step):
            lr = learning_rate(train, (progress.epoch * steps + progress.step) / (train.epochs * steps))
            loss = float(trainer.step(batch, lr))
            _require_finite(math.isfinite(loss), f"the loss is {loss}", train, progress, steps, checkpoint)
            progress.step += 1
            progress.loss += loss
            slot.log("step", epoch=progress.epoch + 1, step=progress.step, steps=steps, epochs=train.epochs, loss=loss, lr=lr)
            if progress.step < steps and time.monotonic() - saved > train.checkpoint_seconds:
                _require_finite(trainer.finite(), "a weight is no longer finite", train, progress, steps, checkpoint)
                checkpoint.save(trainer, progress)
                saved = time.monotonic()
        _require_finite(trainer.finite(), "a weight is no longer finite", train, progress, steps, checkpoint)
        _end_epoch(train, trainer, progress, val, steps, lr)
        seconds = (time.monotonic() - since) * steps / max(1, steps - start)
        progress.history[-1]["seconds"] = round(seconds, 2)
        slot.log("epoch", epochs=train.epochs, **progress.history[-1])
        checkpoint.save(trainer, progress)
        saved = time.monotonic()
    return progress


def _require_finite(finite: bool, what: str, train: Train, progress: Progress, steps: int, checkpoint: Checkpoint) -> None:
    """Raise FloatingPointError naming the step, the last good checkpoint and what may help unless `finite`.

    Asked of the loss at each step and of the weights before each checkpoint, so that no checkpoint is ever a broken one.
    """
    if finite:
        return
    raise FloatingPointError(
        f"{what} at epoch {progress.epoch + 1}, step {min(progress.step + 1, steps)} of {steps}; the last good checkpoint is "
        f"{checkpoint.describe()}. Lower train.lr (now {train.lr:g}), set train.grad_clip, or set train.precision to fp32"
    )


def _end_epoch(train: Train, trainer: Trainer, progress: Progress, val: Split, steps: int, lr: float) -> None:
    epoch = progress.epoch + 1
    miou = None
    if epoch % train.val_every == 0 or epoch == train.epochs:
        miou = evaluate(trainer.averaged, val, train.input_hw)
        if progress.best_miou is None or (miou is not None and miou > progress.best_miou):
            progress.best_miou = miou
            trainer.remember_best()
    progress.history.append({"epoch": epoch, "loss": progress.loss / steps, "lr": lr, "val_miou": miou})
    progress.epoch, progress.step, progress.loss = epoch, 0, 0.0


def _write(folder: Path, train: Train, arch: Arch, labels: LabelSet, trainer: Trainer, progress: Progress) -> None:
    write_bytes(folder / "last.safetensors", tensor_bytes(trainer.averaged.state_dict()))
    write_bytes(folder / "best.safetensors", tensor_bytes(trainer.best))
    model = Model(arch, labels.names, labels.palette, IMAGENET_MEAN, IMAGENET_STD, f"{train.keep}.safetensors")
    write_json(folder / "model.json", model_json(model))
    # Wall times stay out of the payload, so that a resumed run and an undisturbed one have the same digest.
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in progress.history]
    write_json(folder / "history.json", history)


class Trainer:
    """Module, moving average and optimizer on one device, and the step that advances them."""

    def __init__(self, train: Train, module: nn.Module, device: torch.device, class_weights: list[float] | None) -> None:
        self.train = train
        self.device = device
        self.precision = pick_precision(train.precision, device)
        layout = torch.channels_last if train.channels_last else torch.contiguous_format
        self.module = module.to(device=device, memory_format=layout).train()  # type: ignore[call-overload]
        self.averaged = self.module
        if train.ema is not None:
            self.averaged = _copy_of(self.module).eval()
        self.best: dict[str, Tensor] = {}
        self.optimizer = make_optimizer(train, self.module)
        self.weight = None if class_weights is None else torch.tensor(class_weights, device=device)
        self.mean, self.std = normalisation(device)

    def step(self, batch: Batch, lr: float) -> Tensor:
        """One step at learning rate `lr`; returns the loss. Batch: frames uint8 (N, H, W, 3), labels uint8 (N, H, W)."""
        self.module.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        frames = torch.as_tensor(batch.frames).to(self.device, non_blocking=True)
        labels = torch.as_tensor(batch.labels).to(self.device, non_blocking=True)
        loss = self.loss(normalise(frames, self.mean, self.std, self.train.channels_last), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.train.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.train.grad_clip)
        self.optimizer.step()
        if self.train.ema is not None:
            self._average(self.train.ema)
        return loss.detach()

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """Loss of normalised x (N, 3, H, W) against labels (N, H, W), auxiliary losses included."""
        with self._autocast():
            outputs = self.module.train_logits(x) if self.train.aux_weight else (self.module.low_logits(x),)
        main, *auxiliary = (self._pixel_loss(o.float(), labels) for o in outputs)
        return main + self.train.aux_weight * sum(auxiliary, main.new_zeros(()))

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()

    def finite(self) -> bool:
        """Whether every number of the module is finite."""
        floats = [t for t in self.module.state_dict().values() if t.is_floating_point()]
        return bool(torch.isfinite(torch.stack(torch._foreach_norm(floats))).all())

    def remember_best(self) -> None:
        self.best = {k: v.detach().clone() for k, v in self.averaged.state_dict().items()}

    def _pixel_loss(self, low: Tensor, labels: Tensor) -> Tensor:
        align = bool(self.module.enlarge_align_corners)
        logits = F.interpolate(low, labels.shape[-2:], mode="bilinear", align_corners=align)
        if self.train.loss == "cross_entropy":
            return losses.cross_entropy(logits, labels, self.weight)
        t = self.train
        return losses.ohem(logits, labels, self.weight, threshold=t.ohem_threshold, min_kept=t.ohem_min_kept)

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        average = self.averaged.state_dict()
        now = self.module.state_dict()
        floats = [k for k, v in now.items() if v.is_floating_point()]
        torch._foreach_lerp_([average[k] for k in floats], [now[k] for k in floats], 1 - decay)
        for k in now.keys() - set(floats):
            average[k].copy_(now[k])


def initial_module(train: Train, arch: Arch, labels: LabelSet) -> tuple[nn.Module, list[str]]:
    """The module to train, and the names of the parameters that start fresh although earlier weights were given."""
    torch.manual_seed(train.seed)
    module = models.build(arch, Segmentation(len(labels.names)))
    if train.start is None:
        return module, []
    model = train.start.model(arch)
    file = Path(train.start.weights) / model.weights
    return module, transfer(module, read_tensors(file), str(file), train.start.rows(labels.names, model))


def class_weights_of(train: Train, split: Split) -> list[float] | None:
    if train.class_weights == "none":
        return None
    counts = np.zeros(len(split.labels.names), np.int64)
    for i in range(len(split)):
        counts += np.bincount(split[i].label.ravel(), minlength=256)[: len(counts)]
    return losses.class_weights([float(c) for c in counts / max(1, counts.sum())])


def evaluate(module: nn.Module, split: Split, input_hw: tuple[int, int] | None) -> float | None:
    """mIoU of `module` over `split`, the network at `input_hw` (default: each frame's size), labels at the frame's.

    None when the split has no labelled pixel.
    """
    matrix = ConfusionMatrix(len(split.labels.names))
    training = module.training
    module.eval()
    for i in range(len(split)):
        sample = split[i]
        matrix.add(sample.label, labels_by_torch(module, sample.frame, IMAGENET_MEAN, IMAGENET_STD, input_hw))
    module.train(training)
    return None if math.isnan(matrix.miou) else matrix.miou


def _copy_of(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    for p in twin.parameters():
        p.requires_grad_(False)
    return twin
