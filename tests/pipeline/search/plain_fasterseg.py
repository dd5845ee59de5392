"""The FasterSeg supernet as one writes it from the paper: every operator of a cell in turn, all passes in one loss.

Its state dict has the names of `edgesmith.pipeline.search.fasterseg_supernet.Supernet`, so weights pass between the two with
`load_state_dict`. Tests compare the two, and bench/fasterseg_step.py times them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith.models.arch import Segmentation
from edgesmith.models.fasterseg import Aggregation, Head
from edgesmith.models.ops import conv_bn_relu, resize
from edgesmith.pipeline.search.fasterseg_relaxed import Pass, Widths
from edgesmith.pipeline.search.fasterseg_space import NETS, RATES, Net, Op, Space


class PlainKernel(nn.Module):
    """A superkernel: the first rows and columns of one weight, or of two on the map and the shifted one; a norm a width."""

    def __init__(self, cin: int, chis: Sequence[int], rate: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.rate, self.stride, self.padding = rate, stride, kernel // 2
        halves = 2 if kernel == 1 and stride == 2 else 1
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(max(chis) * rate // halves, cin, kernel, kernel)) for _ in range(halves)
        )
        for weight in self.weights:
            nn.init.kaiming_normal_(weight)
        self.norms = nn.ModuleDict({str(chi): nn.BatchNorm2d(chi * rate) for chi in chis})

    def forward(self, x: Tensor, chi: int) -> Tensor:
        width = chi * self.rate // len(self.weights)
        ys = []
        for weight in self.weights:
            ys.append(F.conv2d(x, weight[:width, : x.shape[1]], stride=self.stride, padding=self.padding))
            x = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norms[str(chi)](torch.cat(ys, 1))  # type: ignore[no-any-return]


class PlainOperator(nn.Module):
    def __init__(self, op: Op, cin: int, chis: Sequence[int], rate: int, stride: int) -> None:
        super().__init__()
        self.zoomed, self.stride = op.startswith("zoomed"), stride
        first = PlainKernel(cin, chis, rate, 1 if op == "skip" else 3, 1 if self.zoomed else stride)
        second = (PlainKernel(max(chis) * rate, chis, rate, 3, 1),) if op.endswith("x2") else ()
        self.layers = nn.ModuleList((first, *second))

    def forward(self, x: Tensor, chi: int) -> Tensor:
        hw = (x.shape[-2], x.shape[-1])
        if self.zoomed:
            x = resize(x, (max(1, hw[0] // 2), max(1, hw[1] // 2)), True)
        for i, layer in enumerate(self.layers):
            x = layer(F.relu(x) if i else x, chi)
        if self.zoomed and self.stride == 1:
            x = resize(x, hw, True)
        return F.relu(x)


class PlainCell(nn.Module):
    """All operators at stride 1 and, where there is a next scale to go to, at stride 2."""

    def __init__(self, operators: Sequence[Op], cin: int, chis: Sequence[int], rate: int, down: bool) -> None:
        super().__init__()
        self.keep = nn.ModuleDict({op: PlainOperator(op, cin, chis, rate, 1) for op in operators})
        self.down = nn.ModuleDict({op: PlainOperator(op, cin, chis, 2 * rate, 2) for op in operators} if down else {})


def mixed(operators: nn.ModuleDict, x: Tensor, alpha: Tensor, chi: int) -> Tensor:
    """Eq. 2."""
    total: Tensor | None = None
    for k, operator in enumerate(operators.values()):
        y = operator(x, chi) * alpha[k]
        total = y if total is None else total + y
    assert total is not None
    return total


class PlainSupernet(nn.Module):
    def __init__(self, space: Space, task: Segmentation, nets: Sequence[Net] = NETS) -> None:
        super().__init__()
        self.space = space
        chis = sorted({*space.ratios, *(space.chi(net) for net in nets)})
        self.stems, self.aggregations, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for net in nets:
            f = space.chi(net)
            self.stems[net] = nn.Sequential(
                conv_bn_relu(3, 4 * f, 3, stride=2),
                conv_bn_relu(4 * f, 8 * f, 3, stride=2),
                conv_bn_relu(8 * f, 8 * f, 3),
                conv_bn_relu(8 * f, 8 * f, 3, stride=2),
                conv_bn_relu(8 * f, 8 * f, 3),
            )
            finer = [rate * max(chis) for rate in RATES]
            self.aggregations[net] = nn.ModuleList(Aggregation((*finer[:scale], RATES[scale] * f), f, True) for scale in (1, 2))
            self.heads[net] = nn.ModuleList(
                nn.ModuleDict({"fuse": conv_bn_relu(n, n, 1), "head": Head(n, task.classes)})
                for n in (8 * f * len(scales) for scales in space.heads())
            )
        self.cells = nn.ModuleList(
            nn.ModuleList(
                PlainCell(space.operators, rate * max(chis), chis, rate, scale < 2 and scale + i < space.layers - 1)
                for i in range(space.cells(scale))
            )
            for scale, rate in enumerate(RATES)
        )

    def head_logits(
        self, x: Tensor, net: Net, alpha: Sequence[Tensor], beta: Sequence[Tensor], widths: Widths
    ) -> tuple[Tensor, ...]:
        space = self.space
        inputs: list[list[Any]] = [[self.stems[net](x)], [], []]  # what enters each cell, by scale
        outputs: list[Any] = [None, None, None]
        downs: list[Any] = [None, None, None]

        def chi_of(scale: int, layer: int) -> int:
            """Ratio of the tensor that enters the cell of this scale in this layer."""
            if layer in (0, space.layers):
                return space.chi(net)
            return space.ratios[widths.index[scale][layer - max(scale, 1)]]

        def gated(x: Tensor, scale: int, layer: int) -> Tensor:
            """The channels between two ratios are multiplied by what gamma says of all ratios that have them."""
            if widths.gates is None:
                return x
            gate, first, parts = widths.gates[scale][layer - max(scale, 1)], 0, []
            for j, ratio in enumerate(r for r in space.ratios if r <= chi_of(scale, layer)):
                parts.append(gate[j] * x[:, first : ratio * RATES[scale]])
                first = ratio * RATES[scale]
            return torch.cat(parts, 1)

        for layer in range(space.layers):
            before, downs_before = outputs, downs
            outputs, downs = [None, None, None], [None, None, None]
            for scale in range(min(layer, 2) + 1):
                cell: Any = self.cells[scale][layer - scale]  # type: ignore[index]
                keep, down = before[scale], downs_before[scale - 1]
                if layer == 0:
                    entering = inputs[0][0]
                elif scale == 0:
                    entering = keep
                elif layer == scale:
                    entering = down
                else:
                    weight = beta[scale - 1][layer - scale - 1]
                    entering = weight[0] * down + weight[1] * keep  # Eq. 1
                if layer > 0:
                    entering = gated(entering, scale, layer)
                    inputs[scale].append(entering)
                mine = alpha[scale][layer - scale]
                outputs[scale] = mixed(cell.keep, entering, mine, chi_of(scale, layer + 1))
                if len(cell.down):
                    downs[scale] = mixed(cell.down, entering, mine, chi_of(scale + 1, layer + 1))

        # The finer map that meets a deeper branch is the one it left its scale with: as likely as beta says (section 3.4).
        to_16, to_32 = beta[0][:, 0], beta[1][:, 0]
        one, two = map(torch.from_numpy, space.places())
        if not two.any():
            two = torch.arange(len(to_16))[:, None] <= torch.arange(len(to_32))[None]
        both = torch.outer(to_16, to_32) * two.to(to_16)
        left_8 = to_16 * one.to(to_16) if one.any() else to_16
        left_8 = left_8 / left_8.sum()
        joint = both / both.sum()

        def left(scale: int, weights: Tensor) -> Any:
            """sum over layers of the weighted maps, of which the slim ones are filled up with zeros."""
            maps = inputs[scale][1 : 1 + len(weights)]
            width = max(m.shape[1] for m in maps)
            return sum(w * F.pad(m, (0, 0, 0, 0, 0, width - m.shape[1])) for w, m in zip(weights, maps, strict=True))

        aggregations: Any = self.aggregations[net]
        finer = {1: [left(0, left_8)], 2: [left(0, joint.sum(1)), left(1, joint.sum(0))]}
        aggregated = [outputs[0]]
        for scale, aggregation in enumerate(aggregations, 1):
            y = outputs[scale]
            for step, fine in zip(aggregation, reversed(finer[scale]), strict=True):
                y = resize(step.reduce(y), (fine.shape[-2], fine.shape[-1]), True)
                y = torch.cat([y, fine], 1)
                conv, norm, relu = step.refine
                y = relu(norm(F.conv2d(y, conv.weight[:, : y.shape[1]], padding=1)))
            aggregated.append(y)
        heads: Any = self.heads[net]
        return tuple(
            part["head"](part["fuse"](torch.cat([aggregated[s] for s in scales], 1)))
            for part, scales in zip(heads, space.heads(), strict=True)
        )


def plain_loss(
    net: PlainSupernet, x: Tensor, labels: Tensor, passes: Sequence[Pass], loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The losses of all heads in all passes, at 1/8 resolution."""
    small = labels[:, ::8, ::8]
    return sum(  # type: ignore[return-value]
        loss(logits, small) for p in passes for logits in net.head_logits(x, p.net, p.alpha, p.beta, p.widths)
    )
