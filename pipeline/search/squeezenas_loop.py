"""The SqueezeNAS search as it runs: what a step does, which candidates leave, how sampled networks are evaluated.

The loop around the steps is the trainings' own (loop.py). Gumbel noise depends on (seed, epoch, step) alone, so that a search
that is killed goes on to the same end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgesmith import models
from edgesmith.deploy.files import write_bytes, write_json
from edgesmith.models.arch import Segmentation
from edgesmith.models.cost import macs, params
from edgesmith.models.weights import load_into, tensor_bytes
from edgesmith.pipeline.artifacts import SearchResult, Slot
from edgesmith.pipeline.data.spec import named
from edgesmith.pipeline.jobs import run_jobs
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
from edgesmith.pipeline.training.fit import enlarged
from edgesmith.pipeline.training.loader import Batch, Batches
from edgesmith.pipeline.training.loop import advice, run_epochs, untimed
from edgesmith.pipeline.training.torch_optim import (
    allocated,
    clipped_step,
    forget_removed,
    learning_rate,
    make_optimizer,
    optimizer_state,
    set_learning_rate,
)

from .evaluation import Evaluation, evenly, whole_frames
from .pareto import front
from .squeezenas_costs import Costs
from .squeezenas_space import NAMES, Space, space
from .squeezenas_supernet import Supernet

if TYPE_CHECKING:
    from .squeezenas import SqueezeNasSearch

Choice = tuple[int, ...]
"""The candidate of each block."""
STEP_NOISE, SAMPLE_NOISE = 1, 2
"""Last word of the seeds of Gumbel noise: no stream is that of a frame's augmentation, whose seeds have three words."""


def run_search(search: SqueezeNasSearch, slot: Slot) -> SearchResult:
    """Run the search that `search` describes and write its SearchResult."""
    keep_freed_memory()
    train_split, val_split = train_and_val(named(search.data, "search.data"))
    device = pick_device(search.device)
    torch.manual_seed(search.seed)
    searching = Searching(search, Segmentation(len(train_split.labels.names)), search.costs(), device)
    batches = Batches(train_split, search.augment, search.batch, search.seed)
    progress = run_epochs(searching, batches, search.epochs, search.checkpoint_seconds, slot)
    choices = sampled(searching.logits().detach().double().cpu().numpy(), search.samples, search.seed)
    calibration = whole_frames(train_split, search.recalibrate, search.input_hw, searching.placement)
    frames = evenly(len(val_split), search.val_frames)
    evaluation = PathEvaluation(searching, Evaluation(searching.placement, calibration, val_split, frames, search.input_hw))
    samples = _evaluated(evaluation, choices, slot)
    precision = searching.placement.precision
    with slot.writing(SearchResult, seed=search.seed, device=str(device), precision=precision) as folder:
        write_bytes(folder / "supernet.safetensors", tensor_bytes(searching.supernet.state_dict()))
        write_json(folder / "search.json", _summary(searching, progress))
        write_json(folder / "samples.json", samples)
    return SearchResult(slot.out)


