"""Build makes bundles that verify, run and repeat; what cannot run is not written."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgesmith.deploy.bundle import Bundle
from edgesmith.deploy.engines.tensorrt_options import PlanOptions
from edgesmith.deploy.files import sha256_file
from edgesmith.pipeline import build
from edgesmith.pipeline.artifacts import BundleFolder, OnnxModel, Slot, Weights, open_artifact
from edgesmith.pipeline.build import Build, installed_version, known_graph, remove_engines
from edgesmith.pipeline.stage import stage_key

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
        ({"backends": ("tvm",)}, "backends: 'tvm' is not one of onnxruntime, tensorrt_rtx, tensorrt, torch_tensorrt"),
        ({"precision": "fp8"}, "precision: 'fp8' is not one of fp32, fp16, int8, best"),
        ({"compute_capability": "sm87"}, "compute_capability: 'sm87' is not one of sm75"),
        ({"timeout_s": 0.0}, r"timeout_s: 0\.0 is not above 0"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Build(**options)


def test_what_was_chosen_by_times_is_current_only_where_they_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"fixed": Build(), "best": Build(precision="best"), "auto": Build(plugins="auto")}
    before = {name: stage_key(stage) for name, stage in stages.items()}
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert [name for name, stage in stages.items() if stage_key(stage) != before[name]] == ["auto"]
    monkeypatch.setattr(build, "processor", lambda: "another")
    assert [name for name, stage in stages.items() if stage_key(stage) != before[name]] == ["best", "auto"]


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
from edgesmith.deploy.engines.tensorrt_options import PlanOptions
from edgesmith.pipeline.artifacts import OnnxModel, Slot
from edgesmith.pipeline.building.best import fastest
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


@pytest.fixture
def calibrated(make_model: Make, tmp_path: Path) -> OnnxModel:
    """The tiny network's graph folder with the ranges of its one convolution, as calibrate leaves it."""
    from edgesmith.calibration.int8 import Calibration, Layer, Outcome, Source

    model = make_model()
    digest = sha256_file(model.path / "model.onnx")
    source = Source(
        graph=digest, weights="", preprocessing="", dataset="made by hand", data="", frames=("000",), held_out=("val/000",)
    )
    outcome = Outcome(fp32=0.5, int8=0.499, uncertainty=0.1, limit=0.5)
    layer = Layer(input="x", macs=9 * 24 * 32, amax=255.0, seen=255.0, clipped=0.0)
    with Slot(tmp_path / "calibrated").writing(OnnxModel, parents=[model]) as folder:
        shutil.copytree(model.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("artifact.json"))
        Calibration("minmax", {"head": layer}, source, outcome).write(folder / "calibration.json")
    return OnnxModel(tmp_path / "calibrated")


@pytest.mark.parametrize(("precision", "opset"), [("fp16", 18), ("int8", 19)])
def test_a_bundle_of_lower_precision_runs_the_graph_of_that_precision(
    calibrated: OnnxModel, tmp_path: Path, precision: Any, opset: int
) -> None:
    import onnx

    made = Build(precision=precision)(calibrated, Slot(tmp_path / "bundle"))
    bundle = Bundle.open(made.path)
    bundle.verify()
    graph = made.path / f"model.{precision}.onnx"
    assert onnx.load(graph).opset_import[0].version == opset
    record = bundle.engines[f"onnxruntime-cpu-{precision}"]
    assert (record.graph, record.precision, record.graph_sha256) == (graph.name, precision, sha256_file(graph))
    assert (made.path / "model.onnx").read_bytes() == (calibrated.path / "model.onnx").read_bytes()
    assert (made.path / "calibration.json").read_bytes() == (calibrated.path / "calibration.json").read_bytes()
    with bundle.engine() as engine:
        assert (engine.precision, engine.key) == (precision, f"onnxruntime-cpu-{precision}")
    assert Build(precision=precision)(calibrated, Slot(tmp_path / "again")).digest == made.digest


