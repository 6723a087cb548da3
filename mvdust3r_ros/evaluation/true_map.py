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

"""Build the ground-truth map from recorded depth and true poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import FloatArray, Frame, MvDust3rError, OccupancyGrid
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.evaluation.true_floor import TrueFloor, find_true_floor
from mvdust3r_ros.evaluation.true_grid import true_grid
from mvdust3r_ros.geometry import Sim3, backproject, invert_se3
from mvdust3r_ros.window.preprocess import view_from_frame

MAX_VIEWS = 300
"""A bound on memory; on longer drives every second, fourth ... view is kept."""
VOXEL_M = 0.025
"""Half a grid cell: every cell a view sees keeps points."""
BASE_STEP_M = 0.05
"""One default grid cell: closer base positions would not change the grid."""


@dataclass(frozen=True)
class TrueView:
    """The true pose and points of one frame.

    Attributes:
        T_world_cam: (4, 4) true pose.
        points_world: (N, 3) float32.
    """

    T_world_cam: FloatArray
    points_world: FloatArray


class TrueMapBuilder:
    """Collects true points frame by frame; keeps an even selection of at most 300 frames.

    Attributes:
        views: true views of the selected frames.
        bases_world: (3,) true positions of the robot's base, from frames that carry the camera's
            mounting pose.
    """

    def __init__(self, settings: MapSettings, engine: EngineInfo) -> None:
        """Start without points.

        Args:
            settings: cell size and height band of the grid, and maximum range of points.
            engine: derives the view size from the first frame.
        """
        self._settings = settings
        self._engine = engine
        self._view_hw: tuple[int, int] | None = None
        self._stride = 1
        self._seen = 0
        self.views: list[TrueView] = []
        self.bases_world: list[FloatArray] = []

    def add(self, frame: Frame) -> None:
        """Add a frame; one without depth, true pose or intrinsics is skipped."""
        self._add_base(frame)
        self._view_hw = self._view_hw or self._engine.view_hw(frame.image_rgb.shape[:2])
        if frame.depth_m is None or frame.T_world_cam is None or frame.camera is None:
            return
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return
        try:
            view = view_from_frame(frame, self._view_hw)
        except MvDust3rError:
            return
        assert view.depth_m is not None and view.K is not None
        depth = np.nan_to_num(view.depth_m)
        known = (depth > 0) & (depth < self._settings.max_depth_m)
        cam = backproject(depth.astype(np.float64), view.K)[known]
        T = frame.T_world_cam
        points = _one_a_voxel(cam @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
        self.views.append(TrueView(T, points))
        if len(self.views) > MAX_VIEWS:
            self.views, self._stride = self.views[::2], 2 * self._stride

    def _add_base(self, frame: Frame) -> None:
        if frame.T_world_cam is None or frame.T_odom_cam is None or frame.T_odom_base is None:
            return
        base = (frame.T_world_cam @ invert_se3(frame.T_odom_cam) @ frame.T_odom_base)[:3, 3]
        if not self.bases_world or np.linalg.norm(base - self.bases_world[-1]) >= BASE_STEP_M:
            self.bases_world.append(base)

    def grid(self, S_map_world: Sim3, floor_z_m: float) -> OccupancyGrid | None:
        """Build the grid of the true points.

        Args:
            S_map_world: transform from the true world to the map.
            floor_z_m: fallback floor height in the map, where the true points show no floor.

        Returns:
            The grid in the map frame, or None without true points.
        """
        clouds = [S_map_world.apply(v.points_world) for v in self.views if len(v.points_world)]
        if not clouds:
            return None
        floor = find_true_floor(np.concatenate(clouds)) or TrueFloor.level(floor_z_m)
        bases = S_map_world.apply(np.array(self.bases_world).reshape(-1, 3))
        return true_grid(clouds, floor, bases, self._settings)


def _one_a_voxel(points: FloatArray) -> FloatArray:
    """Keep one of the points (N, 3) in each occupied voxel."""
    voxels = np.floor(points / VOXEL_M).astype(np.int64)
    voxels -= voxels.min(0, initial=0)
    sides = voxels.max(0, initial=0) + 1
    index = (voxels[:, 0] * sides[1] + voxels[:, 1]) * sides[2] + voxels[:, 2]
    chosen: FloatArray = points[np.unique(index, return_index=True)[1]]
    return chosen
