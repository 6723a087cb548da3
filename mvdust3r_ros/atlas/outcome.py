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

"""What the map publishes: the outcome of one committed window, and snapshots of the whole map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mvdust3r_ros.atlas.revision import PlacedWindow, Revision
from mvdust3r_ros.datatypes import MapSnapshot, MapUpdate, OccupancyGrid, StageClock, Verdict
from mvdust3r_ros.drawing.voxel_map import Cloud
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.placing.scale import scale_gate


def committed(
    placed: PlacedWindow, then: KeyframeGraph, now: KeyframeGraph, limit: float, clock: StageClock
) -> MapUpdate:
    """Return the outcome of a committed window, with its keyframes at their corrected poses.

    Args:
        placed: the window.
        then: the map right after the commit.
        now: the map after the corrections that followed.
        limit: uncertainty of the scale above which the gate to navigation stays closed.
        clock: latency of each stage.
    """
    geometry, scale = placed.geometry, placed.placement.scale.estimate
    seen = [_as_corrected(item, then, now) for item in placed.seen]
    gate_open, gate_hint = scale_gate(scale, limit)
    return MapUpdate(
        window=geometry.window,
        verdict=Verdict.COMMITTED,
        T_map_cam={m.id: m.T_map_cam for m in seen},
        K={keyframe.id: pose.K for _, keyframe, pose in geometry.posed()},
        points_map=np.concatenate([m.points_map() for m in seen]),
        colors_rgb=np.concatenate([m.colors_rgb for m in seen]),
        conf=np.concatenate([m.conf for m in seen]),
        keyframe_ids=np.concatenate([np.full(len(m.stored_cam), m.id, np.int64) for m in seen]),
        residual_m=placed.placement.residual_m,
        latency_ms=clock.stages_ms,
        scale=scale,
        gate_open=gate_open,
        gate_hint=gate_hint,
        loop_closures=now.closures,
        note=geometry.note,
    )


def _as_corrected(item: MapKeyframe, then: KeyframeGraph, now: KeyframeGraph) -> MapKeyframe:
    """Apply later corrections of pose and size to a window's observation of a keyframe."""
    before, after = then.keyframes.get(item.id), now.keyframes.get(item.id)
    if before is None or after is None:
        return item
    factor = after.pointmap.size / before.pointmap.size
    return replace(item, T_map_cam=after.T_map_cam, size=item.size * factor)


def snapshot_of(
    now: Revision, cloud: Cloud, grid: OccupancyGrid | None, path_camera: str, limit: float
) -> MapSnapshot:
    """Return a snapshot of a map and its drawing.

    Args:
        now: the map.
        cloud: points, colours and confidence of its voxels.
        grid: its occupancy grid; None before a floor is known.
        path_camera: camera whose keyframes form the trajectory; empty for all cameras.
        limit: uncertainty of the scale above which the gate to navigation stays closed.
    """
    graph = now.graph
    points, colors, conf = cloud
    scale = graph.scale.estimate
    gate_open, gate_hint = scale_gate(scale, limit)
    return MapSnapshot(
        points_map=points,
        colors_rgb=colors,
        conf=conf,
        grid=grid,
        trajectory=graph.path(path_camera),
        T_map_odom=graph.T_map_odom,
        scale=scale,
        floor_z_m=now.drawing.floor_z_m,
        gate_open=gate_open,
        gate_hint=gate_hint,
        loop_closures=graph.closures,
    )
