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

"""The path that a robot has driven: where its base was, between the keyframes too."""

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
"""Frames closer to the last one kept than this, a cell of the grid, add nothing to the path."""
SPACING_M = 0.1
"""Of the places kept: discs of a robot's size around places so near to each other leave no gap."""
MAX_GAP_M = 0.5
"""Between frames farther apart than this the robot may have gone another path: it is what one at 5
m/s does between two frames at 10 Hz."""
MAX_FRAMES = 5_000
"""A bound of memory: 250 m in steps of `STEP_M`, and no window comes as late as that."""
MAX_PLACES = 20_000
"""A bound of memory, 1.6 MB: 2 km before only the newest place of each spot is kept."""


class OdometryTrack:
    """Where odometry saw the base of the robot in the last frames, in the odometry frame."""

    def __init__(self) -> None:
        """Start empty."""
        self._seen: deque[tuple[int, tuple[float, ...]]] = deque(maxlen=MAX_FRAMES)

    def add(self, frame: Frame) -> None:
        """Take in a frame; passed over unless it says where both robot and camera are."""
        if frame.T_odom_base is None or frame.T_odom_cam is None:
            return
        place = tuple(frame.T_odom_base[:3, 3].tolist())
        if self._seen and frame.stamp_ns <= self._seen[-1][0] - JUMP_BACK_NS:
            self._seen.clear()
        if not self._seen or math.dist(place, self._seen[-1][1]) >= STEP_M:
            self._seen.append((frame.stamp_ns, place))

    def between(self, begin_ns: int, end_ns: int) -> list[tuple[float, ...]]:
        """Places (3,) after one time and before another, in time order.

        What is asked for stays: a window that leaves the map may be followed by another one.
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
    """A keyframe that says where the robot was.

    Attributes:
        key: its id.
        stamp_ns: when.
        T_map_cam: (4, 4) pose.
        T_odom_cam: (4, 4) pose by odometry.
        base_odom: (3,) where the robot's base was by odometry.
    """

    key: int
    stamp_ns: int
    T_map_cam: FloatArray
    T_odom_cam: FloatArray
    base_odom: FloatArray

    @classmethod
    def of(cls, keyframe: Keyframe, T_map_cam: FloatArray) -> Host | None:
        """Of a keyframe with its pose in the map; None where it does not say it."""
        view = keyframe.view
        if view.T_odom_cam is None or view.T_odom_base is None:
            return None
        base_odom = view.T_odom_base[:3, 3]
        return cls(keyframe.id, keyframe.stamp_ns, T_map_cam, view.T_odom_cam, base_odom)

    def from_camera(self, places_odom: FloatArray) -> FloatArray:
        """Places (N, 3) in the odometry frame, in the frame of the camera."""
        T = invert_se3(self.T_odom_cam)
        places: FloatArray = places_odom @ T[:3, :3].T + T[:3, 3]
        return places


@dataclass(frozen=True, eq=False)
class DrivenPath:
    """Places of a robot's base, each tied to the keyframes before and after it.

    It lies where both say that it lies, the more where the nearer one does: the path so moves with
    the keyframes.

    Attributes:
        until: (N,) id of the keyframe after, which may have left the map; in the order of the
            path.
        hosts: (N, 2) keyframes of the map that hold it.
        shares: (N,) how much the second host counts.
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
        """The path from one keyframe to the next.

        Args:
            before: the keyframe that it begins at; None to begin with `after`.
            after: the keyframe that it goes on to.
            track: what odometry saw in between.
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
        # where map and odometry contradict each other nobody knows where it went
        ends = made._ends({end.key: end.T_map_cam for end in (before, after)})
        return made.part(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) < MAX_GAP_M)

    def followed_by(self, stretches: Sequence[DrivenPath]) -> DrivenPath:
        """The path with more of it."""
        paths = [self, *stretches]
        return DrivenPath(
            np.concatenate([path.until for path in paths]),
            np.concatenate([path.hosts for path in paths]),
            np.concatenate([path.shares for path in paths]),
            np.concatenate([path.from_hosts for path in paths]),
        )

    def places(self, T_map_cam: Mapping[int, FloatArray]) -> FloatArray:
        """(N, 3) places in the map frame, with the keyframes at these poses."""
        ends = self._ends(T_map_cam)
        places: FloatArray = ends[:, 0] + self.shares[:, None] * (ends[:, 1] - ends[:, 0])
        return places

    def _ends(self, T_map_cam: Mapping[int, FloatArray]) -> FloatArray:
        """(N, 2, 3) the places in the map frame, as each of their hosts says."""
        T = np.array([T_map_cam[key] for key in self.hosts.ravel().tolist()])
        T = T.reshape(-1, 2, 4, 4)
        ends: FloatArray = (T[..., :3, :3] @ self.from_hosts[..., None])[..., 0] + T[..., :3, 3]
        return ends

    def part(self, chosen: slice | BoolArray) -> DrivenPath:
        """Some of the places."""
        return DrivenPath(
            self.until[chosen], self.hosts[chosen], self.shares[chosen], self.from_hosts[chosen]
        )

    def after(self, key: int) -> DrivenPath:
        """What was driven since a keyframe."""
        return self.part(slice(int(np.searchsorted(self.until, key, "right")), None))

    def rehosted(self, gone: Collection[int], T_map_cam: Mapping[int, FloatArray]) -> DrivenPath:
        """The path with what was tied to keyframes that leave tied to their neighbours.

        Args:
            gone: they leave.
            T_map_cam: keyframe -> (4, 4) pose, of those that stay and of those that leave.
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
        """The places no farther than `radius_m` from `centre` (3,), map frame."""
        off_m = np.linalg.norm(self.places(T_map_cam) - centre, axis=1)
        return self.part(off_m <= radius_m)

    def bounded(self, T_map_cam: Mapping[int, FloatArray]) -> DrivenPath:
        """Of too many places the newest one of each spot, and of these the newest."""
        if len(self) <= MAX_PLACES:
            return self
        spots = np.floor(self.places(T_map_cam) / SPACING_M).astype(np.int64)[::-1]
        newest = len(self) - 1 - np.unique(spots, axis=0, return_index=True)[1]
        return self.part(np.isin(np.arange(len(self)), np.sort(newest)[-MAX_PLACES // 2 :]))


def _resampled(corners: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Places (N, 3) along a polyline (M, 3) and how far along (N,) from 0 to 1.

    Two corners that are too far apart are not joined.
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
