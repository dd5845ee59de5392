"""The last enlargement and the argmax on a processor: the plugins' CPU form against the graph's own operators, interleaved.

    python bench/enlarge_cpu.py [--onnx FOLDER] [--threads 2] [--rounds 15] [--json FILE]

First alone, on smooth logits with regions, as a network gives them, and on noise, where no cell can be skipped. Then, with
--onnx (a folder with model.onnx, meta.json and golden frames), whole frames: the engine as it is against the engine with the
enlargement taken out. A ratio above 1 means that the CPU form is faster in the same round.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgesmith.bench.rounds import summary, wall_ms
from edgesmith.deploy.engines.onnxruntime import OnnxRuntimeEngine, SessionOptions, open_session
from edgesmith.deploy.engines.onnxruntime_split import SplitOnnxRuntimeEngine
from edgesmith.deploy.engines.turns import blocks_ms, inference
from edgesmith.deploy.files import write_json
from edgesmith.deploy.images import in_colour_order, read_png
from edgesmith.deploy.meta import Meta
from edgesmith.deploy.plugins.twin import CpuEnlargement
from edgesmith.pipeline.graphs import graph, rewrite

CASES = ((19, (45, 60), (360, 480)), (11, (45, 60), (360, 480)), (19, (64, 128), (512, 1024)), (19, (128, 256), (1024, 2048)))
BLOCK, WARM_UP = 4, 2


def smooth(classes: int, low: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """Logits with regions a dozen pixels wide and a little noise."""
    rng = np.random.default_rng(seed)
    rows, columns = (graph.bilinear(max(2, n // 12), n, True) for n in low)
    coarse = rng.normal(size=(classes, rows.shape[1], columns.shape[1])) * 6
    found = np.einsum("yi,cij,xj->cyx", rows, coarse, columns) + 0.2 * rng.normal(size=(classes, *low))
    return np.asarray(found[None], np.float32)


def told(name: str, taken: dict[str, list[float]]) -> dict[str, Any]:
    """A case as numbers, which are printed too."""
    ratio = summary(np.array(taken["graph"]) / np.array(taken["cpu form"]))
    ms = {k: round(float(np.median(v)), 3) for k, v in taken.items()}
    said = "{p50:8.2f} ({p10:.2f} to {p90:.2f})".format(**ratio)
    print(f"{name:52s} {ms['graph']:8.2f} {ms['cpu form']:8.2f} {said}", flush=True)
    return {"case": name, "ms": ms, "ratio": ratio}


def alone(threads: int, rounds: int) -> list[dict[str, Any]]:
    found = []
    for classes, low, hw in CASES:
        matrices = [graph.bilinear(a, b, True) for a, b in zip(low, hw, strict=True)]
        model = graph.enlarging(classes, (matrices[0], matrices[1])).model.SerializeToString()
        session = open_session(model, SessionOptions(threads))
        labels = np.empty(hw, np.uint8)
        with CpuEnlargement(classes, low, hw, threads=threads) as enlarge:
            for kind in ("regions", "noise"):
                logits = smooth(classes, low, 0)
                if kind == "noise":
                    logits = np.random.default_rng(0).normal(size=logits.shape).astype(np.float32)

                def by_graph(logits: Any = logits) -> Any:
                    return session.run(None, {"logits": logits})[0]  # noqa: B023

                def by_form(logits: Any = logits) -> None:
                    enlarge(logits, labels)  # noqa: B023

                by_form()
                same = float(np.mean(labels == by_graph()))
                name = f"{classes} classes, {low[0]}x{low[1]} -> {hw[0]}x{hw[1]}, {kind}"
                runs = {"graph": wall_ms(by_graph), "cpu form": wall_ms(by_form)}
                found.append(told(name, blocks_ms(runs, rounds, BLOCK, WARM_UP)) | {"same_labels": same})
    return found


def whole(folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    meta, path = Meta.read(folder / "meta.json"), folder / "model.onnx"
    split = rewrite.split_of(onnx.load(str(path)))
    if split is None:
        raise ValueError(f"{path} does not end in one bilinear enlargement and argmax")
    masks = sorted(folder.glob("golden/*.mask.png"))
    frames = [read_png(m.with_name(m.name.replace(".mask", "")), True) for m in masks]
    frames = [np.ascontiguousarray(in_colour_order(f, meta.colour_order)) for f in frames]
    options = SessionOptions(threads=threads)
    with (
        OnnxRuntimeEngine(path, meta.frame_hw, options=options) as plain,
        SplitOnnxRuntimeEngine(path, split, options=options) as cut,
    ):
        same = min(float(np.mean(plain.infer(f) == cut.infer(f))) for f in frames)
        runs = {"graph": inference(plain, frames), "cpu form": inference(cut, frames)}
        taken = blocks_ms(runs, rounds, BLOCK, WARM_UP)
    return told(f"whole frame {meta.frame_hw[0]}x{meta.frame_hw[1]}, {folder.name}", taken) | {"same_labels": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, action="append", default=[], help="an exported folder; may be given several times")
    parser.add_argument("--alone", action=argparse.BooleanOptionalAction, default=True, help="without a network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    given = parser.parse_args()
    print(f"{given.threads} threads{'':42s}  graph ms  form ms    ratio")
    found: dict[str, Any] = {"threads": given.threads, "alone": alone(given.threads, given.rounds) if given.alone else []}
    found["whole"] = [whole(folder, given.threads, given.rounds) for folder in given.onnx]
    if given.json:
        write_json(given.json, found)


if __name__ == "__main__":
    main()
