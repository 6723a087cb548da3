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

"""Loop closure: recognise a revisited place, measure it with an extra window, correct the poses.

A closure is checked three times. The joint window must fit the mapped points of both ends, both
ends must see the same surfaces, and the measured motions must be compatible with the correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mvdust3r_ros.config import LoopSettings, MapperConfig
from mvdust3r_ros.datatypes import FloatArray, Keyframe, MvDust3rError, StageClock, Window
from mvdust3r_ros.descriptors import of_one_kind, similarity
from mvdust3r_ros.geometry import AlignmentError, Sim3, invert_se3, make_se3
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.placing.known_points import KnownView, joint_of
from mvdust3r_ros.placing.pose_graph import PoseEdge, edge_sigmas, optimize_poses
from mvdust3r_ros.window.reconstruct import Reconstructor
from mvdust3r_ros.window.window_geometry import WindowGeometry

MIN_END_POINTS = 100
"""As `stitching.MIN_SHARED_POINTS`, since the fit is the same."""
MAX_SCALE_RATIO = 1.15
"""Both ends belong to one map and one joint window: three sigmas of its levels (`depth_levels`).
Insensitive up to 2.3 (benchmarks/constants.py)."""
LOOP_SIGMA_M, LOOP_SIGMA_RAD = 0.02, math.radians(0.4)
"""One-sigmas of the joint window that measures a closure. Insensitive from half to twice both
values (benchmarks/constants.py)."""
SETTLED_SIGMAS = 1.0
"""A closure with at most this residual moves nothing. Insensitive from 0.5 to 2
(benchmarks/constants.py)."""
GIVEN_UP_SIGMAS = 4.0
"""Beyond the kernel's width (`pose_graph.KERNEL_SIGMAS`), the measured motions have overruled the
closure. Insensitive from 2 to 8 (benchmarks/constants.py)."""


class LoopError(MvDust3rError):
    """A closure is invalid; the message gives the reason."""


@dataclass(frozen=True)
class LoopCandidate:
    """Two sections of the path that may show the same place, oldest keyframe first.

    Attributes:
        old: keyframes of the first visit.
        new: keyframes at the end of the path.
        nearest: the one of `old` closest to the last of `new`.
    """

    old: tuple[Keyframe, ...]
    new: tuple[Keyframe, ...]
    nearest: Keyframe


def loop_candidate(
    graph: KeyframeGraph, count: int, settings: LoopSettings
) -> LoopCandidate | None:
    """Find a mapped place that the newest keyframe may show.

    Prefers a nearby keyframe of similar appearance, by the poses. If there is none, takes the most
    similar keyframe of those that drift may have moved out of reach.

    Args:
        graph: the map.
        count: keyframes of each end.
        settings: limits.
    """
    ids = list(graph.keyframes)
    if len(ids) < 2 * count:
        return None
    old = ids[: max(0, len(ids) - settings.min_gap)]
    best = _best(graph, old, settings)
    if best is None:
        return None
    around = sorted(old, key=lambda i: (abs(old.index(i) - old.index(best)), i))
    return LoopCandidate(
        tuple(graph.keyframes[i].keyframe for i in sorted(around[:count])),
        tuple(graph.keyframes[i].keyframe for i in ids[-count:]),
        graph.keyframes[best].keyframe,
    )


def _best(graph: KeyframeGraph, old: Sequence[int], settings: LoopSettings) -> int | None:
    """Return the keyframe of `old` that most likely shows the newest one's place."""
    ids, poses = list(graph.keyframes), graph.poses
    newest = ids[-1]
    alike = dict.fromkeys(old, 0.0)
    if old:
        items = [graph.keyframes[i] for i in (*old, newest)]
        _, looks = of_one_kind([m.descriptor for m in items], [m.keyframe.view for m in items])
        alike = dict(zip(old, similarity(looks[:-1], looks[-1:])[:, 0].tolist(), strict=True))
    cost = {i: _distance(poses[i], poses[newest], settings) - alike[i] for i in old}
    nearest = min(cost, key=lambda i: cost[i], default=None)
    if nearest is None or math.isfinite(cost[nearest]):
        return nearest
    centres = np.stack([T[:3, 3] for T in poses.values()])
    steps_m = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    path_m = np.append(np.cumsum(steps_m[::-1])[::-1], 0)
    reach_m = settings.radius_m + settings.max_drift * path_m
    off_m = np.linalg.norm(centres - centres[-1], axis=1)
    likely = [i for k, i in enumerate(old) if off_m[k] < reach_m[k]]
    best = max(likely, key=lambda i: alike[i], default=None)
    return best if best is not None and alike[best] >= settings.min_similarity else None


