"""The plugins' CUDA kernels on this machine's GPU: correct against torch, and timed beside what they replace.

    python bench/plugins.py [--frame 1024x2048] [--rounds 30] [--json FILE]

Shapes are those of the zoomed cells of FasterSeg's published student and teacher. Each variant runs in a CUDA graph of its own,
several times over so that the launch of the graph does not count; variants alternate within a round. `unfused` is torch's own
operators in fp16, channels last, cuDNN choosing its algorithms; `plain` the convolutions of the same widths on the unreduced
map, which the zoomed ones are to undercut. `floor` is the time of one copy of input and output at the bandwidth
measured here: maps that fit the cache can be faster than that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgesmith import models
from edgesmith.bench.rounds import size, summary
from edgesmith.deploy.files import read_json, write_json
from edgesmith.deploy.plugins.twin import ZoomedConv
from edgesmith.models.arch import FasterSeg

NETWORKS = ("fasterseg-student", "fasterseg-teacher")
REPEATS = 20
FP32, FP16 = 1e-5, 4e-3
"""Largest difference to torch, as part of the largest value. In fp16 three results are rounded, the largest by 2**-11."""


@dataclass(frozen=True)
class Case:
    """A zoomed cell of a network at one frame size."""

    channels: int
    outputs: int
    layers: int
    stride: int
    h: int
    w: int

    def __str__(self) -> str:
        form = "zoomed" + (" x2" if self.layers == 2 else "") + (" s2" if self.stride == 2 else "")
        return f"{form:12s} {self.channels:3d}->{self.outputs:3d} @ {self.h}x{self.w}"


def cases(frame_hw: tuple[int, int]) -> list[Case]:
    """The different zoomed cells of the published networks, the largest map first."""
    found = set()
    for name in NETWORKS:
        arch = models.zoo(name)
        if not isinstance(arch, FasterSeg):
            raise TypeError(f"{name} is a {arch.family}; zoomed cells are FasterSeg's")
        for branch in arch.branches:
            scale, width = 8, 8 * arch.stem_width
            for cell in branch:
                if cell.op.startswith("zoomed"):
                    layers = 2 if cell.op.endswith("x2") else 1
                    found.add(Case(width, cell.width, layers, cell.stride, frame_hw[0] // scale, frame_hw[1] // scale))
                scale, width = scale * cell.stride, cell.width
    return sorted(found, key=lambda c: (-c.h, c.layers, c.stride, c.channels, c.outputs))


def graphed(run: Callable[[], Any]) -> Callable[[], float]:
    """Captures REPEATS runs in a CUDA graph; a call replays it and gives microseconds a run."""
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def timed() -> float:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3 / REPEATS

    return timed


def interleaved(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Microseconds of each variant, one after the other in each round."""
    timed = {name: graphed(run) for name, run in variants.items()}
    for time in timed.values():
        time()
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, time in timed.items():
            taken[name].append(time())
    return {name: np.array(values) for name, values in taken.items()}


