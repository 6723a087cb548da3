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

"""Link pairwise matches to tracks through a window, and triangulate tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mvdust3r_ros.datatypes import BoolArray, FloatArray
from mvdust3r_ros.sfm.bundle import Observations

IndexArray = npt.NDArray[np.intp]

TRIANGULATION_ROUNDS = 4
"""Rounds of re-weighting; bundle adjustment continues from the result, so a rough one is
enough."""
KERNEL_PX = 2.0
"""Least width of the Cauchy kernel of triangulation: two initial sigmas of an observation.
Insensitive from 1 to 4 (benchmarks/constants.py, office with odometry)."""


def link_matches(
    counts: Sequence[int], matches: Mapping[tuple[int, int], IndexArray]
) -> IndexArray:
    """Link features matched directly or over a chain of pairs into one track.

    A track with two features in one view loses that view.

    Args:
        counts: number of features of each view.
        matches: pair of views -> (M, 2) indices of features.

    Returns:
        (P, V) feature index in each view, -1 where not seen; each track is seen in two or more.
    """
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ends = [m + offsets[list(pair)] for pair, m in matches.items() if len(m)]
    if not ends:
        return np.zeros((0, len(counts)), np.intp)
    links = np.concatenate(ends)
    nodes, at = np.unique(links, return_inverse=True)
    at = at.reshape(links.shape)
    graph = coo_matrix((np.ones(len(at)), (at[:, 0], at[:, 1])), shape=(len(nodes),) * 2)
    number, label = connected_components(graph, directed=False)
    view = np.searchsorted(offsets, nodes, side="right") - 1
    times = np.zeros((number, len(counts)), np.intp)
    np.add.at(times, (label, view), 1)
    tracks = np.full((number, len(counts)), -1, np.intp)
    tracks[label, view] = nodes - offsets[view]
    tracks[times > 1] = -1
    return np.asarray(tracks[(tracks >= 0).sum(1) >= 2])


def track_pixels(tracks: IndexArray, uv: Sequence[FloatArray]) -> FloatArray:
    """Return (P, V, 2) pixels of tracks, NaN where not seen."""
    pixels = np.full((*tracks.shape, 2), np.nan)
    for v, own in enumerate(uv):
        seen = tracks[:, v] >= 0
        pixels[seen, v] = own[tracks[seen, v]]
    return pixels


@dataclass(frozen=True, eq=False)
class Triangulated:
    """Triangulated tracks.

    Attributes:
        points: (P, 3) in the frame of the poses.
        good: (P, V) inlier observations; none if the point is rejected.
        angle_rad: (P,) largest angle between two inlier rays.
    """

    points: FloatArray
    good: BoolArray
    angle_rad: FloatArray


def triangulate(
    T: FloatArray,
    K: FloatArray,
    pixels: FloatArray,
    max_px: float,
    min_angle_rad: float,
) -> Triangulated:
    """Triangulate tracks robustly; test reprojection error, positive depth and angle.

    Args:
        T: (V, 4, 4) T_ref_cam.
        K: (V, 3, 3) intrinsics.
        pixels: (P, V, 2), NaN where not seen or not to be used.
        max_px: largest reprojection error.
        min_angle_rad: least angle between the rays of a point.
    """
    seen = ~np.isnan(pixels[..., 0])
    uv = np.where(seen[..., None], pixels, 0.0)
    rays = _rays(T, K, uv)
    weight = seen.astype(float)
    centres = T[:, :3, 3]
    for _ in range(TRIANGULATION_ROUNDS):
        points = _nearest_points(rays, centres, weight)
        error, depth = reprojection(T, K, points, uv)
        error[~seen | (depth <= 0)] = np.inf
        distance = np.linalg.norm(points[:, None] - centres, axis=2)
        kernel = 1.0 / (1.0 + (error / max(KERNEL_PX, max_px / 2)) ** 2)
        weight = (kernel + 1e-6) * seen / np.maximum(distance**2, 1e-12)
    good = seen & (error < max_px)
    angle = _largest_angle(rays, good)
    good &= ((good.sum(1) >= 2) & (angle > min_angle_rad) & np.isfinite(points).all(1))[:, None]
    return Triangulated(points, good, angle)


def reprojection(
    T: FloatArray, K: FloatArray, points: FloatArray, uv: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return (P, V) reprojection errors in pixels and (P, V) depths."""
    R, t = T[:, :3, :3], T[:, :3, 3]
    cam = np.swapaxes((points - t[:, None]) @ R, 0, 1)
    depth = cam[..., 2]
    xy = cam[..., :2] / np.where(np.abs(depth) > 1e-9, depth, 1e-9)[..., None]
    focal = np.stack([K[:, 0, 0], K[:, 1, 1]], 1)
    return np.linalg.norm(xy * focal + K[:, :2, 2] - uv, axis=2), depth


def observations_of(
    pixels: FloatArray, good: BoolArray, drift: FloatArray | None = None
) -> tuple[Observations, IndexArray]:
    """Return the inlier observations, and the indices of the points that have any."""
    kept = np.flatnonzero(good.any(1))
    point, view = np.nonzero(good[kept])
    own = None if drift is None else drift[kept][point, view]
    return Observations(view, point, pixels[kept][point, view], own), kept


def _rays(T: FloatArray, K: FloatArray, uv: FloatArray) -> FloatArray:
    """Return (P, V, 3) unit ray directions of pixels in the frame of the poses."""
    focal = np.stack([K[:, 0, 0], K[:, 1, 1]], 1)
    cam = np.concatenate([(uv - K[:, :2, 2]) / focal, np.ones((*uv.shape[:2], 1))], 2)
    cam /= np.linalg.norm(cam, axis=2, keepdims=True)
    return np.asarray(np.einsum("vij,pvj->pvi", T[:, :3, :3], cam))


def _nearest_points(rays: FloatArray, centres: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the (P, 3) points with the least weighted sum of squared distances from their rays.

    The midpoint method, for any number of views (Hartley and Sturm, "Triangulation", 1997).
    """
    total = weight.sum(1)
    weight = weight / np.maximum(total, 1e-300)[:, None]
    A = np.eye(3) - np.einsum("pv,pvi,pvj->pij", weight, rays, rays, optimize=True)
    along = (rays * centres).sum(2)
    b = weight @ centres - np.einsum("pv,pv,pvi->pi", weight, along, rays, optimize=True)
    A[:, range(3), range(3)] += 1e-9
    return np.asarray(np.linalg.solve(A, b[..., None])[..., 0])


def _largest_angle(rays: FloatArray, good: BoolArray) -> FloatArray:
    """Return the (P,) largest angle in radians between inlier rays."""
    cosine = rays @ np.swapaxes(rays, 1, 2)
    both = good[:, :, None] & good[:, None]
    return np.asarray(np.arccos(np.clip(np.where(both, cosine, 1.0).min((1, 2)), -1, 1)))
