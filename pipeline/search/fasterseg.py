"""FasterSeg search (Chen, Gong, Liu, Zhang, Li, Wang, 2020): weights and two architectures of one supernet, in turn.

The supernet is first trained with the architecture left even: every step adds up passes with the widest, the narrowest and two
random widths. Then steps alternate between two disjoint halves of the train split: the weights descend on one, alpha, beta and
gamma on the other with

    L = L_seg + lambda * Latency    (Eq. 8; the latency by Eq. 3)

to first order. The teacher shares the weights, takes the widest ratios and no latency (section 3.3). After each epoch the sets
of branches are scored: mIoU on the val split is that of the supernet's head for the set, latency that of the network that the
logits mean. Eq. 5 and 6 choose by the last epoch's. The configuration is here and imports no torch; the loop is in
fasterseg_loop.py.

What the paper leaves open follows the released code: pretraining on the weights' half alone; Adam with betas 0.5 and 0.999;
losses of all heads and passes added up, at an eighth of the crop's size; ACC of Eq. 5 from the supernet with all its operators.
What departs from paper or code, and why:

* Teacher and student learn in one step on the summed loss, as in the released code; the paper updates one after the other. The
  sum lets one forward do for what the passes have in common.
* Pretraining takes the teacher's stem for the widest pass and the student's for the others. The released code trains one stem,
  which leaves the other untrained when the search begins.
* The FPS band looks at all of the student's sets of branches that can be derived, not at two.
* The val split scores the sets of branches, as Figure 4 does; Appendix H never uses it in the search. Weights and architecture
  learn from the train split alone.
* The width that is drawn masks channels; in the released code it scales whole maps, which tells widths hardly apart
  (fasterseg_relaxed.py).
* ACC is that at the most probable widths, with batch norm statistics gathered for these over whole training frames
  (`recalibrate`). The released code draws the widths and takes the statistics of all passes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Segmentation
from edgesmith.pipeline.artifacts import SearchResult, Slot, open_artifact
from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.spec import Data, named, open_split, splits_digest, user_path
from edgesmith.pipeline.training.optim import Optim

from .fasterseg_costs import Costs, costs, pieces, require_whole
from .fasterseg_derive import Target
from .fasterseg_space import LEAST_LAYERS, NETS, Net, Scales, Space
from .resources import Resource, task_and_size

if TYPE_CHECKING:
    from edgesmith.calibration.tables import LatencyTable
    from edgesmith.models.parts import Part

LAYERS_FOR_SCALE = (3, 5, 8)
"""Layers without which no branch that ends at scale 0, 1 or 2 can be derived."""
PRETRAINED = "pretrained.safetensors"
"""In a SearchResult: the supernet's weights between the two phases."""


