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

"""Fusion of a window's camera poses from the network, odometry and the rig."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import Sim3, align_cameras_sim3, invert_se3, rotation_angle_deg
from mvdust3r_ros.placing.pose_graph import PoseEdge, optimize_poses, relative_edge
from mvdust3r_ros.placing.rig import RigPair, rig_disagreement

WINDOW = -1
"""Pose graph node of the window's own frame."""
MIN_SIGMA_M, MIN_SIGMA_RAD = 0.005, math.radians(0.2)
"""Typical error of a calibration or a clock: 5 ms at 1 m/s, and at 40 degrees per second.
Insensitive from half to twice both values (benchmarks/constants.py)."""
DRIFT_LEFT = 0.5
"""Root mean square of a linearly growing drift relative to its final value: 1 / sqrt(3) if the
start is fixed, 1 / sqrt(12) if it is aligned as a whole. Insensitive from 0.25 to 1
(benchmarks/constants.py)."""


@dataclass(frozen=True)
class PoseSigma:
    """One-sigma of a pose, per axis.

    Attributes:
        m: translation, metres.
        rad: rotation, radians.
    """

    m: float
    rad: float

    @classmethod
    def of(cls, m: float, rad: float) -> PoseSigma:
        """Return sigmas of at least the typical error of a calibration or a clock."""
        return cls(max(m, MIN_SIGMA_M), max(rad, MIN_SIGMA_RAD))

    def inflated(self, steps: Sequence[PoseSigma]) -> PoseSigma:
        """Return inflated sigmas where odometry is far more certain than the network.

        A network's error is a bias, nearly the same each time it sees a place. Weighed as noise, a
        network far coarser than odometry would rotate the map a little further with each window,
        always in the same direction. So its variance grows with the ratio of the network's
        variance of a motion, which is that of two poses, to odometry's.
        """
        chained = chained_sigma(steps)
        return PoseSigma(
            self.m * math.sqrt(1 + 2 * (self.m / chained.m) ** 2),
            self.rad * math.sqrt(1 + 2 * (self.rad / chained.rad) ** 2),
        )


UNIT_FACTORS = PoseSigma(1.0, 1.0)
"""Factors that leave sigmas unchanged."""


@dataclass(frozen=True)
class FusedPoses:
    """Fused poses of a window.

    Attributes:
        T_map_cam: keyframe -> (4, 4) pose.
        network_share: weight of the network in the motions, 0 to 1: this part of them follows the
            scale of the window, the rest is metric.
        sigma_factors: factors by which fusing the network shrinks odometry's sigmas; 1 without
            odometry.
    """

    T_map_cam: dict[int, FloatArray]
    network_share: float = 1.0
    sigma_factors: PoseSigma = UNIT_FACTORS


def fuse_poses(
    T_map_cam: Mapping[int, FloatArray],
    T_odom_cam: Mapping[int, FloatArray],
    mapped: Mapping[int, FloatArray],
    odom_rel_sigma: float,
    rig: Sequence[RigPair] = (),
    start: tuple[int, FloatArray] | None = None,
    own: Mapping[int, PoseSigma] | None = None,
) -> FusedPoses:
    """Fuse the network's poses in a window with relative poses from odometry and the rig.

    The uncertainty of the network's poses follows from their disagreement with odometry over the
    window, less what odometry's drift explains; without odometry, from that with the rig. A
    precise network dominates its poses, a coarse one yields to odometry. The window as a whole is
    anchored at its mapped keyframes: an error there is common to all new keyframes.

    Poses that already include odometry (`own`) are not fused with it again, since it would count
    twice and agree with itself. The window remains one rigid body, anchored at its mapped
    keyframes. Its points were triangulated from these same motions, so the motions follow the
    window's scale entirely.

    Args:
        T_map_cam: keyframe -> (4, 4) pose by the network, metres.
        T_odom_cam: keyframe -> (4, 4) pose by odometry, in time order, a subset of `T_map_cam`.
        mapped: keyframe -> (4, 4) pose of keyframes already in the map; these stay fixed.
        odom_rel_sigma: odometry's drift as a share of the motion.
        rig: pairs of keyframes whose cameras are rigidly mounted to each other.
        start: keyframe and (4, 4) pose where a new map starts. Without it and without mapped
            keyframes, the window stays in place.
        own: keyframe -> sigma of its pose in a window that has used odometry, which is then
            ignored here; None if it has not.
    """
    ids = list(T_odom_cam) if own is None else []
    rig = [pair for pair in rig if pair.a in T_map_cam and pair.b in T_map_cam]
    steps = [
        odometry_sigma(T_odom_cam[a], T_odom_cam[b], odom_rel_sigma) for a, b in pairwise(ids)
    ]
    if steps:
        seen, driven = (np.stack([T[i] for i in ids]) for T in (T_map_cam, T_odom_cam))
        network = network_sigma(seen, driven, odom_rel_sigma).inflated(steps)
    elif rig:
        rms_m, rms_rad = rig_disagreement(T_map_cam, rig)
        # over three axes and two cameras
        network = PoseSigma.of(rms_m / math.sqrt(6), rms_rad / math.sqrt(6))
    elif own is None:
        return FusedPoses({**T_map_cam, **{k: mapped[k] for k in T_map_cam if k in mapped}})
    else:
        network = PoseSigma.of(0.0, 0.0)
    sigmas = {**dict.fromkeys(T_map_cam, network), **({} if rig else own or {})}
    edges = [PoseEdge(WINDOW, k, T, sigmas[k].m, sigmas[k].rad) for k, T in T_map_cam.items()]
    for (a, b), sigma in zip(pairwise(ids), steps, strict=True):
        edges.append(relative_edge(a, b, T_odom_cam[a], T_odom_cam[b], sigma.m, sigma.rad))
    edges += [PoseEdge(p.a, p.b, p.T_a_b, MIN_SIGMA_M, MIN_SIGMA_RAD) for p in rig]
    poses = {WINDOW: np.eye(4), **T_map_cam}
    poses.update({k: T for k, T in mapped.items() if k in T_map_cam})
    fixed = set(mapped) & set(poses) or {WINDOW}
    if start is not None:
        poses[start[0]], fixed = start[1], {start[0]}
    found = optimize_poses(poses, edges, fixed)
    poses = {k: found[k] for k in T_map_cam}
    if not steps:
        return FusedPoses(poses)
    # over the window, odometry's errors accumulate, the network's are those of two poses
    chained = chained_sigma(steps)
    share_m = chained.m**2 / (chained.m**2 + 2 * network.m**2)
    share_rad = chained.rad**2 / (chained.rad**2 + 2 * network.rad**2)
    left = PoseSigma(math.sqrt(1 - share_m), math.sqrt(1 - share_rad))
    return FusedPoses(poses, share_m, left)


