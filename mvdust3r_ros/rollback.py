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

"""Which of the last commits a later window contradicts: what is kept of them, and the comparison.

A window that does not fit the last ones, but whose own shape is that of odometry's path, casts
doubt on them. It is then joined to the map as it was before them, by one extra window. When that
fits, and puts the keyframes that both know elsewhere, the last commits were wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvdust3r_ros.config import StitchSettings
from mvdust3r_ros.datatypes import FloatArray, Keyframe, Verdict
from mvdust3r_ros.geometry import invert_se3, rotation_angle_deg
from mvdust3r_ros.keyframes import thin_evenly
from mvdust3r_ros.mapped_keyframe import MappedKeyframe
from mvdust3r_ros.stitching import Placement, WindowGeometry, check_motion

CONTRADICTIONS = (Verdict.REJECTED_RESIDUAL, Verdict.REJECTED_ODOMETRY)
ELSEWHERE_M, ELSEWHERE_DEG, ELSEWHERE_FACTOR = 0.2, 10.0, 1.3


@dataclass(frozen=True)
class Commit:
    """What undoing a commit needs.

    Attributes:
        ids: keyframes that it brought into the map.
        anchors: keyframes at the end of the map before it, oldest first.
        improved: older keyframes that it saw better, as they were before.
    """

    ids: tuple[int, ...]
    anchors: tuple[Keyframe, ...]
    improved: tuple[MappedKeyframe, ...] = ()

    def resized(self, factors: Mapping[int, float]) -> Commit:
        """After the points of keyframes have become so many times as far."""
        changed = (m.farther(factors.get(m.keyframe.id, 1.0)) for m in self.improved)
        return replace(self, improved=tuple(changed))


def joint_keyframes(
    anchors: Sequence[Keyframe], own: Sequence[Keyframe], overlap: int, size: int
) -> tuple[Keyframe, ...]:
    """A window of the end of the older map and of a later window, both spread evenly.

    Not the views of a commit again: what failed once with the same views would fail again.

    Args:
        anchors: end of the older map, oldest first.
        own: keyframes of the later window, oldest first; some may be anchors as well.
        overlap: keyframes that neighbouring windows share.
        size: keyframes of a window.
    """
    shared = anchors[-max(1, overlap - 1) :]
    taken = {k.id for k in shared}
    rest = [k for k in own if k.id not in taken]
    return (*shared, *thin_evenly(rest, size - len(shared)))


def lies_elsewhere(
    geometry: WindowGeometry,
    placement: Placement,
    T_map_cam: Mapping[int, FloatArray],
    points_cam: Mapping[int, FloatArray],
) -> bool:
    """Whether a placed window has a keyframe at another place, or its points at another distance.

    Args:
        geometry: the window.
        placement: its place.
        T_map_cam: keyframe -> (4, 4) pose in the map.
        points_cam: keyframe -> (h, w, 3) its points in the map, in its camera frame, metres.
    """
    for index, keyframe in enumerate(geometry.window.keyframes):
        key, pose = keyframe.id, geometry.poses[index]
        if pose is None or key not in T_map_cam:
            continue
        delta = invert_se3(T_map_cam[key]) @ placement.T_map_cam[key]
        off_m = float(np.linalg.norm(delta[:3, 3]))
        if off_m > ELSEWHERE_M or float(rotation_angle_deg(delta[:3, :3])) > ELSEWHERE_DEG:
            return True
        use = geometry.conf[index] > 1.0
        if key in points_cam and use.any():
            window = np.linalg.norm(geometry.points[index][use] - pose.T_window_cam[:3, 3], axis=1)
            known = np.linalg.norm(points_cam[key][use], axis=1)
            size_m = placement.S_map_window.scale * float(np.median(window))
            ratio = float(np.median(known)) / max(size_m, 1e-9)
            if not 1 / ELSEWHERE_FACTOR < ratio < ELSEWHERE_FACTOR:
                return True
    return False


def check_recent_motion(
    keyframes: Sequence[Keyframe],
    T_map_cam: Mapping[int, FloatArray],
    commits: Sequence[Commit],
    settings: StitchSettings,
) -> None:
    """Compare the way since before each of the last commits with odometry's.

    Args:
        keyframes: those of the map and of the new window, oldest first.
        T_map_cam: keyframe -> (4, 4) pose.
        commits: the last ones, oldest first.
        settings: limits; that of the rotation grows with the root of the number of windows.

    Raises:
        StitchError: the map and odometry disagree.
    """
    known = [k for k in keyframes if k.id in T_map_cam and k.view.T_odom_cam is not None]
    for count in range(1, len(commits) + 1):
        start = commits[-count].anchors[-1].id
        since = [k for k in known if k.id >= start]
        if len(since) < 2 or since[0].id != start:
            continue
        limit_deg = settings.max_odom_rotation_deg * math.sqrt(count + 1)
        check_motion(
            np.stack([T_map_cam[k.id] for k in since]),
            np.stack([k.view.T_odom_cam for k in since if k.view.T_odom_cam is not None]),
            replace(settings, max_odom_rotation_deg=limit_deg),
            f"the motion over the last {count + 1} windows",
        )
