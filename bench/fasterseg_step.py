"""Steps of the FasterSeg search against the plain ones: python bench/fasterseg_step.py [STEP ...] [--setting S] [--json FILE]

Steps, all of the paper's space with 19 classes (sizes as the authors' code has them):

  weight        batch 2, 224x448: gradients of all weights from the teacher's pass, the student's sampled one, its widest and
                its slimmest, five or six heads each
  architecture  the same passes: gradients of both networks' alpha and beta and of the student's gamma. The plain step computes
                the weights' gradients too, as the authors' code does; plain_lean_s is one that does not.
  pretrain      batch 3, 256x512: gradients of all weights from the widest pass, the slimmest and two of random widths

Plain is tests/pipeline/search/plain_fasterseg.py, the supernet as one writes it from the paper, all passes in one loss.

After a step the fast side sets gradients to zero and keeps their memory, 1 GiB that fresh from the system costs a second or
two; plain drops them, which is torch's default.

Each of the two runs in a process of its own, so that peak memory is one implementation's; they take turns, and a ratio is that
of two steps of one round. Setting `default` is what counts: fp32 and glibc's own allocator settings. In the others both sides
have `pipeline.training.device.keep_freed_memory`, and bf16 autocast. A row replaces its last one in the JSON file.
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

STEPS = {"weight": (2, 224, 448), "architecture": (2, 224, 448), "pretrain": (3, 256, 512)}
SETTINGS = {"default": (False, "fp32"), "kept": (True, "fp32"), "bf16": (True, "bf16")}
"""Name -> freed memory kept, precision."""


def child(implementation: str, step: str, keep: bool, precision: str, orders: Connection) -> None:
    """Takes a step for each message and answers with its seconds; at the end, with the peak memory in GiB."""
    import torch

    from edgesmith.models.arch import Segmentation
    from edgesmith.pipeline.search.fasterseg_relaxed import Pass, Relaxed, Widths, uniform
    from edgesmith.pipeline.search.fasterseg_space import Space
    from edgesmith.pipeline.search.fasterseg_step import backward
    from edgesmith.pipeline.search.fasterseg_supernet import Supernet
    from edgesmith.pipeline.training import losses
    from edgesmith.pipeline.training.device import keep_freed_memory

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.pipeline.search.plain_fasterseg import PlainSupernet, plain_loss

    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    space, task = Space(), Segmentation(19)
    net: Any = Supernet(space, task) if implementation == "fast" else PlainSupernet(space, task)
    student, teacher = Relaxed(space), Relaxed(space, widest=True)
    rng = np.random.default_rng(0)
    noise, random = uniform(space, rng), [Widths.random(space, rng) for _ in range(2)]
    n, h, w = STEPS[step]
    x, labels = torch.randn(n, 3, h, w), torch.randint(0, 19, (n, h, w))
    architecture = step == "architecture"
    net.requires_grad_(not architecture or implementation == "plain")
    for one in (student, teacher):
        one.requires_grad_(architecture)
    while orders.recv():
        start = time.perf_counter()
        alpha, beta, _ = student.probabilities()
        teacher_alpha, teacher_beta, _ = teacher.probabilities()
        ends = [Pass("student", alpha, beta, Widths.all(space, i)) for i in (-1, 0)]
        if step == "pretrain":
            passes = [*ends, *(Pass("student", alpha, beta, widths) for widths in random)]
        else:
            searched = Pass("student", alpha, beta, student.sample(noise))
            passes = [Pass("teacher", teacher_alpha, teacher_beta, teacher.sample(noise)), searched, *ends]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            if implementation == "fast":
                backward(net, x, labels, passes, losses.ohem)
            else:
                loss = plain_loss(net, x, labels, passes, losses.ohem)
        if implementation != "fast":
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
        for module in (net, student, teacher):
            module.zero_grad(set_to_none=implementation != "fast")
        orders.send(time.perf_counter() - start)
    orders.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def measure(step: str, keep: bool, precision: str, rounds: int, lean: bool) -> dict[str, Any]:
    """One row: seconds and GiB of each, and plain over fast."""
    context = multiprocessing.get_context("spawn")  # forked children would share what this process has loaded
    children: dict[str, tuple[SpawnProcess, Connection]] = {}
    for implementation in ("plain", "fast", *(["plain_lean"] if lean else [])):
        here, there = context.Pipe()
        process = context.Process(target=child, args=(implementation, step, keep, precision, there))
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
    n, h, w = STEPS[step]
    return {
        "batch": n,
        "size": [h, w],
        "rounds": rounds,
        **{f"{name}_s": round(float(np.median(s)), 2) for name, s in seconds.items()},
        "faster": [round(float(x), 2) for x in (np.median(ratio), ratio.min(), ratio.max())],
        **{f"{name}_gib": round(m, 2) for name, m in memory.items()},
        "smaller": round(memory["plain"] / memory["fast"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}; default: all")
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="may be repeated; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lean", action="store_true", help="also time a plain architecture step without weight gradients")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    given = parser.parse_args()
    rows: dict[str, Any] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for setting in given.setting or SETTINGS:
        for step in given.steps or STEPS:
            row = measure(step, *SETTINGS[setting], given.rounds, given.lean and step == "architecture")
            rows.setdefault(setting, {})[step] = row
            print(setting, step, json.dumps(row), flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
