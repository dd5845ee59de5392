"""Drawing of the procedural street: camera, light, and the canvas on which ground, walls, meshes and trees are painted.

World: x to the right, y up, z along the road, in metres; the camera stands at z = 0. The picture is painted from far to
near. Slopes of the road are a shift of the horizon, so that verticals stay vertical.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from . import street_textures as textures
from .dataset import VOID

Colour = tuple[float, float, float]
Points = NDArray[np.float64]
"""(n, 3) world or (n, 2) picture coordinates."""
U8 = NDArray[np.uint8]

NEAR_M = 0.7
SKY, BUILDING, POLE, ROAD, SIDEWALK, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
_REACH_PX = 30000.0
"""Picture coordinates are held within this, far outside any frame, so that OpenCV's fixed point does not overflow."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: position, heading, and where the horizon lies in the frame."""

    hw: tuple[int, int]
    x_m: float
    height_m: float
    yaw: float
    """Radians to the right."""
    focal: float
    """Pixels."""
    horizon: float
    """Row, in pixels, at the middle column."""
    roll: float
    """Rows down for each column to the right."""

    @functools.cached_property
    def matrix(self) -> Points:
        """(3, 4): world x, y, z, 1 -> column and row, both times the depth, and the depth along the optical axis."""
        s, c, f = math.sin(self.yaw), math.cos(self.yaw), self.focal
        right = np.array([c, 0.0, -s, -c * self.x_m])
        up = np.array([0.0, 1.0, 0.0, -self.height_m])
        depth = np.array([s, 0.0, c, -s * self.x_m])
        row = self.horizon * depth - f * up + self.roll * f * right
        return np.stack([self.hw[1] / 2 * depth + f * right, row, depth])

    def depth(self, x: float, z: float) -> float:
        """Distance in metres along the optical axis."""
        return math.sin(self.yaw) * (x - self.x_m) + math.cos(self.yaw) * z

    def project(self, world: Points) -> Points:
        """(n, 3) world -> (n, 3): column and row, both times the depth, and the depth."""
        matrix = self.matrix
        return np.asarray(world @ matrix[:, :3].T + matrix[:, 3])

    def to_picture(self, seen: Points) -> Points:
        """(n, 3) from `project`, in front of the camera -> (n, 2) column, row."""
        return np.minimum(np.maximum(seen[:, :2] / seen[:, 2:], -_REACH_PX), _REACH_PX)

    def foot(self, x: float, z: float) -> tuple[float, float]:
        """Column and row of a point of the ground in front of the camera."""
        depth = self.depth(x, z)
        across = self.focal * (math.cos(self.yaw) * (x - self.x_m) - math.sin(self.yaw) * z) / depth
        return self.hw[1] / 2 + across, self.horizon + self.focal * self.height_m / depth + self.roll * across

    def ground(self, pixels_per_m: float, at: tuple[float, float]) -> Points:
        """The homography (3, 3) from a ground texture, its origin moved by `at` (pixels), to the picture."""
        k = 1 / pixels_per_m
        return np.asarray(self.matrix[:, [0, 2, 3]] @ np.array([[k, 0, -at[0] * k], [0, k, -at[1] * k], [0, 0, 1]]))


@dataclass(frozen=True)
class Light:
    """Sun and sky of a frame."""

    sun: tuple[float, float, float]
    """Unit vector towards the sun."""
    direct: float
    """Share of the sun; 0 when overcast."""
    ambient: float
    haze: Colour
    haze_m: float
    """Distance at which a surface has lost 63 % of its contrast."""

    def on(self, colour: Colour, normal: tuple[float, float, float], depth_m: float, lit: float = 1.0) -> Colour:
        """A matt surface as the camera sees it."""
        facing = normal[0] * self.sun[0] + normal[1] * self.sun[1] + normal[2] * self.sun[2]
        gain, veil = self.gain(facing, depth_m, lit)
        r, g, b = (min(255.0, v * gain + veil * h) for v, h in zip(colour, self.haze, strict=True))
        return r, g, b

    def gain(self, facing: float, depth_m: float, lit: float = 1.0) -> tuple[float, float]:
        """(factor of the surface's colour, share of the haze) for the cosine between surface and sun."""
        veil = 1 - math.exp(-max(depth_m, 0.0) / self.haze_m)
        return (self.ambient + self.direct * lit * max(0.0, facing)) * (1 - veil), veil


@functools.lru_cache(maxsize=8)
def _vignette(hw: tuple[int, int]) -> U8:
    rows = np.linspace(-1, 1, hw[0], dtype=np.float32)[:, None] ** 2
    columns = np.linspace(-1, 1, hw[1], dtype=np.float32)[None] ** 2
    grey = np.clip(255 - 9 * (rows + columns), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)


