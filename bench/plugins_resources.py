"""What nvcc says of the plugins' kernels: registers, shared memory, spills of each on each architecture. Needs no GPU.

python bench/plugins_resources.py docs/measurements/plugins.json
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgesmith.deploy.files import read_json, write_json
from edgesmith.deploy.plugins import SOURCES, VERSIONS, source_digest
from edgesmith.deploy.plugins.twin import planned_shared_bytes

ARCHITECTURES = ("sm_87", "sm_90", "sm_110")


def kernel_name(symbol: str) -> str:
    """A kernel's entry in words: `zoomed fp16 8x16x64 reduce enlarge`."""
    if match := re.search(r"VariantI(f|NS_4HalfE)Li(\d+)ELi(\d+)ELi(\d+)ELb(\d)ELb(\d)", symbol):
        element, *tile, reduce, enlarge = match.groups()
        kinds = [name for flag, name in ((reduce, "reduce"), (enlarge, "enlarge")) if flag == "1"]
        return " ".join(["zoomed", "fp32" if element == "f" else "fp16", "x".join(tile), *kinds])
    match = re.search(r"enlarge_kernelI(f|NS_4HalfE)(h|S\d_|NS_4HalfE)", symbol)
    if match is None:
        raise ValueError(f"{symbol} is no kernel of the plugins")
    return f"enlarge_argmax {'fp32' if match[1] == 'f' else 'fp16'} to {'bytes' if match[2] == 'h' else 'fp16'}"


def resources(architecture: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Each kernel's name and what ptxas says of it."""
    with tempfile.TemporaryDirectory() as scratch:
        command = ["nvcc", "-std=c++17", "-O3", f"-arch={architecture}", "-cubin", "-Xptxas=-v", "--Werror=all-warnings"]
        done = subprocess.run(
            [*command, "-o", f"{scratch}/a.cubin", str(SOURCES / "kernels.cu")], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        sys.exit(done.stderr)
    said = re.compile(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers([^\n]*)",
        re.DOTALL,
    )
    for symbol, stack, stores, loads, registers, rest in said.findall(done.stderr):
        static = re.search(r"(\d+) bytes smem", rest)
        yield (
            kernel_name(symbol),
            {
                "registers": int(registers),
                "stack_bytes": int(stack),
                "spill_store_bytes": int(stores),
                "spill_load_bytes": int(loads),
                "static_shared_bytes": int(static[1]) if static else 0,
            },
        )


def report(path: Path) -> None:
    """Write what every kernel takes of every architecture; what a GPU run wrote there stays."""
    kept = read_json(path) if path.is_file() else {}
    told = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"V([\d.]+)", told)
    kernels: dict[str, Any] = {}
    for architecture in ARCHITECTURES:
        for name, used in resources(architecture):
            kernels.setdefault(name, {})[architecture] = used
    for name, by_architecture in kernels.items():
        if tile := re.search(r"fp(\d+) (\d+)x(\d+)x(\d+)", name):
            half, rows, cols, outputs = tile[1] == "16", *(int(v) for v in tile.groups()[1:])
            by_architecture["dynamic_shared_bytes_96_channels"] = planned_shared_bytes(rows, cols, outputs, 96, half)
    write_json(
        path,
        {
            "operators": VERSIONS,
            "nvcc": version[1] if version else "unknown",
            "source_digest": source_digest(),
            "threads_a_block": 128,
            "kernels": dict(sorted(kernels.items())),
            "gpu": kept.get("gpu"),
        },
    )
    spilled = [n for n, by in kernels.items() if any(by[a]["spill_store_bytes"] for a in ARCHITECTURES)]
    print(f"{len(kernels)} kernels for {', '.join(ARCHITECTURES)}; with spills: {', '.join(spilled) or 'none'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="file to write; what a GPU run wrote there stays")
    report(parser.parse_args().json)
