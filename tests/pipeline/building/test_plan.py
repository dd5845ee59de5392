"""Build's TensorRT part: a plan with its record and its layers, or the builder's refusal with the rules that the graph breaks.

TensorRT and its GPU are fakes; its children and all that is written are real. Plans with plugins: test_plugin_plans.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgesmith.deploy.engines.tensorrt_options import PlanOptions
from edgesmith.deploy.files import read_json, sha256_file
from edgesmith.pipeline.artifacts import OnnxModel
from edgesmith.pipeline.build import Build
from edgesmith.pipeline.building.plan import LAYERS, add_plan

Make = Callable[..., OnnxModel]
TENSORRT = Build(("tensorrt",))


def added(model: OnnxModel, events: list[tuple[str, dict[str, Any]]] | None = None, build: Build = TENSORRT) -> Any:
    """Add a plan in fp32 to a copy of the model's folder that nobody knows by name."""
    folder = model.path.parent / "unknown"
    folder.mkdir()
    for name in ("model.onnx", "meta.json"):
        (folder / name).write_bytes((model.path / name).read_bytes())
    heard = [] if events is None else events
    log: Callable[..., None] = lambda event, **fields: heard.append((event, fields))  # noqa: E731
    return folder, *add_plan(build, "tensorrt", "fp32", folder, model.path, log)


def test_a_plan_comes_with_its_record_and_its_layers(make_model: Make, fake_gpu: Any) -> None:
    folder, record, notes = added(make_model())
    digest = sha256_file(folder / "model.onnx")
    assert record.key == f"tensorrt-10.3.0-orin-sm87-fp32-{digest[:12]}"
    assert (record.backend, record.version, record.precision) == ("tensorrt", "10.3.0", "fp32")
    assert (record.graph, record.graph_sha256) == ("model.onnx", digest)
    assert (record.device, record.gpu, record.compute_capability) == ("NVIDIA GPU, Orin", "Orin", "sm87")
    assert (record.plugins, record.plugins_digest) == ((), None)
    (home,) = (folder / "engines").iterdir()  # what the plan was made in is gone
    assert home.name == record.key
    assert sorted(p.name for p in home.iterdir()) == ["engine.plan", LAYERS]
    assert record.plan_bytes == notes["plan_bytes"] == (home / "engine.plan").stat().st_size
    assert notes["build_seconds"] >= 0
    assert set(notes) == {"build_seconds", "plan_bytes"}
    assert read_json(home / LAYERS)["layers"][0]["name"] == "native"


def test_a_version_compatible_plan_has_its_layers_too(make_model: Make, fake_gpu: Any) -> None:
    folder, record, _ = added(make_model(), build=Build(("tensorrt",), plan=PlanOptions(version_compatible=True)))
    assert record.version_compatible
    assert (folder / "engines" / record.key / LAYERS).is_file()


def test_a_library_that_does_not_tell_its_layers_costs_these_only(make_model: Make, fake_gpu: Any) -> None:
    fake_gpu.says("SILENT", "1")
    events: list[tuple[str, dict[str, Any]]] = []
    folder, record, _ = added(make_model(), events)
    assert [p.name for p in (folder / "engines" / record.key).iterdir()] == ["engine.plan"]
    (said,) = (fields["message"] for event, fields in events if event == "warning")
    assert said.startswith(f"no {LAYERS}: the engine inspector's JSON has no list of Layers")


def test_a_refusal_names_the_graph_that_the_user_knows_and_the_rule_that_it_breaks(make_model: Make, fake_gpu: Any) -> None:
    fake_gpu.says("REFUSES", "Zoom")
    model = make_model(custom="Zoom")
    with pytest.raises(ValueError, match="Zoom is refused") as caught:
        added(model)
    builder, rules, found, *_ = str(caught.value).splitlines()
    assert builder == f"tensorrt and {model.path / 'model.onnx'}: Zoom is refused"
    assert rules == "edgesmith check-graph says of it:"
    assert "zoomed_3" in found
    assert not any((model.path.parent / "unknown/engines").iterdir())


def test_a_refusal_that_no_rule_explains_is_the_builders_own(make_model: Make, fake_gpu: Any) -> None:
    fake_gpu.says("REFUSES", "Conv")
    with pytest.raises(ValueError, match=r"model\.onnx: Conv is refused$"):
        added(make_model())


def test_a_graph_that_cannot_be_read_is_the_builders_refusal(make_model: Make, fake_gpu: Any) -> None:
    model = make_model()
    (model.path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises((ValueError, RuntimeError), match=r"tensorrt and .*model\.onnx: (?s:.)*") as caught:
        added(model)
    assert "check-graph" not in str(caught.value)


def test_the_same_plan_again_takes_the_place_of_the_first(make_model: Make, fake_gpu: Any) -> None:
    model = make_model()
    folder, record, _ = added(model)
    home: Path = folder / "engines" / record.key
    (home / "engine.json").touch()
    again, _ = add_plan(TENSORRT, "tensorrt", "fp32", folder, model.path, lambda event, **fields: None)
    assert again == record
    assert sorted(p.name for p in home.iterdir()) == ["engine.plan", LAYERS]
