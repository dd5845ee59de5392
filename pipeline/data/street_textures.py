"""Textures of the procedural street: noise, facades, fences, trees. Made once a process from fixed seeds, never per frame."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

FACADE = 256
"""Side of a facade texture in pixels; a facade shows one house front from the pavement to the eaves."""
SHOPS, HOUSES, BLOCKS = range(14), range(14, 26), range(26, 34)
"""Index ranges into `facades()`: with shop fronts, with doors, plain blocks."""
BARE_TREES, LEAFY_TREES, BUSHES = range(10), range(10, 18), range(18, 24)
"""Index ranges into `trees()`."""
_WALLS = (
    *((168, 150, 112), (150, 128, 95), (178, 166, 138), (132, 116, 92)),  # pale local brick
    *((120, 74, 58), (104, 66, 56), (136, 92, 74)),  # red brick
    *((214, 210, 200), (224, 222, 216), (196, 190, 176)),  # stucco
    *((120, 118, 112), (96, 94, 90), (142, 138, 130)),  # stone, concrete
)
_FASCIAS = (
    (24, 40, 84),
    (112, 36, 38),
    (26, 62, 40),
    (30, 30, 32),
    (190, 186, 176),
    (160, 118, 52),
    (66, 42, 64),
    (40, 82, 108),
)


class Layer(NamedTuple):
    """A picture with transparency, and the part of it that its class claims."""

    picture: U8
    """(h, w, 4): RGB multiplied by the opacity, then what is seen of the background, 255 for all of it."""
    claim: U8
    """(h, w): 255 where the label is the object's, 128 where it is void, 0 where the label stays."""


def noise_field(size: int, coarsest: int, finest: int, seed: int, falloff: float = 0.7) -> F32:
    """Tileable value noise (size, size), mean 0, deviation 1; octaves of `coarsest` .. `finest` cells a side.

    `size` is `coarsest` times a power of two.
    """
    rng = np.random.default_rng(seed)
    total, weight, cells = np.zeros((coarsest, coarsest), np.float32), 1.0, coarsest
    while True:
        if cells <= finest:
            total = total + np.float32(weight) * rng.standard_normal((cells, cells), np.float32)
        if cells == size:
            return np.asarray((total - total.mean()) / total.std(), np.float32)
        double = cv2.resize(np.pad(total, 1, mode="wrap"), None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        total = np.asarray(double[2:-2, 2:-2], np.float32)
        cells, weight = cells * 2, weight * falloff


def _bytes(field: F32) -> U8:
    return np.clip(field, 0, 255).astype(np.uint8)


def _mips(texture: U8) -> tuple[U8, ...]:
    levels = [texture]
    while min(levels[-1].shape[:2]) > 16:
        h, w = levels[-1].shape[:2]
        levels.append(np.asarray(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA), np.uint8))
    return tuple(levels)


@functools.cache
def asphalt() -> U8:
    """(2048, 2048) grey factors around 128 for 64 m: blotches, grain, cracks."""
    field = 128 + 4 * noise_field(2048, 8, 64, 1) + 8 * noise_field(2048, 128, 1024, 2, 1.0)
    cracks = np.abs(noise_field(2048, 16, 64, 3)) < 0.01
    return _bytes(np.where(cracks, field - 20, field).astype(np.float32))


@functools.cache
def paving() -> U8:
    """(2048, 2048) grey factors around 128 for 64 m: slabs of uneven tone with joints."""
    rng = np.random.default_rng(4)
    tone = cv2.resize(rng.normal(0, 8, (128, 128)).astype(np.float32), (2048, 2048), interpolation=cv2.INTER_NEAREST)
    field = 128 + tone + 6 * noise_field(2048, 16, 1024, 5)
    field[::16] -= 30
    field[:, ::16] -= 30
    return _bytes(field)


@functools.cache
def grass() -> U8:
    """(2048, 2048) grey factors around 128 for 64 m, strongly mottled."""
    return _bytes(128 + 12 * noise_field(2048, 16, 128, 6) + 24 * noise_field(2048, 256, 1024, 7))


