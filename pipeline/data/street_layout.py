"""What stands along the procedural street and on it: buildings, gardens, trees, traffic, street furniture, people."""

from __future__ import annotations

import math
from functools import partial

import cv2
import numpy as np

from . import street_textures as textures
from . import street_things as things
from . import street_vehicles as vehicles
from .street_ground import flat
from .street_render import BUILDING, FENCE, ROAD, TREE, Canvas, Colour, Points
from .street_scene import GREEN, HOUSES, TERRACE, Scene, integer, pick

_CARS: tuple[Colour, ...] = (
    *((34, 36, 42), (150, 154, 160), (190, 194, 198), (62, 70, 92), (38, 48, 80), (126, 36, 38), (90, 94, 98)),
    *((228, 228, 226), (36, 70, 56), (52, 54, 58), (112, 120, 132), (176, 150, 60), (70, 20, 26), (58, 92, 124)),
)
_COATS: tuple[Colour, ...] = (
    *((28, 28, 32), (40, 42, 56), (60, 50, 44), (34, 36, 34), (110, 30, 34), (48, 62, 96), (176, 172, 166)),
    *((70, 72, 78), (24, 26, 44), (92, 82, 70)),
)
_TROUSERS: tuple[Colour, ...] = ((26, 27, 32), (38, 44, 62), (54, 58, 74), (44, 40, 36), (20, 20, 22))
_HAIR: tuple[Colour, ...] = ((30, 24, 20), (60, 44, 30), (100, 78, 50), (20, 20, 22))
_HIVIS: tuple[Colour, ...] = ((196, 214, 60), (214, 120, 40))
_RING = np.stack([np.cos(np.arange(8) * math.pi / 4), np.sin(np.arange(8) * math.pi / 4)], axis=1)


def lay_side(scene: Scene, side: int) -> None:
    """Walk along one side and set out what lines it."""
    rng, sign, kind = scene.rng, (-1, 1)[side], scene.road.kinds[side]
    line = scene.road.half + scene.road.pavement[side]
    junction = float(rng.uniform(8, 70)) if rng.random() < 0.4 else math.inf
    style = textures.SHOPS if rng.random() < 0.55 else textures.HOUSES
    z, before = -float(rng.uniform(2, 10)), 0.0
    while z < 150:
        long = float(rng.uniform(6, 15)) * (1 + max(z, 0) / 50)
        if z <= junction < z + long:
            _side_street(scene, sign, junction)
            z, junction, before = junction + float(rng.uniform(6, 10)), math.inf, 0.0
            continue
        high, here = 0.0, kind if rng.random() < 0.84 else integer(rng, range(4))
        if here == TERRACE:
            low = 4.5 if rng.random() < 0.3 else 6.5
            high = float(rng.uniform(low, 14.5))
            _building(scene, sign, line + float(rng.uniform(0, 0.3)), z, long, high, style, hidden=before)
        elif here == HOUSES:
            setback = float(rng.uniform(3, 8))
            if rng.random() < 0.8:
                _building(scene, sign, line + setback, z, long * 0.85, float(rng.uniform(5, 8)), textures.HOUSES)
            _border(scene, sign, line + 0.1, z, long)
            if rng.random() < 0.45:
                _tree(scene, sign * (line + setback * 0.6), z + long * 0.5, 0.0)
        elif here == GREEN:
            if rng.random() < 0.5:
                _border(scene, sign, line + float(rng.uniform(0, 2)), z, long)
            for _ in range(integer(rng, range(1, 4))):
                _tree(scene, sign * (line + float(rng.uniform(1, 12))), z + float(rng.uniform(0, long)), 0.0)
        else:
            if rng.random() < 0.5:
                _building(scene, sign, line + float(rng.uniform(14, 30)), z, long, float(rng.uniform(4, 9)), textures.BLOCKS)
            if rng.random() < 0.5:
                _border(scene, sign, line + 0.2, z, long)
            if rng.random() < 0.6:
                heading = (math.pi / 2) * (1 if rng.random() < 0.5 else -1)
                _vehicle(scene, sign * (line + float(rng.uniform(3, 9))), z + long / 2, heading)
        z, before = z + long, high
    if kind != GREEN and rng.random() < 0.45:
        step = float(rng.uniform(9, 22))
        for i in range(5):  # street trees in the pavement
            _tree(scene, sign * (line - 0.7), float(rng.uniform(5, 9)) + step * i, 0.6)


