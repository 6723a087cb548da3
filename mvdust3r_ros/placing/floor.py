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

"""The floor: the lowest large plane that is about level, by RANSAC (Fischler and Bolles 1981)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import make_se3

LEVEL_TILT_DEG = 10.0
"""Largest tilt of a floor in axes that are level by odometry or by the map: a ramp for wheelchairs
has up to 5 (1 in 12)."""
UNLEVEL_TILT_DEG = 40.0
"""The same in the axes of a camera that is taken to look straight ahead."""
MIN_POINTS, MIN_LOW_POINTS = 50, 30
"""In all and below the camera; with fewer, `MIN_SUPPORT` would be one or two points."""
SAMPLE_POINTS = 3000
"""A support of 4 % is known to 0.4 points. Insensitive from 1500 to 6000
(benchmarks/constants.py)."""
TRIPLES = 400
"""Where a quarter of the low points are floor, one triple in 64 is: 400 miss it in 0.2 % of all
cases."""
SCREENING_POINTS = 300
"""So many know the support of a plane to 3 points (sqrt(p (1 - p) / 300)): enough to find the
`FINALISTS`."""
FINALISTS = 24
"""Planes that all points choose among. Insensitive from 12 to 48 (benchmarks/constants.py)."""
REL_TOLERANCE = 0.015
"""Distance from the plane at which a point is on it, over the distance of a typical point: less
than the noise of one, as a floor has many. Insensitive from 0.0075 to 0.03
(benchmarks/constants.py)."""
CLEARANCE, CLEARLY_BELOW = 4, 2
"""In tolerances: how far below the camera the floor has to be; how far a point lies below a plane
that is not the floor, so that the plane's own noise does not count."""
MAX_SHARE_BELOW = 0.06
"""Below a table is its floor; below a floor is what mirrors and wrong points show. Insensitive
from 0.03 to 0.12 (benchmarks/constants.py)."""
MIN_SUPPORT = 0.04
"""Share of the points on a plane of chance, with such a tolerance. Insensitive from 0.02 to 0.08
(benchmarks/constants.py)."""
MAX_LINE_SHARE, LINES = 0.5, 64
"""When more of a plane's points than this share lie along one of so many lines through two of
them, they are where it cuts a wall, and the plane is no floor. The share: insensitive from 0.25 to
1 (benchmarks/constants.py); 64 lines miss one that holds half of the points, and so a quarter of
the pairs, once in 10^8."""


@dataclass(frozen=True)
class Floor:
    """Plane normal . p = offset.

    Attributes:
        normal: (3,) unit vector, upwards.
        offset: signed distance of the plane from the origin along the normal.
        support: share of all points that lie on it.
        middle_xy: (2,) mean of these points.
    """

    normal: FloatArray
    offset: float
    support: float
    middle_xy: FloatArray

    @property
    def height(self) -> float:
        """Height where it is seen: a wrong tilt does no harm there."""
        return self.height_at(self.middle_xy)

    def height_at(self, xy: FloatArray) -> float:
        """Height of the floor at (x, y)."""
        return float((self.offset - self.normal[:2] @ np.asarray(xy, float)) / self.normal[2])

    def level_transform(self) -> FloatArray:
        """T_level_map (4, 4): brings the floor to z = 0, z up, turning as little as possible."""
        up = np.array([0.0, 0.0, 1.0])
        axis = np.cross(self.normal, up)
        c = float(self.normal @ up)
        skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0.0]])
        R = np.eye(3) + skew + skew @ skew / (1.0 + c)
        return make_se3(R, np.array([0.0, 0.0, -self.offset]))


