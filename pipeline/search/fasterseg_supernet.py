"""The FasterSeg supernet: L layers of cells at three rates, superkernels, two stems, a head for each set of branches.

What a cell computes stands in `Operator` and `Supercell.forward`; in training `fasterseg_mixture` computes the same in less
time and memory. Its parts have the sizes and the order of the derived network's, so that a path through it is that network.

Beyond the paper:

* What carries gamma's gradient is a factor of the channels that enter a cell (`fasterseg_relaxed`).
* A batch norm for each width, with affine and statistics of its own (slimmable networks), as in the authors' code.
* The skip of stride 1 is a 1x1 convolution, as in the authors' code; a derived network leaves it out.
* A cell mixes what it is given (Eq. 1). The authors' code runs it once on each of its two inputs and mixes what comes of it.
* The aggregation of a deep branch takes the maps with which the branch left the finer scales, as that of a derived network
  does; which those are the relaxed beta only says by its probabilities, so it takes their mean by beta (section 3.4 reads beta
  so) over the places that derivation knows. The authors' code aggregates the last layer's maps, which are others than those of
  the networks that it derives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith.models.arch import Cell, FasterSeg, Segmentation
from edgesmith.models.fasterseg import Aggregate, Aggregation, Head, build
from edgesmith.models.ops import conv_bn_relu, resize

from .arena import Arena
from .fasterseg_mixture import mixture
from .fasterseg_operators import Operator
from .fasterseg_relaxed import SCALES, Widths
from .fasterseg_space import LEAST_LAYERS, NETS, RATES, Net, Op, Space

DIVISOR = 32
"""Inputs have heights and widths that this divides: elsewhere strided and zoomed cells would make maps of different sizes."""


class Supercell(nn.Module):
    """The operators of one layer and scale: those of stride 1 and, where the next scale goes on from here, of stride 2."""

    def __init__(self, operators: Sequence[Op], cin: int, chis: Sequence[int], rate: int, down: bool) -> None:
        super().__init__()
        self.keep = nn.ModuleDict({op: Operator(op, cin, chis, rate, 1) for op in operators})
        self.down = nn.ModuleDict({op: Operator(op, cin, chis, 2 * rate, 2) for op in operators if down})

    @property
    def sides(self) -> list[list[Operator]]:
        """The operators of stride 1, and those of stride 2 if there are any."""
        return [list(side.values()) for side in (self.keep, self.down) if len(side)]  # type: ignore[arg-type]

    def forward(self, x: Tensor, mixes: Sequence[Tensor], chis: Sequence[int], arena: Arena | None = None) -> list[Tensor]:
        """For each side the sum of its operators' outputs at ratio `chis[side]`, weighted by `mixes[side]` (Eq. 2)."""
        if self.training:
            return mixture(x, mixes, self.sides, chis, arena)
        found = []
        for operators, mix, chi in zip(self.sides, mixes, chis, strict=True):
            found.append(torch.stack([weight * op(x, chi) for weight, op in zip(mix, operators, strict=True)]).sum(0))
        return found