@functools.cache
def clouds() -> U8:
    """(512, 512) cloud cover, tileable."""
    return _bytes(128 + 52 * noise_field(512, 4, 128, 8, 0.55))


@functools.cache
def grain() -> tuple[U8, U8]:
    """Sensor noise, (1024, 1024, 3) each: what to add, and what to take off."""
    rng = np.random.default_rng(9)
    noise = (rng.normal(0, 3.0, (1024, 1024, 1)) + rng.normal(0, 1.4, (1024, 1024, 3))).astype(np.float32)
    return _bytes(np.rint(noise)), _bytes(np.rint(-noise))


def _window(wall: F32, box: tuple[int, int, int, int], frame: float, rng: np.random.Generator) -> None:
    """Paint a window: surround, dark glass with a bright reflection at times, glazing bars."""
    x0, y0, x1, y1 = box
    wall[y0 - 2 : y1 + 3, x0 - 2 : x1 + 2] = frame
    glass = rng.uniform(14, 46) if rng.random() < 0.75 else rng.uniform(70, 150)
    pane = np.linspace(glass * 1.35, glass * 0.8, y1 - y0, dtype=np.float32)[:, None, None]
    wall[y0:y1, x0:x1] = pane * np.array([0.95, 1.0, 1.08], np.float32)
    if rng.random() < 0.3:
        wall[y0 : y0 + (y1 - y0) // 2, x0:x1] += 40
    wall[(y0 + y1) // 2, x0:x1] = frame
    wall[y0:y1, (x0 + x1) // 2] = frame


def _shop_front(wall: F32, top: int, rng: np.random.Generator) -> None:
    fascia = np.array(_FASCIAS[rng.integers(len(_FASCIAS))], np.float32)
    wall[top:] = fascia * 0.8
    wall[top : top + 13] = fascia
    letters = 215.0 if fascia.mean() < 130 else 35.0
    x = int(rng.integers(20, 70))
    for _ in range(int(rng.integers(5, 12))):  # a name that no one can read from a car
        width = int(rng.integers(4, 9))
        wall[top + 3 : top + 10, x : x + width] = letters
        x += width + 3
    x = 6
    while x < FACADE - 24:
        width = int(rng.integers(28, 60))
        end = min(x + width, FACADE - 6)
        inside = rng.uniform(14, 80, (5, 4, 1)) * rng.uniform(0.5, 1.9) * rng.uniform(0.85, 1.15, (5, 4, 3))
        wall[top + 17 : FACADE - 8, x:end] = cv2.resize(inside.astype(np.float32), (end - x, FACADE - 25 - top))
        x = end + 5


def _facade(index: int) -> U8:
    rng = np.random.default_rng([10, index])
    shade = np.array(_WALLS[rng.integers(len(_WALLS))], np.float32)
    rough = cv2.resize(noise_field(256, 4, 128, 100 + index)[:FACADE, :FACADE], (FACADE, FACADE))
    wall = shade * (1 + 0.07 * rough[..., None])
    if shade.mean() < 160:
        wall[::4] *= 0.9  # courses of bricks
    floors = int(rng.integers(2, 5)) if index not in BLOCKS else int(rng.integers(3, 6))
    bays = int(rng.integers(3, 6)) if index not in BLOCKS else int(rng.integers(4, 8))
    storey, bay = FACADE // floors, FACADE // bays
    wide, high = rng.uniform(0.36, 0.55) if index not in BLOCKS else rng.uniform(0.5, 0.8), rng.uniform(0.48, 0.64)
    surround = float(rng.uniform(150, 225) if rng.random() < 0.7 else rng.uniform(50, 90))
    shop = index in SHOPS
    for floor in range(floors - 1 if shop else floors):
        y0 = floor * storey + int(storey * (0.9 - high))
        for column in range(bays):
            x0 = column * bay + int(bay * (1 - wide) / 2)
            _window(wall, (x0, y0, x0 + int(bay * wide), y0 + int(storey * high)), surround, rng)
        if rng.random() < 0.5:
            wall[floor * storey : floor * storey + 3] *= 1.15
    if shop:
        _shop_front(wall, (floors - 1) * storey, rng)
    elif index in HOUSES:
        x0 = int(rng.integers(1, bays)) * bay - 10
        wall[FACADE - int(storey * 0.75) :, x0 : x0 + 20] = np.array(_FASCIAS[rng.integers(len(_FASCIAS))], np.float32)
    wall[:7] = shade * rng.uniform(0.55, 1.2)
    wall[7:10] *= 0.6
    dirt = np.linspace(1.04, 0.9, FACADE, dtype=np.float32)[:, None, None]
    return _bytes((wall * dirt).astype(np.float32))


@functools.cache
def facades() -> tuple[tuple[U8, ...], ...]:
    """House fronts as mip levels, each (h, w, 3), finest first."""
    return tuple(_mips(_facade(index)) for index in range(BLOCKS.stop))


@functools.cache
def gables() -> tuple[tuple[U8, ...], ...]:
    """House sides: bare wall with a window or two, as mip levels."""
    sides = []
    for index, shade in enumerate(_WALLS):
        rng = np.random.default_rng([11, index])
        wall = np.array(shade, np.float32) * (1 + 0.09 * noise_field(256, 4, 128, 200 + index)[..., None])
        wall[::4] *= 0.93
        for _ in range(int(rng.integers(0, 4))):
            x, y = (int(v) for v in rng.integers(20, 190, 2))
            _window(wall, (x, y, x + 26, y + 40), 190.0, rng)
        sides.append(_mips(_bytes(wall)))
    return tuple(sides)


def _layer(colour: F32, opacity: F32, claim: U8) -> Layer:
    opaque = np.clip(opacity, 0, 1)[..., None]
    return Layer(_bytes(np.concatenate([colour * opaque, 255 * (1 - opaque)], axis=2, dtype=np.float32)), claim)


@functools.cache
def fences() -> tuple[Layer, ...]:
    """Fence panels 128 high: four railings that one looks through, then boards and a wire mesh."""
    panels = []
    for index, (tone, pitch, bar) in enumerate(((150, 12, 3), (40, 10, 3), (32, 16, 4), (120, 16, 4))):
        opacity = np.zeros((128, 256), np.float32)
        for x in range(0, 256, pitch):
            opacity[10:122, x : x + bar] = 1
        opacity[8:15] = opacity[110:116] = 1
        opacity[:, 0:6] = opacity[:, 126:132] = 1
        colour = np.full((128, 256, 3), tone, np.float32) * (1 + 0.1 * noise_field(256, 8, 128, 300 + index)[:128, :, None])
        panels.append(_layer(colour, opacity, np.full((128, 256), 255, np.uint8)))
    for index, shade in enumerate(((104, 82, 60), (82, 70, 58))):
        colour = np.array(shade, np.float32) * (1 + 0.14 * noise_field(256, 8, 128, 310 + index)[:128, :, None])
        colour[:, ::12] *= 0.5
        colour[20:24] *= 0.75
        colour[100:104] *= 0.75
        panels.append(_layer(colour, np.ones((128, 256), np.float32), np.full((128, 256), 255, np.uint8)))
    return tuple(panels)


def _branch(drawn: U8, at: tuple[float, float], angle: float, length: float, width: float, rng: np.random.Generator) -> None:
    end = (at[0] + length * math.sin(angle), at[1] - length * math.cos(angle))
    start, stop = (int(at[0] * 16), int(at[1] * 16)), (int(end[0] * 16), int(end[1] * 16))
    cv2.line(drawn, start, stop, 255.0, max(1, round(width)), cv2.LINE_AA, 4)
    if length < 9 or not 14 < end[0] < drawn.shape[1] - 14:
        return
    for _ in range(int(rng.integers(2, 4))):
        turn = angle + rng.normal(0, 0.48)
        _branch(drawn, end, turn, length * rng.uniform(0.68, 0.88), width * 0.66, rng)


def _bare_tree(index: int) -> Layer:
    rng = np.random.default_rng([12, index])
    drawn = np.zeros((384, 400), np.uint8)
    _branch(drawn, (200.0, 383.0), float(rng.normal(0, 0.04)), 66.0, 10.0, rng)
    opacity = np.asarray(drawn * np.float32(0.92 / 255), np.float32)
    bark = np.array([74, 66, 56], np.float32) * rng.uniform(0.6, 1.25)
    colour = bark * (1 + 0.25 * noise_field(512, 8, 256, 400 + index)[:384, :400, None])
    solid = cv2.morphologyEx((drawn > 40).astype(np.uint8) * 255, cv2.MORPH_CLOSE, np.ones((19, 19), np.uint8))
    claim = np.where(solid > 0, 255, 0).astype(np.uint8)
    rim = (cv2.dilate(solid, np.ones((5, 5), np.uint8)) > 0) & (cv2.erode(solid, np.ones((5, 5), np.uint8)) == 0)
    claim[rim & (noise_field(512, 64, 256, 420 + index)[:384, :400] > 0.9)] = 128
    return _layer(colour.astype(np.float32), opacity, claim)


def _leafy(index: int, bush: bool) -> Layer:
    rng = np.random.default_rng([13, index])
    h, w = (160, 256) if bush else (384, 320)
    mass = np.zeros((h, w), np.float32)
    if bush:
        centres = [(x, rng.uniform(0.55, 0.8) * h, rng.uniform(0.25, 0.4) * h) for x in np.linspace(0.15, 0.85, 7) * w]
    else:
        conifer = index % 3 == 0
        cv2.rectangle(mass, (w // 2 - 6, h // 2), (w // 2 + 6, h), 2.0, -1)
        reach = [rng.uniform(0, 1) for _ in range(26)]
        spread = [0.08 + 0.8 * r if conifer else np.sin(np.pi * (0.15 + 0.8 * r)) for r in reach]
        centres = [
            (w / 2 + rng.uniform(-0.32, 0.32) * w * s, (0.12 + 0.6 * r) * h, rng.uniform(0.08, 0.17) * w)
            for r, s in zip(reach, spread, strict=True)
        ]
    rows, columns = np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)[None]
    for x, y, radius in centres:
        mass = np.maximum(mass, 1.6 - ((columns - x) ** 2 + (rows - y) ** 2) / radius**2)
    if bush:
        mass[int(0.8 * h) :, int(0.08 * w) : int(0.92 * w)] = 2
    leaves = noise_field(512, 16, 256, 450 + index, 0.85)[:h, :w]
    opacity = np.clip((mass - 0.6 + 0.35 * leaves) * 3, 0, 1) * (mass > 0.25)
    opacity *= np.clip((leaves + 2.1) * 2, 0, 1)  # holes that show the sky
    green = np.array(((70, 84, 44), (50, 66, 38), (92, 92, 52), (66, 62, 44))[index % 4], np.float32)
    top = np.linspace(1.25, 0.6, h, dtype=np.float32)[:, None, None]
    colour = green * top * (1 + 0.42 * leaves[..., None])
    claim = np.where(opacity > 0.35, 255, 0).astype(np.uint8)
    claim = cv2.morphologyEx(claim, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8)).astype(np.uint8)
    return _layer(colour.astype(np.float32), opacity.astype(np.float32), claim)


@functools.cache
def trees() -> tuple[tuple[Layer, ...], ...]:
    """Trees and bushes as mip levels, finest first; the foot of the trunk is the middle of the last row."""
    whole = [_bare_tree(i) for i in BARE_TREES] + [_leafy(i, bush=False) for i in LEAFY_TREES]
    whole += [_leafy(i, bush=True) for i in BUSHES]
    stacks = []
    for tree in whole:
        parts = [_mips(part) for part in tree]
        stacks.append(tuple(Layer(*level) for level in zip(*parts, strict=True)))
    return tuple(stacks)


@functools.cache
def foliage() -> U8:
    """(256, 256, 3) leaves for hedges and far woods, around 128; tileable."""
    light = 128 + 40 * noise_field(256, 16, 128, 14, 0.9)
    return _bytes(np.stack([light * 0.98, light * 1.04, light * 0.78], axis=2))
