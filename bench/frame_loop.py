"""Frame to label map: the exported graph in ONNX Runtime against the naive loop around torch, interleaved.

    python bench/frame_loop.py [--weights zoo:squeezenas-lat-small | DIR] [--frame 360x480] [--rounds 25] [--json FILE]

The naive loop is what one writes first: numpy flips the camera's BGR, normalises and transposes, torch runs the network
eagerly and enlarges the logits, numpy takes the argmax. Both take the same BGR frames and use the same number of threads.

The two alternate in short blocks. Each block begins with frames that do not count: idle threads of the one library spin for a
while and slow the other down, and caches hold what the other left there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgesmith import models
from edgesmith.bench.rounds import size, summary
from edgesmith.deploy.engines.onnxruntime import OnnxRuntimeEngine, SessionOptions
from edgesmith.deploy.files import write_json
from edgesmith.models.model import Model, read_model
from edgesmith.pipeline.artifacts import Slot
from edgesmith.pipeline.data.street import render
from edgesmith.pipeline.export import Export
from edgesmith.pipeline.imports import weights_of

Frame = NDArray[np.uint8]
BLOCK = 4
WARM_UP = 3
LIMIT_S = 90.0
"""No round begins after this: beside other work, torch's threads wait for each other for seconds a frame."""


def naive_loop(module: torch.nn.Module, model: Model) -> Callable[[Frame], Frame]:
    mean, std = (np.array(v, np.float32) for v in (model.mean, model.std))

    def label(frame: Frame) -> Frame:
        x = (frame[..., ::-1].astype(np.float32) / 255 - mean) / std
        with torch.inference_mode():
            logits = module(torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)[None])))
        labels: Frame = logits.numpy()[0].argmax(0).astype(np.uint8)
        return labels

    return label


def milliseconds(label: Callable[[Frame], Frame], frames: list[Frame]) -> list[float]:
    """One block: WARM_UP frames that do not count, then `frames`, which do."""
    for i in range(WARM_UP):
        label(frames[i % len(frames)])
    taken = []
    for frame in frames:
        start = time.perf_counter()
        label(frame)
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def measure(weights: str, frame_hw: tuple[int, int], rounds: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    frames = [np.ascontiguousarray(render(0, i, frame_hw).frame[..., ::-1]) for i in range(BLOCK * 3)]
    with tempfile.TemporaryDirectory() as scratch, weights_of(weights) as given:
        onnx = Export(frame_hw)(given, Slot(Path(scratch) / "onnx"))
        model = read_model(given.path)
        naive, name = naive_loop(models.load(given.path), model), model.arch.name
        with OnnxRuntimeEngine(onnx.path / "model.onnx", frame_hw, options=SessionOptions(threads=threads)) as engine:
            same = [float(np.mean(engine.infer(f) == naive(f))) for f in frames]
            taken: dict[str, list[list[float]]] = {"naive": [], "graph": []}
            end = time.monotonic() + LIMIT_S
            for i in range(rounds):
                if time.monotonic() > end:
                    break
                block = frames[i % 3 * BLOCK : (i % 3 + 1) * BLOCK]
                taken["naive"].append(milliseconds(naive, block))
                taken["graph"].append(milliseconds(engine.infer, block))
    by_naive, by_graph = (np.array(taken[k]) for k in ("naive", "graph"))  # (rounds, BLOCK)
    return {
        "network": name,
        "frame_hw": list(frame_hw),
        "threads": threads,
        "naive_ms": {**summary(by_naive), "n": by_naive.size},
        "graph_ms": {**summary(by_graph), "n": by_graph.size},
        "ratio": {**summary(np.median(by_naive, 1) / np.median(by_graph, 1)), "n": len(by_naive)},
        "label_agreement": float(np.mean(same)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="zoo:squeezenas-lat-small", help="weights folder, or zoo:NAME")
    parser.add_argument("--frame", type=size, default=(360, 480), help="height x width")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    given = parser.parse_args()
    found = measure(given.weights, given.frame, given.rounds, given.threads)
    print(f"{found['network']}, {given.frame[0]}x{given.frame[1]}, {given.threads} threads")
    print(f"  {'':12s} {'p10':>8s} {'p50':>8s} {'p90':>8s}")
    for name, key in (("naive, ms", "naive_ms"), ("graph, ms", "graph_ms"), ("ratio", "ratio")):
        print(f"  {name:12s} " + " ".join(f"{found[key][p]:8.2f}" for p in ("p10", "p50", "p90")))
    print(f"  labels equal: {found['label_agreement']:.6f} of all pixels")
    if given.json:
        write_json(given.json, found)


if __name__ == "__main__":
    main()