def _distance(T_a: FloatArray, T_b: FloatArray, settings: LoopSettings) -> float:
    """Return metres between two cameras plus a rotation penalty; inf if too far apart."""
    delta = invert_se3(T_a) @ T_b
    off_m = float(np.linalg.norm(delta[:3, 3]))
    cosine = float(np.clip(delta[2, 2], -1.0, 1.0))
    angle_deg = math.degrees(math.acos(cosine))
    if off_m > settings.radius_m or angle_deg > settings.max_angle_deg:
        return math.inf
    return off_m + angle_deg / settings.max_angle_deg


def measure_loop(
    graph: KeyframeGraph,
    candidate: LoopCandidate,
    geometry: WindowGeometry,
    settings: LoopSettings,
) -> PoseEdge:
    """Measure the closure with a joint window of both ends.

    Args:
        graph: the map.
        candidate: both ends.
        geometry: a window of `candidate.old` followed by `candidate.new`.
        settings: limits.

    Raises:
        LoopError: the window does not fit an end, or the ends do not see the same place.
    """
    old, every = len(candidate.old), len(geometry.window.keyframes)
    S_old, residual_m = _fit_end(graph, geometry, range(old), settings)
    S_new, _ = _fit_end(graph, geometry, range(old, every), settings)
    ratio = S_old.scale / S_new.scale
    if not 1 / MAX_SCALE_RATIO < ratio < MAX_SCALE_RATIO:
        raise LoopError(f"the scale of both ends differs by a factor of {ratio:.2f}")
    share = geometry.covisible_share(range(old), range(old, every))
    if share < settings.min_covisible:
        raise LoopError(f"only {share:.0%} of the points are seen from both ends")
    newest, a = candidate.new[-1].id, candidate.nearest.id
    T = graph.keyframes[newest].T_map_cam
    centre = S_old.apply(S_new.inverse().apply(T[:3, 3]))
    closed = make_se3(S_old.R @ S_new.R.T @ T[:3, :3], centre)
    T_a_newest = invert_se3(graph.keyframes[a].T_map_cam) @ closed
    sigma_m = max(LOOP_SIGMA_M, residual_m / 2)
    return PoseEdge(a, newest, T_a_newest, sigma_m, LOOP_SIGMA_RAD, robust=True)


def loop_edge(
    graph: KeyframeGraph,
    candidate: LoopCandidate,
    reconstructor: Reconstructor,
    config: MapperConfig,
) -> PoseEdge:
    """Measure the motion between both ends of a loop with a window of their keyframes.

    The measurement must be independent of odometry's drift around the loop, so the older end's
    odometry is hidden from an engine that would use it.

    Raises:
        WindowError: the network fails on the window.
        LoopError: both ends do not show the same place, see `measure_loop`.
    """
    joint = Window(-1, (*candidate.old, *candidate.new))
    made = reconstructor.reconstruct(
        joint, config, StageClock(), one_off=True, without_odometry=candidate.old
    )
    return measure_loop(graph, candidate, made.geometry, config.loop)


def _fit_end(
    graph: KeyframeGraph,
    geometry: WindowGeometry,
    indices: Sequence[int],
    settings: LoopSettings,
) -> tuple[Sim3, float]:
    """Return the similarity from the window to one end's points, and the median residual (m)."""
    items = [graph.keyframes[geometry.window.keyframes[i].id] for i in indices]
    joint = joint_of(geometry, [
        KnownView(i, item.pointmap, item.T_map_cam)
        for i, item in zip(indices, items, strict=True)
    ])  # fmt: skip
    if len(joint) < MIN_END_POINTS:
        raise LoopError("too few confident points at one end")
    try:
        S, residual = joint.fit()
    except AlignmentError as error:
        raise LoopError(str(error)) from None
    relative = float(np.median(residual / joint.depth))
    if relative > settings.max_residual:
        raise LoopError(
            f"the joint window is off by {relative:.1%} of the depth at one end "
            f"(limit {settings.max_residual:.1%})"
        )
    return S, float(np.median(residual))


def close_loop(graph: KeyframeGraph, edge: PoseEdge, settings: LoopSettings) -> KeyframeGraph:
    """Return the map with a closure, and with keyframes moved to fit if they do not already.

    Raises:
        LoopError: the measured motions contradict the closure.
    """
    poses = graph.poses
    if float(edge_sigmas(poses, [edge])[0]) < SETTLED_SIGMAS:
        return graph.closed(edge, None)
    try:
        moved = optimize_poses(poses, [*graph.edges, edge], {next(iter(poses))})
    except MvDust3rError as error:
        raise LoopError(str(error)) from None
    strain = edge_sigmas(moved, [e for e in graph.edges if not e.robust and e.b > edge.a])
    rms = float(np.sqrt((strain**2).mean()))
    left = float(edge_sigmas(moved, [edge])[0])
    if rms > settings.max_sigmas or left > GIVEN_UP_SIGMAS:
        raise LoopError(
            f"the closure strains the measured motions by {rms:.1f} sigmas "
            f"(limit {settings.max_sigmas:g}) and is still {left:.1f} sigmas off"
        )
    return graph.closed(edge, moved)
