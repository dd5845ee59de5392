"""`street`: a procedural street in CamVid's classes that needs no download, as seen from a car.

A frame is a function of (seed, index, size) alone. `render` draws light, camera and road, sets out both sides of the
street and the traffic, and has everything painted from far to near. OpenCV's own random numbers are never used, and the
result does not depend on its number of threads. Other releases of OpenCV may round single pixels differently.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.random import Generator

from . import street_textures as textures
from . import street_things as things
from .dataset import VOID, LabelSet, Sample
from .street_render import BUILDING, FENCE, ROAD, SIDEWALK, SKY, TREE, Camera, Canvas, Colour, Light, Points

GENERATOR_VERSION = 1
"""Raised when a frame of any (seed, index, size) changes."""

STREET = LabelSet(
    names=(
        *("Sky", "Building", "Pole", "Road", "Sidewalk", "Tree", "SignSymbol", "Fence"),
        *("Car", "Pedestrian", "Bicyclist"),
    ),
    palette=(
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    ),
)
"""CamVid's eleven classes in its order and colours."""

MIN_SIDE = 64
FAR_M = 190.0
OPEN, TERRACE, HOUSES, GREEN = range(4)
"""What lines a side of the street: a car park or yard, fronts at the pavement, houses behind gardens, trees and verges."""
_CARS: tuple[Colour, ...] = (
    *((34, 36, 42), (150, 154, 160), (190, 194, 198), (62, 70, 92), (30, 44, 84), (140, 24, 28), (90, 94, 98)),
    *((228, 228, 226), (36, 70, 56), (52, 54, 58), (112, 120, 132), (176, 150, 60), (70, 20, 26), (40, 96, 140)),
)
_COATS: tuple[Colour, ...] = (
    *((28, 28, 32), (40, 42, 56), (60, 50, 44), (34, 36, 34), (110, 30, 34), (48, 62, 96), (176, 172, 166)),
    *((70, 72, 78), (24, 26, 44), (92, 82, 70)),
)
_TROUSERS: tuple[Colour, ...] = ((26, 27, 32), (38, 44, 62), (54, 58, 74), (44, 40, 36), (20, 20, 22))
_HAIR: tuple[Colour, ...] = ((30, 24, 20), (60, 44, 30), (100, 78, 50), (20, 20, 22))
_HIVIS: tuple[Colour, ...] = ((196, 214, 60), (214, 120, 40))


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
    return Sample(f"street-{seed}-{index:06d}", *_Street(np.random.default_rng([seed, index]), hw).paint())


def _check(seed: int, hw: tuple[int, int]) -> None:
    if min(hw) < MIN_SIDE:
        raise ValueError(f"street: size is {hw[0]}x{hw[1]}; give at least {MIN_SIDE}x{MIN_SIDE}")
    if seed < 0:
        raise ValueError(f"street: seed is {seed}; give 0 or more")


def _pick(rng: Generator, options: tuple[Colour, ...]) -> Colour:
    return options[int(rng.random() * len(options))]


def _int(rng: Generator, options: range) -> int:
    return options.start + int(rng.random() * len(options))


