"""How good networks with a supernet's weights, or the supernet itself, are on a val split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgesmith.pipeline.data.dataset import Split
from edgesmith.pipeline.reference import resized
from edgesmith.pipeline.training.device import Placement
from edgesmith.pipeline.training.fit import evaluate_heads
from edgesmith.pipeline.training.loader import Batch

TOGETHER = 4
"""At most so many frames a batch while batch norm statistics are gathered: what frames differ by belongs to the variance."""


@dataclass(frozen=True)
class Evaluation:
    """mIoU on frames of a val split, with batch norm statistics gathered for the network that is evaluated."""

    placement: Placement
    calibration: Sequence[Tensor]
    """Batches (N, 3, H, W) over which batch norm statistics are gathered; none: the supernet's own are taken."""
    val: Split
    frames: Sequence[int]
    """Indices of the frames of `val` that count."""
    input_hw: tuple[int, int] | None
    """Size at which the network runs; default each frame's."""

    def __call__(self, module: nn.Module, heads: int = 1) -> list[float | None]:
        """mIoU by each of the heads of `module`, over the classes that the frames show; None where no pixel is labelled.

        Its batch norm statistics are replaced.
        """
        module = self.placement.module(module)
        if self.calibration:
            recalibrate(module, self.calibration)
        return evaluate_heads(module, heads, self.val, self.input_hw, self.frames)


def whole_frames(split: Split, count: int, input_hw: tuple[int, int] | None, placement: Placement) -> list[Tensor]:
    """`count` frames of `split`, evenly spread, as an evaluation sees them: normalised batches (N, 3, H, W) at `input_hw`.

    The default size is that of the first frame. No batch has a single frame, unless all are one: what is pooled to one value a
    frame has no variance then. Crops would not do: a map of the deepest scale is a few pixels wide on them,
    and much of it padding, so that its statistics do not hold for whole frames.
    """
    samples = [split[i] for i in evenly(len(split), count)]
    height, width = input_hw or split[0].label.shape
    frames = [resized(placement.batch(Batch(s.frame[None], s.label[None]))[0], (height, width)) for s in samples]
    batches = -(-len(frames) // TOGETHER)
    return [torch.cat(frames[len(frames) * i // batches : len(frames) * (i + 1) // batches]) for i in range(batches)]


@torch.no_grad()
def recalibrate(module: nn.Module, frames: Sequence[Tensor]) -> None:
    """Replace the batch norm statistics of `module` by those over `frames`, batches of (N, 3, H, W). Ends in eval mode."""
    module.eval()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats()
            m.momentum = None  # the plain mean over batches
            m.train()
    for x in frames:
        module(x)
    module.eval()


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Restores running statistics, momentum and mode of `module` afterwards, also after an exception."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    training, before = module.training, [(m.momentum, [b.clone() for b in m.buffers()]) for m in norms]
    try:
        yield
    finally:
        for m, (momentum, buffers) in zip(norms, before, strict=True):
            m.momentum = momentum
            for b, kept in zip(m.buffers(), buffers, strict=True):
                b.copy_(kept)
        module.train(training)


def evenly(total: int, wanted: int | None) -> list[int]:
    """Indices of `wanted` (default: all) of `total` frames, evenly spread: of as many equal parts the first each.

    `data.choose.end_to_end` takes both ends: another choice, by which other numbers were measured.
    """
    wanted = total if wanted is None else min(wanted, total)
    return [i * total // wanted for i in range(wanted)]
