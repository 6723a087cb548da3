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

"""The path of a robot's base, also between keyframes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import JUMP_BACK_NS, BoolArray, FloatArray, Frame, Keyframe
from mvdust3r_ros.geometry import invert_se3

STEP_M = 0.05
"""Least distance of a frame from the last stored one: a grid cell."""
SPACING_M = 0.1
"""Spacing of stored places: robot-sized discs this close together leave no gap."""
MAX_GAP_M = 0.5
"""Frames farther apart than this are not joined, since the path between them is unknown. A robot
covers it at 5 m/s and 10 Hz."""
MAX_FRAMES = 5_000
"""Bounds memory: 250 m in steps of `STEP_M`, and no window is that late."""
MAX_PLACES = 20_000
"""Bounds memory to 1.6 MB: 2 km before only the newest place of each spot is kept."""


class OdometryTrack:
    """Recent poses of the robot's base, in the odometry frame."""

    def __init__(self) -> None:
        """Start empty."""
        self._seen: deque[tuple[int, tuple[float, ...]]] = deque(maxlen=MAX_FRAMES)

    def add(self, frame: Frame) -> None:
        """Add a frame; ignored unless it has the poses of both robot and camera."""
        if frame.T_odom_base is None or frame.T_odom_cam is None:
            return
        place = tuple(frame.T_odom_base[:3, 3].tolist())
        if self._seen and frame.stamp_ns <= self._seen[-1][0] - JUMP_BACK_NS:
            self._seen.clear()
        if not self._seen or math.dist(place, self._seen[-1][1]) >= STEP_M:
            self._seen.append((frame.stamp_ns, place))

    def between(self, begin_ns: int, end_ns: int) -> list[tuple[float, ...]]:
        """Return the places (3,) strictly between two timestamps, in time order.

        They are not removed: a window that leaves the map may be replaced by another one.
        """
        found = []
        for stamp_ns, place in reversed(self._seen):
            if stamp_ns <= begin_ns - JUMP_BACK_NS:
                break
            if begin_ns < stamp_ns < end_ns:
                found.append((stamp_ns, place))
        return [place for _, place in sorted(found)]


@dataclass(frozen=True, eq=False)
class Host:
    """A keyframe with a known robot pose.

    Attributes:
        key: its id.
        stamp_ns: its timestamp.
        T_map_cam: (4, 4) pose.
        T_odom_cam: (4, 4) pose by odometry.
        base_odom: (3,) the robot's base by odometry.
    """

    key: int
    stamp_ns: int
    T_map_cam: FloatArray
    T_odom_cam: FloatArray
    base_odom: FloatArray

    @classmethod
    def of(cls, keyframe: Keyframe, T_map_cam: FloatArray) -> Host | None:
        """Return the host of a keyframe and its map pose; None without the robot's pose."""
        view = keyframe.view
        if view.T_odom_cam is None or view.T_odom_base is None:
            return None
        base_odom = view.T_odom_base[:3, 3]
        return cls(keyframe.id, keyframe.stamp_ns, T_map_cam, view.T_odom_cam, base_odom)

    def from_camera(self, places_odom: FloatArray) -> FloatArray:
        """Transform places (N, 3) from the odometry frame to the camera frame."""
        T = invert_se3(self.T_odom_cam)
        places: FloatArray = places_odom @ T[:3, :3].T + T[:3, 3]
        return places


