"""Memory for the maps that a pass keeps for its backward, used again by the next pass.

By its default settings an allocator gives so much memory back to the system between two passes and fetches it again page by
page, which takes seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .maps import channels_last


class Arena:
    """One block of memory. What it keeps is valid until `clear`."""

    def __init__(self) -> None:
        self.block = torch.empty(0)
        self.wanted = 0

    def keep(self, x: Tensor) -> Tensor:
        """A channels-last copy of `x` in the block; `x` itself as long as the block is too small or of another kind."""
        first, self.wanted = self.wanted, self.wanted + x.numel()
        if (x.dtype, x.device) != (self.block.dtype, self.block.device):
            self.block = x.new_empty(0)
        if self.wanted > len(self.block):
            return x
        n, c, h, w = x.shape
        mine = self.block[first : self.wanted].view(n, h, w, c).permute(0, 3, 1, 2)
        return mine.copy_(channels_last(x))

    def clear(self) -> None:
        """Begin anew, with room for what was kept since the last time."""
        if self.wanted > len(self.block):
            self.block = self.block.new_empty(0)  # given back before there is a larger one
            self.block = self.block.new_empty(self.wanted)
        self.wanted = 0
