# Copyright 2026 mvdust3r_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Furnished rooms and apartments made of boxes, cylinders and spheres; numpy only, seeded.

World frame: z up, metres, the floor at z = 0, the building's corner at x = y = 0. Random ranges
are chosen: sizes of homes and offices, light and furniture of all kinds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError, OccupancyGrid
from mvdust3r_ros.synthetic.furniture import Finish, Kind, Part, draw_piece
from mvdust3r_ros.synthetic.textures import Rng, pick_texture

SEEDS_PER_BANK = 256
"""Number of rooms that share a bank of textures, because a bank takes time to make."""
SEED_STEP = 1_000_003
"""Step between the seeds that one seed tries: a prime far above all requested seeds, so that no
two seeds try the same."""
WALL_M = 0.1
"""Thickness of every wall, floor and ceiling, typical of inner walls."""


class SceneError(MvDust3rError):
    """A scene, or a path through it, cannot be created."""


@dataclass(frozen=True)
class Room:
    """A rectangle of floor between walls, metres."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def size(self) -> tuple[float, float]:
        """Extent along x and y."""
        return self.x1 - self.x0, self.y1 - self.y0

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the floor."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


@dataclass(frozen=True)
class Doorway:
    """An opening in an inner wall.

    Attributes:
        x: middle of the opening, metres.
        y: middle of the opening, metres.
        along: 0 if the wall runs along x, 1 if along y.
        width: metres.
    """

    x: float
    y: float
    along: int
    width: float


@dataclass(frozen=True)
class Scene:
    """A complete scene.

    Attributes:
        parts: the primitives; floor, ceiling and walls come first.
        rooms: floor plan.
        doorways: openings between the rooms.
        height: floor to ceiling, metres.
        lights: (L, 4) point lights: x, y, z, intensity.
        ambient: ambient light.
        bank_seed: texture bank that the parts' indices refer to.
        walker: index of the first part of a moving person, whose parts come last; -1 for none.
        walker_velocity: (2,) metres per second.
    """

    parts: tuple[Part, ...]
    rooms: tuple[Room, ...]
    doorways: tuple[Doorway, ...]
    height: float
    lights: FloatArray
    ambient: float
    bank_seed: int = 0
    walker: int = -1
    walker_velocity: tuple[float, float] = (0.0, 0.0)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Bounds x0, y0, x1, y1 of all rooms, without the outer walls."""
        return (
            min(r.x0 for r in self.rooms),
            min(r.y0 for r in self.rooms),
            max(r.x1 for r in self.rooms),
            max(r.y1 for r in self.rooms),
        )

    def at_time(self, seconds: float) -> Scene:
        """Return the scene with its walking person at time `seconds`; it turns at the ends."""
        if self.walker < 0:
            return self
        swing = 1.0 - abs((seconds / 4.0) % 2.0 - 1.0)  # 0 to 1 and back within 8 s
        step = np.array([*self.walker_velocity, 0.0]) * 4.0 * swing
        moved = [replace(p, center=p.center + step) for p in self.parts[self.walker :]]
        return replace(self, parts=self.parts[: self.walker] + tuple(moved))


def sample_room(seed: int, *, walker: bool = False) -> Scene:
    """Create one furnished room.

    Args:
        seed: same seed, same scene.
        walker: add a moving person.
    """
    rng = np.random.default_rng([seed, 1])
    room = Room(0.0, 0.0, rng.uniform(3.0, 8.0), rng.uniform(3.0, 8.0))
    return _build(rng, seed, (room,), (), walker)


def sample_apartment(seed: int, *, walker: bool = False) -> Scene:
    """Create two to four furnished rooms joined by doorways.

    Args:
        seed: same seed, same scene.
        walker: add a moving person.
    """
    rng = np.random.default_rng([seed, 2])
    rooms = [Room(0.0, 0.0, rng.uniform(6.0, 11.0), rng.uniform(4.0, 9.0))]
    doorways: list[Doorway] = []
    for _ in range(int(rng.integers(1, 4))):
        _split_largest(rng, rooms, doorways)
    return _build(rng, seed, tuple(rooms), tuple(doorways), walker)


