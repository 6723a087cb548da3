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

"""The map itself: keyframes with their points, and the voxels and the grid drawn of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.depth_levels import levels_of
from mvdust3r_ros.driven_way import DrivenWay, Host, OdometryTrack
from mvdust3r_ros.floor import fit_floor
from mvdust3r_ros.geometry import lifted, rotation_angle_deg
from mvdust3r_ros.mapped_keyframe import MappedKeyframe
from mvdust3r_ros.occupancy import OccupancyMap
from mvdust3r_ros.voxel_map import VoxelMap

FLOOR_TILT_DEG = 10.0
MIN_FLOOR_VIEWS, FLOOR_SIGMAS = 8, 2.0
PLACE_M, PLACE_DEG = 0.3, 20.0


@dataclass(frozen=True)
class Drawing:
    """Keyframes, and the voxels and the grid that show them; takes the place of another at once.

    Attributes:
        keyframes: keyframe -> what the map remembers of it, oldest first.
        voxels: the voxels.
        grid: the grid; None before the first keyframe.
        drawn_at: keyframe -> (4, 4) pose at which its points went into both.
        way: where the robot has driven between them.
        pending: keyframes that voxels and grid show as they were before they became better.
    """

    keyframes: dict[int, MappedKeyframe]
    voxels: VoxelMap
    grid: OccupancyMap | None
    drawn_at: dict[int, FloatArray]
    way: DrivenWay = field(default_factory=DrivenWay)
    pending: set[int] = field(default_factory=set)


class DenseMap:
    """Keyframes with their points, voxels and grid, and the height of the floor.

    Attributes:
        settings: of voxels and grid.
        now: the present drawing. Others are made beside it, so that it can be read meanwhile.
        floor_heights_m: keyframe -> what its view said of the height of the floor.
        track: where odometry saw the robot in the last frames; it makes the next stretch of way.
    """

    def __init__(self, settings: MapSettings) -> None:
        """Start empty."""
        self.settings = settings
        self.now = Drawing({}, VoxelMap(settings.voxel_size_m), None, {})
        self.floor_heights_m: dict[int, float] = {}
        self.track = OdometryTrack()
        self._outside: tuple[FloatArray, float] | None = None

    @property
    def keyframes(self) -> dict[int, MappedKeyframe]:
        """Keyframe -> what the map remembers of it, oldest first."""
        return self.now.keyframes

    @property
    def floor_z_m(self) -> float:
        """Height of the floor in the map frame; 0 before the first keyframe."""
        return 0.0 if self.now.grid is None else self.now.grid.floor_z_m

    def use(self, settings: MapSettings) -> None:
        """Other settings from the next keyframe on."""
        self.settings = settings
        if self.now.grid is not None:
            self.now.grid.settings = settings

    def check_reach(self, seen: Sequence[MappedKeyframe]) -> None:
        """Raise MvDust3rError if voxels or grid cannot hold these keyframes."""
        cameras = np.stack([item.T_map_cam[:3, 3] for item in seen])
        clouds = [item.points_map() for item in seen if len(item.points_cam)]
        # one column at a time: numpy reduces (N, 3) along N slowly
        corners = [
            [reduce(c[:, k]) for k in range(3)] for c in clouds for reduce in (np.min, np.max)
        ]
        extent = np.concatenate([np.array(corners).reshape(-1, 3), cameras])
        self.now.voxels.check_reach(extent)
        if self.now.grid is not None:
            self.now.grid.check_reach(cameras[0], extent)

    def levelled(self, seen: Sequence[MappedKeyframe]) -> list[MappedKeyframe]:
        """The keyframes of a new window, its depth levelled to that of the windows before."""
        window = max((m.window for m in self.keyframes.values()), default=0) + 1
        seen = [replace(item, window=window) for item in seen]
        others = {k: m for k, m in self.keyframes.items() if m.window != window}
        known = {m.window for m in others.values()}
        level = levels_of({**others, **{m.keyframe.id: m for m in seen}}, fixed=known)[window]
        return [item.levelled(level) for item in seen]

    def better(self, seen: Sequence[MappedKeyframe]) -> list[MappedKeyframe]:
        """Of the keyframes of a window those known ones of which it sees more than is drawn."""
        return [
            replace(item, T_map_cam=known.T_map_cam)
            for item in seen
            if (known := self.keyframes.get(item.keyframe.id)) is not None
            and len(item.points_cam) > len(known.points_cam)
        ]

    def improve(self, better: Sequence[MappedKeyframe]) -> None:
        """Remember what `better` gave; it is drawn when the map is drawn again."""
        for item in better:
            self.now.keyframes[item.keyframe.id] = item
            self.now.pending.add(item.keyframe.id)

    def settled(self) -> Drawing:
        """The map with everything that has become better, all windows levelled to each other."""
        levels = levels_of(self.keyframes)
        return self._drawn({k: m.levelled(levels[m.window]) for k, m in self.keyframes.items()})

    def add(self, new: Sequence[MappedKeyframe]) -> list[FloatArray]:
        """Take in keyframes and their voxels; their points in the map frame, for `draw_grid`."""
        clouds = [item.points_map() for item in new]
        self._drive(new)
        for item, points in zip(new, clouds, strict=True):
            self.now.keyframes[item.keyframe.id] = item
            self.now.drawn_at[item.keyframe.id] = item.T_map_cam
            self.now.voxels.integrate(points, item.colors_rgb, item.conf)
        return clouds

    def _drive(self, new: Sequence[MappedKeyframe]) -> None:
        """Extend the way from keyframe to keyframe, where these say where the robot was."""
        before, stretches = self._last_host(), []
        for item in new:
            after = Host.of(item.keyframe, item.T_map_cam)
            if after is not None:
                stretches.append(DrivenWay.stretch(before, after, self.track))
                before = after
        if stretches:
            self.now = replace(self.now, way=self.now.way.followed_by(stretches))

    def _last_host(self) -> Host | None:
        hosts = (Host.of(m.keyframe, m.T_map_cam) for m in reversed(self.keyframes.values()))
        return next((host for host in hosts if host is not None), None)

    def draw_grid(self, new: Sequence[MappedKeyframe], clouds: Sequence[FloatArray]) -> None:
        """Find the floor again, then add the new views; start over when the floor moved.

        Args:
            new: keyframes that the grid does not show yet.
            clouds: (N, 3) points of each, map frame.
        """
        floor_z, grid = self._find_floor(new, clouds), self.now.grid
        drawn = max(set(self.keyframes) - {item.keyframe.id for item in new}, default=-1)
        way = self.now.way.after(drawn)
        if grid is None or abs(floor_z - grid.floor_z_m) > self.settings.grid_resolution_m:
            grid = self._empty_grid(floor_z)
            new = list(self.now.keyframes.values())
            clouds = [item.points_map() for item in new]
            self.now, way = replace(self.now, grid=grid), self.now.way
        draw_in_order(grid, new, clouds, way, way.places(self._poses()))

    def _find_floor(self, new: Sequence[MappedKeyframe], clouds: Sequence[FloatArray]) -> float:
        """Median over the keyframes that saw a floor; the lowest points while there is none."""
        for item, points in zip(new, clouds, strict=True):
            key, camera = item.keyframe.id, item.T_map_cam[:3, 3]
            if self.settings.camera_height_m > 0:
                self.floor_heights_m[key] = float(camera[2]) - self.settings.camera_height_m
                continue
            floor = fit_floor(points, camera, FLOOR_TILT_DEG)
            if floor is not None:
                self.floor_heights_m[key] = floor.height
        if self.floor_heights_m:
            return float(np.median(list(self.floor_heights_m.values())))
        lowest = [np.percentile(points[:, 2], 2) for points in clouds if len(points)]
        return float(min(lowest, default=0.0))

    def floor_off_m(self) -> float:
        """How far above z = 0 the floor has turned out to be; 0 while that is not certain.

        The first window puts the floor at z = 0 by what its few views see. When enough keyframes
        say otherwise, by more than a cell of the grid, they are right.
        """
        heights = np.array(list(self.floor_heights_m.values()))
        if len(heights) < MIN_FLOOR_VIEWS:
            return 0.0
        off_m = float(np.median(heights))
        sigma_m = 1.4826 * float(np.median(np.abs(heights - off_m))) / np.sqrt(len(heights) / 1.57)
        certain = abs(off_m) > max(self.settings.grid_resolution_m, FLOOR_SIGMAS * sigma_m)
        return off_m if certain else 0.0

    def redrawn_higher(self, rise_m: float) -> Drawing:
        """The map with everything higher by `rise_m`; call `lift_floor` when it is swapped in."""
        return self._drawn(
            {
                key: replace(item, T_map_cam=lifted(item.T_map_cam, rise_m))
                for key, item in self.now.keyframes.items()
            },
            self.floor_z_m + rise_m,
        )

    def lift_floor(self, rise_m: float) -> None:
        """What the views said of the floor is higher by `rise_m` as well."""
        self.floor_heights_m = {key: z + rise_m for key, z in self.floor_heights_m.items()}

    def _empty_grid(self, floor_z_m: float) -> OccupancyMap:
        """A grid to draw; cells whose keyframes lie outside and are forgotten stay as they are."""
        grid = OccupancyMap(self.settings, floor_z_m)
        if self.now.grid is not None and self._outside is not None:
            grid.take_over(self.now.grid, *self._outside)
        return grid

    def moved(
        self, T_map_cam: Mapping[int, FloatArray], factors: Mapping[int, float] | None = None
    ) -> Drawing:
        """The map with its keyframes elsewhere, or with their points farther or nearer.

        Where everything stays within half a voxel of where it was drawn, the poses alone change:
        the time to draw the map again grows with it.

        Args:
            T_map_cam: keyframe -> (4, 4) new pose.
            factors: keyframe -> factor of its points' distances; None for 1.
        """
        keyframes = {
            key: replace(item, T_map_cam=T_map_cam[key])
            for key, item in self.now.keyframes.items()
        }
        if factors is None and self._still_in_place(T_map_cam):
            return replace(self.now, keyframes=keyframes)
        if factors is not None:
            keyframes = {key: item.farther(factors[key]) for key, item in keyframes.items()}
        return self._drawn(keyframes)

    def without(
        self,
        ids: Collection[int],
        T_map_cam: Mapping[int, FloatArray],
        before: Iterable[MappedKeyframe] = (),
    ) -> Drawing:
        """The map as if some keyframes had never been, the others at their poses without them.

        Args:
            ids: they leave.
            T_map_cam: keyframe -> (4, 4) pose of those that stay.
            before: others as they were before these made them better.
        """
        keyframes = {**self.now.keyframes, **{m.keyframe.id: m for m in before}}
        return self._drawn(
            {
                key: replace(keyframes[key], T_map_cam=T_map_cam[key])
                for key in self.now.keyframes
                if key not in ids
            },
            way=self.now.way.without(ids),
        )

    def _drawn(
        self,
        keyframes: dict[int, MappedKeyframe],
        floor_z_m: float | None = None,
        way: DrivenWay | None = None,
    ) -> Drawing:
        """Voxels and grid of these keyframes alone; floor and way are as they are, or others."""
        floor_z_m = self.floor_z_m if floor_z_m is None else floor_z_m
        way = self.now.way if way is None else way
        voxels, grid = VoxelMap(self.settings.voxel_size_m), self._empty_grid(floor_z_m)
        drawn_at = {key: item.T_map_cam for key, item in keyframes.items()}

        def clouds() -> Iterator[FloatArray]:
            for item in keyframes.values():
                points = item.points_map()
                voxels.integrate(points, item.colors_rgb, item.conf)
                yield points

        draw_in_order(grid, list(keyframes.values()), clouds(), way, way.places(drawn_at))
        return Drawing(keyframes, voxels, grid, drawn_at, way)

    def _still_in_place(self, T_map_cam: Mapping[int, FloatArray]) -> bool:
        """Whether all keyframes, and what lies 3 m before them, are within half a voxel."""
        drawn_at = self.now.drawn_at
        new, old = (np.array([T[key] for key in drawn_at]) for T in (T_map_cam, drawn_at))
        places = [np.stack([T[:, :3, 3], T[:, :3, 3] + 3.0 * T[:, :3, 2]]) for T in (new, old)]
        shift_m = np.linalg.norm(places[0] - places[1], axis=-1)
        return bool(shift_m.max(initial=0.0) < self.settings.voxel_size_m / 2)

    def thin_out(self, new: Sequence[MappedKeyframe], keep: Collection[int]) -> set[int]:
        """Let older keyframes go of places that have been seen often enough.

        A robot that stays in one room would else fill the memory. Of each place the oldest
        keyframe stays, which holds the map where it is, and the newest. What the others saw stays
        in voxels and grid until these are drawn again.

        Args:
            new: the newest keyframes; it is their places that are looked at.
            keep: keyframes that stay.

        Returns:
            The keyframes that have gone.
        """
        most, ids = self.settings.keyframes_per_place, list(self.keyframes)
        gone: set[int] = set()
        if most == 0 or len(ids) <= most:
            return gone
        T = np.stack([item.T_map_cam for item in self.keyframes.values()])
        for item in new:
            off_m = np.linalg.norm(T[:, :3, 3] - item.T_map_cam[:3, 3], axis=1)
            turned_deg = rotation_angle_deg(item.T_map_cam[:3, :3].T @ T[:, :3, :3])
            here = np.flatnonzero((off_m < PLACE_M) & (turned_deg < PLACE_DEG))
            there = [key for i in here if (key := ids[i]) not in gone]
            surplus = max(0, len(there) - most)
            gone.update(key for key in there[1 : 1 + surplus] if key not in keep)
        self._drop(gone)
        return gone

    def forget_far(self, camera_map: FloatArray) -> set[int]:
        """Drop keyframes and voxels farther than `radius_m` from the newest camera.

        Args:
            camera_map: (3,) its centre, map frame.

        Returns:
            The keyframes that have gone.
        """
        radius_m = self.settings.radius_m
        if radius_m <= 0:
            return set()
        off_m = {
            key: np.linalg.norm(item.T_map_cam[:3, 3] - camera_map)
            for key, item in self.keyframes.items()
        }
        far = {key for key in self.keyframes if off_m[key] > radius_m}
        if not far:
            return far
        way = self.now.way.within(self._poses(), camera_map, radius_m)
        self.now = replace(self.now, way=way)
        self._drop(far)
        self.now.voxels.keep_within(camera_map, radius_m)
        self._outside = camera_map.copy(), radius_m
        if self.settings.forget_outside and self.now.grid is not None:
            grid = OccupancyMap(self.settings, self.floor_z_m)
            grid.take_over(self.now.grid, camera_map, radius_m, inside=True)
            self.now, self._outside = replace(self.now, grid=grid), None
        return far

    def _poses(self) -> dict[int, FloatArray]:
        return {key: item.T_map_cam for key, item in self.keyframes.items()}

    def _drop(self, ids: Collection[int]) -> None:
        if ids and len(self.now.way):
            poses = self._poses()
            way = self.now.way.rehosted(ids, poses).bounded(poses)
            self.now = replace(self.now, way=way)
        for key in ids:
            del self.now.keyframes[key], self.now.drawn_at[key]
            self.now.pending.discard(key)
            self.floor_heights_m.pop(key, None)


def draw_in_order(
    grid: OccupancyMap,
    items: Sequence[MappedKeyframe],
    clouds: Iterable[FloatArray],
    way: DrivenWay,
    places_map: FloatArray,
) -> None:
    """Draw views, and before each of them the way that had been driven until then.

    Args:
        grid: what to draw into.
        items: keyframes, oldest first.
        clouds: (N, 3) points of each, map frame.
        way: where the robot drove.
        places_map: (M, 3) the places of the way, map frame.
    """
    begin = 0
    for item, points in zip(items, clouds, strict=True):
        key, stamp_ns = item.keyframe.id, item.keyframe.stamp_ns
        end = int(np.searchsorted(way.until, key, "right"))
        grid.add_drive(places_map[begin:end], stamp_ns)
        grid.add_view(item.T_map_cam[:3, 3], points, stamp_ns)
        begin = max(begin, end)
