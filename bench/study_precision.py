"""What fp16 and INT8 cost, as a list of jobs that can be stopped and started again: python bench/study_precision.py [NAME=DIR]

LAT-S of the CamVid study (runs/camvid-seed0/onnx) is always in it; an argument NAME=DIR adds a graph folder that was trained on
CamVid. Needs EDGESMITH_DATA (the folder that holds camvid/), and for the imported Cityscapes networks EDGESMITH_SHARED
(weights, sample frames and a clip; left out where it is not set). Each finished job is appended to
docs/measurements/precision.json at once; options are those of study.py.

All by ONNX Runtime on the CPU: fp16 is computed in fp32 between casts, INT8 is rounded by Q/DQ and computed in fp32.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from edgesmith.bench import study
from edgesmith.bench.study import Job
from edgesmith.calibration.int8 import METHODS, Calibration, Layer, Method
from edgesmith.deploy.bundle import CALIBRATION
from edgesmith.deploy.images import in_colour_order
from edgesmith.deploy.meta import Meta
from edgesmith.pipeline.artifacts import OnnxModel, Slot, Weights, open_artifact
from edgesmith.pipeline.calibrate import Calibrate
from edgesmith.pipeline.data.images import decode_frame
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.events import view_for
from edgesmith.pipeline.export import Export
from edgesmith.pipeline.frames import Frames, label_table
from edgesmith.pipeline.graphs.cpu import session
from edgesmith.pipeline.graphs.precision import lowered, quantised
from edgesmith.pipeline.imports import import_squeezenas
from edgesmith.pipeline.int8.journal import Journal
from edgesmith.pipeline.int8.judge import Judge, Pick
from edgesmith.pipeline.int8.observe import Watched, observe
from edgesmith.pipeline.stage import stage_key

RESULTS = Path("docs/measurements/precision.json")
RUNS = Path("runs/precision")
CAMVID = Data("camvid")
ALL = 100.0
"""A limit that nothing exceeds."""
IMPORTED = ("lat_small", "mac_small", "mac_large")


def main() -> None:
    parser = study.parser(__doc__)
    parser.add_argument("networks", nargs="*", metavar="NAME=DIR")
    given = parser.parse_args()
    networks = {"LAT-S": Path("runs/camvid-seed0/onnx")}
    networks |= {name: Path(folder) for name, _, folder in (a.partition("=") for a in given.networks)}
    study.run(given, RESULTS, jobs(networks))


def jobs(networks: dict[str, Path]) -> dict[str, Job]:
    every: dict[str, Job] = {}
    for name, folder in networks.items():
        every[f"{name}, fp16"] = Job(partial(floats, name, folder))
        for method in METHODS:
            every[f"{name}, int8, {method}"] = Job(partial(int8, name, folder, method, False))
        for method in METHODS:
            every[f"{name}, int8, {method}, fallback"] = Job(partial(int8, name, folder, method, True))
    if shared := os.environ.get("EDGESMITH_SHARED"):
        for name in IMPORTED:
            every[f"imported {name}, sample frames"] = Job(partial(imported, name, Path(shared), "samples"))
            every[f"imported {name}, clip"] = Job(partial(imported, name, Path(shared), "clip"))
    return every


def judge_of(folder: Path) -> Judge:
    """CamVid's test split, and the fp32 graph in `folder`."""
    meta = Meta.read(folder / "meta.json")
    split = open_split(CAMVID, "test")
    frames = Frames(split, len(split), meta, label_table(split.labels.names, meta.classes))
    return Judge(onnx.load(str(folder / "model.onnx")), tuple(Pick(frames, i) for i in range(len(split))))


def floats(network: str, folder: Path) -> dict[str, Any]:
    judge = judge_of(folder)
    return {"network": network, "precision": "fp16", "split": "test", **asdict(judge.loss(lowered(judge.graph, "fp16")))}