def _split_largest(rng: Rng, rooms: list[Room], doorways: list[Doorway]) -> None:
    """Split the largest room by a wall with one doorway; keep rooms of at least 2.3 m."""
    index = int(np.argmax([r.size[0] * r.size[1] for r in rooms]))
    room, half = rooms[index], WALL_M / 2
    across = int(room.size[0] < room.size[1])  # cut the longer side
    lo, hi = ((room.x0, room.x1), (room.y0, room.y1))[across]
    if hi - lo < 4.8:  # two rooms of 2.4 m
        return
    for _ in range(20):
        cut = rng.uniform(lo + 2.35, hi - 2.35)
        if all(
            abs(cut - (d.x, d.y)[across]) > d.width / 2 + 0.2
            for d in doorways
            if d.along == across
        ):
            break
    else:
        return
    width = rng.uniform(0.85, 1.1)
    if across == 0:
        y = rng.uniform(room.y0 + width / 2 + 0.2, room.y1 - width / 2 - 0.2)
        rooms[index : index + 1] = [replace(room, x1=cut - half), replace(room, x0=cut + half)]
        doorways.append(Doorway(cut, y, 1, width))
    else:
        x = rng.uniform(room.x0 + width / 2 + 0.2, room.x1 - width / 2 - 0.2)
        rooms[index : index + 1] = [replace(room, y1=cut - half), replace(room, y0=cut + half)]
        doorways.append(Doorway(x, cut, 0, width))


def _build(
    rng: Rng, seed: int, rooms: tuple[Room, ...], doorways: tuple[Doorway, ...], walker: bool
) -> Scene:
    height = rng.uniform(2.4, 3.0)
    parts: list[Part] = []
    for room in rooms:
        parts += _shell(rng, room, height)
    parts += _fill_gaps(rng, rooms, doorways, height)
    for room in rooms:
        parts += _wall_decor(rng, room, doorways)
    boxes: list[FloatArray] = [_doorway_clearance(d) for d in doorways]
    low, high = (4, 13) if len(rooms) == 1 else (2, 8)
    for room in rooms:
        for _ in range(int(rng.integers(low, high))):
            parts += _place(rng, room, boxes)
    first = len(parts) if walker else -1
    if walker:
        parts += _person(rng, rooms[0])
    angle = rng.uniform(0, 2 * math.pi)
    return Scene(
        parts=tuple(parts),
        rooms=rooms,
        doorways=doorways,
        height=height,
        lights=_lights(rng, rooms, height),
        ambient=rng.uniform(0.3, 0.6),
        bank_seed=seed // SEEDS_PER_BANK,
        walker=first,
        walker_velocity=(0.5 * math.cos(angle), 0.5 * math.sin(angle)),
    )


def _slab(rng: Rng, lo: FloatArray, hi: FloatArray, finish: Finish) -> Part:
    u, v = rng.random(2)
    repeat = (finish.repeat_m, finish.repeat_m)
    return Part(
        Kind.BOX, (lo + hi) / 2, (hi - lo) / 2, finish.texture, repeat, (u, v), finish.tint
    )


def _wall_finish(rng: Rng) -> Finish:
    kinds = ("plain", "plain", "noise", "stripes", "bricks", "dots", "marble", "tiles")
    return replace(Finish.draw(rng, *kinds), repeat_m=rng.uniform(0.6, 2.5))