class Searching:
    """A search as the loop advances it: supernet, architecture logits theta (blocks, 13), and an optimizer of each."""

    def __init__(self, search: SqueezeNasSearch, task: Segmentation, costs: Costs, device: torch.device) -> None:
        self.search, self.task = search, task
        self.space: Space = space(search.space)
        self.advice = advice("search", "search.optim", search.optim)
        self.best: dict[str, Tensor] = {}
        self.placement = Placement(device, pick_precision(search.precision, device), search.channels_last)
        self.place = self.placement.place
        self.supernet = Supernet(self.space, task)
        self.placement.module(self.supernet).train()
        self.theta = torch.ones(len(self.space), len(NAMES), device=device, requires_grad=True)
        self.alive = torch.ones_like(self.theta, dtype=torch.bool)
        self.costs = costs
        self.cost_matrix = torch.tensor(costs.blocks, device=device)  # (blocks, 13)
        self.lr, self.temperature = 0.0, search.temperature[0]
        self.optimizer = make_optimizer(search.optim, self.supernet)
        if search.theta_optimizer == "sgd":
            self.theta_optimizer = allocated(torch.optim.SGD([self.theta], lr=search.theta_lr))
        else:
            self.theta_optimizer = allocated(torch.optim.Adam([self.theta], lr=search.theta_lr))

    def advance(self, batch: Batch, progress: Progress, done: float) -> dict[str, float]:
        """One step of weights and architecture on one batch."""
        search = self.search
        self.lr, self.temperature = learning_rate(search.optim, done, search.epochs), temperature(search.temperature, done)
        set_learning_rate(self.optimizer, self.lr)
        rng = np.random.default_rng((search.seed, progress.epoch, progress.step, STEP_NOISE))
        noise = rng.gumbel(size=(len(batch.labels), *self.theta.shape)).astype(np.float32)
        noisy = self.logits() + torch.as_tensor(noise, device=self.theta.device)
        weights = (noisy / self.temperature).softmax(-1)  # (N, blocks, 13)
        x, labels = self.placement.batch(batch)
        with self.placement.autocast():
            low = self.supernet.low_logits(x, weights)
        pixel_loss = losses.cross_entropy(enlarged(self.supernet, low, labels), labels)
        cost = self.expected_cost(weights)
        counted = cost if search.target is None else (cost - search.target).relu()
        loss = pixel_loss + search.alpha * counted
        self.optimizer.zero_grad(set_to_none=True)
        self.theta_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        clipped_step(self.optimizer, self.supernet, search.optim.grad_clip)
        if done >= search.theta_from:
            self.theta_optimizer.step()
        numbers = {"loss": loss, "pixel_loss": pixel_loss, "cost": cost}
        return {**{k: float(v.detach()) for k, v in numbers.items()}, "lr": self.lr, "temperature": self.temperature}

    def end_epoch(self, progress: Progress) -> dict[str, Any]:
        """Drop the candidates that have become improbable; probabilities and their mean entropy (nats) for the history."""
        p = self.probabilities()
        entropy = -torch.where(p > 0, p * p.log(), p).sum(1).mean()
        removed = [] if self.search.removal is None else improbable(p, self.alive, self.search.removal)
        self._remove(removed)
        return {
            "lr": self.lr,
            "temperature": self.temperature,
            "entropy": float(entropy),
            "alive": int(self.alive.sum()),
            "probabilities": p.tolist(),
            "removed": [[i, NAMES[j]] for i, j in removed],
        }

    def logits(self) -> Tensor:
        """theta, minus infinity where a candidate was removed: (blocks, 13)."""
        return self.theta.masked_fill(~self.alive, -torch.inf)

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """p(i, j) of Eq. 2 among the living candidates, (blocks, 13)."""
        return self.logits().softmax(-1)

    def expected_cost(self, weights: Tensor) -> Tensor:
        """Cost of the whole network, Eq. 3: by the probabilities, or by the Gumbel samples (N, blocks, 13) of a batch."""
        p = self.logits().softmax(-1) if self.search.resource_weights == "softmax" else weights.mean(0)
        return (p * self.cost_matrix).sum() + self.costs.fixed

    def finite(self) -> bool:
        return all_finite(self.supernet) and bool(torch.isfinite(self.theta).all())

    def resume(self, progress: Progress) -> None:
        """Drop the candidates that had been dropped at `progress`."""
        for row in progress.history:
            self._remove([(i, NAMES.index(name)) for i, name in row["removed"]])

    def state(self) -> Iterator[tuple[str, Tensor]]:
        for k, v in self.supernet.state_dict().items():
            yield f"supernet/{k}", v
        yield "theta", self.theta
        for k, v in optimizer_state(self.optimizer):
            yield f"optimizer/{k}", v
        for k, v in optimizer_state(self.theta_optimizer):
            yield f"theta_optimizer/{k}", v

    def _remove(self, candidates: Sequence[tuple[int, int]]) -> None:
        for i, j in candidates:
            self.supernet.remove(i, j)
            self.alive[i, j] = False
        forget_removed(self.optimizer, self.supernet)


