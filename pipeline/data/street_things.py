"""People, cyclists, poles, signs and odd objects of the procedural street: flat figures that face the camera."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from .dataset import VOID
from .street_render import BICYCLIST, PEDESTRIAN, POLE, SIGN, Canvas, Colour, Points

DARK: Colour = (22, 23, 26)


class Part(NamedTuple):
    """A flat polygon of something that turns its face to the camera."""

    shape: Points
    """(n, 2): metres to the right of the foot, metres up."""
    colour: Colour
    klass: int | None
    """None leaves the label alone."""


def _darker(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def _billboard(canvas: Canvas, at: tuple[float, float], parts: list[Part], fat: bool = False) -> None:
    """Paint polygons that face the camera at (x, z); `fat` widens their labels by a pixel, as hand-made ones are."""
    depth = canvas.camera.depth(*at)
    if depth < 1.6:
        return
    column, row = canvas.camera.foot(*at)
    scale = canvas.camera.focal / depth
    if not -2.5 * scale < column < canvas.camera.hw[1] + 2.5 * scale:
        return
    light, lit = canvas.light, canvas.lit_at((column, row))
    gain, veil = light.gain(-0.6 * light.sun[2] + 0.45 * light.sun[1], depth, lit)
    joined = np.concatenate([part.shape for part in parts])
    corners = np.rint(joined * (scale, -scale) + (column, row)).astype(np.int32)
    start = 0
    for shape, colour, klass in parts:
        picture = corners[start : start + len(shape)]
        start += len(shape)
        shade = [min(255.0, v * gain + veil * h) for v, h in zip(colour, light.haze, strict=True)]
        cv2.fillPoly(canvas.frame, [picture], shade)
        if klass is not None:
            cv2.fillPoly(canvas.label, [picture], klass)
            if fat and scale < 80 and canvas.camera.hw[0] >= 240:
                cv2.polylines(canvas.label, [picture], True, klass, 1)


@functools.cache
def _disc() -> Points:
    angles = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _disc_at(x: float, y: float, rx: float, ry: float) -> Points:
    return _disc() * (rx, ry) + (x, y)


def _limb(a: tuple[float, float], b: tuple[float, float], wide: float) -> Points:
    dx, dy = b[0] - a[0], b[1] - a[1]
    n = wide / 2 / max(math.hypot(dx, dy), 1e-6)
    x, y = dx * n, dy * n
    return np.array([(a[0] - y, a[1] + x), (b[0] - y, b[1] + x), (b[0] + y, b[1] - x), (a[0] + y, a[1] - x)])


def _plate(left: float, low: float, right: float, high: float) -> Points:
    return np.array([(left, low), (left, high), (right, high), (right, low)])


def pedestrian(
    canvas: Canvas, at: tuple[float, float], tall_m: float, stride: float, clothes: tuple[Colour, Colour, Colour]
) -> None:
    """A walker; `stride` in metres between the feet, `clothes` for coat, trousers and hair."""
    coat, trousers, hair = clothes
    k, step = tall_m / 1.75, stride / 2
    torso = np.array(
        [(-0.16, 1.44), (-0.08, 1.5), (0.08, 1.5), (0.16, 1.44), (0.2, 1.3), (0.18, 0.8), (-0.18, 0.8), (-0.2, 1.3)]
    )
    shapes: list[tuple[Points, Colour]] = [
        (_limb((-0.08, 0.85), (-step - 0.04, 0.04), 0.15), trousers),
        (_limb((0.08, 0.85), (step + 0.04, 0.04), 0.15), _darker(trousers, 0.8)),
        (_limb((-step - 0.08, 0.04), (-step + 0.1, 0.04), 0.08), DARK),
        (_limb((step, 0.04), (step + 0.18, 0.04), 0.08), DARK),
        (torso, coat),
        (_limb((-0.18, 1.4), (-0.23 - step * 0.5, 0.85), 0.1), _darker(coat, 0.85)),
        (_limb((0.18, 1.4), (0.23 + step * 0.5, 0.85), 0.1), _darker(coat, 0.7)),
        (_disc_at(0, 1.61, 0.09, 0.13), (168, 124, 104)),
        (_disc_at(0, 1.67, 0.1, 0.09), hair),
    ]
    _billboard(canvas, at, [Part(shape * k, colour, PEDESTRIAN) for shape, colour in shapes], fat=True)


def cyclist(canvas: Canvas, at: tuple[float, float], turned: float, clothes: tuple[Colour, Colour, Colour]) -> None:
    """A person on a bicycle: `turned` 0.12 seen from behind .. 1 seen from the side."""
    coat, trousers, helmet = clothes
    reach, round_m, frame = 0.52 * turned, 0.34 * max(turned, 0.16), (90.0, 40.0, 40.0)
    shapes: list[tuple[Points, Colour]] = []
    for x in (-reach, reach):
        rim, hole = _disc_at(x, 0.34, round_m, 0.34), _disc_at(x, 0.34, round_m * 0.8, 0.28)
        shapes.append((np.concatenate([rim, rim[:1], hole[:1], hole[::-1]]), DARK))
    bars = (
        *(((-reach, 0.34), (0.0, 0.36)), ((0.0, 0.36), (reach * 0.8, 0.82)), ((reach, 0.34), (reach * 0.8, 0.95))),
        *(((-0.1 * turned, 0.9), (0.0, 0.36)), ((-reach, 0.34), (reach * 0.75, 0.8))),
    )
    shapes += [(_limb(a, b, 0.06), frame) for a, b in bars]
    hip, chest, away = -0.14 * turned, 0.22 * turned, 1 - turned
    torso = np.array(
        [
            (hip - 0.18, 0.9),
            (chest - 0.22, 1.42),
            (chest - 0.1, 1.52),
            (chest + 0.12, 1.52),
            (chest + 0.22, 1.4),
            (hip + 0.2, 0.9),
        ]
    )
    shapes += [
        (_limb((hip - 0.09, 0.95), (-0.1 + 0.1 * turned, 0.3), 0.17), trousers),
        (_limb((hip + 0.1, 0.95), (0.1 + 0.16 * turned, 0.5), 0.18), _darker(trousers, 0.8)),
        (torso, coat),
        (_limb((chest + 0.15, 1.4), (reach * 0.85 + 0.24 * away, 1.02), 0.11), _darker(coat, 0.8)),
        (_limb((-0.3 * away + reach * 0.75, 1.02), (0.3 * away + reach * 0.95, 1.02), 0.06), DARK),
        (_disc_at(chest + 0.07 * turned, 1.64, 0.1, 0.14), (168, 124, 104)),
        (_disc_at(chest + 0.07 * turned, 1.71, 0.12, 0.1), helmet),
    ]
    _billboard(canvas, at, [Part(shape, colour, BICYCLIST) for shape, colour in shapes], fat=True)


def _post(canvas: Canvas, at: tuple[float, float], tall_m: float, wide_m: float, colour: Colour, x: float = 0.0) -> list[Part]:
    """A post `x` beside the foot, never thinner than a label can show."""
    thin = 1.3 * canvas.camera.hw[0] / 360 * canvas.camera.depth(*at) / canvas.camera.focal
    half = max(wide_m, thin) / 2
    shaft = np.array([(x - half, 0), (x - half * 0.8, tall_m), (x + half * 0.8, tall_m), (x + half, 0)])
    return [Part(shaft, colour, POLE), Part(_plate(x + half * 0.2, 0, x + half, tall_m), _darker(colour, 0.6), None)]


def pole(canvas: Canvas, at: tuple[float, float], tall_m: float, wide_m: float, colour: Colour, arm_m: float = 0.0) -> None:
    """A post; a lamp on an arm when `arm_m` is not 0 (its sign is the side)."""
    parts = _post(canvas, at, tall_m, wide_m, colour)
    if arm_m:
        lamp = [(0.7, 0.15), (0.7, 0.42), (1.15, 0.45), (1.15, 0.2)]
        parts.append(Part(_limb((0, tall_m), (arm_m, tall_m + 0.3), wide_m * 0.7), colour, POLE))
        parts.append(Part(np.array([(arm_m * x, tall_m + y) for x, y in lamp]), (150, 150, 150), POLE))
    _billboard(canvas, at, parts)


def traffic_light(canvas: Canvas, at: tuple[float, float], tall_m: float, lamp: int) -> None:
    """A signal head on a post; `lamp` 0 red, 1 amber, 2 green."""
    parts = _post(canvas, at, tall_m, 0.13, (70, 72, 74))
    parts.append(Part(_plate(-0.24, tall_m - 1.0, 0.24, tall_m + 0.1), (16, 17, 18), SIGN))
    colours: tuple[Colour, ...] = ((600, 110, 90), (600, 380, 90), (120, 600, 330))  # they shine: brighter than white
    for i, colour in enumerate(colours):
        shown = colour if i == lamp else (30.0, 30.0, 30.0)
        parts.append(Part(_disc_at(0, tall_m - 0.12 - 0.32 * i, 0.11, 0.11), shown, None))
    _billboard(canvas, at, parts)


def sign(canvas: Canvas, at: tuple[float, float], tall_m: float, size_m: float, kind: int) -> None:
    """A road sign on a post. Kinds: 0 ban, 1 warning, 2 blue disc, 3 blue board, 4 green board, 5 white board, 6 red board."""
    if kind >= 3:
        parts = []
        for side in (-0.35, 0.35) if size_m > 1 else (0.0,):
            parts += _post(canvas, at, tall_m, 0.1, (110, 112, 112), side * size_m)
        half, high = size_m / 2, size_m * (0.72 if kind != 3 else 1.2)
        field: Colour = ((34, 58, 118), (26, 78, 62), (206, 206, 200), (138, 40, 42))[kind - 3]
        ink: Colour = (40, 40, 44) if kind == 5 else (214, 214, 210)
        parts.append(Part(_plate(-half, tall_m - high, half, tall_m), ink, SIGN))
        parts.append(Part(_plate(-half * 0.94, tall_m - high * 0.95, half * 0.94, tall_m - high * 0.05), field, None))
        for i in range(3):
            y, end = tall_m - high * (0.2 + 0.25 * i), half * (0.1 + 0.27 * ((i * 7 + kind) % 3))
            parts.append(Part(_plate(-half * 0.75, y - high * 0.1, end, y), ink, None))
        _billboard(canvas, at, parts)
        return
    r, y = size_m / 2, tall_m - size_m / 2
    triangle = np.array([(-1, -0.8), (0, 1), (1, -0.8)])
    outer, rim, inner = (
        (_disc(), (170, 34, 38), (220, 220, 216)),
        (triangle, (170, 34, 38), (220, 220, 216)),
        (_disc(), (214, 214, 214), (30, 60, 130)),
    )[kind]
    parts = _post(canvas, at, tall_m, 0.09, (120, 122, 122))
    parts += [Part(outer * r * 1.05 + (0, y), rim, SIGN), Part(outer * r * 0.76 + (0, y), inner, None)]
    parts.append(
        Part(_plate(-0.12, -0.45, 0.12, 0.45) * r * 1.2 + (0, y), (220, 220, 220) if kind == 2 else (30, 30, 34), None)
    )
    _billboard(canvas, at, parts)


def shop_sign(canvas: Canvas, at: tuple[float, float], low_m: float, size: tuple[float, float], colour: Colour) -> None:
    """A board that hangs out over the pavement, `size` (height, width) metres."""
    high, half = size[0], size[1] / 2
    ink: Colour = (214, 212, 204) if sum(colour) < 380 else (40, 40, 44)
    parts = [Part(_plate(-half, low_m, half, low_m + high), colour, SIGN)]
    for row in (0.25, 0.6):
        parts.append(Part(_plate(-half * 0.7, low_m + high * row, half * 0.7, low_m + high * (row + 0.15)), ink, None))
    _billboard(canvas, at, parts)


def odd_object(canvas: Canvas, at: tuple[float, float], size: tuple[float, float], colour: Colour) -> None:
    """A bin, a cabinet, a bench: things that no class claims; `size` (height, width) metres."""
    high, half = size[0], size[1] / 2
    parts = [
        Part(_plate(-half, 0, half, high), colour, VOID),
        Part(_plate(half * 0.45, 0, half * 0.95, high), _darker(colour, 0.6), None),
        Part(_plate(-half, high * 0.92, half, high), _darker(colour, 1.4), None),
    ]
    _billboard(canvas, at, parts)
