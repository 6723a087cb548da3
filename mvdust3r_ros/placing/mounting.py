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

"""Mounting of a camera on the robot, from the motions of both.

Hand-eye calibration (Tsai and Lenz 1989), rotation and translation jointly as in Horaud and
Dornaika (1995), with the scale of the camera's motion as an additional unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import R_BODY_OPTICAL, invert_se3, make_se3

MIN_POSES = 12
"""Insensitive from 6 to 12; with 17 and 24 the mounting is found later, and the ATE of a short run
is 27 and 32 mm instead of 18 (benchmarks/constants.py, wheels)."""
REACH = 3
"""Motions are measured between poses 1 to REACH apart: longer ones rotate more for the same noise.
Insensitive from 2 to 6 (benchmarks/constants.py)."""
TURN_SIGMA_RAD = math.radians(1.0)
"""Of a turn by the camera and by wheels; the fit widens all sigmas where they are too small.
Insensitive from 0.5 to 2 degrees (benchmarks/constants.py, wheels)."""
STEP_SIGMA_M, STEP_REL_SIGMA = 0.01, 0.03
"""Of a step, as such and as a share of it. The first: insensitive from 0.005 to 0.02; the second
from 0.015 on, at 0.06 the map is 0.4 % too small (benchmarks/constants.py, wheels)."""
ARM_SIGMA_M = 0.3
"""Of the camera's distance from the middle of the robot, before motion shows it: the size of a
robot. Insensitive from 0.15 to 0.6 (benchmarks/constants.py, wheels)."""
STRAIGHT_RAD, MIN_STEP_M = math.radians(8.0), 0.05
"""Which steps show a way without an arm that swings, for a start. Insensitive from half to twice
of both (benchmarks/constants.py, wheels)."""
MIN_SIGMA_DEG = 0.2
"""No better than that is a mounting that flexes, as `pose_fusion.MIN_SIGMA_RAD`."""
MAX_CONDITION, MIN_SPREAD = 1e12, 1e-3
"""Largest condition number of the information, and least ratio of the second to the first
principal direction of motion. Undetermined parameters are far beyond (doubles lose 1 next to
1e16); sigma judges the rest."""


@dataclass(frozen=True)
class Mounting:
    """The pose of a camera on the robot.

    Attributes:
        T_base_cam: (4, 4) pose in odometry's child frame, metres, optical axes. Components that
            the motion does not reveal (the height, on a flat floor) are 0.
        sigma_deg: one-sigma of the rotation about its least certain axis, degrees.
    """

    T_base_cam: FloatArray
    sigma_deg: float

    def summary(self, camera: str) -> str:
        """Return the estimate as a message, ready to copy into `ros.T_base_cam`."""
        T = self.T_base_cam
        angles = Rotation.from_matrix(T[:3, :3] @ R_BODY_OPTICAL.T).as_euler("xyz")
        place = " ".join(f"{v:.3f}" for v in (*T[:3, 3], *angles))
        return (
            f"{camera}: its place on the robot is estimated from the motion, its rotation to "
            f"{self.sigma_deg:.1f} deg; measure it and set ros.T_base_cam, now '{place}'"
        )


def estimate_mounting(
    T_odom_base: Sequence[FloatArray], T_map_cam: Sequence[FloatArray]
) -> Mounting | None:
    """Hand-eye calibration with a scale, from the same motions by the wheels and by the camera.

    With R_a, t_a a motion of the robot and R_b, t_b the camera's: their rotations are equal up to
    the mounting's rotation, and t_a + (R_a - 1) arm = scale * R_base_cam t_b. If all rotations
    have the same axis, as on a flat floor, they fix the mounting's rotation but for one angle,
    which the driven distances fix. Least squares over rotation, arm and scale gives the
    uncertainty.

    Args:
        T_odom_base: (4, 4) poses of the robot by odometry, in time order.
        T_map_cam: (4, 4) poses of the camera at the same times, in any scale and frame.

    Returns:
        The mounting with its uncertainty, or None if the motion does not determine it.
    """
    if len(T_odom_base) < MIN_POSES:
        return None
    base, cam = (_Motions.of(np.asarray(T)) for T in (T_odom_base, T_map_cam))
    start = _first_guess(base, cam)
    if start is None:
        return None
    sigma_m = STEP_SIGMA_M + STEP_REL_SIGMA * np.linalg.norm(base.steps, axis=1)[:, None]

    def residuals(values: FloatArray) -> FloatArray:
        R, arm, scale = Rotation.from_rotvec(values[:3]), values[3:6], math.exp(values[6])
        turns = (base.turns - R.apply(cam.turns)) / TURN_SIGMA_RAD
        swing = (base.R - np.eye(3)) @ arm
        steps = (base.steps + swing - scale * R.apply(cam.steps)) / sigma_m
        return np.concatenate([turns.ravel(), steps.ravel(), arm / ARM_SIGMA_M])

    found = least_squares(residuals, start)
    information = found.jac.T @ found.jac
    if np.linalg.cond(information) > MAX_CONDITION:
        return None
    spread = max(1.0, math.sqrt(2 * found.cost / len(found.fun)))
    # neighbouring motions share poses and thus errors
    covariance = np.linalg.inv(information)[:3, :3] * REACH * spread**2
    sigma_deg = math.degrees(math.sqrt(float(np.linalg.eigvalsh(covariance)[-1])))
    place = make_se3(Rotation.from_rotvec(found.x[:3]).as_matrix(), found.x[3:6])
    return Mounting(place, max(sigma_deg, MIN_SIGMA_DEG))


@dataclass(frozen=True)
class _Motions:
    """Motions between poses 1 to REACH apart, each in the frame of the earlier pose.

    Attributes:
        R: (M, 3, 3) rotations.
        turns: (M, 3) the same as rotation vectors, radians.
        steps: (M, 3) translations.
    """

    R: FloatArray
    turns: FloatArray
    steps: FloatArray

    @classmethod
    def of(cls, T: FloatArray) -> _Motions:
        """Return the motions between (N, 4, 4) poses in time order."""
        moved = np.concatenate([invert_se3(T[:-k]) @ T[k:] for k in range(1, REACH + 1)])
        R = moved[:, :3, :3]
        return cls(R, Rotation.from_matrix(R).as_rotvec(), moved[:, :3, 3])


def _first_guess(base: _Motions, cam: _Motions) -> FloatArray | None:
    """(7,) rotation vector, arm of 0 and log of the scale; None without motion."""
    lengths = [np.linalg.norm(m.steps, axis=1) for m in (base, cam)]
    moved = (lengths[0] > MIN_STEP_M) & (lengths[1] > 1e-9)
    straight = moved & (np.linalg.norm(base.turns, axis=1) < STRAIGHT_RAD)
    use = straight if straight.any() else moved
    if not use.any():
        return None
    scaled_steps = [m.steps[use] / n[use, None] for m, n in zip((base, cam), lengths, strict=True)]
    a, b = (np.concatenate([m.turns, w]) for m, w in zip((base, cam), scaled_steps, strict=True))
    largest, second, _ = np.linalg.svd(a.T @ b, compute_uv=False)
    if second < MIN_SPREAD * largest:  # all in one direction
        return None
    R, _ = Rotation.align_vectors(a, b)
    scale = np.median(lengths[0][moved] / lengths[1][moved])
    return np.concatenate([R.as_rotvec(), np.zeros(3), [math.log(scale)]])
