"""The 2-D grid for navigation: free where rays passed, occupied where they ended, else unknown."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import BoolArray, FloatArray, OccupancyGrid

FREE, OCCUPIED, UNKNOWN = 0, 100, -1
HIT, MISS = 1.2, -0.2
CLAMP = (-2.0, 3.6)
FLOOR_SLACK_M = 0.15
SUBCELL_BITS = 3
GROW_M = 2.0


class OccupancyMap:
    """Log-odds per cell, one vote per cell and view: hit, or passed.

    A ray counts where it runs between the floor and the top of the obstacle band. A point in the
    band is an obstacle; a point on the floor makes its cell free. What no ray crossed in the band
    is unknown. A view that hits something in a cell does not clear that cell with other rays.
    """

    def __init__(self, settings: MapSettings, floor_z_m: float) -> None:
        """Start with everything unknown.

        Args:
            settings: resolution, height band, thresholds.
            floor_z_m: height of the floor in the map frame.
        """
        self.settings = settings
        self.floor_z_m = floor_z_m
        self._origin = np.zeros(2, np.int64)
        self._log_odds = np.zeros((0, 0), np.float32)
        self._seen = np.zeros((0, 0), bool)
        self._visited = np.zeros((0, 0), bool)

    def add_view(self, camera_map: FloatArray, points_map: FloatArray) -> None:
        """Integrate what one camera saw.

        Args:
            camera_map: (3,) camera centre, map frame, metres.
            points_map: (N, 3) finite points it saw, map frame, metres.
        """
        res = self.settings.grid_resolution_m
        xy = np.concatenate([points_map[:, :2], camera_map[None, :2]]) / res
        margin = self.settings.robot_radius_m / res + 2
        self._cover(np.floor(xy.min(0) - margin), np.ceil(xy.max(0) + margin))
        hits = self._hit_cells(points_map)
        passed = self._passed_cells(camera_map, points_map)
        passed &= ~hits
        rows, cols = np.nonzero(hits | passed)
        vote = np.where(hits[rows, cols], HIT, MISS).astype(np.float32)
        self._log_odds[rows, cols] = np.clip(self._log_odds[rows, cols] + vote, *CLAMP)
        self._seen |= passed | hits
        self._mark_visited(camera_map)

    def grid(self) -> OccupancyGrid:
        """The grid as Nav2 wants it, values 0, 100 and -1."""
        cells = np.full(self._log_odds.shape, UNKNOWN, np.int8)
        cells[self._seen & (self._log_odds <= 0)] = FREE
        cells[self._log_odds > 0] = OCCUPIED
        cells[self._visited] = FREE
        res = self.settings.grid_resolution_m
        origin = (float(self._origin[0] * res), float(self._origin[1] * res))
        return OccupancyGrid(cells, res, origin)

    def _cover(self, low: FloatArray, high: FloatArray) -> None:
        """Grow the arrays so that cells [low, high) (x, y) exist."""
        shape_xy = np.array(self._log_odds.shape[::-1])
        top = self._origin + shape_xy
        empty = self._log_odds.size == 0
        if not empty and np.all(low >= self._origin) and np.all(high <= top):
            return
        step = math.ceil(GROW_M / self.settings.grid_resolution_m)
        new_low = np.floor(low / step).astype(np.int64) * step
        new_top = np.ceil(high / step).astype(np.int64) * step
        if not empty:
            new_low, new_top = np.minimum(new_low, self._origin), np.maximum(new_top, top)
        rows_cols = tuple(int(n) for n in (new_top - new_low)[::-1])
        x0, y0 = (self._origin - new_low) if not empty else (0, 0)
        for name in ("_log_odds", "_seen", "_visited"):
            old = getattr(self, name)
            grown = np.zeros(rows_cols, old.dtype)
            grown[y0 : y0 + old.shape[0], x0 : x0 + old.shape[1]] = old
            setattr(self, name, grown)
        self._origin = new_low

    def _hit_cells(self, points_map: FloatArray) -> BoolArray:
        """Bool mask of cells with enough points in the obstacle band."""
        z = points_map[:, 2] - self.floor_z_m
        band = (z >= self.settings.obstacle_min_z_m) & (z <= self.settings.obstacle_max_z_m)
        res = self.settings.grid_resolution_m
        cells = np.floor(points_map[band, :2] / res).astype(np.int64) - self._origin
        rows, cols = self._log_odds.shape
        counts = np.bincount(cells[:, 1] * cols + cells[:, 0], minlength=rows * cols)
        mask: BoolArray = counts.reshape(rows, cols) >= self.settings.min_hits
        return mask

    def _passed_cells(self, camera_map: FloatArray, points_map: FloatArray) -> BoolArray:
        """Bool mask of cells crossed by the part of a ray between floor and band top."""
        begin, end = self._ray_spans(camera_map, points_map)
        use = end > begin
        direction = (points_map[use] - camera_map)[:, :2]
        ends = np.stack(
            [camera_map[:2] + begin[use, None] * direction,
             camera_map[:2] + end[use, None] * direction], 1
        )  # fmt: skip
        # cv2 has cell centres at integers
        cells = ends / self.settings.grid_resolution_m - self._origin - 0.5
        segments = np.rint(cells * (1 << SUBCELL_BITS)).astype(np.int32)
        image = np.zeros(self._log_odds.shape, np.uint8)
        cv2.polylines(image, list(segments), False, 1, 1, cv2.LINE_8, SUBCELL_BITS)
        return np.asarray(image, bool)

    def _ray_spans(
        self, camera_map: FloatArray, points_map: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Begin and end of each ray's usable part, as shares of its length."""
        low = self.floor_z_m - FLOOR_SLACK_M
        high = self.floor_z_m + self.settings.obstacle_max_z_m
        z0, dz = float(camera_map[2]), points_map[:, 2] - camera_map[2]
        dz = np.where(np.abs(dz) < 1e-9, 1e-9, dz)
        t_a, t_b = (low - z0) / dz, (high - z0) / dz
        begin = np.maximum(np.minimum(t_a, t_b), 0.0)
        end = np.minimum(np.maximum(t_a, t_b), 1.0)
        # a ray does not clear the cell of the obstacle it ends on
        obstacle = points_map[:, 2] > self.floor_z_m + self.settings.obstacle_min_z_m
        length_m = np.linalg.norm(points_map[:, :2] - camera_map[:2], axis=1)
        stop_short = 1.0 - 1.5 * self.settings.grid_resolution_m / np.maximum(length_m, 1e-6)
        return begin, np.where(obstacle, np.minimum(end, stop_short), end)

    def _mark_visited(self, camera_map: FloatArray) -> None:
        """The robot stood here: its footprint is free."""
        if self.settings.robot_radius_m <= 0:
            return
        res = self.settings.grid_resolution_m
        centre = np.floor(camera_map[:2] / res).astype(int) - self._origin
        image = self._visited.astype(np.uint8)
        radius = int(self.settings.robot_radius_m / res)
        cv2.circle(image, (int(centre[0]), int(centre[1])), radius, 1, -1)
        self._visited = image.astype(bool)


