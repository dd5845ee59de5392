"""What a frame of the procedural street holds before anything is painted: road, light, camera, list of things."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from .street_render import Camera, Canvas, Colour, Light, Points

FAR_M = 190.0
"""Where the street ends."""
OPEN, TERRACE, HOUSES, GREEN = range(4)
"""What lines a side of the street: a car park or yard, fronts at the pavement, houses behind gardens, trees and verges."""


def pick(rng: Generator, options: tuple[Colour, ...]) -> Colour:
    """One of the colours."""
    return options[int(rng.random() * len(options))]


def integer(rng: Generator, options: range) -> int:
    """One of the numbers; several times as fast as `rng.integers`."""
    return options.start + int(rng.random() * len(options))


@dataclass(frozen=True)
class Road:
    """The road in metres. Points are given across (from its middle, positive to the right) and along."""

    half: float
    """Half its width."""
    bend: float
    """Curvature, 1/m."""
    pavement: tuple[float, float]
    """Widths of the pavements, left and right."""
    kinds: tuple[int, int]
    """What lines the sides, left and right."""

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


@dataclass
class Scene:
    """A frame in the making."""

    rng: Generator
    road: Road
    light: Light
    dusk: bool
    sky_tone: float
    """Grey value of the sky at the horizon."""
    camera: Camera
    canvas: Canvas
    lot: list[tuple[float, Callable[[Canvas], None]]] = field(default_factory=list)
    """What stands on the ground: how far away, which orders the painting, and how it is painted."""

    def add(self, depth: float, draw: Callable[[Canvas], None]) -> None:
        """Set something out; things behind the camera are dropped where they are painted."""
        self.lot.append((depth, draw))


def draw_scene(rng: Generator, hw: tuple[int, int]) -> Scene:
    """Draw road, light and camera by lot for a frame of `hw` pixels."""
    u = rng.uniform
    dusk = rng.random() < 0.22
    sunny = rng.random() < (0.15 if dusk else 0.6)
    kinds = (_kind(rng), _kind(rng))
    road = Road(
        half=float(u(3.2, 5.0) if rng.random() < 0.75 else u(5.0, 8.0)),
        bend=float(rng.normal(0, 0.0022)) if rng.random() < 0.6 else 0.0,
        pavement=(float(u(1.4, 3.4)), float(u(1.4, 3.4))),
        kinds=kinds,
    )
    height, around = math.radians(u(14, 42)), u(0, 2 * math.pi)
    sun = (math.cos(height) * math.sin(around), math.sin(height), math.cos(height) * math.cos(around))
    ambient = u(0.3, 0.56) if dusk else u(0.58, 0.8) if sunny else u(0.8, 1.1)
    direct = 0.0 if not sunny else u(0.15, 0.3) if dusk else u(0.55, 0.95)
    tone = float(u(130, 215) if dusk else u(226, 255))
    light = Light(sun, float(direct), float(ambient), (tone * 0.84, tone * 0.87, tone * 0.9), float(u(350, 1500)))
    camera = Camera(
        hw=hw,
        x_m=float(-road.half * u(0.25, 0.6)),
        height_m=float(u(1.2, 1.75)),
        yaw=float(rng.normal(0, 0.05) if rng.random() < 0.8 else rng.normal(0, 0.16)),
        focal=float(u(1.0, 1.4)) * hw[0],
        horizon=float(np.clip(rng.normal(0.475, 0.05), 0.36, 0.62)) * hw[0],
        roll=float(rng.normal(0, 0.008)),
    )
    return Scene(rng, road, light, dusk, tone, camera, Canvas(camera, light))


def _kind(rng: Generator) -> int:
    return int(np.searchsorted((0.06, 0.7, 0.86), rng.random()))