def _side_street(scene: Scene, sign: int, z: float) -> None:
    tone = 84.0
    ends = np.array([sign * scene.road.half, sign * 120.0])
    wide = float(scene.rng.uniform(6, 9))
    shift = scene.road.at(0, z)[0]
    world = np.zeros((4, 3))
    world[:, 0] = shift + ends[[0, 0, 1, 1]]
    world[:, 2] = z - 0.3, z + wide, z + wide, z - 0.3
    flat(scene, world, (tone, tone, tone * 1.04), ROAD)


def _building(
    scene: Scene, sign: int, line: float, z: float, long: float, high: float, style: range, hidden: float = 0.0
) -> None:
    """A front along the street, the gable towards the camera, at times a roof and chimneys.

    `hidden`: the height in metres up to which the neighbour covers the gable.
    """
    rng = scene.rng
    (x0, z0), (x1, z1) = scene.road.at(sign * line, z), scene.road.at(sign * line, z + long)
    front = textures.facades()[integer(rng, style)]
    gable = textures.gables()[integer(rng, range(len(textures.gables())))]
    deep = float(rng.uniform(7, 12))
    pitched, rise = rng.random() < 0.55, float(rng.uniform(1.8, 3.4))
    slate = float(rng.uniform(52, 92))
    chimney = rng.random() < 0.5
    sun = scene.light.sun
    if scene.light.direct and z < 60:
        reach = -high / max(sun[1], 0.2)
        shift = np.array([sun[0], 0, sun[2]]) * reach
        back = sign * deep
        base = np.array([[x0, 0, z0], [x1, 0, z1], [x1 + back, 0, z1], [x0 + back, 0, z0]])
        _cast(scene, np.concatenate([base, base + shift]), 120 if not scene.dusk else 190)
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
                stack = np.array(
                    [[0, high + rise - 0.6], [0, high + rise + 1.3], [1.1, high + rise + 1.3], [1.1, high + rise - 0.6]]
                )
                world = np.stack([x0 + ridge + sign * 0.1 + stack[:, 0] - 0.5, stack[:, 1], np.full(4, z0 + 0.5)], axis=1)
                canvas.polygon(world, light.on((112, 80, 64), (0, 0, -1.0), depth), BUILDING)
        ends = [[x0, z0], [backwards, z0]] if sign > 0 else [[backwards, z0], [x0, z0]]
        if hidden < high:
            canvas.wall(np.array(ends), high, gable, -sun[2], BUILDING)
        along = [[x1, z1], [x0, z0]] if sign > 0 else [[x0, z0], [x1, z1]]
        canvas.wall(np.array(along), high, front, -sign * sun[0], BUILDING)

    scene.add(scene.camera.depth(x1, z1), draw)


def _border(scene: Scene, sign: int, line: float, z: float, long: float) -> None:
    """What stands between pavement and garden: a fence, a hedge, a low wall, or nothing."""
    rng = scene.rng
    chance = rng.random()
    (x0, z0), (x1, z1) = scene.road.at(sign * line, z), scene.road.at(sign * line, z + long)
    foot = np.array([[x1, z1], [x0, z0]] if sign > 0 else [[x0, z0], [x1, z1]])
    facing, key = -sign * scene.light.sun[0], scene.camera.depth(x1, z1) - 0.2
    if chance < 0.4:
        layer = textures.fences()[integer(rng, range(len(textures.fences())))]
        high = float(rng.uniform(1.0, 1.9))
        scene.add(key, lambda canvas: canvas.panel(foot, high, layer, facing, FENCE, 0.8))
    elif chance < 0.7:
        high = float(rng.uniform(0.9, 2.4))
        leaves = (textures.foliage(),)
        scene.add(key, lambda canvas: canvas.wall(foot, high, leaves, facing * 0.5, TREE))
    elif chance < 0.85:
        high = float(rng.uniform(0.6, 1.6))
        brick = textures.gables()[integer(rng, range(len(textures.gables())))]
        scene.add(key, lambda canvas: canvas.wall(foot, high, brick, facing, BUILDING))


def _cast(scene: Scene, points: Points, strength: int) -> None:
    """Shade the convex hull of points on the ground."""
    hull = cv2.convexHull(points[:, [0, 2]].astype(np.float32))[:, 0].astype(np.float64)
    scene.canvas.shadow(np.stack([hull[:, 0], np.zeros(len(hull)), hull[:, 1]], axis=1), strength)


