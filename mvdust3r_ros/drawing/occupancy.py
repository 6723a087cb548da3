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

"""The 2-D grid for navigation: free where the floor was seen, occupied where obstacles stand.

An occupancy grid (Moravec and Elfes 1985) of log-odds (Thrun, Burgard and Fox, Probabilistic
Robotics, 2005, chapter 9), one for each height layer.
"""

from __future__ import annotations

import math
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
    MvDust3rError,
    OccupancyGrid,
)
from mvdust3r_ros.graph.range_image import RangeImage

Cells = npt.NDArray[np.int64]

HIT, MISS = 24, -4
"""Log-odds in steps of 0.05: 1.2 and -0.2, so that five misses outweigh a hit. A trade-off of
recall and precision of the office's obstacles (benchmarks/constants.py), in per cent: 67 and 83 at
half the hit, 73 and 79 at this, 78 and 75 at twice. Misses: insensitive from -8 to -2."""
CLAMP = (-12, 72)
"""Clamped as in OctoMap (Hornung et al. 2013), so that the grid follows changes: an obstacle is
cleared by 17 misses and restored by one hit, whatever the number of earlier observations. In
static scenes, insensitive from -24 to -6 and from 36 to 144 (benchmarks/constants.py)."""
OCCUPIED_FROM, FREE_UP_TO = 8, 4
"""A third of a hit, so that two votes of a few far points make an obstacle; halving and doubling
it trades recall for precision as `HIT` does. The second: insensitive from 2 to 8
(benchmarks/constants.py)."""
MAX_PASSES = 20
"""Most votes of a cell: with `map.half_life_s`, a free cell is unknown after five half-lives."""
DRIVEN = -36
"""Log-odds where a robot has driven: hits of two views outweigh it. Insensitive from -72 to -18
(benchmarks/constants.py)."""
PLACES_AT_ONCE = 30
"""3 m of a path (`driven_path.SPACING_M`), which keeps the rectangle of cells around it small."""
STANDS_UP_TO_M = 0.5
"""A robot's base or a camera within this height of the floor is on it: above a base, at 0 but for
slopes and drift, and below a drone or a head. Insensitive from 0.25 to 1
(benchmarks/constants.py)."""
FLOOR_SLACK_M = 0.15
"""A ray that ends within this depth below the floor hits the floor. Insensitive from 0.075 to 0.3
(benchmarks/constants.py)."""
STOP_SHORT_CELLS = 1.5
"""Distance before an obstacle that is not cleared: the diagonal of a cell. Insensitive from 0.75
to 3 (benchmarks/constants.py)."""
STOP_SHORT_SIGMAS = 2.0
"""The same in sigmas of the point. Recall and precision of the office's free floor
(benchmarks/constants.py), in per cent: 55 and 96.1 at half of it, 51 and 97.2 at this, 35 and 96.8
at twice."""
LOOK_PAST_CELLS = 0.5
"""A ray that ends beyond the far side of a cell passes it. Insensitive from 0.25 to 1
(benchmarks/constants.py)."""
BEHIND_SURFACE_CELLS = 0.2
"""Solids lie behind their surface: a wall on the border of two cells belongs to the farther one.
Insensitive from 0.1 to 0.4 (benchmarks/constants.py)."""
SUBCELL_BITS = 3
"""Ray ends are rasterised to an eighth of a cell, finer than their accuracy."""
GROW_M = 2.0
"""Increment by which the arrays grow, to avoid a reallocation with every view."""
MAX_VOXELS = 1_000_000_000
"""Bounds memory to 1.2 GB: 300 m by 300 m of 5 cm cells with 28 layers."""


class OccupancyError(MvDust3rError):
    """The grid has no room for a view."""