def fit_floor(
    points: FloatArray, camera: FloatArray, max_tilt_deg: float, seed: int = 0
) -> Floor | None:
    """Find the floor by RANSAC with a gravity prior.

    Tables and shelves are level planes too: the floor is the one with almost nothing below it.

    Args:
        points: (N, 3) points with z about up, any scale.
        camera: (3,) where they were seen from; the floor lies below.
        max_tilt_deg: largest angle between the plane's normal and z.
        seed: of the random triples.

    Returns:
        The floor, or None when no plane qualifies.
    """
    if len(points) < MIN_POINTS:
        return None
    rng = np.random.default_rng(seed)
    if len(points) > SAMPLE_POINTS:
        points = points[rng.choice(len(points), SAMPLE_POINTS, replace=False)]
    points = np.asarray(points, float)
    tolerance = REL_TOLERANCE * float(np.median(np.linalg.norm(points - camera, axis=1)))
    low = points[points[:, 2] < camera[2] - CLEARANCE * tolerance]
    if len(low) < MIN_LOW_POINTS:
        return None
    normals, offsets = _candidate_planes(low, rng, max_tilt_deg)
    offsets_ok = normals @ camera - offsets > CLEARANCE * tolerance
    normals, offsets = normals[offsets_ok], offsets[offsets_ok]
    if len(normals) == 0:
        return None
    # a few points find the good planes, all points choose among them
    few = points[:: max(1, len(points) // SCREENING_POINTS)]
    promising = np.argsort(-_scores(few, normals, offsets, tolerance))[:FINALISTS]
    normals, offsets = normals[promising], offsets[promising]
    scores = _scores(points, normals, offsets, tolerance)
    for best in np.argsort(-scores, kind="stable"):
        if scores[best] <= 0:
            break
        on_floor = points[np.abs(points @ normals[best] - offsets[best]) < tolerance]
        if _is_wide(on_floor, tolerance, rng):
            return _refine(on_floor, normals[best], float(scores[best]), max_tilt_deg)
    return None


def _is_wide(points: FloatArray, tolerance: float, rng: np.random.Generator) -> bool:
    """Whether most of the points (N, 3) of a level plane do not lie along one line."""
    xy = points[:, :2]
    a, b = (xy[rng.integers(len(xy), size=LINES)] for _ in range(2))
    across = (b - a)[:, ::-1] * (1, -1)
    across /= np.linalg.norm(across, axis=1, keepdims=True).clip(1e-12)
    off = np.abs(across @ xy.T - (across * a).sum(1)[:, None])
    return float((off < tolerance).mean(1).max()) < MAX_LINE_SHARE


def _scores(
    points: FloatArray, normals: FloatArray, offsets: FloatArray, tolerance: float
) -> FloatArray:
    """Share of the points on each plane (M,); 0 for a plane with points below it or few on it."""
    heights = normals @ points.T - offsets[:, None]
    support = np.count_nonzero(np.abs(heights) < tolerance, 1) / len(points)
    below = np.count_nonzero(heights < -CLEARLY_BELOW * tolerance, 1) / len(points)
    return np.where((below < MAX_SHARE_BELOW) & (support > MIN_SUPPORT), support, 0.0)


def _candidate_planes(
    points: FloatArray, rng: np.random.Generator, max_tilt_deg: float
) -> tuple[FloatArray, FloatArray]:
    """Planes through random triples with a normal near z: (M, 3) normals and (M,) offsets."""
    a, b, c = (points[rng.integers(len(points), size=TRIPLES)] for _ in range(3))
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    good = length > 1e-12
    normals, a = normals[good] / length[good, None], a[good]
    normals = np.where(normals[:, 2:] < 0, -normals, normals)
    level = normals[:, 2] > np.cos(np.radians(max_tilt_deg))
    normals, a = normals[level], a[level]
    return normals, (normals * a).sum(1)


def _refine(points: FloatArray, normal: FloatArray, support: float, max_tilt_deg: float) -> Floor:
    """Least-squares plane through the supporting points."""
    mean = points.mean(0)
    refined: FloatArray = np.linalg.svd(points - mean, full_matrices=False)[2][2]
    refined = -refined if refined[2] < 0 else refined
    if refined[2] > np.cos(np.radians(max_tilt_deg)):
        normal = refined
    return Floor(normal, float(normal @ mean), support, mean[:2])
