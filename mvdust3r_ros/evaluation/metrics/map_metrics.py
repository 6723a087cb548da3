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

"""Metrics of trajectories and occupancy grids against ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import (
    FREE,
    MAX_STAMP_GAP_NS,
    OCCUPIED,
    UNKNOWN,
    BoolArray,
    FloatArray,
    MvDust3rError,
    OccupancyGrid,
    Trajectory,
)
from mvdust3r_ros.geometry import (
    AlignmentError,
    Sim3,
    align_cameras_sim3,
    align_sim3,
    invert_se3,
    rotation_angle_deg,
)

ALIGNMENTS = ("sim3", "se3", "none")


class MapMetricError(MvDust3rError):
    """A trajectory or grid cannot be compared with the truth."""


def associate(
    estimate: Trajectory, truth: Trajectory, max_gap_ns: int = MAX_STAMP_GAP_NS
) -> tuple[FloatArray, FloatArray]:
    """Pair the poses of two trajectories: each estimate with the nearest true timestamp.

    Args:
        estimate: estimated poses.
        truth: true poses, increasing timestamps.
        max_gap_ns: estimates without a true timestamp this close are skipped.

    Returns:
        (N, 4, 4) estimated and (N, 4, 4) true poses.

    Raises:
        MapMetricError: no timestamps match.
    """
    chosen, nearest = match_stamps(estimate, truth, max_gap_ns)
    return estimate.T_world_cam[chosen], truth.T_world_cam[nearest]


def match_stamps(
    estimate: Trajectory, truth: Trajectory, max_gap_ns: int = MAX_STAMP_GAP_NS
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return (N,) indices of estimates with a true pose in reach, and (N,) of those true poses.

    Raises:
        MapMetricError: no timestamps match.
    """
    if len(estimate) == 0 or len(truth) == 0:
        raise MapMetricError(f"cannot pair {len(estimate)} poses with {len(truth)} true ones")
    after = np.searchsorted(truth.stamps_ns, estimate.stamps_ns).clip(1, max(len(truth) - 1, 1))
    after = np.minimum(after, len(truth) - 1)
    before = np.maximum(after - 1, 0)
    gap_after = np.abs(truth.stamps_ns[after] - estimate.stamps_ns)
    gap_before = np.abs(truth.stamps_ns[before] - estimate.stamps_ns)
    nearest = np.where(gap_before <= gap_after, before, after)
    close = np.minimum(gap_before, gap_after) <= max_gap_ns
    if not close.any():
        raise MapMetricError(
            f"no stamp of the {len(estimate)} poses is within {max_gap_ns / 1e6:g} ms of one of "
            f"the {len(truth)} true poses"
        )
    return np.flatnonzero(close), nearest[close]


def align_trajectory(T_estimate: FloatArray, T_true: FloatArray, alignment: str = "sim3") -> Sim3:
    """Estimate the transform that best maps the estimated camera centres onto the true ones.

    Umeyama (1991) on the centres; where the centres lie on a line, the rotation comes from the
    camera orientations.

    Args:
        T_estimate: (N, 4, 4) estimated poses.
        T_true: (N, 4, 4) true poses.
        alignment: "sim3", "se3" or "none".

    Returns:
        S_true_estimate.

    Raises:
        MapMetricError: an unknown alignment.
        AlignmentError: the motion does not determine the transform.
    """
    if alignment not in ALIGNMENTS:
        raise MapMetricError(f"alignment {alignment!r} is not one of {', '.join(ALIGNMENTS)}")
    if alignment == "none":
        return Sim3(1.0, np.eye(3), np.zeros(3))
    with_scale = alignment == "sim3"
    try:
        return align_sim3(T_estimate[:, :3, 3], T_true[:, :3, 3], with_scale=with_scale)
    except AlignmentError:
        return align_cameras_sim3(T_estimate, T_true, with_scale=with_scale)[0]


@dataclass(frozen=True)
class TrajectoryErrors:
    """Errors of a trajectory.

    Attributes:
        rmse_m: root mean square.
        mean_m: mean.
        median_m: median.
        max_m: maximum.
        rotation_deg: root mean square rotation error.
        scale: factor that the estimate was multiplied by; 1 without scale alignment.
        pairs: number of poses, or of motions, compared.
    """

    rmse_m: float
    mean_m: float
    median_m: float
    max_m: float
    rotation_deg: float
    scale: float
    pairs: int


def absolute_errors(
    estimate: Trajectory, truth: Trajectory, alignment: str = "sim3"
) -> TrajectoryErrors:
    """Compute the ATE: distances between camera centres after alignment.

    Raises:
        MapMetricError: no timestamps match.
        AlignmentError: the motion does not determine the alignment.
    """
    T_estimate, T_true = associate(estimate, truth)
    S = align_trajectory(T_estimate, T_true, alignment)
    moved = np.array([S.apply_pose(T) for T in T_estimate])
    return _errors(invert_se3(T_true) @ moved, S.scale)


def relative_errors(
    estimate: Trajectory, truth: Trajectory, step: int = 1, alignment: str = "sim3"
) -> TrajectoryErrors:
    """Compute the RPE: errors of the motion from each pose to the one `step` poses later.

    Only the scale of the alignment matters.

    Raises:
        MapMetricError: no timestamps match, or there are fewer poses than a step needs.
        AlignmentError: the motion does not determine the alignment.
    """
    T_estimate, T_true = associate(estimate, truth)
    if not 1 <= step < len(T_true):
        raise MapMetricError(f"a step of {step} does not fit {len(T_true)} poses")
    S = align_trajectory(T_estimate, T_true, alignment)
    moved = np.array([S.apply_pose(T) for T in T_estimate])
    motion = invert_se3(moved[:-step]) @ moved[step:]
    true_motion = invert_se3(T_true[:-step]) @ T_true[step:]
    return _errors(invert_se3(true_motion) @ motion, S.scale)


