"""What a training step costs by precision, layout and allocator setting, interleaved: python bench/train_step.py [--json FILE]

The ratios stand against fp32, NCHW, glibc's own allocator settings. `train.precision: auto`, `train.channels_last` and
`pipeline.training.device.keep_freed_memory` were decided by this.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from edgesmith import models
from edgesmith.deploy.files import write_json
from edgesmith.pipeline.data.street import StreetSplit
from edgesmith.pipeline.train import Train
from edgesmith.pipeline.training.device import keep_freed_memory
from edgesmith.pipeline.training.fit import Trainer
from edgesmith.pipeline.training.loader import Batch

Variant = tuple[str, bool, bool]
VARIANTS: tuple[Variant, ...] = (
    ("fp32", False, False),
    ("fp32", True, False),
    ("bf16", True, False),
    ("fp32", False, True),
    ("fp32", True, True),
    ("bf16", True, True),
)
"""(precision, channels_last, freed memory kept); the first is the yardstick."""


def give_back_freed_memory() -> None:
    """glibc's own settings again."""
    mallopt = ctypes.CDLL(None).mallopt
    for option, value in ((-4, 65536), (-1, 128 << 10), (-2, 128 << 10), (-3, 128 << 10)):
        mallopt(option, value)


def stepper(variant: Variant, batch: Batch, network: str) -> Callable[[], None]:
    precision, channels_last, keep = variant
    train = Train(precision="bf16" if precision == "bf16" else "fp32", channels_last=channels_last, device="cpu")
    module = models.build(models.zoo(network), models.Segmentation(11))
    trainer = Trainer(train, module, torch.device("cpu"), None)

    def step() -> None:
        (keep_freed_memory if keep else give_back_freed_memory)()
        trainer.step(batch, 0.01)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="squeezenas-lat-small")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    given = parser.parse_args()
    split = StreetSplit(0, 8, (336, 448))
    samples = [split[i] for i in range(len(split))]
    batch = Batch(np.stack([s.frame for s in samples]), np.stack([s.label for s in samples]))
    steps = {v: stepper(v, batch, given.network) for v in VARIANTS}
    seconds: dict[Variant, list[float]] = {v: [] for v in VARIANTS}
    for i in range(given.rounds + 1):
        for v, step in steps.items():
            step()  # takes up the allocator's setting
            start = time.perf_counter()
            step()
            if i:
                seconds[v].append(time.perf_counter() - start)
    rows = []
    base = np.array(seconds[VARIANTS[0]])
    print(f"{given.network}, batch 8, 336x448, {torch.get_num_threads()} threads")
    for v in VARIANTS:
        ratio = base / np.array(seconds[v])
        row = {
            "precision": v[0],
            "channels_last": v[1],
            "freed_memory_kept": v[2],
            "step_s": round(float(np.median(seconds[v])), 4),
            "faster": [round(float(x), 2) for x in (np.median(ratio), ratio.min(), ratio.max())],
        }
        rows.append(row)
        names = f"{v[0]} {'channels_last' if v[1] else 'NCHW':13s} {'kept' if v[2] else 'given back':10s}"
        print(f"  {names} {row['step_s']:7.3f} s   {ratio.min():5.2f} - {np.median(ratio):5.2f} - {ratio.max():5.2f} x")
    if given.json:
        write_json(given.json, {"network": given.network, "rows": rows})


if __name__ == "__main__":
    main()
