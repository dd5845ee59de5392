from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from edgesmith import models
from edgesmith.deploy.files import write_bytes, write_json
from edgesmith.deploy.meta import Meta
from edgesmith.models.arch import InvertedResidual, SqueezeNas
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD, Model, model_json
from edgesmith.models.weights import tensor_bytes
from edgesmith.pipeline import export, recipe
from edgesmith.pipeline.artifacts import OnnxModel, Slot, Weights, open_artifact
from edgesmith.pipeline.data.dataset import Sample
from edgesmith.pipeline.data.spec import Data
from edgesmith.pipeline.export import Export
from edgesmith.pipeline.graphs import graph as graphs
from edgesmith.pipeline.reference import labels_by_torch, resized

CLASSES = ("sky", "road", "car", "tree", "pole")
SIZE = "needs height and width of 64 to 16384 pixels"


def make_weights(folder: Path, decoder: Literal["lraspp", "aspp"] = "lraspp", poison: bool = False) -> Weights:
    blocks = (
        InvertedResidual(8, 2),
        InvertedResidual(8, 2, expand=2, groups=2),
        InvertedResidual(12, 2, kernel=5, expand=2),
        InvertedResidual(12, 1, dilation=2),
    )
    arch = SqueezeNas("tiny", 8, blocks, 16, decoder, 8, 1 if decoder == "lraspp" else 0)
    torch.manual_seed(0)
    module = models.build(arch, models.Segmentation(len(CLASSES)))
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):  # statistics of a network that has seen something
            assert m.running_mean is not None
            assert m.running_var is not None
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    with torch.no_grad():  # every class shall win somewhere
        last = module.decoder.low_classifier if decoder == "lraspp" else module.decoder.classifier
        last.bias -= module.eval().low_logits(torch.randn(1, 3, 96, 128)).mean((0, 2, 3))
    tensors = module.state_dict()
    if poison:
        tensors["stem.0.weight"][0] = float("nan")
    palette = tuple((10 * i, 20 * i, 30 * i) for i in range(len(CLASSES)))
    with Slot(folder).writing(Weights) as temporary:
        write_bytes(temporary / "weights.safetensors", tensor_bytes(tensors))
        model = Model(arch, CLASSES, palette, IMAGENET_MEAN, IMAGENET_STD, "weights.safetensors")
        write_json(temporary / "model.json", model_json(model))
    return Weights(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return make_weights(tmp_path_factory.mktemp("weights") / "w")


@pytest.fixture(scope="module")
def exported(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return Export((96, 128))(weights, Slot(tmp_path_factory.mktemp("onnx") / "onnx"))


def labels_by_graph(model: OnnxModel, rgb: np.ndarray) -> np.ndarray:
    meta = json.loads((model.path / "meta.json").read_text())
    frame = np.ascontiguousarray(rgb[..., ::-1] if meta["colour_order"] == "bgr" else rgb)
    session = onnxruntime.InferenceSession(model.path / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["labels"], {"frame": frame})[0])


def read_rgb(path: Path) -> np.ndarray:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR))[..., ::-1]


