"""What layers do to feature maps, without computing one: sizes, convolutions, and how far each value sees.

A family's trace (in `edgesmith.models.cost`) reads like its module, with `FeatureMap` in the place of tensors. Nothing is
approximated: sizes follow the modules at any input size, and the reach of a value is the exact span of input rows and
columns that it depends on. Reach is worked out only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Reach:
    """Along one axis: the first and the last input index that the value at each index of a map depends on."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @property
    def span(self) -> int:
        """The most that any value sees."""
        return max(0, int((self.last - self.first).max()) + 1)

    def windows(self, start: NDArray[np.int64], taps: int, step: int = 1) -> Reach:
        """Of a layer whose value i reads indices start[i], start[i] + step, ... (`taps` of them); padding has no reach."""
        read = start[:, None] + step * np.arange(taps)  # (out, taps)
        inside = (read >= 0) & (read < len(self.first))
        at = read.clip(0, len(self.first) - 1)
        nothing = np.iinfo(np.int64).max
        first = np.where(inside, self.first[at], nothing).min(1)
        return Reach(first, np.where(inside, self.last[at], -1).max(1))

    def resized(self, size: int, align_corners: bool) -> Reach:
        """Of a bilinear resize: the neighbours that have a weight."""
        given, at = len(self.first), np.arange(size)
        # The coordinate as a fraction of integers, so that a value that falls onto its source reads that one alone.
        above, below = (at * (given - 1), max(1, size - 1)) if align_corners else ((2 * at + 1) * given - size, 2 * size)
        above = above.clip(0, (given - 1) * below)
        low, high = above // below, -(-above // below)
        return Reach(np.minimum(self.first[low], self.first[high]), np.maximum(self.last[low], self.last[high]))

    def joined(self, other: Reach) -> Reach:
        return Reach(np.minimum(self.first, other.first), np.maximum(self.last, other.last))


class FeatureMap:
    """A map of known size: (1, channels, H, W), and which input pixels its values depend on."""

    def __init__(self, channels: int, hw: Size, reach: Callable[[], tuple[Reach, Reach]]) -> None:
        self.channels = channels
        self.hw = hw
        self._reach = reach

    @cached_property
    def reach(self) -> tuple[Reach, Reach]:
        """Along rows and along columns."""
        return self._reach()

    @property
    def receptive_hw(self) -> Size:
        """Input rows and columns from the first to the last that one value depends on: the most over the map's values.

        Padding is not counted, so this ends at the size of the input.
        """
        rows, columns = self.reach
        return rows.span, columns.span


def image(hw: Size) -> FeatureMap:
    """The network's input."""
    return FeatureMap(3, hw, lambda: (Reach(np.arange(hw[0]), np.arange(hw[0])), Reach(np.arange(hw[1]), np.arange(hw[1]))))


def resized(x: FeatureMap, hw: Size, align_corners: bool) -> FeatureMap:
    """Bilinear resize."""

    def reach() -> tuple[Reach, Reach]:
        rows, columns = x.reach
        return rows.resized(hw[0], align_corners), columns.resized(hw[1], align_corners)

    return FeatureMap(x.channels, hw, reach)


def shifted(x: FeatureMap) -> FeatureMap:
    """The map moved up and left by one; what enters at the other side is padding."""

    def reach() -> tuple[Reach, Reach]:
        rows, columns = (r.windows(1 + np.arange(n), 1) for r, n in zip(x.reach, x.hw, strict=True))
        return rows, columns

    return FeatureMap(x.channels, x.hw, reach)


def pooled(x: FeatureMap, window: Size, stride: Size) -> FeatureMap:
    """Mean over windows, without padding."""
    hw = (x.hw[0] - window[0]) // stride[0] + 1, (x.hw[1] - window[1]) // stride[1] + 1

    def reach() -> tuple[Reach, Reach]:
        rows, columns = (r.windows(s * np.arange(n), w) for r, s, n, w in zip(x.reach, stride, hw, window, strict=True))
        return rows, columns

    return FeatureMap(x.channels, hw, reach)


def joined(*maps: FeatureMap, channels: int | None = None) -> FeatureMap:
    """Maps of one size, concatenated; or added, where `channels` says how many there are."""

    def reach() -> tuple[Reach, Reach]:
        rows, columns = maps[0].reach
        for other in maps[1:]:
            rows, columns = rows.joined(other.reach[0]), columns.joined(other.reach[1])
        return rows, columns

    return FeatureMap(sum(m.channels for m in maps) if channels is None else channels, maps[0].hw, reach)


@dataclass(frozen=True, eq=False)
class Conv:
    """One convolution with what directly follows it (batch norm or bias, ReLU), on a map of known size."""

    name: str
    """Of the module: `stem` is the convolution below `stem`."""
    x: FeatureMap = field(repr=False)
    """What it reads."""
    cout: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = False
    """True: a bias; False: a batch norm."""

    @property
    def cin(self) -> int:
        return self.x.channels

    @property
    def in_hw(self) -> Size:
        return self.x.hw

    @property
    def out_hw(self) -> Size:
        """Padding is "same" everywhere: only stride makes a map smaller, and rounds up."""
        return -(-self.in_hw[0] // self.stride), -(-self.in_hw[1] // self.stride)

    @property
    def macs(self) -> int:
        return self.cout * (self.cin // self.groups) * self.kernel**2 * self.out_hw[0] * self.out_hw[1]

    @property
    def params(self) -> int:
        return self.cout * (self.cin // self.groups) * self.kernel**2 + self.cout * (1 if self.bias else 2)

    @property
    def activations(self) -> int:
        """Values that it reads and writes, weights apart."""
        return self.cin * self.in_hw[0] * self.in_hw[1] + self.cout * self.out_hw[0] * self.out_hw[1]

    @property
    def receptive_hw(self) -> Size:
        """`FeatureMap.receptive_hw` of what it writes."""
        return self.output.receptive_hw

    @cached_property
    def output(self) -> FeatureMap:
        """What it writes."""
        return FeatureMap(self.cout, self.out_hw, self._reach)

    def _reach(self) -> tuple[Reach, Reach]:
        padding = self.dilation * (self.kernel - 1) // 2
        rows, columns = (
            r.windows(self.stride * np.arange(n) - padding, self.kernel, self.dilation)
            for r, n in zip(self.x.reach, self.out_hw, strict=True)
        )
        return rows, columns


class Trace:
    """Collects the convolutions of a network in the order in which they run."""

    def __init__(self) -> None:
        self.convs: list[Conv] = []

    def conv(
        self,
        name: str,
        x: FeatureMap,
        cout: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> FeatureMap:
        """Note the convolution, and give what it writes."""
        self.convs.append(Conv(name, x, cout, kernel, stride, dilation, groups, bias))
        return self.convs[-1].output
