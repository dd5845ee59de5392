"""A run folder as its report reads it: each file when it is asked for, None or empty where there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgesmith.deploy.files import read_json
from edgesmith.models.model import Model, read_model


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. Reading a damaged one raises ValueError naming it."""

    path: Path

    def json(self, name: str) -> Any:
        """The JSON value in file `name`, None when there is no such file."""
        return read_json(self.path / name) if (self.path / name).is_file() else None

    @cached_property
    def model(self) -> Model | None:
        return read_model(self.path / "train") if (self.path / "train" / "model.json").is_file() else None

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
