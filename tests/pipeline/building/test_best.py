"""`build --precision best`: engines take turns on the golden frames, and a less exact one must be clearly faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.pipeline.artifacts import OnnxModel
from edgesmith.pipeline.build import write_graph
from edgesmith.pipeline.building import best
from edgesmith.pipeline.building.best import choose, fastest

Make = Callable[..., OnnxModel]


def test_a_less_exact_precision_must_be_clearly_faster() -> None:
    assert fastest({"fp32": 10.0, "fp16": 9.6, "int8": 9.7}, 30).precision == "fp32"
    assert fastest({"fp32": 10.0, "fp16": 9.0, "int8": 8.9}, 30).precision == "fp16"
    assert fastest({"fp32": 10.0, "fp16": 12.0, "int8": 4.0}, 30).precision == "int8"
    why = fastest({"fp32": 10.0, "fp16": 9.6}, 7).why
    assert why.startswith("medians of 7 frames in turn: fp32 10.00 ms, fp16 9.60 ms; less exact must be 5% faster")
    assert why.endswith("int8 was not measured, because the graph is not calibrated")


def test_engines_take_turns_frame_by_frame_after_one_that_does_not_count(
    make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ran = make_model(), list[str]()
    write_graph(model.path, "fp16", model.path)

    class Watched(best.OnnxRuntimeEngine):
        def infer(self, frame: Any) -> Any:
            ran.append(self.precision)
            return super().infer(frame)

    monkeypatch.setattr(best, "OnnxRuntimeEngine", Watched)
    choice = choose(model.path, ["fp32", "fp16"], rounds=3)
    assert ran == ["fp32", "fp16"] * 4
    assert choice.precision in choice.median_ms
    assert list(choice.median_ms) == ["fp32", "fp16"]
    assert np.all(np.array(list(choice.median_ms.values())) >= 0)


def test_without_golden_frames_there_is_nothing_to_measure_with(make_model: Make) -> None:
    with pytest.raises(ValueError, match="onnx has no golden frames to measure with; export the graph again"):
        choose(make_model(golden=0).path, ["fp32"])


def test_a_graph_that_does_not_load_is_refused(make_model: Make) -> None:
    model = make_model()
    (model.path / "model.fp16.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"model\.fp16\.onnx"):
        choose(model.path, ["fp32", "fp16"])


def test_a_graph_that_is_missing_is_named(make_model: Make) -> None:
    model = make_model()
    with pytest.raises((ValueError, OSError), match=r"model\.fp16\.onnx"):
        choose(model.path, ["fp32", "fp16"])


def test_the_folder_is_left_as_it_was(make_model: Make) -> None:
    model = make_model()
    before = sorted(p for p in Path(model.path).rglob("*"))
    choose(model.path, ["fp32"], rounds=1)
    assert sorted(p for p in Path(model.path).rglob("*")) == before
