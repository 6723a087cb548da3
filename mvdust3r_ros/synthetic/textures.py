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

"""Procedural, tileable textures for synthetic rooms; numpy only, seeded.

Colours, scales and odds are chosen for appearance: variety matters more than realism.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Texture = npt.NDArray[np.float32]
Rng = np.random.Generator

SIDE = 64
"""Texels per side of a texture: a power of two, so that each mip level halves it."""
BANK_SIZE = 220
"""Number of textures in a bank: 11 MB in float32."""


def interior_color(rng: Rng, saturation: float | None = None) -> Texture:
    """Draw a plausible colour for an indoor surface.

    Args:
        rng: source of randomness.
        saturation: in [0, 1]; drawn with a preference for pale colours if None.

    Returns:
        (3,) linear RGB in [0, 1].
    """
    s = rng.beta(1.2, 2.5) if saturation is None else saturation
    return np.array(colorsys.hsv_to_rgb(rng.random(), s, rng.uniform(0.25, 0.95)), np.float32)


def fractal_noise(rng: Rng, cells: int = 4, octaves: int = 4, stretch: int = 1) -> Texture:
    """Return periodic value noise summed over octaves.

    Args:
        rng: source of randomness.
        cells: lattice cells per side in the coarsest octave.
        octaves: number of octaves, each twice as fine and 0.55 times as strong.
        stretch: how many times longer the grain is along y than along x.

    Returns:
        (SIDE, SIDE) values in [0, 1].
    """
    total, weight, amplitude = np.zeros((SIDE, SIDE), np.float32), 0.0, 1.0
    for octave in range(octaves):
        n = min(cells * 2**octave, SIDE)
        total += amplitude * _value_noise(rng, n, max(1, n // stretch))
        weight += amplitude
        amplitude *= 0.55
    return total / np.float32(weight)


def _value_noise(rng: Rng, cells_x: int, cells_y: int) -> Texture:
    lattice = rng.random((cells_y, cells_x)).astype(np.float32)
    rows, cols = (np.arange(SIDE, dtype=np.float32) * c / SIDE for c in (cells_y, cells_x))
    y0, x0 = rows.astype(int), cols.astype(int)
    fy, fx = (rows - y0)[:, None], (cols - x0)[None]
    fy, fx = fy * fy * (3 - 2 * fy), fx * fx * (3 - 2 * fx)
    top, bottom = lattice[y0], lattice[(y0 + 1) % cells_y]
    x1 = (x0 + 1) % cells_x
    upper = top[:, x0] * (1 - fx) + top[:, x1] * fx
    lower = bottom[:, x0] * (1 - fx) + bottom[:, x1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)


def _grid() -> tuple[Texture, Texture]:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    return y, x


def _mix(rng: Rng, mask: npt.NDArray[np.floating]) -> Texture:
    a, b = interior_color(rng), interior_color(rng)
    m = mask.astype(np.float32)[..., None]
    return a * (1 - m) + b * m


def _shade(texture: Texture, tone: npt.NDArray[np.floating]) -> Texture:
    return np.asarray(texture * tone[..., None], np.float32)


def _plain(rng: Rng) -> Texture:
    return _shade(interior_color(rng)[None, None], 1 + 0.06 * (fractal_noise(rng) - 0.5))


def _noise(rng: Rng) -> Texture:
    return _mix(rng, np.clip((fractal_noise(rng, int(rng.choice([2, 4, 8]))) - 0.3) * 2.5, 0, 1))


def _stripes(rng: Rng) -> Texture:
    _, x = _grid()
    wave = np.sin(2 * np.pi * (x * rng.integers(1, 6) + rng.random()))
    return _mix(rng, (wave > rng.uniform(-0.6, 0.6)).astype(np.float32))


def _checks(rng: Rng) -> Texture:
    y, x = _grid()
    k = int(rng.choice([2, 4, 8]))
    board = ((y * k).astype(int) + (x * k).astype(int)) % 2
    return _shade(_mix(rng, board.astype(np.float32)), 1 + 0.2 * (fractal_noise(rng) - 0.5))


def _masonry(rng: Rng, rows: int, cols: int, joint: float, shift: float) -> Texture:
    y, x = _grid()
    row = (y * rows).astype(int)
    x = np.asarray((x * cols + shift * (row % 2)) % cols, np.float32)
    tone = rng.uniform(0.75, 1.12, (rows, cols)).astype(np.float32)[row, x.astype(int)]
    line = ((y * rows) % 1 < joint) | (x % 1 < joint * cols / rows)
    face = _shade(
        interior_color(rng)[None, None], tone * (1 + 0.3 * (fractal_noise(rng, 8) - 0.5))
    )
    return np.where(line[..., None], interior_color(rng), face)


def _tiles(rng: Rng) -> Texture:
    k = int(rng.choice([2, 4]))
    return _masonry(rng, k, k, 0.07, 0.0)


def _bricks(rng: Rng) -> Texture:
    return _masonry(rng, 6, 3, 0.12, 0.5)


def _planks(rng: Rng) -> Texture:
    y, x = _grid()
    k = int(rng.choice([4, 6, 8]))
    row = (y * k).astype(int)
    x = np.asarray((x * 2 + rng.random(k)[row]) % 2, np.float32)
    tone = rng.uniform(0.7, 1.15, (k, 2))[row, x.astype(int)]
    edge = ((y * k) % 1 < 0.08) | (x % 1 < 0.015)
    wood = np.array([0.62, 0.45, 0.3], np.float32) * np.float32(rng.uniform(0.6, 1.3))
    base = wood if rng.random() < 0.7 else interior_color(rng)
    grain = 0.8 + 0.4 * fractal_noise(rng, 16, 3, 4).T
    return _shade(base[None, None], tone * grain * (1 - 0.5 * edge))


def _poster(rng: Rng) -> Texture:
    y, x = _grid()
    image = np.broadcast_to(interior_color(rng), (SIDE, SIDE, 3)).copy()
    for _ in range(rng.integers(5, 16)):
        cx, cy, w, h = *rng.random(2), *rng.uniform(0.06, 0.5, 2)
        if rng.random() < 0.5:
            shape = (np.abs(x - cx) < w / 2) & (np.abs(y - cy) < h / 2)
        else:
            shape = ((x - cx) / w) ** 2 + ((y - cy) / h) ** 2 < 0.25
        image[shape] = interior_color(rng, rng.uniform(0.2, 1))
    border = int(rng.integers(0, 4))
    frame = np.ones((SIDE, SIDE), bool)
    frame[border : SIDE - border, border : SIDE - border] = False
    image[frame] = interior_color(rng)
    return image


def _dots(rng: Rng) -> Texture:
    y, x = _grid()
    k = int(rng.choice([3, 4, 6]))
    r2 = ((x * k) % 1 - 0.5) ** 2 + ((y * k) % 1 - 0.5) ** 2
    return _mix(rng, (r2 < rng.uniform(0.03, 0.12)).astype(np.float32))


def _marble(rng: Rng) -> Texture:
    _, x = _grid()
    wave = np.sin(2 * np.pi * (x * rng.integers(1, 4) + 1.5 * fractal_noise(rng, 2)))
    return _mix(rng, 0.5 + 0.5 * wave)


def _books(rng: Rng) -> Texture:
    image = np.zeros((SIDE, SIDE, 3), np.float32)
    shelves, board = int(rng.integers(3, 6)), interior_color(rng)
    for k in range(shelves):
        top, bottom = k * SIDE // shelves, (k + 1) * SIDE // shelves
        x = 0
        while x < SIDE:
            width = int(rng.integers(2, 7))
            tall = int((bottom - top) * rng.uniform(0.6, 0.95))
            image[bottom - tall : bottom - 1, x : x + width] = interior_color(rng)
            image[bottom - tall : bottom - 1, min(x + width, SIDE) - 1] *= 0.5
            x += width
        image[bottom - 2 : bottom] = board
    return image


KINDS: dict[str, Callable[[Rng], Texture]] = {
    "plain": _plain,
    "noise": _noise,
    "stripes": _stripes,
    "checks": _checks,
    "tiles": _tiles,
    "planks": _planks,
    "bricks": _bricks,
    "poster": _poster,
    "dots": _dots,
    "marble": _marble,
    "books": _books,
}
"""Name of a texture kind -> function that creates one."""

SURFACES = ("plain", "noise", "stripes", "checks", "tiles", "planks", "bricks", "dots", "marble")
"""Kinds suitable for any piece of furniture."""


@lru_cache(maxsize=2)
def texture_bank(seed: int) -> Texture:
    """Create the textures shared by a block of scenes.

    Args:
        seed: same seed, same bank.

    Returns:
        (BANK_SIZE, SIDE, SIDE, 3) linear albedo in [0.02, 1]; kinds repeat cyclically.
    """
    rng = np.random.default_rng([seed, 7])
    makers = list(KINDS.values())
    bank = np.stack([makers[i % len(makers)](rng) for i in range(BANK_SIZE)])
    return np.clip(bank, 0.02, 1.0).astype(np.float32)


def pick_texture(rng: Rng, *kinds: str) -> int:
    """Return the bank index of a random texture of one of `kinds` (repeat a kind to favour it)."""
    kind = list(KINDS).index(kinds[rng.integers(len(kinds))])
    return kind + len(KINDS) * int(rng.integers(BANK_SIZE // len(KINDS)))
