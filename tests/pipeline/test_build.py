"""Build makes bundles that verify, run and repeat; what cannot run is not written."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgesmith.deploy.bundle import Bundle
from edgesmith.deploy.files import sha256_file
from edgesmith.pipeline.artifacts import BundleFolder, OnnxModel, Slot, open_artifact
from edgesmith.pipeline.build import Build, installed_version

Make = Callable[..., OnnxModel]


def refused(model: OnnxModel, out: Path, message: str, kind: type[Exception], build: Build | None = None) -> None:
    """Building fails with `message` and leaves nothing behind."""
    with pytest.raises(kind, match=message):
        (build or Build())(model, Slot(out))
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))


def test_a_bundle_holds_the_model_its_engine_and_a_manifest(make_model: Make, tmp_path: Path) -> None:
    events: list[str] = []
    model = make_model()
    made = Build()(model, Slot(tmp_path / "bundle", log=lambda event, **_: events.append(event)))
    assert made == open_artifact(BundleFolder, tmp_path / "bundle")
    bundle = Bundle.open(made.path)
    bundle.verify()
    for name in ("model.onnx", "meta.json", "provenance.json", "golden/000.png", "golden/001.mask.png"):
        assert (made.path / name).read_bytes() == (model.path / name).read_bytes()
    record = bundle.engines["onnxruntime-cpu-fp32"]
    assert record.graph_sha256 == sha256_file(model.path / "model.onnx")
    assert made.sidecar["parents"] == [{"kind": "onnx", "digest": model.digest}]
    assert made.sidecar["engines"] == [{"key": "onnxruntime-cpu-fp32", "golden_frames": 2, "golden_agreement": 1.0}]
    assert events == ["engine", "golden"]


def test_equal_builds_have_equal_digests(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    assert len({Build()(model, Slot(tmp_path / name)).digest for name in ("a", "b")}) == 1


def test_several_engines_lie_side_by_side(make_model: Make, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    made = Build(backends=("tensorrt_rtx", "onnxruntime"), compute_capability="sm89")(make_model(), Slot(tmp_path / "b"))
    bundle = Bundle.open(made.path)
    bundle.verify()
    assert {r.backend for r in bundle.engines.values()} == {"onnxruntime", "tensorrt_rtx"}
    plan = next(r for r in bundle.engines.values() if r.backend == "tensorrt_rtx")
    assert plan.compute_capability == "sm89"
    assert plan.plan_bytes == (made.path / "engines" / plan.key / "engine.plan").stat().st_size
    assert made.sidecar["engines"][1]["golden_agreement"] == 1.0
    with bundle.engine() as engine:
        assert engine.backend == "onnxruntime"
    with pytest.raises(RuntimeError, match=r"engine\.plan"):
        bundle.engine("tensorrt_rtx")


def test_a_changed_model_is_refused_by_name(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    with (model.path / "meta.json").open("a") as f:
        f.write(" ")
    refused(OnnxModel(model.path), tmp_path / "bundle", r"was changed after it was written \(meta\.json", ValueError)


def test_a_model_without_golden_frames_is_refused(make_model: Make, tmp_path: Path) -> None:
    refused(make_model(golden=0), tmp_path / "bundle", "no golden frames", ValueError)


def test_a_bundle_whose_engine_disagrees_with_torch_is_not_written(make_model: Make, tmp_path: Path) -> None:
    model = make_model(colour_order="rgb")  # the graph is made for BGR
    refused(model, tmp_path / "bundle", r"gives \d+\.\d+% of the golden pixels.*99\.9% are needed", RuntimeError)


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt_rtx"])
def test_a_graph_that_the_backend_does_not_know_is_not_written(make_model: Make, tmp_path: Path, backend: Any) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    refused(make_model(custom="Zoom"), tmp_path / "bundle", "Zoom", ValueError, Build(backends=(backend,)))


def test_an_older_bundle_stays_when_a_new_one_fails(make_model: Make, tmp_path: Path) -> None:
    made = Build()(make_model(), Slot(tmp_path / "bundle"))
    with pytest.raises(RuntimeError):
        Build()(make_model("other", colour_order="rgb"), Slot(tmp_path / "bundle"))
    Bundle.open(made.path).verify()


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_backend_that_is_not_installed_is_an_error_never_another_backend(make_model: Make, tmp_path: Path) -> None:
    refused(make_model(), tmp_path / "bundle", "'tensorrt' is not installed", ImportError, Build(("onnxruntime", "tensorrt")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backends": ()}, r"backends: \[\] does not name one or more"),
        ({"backends": ("onnxruntime", "onnxruntime")}, "each once"),
        ({"backends": ("tvm",)}, "backends: 'tvm' is not one of onnxruntime, tensorrt_rtx, tensorrt"),
        ({"compute_capability": "sm87"}, "compute_capability: 'sm87' is not one of sm75"),
        ({"timeout_s": 0.0}, r"timeout_s: 0\.0 is not above 0"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Build(**options)


def test_a_backend_that_comes_under_another_name_has_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [p for p in sys.path if not p.endswith("-packages")]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *installed])
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert installed_version("onnxruntime") == "none"
    (tmp_path / "onnxruntime.py").touch()
    importlib.invalidate_caches()
    assert installed_version("onnxruntime") == "unknown"
    info = tmp_path / "onnxruntime_gpu-9.8.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 9.8.7\n")
    (info / "top_level.txt").write_text("onnxruntime\n")
    importlib.invalidate_caches()
    assert installed_version("onnxruntime") == "9.8.7"


def test_building_and_validating_need_no_torch(make_model: Make, tmp_path: Path, tiny: SimpleNamespace) -> None:
    model = make_model()
    code = f"""
import sys
sys.modules["torch"] = None  # importing it fails
from pathlib import Path
from edgesmith.deploy.bundle import Bundle
from edgesmith.pipeline.artifacts import OnnxModel, Slot
from edgesmith.pipeline.build import Build
import edgesmith.pipeline.validate
made = Build()(OnnxModel(Path({str(model.path)!r})), Slot(Path({str(tmp_path / "bundle")!r})))
Bundle.open(made.path).verify()
print({{m for m in ("onnx", "pydantic", "yaml") if m in sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


def test_the_sidecar_of_the_model_is_not_carried_along(make_model: Make, tmp_path: Path) -> None:
    made = Build()(make_model(), Slot(tmp_path / "bundle"))
    assert json.loads((made.path / "artifact.json").read_text())["kind"] == "bundle"