def _shell(rng: Rng, room: Room, height: float) -> list[Part]:
    """Create floor and ceiling, half a wall larger than the room; `_fill_gaps` adds the walls."""
    floor = replace(
        Finish.draw(rng, "planks", "planks", "tiles", "checks", "noise", "marble", "bricks"),
        repeat_m=rng.uniform(0.8, 2.4),
    )
    ceiling = replace(
        Finish.draw(rng, "plain", "plain", "plain", "tiles", "planks"), tint=(1.1,) * 3
    )
    t = WALL_M
    x0, y0, x1, y1 = room.x0 - t / 2, room.y0 - t / 2, room.x1 + t / 2, room.y1 + t / 2
    return [
        _slab(rng, np.array([x0, y0, -t]), np.array([x1, y1, 0.0]), floor),
        _slab(rng, np.array([x0, y0, height]), np.array([x1, y1, height + t]), ceiling),
    ]


def _fill_gaps(
    rng: Rng, rooms: tuple[Room, ...], doorways: tuple[Doorway, ...], height: float
) -> list[Part]:
    """Create walls: each room has its own half-thickness walls, with open doorways."""
    parts: list[Part] = []
    t = WALL_M / 2
    for room in rooms:
        finish = _wall_finish(rng)
        for side in range(4):
            if rng.random() < 0.25:
                finish = _wall_finish(rng)
            along = int(side >= 2)  # sides 0, 1 run along x; 2, 3 along y
            at = (room.y0 - t, room.y1, room.x0 - t, room.x1)[side]
            lo, hi = ((room.x0 - t, room.x1 + t), (room.y0 - t, room.y1 + t))[along]
            for a, b, z in _wall_pieces(lo, hi, at + t / 2, along, doorways):
                low, top = np.array([a, at, z]), np.array([b, at + t, height])
                if along:
                    low[:2], top[:2] = low[1::-1].copy(), top[1::-1].copy()
                parts.append(_slab(rng, low, top, finish))
    return parts


def _wall_pieces(
    lo: float, hi: float, at: float, along: int, doorways: tuple[Doorway, ...]
) -> list[tuple[float, float, float]]:
    """Return stretches (from, to, bottom) of a wall; above a doorway only the lintel remains."""
    pieces, start = [], lo
    for d in sorted(doorways, key=lambda d: (d.x, d.y)[along]):
        middle, line = ((d.x, d.y), (d.y, d.x))[along]
        if d.along != along or abs(line - at) > WALL_M or not lo < middle < hi:
            continue
        left, right = middle - d.width / 2, middle + d.width / 2
        pieces += [(start, left, 0.0), (left, right, 2.05)]
        start = right
    return [*pieces, (start, hi, 0.0)]


def _wall_decor(rng: Rng, room: Room, doorways: tuple[Doorway, ...]) -> list[Part]:
    """Add closed doors, bright windows and pictures to the walls of a room."""
    parts: list[Part] = []
    for _ in range(int(rng.integers(1, 3))):
        size = (rng.uniform(0.75, 0.95), rng.uniform(1.98, 2.1), 0.05)
        finish = Finish.draw(rng, "plain", "planks", "tiles")
        parts += _hang(rng, room, doorways, size, 0.0, finish, 0.0)
    for _ in range(int(rng.integers(0, 3))):
        size = (rng.uniform(0.7, 1.8), rng.uniform(0.8, 1.2), 0.06)
        finish = Finish.draw(rng, "tiles", "noise")
        parts += _hang(rng, room, doorways, size, rng.uniform(0.8, 1.1), finish, 0.7)
    for _ in range(int(rng.integers(3, 10))):
        size = (rng.uniform(0.3, 1.3), rng.uniform(0.3, 0.9), 0.03)
        finish = Finish.draw(rng, "poster", "poster", "books")
        parts += _hang(rng, room, doorways, size, rng.uniform(0.9, 1.5), finish, 0.0)
    return parts


