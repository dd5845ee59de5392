"""The SqueezeNAS search as a stage and as a method, on a space of four blocks."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesmith import models
from edgesmith.calibration.fingerprint import Fingerprint
from edgesmith.calibration.table import Table
from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Segmentation, SqueezeNas
from edgesmith.models.cost import macs
from edgesmith.models.weights import read_tensors
from edgesmith.pipeline import derive
from edgesmith.pipeline.artifacts import SearchResult, Slot
from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.search import squeezenas, squeezenas_loop
from edgesmith.pipeline.search.evaluation import Evaluation, evenly, recalibrate, whole_frames
from edgesmith.pipeline.search.pareto import front
from edgesmith.pipeline.search.squeezenas import SqueezeNasSearch
from edgesmith.pipeline.search.squeezenas_loop import PathEvaluation, Searching, improbable, sampled, temperature
from edgesmith.pipeline.search.squeezenas_space import NAMES, Space
from edgesmith.pipeline.search.squeezenas_space import space as whole_space
from edgesmith.pipeline.show import as_text, describe
from edgesmith.pipeline.stage import stage_key
from edgesmith.pipeline.training.checkpoint import Progress
from edgesmith.pipeline.training.loader import Batch, Batches
from tests.pipeline.search.plain_supernet import path_logits
from tests.stopping import stopping_at

STREET = Data("street", frame_hw=(64, 96), train_frames=12, val_frames=3, test_frames=2)
TINY = SqueezeNasSearch(
    data=STREET,
    input_hw=(64, 96),
    epochs=3,
    batch=4,
    alpha=0.5,
    removal=0.05,
    theta_lr=20.0,
    samples=4,
    val_frames=2,
    recalibrate=2,
    augment=Augment(crop_hw=(64, 64)),
    device="cpu",
    checkpoint_seconds=1e-6,
)
TASK = Segmentation(11)


@pytest.fixture(autouse=True)
def four_blocks(monkeypatch: pytest.MonkeyPatch) -> Space:
    """The Small space cut down to one block a stage, so that a step takes a tenth of a second."""
    whole = whole_space("small")
    macro = dataclasses.replace(whole.macro, blocks=tuple(whole.macro.blocks[i] for i in (0, 4, 8, 12)), low_level_block=1)
    cut = Space("small", macro)
    for module in (squeezenas, squeezenas_loop, derive):
        monkeypatch.setattr(module, "space", lambda name: cut)
    return cut


def searching(**changes: Any) -> Searching:
    search = dataclasses.replace(TINY, **changes)
    torch.manual_seed(search.seed)
    return Searching(search, TASK, search.costs(), torch.device("cpu"))


def batch(seed: int = 0) -> Batch:
    assert TINY.data is not None
    return next(Batches(open_split(TINY.data, "train"), TINY.augment, TINY.batch, seed).epoch(0))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search") / "result"


@pytest.fixture
def result(kept: Path) -> SearchResult:
    """The result of TINY, made once."""
    return SearchResult(kept) if kept.is_dir() else TINY(Slot(kept, "key"))


# The stage


@pytest.mark.parametrize("place", [("step", 2), ("step", 5), ("epoch", 2), ("job", 1), ("job", 3)])
def test_a_stopped_search_goes_on_to_the_same_result_bit_for_bit(
    result: SearchResult, tmp_path: Path, place: tuple[str, int]
) -> None:
    scratch, events = tmp_path / "scratch", []
    with pytest.raises(KeyboardInterrupt):
        TINY(Slot(tmp_path / "out", "key", scratch, stopping_at(*place)))
    assert not (tmp_path / "out").exists()
    torch.manual_seed(1234)
    again = TINY(Slot(tmp_path / "out", "key", scratch, lambda event, **fields: events.append(event)))
    assert again.digest == result.digest
    if place[0] == "job":
        assert "step" not in events
        assert events.count("job") == TINY.samples - place[1]


def test_candidates_left_in_the_run_that_the_tests_of_going_on_compare(result: SearchResult) -> None:
    found = read_json(result.path / "search.json")
    removed = [pair for row in found["history"] for pair in row["removed"]]
    assert removed
    assert found["history"][0]["removed"]  # so that a search is also resumed with candidates missing
    assert {(i, n) for i, n in removed} == {(i, n) for i in range(4) for n in NAMES if n not in found["alive"][i]}
    names = read_tensors(result.path / "supernet.safetensors")
    assert not [n for n in names if any(n.startswith(f"blocks.{i}.candidates.{c}.") for i, c in removed)]


def test_a_search_by_latency_leaves_the_digest_of_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = latency_table(tmp_path / "table.json")
    found = TINY.costs()
    monkeypatch.setattr(SqueezeNasSearch, "costs", lambda self: found)  # the table is empty
    by_latency = searching(resource="latency", table=str(tmp_path / "table.json"))
    assert squeezenas_loop._summary(by_latency, Progress())["table"] == table.digest
    assert squeezenas_loop._summary(searching(), Progress())["table"] is None


def latency_table(path: Path) -> Table:
    """A table without entries, written to `path`."""
    table = Table((64, 96), 11, "onnxruntime", 3, Fingerprint("none", 1, None, "none", 1, {}))
    table.write(path)
    return table


def test_what_a_search_leaves(result: SearchResult, four_blocks: Space) -> None:
    found, samples = read_json(result.path / "search.json"), read_json(result.path / "samples.json")
    assert [row["epoch"] for row in found["history"]] == [1, 2, 3]
    assert all("seconds" not in row for row in found["history"])
    assert np.array(found["probabilities"]).sum(1) == pytest.approx(1.0)
    assert len(samples) == len({row["arch_digest"] for row in samples}) == TINY.samples
    assert samples[0]["choice"] == [NAMES[int(np.argmax(p))] for p in found["probabilities"]]
    for row in samples:
        choice = [NAMES.index(n) for n in row["choice"]]
        assert all(n in found["alive"][i] for i, n in enumerate(row["choice"]))
        assert row["arch_digest"] == four_blocks.arch(choice, "x").digest
        assert row["macs"] == macs(four_blocks.arch(choice, "x"), TASK, (64, 96))
        assert row["cost"] == pytest.approx(row["macs"] / 1e9)
        assert 0 <= row["val_miou"] <= 1
    assert [row["on_front"] for row in samples] == front([(row["cost"], row["val_miou"]) for row in samples])
    shown = describe(result.path)
    assert (shown["networks"], shown["unit"], shown["epochs"]) == (4, "GMAC", 3)
    assert "front" in as_text(shown)


def test_an_evaluation_that_fails_is_recorded_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PathEvaluation.__call__
    calls = itertools.count()

    def fail_once(self: PathEvaluation, choice: tuple[int, ...]) -> float | None:
        if next(calls) == 1:
            raise RuntimeError("out of memory")
        return original(self, choice)

    monkeypatch.setattr(PathEvaluation, "__call__", fail_once)
    made = dataclasses.replace(TINY, epochs=1)(Slot(tmp_path / "out", "key"))
    samples = read_json(made.path / "samples.json")
    assert [("out of memory" in row.get("error", ""), row["val_miou"] is None) for row in samples] == [
        (False, False), (True, True), (False, False), (False, False)
    ]  # fmt: skip
    assert not samples[1]["on_front"]


def test_a_loss_that_is_not_finite_stops_with_step_checkpoint_and_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squeezenas_loop, "learning_rate", lambda optim, done, epochs: 1e-3 if done < 0.4 else 1e18)
    with pytest.raises(FloatingPointError, match=r"epoch 2, step \d of 3; the last good checkpoint is .*Lower search.optim.lr"):
        TINY(Slot(tmp_path / "out", "key", tmp_path / "scratch"))
    assert not (tmp_path / "out").exists()


def test_the_key_holds_the_splits_and_the_tables_content_not_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = stage_key(TINY)
    assert stage_key(dataclasses.replace(TINY, checkpoint_seconds=9.0)) == key
    assert stage_key(dataclasses.replace(TINY, data=dataclasses.replace(STREET, test_frames=9))) == key
    assert stage_key(dataclasses.replace(TINY, data=dataclasses.replace(STREET, val_frames=9))) != key
    table = latency_table(tmp_path / "table.json")
    for name in ("a", "b", "c"):
        dataclasses.replace(table, rounds=5 if name == "c" else 3).write(tmp_path / f"{name}.json")
    a, b, c = (
        stage_key(dataclasses.replace(TINY, resource="latency", table=str(tmp_path / f"{n}.json"))) for n in ("a", "b", "c")
    )
    assert a == b != c


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"alpha": -1.0},
        {"temperature": (1.0, 5.0)},
        {"temperature": (5.0, 0.0)},
        {"removal": 0.5},
        {"removal": 0.0},
        {"samples": 0},
        {"target": 0.0},
        {"theta_lr": 0.0},
        {"theta_from": 1.5},
        {"recalibrate": -1},
        {"recalibrate": 1},
        {"val_frames": 0},
        {"input_hw": (32, 64)},
        {"table": "t.json"},
    ],
)
def test_impossible_settings_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: "):
        dataclasses.replace(TINY, **change)


def test_latency_needs_a_table() -> None:
    with pytest.raises(ValueError, match="edgesmith table measure"):
        dataclasses.replace(TINY, resource="latency")


# The method


def test_a_step_updates_weights_and_architecture_on_the_same_batch() -> None:
    s = searching()
    weights = {k: v.detach().clone() for k, v in s.supernet.named_parameters()}
    s.advance(batch(), Progress(), 0.0)
    assert not torch.equal(s.theta, torch.ones_like(s.theta))
    assert sum(not torch.equal(v, weights[k]) for k, v in s.supernet.named_parameters()) > 0.9 * len(weights)
    late = searching(theta_from=0.5)
    late.advance(batch(), Progress(), 0.4)
    assert torch.equal(late.theta, torch.ones_like(late.theta))
    late.advance(batch(), Progress(), 0.5)
    assert not torch.equal(late.theta, torch.ones_like(late.theta))


def test_the_loss_is_the_pixel_loss_and_alpha_times_the_expected_cost(four_blocks: Space) -> None:
    plain, counted = (searching(alpha=a).advance(batch(), Progress(), 0.0) for a in (0.0, 3.0))
    costs = TINY.costs()
    expected = costs.fixed + sum(sum(row) / len(NAMES) for row in costs.blocks)  # theta is even at first
    assert counted["cost"] == pytest.approx(expected)
    assert counted["pixel_loss"] == pytest.approx(plain["loss"])
    assert counted["loss"] == pytest.approx(plain["loss"] + 3.0 * expected)


def test_below_the_target_the_cost_does_not_count() -> None:
    cost = searching().advance(batch(), Progress(), 0.0)["cost"]
    below, above = (searching(alpha=2.0, target=t).advance(batch(), Progress(), 0.0) for t in (1.5 * cost, 0.5 * cost))
    assert below["loss"] == pytest.approx(below["pixel_loss"])
    assert above["loss"] == pytest.approx(above["pixel_loss"] + 2.0 * 0.5 * cost)


def test_the_cost_may_follow_the_samples_as_in_the_released_code() -> None:
    s = searching(resource_weights="gumbel")
    weights = torch.zeros(2, 4, len(NAMES))
    choices = [(0, 1, 2, 3), (12, 11, 10, 9)]
    for n, choice in enumerate(choices):
        weights[n, range(4), choice] = 1.0
    costs = TINY.costs()
    assert float(s.expected_cost(weights)) == pytest.approx(sum(map(costs.of, choices)) / 2)


def test_each_image_has_its_own_sample_and_noise_depends_on_the_place_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    s = searching()
    original = s.supernet.low_logits
    monkeypatch.setattr(s.supernet, "low_logits", lambda x, w: (seen.append(w.detach().clone()), original(x, w))[1])
    for progress in (Progress(1, 2), Progress(1, 3), Progress(1, 2)):
        s.theta.data.fill_(1.0)
        s.advance(batch(), progress, 0.5)
    first, second, again = seen
    assert first.shape == (4, 4, len(NAMES))
    assert first.sum(-1) == pytest.approx(1.0)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert torch.equal(first, again)
    rng = np.random.default_rng((s.search.seed, 1, 2, squeezenas_loop.STEP_NOISE))
    noise = torch.from_numpy(-np.log(-np.log(1 - rng.uniform(size=first.shape))))  # Gumbel's, from where his distribution ends
    torch.testing.assert_close(first, (noise / s.temperature).softmax(-1).float())


def test_samples_differ_begin_with_the_most_probable_and_end_where_there_are_no_more() -> None:
    logits = np.full((2, 13), -np.inf)
    logits[0, [3, 5]], logits[1, [0, 7]] = [0.0, 1.0], [2.0, 0.0]
    assert set(sampled(logits, 10, 0)) == {(3, 0), (3, 7), (5, 0), (5, 7)}
    assert sampled(logits, 10, 0)[0] == (5, 0)
    assert len(sampled(logits, 2, 0)) == 2
    assert sampled(np.zeros((4, 13)), 8, 0) == sampled(np.zeros((4, 13)), 8, 0) != sampled(np.zeros((4, 13)), 8, 1)


def test_the_temperature_falls_linearly() -> None:
    assert [temperature((5.0, 1.0), done) for done in (0.0, 0.25, 0.5, 1.0)] == [5.0, 4.0, 3.0, 1.0]


def test_improbable_candidates_leave_with_their_optimizer_state_and_the_others_keep_theirs() -> None:
    s = searching(removal=0.005)
    s.advance(batch(), Progress(), 0.0)
    s.theta.data[1, 4] = -9.0
    s.theta.data[2, :] = -9.0
    s.theta.data[2, 7] = 9.0
    before = {k: s.optimizer.state[p]["momentum_buffer"].clone() for k, p in s.supernet.named_parameters()}
    row = s.end_epoch(Progress())
    assert row["removed"] == [[1, NAMES[4]], *([2, NAMES[j]] for j in range(13) if j != 7)]
    assert row["alive"] == 4 * 13 - 13
    assert s.supernet.alive[2] == [7]
    left = dict(s.supernet.named_parameters())
    assert len(left) < len(before)
    assert set(s.optimizer.state) == set(left.values())
    assert all(torch.equal(s.optimizer.state[p]["momentum_buffer"], before[k]) for k, p in left.items())
    assert s.probabilities()[2].tolist() == [float(j == 7) for j in range(13)]
    assert np.isfinite(s.advance(batch(), Progress(), 0.5)["loss"])
    assert torch.isfinite(s.theta).all()


def test_without_a_limit_no_candidate_leaves() -> None:
    s = searching(removal=None)
    s.theta.data[0, 0] = -20.0
    assert s.end_epoch(Progress())["removed"] == []
    assert improbable(s.probabilities(), s.alive, 0.005) == [(0, 0)]


def test_a_path_is_evaluated_as_the_network_that_is_built_and_the_supernet_stays_as_it_is(four_blocks: Space) -> None:
    s = searching()
    s.advance(batch(), Progress(), 0.0)
    before = copy.deepcopy(s.supernet.state_dict())
    choice = (1, 2, 12, 7)
    x, _ = s.placement.batch(batch())
    s.supernet.eval()
    arch = four_blocks.arch(choice, "x")
    assert isinstance(arch, SqueezeNas)
    built = models.build(arch, TASK)
    built.load_state_dict(s.supernet.path_state(choice))
    with torch.no_grad():
        torch.testing.assert_close(built.eval().low_logits(x), path_logits(s.supernet, x, choice))
    s.supernet.train()
    scores = []
    for frames in (0, 2):
        calibration = whole_frames(open_split(STREET, "train"), frames, (64, 96), s.placement)
        evaluation = Evaluation(s.placement, calibration, open_split(STREET, "val"), [0, 2], (64, 96))
        scores.append(PathEvaluation(s, evaluation)(choice))
    assert all(score is not None and 0 <= score <= 1 for score in scores)
    after = s.supernet.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_recalibration_replaces_the_statistics_by_those_of_the_given_frames() -> None:
    class Asked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert self.training == first
            return x

    first = True
    module = torch.nn.Sequential(torch.nn.BatchNorm2d(3), Asked()).train()
    module(torch.randn(4, 3, 8, 8) * 9 + 5)
    first = False  # all but batch norms work as they do in an evaluation
    frames = [torch.randn(4, 3, 8, 8) + i for i in range(2)]
    recalibrate(module, frames)
    expected = torch.stack([f.mean((0, 2, 3)) for f in frames]).mean(0)
    torch.testing.assert_close(module[0].running_mean, expected)
    assert not module.training


def test_frames_are_spread_evenly() -> None:
    assert evenly(10, None) == list(range(10))
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert evenly(3, 9) == [0, 1, 2]


def test_a_search_in_bf16_gives_finite_numbers() -> None:
    numbers = searching(precision="bf16", theta_optimizer="adam").advance(batch(), Progress(), 0.0)
    assert all(np.isfinite(v) for v in numbers.values())
