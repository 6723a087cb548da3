"""The 2-D grid for navigation: free where rays passed, occupied where they ended, else unknown."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import BoolArray, FloatArray, MvDust3rError, OccupancyGrid

Cells = npt.NDArray[np.int64]

FREE, OCCUPIED, UNKNOWN = 0, 100, -1
HIT, MISS = 1.2, -0.2
CLAMP = (-2.0, 3.6)
FLOOR_SLACK_M = 0.15
SUBCELL_BITS = 3
GROW_M = 2.0
MAX_CELLS = 100_000_000


class OccupancyError(MvDust3rError):
    """The grid cannot hold a view."""


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
        """Integrate what one camera saw; the time depends on what it saw, not on the map.

        Args:
            camera_map: (3,) camera centre, map frame, metres.
            points_map: (N, 3) finite points it saw, map frame, metres.

        Raises:
            OccupancyError: the grid would become too large; nothing has changed.
        """
        low, high = self._bounds(camera_map, points_map)
        self._cover(low, high)
        (x0, y0), (x1, y1) = low - self._origin, high - self._origin
        part = (slice(int(y0), int(y1)), slice(int(x0), int(x1)))
        shape = self._seen[part].shape
        hits = self._hit_cells(points_map, low, shape)
        passed = self._passed_cells(camera_map, points_map, low, shape) & ~hits
        vote = np.where(hits, HIT, np.where(passed, MISS, 0.0)).astype(np.float32)
        self._log_odds[part] = np.clip(self._log_odds[part] + vote, *CLAMP)
        self._seen[part] |= passed | hits
        self._visited[part] |= self._footprint(camera_map, low, shape)

    def take_over(
        self, other: OccupancyMap, centre: FloatArray, radius_m: float, *, inside: bool = False
    ) -> None:
        """Copy the cells of another grid that lie beyond (or within) a circle into this empty one.

        Args:
            other: grid of the same resolution.
            centre: (2 or 3,) centre of the circle, map frame.
            radius_m: its radius.
            inside: copy the cells within the circle instead.
        """
        res = self.settings.grid_resolution_m
        rows, cols = other._seen.shape
        x, y = ((np.arange(n) + other._origin[k] + 0.5) * res for k, n in ((0, cols), (1, rows)))
        beyond = np.hypot(x[None] - centre[0], y[:, None] - centre[1]) > radius_m
        chosen = ~beyond if inside else beyond
        self._origin = other._origin.copy()
        self._log_odds = np.where(chosen, other._log_odds, np.float32(0))
        self._seen, self._visited = other._seen & chosen, other._visited & chosen

    def check_reach(self, camera_map: FloatArray, points_map: FloatArray) -> None:
        """Raise OccupancyError if `add_view` would with the same arguments."""
        self._extent(*self._bounds(camera_map, points_map))

    def grid(self) -> OccupancyGrid:
        """The grid as Nav2 wants it, values 0, 100 and -1."""
        cells = np.full(self._log_odds.shape, UNKNOWN, np.int8)
        cells[self._seen & (self._log_odds <= 0)] = FREE
        cells[self._log_odds > 0] = OCCUPIED
        cells[self._visited] = FREE
        res = self.settings.grid_resolution_m
        origin = (float(self._origin[0] * res), float(self._origin[1] * res))
        return OccupancyGrid(cells, res, origin)

    def _bounds(self, camera_map: FloatArray, points_map: FloatArray) -> tuple[Cells, Cells]:
        """Cells [low, high) (x, y) that a view can change."""
        res = self.settings.grid_resolution_m
        # one column at a time: numpy reduces (N, 2) along N slowly
        xy = [np.append(points_map[:, k], camera_map[k]) / res for k in (0, 1)]
        margin = self.settings.robot_radius_m / res + 2
        low = np.floor(np.array([v.min() for v in xy]) - margin)
        high = np.ceil(np.array([v.max() for v in xy]) + margin)
        return low.astype(np.int64), high.astype(np.int64)

    def _extent(self, low: Cells, high: Cells) -> tuple[Cells, Cells]:
        """Cells [low, high) (x, y) of a grid that holds the old cells and the given ones."""
        step = math.ceil(GROW_M / self.settings.grid_resolution_m)
        new_low, new_top = low // step * step, -(-high // step) * step
        if self._seen.size:
            new_low = np.minimum(new_low, self._origin)
            new_top = np.maximum(new_top, self._origin + self._seen.shape[::-1])
        side_m = (new_top - new_low) * self.settings.grid_resolution_m
        if np.prod((new_top - new_low).astype(float)) > MAX_CELLS:
            raise OccupancyError(
                f"the grid would be {side_m[0]:.0f} x {side_m[1]:.0f} m, too large for cells of "
                f"{self.settings.grid_resolution_m:g} m; check odometry, raise "
                "map.grid_resolution_m, or reset the map"
            )
        return new_low, new_top

    def _cover(self, low: Cells, high: Cells) -> None:
        """Grow the arrays so that cells [low, high) exist."""
        shape_xy = np.array(self._seen.shape[::-1])
        if np.all(low >= self._origin) and np.all(high <= self._origin + shape_xy):
            return
        new_low, new_top = self._extent(low, high)
        x0, y0 = self._origin - new_low if self._seen.size else (0, 0)
        for name in ("_log_odds", "_seen", "_visited"):
            old = getattr(self, name)
            grown = np.zeros(tuple((new_top - new_low)[::-1].tolist()), old.dtype)
            grown[y0 : y0 + old.shape[0], x0 : x0 + old.shape[1]] = old
            setattr(self, name, grown)
        self._origin = new_low

    def _hit_cells(self, points_map: FloatArray, low: Cells, shape: tuple[int, ...]) -> BoolArray:
        """Bool mask, from cell `low` on, of cells with enough points in the obstacle band."""
        z = points_map[:, 2] - self.floor_z_m
        band = (z >= self.settings.obstacle_min_z_m) & (z <= self.settings.obstacle_max_z_m)
        res = self.settings.grid_resolution_m
        cells = np.floor(points_map[band, :2] / res).astype(np.int64) - low
        counts = np.bincount(cells[:, 1] * shape[1] + cells[:, 0], minlength=math.prod(shape))
        mask: BoolArray = counts.reshape(shape) >= self.settings.min_hits
        return mask

    def _passed_cells(
        self, camera_map: FloatArray, points_map: FloatArray, low: Cells, shape: tuple[int, ...]
    ) -> BoolArray:
        """Bool mask of cells crossed by the part of a ray between floor and band top."""
        begin, end = self._ray_spans(camera_map, points_map)
        use = end > begin
        direction = (points_map[use] - camera_map)[:, :2]
        ends = np.stack(
            [camera_map[:2] + begin[use, None] * direction,
             camera_map[:2] + end[use, None] * direction], 1
        )  # fmt: skip
        # cv2 has cell centres at integers
        cells = ends / self.settings.grid_resolution_m - low - 0.5
        segments = np.rint(cells * (1 << SUBCELL_BITS)).astype(np.int32)
        image = np.zeros(shape, np.uint8)
        distinct = list(_distinct_to_half_a_cell(segments))
        cv2.polylines(image, distinct, False, 1, 1, cv2.LINE_8, SUBCELL_BITS)
        return image.astype(bool)

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

    def _footprint(self, camera_map: FloatArray, low: Cells, shape: tuple[int, ...]) -> BoolArray:
        """Bool mask of the cells under the robot: it stood here, so they are free."""
        res = self.settings.grid_resolution_m
        image = np.zeros(shape, np.uint8)
        if self.settings.robot_radius_m > 0:
            x, y = (np.floor(camera_map[:2] / res).astype(np.int64) - low).tolist()
            cv2.circle(image, (x, y), int(self.settings.robot_radius_m / res + 1e-6), 1, -1)
        return image.astype(bool)


def _distinct_to_half_a_cell(segments: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """One of the segments (N, 2, 2), in subcells, that begin and end in the same half cells.

    Rays to points above each other cross the same cells; drawing each of them takes most of the
    time of a view.
    """
    halves = (segments >> (SUBCELL_BITS - 1)).reshape(-1, 4).astype(np.int64)
    if len(halves) == 0:
        return segments
    halves -= halves.min()
    base = int(halves.max()) + 1
    keys = ((halves[:, 0] * base + halves[:, 1]) * base + halves[:, 2]) * base + halves[:, 3]
    return segments[np.unique(keys, return_index=True)[1]]


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