def _errors(T_errors: FloatArray, scale: float) -> TrajectoryErrors:
    distance = np.linalg.norm(T_errors[:, :3, 3], axis=1)
    angle = rotation_angle_deg(T_errors[:, :3, :3])
    return TrajectoryErrors(
        rmse_m=float(np.sqrt((distance**2).mean())),
        mean_m=float(distance.mean()),
        median_m=float(np.median(distance)),
        max_m=float(distance.max()),
        rotation_deg=float(np.sqrt((angle**2).mean())),
        scale=scale,
        pairs=len(distance),
    )


@dataclass(frozen=True)
class GridScores:
    """Scores of a grid against the true grid, from 0 to 1; NaN where there is nothing to score.

    Attributes:
        free_iou: cells free in both over cells free in either.
        occupied_iou: the same for occupied cells.
        iou: mean of `free_iou` and `occupied_iou`.
        known_iou: cells known and equal in both over cells known in either.
        free_precision: fraction of the free cells that are truly free.
        free_recall: fraction of the truly free cells that are free.
        occupied_precision: fraction of the occupied cells with a true obstacle within the
            tolerance.
        occupied_recall: fraction of the true obstacles with an occupied cell within the tolerance.
        false_free: fraction of the true obstacle cells marked free, where a robot would drive.
    """

    free_iou: float
    occupied_iou: float
    iou: float
    known_iou: float
    free_precision: float
    free_recall: float
    occupied_precision: float
    occupied_recall: float
    false_free: float


def compare_grids(
    estimate: OccupancyGrid, truth: OccupancyGrid, tolerance_m: float = 0.0
) -> GridScores:
    """Score a grid cell by cell on the true grid's lattice, over the extent of both grids.

    Args:
        estimate: any extent and resolution; sampled at the centres of the true cells.
        truth: the true grid, in the same frame. Where it is unknown, only the IoU counts.
        tolerance_m: maximum distance between an occupied cell and an obstacle for the precision
            and recall of occupied cells.

    Raises:
        MapMetricError: the grids are too far apart to describe the same place.
    """
    est, true = on_common_lattice(estimate, truth)
    free, occupied = est == FREE, est == OCCUPIED
    true_free, true_occupied = true == FREE, true == OCCUPIED
    known = true != UNKNOWN
    radius = int(tolerance_m / truth.resolution_m + 1e-9)
    near_true, near_est = _dilate(true_occupied, radius), _dilate(occupied, radius)
    free_iou = _share(free & true_free, free | true_free)
    occupied_iou = _share(occupied & true_occupied, occupied | true_occupied)
    return GridScores(
        free_iou=free_iou,
        occupied_iou=occupied_iou,
        iou=(free_iou + occupied_iou) / 2,
        known_iou=_share((est == true) & known, known | (est != UNKNOWN)),
        free_precision=_share(free & true_free, free & known),
        free_recall=_share(free & true_free, true_free),
        occupied_precision=_share(occupied & near_true, occupied & (known | near_true)),
        occupied_recall=_share(true_occupied & near_est, true_occupied),
        false_free=_share(free & true_occupied, true_occupied),
    )


def on_common_lattice(
    estimate: OccupancyGrid, truth: OccupancyGrid, max_cells: int = 100_000_000
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Resample both grids on the true grid's lattice, over the extent of both.

    Raises:
        MapMetricError: more than `max_cells` cells would be needed.
    """
    res = truth.resolution_m
    origin = np.array(truth.origin_xy_m)
    corners = [
        (np.array(g.origin_xy_m) + k * g.resolution_m * np.array(g.cells.shape[::-1]) - origin)
        / res
        for g in (estimate, truth)
        for k in (0, 1)
    ]
    low = np.floor(np.min(corners, 0) + 1e-6).astype(int)
    high = np.ceil(np.max(corners, 0) - 1e-6).astype(int)
    cols, rows = high - low
    if cols * rows > max_cells:
        raise MapMetricError(f"the grids are too far apart: {cols} x {rows} cells cover both")
    centres = [origin[a] + (np.arange(low[a], high[a]) + 0.5) * res for a in (0, 1)]
    return _sample(estimate, *centres), _sample(truth, *centres)


def _sample(grid: OccupancyGrid, x: FloatArray, y: FloatArray) -> npt.NDArray[np.int8]:
    """Return the cells at positions x (cols,) and y (rows,); unknown outside the grid."""
    rows, cols = grid.cells.shape
    if rows == 0 or cols == 0:
        return np.full((len(y), len(x)), UNKNOWN, np.int8)
    # a cell's border, up to rounding, belongs to the cell above it
    col = np.floor((x - grid.origin_xy_m[0]) / grid.resolution_m + 1e-6).astype(int)
    row = np.floor((y - grid.origin_xy_m[1]) / grid.resolution_m + 1e-6).astype(int)
    inside = ((row >= 0) & (row < rows))[:, None] & ((col >= 0) & (col < cols))[None]
    cells = grid.cells[row.clip(0, rows - 1)[:, None], col.clip(0, cols - 1)[None]]
    return np.where(inside, cells, UNKNOWN).astype(np.int8)


def _dilate(mask: BoolArray, radius: int) -> BoolArray:
    if radius == 0 or mask.size == 0:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc), bool)


def _share(part: BoolArray, whole: BoolArray) -> float:
    count = int(whole.sum())
    return float(part.sum() / count) if count else float("nan")