@dataclass(frozen=True, eq=False)
class DrivenPath:
    """Places of a robot's base, each tied to the keyframes before and after it.

    A place is the average of its positions by both hosts, weighted by proximity, so the path moves
    with the keyframes.

    Attributes:
        until: (N,) id of the next keyframe, which may have left the map; in path order.
        hosts: (N, 2) mapped keyframes that hold the place.
        shares: (N,) weight of the second host.
        from_hosts: (N, 2, 3) the place in the camera frame of each host, metres.
    """

    until: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    hosts: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    shares: FloatArray = field(default_factory=lambda: np.empty(0))
    from_hosts: FloatArray = field(default_factory=lambda: np.empty((0, 2, 3)))

    def __len__(self) -> int:
        """Number of places."""
        return len(self.until)

    @classmethod
    def stretch(cls, before: Host | None, after: Host, track: OdometryTrack) -> DrivenPath:
        """Return the path from one keyframe to the next.

        Args:
            before: the keyframe where it starts; None to start with `after`.
            after: the keyframe where it ends.
            track: odometry between them.
        """
        between: list[tuple[float, ...]] = []
        if before is None or before.stamp_ns >= after.stamp_ns:
            before = after
        else:
            between = track.between(before.stamp_ns, after.stamp_ns)
        corners = np.array([before.base_odom, *between, after.base_odom])
        places, shares = _resampled(corners)
        seen = np.stack([end.from_camera(places) for end in (before, after)], 1)
        hosts = np.tile([before.key, after.key], (len(places), 1))
        made = cls(np.full(len(places), after.key), hosts, shares, seen)
        # where map and odometry contradict each other, the path is unknown
        ends = made._ends({end.key: end.T_map_cam for end in (before, after)})
        return made.part(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) < MAX_GAP_M)

    def followed_by(self, stretches: Sequence[DrivenPath]) -> DrivenPath:
        """Return the path extended by further sections."""
        paths = [self, *stretches]
        return DrivenPath(
            np.concatenate([path.until for path in paths]),
            np.concatenate([path.hosts for path in paths]),
            np.concatenate([path.shares for path in paths]),
            np.concatenate([path.from_hosts for path in paths]),
        )

    def places(self, T_map_cam: Mapping[int, FloatArray]) -> FloatArray:
        """Return (N, 3) places in the map frame, for these keyframe poses."""
        ends = self._ends(T_map_cam)
        places: FloatArray = ends[:, 0] + self.shares[:, None] * (ends[:, 1] - ends[:, 0])
        return places

    def _ends(self, T_map_cam: Mapping[int, FloatArray]) -> FloatArray:
        """(N, 2, 3) places in the map frame, by each of their hosts."""
        T = np.array([T_map_cam[key] for key in self.hosts.ravel().tolist()])
        T = T.reshape(-1, 2, 4, 4)
        ends: FloatArray = (T[..., :3, :3] @ self.from_hosts[..., None])[..., 0] + T[..., :3, 3]
        return ends

    def part(self, chosen: slice | BoolArray) -> DrivenPath:
        """Return a selection of the places."""
        return DrivenPath(
            self.until[chosen], self.hosts[chosen], self.shares[chosen], self.from_hosts[chosen]
        )

    def after(self, key: int) -> DrivenPath:
        """Return the path driven since a keyframe."""
        return self.part(slice(int(np.searchsorted(self.until, key, "right")), None))

    def rehosted(self, gone: Collection[int], T_map_cam: Mapping[int, FloatArray]) -> DrivenPath:
        """Return the path with places of removed keyframes tied to their neighbours.

        Args:
            gone: keyframes to be removed.
            T_map_cam: keyframe -> (4, 4) pose, of remaining and removed ones.
        """
        stay = np.array(sorted(set(T_map_cam) - set(gone)), np.int64)
        hosts, from_hosts = self.hosts.copy(), self.from_hosts.copy()
        for old in set(np.unique(hosts).tolist()) & set(gone):
            new = int(stay[max(0, int(np.searchsorted(stay, old)) - 1)])
            there = hosts == old
            T = invert_se3(T_map_cam[new]) @ T_map_cam[old]
            hosts[there] = new
            from_hosts[there] = from_hosts[there] @ T[:3, :3].T + T[:3, 3]
        return DrivenPath(self.until, hosts, self.shares, from_hosts)

    def within(
        self, T_map_cam: Mapping[int, FloatArray], centre: FloatArray, radius_m: float
    ) -> DrivenPath:
        """Return the places within `radius_m` of `centre` (3,), map frame."""
        off_m = np.linalg.norm(self.places(T_map_cam) - centre, axis=1)
        return self.part(off_m <= radius_m)

    def bounded(self, T_map_cam: Mapping[int, FloatArray]) -> DrivenPath:
        """Beyond the limit, keep the newest place of each spot, and of those the newest."""
        if len(self) <= MAX_PLACES:
            return self
        spots = np.floor(self.places(T_map_cam) / SPACING_M).astype(np.int64)[::-1]
        newest = len(self) - 1 - np.unique(spots, axis=0, return_index=True)[1]
        return self.part(np.isin(np.arange(len(self)), np.sort(newest)[-MAX_PLACES // 2 :]))


def _resampled(corners: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Resample a polyline (M, 3): places (N, 3) and their position along it (N,), 0 to 1.

    Corners too far apart are not joined.
    """
    steps = np.diff(corners, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    counts = np.where(lengths <= MAX_GAP_M, np.ceil(lengths / SPACING_M), 1).astype(np.int64)
    counts = np.maximum(counts, 1)
    ends = np.cumsum(counts)
    step = np.repeat(np.arange(len(steps)), counts)
    share = (np.arange(ends[-1]) - (ends - counts)[step] + 1) / counts[step]
    places = np.concatenate([corners[:1], corners[step] + share[:, None] * steps[step]])
    along = np.cumsum(lengths)[step] + (share - 1) * lengths[step]
    return places, np.append(0.0, along / max(lengths.sum(), 1e-9))
