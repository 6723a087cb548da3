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

"""The keyframes of a map and the motions measured between them.

A graph is immutable. Every change (a new window, removed keyframes, a closed loop, corrected sizes
or floor height) returns another one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, Keyframe, Trajectory
from mvdust3r_ros.geometry import invert_se3, lifted
from mvdust3r_ros.graph.driven_path import DrivenPath, Host, OdometryTrack
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.graph.past_path import PastPath
from mvdust3r_ros.placing.known_points import Pointmap
from mvdust3r_ros.placing.pose_fusion import UNIT_FACTORS, PoseSigma, odometry_sigma
from mvdust3r_ros.placing.pose_graph import PoseEdge, optimize_poses, relative_edge
from mvdust3r_ros.placing.scale import ScaleFilter
from mvdust3r_ros.placing.stitching import MapEnd

MAX_TIES = 2
"""Most closures passed on to a neighbour when a keyframe is removed. A place revisited often has
many, and a few constrain it as well."""


class OdometryTie(NamedTuple):
    """Pose of odometry's frame: (4, 4) relative to a keyframe of the graph, the host."""

    host: int
    T_host_odom: FloatArray


@dataclass(frozen=True, eq=False)
class KeyframeGraph:
    """Keyframes with their poses and points, and the motions between them.

    Its size is bounded by the map, not the path: keyframes that leave the map leave the graph.

    Attributes:
        keyframes: id -> keyframe, in commit order.
        edges: measured motions.
        past: poses of removed keyframes.
        overlap: id -> points of the last window's keyframes, to which the next window is joined.
        scale: scale filter of the windows.
        driven_path: where the robot has driven between them.
        tie: latest pose of odometry's frame; None without odometry.
        closures: number of closed loops.
        rel_error: relative point error of the coarsest window.
    """

    keyframes: dict[int, MapKeyframe] = field(default_factory=dict)
    edges: tuple[PoseEdge, ...] = ()
    past: PastPath = field(default_factory=PastPath)
    overlap: dict[int, Pointmap] = field(default_factory=dict)
    scale: ScaleFilter = field(default_factory=ScaleFilter)
    driven_path: DrivenPath = field(default_factory=DrivenPath)
    tie: OdometryTie | None = None
    closures: int = 0
    rel_error: float = 0.0

    @property
    def T_map_odom(self) -> FloatArray | None:  # noqa: N802
        """(4, 4) pose of odometry's frame; None when unknown."""
        tie = self.tie
        return None if tie is None else self.keyframes[tie.host].T_map_cam @ tie.T_host_odom

    @property
    def poses(self) -> dict[int, FloatArray]:
        """Keyframe -> (4, 4) T_map_cam."""
        return {key: item.T_map_cam for key, item in self.keyframes.items()}

    @property
    def overlap_keyframes(self) -> tuple[Keyframe, ...]:
        """Keyframes of the last window, oldest first."""
        return tuple(self.keyframes[key].keyframe for key in self.overlap)

    @property
    def end(self) -> MapEnd:
        """The last window, to which the next one is joined."""
        poses = {key: self.keyframes[key].T_map_cam for key in self.overlap}
        return MapEnd(self.overlap, poses, self.T_map_odom, self.scale)

    def end_at(self, keyframes: Sequence[Keyframe]) -> MapEnd:
        """Return the given keyframes as the part of the map to join a window to."""
        items = {k.id: self.keyframes[k.id] for k in keyframes}
        points = {key: item.pointmap for key, item in items.items()}
        poses = {key: item.T_map_cam for key, item in items.items()}
        return MapEnd(points, poses, self.T_map_odom, self.scale)

    def path(self, camera_name: str = "") -> Trajectory:
        """Return the poses of all keyframes, removed ones included, of one camera or all."""
        present = {
            item.keyframe.stamp_ns: item.T_map_cam
            for item in self.keyframes.values()
            if camera_name in ("", item.keyframe.camera_name)
        }
        stamps_ns, past = self.past.poses(self.poses, camera_name)
        own = np.array(list(present.values())).reshape(-1, 4, 4)
        stamps_ns = np.append(stamps_ns, np.array(list(present), np.int64))
        # of several simultaneous images, the newest pose
        stamps_ns, newest = np.unique(stamps_ns[::-1], return_index=True)
        return Trajectory(stamps_ns, np.concatenate([past, own])[::-1][newest])

    def with_window(
        self,
        seen: Sequence[MapKeyframe],
        scale: ScaleFilter,
        track: OdometryTrack,
        odom_rel_sigma: float,
        sigma_factors: PoseSigma = UNIT_FACTORS,
    ) -> KeyframeGraph:
        """Return the graph with a window added.

        Args:
            seen: its keyframes, oldest first; mapped ones at their poses in the map.
            scale: the filter after it.
            track: odometry's robot poses between its keyframes.
            odom_rel_sigma: relative uncertainty of the motion between neighbours.
            sigma_factors: factors of odometry's sigmas for its motions, see `FusedPoses`.
        """
        placed = {item.id: item.T_map_cam for item in seen}
        ids = list(placed)
        if self.keyframes and not any(key in self.keyframes for key in ids):
            ids.insert(0, next(reversed(self.keyframes)))  # a window without overlap
        poses, edges = {**self.poses, **placed}, list(self.edges)
        for a, b in pairwise(ids):
            if a not in self.keyframes or b not in self.keyframes:
                sigma = odometry_sigma(poses[a], poses[b], odom_rel_sigma)
                if a in placed:
                    sigma = PoseSigma(sigma_factors.m * sigma.m, sigma_factors.rad * sigma.rad)
                edges.append(relative_edge(a, b, poses[a], poses[b], sigma.m, sigma.rad))
        new = {item.id: item for item in seen if item.id not in self.keyframes}
        return replace(
            self, keyframes={**self.keyframes, **new}, edges=tuple(edges),
            overlap={item.id: item.pointmap for item in seen}, scale=scale,
            driven_path=self._driven(new.values(), track),
        )  # fmt: skip

    def _driven(self, new: Iterable[MapKeyframe], track: OdometryTrack) -> DrivenPath:
        """Return the path extended between keyframes that have the robot's pose."""
        hosts = (Host.of(m.keyframe, m.T_map_cam) for m in reversed(list(self.keyframes.values())))
        before, stretches = next((host for host in hosts if host is not None), None), []
        for item in new:
            after = Host.of(item.keyframe, item.T_map_cam)
            if after is not None:
                stretches.append(DrivenPath.stretch(before, after, track))
                before = after
        return self.driven_path.followed_by(stretches) if stretches else self.driven_path

    def tied_to(self, keyframe: Keyframe) -> KeyframeGraph:
        """Return the graph with odometry's frame tied to a keyframe, if that has odometry."""
        if keyframe.view.T_odom_cam is None or keyframe.id not in self.keyframes:
            return self
        return replace(self, tie=OdometryTie(keyframe.id, invert_se3(keyframe.view.T_odom_cam)))

    def at(self, poses: Mapping[int, FloatArray]) -> KeyframeGraph:
        """Return the graph with other poses of all keyframes."""
        keyframes = {
            key: replace(item, T_map_cam=poses[key]) for key, item in self.keyframes.items()
        }
        return replace(self, keyframes=keyframes)

    def drawn_as(self, better: Collection[MapKeyframe]) -> KeyframeGraph:
        """Return the graph with the points to draw of some keyframes replaced."""
        changed = {item.id: self.keyframes[item.id].drawn_as(item) for item in better}
        return replace(self, keyframes={**self.keyframes, **changed})

    def levelled(self, levels: Mapping[int, float]) -> KeyframeGraph:
        """Return the graph with the points to draw levelled: window -> factor."""
        keyframes = {key: m.levelled(levels[m.window]) for key, m in self.keyframes.items()}
        return replace(self, keyframes=keyframes)

    def with_way_within(self, centre: FloatArray, radius_m: float) -> KeyframeGraph:
        """Return the graph with the driven path within a radius of `centre` (3,), map frame."""
        return replace(self, driven_path=self.driven_path.within(self.poses, centre, radius_m))

    def with_past_within(self, centre: FloatArray, radius_m: float) -> KeyframeGraph:
        """Return the graph without past poses beyond a radius from `centre` (3,), map frame."""
        return replace(self, past=self.past.within(self.poses, centre, radius_m))

    def closed(self, edge: PoseEdge, poses: Mapping[int, FloatArray] | None) -> KeyframeGraph:
        """Return the graph with a loop closed and corrected poses; None leaves poses unchanged."""
        closed = replace(self, edges=(*self.edges, edge), closures=self.closures + 1)
        return closed if poses is None else closed.at(poses)

    def higher(self, rise_m: float) -> KeyframeGraph:
        """Return the graph with everything raised."""
        return self.at({key: lifted(T, rise_m) for key, T in self.poses.items()})

    def resized(self, corrections: FloatArray, anchor: FloatArray) -> KeyframeGraph:
        """Rescale windows: their points, and the network's share of the motions between keyframes.

        Odometry's share of the motions is metric and does not change.

        Args:
            corrections: (N,) log factors of the windows in the scale history.
            anchor: (3,) point of the map that stays fixed.

        Raises:
            PoseGraphError: the motions do not determine the poses.
        """
        factors = self.factors(corrections)
        ids, old = list(self.keyframes), self.poses
        grown = {key: factors[key] ** self.keyframes[key].network_share for key in ids}
        poses = {key: T.copy() for key, T in old.items()}
        poses[ids[0]][:3, 3] = anchor + factors[ids[0]] * (old[ids[0]][:3, 3] - anchor)
        for a, b in pairwise(ids):
            step = old[b][:3, 3] - old[a][:3, 3]
            poses[b][:3, 3] = poses[a][:3, 3] + grown[b] * step
        edges = tuple(_resized(e, math.sqrt(grown[e.a] * grown[e.b])) for e in self.edges)
        if any(edge.robust for edge in edges):
            poses = optimize_poses(poses, edges, {ids[0]})
        larger = replace(
            self,
            keyframes={k: m.resized(factors[k]) for k, m in self.keyframes.items()},
            edges=edges,
            past=self.past.resized(grown),
            overlap={k: points.resized(factors[k]) for k, points in self.overlap.items()},
            scale=self.scale.resized(corrections),
        )
        return larger.at(poses)

    def factors(self, corrections: FloatArray) -> dict[int, float]:
        """Return keyframe -> factor of its points, for (N,) corrections of the scale's windows."""
        index = self.scale.history.index
        return {
            key: math.exp(corrections[index(item.sized_by)])
            for key, item in self.keyframes.items()
        }

    def without(self, ids: Collection[int]) -> KeyframeGraph:
        """Return the graph without some keyframes; the poses that they linked do not move.

        Their own poses remain in the path, tied to a neighbour.
        """
        graph, leave = self, [key for key in ids if key in self.keyframes]
        leave = leave[: len(self.keyframes) - 1]  # one must remain
        if leave and len(self.driven_path):
            poses = self.poses
            graph = replace(
                self, driven_path=self.driven_path.rehosted(leave, poses).bounded(poses)
            )
        for key in leave:
            graph = graph._merged(key)
        return graph

    def _merged(self, key: int) -> KeyframeGraph:
        """Merge a keyframe into a neighbour, mostly its predecessor."""
        poses, leaving = self.poses, self.keyframes[key]
        own = [e for e in self.edges if key in (e.a, e.b)]
        via = min(own, key=lambda e: (e.robust, e.b != key), default=None)
        host = next(k for k in poses if k != key) if via is None else via.a + via.b - key
        edges = [e for e in self.edges if key not in (e.a, e.b)]
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
            tie = relative_edge(a, b, poses[a], poses[b], sigma_m, sigma_rad)
            edges.append(replace(tie, robust=edge.robust))
        T_host_key = invert_se3(poses[host]) @ poses[key]
        stamp_ns, camera = leaving.keyframe.stamp_ns, leaving.keyframe.camera_name
        past, odometry = self.past.rehosted(key, host, T_host_key), self.tie
        if odometry is not None and odometry.host == key:
            odometry = OdometryTie(host, T_host_key @ odometry.T_host_odom)
        return replace(
            self,
            keyframes={k: item for k, item in self.keyframes.items() if k != key},
            edges=tuple(edges),
            past=past.with_pose(stamp_ns, camera, host, T_host_key),
            tie=odometry,
            overlap={k: points for k, points in self.overlap.items() if k != key},
        )


def _resized(edge: PoseEdge, factor: float) -> PoseEdge:
    T = edge.T_a_b.copy()
    T[:3, 3] *= factor
    return replace(edge, T_a_b=T)