class Supernet(nn.Module):
    """All networks of `space` at once, with stem, aggregation and heads for each of `nets`.

    Inputs have sizes that 32 divides. In training gradients of the superkernels come with `Tensor.backward` only, not with
    `torch.autograd.grad`.
    """

    enlarge_align_corners = True

    def __init__(self, space: Space, task: Segmentation, nets: Sequence[Net] = NETS) -> None:
        super().__init__()
        if space.layers < LEAST_LAYERS:
            raise ValueError(f"layers: {space.layers} have no place for two downsamplings; needs at least {LEAST_LAYERS}")
        self.space = space
        self.arena = Arena()
        chis = sorted({*space.ratios, *map(space.chi, nets)})
        self.stems, self.aggregations, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        finer = [rate * chis[-1] for rate in RATES]
        for net in nets:
            chi = space.chi(net)
            self.stems[net] = build(FasterSeg("stem", chi, ((Cell("conv", 8),),), 0, 1), task).stem
            branches = (Aggregation((*finer[:scale], RATES[scale] * chi), chi, True) for scale in (1, 2))
            self.aggregations[net] = nn.ModuleList(branches)
            widths = [RATES[0] * chi * len(scales) for scales in space.heads()]
            self.heads[net] = nn.ModuleList(
                nn.ModuleDict({"fuse": conv_bn_relu(width, width, 1), "head": Head(width, task.classes)}) for width in widths
            )
        for part in (self.aggregations, self.heads):
            for m in part.modules():
                if isinstance(m, nn.Conv2d):
                    nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                    if m.bias is not None:
                        nn.init.zeros_(m.bias)
        self.cells = nn.ModuleList(
            nn.ModuleList(
                Supercell(space.operators, rate * chis[-1], chis, rate, scale < 2 and scale + i < space.layers - 1)
                for i in range(space.cells(scale))
            )
            for scale, rate in enumerate(RATES)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def stem(self, x: Tensor, net: Net) -> Tensor:
        """Normalised images (N, 3, H, W) -> (N, 8 chi, H/8, W/8). Raises ValueError for a size that 32 does not divide."""
        if x.shape[-2] % DIVISOR or x.shape[-1] % DIVISOR:
            raise ValueError(f"x: of size {x.shape[-2]}x{x.shape[-1]}; needs multiples of {DIVISOR}")
        return self.stems[net](x.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def branch_maps(
        self,
        x: Tensor,
        net: Net,
        alpha: Sequence[Tensor],
        beta: Sequence[Tensor],
        widths: Widths,
        arena: Arena | None = None,
    ) -> list[Tensor]:
        """What the stem made (N, 8 chi, H/8, W/8) -> for each last scale the branch's aggregated map, of the same shape.

        alpha and beta are probabilities: by scale (cells, operators), and by scale 1, 2 (merges, 2). In training `arena` holds
        what is kept for backward; it is not cleared here.
        """
        inputs, outputs = self._maps(x, net, alpha, beta, widths, arena)
        return self._aggregated(net, beta, inputs, outputs)

    def head(self, net: Net, scales: Sequence[int], maps: Sequence[Tensor]) -> Tensor:
        """The logits (N, classes, H/8, W/8) of the branches that end at `scales`, of what `branch_maps` made."""
        part = cast(Sequence[nn.ModuleDict], self.heads[net])[self.space.heads().index(tuple(scales))]
        return part["head"](part["fuse"](torch.cat([maps[s] for s in scales], 1)))  # type: ignore[no-any-return]

    def _maps(
        self, x: Tensor, net: Net, alpha: Sequence[Tensor], beta: Sequence[Tensor], widths: Widths, arena: Arena | None
    ) -> tuple[list[list[Tensor]], list[Tensor]]:
        """By scale: what enters each cell, and what the last cell makes."""
        ratios = [self._ratios(scale, net, widths) for scale in SCALES]
        mixes = [self._mixes(scale, alpha, beta) for scale in SCALES]
        inputs: list[list[Tensor]] = [[x], [], []]
        outputs: list[Tensor] = []
        for layer in range(self.space.layers):
            arriving: dict[int, list[Tensor]] = {scale: [] for scale in SCALES}
            for scale in range(min(layer, 2) + 1):
                i = layer - scale
                cell = cast(Supercell, cast(nn.ModuleList, self.cells[scale])[i])
                goals = [scale, scale + 1][: len(cell.sides)]
                chis = [ratios[goal][layer + 1 - goal] for goal in goals]
                made = cell(inputs[scale][i], [mixes[scale][side][i] for side in range(len(goals))], chis, arena)
                for goal, y in zip(goals, made, strict=True):
                    arriving[goal].append(y)
            if layer == self.space.layers - 1:
                outputs = [ys[0] for ys in arriving.values()]
            else:  # Eq. 1; `_mixes` has weighted the two
                for scale, ys in arriving.items():
                    if ys:
                        y = ys[0] if len(ys) == 1 else ys[0] + ys[1]
                        inputs[scale].append(self._gated(y, scale, layer + 1, widths))
        return inputs, outputs

    def _ratios(self, scale: int, net: Net, widths: Widths) -> list[int]:
        """chi of the tensors that enter the cells of a scale, and of what its last cell makes."""
        stem = [self.space.chi(net)] if scale == 0 else []
        return [*stem, *(self.space.ratios[i] for i in widths.index[scale]), self.space.chi(net)]

    def _gated(self, x: Tensor, scale: int, layer: int, widths: Widths) -> Tensor:
        """What enters a cell, the channels of each ratio multiplied by their gate."""
        if widths.gates is None:
            return x
        row = layer - max(scale, 1)
        ratios = (0, *self.space.ratios[: widths.index[scale][row] + 1])
        channels = [RATES[scale] * (wider - slimmer) for slimmer, wider in pairwise(ratios)]
        gates = zip(widths.gates[scale][row], channels, strict=False)
        return x * torch.cat([gate.expand(count) for gate, count in gates]).to(x.dtype)[:, None, None]

    def _mixes(self, scale: int, alpha: Sequence[Tensor], beta: Sequence[Tensor]) -> list[list[Tensor]]:
        """The weights of a scale's operators, by side and cell: alpha, and beta of the next cell."""
        keep = alpha[scale]
        if scale > 0:  # to the next cell of this scale, except from the last one
            keep = keep * F.pad(beta[scale - 1][:, 1], (0, 1), value=1.0)[:, None]
        if scale == 2:
            return [list(keep)]
        first = F.pad(beta[scale][:, 0], (1, 0), value=1.0)  # the first cell of a scale has one predecessor
        down = alpha[scale][:-1] * first[:, None]
        return [list(keep), list(down)]

    def _aggregated(
        self, net: Net, beta: Sequence[Tensor], inputs: Sequence[Sequence[Tensor]], outputs: Sequence[Tensor]
    ) -> list[Tensor]:
        """For each scale the map (N, 8 chi, H/8, W/8) of the branch that ends there."""
        leaving = departures(self.space, beta)
        maps = [outputs[0]]
        for scale, branch in enumerate(cast(Sequence[Aggregation], self.aggregations[net]), 1):
            y = outputs[scale]
            for step, finer in zip(branch, reversed(range(scale)), strict=True):
                y = aggregate(cast(Aggregate, step), y, mean(leaving[scale, finer], inputs[finer]))
            maps.append(y)
        return maps


def departures(space: Space, beta: Sequence[Tensor]) -> Mapping[tuple[int, int], Tensor]:
    """(last scale, finer scale) -> the probability (cells,) that a branch leaves the finer one with what enters each cell.

    A halving is as probable as beta makes it beside the other places for it (section 3.4), two of them as the product. Places
    are those that derivation knows; in a space too small for any, all but the first cell of a scale, which has no other
    predecessor.
    """
    first, second = beta[0][:, 0], beta[1][:, 0]  # row k: into layer k + 2 of scale 1, into layer k + 3 of scale 2
    one, two = (torch.from_numpy(allowed).to(first.device) for allowed in space.places())
    alone, both = first * (one if one.any() else 1), torch.outer(first, second)
    both = both * two if two.any() else both.triu()
    joint = both / both.sum()
    tables = {(1, 0): alone / alone.sum(), (2, 0): joint.sum(1), (2, 1): joint.sum(0)}
    return {scales: F.pad(table, (1, 0)) for scales, table in tables.items()}


def mean(weights: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """sum_i weights[i] * maps[i] over all i but the first; slimmer maps are filled up with zeros."""
    width = max(m.shape[1] for m in maps[1 : len(weights)])
    total: Tensor | None = None
    for weight, m in list(zip(weights, maps, strict=False))[1:]:
        y = weight * (F.pad(m, (0, 0, 0, 0, 0, width - m.shape[1])) if m.shape[1] < width else m)
        total = y if total is None else total + y
    assert total is not None
    return total


def aggregate(step: Aggregate, x: Tensor, fine: Tensor) -> Tensor:
    """`step` for a finer map of any width up to its own."""
    y = resize(step.reduce(x), (fine.shape[-2], fine.shape[-1]), step.align_corners)
    y = torch.cat([y, fine], 1)
    conv, norm, relu = step.refine
    weight = cast(nn.Conv2d, conv).weight[:, : y.shape[1]]
    return cast(Tensor, relu(norm(F.conv2d(y, weight, None, 1, 1))))
