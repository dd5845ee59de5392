"""Every published network in fp32, fp16 and int8 through the rule checker and TensorRT for RTX.

    python bench/zoo_precision.py [--only NAME ...] [--json docs/measurements/zoo_precision.json]

Weights are random, frames and networks 256 x 512; int8 ranges are the largest magnitudes on four frames of the street. So the
plans' sizes and the verdicts are the networks', and nothing is said about accuracy. A network that the file holds already is
not built again. Build times are of one build, for their order of magnitude.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from edgesmith import models
from edgesmith.deploy.engines import PRECISIONS, Precision
from edgesmith.deploy.engines.tensorrt import build_plan
from edgesmith.deploy.files import read_json, write_json
from edgesmith.deploy.images import in_colour_order
from edgesmith.pipeline.artifacts import Slot
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.export import Export
from edgesmith.pipeline.graphs.check import check_graph
from edgesmith.pipeline.graphs.precision import lowered, quantised
from edgesmith.pipeline.graphs.rules import TARGETS
from edgesmith.pipeline.graphs.view import read_graph
from edgesmith.pipeline.imports import weights_of
from edgesmith.pipeline.int8.journal import Journal
from edgesmith.pipeline.int8.observe import Watched, observe

HW = (256, 512)
FRAMES = 4


def exported(name: str, folder: Path) -> onnx.ModelProto:
    """The fp32 graph of a published network with random weights."""
    with weights_of(f"zoo:{name}") as weights:
        Export(HW)(weights, Slot(folder / name))
    return read_graph(folder / name / "model.onnx")


def ranges(graph: onnx.ModelProto) -> dict[str, float]:
    """Largest magnitude of each convolution's input on a few frames of the street, by node."""
    split = open_split(Data(frame_hw=HW, train_frames=FRAMES), "train")

    def frame(i: int) -> Any:
        return in_colour_order(split[i].frame, "bgr")

    watched = Watched([partial(frame, i) for i in range(FRAMES)], 1, Journal(None, ""), lambda event, **fields: None)
    return {node: layer.amax for node, layer in observe(graph, watched, "minmax", 100.0).items()}


def built(graph: onnx.ModelProto, folder: Path) -> dict[str, Any]:
    """What checker and builder say of one graph."""
    path = folder / "model.onnx"
    onnx.save(graph, str(path))
    row: dict[str, Any] = {"findings": {target: len(check_graph(graph, target)) for target in TARGETS}}
    try:
        plan = build_plan(path, folder / "engine.plan")
    except (ValueError, RuntimeError, TimeoutError) as e:
        return {**row, "refused": str(e)}
    return {**row, "plan_bytes": plan.plan_bytes, "build_s": plan.build_seconds, "version": plan.version}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=models.zoo_names())
    parser.add_argument("--json", type=Path, default=Path("docs/measurements/zoo_precision.json"))
    options = parser.parse_args()
    rows = read_json(options.json) if options.json.exists() else []
    for name in options.only:
        missing = [p for p in PRECISIONS if (name, p) not in {(r["network"], r["precision"]) for r in rows}]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            graph = exported(name, Path(folder))
            amax = ranges(graph) if "int8" in missing else {}
            for precision in missing:
                rows.append(
                    {"network": name, "precision": precision, **built(in_precision(graph, precision, amax), Path(folder))}
                )
                print(rows[-1], flush=True)
                write_json(options.json, rows)


def in_precision(graph: onnx.ModelProto, precision: Precision, amax: dict[str, float]) -> onnx.ModelProto:
    return quantised(graph, amax) if precision == "int8" else lowered(graph, precision)


if __name__ == "__main__":
    main()
