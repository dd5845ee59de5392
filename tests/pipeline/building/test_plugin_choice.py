"""`build --plugins auto`: a plugin is taken where it was measured to be faster, and the bundle says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgesmith.deploy.bundle import Bundle, check_golden
from edgesmith.deploy.engines.onnxruntime_split import Split
from edgesmith.deploy.files import read_json, write_json
from edgesmith.deploy.plugins import twin
from edgesmith.pipeline import build
from edgesmith.pipeline.artifacts import OnnxModel, Slot
from edgesmith.pipeline.building import plugin_choice
from edgesmith.pipeline.building.plugin_choice import NATIVE, PLUGIN, faster

SPLIT = Split("logits", 3, (3, 4), (24, 32), True, 9)
HW = (64, 80)


def test_a_plugin_is_taken_only_where_it_saves_enough() -> None:
    assert faster(SPLIT, {NATIVE: 10.0, PLUGIN: 9.0}, 5).split == SPLIT
    kept = faster(SPLIT, {NATIVE: 10.0, PLUGIN: 9.9}, 5)
    assert kept.split is None
    assert "native 10.00 ms, EnlargeArgmax 9.90 ms" in kept.why


@pytest.fixture
def model(plugin_model: Any) -> OnnxModel:
    made: OnnxModel = plugin_model()
    return made


@pytest.mark.parametrize("margin", [-1e9, 1.0])
def test_the_bundle_has_what_was_faster_and_the_note_has_both_times(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, margin: float
) -> None:
    monkeypatch.setattr(plugin_choice, "MARGIN", margin)
    monkeypatch.setattr(plugin_choice, "ROUNDS", 1)
    made = build.Build(plugins="auto")(model, Slot(tmp_path / "bundle"))
    bundle = Bundle.open(made.path)
    ((key, record),) = bundle.engines.items()
    taken = ["EnlargeArgmax"] if margin < 0 else []
    assert key == "onnxruntime-cpu-fp32" + ("-enlarge_argmax1" if taken else "")
    assert record.plugins == tuple(taken)
    (note,) = read_json(made.path / "artifact.json")["engines"]
    assert note["plugins"]["taken"] == taken
    assert set(note["plugins"]["median_ms"]) == {NATIVE, PLUGIN}
    again = build.Build(plugins="auto")(model, Slot(tmp_path / "again"))
    assert again.digest == made.digest  # whatever was measured
    bundle.verify()
    with bundle.engine() as engine:
        assert engine.key == key
        assert check_golden(bundle, engine).passed


def test_where_the_plugin_cannot_be_kept_the_graph_stays_native(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGESMITH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(twin, "library", twin.library.__wrapped__)  # whatever is loaded already
    made = build.Build(plugins="auto")(model, Slot(tmp_path / "bundle"))
    (note,) = read_json(made.path / "artifact.json")["engines"]
    assert note["key"] == "onnxruntime-cpu-fp32"
    assert "EDGESMITH_CACHE" in note["plugins"]["why"]


def test_a_split_for_other_frames_is_refused(model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgesmith.deploy.engines import open_engine

    monkeypatch.setattr(plugin_choice, "MARGIN", -1e9)
    made = build.Build(plugins="auto")(model, Slot(tmp_path / "bundle"))
    (folder,) = (made.path / "engines").iterdir()
    with pytest.raises(ValueError, match=r"split\.json: hw is \(64, 80\)"):
        open_engine("onnxruntime", made.path / "model.onnx", folder, (64, 81), "fp32")
    write_json(folder / "split.json", {})
    with pytest.raises(ValueError, match=r"split\.json: format is missing"):
        open_engine("onnxruntime", made.path / "model.onnx", folder, HW, "fp32")


def test_a_graph_that_ends_otherwise_stays_native(make_model: Any, tmp_path: Path) -> None:
    made = build.Build(plugins="auto")(make_model(), Slot(tmp_path / "bundle"))
    (note,) = read_json(made.path / "artifact.json")["engines"]
    assert note["key"] == "onnxruntime-cpu-fp32"
    assert note["plugins"]["taken"] == []
    assert "does not end in one bilinear enlargement" in note["plugins"]["why"]


def test_plugins_must_be_known() -> None:
    with pytest.raises(ValueError, match="plugins: 'all' is not one of none, auto"):
        build.Build(plugins="all")  # type: ignore[arg-type]
