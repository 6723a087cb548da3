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

"""Voxels and occupancy grid of a map, rasterised from its keyframes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import FloatArray, StageClock
from mvdust3r_ros.drawing.occupancy import OccupancyMap
from mvdust3r_ros.drawing.voxel_map import VoxelMap
from mvdust3r_ros.graph.driven_path import DrivenPath
from mvdust3r_ros.graph.floor_views import floor_height
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.map_keyframe import MapKeyframe

LOOKED_AT_M = 3.0
"""A typical viewing distance indoors."""


class Drawn(NamedTuple):
    """A keyframe as shown by voxels and grid: its pose, and the window of its points."""

    T_map_cam: FloatArray
    window: int


@dataclass(frozen=True, eq=False)
class Drawing:
    """Voxels and grid, and which keyframes they show.

    `with_views`, `within` and `using` modify voxels and grid in place. So only the newest drawing
    is valid, and its readers must hold the mapper's lock. All other methods create new ones.

    Attributes:
        settings: of both.
        voxels: the voxels.
        grid: the grid; None before the first keyframe.
        drawn: keyframe -> its drawn state.
        outside: (3,) centre and radius beyond which cells are preserved, as their keyframes have
            been removed; None if there are none.
    """

    settings: MapSettings
    voxels: VoxelMap
    grid: OccupancyMap | None = None
    drawn: Mapping[int, Drawn] = field(default_factory=dict)
    outside: tuple[FloatArray, float] | None = None

    @classmethod
    def empty(cls, settings: MapSettings) -> Drawing:
        """Return a drawing without keyframes."""
        return cls(settings, VoxelMap(settings.voxel_size_m))

    @property
    def floor_z_m(self) -> float:
        """Height of the floor in the map frame; 0 before the first keyframe."""
        return 0.0 if self.grid is None else self.grid.floor_z_m

    def using(self, settings: MapSettings) -> Drawing:
        """Return the drawing with other settings, effective from the next keyframe."""
        if self.grid is not None:
            self.grid.settings = settings
        return replace(self, settings=settings)

    def check_reach(self, seen: Sequence[MapKeyframe]) -> None:
        """Raise MvDust3rError if voxels or grid cannot hold these keyframes."""
        cameras = np.stack([item.T_map_cam[:3, 3] for item in seen])
        clouds = [item.points_map() for item in seen if len(item.stored_cam)]
        # one column at a time: numpy is slow to reduce (N, 3) along N
        corners = [
            [reduce(c[:, k]) for k in range(3)] for c in clouds for reduce in (np.min, np.max)
        ]
        extent = np.concatenate([np.array(corners).reshape(-1, 3), cameras])
        self.voxels.check_reach(extent)
        if self.grid is not None:
            self.grid.check_reach(cameras[0], extent)

    def pending(self, graph: KeyframeGraph) -> int:
        """Return how many keyframes are drawn from another window than their current points."""
        keyframes = graph.keyframes
        return sum(d.window != keyframes[key].window for key, d in self.drawn.items())

    def with_views(
        self, graph: KeyframeGraph, new: Sequence[MapKeyframe], clock: StageClock | None = None
    ) -> Drawing:
        """Return the drawing with the newest keyframes added in place.

        The grid is rebuilt if the floor height changes by more than a cell.
        """
        clock = clock or StageClock()
        with clock.stage("integrate"):
            clouds = [item.points_map() for item in new]
            for item, points in zip(new, clouds, strict=True):
                self.voxels.integrate(points, item.colors_rgb, item.conf)
            drawn = {**self.drawn, **{m.id: Drawn(m.T_map_cam, m.window) for m in new}}
        with clock.stage("grid"):
            floor_z = floor_height(graph, clouds, self.settings.camera_height_m)
            grid = self.grid
            before = max(set(graph.keyframes) - {item.id for item in new}, default=-1)
            driven = graph.driven_path.after(before)
            if grid is None or abs(floor_z - grid.floor_z_m) > self.settings.grid_resolution_m:
                grid, driven = self._empty_grid(floor_z), graph.driven_path
                new = list(graph.keyframes.values())
                clouds = [item.points_map() for item in new]
            draw_in_order(grid, new, clouds, driven, driven.places(graph.poses))
        return replace(self, grid=grid, drawn=drawn)

    def of(self, graph: KeyframeGraph) -> Drawing:
        """Return the drawing of a map whose keyframes have moved.

        Returns itself if nothing has moved by more than half a voxel, since the time of a rebuild
        grows with the map.
        """
        return self if self._still_in_place(graph) else self.rebuilt(graph)

    def rebuilt(self, graph: KeyframeGraph, floor_z_m: float | None = None) -> Drawing:
        """Return new voxels and grid, of the given map's keyframes only.

        Args:
            graph: the map.
            floor_z_m: height of the floor; None for unchanged.
        """
        floor_z_m = self.floor_z_m if floor_z_m is None else floor_z_m
        voxels, grid = VoxelMap(self.settings.voxel_size_m), self._empty_grid(floor_z_m)
        items = list(graph.keyframes.values())

        def clouds() -> Iterator[FloatArray]:
            for item in items:
                points = item.points_map()
                voxels.integrate(points, item.colors_rgb, item.conf)
                yield points

        draw_in_order(
            grid, items, clouds(), graph.driven_path, graph.driven_path.places(graph.poses)
        )
        drawn = {item.id: Drawn(item.T_map_cam, item.window) for item in items}
        return replace(self, voxels=voxels, grid=grid, drawn=drawn)

    def without(self, ids: Collection[int]) -> Drawing:
        """Return the same voxels and grid, without the obligation to show some keyframes."""
        return replace(self, drawn={k: d for k, d in self.drawn.items() if k not in ids})

    def within(self, camera_map: FloatArray, radius_m: float) -> Drawing:
        """Drop everything beyond a radius around (3,) the newest camera, map frame."""
        grid = self.grid
        self.voxels.keep_within(camera_map, radius_m)
        if grid is None or not self.settings.forget_outside:
            return replace(self, outside=(camera_map.copy(), radius_m))
        inside = OccupancyMap(self.settings, self.floor_z_m)
        inside.copy_region(grid, camera_map, radius_m, inside=True)
        return replace(self, grid=inside, outside=None)

    def _empty_grid(self, floor_z_m: float) -> OccupancyMap:
        """Return an empty grid, except for preserved cells whose keyframes have been removed."""
        grid = OccupancyMap(self.settings, floor_z_m)
        if self.grid is not None and self.outside is not None:
            grid.copy_region(self.grid, *self.outside)
        return grid

    def _still_in_place(self, graph: KeyframeGraph) -> bool:
        """Whether no keyframe, nor a point in front of one, has moved by half a voxel."""
        new = np.array([graph.keyframes[key].T_map_cam for key in self.drawn])
        old = np.array([drawn.T_map_cam for drawn in self.drawn.values()])
        places = [
            np.stack([T[:, :3, 3], T[:, :3, 3] + LOOKED_AT_M * T[:, :3, 2]]) for T in (new, old)
        ]
        shift_m = np.linalg.norm(places[0] - places[1], axis=-1)
        return bool(shift_m.max(initial=0.0) < self.settings.voxel_size_m / 2)


def draw_in_order(
    grid: OccupancyMap,
    items: Sequence[MapKeyframe],
    clouds: Iterable[FloatArray],
    driven: DrivenPath,
    places_map: FloatArray,
) -> None:
    """Add views in order, each preceded by the path driven until then.

    Args:
        grid: the grid to modify.
        items: keyframes, oldest first.
        clouds: (N, 3) points of each, map frame.
        driven: path of the robot.
        places_map: (M, 3) places of the path, map frame.
    """
    begin = 0
    for item, points in zip(items, clouds, strict=True):
        key, stamp_ns = item.id, item.keyframe.stamp_ns
        end = int(np.searchsorted(driven.until, key, "right"))
        grid.add_drive(places_map[begin:end], stamp_ns)
        grid.add_view(item.T_map_cam[:3, 3], points, stamp_ns)
        begin = max(begin, end)
