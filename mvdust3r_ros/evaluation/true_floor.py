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

"""Estimate the true floor from all views together, so that a table is not mistaken for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import BoolArray, FloatArray

TILE_M = 0.2
"""Side of the cells that a plane's area is counted in: each counts once, however densely a nearby
camera sampled it."""
POINTS_PER_CELL, MAX_CELLS, MAX_FLOOR_POINTS = 12, 1000, 500_000
"""Bounds on computing time: points per cell, number of cells, and number of candidate points."""
MAX_PLANES = 400
"""Planes through three random points, and as many level planes through one: where a tenth of the
low points are floor, 40 of the level planes lie on it."""
MAX_TILT_DEG = 10.0
"""Relative to the true frame, which is upright: a wheelchair ramp, 1:12, has 4.8 degrees."""
TOLERANCE_M = 0.05
"""Noise of depth cameras at a few metres."""
BELOW_M = 0.15
"""Three times the tolerance: only reflections put points this far below a floor."""
MAX_BELOW_SHARE = 0.1
"""Maximum fraction of a plane's cells with points below it; above that it is not a floor."""
MIN_AREA_CELLS = 10
"""0.4 m2: anything smaller is a step or the top of a box."""


@dataclass(frozen=True)
class TrueFloor:
    """A nearly level plane: normal . p = offset, with a unit normal that points up."""

    normal: FloatArray
    offset: float

    @classmethod
    def level(cls, z_m: float) -> TrueFloor:
        """Return the level floor at a height."""
        return cls(np.array([0.0, 0.0, 1.0]), z_m)

    def heights(self, points: FloatArray) -> FloatArray:
        """Return (N,) heights of points (N, 3) above the floor, metres."""
        heights: FloatArray = points @ self.normal - self.offset
        return heights


def find_true_floor(points: FloatArray, seed: int = 0) -> TrueFloor | None:
    """Find the level plane of the largest area with almost nothing below it.

    Area counts, not the number of points: a camera looking at a table top sees more points on it
    than on the floor around, and sees the same table top from every view.

    Args:
        points: (N, 3) true points of all views, z roughly up, metres.
        seed: random seed for the choice of points.

    Returns:
        The floor, or None where no plane qualifies.
    """
    rng = np.random.default_rng(seed)
    points, starts = _few_of_each_cell(points, rng)
    normals, offsets = _candidates(points, rng)
    heights = points @ normals.T - offsets
    on = np.logical_or.reduceat(np.abs(heights) < TOLERANCE_M, starts).sum(0)
    # a single point below may be a reflection
    below = np.add.reduceat(heights < -BELOW_M, starts, dtype=np.int64)
    below_share = (below > 1).sum(0) / np.maximum(on, 1)
    area = np.where((below_share < MAX_BELOW_SHARE) & (on >= MIN_AREA_CELLS), on, 0)
    if not area.any():
        return None
    best = int(np.argmax(area))
    floor = TrueFloor(normals[best], float(offsets[best]))
    for _ in range(3):
        floor = _fitted(points[np.abs(floor.heights(points)) < TOLERANCE_M], floor)
    return floor


def _few_of_each_cell(
    points: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Sample a few points (M, 3) per cell, in cell order; return them and each cell's start."""
    count = min(len(points), MAX_FLOOR_POINTS)
    points = points[rng.permutation(count) * len(points) // max(count, 1)]
    cells = np.floor(points[:, :2] / TILE_M).astype(np.int64)
    cells -= cells.min(0, initial=0)
    index = cells[:, 0] * (cells[:, 1].max(initial=0) + 1) + cells[:, 1]
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    counts = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, counts)
    few = rng.permutation(len(starts)) < MAX_CELLS
    chosen = order[(rank < POINTS_PER_CELL) & np.repeat(few, counts)]
    return points[chosen], np.flatnonzero(np.diff(index[chosen], prepend=-1))


def _candidates(points: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return nearly level planes through random triples: (M, 3) normals and (M,) offsets."""
    if len(points) < 3:
        return np.zeros((0, 3)), np.zeros(0)
    low = points[points[:, 2] <= np.quantile(points[:, 2], 0.6)]
    a, b, c = (low[rng.integers(len(low), size=20 * MAX_PLANES)] for _ in range(3))
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    normals = normals / np.maximum(length, 1e-12)[:, None]
    normals = np.where(normals[:, 2:] < 0, -normals, normals)
    level: BoolArray = (normals[:, 2] > np.cos(np.radians(MAX_TILT_DEG))) & (length > TILE_M**2)
    normals, a = normals[level][:MAX_PLANES], a[level][:MAX_PLANES]
    # also level planes at each height: a level floor needs no lucky triple
    up = np.tile([0.0, 0.0, 1.0], (len(a), 1))
    normals, through = np.concatenate([normals, up]), np.concatenate([a, a])
    return normals, (normals * through).sum(1)


def _fitted(points: FloatArray, floor: TrueFloor) -> TrueFloor:
    """Fit a least-squares plane to points; keep the old plane where the fit is not level."""
    if len(points) < 3:
        return floor
    mean = points.mean(0)
    normal: FloatArray = np.linalg.svd(points - mean, full_matrices=False)[2][2]
    normal = -normal if normal[2] < 0 else normal
    if normal[2] < np.cos(np.radians(MAX_TILT_DEG)):
        return floor
    return TrueFloor(normal, float(normal @ mean))