def _hang(
    rng: Rng,
    room: Room,
    doorways: tuple[Doorway, ...],
    size: tuple[float, float, float],
    bottom: float,
    finish: Finish,
    emission: float,
) -> list[Part]:
    """Hang a flat object (width, height, thickness) on a random wall, if it fits."""
    wide, tall, thick = size
    side = int(rng.integers(4))
    along = int(side >= 2)
    lo, hi = ((room.x0, room.x1), (room.y0, room.y1))[along]
    if hi - lo < wide + 0.3:
        return []
    p = rng.uniform(lo + wide / 2 + 0.1, hi - wide / 2 - 0.1)
    at = (room.y0 + thick / 2, room.y1 - thick / 2, room.x0 + thick / 2, room.x1 - thick / 2)[side]
    for d in doorways:
        near = ((d.x, d.y), (d.y, d.x))[along]
        if abs(near[0] - p) < (wide + d.width) / 2 + 0.05 and abs(near[1] - at) < 2 * WALL_M:
            return []
    x, y, hx, hy = (p, at, wide / 2, thick / 2) if not along else (at, p, thick / 2, wide / 2)
    center, half = np.array([x, y, bottom + tall / 2]), np.array([hx, hy, tall / 2])
    middle = (0.5, 0.5)  # one repeat of the texture covers the object
    return [
        Part(Kind.BOX, center, half, finish.texture, (wide, tall), middle, finish.tint, emission)
    ]


def _doorway_clearance(d: Doorway) -> FloatArray:
    reach = (d.width / 2, 0.8) if d.along == 0 else (0.8, d.width / 2)
    return np.array([d.x - reach[0], d.y - reach[1], d.x + reach[0], d.y + reach[1]])


def _place(rng: Rng, room: Room, taken: list[FloatArray]) -> list[Part]:
    """Place a random piece of furniture where it touches nothing; nothing if ten attempts fail."""
    piece = draw_piece(rng)
    parts = piece.make(rng)
    reach = np.max([np.abs(p.center[:2]) + p.half[:2] for p in parts], axis=0)
    for _ in range(10):
        turn = int(rng.integers(4))
        yaw = turn * math.pi / 2 + (0.0 if piece.at_wall else rng.normal(0, 0.25))
        c, s = math.cos(yaw), math.sin(yaw)
        hx, hy = abs(c) * reach[0] + abs(s) * reach[1], abs(s) * reach[0] + abs(c) * reach[1]
        gap = 0.01
        lo = np.array([room.x0 + hx + gap, room.y0 + hy + gap])
        hi = np.array([room.x1 - hx - gap, room.y1 - hy - gap])
        if np.any(lo >= hi):
            continue
        x, y = rng.uniform(lo, hi)
        if piece.at_wall:  # its back (local -y) to the wall
            x, y = ((x, lo[1]), (hi[0], y), (x, hi[1]), (lo[0], y))[turn]
        area = np.array([x - hx, y - hy, x + hx, y + hy])
        if all(np.any(area[:2] > b[2:]) or np.any(area[2:] < b[:2]) for b in taken):
            taken.append(area)
            return [_put(rng, p, x, y, yaw) for p in parts]
    return []


def _put(rng: Rng, part: Part, x: float, y: float, yaw: float) -> Part:
    c, s = math.cos(yaw), math.sin(yaw)
    px, py, pz = part.center
    center = np.array([x + c * px - s * py, y + s * px + c * py, pz])
    u, v = rng.random(2)
    return replace(part, center=center, yaw=part.yaw + yaw, offset=(u, v))


def _person(rng: Rng, room: Room) -> list[Part]:
    x, y = room.center
    tall = rng.uniform(1.5, 1.85)
    clothes = Finish.draw(rng, "plain", "stripes")
    skin = Finish(pick_texture(rng, "plain"), 1.0, (1.0, 0.8, 0.7))
    half = np.array([0.2, 0.2, tall / 2 - 0.1])
    body = Part(Kind.CYLINDER, np.array([x, y, tall / 2 - 0.1]), half, clothes.texture)
    head = Part(Kind.SPHERE, np.array([x, y, tall - 0.08]), np.full(3, 0.13), skin.texture)
    return [body, head]


