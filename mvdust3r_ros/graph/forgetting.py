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

"""Removal of keyframes: redundant ones of well-covered places, and those far from the robot."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import rotation_angle_deg
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.map_keyframe import MapKeyframe

PLACE_M, PLACE_DEG = 0.3, 20.0
"""Views closer to each other than this show the same place, so a few of them
(`map.keyframes_per_place`) suffice."""


def seen_often(
    graph: KeyframeGraph, new: Sequence[MapKeyframe], keep: Collection[int], most: int
) -> set[int]:
    """Return older keyframes to remove at places with more than enough of them.

    This bounds memory for a robot that stays in one room. Each place keeps its oldest keyframe,
    which anchors the map, and the newest ones. Observations of removed keyframes remain in voxels
    and grid until these are rebuilt.

    Args:
        graph: the map.
        new: the newest keyframes, whose places are checked.
        keep: keyframes to keep.
        most: keyframes per place; 0 for no limit.
    """
    ids = list(graph.keyframes)
    gone: set[int] = set()
    if most == 0 or len(ids) <= most:
        return gone
    T = np.stack([item.T_map_cam for item in graph.keyframes.values()])
    for item in new:
        off_m = np.linalg.norm(T[:, :3, 3] - item.T_map_cam[:3, 3], axis=1)
        turned_deg = rotation_angle_deg(item.T_map_cam[:3, :3].T @ T[:, :3, :3])
        here = np.flatnonzero((off_m < PLACE_M) & (turned_deg < PLACE_DEG))
        there = [key for i in here if (key := ids[i]) not in gone]
        surplus = max(0, len(there) - most)
        gone.update(key for key in there[1 : 1 + surplus] if key not in keep)
    return gone


def far_away(graph: KeyframeGraph, camera_map: FloatArray, radius_m: float) -> set[int]:
    """Return the keyframes beyond a radius around (3,) a place, map frame."""
    return {
        key
        for key, item in graph.keyframes.items()
        if np.linalg.norm(item.T_map_cam[:3, 3] - camera_map) > radius_m
    }
