from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edgesmith import models
from edgesmith.deploy.files import read_json, write_json
from edgesmith.pipeline import recipe, run
from edgesmith.pipeline.artifacts import Architecture, SearchResult, Slot
from edgesmith.pipeline.derive import Derive, read_architecture
from edgesmith.pipeline.stage import stage_key


@pytest.fixture
def search(searching_run: Path) -> SearchResult:
    return SearchResult(searching_run / "search")


def test_the_best_network_within_the_budget_is_derived(search: SearchResult, tmp_path: Path) -> None:
    samples = read_json(search.path / "samples.json")
    best = max(samples, key=lambda row: row["val_miou"])
    cheapest = min(samples, key=lambda row: row["cost"])
    for budget, expected in ((None, best), (1e9, best), (cheapest["cost"], cheapest)):
        made = Derive(budget=budget)(search, Slot(tmp_path / "arch"))
        assert read_architecture(made).digest == expected["arch_digest"]
        assert read_architecture(made).name == f"squeezenas-small-{expected['arch_digest'][:8]}"
        assert made.sidecar["parents"] == [{"kind": "search", "digest": search.digest}]


def test_a_budget_that_nothing_meets_is_refused_with_the_cheapest(search: SearchResult, tmp_path: Path) -> None:
    least = min(row["cost"] for row in read_json(search.path / "samples.json"))
    with pytest.raises(ValueError, match=rf"none of the 3 sampled networks costs at most 1e-09 GMAC, the cheapest {least:.4g}"):
        Derive(budget=1e-9)(search, Slot(tmp_path / "arch"))
    assert not (tmp_path / "arch").exists()


def test_networks_that_could_not_be_scored_are_passed_over(search: SearchResult, tmp_path: Path) -> None:
    shutil.copytree(search.path, tmp_path / "search")
    samples = read_json(search.path / "samples.json")
    best = max(range(len(samples)), key=lambda i: samples[i]["val_miou"])
    samples[best]["val_miou"] = None
    write_json(tmp_path / "search" / "samples.json", samples)
    chosen = Derive().chosen(SearchResult(tmp_path / "search"))
    assert chosen.digest != samples[best]["arch_digest"]


def test_the_key_is_the_budgets_or_the_architectures(search: SearchResult, tmp_path: Path) -> None:
    keys = [stage_key(Derive(budget=b), search) for b in (None, 1.0, 2.0)]
    assert len(set(keys)) == 3
    write_json(tmp_path / "mine.json", models.zoo("squeezenas-mac-small").to_json())
    assert stage_key(Derive("zoo:squeezenas-mac-small")) == stage_key(Derive(str(tmp_path / "mine.json")))


@pytest.mark.parametrize("fields", [{"budget": 0.0}, {"budget": -1.0}, {"arch": "zoo:squeezenas-mac-small", "budget": 1.0}])
def test_impossible_budgets_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^budget: "):
        Derive(**fields)


def test_a_budget_does_not_choose_a_pruned_teacher() -> None:
    with pytest.raises(ValueError, match=r"^budget: 5\.0 goes without net pruned_teacher"):
        Derive(budget=5.0, net="pruned_teacher")


def test_without_search_or_arch_there_is_nothing_to_derive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"derive\.arch: no architecture is named"):
        Derive()(Slot(tmp_path / "arch"))


def test_another_budget_chooses_again_and_does_not_search_again(searching_run: Path, tmp_path: Path) -> None:
    shutil.copytree(searching_run, tmp_path / "run")
    cheapest = min(read_json(searching_run / "search" / "samples.json"), key=lambda row: row["cost"])
    seen: list[tuple[str, str]] = []
    changed = recipe.read(str(searching_run / "recipe.yaml"), [f"derive.budget={cheapest['cost']}"])

    def view(event: str, **fields: Any) -> None:
        seen.append((str(fields.get("stage")), event))
        if seen[-1] == ("train", "start"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(changed, "again", tmp_path / "run", view)
    assert ("search", "up-to-date") in seen
    assert ("arch", "done") in seen
    assert read_architecture(Architecture(tmp_path / "run" / "arch")).digest == cheapest["arch_digest"]
