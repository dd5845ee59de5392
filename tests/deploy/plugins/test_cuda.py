"""The kernels on a GPU give what their source gives on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesmith.deploy.plugins import cuda, twin

ROOT = Path(__file__).parents[3]


def library() -> Any:
    major, minor = torch.cuda.get_device_capability()
    return cuda.library(f"sm_{major}{minor}")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("layers", "stride"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_zoomed_conv_gives_what_the_twin_gives(dtype: str, layers: int, stride: int) -> None:
    rng = np.random.default_rng(0)
    widths = [24, 40, 40]
    pairs = [
        (rng.normal(0, 0.1, (widths[i + 1], widths[i], 3, 3)).astype(np.float32), rng.normal(size=40).astype(np.float32))
        for i in range(layers)
    ]
    op = twin.ZoomedConv(pairs, stride)  # type: ignore[arg-type]
    x = rng.normal(size=(2, 24, 33, 46)).astype(dtype)
    made = cuda.CudaZoomedConv(library(), op, dtype, (2, 33, 46), (0, 0))
    given, weights = torch.from_numpy(x).cuda(), torch.from_numpy(made.weights).cuda()
    workspace = torch.empty(max(1, made.workspace_bytes), dtype=torch.uint8, device="cuda")
    found = torch.empty(2, 40, *op.out_hw(33, 46), dtype=given.dtype, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    made.launch(given.data_ptr(), weights.data_ptr(), workspace.data_ptr(), found.data_ptr(), stream)
    expected = twin.zoomed_conv(x, op).astype(np.float32)
    bound = 1e-5 if dtype == "float32" else 2e-3
    assert np.abs(found.float().cpu().numpy() - expected).max() <= bound * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
def test_enlarge_argmax_gives_what_the_twin_gives(half: bool) -> None:
    logits = np.random.default_rng(0).normal(size=(1, 19, 17, 23)).astype(np.float16 if half else np.float32)
    given = torch.from_numpy(logits).cuda()
    found = torch.empty(130, 181, dtype=torch.uint8, device="cuda")
    sizes = (1, 19, 17, 23, 130, 181, 1, 0)
    cuda.enlarge_argmax(library(), sizes, half, given.data_ptr(), found.data_ptr(), torch.cuda.current_stream().cuda_stream)
    expected = twin.enlarge_argmax(logits, (130, 181))[0]
    assert np.mean(found.cpu().numpy() == expected) > 0.9999  # sums are fused there: ties may fall either way


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_benchmark_says_so() -> None:
    done = subprocess.run([sys.executable, "bench/plugins.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no NVIDIA GPU here: nothing was measured")