def test_int8_without_a_calibration_is_refused_with_the_command_that_makes_one(make_model: Make, tmp_path: Path) -> None:
    commands = "edgesmith calibrate .*onnx --data SPEC --out OUT, then edgesmith build OUT --precision int8 --out BUNDLE$"
    message = rf"onnx has no calibration\.json.*{commands}"  # with the default method
    refused(make_model(), tmp_path / "bundle", message, ValueError, Build(precision="int8"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:100], "is not JSON"),
        (lambda text: text.replace("255.0", "254.0"), "was changed after it was written"),
        (lambda text: "{}", "no calibration of format"),
    ],
)
def test_a_damaged_calibration_is_refused(
    calibrated: OnnxModel, tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    path = calibrated.path / "calibration.json"
    path.write_text(damage(path.read_text()))
    refused(OnnxModel(calibrated.path), tmp_path / "a", r"was changed after it was written \(calibration\.json", ValueError)
    resealed = reseal(calibrated, tmp_path / "resealed")
    refused(resealed, tmp_path / "b", message, ValueError, Build(precision="int8"))


def reseal(model: OnnxModel, out: Path) -> OnnxModel:
    """The same files under a sidecar that fits them, as someone does who knows how."""
    with Slot(out).writing(OnnxModel) as folder:
        shutil.copytree(model.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("artifact.json"))
    return OnnxModel(out)


def test_the_calibration_of_another_graph_is_refused(calibrated: OnnxModel, tmp_path: Path) -> None:
    graph = calibrated.path / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"tiny", b"tony"))
    foreign = reseal(calibrated, tmp_path / "foreign")
    refused(foreign, tmp_path / "bundle", "foreign: the calibration was made for graph", ValueError, Build(precision="int8"))


def test_best_says_why_and_leaves_only_what_it_chose(calibrated: OnnxModel, tmp_path: Path) -> None:
    said: dict[str, Any] = {}

    def log(event: str, **fields: Any) -> None:
        said.setdefault(event, fields)

    made = Build(precision="best")(calibrated, Slot(tmp_path / "bundle", log=log))
    chosen = made.sidecar["engines"][0]["best"]
    assert chosen["precision"] == said["precision"]["chosen"]
    assert set(chosen["median_ms"]) == {"fp32", "fp16", "int8"}
    assert chosen["why"].startswith("medians of 30 frames in turn: fp32 ")
    graphs = {"model.onnx"} | ({f"model.{chosen['precision']}.onnx"} if chosen["precision"] != "fp32" else set())
    assert {p.name for p in made.path.glob("*.onnx")} == graphs
    assert (made.path / "provenance.json").read_bytes() == (calibrated.path / "provenance.json").read_bytes()
    with Bundle.open(made.path).engine() as engine:
        assert engine.precision == chosen["precision"]


def test_best_without_a_calibration_says_that_int8_was_not_measured(make_model: Make, tmp_path: Path) -> None:
    made = Build(precision="best")(make_model(), Slot(tmp_path / "bundle"))
    chosen = made.sidecar["engines"][0]["best"]
    assert "int8 was not measured, because the graph is not calibrated" in chosen["why"]


