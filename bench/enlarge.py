"""From a network's logits to the label map: the exported graph's way against the plain one, in ONNX Runtime, interleaved.

    python bench/enlarge.py [--threads 2] [--rounds 20]

`resize` is Resize and ArgMax over class planes; `resize, classes last` the same on (H, W, classes); `bands` is what
`edgesmith.pipeline.graphs.graph` writes. Times are medians in ms; a ratio above 1 is faster than `resize` in the same round.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgesmith.bench.rounds import summary, wall_ms
from edgesmith.deploy.engines.onnxruntime import SessionOptions, open_session
from edgesmith.deploy.engines.turns import blocks_ms
from edgesmith.pipeline.graphs import graph

CASES = ((19, (45, 60), (360, 480)), (11, (45, 60), (360, 480)), (19, (128, 256), (1024, 2048)))


def resize(classes: int, low: tuple[int, int], high: tuple[int, int], *, classes_last: bool) -> ModelProto:
    """logits (1, classes, h, w) -> labels (H, W) with ONNX's Resize."""
    node = helper.make_node
    how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    sizes = [1, *high, classes] if classes_last else [1, classes, *high]
    nodes = [
        node("Resize", ["given", "", "", "sizes"], ["large"], **how),
        node("ArgMax", ["large"], ["found"], axis=3 if classes_last else 1, keepdims=0),
        node("Reshape", ["found", "shape"], ["map"]),
        node("Cast", ["map"], ["labels"], to=TensorProto.UINT8),
    ]
    nodes.insert(0, node("Transpose", ["logits"], ["given"], perm=[0, 2, 3, 1] if classes_last else [0, 1, 2, 3]))
    constants = [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in (("sizes", sizes), ("shape", list(high)))]
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes, *low])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, high)
    whole = helper.make_graph(nodes, "resize", [given], [labels], constants)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", graph.OPSET)], ir_version=8)


def measure(models: dict[str, ModelProto], logits: np.ndarray, rounds: int, threads: int) -> None:
    sessions = {name: open_session(m.SerializeToString(), SessionOptions(threads)) for name, m in models.items()}
    labels = {name: s.run(None, {"logits": logits})[0] for name, s in sessions.items()}
    taken = blocks_ms({name: wall_ms(partial(s.run, None, {"logits": logits})) for name, s in sessions.items()}, rounds)
    plain = np.array(taken["resize"])
    for name, times in taken.items():
        ratio = summary(plain / np.array(times))
        same = float(np.mean(labels[name] == labels["resize"]))
        print(
            f"  {name:22s} {np.median(times):8.2f}  least {min(times):8.2f}  ratio {ratio['p50']:5.2f} "
            f"({ratio['p10']:.2f} to {ratio['p90']:.2f})  same labels {same:.6f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    for classes, low, high in CASES:
        print(f"{classes} classes, {low[0]}x{low[1]} -> {high[0]}x{high[1]}, {given.threads} threads")
        matrices = graph.bilinear(low[0], high[0], True), graph.bilinear(low[1], high[1], True)
        models = {
            "resize": resize(classes, low, high, classes_last=False),
            "resize, classes last": resize(classes, low, high, classes_last=True),
            "bands": graph.enlarging(classes, matrices).model,
        }
        logits = np.random.default_rng(0).normal(size=(1, classes, *low)).astype(np.float32) * 3
        measure(models, logits, given.rounds, given.threads)


if __name__ == "__main__":
    main()
