from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgesmith.pipeline import recipe, run
from edgesmith.pipeline.artifacts import Architecture, SearchResult, Slot, Weights
from edgesmith.pipeline.show import describe
from edgesmith.pipeline.stage import Pipeline

PRETRAINED = """
about: Two trainings before the training.
data: {dataset: street, frame_hw: [64, 96], train_frames: 4, val_frames: 1, test_frames: 1}
derive: {arch: "zoo:squeezenas-lat-small"}
pretrain:
- {epochs: 1, batch: 4, device: cpu, data: {dataset: street, frame_hw: [64, 96], train_frames: 4, val_frames: 1, seed: 3}}
- {epochs: 1, batch: 2, device: cpu}
train: {epochs: 1, batch: 4, device: cpu}
export: {frame_hw: [64, 96]}
"""


def test_each_training_begins_with_the_weights_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(PRETRAINED)

    def view(event: str, **fields: Any) -> None:
        if fields.get("stage") == "onnx":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(recipe.read(str(tmp_path / "r.yaml")), "r", tmp_path / "run", view)
    first, second, last = (Weights(tmp_path / "run" / name) for name in ("pretrain-1", "pretrain-2", "train"))
    assert "weights" not in [p["kind"] for p in first.sidecar["parents"]]
    assert {"kind": "weights", "digest": first.digest} in second.sidecar["parents"]
    assert {"kind": "weights", "digest": second.digest} in last.sidecar["parents"]


def test_sizes_that_training_and_exported_network_do_not_share_are_remarked_on(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(PRETRAINED)

    def remarks(*overrides: str) -> list[str]:
        return run.preflight(recipe.read(str(tmp_path / "r.yaml"), ["pretrain=[]", *overrides]).resolved)

    assert remarks() == []
    assert remarks("export.frame_hw=[320, 480]", "export.input_hw=[64, 96]") == []
    assert remarks("export.frame_hw=[320, 480]") == [
        "train.augment.scale: 0.5 to 2 leaves out 5, at which the exported network, of 320x480, sees frames of 64x96",
        "train.input_hw: val is watched at 64x96, the exported network takes 320x480",
    ]
    (remark,) = remarks("export.frame_hw=[320, 480]", "train.input_hw=[320, 480]")
    assert remark.startswith("train.augment.scale")


def test_a_split_to_validate_on_that_is_not_there_is_refused_by_its_field(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(PRETRAINED)
    with pytest.raises(ValueError, match=r"validate\.split: street has no split 'night'; it has train, val, test"):
        run.preflight(recipe.read(str(tmp_path / "r.yaml"), ["validate.split=night"]).resolved)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("validate.precision=fp16", r"validate\.precision: fp16 is not fp32, which build\.precision makes"),
        ("build.backends=[tensorrt_rtx]", r"only onnxruntime's engine can be validated so far"),
        ("validate.backend=tensorrt", r"validate\.backend: tensorrt is not among build\.backends"),
    ],
)
def test_an_engine_that_cannot_be_validated_is_refused_before_anything_runs(
    tmp_path: Path, override: str, message: str
) -> None:
    (tmp_path / "r.yaml").write_text(PRETRAINED)
    with pytest.raises(ValueError, match=message):
        run.preflight(recipe.read(str(tmp_path / "r.yaml"), [override]).resolved)