def test_best_where_the_backend_cannot_run_is_an_error_with_the_fix(make_model: Make, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    build = Build(backends=("tensorrt_rtx",), precision="best")
    refused(make_model(), tmp_path / "bundle", "plans are built here but not run: name the precision", ValueError, build)


def test_a_refused_graph_comes_with_the_rule_that_it_breaks(make_model: Make, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    build = Build(backends=("tensorrt_rtx",))
    with pytest.raises(
        (ValueError, RuntimeError), match=r"(?s)check-graph says.*zoomed_3. \(Zoom\): my\.ops\.Zoom is not an operator"
    ):
        build(make_model(custom="Zoom"), Slot(tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_plans_of_every_precision_are_built_for_rtx(calibrated: OnnxModel, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    for precision in ("fp16", "int8"):
        made = Build(backends=("tensorrt_rtx",), precision=precision, plan=PlanOptions(optimization_level=5))(
            calibrated, Slot(tmp_path / precision)
        )
        (record,) = Bundle.open(made.path).engines.values()
        digest = sha256_file(made.path / f"model.{precision}.onnx")
        assert record.key == f"tensorrt_rtx-{record.version}-sm86-{precision}-{digest[:12]}"
        assert "optimization_level 5 is not honoured" in made.sidecar["engines"][0]["not_honoured"][0]


def test_torch_tensorrt_asks_for_weights(make_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build(backends=("torch_tensorrt",))
    if importlib.util.find_spec("torch_tensorrt") is None:
        refused(make_model(), tmp_path / "bundle", "'torch_tensorrt' is not installed", ImportError, build)
    monkeypatch.setattr("edgesmith.pipeline.build._require_library", lambda backend: None)
    refused(make_model("other"), tmp_path / "bundle", "name their folder with --weights DIR", ValueError, build)


def test_torch_tensorrt_compiles_only_the_weights_of_the_graph(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would run under the graph's name. TensorRT's part is a fake; none is built."""
    compiled: list[Build] = []

    def add_plan(build: Build, *rest: Any) -> Any:
        compiled.append(build)
        raise RuntimeError("compiled")

    monkeypatch.setattr("edgesmith.pipeline.build._require_library", lambda backend: None)
    monkeypatch.setattr("edgesmith.pipeline.building.plan.add_plan", add_plan)
    model, own = OnnxModel(tiny_run / "onnx"), Weights(tiny_run / "train")
    with Slot(tmp_path / "weights").writing(Weights) as folder:
        shutil.copytree(own.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("artifact.json"))
        (folder / "model.json").write_text((own.path / "model.json").read_text() + "\n")
    other = Weights(tmp_path / "weights")
    right, wrong = (Build(backends=("torch_tensorrt",), weights=str(weights.path)) for weights in (own, other))
    refused(model, tmp_path / "bundle", f"exported from: its digest is {other.digest}.* names {own.digest}", ValueError, wrong)
    assert compiled == []
    refused(model, tmp_path / "bundle", "compiled", RuntimeError, right)
    assert compiled == [right]
    assert stage_key(right, model) != stage_key(wrong, model)


def test_the_verb_and_a_recipe_take_the_same_options(calibrated: OnnxModel, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgesmith.pipeline import recipe
    from edgesmith.pipeline.verbs.make import build as verb

    options = ["--precision", "int8", "--workspace", "512", "--version-compatible", "--timeout", "2400"]
    done = CliRunner().invoke(verb, [str(calibrated.path), *options, "--out", str(tmp_path / "b"), "--json"])
    assert done.exit_code == 0, done.output
    assert list(Bundle.open(tmp_path / "b").engines) == ["onnxruntime-cpu-int8"]
    settings = ["build.precision=int8", "build.plan.workspace_mib=512", "build.plan.version_compatible=true"]
    asked = recipe.read("street", settings).build
    assert asked == Build(precision="int8", plan=PlanOptions(workspace_mib=512, version_compatible=True))
    sidecar = json.loads((tmp_path / "b/artifact.json").read_text())
    assert sidecar["config"]["plan"]["workspace_mib"] == 512
    assert sidecar["config"]["timeout_s"] == 2400


def test_engines_of_a_key_are_removed_with_whatever_plugins_and_no_others(tmp_path: Path) -> None:
    for name in ("rtx-sm86-fp32-0a1b", "rtx-sm86-fp32-0a1b-zoomed_conv1", "rtx-sm86-fp16-0a1b", "rtx-sm86-fp32-0c2d"):
        (tmp_path / "engines" / name).mkdir(parents=True)
        (tmp_path / "engines" / name / "engine.plan").touch()
    remove_engines(tmp_path, "rtx-sm86-fp32-0a1b")
    assert sorted(p.name for p in (tmp_path / "engines").iterdir()) == ["rtx-sm86-fp16-0a1b", "rtx-sm86-fp32-0c2d"]
    remove_engines(tmp_path / "without", "rtx-sm86-fp32-0a1b")


def test_a_graph_is_named_where_the_user_knows_it_if_it_is_there(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / ".bundle.tmp"
    source.mkdir()
    (source / "model.onnx").touch()
    assert known_graph(folder, source, "fp32") == source / "model.onnx"
    assert known_graph(folder, source, "fp16") == folder / "model.fp16.onnx"
