"""`street`: a procedural street in CamVid's classes that needs no download, as seen from a car.

A frame is a function of (seed, index, size) alone. `render` draws light, camera and road, sets out both sides of the
street and the traffic, and has everything painted from far to near. OpenCV's own random numbers are never used, and the
result does not depend on its number of threads. Other releases of OpenCV or numpy may round single pixels differently.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from .camvid import CAMVID
from .dataset import MIN_SIDE, LabelSet, Sample
from .street_ground import paint_bonnet, paint_ground, paint_sky, response
from .street_layout import lay_furniture, lay_people, lay_side, lay_traffic
from .street_scene import draw_scene, integer

GENERATOR_VERSION = 1
"""Raised when a frame of any (seed, index, size) changes."""

STREET = CAMVID
"""CamVid's eleven classes in its order and colours."""


@dataclass(frozen=True)
class StreetSplit:
    """`frames` pictures of the street drawn from `seed`; the seeds of two splits must differ."""

    seed: int
    frames: int
    hw: tuple[int, int]

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"street: frames is {self.frames}; give at least 1")
        _check(self.seed, self.hw)

    @property
    def labels(self) -> LabelSet:
        return STREET

    @property
    def digest(self) -> str:
        h, w = self.hw
        said = f"street version {GENERATOR_VERSION} seed {self.seed} frames {self.frames} size {h}x{w}"
        return hashlib.sha256(said.encode()).hexdigest()

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.frames:
            raise IndexError(f"street: index {index} is outside 0..{self.frames - 1}")
        return render(self.seed, index, self.hw)


def render(seed: int, index: int, hw: tuple[int, int]) -> Sample:
    """Draw frame `index` of the street `seed` at `hw` = (H, W) pixels, each at least 64.

    Raises ValueError for a smaller size or a negative seed or index.
    """
    _check(seed, hw)
    if index < 0:
        raise ValueError(f"street: index is {index}; give 0 or more")
    rng = np.random.default_rng([seed, index])
    scene = draw_scene(rng, hw)
    canvas = scene.canvas
    paint_sky(scene)
    paint_ground(scene)
    for side in (0, 1):
        lay_side(scene, side)
    lay_traffic(scene)
    lay_furniture(scene)
    lay_people(scene)
    at_m = (float(rng.uniform(-9, 9)), float(rng.uniform(-7, 7)))
    canvas.texture_ground(at_m, mirrored=rng.random() < 0.5)
    for _, draw in sorted(scene.lot, key=lambda item: -item[0]):
        draw(canvas)
    paint_bonnet(scene)
    canvas.finish(response(scene), (integer(rng, range(512)), integer(rng, range(512))))
    return Sample(f"street-{seed}-{index:06d}", canvas.frame, canvas.label)


def _check(seed: int, hw: tuple[int, int]) -> None:
    if min(hw) < MIN_SIDE:
        raise ValueError(f"street: size is {hw[0]}x{hw[1]}; give at least {MIN_SIDE}x{MIN_SIDE}")
    if seed < 0:
        raise ValueError(f"street: seed is {seed}; give 0 or more")