class PathEvaluation:
    """One sampled network as a path of the supernet, on the val split. The supernet itself is left as it is."""

    def __init__(self, searching: Searching, evaluation: Evaluation) -> None:
        self.searching, self.evaluation = searching, evaluation

    def __call__(self, choice: Choice) -> float | None:
        """mIoU of the network that takes candidate `choice[i]` in block `i`; None where no pixel is labelled."""
        s = self.searching
        module = models.build(s.space.arch(choice, "path"), s.task)
        load_into(module, s.supernet.path_state(choice), "the supernet's path")
        return self.evaluation(module)[0]


def temperature(bounds: tuple[float, float], done: float) -> float:
    """Temperature when the share `done` (0 to 1) of the steps has passed: from the first bound to the second, linearly."""
    hot, cold = bounds
    return hot + (cold - hot) * done


def improbable(p: Tensor, alive: Tensor, limit: float) -> list[tuple[int, int]]:
    """Living candidates (block, candidate) whose probability in `p` (blocks, 13) is below `limit` (section 4.2)."""
    below = alive & (p < limit)
    return [(int(i), int(j)) for i, j in below.nonzero().tolist()]


def sampled(logits: NDArray[np.float64], count: int, seed: int) -> list[Choice]:
    """Up to `count` different networks drawn from softmax(logits) (blocks, 13), the most probable one first.

    Gumbel noise and argmax, as the released code samples: the temperature divides all alike and changes nothing. Fewer come
    where the distribution holds no more, or so improbable ones that 50 draws for each wanted network do not meet them.
    """
    found = {tuple(int(j) for j in logits.argmax(1)): None}  # a dictionary keeps the order
    for draw in range(50 * count):
        if len(found) >= count:
            break
        noise = np.random.default_rng((seed, draw, 0, SAMPLE_NOISE)).gumbel(size=logits.shape)
        noisy = logits + noise.astype(np.float32)
        found[tuple(int(j) for j in noisy.argmax(1))] = None
    return list(found)


def _evaluated(evaluation: PathEvaluation, choices: Sequence[Choice], slot: Slot) -> list[dict[str, Any]]:
    """A row of samples.json for each choice. What was evaluated before a kill is not evaluated again."""
    s = evaluation.searching
    archs = [s.space.arch(c, f"squeezenas-{s.space.name}") for c in choices]
    jobs = {arch.digest: choice for arch, choice in zip(archs, choices, strict=True)}
    with tempfile.TemporaryDirectory() as temporary:
        record = (slot.scratch or Path(temporary)) / f"samples-{slot.key[:12]}.json"
        results = run_jobs(evaluation, jobs, record, log=slot.log)
    rows = []
    input_hw = s.search.input_hw or evaluation.evaluation.val[0].label.shape
    for arch, choice in zip(archs, choices, strict=True):
        result = results[arch.digest]
        row: dict[str, Any] = {
            "arch_digest": arch.digest,
            "choice": [NAMES[j] for j in choice],
            "cost": s.costs.of(choice),
            "macs": macs(arch, s.task, (input_hw[0], input_hw[1])),
            "params": params(arch, s.task),
            "val_miou": result.value,
        }
        rows.append(row if result.error is None else {**row, "error": result.error})
    scored = [row for row in rows if row["val_miou"] is not None]
    if not scored:
        raise RuntimeError(f"none of the {len(rows)} sampled networks could be evaluated; first: {rows[0].get('error')}")
    on_front = front([(row["cost"], row["val_miou"]) for row in scored])
    for row, good in zip(scored, on_front, strict=True):
        row["on_front"] = good
    return [{**row, "on_front": row.get("on_front", False)} for row in rows]


def _summary(searching: Searching, progress: Progress) -> dict[str, Any]:
    """What search.json holds."""
    s = searching.search
    return {
        "method": "squeezenas",
        "space": s.space,
        "resource": s.resource,
        "unit": searching.costs.unit,
        "alpha": s.alpha,
        "target": s.target,
        "input_hw": None if s.input_hw is None else list(s.input_hw),
        "classes": searching.task.classes,
        "candidates": list(NAMES),
        "costs": searching.costs.to_json(),
        "table": None if s.table is None else s._table.digest,
        "theta": searching.theta.tolist(),
        "probabilities": searching.probabilities().tolist(),
        "alive": [[NAMES[j] for j in living] for living in searching.supernet.alive],
        "history": untimed(progress.history),
    }
