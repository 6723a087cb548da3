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

"""Gates for poses from images: enough points, well spread, consistent, not on one plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mvdust3r_ros.datatypes import BoolArray, FloatArray
from mvdust3r_ros.sfm.matching import AGREE_PX, Matcher, Pair, Verified
from mvdust3r_ros.sfm.two_view import (
    epipolar_distance,
    fundamental_of,
    normalised,
    one_plane,
    parallax_px,
)

MIN_VIEW_POINTS = 30
"""Least points of a view with a pose from images: twice those of a pair (`two_view.MIN_MATCHES`).
Insensitive from 15 to 60 (benchmarks/constants.py, office with odometry)."""
GRID, MIN_COVERED_CELLS = 4, 5
"""Rows and columns of a grid over the image, and the least number of cells with points: more than
an object of a quarter of the image covers. The number is insensitive from 2 to 10
(benchmarks/constants.py, office with odometry)."""
PLANE_PARALLAX_PX, PLANE_SIGMAS = 3.0, 4.0
"""Pairs with less parallax do not distinguish a plane from a room; a match lies on a plane if its
error is within so many sigmas. Tests pass from 1.5 to 3 and from 4 to 8: with 4.2 pixels a room
counts as a plane, with 2.8 sigmas a plane as a room (test/test_sfm_window_poses.py)."""


def strong_views(
    good: BoolArray, pixels: FloatArray, size_wh: FloatArray, least: int = MIN_VIEW_POINTS
) -> BoolArray:
    """Return the (V,) mask of views that see enough points, spread over the image.

    Args:
        good: (P, V) inlier observations; ignored unless it has as many tracks as `pixels`.
        pixels: (P, V, 2), NaN where not seen.
        size_wh: (V, 2) width and height of the views in pixels.
        least: least number of points.
    """
    seen = ~np.isnan(pixels[..., 0])
    if len(good) == len(pixels):
        seen &= good
    cell = np.nan_to_num(pixels / size_wh * GRID).astype(int).clip(0, GRID - 1)
    number = cell[..., 0] + GRID * cell[..., 1]
    cells = [len(np.unique(number[seen[:, v], v])) for v in range(len(size_wh))]
    return np.asarray((seen.sum(0) >= least) & (np.array(cells) >= MIN_COVERED_CELLS))


def explained_share(
    matcher: Matcher,
    verified: Mapping[Pair, Verified],
    T: FloatArray,
    K: FloatArray,
    views: Sequence[int] | None = None,
) -> float:
    """Return the share of verified pair matches that the poses explain.

    Args:
        matcher: matcher of the window.
        verified: verified matches of each pair.
        T: (V, 4, 4) poses of `views`.
        K: (V, 3, 3) intrinsics of `views`.
        views: posed views; None for all.
    """
    place = {v: i for i, v in enumerate(range(len(T)) if views is None else views)}
    explained = total = 0
    for (a, b), matches in verified.items():
        if a not in place or b not in place:
            continue
        i, j = place[a], place[b]
        F = fundamental_of(T[i], T[j], K[i], K[j])
        distance = epipolar_distance(F, *matcher.pixels_of((a, b), matches.index))
        explained += int((distance < AGREE_PX).sum())
        total += len(distance)
    return explained / total if total else 0.0


def plane_share(
    matcher: Matcher,
    verified: Mapping[Pair, Verified],
    K: FloatArray,
    sigma_px: float,
    views: Sequence[int],
) -> float:
    """Return the share of matches that one plane per pair explains, among pairs with parallax.

    Args:
        matcher: matcher of the window.
        verified: verified matches of each pair.
        K: (V, 3, 3) intrinsics of `views`.
        sigma_px: one-sigma of an observation.
        views: posed views.

    Returns:
        0 to 1; 1 if no pair has parallax.
    """
    place = {v: i for i, v in enumerate(views)}
    explained = total = 0
    for (a, b), matches in verified.items():
        if a not in place or b not in place:
            continue
        uv_a, uv_b = matcher.pixels_of((a, b), matches.index)
        K_a, K_b = K[place[a]], K[place[b]]
        shift = parallax_px(normalised(uv_a, K_a), normalised(uv_b, K_b), float(K_b[0, 0]))
        if shift < PLANE_PARALLAX_PX:
            continue
        explained += one_plane(uv_a, uv_b, PLANE_SIGMAS * sigma_px)
        total += len(uv_a)
    return explained / total if total else 1.0
