"""Validation of a tiny bundle over a tiny dataset on disk: numbers that can be computed by hand."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edgesmith.deploy.files import payload_files
from edgesmith.pipeline import validate as module
from edgesmith.pipeline.artifacts import BundleFolder, Slot, Validation, Weights, open_artifact
from edgesmith.pipeline.data.spec import Data
from edgesmith.pipeline.stage import stage_key
from edgesmith.pipeline.validate import Validate, distribution

Dataset = Callable[..., Data]
FRAMES = 4


@pytest.fixture
def dataset(tmp_path: Path, tiny: SimpleNamespace) -> Dataset:
    """A folder dataset whose labels are the tiny network's own, but for its first row, which is void."""

    def make(
        names: tuple[str, ...] = tiny.META.classes,
        hw: tuple[int, int] = tiny.hw,
        change: Callable[[np.ndarray], np.ndarray] = lambda label: label,
    ) -> Data:
        root = Path(tmp_path / "data")
        shutil.rmtree(root, ignore_errors=True)
        (root / "images").mkdir(parents=True)
        (root / "masks").mkdir()
        for i in range(FRAMES):
            rgb = tiny.frame_of(100 + i, hw)
            label = change(tiny.labels_of(rgb))
            label[0] = 255
            cv2.imwrite(str(root / f"images/{i}.png"), rgb[..., ::-1])
            cv2.imwrite(str(root / f"masks/{i}.png"), label)
        classes = "\n".join(f"- {{name: {n}, colour: [{i}, 0, 0]}}" for i, n in enumerate(names))
        split = "{images: 'images/{stem}.png', masks: 'masks/{stem}.png'}"
        (root / "tiny.yaml").write_text(f"name: tiny\nclasses:\n{classes}\nsplits:\n  test: {split}\n")
        return Data(dataset=str(root / "tiny.yaml"))

    return make


@pytest.fixture
def given(bundle_folder: Path) -> BundleFolder:
    return BundleFolder(bundle_folder)


def run(stage: Validate, given: BundleFolder, out: Path) -> dict[str, Any]:
    made = stage(given, Slot(out))
    assert made == open_artifact(Validation, out)
    return dict(json.loads((made.path / "validation.json").read_text()))


def test_a_perfect_engine_scores_one_on_every_count(given: BundleFolder, dataset: Dataset, tmp_path: Path) -> None:
    data = dataset()
    got = run(Validate(data), given, tmp_path / "v")
    assert got["bundle"] == {"digest": given.digest}
    assert got["engine"]["backend"] == "onnxruntime"
    assert got["engine"]["precision"] == "fp32"
    assert got["data"] | {"digest": ""} == {"dataset": data.dataset, "split": "test", "frames": FRAMES, "digest": ""}
    assert len(got["data"]["digest"]) == 64
    assert (got["frame_hw"], got["input_hw"]) == ([24, 32], [24, 32])
    assert (got["miou"], got["pixel_accuracy"]) == (1.0, 1.0)
    assert [c["name"] for c in got["classes"]] == ["sky", "road", "car"]
    assert all(c["iou"] == c["accuracy"] == 1.0 for c in got["classes"])
    assert sum(c["share"] for c in got["classes"]) == pytest.approx(1)
    assert np.sum(got["confusion"]) == FRAMES * 23 * 32  # the void row does not count
    assert got["agreement"] == {"frames": 2, "pixel_agreement": 1.0, "torch_miou": None, "source": "golden"}


def test_iou_is_null_for_a_class_that_is_not_there_and_the_confusion_has_truth_in_rows(
    given: BundleFolder, dataset: Dataset, tmp_path: Path
) -> None:
    def car_is_called_road(label: np.ndarray) -> np.ndarray:
        return np.where(label == 2, 1, label).astype(np.uint8)

    got = run(Validate(dataset(change=car_is_called_road)), given, tmp_path / "v")
    confusion = np.array(got["confusion"])
    assert confusion[2].sum() == 0
    assert confusion[1, 2] > 0
    assert confusion[2, 1] == 0
    road, predicted_as_car = confusion[1].sum(), confusion[1, 2]
    assert got["classes"][1]["iou"] == pytest.approx((road - predicted_as_car) / road)
    assert got["classes"][2] == {"name": "car", "iou": 0.0, "accuracy": None, "share": 0.0}
    only_sky = run(Validate(dataset(change=lambda label: np.where(label, 255, 0).astype(np.uint8))), given, tmp_path / "v2")
    assert [c["iou"] for c in only_sky["classes"]] == [1.0, None, None]
    assert only_sky["miou"] == 1.0