def _lights(rng: Rng, rooms: tuple[Room, ...], height: float) -> FloatArray:
    lights = []
    for room in rooms:
        for k in range(2 if len(rooms) == 1 else 1):
            x = room.x0 + rng.uniform(0.2, 0.8) * room.size[0]
            y = room.y0 + rng.uniform(0.2, 0.8) * room.size[1]
            power = rng.uniform(0.6, 1.6) * (1.0 if k == 0 or rng.random() < 0.6 else 0.0)
            lights.append([x, y, height - rng.uniform(0.1, 0.5), power])
    return np.array(lights, np.float32)


def scene_occupancy(
    scene: Scene, resolution_m: float = 0.05, band_m: tuple[float, float] = (0.1, 1.5)
) -> OccupancyGrid:
    """Return the exact occupancy grid of a height band.

    A cell is occupied if any of its 4 x 4 sample points lies in a primitive that reaches into the
    band, free if none does and it lies inside a room or doorway, and unknown otherwise.

    Args:
        scene: the scene; the walking person is ignored.
        resolution_m: side of a cell.
        band_m: lower and upper height of the band.

    Returns:
        A grid that covers the building with its outer walls.
    """
    sub = 4
    x0, y0, x1, y1 = scene.bounds
    margin = WALL_M
    origin = np.floor(np.array([x0 - margin, y0 - margin]) / resolution_m) * resolution_m
    shape = np.ceil((np.array([x1 + margin, y1 + margin]) - origin) / resolution_m).astype(int)
    xs, ys = (origin[k] + (np.arange(shape[k] * sub) + 0.5) * resolution_m / sub for k in range(2))
    solid = np.zeros((len(ys), len(xs)), bool)
    static = scene.parts if scene.walker < 0 else scene.parts[: scene.walker]
    for part in static:
        _stamp(solid, xs, ys, part, band_m)
    inside = np.zeros_like(solid)
    for room in scene.rooms:
        inside |= ((ys > room.y0) & (ys < room.y1))[:, None] & ((xs > room.x0) & (xs < room.x1))
    for d in scene.doorways:
        hx, hy = (d.width / 2, WALL_M) if d.along == 0 else (WALL_M, d.width / 2)
        inside |= (np.abs(ys - d.y) < hy)[:, None] & (np.abs(xs - d.x) < hx)
    blocks = (shape[1], sub, shape[0], sub)
    cells = np.where(inside.reshape(blocks).any((1, 3)), 0, -1).astype(np.int8)
    cells[solid.reshape(blocks).any((1, 3))] = 100
    return OccupancyGrid(cells, resolution_m, (float(origin[0]), float(origin[1])))


def _stamp(
    solid: npt.NDArray[np.bool_],
    xs: FloatArray,
    ys: FloatArray,
    part: Part,
    band: tuple[float, float],
) -> None:
    """Mark the sample points covered by the part's cross-section within the band."""
    z_lo, z_hi = part.center[2] - part.half[2], part.center[2] + part.half[2]
    if z_hi <= band[0] or z_lo >= band[1]:
        return
    reach = float(np.hypot(part.half[0], part.half[1]))
    i0, i1 = np.searchsorted(xs, [part.center[0] - reach, part.center[0] + reach])
    j0, j1 = np.searchsorted(ys, [part.center[1] - reach, part.center[1] + reach])
    dx, dy = (xs[i0:i1] - part.center[0])[None], (ys[j0:j1] - part.center[1])[:, None]
    if part.kind == Kind.BOX:
        c, s = math.cos(part.yaw), math.sin(part.yaw)
        hit = (np.abs(c * dx + s * dy) < part.half[0]) & (np.abs(c * dy - s * dx) < part.half[1])
    else:
        radius2 = float(part.half[0]) ** 2
        if part.kind == Kind.SPHERE:
            nearest = float(np.clip(part.center[2], *band)) - part.center[2]
            radius2 -= nearest**2
        hit = dx**2 + dy**2 < radius2
    solid[j0:j1, i0:i1] |= hit
