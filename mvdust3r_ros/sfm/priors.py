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

"""Motion priors between views from odometry, the rig and the previous window, with sigmas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np

from mvdust3r_ros.datatypes import MAX_STAMP_GAP_NS, FloatArray, View
from mvdust3r_ros.geometry import invert_se3, rotation_angle_deg
from mvdust3r_ros.sfm.bundle import MotionPrior

ODOM_REL_SIGMA = 0.02
"""One-sigma of an odometry step as a share of its length, as in `stitch.odom_rel_sigma`.
Insensitive from 0.01 to 0.04 (benchmarks/constants.py, office with odometry)."""
ODOM_SIGMA_M = 0.003
"""Part of this sigma that does not depend on the length. Insensitive from 0.0015 to 0.006
(benchmarks/constants.py, office with odometry)."""
ODOM_SIGMA_RAD = math.radians(0.15)
"""One-sigma of an odometry rotation at any angle: timestamps, a shaking mast. Insensitive from
half to twice (benchmarks/constants.py, office with odometry)."""
ODOM_TURN_SHARE = 0.01
"""Part of this sigma that grows with the rotation, as a share of its angle. Insensitive from 0.005
to 0.02 (benchmarks/constants.py, office with odometry, 60 images)."""
RIG_SIGMA_RAD = math.radians(0.15)
"""One-sigma of the rotation between two cameras of a rig, as for odometry. Tests pass from half to
twice (test/test_sfm_window_poses.py)."""
RIG_SIGMA_M = 0.002
"""One-sigma of a camera's position on the rig, as of a hand-measured or calibrated mount. Tests
pass from 0.001 to 0.004 (test/test_sfm_window_poses.py)."""
RIG_REL_SIGMA = 0.01
"""Part of this sigma that grows with the distance of two cameras, as a share of it. Tests pass
from 0.005 to 0.014; at 0.02 odometry is trusted more than the rig
(test/test_sfm_window_poses.py)."""
BEFORE_SIGMA_RAD = math.radians(0.1)
"""One-sigma of the rotation between two views from the previous window. Insensitive from half to
twice (benchmarks/constants.py, office with odometry)."""
BEFORE_REL_SIGMA, BEFORE_SIGMA = 0.01, 0.002
"""One-sigma of their distance, as a share of itself and of the typical depth. Both are insensitive
from half to twice (benchmarks/constants.py, office alone, 60 images)."""
BEFORE_WITH_ODOMETRY = 3.0
"""Factor on these sigmas next to odometry, which the previous window already used. Insensitive
from 1.5 to 6 (benchmarks/constants.py, office with odometry)."""
STILL = 1e-6
"""Two views without timestamps count as simultaneous if odometry moves the rig by less (m, rad):
equal poses up to rounding."""


@dataclass(frozen=True, eq=False)
class PosesBefore:
    """Poses from the previous window for the views it shares with this one.

    Attributes:
        T: view -> (4, 4) camera pose, in the frame and unit of that window.
        metric: whether that unit is metres.
        typical: typical depth in that window.
    """

    T: Mapping[int, FloatArray]
    metric: bool
    typical: float

    def priors(self, with_odometry: bool) -> list[MotionPrior]:
        """Return priors from each view to the next."""
        inflation = BEFORE_WITH_ODOMETRY if with_odometry else 1.0
        found = []
        for a, b in pairwise(sorted(self.T)):
            T_a_b = np.asarray(invert_se3(self.T[a]) @ self.T[b])
            distance = float(np.linalg.norm(T_a_b[:3, 3]))
            sigma = math.hypot(BEFORE_REL_SIGMA * distance, BEFORE_SIGMA * self.typical)
            found.append(MotionPrior(a, b, T_a_b, inflation * BEFORE_SIGMA_RAD, inflation * sigma))
        return found


def among(priors: Sequence[MotionPrior], views: Sequence[int]) -> list[MotionPrior]:
    """Return the priors between the given views, renumbered by position in `views`."""
    place = {view: index for index, view in enumerate(views)}
    return [
        replace(p, a=place[p.a], b=place[p.b]) for p in priors if p.a in place and p.b in place
    ]


def motion_priors(views: Sequence[View], stamps_ns: Sequence[int] | None) -> list[MotionPrior]:
    """Return the measured motions between the views of a window.

    Odometry links consecutive views that have it. The rig links simultaneous views of different
    cameras.

    Args:
        views: oldest first.
        stamps_ns: their timestamps; None if unknown: odometry then decides which views are
            simultaneous.
    """
    times = [None] * len(views) if stamps_ns is None else stamps_ns
    sights = [_Sight(v.T_odom_cam, v.T_rig_cam, t) for v, t in zip(views, times, strict=True)]
    moved = [i for i, s in enumerate(sights) if s.T_odom_cam is not None]
    priors = [_odometry_prior(sights, a, b) for a, b in pairwise(moved)]
    linked = {(p.a, p.b) for p in priors}
    for a, b in combinations(range(len(views)), 2):
        T_a_b = _by_rig(sights[a], sights[b])
        if T_a_b is not None and (a, b) not in linked:
            priors.append(_rig_prior(a, b, T_a_b))
    return priors


def odometry_poses(views: Sequence[View]) -> FloatArray | None:
    """Return (V, 4, 4) odometry poses in the frame of view 0; None if a view lacks odometry."""
    known = [v.T_odom_cam for v in views if v.T_odom_cam is not None]
    if len(known) < len(views):
        return None
    T = np.stack(known).astype(float)
    return np.asarray(invert_se3(T[0]) @ T)


@dataclass(frozen=True, eq=False)
class _Sight:
    """Pose and timestamp of a view, where known; see `View`."""

    T_odom_cam: FloatArray | None
    T_rig_cam: FloatArray | None
    stamp_ns: int | None

    @property
    def T_odom_rig(self) -> FloatArray | None:  # noqa: N802
        """(4, 4) odometry pose of the rig; of the camera if there is no rig."""
        if self.T_odom_cam is None or self.T_rig_cam is None:
            return self.T_odom_cam
        return np.asarray(self.T_odom_cam @ invert_se3(self.T_rig_cam))


def _odometry_prior(sights: Sequence[_Sight], a: int, b: int) -> MotionPrior:
    A, B = sights[a], sights[b]
    T_a_b = _between(A.T_odom_cam, B.T_odom_cam)
    moved = _between(A.T_odom_rig, B.T_odom_rig)
    assert T_a_b is not None and moved is not None
    if _by_rig(A, B) is not None:
        return _rig_prior(a, b, T_a_b)
    length = float(np.linalg.norm(moved[:3, 3]))
    turn = math.radians(float(rotation_angle_deg(moved[:3, :3])))
    sigma_rad = math.hypot(ODOM_SIGMA_RAD, ODOM_TURN_SHARE * turn)
    sigma_m = math.hypot(ODOM_SIGMA_M, ODOM_REL_SIGMA * length)
    apart = _between(A.T_rig_cam, B.T_rig_cam)
    arm = 0.0 if apart is None else float(np.linalg.norm(apart[:3, 3]))
    if arm > 0:
        sigma_rad = math.hypot(sigma_rad, RIG_SIGMA_RAD)
    return MotionPrior(a, b, T_a_b, sigma_rad, math.hypot(sigma_m, arm * sigma_rad))


def _rig_prior(a: int, b: int, T_a_b: FloatArray) -> MotionPrior:
    distance = float(np.linalg.norm(T_a_b[:3, 3]))
    sigma_m = math.hypot(RIG_SIGMA_M, RIG_REL_SIGMA * distance)
    return MotionPrior(a, b, T_a_b, RIG_SIGMA_RAD, sigma_m)


def _between(T_a: FloatArray | None, T_b: FloatArray | None) -> FloatArray | None:
    return None if T_a is None or T_b is None else np.asarray(invert_se3(T_a) @ T_b)


def _by_rig(A: _Sight, B: _Sight) -> FloatArray | None:
    """Return the (4, 4) rig pose of B's camera in A's; None unless simultaneous and distinct."""
    T_a_b = _between(A.T_rig_cam, B.T_rig_cam)
    if T_a_b is None or np.allclose(T_a_b, np.eye(4)):
        return None
    if A.stamp_ns is not None and B.stamp_ns is not None:
        return T_a_b if abs(A.stamp_ns - B.stamp_ns) <= MAX_STAMP_GAP_NS else None
    moved = _between(A.T_odom_rig, B.T_odom_rig)
    return T_a_b if moved is not None and np.abs(moved - np.eye(4)).max() < STILL else None
