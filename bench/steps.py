"""Steps of two implementations in turn: what fasterseg_step.py and supernet_step.py share.

Each runs in a process of its own, so that peak memory is one implementation's; they take turns, and a ratio is that of two
steps of one round. Setting `default` is what counts: fp32 and glibc's own allocator settings. In the others both sides have
`pipeline.training.device.keep_freed_memory`, and bf16 autocast.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgesmith.deploy.files import read_json, write_json


class Setting(NamedTuple):
    keep_freed_memory: bool
    bf16: bool


SETTINGS = {"default": Setting(False, False), "kept": Setting(True, False), "bf16": Setting(True, True)}

Step = Callable[[], None]
"""One whole step, all of which is timed."""
Maker = Callable[[bool], Step]
"""Makes an implementation and its inputs, in a process of their own; the argument is whether bf16 autocast is on. It has to
pickle: a function of a module, or `functools.partial` of one."""


def parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """Reads what every such script takes; a script adds to it."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--json", type=Path, help="write the numbers to this file")
    return made


def compare(makers: Mapping[str, Maker], setting: Setting, rounds: int) -> dict[str, Any]:
    """Median seconds and peak GiB of each of `makers`, and how much faster and smaller `fast` is than `plain`.

    Raises RuntimeError when one of them dies.
    """
    context = multiprocessing.get_context("spawn")  # forked children would share what this process has loaded
    children: dict[str, tuple[SpawnProcess, Connection]] = {}
    for name, make in makers.items():
        here, there = context.Pipe()
        process = context.Process(target=_child, args=(make, setting, there), daemon=True)
        process.start()
        there.close()  # or its death would not be noticed here
        children[name] = (process, here)
    seconds: dict[str, list[float]] = {name: [] for name in children}
    for i in range(rounds + 1):
        for name in children:
            taken = _ask(name, children, go_on=True)
            if i:  # the first step meets cold caches and a small heap
                seconds[name].append(taken)
    memory = {name: _ask(name, children, go_on=False) for name in children}
    for process, _ in children.values():
        process.join()
    ratio = np.array(seconds["plain"]) / np.array(seconds["fast"])
    return {
        "rounds": rounds,
        **{f"{name}_s": round(float(np.median(s)), 2) for name, s in seconds.items()},
        "faster": [round(float(x), 2) for x in (np.median(ratio), ratio.min(), ratio.max())],
        **{f"{name}_gib": round(m, 2) for name, m in memory.items()},
        "smaller": round(memory["plain"] / memory["fast"], 2),
    }


def record(file: Path | None, names: Sequence[str], row: dict[str, Any]) -> None:
    """Print a row, and put it into the JSON file in place of the last one of these names, which nest."""
    print(*names, json.dumps(row), flush=True)
    if file is None:
        return
    rows: dict[str, Any] = read_json(file) if file.exists() else {}
    inner = rows
    for name in names[:-1]:
        inner = inner.setdefault(name, {})
    inner[names[-1]] = row
    write_json(file, rows)


def _child(make: Maker, setting: Setting, orders: Connection) -> None:
    """Takes a step for each True and answers with its seconds; for False, with the peak memory in GiB."""
    if setting.keep_freed_memory:
        from edgesmith.pipeline.training.device import keep_freed_memory

        keep_freed_memory()
    step = make(setting.bf16)
    while orders.recv():
        start = time.perf_counter()
        step()
        orders.send(time.perf_counter() - start)
    orders.send(_peak_gib())


def _peak_gib() -> float:
    """Peak resident memory of this process. getrusage's would be its parent's, where that had more when it began."""
    said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(said["VmHWM"].split()[0]) / 2**20  # given in KiB


def _ask(name: str, children: Mapping[str, tuple[SpawnProcess, Connection]], go_on: bool) -> float:
    process, orders = children[name]
    try:
        orders.send(go_on)
        return float(orders.recv())
    except (EOFError, ConnectionError):
        process.join()
        raise RuntimeError(f"the process of {name} ended with exit code {process.exitcode}") from None
