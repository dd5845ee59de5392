"""Derive: settle the architecture that is built: a published one, one from a file, or the best under a budget of a search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, overload

from edgesmith import models
from edgesmith.deploy.files import existing_file, read_json, sha256_json, write_json
from edgesmith.models.arch import Arch

from .artifacts import Architecture, SearchResult, Slot
from .data.spec import user_path
from .search.fasterseg_derive import OUTCOMES, Outcome, Target, choose_scales, derived, source_of
from .search.fasterseg_space import read_logits
from .search.pareto import choose
from .search.squeezenas_space import NAMES, space


@dataclass(frozen=True)
class Derive:
    """-> Architecture, or SearchResult -> Architecture. A new budget chooses again and does not search again."""

    arch: str | None = None
    """`zoo:NAME` for a published network, or the path of an architecture in JSON. Null where the recipe searches for one."""
    budget: float | None = None
    """Of a search: the most that the whole network may cost, in the search's unit. The best val mIoU within is chosen, of
    FasterSeg the set of branches with the best target within; null: the best of all."""
    net: Outcome = "student"
    """Which network of a FasterSeg search. pruned_teacher is the teacher at the smallest expansion ratio."""
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.budget is not None and (self.budget <= 0 or self.arch is not None):
            raise ValueError(f"budget: {self.budget} " + ("is not above 0" if self.arch is None else "goes without arch"))
        if self.net not in OUTCOMES or (self.net != "student" and self.arch is not None):
            raise ValueError(f"net: {self.net!r} " + ("is not known" if self.arch is None else "goes without arch"))
        if self.net == "pruned_teacher" and self.budget is not None:
            raise ValueError(
                f"budget: {self.budget} goes without net pruned_teacher: a search knows the costs of the teacher before pruning"
            )
        if self.arch is None:
            return
        if self.arch.startswith("zoo:"):
            try:
                models.zoo(self.arch.removeprefix("zoo:"))
            except ValueError as e:
                raise ValueError(f"arch: {e}") from None
        elif not self.arch.endswith(".json"):
            raise ValueError(f"arch: {self.arch!r} is neither zoo:NAME ({', '.join(models.zoo_names())}) nor a .json file")

    @cached_property
    def value(self) -> Arch:
        """The architecture that `arch` names. Raises OSError or ValueError naming the file."""
        if self.arch is None:
            raise ValueError("derive.arch: no architecture is named; zoo:NAME or the path of a .json file")
        if self.arch.startswith("zoo:"):
            return models.zoo(self.arch.removeprefix("zoo:"))
        path = existing_file(user_path("arch", self.arch), "arch", "name zoo:NAME or a file that `edgesmith derive` wrote")
        try:
            return Arch.from_json(read_json(path))
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from None

    @property
    def digest(self) -> str:
        """Identity for the key: the architecture itself, not where it was read from, or the budget and the network."""
        if self.arch is not None:
            return self.value.digest
        return sha256_json({"budget": self.budget, **({} if self.net == "student" else {"net": self.net})})

    @overload
    def __call__(self, slot: Slot, /) -> Architecture: ...
    @overload
    def __call__(self, search: SearchResult, slot: Slot, /) -> Architecture: ...
    def __call__(self, *given: Any) -> Architecture:
        """Write the architecture. Raises ValueError when no network of the search is within the budget."""
        *searches, slot = given
        found = self.chosen(searches[0]) if searches else self.value
        with slot.writing(Architecture, searches) as folder:
            write_json(folder / "arch.json", found.to_json())
        return Architecture(slot.out)

    def chosen(self, search: SearchResult) -> Arch:
        """The network of `search` that is best within the budget. Raises ValueError when there is none."""
        summary = read_json(search.path / "search.json")
        if summary.get("method", "squeezenas") == "fasterseg":
            return self._of_fasterseg(search, Target(**summary["target"]))
        if self.net != "student":
            raise ValueError(f"derive.net: {self.net} is a network of a FasterSeg search; this one is of SqueezeNAS")
        samples = read_json(search.path / "samples.json")
        scored = [row for row in samples if row["val_miou"] is not None]
        best = choose([(row["cost"], row["val_miou"]) for row in scored], self.budget)
        if best is None:
            cheapest = min(row["cost"] for row in scored)
            raise ValueError(
                f"derive.budget: none of the {len(scored)} sampled networks costs at most {self.budget:g} {summary['unit']}, "
                f"the cheapest {cheapest:.4g}; raise the budget, or search with a larger alpha or a lower target"
            )
        choice = [NAMES.index(name) for name in scored[best]["choice"]]
        arch = space(summary["space"]).arch(choice, "searched")
        return space(summary["space"]).arch(choice, f"squeezenas-{summary['space']}-{arch.digest[:8]}")

    def _of_fasterseg(self, search: SearchResult, target: Target) -> Arch:
        found = read_logits(search.path / "logits.json")
        source = source_of(self.net)
        if source not in found.logits:
            raise ValueError(f"derive.net: {self.net} needs a search with a teacher; this one had none")
        try:
            scales = choose_scales(found.candidates(source), target, self.budget)
        except ValueError as e:
            raise ValueError(f"derive.{e}") from None
        return derived(found, self.net, scales)


def read_architecture(artifact: Architecture) -> Arch:
    """The architecture that `artifact` holds."""
    return Arch.from_json(read_json(artifact.path / "arch.json"))