class _Street:
    """One frame: what was drawn by lot, and the list of things to paint, each with the depth that orders it."""

    def __init__(self, rng: Generator, hw: tuple[int, int]) -> None:
        self.rng = rng
        u = rng.uniform
        self.dusk = rng.random() < 0.24
        self.sunny = rng.random() < (0.15 if self.dusk else 0.6)
        self.half = float(u(3.2, 5.0) if rng.random() < 0.75 else u(5.0, 8.0))
        """Half the width of the road, metres."""
        self.bend = float(rng.normal(0, 0.0022)) if rng.random() < 0.6 else 0.0
        self.pavement = (float(u(1.4, 3.4)), float(u(1.4, 3.4)))
        self.kinds = tuple(int(np.searchsorted((0.07, 0.62, 0.82), rng.random())) for _ in range(2))
        self.lot: list[tuple[float, Callable[[Canvas], None]]] = []
        self.light = self._light()
        h, w = hw
        self.camera = Camera(
            hw=hw,
            x_m=float(-self.half * u(0.25, 0.6)),
            height_m=float(u(1.2, 1.75)),
            yaw=float(rng.normal(0, 0.05) if rng.random() < 0.8 else rng.normal(0, 0.16)),
            focal=float(u(1.0, 1.4)) * h,
            horizon=float(np.clip(rng.normal(0.5, 0.05), 0.36, 0.62)) * h,
            roll=float(rng.normal(0, 0.008)),
        )
        self.canvas = Canvas(self.camera, self.light)

    def paint(self) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        self._sky()
        self._ground()
        for side in (0, 1):
            self._lay_side(side)
        self._traffic()
        self._furniture()
        self._people()
        ground_at = (float(self.rng.uniform(0, 1024)), float(self.rng.uniform(0, 1024)))
        self.canvas.texture_ground(ground_at, paved=True)
        for _, draw in sorted(self.lot, key=lambda item: -item[0]):
            draw(self.canvas)
        self._bonnet()
        self.canvas.finish(self._curve(), (_int(self.rng, range(512)), _int(self.rng, range(512))), True)
        return self.canvas.frame, self.canvas.label

    def add(self, depth: float, draw: Callable[[Canvas], None]) -> None:
        self.lot.append((depth, draw))

    # Light and sky

    def _light(self) -> Light:
        u = self.rng.uniform
        height, around = math.radians(u(14, 42)), u(0, 2 * math.pi)
        sun = (math.cos(height) * math.sin(around), math.sin(height), math.cos(height) * math.cos(around))
        ambient = u(0.26, 0.5) if self.dusk else u(0.5, 0.68) if self.sunny else u(0.72, 1.0)
        direct = 0.0 if not self.sunny else u(0.15, 0.3) if self.dusk else u(0.55, 1.0)
        self.sky_tone = float(u(130, 215) if self.dusk else u(226, 255))
        haze = (self.sky_tone * 0.84, self.sky_tone * 0.87, self.sky_tone * 0.9)
        return Light(sun, float(direct), float(ambient), haze, float(u(250, 900)))

    def _sky(self) -> None:
        """A gradient from the horizon up, with clouds from the noise texture."""
        rng, canvas = self.rng, self.canvas
        h, w = self.camera.hw
        blue = float(rng.random() ** 2 * 0.45 if not self.dusk else rng.random() * 0.25)
        rows = max(2, min(h, int(self.camera.horizon) + h // 16))
        rise = np.linspace(1, 0, 64, dtype=np.float32)[:, None, None]
        tone = self.sky_tone * (1 - rise * blue * np.array([0.62, 0.36, 0.06], np.float32))
        ramp = np.repeat(tone, 64, axis=1)
        x, y = _int(rng, range(384)), _int(rng, range(448))
        cover = textures.clouds()[y : y + 64, x : x + 128].astype(np.float32) - 128
        cover = cv2.resize(cover, (64, 64), interpolation=cv2.INTER_AREA)
        strength = float(rng.uniform(0.15, 0.75) if self.dusk else rng.uniform(0.0, 0.3))
        small = np.clip(ramp + (cover * strength)[..., None], 0, 255).astype(np.uint8)
        canvas.frame[:rows] = cv2.resize(small, (w, rows), interpolation=cv2.INTER_CUBIC)
        canvas.label[:] = SKY

    def _curve(self) -> np.ndarray:  # type: ignore[type-arg]
        """The camera's response, a look-up table for each channel."""
        u = self.rng.uniform
        warm = u(-0.05, 0.03)
        gain = np.array([1 + warm, 1.0, 1.02 - warm]) * u(0.88, 1.14)
        x = np.linspace(0, 1, 256)[:, None] * gain
        x = np.clip(x, 0, 1.2) ** u(0.98, 1.3)
        x = np.minimum(x, 1.0)
        return np.asarray(np.clip(x * 255, 0, 255).astype(np.uint8)[:, None, :])

    # The ground

    def at(self, across: float, along: float) -> tuple[float, float]:
        """World x, z of a point given from the road's middle and along it, metres."""
        z = max(along, 0.0)
        return across + 0.5 * self.bend * z * z, along

    def strip(self, left: float, right: float, start: float = -6.0, end: float = FAR_M) -> Points:
        """The outline of a band of ground that follows the road, (n, 3)."""
        count = 2 if self.bend == 0.0 else 4 if end - start < 15 else 16
        along = start + (end - start) * np.linspace(0, 1, count) ** 2
        shift = 0.5 * self.bend * np.maximum(along, 0) ** 2
        out = np.zeros((2 * count, 3))
        out[:count, 0], out[count:, 0] = left + shift, (right + shift)[::-1]
        out[:count, 2], out[count:, 2] = along, along[::-1]
        return out

    def flat(self, world: Points, colour: Colour, klass: int | None) -> None:
        """Paint a piece of ground, which faces up."""
        self.canvas.polygon(world, self.light.on(colour, (0.0, 1.0, 0.0), 12.0), klass)

    def _ground(self) -> None:
        rng, half = self.rng, self.half
        self._far_band()
        tone = float(rng.uniform(78, 118))
        road: Colour = (tone, tone * 1.02, tone * 1.06)
        slab = float(rng.uniform(72, 132))
        for side, sign in enumerate((-1, 1)):
            edge, outer = sign * half, sign * (half + self.pavement[side])
            green = self.kinds[side] == GREEN
            yard: tuple[Colour, int] = {
                GREEN: ((74, 86, 44), TREE),
                OPEN: (road, ROAD),
                HOUSES: ((84, 88, 62), TREE),
                TERRACE: ((slab, slab, slab), SIDEWALK),
            }[self.kinds[side]]  # type: ignore[assignment]
            self.flat(self.strip(outer, sign * 260.0), *yard)
            if not (green and rng.random() < 0.3):
                self.flat(self.strip(edge, outer), (slab, slab * 0.99, slab * 0.97), SIDEWALK)
            else:
                self.flat(self.strip(edge, outer), (74, 86, 44), TREE)
        self.flat(self.strip(-half, half), road, ROAD)
        for sign in (-1, 1):
            kerb = float(rng.uniform(105, 165))
            self.flat(self.strip(sign * half, sign * (half + 0.16)), (kerb, kerb, kerb * 0.97), SIDEWALK)
            self.flat(self.strip(sign * half, sign * (half + 0.05)), (40, 41, 43), VOID)
            self.flat(self.strip(sign * half, sign * (half - 0.35)), (tone * 0.8,) * 3, ROAD)
        self._marks()

    def _marks(self) -> None:
        """Lane lines, kerb lines, and now and then a crossing, a stop line, a repair in the asphalt."""
        rng, half = self.rng, self.half
        for _ in range(_int(rng, range(3))):
            x, z = rng.uniform(-half, half * 0.6), rng.uniform(3, 40)
            tone = float(rng.uniform(62, 100))
            self.flat(self.strip(x, x + rng.uniform(0.6, 2.5), z, z + rng.uniform(1, 9)), (tone,) * 3, ROAD)
        white = float(rng.uniform(150, 225))
        paint: Colour = (white, white, white * 0.97)
        dash, pause = ((2.0, 4.0), (4.0, 2.0), (6.0, 3.0))[_int(rng, range(3))]
        lanes = (0.0,) if half < 5.2 else (0.0, -half / 2, half / 2)
        for across in lanes if rng.random() < 0.85 else ():
            z = -float(rng.uniform(0, dash + pause))
            starts = np.arange(z, 64, dash + pause)
            self._bars([(across - 0.07, across + 0.07, start, start + dash) for start in starts.tolist()], paint)
        if rng.random() < 0.5:
            yellow: Colour = (white * 0.86, white * 0.74, white * 0.3)
            for sign in (-1, 1):
                for offset in (0.3, 0.52):
                    inner = sign * (half - offset)
                    self.flat(self.strip(inner - 0.05, inner + 0.05, -6, 70), yellow, None)
        if rng.random() < 0.16:
            z = float(rng.uniform(6, 26))
            lefts = (-half + 0.4 + 1.2 * i for i in range(int(half * 2 / 1.2)))
            self._bars([(left, left + 0.6, z, z + 3) for left in lefts], paint)
        elif rng.random() < 0.25:
            z = float(rng.uniform(5, 30))
            self.flat(self.strip(-half + 0.3, -0.1, z, z + 0.35), paint, None)

    def _bars(self, bars: list[tuple[float, float, float, float]], colour: Colour) -> None:
        """Paint marks, each (left, right, start, end) in metres across and along the road."""
        left, right, start, end = np.array(bars).T
        near, far = (0.5 * self.bend * np.maximum(z, 0) ** 2 for z in (start, end))
        across = np.stack([left + near, left + far, right + far, right + near], axis=1)
        along = np.stack([start, end, end, start], axis=1)
        self.canvas.quads(np.stack([across, across * 0, along], axis=2), self.light.on(colour, (0.0, 1.0, 0.0), 12.0))

    def _far_band(self) -> None:
        """Woods and roofs where the street ends, behind everything else."""
        rng = self.rng
        h, w = self.camera.hw
        horizon, unit = self.camera.horizon, self.camera.focal / FAR_M
        for klass, colour, low, high in (
            (TREE, (70, 70, 58), 3.0, 14.0),
            (BUILDING, (104, 94, 84), 3.0, 12.0),
        ):
            if rng.random() < 0.25:
                continue
            steps = 90 if klass == TREE else 22
            across = np.linspace(-0.05, 1.05, steps) * w
            rough = cv2.resize(rng.uniform(0.2, 1.0, (1, 10)), (steps, 1), interpolation=cv2.INTER_CUBIC)[0]
            tall = low + high * rough * rng.uniform(0.85, 1.0, steps)
            if klass == BUILDING:
                across, tall = np.repeat(across, 2)[1:], np.repeat(tall, 2)[:-1]
            top = np.stack([across, horizon - tall * unit], axis=1)
            foot = np.array([[1.05 * w, horizon + 0.02 * h], [-0.05 * w, horizon + 0.02 * h]])
            label = VOID if rng.random() < 0.12 else klass
            self.canvas.fill(np.concatenate([top, foot]), self.light.on(colour, (0.0, 0.5, -0.6), 190.0), label)

    # The sides

    def _lay_side(self, side: int) -> None:
        """Walk along one side and set out what lines it."""
        rng, sign, kind = self.rng, (-1, 1)[side], self.kinds[side]
        line = self.half + self.pavement[side]
        junction = float(rng.uniform(8, 70)) if rng.random() < 0.4 else math.inf
        style = textures.SHOPS if rng.random() < 0.55 else textures.HOUSES
        z = -float(rng.uniform(2, 10))
        while z < 150:
            long = float(rng.uniform(6, 15)) * (1 + max(z, 0) / 90)
            if z <= junction < z + long:
                self._side_street(sign, junction)
                z, junction = junction + float(rng.uniform(6, 10)), math.inf
                continue
            here = kind if rng.random() < 0.84 else _int(rng, range(4))
            if here == TERRACE:
                low = 4.5 if rng.random() < 0.3 else 6.5
                self._building(sign, line + float(rng.uniform(0, 0.5)), z, long, float(rng.uniform(low, 13)), style)
            elif here == HOUSES:
                setback = float(rng.uniform(3, 8))
                if rng.random() < 0.8:
                    self._building(sign, line + setback, z, long * 0.85, float(rng.uniform(5, 8)), textures.HOUSES)
                self._border(sign, line + 0.1, z, long)
                if rng.random() < 0.45:
                    self._tree(sign * (line + setback * 0.6), z + long * 0.5, 0.0)
            elif here == GREEN:
                if rng.random() < 0.5:
                    self._border(sign, line + float(rng.uniform(0, 2)), z, long)
                for _ in range(_int(rng, range(1, 4))):
                    self._tree(sign * (line + float(rng.uniform(1, 12))), z + float(rng.uniform(0, long)), 0.0)
            else:
                if rng.random() < 0.5:
                    self._building(sign, line + float(rng.uniform(14, 30)), z, long, float(rng.uniform(4, 9)), textures.BLOCKS)
                if rng.random() < 0.5:
                    self._border(sign, line + 0.2, z, long)
                if rng.random() < 0.6:
                    heading = (math.pi / 2) * (1 if rng.random() < 0.5 else -1)
                    self._vehicle(sign * (line + float(rng.uniform(3, 9))), z + long / 2, heading)
            z += long
        if kind != GREEN and rng.random() < 0.45:
            step = float(rng.uniform(9, 22))
            for i in range(5):  # street trees in the pavement
                self._tree(sign * (line - 0.7), float(rng.uniform(5, 9)) + step * i, 0.6)

    def _side_street(self, sign: int, z: float) -> None:
        tone = 92.0
        ends = np.array([sign * self.half, sign * 120.0])
        wide = float(self.rng.uniform(6, 9))
        shift = self.at(0, z)[0]
        world = np.zeros((4, 3))
        world[:, 0] = shift + ends[[0, 0, 1, 1]]
        world[:, 2] = z - 0.3, z + wide, z + wide, z - 0.3
        self.flat(world, (tone, tone, tone * 1.04), ROAD)

    def _building(self, sign: int, line: float, z: float, long: float, high: float, style: range) -> None:
        """A front along the street, the gable towards the camera, at times a roof and chimneys."""
        rng = self.rng
        (x0, z0), (x1, z1) = self.at(sign * line, z), self.at(sign * line, z + long)
        front = textures.facades()[_int(rng, style)]
        gable = textures.gables()[_int(rng, range(len(textures.gables())))]
        deep = float(rng.uniform(7, 12))
        pitched, rise = rng.random() < 0.55, float(rng.uniform(1.8, 3.4))
        slate = float(rng.uniform(52, 92))
        chimney = rng.random() < 0.5
        sun = self.light.sun
        if self.light.direct and z < 90:
            reach = -high / max(sun[1], 0.2)
            shift = np.array([sun[0], 0, sun[2]]) * reach
            back = sign * deep
            base = np.array([[x0, 0, z0], [x1, 0, z1], [x1 + back, 0, z1], [x0 + back, 0, z0]])
            self._cast(np.concatenate([base, base + shift]), 120 if not self.dusk else 190)
        backwards = x0 + sign * deep

        def draw(canvas: Canvas) -> None:
            light = canvas.light
            if pitched:
                ridge = sign * deep * 0.5
                roof = np.array([[x0, high, z0], [x1, high, z1], [x1 + ridge, high + rise, z1], [x0 + ridge, high + rise, z0]])
                peak = np.array([[x0, high, z0], [x0 + ridge, high + rise, z0], [x0 + 2 * ridge, high, z0]])
                depth = canvas.camera.depth(x0, z0)
                canvas.polygon(roof, light.on((slate * 1.04, slate, slate), (-sign * 0.5, 0.8, 0), depth), BUILDING)
                canvas.polygon(peak, light.on(tuple(gable[-1][0, 0].tolist()), (0, 0, -1.0), depth), BUILDING)
                if chimney:
                    stack = np.array([[0, high + rise - 0.6], [0, high + rise + 1.3], [1.1, high + rise + 1.3], [1.1, high + rise - 0.6]])
                    world = np.stack([x0 + ridge + sign * 0.1 + stack[:, 0] - 0.5, stack[:, 1], np.full(4, z0 + 0.5)], axis=1)
                    canvas.polygon(world, light.on((112, 80, 64), (0, 0, -1.0), depth), BUILDING)
            ends = [[x0, z0], [backwards, z0]] if sign > 0 else [[backwards, z0], [x0, z0]]
            canvas.wall(np.array(ends), high, gable, -sun[2], BUILDING)
            along = [[x1, z1], [x0, z0]] if sign > 0 else [[x0, z0], [x1, z1]]
            canvas.wall(np.array(along), high, front, -sign * sun[0], BUILDING)

        self.add(self.camera.depth(x1, z1), draw)

    def _border(self, sign: int, line: float, z: float, long: float) -> None:
        """What stands between pavement and garden: a fence, a hedge, a low wall, or nothing."""
        rng = self.rng
        chance = rng.random()
        (x0, z0), (x1, z1) = self.at(sign * line, z), self.at(sign * line, z + long)
        foot = np.array([[x1, z1], [x0, z0]] if sign > 0 else [[x0, z0], [x1, z1]])
        facing, key = -sign * self.light.sun[0], self.camera.depth(x1, z1) - 0.2
        if chance < 0.4:
            layer = textures.fences()[_int(rng, range(len(textures.fences())))]
            high = float(rng.uniform(1.0, 1.9))
            self.add(key, lambda canvas: canvas.panel(foot, high, layer, facing, FENCE, 0.8))
        elif chance < 0.7:
            high = float(rng.uniform(0.9, 2.4))
            leaves = (textures.foliage(),)
            self.add(key, lambda canvas: canvas.wall(foot, high, leaves, facing * 0.5, TREE))
        elif chance < 0.85:
            high = float(rng.uniform(0.6, 1.6))
            brick = textures.gables()[_int(rng, range(len(textures.gables())))]
            self.add(key, lambda canvas: canvas.wall(foot, high, brick, facing, BUILDING))

    def _cast(self, points: Points, strength: int) -> None:
        """Shade the convex hull of points on the ground."""
        hull = cv2.convexHull(points[:, [0, 2]].astype(np.float32))[:, 0].astype(np.float64)
        self.canvas.shadow(np.stack([hull[:, 0], np.zeros(len(hull)), hull[:, 1]], axis=1), strength)

    def _tree(self, across: float, along: float, shrink: float) -> None:
        rng = self.rng
        x, z = self.at(across, along)
        lot = rng.random()
        species = textures.BARE_TREES if lot < 0.45 else textures.LEAFY_TREES if lot < 0.78 else textures.BUSHES
        high = float(rng.uniform(1.2, 3.2) if species is textures.BUSHES else rng.uniform(5, 12) * (1 - shrink * 0.4))
        layers, mirrored = textures.trees()[_int(rng, species)], rng.random() < 0.5
        if self.light.direct and along < 60:
            sun = self.light.sun
            tip = np.array([sun[0], sun[2]]) * (-high / max(sun[1], 0.25))
            spots = [(0.75, 0.3), (0.55, 0.22), (0.9, 0.2)]
            for far, size in spots:
                centre, r = np.array([x, z]) + tip * far, size * high
                ring = np.stack([centre[0] + r * _RING[:, 0], np.zeros(8), centre[1] + r * _RING[:, 1]], axis=1)
                self.canvas.shadow(ring, 150)
        self.add(self.camera.depth(x, z), lambda canvas: canvas.tree(x, z, high, layers, mirrored))

    # Traffic, furniture, people

    def _vehicle(self, across: float, along: float, heading: float) -> None:
        rng = self.rng
        x, z = self.at(across, along)
        lot = rng.random()
        kind = int(lot / 0.88 * 4) if lot < 0.88 else 4 if lot < 0.95 else 5 if lot < 0.98 else 6
        paint = _pick(rng, _CARS) if kind < 5 else ((150, 30, 30), (60, 110, 170), (196, 190, 170))[_int(rng, range(3))]
        braking = rng.random() < 0.3
        turn = heading + math.atan(self.bend * max(z, 0.0)) + float(rng.normal(0, 0.02))
        mesh = things.vehicles()[kind]
        half, length = float(mesh.vertices[:, 0].max()), float(mesh.vertices[:, 2].max())
        corners = np.array([[-half, 0, -length], [half, 0, -length], [half, 0, length], [-half, 0, length]])
        s, c = math.sin(turn), math.cos(turn)
        base = corners @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) + (x, 0, z)
        self.canvas.shadow(base * (1, 1, 1), 70)
        if self.light.direct:
            shift = np.array([self.light.sun[0], 0, self.light.sun[2]]) * (-1.3 / max(self.light.sun[1], 0.3))
            self._cast(np.concatenate([base, base + shift]), 110)
            self.canvas.shadow(base, 60)
        self.add(
            self.camera.depth(x, z),
            partial(things.vehicle, at=(x, z), heading=turn, kind=kind, paint=paint, braking=braking),
        )

    def _traffic(self) -> None:
        """Cars ahead in the lane, cars that come, cars parked at the kerbs."""
        rng, half = self.rng, self.half
        lanes = [(-half / 2, 0.0), (half / 2, math.pi)] if half < 5.2 else [
            (-half * 0.75, 0.0),
            (-half * 0.25, 0.0),
            (half * 0.25, math.pi),
            (half * 0.75, math.pi),
        ]
        for across, heading in lanes:
            z = float(rng.uniform(6.5, 60))
            while z < 110:
                if heading == 0.0 or z > 5:
                    self._vehicle(across + float(rng.normal(0, 0.25)), z, heading)
                z += float(rng.uniform(9, 70))
        for sign in (-1, 1):
            if rng.random() < 0.36:
                z = float(rng.uniform(4, 40))
                heading = 0.0 if sign < 0 else math.pi
                for _ in range(_int(rng, range(1, 7))):
                    if rng.random() < 0.8:
                        self._vehicle(sign * (half - 0.75), z, heading)
                    z += float(rng.uniform(5.2, 7.0))

    def _furniture(self) -> None:
        """Lamp posts, signals, signs, railings at the kerb, bins."""
        rng = self.rng
        for side, sign in enumerate((-1, 1)):
            line, wide = self.half, self.pavement[side]
            if rng.random() < 0.8:
                z, step = float(rng.uniform(5, 20)), float(rng.uniform(18, 32))
                tall, grey = float(rng.uniform(5, 9)), float(rng.uniform(60, 150))
                arm = -sign * float(rng.uniform(0.8, 1.8)) if rng.random() < 0.8 else 0.0
                for i in range(5):
                    at = self.at(sign * (line + 0.4), z + step * i)
                    self.add(self.camera.depth(*at), partial(things.pole, at=at, tall_m=tall, wide_m=0.19, colour=(grey, grey, grey), arm_m=arm))
            for _ in range(_int(rng, range(5))):
                at = self.at(sign * (line + float(rng.uniform(0.3, wide))), float(rng.uniform(5, 38)))
                kind = _int(rng, range(7))
                size = float(rng.uniform(0.6, 0.95)) if kind < 3 else float(rng.uniform(0.7, 2.2))
                tall = float(rng.uniform(2.2, 3.4)) + (size * 0.4 if kind >= 3 else 0)
                self.add(self.camera.depth(*at), partial(things.sign, at=at, tall_m=tall, size_m=size, kind=kind))
            if rng.random() < 0.3:
                z = float(rng.uniform(7, 32))
                at, lamp = self.at(sign * (line + 0.5), z), _int(rng, range(3))
                self.add(self.camera.depth(*at), partial(things.traffic_light, at=at, tall_m=float(rng.uniform(2.9, 3.5)), lamp=lamp))
            if rng.random() < 0.5 and self.kinds[side] == TERRACE:
                for _ in range(_int(rng, range(1, 5))):
                    at = self.at(sign * (line + wide - 0.5), float(rng.uniform(6, 45)))
                    size_m = (float(rng.uniform(0.5, 1.2)), float(rng.uniform(0.5, 1.1)))
                    self.add(self.camera.depth(*at), partial(things.shop_sign, at=at, low_m=float(rng.uniform(2.6, 4.2)), size=size_m, colour=_pick(rng, _CARS)))
            if rng.random() < 0.2:
                self._railing(sign, line + 0.3)
            for _ in range(_int(rng, range(4)) if rng.random() < 0.6 else 0):
                at = self.at(sign * (line + wide - 0.4), float(rng.uniform(5, 40)))
                size_m = (float(rng.uniform(0.7, 1.9)), float(rng.uniform(0.5, 1.8)))
                tone = float(rng.uniform(22, 90))
                self.add(self.camera.depth(*at), partial(things.odd_object, at=at, size=size_m, colour=(tone, tone * 1.03, tone)))

    def _railing(self, sign: int, line: float) -> None:
        rng = self.rng
        layer = textures.fences()[_int(rng, range(4))]
        z = float(rng.uniform(3, 22))
        for _ in range(_int(rng, range(3, 9))):  # short pieces, so that people in front and behind are ordered well
            (x0, z0), (x1, z1) = self.at(sign * line, z), self.at(sign * line, z + 2.4)
            foot = np.array([[x1, z1], [x0, z0]] if sign > 0 else [[x0, z0], [x1, z1]])
            facing = abs(self.light.sun[0]) * 0.5
            self.add(self.camera.depth(x0, z0), partial(Canvas.panel, foot=foot, height_m=1.1, layer=layer, facing=facing, klass=FENCE, lit=0.8))
            z += 2.4

    def _people(self) -> None:
        rng, half = self.rng, self.half
        for side, sign in enumerate((-1, 1)):
            count = _int(rng, range(6)) if self.kinds[side] == TERRACE else _int(rng, range(3))
            for _ in range(count):
                z = float(4.5 + 32 * rng.random() ** 1.3)
                at = self.at(sign * (half + float(rng.uniform(0.4, self.pavement[side]))), z)
                self._pedestrian(at)
        if rng.random() < 0.12:
            self._pedestrian(self.at(float(rng.uniform(-half, half)), float(rng.uniform(7, 25))))
        for _ in range(_int(rng, range(1, 3)) if rng.random() < 0.5 else 0):
            kerb = -1 if rng.random() < 0.65 else 1
            at = self.at(kerb * (half - float(rng.uniform(0.5, 1.5))), float(rng.uniform(4.5, 24)))
            turned = float(rng.uniform(0.1, 0.4) if rng.random() < 0.7 else rng.uniform(0.7, 1.0))
            coat = _pick(rng, _HIVIS) if rng.random() < 0.3 else _pick(rng, _COATS)
            clothes = (coat, _pick(rng, _TROUSERS), _pick(rng, _HAIR) if rng.random() < 0.5 else _pick(rng, _CARS))
            self.add(self.camera.depth(*at), partial(things.cyclist, at=at, turned=turned, clothes=clothes))

    def _pedestrian(self, at: tuple[float, float]) -> None:
        rng = self.rng
        clothes = (_pick(rng, _COATS), _pick(rng, _TROUSERS), _pick(rng, _HAIR))
        tall, stride = float(rng.uniform(1.55, 1.9)), float(rng.uniform(0, 0.55))
        self.add(self.camera.depth(*at), partial(things.pedestrian, at=at, tall_m=tall, stride=stride, clothes=clothes))

    def _bonnet(self) -> None:
        """The front of the own car, which no class claims, in some of the frames."""
        rng = self.rng
        if rng.random() >= 0.36:
            return
        h, w = self.camera.hw
        top, tilt, tone = float(rng.uniform(0.9, 0.97)) * h, float(rng.normal(0, 0.02)) * h, float(rng.uniform(20, 80))
        across = np.linspace(-0.02, 1.02, 24)
        rows = top + (across - rng.uniform(0.35, 0.65)) ** 2 * 0.14 * h + tilt * across
        edge = np.stack([across * w, rows], axis=1)
        below = np.array([[1.02 * w, h + 2.0], [-0.02 * w, h + 2.0]])
        self.canvas.fill(np.concatenate([edge, below]), (tone, tone * 1.05, tone * 1.12), VOID)
        shine = np.concatenate([edge + (0, 0.004 * h), (edge + (0, 0.011 * h))[::-1]])
        self.canvas.fill(shine, (tone + 34, tone + 38, tone + 44), None)


_RING = np.stack([np.cos(np.arange(8) * math.pi / 4), np.sin(np.arange(8) * math.pi / 4)], axis=1)
