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

"""Inputs of a sweep besides features: its depth range, and the projection into each source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.sfm.window_poses import WindowPoses

MIN_DEPTH_POINTS = 24
"""With fewer points in a view, the points of the whole window determine its depth range."""
NEAR_FACTOR, FAR_FACTOR = 0.5, 2.0
"""Search range beyond the nearest and farthest points (2nd and 98th percentile): the widest that
the network is trained with (`synthetic.train_mvs`)."""
LEAST_SPAN = 6.0
"""Minimum ratio of the farthest to the nearest depth. Insensitive from 3 to 12
(benchmarks/constants.py, office with odometry)."""
METRIC_NEAR_M, METRIC_TYPICAL_M, METRIC_FAR_M = 0.35, 2.0, 12.0
"""Depth range of a room, used where nothing has been seen: from an arm's length to across a
hall."""


@dataclass(frozen=True)
class DepthRange:
    """Depth range of a view's sweep, in the unit of the poses."""

    near: float
    typical: float
    far: float

    @property
    def range_q(self) -> FloatArray:
        """Smallest and largest inverse depth, (2,) float32."""
        return np.array([1 / self.far, 1 / self.near], np.float32)


def depth_range(poses: WindowPoses, index: int) -> DepthRange:
    """Derive the depth range from the view's points, or those of all views, or a typical room."""
    depths = _depths(poses, index)
    if len(depths) < MIN_DEPTH_POINTS:
        views = np.flatnonzero(poses.placed)
        depths = np.concatenate([_depths(poses, int(k)) for k in views])
    if len(depths) < MIN_DEPTH_POINTS:
        return DepthRange(METRIC_NEAR_M, METRIC_TYPICAL_M, METRIC_FAR_M)
    near, typical, far = np.percentile(depths, [2, 50, 98])
    near, far = NEAR_FACTOR * near, FAR_FACTOR * far
    lack = max(1.0, LEAST_SPAN / (far / near)) ** 0.5
    return DepthRange(float(near / lack), float(typical), float(far * lack))


def _depths(poses: WindowPoses, index: int) -> FloatArray:
    points = poses.points_ref[poses.seen[:, index]]
    T = invert_se3(poses.T_ref_cam[index])
    z = points @ T[2, :3] + T[2, 3]
    return np.asarray(z[z > 0])


def unit_projection(
    K_view: FloatArray, K_source: FloatArray, T_source_view: FloatArray, image_hw: tuple[int, int]
) -> FloatArray:
    """Return (3, 4) float32 from (x, y, 1, q) of a view to homogeneous (x, y) of a source.

    x and y run from -1 to 1 over the image, q is the inverse depth.
    """
    height, width = image_hw
    unit = np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
    from_ray = unit @ K_source
    R, t = T_source_view[:3, :3], T_source_view[:3, 3:]
    rotated = from_ray @ R @ np.linalg.inv(unit @ K_view)
    return np.asarray(np.concatenate([rotated, from_ray @ t], 1), np.float32)


def half_intrinsics(K: FloatArray) -> FloatArray:
    """Return (V, 3, 3) intrinsics for images of half the size, with integers at pixel centres."""
    half = np.array(K * np.array([0.5, 0.5, 1.0])[:, None])
    half[:, :2, 2] -= 0.25
    return half
