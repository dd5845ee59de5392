"""What a search left, as reports and `show` read it: by method, from its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgesmith.models.arch import Arch, FasterSeg, Segmentation, SqueezeNas
from edgesmith.pipeline.search.fasterseg_derive import pruned
from edgesmith.pipeline.search.fasterseg_space import RATES, Net, Scales
from edgesmith.pipeline.search.fasterseg_space import Space as CellSpace
from edgesmith.pipeline.search.squeezenas_space import NAMES, Space, space

RESOURCES = {"macs": "MACs", "params": "parameters", "activations": "activation bytes", "latency": "latency"}
"""The resources of a search in words."""


@dataclass(frozen=True)
class _Result:
    summary: dict[str, Any]
    """search.json"""

    @property
    def unit(self) -> str:
        """Of the resource."""
        return str(self.summary["unit"])

    @property
    def resource(self) -> str:
        return str(self.summary["resource"])

    @property
    def resource_words(self) -> str:
        return RESOURCES.get(self.resource, self.resource)

    @property
    def task(self) -> Segmentation:
        return Segmentation(int(self.summary["classes"]))


@dataclass(frozen=True)
class SqueezeNasResult(_Result):
    """What a SqueezeNAS search left."""

    samples: list[dict[str, Any]]
    """samples.json: the sampled networks, the most probable one first."""
    chosen: dict[str, Any] | None
    """The sample that became the run's architecture, or would by its target; None when none of them is it."""

    @property
    def scored(self) -> list[dict[str, Any]]:
        """The samples that could be evaluated."""
        return [row for row in self.samples if row["val_miou"] is not None]

    @property
    def space(self) -> Space:
        return space(self.summary["space"])

    @property
    def input_hw(self) -> tuple[int, int] | None:
        """Size at which networks were evaluated and their costs count."""
        hw = self.summary["input_hw"]
        return None if hw is None else (int(hw[0]), int(hw[1]))

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """A row for each epoch."""
        return list(self.summary["history"])

    @property
    def removed(self) -> dict[tuple[int, int], int]:
        """The epoch after which each candidate (block, candidate) left."""
        return {(i, NAMES.index(name)): row["epoch"] for row in self.epochs for i, name in row["removed"]}

    @property
    def limit(self) -> float | None:
        """The most that the search let its network cost."""
        target = self.summary["target"]
        return None if target is None else float(target)

    def network(self, name: str) -> SqueezeNas | None:
        """The chosen one, under `name`."""
        return None if self.chosen is None else self.space.arch(candidates(self.chosen), name)

    def cost(self, arch: Arch) -> float:
        """Cost of any network of the search's space, in its unit. Raises ValueError for one of another space."""
        if not isinstance(arch, SqueezeNas):
            raise ValueError(f"{arch.name} is a {arch.family}, and none of the space {self.summary['space']}")
        costs = self.summary["costs"]
        chosen = zip(costs["blocks"], self.space.choice(arch), strict=True)
        return float(costs["fixed"] + sum(row[j] for row, j in chosen))


@dataclass(frozen=True)
class Found:
    """A network that the logits of a FasterSeg search mean, with one set of branches."""

    net: Net
    scales: Scales
    """Last scales of its branches, the deepest first."""
    arch: Arch
    latency: float
    """By the search's costs, in its unit."""
    val_miou: float
    """Of the supernet with these branches."""
    target: float
    """Eq. 5 and 6."""

    @property
    def branches(self) -> str:
        """The rates at which its branches end, as in 1/32 + 1/16."""
        return branch_words(self.scales)


def branch_words(scales: Sequence[int]) -> str:
    return " + ".join(f"1/{RATES[s]}" for s in scales)


@dataclass(frozen=True)
class FasterSegResult(_Result):
    """What a FasterSeg search left, with a teacher or without."""

    settled: Arch | None = None
    """What a run took from it, which may be another than the search chose: within a budget, or of another net."""
    teacher: Arch | None = None
    """What the run took for a teacher."""

    @property
    def input_hw(self) -> tuple[int, int]:
        """Size at which networks were evaluated and their costs count."""
        h, w = self.summary["input_hw"]
        return int(h), int(w)

    @cached_property
    def space(self) -> CellSpace:
        return CellSpace.from_json(self.summary["space"])

    @cached_property
    def epochs(self) -> list[tuple[int, dict[str, Any]]]:
        """A row for each epoch, pretraining first, counted through from 1."""
        return list(enumerate(self.summary["history"], 1))

    @property
    def alternated(self) -> list[tuple[int, dict[str, Any]]]:
        """Those in which the architecture learnt."""
        return [(i, row) for i, row in self.epochs if row["phase"] == "search"]

    @property
    def nets(self) -> list[Net]:
        """The networks that were searched."""
        known = {row["net"] for row in self.summary["networks"]} | set(self.summary["chosen"])
        both: tuple[Net, ...] = ("student", "teacher")
        return [net for net in both if net in known]

    @cached_property
    def networks(self) -> list[Found]:
        """The last epoch's networks."""
        return [found_network(row) for row in self.summary["networks"]]

    def chosen(self, net: Net) -> Found | None:
        """The network that the run took; where it took none of these, the one with the branches that the search chose."""
        own = [f for f in self.networks if f.net == net]
        for arch in (self.settled, self.teacher if net == "teacher" else None):
            taken = next((f for f in own if arch is not None and f.arch.digest == arch.digest), None)
            if taken is not None:
                return taken
        scales = self.summary["chosen"].get(net)
        return next((f for f in own if list(f.scales) == scales), None)

    @cached_property
    def pruned(self) -> Found | None:
        """The teacher whose pruned form the run took; None where it took another network."""
        for f in self.networks:
            if self.settled is None or f.net != "teacher" or not isinstance(f.arch, FasterSeg):
                continue
            if pruned(f.arch, self.space).digest == self.settled.digest:
                return f
        return None

    @property
    def limit(self) -> float | None:
        """The most that the search let its network cost: FasterSeg weighs the cost (Eq. 5) and sets no limit."""
        return None

    def network(self, name: str) -> Arch | None:
        """The student that was chosen. It has a name of its own, not `name`."""
        student = self.chosen("student")
        return None if student is None else student.arch

    def course(self, net: Net) -> dict[Scales, list[tuple[int, Found]]]:
        """What the logits meant over the epochs: the networks of each set of branches, each with its epoch."""
        found: dict[Scales, list[tuple[int, Found]]] = {}
        for epoch, row in self.alternated:
            for network in map(found_network, row.get("networks") or ()):
                if network.net == net:
                    found.setdefault(network.scales, []).append((epoch, network))
        return found

    def cost(self, arch: Arch) -> float:
        """What the search counted for `arch`, in its unit. Raises ValueError when it is none of its networks."""
        for network in self.networks:
            if network.arch.digest == arch.digest:
                return network.latency
        raise ValueError(f"{arch.name} is none of the {len(self.networks)} networks of the search")


def found_network(row: dict[str, Any]) -> Found:
    """A row of `networks` in search.json."""
    numbers = row["latency"], row["val_miou"], row["target"]
    return Found(row["net"], tuple(row["scales"]), Arch.from_json(row["arch"]), *numbers)


def candidates(row: dict[str, Any]) -> list[int]:
    """The candidate of each block of a sample."""
    return [NAMES.index(name) for name in row["choice"]]
