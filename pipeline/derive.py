"""Derive: settle the architecture that is built. Here it is a published one or one from a file; a search adds its own rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from edgesmith import models
from edgesmith.deploy.files import read_json, write_json
from edgesmith.models.arch import Arch

from .artifacts import Architecture, Slot


@dataclass(frozen=True)
class Derive:
    """-> Architecture."""

    arch: str
    """`zoo:NAME` for a published network, or the path of an architecture in JSON."""
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.arch.startswith("zoo:"):
            try:
                models.zoo(self.arch.removeprefix("zoo:"))
            except ValueError as e:
                raise ValueError(f"arch: {e}") from None
        elif not self.arch.endswith(".json"):
            raise ValueError(f"arch: {self.arch!r} is neither zoo:NAME ({', '.join(models.zoo_names())}) nor a .json file")

    @cached_property
    def value(self) -> Arch:
        """The architecture. Raises FileNotFoundError or ValueError naming the file."""
        if self.arch.startswith("zoo:"):
            return models.zoo(self.arch.removeprefix("zoo:"))
        path = Path(self.arch)
        try:
            return Arch.from_json(read_json(path))
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from None

    @property
    def digest(self) -> str:
        """Identity for the key: the architecture itself, not where it was read from."""
        return self.value.digest

    def __call__(self, slot: Slot) -> Architecture:
        with slot.writing(Architecture) as folder:
            write_json(folder / "arch.json", self.value.to_json())
        return Architecture(slot.out)


def read_architecture(artifact: Architecture) -> Arch:
    """The architecture that `artifact` holds."""
    return Arch.from_json(read_json(artifact.path / "arch.json"))
