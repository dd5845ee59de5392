"""The SqueezeNAS supernet: all candidates of all blocks in one network (paper, section 4, Figure 3).

Each image of a batch has its own mixture of candidates in each block, as in the authors' search module. The candidates are the
shipped blocks themselves, so that a path through the supernet is the shipped network with the shipped names; only their mixture
is computed in another way than one after the other (`squeezenas_mixture`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgesmith.models.arch import Segmentation
from edgesmith.models.squeezenas import MbConv, Reduce, SqueezeNasModule, build

from .squeezenas_mixture import mixture
from .squeezenas_space import NAMES, Space


class Superblock(nn.Module):
    """The living candidates of one block, by name."""

    def __init__(self, candidates: dict[str, nn.Module]) -> None:
        super().__init__()
        self.candidates = nn.ModuleDict(candidates)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """The sum of the living candidates' outputs, weighted for each image: x (N, C, H, W), weights (N, 13)."""
        columns = {name: weights[:, NAMES.index(name), None, None, None] for name in self.candidates}
        if not self.training:
            return torch.stack([columns[name] * c(x) for name, c in self.candidates.items()]).sum(0)
        blocks = {name: c for name, c in self.candidates.items() if isinstance(c, MbConv)}
        straight = [name for name, c in self.candidates.items() if isinstance(c, nn.Identity)]
        straight += [name for name, c in blocks.items() if c.residual]
        terms: list[Tensor] = [columns[name] * c(x) for name, c in self.candidates.items() if isinstance(c, Reduce)]
        if straight:  # what an identity and the others' residuals let through is x itself
            terms.append(torch.stack([columns[name] for name in straight]).sum(0) * x)
        if blocks:
            terms.append(mixture(x, weights[:, [NAMES.index(name) for name in blocks]], list(blocks.values())))
        y = terms.pop()
        for term in terms:
            y = y + term
        return y


class Supernet(nn.Module):
    """All networks of `space` at once. Logits are low-resolution ones, as those of `SqueezeNasModule.low_logits`.

    Its state dict has the shipped network's names with the candidate's name after the block's number:
    `blocks.3.candidates.k3_d1_e6_g1.expand.0.weight`.
    """

    enlarge_align_corners = SqueezeNasModule.enlarge_align_corners

    def __init__(self, space: Space, task: Segmentation) -> None:
        super().__init__()
        # One shipped network for each candidate: its blocks are kept, and of the first also what is not searched.
        networks = [build(space.arch([j] * len(space), name), task) for j, name in enumerate(NAMES)]
        self.low_level_block = networks[0].low_level_block
        self.stem = networks[0].stem
        self.blocks = nn.ModuleList(
            Superblock({name: network.blocks[i] for name, network in zip(NAMES, networks, strict=True)})
            for i in range(len(space))
        )
        self.neck = networks[0].neck
        self.decoder = networks[0].decoder

    @property
    def alive(self) -> list[list[int]]:
        """The indices of the candidates that are left in each block."""
        return [[NAMES.index(name) for name in block.candidates] for block in self._superblocks()]

    def remove(self, block: int, candidate: int) -> None:
        """Drop a candidate with its weights. Raises ValueError when it is not there or the last of its block."""
        living = self.alive[block]
        if candidate not in living or len(living) == 1:
            raise ValueError(f"candidate {candidate} of block {block} cannot be removed; living ones: {living}")
        del self._superblocks()[block].candidates[NAMES[candidate]]

    def low_logits(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (N, 3, H, W), weights (N, blocks, 13): each image's mixture, 0 for removed candidates -> (N, classes, H/8, W/8).

        With the ASPP decoder of XLarge the logits are (N, classes, H/4, W/4).
        """
        x = self.stem(x)  # (N, C, H/2, W/2)
        low = x
        for i, block in enumerate(self._superblocks()):
            x = block(x, weights[:, i])
            if i == self.low_level_block:
                low = x
        return self.decoder(self.neck(x), low)[0]  # type: ignore[no-any-return]

    def path_state(self, choice: Sequence[int]) -> dict[str, Tensor]:
        """The state dict of `models.build(space.arch(choice, ...), task)` with the supernet's weights; tensors are shared."""
        state: dict[str, Tensor] = {}
        for name, tensor in self.state_dict().items():
            if not name.startswith("blocks."):
                state[name] = tensor
                continue
            blocks, i, _, candidate, rest = name.split(".", 4)
            if candidate == NAMES[choice[int(i)]]:
                state[f"{blocks}.{i}.{rest}"] = tensor
        return state

    def _superblocks(self) -> Sequence[Superblock]:
        return self.blocks  # type: ignore[return-value]
