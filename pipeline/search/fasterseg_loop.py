"""The FasterSeg search as it runs: what a step of each phase does, and how sets of branches are scored.

The loop around the steps is the trainings' own (loop.py); each phase has a checkpoint of its own. Widths are drawn from noise
that depends on (seed, epoch, step) alone, so that a search that is killed goes on to the same end.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgesmith.deploy.files import read_json, sha256_json, write_bytes, write_json
from edgesmith.models.arch import Segmentation
from edgesmith.models.weights import load_into, read_tensors, tensor_pieces
from edgesmith.pipeline.artifacts import SearchResult, Slot
from edgesmith.pipeline.data.dataset import VOID
from edgesmith.pipeline.data.halves import halves
from edgesmith.pipeline.data.spec import named
from edgesmith.pipeline.training import losses
from edgesmith.pipeline.training.checkpoint import Progress
from edgesmith.pipeline.training.device import (
    Placement,
    all_finite,
    keep_freed_memory,
    pick_device,
    pick_precision,
    train_and_val,
)
from edgesmith.pipeline.training.loader import Batch, Batches, Pairs
from edgesmith.pipeline.training.loop import advice, run_epochs, untimed
from edgesmith.pipeline.training.torch_optim import (
    allocated,
    clipped_step,
    learning_rate,
    make_optimizer,
    optimizer_state,
    set_learning_rate,
)

from .evaluation import Evaluation, evenly, whole_frames
from .fasterseg import PRETRAINED, Phase
from .fasterseg_derive import choose_scales
from .fasterseg_latency import RelaxedLatency
from .fasterseg_networks import Networks
from .fasterseg_relaxed import Pass, Relaxed, Widths
from .fasterseg_space import Found, Net, Scales, Score, write_logits
from .fasterseg_step import Losses, backward
from .fasterseg_supernet import DIVISOR, Supernet

if TYPE_CHECKING:
    from .fasterseg import FasterSegSearch

PRETRAIN_NOISE, SEARCH_NOISE = 3, 4
"""Last word of the seeds of random widths."""
PRETRAIN_FRAMES, WEIGHTS_FRAMES, ARCHITECTURE_FRAMES = 5, 6, 7
"""Streams of the batches: of pretraining, and of the two halves while weights and architecture learn in turn. No two words are
the same, so that no order, augmentation or width repeats another's random numbers."""


def run_search(search: FasterSegSearch, slot: Slot) -> SearchResult:
    """Run the search that `search` describes and write its SearchResult."""
    keep_freed_memory()
    train_split, val_split = train_and_val(named(search.data, "search.data"))
    for_weights, for_architecture = halves(train_split, search.seed)
    device = pick_device(search.device)
    torch.manual_seed(search.seed)
    searching = Searching(search, Segmentation(len(train_split.labels.names)), device)
    with ExitStack() as stack:
        scratch = slot.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def batches(phase: Phase, half: Any, stream: int) -> Batches:
            return Batches(half, phase.augment, phase.batch, search.seed, stream=stream)

        start, kept = search.pretrain, scratch / f"pretrained-{slot.key[:12]}.safetensors"
        if search.pretrained is None:
            learner = Pretraining(searching)
            source = batches(start, for_weights, PRETRAIN_FRAMES)
            progress = run_epochs(learner, source, start.epochs, search.checkpoint_seconds, _phase_slot(slot, "pretrain"))
            history = [{**row, "phase": "pretrain"} for row in untimed(progress.history)]
            write_bytes(kept, tensor_pieces(searching.supernet.state_dict()))
            del learner  # and with it the momentum of every weight
        else:
            history = searching.take_pretrained()
        phase = search.alternate
        pairs = Pairs(batches(phase, for_weights, WEIGHTS_FRAMES), batches(phase, for_architecture, ARCHITECTURE_FRAMES))
        size = search.evaluate_hw or search.input_hw
        calibration = whole_frames(train_split, search.recalibrate, size, searching.placement)
        chosen = evenly(len(val_split), search.val_frames)
        evaluation = Evaluation(searching.placement, calibration, val_split, chosen, size)
        networks = Networks(searching, evaluation, scratch / f"networks-{slot.key[:12]}.json", slot)
        alternation = Alternation(searching, networks)
        progress = run_epochs(alternation, pairs, phase.epochs, search.checkpoint_seconds, _phase_slot(slot, "search"))
        history += [{**row, "phase": "search"} for row in untimed(progress.history)]
        found = history[-1]["networks"] if phase.epochs else networks.evaluated(0)
        precision = searching.placement.precision
        with slot.writing(SearchResult, seed=search.seed, device=str(device), precision=precision) as folder:
            if search.pretrained is None:
                shutil.copyfile(kept, folder / PRETRAINED)
            _write(folder, searching, history, found)
    return SearchResult(slot.out)