def test_latency_is_measured_for_each_frame_and_its_phases_add_up(
    given: BundleFolder, dataset: Dataset, tmp_path: Path
) -> None:
    got = run(Validate(dataset(), warmup=3), given, tmp_path / "v")
    latency = got["latency_ms"]
    assert list(latency) == ["decode", "copy", "engine", "total"]
    for phase in latency.values():
        assert phase["n"] == len(phase["samples"]) == FRAMES
        assert 0 < phase["p50"] <= phase["p90"] <= phase["p99"] == max(phase["samples"])
    parts = zip(*(latency[p]["samples"] for p in ("decode", "copy", "engine")), strict=True)
    assert np.allclose([sum(p) for p in parts], latency["total"]["samples"], atol=1e-3)
    labelled = sorted(c + e for c, e in zip(latency["copy"]["samples"], latency["engine"]["samples"], strict=True))
    assert got["fps"] == pytest.approx(1000 / labelled[(len(labelled) - 1) // 2], rel=0.02)
    assert 10 < got["peak_memory_mb"] < 100_000


def test_percentiles_are_nearest_ranks() -> None:
    d = distribution([float(v) for v in range(100, 0, -1)])
    assert (d["p50"], d["p90"], d["p99"], d["mean"], d["n"]) == (50.0, 90.0, 99.0, 50.5, 100)
    assert d["samples"][0] == 100.0  # in the order of the frames
    assert [distribution([3.0, 1.0, 2.0])[p] for p in ("p50", "p90", "p99")] == [2.0, 3.0, 3.0]
    assert distribution([7.0])["p99"] == 7.0


def test_warm_up_and_scoring_are_not_timed(
    given: BundleFolder, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer, add = module.Bundle.open(given.path).engine().__class__.infer, module.ConfusionMatrix.add
    calls: list[int] = []

    def slow_at_first(self: Any, frame: np.ndarray) -> np.ndarray:
        calls.append(0)
        if len(calls) <= 2:
            time.sleep(0.2)
        return infer(self, frame)

    def slow_score(self: Any, *arguments: Any) -> None:
        time.sleep(0.2)
        add(self, *arguments)

    monkeypatch.setattr("edgesmith.deploy.engines.onnxruntime.OnnxRuntimeEngine.infer", slow_at_first)
    monkeypatch.setattr(module.ConfusionMatrix, "add", slow_score)
    got = run(Validate(dataset(), warmup=2, limit=2), given, tmp_path / "v")
    assert max(got["latency_ms"]["total"]["samples"]) < 150
    assert len(calls) == 2 + 2 + 2  # warm-up, frames, golden frames


def test_limit_takes_the_first_frames(given: BundleFolder, dataset: Dataset, tmp_path: Path) -> None:
    got = run(Validate(dataset(), limit=2), given, tmp_path / "v")
    assert got["data"]["frames"] == got["latency_ms"]["total"]["n"] == 2
    assert run(Validate(dataset(), limit=99), given, tmp_path / "v2")["data"]["frames"] == FRAMES


def test_classes_in_another_order_are_matched_by_name(given: BundleFolder, dataset: Dataset, tmp_path: Path) -> None:
    def reordered(label: np.ndarray) -> np.ndarray:
        return np.array([2, 0, 1], np.uint8)[label]  # sky, road, car -> places in (road, car, sky)

    got = run(Validate(dataset(("road", "car", "sky"), change=reordered)), given, tmp_path / "v")
    assert got["miou"] == 1.0
    assert [c["name"] for c in got["classes"]] == ["sky", "road", "car"]


@pytest.mark.parametrize(
    "names", [("sky", "road"), ("sky", "road", "bus"), ("sky", "road", "car", "bus"), ("Sky", "road", "car")]
)
def test_a_dataset_of_other_classes_is_refused_with_both_lists(
    given: BundleFolder, dataset: Dataset, tmp_path: Path, names: tuple[str, ...]
) -> None:
    data = dataset(names, change=lambda label: np.minimum(label, 1).astype(np.uint8))
    with pytest.raises(ValueError, match=rf"Dataset \({len(names)}\): {', '.join(names)}. Network \(3\): sky, road, car"):
        Validate(data)(given, Slot(tmp_path / "v"))
    assert not (tmp_path / "v").exists()


def test_frames_of_another_size_are_resized_and_scored_at_the_labels_size(
    given: BundleFolder, dataset: Dataset, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    got = run(Validate(dataset(hw=(48, 80))), given, tmp_path / "v")
    right = 0
    for i in range(FRAMES):
        rgb = tiny.frame_of(100 + i, (48, 80))
        small = tiny.labels_of(cv2.resize(rgb, (32, 24), interpolation=cv2.INTER_LINEAR))
        big = cv2.resize(small, (80, 48), interpolation=cv2.INTER_NEAREST_EXACT)
        right += int((big == tiny.labels_of(rgb))[1:].sum())
    assert np.sum(got["confusion"]) == FRAMES * 47 * 80
    assert got["pixel_accuracy"] == pytest.approx(right / (FRAMES * 47 * 80))


def test_a_damaged_bundle_is_refused_and_an_intact_one_is_left_as_it_is(
    given: BundleFolder, dataset: Dataset, tmp_path: Path
) -> None:
    def state() -> str:
        files = [(n, (given.path / n).read_bytes()) for n in payload_files(given.path)]
        return hashlib.sha256(repr(files).encode()).hexdigest()

    before = state()
    run(Validate(dataset()), given, tmp_path / "v")
    assert state() == before
    copy = Path(shutil.copytree(given.path, tmp_path / "copy"))
    (copy / "golden/000.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"golden/000\.png"):
        Validate(dataset())(BundleFolder(copy), Slot(tmp_path / "v3"))


def test_progress_is_told_for_every_frame(given: BundleFolder, dataset: Dataset, tmp_path: Path) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    Validate(dataset())(given, Slot(tmp_path / "v", log=lambda event, **fields: events.append((event, fields))))
    assert [f["done"] for e, f in events if e == "progress"] == [1, 2, 3, 4]
    assert {f["total"] for e, f in events if e == "progress"} == {FRAMES}
    assert events[-1][0] == "validated"
    assert events[-1][1]["miou"] == 1.0


@pytest.mark.parametrize(
    ("labels", "size", "expected"),
    [
        ([0, 1, 2, 0, 1, 2], 2, [1, 1]),  # centres at 1.5 and 4.5: pixels 1 and 4, not 0 and 3
        ([0, 1, 2], 2, [0, 2]),  # centres at 0.75 and 2.25
        ([0, 1], 5, [0, 0, 1, 1, 1]),  # centres at 0.2, 0.6, 1.0, 1.4, 1.8
    ],
)
def test_labels_are_resized_by_pixel_centres(labels: list[int], size: int, expected: list[int]) -> None:
    confusion = module.ConfusionMatrix(3)
    frames = module.Frames(None, 1, None, None)  # type: ignore[arg-type]
    truth = np.repeat(np.array([expected], np.uint8), 2, axis=0)
    sample = module.Sample("a", np.zeros((2, size, 3), np.uint8), truth)
    frames.score(confusion, sample, np.repeat(np.array([labels], np.uint8), 3, axis=0))
    assert confusion.miou == 1.0


def test_memory_that_was_freed_before_does_not_count() -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak can be reset on Linux only")
    module._reset_peak_memory()
    before = module._peak_memory_mb()
    blocks = [b"x" * 60_000 for _ in range(8400)]  # small enough for the heap, which a last block keeps from shrinking
    last = b"x" * 60_000
    assert module._peak_memory_mb() > before + 450
    del blocks
    module._reset_peak_memory()
    assert module._peak_memory_mb() < before + 100
    assert last


def test_a_bundle_without_the_pipelines_sidecar_is_validated_as_a_device_has_it(
    given: BundleFolder, dataset: Dataset, tmp_path: Path
) -> None:
    copy = BundleFolder(Path(shutil.copytree(given.path, tmp_path / "bundle", ignore=shutil.ignore_patterns("artifact.json"))))
    got = run(Validate(dataset()), copy, tmp_path / "v")
    assert got["bundle"] == {"digest": given.digest}
    assert got["miou"] == 1.0


def test_the_key_changes_with_the_frames(given: BundleFolder, dataset: Dataset) -> None:
    def key(stage: Validate) -> str:
        return stage_key(stage, given)

    data = dataset()
    assert key(Validate(data)) == key(Validate(data))
    before = key(Validate(data))
    mask = Path(data.dataset).parent / "masks/3.png"
    cv2.imwrite(str(mask), np.zeros((24, 32), np.uint8))
    assert key(Validate(data)) != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": ""}, "split: is empty"),
        ({"limit": 0}, "limit: 0 is not at least 1"),
        ({"warmup": -1}, "warmup: -1 is not between 0 and 10000"),
        ({"backend": "tvm"}, "backend: 'tvm' is not one of onnxruntime"),
        ({"precision": "best"}, "precision: 'best' is not one of fp32, fp16, int8"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Validate(Data(), **options)


def test_without_data_or_engine_it_says_what_is_missing(given: BundleFolder, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data: is not given"):
        Validate()(given, Slot(tmp_path / "v"))
    with pytest.raises(ValueError, match="no engine for backend 'tensorrt_rtx'"):
        Validate(dataset(), backend="tensorrt_rtx")(given, Slot(tmp_path / "v"))
    with pytest.raises(ValueError, match="no engine for precision 'int8'; it has: onnxruntime fp32"):
        Validate(dataset(), precision="int8")(given, Slot(tmp_path / "v"))


def test_numbers_are_finite_json(given: BundleFolder, dataset: Dataset, tmp_path: Path) -> None:
    got = run(Validate(dataset(change=lambda label: np.full_like(label, 255))), given, tmp_path / "v")
    assert got["miou"] is None
    assert got["pixel_accuracy"] is None
    assert all(c["share"] is None for c in got["classes"])
    assert math.isfinite(got["fps"])


def test_with_weights_torch_labels_the_same_frames_and_both_are_compared(tiny_run: Path, tmp_path: Path) -> None:
    bundle = open_artifact(BundleFolder, tiny_run / "bundle")
    data = Data(frame_hw=(100, 140), test_frames=2)  # another size than the bundle's
    stage = Validate(data, weights=str(tiny_run / "train"))
    got = run(stage, bundle, tmp_path / "v")
    assert got["agreement"]["source"] == "split"
    assert got["agreement"]["frames"] == 2
    assert got["agreement"]["pixel_agreement"] >= 0.999
    assert got["agreement"]["torch_miou"] == pytest.approx(got["miou"], abs=1e-3)
    assert "weights" in stage.environment


def test_weights_for_a_bundle_that_names_none_are_refused(
    given: BundleFolder, dataset: Dataset, tiny_run: Path, tmp_path: Path
) -> None:
    digest = Weights(tiny_run / "train").digest
    with pytest.raises(ValueError, match=rf"is not what the graph was exported from: its digest is {digest}, .* names none"):
        Validate(dataset(), weights=str(tiny_run / "train"))(given, Slot(tmp_path / "v"))
    with pytest.raises(FileNotFoundError, match="is not an artifact folder"):
        Validate(dataset(), weights=str(tmp_path))(given, Slot(tmp_path / "v"))


def test_other_weights_of_the_same_classes_are_refused_with_both_digests(tiny_run: Path, tmp_path: Path) -> None:
    trained = Weights(tiny_run / "train")
    with Slot(tmp_path / "other").writing(Weights) as temporary:
        shutil.copytree(trained.path, temporary, ignore=shutil.ignore_patterns("artifact.json"), dirs_exist_ok=True)
        tensors = temporary / "best.safetensors"
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(data)
    other = Weights(tmp_path / "other")
    stage = Validate(Data(frame_hw=(96, 128), test_frames=1), weights=str(other.path))
    with pytest.raises(ValueError, match=rf"its digest is {other.digest}, provenance\.json in .* names {trained.digest}"):
        stage(BundleFolder(tiny_run / "bundle"), Slot(tmp_path / "v"))
    assert not (tmp_path / "v").exists()
