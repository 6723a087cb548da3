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

"""A consistent, immutable state of the map: one pose of each keyframe.

Each added window, removed window and correction yields a new revision, which the mapper swaps in
atomically.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvdust3r_ros.config import LoopSettings, MapperConfig, MapSettings
from mvdust3r_ros.datatypes import FloatArray, MvDust3rError, StageClock, Verdict
from mvdust3r_ros.drawing.drawing import Drawing
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.graph.depth_levels import levels_of
from mvdust3r_ros.graph.driven_path import OdometryTrack
from mvdust3r_ros.graph.floor_views import (
    floor_height,
    floor_heights,
    floor_off,
    view_of_floor,
)
from mvdust3r_ros.graph.forgetting import far_away, seen_often
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.loops import close_loop
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.placing.pose_graph import PoseEdge
from mvdust3r_ros.placing.stitching import Placement
from mvdust3r_ros.window.window_geometry import WindowError, WindowGeometry

COARSE_POINT = 0.45
"""Sigma of a coarse network's points along their rays, as a share of the network's error. It makes
rays clear less and hits count less, see `occupancy.STOP_SHORT_SIGMAS`."""
SETTLE_SHARE = 0.5
"""The drawing is rebuilt once it shows an outdated view of this share of the keyframes: rarely
enough that the time per keyframe does not grow with the map. Insensitive from 0.25 to 1
(benchmarks/constants.py)."""
RESIZE_SHARE, RESIZE_SIGMAS = 0.003, 0.2
"""Least root mean square of the size corrections over all windows that justifies a rebuild:
absolute (1 cm at 3 m, where a cell has 5), and as a share of the scale's uncertainty. Insensitive
from half to twice each value (benchmarks/constants.py)."""


@dataclass(frozen=True, eq=False)
class PlacedWindow:
    """A checked window, ready to commit.

    Attributes:
        geometry: the window.
        placement: its placement.
        seen: its keyframes, depth levelled, oldest first.
    """

    geometry: WindowGeometry
    placement: Placement
    seen: Sequence[MapKeyframe]


@dataclass(frozen=True, eq=False)
class Revision:
    """A map with its drawing.

    Attributes:
        graph: keyframes and the motions between them.
        drawing: voxels and grid built from them.
        undo: the maps before each of the latest windows, oldest first.
    """

    graph: KeyframeGraph
    drawing: Drawing
    undo: tuple[KeyframeGraph, ...] = ()

    @classmethod
    def empty(cls, settings: MapSettings) -> Revision:
        """Return a map without windows."""
        return cls(KeyframeGraph(), Drawing.empty(settings))

    @classmethod
    def of(cls, graph: KeyframeGraph, config: MapperConfig) -> Revision:
        """Return a revision of an existing map, with its drawing built."""
        drawing = Drawing.empty(map_settings(config.map, graph.rel_error))
        clouds = (item.points_map() for item in graph.keyframes.values())
        height_m = floor_height(graph, clouds, config.map.camera_height_m)
        return cls(graph, drawing.rebuilt(graph, height_m))

    def using(self, config: MapperConfig) -> Revision:
        """Return the revision with other settings, effective from the next window."""
        settings = map_settings(config.map, self.graph.rel_error)
        return replace(self, drawing=self.drawing.using(settings)).bounded(config)

    def bounded(self, config: MapperConfig) -> Revision:
        """Return the revision with its undo history cut to the configured length."""
        surplus = len(self.undo) - config.stitch.rollback_windows
        return replace(self, undo=self.undo[max(0, surplus) :])

    @property
    def recent_ids(self) -> set[int]:
        """Ids of the keyframes of the undoable windows and of those they were joined to."""
        if not self.undo:
            return set()
        joined = {key for graph in self.undo for key in graph.overlap}
        return (set(self.graph.keyframes) - set(self.undo[0].keyframes)) | joined

    def levelled(self, seen: Sequence[MapKeyframe]) -> list[MapKeyframe]:
        """Return a new window's keyframes with their depth levelled to earlier windows."""
        known = self.graph.keyframes
        window = max((m.window for m in known.values()), default=0) + 1
        seen = [replace(item, window=window) for item in seen]
        fixed = {m.window for m in known.values()}
        level = levels_of({**known, **{m.id: m for m in seen}}, fixed=fixed)[window]
        return [item.levelled(level) for item in seen]

    def prepared(self, seen: Sequence[MapKeyframe], settings: MapSettings) -> list[MapKeyframe]:
        """Return a new window's keyframes levelled, new ones with their view of the floor."""
        items, known = self.levelled(seen), self.graph.keyframes
        if settings.camera_height_m > 0:
            return items
        return [
            item if item.id in known else replace(item, floor_cam=view_of_floor(item))
            for item in items
        ]

    def check_reach(self, seen: Sequence[MapKeyframe]) -> None:
        """Refuse, before anything is written, a window beyond the range of voxel map or grid.

        Raises:
            WindowError: the window lies too far away.
        """
        try:
            self.drawing.check_reach(seen)
        except MvDust3rError as error:
            raise WindowError(Verdict.REJECTED_DEGENERATE, str(error)) from None

    def with_window(
        self,
        window: PlacedWindow,
        track: OdometryTrack,
        config: MapperConfig,
        clock: StageClock,
        *,
        can_be_undone: bool,
    ) -> Revision:
        """Return the revision with a checked window, integrated in place into voxels and grid.

        Args:
            window: the window.
            track: recent robot poses from odometry.
            config: settings.
            clock: records the latencies.
            can_be_undone: False for a window that starts or restarts the map.
        """
        with clock.stage("integrate"):
            graph, new = self._graph_with(window, track, config)
            drawing = self.drawing.using(map_settings(config.map, graph.rel_error))
        drawing = drawing.with_views(graph, new, clock)
        undo = (*self.undo, self.graph) if can_be_undone else ()
        with clock.stage("grid"):
            grown = Revision(graph, drawing, undo).bounded(config)
            keep = grown.recent_ids | {item.id for item in window.seen}
            often = seen_often(graph, new, keep, config.map.keyframes_per_place)
            camera = window.seen[-1].T_map_cam[:3, 3]
            return grown.without(often).within(camera, config.map.radius_m)

    def _graph_with(
        self, window: PlacedWindow, track: OdometryTrack, config: MapperConfig
    ) -> tuple[KeyframeGraph, list[MapKeyframe]]:
        """Return the graph with a window added, and the new keyframes."""
        geometry, placement, seen = window.geometry, window.placement, window.seen
        known = self.graph.keyframes
        better = [
            item
            for item in seen
            if item.id in known and len(item.stored_cam) > len(known[item.id].stored_cam)
        ]
        graph = self.graph.drawn_as(better).with_window(
            seen, placement.scale, track, config.stitch.odom_rel_sigma, placement.sigma_factors
        ).tied_to(geometry.window.keyframes[-1])  # fmt: skip
        graph = replace(graph, rel_error=max(graph.rel_error, geometry.rel_error))
        return graph, [item for item in seen if item.id not in known]

    def without(self, ids: Collection[int]) -> Revision:
        """Return the revision without some keyframes; their points stay drawn until a rebuild."""
        if not ids:
            return self
        return replace(self, graph=self.graph.without(ids), drawing=self.drawing.without(ids))

    def within(self, camera_map: FloatArray, radius_m: float) -> Revision:
        """Drop keyframes and voxels beyond a radius around the (3,) newest camera.

        The voxels are modified in place; a radius of 0 keeps everything.
        """
        if radius_m <= 0:
            return self
        near, far = self, far_away(self.graph, camera_map, radius_m)
        if far:
            graph = self.graph.with_way_within(camera_map, radius_m)
            near = replace(self, graph=graph).without(far)
            near = replace(near, drawing=near.drawing.within(camera_map, radius_m))
        return replace(near, graph=near.graph.with_past_within(camera_map, radius_m))

    def undone(self, count: int) -> Revision:
        """Return the map as it was before the latest windows, with its drawing rebuilt.

        Corrections made since are undone too. Those that the remaining windows support follow
        again from the next window on.

        Args:
            count: windows, 1 to `len(undo)`.
        """
        graph, floor_z_m = self.undo[-count], self.drawing.floor_z_m
        rule = self.drawing.settings
        heights = floor_heights(graph, rule.camera_height_m)
        height_m = float(np.median(heights)) if heights else floor_z_m
        if abs(height_m - floor_z_m) > rule.grid_resolution_m:
            floor_z_m = height_m
        return Revision(graph, self.drawing.rebuilt(graph, floor_z_m), self.undo[:-count])

    def suspects(self, count: int) -> dict[int, MapKeyframe]:
        """Return the latest windows' keyframes, relative to the map before them.

        Size, loop and floor corrections may have moved the two maps apart since. The newest
        keyframe in both gives the offset.

        Args:
            count: windows, 1 to `len(undo)`.
        """
        before, now = self.undo[-count].keyframes, self.graph.keyframes
        both = next((key for key in reversed(before) if key in now), None)
        recent = {key: item for key, item in now.items() if key not in before}
        if both is None:
            return recent
        then, today = before[both], now[both]
        factor = then.pointmap.size / today.pointmap.size
        found = {}
        for key, item in recent.items():
            T = invert_se3(today.T_map_cam) @ item.T_map_cam
            T[:3, 3] *= factor**item.network_share
            found[key] = replace(item.resized(factor), T_map_cam=then.T_map_cam @ T)
        return found

    def resized(self) -> Revision:
        """Rescale all windows to the sizes that all evidence so far supports, once it matters.

        Raises:
            PoseGraphError: the motions do not determine the poses.
        """
        scale = self.graph.scale
        logs = scale.history.corrections()
        sigma = scale.estimate.rel_sigma
        known = RESIZE_SIGMAS * sigma if math.isfinite(sigma) else 0.0
        if math.sqrt(float((logs**2).mean())) < max(RESIZE_SHARE, known):
            return self
        first = next(iter(self.graph.keyframes.values())).T_map_cam
        anchor = np.array([first[0, 3], first[1, 3], self.drawing.floor_z_m])
        graph = self.graph.resized(logs, anchor)
        return replace(self, graph=graph, drawing=self.drawing.rebuilt(graph))

    def closed(self, edge: PoseEdge, settings: LoopSettings) -> Revision:
        """Return the revision with a loop closed.

        Raises:
            LoopError: the measured motions contradict the closure.
        """
        graph = close_loop(self.graph, edge, settings)
        return replace(self, graph=graph, drawing=self.drawing.of(graph))

    def on_the_floor(self) -> Revision:
        """Move the floor back to z = 0 if it has turned out to lie elsewhere."""
        rise_m = -floor_off(self.graph, self.drawing.settings)
        if rise_m == 0.0:
            return self
        graph = self.graph.higher(rise_m)
        drawing = self.drawing.rebuilt(graph, self.drawing.floor_z_m + rise_m)
        return replace(self, graph=graph, drawing=drawing)

    def settled(self) -> Revision:
        """Level the depth of all windows to each other and rebuild the drawing."""
        levels = levels_of(self.graph.keyframes)
        graph = self.graph.levelled(levels)
        return replace(self, graph=graph, drawing=self.drawing.rebuilt(graph))

    @property
    def unsettled(self) -> int:
        """Number of keyframes that have improved since they were drawn."""
        return self.drawing.pending(self.graph)


def map_settings(rule: MapSettings, rel_error: float) -> MapSettings:
    """Return the settings with a larger point sigma for a coarse network."""
    return replace(rule, point_rel_sigma=max(rule.point_rel_sigma, COARSE_POINT * rel_error))