class Searching:
    """Supernet, the relaxed networks in it, and where they are computed."""

    def __init__(self, search: FasterSegSearch, task: Segmentation, device: torch.device) -> None:
        self.search, self.task, self.space = search, task, search.space
        self.placement = Placement(device, pick_precision(search.precision, device), channels_last=True)
        self.supernet = Supernet(search.space, task, search.nets)
        self.placement.module(self.supernet).train()
        self.relaxed: dict[Net, Relaxed] = {
            net: Relaxed(search.space, widest=net == "teacher").to(device) for net in search.nets
        }
        self.costs = search.costs()
        self.latency = RelaxedLatency(search.space, self.costs, device)
        self.sensitivity = self.latency.sensitivity()
        self.latency_weights: tuple[float, float, float] | None = None
        """w1, w2, w3 of Eq. 3; None where the latency is coupled."""
        if search.decoupled:
            given = search.latency_weights
            self.latency_weights = self.sensitivity.weights() if given == "balanced" else given

    def take_pretrained(self) -> list[dict[str, Any]]:
        """Copy the weights that `pretrained` names into the supernet; the history of how they came about.

        Raises ValueError naming the file when they are of another space.
        """
        source = self.search.open_pretrained().path
        load_into(self.supernet, read_tensors(source / PRETRAINED), str(source / PRETRAINED))
        return [row for row in read_json(source / "search.json")["history"] if row["phase"] == "pretrain"]

    def pretraining_passes(self, rng: np.random.Generator) -> list[Pass]:
        """The widest, the narrowest and two random widths, all else even (Appendix F)."""
        space = self.space
        widths = [Widths.all(space, -1), Widths.all(space, 0), Widths.random(space, rng), Widths.random(space, rng)]
        if len(space.ratios) == 1:
            widths = widths[:1] * len(self.relaxed)
        nets: list[Net] = ["teacher" if i == 0 and "teacher" in self.relaxed else "student" for i in range(len(widths))]
        with torch.no_grad():
            even = {net: relaxed.probabilities() for net, relaxed in self.relaxed.items()}
        return [Pass(net, *even[net][:2], w) for net, w in zip(nets, widths, strict=True)]

    def passes(self, rng: np.random.Generator) -> list[Pass]:
        """The teacher's pass, and the student's with sampled, widest and narrowest widths (Appendix F)."""
        found = []
        for net, relaxed in self.relaxed.items():
            alpha, beta, _ = relaxed.probabilities()
            widths = [relaxed.sample(rng)]
            if net == "student" and len(self.space.ratios) > 1:
                widths += [Widths.all(self.space, -1), Widths.all(self.space, 0)]
            found += [Pass(net, alpha, beta, w) for w in widths]
        return found

    def backward(self, batch: Batch, passes: Sequence[Pass]) -> Losses:
        """Add the gradients of the passes' summed losses on `batch` to those at hand."""
        x, labels = padded(*self.placement.batch(batch))
        loss = partial(losses.ohem, threshold=self.search.ohem_threshold, min_kept=self.search.ohem_min_kept)
        with self.placement.autocast():
            return backward(self.supernet, x, labels, passes, loss)

    def finite(self) -> bool:
        return all_finite(self.supernet) and all(map(all_finite, self.relaxed.values()))


class WeightLearning:
    """The supernet's weights with their optimizer, as one phase has it."""

    def __init__(self, searching: Searching, phase: Phase) -> None:
        self.searching, self.phase = searching, phase
        self.optimizer = make_optimizer(phase.optim, searching.supernet)
        self.lr = 0.0

    def step(self, batch: Batch, passes: Sequence[Pass], done: float) -> Losses:
        optim = self.phase.optim
        self.lr = learning_rate(optim, done, self.phase.epochs)
        set_learning_rate(self.optimizer, self.lr)
        self.optimizer.zero_grad(set_to_none=True)
        found = self.searching.backward(batch, passes)
        clipped_step(self.optimizer, self.searching.supernet, optim.grad_clip)
        return found

    def state(self) -> Iterator[tuple[str, Tensor]]:
        for k, v in self.searching.supernet.state_dict().items():
            yield f"supernet/{k}", v
        for k, v in optimizer_state(self.optimizer):
            yield f"optimizer/{k}", v