def _tree(scene: Scene, across: float, along: float, shrink: float) -> None:
    rng = scene.rng
    x, z = scene.road.at(across, along)
    lot = rng.random()
    species = textures.BARE_TREES if lot < 0.45 else textures.LEAFY_TREES if lot < 0.78 else textures.BUSHES
    high = float(rng.uniform(1.2, 3.2) if species is textures.BUSHES else rng.uniform(5, 12) * (1 - shrink * 0.4))
    layers, mirrored = textures.trees()[integer(rng, species)], rng.random() < 0.5
    if scene.light.direct and along < 60:
        sun = scene.light.sun
        tip = np.array([sun[0], sun[2]]) * (-high / max(sun[1], 0.25))
        spots = [(0.75, 0.3), (0.55, 0.22), (0.9, 0.2)]
        for far, size in spots:
            centre, r = np.array([x, z]) + tip * far, size * high
            ring = np.stack([centre[0] + r * _RING[:, 0], np.zeros(8), centre[1] + r * _RING[:, 1]], axis=1)
            scene.canvas.shadow(ring, 150)
    scene.add(scene.camera.depth(x, z), lambda canvas: canvas.tree(x, z, high, layers, mirrored))


def _vehicle(scene: Scene, across: float, along: float, heading: float) -> None:
    rng = scene.rng
    lot = rng.random()
    kind = int(lot / 0.88 * 4) if lot < 0.88 else 4 if lot < 0.95 else 5 if lot < 0.98 else 6
    x, z = scene.road.at(across, along + (4.0 if kind > 4 else 0.0))
    paint = pick(rng, _CARS) if kind < 5 else ((138, 42, 40), (74, 104, 146), (196, 190, 170))[integer(rng, range(3))]
    braking = rng.random() < 0.3
    turn = heading + math.atan(scene.road.bend * max(z, 0.0)) + float(rng.normal(0, 0.02))
    mesh = vehicles.vehicles()[kind]
    half, length = float(mesh.vertices[:, 0].max()), float(mesh.vertices[:, 2].max())
    corners = np.array([[-half, 0, -length], [half, 0, -length], [half, 0, length], [-half, 0, length]])
    s, c = math.sin(turn), math.cos(turn)
    base = corners @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) + (x, 0, z)
    if scene.light.direct:
        shift = np.array([scene.light.sun[0], 0, scene.light.sun[2]]) * (-1.3 / max(scene.light.sun[1], 0.3))
        _cast(scene, np.concatenate([base, base + shift]), 110)
    scene.canvas.shadow(base, 65)  # under the car it is dark in any weather
    scene.add(
        scene.camera.depth(x, z),
        partial(vehicles.vehicle, at=(x, z), heading=turn, kind=kind, paint=paint, braking=braking),
    )


def lay_traffic(scene: Scene) -> None:
    """Cars ahead in the lane, cars that come, cars parked at the kerbs."""
    rng, half = scene.rng, scene.road.half
    shares = (0.5,) if half < 5.2 else (0.25, 0.75)
    for across, heading in [(-half * share, 0.0) for share in shares] + [(half * share, math.pi) for share in shares]:
        z = float(rng.uniform(6.0, 46))
        while z < 90:
            _vehicle(scene, across + float(rng.normal(0, 0.25)), z, heading)
            z += float(rng.uniform(9, 70))
    for sign in (-1, 1):
        if rng.random() < 0.45:
            z = float(rng.uniform(4, 40))
            heading = 0.0 if sign < 0 else math.pi
            for _ in range(integer(rng, range(1, 7))):
                if rng.random() < 0.8:
                    _vehicle(scene, sign * (half - 0.75), z, heading)
                z += float(rng.uniform(5.2, 7.0))


