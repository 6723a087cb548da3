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

"""Build the true grid by counting true points per cell, without ray casting or votes.

The rules differ from the mapper's on purpose: an error common to both grids would not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    BoolArray,
    FloatArray,
    OccupancyGrid,
)
from mvdust3r_ros.evaluation.true_floor import TrueFloor

FLOOR_M = 0.1
"""Points within this distance of the true floor lie on it: twice the noise of depth cameras at a
few metres."""
LEAST_VIEWS = 2
"""A cell seen in a single view may be noise."""
OBSTACLE_SHARE = 0.1
"""A cell is free if less than this fraction of its views see an obstacle and the rest see
floor."""
FAINT_SHARE, AROUND_CELLS = 0.4, 2
"""Relative to the highest obstacle count within this many cells: cells with fewer obstacle views
are blur of that obstacle, and stay unknown."""
MAX_BASE_M = 0.5
"""Maximum height of the robot's base above the floor: a higher base is on another storey, or
mounted differently."""
Counts = npt.NDArray[np.int64]


def true_grid(
    clouds: Sequence[FloatArray],
    floor: TrueFloor,
    base_map: FloatArray,
    settings: MapSettings,
) -> OccupancyGrid:
    """Build the grid from true points.

    Args:
        clouds: (N, 3) true points of each view, map frame, metres.
        floor: the true floor.
        base_map: (M, 3) true positions of the robot's base; (0, 3) without a known robot.
        settings: cell size, height band and robot radius.
    """
    lattice = _Lattice.around([*clouds, base_map], settings.grid_resolution_m)
    floor_views, obstacle_views = (np.zeros(lattice.shape, np.int64) for _ in range(2))
    views = 0
    for points in clouds:
        heights = floor.heights(points)
        band = (heights >= settings.obstacle_min_z_m) & (heights <= settings.obstacle_max_z_m)
        if settings.drop_m > 0:
            band |= heights < -settings.drop_m
        floor_views += lattice.holds(points[np.abs(heights) <= FLOOR_M])
        obstacle_views += lattice.holds(points[band])
        views += 1
    cells = _decided(floor_views, obstacle_views, views)
    on_floor = base_map[np.abs(floor.heights(base_map)) <= MAX_BASE_M]
    driven = lattice.discs(on_floor, settings.robot_radius_m)
    cells[driven & (cells == UNKNOWN)] = FREE
    return OccupancyGrid(cells, settings.grid_resolution_m, lattice.origin_xy_m)


def _decided(floor_views: Counts, obstacle_views: Counts, views: int) -> npt.NDArray[np.int8]:
    """Classify cells by the numbers of views that saw floor and obstacles in them."""
    least = min(LEAST_VIEWS, views)
    side = 2 * AROUND_CELLS + 1
    most = cv2.dilate(obstacle_views.astype(np.float32), np.ones((side, side), np.uint8))
    sharp = obstacle_views >= FAINT_SHARE * most
    stands = obstacle_views >= OBSTACLE_SHARE * (floor_views + obstacle_views)
    cells = np.full(floor_views.shape, UNKNOWN, np.int8)
    cells[(floor_views >= least) & ~stands] = FREE
    cells[(obstacle_views >= least) & stands & sharp] = OCCUPIED
    return cells


@dataclass(frozen=True)
class _Lattice:
    """A cell lattice aligned to multiples of the cell size: low (x, y), rows and columns."""

    resolution_m: float
    low: Counts
    shape: tuple[int, int]

    @classmethod
    def around(cls, clouds: Iterable[FloatArray], resolution_m: float) -> _Lattice:
        """Return the smallest lattice that contains all points."""
        corners = [np.array([f(c[:, :2], 0) for f in (np.min, np.max)]) for c in clouds if len(c)]
        reach = np.concatenate(corners) / resolution_m
        low = np.floor(reach.min(0)).astype(np.int64)
        cols, rows = (np.floor(reach.max(0)).astype(np.int64) + 1 - low).tolist()
        return cls(resolution_m, low, (rows, cols))

    @property
    def origin_xy_m(self) -> tuple[float, float]:
        """Lower left corner."""
        x, y = (self.low * self.resolution_m).tolist()
        return x, y

    def holds(self, points: FloatArray) -> BoolArray:
        """Return a bool mask of the cells that contain points (N, 3)."""
        col, row = (
            np.floor(points[:, k] / self.resolution_m).astype(np.int64) - self.low[k]
            for k in (0, 1)
        )
        mask = np.zeros(self.shape, bool)
        mask[row, col] = True
        return mask

    def discs(self, places: FloatArray, radius_m: float) -> BoolArray:
        """Return a bool mask of the cells whose centres are within a radius of a position."""
        mask = np.zeros(self.shape, bool)
        rows, cols = (
            (np.arange(n) + low + 0.5) * self.resolution_m
            for n, low in zip(self.shape, self.low[::-1], strict=True)
        )
        for x, y, _ in places:
            part = tuple(
                slice(*np.searchsorted(v, [at - radius_m, at + radius_m]))
                for v, at in ((rows, y), (cols, x))
            )
            mask[part] |= np.hypot(rows[part[0], None] - y, cols[None, part[1]] - x) <= radius_m
        return mask