def anchor_to_odometry(
    T_window_cam: FloatArray, T_odom_cam: FloatArray, odom_rel_sigma: float
) -> Sim3:
    """Align a window to odometry's frame, which is exact at the first pose and drifts after that.

    Each view is weighted by the uncertainty of the network plus the drift up to there: with
    precise poses the first view dominates, with coarse ones all count alike.

    Args:
        T_window_cam: (N, 4, 4) poses by the network, metres.
        T_odom_cam: (N, 4, 4) poses by odometry, in time order.
        odom_rel_sigma: odometry's drift as a share of the motion.

    Returns:
        S_odom_window, scale 1.
    """
    network = network_sigma(T_window_cam, T_odom_cam, odom_rel_sigma)
    variance_m2, variance_rad2, weights = 0.0, 0.0, [(network.m**-2, network.rad**-2)]
    for before, after in pairwise(T_odom_cam):
        step = odometry_sigma(before, after, odom_rel_sigma)
        variance_m2 += step.m**2
        variance_rad2 += step.rad**2
        weights.append((1 / (network.m**2 + variance_m2), 1 / (network.rad**2 + variance_rad2)))
    by_m, by_rad = np.array(weights).T
    R = align_cameras_sim3(T_window_cam, T_odom_cam, by_rad, with_scale=False)[0].R
    by_m = by_m[:, None] / by_m.sum()
    offset = T_odom_cam[:, :3, 3] - T_window_cam[:, :3, 3] @ R.T
    return Sim3(1.0, R, (by_m * offset).sum(0))


def network_sigma(
    T_map_cam: FloatArray, T_odom_cam: FloatArray, odom_rel_sigma: float
) -> PoseSigma:
    """Estimate the uncertainty of the network's poses (N, 4, 4) from odometry's (N, 4, 4)."""
    S_odom_map, rms_m = align_cameras_sim3(T_map_cam, T_odom_cam, with_scale=False)
    turned = np.swapaxes(T_odom_cam[:, :3, :3], 1, 2) @ S_odom_map.R @ T_map_cam[:, :3, :3]
    rms_rad = math.radians(float(np.sqrt((rotation_angle_deg(turned) ** 2).mean())))
    steps_m = np.linalg.norm(np.diff(T_odom_cam[:, :3, 3], axis=0), axis=1)
    drift_m = DRIFT_LEFT * odom_rel_sigma * float(steps_m.sum())
    axis_m = math.sqrt(max(rms_m**2 - drift_m**2, 0.0) / 3)
    return PoseSigma.of(axis_m, rms_rad / math.sqrt(3))


def odometry_sigma(T_a: FloatArray, T_b: FloatArray, rel_sigma: float) -> PoseSigma:
    """Return the uncertainty of odometry's motion between two poses."""
    delta = invert_se3(T_a) @ T_b
    turned_rad = math.radians(float(rotation_angle_deg(delta[:3, :3])))
    moved_m = float(np.linalg.norm(delta[:3, 3]))
    return PoseSigma(MIN_SIGMA_M + rel_sigma * moved_m, MIN_SIGMA_RAD + rel_sigma * turned_rad)


def chained_sigma(steps: Sequence[PoseSigma]) -> PoseSigma:
    """Return the uncertainty of one or more consecutive motions."""
    return PoseSigma(math.hypot(*(s.m for s in steps)), math.hypot(*(s.rad for s in steps)))
