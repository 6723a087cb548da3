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

"""Consistency of a window's depth images: which views agree with a point, and which contradict it.

The rule in the engine's manifest is fitted to the votes that these constants produce
(`synthetic.release_mvs`): changing one requires refitting the rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import BoolArray, FloatArray
from mvdust3r_ros.geometry import invert_se3

SAME_SHARE = 0.05
"""Two depths of one point agree if they differ by less than this fraction, the error of the
bundled network. Insensitive from 0.05 to 0.1; at 0.025 66 % of the obstacles are found instead of
69 (benchmarks/constants.py, office with odometry)."""
FUSED_SHARE = 0.1
"""Two depths that differ by less than this fraction are on one surface, and their mean is better.
Insensitive from 0.05 to 0.2 (benchmarks/constants.py, office with odometry)."""
THROUGH_SHARE = 0.12
"""A view looks through a point if its depth lies beyond the point by more than this fraction.
Insensitive from 0.06 to 0.24 (benchmarks/constants.py, office with odometry)."""
JUMP_SHARE = 0.1
"""Neighbouring pixels whose depths differ by more than this fraction are on two surfaces.
Insensitive from 0.05 to 0.2 (benchmarks/constants.py, office with odometry)."""
LOG_ERRORS = (-6.0, 1.0)
"""Logarithms of expected log-depth errors are clipped to this range: errors from 0.25 % to a
factor of 15."""


class Agreement(NamedTuple):
    """Votes on each pixel, (V, H, W) each.

    Attributes:
        same: number of other views with the point at the same depth.
        through: number of other views that look through it.
        depth: mean depth over all views that see the surface, weighted by expected error.
    """

    same: npt.NDArray[np.uint8]
    through: npt.NDArray[np.uint8]
    depth: FloatArray


def agreement(
    depth: FloatArray, log_error: FloatArray, T_ref_cam: FloatArray, K: FloatArray
) -> Agreement:
    """Compare the depth images of a window with each other.

    Args:
        depth: (V, H, W) along the optical axes; 0 for no depth.
        log_error: (V, H, W) logarithm of the expected error of the log depth.
        T_ref_cam: (V, 4, 4) camera poses in one frame.
        K: (V, 3, 3) intrinsics in pixels of the depth images.
    """
    views, height, width = depth.shape
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    same = np.zeros(depth.shape, np.uint8)
    through = np.zeros(depth.shape, np.uint8)
    fused = np.zeros(depth.shape, np.float32)
    weights = np.exp(-2 * np.clip(log_error, *LOG_ERRORS)).astype(np.float32)
    for i in range(views):
        z_i, total = depth[i], weights[i].copy()
        farther = np.zeros_like(total)
        for j in range(views):
            if i == j:
                continue
            T = invert_se3(T_ref_cam[j]) @ T_ref_cam[i]
            A = (K[j] @ T[:3, :3] @ np.linalg.inv(K[i])).astype(np.float32)
            b = (K[j] @ T[:3, 3]).astype(np.float32)
            x, y, z = (z_i * (A[k, 0] * u + A[k, 1] * v + A[k, 2]) + b[k] for k in range(3))
            inside, at = _pixels(x, y, z)
            z_j = depth[j].ravel().take(at)
            seen = inside & (z_j > 0)
            ratio = np.where(seen, z_j / np.maximum(z, 1e-6), 1.0)
            off = np.abs(ratio - 1)
            same[i] += seen & (off < SAME_SHARE)
            through[i] += ratio > 1 + THROUGH_SHARE
            weight = weights[j].ravel().take(at) * (seen & (off < FUSED_SHARE))
            farther += weight * (ratio - 1)
            total += weight
        fused[i] = z_i * (1 + farther / total)
    return Agreement(same, through, fused)


def _pixels(
    x: FloatArray, y: FloatArray, z: FloatArray
) -> tuple[BoolArray, npt.NDArray[np.int32]]:
    """Whether points (x, y, z), pixels times depth, lie in an image like theirs, and where."""
    height, width = z.shape
    inverse = 1 / np.maximum(z, 1e-6)
    col, row = x * inverse + 0.5, y * inverse + 0.5
    inside = (z > 1e-6) & (col >= 0) & (col < width) & (row >= 0) & (row < height)
    whole = [np.where(inside, at, 0).astype(np.int32) for at in (row, col)]
    return inside, whole[0] * np.int32(width) + whole[1]


def on_edges(depth: FloatArray) -> BoolArray:
    """Mask (V, H, W) pixels next to a depth jump, where depth may lie between two surfaces."""
    log_depth = np.log(np.maximum(depth, 1e-6))
    edge = np.zeros(depth.shape, bool)
    for axis in (1, 2):
        jump = np.abs(np.diff(log_depth, axis=axis)) > JUMP_SHARE
        first = [slice(None)] * 3
        second = [slice(None)] * 3
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= jump
        edge[tuple(second)] |= jump
    return edge
