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

"""Estimation of unknown camera mountings from the keyframes of a map."""

from __future__ import annotations

from collections.abc import Iterable

from mvdust3r_ros.datatypes import StageClock
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.placing.mounting import Mounting, estimate_mounting

MOUNTING_POSES = 60
"""Newest keyframes used to estimate a mounting: five times what it needs. This bounds the cost of
a run that never determines it."""


def found_mountings(
    graph: KeyframeGraph, cameras: Iterable[str], max_sigma_deg: float, clock: StageClock
) -> dict[str, Mounting]:
    """Estimate mountings by comparing the motion of each camera with the robot's.

    Args:
        graph: the map.
        cameras: those with unknown mounting.
        max_sigma_deg: uncertainty of its rotation above which a mounting is not used.
        clock: records the latency.

    Returns:
        Camera -> its mounting, for those whose motion determines it.
    """
    found = {}
    for camera in cameras:
        pairs = [
            (m.keyframe.view.T_odom_base, m.T_map_cam)
            for m in graph.keyframes.values()
            if m.keyframe.camera_name == camera
            and m.keyframe.view.T_odom_base is not None
            and m.keyframe.view.T_odom_cam is None
        ][-MOUNTING_POSES:]
        if not pairs:
            continue
        with clock.stage("mounting"):
            mounting = estimate_mounting(*zip(*pairs, strict=True))
        if mounting is not None and mounting.sigma_deg <= max_sigma_deg:
            found[camera] = mounting
    return found
