"""The weighted sums of a supercell's operators in training (paper, Eq. 2), in little time and memory.

The sums are the plain ones, y = sum_k w_k O_k(x) at stride 1 and at stride 2, to rounding. What is done differently:

* Kept for backward are x and what each convolution makes. Batch norms and ReLUs are computed again from these.
* The weight w_k, which is not negative, enters before the ReLU, with the affine part of the batch norm there. So its gradient
  follows from those of gamma and beta.
* The map is halved once for all zoomed operators, and convolutions of one map share what they can (`conv3x3`).
* Gradients of a slim weight are added to those of the whole weight in place. Nothing is computed for weights that need none.

Notation: u is what a convolution makes, z the batch norm's output, w its factor; a leading d is the gradient of the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from edgesmith.models.ops import resize
from edgesmith.models.parts import zoomed_hw

from .arena import Arena
from .conv3x3 import convolutions, gradients
from .fasterseg_operators import Operator, Superkernel
from .maps import channels_last, masked, point, point_weight

LEAST = 1e-30
"""A weight of 0 is taken for this: times 0, a ReLU would not tell which gradient passes it."""


def mixture(
    x: Tensor,
    mixes: Sequence[Tensor],
    sides: Sequence[Sequence[Operator]],
    chis: Sequence[int],
    arena: Arena | None = None,
) -> list[Tensor]:
    """For each side the sum of its operators' outputs for x (N, C, H, W) at ratio chis[side], weighted by mixes[side] >= 0.

    As in training: with the batch's statistics, and running statistics are updated. H and W are even where a side has stride 2.
    `arena` holds what is kept for backward. Gradients of the operators' parameters are added to their `grad` in backward.
    """
    kind = x.device.type
    x = x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
    ways = [_Way(side, op, chi) for side, (ops, chi) in enumerate(zip(sides, chis, strict=True)) for op in ops]
    parameters = (p for way in ways for p in way.operator.parameters())
    with torch.autocast(kind, enabled=False):
        ys = _Mixture.apply(channels_last(x), torch.cat(list(mixes)), ways, arena, *parameters)  # type: ignore[no-untyped-call]
    return list(ys)


class _Way(NamedTuple):
    """An operator at the width that it has this time."""

    side: int
    operator: Operator
    chi: int

    @property
    def enlarged(self) -> bool:
        return self.operator.zoomed and self.operator.stride == 1

    def layers(self, x: Tensor) -> list[_Layer]:
        first, *others = self.operator.kernels
        width = first.rate * self.chi
        return [_Layer(first, x.shape[1], self.chi, x), *(_Layer(kernel, width, self.chi, x) for kernel in others)]


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mix: Tensor, ways: Sequence[_Way], arena: Arena | None, *_: Tensor) -> tuple[Tensor, ...]:
        hw = (x.shape[-2], x.shape[-1])
        mix = mix.clamp(min=LEAST)
        ys: dict[int, Tensor] = {}
        kept: list[Tensor] = []
        keep = kept.append if arena is None else lambda u: kept.append(arena.keep(u))
        layers = [way.layers(x) for way in ways]
        us = _Firsts(x, [first for first, *_ in layers], ways).forward()
        for k, (way, (*before, last)) in enumerate(zip(ways, layers, strict=True)):
            u, us[k] = us[k], x  # nothing here holds it any longer
            keep(u)
            for layer in before:
                h = layer.normed(kept[-1], tell=True)[0].relu_()
                keep(last.convolved(h))
            z = last.normed(kept[-1], mix[k], tell=True)[0]
            z = (resize(z, hw, True) if way.enlarged else z).relu_()
            ys[way.side] = ys[way.side].add_(z) if way.side in ys else z
        ctx.ways = ways
        # Not among the saved tensors: filling the arena on counts as a change of all that lies in it.
        ctx.kept = kept
        ctx.save_for_backward(x, mix)
        return tuple(ys.values())

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        x, mix = ctx.saved_tensors
        ways: Sequence[_Way] = ctx.ways
        kept, ctx.kept = iter(ctx.kept), ()
        hw = (x.shape[-2], x.shape[-1])
        dys = tuple(channels_last(dy.to(x.dtype)) for dy in dys)
        dmix = torch.empty_like(mix)
        layers = [way.layers(x) for way in ways]
        dus = []
        for k, (way, (*before, last)) in enumerate(zip(ways, layers, strict=True)):
            maps = [next(kept) for _ in range(len(before) + 1)]
            z, *statistics = last.normed(maps[-1], mix[k])
            z = resize(z, hw, True) if way.enlarged else z
            dz = _resize_gradient(torch.ops.aten.threshold_backward(dys[way.side], z, 0), maps[-1].shape)
            du, dmix[k] = last.norm_gradient(dz, maps[-1], statistics, mix[k])
            for layer in before:
                h, *statistics = layer.normed(maps[0])
                dh = last.convolution_gradient(h.relu_(), du)
                du, _ = layer.norm_gradient(masked(dh, h), maps[0], statistics)
            dus.append(du)
        dx = _Firsts(x, [first for first, *_ in layers], ways).backward(dus, ctx.needs_input_grad[0])
        return dx, dmix, *([None] * (len(ctx.needs_input_grad) - 2))


class _Firsts:
    """The first convolutions of all ways, which have their input in common."""

    def __init__(self, x: Tensor, layers: Sequence[_Layer], ways: Sequence[_Way]) -> None:
        self.x, self.layers = x, layers
        self.groups: dict[tuple[bool, int, int], list[int]] = {}
        """(zoomed, kernel, stride) -> ways."""
        for k, (layer, way) in enumerate(zip(layers, ways, strict=True)):
            group = (way.operator.zoomed, layer.kernel.kernel, layer.kernel.stride)
            self.groups.setdefault(group, []).append(k)

    def source(self, zoomed: bool) -> Tensor:
        return resize(self.x, zoomed_hw((self.x.shape[-2], self.x.shape[-1])), True) if zoomed else self.x

    def forward(self) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for (zoomed, kernel, stride), members in self.groups.items():
            layers = [self.layers[k] for k in members]
            if kernel == 1:
                us = [torch.cat([point(g, w.flatten(1)) for g, w in layer.grids(self.x)], 1) for layer in layers]
            else:
                us = convolutions(self.source(zoomed), [layer.weights[0] for layer in layers], stride)
            found.update(zip(members, us, strict=True))
        return [found[k] for k in range(len(found))]

    def backward(self, dus: Sequence[Tensor], wanted: bool) -> Tensor | None:
        """The gradient of x, if wanted; those of the weights are added to them."""
        dx = torch.zeros_like(self.x)
        for (zoomed, kernel, stride), members in self.groups.items():
            layers = [self.layers[k] for k in members]
            if kernel == 1:
                for layer, k in zip(layers, members, strict=True):
                    layer.point_gradient(self.x, dus[k], dx)
                continue
            source, weights = self.source(zoomed), [layer.weights[0] for layer in layers]
            sums = [layer.gradient(0) for layer in layers if layer.trained]
            dsource = gradients(source, weights, [dus[k] for k in members], stride, wanted, sums)
            if dsource is not None:
                dx += _resize_gradient(dsource, dx.shape)
        return dx if wanted else None


class _Layer:
    """A superkernel and its batch norm at one width, for maps like `x`."""

    def __init__(self, kernel: Superkernel, cin: int, chi: int, x: Tensor) -> None:
        self.kernel = kernel
        self.norm = kernel.norm(chi)
        self.trained = kernel.weights[0].requires_grad
        self.weights = [channels_last(kernel.weight(i, cin, chi).detach().to(x.dtype)) for i in range(kernel.parts)]

    def convolved(self, h: Tensor) -> Tensor:
        return convolutions(h, self.weights)[0]

    def convolution_gradient(self, h: Tensor, du: Tensor) -> Tensor:
        """The gradient of h; that of the weight is added to it."""
        return cast(Tensor, gradients(h, self.weights, [du], 1, True, [self.gradient(0)] if self.trained else []))

    def gradient(self, part: int) -> Tensor:
        """What the gradient of this layer's weight is added to."""
        return gradient(self.kernel.weights[part], self.weights[part].shape)

    def grids(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each part of a skip the pixels that it takes, and its weight."""
        for i, weight in enumerate(self.weights):
            yield channels_last(x[:, :, i :: self.kernel.stride, i :: self.kernel.stride]), weight

    def point_gradient(self, x: Tensor, du: Tensor, dx: Tensor) -> None:
        """Of a skip: add the gradient of x to `dx`, that of the weight to its own."""
        dparts = map(channels_last, du.chunk(self.kernel.parts, 1))
        for i, ((grid, weight), dpart) in enumerate(zip(self.grids(x), dparts, strict=True)):
            if self.trained:
                self.gradient(i).add_(point_weight(grid, dpart)[..., None, None])
            dx[:, :, i :: self.kernel.stride, i :: self.kernel.stride] += point(dpart, weight.flatten(1).t())

    def normed(self, u: Tensor, factor: Tensor | None = None, tell: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The batch norm of u, times `factor`, with the mean of u and its inverse deviation; `tell` the running statistics."""
        norm = self.norm
        told = (norm.running_mean, norm.running_var) if tell else (None, None)
        if tell:
            cast(Tensor, norm.num_batches_tracked).add_(1)
        gamma, beta = self.affine(factor)
        found: tuple[Tensor, Tensor, Tensor] = torch.native_batch_norm(
            u, gamma, beta, *told, True, cast(float, norm.momentum), norm.eps
        )
        return found

    def norm_gradient(
        self, dz: Tensor, u: Tensor, statistics: Sequence[Tensor], factor: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The gradients of u and of `factor`; those of gamma and beta are added to them."""
        gamma, _ = self.affine(factor)
        du, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            dz, u, gamma, None, None, *statistics, True, self.norm.eps, (True, True, True)
        )
        dfactor = dgamma @ self.norm.weight.detach() + dbeta @ self.norm.bias.detach()
        if self.norm.weight.requires_grad:
            for parameter, found in ((self.norm.weight, dgamma), (self.norm.bias, dbeta)):
                gradient(parameter, found.shape).add_(found if factor is None else found * factor)
        return du, dfactor

    def affine(self, factor: Tensor | None) -> tuple[Tensor, Tensor]:
        gamma, beta = self.norm.weight.detach(), self.norm.bias.detach()
        return (gamma, beta) if factor is None else (gamma * factor, beta * factor)


def gradient(parameter: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of a parameter's first rows and columns, in the memory of the parameter's, which begins as zeros."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad[tuple(slice(side) for side in shape)]


def _resize_gradient(dy: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of a map of this shape that was resized, corners aligned, given that of what came of it."""
    if dy.shape[-2:] == tuple(shape[-2:]):
        return dy
    return torch.ops.aten.upsample_bilinear2d_backward(dy, dy.shape[-2:], list(shape), True, None, None)  # type: ignore[no-any-return]
