"""A bundle proves itself: whatever is changed, left out, added or linked is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesmith.deploy.bundle import Bundle, check_golden, find_problems, write_manifest
from edgesmith.deploy.files import sha256_json
from edgesmith.deploy.images import in_colour_order
from edgesmith.deploy.meta import EngineRecord, Meta


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def payload(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "artifact.json")


def refused(folder: Path) -> str:
    """Open and verify the bundle as a device does, and give the refusal."""
    with pytest.raises((ValueError, FileNotFoundError)) as e:
        Bundle.open(folder).verify()
    return str(e.value)


def relist(folder: Path, name: str) -> None:
    """Add a file of that name to the manifest, whether there is one or not."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    manifest["digest"] = sha256_json({"files": manifest["files"], "format": 1})
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def test_a_built_bundle_is_whole_and_holds_what_was_built(bundle_folder: Path, tiny: SimpleNamespace) -> None:
    bundle = Bundle.open(bundle_folder)
    bundle.verify()
    assert bundle.problems() == []
    assert bundle.meta == tiny.META
    assert list(bundle.engines) == ["onnxruntime-cpu-fp32"]
    golden = list(bundle.golden())
    assert [g.name for g in golden] == ["000", "001"]
    assert np.array_equal(golden[1].frame, tiny.frame_of(1))
    assert np.array_equal(golden[1].mask, tiny.labels_of(tiny.frame_of(1)))


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_one_changed_byte_anywhere_is_refused_and_the_file_is_named(bundle_folder: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(payload(bundle_folder)))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        assert path.relative_to(bundle_folder).as_posix() in refused(bundle_folder)
        assert {p.file for p in find_problems(bundle_folder)} == {path.relative_to(bundle_folder).as_posix()}
    finally:
        path.write_bytes(whole)
    Bundle.open(bundle_folder).verify()


def test_bytes_all_over_the_manifest_and_meta_count(copy: Path) -> None:
    for name in ("manifest.json", "meta.json"):
        whole = (copy / name).read_bytes()
        for at in range(0, len(whole), 7):
            (copy / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert [p.file for p in find_problems(copy)] == [name], at
        (copy / name).write_bytes(whole)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_truncated_file_is_refused_and_named(bundle_folder: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(payload(bundle_folder)))
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        assert path.relative_to(bundle_folder).as_posix() in refused(bundle_folder)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "name", ["golden/002.png", "notes.txt", "engines/other/engine.plan", ".hidden", "golden/artifact.json"]
)
def test_an_unlisted_file_is_refused_and_named(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"stray")
    assert f"{name}: is not listed" in refused(copy)


def test_every_missing_file_is_refused_and_named(copy: Path) -> None:
    for path in payload(copy):
        whole = path.read_bytes()
        path.unlink()
        assert path.name in refused(copy)
        path.write_bytes(whole)
    Bundle.open(copy).verify()


def test_all_problems_are_reported_at_once(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    (copy / "golden/000.png").write_bytes(b"")
    (copy / "stray").touch()
    message = refused(copy)
    assert all(name in message for name in ("model.onnx: is missing", "golden/000.png: has 0 bytes", "stray: is not listed"))


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "golden/000.png", "golden", "engines/onnxruntime-cpu-fp32"])
def test_a_symbolic_link_is_refused_even_to_the_same_content(copy: Path, name: str, tmp_path: Path) -> None:
    (copy / name).rename(tmp_path / "moved")
    (copy / name).symlink_to(tmp_path / "moved")
    message = refused(copy)
    assert "symbolic link" in message
    assert name in message


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "meta.json", "engines/onnxruntime-cpu-fp32/engine.json"])
def test_a_pipe_is_refused_without_being_opened(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    message = refused(copy)  # reading it would block for ever
    assert name in message
    assert "is not a plain file" in message
    assert [str(p) for p in find_problems(copy)] == [f"{name}: is not a plain file"]


@pytest.mark.parametrize("name", ["n" * 5000, "engines/" + "n" * 5000 + "/engine.json", "\ud800"])
def test_a_name_that_no_file_can_have_is_a_problem_like_others(copy: Path, name: str) -> None:
    relist(copy, name)
    assert [p.file for p in find_problems(copy)] == [name]
    refused(copy)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "golden/../../outside", "a//b", "./a", "", "manifest.json", "a\\b"]
)
def test_a_manifest_that_leaves_the_folder_is_refused_though_its_digests_fit(copy: Path, name: str) -> None:
    (copy.parent / "outside").write_bytes(b"x")
    relist(copy, name)
    message = refused(copy)
    assert "manifest.json" in message
    assert "only relative paths inside the bundle" in message


def test_a_manifest_of_the_same_meaning_in_another_form_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest.json was changed" in refused(copy)


