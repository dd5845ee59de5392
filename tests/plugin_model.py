"""A graph folder that the plugins' operators occur in; its golden masks are the graph's own labels."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from edgesmith.models.ops import ZoomedConv
from edgesmith.pipeline.artifacts import OnnxModel, Slot
from edgesmith.pipeline.export import enlargement, module_graph
from edgesmith.pipeline.graphs import graph

HW = (64, 80)


def write_model(make_model: Callable[..., OnnxModel], zoomed: bool = False) -> OnnxModel:
    """Two convolutions, between them a zoomed one where asked for, and the last enlargement with its argmax."""
    torch.manual_seed(0)
    between = [ZoomedConv(8, 8)] if zoomed else []
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), *between, nn.Conv2d(8, 3, 5, 4, 2))
    network = module_graph(layers.eval(), ((3, *HW),))
    matrices = enlargement(graph.low_hw(network), HW, HW, True)
    made = graph.assemble(network, frame_hw=HW, colour_order="bgr", mean=(0.5,) * 3, std=(0.2,) * 3, enlargement=matrices).model
    given = make_model("source", frame_hw=HW, input_hw=HW)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    out = Slot(given.path.parent / "onnx")
    with out.writing(OnnxModel) as folder:
        shutil.copytree(given.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("artifact.json"))
        onnx.save(made, str(folder / "model.onnx"))
        for path in folder.glob("golden/*.mask.png"):
            frame = cv2.imread(str(path.with_name(path.name.replace(".mask", ""))))
            cv2.imwrite(str(path), session.run(None, {"frame": np.ascontiguousarray(frame)})[0])
    return OnnxModel(out.out)
