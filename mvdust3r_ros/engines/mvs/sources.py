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

"""Choose the sources of a view's depth: views that see the same scene from far enough apart.

The score is similar to MVSNet's (Yao et al. 2018): it uses the angle between rays and is highest
from 5 degrees on. The network was trained with such sources, among others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import invert_se3

SAMPLE_HW = (6, 8)
"""Sample points in the image, rows and columns: 48 samples of its field of view."""
DEPTHS = (0.6, 1.0, 1.8)
"""Depths of the samples, as fractions of the typical depth."""
BEST_DEG, WIDE_DEG, TOO_WIDE_DEG = 5.0, 20.0, 50.0
"""Angle between the rays from which a source has full weight; up to which it keeps it; and at
which the weight is 0, because everything looks different. The first two: insensitive from half to
twice each (benchmarks/constants.py, office with odometry)."""
MIN_DEPTH_SHARE = 0.02
"""Fraction of the typical depth; a point with a smaller depth is next to a source rather than in
front of it."""
MIN_SCORE = 0.06
"""Views with a lower score overlap too little or lack parallax: a mean angle of 0.3 degrees.
Insensitive from 0.03 to 0.12 (benchmarks/constants.py, office with odometry)."""


def choose_sources(
    index: int,
    T_ref_cam: FloatArray,
    K: FloatArray,
    image_hw: tuple[int, int],
    depth: float,
    allowed: Sequence[int],
    count: int,
) -> list[int]:
    """Choose the best sources of a view, best first.

    Args:
        index: the view.
        T_ref_cam: (V, 4, 4) camera poses in one frame.
        K: (V, 3, 3) intrinsics.
        image_hw: height and width of all views, in pixels.
        depth: typical depth of the view, in the unit of the poses.
        allowed: candidate views.
        count: maximum number of sources.

    Returns:
        Indices; fewer than `count` if the others overlap too little or show no parallax.
    """
    height, width = image_hw
    rows, cols = (np.linspace(0, side - 1, n) for side, n in zip(image_hw, SAMPLE_HW, strict=True))
    u, v = np.meshgrid(cols, rows)
    rays = np.stack([u.ravel(), v.ravel(), np.ones(u.size)]).T @ np.linalg.inv(K[index]).T
    points = np.concatenate([rays * depth * share for share in DEPTHS])
    scores = {}
    for other in allowed:
        if other == index:
            continue
        T = invert_se3(T_ref_cam[other]) @ T_ref_cam[index]
        seen = points @ T[:3, :3].T + T[:3, 3]
        z = np.maximum(seen[:, 2], 1e-9)
        pixel = (seen / z[:, None]) @ K[other].T
        inside = (
            (seen[:, 2] > MIN_DEPTH_SHARE * depth) & (pixel[:, 0] >= 0) & (pixel[:, 0] < width)
        )
        inside &= (pixel[:, 1] >= 0) & (pixel[:, 1] < height)
        centre = -T[:3, :3].T @ T[:3, 3]
        scores[other] = float((inside * _weight(points, centre)).mean())
    ranked = sorted(scores, key=lambda other: -scores[other])
    return [other for other in ranked if scores[other] > MIN_SCORE][:count]


def _weight(points: FloatArray, centre: FloatArray) -> FloatArray:
    """Return (N,) weights of a source at `centre` for points, from the angle between the rays."""
    to_source = points - centre
    cosine = (points * to_source).sum(1) / np.maximum(
        np.linalg.norm(points, axis=1) * np.linalg.norm(to_source, axis=1), 1e-12
    )
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    fading = (TOO_WIDE_DEG - angle) / (TOO_WIDE_DEG - WIDE_DEG)
    return np.asarray(np.minimum(angle / BEST_DEG, np.clip(fading, 0, 1)).clip(0, 1))
