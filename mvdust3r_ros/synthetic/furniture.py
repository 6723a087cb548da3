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

"""Pieces of furniture as lists of primitives, each in its own frame (x right, y front, z up).

Sizes and odds are chosen as for common furniture, with some extra variety.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.synthetic.textures import SURFACES, Rng, pick_texture


class Kind(IntEnum):
    """Shape of a primitive."""

    BOX = 0
    CYLINDER = 1
    SPHERE = 2


@dataclass(frozen=True)
class Part:
    """One primitive.

    Attributes:
        kind: its shape; a cylinder stands upright.
        center: (3,) metres.
        half: (3,) half extents, metres; radius, radius, half height for a cylinder.
        texture: index into the texture bank.
        repeat_m: metres covered by one repeat of the texture, horizontally and vertically.
        offset: texture offset, in repeats.
        tint: (3,) factor on the albedo.
        emission: emitted light; 0 for most parts.
        yaw: rotation about z, radians.
    """

    kind: Kind
    center: FloatArray
    half: FloatArray
    texture: int
    repeat_m: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    emission: float = 0.0
    yaw: float = 0.0


@dataclass(frozen=True)
class Finish:
    """Appearance shared by all parts of a piece."""

    texture: int
    repeat_m: float
    tint: tuple[float, float, float]

    @staticmethod
    def draw(rng: Rng, *kinds: str) -> Finish:
        """Draw a random finish from texture kinds; any surface kind if none is given."""
        tint = np.clip(rng.normal(0.95, 0.15, 3), 0.4, 1.2)
        texture = pick_texture(rng, *(kinds or SURFACES))
        return Finish(texture, rng.uniform(0.5, 1.6), (tint[0], tint[1], tint[2]))


def box(finish: Finish, size: tuple[float, float, float], at: tuple[float, float, float]) -> Part:
    """Make a box of `size` metres whose bottom centre is `at`."""
    half = np.array(size) / 2
    center = np.array([at[0], at[1], at[2] + half[2]])
    repeat = (finish.repeat_m, finish.repeat_m)
    return Part(Kind.BOX, center, half, finish.texture, repeat, tint=finish.tint)


def cylinder(finish: Finish, radius: float, tall: float, at: tuple[float, float, float]) -> Part:
    """Make an upright cylinder whose bottom centre is `at`."""
    half = np.array([radius, radius, tall / 2])
    center = np.array([at[0], at[1], at[2] + tall / 2])
    repeat = (finish.repeat_m, finish.repeat_m)
    return Part(Kind.CYLINDER, center, half, finish.texture, repeat, tint=finish.tint)


def sphere(finish: Finish, radius: float, at: tuple[float, float, float]) -> Part:
    """Make a sphere whose lowest point is `at`."""
    center = np.array([at[0], at[1], at[2] + radius])
    repeat = (finish.repeat_m, finish.repeat_m)
    half = np.full(3, radius)
    return Part(Kind.SPHERE, center, half, finish.texture, repeat, tint=finish.tint)


def cabinet(rng: Rng) -> list[Part]:
    """Make a closed cupboard, or a low board with drawers."""
    size = (rng.uniform(0.5, 1.4), rng.uniform(0.3, 0.6), rng.uniform(0.6, 2.0))
    return [box(Finish.draw(rng), size, (0, 0, 0))]


def bookshelf(rng: Rng) -> list[Part]:
    """Make an upright shelf, full of books."""
    size = (rng.uniform(0.5, 1.2), rng.uniform(0.25, 0.4), rng.uniform(1.2, 2.1))
    return [box(Finish.draw(rng, "books"), size, (0, 0, 0))]


def open_shelf(rng: Rng) -> list[Part]:
    """Make an open shelf without a back: two sides and a few boards, some with an object."""
    wide, deep, tall = rng.uniform(0.6, 1.2), rng.uniform(0.25, 0.4), rng.uniform(0.9, 1.9)
    finish = Finish.draw(rng)
    parts = [box(finish, (0.03, deep, tall), (s * wide / 2, 0, 0)) for s in (-1, 1)]
    for z in np.linspace(0.08, tall - 0.03, int(rng.integers(3, 6))):
        parts.append(box(finish, (wide, deep, 0.03), (0, 0, float(z))))
        if rng.random() < 0.6 and z < tall - 0.3:
            x = rng.uniform(-0.3, 0.3) * wide
            size = (rng.uniform(0.1, 0.3), 0.7 * deep, rng.uniform(0.1, 0.22))
            parts.append(box(Finish.draw(rng, "books", "poster"), size, (x, 0, float(z) + 0.03)))
    return parts


def table(rng: Rng) -> list[Part]:
    """Make a table on four legs or two sides, sometimes with an object on it."""
    wide, deep, tall = rng.uniform(0.8, 1.8), rng.uniform(0.6, 0.9), rng.uniform(0.7, 0.78)
    finish = Finish.draw(rng)
    parts = [box(finish, (wide, deep, 0.05), (0, 0, tall - 0.05))]
    if rng.random() < 0.5:
        corners = [
            (i * (wide / 2 - 0.05), j * (deep / 2 - 0.05)) for i in (-1, 1) for j in (-1, 1)
        ]
        parts += [box(finish, (0.06, 0.06, tall - 0.05), (x, y, 0)) for x, y in corners]
    else:
        side = (0.05, 0.9 * deep, tall - 0.05)
        parts += [box(finish, side, (s * (wide / 2 - 0.04), 0, 0)) for s in (-1, 1)]
    if rng.random() < 0.6:
        at = (rng.uniform(-0.3, 0.3) * wide, 0.0, tall)
        if rng.random() < 0.5:
            a, b, c = rng.uniform(0.1, 0.35, 3)
            parts.append(box(Finish.draw(rng, "poster", "books"), (a, b, c), at))
        else:
            parts.append(cylinder(Finish.draw(rng), rng.uniform(0.04, 0.1), 0.25, at))
    return parts


def chair(rng: Rng) -> list[Part]:
    """Make a chair with a back, on a pedestal or as a block."""
    side, seat = rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.48)
    finish = Finish.draw(rng)
    back = box(finish, (side, 0.06, rng.uniform(0.35, 0.55)), (0, 0.03 - side / 2, seat))
    if rng.random() < 0.5:
        return [box(finish, (side, side, seat), (0, 0, 0)), back]
    pedestal = cylinder(finish, 0.05, seat - 0.06, (0, 0, 0))
    return [box(finish, (side, side, 0.06), (0, 0, seat - 0.06)), pedestal, back]


def sofa(rng: Rng) -> list[Part]:
    """Make a sofa with a back and two arm rests."""
    wide, deep = rng.uniform(1.3, 2.2), rng.uniform(0.75, 0.95)
    finish = Finish.draw(rng)
    arms = [
        box(finish, (0.18, deep - 0.2, 0.2), (s * (wide / 2 - 0.09), 0.1, 0.42)) for s in (-1, 1)
    ]
    back = box(finish, (wide, 0.2, 0.4), (0, 0.1 - deep / 2, 0.42))
    return [box(finish, (wide, deep, 0.42), (0, 0, 0)), back, *arms]


def bed(rng: Rng) -> list[Part]:
    """Make a bed with its head at the wall."""
    wide, tall = rng.uniform(0.9, 1.8), rng.uniform(0.4, 0.55)
    finish = Finish.draw(rng)
    pillow = box(Finish.draw(rng, "plain", "stripes"), (0.7 * wide, 0.4, 0.1), (0, -0.7, tall))
    head = box(finish, (wide, 0.06, rng.uniform(0.8, 1.1)), (0, -1.03, 0))
    return [box(finish, (wide, 2.0, tall), (0, 0, 0)), head, pillow]


def crate(rng: Rng) -> list[Part]:
    """Make a crate or cardboard box, sometimes with a smaller one on top."""
    a, b, c = rng.uniform(0.2, 0.9, 3)
    parts = [box(Finish.draw(rng), (a, b, c), (0, 0, 0))]
    if rng.random() < 0.3:
        top = (0.6 * a, 0.6 * b, rng.uniform(0.15, 0.5))
        parts.append(box(Finish.draw(rng, "poster", "plain"), top, (0, 0, c)))
    return parts


def bin_(rng: Rng) -> list[Part]:
    """Make a waste bin, bucket or stool."""
    return [cylinder(Finish.draw(rng), rng.uniform(0.12, 0.3), rng.uniform(0.3, 0.9), (0, 0, 0))]


def plant(rng: Rng) -> list[Part]:
    """Make a pot with a round bush."""
    pot = cylinder(Finish.draw(rng), rng.uniform(0.12, 0.2), 0.36, (0, 0, 0))
    leaves = Finish(pick_texture(rng, "noise"), 0.4, (0.4, 0.9, 0.35))
    return [pot, sphere(leaves, rng.uniform(0.2, 0.4), (0, 0, 0.3))]


def ball(rng: Rng) -> list[Part]:
    """Make a gym ball, globe or round seat."""
    return [sphere(Finish.draw(rng), rng.uniform(0.1, 0.4), (0, 0, 0))]


def lamp(rng: Rng) -> list[Part]:
    """Make a floor lamp that is on."""
    tall = rng.uniform(1.2, 1.7)
    shade = cylinder(Finish.draw(rng, "plain"), 0.2, 0.28, (0, 0, tall - 0.14))
    glowing = Part(
        shade.kind, shade.center, shade.half, shade.texture, tint=shade.tint, emission=0.5
    )
    return [cylinder(Finish.draw(rng), 0.03, tall, (0, 0, 0)), glowing]


@dataclass(frozen=True)
class Piece:
    """A kind of furniture: how to make it, how often it appears, whether it stands at a wall."""

    make: Callable[[Rng], list[Part]]
    weight: float
    at_wall: bool


CATALOGUE = (
    Piece(cabinet, 0.13, True),
    Piece(table, 0.13, False),
    Piece(chair, 0.15, False),
    Piece(sofa, 0.09, True),
    Piece(bed, 0.05, True),
    Piece(crate, 0.12, False),
    Piece(bin_, 0.08, True),
    Piece(ball, 0.06, False),
    Piece(lamp, 0.05, True),
    Piece(bookshelf, 0.06, True),
    Piece(open_shelf, 0.04, True),
    Piece(plant, 0.04, True),
)
"""All furniture a room may contain."""


def draw_piece(rng: Rng) -> Piece:
    """Draw a random entry of the catalogue."""
    weights = np.array([p.weight for p in CATALOGUE])
    return CATALOGUE[int(rng.choice(len(CATALOGUE), p=weights / weights.sum()))]
