"""Torch's own answer to a frame: what training evaluates by, and what an exported graph and its engines are held against."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Triple = tuple[float, float, float]


def labels_by_torch(
    module: nn.Module,
    frame: NDArray[np.uint8],
    mean: Triple,
    std: Triple,
    input_hw: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Label one RGB frame (H, W, 3) -> (H, W), or frames of one size (N, H, W, 3) -> (N, H, W), all uint8.

    `mean` and `std` are of RGB in [0, 1]. The network runs at `input_hw` (default: the frame's size), on the device that
    the module lies on, and in evaluation mode; the module's own mode is restored. Labels are always of the frame's size.

    Raises ValueError when `frame` has another shape or type.
    """
    logits = logits_by_torch(module, frame if frame.ndim == 4 else frame[None], mean, std, input_hw)
    labels: NDArray[np.uint8] = logits.argmax(1).to(torch.uint8).cpu().numpy()  # (N, H, W)
    return labels if frame.ndim == 4 else labels[0]


def logits_by_torch(
    module: nn.Module,
    frames: NDArray[np.uint8],
    mean: Triple,
    std: Triple,
    input_hw: tuple[int, int] | None = None,
) -> Tensor:
    """Logits at frame size, float (N, classes, H, W), for RGB frames uint8 (N, H, W, 3). See `labels_by_torch`."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frame has shape {frames.shape} and type {frames.dtype}; it must be RGB uint8, (H, W, 3)")
    frame_hw = (frames.shape[1], frames.shape[2])
    # A copy: frames may be read-only or turned around (BGR to RGB), and torch shares memory with neither.
    x = torch.from_numpy(np.array(frames, order="C")).to(next(module.parameters()).device).permute(0, 3, 1, 2).float()
    return network_logits(module, resized(x, input_hw or frame_hw), mean, std, frame_hw)


def network_logits(module: nn.Module, x: Tensor, mean: Triple, std: Triple, frame_hw: tuple[int, int]) -> Tensor:
    """RGB in 0..255, float (N, 3, h, w), already of the network's size -> logits at frame size, float (N, classes, H, W)."""
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            centre, spread = normalisation(mean, std, x.device)
            logits: Tensor = module((x - centre) / spread)
            return resized(logits.float(), frame_hw)
    finally:
        module.train(training)


def normalisation(mean: Triple, std: Triple, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """`mean` and `std` of RGB in [0, 1] in units of 0..255, each (3, 1, 1)."""
    centre, spread = (torch.tensor(v, device=device).view(3, 1, 1) * 255 for v in (mean, std))
    return centre, spread


def resized(x: Tensor, hw: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel, no antialias: the one way in which frames and logits change between frame and network size."""
    return x if x.shape[-2:] == hw else F.interpolate(x, hw, mode="bilinear", align_corners=False)
