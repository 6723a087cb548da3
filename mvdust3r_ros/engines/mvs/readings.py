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

"""Depth estimated in the previous window that the next window reuses.

Neighbouring windows share views. Most of these already have a depth from sources on both sides;
estimating it again would cost a fifth of a second and add little. Only the newest views are
estimated again, now that later views exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from weakref import WeakKeyDictionary

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, ViewTokens
from mvdust3r_ros.geometry import rotation_angle_deg
from mvdust3r_ros.sfm.priors import PosesBefore
from mvdust3r_ros.sfm.window_poses import WindowPoses

FOLLOWING = 2
"""A view with this many later views in the window has sources on both sides: half of the four that
a window adds. Insensitive from 1 to 4 (benchmarks/constants.py, office with odometry)."""
MIN_SPAN = 0.05
"""Minimum distance of two shared views, in median depths, for measuring the ratio of the units.
Insensitive from 0.025 to 0.1 (benchmarks/constants.py, office with odometry)."""
MAX_OFF, MAX_TURNED_DEG = 0.05, 0.5
"""Views whose relative distances or rotations have changed by more are estimated again.
Insensitive from half to twice both values (benchmarks/constants.py, office with odometry)."""


@dataclass(frozen=True, eq=False)
class _Reading:
    """Depth of a view, in the unit of its window, with its pose there.

    Attributes:
        window: number of the window.
        following: number of later views in the window.
        T_ref_cam: (4, 4) pose.
        depth: (H/2, W/2), 0 for no depth.
        log_error: (H/2, W/2) logarithm of the expected error of the log depth.
    """

    window: int
    following: int
    T_ref_cam: FloatArray
    depth: FloatArray
    log_error: FloatArray


class Readings:
    """Depth estimates of the last window, keyed by the features of its views.

    Attributes:
        last: its views with poses from images, oldest first.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.last: tuple[ViewTokens, ...] = ()
        self._of: WeakKeyDictionary[object, _Reading] = WeakKeyDictionary()
        self._window = 0
        self._metric = False

    def earlier(self, tokens: Sequence[ViewTokens]) -> list[ViewTokens]:
        """Return the last window's views older than this window, if the two share any views."""
        shared = {id(t.features) for t in tokens}
        older = [t for t in self.last if id(t.features) not in shared]
        begins_ns = tokens[0].view.stamp_ns
        follows = len(older) < len(self.last) and all(t.view.stamp_ns < begins_ns for t in older)
        return older if follows else []

    def poses_before(self, features: Sequence[object]) -> PosesBefore | None:
        """Return the last window's poses of views in this one too; None for fewer than two."""
        known = self._known(features)
        if len(known) < 2:
            return None
        T = {index: reading.T_ref_cam for index, reading in known.items()}
        depths = [np.median(r.depth[r.depth > 0]) for r in known.values()]
        return PosesBefore(T, self._metric, float(np.median(depths)))

    def _known(self, features: Sequence[object]) -> dict[int, _Reading]:
        return {
            index: reading
            for index, one in enumerate(features)
            if (reading := self._of.get(one)) is not None and reading.window == self._window
        }

    def kept(
        self, features: Sequence[object], poses: WindowPoses
    ) -> dict[int, tuple[FloatArray, FloatArray]]:
        """Return the depth that can be reused.

        Args:
            features: of the window's views, the same objects as in the previous window.
            poses: of the window's views.

        Returns:
            View -> its depth in the unit of `poses` and the logarithm of its expected error; empty
            if the poses of shared views disagree with those of the previous window.
        """
        known = {i: r for i, r in self._known(features).items() if poses.by_images[i]}
        factor = _unit_factor(known, poses)
        if factor is None:
            return {}
        return {
            index: (reading.depth * np.float32(factor), reading.log_error)
            for index, reading in known.items()
            if reading.following >= FOLLOWING
        }

    def remember(
        self,
        tokens: Sequence[ViewTokens],
        poses: WindowPoses,
        depth: FloatArray,
        log_error: FloatArray,
    ) -> None:
        """Store a window's depth estimates, oldest view first, as from `DepthReader.depth`."""
        self._window += 1
        self._metric = poses.metric
        self.last = tuple(t for t, known in zip(tokens, poses.by_images, strict=True) if known)
        for index in np.flatnonzero(poses.by_images & (depth > 0).any((1, 2))).tolist():
            later = int(poses.placed[index + 1 :].sum())
            self._of[tokens[index].features] = _Reading(
                self._window, later, poses.T_ref_cam[index], depth[index], log_error[index]
            )


def _unit_factor(known: dict[int, _Reading], poses: WindowPoses) -> float | None:
    """Return the factor from the last window's unit to this one's, by shared view distances."""
    pairs = [(poses.T_ref_cam[i], poses.T_ref_cam[j], known[i], known[j])
             for i, j in combinations(known, 2)]  # fmt: skip
    if not pairs:
        return None
    new = np.array([np.linalg.norm(a[:3, 3] - b[:3, 3]) for a, b, _, _ in pairs])
    old = np.array([np.linalg.norm(r.T_ref_cam[:3, 3] - s.T_ref_cam[:3, 3])
                    for _, _, r, s in pairs])  # fmt: skip
    turned = [
        float(rotation_angle_deg(
            a[:3, :3].T @ b[:3, :3] @ (r.T_ref_cam[:3, :3].T @ s.T_ref_cam[:3, :3]).T
        ))
        for a, b, r, s in pairs
    ]  # fmt: skip
    typical = float(np.median([np.median(r.depth[r.depth > 0]) for r in known.values()]))
    far = old > MIN_SPAN * typical
    if not far.any() or max(turned) > MAX_TURNED_DEG:
        return None
    factor = float(np.sqrt((new[far] ** 2).sum() / (old[far] ** 2).sum()))
    agrees = np.abs(new - factor * old) < MAX_OFF * np.maximum(factor * old, MIN_SPAN * typical)
    return factor if agrees.all() else None