def test_a_manifest_over_the_wrong_files_is_refused(copy: Path) -> None:
    (copy / "golden/001.mask.png").unlink()
    write_manifest(copy)
    assert "golden: 001 lacks its frame or its mask" in refused(copy)
    (copy / "provenance.json").unlink()
    write_manifest(copy)
    assert "lacks provenance.json" in refused(copy)


def test_the_pipelines_sidecar_is_no_part_of_the_bundle(copy: Path) -> None:
    (copy / "artifact.json").write_text("{}")
    Bundle.open(copy).verify()
    (copy / "artifact.json").unlink()
    Bundle.open(copy).verify()


def test_a_folder_that_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        Bundle.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        Bundle.open(tmp_path / "absent")


def test_meta_comes_back_from_json(tiny: SimpleNamespace) -> None:
    assert Meta.from_json(json.loads(json.dumps(tiny.META.to_json()))) == tiny.META


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2), ("format", True), ("frame_hw", [24]), ("frame_hw", [24, 0]), ("frame_hw", [24, 32.0]),
        ("frame_hw", "24x32"), ("input_hw", [True, 32]), ("input_hw", [10**12, 32]), ("layout", "CHW"), ("colour_order", "BGR"),
        ("colour_order", None), ("mean", [0.5, 0.5]), ("mean", ["0.5", 0.5, 0.5]), ("mean", [float("nan"), 0, 0]),
        ("std", [0.2, 0, 0.2]), ("std", [-1, 1, 1]), ("std", [10**400, 1, 1]), ("classes", []), ("classes", ["a", "a", "b"]),
        ("classes", ["a", 1, "b"]), ("classes", ["a", "", "b"]), ("classes", "abc"), ("palette", [[0, 0, 0]]),
        ("palette", [[0, 0, 256]] * 3), ("palette", [[0, 0]] * 3), ("ignore_index", 0), ("ignore_index", 255.0),
        ("precision", ""), ("precision", 32),
        ("plugins", [1]), ("plugins", None), ("opset", "18"), ("opset", 0), ("parity", None), ("parity", {}),
        ("parity", {"max_abs_diff": -1, "max_abs_logit": 1, "relative": 0, "label_agreement": 1}),
        ("parity", {"max_abs_diff": 0, "max_abs_logit": 1, "relative": 0, "label_agreement": 1.5}),
    ],
)  # fmt: skip
def test_a_malformed_value_in_meta_is_refused_with_file_and_field(tiny: SimpleNamespace, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"some/meta\.json: {field}"):
        Meta.from_json({**tiny.META.to_json(), field: value}, "some/meta.json")


def test_missing_and_unknown_fields_in_meta_are_refused(tiny: SimpleNamespace) -> None:
    whole = tiny.META.to_json()
    for name in whole:
        with pytest.raises(ValueError, match=rf"meta\.json: {name} is missing"):
            Meta.from_json({k: v for k, v in whole.items() if k != name})
    with pytest.raises(ValueError, match="unknown field colour"):
        Meta.from_json({**whole, "colour": 1})
    with pytest.raises(ValueError, match="must be a JSON object"):
        Meta.from_json([])


def test_an_engine_record_is_checked_like_meta(bundle_folder: Path) -> None:
    record = next(iter(Bundle.open(bundle_folder).engines.values()))
    assert EngineRecord.from_json(record.to_json()) == record
    for field, value in (
        ("graph_sha256", "0" * 63),
        ("graph_sha256", "G" * 64),
        ("plan_bytes", 0),
        ("key", ""),
        ("version", 1),
    ):
        with pytest.raises(ValueError, match=rf"engine\.json: {field}"):
            EngineRecord.from_json({**record.to_json(), field: value})


def test_an_engine_folder_of_another_name_than_its_key_is_refused(copy: Path) -> None:
    (copy / "engines/onnxruntime-cpu-fp32").rename(copy / "engines/other")
    write_manifest(copy)
    assert "it must be the name of its folder" in refused(copy)


def test_an_engine_of_another_graph_is_refused(copy: Path) -> None:
    bundle = Bundle.open(copy)
    graph = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(graph.replace(b"tiny", b"tony"))
    write_manifest(copy)
    with pytest.raises(ValueError, match=r"engine\.json: graph_sha256 is not that of model\.onnx"):
        bundle.verify()
    assert "graph_sha256 is not that of" in refused(copy)


@pytest.mark.parametrize(
    ("said", "plan", "message"),
    [
        (7, None, r"plan_bytes is 7, but of engine\.plan there is none"),
        (7, b"12345678", r"plan_bytes is 7, but of engine\.plan it has 8 bytes"),
        (None, b"12345678", r"plan_bytes is None, but of engine\.plan it has 8 bytes"),
    ],
)
def test_an_engine_whose_plan_is_not_the_recorded_one_is_refused(
    copy: Path, said: int | None, plan: bytes | None, message: str
) -> None:
    bundle = Bundle.open(copy)
    record = copy / "engines/onnxruntime-cpu-fp32/engine.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "plan_bytes": said}))
    if plan is not None:
        (record.parent / "engine.plan").write_bytes(plan)
    write_manifest(copy)
    with pytest.raises(ValueError, match=message):
        bundle.verify()
    with pytest.raises(ValueError, match=message):
        Bundle.open(copy)


