"""A small convolution network as an exported graph folder, and a dataset labelled by it: for what looks inside graphs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgesmith.deploy.images import in_colour_order
from edgesmith.pipeline.artifacts import OnnxModel, Slot
from edgesmith.pipeline.data.spec import Data

from .onnx_models import CLASSES, META

H, W = 24, 32
RUINED = "after_spread"
"""With `spread`, the convolution whose input no single scale fits: one channel is a thousand times the others."""


def network(spread: float = 1.0, seed: int = 0) -> ModelProto:
    """frame -> labels: six convolutions, a residual, a gate over the whole map, a Resize.

    `spread` is what one channel in the middle is multiplied by, and the next convolution's weights divided by.
    """
    rng = np.random.default_rng(seed)
    constants: list[TensorProto] = []
    nodes = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{name}/out"], name, **attributes))
        return f"{name}/out"

    def conv(x: str, cin: int, cout: int, name: str, k: int = 1, change: Any = 1.0, **attributes: Any) -> str:
        weight = rng.normal(0, (2 / (cin * k * k)) ** 0.5, (cout, cin, k, k)) * change
        names = [
            x,
            constant(f"module.{name}.weight", weight.astype(np.float32)),
            constant(f"{name}/bias", rng.normal(0, 0.1, cout).astype(np.float32)),
        ]
        return add("Conv", names, name, kernel_shape=[k, k], pads=[k // 2] * 4, **attributes)

    x = add("Cast", ["frame"], "to_float", to=TensorProto.FLOAT)
    x = add("Transpose", [x], "planes", perm=[2, 0, 1])
    x = add("Reshape", [x, constant("nchw", np.array([1, 3, H, W]))], "batch")
    x = add("Sub", [x, constant("mean", np.full((1, 3, 1, 1), 120, np.float32))], "centre")
    x = add("Relu", [conv(x, 3, 8, "stem", 3, 0.02, strides=[2, 2])], "stem_relu")
    big = np.ones((8, 1, 1, 1))
    big[7] = spread
    y = add("Relu", [conv(x, 8, 8, "spread", change=big)], "spread_relu")
    y = add("Add", [x, conv(y, 8, 8, RUINED, change=1 / big.reshape(1, 8, 1, 1))], "residual")
    gate = add("ReduceMean", [y, constant("axes", np.array([2, 3]))], "mean", keepdims=1)
    gate = add("Sigmoid", [conv(gate, 8, 8, "gate")], "sigmoid")
    y = add("Mul", [add("Relu", [conv(y, 8, 8, "value", 3)], "value_relu"), gate], "gated")
    logits = conv(y, 8, len(CLASSES), "classifier")
    x = add("Resize", [logits, "", "", constant("sizes", np.array([1, len(CLASSES), H, W]))], "enlarge", mode="linear")
    x = add("ArgMax", [x], "argmax", axis=1, keepdims=0)
    x = add("Squeeze", [x, constant("first", np.array([0]))], "map")
    nodes.append(helper.make_node("Cast", [x], ["labels"], "labels", to=TensorProto.UINT8))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, shape)
        for name, shape in (("frame", [H, W, 3]), ("labels", [H, W]))
    ]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def write_network(slot: Slot, model: ModelProto) -> OnnxModel:
    """The graph as an OnnxModel folder, with one golden frame."""
    with slot.writing(OnnxModel) as folder:
        (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        (folder / "meta.json").write_text(json.dumps(replace(META, frame_hw=(H, W), input_hw=(H, W)).to_json()))
        (folder / "provenance.json").write_text(json.dumps({"weights": "a" * 64}))
        (folder / "golden").mkdir()
        cv2.imwrite(str(folder / "golden/000.png"), frame(0)[..., ::-1])
        cv2.imwrite(str(folder / "golden/000.mask.png"), labels(model, frame(0)))
    return OnnxModel(slot.out)


def frame(seed: int) -> np.ndarray[Any, Any]:
    """RGB, smooth, so that most pixels are far from a border between classes."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (W, H), interpolation=cv2.INTER_LINEAR))


def labels(model: ModelProto, rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["labels"], {"frame": in_colour_order(rgb, "bgr")})[0])


def write_dataset(root: Path, model: ModelProto, train: int = 10, val: int = 6) -> Data:
    """Frames that are labelled as `model` labels them: it has mIoU 1."""
    lines = "".join(f"- {{name: {n}, colour: [{i}, 0, 0]}}\n" for i, n in enumerate(CLASSES))
    splits = ""
    for split, count, first in (("train", train, 100), ("val", val, 200)):
        if not count:
            continue
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            rgb = frame(first + i)
            cv2.imwrite(str(root / split / f"images/{i:02d}.png"), rgb[..., ::-1])
            cv2.imwrite(str(root / split / f"masks/{i:02d}.png"), labels(model, rgb))
        splits += f"  {split}: {{images: '{split}/images/{{stem}}.png', masks: '{split}/masks/{{stem}}.png'}}\n"
    (root / "small.yaml").write_text(f"name: small\nclasses:\n{lines}splits:\n{splits}")
    return Data(dataset=str(root / "small.yaml"))
