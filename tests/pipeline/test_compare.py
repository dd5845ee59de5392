"""Comparison of two forms of a network: nothing where there is nothing, and the place where something was changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgesmith.calibration.int8 import Calibration
from edgesmith.deploy.bundle import CALIBRATION
from edgesmith.deploy.meta import Meta
from edgesmith.pipeline.artifacts import OnnxModel, Slot, Weights
from edgesmith.pipeline.build import Build
from edgesmith.pipeline.calibrate import Calibrate
from edgesmith.pipeline.compare import compare
from edgesmith.pipeline.data.dataset import LabelSet, Sample
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.graphs.precision import lowered
from edgesmith.pipeline.graphs.resizes import resizes


@pytest.fixture(scope="module")
def made(small: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxModel, Data]:
    root = tmp_path_factory.mktemp("small")
    return small.write_network(Slot(root / "onnx"), small.network()), small.write_dataset(root / "data", small.network())


@pytest.fixture
def samples(small: Any) -> list[Sample]:
    return [Sample(str(i), small.frame(i), np.full((24, 32), 255, np.uint8)) for i in range(3)]


def altered(model: OnnxModel, out: Path, change: Callable[[ModelProto], None]) -> Path:
    """A graph file beside a meta.json, changed."""
    graph = onnx.load(str(model.path / "model.onnx"))
    change(graph)
    out.mkdir()
    (out / "meta.json").write_bytes((model.path / "meta.json").read_bytes())
    onnx.save(graph, str(out / "model.onnx"))
    return out / "model.onnx"


def scaled(name: str) -> Callable[[ModelProto], None]:
    def change(graph: ModelProto) -> None:
        constant = next(c for c in graph.graph.initializer if c.name == name)
        constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) * np.float32(1.1), name))

    return change


def test_a_graph_differs_in_nothing_from_itself(made: tuple[OnnxModel, Data], samples: list[Sample]) -> None:
    found = compare(made[0].path, made[0].path / "model.onnx", samples)
    assert found["pixel_agreement"] == 1
    assert found["logits"] == {"relative_error": 0, "largest": 0}
    assert found["first_diverging"] is None
    assert found["resizes"]["same"]
    assert "miou" not in found
    names = [layer["name"] for layer in found["layers"]]
    assert names.index("stem/out") < names.index("residual/out") < names.index("classifier/out")


@pytest.mark.parametrize("name", ["spread", "value", "gate"])
def test_the_first_diverging_layer_is_the_one_that_was_altered(
    made: tuple[OnnxModel, Data], samples: list[Sample], tmp_path: Path, name: str
) -> None:
    other = altered(made[0], tmp_path / "other", scaled(f"module.{name}.weight"))
    found = compare(made[0].path, other, samples)
    assert found["first_diverging"]["name"] == f"{name}/out"
    assert found["first_diverging"]["error"] > 1e-3
    assert found["logits"]["relative_error"] > 0
    assert compare(made[0].path, other, samples, tolerance=10.0)["first_diverging"] is None


def test_names_that_differ_are_matched_by_parameters(
    made: tuple[OnnxModel, Data], samples: list[Sample], tmp_path: Path
) -> None:
    def rename(graph: ModelProto) -> None:
        scaled("module.value.weight")(graph)
        for node in graph.graph.node:
            node.output[:] = [f"other_{v}" if v != "labels" else v for v in node.output]
            constants = {c.name for c in graph.graph.initializer} | {"frame", ""}
            node.input[:] = [v if v in constants else f"other_{v}" for v in node.input]

    found = compare(made[0].path, altered(made[0], tmp_path / "other", rename), samples)
    assert [layer["name"] for layer in found["layers"]] == ["stem", "spread", "after_spread", "gate", "value", "classifier"]
    assert found["first_diverging"]["name"] == "value"


def test_a_split_gives_iou_by_class(made: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    model, data = made
    split = open_split(data, "val")
    other = altered(model, tmp_path / "other", scaled("module.classifier.weight"))
    found = compare(model.path, other, [split[i] for i in range(len(split))], split.labels)
    assert found["miou"]["a"] == 1
    assert found["miou"]["b"] < 1
    assert found["miou"]["change"] == found["miou"]["b"] - 1
    assert [row["name"] for row in found["classes"]] == ["sky", "road", "car"]
    assert found["pixel_agreement"] < 1


def test_engines_of_lower_precision_compare_with_the_graph(
    made: tuple[OnnxModel, Data], samples: list[Sample], tmp_path: Path
) -> None:
    model, data = made
    calibrated = Calibrate(data, frames=6, held_out=8, limit_drop=5.0)(model, Slot(tmp_path / "calibrated"))
    bundle = Build(precision="int8")(calibrated, Slot(tmp_path / "bundle")).path
    found = compare(model.path, bundle, samples)
    assert found["b"] == {"path": str(bundle), "as": "graph", "precision": "int8"}
    assert found["tolerance"] == 0.25
    assert found["first_diverging"] is None
    assert 0 < found["logits"]["relative_error"] < 0.1
    assert {"stem/out", "residual/out", "classifier/out"} <= {layer["name"] for layer in found["layers"]}
    engine = next((bundle / "engines").iterdir())
    assert compare(model.path, engine, samples)["logits"] == found["logits"]
    expected = lowered(onnx.load(str(model.path / "model.onnx")), "int8", Calibration.read(calibrated.path / CALIBRATION))
    assert onnx.load(str(bundle / "model.int8.onnx")) == expected


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, OnnxModel]:
    """A network with random weights in torch, and its graph."""
    from edgesmith.pipeline.export import Export
    from tests.pipeline.test_export import make_weights

    root = tmp_path_factory.mktemp("torch")
    weights = make_weights(root / "weights")
    return weights, Export((96, 128))(weights, Slot(root / "onnx"))


def test_torch_and_its_export_agree_layer_by_layer(exported: tuple[Weights, OnnxModel], tmp_path: Path) -> None:
    weights, model = exported
    rgb = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    frames = [Sample("noise", rgb, np.zeros((96, 128), np.uint8))]
    found = compare(weights.path, model.path, frames)
    assert found["a"]["as"] == "torch"
    assert found["pixel_agreement"] > 0.999
    assert found["logits"]["relative_error"] < 1e-4
    assert found["first_diverging"] is None
    names = [layer["name"] for layer in found["layers"]]
    assert len(names) > 8
    middle = names[len(names) // 2]
    other = altered(model, tmp_path / "other", scaled(f"net/module.{middle}.weight"))
    assert compare(weights.path, other, frames)["first_diverging"]["name"] == middle


def test_two_torch_folders_compare_with_iou(exported: tuple[Weights, OnnxModel]) -> None:
    weights, _ = exported
    names = Meta.read(exported[1].path / "meta.json").classes
    classes = LabelSet(names, tuple((i, i, i) for i in range(len(names))))
    frame = np.zeros((64, 96, 3), np.uint8)
    found = compare(weights.path, weights.path, [Sample("black", frame, np.zeros((64, 96), np.uint8))], classes)
    assert found["frame_hw"] == [64, 96]
    assert found["miou"]["change"] == 0
    assert found["first_diverging"] is None


def test_what_is_not_comparable_is_refused(
    made: tuple[OnnxModel, Data], samples: list[Sample], small: Any, tmp_path: Path
) -> None:
    path = made[0].path
    with pytest.raises(FileNotFoundError, match="no weights folder, no ONNX file"):
        compare(path, tmp_path, samples)
    with pytest.raises(ValueError, match="there is no frame"):
        compare(path, path, [])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "meta.json").write_bytes((path / "meta.json").read_bytes())
    (tmp_path / "broken" / "model.onnx").write_bytes((path / "model.onnx").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"model\.onnx"):
        compare(path, tmp_path / "broken", samples)
    (tmp_path / "alone.onnx").write_bytes((path / "model.onnx").read_bytes())
    with pytest.raises(FileNotFoundError, match="is missing: it says how frames are given"):
        compare(path, tmp_path / "alone.onnx", samples)
    meta = Meta.read(path / "meta.json")
    other = altered(made[0], tmp_path / "classes", lambda graph: None)
    (other.parent / "meta.json").write_text(json.dumps(replace(meta, classes=("a", "b", "c")).to_json()))
    with pytest.raises(ValueError, match="differ in classes"):
        compare(path, other, samples)


def resize_graph(scales: bool, **attributes: Any) -> ModelProto:
    constants = [
        numpy_helper.from_array(np.array([1, 1, 2, 2.49], np.float32), "scales"),
        numpy_helper.from_array(np.array([1, 2, 10, 9], np.int64), "sizes"),
    ]
    node = helper.make_node("Resize", ["x", "", "scales"] if scales else ["x", "", "", "sizes"], ["y"], "resize", **attributes)
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 2, 5, 4]), ("y", None))]
    graph = helper.make_graph([node], "resizes", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    ("scales", "attributes", "notes"),
    [
        (False, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, []),
        (True, {"mode": "linear"}, ["scales"]),
        (False, {"mode": "nearest", "nearest_mode": "floor"}, ["nearest rounds by floor"]),
        (False, {"mode": "cubic"}, ["cubic"]),
        (False, {"mode": "linear", "antialias": 1}, ["antialias"]),
        (False, {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, ["pytorch_half_pixel"]),
    ],
)
def test_every_resize_is_audited(scales: bool, attributes: dict[str, Any], notes: list[str]) -> None:
    (found,) = resizes(resize_graph(scales, **attributes))
    assert (found.node, found.mode, found.from_hw, found.to_hw) == ("resize", attributes["mode"], (5, 4), (10, 9))
    assert found.by == ("scales" if scales else "sizes")
    assert len(found.notes) == len(notes)
    assert all(wanted in note for wanted, note in zip(notes, found.notes, strict=True))


def test_a_resize_by_other_coordinates_is_seen(made: tuple[OnnxModel, Data], samples: list[Sample], tmp_path: Path) -> None:
    def change(graph: ModelProto) -> None:
        node = next(n for n in graph.graph.node if n.op_type == "Resize")
        node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))

    found = compare(made[0].path, altered(made[0], tmp_path / "other", change), samples)
    assert not found["resizes"]["same"]
    assert found["first_diverging"]["name"] == "enlarge/out"


def test_the_verb_takes_images_or_a_dataset(made: tuple[OnnxModel, Data], tmp_path: Path, small: Any) -> None:
    from edgesmith.pipeline.verbs.compare import compare as verb

    model, data = made
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), small.frame(i))

    def run(*arguments: str) -> Iterator[str]:
        yield CliRunner().invoke(verb, [str(model.path), str(model.path), *arguments], catch_exceptions=False).stdout

    images = json.loads(next(run("--frames", str(tmp_path / "*.png"), "--limit", "2", "--json")))
    assert images["frames"] == 2
    assert "miou" not in images
    assert json.loads(next(run("--data", data.dataset, "--json")))["miou"]["change"] == 0
    assert "first_diverging" in next(run("--data", f"{data.dataset}@train"))
    for arguments in ([], ["--frames", "x", "--data", "y"]):
        with pytest.raises(ValueError, match="one of them"):
            next(run(*arguments))
    with pytest.raises(IsADirectoryError, match=rf"^--frames: .* is a folder; name its images, as in '{tmp_path}/\*\.png'"):
        next(run("--frames", str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="no file is called"):
        next(run("--frames", str(tmp_path / "*.jpg")))