@dataclass(frozen=True)
class Phase:
    """One of the two phases of a search: how long it takes and how the weights learn in it."""

    epochs: int = 20
    """Passes over the half that the weights learn from."""
    batch: int = 2
    """Frames a step."""
    augment: Augment = field(default_factory=Augment)
    """Random scale, crop, flip and colour of each frame."""
    optim: Optim = field(default_factory=Optim)
    """Optimizer of the weights, and the course of its learning rate over this phase."""

    def __post_init__(self) -> None:
        if problems := [
            f"{name}: {getattr(self, name)} is below {least}"
            for name, least in (("epochs", 0), ("batch", 1))
            if getattr(self, name) < least
        ]:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class FasterSegSearch:
    """-> SearchResult: logits of student and teacher, the networks that they mean with their scores, and the supernet."""

    method: Literal["fasterseg"] = field(default="fasterseg", metadata={"identity": False})  # the stage's name is in the key
    """Which search this is."""
    data: Data | None = field(default=None, metadata={"identity": False})
    """Dataset; the recipe's own unless said otherwise. Learns on two halves of its train split, evaluates on its val split."""
    space: Space = field(default_factory=Space)
    """What is searched."""
    teacher: bool = True
    """Search a teacher beside the student, in the same supernet (section 3.3)."""
    resource: Resource = "macs"
    """What the student is to be sparing with: multiply-accumulates (GMAC), parameters (millions), activations (MB), or latency
    (ms, from `table`)."""
    table: str | None = field(default=None, metadata={"identity": False})
    """Latency table: one that `edgesmith table measure` left, or the authors' for a GTX 1080 Ti. Its content enters the key."""
    input_hw: tuple[int, int] | None = None
    """Size at which the supernet is evaluated and costs count; the recipe's export size unless said otherwise."""
    decoupled: bool = True
    """Regularise operators, resolutions and widths apart (Eq. 3). false: one latency of all three, as in Figure 4."""
    latency_weights: tuple[float, float, float] | Literal["balanced"] = (0.001, 0.997, 0.002)
    """w1, w2, w3 of Eq. 3, for operators, resolutions and widths; of no use where not decoupled. "balanced": solved from the
    costs so that all three matter alike, as in footnote 1."""
    latency_weight: float = 0.01
    """lambda of Eq. 8, a unit of the resource."""
    fps_band: tuple[float, float] | None = None
    """Frames a second between which the student is to end: lambda is halved after an epoch in which one of its networks reaches
    the upper bound, else doubled where one is down at the lower. Null: lambda is constant."""
    target: Target = field(default_factory=Target)
    """Which set of branches is best (Eq. 5 and 6). T is in the resource's unit; 8.3 ms means a GTX 1080 Ti."""
    pretrained: str | None = field(default=None, metadata={"identity": False})
    """Folder of another search whose pretraining to begin with, so that searches can be compared from equal starts. Its content
    enters the key. Null: pretrain."""
    pretrain: Phase = field(default_factory=Phase)
    """Before the architecture learns."""
    alternate: Phase = field(default_factory=Phase)
    """While weights and architecture learn in turn. 0 epochs: a search that others begin with."""
    arch_lr: float = 3e-4
    """Learning rate of alpha, beta and gamma, by Adam; it does not fall."""
    arch_betas: tuple[float, float] = (0.5, 0.999)
    """Of that Adam."""
    ohem_threshold: float = 0.7
    """The loss counts pixels whose true class has at most this probability (online hard example mining)."""
    ohem_min_kept: float = 0.0625
    """At least this share of the labelled pixels counts."""
    seed: int = 0
    """Seeds initial weights, halves, order, augmentations and widths."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on CUDA, fp32 on CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    evaluate_hw: tuple[int, int] | None = None
    """Size at which the supernet is evaluated; input_hw unless said otherwise. Weights learnt on smaller frames want it."""
    evaluate_every: int = 1
    """Epochs of the search between evaluations of the sets of branches; the last epoch is always evaluated."""
    val_frames: int | None = None
    """Frames of the val split, spread evenly, that count in an evaluation; null for all of them."""
    recalibrate: int = 16
    """Whole training frames, spread evenly, over which batch norm statistics are gathered before an evaluation, at
    least 2; 0: the training's own."""
    checkpoint_seconds: float = field(default=300.0, metadata={"identity": False})
    """Time between checkpoints within an epoch; each epoch ends with one. Does not change the result."""
    version: ClassVar[int] = 8

    def __post_init__(self) -> None:
        low, high = self.fps_band or (1.0, 2.0)
        weights = (1.0,) if self.latency_weights == "balanced" else self.latency_weights
        limits: list[tuple[bool, str, str]] = [
            (self.evaluate_every >= 1, "evaluate_every", "is not at least 1"),
            *((getattr(self, n) > 0, n, "is not above 0") for n in ("arch_lr", "checkpoint_seconds")),
            *((getattr(self, n) >= 0, n, "is below 0") for n in ("latency_weight", "seed", "recalibrate")),
            (self.recalibrate != 1, "recalibrate", "frame has no variance where maps are pooled; 0, or at least 2"),
            *((0 <= getattr(self, n) <= 1, n, "is not between 0 and 1") for n in ("ohem_threshold", "ohem_min_kept")),
            (all(0 <= b < 1 for b in self.arch_betas), "arch_betas", "are not two numbers from 0 to below 1"),
            (0 < low < high, "fps_band", "is not two numbers above 0, the smaller first"),
            (all(w >= 0 for w in weights) and sum(weights) > 0, "latency_weights", "are not three numbers of at least 0"),
            (self.val_frames is None or self.val_frames >= 1, "val_frames", "is not at least 1"),
            *((min(getattr(self, n) or (64, 64)) >= 64, n, "is below 64x64") for n in ("input_hw", "evaluate_hw")),
        ]
        problems = [f"{name}: {getattr(self, name)} {what}" for good, name, what in limits if not good]
        if (self.resource == "latency") != (self.table is not None):
            problems.append("table: goes with resource latency, which cannot do without: `edgesmith table measure` makes one")
        if self.fps_band is not None and self.resource != "latency":
            problems.append(f"fps_band: frames a second need resource latency, not {self.resource}")
        if self.fps_band is not None and self.latency_weight == 0:
            problems.append("fps_band: it halves and doubles latency_weight, and there is nothing to double in 0")
        if not self.choices:
            problems.append(f"space: {self.space.layers} layers leave no place for a downsampling; needs {LAYERS_FOR_SCALE[1]}")
        elif self.space.layers < LEAST_LAYERS:
            problems.append(f"space: {self.space.layers} layers are too few for a supernet; needs {LEAST_LAYERS}")
        if self.pretrained is not None and self.alternate.epochs == 0:
            problems.append("pretrained: with alternate.epochs 0 there is nothing left to do")
        if self.pretrained is None and self.pretrain.epochs + self.alternate.epochs == 0:
            problems.append("alternate: neither phase has an epoch")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def nets(self) -> tuple[Net, ...]:
        """The networks that are searched."""
        return NETS if self.teacher else ("student",)

    @property
    def choices(self) -> tuple[Scales, ...]:
        """The sets of branches for which the space has enough layers to derive a network."""
        return tuple(scales for scales in self.space.choices() if self.space.layers >= LAYERS_FOR_SCALE[max(scales)])

    @cached_property
    def split_digests(self) -> dict[str, str]:
        """Digests of the frames and masks that the search learns from and is evaluated on."""
        return {} if self.data is None else {name: splits_digest(self.data, (name,)) for name in ("train", "val")}

    @property
    def environment(self) -> dict[str, str]:
        """What the result depends on beside the configuration: the frames of the splits, the table, earlier pretraining."""
        found = dict(self.split_digests)
        if self.table is not None:
            found["table"] = self._table.digest
        if self.pretrained is not None:
            found["pretrained"] = str(self.open_pretrained().sidecar["files"][PRETRAINED])
        return found

    def costs(self) -> Costs:
        """What the pieces of the space cost. Raises ValueError or OSError where dataset, size or table do not fit."""
        task, input_hw = task_and_size(self.data, self.input_hw)
        return costs(self.space, task, self.resource, input_hw, None if self.table is None else self._table)

    def pieces(self) -> tuple[dict[str, Part], Segmentation, tuple[int, int]]:
        """What a latency table for this search has entries for, by key; what for and at which size it is to be measured."""
        task, input_hw = task_and_size(self.data, self.input_hw)
        return pieces(self.space, task, input_hw, self.nets), task, input_hw

    def require_startable(self) -> None:
        """Raise ValueError or OSError naming the field unless dataset, table and earlier pretraining let the search begin."""
        frames = len(open_split(named(self.data, "search.data"), "train")) // 2
        phases = {"alternate": self.alternate, **({"pretrain": self.pretrain} if self.pretrained is None else {})}
        for name, phase in phases.items():  # one of 0 epochs too: its batches are made all the same
            if frames < phase.batch:
                raise ValueError(
                    f"search.{name}.batch: {phase.batch} frames a step, but half the train split has only {frames}"
                )
        if self.table is not None:
            require_whole(self._table, self.space, *task_and_size(self.data, self.input_hw), self.nets)
        found = self.costs()
        if self.decoupled and self.latency_weights == "balanced":
            from .fasterseg_latency import RelaxedLatency

            RelaxedLatency(self.space, found).sensitivity().weights()
        if self.pretrained is not None:
            self.open_pretrained()

    def open_pretrained(self) -> SearchResult:
        """The search that `pretrained` names, checked. Raises FileNotFoundError or ValueError saying what to name instead."""
        folder = user_path("search.pretrained", str(self.pretrained))
        if not folder.is_dir():
            raise FileNotFoundError(f"search.pretrained: {folder} is not a folder; name another search's, as in RUN/search")
        found = open_artifact(SearchResult, folder)
        if not (folder / PRETRAINED).is_file():
            raise ValueError(f"search.pretrained: {folder} has no {PRETRAINED}; name the search that did the pretraining")
        if found.sidecar.get("seed") != self.seed:
            raise ValueError(
                f"search.pretrained: {folder} has seed {found.sidecar.get('seed')}, this search {self.seed}; the halves of the "
                "train split depend on it, and these weights would have seen the architecture's; give both one seed"
            )
        summary = read_json(folder / "search.json")
        if summary.get("version") != self.version:
            raise ValueError(
                f"search.pretrained: {folder} was made by another version of the search than {self.version}, and its supernet "
                "may have been another; do the pretraining again"
            )
        if self.data is not None and summary["train_split"] != self.split_digests["train"]:
            raise ValueError(
                f"search.pretrained: {folder} learnt from another train split than that of search.data; these weights may have "
                "seen the architecture's half of this one; do the pretraining on it"
            )
        return found

    @cached_property
    def _table(self) -> LatencyTable:
        from edgesmith.calibration.tables import open_table

        return open_table(user_path("search.table", str(self.table)))

    def __call__(self, slot: Slot) -> SearchResult:
        """Search. Goes on from the checkpoints in the slot's scratch folder when they belong to the same key.

        Raises FloatingPointError naming the step and the last good checkpoint when a number is no longer finite.
        """
        from .fasterseg_loop import run_search

        return run_search(self, slot)
