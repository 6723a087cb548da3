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

"""Stamped poses in time order, and the tree of frames that they form."""

from __future__ import annotations

import bisect

import numpy as np

from mvdust3r_ros.datatypes import JUMP_BACK_NS, FloatArray, MvDust3rError
from mvdust3r_ros.geometry import interpolate_se3, invert_se3

MAX_TF_FRAMES = 10_000
"""Bounds memory against a sender that invents frames: robots have a few hundred."""
SAME_PLACE = 1e-3
"""Metres, and elements of a rotation matrix: 1 mm and 0.06 deg, below any calibration error, above
the rounding of a transform sent twice."""
MAX_BUFFERED = 20_000
"""Limit of a buffer with a horizon: 10 s at 2 kHz."""
MAX_GAP_NS = 2_000_000_000
"""Between poses further apart the motion is unknown: a robot may have stopped and turned."""


class TransformError(MvDust3rError):
    """A transform is invalid, or there are more frames than any robot has."""


class PoseBuffer:
    """Poses by time, with interpolation.

    A stamp at least one second older than the newest means that time jumped back (a bag starts
    again): the old poses are dropped, as in tf2.
    """

    def __init__(self, horizon_ns: int = 0) -> None:
        """Start empty; drop poses older than the newest by more than the horizon (0: keep all)."""
        self._horizon_ns = horizon_ns
        self._stamps_ns: list[int] = []
        self._poses: list[FloatArray] = []

    def __len__(self) -> int:
        """Number of poses."""
        return len(self._stamps_ns)

    @property
    def newest_ns(self) -> int | None:
        """Newest stamp, or None when empty."""
        return self._stamps_ns[-1] if self._stamps_ns else None

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """First and last stamp, or None when empty."""
        return (self._stamps_ns[0], self._stamps_ns[-1]) if self._stamps_ns else None

    def add(self, stamp_ns: int, T: FloatArray) -> None:
        """Store a (4, 4) pose; it replaces a pose with the same stamp."""
        if self._horizon_ns and self._stamps_ns and stamp_ns <= self._stamps_ns[-1] - JUMP_BACK_NS:
            self.clear()
        at = bisect.bisect_left(self._stamps_ns, stamp_ns)
        if at < len(self._stamps_ns) and self._stamps_ns[at] == stamp_ns:
            self._poses[at] = T
            return
        self._stamps_ns.insert(at, stamp_ns)
        self._poses.insert(at, T)
        if self._horizon_ns:
            old = bisect.bisect_left(self._stamps_ns, self._stamps_ns[-1] - self._horizon_ns)
            old = max(old, len(self._stamps_ns) - MAX_BUFFERED)
            del self._stamps_ns[:old], self._poses[:old]

    def clear(self) -> None:
        """Drop all poses."""
        self._stamps_ns.clear()
        self._poses.clear()

    def at(self, stamp_ns: int, max_extrapolation_ns: int = 0) -> FloatArray | None:
        """Return the pose at a time: interpolated, or extrapolated within a limit.

        Args:
            stamp_ns: the time.
            max_extrapolation_ns: how far beyond the first or the last pose to extrapolate, at the
                speed of the two poses at that end.

        Returns:
            (4, 4) pose, or None if the time is out of reach or in a gap of more than 2 s.
        """
        stamps = self._stamps_ns
        if not stamps or not 0 <= self._beyond(stamp_ns) <= max_extrapolation_ns:
            return None
        after = bisect.bisect_left(stamps, stamp_ns)
        if after < len(stamps) and stamps[after] == stamp_ns:
            return self._poses[after].copy()
        if len(stamps) < 2:
            return self._poses[0].copy()
        after = min(max(after, 1), len(stamps) - 1)
        start_ns, gap_ns = stamps[after - 1], stamps[after] - stamps[after - 1]
        if gap_ns > MAX_GAP_NS:
            return None
        alpha = (stamp_ns - start_ns) / gap_ns
        return interpolate_se3(self._poses[after - 1], self._poses[after], alpha)

    def _beyond(self, stamp_ns: int) -> int:
        """Return nanoseconds outside the range of stamps; 0 inside."""
        return max(self._stamps_ns[0] - stamp_ns, stamp_ns - self._stamps_ns[-1], 0)