class OccupancyMap:
    """Evidence per cell: number of views that saw the floor, and log-odds of obstacles by height.

    A cell is free once enough views have seen the floor through it: a ray high above the floor
    reveals nothing about obstacles below it. A cell is an obstacle if, in any layer of the height
    band, hits outweigh the rays that passed. A view has one vote per layer of a cell; hits of
    distant points, which are less certain, weigh less.

    The robot's driven path is free: it erases earlier observations there, and only later ones can
    outweigh it. So views and paths must be added in time order.
    """

    def __init__(self, settings: MapSettings, floor_z_m: float) -> None:
        """Start with all cells unknown.

        Args:
            settings: resolution, height band, thresholds.
            floor_z_m: height of the floor in the map frame.
        """
        self.settings = settings
        self.floor_z_m = floor_z_m
        self._origin = np.zeros(2, np.int64)
        band_m = settings.obstacle_max_z_m - settings.obstacle_min_z_m
        self._layers = max(1, math.ceil(band_m / settings.grid_resolution_m - 1e-6))
        # the lowest layer is for points below the floor
        self._log_odds = np.zeros((1 + self._layers, 0, 0), np.int8)
        self._passes = np.zeros((0, 0), np.int8)
        self._driven = np.zeros((0, 0), bool)
        self._looked_s = np.zeros((0, 0), np.float32)
        self._start_ns = 0
        self._newest_s = 0.0

    def add_view(self, camera_map: FloatArray, points_map: FloatArray, stamp_ns: int = 0) -> None:
        """Integrate one camera's points; the time depends on the view, not on the map.

        Args:
            camera_map: (3,) camera centre, map frame, metres.
            points_map: (N, 3) finite points it saw, map frame, metres.
            stamp_ns: timestamp; only relevant with `map.half_life_s`.

        Raises:
            OccupancyError: the grid would become too large; nothing has changed.
        """
        low, high = self._bounds(camera_map, points_map)
        self._cover(low, high)
        (x0, y0), (x1, y1) = low - self._origin, high - self._origin
        part = (slice(int(y0), int(y1)), slice(int(x0), int(x1)))
        log_odds = self._log_odds[:, part[0], part[1]]
        rays = _Rays.of(camera_map, points_map, self.floor_z_m)
        camera_xy = camera_map[:2] / self.settings.grid_resolution_m - low
        hits = self._hit_votes(rays, camera_xy, log_odds.shape)
        passed = self._passed_cells(rays, camera_xy, hits.shape[1:])
        passed |= self._under_camera(camera_map, low, hits.shape[1:])
        if self.settings.half_life_s > 0:
            self._fade(part, passed | hits.any(0), stamp_ns)
        self._clear(camera_map, points_map, low, log_odds, hits > 0)
        chosen = _where(hits > 0)
        raised = log_odds[chosen].astype(np.int16) + hits[chosen]
        log_odds[chosen] = np.minimum(raised, CLAMP[1])
        self._passes[part] += passed & (self._passes[part] < MAX_PASSES)

    def add_drive(self, base_map: FloatArray, stamp_ns: int = 0) -> None:
        """Mark a robot's driven path as free; places off the floor are ignored.

        The radius is enlarged by one cell, so that a planner with a shifted grid still finds the
        path. Places that the grid has no room for are ignored.

        Args:
            base_map: (N, 3) places of the robot's base, at most a few cells apart, map frame.
            stamp_ns: timestamp of the last one; only relevant with `map.half_life_s`.
        """
        on_floor = np.abs(base_map[:, 2] - self.floor_z_m) <= STANDS_UP_TO_M
        places = base_map[on_floor, :2]
        if self.settings.robot_radius_m <= 0:
            return
        for first in range(0, len(places), PLACES_AT_ONCE):
            self._drive_over(places[first : first + PLACES_AT_ONCE], stamp_ns)

    def _drive_over(self, places: FloatArray, stamp_ns: int) -> None:
        """Free the cells around neighbouring places (N, 2)."""
        radius_m = self.settings.robot_radius_m + self.settings.grid_resolution_m
        low, near = self._cells_near(places, radius_m)
        try:
            self._cover(low, low + near.shape[::-1])
        except OccupancyError:
            return
        x, y = (low - self._origin).tolist()
        part = (slice(y, y + near.shape[0]), slice(x, x + near.shape[1]))
        self._log_odds[:, part[0], part[1]][:, near] = DRIVEN
        self._passes[part][near] = MAX_PASSES
        self._driven[part] |= near
        if self.settings.half_life_s > 0:
            self._looked_s[part][near] = self._seconds(stamp_ns)

    def grid(self) -> OccupancyGrid:
        """Return the grid in Nav2's convention, with values 0, 100 and -1."""
        kept = self._kept_share(self._looked_s, self._newest_s)
        highest, passes = self._log_odds.max(0) * kept, np.rint(self._passes * kept)
        cells = np.full(highest.shape, UNKNOWN, np.int8)
        cells[(passes >= self.settings.min_passes) & (highest <= FREE_UP_TO)] = FREE
        occupied = highest >= OCCUPIED_FROM
        cells[self._too_narrow(occupied)] = UNKNOWN
        cells[occupied] = OCCUPIED
        driven = self._driven & (passes >= self.settings.min_passes)
        cells[driven & ~occupied] = FREE
        res = self.settings.grid_resolution_m
        origin = (float(self._origin[0] * res), float(self._origin[1] * res))
        return OccupancyGrid(cells, res, origin)

    def _too_narrow(self, occupied: BoolArray) -> BoolArray:
        """(rows, cols) mask of the gaps between obstacles that are too narrow for the robot.

        Few rays hit overhanging surfaces, such as a table top seen from below. Their hits are
        sparse, and the floor is visible in between.
        """
        radius = int(self.settings.robot_radius_m / self.settings.grid_resolution_m + 1e-6)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        if occupied.size == 0 or radius == 0:
            return occupied
        return cv2.morphologyEx(occupied.astype(np.uint8), cv2.MORPH_CLOSE, disc).astype(bool)

    def _kept_share(self, looked_s: FloatArray, now_s: float) -> FloatArray | float:
        """Return the weight that evidence of cells last seen at `looked_s` has now."""
        if self.settings.half_life_s <= 0:
            return 1.0
        age_s = np.maximum(now_s - looked_s, 0.0)
        return np.asarray(np.exp2(-age_s / self.settings.half_life_s))

    def _seconds(self, stamp_ns: int) -> float:
        """Return the time since the first timestamp, and advance the grid's clock."""
        self._start_ns = self._start_ns or stamp_ns
        now_s = (stamp_ns - self._start_ns) * 1e-9
        self._newest_s = max(self._newest_s, now_s)
        return now_s

    def _fade(self, part: tuple[slice, slice], touched: BoolArray, stamp_ns: int) -> None:
        """Decay the old evidence of cells that are observed again."""
        now_s = self._seconds(stamp_ns)
        looked_s = self._looked_s[part]
        kept = np.where(touched, self._kept_share(looked_s, now_s), 1.0)
        for evidence in (self._log_odds[:, part[0], part[1]], self._passes[part]):
            evidence[...] = np.rint(evidence * kept)
        looked_s[touched] = now_s

    def copy_region(
        self, other: OccupancyMap, centre: FloatArray, radius_m: float, *, inside: bool = False
    ) -> None:
        """Copy another grid's cells beyond (or within) a circle into this empty one.

        Args:
            other: grid of the same resolution.
            centre: (2 or 3,) centre of the circle, map frame.
            radius_m: its radius.
            inside: copy the cells within the circle instead.
        """
        res = self.settings.grid_resolution_m
        rows, cols = other._driven.shape
        x, y = ((np.arange(n) + other._origin[k] + 0.5) * res for k, n in ((0, cols), (1, rows)))
        beyond = np.hypot(x[None] - centre[0], y[:, None] - centre[1]) > radius_m
        chosen = ~beyond if inside else beyond
        self._origin = other._origin.copy()
        self._log_odds, self._passes = other._log_odds * chosen, other._passes * chosen
        self._driven, self._looked_s = other._driven & chosen, other._looked_s.copy()
        self._start_ns, self._newest_s = other._start_ns, other._newest_s

    def check_reach(self, camera_map: FloatArray, points_map: FloatArray) -> None:
        """Raise OccupancyError if `add_view` would raise it for these arguments."""
        self._extent(*self._bounds(camera_map, points_map))

    def _bounds(self, camera_map: FloatArray, points_map: FloatArray) -> tuple[Cells, Cells]:
        """Return the cells [low, high) (x, y) that a view can change."""
        res = self.settings.grid_resolution_m
        # one column at a time: numpy is slow to reduce (N, 2) along N
        xy = [np.append(points_map[:, k], camera_map[k]) / res for k in (0, 1)]
        margin = self.settings.robot_radius_m / res + 2
        low = np.floor(np.array([v.min() for v in xy]) - margin)
        high = np.ceil(np.array([v.max() for v in xy]) + margin)
        return low.astype(np.int64), high.astype(np.int64)

    def _extent(self, low: Cells, high: Cells) -> tuple[Cells, Cells]:
        """Return the cells [low, high) (x, y) of a grid with the old and the given cells."""
        step = math.ceil(GROW_M / self.settings.grid_resolution_m)
        new_low, new_top = low // step * step, -(-high // step) * step
        if self._driven.size:
            new_low = np.minimum(new_low, self._origin)
            new_top = np.maximum(new_top, self._origin + self._driven.shape[::-1])
        side_m = (new_top - new_low) * self.settings.grid_resolution_m
        if np.prod((new_top - new_low).astype(float)) * len(self._log_odds) > MAX_VOXELS:
            raise OccupancyError(
                f"the grid would be {side_m[0]:.0f} x {side_m[1]:.0f} m, too large for cells of "
                f"{self.settings.grid_resolution_m:g} m; check odometry, raise "
                "map.grid_resolution_m, or reset the map"
            )
        return new_low, new_top

    def _cover(self, low: Cells, high: Cells) -> None:
        """Grow the arrays to include cells [low, high)."""
        rows, cols = self._driven.shape
        top = self._origin + np.array([cols, rows])
        if np.all(low >= self._origin) and np.all(high <= top):
            return
        new_low, new_top = self._extent(low, high)
        x0, y0 = self._origin - new_low if self._driven.size else (0, 0)
        for name in ("_log_odds", "_passes", "_driven", "_looked_s"):
            old = getattr(self, name)
            shape = (*old.shape[:-2], *(new_top - new_low)[::-1].tolist())
            grown = np.zeros(shape, old.dtype)
            grown[..., y0 : y0 + rows, x0 : x0 + cols] = old
            setattr(self, name, grown)
        self._origin = new_low

    def _hit_votes(
        self, rays: _Rays, camera_xy: FloatArray, shape: tuple[int, ...]
    ) -> npt.NDArray[np.int8]:
        """Return obstacle votes for each layer and cell; the camera's position is in cells."""
        rule = self.settings
        above = (rays.end_m >= rule.obstacle_min_z_m) & (rays.end_m <= rule.obstacle_max_z_m)
        if rule.drop_m > 0:
            above |= rays.end_m < -rule.drop_m
        blocked = rays.take(np.flatnonzero(above))
        # solids lie behind their surface
        lengthened = 1.0 / rule.grid_resolution_m + BEHIND_SURFACE_CELLS / blocked.level_m
        col, row = (
            np.floor(camera_xy[k] + d * lengthened).astype(np.int64)
            for k, d in enumerate((blocked.x_m, blocked.y_m))
        )
        layer = ((blocked.end_m - rule.obstacle_min_z_m) / rule.grid_resolution_m).astype(np.int64)
        layer = np.clip(layer + 1, 0, self._layers)
        layer[blocked.end_m < 0] = 0
        column = row * shape[2] + col
        count = np.bincount(column, minlength=shape[1] * shape[2])[column]
        sigma_m = rule.point_rel_sigma * np.hypot(blocked.level_m, blocked.rise_m)
        certain = rule.grid_resolution_m * np.sqrt(count) / np.maximum(2.0 * sigma_m, 1e-9)
        votes = np.zeros(math.prod(shape), np.int8)
        share = np.minimum(1.0, count / rule.min_hits) * np.minimum(1.0, certain)
        votes[layer * (shape[1] * shape[2]) + column] = np.ceil(HIT * share)
        return votes.reshape(shape)

    def _clear(
        self, camera_map: FloatArray, points_map: FloatArray, low: Cells,
        log_odds: npt.NDArray[np.int8], hit: BoolArray,
    ) -> None:  # fmt: skip
        """Lower the log-odds of the places in the height band that the view sees past."""
        rule = self.settings
        layer, row, col = _where((log_odds != 0) & (log_odds > CLAMP[0]) & ~hit)
        xy = np.column_stack([col, row]) + low + 0.5
        z = rule.obstacle_min_z_m / rule.grid_resolution_m + layer - 0.5
        places = np.column_stack([xy, z]) * rule.grid_resolution_m
        places[:, 2] += self.floor_z_m
        # the nearest of several noisy rays already has a margin
        margin_m = LOOK_PAST_CELLS * rule.grid_resolution_m
        past = RangeImage(camera_map, points_map).sees_past(places, margin_m)
        index = layer[past], row[past], col[past]
        log_odds[index] = np.maximum(log_odds[index] + MISS, CLAMP[0])

    def _passed_cells(
        self, rays: _Rays, camera_xy: FloatArray, shape: tuple[int, ...]
    ) -> BoolArray:
        """Mask of the cells that rays cross just above the floor; the camera is in cells."""
        begin, end = self._spans_above_floor(rays)
        use = np.flatnonzero(end > begin)
        blocked, begin, end = rays.take(use), begin.take(use), end.take(use)
        # cv2 has cell centres at integers
        x0, y0 = ((camera_xy - 0.5) * (1 << SUBCELL_BITS)).astype(np.float32)
        unit = np.float32((1 << SUBCELL_BITS) / self.settings.grid_resolution_m)
        dx, dy = unit * blocked.x_m, unit * blocked.y_m
        ends = (x0 + begin * dx, y0 + begin * dy, x0 + end * dx, y0 + end * dy)
        segments = np.stack([np.rint(v).astype(np.int32) for v in ends])
        image = np.zeros(shape, np.uint8)
        distinct = distinct_to_half_a_cell(segments).reshape(-1, 2, 2)
        cv2.polylines(image, list(distinct), False, 1, 1, cv2.LINE_8, SUBCELL_BITS)
        return image.astype(bool)

    def _spans_above_floor(self, rays: _Rays) -> tuple[FloatArray, FloatArray]:
        """Return start and end of each ray's part just above the floor, in ray lengths."""
        rule = self.settings
        rise = np.where(np.abs(rays.rise_m) < 1e-9, np.float32(1e-9), rays.rise_m)
        start_m = rays.end_m - rays.rise_m
        t_a, t_b = ((np.float32(z) - start_m) / rise for z in (-FLOOR_SLACK_M, rule.free_max_z_m))
        begin = np.maximum(np.minimum(t_a, t_b), 0.0)
        # the end of a ray is uncertain, and so are the cells around it
        end = np.minimum(np.maximum(t_a, t_b), 1.0 - STOP_SHORT_SIGMAS * rule.point_rel_sigma)
        stop_m = np.float32(STOP_SHORT_CELLS * rule.grid_resolution_m)
        end -= np.where(rays.end_m > rule.obstacle_min_z_m, stop_m / rays.level_m, 0.0)
        # a ray that ends far below the floor did not hit it
        return begin, np.where(rays.end_m < -FLOOR_SLACK_M, begin, end)

    def _under_camera(
        self, camera_map: FloatArray, low: Cells, shape: tuple[int, ...]
    ) -> BoolArray:
        """Mask of the cells under a camera that is carried on the floor.

        They get a single floor vote, as a hand-held camera may be above anything.
        """
        rule, mask = self.settings, np.zeros(shape, bool)
        low_enough = abs(camera_map[2] - self.floor_z_m) <= STANDS_UP_TO_M
        if rule.robot_radius_m > 0 and (low_enough or rule.camera_height_m > 0):
            first, near = self._cells_near(camera_map[None, :2], rule.robot_radius_m)
            x, y = (first - low).tolist()
            mask[y : y + near.shape[0], x : x + near.shape[1]] = near
        return mask

    def _cells_near(self, xy_map: FloatArray, radius_m: float) -> tuple[Cells, BoolArray]:
        """Return the cells with centres within `radius_m` of any of the places (N, 2).

        Returns:
            The lowest cell (x, y) of a rectangle, and its (rows, cols) mask.
        """
        places, reach = xy_map / self.settings.grid_resolution_m, radius_m + 1e-6
        reach /= self.settings.grid_resolution_m
        low = np.floor(places.min(0) - reach).astype(np.int64)
        cols, rows = (np.floor(places.max(0) + reach).astype(np.int64) + 1 - low).tolist()
        near = np.zeros((rows, cols), bool)
        off_y = (np.arange(rows) + low[1] + 0.5 - places[:, 1:]) ** 2
        off_x = (np.arange(cols) + low[0] + 0.5 - places[:, :1]) ** 2
        for y2, x2 in zip(off_y, off_x, strict=True):
            near |= y2[:, None] + x2 <= reach**2
        return low, near


