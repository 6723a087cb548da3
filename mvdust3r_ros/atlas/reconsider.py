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

"""Decide whether a rejected window or the latest windows in the map are wrong.

A rejected window whose own shape agrees with odometry casts doubt on the latest windows. One extra
window then joins it to the map as it was before them. If that fits, and places the shared
keyframes elsewhere, the latest windows were wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvdust3r_ros.atlas.revision import Revision
from mvdust3r_ros.config import MapperConfig, StitchSettings
from mvdust3r_ros.datatypes import Keyframe, StageClock, Verdict, Window
from mvdust3r_ros.geometry import invert_se3, rotation_angle_deg
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.graph.seen_keyframes import seen_keyframes
from mvdust3r_ros.placing.stitching import (
    Placement,
    Stitcher,
    agrees_with_odometry,
    check_motion,
)
from mvdust3r_ros.window.keyframes import thin_evenly
from mvdust3r_ros.window.reconstruct import Reconstruction, Reconstructor
from mvdust3r_ros.window.window_geometry import WindowError, WindowGeometry

CONTRADICTIONS = (Verdict.REJECTED_RESIDUAL, Verdict.REJECTED_ODOMETRY)
ELSEWHERE_M, ELSEWHERE_DEG, ELSEWHERE_FACTOR = 0.2, 10.0, 1.3
"""Larger than any two good windows differ in position, rotation or size, and smaller than the
errors that made odometry contradict the latest windows. Insensitive from half to twice each value
(benchmarks/constants.py)."""


@dataclass(frozen=True)
class Reconsidered:
    """A window that replaces the latest ones.

    Attributes:
        made: the window, of keyframes of the older map and of the rejected window.
        placement: its placement in the older map.
        count: number of windows it replaces.
    """

    made: Reconstruction
    placement: Placement
    count: int


def reconsider(
    now: Revision,
    rejected: WindowGeometry,
    reconstructor: Reconstructor,
    config: MapperConfig,
    clock: StageClock,
) -> Reconsidered | None:
    """Test whether the latest windows are wrong rather than the rejected one.

    Args:
        now: the map.
        rejected: the rejected window.
        reconstructor: runs the network on the joint windows.
        config: settings.
        clock: records the latencies.

    Returns:
        The replacement of the latest windows; None if they are right or the test is undecided.
    """
    if not agrees_with_odometry(rejected):
        return None
    rules = config.keyframes
    for count in range(1, len(now.undo) + 1):
        before = now.undo[-count]
        chosen = joint_keyframes(
            before.overlap_keyframes, rejected.window.keyframes, rules.window_overlap,
            rules.window_size,
        )  # fmt: skip
        joint = replace(rejected.window, keyframes=chosen)
        try:
            made = reconstructor.reconstruct(joint, config, clock, one_off=True)
            stitcher = Stitcher(config.stitch, before.end, config.map.camera_height_m)
            placement = stitcher.place(made.geometry)
            now.check_reach(seen_keyframes(made, placement, config.map))
        except WindowError:
            continue
        if not lies_elsewhere(made.geometry, placement, now.suspects(count)):
            return None  # the map is right, the window is not
        return Reconsidered(made, placement, count)
    return None


def joint_keyframes(
    anchors: Sequence[Keyframe], own: Sequence[Keyframe], overlap: int, size: int
) -> tuple[Keyframe, ...]:
    """Select keyframes from the end of the older map and evenly from a later window.

    Never repeats the views of a commit: what failed once with the same views would fail again.

    Args:
        anchors: end of the older map, oldest first.
        own: keyframes of the later window, oldest first; some may be anchors as well.
        overlap: keyframes that consecutive windows share.
        size: keyframes of a window.
    """
    shared = anchors[-max(1, overlap - 1) :]
    taken = {k.id for k in shared}
    rest = [k for k in own if k.id not in taken]
    return (*shared, *thin_evenly(rest, size - len(shared)))


def lies_elsewhere(
    geometry: WindowGeometry,
    placement: Placement,
    suspects: Mapping[int, MapKeyframe],
) -> bool:
    """Whether a placed window moves a suspect keyframe, or changes the distance of its points.

    Args:
        geometry: the window.
        placement: its placement.
        suspects: id -> keyframe as the map has it.
    """
    for index, keyframe, _ in geometry.posed():
        known = suspects.get(keyframe.id)
        if known is None:
            continue
        delta = invert_se3(known.T_map_cam) @ placement.T_map_cam[keyframe.id]
        off_m = float(np.linalg.norm(delta[:3, 3]))
        if off_m > ELSEWHERE_M or float(rotation_angle_deg(delta[:3, :3])) > ELSEWHERE_DEG:
            return True
        use = geometry.valid[index]
        if use.any():
            window = np.median(geometry.distance(index, use))
            known_m = np.median(np.linalg.norm(known.pointmap.points_cam[use], axis=1))
            size_m = placement.S_map_window.scale * float(window)
            ratio = float(known_m) / max(size_m, 1e-9)
            if not 1 / ELSEWHERE_FACTOR < ratio < ELSEWHERE_FACTOR:
                return True
    return False


def check_recent_motion(
    revision: Revision,
    window: Window,
    placement: Placement,
    settings: StitchSettings,
) -> None:
    """Compare the motion since the start of each of the latest windows with odometry.

    Args:
        revision: the map.
        window: the next window.
        placement: its placement.
        settings: limits; the rotation limit grows with the root of the number of windows.

    Raises:
        WindowError: the map and odometry disagree.
    """
    recent, keyframes = revision.recent_ids, revision.graph.keyframes
    mapped = [item.keyframe for key, item in keyframes.items() if key in recent]
    new = [k for k in window.keyframes if k.id not in keyframes]
    T_map_cam = {**placement.T_map_cam, **revision.graph.poses}
    known = [
        (k.id, T_map_cam[k.id], k.view.T_odom_cam)
        for k in (*mapped, *new)
        if k.id in T_map_cam and k.view.T_odom_cam is not None
    ]
    for count in range(1, len(revision.undo) + 1):
        start = next(reversed(revision.undo[-count].overlap))
        since = [item for item in known if item[0] >= start]
        if len(since) < 2 or since[0][0] != start:
            continue
        limit_deg = settings.max_odom_rotation_deg * math.sqrt(count + 1)
        check_motion(
            np.stack([T for _, T, _ in since]),
            np.stack([T for _, _, T in since]),
            replace(settings, max_odom_rotation_deg=limit_deg),
            f"the motion over the last {count + 1} windows",
        )