class FrameTree:
    """Frames and their parents, static or moving."""

    def __init__(self, horizon_ns: int = 0) -> None:
        """Start empty; see `PoseBuffer` for the horizon."""
        self._horizon_ns = horizon_ns
        self._parents: dict[str, str] = {}
        self._names: set[str] = set()
        self._fixed: dict[str, FloatArray] = {}
        self._moving: dict[str, PoseBuffer] = {}
        self._former: dict[str, str] = {}
        self._disputed: set[str] = set()

    def set_fixed(self, parent: str, child: str, T_parent_child: FloatArray) -> None:
        """Add a static transform.

        Raises:
            TransformError: there are too many frames already.
        """
        self._check_room(parent, child)
        self._note_conflicts(parent, child, T_parent_child)
        self._parents[child] = parent
        self._fixed[child] = T_parent_child
        self._moving.pop(child, None)

    def set_moving(self, parent: str, child: str, stamp_ns: int, T: FloatArray) -> None:
        """Add a transform T_parent_child at one time; a new parent starts a new buffer.

        Raises:
            TransformError: there are too many frames already.
        """
        self._check_room(parent, child)
        if self._parents.get(child) != parent or child not in self._moving:
            self._note_conflicts(parent, child, T)
            self._parents[child] = parent
            self._fixed.pop(child, None)
            self._moving[child] = PoseBuffer(self._horizon_ns)
        self._moving[child].add(stamp_ns, T)

    def _note_conflicts(self, parent: str, child: str, T: FloatArray) -> None:
        """Record that a frame has a second parent, or a second static transform."""
        if self._parents.get(child, parent) != parent:
            self._former[child] = self._parents[child]
        elif child in self._fixed and not np.allclose(self._fixed[child], T, atol=SAME_PLACE):
            self._disputed.add(child)

    def _check_room(self, parent: str, child: str) -> None:
        if child not in self._parents and len(self._parents) >= MAX_TF_FRAMES:
            raise TransformError(f"more than {MAX_TF_FRAMES} frames on TF, {child} is left out")
        self._names |= {parent, child}

    def __contains__(self, frame: object) -> bool:
        """Whether a frame has a parent or a child."""
        return frame in self._names

    def __len__(self) -> int:
        """Number of frames, including roots."""
        return len(self._names)

    @property
    def frames(self) -> frozenset[str]:
        """All frames, including roots."""
        return frozenset(self._names)

    def children_of(self, parent: str) -> list[str]:
        """Return the frames directly below one."""
        return [child for child, above in self._parents.items() if above == parent]

    def covered_ns(self, target: str, source: str) -> tuple[int, int] | None:
        """Return the time range of the moving transforms between two frames; None without any."""
        edges = {*self._path_up(target)} ^ {*self._path_up(source)}
        spans = [s for f in edges if f in self._moving and (s := self._moving[f].span_ns)]
        return (max(a for a, _ in spans), min(b for _, b in spans)) if spans else None

    def forget_moving(self) -> None:
        """Drop all poses of moving frames; parents are kept."""
        for poses in self._moving.values():
            poses.clear()

    def root_of(self, frame: str) -> str:
        """Return the root of a frame's tree; the frame itself without a parent."""
        return self._path_up(frame)[-1]

    def top_of(self, frame: str) -> str:
        """Return the top of a frame's tree, without moving transforms at the top of its path."""
        path = self._path_up(frame)
        while len(path) > 1 and path[-2] in self._moving:
            path.pop()
        return path[-1]

    def torn(self, frame: str) -> tuple[str, str, str] | None:
        """Return the first frame on the path up that changed its parent, with both; or None."""
        found = next((f for f in self._path_up(frame) if f in self._former), None)
        return None if found is None else (found, self._former[found], self._parents[found])

    def disputed(self, target: str, source: str) -> str | None:
        """Return a frame between two with conflicting static transforms; None without one."""
        edges = {*self._path_up(target)} ^ {*self._path_up(source)}
        return min(edges & self._disputed, default=None)

    def sent_once(self, target: str, source: str) -> str | None:
        """Return a moving frame between two with only a single pose; None without one."""
        edges = {*self._path_up(target)} ^ {*self._path_up(source)}
        return next((f for f in sorted(edges) if len(self._moving.get(f, ())) == 1), None)

    def parent_of(self, frame: str) -> str | None:
        """Return the parent frame, or None for a root or an unknown frame."""
        return self._parents.get(frame)

    def below(self, ancestor: str, frame: str) -> str | None:
        """Return the first frame on the path from an ancestor down to a frame; or None."""
        path = self._path_up(frame)
        at = path.index(ancestor) if ancestor in path else 0
        return path[at - 1] if at > 0 else None

    def newest_ns(self, target: str, source: str) -> int | None:
        """Return the newest time at which all moving transforms between two frames are known."""
        edges = {*self._path_up(target)} ^ {*self._path_up(source)}
        stamps = [self._moving[f].newest_ns for f in edges if f in self._moving]
        known = [s for s in stamps if s is not None]
        return min(known) if known else None

    def lookup(
        self, target: str, source: str, stamp_ns: int, max_extrapolation_ns: int = 0
    ) -> FloatArray | None:
        """Return T_target_source at a time, or None if the frames are not connected then."""
        up_source, up_target = self._path_up(source), self._path_up(target)
        common = next((f for f in up_source if f in up_target), None)
        if common is None:
            return None
        T_common_source = self._climb(source, common, stamp_ns, max_extrapolation_ns)
        T_common_target = self._climb(target, common, stamp_ns, max_extrapolation_ns)
        if T_common_source is None or T_common_target is None:
            return None
        T: FloatArray = invert_se3(T_common_target) @ T_common_source
        return T

    def _path_up(self, frame: str) -> list[str]:
        path = [frame]
        while (parent := self._parents.get(path[-1])) is not None and parent not in path:
            path.append(parent)
        return path

    def _climb(self, frame: str, to: str, stamp_ns: int, beyond_ns: int) -> FloatArray | None:
        """Return T_to_frame along the parents."""
        T: FloatArray = np.eye(4)
        while frame != to:
            if frame in self._fixed:
                T = self._fixed[frame] @ T
            else:
                step = self._moving[frame].at(stamp_ns, beyond_ns)
                if step is None:
                    return None
                T = step @ T
            frame = self._parents[frame]
        return T
