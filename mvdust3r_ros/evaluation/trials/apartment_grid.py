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

"""Score the grid of a drive through an apartment against its true grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    FloatArray,
    Keyframe,
    OccupancyGrid,
)
from mvdust3r_ros.drawing.occupancy import OccupancyMap
from mvdust3r_ros.evaluation.metrics.map_metrics import (
    compare_grids,
    on_common_lattice,
)
from mvdust3r_ros.geometry import backproject
from mvdust3r_ros.synthetic.scenes import Scene, scene_occupancy

FLOOR_NOISE_M = 0.05
"""Points at most this far below the floor belong to the floor; one grid cell."""


@dataclass(frozen=True)
class ApartmentGridScores:
    """Scores from 0 to 1, without any alignment to the truth.

    Attributes:
        right: fraction of the observable cells that have their true value.
        free_iou: observable cells free in both grids over those free in either.
        occupied_iou: the same for occupied cells.
        free_precision: fraction of all free cells that are truly free; a free cell inside
            furniture or a wall, or outside the apartment, is wrong whether observable or not.
        raw_free_iou: `free_iou` over all cells, including those the drive never saw.
        raw_occupied_iou: `occupied_iou` over all cells, including the insides of walls and
            furniture.
    """

    right: float
    free_iou: float
    occupied_iou: float
    free_precision: float
    raw_free_iou: float
    raw_occupied_iou: float


def score_apartment_grid(
    grid: OccupancyGrid, scene: Scene, keyframes: Sequence[Keyframe], rule: MapSettings
) -> tuple[ApartmentGridScores, ApartmentGridScores]:
    """Score the map's grid, and the grid from exact depth and poses of the same views.

    Args:
        grid: the map's grid, in the frame of the scene.
        scene: the apartment.
        keyframes: keyframes in the map, with depth, intrinsics and true pose.
        rule: settings of the grid.
    """
    band = (rule.obstacle_min_z_m, rule.obstacle_max_z_m)
    truth = scene_occupancy(scene, grid.resolution_m, band)
    views = list(true_views(keyframes, rule.max_depth_m))
    exact = OccupancyMap(replace(rule, point_rel_sigma=0.0), 0.0)
    for camera, points in views:
        exact.add_view(camera, points)
    observable = observable_truth(truth, [points for _, points in views], rule)
    return _scores(grid, truth, observable), _scores(exact.grid(), truth, observable)


def true_views(
    keyframes: Sequence[Keyframe], max_depth_m: float
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield camera centre (3,) and true points (N, 3) of each keyframe, in the true frame."""
    for view in (k.view for k in keyframes):
        if view.depth_m is None or view.K is None or view.T_world_cam is None:
            continue
        T, depth = view.T_world_cam, np.where(np.isfinite(view.depth_m), view.depth_m, 0)
        near = (depth > 0) & (depth < max_depth_m)
        yield T[:3, 3], backproject(depth, view.K)[near] @ T[:3, :3].T + T[:3, 3]


def observable_truth(
    truth: OccupancyGrid, clouds: Sequence[FloatArray], rule: MapSettings
) -> OccupancyGrid:
    """Return the true grid where a true point lies on the floor or in the band; unknown elsewhere.

    Observability does not depend on how a grid is built from points.
    """
    rows, cols = truth.cells.shape
    seen = np.zeros((rows, cols), bool)
    for points in clouds:
        z = points[:, 2]
        level = points[(z > -FLOOR_NOISE_M) & (z < rule.obstacle_max_z_m)]
        col, row = (
            np.floor((level[:, k] - truth.origin_xy_m[k]) / truth.resolution_m).astype(int)
            for k in (0, 1)
        )
        inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
        seen[row[inside], col[inside]] = True
    return replace(truth, cells=np.where(seen, truth.cells, UNKNOWN).astype(np.int8))


def _scores(
    grid: OccupancyGrid, truth: OccupancyGrid, observable: OccupancyGrid
) -> ApartmentGridScores:
    cells, true = on_common_lattice(grid, truth)
    judged = on_common_lattice(grid, observable)[1] != UNKNOWN
    raw = compare_grids(grid, truth)
    free = cells == FREE
    either = {v: (cells == v) | (true == v) for v in (FREE, OCCUPIED)}
    right = cells == true
    return ApartmentGridScores(
        right=_mean(right[judged]),
        free_iou=_mean(right[judged & either[FREE]]),
        occupied_iou=_mean(right[judged & either[OCCUPIED]]),
        free_precision=_mean(right[free]),
        raw_free_iou=raw.free_iou,
        raw_occupied_iou=raw.occupied_iou,
    )


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if values.size else float("nan")