@dataclass(frozen=True)
class _Rays:
    """Rays from the camera to the N points it saw; float32 columns, metres.

    Attributes:
        x_m: (N,) distance along x.
        y_m: (N,) distance along y.
        rise_m: (N,) distance upwards.
        level_m: (N,) horizontal length, not zero.
        end_m: (N,) height of the point above the floor.
    """

    x_m: FloatArray
    y_m: FloatArray
    rise_m: FloatArray
    level_m: FloatArray
    end_m: FloatArray

    @classmethod
    def of(cls, camera_map: FloatArray, points_map: FloatArray, floor_z_m: float) -> _Rays:
        """Return the rays of one view."""
        x, y, rise = ((points_map[:, k] - camera_map[k]).astype(np.float32) for k in range(3))
        end = (points_map[:, 2] - floor_z_m).astype(np.float32)
        return cls(x, y, rise, np.maximum(np.hypot(x, y), np.float32(1e-6)), end)

    def take(self, chosen: npt.NDArray[np.intp]) -> _Rays:
        """Return a selection of rays, by index."""
        columns = (self.x_m, self.y_m, self.rise_m, self.level_m, self.end_m)
        return _Rays(*(column.take(chosen) for column in columns))


def _where(mask: BoolArray) -> tuple[npt.NDArray[np.intp], ...]:
    """Same as np.nonzero, which takes eight times as long in three dimensions."""
    return np.unravel_index(np.flatnonzero(mask), mask.shape)


