"""SqueezeNAS search (Shaw, Hunter, Iandola, Sidhu, 2019): weights and architecture of a supernet learn together.

Each block of the supernet holds 13 candidates; theta (blocks, 13) are their logits, 1 at first. A step draws one Gumbel-softmax
sample for each image at temperature t, mixes the candidates' outputs by it, and takes one gradient step of

    L = L_P + alpha * L_E    (Eq. 1)

for the weights and for theta alike, on the same batch: L_P is the cross-entropy, L_E the expected cost of Eq. 3. When the
epochs are over, networks are drawn from softmax(theta), each is evaluated as a path of the supernet on the val split, and
`derive` chooses one on the Pareto front. The configuration is here and imports no torch; the loop is in squeezenas_loop.py.

What the paper leaves open follows the authors' released modules and their companion example where these say it: a sample for
each image, theta by plain SGD at 0.1 in the same step as the weights. What departs, and why:

* `target` (off by default): only the expected cost above the target counts. The authors' alphas are not public, and an alpha
  that meets a latency must be found by repeated searches; a target meets it in one.
* `theta_optimizer: adam` (off by default): a search of hundreds of steps, not of tens of thousands, hardly moves theta at SGD's
  rate.
* Candidates below the limit of section 4.2 leave at the end of an epoch, not in the middle, and never the last one of a block.
* `recalibrate`: a path is evaluated with batch norm statistics gathered for that path alone, over whole training frames. Those
  of the supernet belong to mixtures, and a path sees other means and spreads. The paper names nothing of the kind: 0 evaluates
  with the supernet's.
* The sampled networks are distinct, and the most probable network is always one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from edgesmith.models.arch import Segmentation
from edgesmith.pipeline.artifacts import SearchResult, Slot
from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.spec import Data, named, open_split, splits_digest, user_path
from edgesmith.pipeline.training.optim import Optim

from .resources import Resource, task_and_size
from .squeezenas_costs import Costs, costs, pieces
from .squeezenas_space import SpaceName, space

if TYPE_CHECKING:
    from edgesmith.calibration.table import Table
    from edgesmith.models.parts import Part


@dataclass(frozen=True)
class SqueezeNasSearch:
    """-> SearchResult: the sampled networks with their costs and scores, and the supernet."""

    method: Literal["squeezenas"] = field(default="squeezenas", metadata={"identity": False})  # the stage's name is in the key
    """Which search this is."""
    data: Data | None = field(default=None, metadata={"identity": False})
    """Dataset; the recipe's own unless said otherwise. Learns on its train split, evaluates networks on its val split."""
    space: SpaceName = "small"
    """What stays the same in all networks (Appendix C)."""
    resource: Resource = "macs"
    """What networks are to be sparing with: multiply-accumulates (GMAC), parameters (millions), activations (MB that
    convolutions read and write), or latency (ms, from `table`)."""
    table: str | None = field(default=None, metadata={"identity": False})
    """Latency table, as `edgesmith table measure` leaves it. Its content enters the key, not its place."""
    input_hw: tuple[int, int] | None = None
    """Size at which networks are evaluated and their costs count; the recipe's export size unless said otherwise."""
    alpha: float = 0.05
    """Weight of the cost in the loss (Eq. 1), a unit of cost: a GMAC, a million parameters, an MB, a millisecond."""
    target: float | None = None
    """Cost of a whole network down to which alpha presses: what is above it counts. Null: all of the cost counts."""
    resource_weights: Literal["softmax", "gumbel"] = "softmax"
    """Expected cost by the probabilities (Eq. 3), or by the batch's Gumbel samples as in the released code."""
    temperature: tuple[float, float] = (5.0, 1.0)
    """Of Gumbel-softmax at the first and the last step; it falls linearly."""
    removal: float | None = 0.005
    """Candidates whose probability is below this leave the supernet; null keeps all to the end."""
    theta_optimizer: Literal["sgd", "adam"] = "sgd"
    """Of the architecture: SGD without momentum, or Adam."""
    theta_lr: float = 0.1
    """Learning rate of the architecture; it does not fall."""
    theta_from: float = 0.0
    """Share of the search before which the architecture does not learn, only the weights."""
    epochs: int = 40
    """Passes over the train split."""
    batch: int = 8
    """Frames a step."""
    seed: int = 0
    """Seeds initial weights, order, augmentations, Gumbel noise and the networks that are sampled."""
    augment: Augment = field(default_factory=Augment)
    """Random scale, crop, flip and colour of each frame."""
    optim: Optim = field(default_factory=Optim)
    """Optimizer of the weights, and the course of its learning rate over the search."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on CUDA, fp32 on CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    channels_last: bool = True
    """Memory layout of the supernet and its maps."""
    samples: int = 200
    """Networks that are sampled and evaluated, the most probable one among them."""
    val_frames: int | None = None
    """Frames of the val split, spread evenly, on which a network is evaluated; null for all of them."""
    recalibrate: int = 16
    """Whole training frames, spread evenly, over which a network's batch norm statistics are gathered before it is evaluated,
    at least 2; 0: the supernet's."""
    checkpoint_seconds: float = field(default=60.0, metadata={"identity": False})
    """Time between checkpoints within an epoch; each epoch ends with one. Does not change the result."""
    version: ClassVar[int] = 3

    def __post_init__(self) -> None:
        hot, cold = self.temperature
        limits: list[tuple[bool, str, str]] = [
            *((getattr(self, n) >= 1, n, "is not at least 1") for n in ("epochs", "batch", "samples")),
            *((getattr(self, n) > 0, n, "is not above 0") for n in ("theta_lr", "checkpoint_seconds")),
            *((getattr(self, n) >= 0, n, "is below 0") for n in ("alpha", "seed", "recalibrate")),
            (self.recalibrate != 1, "recalibrate", "frame has no variance where maps are pooled; 0, or at least 2"),
            (0 <= self.theta_from <= 1, "theta_from", "is not between 0 and 1"),
            (hot >= cold > 0, "temperature", "is not two numbers above 0, the larger first"),
            (self.removal is None or 0 < self.removal < 1 / 13, "removal", "is not between 0 and 1/13"),
            (self.target is None or self.target > 0, "target", "is not above 0"),
            (self.val_frames is None or self.val_frames >= 1, "val_frames", "is not at least 1"),
            (self.input_hw is None or min(self.input_hw) >= 64, "input_hw", "is below 64x64"),
        ]
        problems = [f"{name}: {getattr(self, name)} {what}" for good, name, what in limits if not good]
        if (self.resource == "latency") != (self.table is not None):
            problems.append("table: goes with resource latency, which cannot do without: `edgesmith table measure` makes one")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def environment(self) -> dict[str, str]:
        """What the result depends on beside the configuration: the frames of the two splits and the table's content."""
        found = {} if self.data is None else {"data": splits_digest(self.data, ("train", "val"))}
        return found if self.table is None else {**found, "table": self._table.digest}

    def require_startable(self) -> None:
        """Raise ValueError or OSError naming the field unless dataset and table let the search begin."""
        split = open_split(named(self.data, "search.data"), "train")
        if len(split) < self.batch:
            raise ValueError(f"search.batch: {self.batch} frames a step, but the train split has only {len(split)}")
        costs = self.costs()
        if self.target is not None and self.target < costs.least:
            raise ValueError(
                f"search.target: {self.target:g} {costs.unit}, but the cheapest network of the space costs {costs.least:.4g}"
            )

    def costs(self) -> Costs:
        """What the candidates cost. Raises ValueError or OSError where dataset, size or table do not fit."""
        task, input_hw = task_and_size(self.data, self.input_hw)
        return costs(space(self.space), task, self.resource, input_hw, None if self.table is None else self._table)

    def pieces(self) -> tuple[dict[str, Part], Segmentation, tuple[int, int]]:
        """What a latency table for this search has entries for, by key; what for and at which size it is to be measured."""
        task, input_hw = task_and_size(self.data, self.input_hw)
        return pieces(space(self.space), task, input_hw), task, input_hw

    @cached_property
    def _table(self) -> Table:
        from edgesmith.calibration.table import Table

        return Table.read(user_path("search.table", str(self.table)))

    def __call__(self, slot: Slot) -> SearchResult:
        """Search. Goes on from the checkpoint in the slot's scratch folder when that belongs to the same key.

        Raises FloatingPointError naming the step and the last good checkpoint when a number is no longer finite.
        """
        from .squeezenas_loop import run_search

        return run_search(self, slot)
