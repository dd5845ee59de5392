"""A run folder as its report reads it: each file when it is asked for, None or empty where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Arch, Segmentation, SqueezeNas
from edgesmith.models.model import Model, read_model

from .search.pareto import choose
from .search.squeezenas_space import NAMES, Space, space


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

    def arch(self, row: dict[str, Any], name: str) -> SqueezeNas:
        """The architecture of a sample."""
        return self.space.arch(candidates(row), name)

    def cost(self, arch: SqueezeNas) -> float:
        """Cost of any network of the search's space, in its unit. Raises ValueError for one of another space."""
        costs = self.summary["costs"]
        chosen = zip(costs["blocks"], self.space.choice(arch), strict=True)
        return float(costs["fixed"] + sum(row[j] for row, j in chosen))


def candidates(row: dict[str, Any]) -> list[int]:
    """The candidate of each block of a sample."""
    return [NAMES.index(name) for name in row["choice"]]


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. Reading a damaged one raises ValueError naming it."""

    path: Path
    against: tuple[RunFolder, ...] = ()
    """Other runs that its network is compared with."""

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
    def search(self) -> Search:
        """Raises FileNotFoundError, or ValueError naming a file."""
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
        value = self.json("arch/arch.json")
        return None if value is None else Arch.from_json(value)

    @cached_property
    def arch(self) -> Arch | None:
        """The run's network: what it trained or settled on, or what its search would choose under its target."""
        if self.model is not None:
            return self.model.arch
        if self._settled is not None or not self.searched or self.search.chosen is None:
            return self._settled
        return self.search.arch(self.search.chosen, f"{self.name}, found")

    @property
    def budget(self) -> float | None:
        """The most that the network may have cost: what its choice was given, or the search's own target."""
        sidecar = self.json("arch/artifact.json")
        if sidecar is None:
            return None if self.search.summary["target"] is None else float(self.search.summary["target"])
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


Section: TypeAlias = "tuple[str, str, Callable[[RunFolder], str]]"
"""Anchor, title, and what makes the section's HTML out of a run."""