class _Upright(NamedTuple):
    """A wall or fence as the camera sees it."""

    corners: Points
    """(4, 2): upper left, upper right, lower right, lower left, in pixels."""
    span: tuple[float, float]
    """Where the visible part begins and ends on the whole, 0..1."""
    box: tuple[int, int, int, int]
    """The part of the frame that it touches: x0, y0, x1, y1."""
    tall: float
    """Mean height in pixels."""
    depth_m: float

    def onto(self, shape: tuple[int, ...]) -> cv2.typing.MatLike:
        """The homography from a texture of `shape` (h, w, ...) to the box."""
        (u0, u1), (h, w) = self.span, shape[:2]
        source = np.array([[u0 * w, 0], [u1 * w, 0], [u1 * w, h], [u0 * w, h]], np.float32)
        return cv2.getPerspectiveTransform(source, (self.corners - self.box[:2]).astype(np.float32))


class Canvas:
    """The frame and its label map while they are painted."""

    def __init__(self, camera: Camera, light: Light) -> None:
        h, w = camera.hw
        self.camera, self.light = camera, light
        self.frame: U8 = np.zeros((h, w, 3), np.uint8)
        self.label: U8 = np.zeros((h, w), np.uint8)
        self.shade: U8 = np.full((h, w), 255, np.uint8)
        """255 where the sun reaches the ground, less in shadow."""

    def clip(self, world: Points) -> Points:
        """A polygon in world coordinates -> its visible part in picture coordinates, (0, 2) when all is behind."""
        seen = self.camera.project(world)
        if seen[:, 2].min() >= NEAR_M:
            return self.camera.to_picture(seen)
        front = seen[:, 2] >= NEAR_M
        if not front.any():
            return np.zeros((0, 2))
        kept = []
        for i, (a, inside) in enumerate(zip(seen, front, strict=True)):
            b, next_inside = seen[(i + 1) % len(seen)], front[(i + 1) % len(seen)]
            if inside:
                kept.append(a)
            if inside != next_inside:
                kept.append(a + (NEAR_M - a[2]) / (b[2] - a[2]) * (b - a))
        return self.camera.to_picture(np.array(kept))

    def fill(self, picture: Points | NDArray[np.int32], colour: Colour, klass: int | None) -> None:
        """Fill a polygon given in picture coordinates; `klass` None leaves the label alone."""
        if len(picture) < 3:
            return
        corners = picture if picture.dtype == np.int32 else np.rint(picture).astype(np.int32)
        cv2.fillPoly(self.frame, [corners], colour)
        if klass is not None:
            cv2.fillPoly(self.label, [corners], klass)

    def polygon(self, world: Points, colour: Colour, klass: int | None) -> None:
        """Fill a polygon given in world coordinates."""
        self.fill(self.clip(world), colour, klass)

    def quads(self, world: Points, colour: Colour) -> None:
        """Fill quadrilaterals (n, 4, 3) that do not overlap, without a label; those partly behind the camera are clipped."""
        seen = self.camera.project(world.reshape(-1, 3))
        front = (seen[:, 2] >= NEAR_M).reshape(-1, 4).all(axis=1)
        picture = self.camera.to_picture(seen[np.repeat(front, 4)])
        if front.any():
            cv2.fillPoly(self.frame, list(np.rint(picture).astype(np.int32).reshape(-1, 4, 2)), colour)
        for cut in world[~front]:
            self.polygon(cut, colour, None)

    def shadow(self, world: Points, strength: int) -> None:
        """Take the sun from a polygon on the ground; `strength` is what is left, 0..255."""
        picture = self.clip(world)
        if len(picture) >= 3:
            cv2.fillPoly(self.shade, [np.rint(picture).astype(np.int32)], strength)

    def lit_at(self, picture: tuple[float, float]) -> float:
        """Share of the sun that reaches a point of the ground, 1 outside the frame."""
        column, row = round(picture[0]), round(picture[1])
        h, w = self.camera.hw
        return float(self.shade[row, column]) / 255 if 0 <= row < h and 0 <= column < w else 1.0

    def texture_ground(self, at_m: tuple[float, float], mirrored: bool) -> None:
        """Give the painted ground its grain, joints and shadows; to be called before anything stands on it.

        The textures cover 64 m x 64 m around `at_m`, metres across and along; farther away the grain is too fine to see.
        """
        h, w = self.camera.hw
        top = max(0, int(self.camera.horizon - abs(self.camera.roll) * w / 2) - 1)
        if top >= h - 2:
            return
        texels = 32.0
        corner = ((at_m[0] + 32) * texels, (at_m[1] + 8) * texels)
        matrix = np.array([[1, 0, 0], [0, 1, -top], [0, 0, 1.0]]) @ self.camera.ground(texels, corner)
        if mirrored:
            matrix = matrix @ np.array([[-1, 0, 2048], [0, 1, 0], [0, 0, 1.0]])
        label, kinds = self.label[top:], ((ROAD, textures.asphalt), (SIDEWALK, textures.paving), (TREE, textures.grass))
        factor: U8 | None = None
        for klass, texture in kinds:
            mask = cv2.inRange(label, klass, klass)
            if factor is not None and not cv2.countNonZero(mask):
                continue
            grey = cv2.warpPerspective(texture(), matrix, (w, h - top), flags=cv2.INTER_LINEAR, borderValue=128)
            factor = np.asarray(grey, np.uint8) if factor is None else np.asarray(cv2.copyTo(grey, mask, factor), np.uint8)
        if factor is None:
            return
        shade = cv2.GaussianBlur(self.shade[top:], (5, 5), 0)
        factor = np.asarray(cv2.multiply(factor, shade, scale=1 / 255), np.uint8)
        part = self.frame[top:]
        cv2.multiply(part, cv2.cvtColor(factor, cv2.COLOR_GRAY2RGB), part, 1 / 128)

    def wall(self, foot: Points, height_m: float, texture: tuple[U8, ...], facing: float, klass: int) -> None:
        """A textured upright wall over the ground line foot[0] -> foot[1], (2, 2) x and z, seen with foot[0] on the left.

        `facing` is the cosine between its normal and the sun.
        """
        seen = self._stand(foot, height_m)
        if seen is None:
            return
        x0, y0, x1, y1 = seen.box
        corners = np.rint(seen.corners).astype(np.int32)
        gain, veil = self.light.gain(facing, seen.depth_m)
        if x1 - x0 < 3:  # edge-on
            plain = texture[-1].reshape(-1, 3).mean(axis=0).tolist()
            self.fill(corners, tuple(v * gain + veil * h for v, h in zip(plain, self.light.haze, strict=True)), klass)
            return
        picked = texture[self._level(texture[0].shape[0], seen.tall, len(texture))]
        size = (x1 - x0, y1 - y0)
        matrix = seen.onto(picked.shape)
        patch = cv2.warpPerspective(picked, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        patch = cv2.convertScaleAbs(patch, alpha=gain)
        if veil > 0.03:
            patch = cv2.add(patch, np.array([*(veil * v for v in self.light.haze), 0.0]))
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [corners], 255, offset=(-x0, -y0))
        cv2.copyTo(patch, mask, self.frame[y0:y1, x0:x1])
        cv2.fillPoly(self.label, [corners], klass)

    def panel(self, foot: Points, height_m: float, layer: textures.Layer, facing: float, klass: int, lit: float) -> None:
        """A see-through upright panel, such as a fence, over a ground line."""
        seen = self._stand(foot, height_m)
        if seen is None:
            return
        x0, y0, x1, y1 = seen.box
        matrix, size = seen.onto(layer.claim.shape), (x1 - x0, y1 - y0)
        picture = cv2.warpPerspective(layer.picture, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0, 255))
        gain, _ = self.light.gain(facing, seen.depth_m, lit)
        self._lay_over(picture, gain, self.frame[y0:y1, x0:x1])
        cv2.fillPoly(self.label, [np.rint(seen.corners).astype(np.int32)], klass)

    def tree(self, x: float, z: float, height_m: float, layers: Sequence[textures.Layer], mirrored: bool) -> None:
        """A tree or bush that turns its face to the camera; its foot stands at (x, z)."""
        depth = self.camera.depth(x, z)
        if depth < 2.0:
            return
        foot = self.camera.foot(x, z)
        tall = self.camera.focal * height_m / depth
        picked = layers[self._level(layers[0].claim.shape[0], tall, len(layers))]
        th, tw = picked.claim.shape
        wide = tall * tw / th
        box = self._box(np.array([[foot[0] - wide / 2, foot[1] - tall], [foot[0] + wide / 2, foot[1]]]))
        if box is None or tall < 3:
            return
        x0, y0, x1, y1 = box
        flip = -1 if mirrored else 1
        matrix = np.array([[flip * wide / tw, 0, foot[0] - flip * wide / 2 - x0], [0, tall / th, foot[1] - tall - y0]])
        size = (x1 - x0, y1 - y0)
        picture = cv2.warpAffine(picked.picture, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0, 255))
        claim = cv2.warpAffine(picked.claim, matrix, size, flags=cv2.INTER_LINEAR)
        gain, veil = self.light.gain(0.6, depth, self.lit_at(foot))
        self._lay_over(picture, gain + veil, self.frame[y0:y1, x0:x1])
        label = self.label[y0:y1, x0:x1]
        cv2.copyTo(np.full(size[::-1], VOID, np.uint8), cv2.inRange(claim, 100, 160), label)
        cv2.copyTo(np.full(size[::-1], TREE, np.uint8), cv2.inRange(claim, 161, 255), label)

    def finish(self, curve: U8, noise_at: tuple[int, int]) -> None:
        """What lens and sensor do: veil, softness, vignette, exposure `curve` (256, 1, 3) and grain."""
        h, w = self.camera.hw
        glow = cv2.resize(self.frame, (max(1, w // 8), max(1, h // 8)), interpolation=cv2.INTER_AREA)
        glow = cv2.resize(cv2.GaussianBlur(glow, (9, 9), 0), (w, h), interpolation=cv2.INTER_LINEAR)
        frame = cv2.addWeighted(self.frame, 0.93, glow, 0.07, 0)
        sigma = 0.55 * max(1.0, h / 480)
        frame = cv2.GaussianBlur(frame, (0, 0) if sigma > 1 else (3, 3), sigma)
        frame = cv2.multiply(frame, _vignette(self.camera.hw), scale=1 / 255)
        frame = cv2.LUT(frame, curve)
        more, less = textures.grain()
        x0, y0 = noise_at
        for y in range(0, h, 512):
            for x in range(0, w, 512):
                part = frame[y : y + 512, x : x + 512]
                cut = slice(y0, y0 + part.shape[0]), slice(x0, x0 + part.shape[1])
                cv2.add(part, more[cut], part)
                cv2.subtract(part, less[cut], part)
        self.frame = np.asarray(frame, np.uint8)

    @staticmethod
    def _lay_over(picture: cv2.typing.MatLike, gain: float, part: U8) -> None:
        """Paint a picture with transparency, (h, w, 4) as in `Layer`, over a part of the frame."""
        cv2.multiply(part, cv2.cvtColor(picture[..., 3], cv2.COLOR_GRAY2RGB), part, 1 / 255)
        cv2.add(part, cv2.convertScaleAbs(cv2.cvtColor(picture, cv2.COLOR_RGBA2RGB), alpha=gain), part)

    def _stand(self, foot: Points, height_m: float) -> _Upright | None:
        """The part of an upright surface over a ground line that is in front of the camera and in the frame."""
        (ax, az), (bx, bz) = foot.tolist()
        camera = self.camera
        da, db = camera.depth(ax, az), camera.depth(bx, bz)
        if max(da, db) <= 1.0:
            return None
        ends = []
        for here, depth in ((0.0, da), (1.0, db)):
            u = here if depth >= 1.0 else (1.0 - da) / (db - da)
            column, row = camera.foot(ax + u * (bx - ax), az + u * (bz - az))
            tall = camera.focal * height_m / max(depth, 1.0)
            ends.append((u, max(-_REACH_PX, min(_REACH_PX, column)), row, tall))
        (u0, left, row0, tall0), (u1, right, row1, tall1) = ends
        h, w = camera.hw
        x0, x1 = max(0, math.floor(min(left, right))), min(w, math.ceil(max(left, right)) + 1)
        y0, y1 = max(0, math.floor(min(row0 - tall0, row1 - tall1))), min(h, math.ceil(max(row0, row1)) + 1)
        if x1 <= x0 or y1 <= y0:
            return None
        corners = np.array([[left, row0 - tall0], [right, row1 - tall1], [right, row1], [left, row0]])
        return _Upright(corners, (u0, u1), (x0, y0, x1, y1), (tall0 + tall1) / 2, (max(da, 1.0) + max(db, 1.0)) / 2)

    def _box(self, picture: Points) -> tuple[int, int, int, int] | None:
        """The bounding box of points, cut to the frame: x0, y0, x1, y1."""
        h, w = self.camera.hw
        x0, y0 = (max(0, math.floor(v)) for v in picture.min(axis=0))
        x1, y1 = (min(side, math.ceil(v) + 1) for side, v in zip((w, h), picture.max(axis=0), strict=True))
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    @staticmethod
    def _level(texels: int, pixels: float, levels: int) -> int:
        """The mip level that is shrunk by no more than about two."""
        ratio = texels / max(pixels, 1.0)
        return min(levels - 1, max(0, math.floor(math.log2(ratio) + 0.35))) if ratio > 1 else 0
