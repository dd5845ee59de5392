"""The FasterSeg search as a stage and as a method, on a space of five layers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesmith.calibration.fingerprint import Fingerprint
from edgesmith.calibration.table import Table
from edgesmith.deploy.files import read_json
from edgesmith.models.arch import Arch, Segmentation
from edgesmith.models.cost import macs
from edgesmith.models.weights import read_tensors
from edgesmith.pipeline.artifacts import Architecture, SearchResult, Slot
from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.derive import Derive
from edgesmith.pipeline.metrics import ConfusionMatrix
from edgesmith.pipeline.reference import resized
from edgesmith.pipeline.search import evaluation as evaluation_module
from edgesmith.pipeline.search import fasterseg_loop
from edgesmith.pipeline.search.evaluation import Evaluation, recalibrate, whole_frames
from edgesmith.pipeline.search.fasterseg import PRETRAINED, FasterSegSearch, Phase
from edgesmith.pipeline.search.fasterseg_derive import Target, derive
from edgesmith.pipeline.search.fasterseg_latency import RelaxedLatency
from edgesmith.pipeline.search.fasterseg_loop import Alternation, Pretraining, Searching, adapted, padded
from edgesmith.pipeline.search.fasterseg_networks import Heads, Networks
from edgesmith.pipeline.search.fasterseg_relaxed import Pass, Widths
from edgesmith.pipeline.search.fasterseg_space import NETS, Net, Space, read_logits
from edgesmith.pipeline.search.fasterseg_step import Losses
from edgesmith.pipeline.stage import configuration, stage_key
from edgesmith.pipeline.training.checkpoint import Progress
from edgesmith.pipeline.training.loader import Batch, Batches
from edgesmith.pipeline.training.optim import Optim
from tests.stopping import stopping_at

STREET = Data("street", frame_hw=(64, 96), train_frames=9, val_frames=3, test_frames=2)
TINY_SPACE = Space(5, ("skip", "conv", "zoomed_conv_x2"), (1, 2), 2, 1, 2)
LEARNING = Optim(lr=0.02, schedule="exponential", decay=0.9, grad_clip=5.0)
TINY = FasterSegSearch(
    data=STREET,
    space=TINY_SPACE,
    input_hw=(64, 96),
    latency_weight=0.5,
    target=Target(T=0.1),
    pretrain=Phase(2, 2, Augment(crop_hw=(64, 64)), LEARNING),
    alternate=Phase(2, 2, Augment(crop_hw=(64, 64)), LEARNING),
    arch_lr=0.1,
    val_frames=2,
    recalibrate=2,
    device="cpu",
    checkpoint_seconds=1e-6,
)
TASK = Segmentation(11)


def searching(**changes: Any) -> Searching:
    search = dataclasses.replace(TINY, **changes)
    torch.manual_seed(search.seed)
    return Searching(search, TASK, torch.device("cpu"))


def alternation(**changes: Any) -> Alternation:
    s = searching(**changes)
    split = open_split(STREET, "val")
    evaluation = Evaluation(s.placement, (), split, [0], (64, 96))
    return Alternation(s, Networks(s, evaluation, Path("unused"), Slot(Path("unused"))))


def batch(seed: int = 0) -> Batch:
    return next(Batches(open_split(STREET, "train"), TINY.alternate.augment, 2, seed).epoch(0))


def both() -> tuple[Batch, Batch]:
    return batch(0), batch(1)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """The result of TINY, made once."""
    slot = Slot(tmp_path_factory.mktemp("search") / "result", "key")
    return TINY(slot)


# The stage


@pytest.mark.parametrize("place", [("step", 3), pytest.param(("epoch", 2), marks=pytest.mark.slow), ("step", 7), ("job", 3)])
def test_a_stopped_search_goes_on_to_the_same_result_bit_for_bit(
    result: SearchResult, tmp_path: Path, place: tuple[str, int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        TINY(Slot(tmp_path / "out", "key", tmp_path / "scratch", stopping_at(*place)))
    assert not (tmp_path / "out").exists()
    torch.manual_seed(1234)
    events: list[str] = []
    again = TINY(Slot(tmp_path / "out", "key", tmp_path / "scratch", lambda event, **fields: events.append(event)))
    assert again.digest == result.digest
    assert "resumed" in events


def test_a_damaged_checkpoint_is_put_aside_and_the_search_begins_again(result: SearchResult, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scratch = tmp_path / "scratch"
    for name, count in (("cut", 2), ("garbled", 6)):  # the checkpoint of either phase
        with pytest.raises(KeyboardInterrupt):
            TINY(Slot(tmp_path / "out", "key", scratch, stopping_at("step", count)))
        last = max(scratch.glob("checkpoint-*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
        data = last.read_bytes()
        last.write_bytes(data[: len(data) // 3] if name == "cut" else rng.bytes(64) + data[64:])
    events: list[str] = []
    again = TINY(Slot(tmp_path / "out", "key", scratch, lambda event, **fields: events.append(event)))
    assert again.digest == result.digest
    assert "checkpoint-damaged" in events
    assert len(list(scratch.glob("*.damaged"))) >= 1


def test_what_a_search_leaves(result: SearchResult) -> None:
    found, scored = read_json(result.path / "search.json"), read_logits(result.path / "logits.json")
    assert (found["method"], found["classes"], found["input_hw"], found["unit"]) == ("fasterseg", 11, [64, 96], "GMAC")
    assert Space.from_json(found["space"]) == scored.space == TINY_SPACE
    assert [(row["epoch"], row["phase"]) for row in found["history"]] == [
        (1, "pretrain"), (2, "pretrain"), (3, "search"), (4, "search")
    ]  # fmt: skip
    assert all("seconds" not in row for row in found["history"])
    last = found["history"][-1]
    assert {"loss", "pixel_loss", "arch_loss", "arch_pixel_loss", "latency", "lambda", "lr", "entropy", "networks"} < set(last)
    for net, widths in (("student", 2), ("teacher", 1)):
        tables = last["probabilities"][net]
        assert [np.shape(t) for t in tables["ratio"]] == [(4, widths), (4, widths), (3, widths)]
        assert np.sum(tables["alpha"][0], 1) == pytest.approx(1.0, abs=1e-4)
        assert len(tables["beta"]) == 2
    assert found["networks"] == last["networks"]
    assert [(row["net"], row["scales"]) for row in found["networks"]] == [("student", [1, 0]), ("teacher", [1, 0])]
    for row in found["networks"]:
        net, scales = row["net"], tuple(row["scales"])
        arch = Arch.from_json(row["arch"])
        assert arch == derive(TINY_SPACE, scored.logits[net], net, scales, name=f"fasterseg-{net}")
        assert row["latency"] == pytest.approx(macs(arch, TASK, (64, 96)) / 1e9)
        assert scored.scores[net][scales].miou == row["val_miou"]
        assert row["target"] == pytest.approx(row["val_miou"] * (row["latency"] / 0.1) ** -0.07)
    assert found["chosen"] == {"student": [1, 0], "teacher": [1, 0]}
    assert found["latency_weights"] == [0.001, 0.997, 0.002]
    assert found["sensitivity"]["operator"] > 0
    names = read_tensors(result.path / "supernet.safetensors").keys()
    assert names == read_tensors(result.path / PRETRAINED).keys()


def test_the_result_derives_to_its_networks(result: SearchResult, tmp_path: Path) -> None:
    for row in read_json(result.path / "search.json")["networks"]:
        made = Derive(net=row["net"])(result, Slot(tmp_path / row["net"]))
        assert isinstance(made, Architecture)
        assert Arch.from_json(read_json(made.path / "arch.json")).digest == Arch.from_json(row["arch"]).digest


def test_searches_begin_with_the_pretraining_of_another_and_are_then_alike(
    result: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = dataclasses.replace(TINY, pretrained=str(result.path))
    again = shared(Slot(tmp_path / "out", "other"))
    assert not (again.path / PRETRAINED).exists()
    for name in ("search.json", "logits.json", "supernet.safetensors"):
        assert (again.path / name).read_bytes() == (result.path / name).read_bytes(), name
    with pytest.raises(ValueError, match=f"has no {PRETRAINED}; name the search that did the pretraining"):
        dataclasses.replace(TINY, pretrained=str(again.path)).open_pretrained()
    with pytest.raises(FileNotFoundError, match=r"search.pretrained: .* is not a folder"):
        dataclasses.replace(TINY, pretrained=str(tmp_path / "nowhere")).require_startable()
    with pytest.raises(ValueError, match=r"search.pretrained: .* has seed 0, this search 1; .* give both one seed"):
        dataclasses.replace(shared, seed=1).require_startable()
    more = dataclasses.replace(STREET, train_frames=10)
    with pytest.raises(ValueError, match=r"search.pretrained: .* learnt from another train split than that of search.data"):
        dataclasses.replace(shared, data=more).require_startable()
    dataclasses.replace(shared, data=dataclasses.replace(STREET, val_frames=4)).require_startable()
    monkeypatch.setattr(FasterSegSearch, "version", FasterSegSearch.version + 1)
    with pytest.raises(
        ValueError, match=r"search.pretrained: .* made by another version of the search than \d+, .*do the pretraining again"
    ):
        shared.require_startable()
    monkeypatch.undo()
    other = dataclasses.replace(shared, space=dataclasses.replace(TINY_SPACE, operators=("conv", "zoomed_conv_x2")))
    with pytest.raises(ValueError, match=PRETRAINED):
        other(Slot(tmp_path / "another", "other"))


def test_a_search_may_only_pretrain(tmp_path: Path) -> None:
    only = dataclasses.replace(
        TINY, pretrain=dataclasses.replace(TINY.pretrain, epochs=1), alternate=dataclasses.replace(TINY.alternate, epochs=0)
    )
    found = read_json(only(Slot(tmp_path / "out", "key")).path / "search.json")
    assert [row["phase"] for row in found["history"]] == ["pretrain"]
    assert len(found["networks"]) == 2


def test_the_two_halves_are_disjoint_and_pretraining_sees_only_the_weights_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    original = fasterseg_loop.run_epochs

    def noting(learner: Any, batches: Any, *rest: Any) -> Any:
        sources = (batches.one, batches.other) if isinstance(learner, Alternation) else (batches,)
        seen.extend(source.split.indices for source in sources)
        return original(learner, batches, *rest)

    monkeypatch.setattr(fasterseg_loop, "run_epochs", noting)
    with pytest.raises(KeyboardInterrupt):
        TINY(Slot(tmp_path / "out", "key", log=stopping_at("step", 5)))
    pretraining, weights, architecture = seen
    assert pretraining == weights
    assert not set(weights) & set(architecture)
    assert sorted(weights + architecture) == list(range(9))


def test_frames_and_crops_of_no_phase_or_half_are_those_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[Batches] = []
    original = fasterseg_loop.run_epochs

    def noting(learner: Any, batches: Any, *rest: Any) -> Any:
        sources.extend((batches.one, batches.other) if isinstance(learner, Alternation) else (batches,))
        return original(learner, batches, *rest)

    monkeypatch.setattr(fasterseg_loop, "run_epochs", noting)
    with pytest.raises(KeyboardInterrupt):
        TINY(Slot(tmp_path / "out", "key", log=stopping_at("step", 5)))
    pretraining, weights, architecture = sources
    first, later = (next(source.epoch(0)) for source in (pretraining, weights))
    assert not np.array_equal(first.frames, later.frames)
    # The same frames through each: what is random about them differs.
    same = [dataclasses.replace(source, split=weights.split) for source in (pretraining, weights, architecture)]
    for one, other in itertools.combinations(same, 2):
        assert not any(np.array_equal(one._sample(0, i)[0], other._sample(0, i)[0]) for i in range(len(weights.split)))


def test_an_evaluation_that_fails_stops_the_search_and_is_made_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = dataclasses.replace(
        TINY,
        pretrain=dataclasses.replace(TINY.pretrain, epochs=0),
        alternate=dataclasses.replace(TINY.alternate, epochs=1),
    )
    slot = Slot(tmp_path / "out", "key", tmp_path / "scratch")

    def fail(self: Evaluation, *given: Any) -> list[float | None]:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "__call__", fail)
        with pytest.raises(RuntimeError, match=r"in epoch 1: .*out of memory.* remove .*networks-"):
            once(slot)
    (record,) = slot.scratch.glob("networks-*.json")  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="out of memory"):
        once(slot)
    record.unlink()
    assert len(read_json(once(slot).path / "search.json")["networks"]) == 2


def test_a_val_split_without_labels_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = searching(teacher=False)
    monkeypatch.setattr(Evaluation, "__call__", lambda self, module, heads: [None] * heads)
    networks = Networks(
        s, Evaluation(s.placement, (), open_split(STREET, "val"), [0], (64, 96)), tmp_path / "n.json", Slot(tmp_path)
    )
    with pytest.raises(RuntimeError, match=r"student could not be evaluated in epoch 3: .*no labelled pixel"):
        networks.evaluated(3)


def test_a_loss_that_is_not_finite_stops_with_step_checkpoint_and_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fasterseg_loop, "learning_rate", lambda optim, done, epochs: 1e-3 if done < 0.4 else 1e18)
    wild = dataclasses.replace(TINY, pretrain=dataclasses.replace(TINY.pretrain, optim=Optim()))
    with pytest.raises(FloatingPointError, match=r"epoch \d, step \d of 2; the last good .*Lower search.pretrain.optim.lr"):
        wild(Slot(tmp_path / "out", "key", tmp_path / "scratch"))
    assert not (tmp_path / "out").exists()


def test_so_does_a_loss_of_the_architecture(tmp_path: Path) -> None:
    none = dataclasses.replace(TINY.pretrain, epochs=0)
    wild = dataclasses.replace(TINY, pretrain=none, latency_weight=math.inf)
    with pytest.raises(
        FloatingPointError, match=r"the arch_loss is inf at epoch 1, step 1 of 2; .*Lower search.alternate.optim"
    ):
        wild(Slot(tmp_path / "out", "key"))


def test_the_key_holds_the_splits_and_what_was_pretrained_not_where_it_lies(result: SearchResult, tmp_path: Path) -> None:
    key = stage_key(TINY)
    assert stage_key(dataclasses.replace(TINY, checkpoint_seconds=9.0)) == key
    assert stage_key(dataclasses.replace(TINY, data=dataclasses.replace(STREET, test_frames=9))) == key
    assert stage_key(dataclasses.replace(TINY, data=dataclasses.replace(STREET, val_frames=9))) != key
    assert stage_key(dataclasses.replace(TINY, space=dataclasses.replace(TINY_SPACE, layers=6))) != key
    shutil.copytree(result.path, tmp_path / "copy")
    here, there = (stage_key(dataclasses.replace(TINY, pretrained=str(p))) for p in (result.path, tmp_path / "copy"))
    assert here == there != key
    assert configuration(TINY)["space"]["layers"] == 5


@pytest.mark.parametrize(
    "change",
    [
        {"evaluate_every": 0},
        {"arch_lr": 0.0},
        {"arch_betas": (0.5, 1.0)},
        {"latency_weight": -1.0},
        {"latency_weights": (0.0, 0.0, 0.0)},
        {"latency_weights": (1.0, -1.0, 0.0)},
        {"ohem_threshold": 1.5},
        {"ohem_min_kept": -0.1},
        {"recalibrate": -1},
        {"recalibrate": 1},
        {"seed": -1},
        {"val_frames": 0},
        {"input_hw": (32, 64)},
        {"table": "t.json"},
        {"fps_band": (175.0, 155.0)},
        {"fps_band": (10.0, 20.0)},
        {"fps_band": (155.0, 175.0), "resource": "latency", "table": "t.json", "latency_weight": 0.0},
        {"space": Space(layers=4)},
        {"space": Space(layers=3, branches=1)},
        {"checkpoint_seconds": 0.0},
    ],
)
def test_impossible_settings_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: "):
        dataclasses.replace(TINY, **change)


def test_a_table_with_a_hole_is_refused_before_the_search_starts(tmp_path: Path) -> None:
    search = dataclasses.replace(TINY, resource="latency", table=str(tmp_path / "t.json"))
    pieces, task, hw = search.pieces()
    table = Table(hw, task.classes, "onnxruntime", 1, Fingerprint("none", 1, None, "none", 1, {}))
    for part in pieces.values():
        table = table.with_round(part, 0.5, 1, "0" * 64, table.fingerprint)
    table.write(tmp_path / "t.json")
    search.require_startable()
    missing = next(part.key for part in pieces.values() if part.kind == "refine")
    dataclasses.replace(table, entries={k: v for k, v in table.entries.items() if k != missing}).write(tmp_path / "t.json")
    with pytest.raises(ValueError, match=r"lacks 1 of the \d+ pieces of the space, .*edgesmith table measure") as refused:
        dataclasses.replace(search).require_startable()
    assert repr(missing) in str(refused.value)


@pytest.mark.parametrize("change", [{"epochs": -1}, {"batch": 0}])
def test_impossible_phases_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: "):
        dataclasses.replace(TINY.pretrain, **change)


def test_a_search_needs_something_to_do() -> None:
    none = dataclasses.replace(TINY.pretrain, epochs=0)
    with pytest.raises(ValueError, match=r"^alternate: neither phase has an epoch"):
        dataclasses.replace(TINY, pretrain=none, alternate=none)
    with pytest.raises(ValueError, match=r"^pretrained: with alternate.epochs 0"):
        dataclasses.replace(TINY, pretrained="x", alternate=none)


def test_what_would_stop_a_search_later_is_found_before_it_starts() -> None:
    with pytest.raises(ValueError, match=r"search.alternate.batch: 5 frames a step, but half the train split has only 4"):
        dataclasses.replace(TINY, alternate=dataclasses.replace(TINY.alternate, batch=5)).require_startable()
    never = dataclasses.replace(TINY.alternate, epochs=0, batch=5)  # the run makes its batches all the same
    with pytest.raises(ValueError, match=r"search.alternate.batch: 5 frames a step"):
        dataclasses.replace(TINY, alternate=never).require_startable()
    with pytest.raises(ValueError, match=r"search.pretrain.batch: 5 frames a step"):
        dataclasses.replace(TINY, pretrain=never).require_startable()
    with pytest.raises(FileNotFoundError, match=r"search.pretrained"):  # a pretraining that is not done may have any batch
        dataclasses.replace(TINY, pretrain=never, pretrained="nowhere").require_startable()
    with pytest.raises(ValueError, match="edgesmith table measure"):
        dataclasses.replace(TINY, resource="latency")
    one_width = dataclasses.replace(TINY, space=dataclasses.replace(TINY_SPACE, ratios=(1,)), latency_weights="balanced")
    with pytest.raises(ValueError, match=r"latency_weights: balanced cannot be solved.* width; give three numbers"):
        one_width.require_startable()
    dataclasses.replace(one_width, decoupled=False).require_startable()  # has no use for weights
    TINY.require_startable()


def test_sets_of_branches_for_which_there_are_too_few_layers_are_left_out() -> None:
    assert TINY.choices == ((1, 0),)
    assert dataclasses.replace(TINY, space=Space(layers=8)).choices == ((1, 0), (2, 0), (2, 1))
    assert dataclasses.replace(TINY, space=Space(layers=7, branches=1)).choices == ((0,), (1,))


# The method


def test_a_step_of_the_weights_leaves_the_architecture_and_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def tensors(a: Alternation) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        arch = [p for relaxed in a.searching.relaxed.values() for p in relaxed.parameters()]
        return [p.detach().clone() for p in a.searching.supernet.parameters()], [p.detach().clone() for p in arch]

    def changed(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
        return sum(not torch.equal(b, a) for b, a in zip(before, after, strict=True)) / len(before)

    a = alternation()
    weights, arch = tensors(a)
    monkeypatch.setattr(a.arch_optimizer, "step", lambda: None)
    a.advance(both(), Progress(), 0.0)
    assert changed(arch, tensors(a)[1]) == 0
    assert changed(weights, tensors(a)[0]) > 0.5
    b = alternation()
    monkeypatch.setattr(b.weights.optimizer, "step", lambda: None)
    b.advance(both(), Progress(), 0.0)
    assert changed(weights, tensors(b)[0]) == 0
    # Of the teacher's widths there is one only, and a cell of no head has no loss.
    assert changed(arch, tensors(b)[1]) > 0.5


def test_the_loss_is_the_pixel_loss_and_lambda_times_the_latency() -> None:
    found = [alternation(latency_weight=w).advance(both(), Progress(), 0.0) for w in (0.0, 3.0)]
    a = alternation()
    alpha, beta, gamma = a.searching.relaxed["student"].probabilities()
    regular = float(a.searching.latency.decoupled(alpha, beta, gamma, (0.001, 0.997, 0.002)).detach())
    assert found[1]["arch_loss"] - found[0]["arch_loss"] == pytest.approx(3.0 * regular, rel=1e-3)
    for name in ("loss", "pixel_loss", "arch_pixel_loss"):
        assert found[0][name] == pytest.approx(found[1][name])
    assert found[0]["latency"] == pytest.approx(float(a.searching.latency.coupled(alpha, beta, gamma).detach()))
    coupled = alternation(latency_weight=3.0, decoupled=False).advance(both(), Progress(), 0.0)
    assert coupled["arch_loss"] - found[0]["arch_loss"] == pytest.approx(3.0 * found[0]["latency"], rel=1e-3)


def test_each_half_has_losses_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    a = alternation(latency_weight=0.0)
    steps: list[Losses] = []
    original = Searching.backward

    def noting(self: Searching, *given: Any) -> Losses:
        steps.append(original(self, *given))
        return steps[-1]

    monkeypatch.setattr(Searching, "backward", noting)
    numbers = a.advance(both(), Progress(), 0.0)
    weights, architecture = steps
    assert (numbers["loss"], numbers["arch_loss"]) == (weights.total, architecture.total)
    heads = 4 * len(TINY_SPACE.heads())  # of the teacher's pass and the student's three
    assert numbers["pixel_loss"] == pytest.approx(weights.total / heads)
    assert numbers["arch_pixel_loss"] == pytest.approx(architecture.total / heads)
    assert numbers["loss"] != numbers["arch_loss"]


def test_latency_presses_on_the_student_alone() -> None:
    moved = {}
    for weight in (0.0, 1e9):
        a = alternation(latency_weight=weight, latency_weights=(1.0, 1.0, 1.0))
        a.advance(both(), Progress(), 0.0)
        moved[weight] = {net: relaxed.logits() for net, relaxed in a.searching.relaxed.items()}
    free, pressed = moved[0.0], moved[1e9]
    assert all(np.array_equal(x, y) for x, y in zip(free["teacher"].alpha, pressed["teacher"].alpha, strict=True))
    skip = [TINY_SPACE.operators.index("skip"), TINY_SPACE.operators.index("conv")]
    cheap, dear = (pressed["student"].alpha[0][:, k] for k in skip)
    assert (cheap > dear).all()
    assert (pressed["student"].ratio[0][:, 0] > pressed["student"].ratio[0][:, 1]).all()


def test_widths_depend_on_the_place_alone_and_differ_between_places() -> None:
    s = searching()
    s.relaxed["student"].ratio[0].data[0] = torch.tensor([0.0, -50.0])  # the slimmest, whatever the noise

    def widths(step: int) -> Any:
        passes = s.passes(np.random.default_rng((0, 0, step, fasterseg_loop.SEARCH_NOISE)))
        assert [p.net for p in passes] == ["student", "student", "student", "teacher"]
        return next(p.widths for p in passes if p.widths.gates is not None).index

    assert widths(1) == widths(1) != widths(2)
    assert all(widths(step)[0][0] == 0 for step in range(5))


def test_pretraining_takes_the_widest_the_narrowest_and_two_random_widths() -> None:
    s = searching()
    passes = s.pretraining_passes(np.random.default_rng(0))
    assert [p.net for p in passes] == ["teacher", "student", "student", "student"]
    widest, narrowest, one, other = (p.widths.index for p in passes)
    assert {i for row in widest for i in row} == {1}
    assert {i for row in narrowest for i in row} == {0}
    assert one != other
    assert all(torch.allclose(a, torch.full_like(a, 1 / 3)) for p in passes for a in p.alpha)
    alone = searching(teacher=False).pretraining_passes(np.random.default_rng(0))
    assert {p.net for p in alone} == {"student"}
    one_width = searching(space=dataclasses.replace(TINY_SPACE, ratios=(1,)))
    assert [p.net for p in one_width.pretraining_passes(np.random.default_rng(0))] == ["teacher", "student"]
    assert [p.net for p in one_width.passes(np.random.default_rng(0))] == ["student", "teacher"]


def test_lambda_is_halved_above_the_band_and_doubled_below() -> None:
    band = (155.0, 175.0)
    assert [adapted(fps, band) for fps in ([160, 170], [160, 175], [155, 160], [150, 180])] == [1.0, 0.5, 2.0, 0.5]


def test_lambda_follows_the_students_frame_rate_from_epoch_to_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    a = alternation(evaluate_every=9)
    object.__setattr__(a.searching.search, "fps_band", (155.0, 175.0))
    for latency_ms, expected in ((5.0, 0.25), (5.0, 0.125), (6.0, 0.125), (10.0, 0.25)):
        monkeypatch.setattr(type(a.searching.costs), "of", lambda self, arch, ms=latency_ms: ms)
        a.end_epoch(Progress())
        assert float(a.latency_weight) == expected
    assert float(dict(a.state())["latency_weight"]) == 0.25


@pytest.mark.parametrize("net", NETS)
def test_a_set_of_branches_is_scored_by_the_supernets_own_head_for_it(net: Net, tmp_path: Path) -> None:
    s = searching(space=dataclasses.replace(TINY_SPACE, layers=8))
    Pretraining(s).advance(batch(), Progress(), 0.0)
    generator = torch.Generator().manual_seed(1)
    for table in (*s.relaxed[net].alpha, *s.relaxed[net].beta, *s.relaxed[net].ratio):
        table.data.normal_(generator=generator)
    relaxed, space = s.relaxed[net], s.space
    split, scales = open_split(STREET, "val"), (2, 0)
    networks = Networks(s, Evaluation(s.placement, (), split, [0, 2], (64, 96)), tmp_path / "n.json", Slot(tmp_path))
    (row,) = (row for row in networks.evaluated(1) if row["net"] == net and row["scales"] == [*scales])

    alpha, beta, _ = relaxed.probabilities()
    rows = [space.tensors(scale) for scale in range(3)]
    index = tuple((0,) * n for n in rows)
    if net == "student":
        index = tuple(tuple(int(np.argmax(r)) for r in table) for table in relaxed.logits().ratio)
        assert len({i for row in index for i in row}) > 1
    widths = Widths(index) if net == "student" else Widths.all(space, -1)
    matrix = ConfusionMatrix(11)
    s.supernet.eval()
    for i in (0, 2):
        x, _ = s.placement.batch(Batch(split[i].frame[None], split[i].label[None]))
        with torch.no_grad():
            maps = s.supernet.branch_maps(s.supernet.stem(x, net), net, alpha, beta, widths)
            logits = s.supernet.head(net, scales, maps)
        enlarged = torch.nn.functional.interpolate(logits, (64, 96), mode="bilinear", align_corners=True)
        matrix.add(split[i].label, enlarged.argmax(1)[0].to(torch.uint8).numpy())
    assert row["val_miou"] == pytest.approx(matrix.miou)


def test_evaluating_leaves_the_supernet_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = searching()
    Pretraining(s).advance(batch(), Progress(), 0.0)
    before = {k: v.clone() for k, v in s.supernet.state_dict().items()}
    norms = [m for m in s.supernet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    scores = {}
    for name, calibration in (("own", []), ("gathered", [s.placement.batch(batch())[0]])):
        evaluation = Evaluation(s.placement, calibration, open_split(STREET, "val"), [0, 2], (60, 90))
        rows = Networks(s, evaluation, tmp_path / f"{name}.json", Slot(tmp_path)).evaluated(1)
        assert [row["net"] for row in rows] == ["student", "teacher"]
        assert all(0 <= row["val_miou"] <= 1 for row in rows)
        scores[name] = [row["val_miou"] for row in rows]
    assert scores["own"] != scores["gathered"]
    assert all(torch.equal(v, before[k]) for k, v in s.supernet.state_dict().items())
    assert all(m.training and m.momentum == 0.1 for m in norms)

    def fail(*given: Any) -> None:
        recalibrate(*given)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(evaluation_module, "recalibrate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        Networks(s, evaluation, tmp_path / "failed.json", Slot(tmp_path)).evaluated(1)
    assert all(torch.equal(v, before[k]) for k, v in s.supernet.state_dict().items())
    assert all(m.training and m.momentum == 0.1 for m in norms)


def test_statistics_are_gathered_over_whole_training_frames_of_the_evaluations_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(evaluation_module, "recalibrate", lambda module, frames: seen.extend(frames))
    phase = dataclasses.replace(TINY.alternate, epochs=1)
    stage = dataclasses.replace(TINY, teacher=False, pretrain=phase, alternate=phase, evaluate_hw=(96, 128), recalibrate=5)
    stage(Slot(tmp_path / "result", "key"))
    assert [tuple(x.shape) for x in seen] == [(2, 3, 96, 128), (3, 3, 96, 128)]
    frame = open_split(STREET, "train")[1].frame
    x, _ = searching().placement.batch(Batch(frame[None], np.zeros((1, *frame.shape[:2]), np.uint8)))
    torch.testing.assert_close(seen[0][1:2], resized(x, (96, 128)))


def test_whole_frames_have_the_first_ones_size_unless_told_otherwise() -> None:
    split, placement = open_split(STREET, "train"), searching().placement
    assert whole_frames(split, 0, None, placement) == []
    (x,) = whole_frames(split, 3, None, placement)
    assert x.shape == (3, 3, *split[0].label.shape)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frames_that_the_supernet_does_not_take_are_filled_up_and_their_logits_cut(precision: str) -> None:
    s = searching(precision=precision, teacher=False)
    s.supernet.eval()
    alpha, beta, _ = s.relaxed["student"].probabilities()
    widths = s.relaxed["student"].likeliest()
    x = torch.randn(1, 3, 72, 104)
    with torch.no_grad():
        found = Heads(s.supernet, Pass("student", alpha, beta, widths), [(1, 0)], s.placement)(x)
        with s.placement.autocast():
            stem = s.supernet.stem(torch.nn.functional.pad(x, (0, 24, 0, 24)), "student")
            filled = s.supernet.head("student", (1, 0), s.supernet.branch_maps(stem, "student", alpha, beta, widths))
    low = filled[..., :9, :13]
    expected = torch.nn.functional.interpolate(low, (72, 104), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, expected)


def test_a_score_on_record_is_that_of_the_same_logits_only(tmp_path: Path) -> None:
    s = searching(teacher=False)
    evaluation = Evaluation(s.placement, (), open_split(STREET, "val"), [0], (64, 96))
    scored: list[str] = []

    def log(event: str, **fields: Any) -> None:
        if event == "job":
            scored.append(fields["name"])

    networks = Networks(s, evaluation, tmp_path / "networks.json", Slot(tmp_path, log=log))
    networks.evaluated(1)
    networks.evaluated(1)
    assert len(scored) == 1
    for table in s.relaxed["student"].alpha:
        table.data[:, 2] = 5.0
    networks.evaluated(1)
    assert len(set(scored)) == 2


def test_frames_are_filled_up_to_multiples_of_32_with_void() -> None:
    x, labels = padded(torch.ones(2, 3, 60, 96), torch.zeros(2, 60, 96, dtype=torch.uint8))
    assert x.shape == (2, 3, 64, 96)
    assert labels.shape == (2, 64, 96)
    assert labels[:, 60:].eq(255).all()
    assert not labels[:, :60].any()
    whole = torch.ones(2, 3, 64, 96)
    assert padded(whole, torch.zeros(2, 64, 96, dtype=torch.uint8))[0] is whole


def test_a_step_in_bf16_gives_finite_numbers() -> None:
    numbers = alternation(precision="bf16").advance(both(), Progress(), 0.0)
    assert all(math.isfinite(v) for v in numbers.values())


def test_table_2_of_the_authors_latency_table(shared: Path) -> None:
    table = str(shared / "facts" / "fasterseg_1080ti_lut.json")
    paper = FasterSegSearch(
        data=Data("street", frame_hw=(1024, 2048), train_frames=2, val_frames=1), resource="latency", table=table
    )
    # The street has 11 classes, the table is of 19.
    with pytest.raises(ValueError, match="19 classes"):
        paper.costs()
    from edgesmith.calibration.tables import open_table
    from edgesmith.pipeline.search.fasterseg_costs import costs, require_whole

    released = open_table(Path(table))
    require_whole(released, Space(), Segmentation(19), (1024, 2048), NETS)
    found = costs(Space(), Segmentation(19), "latency", (1024, 2048), released)
    sensitivity = RelaxedLatency(Space(), found).sensitivity()
    assert dataclasses.astuple(sensitivity) == pytest.approx((15.404, 1.534, 12.158), abs=5e-3)
    assert sensitivity.weights() == pytest.approx((0.0813, 0.8158, 0.1030), abs=1e-4)
