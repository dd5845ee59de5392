"""Vehicles of the procedural street: small meshes, painted face by face."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .street_render import CAR, NEAR_M, Canvas, Colour, Points

DARK: Colour = (22, 23, 26)
GLASS: Colour = (34, 40, 48)
PAINT, WINDOW, TYRE, HUB, REAR_LAMP, HEAD_LAMP, PLATE, TRIM = range(8)


class Mesh(NamedTuple):
    """A convex-ish body painted face after face; faces that look away are skipped."""

    vertices: Points
    """(n, 3): x across, y up, z towards the front, metres."""
    faces: tuple[tuple[int, ...], ...]
    """Vertex numbers of each face, consecutive."""
    materials: tuple[int, ...]
    normals: Points
    """(faces, 3), unit length."""


class _MeshMaker:
    def __init__(self) -> None:
        self.vertices: list[tuple[float, float, float]] = []
        self.faces: list[tuple[int, ...]] = []
        self.materials: list[int] = []
        self.normals: list[NDArray[np.float64]] = []

    def face(self, corners: list[tuple[float, float, float]], material: int, outwards: tuple[float, float, float]) -> None:
        points = np.array(corners)
        normal = np.cross(points[1] - points[0], points[2] - points[0])
        normal = normal / np.linalg.norm(normal)
        start = len(self.vertices)
        self.vertices += corners
        self.faces.append(tuple(range(start, start + len(corners))))
        self.materials.append(material)
        self.normals.append(normal if normal @ np.array(outwards) > 0 else -normal)

    def prism(self, outline: list[tuple[float, float]], half: tuple[float, ...], materials: list[int]) -> None:
        """Sweep a side view (z, y), given clockwise from the rear foot, across the width `half` at each of its points."""
        count = len(outline)
        middle = (sum(p[0] for p in outline) / count, sum(p[1] for p in outline) / count)
        for i, (z0, y0) in enumerate(outline):
            j = (i + 1) % count
            z1, y1 = outline[j]
            out = (0.0, (y0 + y1) / 2 - middle[1], (z0 + z1) / 2 - middle[0])
            corners = [(-half[i], y0, z0), (half[i], y0, z0), (half[j], y1, z1), (-half[j], y1, z1)]
            self.face(corners, materials[i], out)
        for side in (-1, 1):
            self.face([(side * h, y, z) for (z, y), h in zip(outline, half, strict=True)], materials[-1], (side, 0, 0))

    def decal(self, corners: list[tuple[float, float, float]], material: int, outwards: tuple[float, float, float]) -> None:
        shift = np.array(outwards) * 0.012
        self.face([tuple(np.array(c) + shift) for c in corners], material, outwards)

    def wheels(self, half: float, radius: float, at: tuple[float, ...]) -> None:
        for side in (-1, 1):
            for z in at:
                for size, material in ((1.0, TYRE), (0.58, HUB)):
                    ring = [
                        (side * half, radius + size * radius * math.sin(a), z + size * radius * math.cos(a))
                        for a in np.linspace(0, 2 * math.pi, 12, endpoint=False)
                    ]
                    self.decal(ring, material, (side * (1.5 if material == HUB else 1), 0, 0))

    def lamps(self, half: float, y: float, rear_z: float, front_z: float, size: tuple[float, float]) -> None:
        w, h = size
        for z, out, material in ((rear_z, -1, REAR_LAMP), (front_z, 1, HEAD_LAMP)):
            for side in (-1, 1):
                inner, outer = side * (half - w), side * half
                self.decal([(inner, y, z), (outer, y, z), (outer, y + h, z), (inner, y + h, z)], material, (0, 0, out))
            plate = [(-0.27, y - 0.28, z), (0.27, y - 0.28, z), (0.27, y - 0.14, z), (-0.27, y - 0.14, z)]
            self.decal(plate, PLATE, (0, 0, out))
            trim = [(-half, y - 0.36, z), (half, y - 0.36, z), (half, y - 0.3, z), (-half, y - 0.3, z)]
            self.decal(trim, TRIM, (0, 0, out))

    def done(self) -> Mesh:
        return Mesh(np.array(self.vertices), tuple(self.faces), tuple(self.materials), np.array(self.normals))


def _car(length: float, height: float, half: float, cabin: tuple[float, float, float, float]) -> Mesh:
    """`cabin`: rear foot, rear top, front top, front foot of the greenhouse, as shares of the length from the rear."""
    maker, l2, belt = _MeshMaker(), length / 2, height * 0.6
    z = [-l2 + length * share for share in cabin]
    body = [(-l2, 0.22), (-l2, belt * 0.95), (z[0], belt), (z[3], belt), (l2 - 0.1, belt * 0.8), (l2, 0.55), (l2, 0.22)]
    maker.prism(body, (half, half, half, half, half * 0.97, half * 0.94, half * 0.94), [PAINT] * 6 + [TRIM, PAINT])
    top = half * 0.76
    maker.prism(
        [(z[0], belt), (z[1], height), (z[2], height), (z[3], belt)],
        (half * 0.95, top, top, half * 0.93),
        [WINDOW, PAINT, WINDOW, PAINT, PAINT],
    )
    for side in (-1, 1):
        out = (side, 0.3, 0)
        low, high, y0, y1 = side * half * 0.93, side * top * 1.02, belt + 0.05, height - 0.07
        post = (z[1] + z[2]) / 2 + 0.1
        rear = [(low, y0, z[0] + 0.22), (high, y1, z[1] + 0.1), (high, y1, post - 0.04), (low, y0, post - 0.04)]
        front = [(low, y0, post + 0.04), (high, y1, post + 0.04), (high, y1, z[2] - 0.05), (low, y0, z[3] - 0.3)]
        maker.decal(rear, WINDOW, out)
        maker.decal(front, WINDOW, out)
        sill = [
            (side * half, 0.22, -l2 + 0.1),
            (side * half, 0.22, l2 - 0.1),
            (side * half, 0.34, l2 - 0.1),
            (side * half, 0.34, -l2 + 0.1),
        ]
        maker.decal(sill, TRIM, (side, 0, 0))
    maker.wheels(half, 0.31, (-l2 * 0.62, l2 * 0.64))
    maker.lamps(half * 0.93, 0.68, -l2, l2, (0.3, 0.2))
    return maker.done()


def _box_vehicle(length: float, height: float, half: float, bus: bool) -> Mesh:
    maker, l2 = _MeshMaker(), length / 2
    nose = 0.0 if bus else 0.9
    outline = [(-l2, 0.3), (-l2, height), (l2 - nose, height), (l2 - 0.1, height * (0.9 if bus else 0.55)), (l2, 0.3)]
    maker.prism(outline, (half,) * 5, [PAINT, PAINT, WINDOW, PAINT, TRIM, PAINT])
    decks = ((0.28, 0.46), (0.62, 0.82)) if height > 4 else ((0.5, 0.8),)
    for low, high in decks:
        y0, y1 = low * height, high * height
        maker.decal(
            [(-half * 0.8, y0, -l2), (half * 0.8, y0, -l2), (half * 0.8, y1, -l2), (-half * 0.8, y1, -l2)], WINDOW, (0, 0, -1)
        )
        start = -l2 + 0.4 if bus else l2 - 2.2
        for side in (-1, 1):
            x = side * half
            maker.decal([(x, y0, start), (x, y0, l2 - nose), (x, y1, l2 - nose), (x, y1, start)], WINDOW, (side, 0, 0))
    maker.wheels(half, 0.45 if bus else 0.34, (-l2 * 0.6, l2 * 0.64))
    maker.lamps(half * 0.95, 0.85, -l2, l2, (0.2, 0.32))
    return maker.done()


@functools.cache
def vehicles() -> tuple[Mesh, ...]:
    """Hatchback, saloon, estate, off-roader, van, bus, double-decker."""
    return (
        _car(3.8, 1.45, 0.84, (0.03, 0.14, 0.55, 0.76)),
        _car(4.5, 1.42, 0.88, (0.14, 0.30, 0.58, 0.74)),
        _car(4.6, 1.48, 0.88, (0.02, 0.10, 0.58, 0.74)),
        _car(4.5, 1.82, 0.93, (0.02, 0.05, 0.55, 0.70)),
        _box_vehicle(5.2, 2.25, 0.97, bus=False),
        _box_vehicle(10.5, 3.0, 1.22, bus=True),
        _box_vehicle(10.0, 4.3, 1.22, bus=True),
    )


def vehicle(canvas: Canvas, at: tuple[float, float], heading: float, kind: int, paint: Colour, braking: bool) -> None:
    """Paint a vehicle that stands at (x, z) and looks along `heading`, radians from the road's direction."""
    mesh, camera, light = vehicles()[kind], canvas.camera, canvas.light
    depth = camera.depth(*at)
    if depth < 1.0:
        return
    if abs(camera.foot(*at)[0] - camera.hw[1] / 2) > camera.hw[1] / 2 + 6 * camera.focal / depth:
        return
    s, c = math.sin(heading), math.cos(heading)
    turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    world = mesh.vertices @ turn + (at[0], 0.0, at[1])
    seen = camera.project(world)
    whole = bool(seen[:, 2].min() > NEAR_M)
    corners = np.rint(camera.to_picture(np.maximum(seen, (-1e9, -1e9, NEAR_M)))).astype(np.int32)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    if whole and (right < 0 or left > camera.hw[1] or bottom - top < 2):
        return
    lit = canvas.lit_at(camera.foot(*at))
    normals = mesh.normals @ turn
    first = world[[face[0] for face in mesh.faces]] - (camera.x_m, camera.height_m, 0.0)
    visible = (first * normals).sum(axis=1) < 0
    gain, veil = light.gain(1.0, depth, lit)
    base, _ = light.gain(0.0, depth, lit)
    sky = 0.72 + 0.28 * np.maximum(normals[:, 1], -0.8)
    gains = (base + (gain - base) * np.maximum(normals @ np.array(light.sun), 0)) * sky
    colours: tuple[Colour, ...] = (
        *(paint, GLASS, DARK, (105, 106, 110), (150, 22, 20), (225, 225, 215)),
        *((205, 185, 70) if (normals[0] * (first[0])).sum() > 0 else (215, 215, 210), DARK),
    )
    materials = np.array(mesh.materials)
    glass = materials == WINDOW
    gains[glass] *= 1.0 + 1.6 * np.maximum(normals[glass, 1], 0)  # glass that leans back mirrors the sky
    shades = np.array(colours)[materials] * gains[:, None]
    if braking:
        shades[materials == REAR_LAMP] = (255, 60, 50)
    shades = np.minimum(shades + veil * np.array(light.haze), 255).tolist()
    small = bottom - top < 14
    for number in np.flatnonzero(visible).tolist():
        material, shade = mesh.materials[number], shades[number]
        if small and material in (HUB, PLATE, TRIM):
            continue
        face = mesh.faces[number]
        part = slice(face[0], face[-1] + 1)
        klass = CAR if material in (PAINT, WINDOW, TYRE) else None  # the others lie within these
        canvas.fill(corners[part] if whole else canvas.clip(world[part]), shade, klass)