@dataclass(frozen=True)
class OccupancyStats:
    """What a robot wants to know of a grid at a glance; the values of msg/OccupancySummary.msg.

    Attributes:
        free_cells: number of free cells.
        occupied_cells: number of occupied cells.
        unknown_cells: number of unknown cells inside the grid.
        explored_area_m2: area of free and occupied cells.
        bounds_m: x_min, y_min, x_max, y_max of the known cells; NaN without any.
        nearest_distance_m: distance of the nearest obstacle; inf without any.
        nearest_bearing_rad: its direction in the robot frame, 0 ahead, positive left; NaN.
        sector_distances_m: nearest obstacle in each of n equal sectors of bearing, the first one
            from -pi, counter-clockwise; inf without an obstacle, NaN where nothing is known.
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
    """Counts, extent and nearest obstacles of a grid.

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
    """Sector index, distance (m) and bearing (rad, in [-pi, pi)) of cells seen from the robot."""
    dx = grid.origin_xy_m[0] + (cols + 0.5) * grid.resolution_m - xy_robot[0]
    dy = grid.origin_xy_m[1] + (rows + 0.5) * grid.resolution_m - xy_robot[1]
    bearing = np.mod(np.arctan2(dy, dx) - yaw_robot + np.pi, 2 * np.pi) - np.pi
    sector = np.floor((bearing + np.pi) / (2 * np.pi) * n_sectors).astype(np.intp) % n_sectors
    return sector, np.hypot(dx, dy), bearing
