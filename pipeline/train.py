"""Train: an architecture becomes weights, from scratch or from earlier weights with another head.

The configuration is here and imports no torch; the loop is in fit.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from edgesmith.models.arch import Arch
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD, Model, read_model

from .artifacts import Architecture, Slot, Weights
from .data.augment import Augment
from .data.spec import Data, splits_digest
from .training.optim import Optim


@dataclass(frozen=True)
class Start:
    """Earlier weights to begin with."""

    weights: str
    """Weights folder, as `edgesmith weights import` or an earlier training leaves it."""
    classes: dict[str, str] = field(default_factory=dict)
    """Class of this dataset -> class of those weights whose row of the head it begins with. Others begin at random,
    unless both name a class alike."""

    @cached_property
    def digest(self) -> str:
        """Identity for the stage's key: content of the folder and the mapping; where the folder lies does not matter."""
        from edgesmith.deploy.files import sha256_json

        return sha256_json([self.open().digest, self.classes])

    def open(self) -> Weights:
        """The weights, checked. Raises FileNotFoundError or ValueError with the command that makes them."""
        from .artifacts import open_artifact

        if not Path(self.weights).is_dir():
            raise FileNotFoundError(
                f"start.weights: {self.weights} is not a folder; make it with "
                f"`edgesmith weights import squeezenas FILE --out {self.weights}`"
            )
        return open_artifact(Weights, Path(self.weights))

    def model(self, arch: Arch) -> Model:
        """What the weights are of. Raises ValueError when that is not `arch`."""
        model = read_model(self.open().path)
        if model.arch.digest != arch.digest:
            raise ValueError(f"start.weights: {self.weights} holds {model.arch.name}, the recipe trains {arch.name}")
        return model

    def rows(self, names: tuple[str, ...], model: Model) -> dict[int, int]:
        """Row of the new head -> row of the earlier one that it begins with. Raises ValueError naming an unknown class."""
        for ours, theirs in self.classes.items():
            if ours not in names:
                raise ValueError(f"start.classes: {ours!r} is not a class of the dataset ({', '.join(names)})")
            if theirs not in model.classes:
                raise ValueError(
                    f"start.classes: {theirs!r} is not a class of the earlier weights ({', '.join(model.classes)})"
                )
        wanted = {n: self.classes.get(n, n) for n in names}
        return {i: model.classes.index(wanted[n]) for i, n in enumerate(names) if wanted[n] in model.classes}


@dataclass(frozen=True)
class Distil:
    """A trained network whose soft labels are learnt beside the true ones (FasterSeg, section 3.3).

    It sees the student's own augmented frames, in eval mode. The mean goes over all pixels: a teacher has a view of void ones
    too. Any family and size will do, as long as the classes are the same.
    """

    weights: str | None = None
    """The teacher's weights folder; null: the recipe's section `teacher`."""
    weight: float = 1.0
    """Of the divergence in the loss, beside the loss over the true labels."""
    divergence: Literal["student_teacher", "teacher_student"] = "student_teacher"
    """KL(student || teacher), as Eq. 4 has it, or KL(teacher || student), as the authors' code and most others have it."""
    per: Literal["pixel", "class"] = "pixel"
    """Mean over pixels, or over pixels and classes as in the authors' code, which divides by the number of classes too."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight: {self.weight} is not above 0; to learn without a teacher, leave distil out")

    @cached_property
    def digest(self) -> str:
        """Identity for the stage's key: content of the teacher's folder and the other fields; its place does not matter."""
        from edgesmith.deploy.files import sha256_json

        return sha256_json([self.open().digest, self.weight, self.divergence, self.per])

    def open(self) -> Weights:
        """The teacher's weights, checked. Raises FileNotFoundError or ValueError saying what to name."""
        from .artifacts import open_artifact

        if self.weights is None:
            raise ValueError("distil.weights: no teacher is named; a weights folder, or a section teacher in the recipe")
        if not Path(self.weights).is_dir():
            raise FileNotFoundError(f"distil.weights: {self.weights} is not a folder; name that of a training, as in RUN/train")
        return open_artifact(Weights, Path(self.weights))

    def model(self, names: tuple[str, ...]) -> Model:
        """What the teacher is. Raises ValueError unless its classes are `names`, in that order, and it takes our frames."""
        model = read_model(self.open().path)
        if model.classes != names:
            raise ValueError(
                f"distil.weights: the teacher in {self.weights} knows the classes {', '.join(model.classes)}, the dataset has "
                f"{', '.join(names)}; it must have learnt the same ones in the same order"
            )
        if (model.mean, model.std) != (IMAGENET_MEAN, IMAGENET_STD):
            raise ValueError(
                f"distil.weights: the teacher in {self.weights} takes frames of mean {model.mean} and std {model.std}, "
                f"training gives {IMAGENET_MEAN} and {IMAGENET_STD}"
            )
        return model


