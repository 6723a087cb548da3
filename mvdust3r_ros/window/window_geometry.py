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

"""A window in its own frame: poses, thinned points, and how its views relate to each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mvdust3r_ros.datatypes import (
    BoolArray,
    FloatArray,
    IntArray,
    Keyframe,
    MvDust3rError,
    Verdict,
    ViewPose,
    Window,
    is_point,
)

MIN_CONFLICT_SHARE = 0.2
"""Least share of a view's pixels that another view must see for the two to be compared.
Insensitive from 0.1 to 0.4 (benchmarks/constants.py)."""
IN_FRONT = 0.75
"""A point nearer than this share of the depth that a view sees would occlude it: a larger
difference than the engines' random errors, smaller than that of objects in front of a wall.
Insensitive from 0.375 on (benchmarks/constants.py); at 1 every window contradicts itself."""
SAME_DEPTH = 0.1
"""Largest relative depth difference of points on the same surface: two sigmas of the engine's
points. Insensitive from 0.05 to 0.2 (benchmarks/constants.py)."""
NEAREST = 1e-6
"""Keeps divisions by a depth finite; in metres or in median depths, no camera sees so near."""


class WindowError(MvDust3rError):
    """A window cannot be used.

    Attributes:
        verdict: the reason.
    """

    def __init__(self, verdict: Verdict, message: str) -> None:
        """Store the verdict with the message."""
        super().__init__(message)
        self.verdict = verdict


Posed = tuple[int, Keyframe, ViewPose]
"""Index, keyframe and pose of a view with a known pose."""


class Sighting(NamedTuple):
    """Points that project into a view's image.

    Attributes:
        which: (M,) indices of the points.
        row: (M,) pixel row in the thinned image.
        col: (M,) pixel column.
        depth: (M,) depth along the optical axis.
    """

    which: IntArray
    row: IntArray
    col: IntArray
    depth: FloatArray


@dataclass(frozen=True)
class WindowGeometry:
    """The part of a window's reconstruction that the map needs.

    Attributes:
        window: the keyframes.
        points: (V, h, w, 3) pointmaps in the window's frame, thinned out.
        conf: (V, h, w) confidence, see `is_point`.
        poses: pose of each view, None where it was not recovered.
        metric: whether the engine gives the window in metres.
        depth_m: (V, h, w) measured depth of the same pixels, NaN where unknown; None without.
        rel_error: typical relative error of a point's distance; 0 when unknown.
        used_odometry: whether the poses already include odometry, see `Stitcher`.
        pose_covariance: (V, 6, 6) of the poses, see `WindowPrediction`; None when unknown.
        note: the engine's remark on the window.
    """

    window: Window
    points: FloatArray
    conf: FloatArray
    poses: list[ViewPose | None]
    metric: bool
    depth_m: FloatArray | None = None
    rel_error: float = 0.0
    used_odometry: bool = False
    pose_covariance: FloatArray | None = None
    note: str = ""

    @cached_property
    def valid(self) -> BoolArray:
        """(V, h, w) mask of the pixels that have a point."""
        return is_point(self.conf)

    @property
    def stride(self) -> int:
        """Pixels of the views per thinned point; the first point lies half a stride from 0."""
        return int(self.window.keyframes[0].view.image_rgb.shape[0] // self.conf.shape[1])

    @property
    def thin(self) -> slice:
        """Rows, and columns, of the views that have a thinned point."""
        return slice(self.stride // 2, None, self.stride)

    def posed(self) -> Iterator[Posed]:
        """Yield the views with a known pose, in order."""
        for index, (keyframe, pose) in enumerate(
            zip(self.window.keyframes, self.poses, strict=True)
        ):
            if pose is not None:
                yield index, keyframe, pose

    def check_adds_views(self, known: Collection[int]) -> None:
        """Refuse a window that gives no pose to any new keyframe.

        Args:
            known: ids of the keyframes of the map.

        Raises:
            WindowError: none of the new views has a pose.
        """
        if all(keyframe.id in known for _, keyframe, _ in self.posed()):
            raise WindowError(Verdict.REJECTED_POSE, "none of the new views has a pose")

    def with_odometry(self) -> tuple[FloatArray, FloatArray]:
        """Return (N, 4, 4) window poses and odometry poses of the views that have both."""
        pairs = [
            (pose.T_window_cam, keyframe.view.T_odom_cam)
            for _, keyframe, pose in self.posed()
            if keyframe.view.T_odom_cam is not None
        ]
        if not pairs:
            return np.zeros((0, 4, 4)), np.zeros((0, 4, 4))
        own, odometry = zip(*pairs, strict=True)
        return np.stack(own), np.stack(odometry)

    @property
    def first_pose(self) -> FloatArray:
        """(4, 4) pose of the first view that has one."""
        return next(pose.T_window_cam for _, _, pose in self.posed())

    def points_cam(self, index: int) -> FloatArray:
        """Return (h, w, 3) points of a posed view in its camera frame, window units."""
        T = self._pose(index).T_window_cam
        own: FloatArray = (self.points[index] - T[:3, 3]) @ T[:3, :3]
        return own

    def depth(self, index: int) -> FloatArray:
        """Return (h, w) depth of a posed view's points along its optical axis."""
        T = self._pose(index).T_window_cam
        depth: FloatArray = (self.points[index] - T[:3, 3]) @ T[:3, 2]
        return depth

    def distance(self, index: int, use: BoolArray) -> FloatArray:
        """Return (N,) distances of selected points from the optical centre of a posed view."""
        T = self._pose(index).T_window_cam
        return np.asarray(np.linalg.norm(self.points[index][use] - T[:3, 3], axis=1))

    def sighted(self, index: int, points: FloatArray) -> Sighting:
        """Return which of (N, 3) points, in the window's frame, project into a posed view."""
        pose, (rows, cols), stride = self._pose(index), self.conf.shape[1:], self.stride
        shift = self.thin.start / stride
        cell_from_pixel = np.array([[1 / stride, 0, -shift], [0, 1 / stride, -shift], [0, 0, 1]])
        R, t = pose.T_window_cam[:3, :3], pose.T_window_cam[:3, 3]
        P = cell_from_pixel @ pose.K @ R.T
        x, y, z = P.astype(points.dtype) @ points.T - (P @ t).astype(points.dtype)[:, None]
        front = np.maximum(z, NEAREST)
        u, v = np.rint(x / front), np.rint(y / front)
        inside = (z > NEAREST) & (u >= 0) & (u < cols) & (v >= 0) & (v < rows)
        which = np.flatnonzero(inside)
        return Sighting(which, v[which].astype(np.intp), u[which].astype(np.intp), z[which])

    def worst_conflict(self) -> float:
        """Return the largest share, over all view pairs, of points that occlude the other.

        A pair counts if its common pixels are MIN_CONFLICT_SHARE of a view or more; 0 without any.
        """
        count, (rows, cols) = len(self.poses), self.conf.shape[1:]
        posed = np.array([pose is not None for pose in self.poses])
        trusted = self.valid & posed[:, None, None]
        view_of, points = np.nonzero(trusted)[0], self.points[trusted].astype(np.float32)
        common, through = np.zeros((count, count)), np.zeros((count, count))
        for a, _, _ in self.posed():
            own = self.depth(a)
            which, row, col, depth = self.sighted(a, points)
            there = own[row, col]
            use = trusted[a][row, col] & (there > 0)
            views, nearer = view_of[which][use], depth[use] < IN_FRONT * there[use]
            common[a] = np.bincount(views, minlength=count)
            through[a] = np.bincount(views, nearer, count)
        common, through = common + common.T, through + through.T
        least = MIN_CONFLICT_SHARE * rows * cols
        return float((through / np.maximum(common, least))[common >= least].max(initial=0.0))

    def seen_by_both(self, index: int, points: FloatArray) -> Sighting:
        """Return which of (N, 3) points a posed view sees at the same depth."""
        found = self.sighted(index, points)
        there = self.depth(index)[found.row, found.col]
        same = np.abs(there - found.depth) < SAME_DEPTH * found.depth
        same &= self.valid[index][found.row, found.col]
        return Sighting(found.which[same], found.row[same], found.col[same], found.depth[same])

    def covisible_share(self, seen_from: Sequence[int], seen: Sequence[int]) -> float:
        """Share of the points of the views `seen` that a view of `seen_from` sees as well."""
        points = np.concatenate([self.points[i][self.valid[i]] for i in seen]).astype(np.float64)
        both = np.zeros(len(points), bool)
        for index in seen_from:
            if self.poses[index] is not None and len(points):
                both[self.seen_by_both(index, points).which] = True
        return float(both.mean()) if len(both) else 0.0

    def _pose(self, index: int) -> ViewPose:
        pose = self.poses[index]
        assert pose is not None
        return pose
