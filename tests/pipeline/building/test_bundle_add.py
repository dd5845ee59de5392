"""An engine is added to a bundle that is there, whole or not at all."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgesmith.deploy.bundle import Bundle, write_manifest
from edgesmith.deploy.files import sha256_file
from edgesmith.pipeline.artifacts import BundleFolder, open_artifact
from edgesmith.pipeline.build import Build
from edgesmith.pipeline.building import best
from edgesmith.pipeline.building.bundle_add import add_engines
from edgesmith.pipeline.stage import locked
from edgesmith.pipeline.verbs.bundle import bundle as verb


@pytest.fixture
def bundle(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def silent(event: str, **fields: Any) -> None:
    pass


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in folder.rglob("*") if p.is_file()}


def test_engines_of_other_precisions_and_backends_lie_side_by_side(bundle: Path) -> None:
    before = content(bundle)
    (note,) = add_engines(bundle, Build(precision="fp16"), silent)
    assert note["key"] == "onnxruntime-cpu-fp16"
    wanted = ["onnxruntime-cpu-fp16", "onnxruntime-cpu-fp32"]
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        for capability in ("sm86", "sm120"):
            build = Build(("tensorrt_rtx",), "fp16", capability)
            wanted += [n["key"] for n in add_engines(bundle, build, silent)]
    opened = Bundle.open(bundle)
    opened.verify()
    assert sorted(opened.engines) == sorted(wanted)
    assert {r.graph for r in opened.engines.values()} == {"model.onnx", "model.fp16.onnx"}
    after = content(bundle)
    assert {name for name in before if before[name] != after[name]} == {"artifact.json", "manifest.json"}
    with opened.engine(precision="fp16") as engine:
        assert engine.key == "onnxruntime-cpu-fp16"
    with opened.engine() as engine:
        assert engine.precision == "fp32"


def test_the_pipelines_sidecar_follows_and_need_not_be_there(bundle: Path) -> None:
    before = open_artifact(BundleFolder, bundle).digest
    add_engines(bundle, Build(precision="fp16"), silent)
    made = open_artifact(BundleFolder, bundle)
    assert [e["key"] for e in made.sidecar["engines"]] == ["onnxruntime-cpu-fp32", "onnxruntime-cpu-fp16"]
    assert made.sidecar["was"] == [before]
    (bundle / "artifact.json").unlink()
    add_engines(bundle, Build(), silent)
    assert not (bundle / "artifact.json").exists()
    Bundle.open(bundle).verify()


def test_adding_the_same_engine_again_replaces_it(bundle: Path) -> None:
    for _ in range(2):
        add_engines(bundle, Build(precision="fp16"), silent)
        assert len(Bundle.open(bundle).engines) == 2
    assert len(open_artifact(BundleFolder, bundle).sidecar["engines"]) == 2


def test_best_leaves_the_graphs_of_other_engines_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_engines(bundle, Build(precision="fp16"), silent)
    monkeypatch.setattr(best, "choose", lambda folder, precisions: best.Choice("fp32", "said so", {}))
    add_engines(bundle, Build(precision="best"), silent)
    with Bundle.open(bundle).engine(precision="fp16") as engine:
        assert engine.precision == "fp16"
    Bundle.open(bundle).verify()


def test_a_build_that_fails_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    before = content(bundle)
    advice = r"edgesmith calibrate GRAPH .* --precision int8 --out BUNDLE; GRAPH is the graph folder that this bundle"
    with pytest.raises(ValueError, match=rf"bundle has no calibration\.json.*{advice}"):
        add_engines(bundle, Build(precision="int8"), silent)
    (bundle / "golden/000.mask.png").write_bytes((bundle / "golden/001.mask.png").read_bytes())
    write_manifest(bundle)  # masks that no engine of this graph gives
    with pytest.raises(RuntimeError, match="of the golden pixels"):
        add_engines(bundle, Build(precision="fp16"), silent)
    assert set(content(bundle)) == set(before)
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["model.onnx", "golden/000.png", "engines/onnxruntime-cpu-fp32/engine.json"])
def test_nothing_is_built_upon_a_damaged_bundle(bundle: Path, name: str) -> None:
    with (bundle / name).open("ab") as f:
        f.write(b" ")
    with pytest.raises(ValueError, match=name):
        add_engines(bundle, Build(precision="fp16"), silent)


def test_nothing_is_added_while_the_bundles_run_goes_on(bundle: Path) -> None:
    with locked(bundle.parent), pytest.raises(BlockingIOError, match="another edgesmith is at work in"):
        add_engines(bundle, Build(precision="fp16"), silent)


def test_two_do_not_add_at_once(bundle: Path) -> None:
    handle = os.open(bundle.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another edgesmith is at work in"):
            add_engines(bundle, Build(precision="fp16"), silent)
    finally:
        os.close(handle)
    add_engines(bundle, Build(precision="fp16"), silent)


def test_a_bundle_is_added_to_from_within_and_through_a_link(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = bundle.with_name("link")
    link.symlink_to("bundle")
    add_engines(link, Build(precision="fp16"), silent)
    assert link.is_symlink()
    assert len(Bundle.open(bundle).engines) == 2
    monkeypatch.chdir(bundle)
    add_engines(Path("."), Build(), silent)
    Bundle.open(bundle).verify()
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["bundle", "link"]


def test_what_a_kill_left_is_put_right_by_the_next_one(bundle: Path) -> None:
    for name in (".bundle.1234abc_.old", ".bundle.5678def_.tmp", ".bundle.mine.tmp"):
        bundle.with_name(name).mkdir()
    bundle.rename(bundle.with_name(".bundle.1234abc_.old") / "was")
    add_engines(bundle, Build(precision="fp16"), silent)
    Bundle.open(bundle).verify()
    assert sorted(p.name for p in bundle.parent.iterdir()) == [".bundle.mine.tmp", "bundle"]


def test_a_bundle_that_another_process_is_building_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".bundle.1234abc_.tmp").mkdir()
    for folder in (tmp_path / "bundle", tmp_path / "nowhere" / "bundle"):
        with pytest.raises(FileNotFoundError, match="is not a folder; a bundle is one"):
            add_engines(folder, Build(), silent)
    assert [p.name for p in tmp_path.iterdir()] == [".bundle.1234abc_.tmp"]


def test_an_engine_that_is_not_in_the_manifest_is_not_opened(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    (bundle / "engines/onnxruntime-cpu-fp32/engine.plan").write_bytes(b"code from elsewhere")
    with pytest.raises(ValueError, match=r"engine\.plan is not in the manifest, and an engine is code"):
        opened.engine()


@pytest.mark.parametrize("change", [b"", b"altered", None])
def test_a_plan_that_is_truncated_altered_or_gone_is_refused(bundle: Path, change: bytes | None) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    (note,) = add_engines(bundle, Build(("tensorrt_rtx",)), silent)
    plan = bundle / "engines" / note["key"] / "engine.plan"
    whole = plan.read_bytes()
    plan.unlink()
    if change is not None:
        plan.write_bytes(change + whole[len(change) :] if change else whole[:-1])
    with pytest.raises(ValueError, match=r"engine\.plan: (is missing|was changed|has \d+ bytes)"):
        Bundle.open(bundle).engine("tensorrt_rtx")


def test_an_engine_whose_graph_is_missing_or_another_is_refused(bundle: Path) -> None:
    add_engines(bundle, Build(precision="fp16"), silent)
    graph = bundle / "model.fp16.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole.replace(b"tiny", b"tony"))
    write_manifest(bundle)
    with pytest.raises(ValueError, match=r"graph_sha256 is not that of model\.fp16\.onnx"):
        Bundle.open(bundle)
    graph.unlink()
    write_manifest(bundle)
    with pytest.raises(ValueError, match=r"its graph 'model\.fp16\.onnx' is not in the manifest"):
        Bundle.open(bundle)


def test_a_record_of_an_older_bundle_is_read(bundle: Path) -> None:
    path = bundle / "engines/onnxruntime-cpu-fp32/engine.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in record.items() if k not in ("graph", "gpu", "version_compatible")}))
    write_manifest(bundle)
    with Bundle.open(bundle).engine() as engine:
        assert engine.precision == "fp32"


def test_the_verb_says_what_it_added(bundle: Path) -> None:
    done = CliRunner().invoke(verb, ["add", str(bundle), "--backend", "onnxruntime", "--precision", "fp16", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["added"][0]["key"] == "onnxruntime-cpu-fp16"
    done = CliRunner().invoke(verb, ["add", str(bundle), "--backend", "onnxruntime"])
    assert done.stdout == f"{bundle}: onnxruntime-cpu-fp32 added\n"
