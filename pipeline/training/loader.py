"""Training batches in an order and with augmentations that depend on (seed, epoch, index, stream) alone.

They are prepared ahead in threads.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesmith.pipeline.data.dataset import Split

Augmentation = Callable[
    [NDArray[np.uint8], NDArray[np.uint8], np.random.Generator], tuple[NDArray[np.uint8], NDArray[np.uint8]]
]


class Batch(NamedTuple):
    frames: NDArray[np.uint8]
    """(N, H, W, 3), RGB."""
    labels: NDArray[np.uint8]
    """(N, H, W)."""


@dataclass(frozen=True)
class Batches:
    """The batches of each epoch. Threads change when a batch is ready, never what is in it."""

    split: Split
    augment: Augmentation
    size: int
    seed: int
    workers: int = 2
    ahead: int = 3
    """Batches prepared while one is in use."""
    stream: int = 0
    """Tells apart sources of one seed: each stream has its own order and its own augmentations."""

    def __post_init__(self) -> None:
        if len(self.split) < self.size:
            raise ValueError(f"batch: {self.size} frames a batch, but the training split has only {len(self.split)}")

    def __len__(self) -> int:
        """Batches an epoch; frames that do not fill a last batch are left out of that epoch."""
        return len(self.split) // self.size

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch in order, from batch `first` on."""
        order = self._random(epoch).permutation(len(self.split))
        with ThreadPoolExecutor(self.workers) as pool:

            def submit(batch: int) -> list[Future[tuple[NDArray[np.uint8], NDArray[np.uint8]]]]:
                rows = range(batch * self.size, (batch + 1) * self.size)
                return [pool.submit(self._sample, epoch, int(order[row])) for row in rows]

            waiting: deque[list[Future[tuple[NDArray[np.uint8], NDArray[np.uint8]]]]] = deque()
            following = first
            try:
                while following < len(self) or waiting:
                    while following < len(self) and len(waiting) < self.ahead:
                        waiting.append(submit(following))
                        following += 1
                    samples = [future.result() for future in waiting.popleft()]
                    yield _stacked(samples)
            finally:
                for futures in waiting:
                    for future in futures:
                        future.cancel()

    def first(self, count: int) -> Iterator[Batch]:
        """The first `count` batches of the first epoch (of the following ones too, where an epoch has fewer)."""
        every = (batch for epoch in itertools.count() for batch in self.epoch(epoch))
        return itertools.islice(every, count)

    def _sample(self, epoch: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        sample = self.split[index]
        return self.augment(sample.frame, sample.label, self._random(epoch, index))

    def _random(self, *place: int) -> np.random.Generator:
        """Seeds without a stream are those of stream 0."""
        return np.random.default_rng((self.seed, *place, *((self.stream,) if self.stream else ())))


def _stacked(samples: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Batch:
    """Frames and labels of one size as a batch. Raises ValueError with the fix where sizes differ."""
    sizes = sorted({label.shape for _, label in samples})
    if len(sizes) > 1:
        listed = ", ".join(f"{h}x{w}" for h, w in sizes)
        raise ValueError(
            f"frames of a batch have different sizes ({listed}); set augment.crop_hw in the section of this stage, such as "
            f"{list(sizes[0])}"
        )
    return Batch(np.stack([frame for frame, _ in samples]), np.stack([label for _, label in samples]))


@dataclass(frozen=True)
class Pairs:
    """The batches of two sources side by side, as many an epoch as the shorter one has."""

    one: Batches
    other: Batches

    def __len__(self) -> int:
        return min(len(self.one), len(self.other))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Batch, Batch]]:
        """The pairs of one epoch in order, from pair `first` on."""
        both = zip(self.one.epoch(epoch, first), self.other.epoch(epoch, first), strict=False)
        return itertools.islice(both, len(self) - first)
