"""A tiny network's graph and golden frames, made by hand: what an export leaves, without torch and in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from edgesmith.deploy.meta import Meta, Parity
from edgesmith.pipeline.artifacts import OnnxModel, Slot

H, W = 24, 32
CLASSES = ("sky", "road", "car")
META = Meta(
    frame_hw=(H, W),
    input_hw=(H, W),
    layout="HWC",
    colour_order="bgr",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    classes=CLASSES,
    palette=((128, 128, 128), (128, 64, 128), (64, 0, 128)),
    ignore_index=255,
    precision="fp32",
    plugins=(),
    opset=18,
    parity=Parity(1e-6, 10.0, 1e-7, 1.0),
)


def write_graph(path: Path, *, frame_hw: tuple[int, int] = (H, W), custom: str | None = None, domain: str = "my.ops") -> None:
    """Cast, Transpose, Conv 1x1, ArgMax, Cast: class 0 where blue is brightest, 1 green, 2 red (for a BGR frame).

    `custom` puts an operator of that name, which nobody knows, before the convolution.
    """
    h, w = frame_hw
    node = helper.make_node
    nodes = [
        node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT, name="to_float"),
        node("Transpose", ["float"], ["chw"], perm=[2, 0, 1], name="to_chw"),
        node("Unsqueeze", ["chw", "zero"], ["x"], name="to_nchw"),
    ]
    if custom:
        nodes.append(node(custom, ["x"], ["y"], domain=domain, name="zoomed_3"))
    nodes += [
        node("Conv", ["y" if custom else "x", "weight"], ["logits"], name="head"),
        node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0, name="argmax"),
        node("Squeeze", ["classes", "zero"], ["map"], name="drop_batch"),
        node("Cast", ["map"], ["labels"], to=TensorProto.UINT8, name="to_uint8"),
    ]
    constants = [
        numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "weight"),
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
    ]
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [h, w, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [h, w])
    graph = helper.make_graph(nodes, "tiny", [frame], [labels], constants)
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if custom and domain else [])]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def labels_of(rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the tiny network says of an RGB frame, by numpy."""
    return np.argmax(rgb[..., ::-1], axis=-1).astype(np.uint8)


def frame_of(seed: int, hw: tuple[int, int] = (H, W)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


def write_model(slot: Slot, *, meta: Meta = META, golden: int = 2, custom: str | None = None) -> OnnxModel:
    """An OnnxModel folder as the export stage leaves it."""
    with slot.writing(OnnxModel) as folder:
        write_graph(folder / "model.onnx", frame_hw=meta.frame_hw, custom=custom)
        (folder / "meta.json").write_text(json.dumps(meta.to_json(), indent=1) + "\n")
        (folder / "provenance.json").write_text(json.dumps({"made": "by hand"}) + "\n")
        (folder / "golden").mkdir()
        for i in range(golden):
            rgb = frame_of(i, meta.frame_hw)
            cv2.imwrite(str(folder / f"golden/{i:03d}.png"), rgb[..., ::-1])
            cv2.imwrite(str(folder / f"golden/{i:03d}.mask.png"), labels_of(rgb))
    return OnnxModel(slot.out)