@dataclass(frozen=True)
class Train:
    """Architecture -> Weights."""

    data: Data | None = field(default=None, metadata={"identity": False})
    """Dataset; the recipe's own unless said otherwise. Trains on its train split, looks at its val split."""
    start: Start | None = None
    """Earlier weights, or null to start from scratch."""
    distil: Distil | None = None
    """A teacher to learn from beside the labels, or null."""
    input_hw: tuple[int, int] | None = None
    """Size at which the network runs when it is validated; the recipe's export.input_hw unless said otherwise. What it is
    trained at is the augmentation's scale."""
    epochs: int = 10
    """Passes over the train split."""
    batch: int = 8
    """Frames a step."""
    seed: int = 0
    """Seeds initial weights, order and augmentations."""
    augment: Augment = field(default_factory=Augment)
    """Random scale, crop, flip and colour of each frame."""
    loss: Literal["cross_entropy", "ohem"] = "cross_entropy"
    """Over all labelled pixels, or over the hard ones only (online hard example mining)."""
    ohem_threshold: float = 0.7
    """OHEM keeps pixels whose true class has at most this probability."""
    ohem_min_kept: float = 0.0625
    """OHEM keeps at least this share of the labelled pixels."""
    class_weights: Literal["none", "log"] = "none"
    """log: 1 / log(1.02 + share of the class in the train split), scaled to mean 1."""
    logit_adjustment: float = 0.0
    """Times the log of the class weights, added to the logits in the loss alone (Menon et al., "Long-tail learning via logit
    adjustment", ICLR 2021). Class weights make a network learn rare classes, and then predict them too often: 1 takes the
    latter back whole, 0 not at all."""
    aux_weight: float = 0.0
    """Weight of each auxiliary loss of the network (0: none)."""
    optim: Optim = field(default_factory=Optim)
    """Optimizer, and the course of its learning rate over the training."""
    ema: float | None = None
    """Decay a step of the moving average of the weights that is validated and kept; null to keep the weights themselves. Step
    t, from 0, has at most (1 + t) / (10 + t): the average looks back at a tenth of a short training, not at its beginning."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on CUDA; fp32 on CPU, where depthwise networks train no faster in bf16 (docs/measurements.md)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    channels_last: bool = True
    """Memory layout of the network and its maps; about twice as fast on a CPU (docs/measurements.md)."""
    val_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights go on to the next stage; both are kept. The best has the largest mean IoU over the classes that the
    val split shows."""
    checkpoint_seconds: float = field(default=60.0, metadata={"identity": False})
    """Time between checkpoints within an epoch; each epoch ends with one. Does not change the result."""
    version: ClassVar[int] = 3

    def __post_init__(self) -> None:
        limits: list[tuple[bool, str, str]] = [
            *((getattr(self, n) >= 1, n, "is not at least 1") for n in ("epochs", "batch", "val_every")),
            (self.checkpoint_seconds > 0, "checkpoint_seconds", "is not above 0"),
            *((getattr(self, n) >= 0, n, "is below 0") for n in ("aux_weight", "seed")),
            (0 <= self.logit_adjustment <= 1, "logit_adjustment", "is not between 0 and 1"),
            (
                not self.logit_adjustment or self.class_weights != "none",
                "logit_adjustment",
                "goes with class_weights, which it is an adjustment to",
            ),
            *((0 <= getattr(self, n) <= 1, n, "is not between 0 and 1") for n in ("ohem_threshold", "ohem_min_kept")),
            (self.ema is None or 0 < self.ema < 1, "ema", "is not between 0 and 1"),
            (self.input_hw is None or min(self.input_hw) >= 64, "input_hw", "is below 64x64"),
        ]
        if problems := [f"{name}: {getattr(self, name)} {what}" for good, name, what in limits if not good]:
            raise ValueError("\n".join(problems))

    @property
    def environment(self) -> dict[str, str]:
        """What the result depends on beside configuration and architecture: the frames of the two splits."""
        return {} if self.data is None else {"data": splits_digest(self.data, ("train", "val"))}

    def __call__(self, arch: Architecture, slot: Slot) -> Weights:
        """Train `arch`. Goes on from the checkpoint in the slot's scratch folder when that belongs to the same key.

        Raises FloatingPointError naming the step and the last good checkpoint when the loss is no longer finite.
        """
        from .training.fit import fit

        return fit(self, arch, slot)