def distinct_to_half_a_cell(segments: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Keep one of the segments (4, N), in subcells, with the same half cells at both ends: (M, 4).

    Rays to points above each other cross the same cells, and rasterising each of them would
    dominate the time of a view.
    """
    halves = (segments >> (SUBCELL_BITS - 1)).astype(np.int64)
    if halves.size == 0:
        return segments.T
    halves -= halves.min()
    base = int(halves.max()) + 1
    keys = ((halves[0] * base + halves[1]) * base + halves[2]) * base + halves[3]
    return np.ascontiguousarray(segments.T)[np.unique(keys, return_index=True)[1]]


@dataclass(frozen=True)
class OccupancyStats:
    """Summary of a grid for a robot; the values of msg/OccupancySummary.msg.

    Attributes:
        free_cells: number of free cells.
        occupied_cells: number of occupied cells.
        unknown_cells: number of unknown cells inside the grid.
        explored_area_m2: area of free and occupied cells.
        bounds_m: x_min, y_min, x_max, y_max of the known cells; NaN without any.
        nearest_distance_m: distance of the nearest obstacle; inf without any.
        nearest_bearing_rad: its bearing in the robot frame, 0 ahead, positive left; NaN without.
        sector_distances_m: nearest obstacle in each of n equal sectors of bearing, starting at
            -pi, counter-clockwise; inf without an obstacle, NaN where nothing is known.
    """

    free_cells: int
    occupied_cells: int
    unknown_cells: int
    explored_area_m2: float
    bounds_m: tuple[float, float, float, float]
    nearest_distance_m: float
    nearest_bearing_rad: float
    sector_distances_m: tuple[float, ...]


def summarize_grid(
    grid: OccupancyGrid, xy_robot: tuple[float, float], yaw_robot: float, n_sectors: int = 16
) -> OccupancyStats:
    """Summarise a grid: cell counts, extent and nearest obstacles.

    Args:
        grid: the grid.
        xy_robot: robot position in the grid's frame, metres.
        yaw_robot: robot heading, radians.
        n_sectors: number of angular sectors around the robot.
    """
    cells, res = grid.cells, grid.resolution_m
    free, occupied = int((cells == FREE).sum()), int((cells == OCCUPIED).sum())
    rows, cols = np.nonzero(cells != UNKNOWN)
    x0, y0 = grid.origin_xy_m
    bounds = (math.nan,) * 4
    if len(rows):
        bounds = (
            x0 + cols.min() * res, y0 + rows.min() * res,
            x0 + (cols.max() + 1) * res, y0 + (rows.max() + 1) * res,
        )  # fmt: skip
    known_sector, _, _ = _polar(rows, cols, grid, xy_robot, yaw_robot, n_sectors)
    rows, cols = np.nonzero(cells == OCCUPIED)
    sector, distance, bearing = _polar(rows, cols, grid, xy_robot, yaw_robot, n_sectors)
    sectors = np.where(np.bincount(known_sector, minlength=n_sectors) > 0, np.inf, np.nan)
    np.minimum.at(sectors, sector, distance)
    nearest = int(np.argmin(distance)) if len(distance) else -1
    return OccupancyStats(
        free_cells=free,
        occupied_cells=occupied,
        unknown_cells=int(cells.size - free - occupied),
        explored_area_m2=(free + occupied) * res**2,
        bounds_m=tuple(float(b) for b in bounds),  # type: ignore[arg-type]
        nearest_distance_m=float(distance[nearest]) if nearest >= 0 else math.inf,
        nearest_bearing_rad=float(bearing[nearest]) if nearest >= 0 else math.nan,
        sector_distances_m=tuple(sectors.tolist()),
    )


def _polar(
    rows: npt.NDArray[np.intp],
    cols: npt.NDArray[np.intp],
    grid: OccupancyGrid,
    xy_robot: tuple[float, float],
    yaw_robot: float,
    n_sectors: int,
) -> tuple[npt.NDArray[np.intp], FloatArray, FloatArray]:
    """Return sector index, distance (m) and bearing (rad, in [-pi, pi)) of cells."""
    dx = grid.origin_xy_m[0] + (cols + 0.5) * grid.resolution_m - xy_robot[0]
    dy = grid.origin_xy_m[1] + (rows + 0.5) * grid.resolution_m - xy_robot[1]
    bearing = np.mod(np.arctan2(dy, dx) - yaw_robot + np.pi, 2 * np.pi) - np.pi
    sector = np.floor((bearing + np.pi) / (2 * np.pi) * n_sectors).astype(np.intp) % n_sectors
    return sector, np.hypot(dx, dy), bearing