def test_an_export_is_a_whole_artifact_that_says_what_it_takes(exported: OnnxModel, weights: Weights) -> None:
    open_artifact(OnnxModel, exported.path)
    meta = Meta.read(exported.path / "meta.json")

    assert (meta.frame_hw, meta.input_hw, meta.colour_order) == ((96, 128), (96, 128), "bgr")
    assert (meta.classes, meta.opset, meta.precision, meta.plugins) == (CLASSES, 18, "fp32", ())
    assert (meta.mean, meta.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert meta.parity.max_abs_logit > 0
    assert meta.parity.relative < 1e-5
    assert meta.parity.label_agreement > 0.999
    provenance = json.loads((exported.path / "provenance.json").read_text())
    assert provenance["weights"] == weights.digest
    assert provenance["arch"]["name"] == "tiny"
    assert provenance["tools"]["torch"] == torch.__version__
    assert len(provenance["golden"]["frames"]) == 3


def test_golden_masks_are_torch_s_labels_of_the_pixels_in_the_files(exported: OnnxModel, weights: Weights) -> None:
    module = models.load(weights.path)
    assert sorted(p.name for p in (exported.path / "golden").iterdir()) == [
        f"{i:03d}.{end}" for i in range(3) for end in ("mask.png", "png")
    ]
    for i in range(3):
        rgb = read_rgb(exported.path / f"golden/{i:03d}.png")
        mask = cv2.imread(str(exported.path / f"golden/{i:03d}.mask.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert (rgb.shape, mask.shape, mask.dtype) == ((96, 128, 3), (96, 128), np.uint8)
        np.testing.assert_array_equal(mask, labels_by_torch(module, rgb, IMAGENET_MEAN, IMAGENET_STD))
        assert np.mean(labels_by_graph(exported, rgb) == mask) > 0.999


def test_the_same_weights_give_the_same_bytes_wherever_they_lie(exported: OnnxModel, tmp_path: Path) -> None:
    again = Export((96, 128))(make_weights(tmp_path / "elsewhere"), Slot(tmp_path / "onnx"))

    assert (again.path / "model.onnx").read_bytes() == (exported.path / "model.onnx").read_bytes()
    assert again.digest == exported.digest


@pytest.mark.slow
def test_the_same_weights_give_the_same_bytes_in_another_process(exported: OnnxModel, weights: Weights, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgesmith.pipeline.export import Export;"
        "from edgesmith.pipeline.artifacts import Slot, Weights;"
        "print(Export((96, 128))(Weights(Path(sys.argv[1])), Slot(Path(sys.argv[2]))).digest)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(weights.path), str(tmp_path / "onnx")], capture_output=True, text=True, check=True
    )

    assert found.stdout.split()[-1] == exported.digest


def test_no_source_path_is_inside(exported: OnnxModel) -> None:
    for path in exported.path.rglob("*"):
        if path.suffix in (".onnx", ".json") and path.name != "artifact.json":
            data = path.read_bytes()
            for word in (b".py", b"site-packages", b"stack_trace", str(Path.cwd()).encode(), b"/tmp"):
                assert word not in data, (path.name, word)
    model = onnx.load(exported.path / "model.onnx")
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (8, [("", 18)])


@pytest.mark.parametrize(
    ("frame_hw", "input_hw", "colour_order", "decoder"),
    [
        ((70, 101), None, "rgb", "lraspp"),  # odd sizes, and no band fits
        ((150, 200), (75, 100), "bgr", "aspp"),
        ((65, 90), (130, 176), "rgb", "lraspp"),  # the network runs at more than the frame
    ],
)
def test_any_size_gives_what_torch_gives(
    frame_hw: tuple[int, int],
    input_hw: tuple[int, int] | None,
    colour_order: Literal["bgr", "rgb"],
    decoder: Literal["lraspp", "aspp"],
    tmp_path: Path,
) -> None:
    weights = make_weights(tmp_path / "weights", decoder)

    model = Export(frame_hw, input_hw, colour_order)(weights, Slot(tmp_path / "onnx"))

    rgb = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8), frame_hw[::-1])
    expected = labels_by_torch(models.load(weights.path), rgb, IMAGENET_MEAN, IMAGENET_STD, input_hw)
    assert np.mean(labels_by_graph(model, rgb) == expected) > 0.999
    assert len(np.unique(expected)) > 2
    meta = Meta.read(model.path / "meta.json")
    assert (meta.frame_hw, meta.input_hw) == (frame_hw, input_hw or frame_hw)
    assert meta.parity.relative < 1e-5


def test_golden_frames_come_from_the_data_that_is_named(weights: Weights, tmp_path: Path) -> None:
    model = Export((64, 96), golden=Data(seed=5, val_frames=2))(weights, Slot(tmp_path / "onnx"))

    frames = json.loads((model.path / "provenance.json").read_text())["golden"]["frames"]
    assert frames == ["street-16-000000", "street-16-000001"]
    assert len(list((model.path / "golden").glob("*.mask.png"))) == 2


def test_golden_frames_of_another_size_are_resized(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 150, 3), np.uint8)
    split = [Sample("a", image, np.zeros((120, 150), np.uint8))]
    monkeypatch.setattr(export, "splits", lambda data: ("only",))
    monkeypatch.setattr(export, "open_split", lambda data, name: split)

    model = Export((64, 96))(weights, Slot(tmp_path / "onnx"))

    assert read_rgb(model.path / "golden/000.png").shape == (64, 96, 3)
    assert len(list((model.path / "golden").iterdir())) == 2


def wrong_corners(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda low, middle, high, align_corners: real(low, middle, high, not align_corners)


def test_a_graph_that_is_not_what_torch_computes_is_not_written(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "enlargement", wrong_corners(export.enlargement))

    with pytest.raises(RuntimeError, match=r"frame street-.* logits of the exported graph differ"):
        Export((96, 128))(weights, Slot(tmp_path / "onnx"))

    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="logits are not finite"):
        Export((64, 64))(make_weights(tmp_path / "weights", poison=True), Slot(tmp_path / "onnx"))

    assert not (tmp_path / "onnx").exists()


