"""The networks that the logits of a FasterSeg search mean, and how good the supernet is with each set of branches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith.deploy.files import sha256_json
from edgesmith.models.arch import FasterSeg
from edgesmith.models.ops import resize
from edgesmith.pipeline.artifacts import Slot
from edgesmith.pipeline.jobs import run_jobs
from edgesmith.pipeline.training.device import Placement

from .evaluation import Evaluation, statistics_kept
from .fasterseg_derive import derive
from .fasterseg_relaxed import Pass, Relaxed
from .fasterseg_space import RATES, Net, Scales, Score
from .fasterseg_supernet import DIVISOR, Supernet

if TYPE_CHECKING:
    from .fasterseg_loop import Searching


class Derived(NamedTuple):
    """A network that the logits mean."""

    net: Net
    scales: Scales
    arch: FasterSeg


class Networks:
    """The networks that the logits mean, each with the supernet's score of its set of branches."""

    def __init__(self, searching: Searching, evaluation: Evaluation, record: Path, slot: Slot) -> None:
        self.searching, self.evaluation, self.record, self.slot = searching, evaluation, record, slot

    def derived(self) -> Iterator[Derived]:
        """The network of each net and each set of branches, as the logits are now."""
        s = self.searching
        for net, relaxed in s.relaxed.items():
            logits = relaxed.logits()
            for scales in s.search.choices:
                yield Derived(net, scales, derive(s.space, logits, net, scales, name=f"fasterseg-{net}"))

    def evaluated(self, epoch: int) -> list[dict[str, Any]]:
        """A row for each network, `epoch` being that of the search. What was evaluated before a kill is not evaluated again.

        Raises RuntimeError where a net cannot be evaluated.
        """
        s = self.searching
        jobs = {f"epoch {epoch}, {net}, {_identity(relaxed)}": net for net, relaxed in s.relaxed.items()}
        results = run_jobs(self._scores, jobs, self.record, log=self.slot.log)
        for net, result in zip(jobs.values(), results.values(), strict=True):
            if result.error is not None:
                again = f"To try again, remove {self.record}"
                raise RuntimeError(f"the {net} could not be evaluated in epoch {epoch}: {result.error}. {again}")
        rows = []
        mious = itertools.chain.from_iterable(result.value for result in results.values())
        for (net, scales, arch), miou in zip(self.derived(), mious, strict=True):
            latency = s.costs.of(arch)
            row = {"net": net, "scales": list(scales), "arch": arch.to_json(), "latency": latency, "val_miou": miou}
            rows.append({**row, "target": s.search.target.of(Score(miou, latency))})
        return rows

    def _scores(self, net: Net) -> list[float]:
        """mIoU of the supernet with each set of branches, its weights and statistics left as they are."""
        s = self.searching
        with torch.no_grad():
            alpha, beta, _ = s.relaxed[net].probabilities()
        heads = Heads(s.supernet, Pass(net, alpha, beta, s.relaxed[net].likeliest()), s.search.choices, s.placement)
        with statistics_kept(s.supernet):
            found = self.evaluation(heads, len(s.search.choices))
        if None in found:
            raise ValueError("the frames of the val split have no labelled pixel")
        return cast("list[float]", found)


class Heads(nn.Module):
    """One pass through the supernet to the heads of some sets of branches.

    Frames (N, 3, H, W) -> logits (N, sets * classes, H, W). Frames are filled up to the sizes that the supernet takes.
    """

    def __init__(self, supernet: Supernet, way: Pass, choices: Sequence[Scales], placement: Placement) -> None:
        super().__init__()
        self.supernet, self.way, self.choices, self.placement = supernet, way, choices, placement

    def forward(self, x: Tensor) -> Tensor:
        net, alpha, beta, widths = self.way.net, self.way.alpha, self.way.beta, self.way.widths
        h, w = x.shape[-2:]
        with self.placement.autocast():
            stem = self.supernet.stem(F.pad(x, (0, -w % DIVISOR, 0, -h % DIVISOR)), net)
            maps = self.supernet.branch_maps(stem, net, alpha, beta, widths)
            logits = torch.cat([self.supernet.head(net, scales, maps) for scales in self.choices], 1)
        logits = logits[..., : -(-h // RATES[0]), : -(-w // RATES[0])]
        return resize(logits, (h, w), self.supernet.enlarge_align_corners)


def _identity(relaxed: Relaxed) -> str:
    """Tells logits apart."""
    return sha256_json({k: v.tolist() for k, v in relaxed.state_dict().items()})[:12]
