from __future__ import annotations

import random
from dataclasses import replace

import pytest

from edgesmith import models
from edgesmith.calibration.fingerprint import Fingerprint
from edgesmith.calibration.table import Table
from edgesmith.models.arch import Segmentation, SqueezeNas
from edgesmith.models.cost import activation_bytes, macs, params
from edgesmith.models.parts import parts
from edgesmith.pipeline.search.squeezenas_costs import costs
from edgesmith.pipeline.search.squeezenas_space import NAMES, SPACES, SpaceName, space

TASK = Segmentation(7)
HW = (96, 160)


def random_choice(name: SpaceName, rng: random.Random) -> list[int]:
    return [rng.randrange(len(NAMES)) for _ in range(len(space(name)))]


def measured(name: SpaceName) -> Table:
    """A table that holds every piece of a space; the times are made up."""
    table = Table(HW, TASK.classes, "onnxruntime", 1, Fingerprint("none", 1, None, "none", 1, {}))
    for j in range(len(NAMES)):
        for _, part in parts(space(name).arch([j] * len(space(name)), "x"), TASK, HW):
            if not part.empty and part.key not in table.entries:
                time_ms = 0.01 * (1 + sum(map(ord, part.key)) % 97)
                table = table.with_round(part, time_ms, 1, "0" * 64, table.fingerprint)
    return table


@pytest.mark.parametrize("name", SPACES)
def test_the_cost_of_a_choice_is_that_of_the_whole_network(name: SpaceName) -> None:
    rng, table = random.Random(0), measured(name)
    by = {r: costs(space(name), TASK, r, HW, table) for r in ("macs", "params", "activations", "latency")}  # type: ignore[arg-type]
    for _ in range(10):
        choice = random_choice(name, rng)
        arch = space(name).arch(choice, "x")
        assert by["macs"].of(choice) == pytest.approx(macs(arch, TASK, HW) / 1e9)
        assert by["params"].of(choice) == pytest.approx(params(arch, TASK) / 1e6)
        assert by["activations"].of(choice) == pytest.approx(activation_bytes(arch, TASK, HW) / 1e6)
        assert by["latency"].of(choice) == pytest.approx(table.total(arch, TASK).latency_ms)
        assert all(c.least <= c.of(choice) for c in by.values())


def test_the_published_network_costs_what_was_published() -> None:
    arch = models.zoo("squeezenas-mac-small")
    assert isinstance(arch, SqueezeNas)
    found = costs(space("small"), Segmentation(19), "macs", (1024, 2048))
    assert found.of(space("small").choice(arch)) == pytest.approx(3.01, abs=0.01)
    assert found.unit == "GMAC"


def test_a_skip_that_keeps_width_and_size_costs_nothing() -> None:
    found = costs(space("small"), TASK, "macs", HW)
    skips = [row[NAMES.index("skip")] for row in found.blocks]
    assert [i for i, c in enumerate(skips) if c == 0] == [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19]


def test_a_table_of_another_size_or_number_of_classes_is_refused_with_the_command() -> None:
    table = measured("small")
    with pytest.raises(ValueError, match=r"measure small --input 64x64 --classes 7 --out table-64x64-7\.json$"):
        costs(space("small"), TASK, "latency", (64, 64), table)
    with pytest.raises(ValueError, match="and 19: edgesmith table"):
        costs(space("small"), Segmentation(19), "latency", HW, table)
    with pytest.raises(ValueError, match="table: latency needs a table"):
        costs(space("small"), TASK, "latency", HW)
    short = dict(table.entries)
    key = next(k for k in short if "mbconv" in k)
    del short[key]
    with pytest.raises(ValueError, match="edgesmith table measure small --input "):
        costs(space("small"), TASK, "latency", HW, replace(table, entries=short))