def test_labels_that_the_logits_do_not_explain_are_an_error(weights: Weights) -> None:
    check = export._Check.__new__(export._Check)
    check.parity = export.Parity(0, 0, 0, 1)
    logits = torch.tensor([[[1.0, 2.0, 0.0], [3.0, 2.9999999, 0.0]]])
    check._compare("a", logits, logits, torch.tensor([[1, 0]]))
    check._compare("a", logits, logits + 1e-5, torch.tensor([[1, 1]]))  # within twice the measured difference
    assert check.parity.label_agreement == 0.5

    with pytest.raises(RuntimeError, match="labels of the exported graph differ"):
        check._compare("a", logits, logits + 1e-5, torch.tensor([[0, 0]]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frame_hw": (32, 480)}, f"^frame_hw: {SIZE}$"),
        ({"frame_hw": (63, 480), "input_hw": (64, 64)}, f"^frame_hw: {SIZE}$"),
        ({"frame_hw": (360, 480), "input_hw": (64, 20000)}, f"^input_hw: {SIZE}$"),
        ({"frame_hw": (360, 480, 3)}, f"^frame_hw: {SIZE}$"),
        ({"frame_hw": (360, 480), "input_hw": ()}, f"^input_hw: {SIZE}$"),
        ({"frame_hw": (360, 480), "colour_order": "yuv"}, "^colour_order: needs bgr or rgb$"),
        (
            {"frame_hw": (0, 1), "input_hw": (2, 3), "colour_order": "yuv"},
            f"^frame_hw: {SIZE}\ninput_hw: {SIZE}\ncolour_order: needs bgr or rgb$",
        ),
    ],
)
def test_impossible_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Export(**given)


def test_an_impossible_size_in_a_recipe_is_refused_with_file_line_and_key(tiny_recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(tiny_recipe.read_text().replace("export: {frame_hw: [96, 128]}", "export:\n  frame_hw: [32, 480]"))
    line = path.read_text().splitlines().index("  frame_hw: [32, 480]") + 1

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        recipe.read(str(path))

    assert str(caught.value) == f"{path}:{line}: export.frame_hw = [32, 480]: {SIZE}"


def one_convolution(frame_hw: tuple[int, int], input_hw: tuple[int, int]) -> export._Check:
    """A check of the graph of a network that is one convolution, of which only the resize may go wrong."""

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.low_logits = torch.nn.Conv2d(3, 3, 8, stride=8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return resized(self.low_logits(x), (x.shape[2], x.shape[3]))

    module = Network().eval()
    h, w = low_hw = (input_hw[0] // 8, input_hw[1] // 8)
    weight, bias = (p.detach().numpy() for p in (module.low_logits.weight, module.low_logits.bias))
    inside = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[8, 8])],
        "network",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, *input_hw])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, h, w])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    assembled = graphs.assemble(
        helper.make_model(inside, opset_imports=[helper.make_opsetid("", 18)], ir_version=8),
        frame_hw=frame_hw,
        colour_order="bgr",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        enlargement=export.enlargement(low_hw, input_hw, frame_hw, False),
    )
    model = Model(
        models.zoo("squeezenas-lat-small"), CLASSES[:3], ((0, 0, 0),) * 3, IMAGENET_MEAN, IMAGENET_STD, "weights.safetensors"
    )
    return export._Check(Export(frame_hw, input_hw), model, module, assembled)


@pytest.mark.parametrize(("frame_hw", "input_hw"), [((700, 900), (200, 344)), ((64, 80), (160, 168))])
def test_a_right_resize_is_taken_and_one_in_another_coordinate_mode_is_not(
    frame_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    check = one_convolution(frame_hw, input_hw)
    frames = export._hard_frames(frame_hw)
    for name, frame in frames:
        check(name, frame)
    for mode in ("align_corners", "asymmetric"):
        wrong = copy.deepcopy(check.graph.model)
        (resize,) = (n for n in wrong.graph.node if n.op_type == "Resize")
        for attribute in resize.attribute:
            if attribute.name == "coordinate_transformation_mode":
                attribute.s = mode.encode()
        with pytest.raises(RuntimeError, match=r"the graph's resized frame is \d.* grey levels off torch's"):
            export._Check(check.export, check.model, check.module, replace(check.graph, model=wrong))(*frames[0])


@pytest.mark.slow
def test_the_resize_of_a_large_frame_is_within_what_fp32_explains() -> None:
    frame_hw = (2160, 3840)
    check = one_convolution(frame_hw, (1000, 1904))

    check(*export._hard_frames(frame_hw)[0])

    assert export.resize_bound(frame_hw) == pytest.approx(0.547, abs=1e-3)


def test_a_recipe_reader_needs_no_torch() -> None:
    code = (
        "import sys, edgesmith.pipeline.export as e; e.Export((360, 480));"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'cv2', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "torch" not in found.stdout
    assert "onnx" not in found.stdout
    assert "cv2" not in found.stdout


def test_tensorrt_for_rtx_builds_it(exported: OnnxModel, tmp_path: Path) -> None:
    tensorrt = pytest.importorskip("edgesmith.deploy.engines.tensorrt")
    try:
        tensorrt.require_library("tensorrt_rtx")
    except ImportError as e:
        pytest.skip(str(e))

    plan = tensorrt.build_plan(exported.path / "model.onnx", tmp_path / "engine.plan")

    assert plan.plan_bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenas-lat-small", "squeezenas-mac-xlarge"])
def test_published_networks_export_at_their_own_size(name: str, tmp_path: Path) -> None:
    from edgesmith.pipeline.imports import weights_of

    with weights_of(f"zoo:{name}") as weights:
        model = Export((1024, 2048))(weights, Slot(tmp_path / "onnx"))

    assert Meta.read(model.path / "meta.json").parity.relative < 1e-5
