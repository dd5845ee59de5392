"""A run folder as its report reads it: each file when it is asked for, None or empty where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Arch
from edgesmith.models.model import Model, read_model
from edgesmith.pipeline.search.pareto import choose

from .searches import FasterSegResult, SqueezeNasResult


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
    def fasterseg(self) -> FasterSegResult:
        """The search of a run whose method is FasterSeg. Raises FileNotFoundError, or ValueError naming the file."""
        summary = read_json(self.path / "search" / "search.json")
        if not isinstance(summary, dict) or not isinstance(summary.get("history"), list):
            raise ValueError("search.json is not as a search writes it")
        return FasterSegResult(summary, self._settled, self._architecture("teacher-arch"))

    @property
    def any_search(self) -> SqueezeNasResult | FasterSegResult:
        """The run's search of whichever method. Raises FileNotFoundError, or ValueError naming a file or the method."""
        read = METHODS.get(self.method or "")
        if read is None:
            raise ValueError(f"search.json: method {self.method!r} is not one of {', '.join(METHODS)}")
        return read(self)

    @cached_property
    def squeezenas(self) -> SqueezeNasResult:
        """The search of a run whose method is SqueezeNAS. Raises FileNotFoundError, or ValueError naming a file."""
        summary, samples = (read_json(self.path / "search" / name) for name in ("search.json", "samples.json"))
        if not isinstance(summary, dict) or not isinstance(samples, list):
            raise ValueError("search.json or samples.json is not as a search writes it")
        settled = self._settled
        if settled is not None:
            taken = next((row for row in samples if row["arch_digest"] == settled.digest), None)
            return SqueezeNasResult(summary, samples, taken)
        scored = [row for row in samples if row["val_miou"] is not None]
        best = choose([(row["cost"], row["val_miou"]) for row in scored], summary["target"])
        return SqueezeNasResult(summary, samples, None if best is None else scored[best])

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


METHODS: dict[str, Callable[[RunFolder], SqueezeNasResult | FasterSegResult]] = {
    "squeezenas": lambda run: run.squeezenas,
    "fasterseg": lambda run: run.fasterseg,
}
"""Method of a search, as search.json has it -> the run's search as its sections read it."""

Section: TypeAlias = "tuple[str, str, Callable[[RunFolder], str]]"
"""Anchor, title, and what makes the section's HTML out of a run."""
