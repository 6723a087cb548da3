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

"""Two-view geometry: inlier matches, relative pose, parallax."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mvdust3r_ros.datatypes import BoolArray, FloatArray
from mvdust3r_ros.geometry import invert_se3, make_se3

EPIPOLAR_PX = 1.5
"""Largest distance from the epipolar line, in pixels of the views: three sigmas of a feature.
Insensitive from 0.75 to 3 (benchmarks/constants.py, office with odometry)."""
EPIPOLAR_MATCHES = 8
"""Matches that determine an epipolar geometry linearly (Longuet-Higgins 1981)."""
MIN_MATCHES = 15
"""Least inliers of a pair, as in COLMAP (Schonberger and Frahm 2016): more than agree by
chance."""
SEED = 1
"""Arbitrary; fixed so that the same images give the same poses."""
PAIR_RANSAC_ROUNDS, RANSAC_SURE = 1000, 0.999
"""RANSAC samples of 5 matches and confidence: with 37 % inliers, one is free of outliers with this
probability."""
ROTATION_ROUNDS = 5
"""Rounds of re-weighting towards least distances instead of least squares (Weiszfeld 1937). Only a
median of pixels is read from the result, so a rough minimum is enough."""


@dataclass(frozen=True, eq=False)
class TwoViews:
    """Relative geometry of views a and b.

    Attributes:
        inliers: (M,) mask of matches consistent with one epipolar geometry.
        F: (3, 3) fundamental matrix, x_b^T F x_a = 0.
        T_b_a: (4, 4) pose with a translation of length 1; None if K is unknown.
        parallax_px: median displacement of inliers that no rotation of the camera explains.
    """

    inliers: BoolArray
    F: FloatArray
    T_b_a: FloatArray | None = None
    parallax_px: float = 0.0


def verify_pair(
    uv_a: FloatArray,
    uv_b: FloatArray,
    K_a: FloatArray | None,
    K_b: FloatArray | None,
    threshold_px: float = EPIPOLAR_PX,
    min_matches: int = MIN_MATCHES,
) -> TwoViews | None:
    """Estimate the epipolar geometry of matched pixels (MAGSAC++, Barath et al. 2020), seeded.

    Args:
        uv_a: (M, 2) pixels in view a.
        uv_b: (M, 2) the same points in view b.
        K_a: (3, 3) intrinsics or None.
        K_b: (3, 3) intrinsics or None.
        threshold_px: largest distance from the epipolar line.
        min_matches: least number of inliers.

    Returns:
        The geometry, or None if it has too few inliers.
    """
    if len(uv_a) < max(min_matches, EPIPOLAR_MATCHES):
        return None
    try:
        found = (
            _essential(uv_a, uv_b, K_a, K_b, threshold_px)
            if K_a is not None and K_b is not None
            else _fundamental(uv_a, uv_b, threshold_px)
        )
    except cv2.error:
        return None
    return found if found is not None and found.inliers.sum() >= min_matches else None


def _usac(threshold: float) -> cv2.UsacParams:
    params = cv2.UsacParams()
    params.randomGeneratorState = SEED
    params.confidence = RANSAC_SURE
    params.maxIterations = PAIR_RANSAC_ROUNDS
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.sampler = cv2.SAMPLING_UNIFORM
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    params.loIterations, params.loSampleSize = 5, 14  # OpenCV's defaults
    params.threshold = threshold
    params.isParallel = False
    return params


def _essential(
    uv_a: FloatArray, uv_b: FloatArray, K_a: FloatArray, K_b: FloatArray, threshold_px: float
) -> TwoViews | None:
    none = np.zeros(0)
    E, mask = cv2.findEssentialMat(uv_a, uv_b, K_a, K_b, none, none, _usac(threshold_px))
    if E is None or E.shape != (3, 3) or mask is None:
        return None
    F = np.linalg.inv(K_b).T @ E @ np.linalg.inv(K_a)
    inliers = mask.ravel().astype(bool)
    x_a, x_b = (normalised(uv, K)[inliers] for uv, K in ((uv_a, K_a), (uv_b, K_b)))
    if len(x_a) < EPIPOLAR_MATCHES:
        return None
    _, R, t, _ = cv2.recoverPose(E, x_a, x_b, np.eye(3))
    parallax = parallax_px(x_a, x_b, float(K_b[0, 0]))
    return TwoViews(
        inliers, F, make_se3(np.asarray(R, float), np.asarray(t, float)[:, 0]), parallax
    )


def _fundamental(uv_a: FloatArray, uv_b: FloatArray, threshold_px: float) -> TwoViews | None:
    F, mask = cv2.findFundamentalMat(uv_a, uv_b, _usac(threshold_px))
    if F is None or F.shape != (3, 3) or mask is None:
        return None
    return TwoViews(mask.ravel().astype(bool), np.asarray(F, float))


def normalised(uv: FloatArray, K: FloatArray) -> FloatArray:
    """Return (M, 2) points on the plane z = 1."""
    return np.asarray((uv - K[:2, 2]) / (K[0, 0], K[1, 1]))


def one_plane(uv_a: FloatArray, uv_b: FloatArray, threshold_px: float) -> int:
    """Return the number of matches that the best homography explains; all if fewer than 4."""
    if len(uv_a) < 4:
        return len(uv_a)
    try:
        _, mask = cv2.findHomography(uv_a, uv_b, _usac(threshold_px))
    except cv2.error:
        return 0
    return 0 if mask is None else int(np.count_nonzero(mask))


def parallax_px(x_a: FloatArray, x_b: FloatArray, focal_px: float) -> float:
    """Return the median displacement that the best rotation leaves.

    The rotation is estimated with the method of Kabsch (1976), weighted.

    Args:
        x_a: (M, 2) points on the plane z = 1 of view a.
        x_b: (M, 2) the same points in view b.
        focal_px: focal length of view b.
    """
    a, b = (np.concatenate([x, np.ones((len(x), 1))], 1) for x in (x_a, x_b))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    weight = np.ones(len(a))
    off = weight
    for _ in range(ROTATION_ROUNDS):
        U, _, Vt = np.linalg.svd((weight[:, None] * b).T @ a)
        R = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
        off = np.linalg.norm(b - a @ R.T, axis=1)
        weight = 1.0 / np.maximum(off, 0.1 / focal_px)  # features are never precise to 0.1 px
    return float(np.median(off)) * focal_px


def epipolar_distance(F: FloatArray, uv_a: FloatArray, uv_b: FloatArray) -> FloatArray:
    """Return (M,) distances from epipolar lines in pixels, the larger of both views."""
    a, b = (np.concatenate([x, np.ones((len(x), 1))], 1) for x in (uv_a, uv_b))
    in_b, in_a = a @ F.T, b @ F
    value = np.abs((in_b * b).sum(1))
    lengths = np.minimum(np.linalg.norm(in_b[:, :2], axis=1), np.linalg.norm(in_a[:, :2], axis=1))
    return np.asarray(value / np.maximum(lengths, 1e-12))


def fundamental_of(
    T_a: FloatArray, T_b: FloatArray, K_a: FloatArray, K_b: FloatArray
) -> FloatArray:
    """Return the (3, 3) fundamental matrix of two posed views; zero without translation."""
    T = invert_se3(T_b) @ T_a
    x, y, z = T[:3, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0.0]])
    return np.asarray(np.linalg.inv(K_b).T @ cross @ T[:3, :3] @ np.linalg.inv(K_a))
