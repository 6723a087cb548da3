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

"""The floor: the lowest large, nearly level plane, by RANSAC (Fischler and Bolles 1981)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import make_se3

LEVEL_TILT_DEG = 10.0
"""Largest tilt of a floor in axes levelled by odometry or the map: a wheelchair ramp has up to 5
(1 in 12)."""
UNLEVEL_TILT_DEG = 40.0
"""The same in the axes of a camera assumed to look straight ahead."""
MIN_FLOOR_POINTS, MIN_LOW_POINTS = 50, 30
"""Least number of points in total and below the camera; with fewer, `MIN_SUPPORT` would be one or
two points."""
SAMPLE_POINTS = 3000
"""With this many, a support of 4 % has a sigma of 0.4 %. Insensitive from 1500 to 6000
(benchmarks/constants.py)."""
TRIPLES = 400
"""If a quarter of the low points are floor, one triple in 64 is: 400 triples fail in 0.2 % of all
cases."""
SCREENING_POINTS = 300
"""From this many points, the support of a plane is known to 3 percentage points
(sqrt(p (1 - p) / 300)): enough to find the `FINALISTS`."""
FINALISTS = 24
"""Planes scored with all points. Insensitive from 12 to 48 (benchmarks/constants.py)."""
REL_TOLERANCE = 0.015
"""Inlier distance from the plane relative to the typical distance of a point: less than the noise
of one point, since a floor has many. Insensitive from 0.0075 to 0.03 (benchmarks/constants.py)."""
CLEARANCE, CLEARLY_BELOW = 4, 2
"""In tolerances: least distance of the floor below the camera, and distance of a point below a
plane from which it counts as below, beyond the plane's own noise."""
MAX_SHARE_BELOW = 0.06
"""Below a table lies its floor; below a floor lie only reflections and wrong points. Insensitive
from 0.03 to 0.12 (benchmarks/constants.py)."""
MIN_SUPPORT = 0.04
"""Least share of inliers: that of a random plane with this tolerance. Insensitive from 0.02 to
0.08 (benchmarks/constants.py)."""
MAX_LINE_SHARE, LINES = 0.5, 64
"""If more than this share of a plane's points lie along one of this many lines through two of
them, the plane merely intersects a wall and is no floor. The share: insensitive from 0.25 to 1
(benchmarks/constants.py). 64 lines miss a line with half of the points, and so a quarter of the
pairs, once in 10^8."""


@dataclass(frozen=True)
class Floor:
    """Plane normal . p = offset.

    Attributes:
        normal: (3,) unit vector, upwards.
        offset: signed distance of the plane from the origin along the normal.
        support: share of all points that are inliers.
        middle_xy: (2,) mean of the inliers.
    """

    normal: FloatArray
    offset: float
    support: float
    middle_xy: FloatArray

    @property
    def height(self) -> float:
        """Height at the centre of its points, where a wrong tilt does no harm."""
        return self.height_at(self.middle_xy)

    def height_at(self, xy: FloatArray) -> float:
        """Return the height of the floor at (x, y)."""
        return float((self.offset - self.normal[:2] @ np.asarray(xy, float)) / self.normal[2])

    def level_transform(self) -> FloatArray:
        """Return T_level_map (4, 4), the least rotation that brings the floor to z = 0, z up."""
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
        points: (N, 3) points with z roughly up, any scale.
        camera: (3,) viewpoint; the floor lies below it.
        max_tilt_deg: largest angle between the plane's normal and z.
        seed: of the random triples.

    Returns:
        The floor, or None if no plane qualifies.
    """
    if len(points) < MIN_FLOOR_POINTS:
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
    # a few points shortlist the planes, all points select among those
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
    """Whether the points (N, 3) of a level plane do not mostly lie along one line."""
    xy = points[:, :2]
    a, b = (xy[rng.integers(len(xy), size=LINES)] for _ in range(2))
    across = (b - a)[:, ::-1] * (1, -1)
    across /= np.linalg.norm(across, axis=1, keepdims=True).clip(1e-12)
    off = np.abs(across @ xy.T - (across * a).sum(1)[:, None])
    return float((off < tolerance).mean(1).max()) < MAX_LINE_SHARE


def _scores(
    points: FloatArray, normals: FloatArray, offsets: FloatArray, tolerance: float
) -> FloatArray:
    """Share of inliers of each plane (M,); 0 for planes with points below or too few inliers."""
    heights = normals @ points.T - offsets[:, None]
    support = np.count_nonzero(np.abs(heights) < tolerance, 1) / len(points)
    below = np.count_nonzero(heights < -CLEARLY_BELOW * tolerance, 1) / len(points)
    return np.where((below < MAX_SHARE_BELOW) & (support > MIN_SUPPORT), support, 0.0)


def _candidate_planes(
    points: FloatArray, rng: np.random.Generator, max_tilt_deg: float
) -> tuple[FloatArray, FloatArray]:
    """Return planes through random triples, nearly level: (M, 3) normals and (M,) offsets."""
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
    """Fit the least-squares plane to the inliers."""
    mean = points.mean(0)
    refined: FloatArray = np.linalg.svd(points - mean, full_matrices=False)[2][2]
    refined = -refined if refined[2] < 0 else refined
    if refined[2] > np.cos(np.radians(max_tilt_deg)):
        normal = refined
    return Floor(normal, float(normal @ mean), support, mean[:2])
