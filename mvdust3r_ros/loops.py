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

"""Loops: known ground is recognised, measured by one extra window, and the keyframes move to fit.

The graph's nodes are the committed keyframes, its edges the motions between neighbours and the
closures. A closure is checked three times: the joint window must fit the mapped points of both
ends, both ends must see the same surfaces, and the measured motions must bear the correction.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mvdust3r_ros.config import LoopSettings
from mvdust3r_ros.datatypes import FloatArray, Keyframe, MvDust3rError, Trajectory
from mvdust3r_ros.geometry import (
    AlignmentError,
    Sim3,
    align_sim3_robust,
    invert_se3,
    lifted,
    make_se3,
    project,
)
from mvdust3r_ros.past_path import PastPath
from mvdust3r_ros.pose_fusion import PoseSigma, odometry_sigma
from mvdust3r_ros.pose_graph import PoseEdge, edge_sigmas, optimize_poses, relative_edge
from mvdust3r_ros.stitching import Placement, WindowGeometry, depth_product

MIN_END_POINTS = 100
MAX_SCALE_RATIO = 1.15
LOOP_SIGMA_M = 0.02
LOOP_SIGMA_RAD = math.radians(0.4)
SAME_DEPTH = 0.1
SETTLED_SIGMAS = 1.0
GIVEN_UP_SIGMAS = 4.0
MAX_TIES = 2
"""Closures of a keyframe that are handed on to its neighbour when it leaves."""


class LoopError(MvDust3rError):
    """A closure does not hold; the message says why. Nothing has moved."""


@dataclass(frozen=True)
class _Node:
    """Points (h, w, 3) of a keyframe in its camera frame, metres, and confidence (h, w)."""

    keyframe: Keyframe
    points_cam: FloatArray
    conf: FloatArray


@dataclass(frozen=True)
class LoopCandidate:
    """Two stretches of the path that may show the same place, oldest keyframe first.

    Attributes:
        old: keyframes of the first visit.
        new: keyframes at the end of the path.
        nearest: the one of `old` closest to the last of `new`.
    """

    old: tuple[Keyframe, ...]
    new: tuple[Keyframe, ...]
    nearest: Keyframe


class LoopCloser:
    """Keyframe graph of a session.

    Its size is that of the map, not of the way: keyframes that leave the map leave the graph.
    """

    def __init__(self, settings: LoopSettings, odom_rel_sigma: float) -> None:
        """Start empty.

        Args:
            settings: limits.
            odom_rel_sigma: relative uncertainty of the motion between neighbours.
        """
        self.settings = settings
        self.odom_rel_sigma = odom_rel_sigma
        self.closures = 0
        self.refused: deque[str] = deque(maxlen=20)
        self.poses: dict[int, FloatArray] = {}
        self.past = PastPath()
        self._nodes: dict[int, _Node] = {}
        self._edges: list[PoseEdge] = []
        self._network_share: dict[int, float] = {}
        self._windows_since_try = 0

    def draft(self) -> LoopCloser:
        """A graph to correct beside this one, which others go on reading meanwhile.

        Both hold the same points; neither ever changes those.
        """
        other = copy(self)
        other.poses, other.past = dict(self.poses), self.past.copy()
        other._nodes, other._edges = dict(self._nodes), list(self._edges)
        other._network_share = dict(self._network_share)
        return other

    def commit(self, geometry: WindowGeometry, placement: Placement) -> None:
        """Take in the keyframes of a committed window."""
        placed = [k for k in geometry.window.keyframes if k.id in placement.T_map_cam]
        ids = [k.id for k in placed]
        if self.poses and not any(i in self.poses for i in ids):
            ids.insert(0, next(reversed(self.poses)))  # a window without overlap
        poses = {**self.poses, **placement.T_map_cam}
        for a, b in pairwise(ids):
            if a not in self.poses or b not in self.poses:
                sigma = odometry_sigma(poses[a], poses[b], self.odom_rel_sigma)
                if a in placement.T_map_cam:
                    left = placement.sigma_left
                    sigma = PoseSigma(left.m * sigma.m, left.rad * sigma.rad)
                edge = relative_edge(a, b, poses[a], poses[b], sigma.m, sigma.rad)
                self._edges.append(edge)
        for index, keyframe in enumerate(geometry.window.keyframes):
            pose = geometry.poses[index]
            if pose is not None and keyframe.id not in self.poses:
                self.poses[keyframe.id] = placement.T_map_cam[keyframe.id]
                self._network_share[keyframe.id] = placement.network_share
                T, scale = pose.T_window_cam, placement.S_map_window.scale
                points_cam = ((geometry.points[index] - T[:3, 3]) @ T[:3, :3] * scale).astype("f4")
                # a view would keep the confidence of all views in memory
                conf = geometry.conf[index].copy()
                self._nodes[keyframe.id] = _Node(keyframe, points_cam, conf)
        self._windows_since_try += 1

    def condense(self, ids: Collection[int]) -> None:
        """Take keyframes out of the graph; what they held together stays as it lies now.

        Their place in the path is kept, tied to a neighbour.
        """
        for key in ids:
            if key in self.poses and len(self.poses) > 1:
                self._merge(key)

    def _merge(self, key: int) -> None:
        """Let a neighbour, mostly the keyframe before, take the place of a keyframe."""
        own = [e for e in self._edges if key in (e.a, e.b)]
        via = min(own, key=lambda e: (e.robust, e.b != key), default=None)
        others = (k for k in self.poses if k != key)
        host = next(others) if via is None else via.a + via.b - key
        T_host_key = invert_se3(self.poses[host]) @ self.poses[key]
        edges = [e for e in self._edges if key not in (e.a, e.b)]
        for edge in own:
            far = edge.a + edge.b - key
            if via is None or far == host:
                continue
            ties = [sum(e.robust and end in (e.a, e.b) for e in edges) for end in (host, far)]
            if edge.robust and min(ties) >= MAX_TIES:
                continue
            a, b = min(host, far), max(host, far)
            sigma_m = math.hypot(edge.sigma_m, via.sigma_m)
            sigma_rad = math.hypot(edge.sigma_rad, via.sigma_rad)
            tie = relative_edge(a, b, self.poses[a], self.poses[b], sigma_m, sigma_rad)
            edges.append(replace(tie, robust=edge.robust))
        self.past.rehost(key, host, T_host_key)
        node = self._nodes.pop(key, None)
        if node is not None:
            self.past.add(node.keyframe.stamp_ns, node.keyframe.camera_name, host, T_host_key)
        self._edges = edges
        self._drop({key})

    def remove(self, ids: Collection[int]) -> dict[int, FloatArray]:
        """Take keyframes out as if they had never been; poses of the others without them.

        What a closure with one of them has moved goes back, but for keyframes that have left the
        graph since.
        """
        gone = set(ids) & set(self.poses)
        leaving = [e for e in self._edges if e.a in gone or e.b in gone]
        self._edges = [e for e in self._edges if e.a not in gone and e.b not in gone]
        host = next(k for k in reversed(self.poses) if k not in gone)
        for key in gone:
            self.past.rehost(key, host, invert_se3(self.poses[host]) @ self.poses[key])
        self._drop(gone)
        if any(edge.robust for edge in leaving) and len(self.poses) > 1:
            self.poses = optimize_poses(self.poses, self._edges, {next(iter(self.poses))})
        self.closures -= sum(edge.robust for edge in leaving)
        return dict(self.poses)

    def _drop(self, ids: Collection[int]) -> None:
        self.poses = {key: T for key, T in self.poses.items() if key not in ids}
        for key in ids:
            self._nodes.pop(key, None)
            self._network_share.pop(key, None)

    def path(self, drawn: Mapping[int, FloatArray], camera_name: str = "") -> Trajectory:
        """Poses of all keyframes, also of those that have left, of one camera or of all.

        Args:
            drawn: keyframe -> (4, 4) pose at which the map shows it now.
            camera_name: empty for all cameras.
        """
        poses = {**self.poses, **drawn}
        present = {
            n.keyframe.stamp_ns: poses[key]
            for key, n in self._nodes.items()
            if camera_name in ("", n.keyframe.camera_name)
        }
        stamps_ns, past = self.past.poses(poses, camera_name)
        own = np.array(list(present.values())).reshape(-1, 4, 4)
        stamps_ns = np.append(stamps_ns, np.array(list(present), np.int64))
        # of several images of one moment the newest pose
        stamps_ns, newest = np.unique(stamps_ns[::-1], return_index=True)
        return Trajectory(stamps_ns, np.concatenate([past, own])[::-1][newest])

    def points(self, key: int) -> tuple[FloatArray, FloatArray] | None:
        """Thinned pointmap (h, w, 3) of a keyframe in its camera frame, and confidence (h, w)."""
        node = self._nodes.get(key)
        return None if node is None else (node.points_cam, node.conf)

    @property
    def edges(self) -> list[PoseEdge]:
        """All measured motions."""
        return list(self._edges)

    def restore(
        self,
        points: Mapping[int, tuple[Keyframe, FloatArray, FloatArray]],
        poses: Mapping[int, FloatArray],
        edges: Sequence[PoseEdge],
    ) -> None:
        """Go on with a saved graph: keyframes with what `points` gives, all poses, all edges."""
        self._nodes = {key: _Node(*item) for key, item in points.items()}
        self.poses, self._edges = dict(poses), list(edges)
        self.closures = sum(edge.robust for edge in edges)

    def candidate(
        self, count: int, looks: Mapping[int, FloatArray] | None = None
    ) -> LoopCandidate | None:
        """Known ground that the newest keyframe may show, at most every `min_windows` windows.

        Among the keyframes that the poses put nearby, the one that is close and looks alike; where
        there is none, the one that looks most alike of those that the drift since then may have
        moved away.

        Args:
            count: keyframes of each end.
            looks: keyframe -> (D,) pooled tokens or another descriptor; None to go by poses.
        """
        if not self.settings.enabled or self._windows_since_try < self.settings.min_windows:
            return None
        ids = list(self._nodes)
        if len(ids) < 2 * count:
            return None
        old = ids[: max(0, len(ids) - self.settings.min_gap)]
        best = self._best(old, ids, looks or {})
        if best is None:
            return None
        self._windows_since_try = 0
        around = sorted(old, key=lambda i: (abs(old.index(i) - old.index(best)), i))
        return LoopCandidate(
            tuple(self._nodes[i].keyframe for i in sorted(around[:count])),
            tuple(self._nodes[i].keyframe for i in ids[-count:]),
            self._nodes[best].keyframe,
        )

    def _best(self, old: list[int], ids: list[int], looks: Mapping[int, FloatArray]) -> int | None:
        """The keyframe of `old` that most likely shows what the newest of `ids` shows."""
        newest = ids[-1]
        alike = dict.fromkeys(old, 0.0)
        known = [looks[i] for i in (*old, newest) if i in looks]
        if len(known) == len(old) + 1 > 1 and len({len(look) for look in known}) == 1:
            stored = np.stack([looks[i] for i in old])
            found = similarity(stored, looks[newest][None])[:, 0]
            alike = dict(zip(old, found.tolist(), strict=True))
        cost = {i: self._distance(i, newest) - alike[i] for i in old}
        nearest = min(cost, key=lambda i: cost[i], default=None)
        if nearest is None or math.isfinite(cost[nearest]):
            return nearest
        centres = np.stack([self.poses[i][:3, 3] for i in ids])
        way = np.append(np.cumsum(np.linalg.norm(np.diff(centres, axis=0), axis=1)[::-1])[::-1], 0)
        reach = self.settings.radius_m + self.settings.max_drift * way
        off = np.linalg.norm(centres - centres[-1], axis=1)
        likely = [i for k, i in enumerate(old) if off[k] < reach[k]]
        best = max(likely, key=lambda i: alike[i], default=None)
        return best if best is not None and alike[best] >= self.settings.min_similarity else None

    def _distance(self, a: int, b: int) -> float:
        """Metres between two cameras, turns counted as way; inf when they are too far apart."""
        delta = invert_se3(self.poses[a]) @ self.poses[b]
        off_m = float(np.linalg.norm(delta[:3, 3]))
        cosine = float(np.clip(delta[2, 2], -1.0, 1.0))
        angle_deg = math.degrees(math.acos(cosine))
        if off_m > self.settings.radius_m or angle_deg > self.settings.max_angle_deg:
            return math.inf
        return off_m + angle_deg / self.settings.max_angle_deg

    def measure(self, candidate: LoopCandidate, geometry: WindowGeometry) -> PoseEdge:
        """The closure that a joint window of both ends measures.

        Args:
            candidate: both ends.
            geometry: a window of `candidate.old` followed by `candidate.new`.

        Raises:
            LoopError: the window does not fit an end, or the ends do not see the same place.
        """
        S_old, residual_m = self._fit_end(geometry, range(len(candidate.old)))
        new = range(len(candidate.old), len(geometry.window.keyframes))
        S_new, _ = self._fit_end(geometry, new)
        ratio = S_old.scale / S_new.scale
        if not 1 / MAX_SCALE_RATIO < ratio < MAX_SCALE_RATIO:
            raise LoopError(f"the scale of both ends differs by a factor of {ratio:.2f}")
        share = covisible_share(geometry, range(len(candidate.old)), new)
        if share < self.settings.min_covisible:
            raise LoopError(f"only {share:.0%} of the points are seen from both ends")
        newest = candidate.new[-1].id
        T = self.poses[newest]
        centre = S_old.apply(S_new.inverse().apply(T[:3, 3]))
        closed = make_se3(S_old.R @ S_new.R.T @ T[:3, :3], centre)
        a = candidate.nearest.id
        sigma_m = max(LOOP_SIGMA_M, residual_m / 2)
        return PoseEdge(
            a, newest, invert_se3(self.poses[a]) @ closed, sigma_m, LOOP_SIGMA_RAD, robust=True
        )

    def _fit_end(self, geometry: WindowGeometry, indices: Sequence[int]) -> tuple[Sim3, float]:
        """Similarity from the window to the mapped points of one end, and median residual (m)."""
        src, dst, weights, depths = [], [], [], []
        for index in indices:
            key = geometry.window.keyframes[index].id
            node, T = self._nodes[key], self.poses[key]
            use = np.minimum(geometry.conf[index], node.conf) > 1.0
            depth = np.maximum(np.linalg.norm(node.points_cam[use], axis=1), 1e-6)
            src.append(geometry.points[index][use].astype(np.float64))
            dst.append(node.points_cam[use] @ T[:3, :3].T + T[:3, 3])
            depths.append(depth)
            conf = np.log(np.minimum(geometry.conf[index], node.conf)[use])
            weights.append(conf / depth_product(geometry, index, use, depth))
        if sum(len(s) for s in src) < MIN_END_POINTS:
            raise LoopError("too few confident points at one end")
        try:
            pairs = (np.concatenate(v) for v in (src, dst, weights))
            S, residual = align_sim3_robust(*pairs, symmetric=True)
        except AlignmentError as error:
            raise LoopError(str(error)) from None
        relative = float(np.median(residual / np.concatenate(depths)))
        if relative > self.settings.max_residual:
            raise LoopError(
                f"the joint window is off by {relative:.1%} of the depth at one end "
                f"(limit {self.settings.max_residual:.1%})"
            )
        return S, float(np.median(residual))

    def close(self, edge: PoseEdge) -> dict[int, FloatArray]:
        """Add a closure; the poses of all keyframes that fit it, empty when it fits already.

        Raises:
            LoopError: the measured motions contradict the closure; nothing has changed.
        """
        before = float(edge_sigmas(self.poses, [edge])[0])
        if before < SETTLED_SIGMAS:
            self._edges.append(edge)
            self.closures += 1
            return {}
        edges = [*self._edges, edge]
        try:
            moved = optimize_poses(self.poses, edges, {next(iter(self.poses))})
        except MvDust3rError as error:
            raise LoopError(str(error)) from None
        strain = edge_sigmas(moved, [e for e in self._edges if not e.robust and e.b > edge.a])
        rms = float(np.sqrt((strain**2).mean()))
        left = float(edge_sigmas(moved, [edge])[0])
        if rms > self.settings.max_sigmas or left > GIVEN_UP_SIGMAS:
            raise LoopError(
                f"the closure strains the measured motions by {rms:.1f} sigmas "
                f"(limit {self.settings.max_sigmas:g}) and is still {left:.1f} sigmas off"
            )
        self._edges, self.poses = edges, moved
        self.closures += 1
        return dict(moved)

    def lift(self, rise_m: float) -> dict[int, FloatArray]:
        """Move all keyframes up by `rise_m`; their poses."""
        self.poses = {key: lifted(T, rise_m) for key, T in self.poses.items()}
        return dict(self.poses)

    def resize(self, factors: Mapping[int, float], anchor: FloatArray) -> dict[int, FloatArray]:
        """Scale the points of keyframes, and of the motions between them what the network said.

        What odometry said of them is in metres and stays.

        Args:
            factors: keyframe -> factor of the window that it came with.
            anchor: (3,) point of the map that stays where it is.

        Raises:
            PoseGraphError: the motions do not determine the poses; nothing has changed.
        """
        ids = list(self.poses)
        grown = {key: factors[key] ** self._network_share.get(key, 1.0) for key in ids}
        poses = {key: T.copy() for key, T in self.poses.items()}
        poses[ids[0]][:3, 3] = anchor + factors[ids[0]] * (self.poses[ids[0]][:3, 3] - anchor)
        for a, b in pairwise(ids):
            step = self.poses[b][:3, 3] - self.poses[a][:3, 3]
            poses[b][:3, 3] = poses[a][:3, 3] + grown[b] * step
        edges = [_resized(e, math.sqrt(grown[e.a] * grown[e.b])) for e in self._edges]
        if any(edge.robust for edge in edges):
            poses = optimize_poses(poses, edges, {ids[0]})
        self._nodes = {
            key: replace(n, points_cam=n.points_cam * np.float32(factors[key]))
            for key, n in self._nodes.items()
        }
        self.past.resize(grown)
        self._edges, self.poses = edges, poses
        return dict(poses)


def _resized(edge: PoseEdge, factor: float) -> PoseEdge:
    T = edge.T_a_b.copy()
    T[:3, 3] *= factor
    return replace(edge, T_a_b=T)


def similarity(stored: FloatArray, seen: FloatArray) -> FloatArray:
    """(N, M) cosines between descriptors (N, D) and (M, D), less what all stored ones share."""
    centre = stored.mean(0)
    cosines: FloatArray = _unit(stored - centre) @ _unit(seen - centre).T
    return cosines


def _unit(rows: FloatArray) -> FloatArray:
    unit: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit


def covisible_share(
    geometry: WindowGeometry, seen_from: Sequence[int], seen: Sequence[int]
) -> float:
    """Share of the points of the views `seen` that a view of `seen_from` sees at that depth."""
    clouds = [geometry.points[i][geometry.conf[i] > 1.0] for i in seen]
    points = np.concatenate(clouds).astype(np.float64)
    both = np.zeros(len(points), bool)
    for index in seen_from:
        pose = geometry.poses[index]
        if pose is None or len(points) == 0:
            continue
        cam = (points - pose.T_window_cam[:3, 3]) @ pose.T_window_cam[:3, :3]
        own = (geometry.points[index] - pose.T_window_cam[:3, 3]) @ pose.T_window_cam[:3, 2]
        rows, cols = own.shape
        stride = geometry.window.keyframes[index].view.image_rgb.shape[0] // rows
        front = np.flatnonzero(cam[:, 2] > 1e-6)
        uv = np.rint((project(cam[front], pose.K) - stride // 2) / stride)
        inside = np.all((uv >= 0) & (uv < (cols, rows)), axis=1)
        front, uv = front[inside], uv[inside].astype(int)
        there = own[uv[:, 1], uv[:, 0]]
        trusted = geometry.conf[index][uv[:, 1], uv[:, 0]] > 1.0
        both[front] |= trusted & (np.abs(there - cam[front, 2]) < SAME_DEPTH * cam[front, 2])
    return float(both.mean()) if len(both) else 0.0
