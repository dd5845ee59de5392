"""A run folder as its report reads it: each file when it is asked for, None or empty where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Arch, FasterSeg, Segmentation, SqueezeNas
from edgesmith.models.model import Model, read_model
from edgesmith.pipeline.search.fasterseg_derive import pruned
from edgesmith.pipeline.search.fasterseg_space import RATES, Net, Scales
from edgesmith.pipeline.search.fasterseg_space import Space as CellSpace
from edgesmith.pipeline.search.pareto import choose
from edgesmith.pipeline.search.squeezenas_space import NAMES, Space, space


@dataclass(frozen=True)
class Search:
    """What a SqueezeNAS search left, as it lies in its files."""

    summary: dict[str, Any]
    """search.json"""
    samples: list[dict[str, Any]]
    """samples.json: the sampled networks, the most probable one first."""
    chosen: dict[str, Any] | None
    """The sample that became the run's architecture, or would by its target; None when none of them is it."""

    @property
    def unit(self) -> str:
        return str(self.summary["unit"])

    @property
    def resource(self) -> str:
        return str(self.summary["resource"])

    @property
    def scored(self) -> list[dict[str, Any]]:
        """The samples that could be evaluated."""
        return [row for row in self.samples if row["val_miou"] is not None]

    @property
    def space(self) -> Space:
        return space(self.summary["space"])

    @property
    def task(self) -> Segmentation:
        return Segmentation(int(self.summary["classes"]))

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
class CoSearch:
    """What a FasterSeg search left: its search.json."""

    summary: dict[str, Any]
    settled: Arch | None = None
    """What a run took from it, which may be another than the search chose: within a budget, or of another net."""
    teacher: Arch | None = None
    """What the run took for a teacher."""

    @property
    def unit(self) -> str:
        return str(self.summary["unit"])

    @property
    def resource(self) -> str:
        return str(self.summary["resource"])

    @property
    def task(self) -> Segmentation:
        return Segmentation(int(self.summary["classes"]))

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
    def searched(self) -> list[tuple[int, dict[str, Any]]]:
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
        for epoch, row in self.searched:
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


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. Reading a damaged one raises ValueError naming it."""

    path: Path
    against: tuple[RunFolder, ...] = ()
    """Other runs that its network is compared with."""
    searches_only: bool = False
    """Whether the page is about searches alone: what was trained has no section there that draws it."""

    def json(self, name: str) -> Any:
        """The JSON value in file `name`, None when there is no such file."""
        return read_json(self.path / name) if (self.path / name).is_file() else None

    @cached_property
    def model(self) -> Model | None:
        return read_model(self.path / "train") if (self.path / "train" / "model.json").is_file() else None

    @property
    def searched(self) -> bool:
        """Whether there is a search, be it damaged."""
        return (self.path / "search").is_dir()

    @cached_property
    def method(self) -> str | None:
        """Which search the run has, of METHODS or not. One that cannot be read counts as SqueezeNAS: its sections say what is
        wrong."""
        if not self.searched:
            return None
        try:
            return str(read_json(self.path / "search" / "search.json").get("method", "squeezenas"))
        except (OSError, ValueError, AttributeError):
            return "squeezenas"

    @cached_property
    def cosearch(self) -> CoSearch:
        """The search of a run whose method is FasterSeg. Raises FileNotFoundError, or ValueError naming the file."""
        summary = read_json(self.path / "search" / "search.json")
        if not isinstance(summary, dict) or not isinstance(summary.get("history"), list):
            raise ValueError("search.json is not as a search writes it")
        return CoSearch(summary, self._settled, self._architecture("teacher-arch"))

    @property
    def any_search(self) -> Search | CoSearch:
        """The run's search of whichever method. Raises FileNotFoundError, or ValueError naming a file or the method."""
        read = METHODS.get(self.method or "")
        if read is None:
            raise ValueError(f"search.json: method {self.method!r} is not one of {', '.join(METHODS)}")
        return read(self)

    @cached_property
    def search(self) -> Search:
        """The search of a run whose method is SqueezeNAS. Raises FileNotFoundError, or ValueError naming a file."""
        summary, samples = (read_json(self.path / "search" / name) for name in ("search.json", "samples.json"))
        if not isinstance(summary, dict) or not isinstance(samples, list):
            raise ValueError("search.json or samples.json is not as a search writes it")
        settled = self._settled
        if settled is not None:
            return Search(summary, samples, next((row for row in samples if row["arch_digest"] == settled.digest), None))
        scored = [row for row in samples if row["val_miou"] is not None]
        best = choose([(row["cost"], row["val_miou"]) for row in scored], summary["target"])
        return Search(summary, samples, None if best is None else scored[best])

    @cached_property
    def _settled(self) -> Arch | None:
        return self._architecture("arch")

    def _architecture(self, name: str) -> Arch | None:
        value = self.json(f"{name}/arch.json")
        try:
            return None if value is None else Arch.from_json(value)
        except (ValueError, TypeError) as e:
            raise ValueError(f"{self.path / name / 'arch.json'}: {e}") from None

    @cached_property
    def arch(self) -> Arch | None:
        """The run's network: what it trained or settled on, or what its search would choose under its target."""
        if self.model is not None:
            return self.model.arch
        if self._settled is not None or not self.searched:
            return self._settled
        return self.any_search.network(f"{self.name}, found")

    @property
    def budget(self) -> float | None:
        """The most that the network may have cost: what its choice was given, or the search's own target."""
        sidecar = self.json("arch/artifact.json")
        if sidecar is None:
            return self.any_search.limit
        found = sidecar.get("config", {}).get("budget")
        return None if found is None else float(found)

    @cached_property
    def meta(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.json("onnx/meta.json") or self.json("bundle/meta.json")
        return found

    @cached_property
    def validation(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.json("validation/validation.json")
        return found

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        return self.json("train/history.json") or []

    @property
    def taught(self) -> bool:
        """Whether the run has a teacher, be it not yet trained."""
        return (self.path / "teacher-arch").is_dir() or (self.path / "teacher").is_dir()

    @cached_property
    def teacher(self) -> Model | None:
        return read_model(self.path / "teacher") if (self.path / "teacher" / "model.json").is_file() else None

    @cached_property
    def teacher_history(self) -> list[dict[str, Any]]:
        return self.json("teacher/history.json") or []

    @cached_property
    def started(self) -> list[dict[str, Any]]:
        """The events `run`, one for each time that the run was started. A line cut short by a kill is passed over."""
        path = self.path / "events.jsonl"
        found = []
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and value.get("event") == "run":
                found.append(value)
        return found

    @property
    def recipe(self) -> str:
        path = self.path / "recipe.yaml"
        return path.read_text(errors="replace") if path.is_file() else ""

    @property
    def name(self) -> str:
        """What was run: the recipe's name, without folder and ending where it was a file."""
        return Path(str(self.started[-1].get("recipe") or self.path.name)).stem if self.started else self.path.resolve().name

    @property
    def shown_path(self) -> str:
        """The folder as the user named it."""
        return str(self.started[-1].get("folder") or self.path) if self.started else str(self.path)

    @cached_property
    def input_hw(self) -> tuple[int, int] | None:
        """Size at which the network runs, where a graph or a validation says it."""
        for source in (self.meta, self.validation):
            if source is not None:
                h, w = source["input_hw"]
                return int(h), int(w)
        return None

    @cached_property
    def palette(self) -> list[list[int]]:
        """RGB of each class; empty where nothing says it."""
        if self.meta is not None:
            return [list(c) for c in self.meta["palette"]]
        return [] if self.model is None else [list(c) for c in self.model.palette]


METHODS: dict[str, Callable[[RunFolder], Search | CoSearch]] = {
    "squeezenas": lambda run: run.search,
    "fasterseg": lambda run: run.cosearch,
}
"""Method of a search, as search.json has it -> the run's search as its sections read it."""

Section: TypeAlias = "tuple[str, str, Callable[[RunFolder], str]]"
"""Anchor, title, and what makes the section's HTML out of a run."""