class Pretraining:
    """The first phase as the loop advances it."""

    def __init__(self, searching: Searching) -> None:
        self.searching = searching
        self.weights = WeightLearning(searching, searching.search.pretrain)
        self.best: dict[str, Tensor] = {}
        self.place = searching.placement.place
        self.advice = advice("search", "search.pretrain.optim", searching.search.pretrain.optim)

    def advance(self, batch: Batch, progress: Progress, done: float) -> dict[str, float]:
        """One step of the weights."""
        rng = np.random.default_rng((self.searching.search.seed, progress.epoch, progress.step, PRETRAIN_NOISE))
        found = self.weights.step(batch, self.searching.pretraining_passes(rng), done)
        return {"loss": found.total, "pixel_loss": found.mean, "lr": self.weights.lr}

    def end_epoch(self, progress: Progress) -> dict[str, Any]:
        return {"lr": self.weights.lr}

    def finite(self) -> bool:
        return self.searching.finite()

    def resume(self, progress: Progress) -> None:
        """Nothing: the supernet keeps its shape."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        return self.weights.state()


class Alternation:
    """The second phase as the loop advances it: a step of the weights, then one of the architecture on the other half."""

    def __init__(self, searching: Searching, networks: Networks) -> None:
        search = searching.search
        self.searching, self.networks = searching, networks
        self.weights = WeightLearning(searching, search.alternate)
        self.best: dict[str, Tensor] = {}
        self.place = searching.placement.place
        self.advice = advice("search", "search.alternate.optim", search.alternate.optim)
        parameters = [p for relaxed in searching.relaxed.values() for p in relaxed.parameters()]
        self.arch_optimizer = allocated(torch.optim.Adam(parameters, lr=search.arch_lr, betas=search.arch_betas))
        self.latency_weight = torch.tensor(search.latency_weight, dtype=torch.float64)
        """lambda."""

    def advance(self, batch: tuple[Batch, Batch], progress: Progress, done: float) -> dict[str, float]:
        """One step of the weights on the first batch, one of the architecture on the second.

        `loss` and `pixel_loss` are of the first, as in pretraining; `arch_loss` (Eq. 8) and `arch_pixel_loss` of the second.
        """
        searching = self.searching
        rng = np.random.default_rng((searching.search.seed, progress.epoch, progress.step, SEARCH_NOISE))
        with torch.no_grad():
            passes = [_settled(p) for p in searching.passes(rng)]
        learned = self.weights.step(batch[0], passes, done)
        searching.supernet.requires_grad_(False)
        self.arch_optimizer.zero_grad(set_to_none=True)
        found = searching.backward(batch[1], searching.passes(rng))
        probabilities = searching.relaxed["student"].probabilities()
        factor = float(self.latency_weight)
        if searching.latency_weights is None:
            regular = searching.latency.coupled(*probabilities)
        else:
            regular = searching.latency.decoupled(*probabilities, searching.latency_weights)
        (factor * regular).backward()  # type: ignore[no-untyped-call]
        self.arch_optimizer.step()
        searching.supernet.requires_grad_(True)
        with torch.no_grad():
            latency = float(searching.latency.coupled(*probabilities))
        return {
            "loss": learned.total,
            "pixel_loss": learned.mean,
            "arch_loss": found.total + factor * float(regular.detach()),
            "arch_pixel_loss": found.mean,
            "latency": latency,
            "lambda": factor,
            "lr": self.weights.lr,
        }

    def end_epoch(self, progress: Progress) -> dict[str, Any]:
        """Probabilities, the networks that they mean, and lambda for the next epoch."""
        search, relaxed, epoch = self.searching.search, self.searching.relaxed, progress.epoch + 1
        row: dict[str, Any] = {"lr": self.weights.lr, "lambda": float(self.latency_weight)}
        row["probabilities"] = {net: _probabilities(r) for net, r in relaxed.items()}
        row["entropy"] = _entropy(relaxed["student"])
        if epoch % search.evaluate_every == 0 or epoch == search.alternate.epochs:
            row["networks"] = self.networks.evaluated(epoch)
        if search.fps_band is not None:
            students = [n.arch for n in self.networks.derived() if n.net == "student"]
            self.latency_weight *= adapted([1e3 / self.searching.costs.of(arch) for arch in students], search.fps_band)
        return row

    def finite(self) -> bool:
        return self.searching.finite()

    def resume(self, progress: Progress) -> None:
        """Nothing: the supernet keeps its shape."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.weights.state()
        for net, relaxed in self.searching.relaxed.items():
            for k, v in relaxed.state_dict().items():
                yield f"{net}/{k}", v
        for k, v in optimizer_state(self.arch_optimizer):
            yield f"arch_optimizer/{k}", v
        yield "latency_weight", self.latency_weight