def test_stages_that_only_an_earlier_recipe_had_are_set_aside(tmp_path: Path) -> None:
    kinds = {
        "search": SearchResult,
        "teacher-arch": Architecture,
        "teacher": Weights,
        "pretrain-1": Weights,
        "pretrain-3": Weights,
    }
    for name, kind in kinds.items():
        with Slot(tmp_path / name, f"key of {name}").writing(kind) as folder:
            (folder / "file").write_text(name)
    (tmp_path / "r.yaml").write_text(PRETRAINED)
    seen: list[str] = []
    pipeline = Pipeline(tmp_path, lambda event, **fields: seen.append(f"{fields['stage']} {event}"))
    run._set_aside_others(pipeline, recipe.read(str(tmp_path / "r.yaml")))
    assert seen == ["search kept", "teacher-arch kept", "teacher kept", "pretrain-3 kept"]
    assert {p.name for p in tmp_path.iterdir()} == {"pretrain-1", "r.yaml", "replaced"}
    assert len(list((tmp_path / "replaced").iterdir())) == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.target=0.00001", r"search\.target: 1e-05 GMAC, but the cheapest network of the space costs"),
        ("derive.budget=0.00001", r"derive\.budget: 1e-05 GMAC, but the cheapest"),
        ("search.batch=99", r"search\.batch: 99 frames a step"),
    ],
)
def test_a_search_that_cannot_come_to_anything_is_refused_before_it_starts(
    searching_recipe: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run.run(recipe.read(str(searching_recipe), [override]), "x", tmp_path / "run", lambda event, **fields: None)
    assert not (tmp_path / "run").exists()


TAUGHT = """
about: A teacher is trained first.
data: {dataset: street, frame_hw: [64, 96], train_frames: 4, val_frames: 1, test_frames: 1}
derive: {arch: "zoo:squeezenas-lat-small"}
teacher:
  arch: zoo:squeezenas-mac-small
  train: {epochs: 1, batch: 4, device: cpu}
train: {epochs: 1, batch: 4, device: cpu, distil: {}}
export: {frame_hw: [64, 96]}
"""


def test_a_teacher_is_trained_first_and_the_training_learns_from_it(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(TAUGHT)
    seen: list[tuple[str, str]] = []

    def stopping(event: str, **fields: Any) -> None:
        seen.append((event, str(fields.get("stage"))))
        if seen[-1] == ("start", "train") and seen.count(seen[-1]) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(recipe.read(str(file)), "r", tmp_path / "run", stopping)
    assert describe(tmp_path / "run")["train"] == "not made yet"
    assert describe(tmp_path / "run")["teacher"]["name"] == "squeezenas-mac-small"
    done = run.run(recipe.read(str(file)), "r", tmp_path / "run", stopping)
    started = [stage for event, stage in seen if event == "start"]
    assert started == ["arch", "teacher-arch", "teacher", "train", "train", "onnx", "bundle", "validation"]
    teacher = Weights(tmp_path / "run" / "teacher")
    assert {"kind": "weights", "digest": teacher.digest} in done.weights.sidecar["parents"]
    shown = describe(tmp_path / "run")
    assert list(shown)[2:6] == ["arch", "teacher-arch", "teacher", "train"]
    page = done.report.read_text()
    assert '<section id="teacher">' in page
    assert "could not be made" not in page


def test_a_teacher_of_other_classes_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(
        "name: other\nclasses:\n- {name: a, colour: [1, 0, 0]}\n- {name: b, colour: [2, 0, 0]}\n"
        "splits:\n  train: {images: 'i/{stem}.png', masks: 'm/{stem}.png'}\n"
        "  val: {images: 'i/{stem}.png', masks: 'm/{stem}.png'}\n"
    )
    for kind in ("i", "m"):
        (tmp_path / kind).mkdir()
        for i in range(4):
            cv2.imwrite(str(tmp_path / kind / f"{i}.png"), np.zeros((64, 64, 3 if kind == "i" else 1), np.uint8))
    (tmp_path / "r.yaml").write_text(TAUGHT)
    read = recipe.read(str(tmp_path / "r.yaml"), [f"teacher.train.data.dataset={tmp_path / 'other.yaml'}"])
    with pytest.raises(ValueError, match=r"train\.distil: the teacher learns the classes a, b, train has Sky"):
        run.run(read, "r", tmp_path / "run", lambda event, **fields: None)
    named = recipe.read(str(tmp_path / "r.yaml"), ["teacher=null", f"train.distil.weights={tmp_path / 'absent'}"])
    with pytest.raises(FileNotFoundError, match=r"distil\.weights: .*absent is not a folder"):
        run.run(named, "r", tmp_path / "run", lambda event, **fields: None)
    few = recipe.read(str(tmp_path / "r.yaml"), ["teacher.train.batch=99"])
    with pytest.raises(ValueError, match=r"teacher\.train\.batch: 99 frames a step"):
        run.run(few, "r", tmp_path / "run", lambda event, **fields: None)
    assert not (tmp_path / "run").exists()


COSEARCHING = """
about: The whole chain with a co-search, a teacher and distillation.
data: {dataset: street, frame_hw: [64, 96], train_frames: 4, val_frames: 1, test_frames: 1}
search:
  method: fasterseg
  space: {layers: 8, operators: [skip, conv], ratios: [2, 4], stem_ratio: 2, teacher_stem_ratio: 4}
  pretrain: {epochs: 1, batch: 2, augment: {crop_hw: [64, 64]}}
  alternate: {epochs: 1, batch: 2, augment: {crop_hw: [64, 64]}}
  recalibrate: 2
  device: cpu
teacher:
  train: {epochs: 1, batch: 4, device: cpu, augment: {crop_hw: [64, 64]}}
train: {epochs: 1, batch: 4, device: cpu, distil: {}, augment: {crop_hw: [64, 64]}}
export: {frame_hw: [64, 96]}
"""


@pytest.mark.slow
def test_a_co_search_ends_in_a_bundle_whose_network_learnt_from_the_found_teacher(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(COSEARCHING)
    done = run.run(recipe.read(str(tmp_path / "r.yaml")), "r", tmp_path / "run", lambda event, **fields: None)
    found = {row["net"]: row["arch_digest"] for row in describe(tmp_path / "run" / "search")["networks"] if row["chosen"]}
    shown = describe(tmp_path / "run")
    assert shown["train"]["arch_digest"].startswith(found["student"])
    assert shown["teacher"]["arch_digest"].startswith(found["teacher"])
    assert {"kind": "weights", "digest": Weights(tmp_path / "run" / "teacher").digest} in done.weights.sidecar["parents"]
    assert "could not be made" not in done.report.read_text()
    times = {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in ("search", "teacher", "train", "bundle")}
    run.run(recipe.read(str(tmp_path / "r.yaml")), "r", tmp_path / "run", lambda event, **fields: None)
    assert times == {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in times}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["search.resource=latency", "search.table=nosuch.json"],
            r"^search\.table: nosuch\.json is not in .*; .*table measure",
        ),
        (
            ["search=null", "derive.arch=nosuch.json", "teacher.arch=zoo:fasterseg-teacher"],
            r"^derive\.arch: nosuch\.json is not",
        ),
        (["teacher.arch=nosuch.json"], r"^teacher\.arch: nosuch\.json is not in .*; name zoo:NAME or"),
        (["teacher.arch=/tmp.json/x.json"], r"^teacher\.arch: /tmp\.json/x\.json does not exist; "),
    ],
)
def test_files_that_a_recipe_names_and_that_are_not_there_are_named_by_their_field(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    (tmp_path / "r.yaml").write_text(COSEARCHING)
    with pytest.raises(OSError, match=message):
        run.preflight(recipe.read(str(tmp_path / "r.yaml"), overrides).resolved)


def test_a_run_folder_below_a_file_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(PRETRAINED)
    file = tmp_path / "r.yaml"
    with pytest.raises(
        NotADirectoryError, match=rf"^--out: {file}/a/b can not lie there, {file} is a file; name another place"
    ):
        run.run(recipe.read(str(file)), "r", file / "a" / "b", lambda event, **fields: None)


def test_scales_of_the_teacher_and_of_a_co_searchs_phases_are_remarked_on(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(COSEARCHING)

    def remarks(*overrides: str) -> list[str]:
        return run.preflight(recipe.read(str(tmp_path / "r.yaml"), overrides).resolved)

    small = "augment.scale=[0.25, 0.5]"
    assert remarks() == []
    assert remarks(f"search.pretrain.{small}", f"search.alternate.{small}", f"teacher.train.{small}") == [
        f"{section}.augment.scale: 0.25 to 0.5 leaves out 1, at which {who}, of 64x96, sees frames of 64x96"
        for section, who in (
            ("search.pretrain", "the search's evaluation"),
            ("search.alternate", "the search's evaluation"),
            ("teacher.train", "the exported network"),
        )
    ]
    large = ("data.frame_hw=[192, 256]", "export.frame_hw=[192, 256]")
    assert remarks(f"search.alternate.{small}", "search.evaluate_hw=[96, 128]", *large) == []
    assert remarks(f"search.pretrain.{small}", "search.pretrain.epochs=0") == []


def test_a_co_search_that_cannot_start_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(COSEARCHING)
    for override, message in (
        ("search.alternate.batch=3", r"search\.alternate\.batch: 3 frames a step, but half .*the train split has only 2"),
        ("search.pretrained=absent", r"search\.pretrained: absent is not a folder"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            run.run(recipe.read(str(tmp_path / "r.yaml"), [override]), "x", tmp_path / "run", lambda event, **fields: None)
    assert not (tmp_path / "run").exists()
