"""The networks that the logits of a FasterSeg search mean, and their scores with the supernet's weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from edgesmith import models
from edgesmith.models.arch import FasterSeg
from edgesmith.models.weights import load_into
from edgesmith.pipeline.artifacts import Slot
from edgesmith.pipeline.jobs import run_jobs

from .fasterseg_derive import assemble, branch
from .fasterseg_path import path_state
from .fasterseg_space import Net, Scales, Score
from .paths import PathEvaluation

if TYPE_CHECKING:
    from .fasterseg_loop import Searching


class Derived(NamedTuple):
    """A network that the logits mean."""

    net: Net
    scales: Scales
    arch: FasterSeg
    layers: tuple[tuple[int, ...], ...]
    """Of each branch, the supernet's layer that each cell comes from."""


class Networks:
    """The networks that the logits mean, and their scores with the supernet's weights."""

    def __init__(self, searching: Searching, evaluation: PathEvaluation, record: Path, slot: Slot) -> None:
        self.searching, self.evaluation, self.record, self.slot = searching, evaluation, record, slot

    def derived(self) -> Iterator[Derived]:
        """The network of each net and each set of branches, as the logits are now."""
        s = self.searching
        for net, relaxed in s.relaxed.items():
            logits = relaxed.logits()
            for scales in s.search.choices:
                branches = [branch(s.space, logits, net, scale) for scale in scales]
                arch = assemble(s.space, branches, net, f"fasterseg-{net}")
                yield Derived(net, scales, arch, tuple(b.layers for b in branches))

    def evaluated(self, epoch: int) -> list[dict[str, Any]]:
        """A row for each network, `epoch` being that of the search. What was evaluated before a kill is not evaluated again."""
        s, networks = self.searching, list(self.derived())
        jobs = {f"epoch {epoch}, {n.net} {','.join(map(str, n.scales))}, {n.arch.digest[:12]}": n for n in networks}
        results = run_jobs(self._score, jobs, self.record, log=self.slot.log)
        rows: list[dict[str, Any]] = []
        for (net, scales, arch, _), result in zip(networks, results.values(), strict=True):
            latency = s.costs.of(arch)
            target = None if result.value is None else s.search.target.of(Score(result.value, latency))
            row = {"net": net, "scales": list(scales), "arch": arch.to_json(), "latency": latency, "val_miou": result.value}
            rows.append({**row, "target": target, **({} if result.error is None else {"error": result.error})})
        for net in s.relaxed:
            mine = [row for row in rows if row["net"] == net]
            if all(row["val_miou"] is None for row in mine):
                raise RuntimeError(
                    f"no {net} could be evaluated in epoch {epoch}; first: {mine[0].get('error')}. "
                    f"To try again, remove {self.record}"
                )
        return rows

    def _score(self, network: Derived) -> float | None:
        s = self.searching
        module = models.build(network.arch, s.task)
        module.auxiliary = nn.ModuleList()  # heads of the training to come
        load_into(module, path_state(s.supernet, network.arch, network.net, network.layers), "the supernet's path")
        return self.evaluation(module)