def int8(network: str, folder: Path, method: Method, fallback: bool) -> dict[str, Any]:
    """Calibrate, then the test split. Without fallback no limit is set, so that the cost of all in INT8 is seen."""
    stage = Calibrate(CAMVID, method, limit_drop=0.5 if fallback else ALL, fallback=fallback)
    name = f"{network}-{method}{'-fallback' if fallback else ''}".lower()
    given = open_artifact(OnnxModel, folder)
    row = {"network": network, "precision": "int8", "method": method, "fallback": fallback, "split": "test"}
    try:
        out = stage(given, Slot(RUNS / name, stage_key(stage, given), RUNS / f".{name}", view_for(sys.stderr))).path
    except RuntimeError as e:
        return {**row, "refused": str(e)}
    calibration = Calibration.read(out / CALIBRATION)
    judge = judge_of(folder)
    found = calibration.summary()
    row |= {
        "held_out_drop": found["drop"],
        "held_out_uncertainty": found["drop_uncertainty"],
        "int8_share": found["int8_share"],
        "held_back": found["held_back"],
    }
    return {**row, **asdict(judge.loss(lowered(judge.graph, "int8", calibration)))}


def imported(name: str, shared: Path, what: str) -> dict[str, Any]:
    """Label agreement of an imported Cityscapes network with itself in fp32. Ranges come from frames of another dataset."""
    weights = RUNS / "imported" / name
    if not weights.exists():
        import_squeezenas(shared / "weights/squeezenas" / f"{name}.pth", weights, None)
    frame_hw = (1024, 2048) if what == "samples" else (360, 480)
    folder = RUNS / f"{name}-{what}"
    if not folder.exists():
        Export(frame_hw)(Weights(weights), Slot(folder))
    graph = onnx.load(str(folder / "model.onnx"))
    shown = samples(shared) if what == "samples" else clip(shared)
    seen = bdd(shared) if what == "samples" else camvid()
    layers = ranges_of(graph, [fit(frame, frame_hw) for frame in seen])
    amax = {node: layer.amax for node, layer in layers.items()}
    graphs = {"fp32": graph, "fp16": lowered(graph, "fp16"), "int8": quantised(graph, amax)}
    runners = {precision: session(g) for precision, g in graphs.items()}
    equal: dict[str, list[float]] = {"fp16": [], "int8": []}
    for frame in shown:
        labels = {p: r.run(["labels"], {"frame": fit(frame, frame_hw)})[0] for p, r in runners.items()}
        for precision, agreements in equal.items():
            agreements.append(float((labels[precision] == labels["fp32"]).mean()))
    return {
        "network": name,
        "frame_hw": list(frame_hw),
        "frames": len(equal["fp16"]),
        "method": "percentile",
        **{f"{p}_agreement": float(np.mean(v)) for p, v in equal.items()},
        **{f"{p}_worst": min(v) for p, v in equal.items()},
    }


def ranges_of(graph: onnx.ModelProto, frames: list[NDArray[np.uint8]]) -> dict[str, Layer]:
    watched = Watched(
        [partial(lambda frame: frame, frame) for frame in frames], 1, Journal(None, ""), lambda event, **fields: None
    )
    return observe(graph, watched, "percentile", 99.99)


def fit(frame: NDArray[np.uint8], hw: tuple[int, int]) -> NDArray[np.uint8]:
    """An RGB frame as the graphs here take it: of their size, BGR."""
    return in_colour_order(np.asarray(cv2.resize(frame, hw[::-1]), np.uint8), "bgr")


def samples(shared: Path) -> Iterator[NDArray[np.uint8]]:
    """The three frames of Cityscapes' val split."""
    for path in sorted((shared / "data/format_samples/cityscapes/leftImg8bit").rglob("*.png")):
        yield rgb(path)


def bdd(shared: Path) -> Iterator[NDArray[np.uint8]]:
    """Sixteen frames of BDD100K's training split."""
    for path in sorted((shared / "data/format_samples/bdd100k/images/10k/train").glob("*.jpg")):
        yield rgb(path)


def camvid() -> Iterator[NDArray[np.uint8]]:
    """Thirty-two frames of CamVid's training split."""
    split = open_split(CAMVID, "train")
    for index in np.linspace(0, len(split) - 1, 32).astype(int):
        yield split[int(index)].frame


def clip(shared: Path) -> Iterator[NDArray[np.uint8]]:
    """The clip's 101 frames."""
    video = cv2.VideoCapture(str(shared / "data/street_clip.mp4"))
    while (read := video.read())[0]:
        yield np.asarray(read[1][..., ::-1], np.uint8)


def rgb(path: Path) -> NDArray[np.uint8]:
    return decode_frame(path.read_bytes(), path)


if __name__ == "__main__":
    main()
