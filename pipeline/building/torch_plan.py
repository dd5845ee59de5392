"""A TensorRT plan by Torch-TensorRT: from the weights, not from the ONNX graph. A second opinion on the first path.

**Compiling is untested here**: Torch-TensorRT needs the full TensorRT and an NVIDIA GPU, and the project's tests run without
either. What it builds is a plan like any other: TensorRT runs it, and the bundle treats it as one. INT8 is the graph's:
explicit Q/DQ.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from edgesmith import models
from edgesmith.deploy.bundle import META
from edgesmith.deploy.engines.gpu import current_gpu
from edgesmith.deploy.engines.tensorrt import BuiltPlan
from edgesmith.deploy.engines.tensorrt_options import PlanOptions
from edgesmith.deploy.files import write_bytes
from edgesmith.deploy.meta import Meta
from edgesmith.pipeline.reference import normalisation, resized


class FrameToLabels(nn.Module):
    """frame uint8 (H, W, 3) -> labels uint8 (H, W), as the ONNX graph does it; the network itself in `dtype`."""

    def __init__(self, network: nn.Module, meta: Meta, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.meta, self.dtype = network.eval().to(dtype), meta, dtype
        self.mean, self.std = map(nn.Buffer, normalisation(meta.mean, meta.std))

    def forward(self, frame: Tensor) -> Tensor:
        x = frame.float().permute(2, 0, 1)[None]  # (1, 3, H, W)
        x = x.flip(1) if self.meta.colour_order == "bgr" else x
        x = (resized(x, self.meta.input_hw) - self.mean) / self.std
        logits = resized(self.network(x.to(self.dtype)).float(), self.meta.frame_hw)  # (1, classes, H, W)
        return logits.argmax(1)[0].to(torch.uint8)


def build_torch_plan(
    weights: Path, folder: Path, plan: Path, precision: str, options: PlanOptions, progress: Callable[[str], None]
) -> BuiltPlan:
    """Compile `weights` for the GPU at hand into the file `plan`; `folder` holds meta.json.

    `progress` is called with one line for each option that is not honoured.
    Raises ValueError for int8, RuntimeError without a GPU or when Torch-TensorRT fails, ImportError when it is missing.
    """
    if precision not in ("fp32", "fp16"):
        raise ValueError(f"torch_tensorrt builds fp32 and fp16; {precision} is explicit in the graph: --backend tensorrt")
    gpu = current_gpu()
    import tensorrt
    import torch_tensorrt  # type: ignore[import-not-found,unused-ignore]

    notices = _ignored(options, torch_tensorrt.__version__)
    for words in notices:
        progress(words)
    meta = Meta.read(folder / META)
    dtype = torch.float16 if precision == "fp16" else torch.float32
    module = FrameToLabels(models.load(weights), meta, dtype).cuda()
    frame = torch.zeros((*meta.frame_hw, 3), dtype=torch.uint8).cuda()
    start = time.monotonic()
    data = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
        torch.export.export(module, (frame,)),
        arg_inputs=(frame,),
        use_explicit_typing=True,
        disable_tf32=True,  # fp32 is to mean fp32, as in plans of the graph
        workspace_size=(options.workspace_mib or 0) << 20,
        optimization_level=options.optimization_level,
        version_compatible=options.version_compatible,
    )
    write_bytes(plan, data)
    seconds = round(time.monotonic() - start, 3)
    return BuiltPlan(
        "torch_tensorrt", tensorrt.__version__, gpu.compute_capability, gpu.name, len(data), seconds, notices=notices
    )


def _ignored(options: PlanOptions, version: str) -> tuple[str, ...]:
    """In words, what was asked for and is not honoured."""
    if options.timing_cache is None:
        return ()
    why = "it keeps its timings in a file of its own"
    return (f"timing_cache {options.timing_cache} is not honoured by torch_tensorrt {version}: {why}",)
