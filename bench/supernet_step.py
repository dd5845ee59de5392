"""A step of the SqueezeNAS supernet against the plain one: python bench/supernet_step.py [SETTING ...] [--json FILE]

A step is forward, cross-entropy at full size and backward: Small, all 13 candidates alive, batch 2, 768x768, the same mixtures.
Plain is tests/pipeline/search/plain_supernet.py, the supernet as one writes it from the paper.

Each of the two runs in a process of its own, so that peak memory is one implementation's; they take turns, and a ratio is that
of two steps of one round. Setting `default` is what counts: fp32 and glibc's own allocator settings. In the others both sides
have `pipeline.training.device.keep_freed_memory`, and bf16 autocast. A setting's row replaces its last one in the JSON file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = {"default": (False, "fp32"), "kept": (True, "fp32"), "bf16": (True, "bf16")}
"""Name -> freed memory kept, precision."""


def child(implementation: str, keep: bool, precision: str, size: int, orders: Connection) -> None:
    """Takes a step for each message and answers with its seconds; at the end, with the peak memory in GiB."""
    import torch
    import torch.nn.functional as F

    from edgesmith.models.arch import Segmentation
    from edgesmith.pipeline.search.squeezenas_space import space
    from edgesmith.pipeline.search.squeezenas_supernet import Supernet
    from edgesmith.pipeline.training import losses
    from edgesmith.pipeline.training.device import keep_freed_memory

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.pipeline.search.plain_supernet import PlainSupernet

    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    net = {"fast": Supernet, "plain": PlainSupernet}[implementation](space("small"), Segmentation(19))
    torch.manual_seed(1)
    x, labels = torch.randn(2, 3, size, size), torch.randint(0, 19, (2, size, size))
    weights = torch.randn(2, 20, 13).softmax(2).requires_grad_()
    if implementation == "fast":
        net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    while orders.recv():
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            low = net.low_logits(x, weights)
        logits = F.interpolate(low.float(), (size, size), mode="bilinear", align_corners=True)
        losses.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        del low, logits
        net.zero_grad()
        weights.grad = None
        orders.send(time.perf_counter() - start)
    orders.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def measure(keep: bool, precision: str, size: int, rounds: int) -> dict[str, Any]:
    """One row: seconds and GiB of both, and plain over fast."""
    context = multiprocessing.get_context("spawn")  # forked children would share what this process has loaded
    children: dict[str, tuple[SpawnProcess, Connection]] = {}
    for implementation in ("plain", "fast"):
        here, there = context.Pipe()
        process = context.Process(target=child, args=(implementation, keep, precision, size, there))
        process.start()
        children[implementation] = (process, here)
    seconds: dict[str, list[float]] = {name: [] for name in children}
    for i in range(rounds + 1):
        for name, (_, orders) in children.items():
            orders.send(True)
            taken = orders.recv()
            if i:  # the first step meets cold caches and a small heap
                seconds[name].append(taken)
    memory = {}
    for name, (process, orders) in children.items():
        orders.send(False)
        memory[name] = orders.recv()
        process.join()
    ratio = np.array(seconds["plain"]) / np.array(seconds["fast"])
    return {
        "size": size,
        "rounds": rounds,
        **{f"{name}_s": round(float(np.median(s)), 2) for name, s in seconds.items()},
        "faster": [round(float(x), 2) for x in (np.median(ratio), ratio.min(), ratio.max())],
        **{f"{name}_gib": round(m, 2) for name, m in memory.items()},
        "smaller": round(memory["plain"] / memory["fast"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"of {', '.join(SETTINGS)}; default: all")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    given = parser.parse_args()
    rows: dict[str, Any] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for name in given.settings or SETTINGS:
        rows[name] = measure(*SETTINGS[name], given.size, given.rounds)
        print(name, json.dumps(rows[name]), flush=True)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