def test_an_engine_is_not_opened_from_damaged_files(copy: Path) -> None:
    bundle = Bundle.open(copy)
    with (copy / "model.onnx").open("ab") as f:
        f.write(b"\0")
    with pytest.raises(ValueError, match=r"model\.onnx: has \d+ bytes"):
        bundle.engine()


def test_an_engine_is_not_opened_through_a_symbolic_link(copy: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(copy)
    (copy / "model.onnx").rename(tmp_path / "moved")
    (copy / "model.onnx").symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"model\.onnx: is or lies behind a symbolic link"):
        bundle.engine()


def test_a_backend_that_was_not_built_is_refused_with_those_that_were(bundle_folder: Path) -> None:
    with pytest.raises(ValueError, match="no engine for backend 'tensorrt_rtx'; it has: onnxruntime"):
        Bundle.open(bundle_folder).engine("tensorrt_rtx")


def test_engines_are_ranked_by_what_they_need_and_lose(bundle_folder: Path) -> None:
    bundle = Bundle.open(bundle_folder)
    (record,) = bundle.engines.values()
    pairs = [("tensorrt", "fp32"), ("onnxruntime", "int8"), ("onnxruntime", "fp16"), ("tensorrt", "fp16")]
    records = [replace(record, key=f"{b}-{p}", backend=b, precision=p) for b, p in pairs]
    several = replace(bundle, engines={r.key: r for r in records})
    order = ["onnxruntime-fp16", "onnxruntime-int8", "tensorrt-fp32", "tensorrt-fp16"]
    assert [r.key for r in several.ranked()] == order
    assert [r.key for r in several.ranked("tensorrt")] == order[2:]
    assert [r.key for r in several.ranked(precision="fp16")] == [order[0], order[3]]


def test_the_golden_check_passes_with_the_right_engine_and_not_with_another_colour_order(
    bundle_folder: Path, make_model: Callable[..., Any]
) -> None:
    bundle = Bundle.open(bundle_folder)
    with bundle.engine() as engine:
        check = check_golden(bundle, engine)
        assert (check.frames, check.agreement, check.passed) == (2, 1.0, True)
        swapped = Bundle(bundle.folder, Meta.from_json({**bundle.meta.to_json(), "colour_order": "rgb"}), bundle.files, {})
        check = check_golden(swapped, engine)
    assert not check.passed
    assert check.worst in ("000", "001")
    assert check.worst_agreement <= check.agreement < 0.7


def test_a_golden_image_of_another_size_or_with_a_stray_label_is_named(copy: Path) -> None:
    import cv2

    bundle = Bundle.open(copy)
    cv2.imwrite(str(copy / "golden/001.mask.png"), np.full((24, 32), 3, np.uint8))
    with pytest.raises(ValueError, match=r"golden/001\.mask\.png holds label 3"):
        list(bundle.golden())
    cv2.imwrite(str(copy / "golden/001.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"golden/001\.png is \(8, 8\)"):
        list(bundle.golden())
    (copy / "golden/000.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"golden/000\.png is not an 8-bit RGB PNG"):
        list(bundle.golden())
    png = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + png[24:29]  # more pixels than OpenCV takes
    (copy / "golden/000.png").write_bytes(png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:])
    with pytest.raises(ValueError, match=r"golden/000\.png cannot be decoded"):
        list(bundle.golden())


def test_colour_order_is_written_into_the_given_buffer(tiny: SimpleNamespace) -> None:
    frame = tiny.frame_of(0)
    buffer = np.zeros_like(frame)
    assert in_colour_order(frame, "bgr", buffer) is buffer
    assert np.array_equal(buffer, frame[..., ::-1])
    assert np.array_equal(in_colour_order(frame[:, ::-1], "bgr"), frame[:, ::-1, ::-1])
    assert np.array_equal(in_colour_order(frame, "rgb", buffer), frame)


@pytest.mark.parametrize(
    "out", [np.zeros((24, 33, 3), np.uint8), np.zeros((24, 32, 3), np.float32), np.zeros((24, 64, 3), np.uint8)[:, ::2]]
)
@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_a_buffer_that_does_not_fit_the_frame_is_refused_and_not_silently_left_alone(
    tiny: SimpleNamespace, out: np.ndarray, order: Any
) -> None:
    with pytest.raises(ValueError, match=r"out is .*; it must be uint8 \(24, 32, 3\)"):
        in_colour_order(tiny.frame_of(0), order, out)
