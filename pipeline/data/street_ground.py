"""Sky, ground and lens of the procedural street: everything that is painted without standing anywhere."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from . import street_textures as textures
from .dataset import VOID
from .street_render import BUILDING, ROAD, SIDEWALK, SKY, TREE, Colour, Points
from .street_scene import FAR_M, GREEN, HOUSES, OPEN, TERRACE, Scene, integer


def paint_sky(scene: Scene) -> None:
    """A gradient from the horizon up, with clouds from the noise texture."""
    rng, canvas = scene.rng, scene.canvas
    h, w = scene.camera.hw
    blue = float(rng.random() ** 2 * 0.45 if not scene.dusk else rng.random() * 0.25)
    rows = max(2, min(h, int(scene.camera.horizon) + h // 16))
    rise = np.linspace(1, 0, 64, dtype=np.float32)[:, None, None]
    tone = scene.sky_tone * (1 - rise * blue * np.array([0.62, 0.36, 0.06], np.float32))
    ramp = np.repeat(tone, 64, axis=1)
    x, y = integer(rng, range(384)), integer(rng, range(448))
    cover = textures.clouds()[y : y + 64, x : x + 128].astype(np.float32) - 128
    wisps = cv2.resize(cover, (64, 64), interpolation=cv2.INTER_AREA)
    strength = float(rng.uniform(0.15, 0.75) if scene.dusk else rng.uniform(0.0, 0.3))
    small = np.clip(ramp + (wisps * strength)[..., None], 0, 255).astype(np.uint8)
    canvas.frame[:rows] = cv2.resize(small, (w, rows), interpolation=cv2.INTER_LINEAR)
    canvas.label[:] = SKY


def paint_ground(scene: Scene) -> None:
    """The far end of the street, then what the sides are covered with, pavements, kerbs, road and marks."""
    rng, half = scene.rng, scene.road.half
    _far_band(scene)
    tone = float(rng.uniform(68, 106))
    road: Colour = (tone, tone * 1.02, tone * 1.05)
    slab = float(rng.uniform(72, 132))
    for side, sign in enumerate((-1, 1)):
        edge, outer = sign * half, sign * (half + scene.road.pavement[side])
        green = scene.road.kinds[side] == GREEN
        yard: tuple[Colour, int] = {
            GREEN: ((74, 86, 44), TREE),
            OPEN: (road, ROAD),
            HOUSES: ((84, 88, 62), TREE),
            TERRACE: ((slab, slab, slab), SIDEWALK),
        }[scene.road.kinds[side]]
        flat(scene, scene.road.strip(outer, sign * 260.0), *yard)
        if not (green and rng.random() < 0.3):
            flat(scene, scene.road.strip(edge, outer), (slab, slab * 0.99, slab * 0.97), SIDEWALK)
        else:
            flat(scene, scene.road.strip(edge, outer), (74, 86, 44), TREE)
    flat(scene, scene.road.strip(-half, half), road, ROAD)
    for sign in (-1, 1):
        kerb = float(rng.uniform(105, 165))
        flat(scene, scene.road.strip(sign * half, sign * (half + 0.16)), (kerb, kerb, kerb * 0.97), SIDEWALK)
        flat(scene, scene.road.strip(sign * half, sign * (half + 0.05)), (40, 41, 43), VOID)
        flat(scene, scene.road.strip(sign * half, sign * (half - 0.35)), (tone * 0.8,) * 3, ROAD)
    _marks(scene)


def flat(scene: Scene, world: Points, colour: Colour, klass: int | None) -> None:
    """Paint a piece of ground, which faces up."""
    scene.canvas.polygon(world, scene.light.on(colour, (0.0, 1.0, 0.0), 12.0), klass)


def _marks(scene: Scene) -> None:
    """Lane lines, kerb lines, and now and then a crossing, a stop line, a repair in the asphalt."""
    rng, half = scene.rng, scene.road.half
    for _ in range(integer(rng, range(3))):
        x, z = rng.uniform(-half, half * 0.6), rng.uniform(3, 40)
        tone = float(rng.uniform(54, 90))
        flat(scene, scene.road.strip(x, x + rng.uniform(0.6, 2.5), z, z + rng.uniform(1, 9)), (tone,) * 3, ROAD)
    white = float(rng.uniform(150, 225))
    paint: Colour = (white, white, white * 0.97)
    dash, pause = ((2.0, 4.0), (4.0, 2.0), (6.0, 3.0))[integer(rng, range(3))]
    lanes = (0.0,) if half < 5.2 else (0.0, -half / 2, half / 2)
    for across in lanes if rng.random() < 0.85 else ():
        z = -float(rng.uniform(0, dash + pause))
        starts = np.arange(z, 64, dash + pause)
        _bars(scene, [(across - 0.07, across + 0.07, start, start + dash) for start in starts.tolist()], paint)
    if rng.random() < 0.5:
        yellow: Colour = (white * 0.86, white * 0.74, white * 0.3)
        for sign in (-1, 1):
            for offset in (0.3, 0.52):
                inner = sign * (half - offset)
                flat(scene, scene.road.strip(inner - 0.05, inner + 0.05, -6, 70), yellow, None)
    if rng.random() < 0.16:
        z = float(rng.uniform(6, 26))
        lefts = (-half + 0.4 + 1.2 * i for i in range(int(half * 2 / 1.2)))
        _bars(scene, [(left, left + 0.6, z, z + 3) for left in lefts], paint)
    elif rng.random() < 0.25:
        z = float(rng.uniform(5, 30))
        flat(scene, scene.road.strip(-half + 0.3, -0.1, z, z + 0.35), paint, None)


def _bars(scene: Scene, bars: list[tuple[float, float, float, float]], colour: Colour) -> None:
    """Paint marks, each (left, right, start, end) in metres across and along the road."""
    left, right, start, end = np.array(bars).T
    near, far = (0.5 * scene.road.bend * np.maximum(z, 0) ** 2 for z in (start, end))
    across = np.stack([left + near, left + far, right + far, right + near], axis=1)
    along = np.stack([start, end, end, start], axis=1)
    scene.canvas.quads(np.stack([across, across * 0, along], axis=2), scene.light.on(colour, (0.0, 1.0, 0.0), 12.0))


def _far_band(scene: Scene) -> None:
    """Woods and roofs where the street ends, behind everything else."""
    rng = scene.rng
    h, w = scene.camera.hw
    horizon, unit = scene.camera.horizon, scene.camera.focal / FAR_M
    for klass, colour, low, high in (
        (TREE, (70, 70, 58), 2.0, 8.0),
        (BUILDING, (104, 94, 84), 2.0, 9.0),
    ):
        if rng.random() < 0.25:
            continue
        steps = 90 if klass == TREE else 22
        across = np.linspace(-0.05, 1.05, steps) * w
        rough = cv2.resize(rng.uniform(0.2, 1.0, (1, 10)), (steps, 1), interpolation=cv2.INTER_CUBIC)[0]
        tall = low + high * rough * rng.uniform(0.75, 1.0, steps)
        if klass == BUILDING:
            across, tall = np.repeat(across, 2)[1:], np.repeat(tall, 2)[:-1]
        top = np.stack([across, horizon - tall * unit], axis=1)
        foot = np.array([[1.05 * w, horizon + 0.02 * h], [-0.05 * w, horizon + 0.02 * h]])
        label = VOID if rng.random() < 0.2 else klass
        scene.canvas.fill(np.concatenate([top, foot]), scene.light.on(colour, (0.0, 0.5, -0.6), 190.0), label)


def paint_bonnet(scene: Scene) -> None:
    """The front of the own car, which no class claims, in some of the frames."""
    rng = scene.rng
    if rng.random() >= 0.42:
        return
    h, w = scene.camera.hw
    top, tilt, tone = float(rng.uniform(0.9, 0.97)) * h, float(rng.normal(0, 0.02)) * h, float(rng.uniform(20, 80))
    across = np.linspace(-0.02, 1.02, 24)
    rows = top + (across - rng.uniform(0.35, 0.65)) ** 2 * 0.14 * h + tilt * across
    edge = np.stack([across * w, rows], axis=1)
    below = np.array([[1.02 * w, h + 2.0], [-0.02 * w, h + 2.0]])
    scene.canvas.fill(np.concatenate([edge, below]), (tone, tone * 1.05, tone * 1.12), VOID)
    shine = np.concatenate([edge, edge[::-1]])
    shine[:, 1] += np.repeat([0.004 * h, 0.011 * h], len(edge))
    scene.canvas.fill(shine, (tone + 34, tone + 38, tone + 44), None)


def response(scene: Scene) -> NDArray[np.uint8]:
    """The camera's response, a look-up table for each channel."""
    u = scene.rng.uniform
    warm = u(-0.05, 0.03)
    gain = np.array([1 + warm, 1.0, 1.02 - warm]) * (u(0.9, 1.15) if scene.dusk else u(1.0, 1.25))
    x = np.linspace(0, 1, 256)[:, None] * gain
    x = np.clip(x, 0, 1.2) ** u(0.95, 1.3)
    x = np.minimum(x, 1.0)
    return np.asarray(np.clip(x * 255, 0, 255).astype(np.uint8)[:, None, :])
