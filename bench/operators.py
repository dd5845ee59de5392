"""Table 1 of the FasterSeg paper: what convolutions cost on paper and in ONNX Runtime, interleaved in one run.

    python bench/operators.py [--threads 1] [--rounds 40] [--json FILE]

Each operator is one 3x3 convolution of 256 to 256 channels with batch norm and ReLU on a map of 1x256x32x64, as a cell of a
network has it. MACs and weights are counted on the module. The rounds take the operators in turn: a run that does not count,
because the caches hold what the last one left there, then BLOCK that do. A ratio below 1 is faster than the plain convolution
of the same round.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgesmith.bench.rounds import summary, wall_ms
from edgesmith.deploy.engines.onnxruntime import SessionOptions, open_session, processor
from edgesmith.deploy.engines.turns import blocks_ms
from edgesmith.deploy.files import write_json
from edgesmith.models.ops import ZoomedConv
from edgesmith.pipeline.export import module_graph

CHANNELS, HEIGHT, WIDTH = 256, 32, 64
BLOCK = 3


def conv(*, groups: int = 1, dilation: int = 1, padding: int = 1) -> nn.Module:
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, padding, dilation, groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(CHANNELS), nn.ReLU())


def operators() -> dict[str, nn.Module]:
    return {
        "plain": conv(),
        "two groups": conv(groups=2),
        "dilated by 2, same size": conv(dilation=2, padding=2),
        "dilated by 2, padding 1": conv(dilation=2),
        "zoomed": ZoomedConv(CHANNELS, CHANNELS),
    }


def counted(module: nn.Module) -> dict[str, Any]:
    """MACs and weights of the convolution, size of the output, and rows that a value in its middle depends on."""
    with FlopCounterMode(display=False) as counter:
        module.eval()(torch.empty(1, CHANNELS, HEIGHT, WIDTH))
    x = torch.ones(1, CHANNELS, HEIGHT, WIDTH, requires_grad=True)
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.constant_(m.weight, 1 / m.weight[0].numel())
    y = module(x)
    (gradient,) = torch.autograd.grad(y[0, 0, y.shape[2] // 2, y.shape[3] // 2], x)
    rows = (gradient.abs().sum((0, 1, 3)) > 0).nonzero()
    return {
        "macs": counter.get_total_flops() // 2,
        "weights": sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d)),
        "output_hw": list(y.shape[2:]),
        "sees_rows": int(rows.max() - rows.min()) + 1,
    }


def measure(modules: dict[str, nn.Module], rounds: int, threads: int) -> dict[str, list[float]]:
    """Milliseconds by operator, one a round: the median of its block."""
    options = SessionOptions(threads, spinning=False)  # or the last one's threads slow the next
    graphs = {name: module_graph(module, ((CHANNELS, HEIGHT, WIDTH),)) for name, module in modules.items()}
    sessions = {name: open_session(graph.SerializeToString(), options) for name, graph in graphs.items()}
    x = np.random.default_rng(0).normal(size=(1, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)
    runs = {name: wall_ms(partial(s.run, None, {s.get_inputs()[0].name: x})) for name, s in sessions.items()}
    return blocks_ms(runs, rounds, BLOCK, warm_up=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    taken = measure(operators(), given.rounds, given.threads)
    plain = np.array(taken["plain"])
    rows = [
        {
            "operator": name,
            **counted(module),
            "latency_ms": summary(taken[name]),
            "ratio": summary(np.array(taken[name]) / plain),
        }
        for name, module in operators().items()
    ]
    for row in rows:
        print(
            f"{row['operator']:24s} {row['macs'] / 1e9:6.3f} GMACs {row['weights'] / 1e6:6.3f} M  sees {row['sees_rows']}  "
            f"{row['latency_ms']['p50']:7.2f} ms  ratio {{p50:.2f}} ({{p10:.2f}} to {{p90:.2f}})".format(**row["ratio"])
        )
    if given.json:
        found = {
            "input": [1, CHANNELS, HEIGHT, WIDTH],
            "rounds": given.rounds,
            "threads": given.threads,
            "onnxruntime": onnxruntime.__version__,
            "processor": processor(),
            "rows": rows,
        }
        write_json(given.json, found)


if __name__ == "__main__":
    main()