class Zoomed:
    """One case in all its forms: the kernel, torch's operators, the plain convolution."""

    def __init__(self, library: Any, case: Case, align_corners: bool) -> None:
        import torch

        rng = np.random.default_rng(0)
        pairs = []
        for before, after in pairwise([case.channels, *([case.outputs] * case.layers)]):
            weights = rng.normal(0, (2 / (9 * before)) ** 0.5, (after, before, 3, 3)).astype(np.float16).astype(np.float32)
            pairs.append((weights, rng.normal(0, 0.1, after).astype(np.float32)))
        self.case, self.aligned, self.library = case, align_corners, library
        self.op = ZoomedConv(pairs, case.stride, align_corners)  # type: ignore[arg-type]
        self.x = torch.from_numpy(rng.normal(size=(1, case.channels, case.h, case.w)).astype(np.float16)).cuda().float()
        self.layers = [(torch.from_numpy(k).cuda(), torch.from_numpy(b).cuda()) for k, b in pairs]

    def unfused(self, dtype: Any, memory_format: Any) -> Callable[[], Any]:
        import torch.nn.functional as F

        x = self.x.to(dtype, memory_format=memory_format)
        layers = [(k.to(dtype, memory_format=memory_format), b.to(dtype)) for k, b in self.layers]
        hw, low = (self.case.h, self.case.w), (self.case.h // 2, self.case.w // 2)

        def run() -> Any:
            y = F.interpolate(x, low, mode="bilinear", align_corners=self.aligned)
            for i, (k, b) in enumerate(layers):
                y = F.conv2d(F.relu_(y) if i else y, k, b, padding=1)
            return F.relu_(F.interpolate(y, hw, mode="bilinear", align_corners=self.aligned) if self.case.stride == 1 else y)

        return run

    def plain(self, dtype: Any, memory_format: Any) -> Callable[[], Any]:
        import torch.nn.functional as F

        x = self.x.to(dtype, memory_format=memory_format)
        layers = [(k.to(dtype, memory_format=memory_format), b.to(dtype)) for k, b in self.layers]

        def run() -> Any:
            y = x
            for i, (k, b) in enumerate(layers):
                y = F.relu_(F.conv2d(y, k, b, padding=1, stride=self.case.stride if i == 0 else 1))
            return y

        return run

    def kernel(self, dtype: Any, memory_format: Any, tile: int = -1) -> tuple[Callable[[], Any], Any]:
        """A run, and the tensor that it fills."""
        import torch

        from edgesmith.deploy.plugins.cuda import CudaZoomedConv

        c = self.case
        last = memory_format is torch.channels_last
        pitch = (lambda n: -(-n // 8) * 8 if dtype == torch.float16 else n) if last else (lambda _: 0)
        padded = torch.zeros(1, pitch(c.channels) or c.channels, c.h, c.w, dtype=dtype, device="cuda")
        padded[:, : c.channels] = self.x.to(dtype)
        x = padded.contiguous(memory_format=memory_format)
        out_hw = self.op.out_hw(c.h, c.w)
        y = torch.empty(1, pitch(c.outputs) or c.outputs, *out_hw, dtype=dtype, device="cuda", memory_format=memory_format)
        name = str(dtype).removeprefix("torch.")
        made = CudaZoomedConv(self.library, self.op, name, (1, c.h, c.w), (pitch(c.channels), pitch(c.outputs)), tile)
        weights = torch.from_numpy(made.weights).cuda()
        workspace = torch.empty(max(1, made.workspace_bytes), dtype=torch.uint8, device="cuda")

        def run() -> None:
            stream = torch.cuda.current_stream().cuda_stream
            made.launch(x.data_ptr(), weights.data_ptr(), workspace.data_ptr(), y.data_ptr(), stream)

        return run, y[:, : c.outputs]


def check(zoomed: Zoomed) -> dict[str, float]:
    """Largest difference to torch in fp32, of each type, order and tile. Raises SystemExit when one is too large."""
    import torch

    expected = zoomed.unfused(torch.float32, torch.contiguous_format)()
    worst: dict[str, float] = {}
    for dtype, bound, tiles in ((torch.float32, FP32, range(1)), (torch.float16, FP16, range(4))):
        for order in (torch.contiguous_format, torch.channels_last):
            for tile in tiles:
                run, y = zoomed.kernel(dtype, order, tile)
                run()
                off = float((y.float() - expected).abs().max() / expected.abs().max())
                if not off <= bound:
                    sys.exit(f"{zoomed.case}, {dtype}, {order}, tile {tile}: {off:.2g} off torch, more than {bound:g}")
                key = str(dtype).removeprefix("torch.")
                worst[key] = max(off, worst.get(key, 0.0))
    return worst


def copy_gb_s() -> float:
    """Bandwidth of a copy of 1 GiB, bytes read and written."""
    import torch

    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    times = interleaved({"copy": lambda: b.copy_(a)}, 5)["copy"]
    return float(2 * a.numel() / np.median(times) / 1e3)


def measure_zoomed(library: Any, case: Case, rounds: int, gb_s: float) -> dict[str, Any]:
    import torch

    zoomed = Zoomed(library, case, align_corners=True)
    off = check(zoomed)
    check(Zoomed(library, case, align_corners=False))
    last = torch.channels_last
    kernel, _ = zoomed.kernel(torch.float16, last)
    variants = {"kernel": kernel, "unfused": zoomed.unfused(torch.float16, last), "plain": zoomed.plain(torch.float16, last)}
    taken = interleaved(variants, rounds)
    out_h, out_w = zoomed.op.out_hw(case.h, case.w)
    moved = 2 * (case.channels * case.h * case.w + case.outputs * out_h * out_w) + zoomed.op.layers[0][0].size * 2
    return {
        "case": str(case),
        "us": {name: summary(v) for name, v in taken.items()},
        "floor_us": round(moved / gb_s / 1e3, 3),
        "unfused_over_kernel": summary(taken["unfused"] / taken["kernel"]),
        "kernel_over_plain": summary(taken["kernel"] / taken["plain"]),
        "off_torch": off,
    }


def measure_enlargement(library: Any, classes: int, frame_hw: tuple[int, int], rounds: int, gb_s: float) -> dict[str, Any]:
    """EnlargeArgmax on logits of noise, where every cell is summed, and on smooth ones, where few are."""
    import torch
    import torch.nn.functional as F

    from edgesmith.deploy.plugins.cuda import enlarge_argmax

    h, w = frame_hw[0] // 8, frame_hw[1] // 8
    small = torch.randn(1, classes, max(2, h // 16), max(2, w // 16), device="cuda") * 5
    found: dict[str, Any] = {"case": f"enlarge {classes} classes {h}x{w} -> {frame_hw[0]}x{frame_hw[1]}"}
    for kind in ("smooth", "noise"):
        noise = torch.randn(1, classes, h, w, device="cuda")
        logits = F.interpolate(small, (h, w), mode="bicubic") + 0.2 * noise if kind == "smooth" else noise
        half = logits.half().contiguous()
        labels = torch.empty(frame_hw, dtype=torch.uint8, device="cuda")
        large = F.interpolate(half.float(), frame_hw, mode="bilinear", align_corners=True)
        best = large.topk(2, 1).values
        clear = best[0, 0] - best[0, 1] > 1e-6 * best[0].abs().amax(0)

        def kernel(half: Any = half, labels: Any = labels) -> None:
            stream = torch.cuda.current_stream().cuda_stream
            enlarge_argmax(library, (1, classes, h, w, *frame_hw, 1, 0), True, half.data_ptr(), labels.data_ptr(), stream)

        def unfused(half: Any = half) -> Any:
            return F.interpolate(half, frame_hw, mode="bilinear", align_corners=True).argmax(1).to(torch.uint8)

        kernel()
        if not bool((labels == large.argmax(1)[0])[clear].all()):
            sys.exit(f"{found['case']}, {kind}: labels differ from torch's where the logits do not tie")
        taken = interleaved({"kernel": kernel, "unfused": unfused}, rounds)
        found[kind] = {
            "us": {name: summary(v) for name, v in taken.items()},
            "unfused_over_kernel": summary(taken["unfused"] / taken["kernel"]),
        }
    found["floor_us"] = round((2 * classes * h * w + frame_hw[0] * frame_hw[1]) / gb_s / 1e3, 3)
    return found


def print_row(name: str, us: dict[str, Any], floor_us: float, *ratios: dict[str, float]) -> None:
    times = "".join(f" {us[v]['p50']:8.1f}" if v in us else f" {'':8s}" for v in ("kernel", "unfused", "plain"))
    said = "".join(f"  {r['p50']:.2f} ({r['p10']:.2f}-{r['p90']:.2f})" for r in ratios)
    print(f"{name:34s}{times} {floor_us:8.1f}{said}", flush=True)


def measure(frame_hw: tuple[int, int], rounds: int) -> dict[str, Any]:
    import torch

    from edgesmith.deploy.plugins.cuda import library

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    major, minor = torch.cuda.get_device_capability()
    kernels = library(f"sm_{major}{minor}")
    gb_s = copy_gb_s()
    print(f"{torch.cuda.get_device_name()}, copies at {gb_s:.0f} GB/s; microseconds, medians of {rounds} rounds")
    print(f"{'':34s} {'kernel':>8s} {'unfused':>8s} {'plain':>8s} {'floor':>8s}  unfused/kernel  kernel/plain")
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_gb_s": round(gb_s),
        "zoomed": [],
    }
    for case in cases(frame_hw):
        row = measure_zoomed(kernels, case, rounds, gb_s)
        print_row(str(case), row["us"], row["floor_us"], row["unfused_over_kernel"], row["kernel_over_plain"])
        found["zoomed"].append(row)
    row = found["enlarge_argmax"] = measure_enlargement(kernels, 19, frame_hw, rounds, gb_s)
    for kind in ("smooth", "noise"):
        print_row(f"enlarge + argmax, {kind}", row[kind]["us"], row["floor_us"], row[kind]["unfused_over_kernel"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frame", type=size, default=(1024, 2048), help="height x width")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="put the numbers into this file, under `gpu`")
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(
            "no NVIDIA GPU here: nothing was measured, and nothing is proven of how the kernels run on one. Their tiling and\n"
            "arithmetic are tested on the CPU (tests/deploy/plugins); run this again where there is a GPU and nvcc."
        )
        return
    found = measure(given.frame, given.rounds)
    if given.json:
        kept = read_json(given.json) if given.json.is_file() else {}
        write_json(given.json, {**kept, "gpu": {"frame_hw": list(given.frame), **found}})


if __name__ == "__main__":
    main()
