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

"""Height of the floor, as seen by the keyframes of a map."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.placing.floor import LEVEL_TILT_DEG, fit_floor
from mvdust3r_ros.placing.scale import MAD_TO_SIGMA

MIN_FLOOR_VIEWS, FLOOR_SIGMAS = 8, 2.0
"""Least views, as in one window, and least significance of a floor correction: one map in 20 moves
needlessly. Insensitive from half to twice both values (benchmarks/constants.py)."""
MEDIAN_VARIANCE = 1.57
"""Variance of the median of normal values relative to that of their mean: pi / 2."""


def view_of_floor(item: MapKeyframe) -> FloatArray | None:
    """Return (3,) the floor seen by a keyframe, camera frame, metres; None if it sees none."""
    R, camera = item.T_map_cam[:3, :3], item.T_map_cam[:3, 3]
    floor = fit_floor(item.points_map(), camera, LEVEL_TILT_DEG)
    if floor is None:
        return None
    seen: FloatArray = (np.array([*floor.middle_xy, floor.height]) - camera) @ R
    return seen


def floor_heights(graph: KeyframeGraph, camera_height_m: float) -> list[float]:
    """Return the floor heights (m) by all keyframes that give one, map frame.

    Args:
        graph: the map.
        camera_height_m: of the camera above the floor, which then determines it; 0 when unknown.
    """
    items = graph.keyframes.values()
    if camera_height_m > 0:
        return [float(item.T_map_cam[2, 3]) - camera_height_m for item in items]
    return [z for z in (item.floor_z_m for item in items) if z is not None]


def floor_height(
    graph: KeyframeGraph, clouds: Iterable[FloatArray], camera_height_m: float
) -> float:
    """Return the median over keyframes that saw a floor; without any, the lowest points."""
    if heights := floor_heights(graph, camera_height_m):
        return float(np.median(heights))
    lowest = [np.percentile(points[:, 2], 2) for points in clouds if len(points)]
    return float(min(lowest, default=0.0))


def floor_off(graph: KeyframeGraph, settings: MapSettings) -> float:
    """Return the height of the floor above z = 0 (m); 0 until it is significant.

    The first window sets z = 0 from its few views. Once enough keyframes disagree by more than a
    grid cell, they overrule it.
    """
    heights = np.array(floor_heights(graph, settings.camera_height_m))
    if len(heights) < MIN_FLOOR_VIEWS:
        return 0.0
    off_m = float(np.median(heights))
    deviation_m = float(np.median(np.abs(heights - off_m)))
    sigma_m = MAD_TO_SIGMA * deviation_m / np.sqrt(len(heights) / MEDIAN_VARIANCE)
    certain = abs(off_m) > max(settings.grid_resolution_m, FLOOR_SIGMAS * sigma_m)
    return off_m if certain else 0.0
