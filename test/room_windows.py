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

"""Windows of a walk through the room with exact geometry, and maps of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from box_room import BoxRoom
from mvdust3r_ros.atlas.revision import PlacedWindow, Revision
from mvdust3r_ros.config import MapperConfig, MapSettings, StitchSettings
from mvdust3r_ros.datatypes import (
    FloatArray,
    Keyframe,
    StageClock,
    View,
    ViewPose,
    ViewTokens,
    Window,
)
from mvdust3r_ros.descriptors import image_descriptor
from mvdust3r_ros.drawing.drawing import Drawing
from mvdust3r_ros.geometry import Sim3, invert_se3
from mvdust3r_ros.graph.driven_path import OdometryTrack
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.seen_keyframes import seen_keyframes
from mvdust3r_ros.placing.stitching import Placement, Stitcher
from mvdust3r_ros.window.reconstruct import Reconstruction
from mvdust3r_ros.window.window_geometry import WindowGeometry

BLANK = np.zeros((72, 96, 3), np.uint8)
SPREAD = slice(2, None, 4)
EVERY_POINT = MapSettings(pixel_stride=4, conf_quantile=0.0)
"""Of the windows here all that has confidence is drawn."""


class Scene:
    """Windows of the room with exact geometry, each in a frame and scale of its own."""

    def __init__(self, room: BoxRoom, count: int = 24) -> None:
        self.room, self.poses = room, room.walk(count)

    def window(
        self, ids: Sequence[int], scale: float = 1.0, *, odometry: bool = True,
        metric: bool = False, T_odom_world: FloatArray | None = None,
    ) -> WindowGeometry:  # fmt: skip
        first = invert_se3(self.poses[ids[0]])
        S = Sim3(scale, first[:3, :3], scale * first[:3, 3])
        T_odom_world = np.eye(4) if T_odom_world is None else T_odom_world
        frames, points = [], []
        poses: list[ViewPose | None] = []
        for i in ids:
            T_odom = T_odom_world @ self.poses[i] if odometry else None
            frames.append(Keyframe(i, i, View(BLANK, self.room.K, T_odom), "camera"))
            points.append(S.apply(self.room.points(self.poses[i])[SPREAD, SPREAD]))
            poses.append(ViewPose(S.apply_pose(self.poses[i]), self.room.K, 1.0, 0.0))
        stack = np.stack(points).astype(np.float32)
        conf = np.full(stack.shape[:3], 3.0, np.float32)
        return WindowGeometry(Window(0, tuple(frames)), stack, conf, poses, metric)


def made_of(geometry: WindowGeometry) -> Reconstruction:
    """The window as an engine would have made it whose points are no denser."""
    tokens = [
        ViewTokens(None, k.view, image_descriptor(k.view)) for k in geometry.window.keyframes
    ]
    every = 4
    points, conf = (a.repeat(every, 1).repeat(every, 2) for a in (geometry.points, geometry.conf))
    return Reconstruction(geometry, points, conf, tokens)


def followed_by(
    graph: KeyframeGraph, geometry: WindowGeometry, placement: Placement
) -> KeyframeGraph:
    """The map with a placed window."""
    made, revision = made_of(geometry), Revision(graph, Drawing.empty(EVERY_POINT))
    seen = revision.prepared(seen_keyframes(made, placement, EVERY_POINT), EVERY_POINT)
    placed = PlacedWindow(geometry, placement, seen)
    config = MapperConfig(map=EVERY_POINT)
    return revision.with_window(
        placed, OdometryTrack(), config, StageClock(), can_be_undone=False
    ).graph


def begun_with(geometry: WindowGeometry, settings: StitchSettings | None = None) -> KeyframeGraph:
    """A map of one window."""
    placement = Stitcher(settings or StitchSettings()).place(geometry)
    return followed_by(KeyframeGraph(), geometry, placement)


def at_end_of(graph: KeyframeGraph, settings: StitchSettings | None = None) -> Stitcher:
    return Stitcher(settings or StitchSettings(), graph.end)
