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

"""Constraints on scale and poses from cameras rigidly mounted on one rig."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mvdust3r_ros.datatypes import MAX_STAMP_GAP_NS, FloatArray, Keyframe, ScaleSource
from mvdust3r_ros.geometry import invert_se3, rotation_angle_deg
from mvdust3r_ros.placing.scale import ScaleEvidence

CALIBRATION_REL_SIGMA = 0.01
"""Relative error of the calibrated distance of two cameras: a millimetre in ten centimetres."""


@dataclass(frozen=True)
class RigPair:
    """Two simultaneous keyframes of different cameras.

    Attributes:
        a: keyframe.
        b: keyframe.
        T_a_b: (4, 4) pose of b's camera in a's by the rig's extrinsics, metres.
    """

    a: int
    b: int
    T_a_b: FloatArray

    def seen(self, T: Mapping[int, FloatArray]) -> FloatArray:
        """Return the same (4, 4) relative pose from recovered poses."""
        relative: FloatArray = invert_se3(T[self.a]) @ T[self.b]
        return relative


def rig_pairs(keyframes: Sequence[Keyframe]) -> list[RigPair]:
    """Return all pairs of simultaneous keyframes of different cameras with known extrinsics."""
    return [
        RigPair(a.id, b.id, invert_se3(a.view.T_rig_cam) @ b.view.T_rig_cam)
        for a, b in combinations(keyframes, 2)
        if a.camera_name != b.camera_name
        and abs(a.stamp_ns - b.stamp_ns) <= MAX_STAMP_GAP_NS
        and a.view.T_rig_cam is not None
        and b.view.T_rig_cam is not None
    ]


def rig_evidence(
    T_window_cam: Mapping[int, FloatArray], pairs: Sequence[RigPair], min_baseline_m: float
) -> ScaleEvidence | None:
    """Estimate the scale from the known distances between the cameras.

    Args:
        T_window_cam: keyframe -> (4, 4) recovered pose, window units.
        pairs: of the window; those without both poses are ignored.
        min_baseline_m: distance of two cameras required for evidence.

    Returns:
        Evidence with a sigma from the disagreement of recovered and known offsets, or None.
    """
    offsets = [
        (pair.T_a_b[:3, 3], pair.seen(T_window_cam)[:3, 3])
        for pair in pairs
        if pair.a in T_window_cam and pair.b in T_window_cam
    ]
    known, seen = np.array(offsets).reshape(-1, 2, 3).transpose(1, 0, 2)
    known_m, seen_units = np.linalg.norm(known, axis=1), np.linalg.norm(seen, axis=1)
    use = (known_m >= min_baseline_m) & (seen_units > 0)
    if not use.any():
        return None
    scale = math.exp(float(np.median(np.log(known_m[use] / seen_units[use]))))
    off = np.linalg.norm(known[use] - scale * seen[use], axis=1) / known_m[use]
    residual = float(np.sqrt((off**2).mean()))
    # at least two of three axes show in the residual, while one determines the scale; few pairs
    # may agree by chance; noise averages out, a coarse network's common error does not
    axis = residual * math.sqrt((1 + 1 / len(off)) / (2 * len(off)))
    sigma = math.hypot(axis, residual**2, CALIBRATION_REL_SIGMA)
    return ScaleEvidence(scale, sigma, ScaleSource.RIG, CALIBRATION_REL_SIGMA)


def rig_disagreement(
    T_map_cam: Mapping[int, FloatArray], pairs: Sequence[RigPair]
) -> tuple[float, float]:
    """Return the RMS deviation of recovered poses from the rig, in metres and in radians.

    Args:
        T_map_cam: keyframe -> (4, 4) pose, metres; those of all pairs.
        pairs: at least one.
    """
    delta = np.stack([invert_se3(pair.T_a_b) @ pair.seen(T_map_cam) for pair in pairs])
    turned_rad = np.radians(rotation_angle_deg(delta[:, :3, :3]))
    return (
        float(np.sqrt((delta[:, :3, 3] ** 2).sum(1).mean())),
        float(np.sqrt((turned_rad**2).mean())),
    )
