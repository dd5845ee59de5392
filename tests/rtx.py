"""What TensorRT for RTX says of many graphs: one child for all of them, and another after each graph that kills it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

CHILD = """
import json, os, sys
channel = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
from edgesmith.deploy.engines import tensorrt_builder as builder
trt = builder.library("tensorrt_rtx")
for name, graph in json.load(sys.stdin):
    channel.write(json.dumps([name, None]) + "\\n")
    job = {"module": "tensorrt_rtx", "graph": graph, "plan": graph + ".plan", "compute_capability": "sm86", "options": {}}
    try:
        builder.build(trt, job, lambda *a, **k: None)
        said = ""
    except builder.GraphRefused as e:
        said = str(e) or "refused"
    channel.write(json.dumps([name, said]) + "\\n")
"""


def verdicts(graphs: Mapping[str, Path]) -> dict[str, str]:
    """By name: empty where the graph was built, else what the parser or builder said, or how the child died."""
    if importlib.util.find_spec("tensorrt_rtx") is None:  # importing it here is what the builder avoids
        pytest.skip("TensorRT for RTX is not installed")
    found: dict[str, str] = {}
    while left := [(name, str(path)) for name, path in graphs.items() if name not in found]:
        command = [sys.executable, "-c", CHILD]
        child = subprocess.run(command, input=json.dumps(left), capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        found |= {name: said for name, said in lines if said is not None}
        if child.returncode and (not lines or lines[-1][1] is not None):
            raise RuntimeError(child.stderr)
        if child.returncode:
            found[lines[-1][0]] = f"killed the child: {child.returncode}"
    return found
