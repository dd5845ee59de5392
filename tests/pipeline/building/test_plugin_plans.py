"""`build --plugins auto` for TensorRT: plans with plugins are built, timed in turn and taken where they are faster and right.

TensorRT, its GPU and the compiled plugins are fakes; the rewritten graphs, the children and all that is written are real.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgesmith.deploy.bundle import Bundle
from edgesmith.deploy.engines import tensorrt
from edgesmith.deploy.engines.tensorrt import Timed
from edgesmith.deploy.files import read_json
from edgesmith.deploy.plugins import LIBRARY, source_digest
from edgesmith.pipeline.artifacts import OnnxModel, Slot
from edgesmith.pipeline.build import Build
from edgesmith.pipeline.building import plugin_plans
from edgesmith.pipeline.building.bundle_add import add_engines


@pytest.fixture
def model(plugin_model: Any) -> OnnxModel:
    made: OnnxModel = plugin_model(zoomed=True)
    return made


def auto(library: Path | None, **more: Any) -> Build:
    return Build(("tensorrt",), plugins="auto", plugin_library=None if library is None else str(library), **more)


def test_what_is_faster_is_taken_with_its_library_and_all_times_are_kept(
    model: OnnxModel, tmp_path: Path, fake_gpu: Any
) -> None:
    fake_gpu.takes(native=10.0, EnlargeArgmax=8.0, ZoomedConv=9.0, EnlargeArgmax_and_ZoomedConv=7.0)
    events: list[tuple[str, dict[str, Any]]] = []
    made = auto(fake_gpu.library)(model, Slot(tmp_path / "bundle", log=lambda event, **f: events.append((event, f))))
    bundle = Bundle.open(made.path)
    bundle.verify()
    ((key, record),) = bundle.engines.items()
    assert key.startswith("tensorrt-10.3.0-orin-sm87-fp32-")
    assert key.endswith("-enlarge_argmax1-zoomed_conv1")
    assert record.plugins == ("EnlargeArgmax", "ZoomedConv")
    assert record.plugins_digest == source_digest()
    folder = made.path / "engines" / key
    assert sorted(p.name for p in folder.iterdir()) == ["engine.json", "engine.plan", "layers.json", LIBRARY]
    assert (folder / LIBRARY).read_bytes() == fake_gpu.library.read_bytes()
    assert read_json(folder / "engine.plan")["operators"] == ["EnlargeArgmax", "ZoomedConv"]
    assert read_json(folder / "layers.json")["layers"][0]["name"] == "EnlargeArgmax+ZoomedConv"
    (note,) = made.sidecar["engines"]
    times = {"native": 10.0, "EnlargeArgmax": 8.0, "ZoomedConv": 9.0, "EnlargeArgmax+ZoomedConv": 7.0}
    assert note["plugins"]["median_ms"] == times
    assert set(note["plugins"]["agreement"].values()) == {1.0}
    (announced,) = (fields for event, fields in events if event == "plugins")
    assert announced["taken"] == ["EnlargeArgmax", "ZoomedConv"]
    assert [p.name for p in (made.path / "engines").iterdir()] == [key]


def test_builds_that_choose_alike_are_the_same_bundle_whatever_was_measured(
    model: OnnxModel, tmp_path: Path, fake_gpu: Any
) -> None:
    digests = set()
    for native in (10.0, 11.0):
        fake_gpu.takes(native=native, EnlargeArgmax=8.0, ZoomedConv=9.0, EnlargeArgmax_and_ZoomedConv=7.0)
        made = auto(fake_gpu.library)(model, Slot(tmp_path / f"bundle-{native}"))
        assert made.sidecar["engines"][0]["plugins"]["median_ms"]["native"] == native
        digests.add(made.digest)
    assert len(digests) == 1


def test_one_operator_may_be_faster_than_both(model: OnnxModel, tmp_path: Path, fake_gpu: Any) -> None:
    fake_gpu.takes(native=10.0, EnlargeArgmax=8.0, ZoomedConv=13.0, EnlargeArgmax_and_ZoomedConv=11.0)
    made = auto(fake_gpu.library, precision="fp16")(model, Slot(tmp_path / "bundle"))
    (record,) = Bundle.open(made.path).engines.values()
    assert (record.plugins, record.precision, record.graph) == (("EnlargeArgmax",), "fp16", "model.fp16.onnx")


def test_native_is_kept_where_plugins_are_not_clearly_faster(model: OnnxModel, tmp_path: Path, fake_gpu: Any) -> None:
    fake_gpu.takes(native=10.0, EnlargeArgmax=9.9, ZoomedConv=10.0, EnlargeArgmax_and_ZoomedConv=9.8)
    made = auto(fake_gpu.library)(model, Slot(tmp_path / "bundle"))
    ((key, record),) = Bundle.open(made.path).engines.items()
    assert (record.plugins, record.plugins_digest) == ((), None)
    assert sorted(p.name for p in (made.path / "engines" / key).iterdir()) == ["engine.json", "engine.plan", "layers.json"]
    (note,) = made.sidecar["engines"]
    assert note["plugins"]["taken"] == []
    assert "native 10.000 ms, EnlargeArgmax 9.900 ms" in note["plugins"]["why"]


def test_a_plan_with_other_labels_is_not_taken_however_fast(model: OnnxModel, tmp_path: Path, fake_gpu: Any) -> None:
    fake_gpu.takes(native=10.0, EnlargeArgmax=8.0, ZoomedConv=9.0, EnlargeArgmax_and_ZoomedConv=1.0)
    fake_gpu.says("WRONG", "EnlargeArgmax+ZoomedConv")
    made = auto(fake_gpu.library)(model, Slot(tmp_path / "bundle"))
    (record,) = Bundle.open(made.path).engines.values()
    assert record.plugins == ("EnlargeArgmax",)
    assert "EnlargeArgmax+ZoomedConv gives 0.00% of the golden pixels" in made.sidecar["engines"][0]["plugins"]["why"]


def test_an_operator_that_the_builder_refuses_is_noted_and_the_rest_measured(
    model: OnnxModel, tmp_path: Path, fake_gpu: Any
) -> None:
    fake_gpu.takes(native=10.0, EnlargeArgmax=8.0)
    fake_gpu.says("REFUSES", "ZoomedConv")
    made = auto(fake_gpu.library)(model, Slot(tmp_path / "bundle"))
    (record,) = Bundle.open(made.path).engines.values()
    assert record.plugins == ("EnlargeArgmax",)
    refused = made.sidecar["engines"][0]["plugins"]["refused"]
    assert set(refused) == {"ZoomedConv", "EnlargeArgmax+ZoomedConv"}
    assert "ZoomedConv is refused" in refused["ZoomedConv"]


@pytest.mark.parametrize(
    ("what", "value", "why"),
    [
        ("FULL", "1", "the plans could not be timed: .*cuMemAlloc_v2 failed with error 2"),
        ("DIES", "ZoomedConv", "the plans could not be timed: .*killed by SIGSEGV while running the plan ZoomedConv"),
        ("VERSION", "9.3.0", "no plan with plugins could be built"),
    ],
)
def test_what_fails_on_the_way_leaves_the_native_plan_and_is_said(
    model: OnnxModel, tmp_path: Path, fake_gpu: Any, what: str, value: str, why: str
) -> None:
    fake_gpu.takes(native=10.0, EnlargeArgmax=8.0, ZoomedConv=9.0, EnlargeArgmax_and_ZoomedConv=7.0)
    fake_gpu.says(what, value)
    made = auto(fake_gpu.library)(model, Slot(tmp_path / "bundle"))
    (record,) = Bundle.open(made.path).engines.values()
    assert record.plugins == ()
    note = made.sidecar["engines"][0]["plugins"]
    assert re.search(why, note["why"])
    if what == "VERSION":
        assert "tensorrt 9.3.0 takes no plugins: IPluginV3 came with 10.0" in note["refused"]["ZoomedConv"]


def test_timing_ends_when_building_a_plan_would(
    model: OnnxModel, tmp_path: Path, fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(plans: Any, frames: Any, module: str, plugins: Any, rounds: int, timeout_s: float) -> Timed:
        raise TimeoutError(f"stopped after {timeout_s:g} s")

    monkeypatch.setattr(plugin_plans, "time_plans", hangs)
    made = auto(fake_gpu.library, timeout_s=77.0)(model, Slot(tmp_path / "bundle"))
    note = made.sidecar["engines"][0]["plugins"]
    assert (note["taken"], note["why"]) == ([], "the plans could not be timed: stopped after 77 s")


def test_without_a_library_the_plan_is_native_and_the_message_says_what_makes_one(
    model: OnnxModel, tmp_path: Path, fake_gpu: Any
) -> None:
    made = auto(None)(model, Slot(tmp_path / "bundle"))
    note = made.sidecar["engines"][0]["plugins"]
    assert note["taken"] == []
    assert "--plugin-library, EDGESMITH_PLUGINS or a recipe's build.plugin_library" in note["why"]
    assert "cmake -S" in note["why"]


def test_a_named_library_that_is_not_ours_is_an_error_before_anything_is_built(
    model: OnnxModel, tmp_path: Path, fake_gpu: Any
) -> None:
    for library, kind, message in (
        (fake_gpu.plugin_library("0" * 64), ValueError, "plugin_library: .*was built from other sources"),
        (tmp_path / "absent.so", FileNotFoundError, r"absent\.so: there is no such library; .*cmake"),
        (fake_gpu.folder / "tensorrt.py", OSError, "tensorrt.py: "),
        (fake_gpu.folder / "libcuda.so.1", ValueError, "is not a library of edgesmith's plugins"),
    ):
        with pytest.raises(kind, match=message):
            auto(library)(model, Slot(tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_tensorrt_for_rtx_stays_native_and_says_that_it_has_no_plugins(model: OnnxModel, tmp_path: Path, fake_gpu: Any) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    build = Build(("tensorrt_rtx",), plugins="auto", plugin_library=str(fake_gpu.library))
    events: list[str] = []
    made = build(model, Slot(tmp_path / "bundle", log=lambda event, **f: events.append(f"{event} {f.get('why')}")))
    (record,) = Bundle.open(made.path).engines.values()
    assert record.plugins == ()
    assert made.sidecar["engines"][0]["plugins"] == {"taken": [], "why": "TensorRT for RTX has no plugins"}
    assert "plugins TensorRT for RTX has no plugins" in events


def test_a_graph_without_such_operators_stays_native(make_model: Any, tmp_path: Path, fake_gpu: Any) -> None:
    made = auto(fake_gpu.library)(make_model(), Slot(tmp_path / "bundle"))
    assert made.sidecar["engines"][0]["plugins"]["why"] == "the graph has nothing that a plugin computes"


def test_another_choice_on_the_device_takes_the_place_of_the_first(model: OnnxModel, tmp_path: Path, fake_gpu: Any) -> None:
    fake_gpu.takes(native=10.0, EnlargeArgmax=8.0, ZoomedConv=9.0, EnlargeArgmax_and_ZoomedConv=7.0)
    made = Build()(model, Slot(tmp_path / "bundle"))
    (first,) = add_engines(made.path, auto(fake_gpu.library), lambda event, **f: None)
    fake_gpu.takes(native=5.0, EnlargeArgmax=8.0, ZoomedConv=9.0, EnlargeArgmax_and_ZoomedConv=7.0)
    (second,) = add_engines(made.path, auto(fake_gpu.library), lambda event, **f: None)
    assert first["key"] == f"{second['key']}-enlarge_argmax1-zoomed_conv1"
    bundle = Bundle.open(made.path)
    bundle.verify()
    assert set(bundle.engines) == {"onnxruntime-cpu-fp32", second["key"]}
    assert [e["key"] for e in read_json(made.path / "artifact.json")["engines"]] == ["onnxruntime-cpu-fp32", second["key"]]
    (_, note) = read_json(made.path / "artifact.json")["engines"]
    assert note["plugins"]["median_ms"]["native"] == 5.0


def test_a_bundle_whose_library_is_missing_or_changed_is_refused(model: OnnxModel, tmp_path: Path, fake_gpu: Any) -> None:
    fake_gpu.takes(native=10.0, EnlargeArgmax=8.0, ZoomedConv=9.0, EnlargeArgmax_and_ZoomedConv=7.0)
    made = auto(fake_gpu.library)(model, Slot(tmp_path / "bundle"))
    (key,) = Bundle.open(made.path).engines
    library = made.path / "engines" / key / LIBRARY
    library.write_bytes(library.read_bytes() + b" ")
    with pytest.raises(ValueError, match=rf"{LIBRARY}: has \d+ bytes"):
        Bundle.open(made.path).engine()
    library.write_bytes(fake_gpu.plugin_library("1" * 64).read_bytes())
    with pytest.raises(RuntimeError, match="was built from other sources"):
        tensorrt.open_plan(library.parent)
    other = tmp_path / "other"  # elsewhere: what was loaded under a path stays loaded
    shutil.copytree(library.parent, other)
    (other / LIBRARY).write_bytes(b"no library")
    with pytest.raises(RuntimeError, match="needs its library of plugins"):
        tensorrt.open_plan(other)
    library.unlink()
    from edgesmith.deploy.bundle import write_manifest

    write_manifest(made.path)
    with pytest.raises(ValueError, match=f"has a plugins_digest, but {LIBRARY} is missing beside it"):
        Bundle.open(made.path)


def test_the_key_of_a_run_holds_the_library(tmp_path: Path, fake_gpu: Any) -> None:
    held = auto(fake_gpu.library).environment["plugin_library"]
    assert held != auto(fake_gpu.plugin_library("1" * 64)).environment["plugin_library"]
    assert "plugin_library" not in Build(plugins="auto", plugin_library=str(fake_gpu.library)).environment


def test_the_least_time_wins_among_those_that_label_alike() -> None:
    timed = Timed({"native": 10.0, "a": 6.0, "b": 5.0}, {"native": 1.0, "a": 0.995, "b": 0.98})
    assert plugin_plans.fastest(timed, 0.99, 3)[0] == "a"
    assert plugin_plans.fastest(timed, 0.98, 3)[0] == "b"
    assert plugin_plans.fastest(timed, 0.999, 3)[0] == "native"