def padded(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (N, 3, H, W) and labels (N, H, W), below and on the right filled up to multiples of DIVISOR, labels with VOID."""
    bottom, right = (-side % DIVISOR for side in labels.shape[-2:])
    if not bottom and not right:
        return x, labels
    return F.pad(x, (0, right, 0, bottom)), F.pad(labels, (0, right, 0, bottom), value=VOID)


def adapted(fps: Sequence[float], band: tuple[float, float]) -> float:
    """Factor for lambda after an epoch whose networks run at `fps`: one at the upper bound halves, else one at the lower
    doubles, as in the released code."""
    low, high = band
    if max(fps) >= high:
        return 0.5
    return 2.0 if min(fps) <= low else 1.0


def _settled(p: Pass) -> Pass:
    """`p` without gradients for the architecture."""
    return dataclasses.replace(p, widths=dataclasses.replace(p.widths, gates=None))


def _phase_slot(slot: Slot, phase: str) -> Slot:
    """The slot with a key, and so a checkpoint, of this phase alone; events say which phase they are of."""
    return dataclasses.replace(slot, key=sha256_json([slot.key, phase]), log=partial(slot.log, phase=phase))


def _probabilities(relaxed: Relaxed) -> dict[str, Any]:
    with torch.no_grad():
        tables = relaxed.probabilities()
    names = ("alpha", "beta", "ratio")
    return {
        name: [[[round(v, 6) for v in row] for row in t.tolist()] for t in table]
        for name, table in zip(names, tables, strict=True)
    }


def _entropy(relaxed: Relaxed) -> dict[str, float]:
    """Mean entropy in nats of each kind of choice."""
    with torch.no_grad():
        tables = relaxed.probabilities()
    rows = (torch.cat([-(t * t.clamp_min(1e-30).log()).sum(1) for t in table]) for table in tables)
    return {name: float(r.mean()) for name, r in zip(("alpha", "beta", "ratio"), rows, strict=True)}


def _write(folder: Path, searching: Searching, history: list[dict[str, Any]], networks: list[dict[str, Any]]) -> None:
    """The result's files beside the pretrained weights."""
    search = searching.search
    scores: dict[Net, dict[Scales, Score]] = {net: {} for net in searching.relaxed}
    for row in networks:
        scores[row["net"]][tuple(row["scales"])] = Score(row["val_miou"], row["latency"])
    logits = {net: relaxed.logits() for net, relaxed in searching.relaxed.items()}
    write_logits(folder / "logits.json", Found(searching.space, logits, scores))
    write_bytes(folder / "supernet.safetensors", tensor_pieces(searching.supernet.state_dict()))
    summary = {
        "method": search.method,
        "version": search.version,
        "space": searching.space.to_json(),
        "resource": search.resource,
        "unit": searching.costs.unit,
        "input_hw": list(searching.costs.input_hw),
        "classes": searching.task.classes,
        "train_split": search.split_digests["train"],
        "decoupled": search.decoupled,
        "latency_weights": searching.latency_weights,
        "sensitivity": dataclasses.asdict(searching.sensitivity),
        "target": dataclasses.asdict(search.target),
        "history": [{**row, "epoch": i} for i, row in enumerate(history, 1)],
        "networks": networks,
        "chosen": {net: list(choose_scales(scores[net], search.target)) for net in searching.relaxed},
    }
    write_json(folder / "search.json", summary)