def lay_furniture(scene: Scene) -> None:
    """Lamp posts, signals, signs, railings at the kerb, bins."""
    rng = scene.rng
    for side, sign in enumerate((-1, 1)):
        line, wide = scene.road.half, scene.road.pavement[side]
        if rng.random() < 0.8:
            z, step = float(rng.uniform(5, 20)), float(rng.uniform(18, 32))
            tall, grey = float(rng.uniform(5, 9)), float(rng.uniform(60, 150))
            arm = -sign * float(rng.uniform(0.8, 1.8)) if rng.random() < 0.8 else 0.0
            for i in range(5):
                at = scene.road.at(sign * (line + 0.4), z + step * i)
                scene.add(
                    scene.camera.depth(*at),
                    partial(things.pole, at=at, tall_m=tall, wide_m=0.16, colour=(grey, grey, grey), arm_m=arm),
                )
        for _ in range(integer(rng, range(5))):
            board = rng.random() < 0.48
            at = scene.road.at(sign * (line + float(rng.uniform(0.3, wide))), float(rng.uniform(8.5 if board else 5, 38)))
            kind = integer(rng, range(3, 7) if board else range(3))
            size = float(rng.uniform(0.7, 2.0) if board else rng.uniform(0.6, 0.95))
            tall = float(rng.uniform(2.2, 3.4)) + (size * 0.4 if kind >= 3 else 0)
            scene.add(scene.camera.depth(*at), partial(things.sign, at=at, tall_m=tall, size_m=size, kind=kind))
        if rng.random() < 0.3:
            z = float(rng.uniform(7, 32))
            at, lamp = scene.road.at(sign * (line + 0.5), z), integer(rng, range(3))
            scene.add(
                scene.camera.depth(*at), partial(things.traffic_light, at=at, tall_m=float(rng.uniform(2.9, 3.5)), lamp=lamp)
            )
        if rng.random() < 0.5 and scene.road.kinds[side] == TERRACE:
            for _ in range(integer(rng, range(1, 5))):
                at = scene.road.at(sign * (line + wide - 0.5), float(rng.uniform(6, 45)))
                size_m = (float(rng.uniform(0.5, 1.2)), float(rng.uniform(0.5, 1.1)))
                scene.add(
                    scene.camera.depth(*at),
                    partial(things.shop_sign, at=at, low_m=float(rng.uniform(2.6, 4.2)), size=size_m, colour=pick(rng, _CARS)),
                )
        if rng.random() < 0.2:
            _railing(scene, sign, line + 0.3)
        for _ in range(integer(rng, range(5)) if rng.random() < 0.65 else 0):
            at = scene.road.at(sign * (line + wide - 0.4), float(rng.uniform(5, 40)))
            size_m = (float(rng.uniform(0.7, 2.3)), float(rng.uniform(0.5, 2.2)))
            tone = float(rng.uniform(22, 90))
            scene.add(scene.camera.depth(*at), partial(things.odd_object, at=at, size=size_m, colour=(tone, tone * 1.03, tone)))


def _railing(scene: Scene, sign: int, line: float) -> None:
    rng = scene.rng
    layer = textures.fences()[integer(rng, range(4))]
    z = float(rng.uniform(3, 22))
    for _ in range(integer(rng, range(3, 9))):  # short pieces, so that people in front and behind are ordered well
        (x0, z0), (x1, z1) = scene.road.at(sign * line, z), scene.road.at(sign * line, z + 2.4)
        foot = np.array([[x1, z1], [x0, z0]] if sign > 0 else [[x0, z0], [x1, z1]])
        facing = abs(scene.light.sun[0]) * 0.5
        scene.add(
            scene.camera.depth(x0, z0),
            partial(Canvas.panel, foot=foot, height_m=1.1, layer=layer, facing=facing, klass=FENCE, lit=0.8),
        )
        z += 2.4


def lay_people(scene: Scene) -> None:
    """Walkers on the pavements, now and then one on the road, and cyclists at the kerbs."""
    rng, half = scene.rng, scene.road.half
    for side, sign in enumerate((-1, 1)):
        count = integer(rng, range(6)) if scene.road.kinds[side] == TERRACE else integer(rng, range(3))
        for _ in range(count):
            z = float(4.5 + 32 * rng.random() ** 1.3)
            at = scene.road.at(sign * (half + float(rng.uniform(0.4, scene.road.pavement[side]))), z)
            _pedestrian(scene, at)
    if rng.random() < 0.12:
        _pedestrian(scene, scene.road.at(float(rng.uniform(-half, half)), float(rng.uniform(7, 25))))
    for _ in range(integer(rng, range(1, 3)) if rng.random() < 0.5 else 0):
        kerb = -1 if rng.random() < 0.65 else 1
        at = scene.road.at(kerb * (half - float(rng.uniform(0.5, 1.5))), float(rng.uniform(4.5, 24)))
        turned = float(rng.uniform(0.1, 0.4) if rng.random() < 0.7 else rng.uniform(0.7, 1.0))
        coat = pick(rng, _HIVIS) if rng.random() < 0.3 else pick(rng, _COATS)
        clothes = (coat, pick(rng, _TROUSERS), pick(rng, _HAIR) if rng.random() < 0.5 else pick(rng, _CARS))
        scene.add(scene.camera.depth(*at), partial(things.cyclist, at=at, turned=turned, clothes=clothes))


def _pedestrian(scene: Scene, at: tuple[float, float]) -> None:
    rng = scene.rng
    clothes = (pick(rng, _COATS), pick(rng, _TROUSERS), pick(rng, _HAIR))
    tall, stride = float(rng.uniform(1.55, 1.9)), float(rng.uniform(0, 0.55))
    scene.add(scene.camera.depth(*at), partial(things.pedestrian, at=at, tall_m=tall, stride=stride, clothes=clothes))
