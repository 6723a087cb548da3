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

"""Refinement of poses recovered from pointmaps, by features that the views share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

from mvdust3r_ros.datatypes import (
    BoolArray,
    FloatArray,
    MvDust3rError,
    View,
    ViewPose,
    WindowPrediction,
    is_point,
)
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.sfm.bundle import MotionPrior
from mvdust3r_ros.sfm.features import ViewFeatures, view_features
from mvdust3r_ros.sfm.gates import explained_share, strong_views
from mvdust3r_ros.sfm.matching import Matcher
from mvdust3r_ros.sfm.solve import GOOD_PX, ROUGH_PX, Solution, solve
from mvdust3r_ros.sfm.window_poses import MAX_TURN_SIGMA_RAD
from mvdust3r_ros.wording import percent, plural

IndexArray = npt.NDArray[np.intp]

REMEMBERED_VIEWS = 24
"""Views whose features are cached: as many as three overlapping windows hold."""
UNKNOWN_REL_ERROR = 0.1
"""Assumed for engines that do not report their point error: between the bundled engines' 0.045 and
0.27."""
POSE_SHARE = 0.5
"""Sigma of a recovered pose per axis, relative to the error of the points: rotation in radians,
position in median depths of the window. For the room model this is 8 degrees, so matches dominate
wherever there are some."""
MIN_REFINED_POINTS, MIN_SHARED = 15, 12
"""Least number of points in a view, and shared by two linked views: fewer than poses without an
initial guess would need."""
MIN_VIEWS = 3
"""Least number of views constrained by images for a refinement."""
MIN_REFINED_SHARE = 0.8
"""Least share of pairwise matches that the refined poses explain: between the limits for images
with odometry and for images alone (`sfm.window_poses`)."""
FIRST_SIGMAS = 2.0
"""In the first round, an observation counts if its residual is no larger than a rotation by so
many sigmas would cause."""
ROUGH_STEPS = 6
"""Most steps of each early round, from the recovered poses on; the last uses the limit of
`solve`."""


class UnrefinedError(MvDust3rError):
    """The images do not constrain better poses."""


@dataclass(frozen=True, eq=False)
class Refined:
    """A window after refinement.

    Attributes:
        points: (V, H, W, 3) pointmaps in the frame of the reference; those of a refined view have
            moved with its pose, so that its depth is unchanged.
        poses: of each view, None where none was recovered.
        note: which recovered poses were kept, and why; empty if all were refined.
    """

    points: FloatArray
    poses: list[ViewPose | None]
    note: str


def refine_poses(
    prediction: WindowPrediction,
    views: Sequence[View],
    poses: Sequence[ViewPose | None],
    rel_error: float,
    max_residual: float,
) -> Refined:
    """Refine recovered poses by bundle adjustment of matched features, with the poses as priors.

    Odometry and rig are excluded, since they are fused later, once. Distances follow the depth of
    the pointmaps, so that the window keeps its scale. Nothing changes if the images do not
    constrain better poses, or if pointmaps and triangulated points disagree.

    Args:
        prediction: pointmaps of V views, of which path 0 is used.
        views: the V views; refined only if all of those with a pose have K.
        poses: from `recover_poses`.
        rel_error: typical relative error of a point's distance; 0 when unknown.
        max_residual: largest median distance of pointmaps from triangulated points, as a share
            of their depth.
    """
    points, conf, reference = prediction.points[0], prediction.conf[0], prediction.references[0]
    order = [reference, *(i for i, p in enumerate(poses) if p is not None and i != reference)]
    recovered = [pose for i in order if (pose := poses[i]) is not None]
    T_old = np.stack([pose.T_window_cam for pose in recovered])
    try:
        unit = _typical_depth(points[reference], conf[reference])
        found = _adjusted([views[i] for i in order], T_old, unit, rel_error or UNKNOWN_REL_ERROR)
        pairs = _PointPairs.of(found, points[order], conf[order], T_old)
        scale = pairs.scale()
        held = found.held & pairs.fitting(len(order), scale, max_residual)
        _check_enough(held, "whose pointmaps lie where images see them")
    except UnrefinedError as why:
        return Refined(points, list(poses), f"recovered poses stay: {why}")
    T_new = found.T.copy()
    T_new[:, :3, 3] *= scale
    moved, better = points.copy(), list(poses)
    for k in np.flatnonzero(held[1:]) + 1:
        at, T = order[k], (T_new[k] @ invert_se3(T_old[k])).astype(points.dtype)
        moved[at] = points[at] @ T[:3, :3].T + T[:3, 3]
        better[at] = replace(recovered[k], T_window_cam=T_new[k])
    left = sorted(order[k] for k in np.flatnonzero(~held).tolist())
    words = f"recovered poses stay in {plural(len(left), 'view')} ({', '.join(map(str, left))})"
    return Refined(moved, better, words if left else "")


@lru_cache(REMEMBERED_VIEWS)
def _features(view: View) -> ViewFeatures:
    return view_features(view)


def _typical_depth(points_cam: FloatArray, conf: FloatArray) -> float:
    depth = points_cam[..., 2][is_point(conf)]
    median = float(np.median(depth)) if len(depth) else 0.0
    if median <= 0:
        raise UnrefinedError("the pointmap of the reference has no depth")
    return median


@dataclass(frozen=True, eq=False)
class _Adjusted:
    """Result of the bundle adjustment.

    Attributes:
        T: (V, 4, 4) poses in the frame of the first view.
        points: (P, 3) triangulated points.
        pixels: (P, V, 2) their observations.
        good: (P, V) observations that are inliers.
        held: (V,) views whose poses the images constrain.
    """

    T: FloatArray
    points: FloatArray
    pixels: FloatArray
    good: BoolArray
    held: BoolArray


def _adjusted(views: Sequence[View], T: FloatArray, unit: float, rel_error: float) -> _Adjusted:
    """Bundle-adjust the views, the reference first; `unit` is a typical depth.

    Raises:
        UnrefinedError: too few matches agree.
    """
    given = [view.K for view in views if view.K is not None]
    if len(given) < len(views):
        raise UnrefinedError("no camera_info")
    K, everything, sigma = np.stack(given).astype(float), range(len(views)), POSE_SHARE * rel_error
    priors = [MotionPrior(0, v, T[v], sigma, sigma * unit) for v in everything[1:]]
    matcher = Matcher([_features(view) for view in views], None)
    verified = matcher.verified(given, None)
    pixels = matcher.tracks({p: v.index for p, v in verified.items()}, everything)
    first_px = FIRST_SIGMAS * sigma * float(K[:, 0, 0].max())
    found = solve(T, K, pixels, priors, None, (first_px, *ROUGH_PX), iterations=ROUGH_STEPS)
    if found is not None:
        pixels = matcher.agreeing(found.T, K, everything)
        found = solve(found.T, K, pixels, priors, None, GOOD_PX[-1:])
    if found is None:
        raise UnrefinedError("too few matches agree")
    size_wh = np.array([view.image_rgb.shape[1::-1] for view in views], float)
    held = _held(found, pixels, size_wh)
    at = np.flatnonzero(held).tolist()
    share = explained_share(matcher, verified, found.T[held], K[held], at)
    if share < MIN_REFINED_SHARE:
        raise UnrefinedError(f"only {percent(share)} of the matches explained")
    return _Adjusted(found.T, found.points, pixels, found.good & held, held)


def _held(found: Solution, pixels: FloatArray, size_wh: FloatArray) -> BoolArray:
    """(V,) the first view, and views whose poses relative to it the images constrain.

    Raises:
        UnrefinedError: too few views are constrained.
    """
    turn = np.sqrt(np.diag(found.covariance)).reshape(-1, 6)[:, :3]
    sure = np.linalg.norm(turn, axis=1) < MAX_TURN_SIGMA_RAD
    strong = strong_views(found.good, pixels, size_wh, MIN_REFINED_POINTS)
    held = np.asarray(strong & sure & _linked(found.good & strong))
    _check_enough(held, "that images hold")
    return held


def _check_enough(held: BoolArray, which: str) -> None:
    if not held[0]:
        raise UnrefinedError(f"the reference is no view {which}")
    if held.sum() < MIN_VIEWS:
        raise UnrefinedError(f"only {plural(int(held.sum()), 'view')} {which}")


def _linked(good: BoolArray) -> BoolArray:
    """(V,) views that share points with the first one, directly or through other views."""
    seen = good.astype(int)
    _, group = connected_components(seen.T @ seen >= MIN_SHARED, directed=False)
    return np.asarray(group == group[0])


@dataclass(frozen=True, eq=False)
class _PointPairs:
    """Triangulated points and pointmap points of all good observations.

    Attributes:
        view: (N,) view of each.
        seen: (N, 3) triangulated point in the camera frame.
        mapped: (N, 3) the pointmap's point at the nearest pixel, in the camera frame.
    """

    view: IndexArray
    seen: FloatArray
    mapped: FloatArray

    @classmethod
    def of(
        cls, found: _Adjusted, points: FloatArray, conf: FloatArray, T_old: FloatArray
    ) -> _PointPairs:
        """Look up the observations in pointmaps (V, H, W, 3) made with poses `T_old`."""
        point, view = np.nonzero(found.good)
        pixel = np.rint(found.pixels[point, view]).astype(int)
        u, v = pixel.clip(0, np.array(conf.shape[:0:-1]) - 1).T
        known = is_point(conf[view, v, u])
        point, view, u, v = point[known], view[known], u[known], v[known]
        return cls(
            view,
            _in_camera(found.points[point], found.T[view]),
            _in_camera(points[view, v, u], T_old[view]),
        )

    def scale(self) -> float:
        """Return the factor from triangulated to pointmap depth; NaN if there are none."""
        return float(np.median(self.mapped[:, 2] / self.seen[:, 2])) if len(self.view) else np.nan

    def fitting(self, count: int, scale: float, max_residual: float) -> BoolArray:
        """(count,) views whose pointmaps agree with the triangulated points."""
        if not scale > 0:
            return np.zeros(count, bool)
        apart = np.linalg.norm(self.mapped - scale * self.seen, axis=1)
        residual = apart / (scale * self.seen[:, 2])
        own = [residual[self.view == v] for v in range(count)]
        return np.array([len(r) > 0 and float(np.median(r)) <= max_residual for r in own])


def _in_camera(points: FloatArray, T: FloatArray) -> FloatArray:
    """Transform (N, 3) points to the frames of N cameras."""
    return np.asarray(np.einsum("nji,nj->ni", T[:, :3, :3], points - T[:, :3, 3]))
