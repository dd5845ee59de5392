"""Training of one network: what a step does, how an epoch ends, what is written. The loop around it is in loop.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith import models
from edgesmith.deploy.files import write_bytes, write_json
from edgesmith.models.arch import Arch, Segmentation
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD, Model, model_json
from edgesmith.models.weights import read_tensors, tensor_bytes, transfer
from edgesmith.pipeline.artifacts import Architecture, Slot, Weights
from edgesmith.pipeline.data.dataset import LabelSet, Split
from edgesmith.pipeline.data.spec import named
from edgesmith.pipeline.derive import read_architecture
from edgesmith.pipeline.metrics import ConfusionMatrix, or_none
from edgesmith.pipeline.reference import logits_by_torch

from . import losses
from .checkpoint import Progress
from .device import Placement, all_finite, keep_freed_memory, pick_device, pick_precision, train_and_val
from .loader import Batch, Batches
from .loop import advice, run_epochs, untimed
from .torch_optim import clipped_step, learning_rate, make_optimizer, optimizer_state, set_learning_rate

if TYPE_CHECKING:
    from edgesmith.pipeline.train import Distil, Train


def fit(train: Train, arch_artifact: Architecture, slot: Slot) -> Weights:
    """Run the training that `train` describes and write its Weights."""
    keep_freed_memory()
    arch = read_architecture(arch_artifact)
    train_split, val_split = train_and_val(named(train.data, "train.data"))
    device = pick_device(train.device)
    taught = None if train.distil is None else teacher_module(train.distil, train_split.labels)
    module, started = initial_module(train, arch, train_split.labels)  # seeds what is random, so it comes after the teacher
    trainer = Trainer(train, module, device, class_weights_of(train, train_split), taught)
    if started:
        slot.log("started-from", weights=str(train.start and train.start.weights), fresh=started)
    batches = Batches(train_split, train.augment, train.batch, train.seed)
    progress = run_epochs(Training(train, trainer, val_split), batches, train.epochs, train.checkpoint_seconds, slot)
    parents = [arch_artifact, *(given.open() for given in (train.start, train.distil) if given)]
    with slot.writing(Weights, parents, seed=train.seed, device=str(device), precision=trainer.placement.precision) as folder:
        _write(folder, train, arch, train_split.labels, trainer, progress)
    return Weights(slot.out)


def _write(folder: Path, train: Train, arch: Arch, labels: LabelSet, trainer: Trainer, progress: Progress) -> None:
    write_bytes(folder / "last.safetensors", tensor_bytes(trainer.averaged.state_dict()))
    write_bytes(folder / "best.safetensors", tensor_bytes(trainer.best))
    model = Model(arch, labels.names, labels.palette, IMAGENET_MEAN, IMAGENET_STD, f"{train.keep}.safetensors")
    write_json(folder / "model.json", model_json(model))
    write_json(folder / "history.json", untimed(progress.history))


class Training:
    """A training as the loop advances it: the trainer, its learning rate, and validation at the end of epochs."""

    def __init__(self, train: Train, trainer: Trainer, val: Split) -> None:
        self.train, self.trainer, self.val = train, trainer, val
        self.place = trainer.placement.place
        self.advice = advice("train", "train.optim", train.optim)
        self.lr = 0.0

    @property
    def best(self) -> dict[str, Tensor]:
        return self.trainer.best

    @best.setter
    def best(self, tensors: dict[str, Tensor]) -> None:
        self.trainer.best = tensors

    def advance(self, batch: Batch, progress: Progress, done: float) -> dict[str, float]:
        self.lr = learning_rate(self.train.optim, done, self.train.epochs)
        return {"loss": float(self.trainer.step(batch, self.lr)), "lr": self.lr}

    def end_epoch(self, progress: Progress) -> dict[str, Any]:
        epoch = progress.epoch + 1
        miou = None
        if epoch % self.train.val_every == 0 or epoch == self.train.epochs:
            miou = evaluate(self.trainer.averaged, self.val, self.train.input_hw)
            if progress.best_miou is None or (miou is not None and miou > progress.best_miou):
                progress.best_miou = miou
                self.trainer.remember_best()
        return {"lr": self.lr, "val_miou": miou}

    def finite(self) -> bool:
        return all_finite(self.trainer.module)

    def resume(self, progress: Progress) -> None:
        """Nothing: a network in training keeps its shape."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        for k, v in self.trainer.module.state_dict().items():
            yield f"module/{k}", v
        if self.trainer.averaged is not self.trainer.module:
            for k, v in self.trainer.averaged.state_dict().items():
                yield f"average/{k}", v
            yield "averagings", self.trainer.averagings
        for k, v in optimizer_state(self.trainer.optimizer):
            yield f"optimizer/{k}", v


