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

"""Incremental SfM from images alone: initial pair, then views (Snavely 2006, Schonberger 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import invert_se3, make_se3
from mvdust3r_ros.sfm.bundle import MotionPrior
from mvdust3r_ros.sfm.matching import Matcher, Pair, Verified
from mvdust3r_ros.sfm.priors import among
from mvdust3r_ros.sfm.solve import Cameras, Solution, solve
from mvdust3r_ros.sfm.two_view import RANSAC_SURE, TwoViews, verify_pair

IndexArray = npt.NDArray[np.intp]

MIN_PARALLAX_PX = 2.5
"""Least median parallax of the initial pair. Insensitive from 1.25 to 5 (benchmarks/constants.py,
office alone)."""
ENOUGH_PARALLAX_PX = 20.0
"""Parallax above this does not improve the rank of an initial pair: 3 degrees at 384 pixels.
Insensitive from 10 to 40 (benchmarks/constants.py, office alone, 60 images)."""
MIN_PAIR_POINTS = 20
"""Least matches of the initial pair, a few more than of any pair (`two_view.MIN_MATCHES`). Not
reached in the office, whose pairs have more (benchmarks/constants.py, office alone, 60 images): it
is for scenes with little texture."""
UNSURE_PX = 4.0
"""Largest distance from the epipolar line if the focal length is a guess, wrong by up to 21 %
(`FOCAL_STARTS`). Tests pass from 2 to 4; at 5.6 a rotation is off by 1.7 degrees instead of less
than 1 (test/test_sfm_window_poses.py)."""
MIN_RESECTION_POINTS = 15
"""Least model points in a view for resection: three samples of RANSAC. Insensitive from 8 to 30
(benchmarks/constants.py, office alone)."""
PNP_PX = 4.0
"""Largest reprojection error in resection: the first of `GOOD_PX`. Insensitive from 2 to 8
(benchmarks/constants.py, office alone)."""
PNP_ROUNDS = 300
"""RANSAC samples of 5 points (EPnP in OpenCV): with 47 % inliers or more, one is free of outliers
with a probability of 99.9 %."""
STARTS = 3
"""Initial pairs tried at most: the next only if the ones before did not lead to all views. Tests
pass from 2 to 6 (test/test_sfm_window_poses.py)."""


def start_pairs(
    matcher: Matcher, seen: Mapping[Pair, Verified], K: FloatArray
) -> list[tuple[Pair, TwoViews]]:
    """Return candidate initial pairs, best first: many matches and much parallax.

    Args:
        matcher: matcher of the window.
        seen: verified matches.
        K: (V, 3, 3) intrinsics, or initial guesses.
    """
    score, geometry = {}, {}
    for pair, verified in seen.items():
        two = verified.geometry
        if two.T_b_a is None and len(verified.index) >= MIN_PAIR_POINTS:
            uv = matcher.pixels_of(pair, verified.index)
            two = verify_pair(*uv, K[pair[0]], K[pair[1]], UNSURE_PX) or two
        count = int(two.inliers.sum())
        if two.parallax_px >= MIN_PARALLAX_PX and count >= MIN_PAIR_POINTS:
            score[pair] = count * min(two.parallax_px, ENOUGH_PARALLAX_PX)
            geometry[pair] = two
    return [(pair, geometry[pair]) for pair in sorted(score, key=lambda p: -score[p])]


def grow(
    start: Mapping[int, FloatArray],
    K: FloatArray,
    pixels: FloatArray,
    cameras: Cameras,
    priors: Sequence[MotionPrior] = (),
) -> tuple[list[int], Solution] | None:
    """Place as many views as possible, starting from some posed views.

    Args:
        start: view -> (4, 4) initial pose.
        K: (V, 3, 3) intrinsics, or initial guesses.
        pixels: (P, V, 2) tracks, NaN where not seen.
        cameras: camera groups and their priors.
        priors: measured motions, in the unit of `start`.

    Returns:
        The placed views in ascending order and their solution in the frame of the first; None if
        adjusting the initial views fails.
    """
    linked = {view for p in priors for view in (p.a, p.b)}

    def adjusted(
        views: Sequence[int], T: FloatArray, K: FloatArray
    ) -> tuple[list[int], Solution] | None:
        """Adjust views and points; return views in ascending order, in the frame of the first."""
        order = np.argsort(views)
        chosen = [views[i] for i in order]
        T = invert_se3(T[order[0]]) @ T[order]
        held = among(priors, chosen)
        part, free = pixels[:, chosen], cameras.of(chosen)
        solution = solve(T, K[chosen], part, held, cameras=free, iterations=5)
        if solution is None:
            return None
        few = solution.view_points < MIN_RESECTION_POINTS
        return None if any(f and v not in linked for f, v in zip(few, chosen, strict=True)) else (
            chosen, solution
        )  # fmt: skip

    now = adjusted(list(start), np.stack(list(start.values())), K)
    failed: set[int] = set()
    while now is not None:
        views, solution = now
        view = _next_view(views, solution, pixels, failed)
        if view is None:
            return now
        pose = _pose_of(view, solution, _current(K, views, solution), pixels)
        grown = None
        if pose is not None:
            T = np.concatenate([solution.T, pose[None]])
            grown = adjusted([*views, view], T, _current(K, views, solution))
        if grown is None:
            failed.add(view)
        else:
            now, failed = grown, set()
    return None


def _current(K: FloatArray, views: Sequence[int], solution: Solution) -> FloatArray:
    """Return (V, 3, 3) intrinsics; unplaced views get the median change of the placed ones."""
    factor = solution.K[:, 0, 0] / K[list(views), 0, 0]
    current = K.copy()
    current[:, 0, 0] *= np.median(factor)
    current[:, 1, 1] *= np.median(factor)
    current[list(views)] = solution.K
    return current


def _next_view(
    views: Sequence[int], solution: Solution, pixels: FloatArray, failed: set[int]
) -> int | None:
    """Return the unplaced view that sees most points; None if too few."""
    sees = ~np.isnan(pixels[solution.good.any(1)][..., 0])
    count = sees.sum(0)
    count[[*views, *failed]] = 0
    return int(count.argmax()) if count.max() >= MIN_RESECTION_POINTS else None


def _pose_of(
    view: int, solution: Solution, K: FloatArray, pixels: FloatArray
) -> FloatArray | None:
    """Return the (4, 4) pose of a view by resection (PnP); None if it fails."""
    use = solution.good.any(1) & ~np.isnan(pixels[:, view, 0])
    points, uv = solution.points[use], pixels[use, view]
    unit = float(np.median(np.linalg.norm(points, axis=1)))
    try:
        found, turn, t, inliers = cv2.solvePnPRansac(
            points / unit, uv, K[view], np.zeros(0), iterationsCount=PNP_ROUNDS,
            reprojectionError=PNP_PX, confidence=RANSAC_SURE, flags=cv2.SOLVEPNP_SQPNP,
        )  # fmt: skip
    except cv2.error:
        return None
    if not found or inliers is None or len(inliers) < MIN_RESECTION_POINTS:
        return None
    R = np.asarray(cv2.Rodrigues(turn)[0], float)
    return np.asarray(invert_se3(make_se3(R, np.ravel(t) * unit)))
