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

"""Camera poses of a window from several opinions: the network's, odometry's and the rig's."""

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
"""The node of the window's own frame."""
MIN_SIGMA_M, MIN_SIGMA_RAD = 0.005, math.radians(0.2)
"""What a calibration or a clock may be off by: 5 ms at 1 m/s, and at 40 degrees a second.
Insensitive from half to twice of both (benchmarks/constants.py)."""
DRIFT_LEFT = 0.5
"""Root mean square of a drift that grows evenly, over what it is at the end: 1 / sqrt(3) where the
beginning is held, 1 / sqrt(12) where it is aligned as a whole. Insensitive from 0.25 to 1
(benchmarks/constants.py)."""


@dataclass(frozen=True)
class PoseSigma:
    """One-sigma of a pose, each axis.

    Attributes:
        m: translation, metres.
        rad: rotation, radians.
    """

    m: float
    rad: float

    @classmethod
    def of(cls, m: float, rad: float) -> PoseSigma:
        """None is smaller than what a calibration or a clock may be off by."""
        return cls(max(m, MIN_SIGMA_M), max(rad, MIN_SIGMA_RAD))

    def beside(self, steps: Sequence[PoseSigma]) -> PoseSigma:
        """The same beside motions over a window that are less or more certain.

        What a network is off by is much the same each time it sees a place. Were that weighed as
        chance, a network far coarser than odometry would turn the map a little further with each
        window, always the same way. So its variance grows with the ratio of both variances, which
        is that of a motion, between two poses.
        """
        way = way_sigma(steps)
        return PoseSigma(
            self.m * math.sqrt(1 + 2 * (self.m / way.m) ** 2),
            self.rad * math.sqrt(1 + 2 * (self.rad / way.rad) ** 2),
        )


ALL_OF_IT = PoseSigma(1.0, 1.0)
"""Factors that leave sigmas as they are."""


@dataclass(frozen=True)
class FusedPoses:
    """Poses by several opinions.

    Attributes:
        T_map_cam: keyframe -> (4, 4) pose.
        network_share: weight of the network in the motions, 0 to 1: that part of them follows the
            scale of the window, the rest is in metres.
        sigma_left: what the network's word leaves of the sigmas of odometry's motions, as factors;
            1 without odometry.
    """

    T_map_cam: dict[int, FloatArray]
    network_share: float = 1.0
    sigma_left: PoseSigma = ALL_OF_IT


def fuse_poses(
    T_map_cam: Mapping[int, FloatArray],
    T_odom_cam: Mapping[int, FloatArray],
    mapped: Mapping[int, FloatArray],
    odom_rel_sigma: float,
    rig: Sequence[RigPair] = (),
    start: tuple[int, FloatArray] | None = None,
    own: Mapping[int, PoseSigma] | None = None,
) -> FusedPoses:
    """Weigh the network's poses in its window against odometry's and the rig's relative ones.

    How far the network's poses can be trusted follows from their disagreement with odometry over
    the whole window, less what odometry's own drift explains; without odometry, with the rig. A
    precise network keeps its poses, a coarse one hands over. Where the window as a whole lies
    follows from its keyframes that are in the map: an error in that is one for all new keyframes.

    Poses that odometry has gone into already (`own`) are not weighed against it again: it would
    count twice, and agree with itself. The window stays as it is, as one rigid body, and lies
    where its keyframes of the map say. Its points were triangulated from these very motions, so
    the motions follow the window's scale as a whole.

    Args:
        T_map_cam: keyframe -> (4, 4) pose by the network, metres.
        T_odom_cam: keyframe -> (4, 4) pose by odometry, in time order, a subset of `T_map_cam`.
        mapped: keyframe -> (4, 4) pose of keyframes already in the map; they stay.
        odom_rel_sigma: odometry's drift as a share of the motion.
        rig: pairs of keyframes whose cameras keep their places to each other.
        start: keyframe and (4, 4) pose where a new map begins. Without it and without keyframes
            of the map the window stays where it is.
        own: keyframe -> sigma of its pose in a window that has used odometry, which then says
            nothing here; None for one that has not.
    """
    ids = list(T_odom_cam) if own is None else []
    rig = [pair for pair in rig if pair.a in T_map_cam and pair.b in T_map_cam]
    steps = [
        odometry_sigma(T_odom_cam[a], T_odom_cam[b], odom_rel_sigma) for a, b in pairwise(ids)
    ]
    if steps:
        seen, driven = (np.stack([T[i] for i in ids]) for T in (T_map_cam, T_odom_cam))
        network = network_sigma(seen, driven, odom_rel_sigma).beside(steps)
    elif rig:
        rms_m, rms_rad = rig_disagreement(T_map_cam, rig)
        # of three axes and two cameras
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
    # the way over the window: odometry's errors add up, the network's are those of two poses
    way = way_sigma(steps)
    share_m = way.m**2 / (way.m**2 + 2 * network.m**2)
    share_rad = way.rad**2 / (way.rad**2 + 2 * network.rad**2)
    left = PoseSigma(math.sqrt(1 - share_m), math.sqrt(1 - share_rad))
    return FusedPoses(poses, share_m, left)


def anchor_to_odometry(
    T_window_cam: FloatArray, T_odom_cam: FloatArray, odom_rel_sigma: float
) -> Sim3:
    """Where a window lies in odometry's frame, which is exact at the first pose and drifts after.

    Each view votes with what the network and the drift so far leave of it: with precise poses the
    first view decides, with coarse ones all count alike.

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
    """Uncertainty of the network's poses (N, 4, 4), from odometry's (N, 4, 4)."""
    S_odom_map, rms_m = align_cameras_sim3(T_map_cam, T_odom_cam, with_scale=False)
    turned = np.swapaxes(T_odom_cam[:, :3, :3], 1, 2) @ S_odom_map.R @ T_map_cam[:, :3, :3]
    rms_rad = math.radians(float(np.sqrt((rotation_angle_deg(turned) ** 2).mean())))
    steps_m = np.linalg.norm(np.diff(T_odom_cam[:, :3, 3], axis=0), axis=1)
    drift_m = DRIFT_LEFT * odom_rel_sigma * float(steps_m.sum())
    axis_m = math.sqrt(max(rms_m**2 - drift_m**2, 0.0) / 3)
    return PoseSigma.of(axis_m, rms_rad / math.sqrt(3))


def odometry_sigma(T_a: FloatArray, T_b: FloatArray, rel_sigma: float) -> PoseSigma:
    """Uncertainty of odometry's motion between two poses."""
    delta = invert_se3(T_a) @ T_b
    turned_rad = math.radians(float(rotation_angle_deg(delta[:3, :3])))
    moved_m = float(np.linalg.norm(delta[:3, 3]))
    return PoseSigma(MIN_SIGMA_M + rel_sigma * moved_m, MIN_SIGMA_RAD + rel_sigma * turned_rad)


def way_sigma(steps: Sequence[PoseSigma]) -> PoseSigma:
    """Uncertainty of motions one after the other, at least one."""
    return PoseSigma(math.hypot(*(s.m for s in steps)), math.hypot(*(s.rad for s in steps)))