class Trainer:
    """Module, moving average and optimizer on one device, and the step that advances them. `teacher` is what distil names."""

    def __init__(
        self,
        train: Train,
        module: nn.Module,
        device: torch.device,
        class_weights: list[float] | None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.train = train
        self.placement = Placement(device, pick_precision(train.precision, device), train.channels_last)
        self.module: Any = self.placement.module(module).train()
        self.teacher: Any = None if teacher is None else self.placement.module(teacher).eval().requires_grad_(False)
        self.averaged = self.module
        self.averagings = torch.zeros((), dtype=torch.int64)
        """How often the moving average took the weights in; a tensor, so that a checkpoint holds it."""
        if train.ema is not None:
            self.averaged = _copy_of(self.module).eval()
        self.best: dict[str, Tensor] = {}
        self.optimizer = make_optimizer(train.optim, self.module)
        self.weight = None if class_weights is None else torch.tensor(class_weights, device=device)
        self.shift: Tensor | None = None
        if self.weight is not None and train.logit_adjustment:
            self.shift = train.logit_adjustment * self.weight.log()[:, None, None]  # (C, 1, 1)

    def step(self, batch: Batch, lr: float) -> Tensor:
        """One step at learning rate `lr`; returns the loss. Batch: frames uint8 (N, H, W, 3), labels uint8 (N, H, W)."""
        self.module.train()
        set_learning_rate(self.optimizer, lr)
        loss = self.loss(*self.placement.batch(batch))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        clipped_step(self.optimizer, self.module, self.train.optim.grad_clip)
        if self.train.ema is not None:
            self._average(self.train.ema)
        return loss.detach()

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """Loss of normalised x (N, 3, H, W) against labels (N, H, W), auxiliary losses and the teacher's included."""
        taught = self._taught(x)  # before the student's maps fill the memory
        with self.placement.autocast():
            outputs = self.module.train_logits(x) if self.train.aux_weight else (self.module.low_logits(x),)
        logits = [enlarged(self.module, o, labels) for o in outputs]
        main, *auxiliary = (self._pixel_loss(each, labels) for each in logits)
        loss: Tensor = main + self.train.aux_weight * sum(auxiliary, main.new_zeros(()))
        if taught is None:
            return loss
        teacher, distil = taught
        return loss + distil.weight * losses.divergence(
            logits[0], enlarged(self.teacher, teacher, labels), distil.divergence, distil.per
        )

    @torch.no_grad()
    def _taught(self, x: Tensor) -> tuple[Tensor, Distil] | None:
        """The teacher's low-resolution logits, where there is one."""
        if self.train.distil is None:
            return None
        with self.placement.autocast():
            return self.teacher.low_logits(x), self.train.distil

    def remember_best(self) -> None:
        self.best = {k: v.detach().clone() for k, v in self.averaged.state_dict().items()}

    def _pixel_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.shift is not None:
            logits = logits + self.shift
        if self.train.loss == "cross_entropy":
            return losses.cross_entropy(logits, labels, self.weight)
        t = self.train
        return losses.ohem(logits, labels, self.weight, threshold=t.ohem_threshold, min_kept=t.ohem_min_kept)

    @torch.no_grad()
    def _average(self, most: float) -> None:
        done = int(self.averagings)
        decay = min(most, (1 + done) / (10 + done))
        self.averagings += 1
        average = self.averaged.state_dict()
        now = self.module.state_dict()
        floats = [k for k, v in now.items() if v.is_floating_point()]
        torch._foreach_lerp_([average[k] for k in floats], [now[k] for k in floats], 1 - decay)
        for k in now.keys() - set(floats):
            average[k].copy_(now[k])


def enlarged(module: Any, low: Tensor, labels: Tensor) -> Tensor:
    """`low`, logits of `module`, as float at the size of the labels (N, H, W)."""
    align = bool(module.enlarge_align_corners)
    return F.interpolate(low.float(), labels.shape[-2:], mode="bilinear", align_corners=align)


def teacher_module(distil: Distil, labels: LabelSet) -> nn.Module:
    """The network that `distil` names. Raises ValueError unless its classes are those of `labels`."""
    distil.model(labels.names)
    return models.load(distil.open().path)


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


def evaluate(
    module: nn.Module, split: Split, input_hw: tuple[int, int] | None, frames: Sequence[int] | None = None
) -> float | None:
    """mIoU of `module` over `split`, the network at `input_hw` (default: each frame's size), labels at the frame's.

    The mean goes over the classes that the frames show: networks are chosen by it (see `metrics`).
    `frames` are the indices to look at, default all. None when there is no labelled pixel.
    """
    return evaluate_heads(module, 1, split, input_hw, frames)[0]


def evaluate_heads(
    module: nn.Module, heads: int, split: Split, input_hw: tuple[int, int] | None, frames: Sequence[int] | None = None
) -> list[float | None]:
    """As `evaluate`, for a module whose logits (N, heads * classes, h, w) are those of several networks."""
    classes = len(split.labels.names)
    matrices = [ConfusionMatrix(classes) for _ in range(heads)]
    for i in range(len(split)) if frames is None else frames:
        sample = split[i]
        logits = logits_by_torch(module, sample.frame[None], IMAGENET_MEAN, IMAGENET_STD, input_hw)[0]
        for matrix, one in zip(matrices, logits.view(heads, classes, *logits.shape[1:]), strict=True):
            matrix.add(sample.label, one.argmax(0).to(torch.uint8).cpu().numpy())
    return [or_none(matrix.labelled_miou) for matrix in matrices]


def _copy_of(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    for p in twin.parameters():
        p.requires_grad_(False)
    return twin
