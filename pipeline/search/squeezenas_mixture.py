"""The weighted sum of a superblock's inverted residual blocks, each image with its own weights, in little time and memory.

The sum is the plain one, y_n = sum_j w_nj block_j(x)_n with batch norms over the whole batch, to rounding. What is not done:

* Keeping. Backward computes the inner maps of a candidate again. Both ways go through them in parts of a few channels, and a
  part passes expansion, depthwise convolution, batch norms and ReLUs before the next begins. Kept are x and the projections.
* The batch norm behind the expansion u = E x. Its statistics follow from those of x, which all candidates share: with x
  centred, var(u) = diag(E cov(x) E'), so it is folded into E. Its backward needs of the large maps only sum(dv) and dv x',
  with dv the gradient behind it; the latter is the convolution's weight gradient that is computed anyway.
* Weighting. A projection's batch norm, its weight and the sum over candidates are one multiply-add.
* Dilation. The map is taken apart, once for all candidates, into the sub-grids that dilated taps see, on which the convolutions
  are undilated; with stride 2 all sub-grids but one drop out.

Notation: E, D, P are the weights of expansion, depthwise convolution and projection; u = E x, v = norm(u), a = relu(v),
b = D a, h = relu(norm(b)), z = P h, y = sum w norm(z); a leading d is the gradient of the loss. Maps are channels-last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith.models.squeezenas import MbConv

from .depthwise import Depthwise, from_subgrids, subgrids
from .maps import MAP, batch_statistics, channels_last, flat, masked, pixels, point, point_weight, wide

PART_ELEMENTS = 1 << 21
"""About as many elements of an expanded map are worked on at a time."""
LANES = 16
"""Channels that convolution kernels take at a time."""


def mixture(x: Tensor, weights: Tensor, blocks: Sequence[MbConv]) -> Tensor:
    """sum_j weights[n, j] * blocks[j](x)[n] without the blocks' residuals; x (N, C, H, W), weights (N, len(blocks)).

    As in training: with the batch's statistics, and running statistics are updated.
    """
    kind = x.device.type
    x = x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
    with torch.autocast(kind, enabled=False):
        y: Tensor = _Mixture.apply(x, weights, blocks, *(p for b in blocks for p in b.parameters()))  # type: ignore[no-untyped-call]
    return y


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mix: Tensor, blocks: Sequence[MbConv], *parameters: Tensor) -> Tensor:
        given = _Input.of(x)
        y = x.new_zeros(())
        kept: list[Tensor] = []
        for family in _families(blocks, given):
            share, statistics, zs = family.forward(mix[:, family.members])
            y = share.add_(y)
            kept += [*statistics, *zs]
        ctx.blocks = blocks
        # The parameters are read from the blocks; kept here, a change to them before backward is an error.
        ctx.save_for_backward(x, mix, *kept, *parameters)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mix, *saved = ctx.saved_tensors
        kept = iter(saved)
        given = _Input.of(x)
        dy = channels_last(dy.to(x.dtype))
        dx, dmix = torch.zeros_like(given.x), torch.empty_like(mix)
        lacking = torch.zeros_like(given.covariance)
        gradients: list[list[Tensor]] = [[] for _ in ctx.blocks]
        for family in _families(ctx.blocks, given):
            statistics = _Statistics(*(next(kept) for _ in _Statistics._fields))
            zs = [next(kept) for _ in family.members]
            dmix[:, family.members], found = family.backward(mix[:, family.members], statistics, zs, dy, dx, lacking)
            for j, grads in zip(family.members, found, strict=True):
                gradients[j] = grads
        dx -= dx.mean(MAP)[:, None, None] + point(given.x, lacking / pixels(x))
        return dx, dmix, None, *(g for grads in gradients for g in grads)


def _families(blocks: Sequence[MbConv], given: _Input) -> Iterator[_Family]:
    layers = [_Layers.of(block) for block in blocks]
    members: dict[Depthwise, list[int]] = {}
    for j, one in enumerate(layers):
        members.setdefault(one.geometry, []).append(j)
    return (_Family(js, [layers[j] for j in js], given) for js in members.values())


class _Layers(NamedTuple):
    """The layers of one candidate."""

    expand: nn.Conv2d
    expand_norm: nn.BatchNorm2d
    depthwise: nn.Conv2d
    depthwise_norm: nn.BatchNorm2d
    project: nn.Conv2d
    project_norm: nn.BatchNorm2d

    @staticmethod
    def of(block: MbConv) -> _Layers:
        return _Layers(
            *(cast(Any, layer) for part in (block.expand, block.depthwise, block.project) for layer in list(part)[:2])
        )

    @property
    def geometry(self) -> Depthwise:
        conv = self.depthwise
        return Depthwise(conv.kernel_size[0], conv.stride[0], conv.dilation[0])


class _Input(NamedTuple):
    """The input of all candidates, centred, with its mean (C,) and covariance (C, C)."""

    x: Tensor
    mean: Tensor
    covariance: Tensor

    @staticmethod
    def of(x: Tensor) -> _Input:
        mean = x.mean(MAP, dtype=wide(x))
        x = channels_last((x - mean[:, None, None]).to(x.dtype))
        matrix = flat(x).to(mean.dtype)
        return _Input(x, mean, matrix.t() @ matrix / pixels(x))


class _Statistics(NamedTuple):
    """Mean and variance of b (inner,) and z (candidates, C')."""

    b_mean: Tensor
    b_var: Tensor
    z_mean: Tensor
    z_var: Tensor


class _Family:
    """Candidates that differ in nothing but their inner channels, on one input. These channels are joined."""

    def __init__(self, members: list[int], layers: list[_Layers], given: _Input) -> None:
        self.members = members
        self.layers = layers
        self.given = given
        self.eps = layers[0].expand_norm.eps
        self.depthwise = layers[0].geometry
        self.step = self.grids = 1
        _, stride, d = self.depthwise
        if d > 1 and stride == d:
            self.step = d
        elif d > 1 and stride == 1 and not any(side % d for side in given.x.shape[2:]):
            self.grids = d
        if self.step > 1 or self.grids > 1:
            self.depthwise = Depthwise(self.depthwise.kernel)
        self.x = self.apart(channels_last(given.x[:, :, :: self.step, :: self.step]))
        self.widths = [one.expand.out_channels for one in layers]
        self.E = torch.cat([ungrouped(one.expand) for one in layers])  # (inner, C)
        self.D = torch.cat([one.depthwise.weight for one in layers]).to(given.x.dtype)  # (inner, 1, k, k)
        self.P = torch.cat([ungrouped(one.project).t() for one in layers]).to(given.x.dtype)  # (inner, C')
        self.u_gamma, self.u_beta = joined(one.expand_norm for one in layers)
        self.b_gamma, self.b_beta = joined(one.depthwise_norm for one in layers)
        self.z_gamma, self.z_beta = (t.view(len(layers), -1) for t in joined(one.project_norm for one in layers))
        self.u_var = ((self.E @ given.covariance) * self.E).sum(1)
        self.u_sigma = (self.u_var + self.eps).sqrt()
        self.u_scale = self.u_gamma / self.u_sigma
        self.folded = (self.u_scale[:, None] * self.E).to(given.x.dtype)

    def forward(self, mix: Tensor) -> tuple[Tensor, _Statistics, list[Tensor]]:
        """y, and what backward needs; mix (N, candidates)."""
        zs: dict[int, Tensor] = {}
        b_statistics = []
        for part in self.parts():
            b = self.depthwise(self.expanded(part), self.D[part.channels])
            b_statistics.append(batch_statistics(b))
            h = self.normed(b, *b_statistics[-1], part)
            del b
            for j, channels, mine in part.pieces:
                if j in zs:
                    flat(zs[j]).addmm_(flat(h[:, mine]), self.P[channels])
                else:
                    zs[j] = point(h[:, mine], self.P[channels].t())
            del h
        maps = list(zs.values())
        z_statistics = zip(*(batch_statistics(z) for z in maps), strict=True)
        statistics = _Statistics(*map(torch.cat, zip(*b_statistics, strict=True)), *map(torch.stack, z_statistics))
        self.update(statistics, pixels(maps[0]))
        scale = self.z_gamma * (statistics.z_var + self.eps).rsqrt()
        shift = (mix[:, :, None] * (self.z_beta - scale * statistics.z_mean)).sum(1)  # (N, C')
        factors = self.by_map(mix[:, :, None] * scale, self.x.dtype)
        y = torch.addcmul(self.by_map(shift, self.x.dtype), factors[:, 0], maps[0])
        for j, z in enumerate(maps[1:], 1):
            y.addcmul_(factors[:, j], z)
        return self.together(y), statistics, maps

    def backward(
        self, mix: Tensor, kept: _Statistics, zs: list[Tensor], dy: Tensor, dx: Tensor, lacking: Tensor
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Gradients of mix and of each candidate's parameters.

        Adds to dx the gradient through the expansions with their statistics taken as constants, and to `lacking` (C, C) what
        the statistics take off it: a matrix times the centred x, over the number of pixels.
        """
        dy = self.apart(dy)
        dzs, dmix, dz_gamma, dz_beta = self.weighting_backward(mix, kept, zs, dy)
        as_it_is = self.step == self.grids == 1
        dx_family = dx if as_it_is else torch.zeros_like(self.x)
        columns = [self.part_backward(part, kept, dzs, dx_family) for part in self.parts()]
        if not as_it_is:
            dx[:, :, :: self.step, :: self.step] += self.together(dx_family)
        dvx, du_beta, dD, db_gamma, db_beta, dP = (torch.cat(c) for c in zip(*columns, strict=True))
        du_gamma = (self.E * dvx).sum(1) / self.u_sigma
        slope = (du_gamma / self.u_sigma)[:, None]
        dE = self.u_scale[:, None] * (dvx - slope * (self.E @ self.given.covariance))
        lacking += self.E.t() @ (self.u_scale[:, None] * slope * self.E)
        inner = (dE, du_gamma, du_beta, dD.to(dE.dtype), db_gamma, db_beta, dP.to(dE.dtype))
        by_candidate = zip(*(torch.split(t, self.widths) for t in inner), strict=True)
        gradients = [
            [grouped(e, one.expand), ug, ub, d, bg, bb, grouped(p.t(), one.project), zg, zb]
            for one, (e, ug, ub, d, bg, bb, p), zg, zb in zip(self.layers, by_candidate, dz_gamma, dz_beta, strict=True)
        ]
        return dmix, gradients

    def weighting_backward(
        self, mix: Tensor, kept: _Statistics, zs: list[Tensor], dy: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """dz of each candidate, and the gradients of mix and of the last batch norms' gamma and beta (candidates, C')."""
        invstd = (kept.z_var + self.eps).rsqrt()
        scale = self.z_gamma * invstd
        dy_sum = self.by_image(dy.sum((2, 3), dtype=wide(dy)))[:, None]  # (N, 1, C')
        dyz = torch.stack([(dy * z).sum((2, 3), dtype=wide(dy)) for z in zs], 1)
        normed = (self.by_image(dyz) - kept.z_mean * dy_sum) * invstd  # sum over a map of dy norm(z): (N, candidates, C')
        dmix = (self.z_gamma * normed + self.z_beta * dy_sum).sum(2)
        dgamma, dbeta = (mix[:, :, None] * normed).sum(0), (mix[:, :, None] * dy_sum).sum(0)
        # dz = scale (w dy - mean(w dy) - norm(z) mean(w dy norm(z))), as factor dy + slope z + shift
        slope = -scale * invstd * dgamma / pixels(zs[0])
        shift = -scale * dbeta / pixels(zs[0]) - slope * kept.z_mean
        factors = self.by_map(mix[:, :, None] * scale, dy.dtype)
        slope, shift = (t.to(dy.dtype)[:, :, None, None] for t in (slope, shift))
        dzs = [torch.addcmul(shift[j], slope[j], z).addcmul_(factors[:, j], dy) for j, z in enumerate(zs)]
        return dzs, dmix, dgamma, dbeta

    def part_backward(self, part: _Part, kept: _Statistics, dzs: list[Tensor], dx: Tensor) -> list[Tensor]:
        """A part's dv x', sum(dv), dD, gradients of the inner batch norm, dP; adds its share to dx.

        Maps are dropped as soon as they have served: the next one then lies where the caches still hold the last.
        """
        channels = part.channels
        gamma, mean, var = (t[channels] for t in (self.b_gamma, kept.b_mean, kept.b_var))
        a = self.expanded(part)
        b = self.depthwise(a, self.D[channels])
        h = self.normed(b, mean, var, part)
        dP = torch.cat([point_weight(h[:, mine], dzs[j]).t() for j, _, mine in part.pieces])
        dhs = [point(dzs[j], self.P[theirs]) for j, theirs, _ in part.pieces]
        dh = masked(dhs[0] if len(dhs) == 1 else torch.cat(dhs, 1), h)
        del h, dhs
        db, db_gamma, db_beta = torch.ops.aten.native_batch_norm_backward(
            dh, b, gamma, None, None, mean, (var + self.eps).rsqrt(), True, self.eps, [True, True, True]
        )
        del dh, b
        da, dD = self.depthwise.gradients(a, self.D[channels], db)
        del db
        dv = masked(da, a)
        del da, a
        flat(dx).addmm_(flat(dv), self.folded[channels])
        return [point_weight(self.x, dv), dv.sum(MAP, dtype=wide(dv)), dD, db_gamma, db_beta, dP]

    def parts(self) -> Iterator[_Part]:
        """The inner channels in parts of about PART_ELEMENTS or of one candidate."""
        n, _, h, w = self.x.shape
        size = max(LANES, PART_ELEMENTS // (n * h * w) // LANES * LANES)
        pieces: list[tuple[int, slice]] = []
        start = 0
        for j, width in enumerate(self.widths):
            step = -(-width // -(-width // size) // LANES) * LANES  # equal pieces, no larger than size
            for low in range(start, start + width, step):
                piece = slice(low, min(low + step, start + width))
                if pieces and piece.stop - pieces[0][1].start > size:
                    yield _Part.of(pieces)
                    pieces = []
                pieces.append((j, piece))
            start += width
        yield _Part.of(pieces)

    def expanded(self, part: _Part) -> Tensor:
        """a."""
        return point(self.x, self.folded[part.channels], self.u_beta[part.channels]).relu_()

    def normed(self, b: Tensor, mean: Tensor, var: Tensor, part: _Part) -> Tensor:
        """h."""
        return F.batch_norm(b, mean, var, self.b_gamma[part.channels], self.b_beta[part.channels], False, 0.0, self.eps).relu_()

    def apart(self, x: Tensor) -> Tensor:
        """A map as this family's convolutions take it."""
        return subgrids(x, self.grids) if self.grids > 1 else x

    def together(self, x: Tensor) -> Tensor:
        """The inverse of `apart`."""
        return from_subgrids(x, self.grids) if self.grids > 1 else x

    def by_map(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Values of images (N, ...), as factors of maps that were taken apart (N * grids^2, ..., 1, 1)."""
        return values.to(dtype).repeat(self.grids**2, *[1] * (values.dim() - 1))[..., None, None]

    def by_image(self, values: Tensor) -> Tensor:
        """The sum over an image's sub-grids: (N * grids^2, ...) -> (N, ...)."""
        return values.view(self.grids**2, -1, *values.shape[1:]).sum(0)

    def update(self, statistics: _Statistics, count: int) -> None:
        """Bring the running statistics up to date; b and z have `count` pixels."""
        inner = (self.E @ self.given.mean, self.u_var, statistics.b_mean, statistics.b_var)
        by_candidate = zip(*(torch.split(t, self.widths) for t in inner), strict=True)
        last = zip(statistics.z_mean, statistics.z_var, strict=True)
        for one, (u_mean, u_var, b_mean, b_var), (z_mean, z_var) in zip(self.layers, by_candidate, last, strict=True):
            update(one.expand_norm, u_mean, u_var, pixels(self.given.x))
            update(one.depthwise_norm, b_mean, b_var, count)
            update(one.project_norm, z_mean, z_var, count)


class _Part(NamedTuple):
    """Inner channels that are worked on together."""

    channels: slice
    pieces: list[tuple[int, slice, slice]]
    """A candidate, its channels, and the same counted from the part's first."""

    @staticmethod
    def of(pieces: list[tuple[int, slice]]) -> _Part:
        first = pieces[0][1].start
        return _Part(slice(first, pieces[-1][1].stop), [(j, s, slice(s.start - first, s.stop - first)) for j, s in pieces])


def joined(norms: Iterable[nn.BatchNorm2d]) -> tuple[Tensor, Tensor]:
    """Gamma and beta of batch norms side by side."""
    gammas, betas = zip(*((norm.weight, norm.bias) for norm in norms), strict=True)
    return torch.cat(gammas), torch.cat(betas)


def ungrouped(conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution's weight as a matrix (outputs, inputs), block-diagonal where it has groups."""
    matrix = conv.weight.flatten(1)
    if conv.groups == 1:
        return matrix
    return torch.block_diag(*matrix.chunk(conv.groups))  # type: ignore[no-untyped-call, no-any-return]


def grouped(matrix: Tensor, conv: nn.Conv2d) -> Tensor:
    """The inverse of `ungrouped`: what of the matrix is the weight of `conv`."""
    if conv.groups > 1:
        matrix = torch.cat([rows.chunk(conv.groups, 1)[i] for i, rows in enumerate(matrix.chunk(conv.groups))])
    return matrix.reshape(conv.weight.shape)


def update(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """Bring a batch norm's running statistics up to date after a batch of `count` pixels."""
    momentum = cast(float, norm.momentum)
    cast(Tensor, norm.running_mean).lerp_(mean, momentum)
    cast(Tensor, norm.running_var).lerp_(var * (count / (count - 1)), momentum)
    cast(Tensor, norm.num_batches_tracked).add_(1)
