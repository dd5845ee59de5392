"""Where training computes: device, precision, normalised input on it, and the memory that it keeps."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from edgesmith.deploy.engines.onnxruntime import processor
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD
from edgesmith.pipeline.data.augment import Cached
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.reference import normalisation

from .loader import Batch


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device. Raises ValueError when CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda is asked for, but torch sees no CUDA device; set device to auto or cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def pick_precision(name: str, device: torch.device) -> str:
    return ("bf16" if device.type == "cuda" else "fp32") if name == "auto" else name


@dataclass(frozen=True)
class Placement:
    """Device, precision and memory layout of a module and of the batches that it learns from."""

    device: torch.device
    precision: str
    """fp32 or bf16."""
    channels_last: bool

    def module(self, module: nn.Module) -> nn.Module:
        """`module`, moved here."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return module.to(device=self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised frames, float (N, 3, H, W), and labels, uint8 (N, H, W)."""
        frames = torch.as_tensor(batch.frames).to(self.device, non_blocking=True)
        labels = torch.as_tensor(batch.labels).to(self.device, non_blocking=True)
        return normalise(frames, *self._normalisation, self.channels_last), labels

    @property
    def place(self) -> str:
        """Where and how it computes, in words: results are equal to the bit in one place alone."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"{processor()}, {torch.get_num_threads()} threads, {self.precision}"

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        return normalisation(IMAGENET_MEAN, IMAGENET_STD, self.device)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """What the forward pass runs in."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()


def all_finite(module: nn.Module) -> bool:
    """Whether every number of the module is finite."""
    floats = [t for t in module.state_dict().values() if t.is_floating_point()]
    return bool(torch.isfinite(torch.stack(torch._foreach_norm(floats))).all())


def normalise(frames: Tensor, mean: Tensor, std: Tensor, channels_last: bool) -> Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W)."""
    x = (frames.permute(0, 3, 1, 2).float() - mean) / std
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def train_and_val(data: Data) -> tuple[Cached, Cached]:
    """The splits that a stage learns from and is judged on, each with half of what memory may hold of samples."""
    limit = cache_bytes() // 2
    return Cached(open_split(data, "train"), limit), Cached(open_split(data, "val"), limit)


def cache_bytes() -> int:
    """How much memory decoded frames may take: a quarter of the machine's, at most 8 GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(8 << 30, memory // 4)


def keep_freed_memory() -> None:
    """Let glibc keep big buffers that were freed, instead of handing them back and paying their page faults each step."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(-4, 0)  # M_MMAP_MAX: none
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-2, 256 << 20)  # M_TOP_PAD
