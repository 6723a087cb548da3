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

"""Camera poses and intrinsics from the pointmaps of a window."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mvdust3r_ros.config import PoseSettings
from mvdust3r_ros.datatypes import (
    FloatArray,
    MvDust3rError,
    View,
    ViewPose,
    WindowPrediction,
    is_point,
)
from mvdust3r_ros.geometry import (
    AlignmentError,
    align_sim3_robust,
    focal_from_pointmap,
    invert_se3,
    make_se3,
    pixel_grid,
)

PNP_POINTS = 600
"""Points of a view used to recover its pose. Insensitive from 300 to 1200
(benchmarks/constants.py)."""
MIN_PNP_POINTS = 24
"""About five RANSAC samples; at least half of the points must be inliers. Insensitive from 12 to
48 (benchmarks/constants.py)."""
RANSAC_ROUNDS, RANSAC_SURE = 100, 0.999
"""With 58 % inliers, this many samples of 5 points (EPnP in OpenCV, Lepetit et al. 2009) contain
one without outliers with this probability (Fischler and Bolles 1981)."""
FOCAL_ROWS = 112
"""Least number of rows or columns of a pointmap used to estimate its focal length."""
ALIGNED_SHARE = 0.2
"""Largest shift of a point, relative to its distance, at which two maps agree on it. Wide, since
it only tells whether the paths agree at all; the fit itself is robust."""


class PoseError(MvDust3rError):
    """A camera pose cannot be recovered from a pointmap."""


def recover_poses(
    prediction: WindowPrediction, views: Sequence[View], settings: PoseSettings
) -> list[ViewPose | None]:
    """Recover the pose of every view in the frame of path 0's reference.

    Poses from the engine itself are used unchanged, since they rest on more than its points.
    Otherwise the poses are recovered from the pointmaps.

    The reference has the identity by definition. A view that is the reference of another path was
    also predicted in its own frame and is placed by `align_view`: the errors of the two maps are
    alike and cancel. All others, and failures of that, use perspective-n-point: RANSAC on a
    regular sample of the confident points, then SQPnP (Terzakis and Lourakis 2020) and
    Levenberg-Marquardt on the inliers.

    Args:
        prediction: pointmaps of V views.
        views: the V views; their K is used if known.
        settings: thresholds.

    Returns:
        One entry per view, None where no pose explains enough points.

    Raises:
        PoseError: no intrinsics are given and none can be estimated from the reference pointmap.
    """
    if prediction.poses is not None:
        return list(prediction.poses)
    points, conf = prediction.points[0], prediction.conf[0]
    reference = prediction.references[0]
    default_K = _intrinsics(points[reference], conf[reference], views[reference], settings)
    poses: list[ViewPose | None] = []
    for index, view in enumerate(views):
        K = default_K if view.K is None else view.K
        if index == reference:
            poses.append(ViewPose(np.eye(4), K, 1.0, 0.0))
            continue
        pose = align_view(prediction, index, K, settings)
        poses.append(pose or solve_pose(points[index], conf[index], K, settings))
    return poses


def align_view(
    prediction: WindowPrediction, index: int, K: FloatArray, settings: PoseSettings
) -> ViewPose | None:
    """Recover the pose of a view that is itself a reference, from the maps of two paths.

    Its own path and path 0 hold the same points in two frames. A robust similarity, fitted to the
    maps of this view and of path 0's reference, relates the frames.

    Args:
        prediction: pointmaps of all paths.
        index: the view.
        K: (3, 3) its intrinsics.
        settings: thresholds.

    Returns:
        The pose, or None if the view is no reference or the two paths disagree.
    """
    if index not in prediction.references[1:]:
        return None
    path, reference = prediction.references.index(index), prediction.references[0]
    own, pixels = _shared_sample(prediction, path, index, settings.conf_quantile)
    pairs = np.concatenate(
        [own, _shared_sample(prediction, path, reference, settings.conf_quantile)[0]]
    )
    if len(own) < MIN_PNP_POINTS:
        return None
    try:
        S, residual = align_sim3_robust(pairs[:, :3], pairs[:, 3:6], pairs[:, 6])
    except AlignmentError:
        return None
    points = own[:, 3:6]
    agree = residual[: len(own)] < ALIGNED_SHARE * np.linalg.norm(points - S.t, axis=1)
    ratio = float(agree.mean())
    if ratio < settings.min_inlier_ratio or not agree.any():
        return None
    T = make_se3(S.R, S.t)
    error = _reprojection_errors(points[agree], pixels[agree], K, invert_se3(T))
    return ViewPose(T, K, ratio, float(np.median(error)))


def _shared_sample(
    prediction: WindowPrediction, path: int, view: int, quantile: float
) -> tuple[FloatArray, FloatArray]:
    """Sample the more confident points of a view in two paths.

    Returns:
        (N, 7): each point in the frame of `path`, in that of path 0, and the lower confidence;
        (N, 2): their pixels (u, v).
    """
    conf = np.minimum(prediction.conf[path, view], prediction.conf[0, view])
    maps = (prediction.points[path, view], prediction.points[0, view], conf[..., None])
    return sample_confident(np.concatenate(maps, -1), conf, quantile)


def _intrinsics(
    points_cam: FloatArray, conf: FloatArray, view: View, settings: PoseSettings
) -> FloatArray:
    """Return K of the view, or estimate it with square pixels and a central principal point."""
    if view.K is not None:
        return view.K
    height, width = conf.shape
    mask = (conf >= np.quantile(conf, settings.conf_quantile)) & is_point(conf)
    stride = max(1, min(height, width) // FOCAL_ROWS)
    try:
        f = focal_from_pointmap(points_cam[::stride, ::stride], mask[::stride, ::stride]) * stride
    except MvDust3rError as error:
        raise PoseError(f"no camera_info, and {error}") from None
    return np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]])


def solve_pose(
    points_window: FloatArray, conf: FloatArray, K: FloatArray, settings: PoseSettings
) -> ViewPose | None:
    """Recover the pose of one camera from its pointmap in another frame.

    Args:
        points_window: (H, W, 3) pointmap in the window's frame.
        conf: (H, W) confidence; points at 1 or below are invalid.
        K: (3, 3) intrinsics in pixels of the pointmap.
        settings: thresholds.

    Returns:
        The pose, or None if too few points agree on one.
    """
    points, pixels = sample_confident(points_window, conf, settings.conf_quantile)
    if len(points) < MIN_PNP_POINTS:
        return None
    # OpenCV uses absolute thresholds; normalise the scale
    unit = float(np.median(np.linalg.norm(points - np.median(points, 0), axis=1)))
    if not np.isfinite(unit) or unit <= 0:
        return None
    try:
        found, rvec, tvec, inliers = cv2.solvePnPRansac(
            points / unit, pixels, K, np.zeros(0), iterationsCount=RANSAC_ROUNDS,
            reprojectionError=settings.reprojection_px, confidence=RANSAC_SURE,
            flags=cv2.SOLVEPNP_SQPNP,
        )  # fmt: skip
        if not found or inliers is None or len(inliers) < MIN_PNP_POINTS // 2:
            return None
        chosen = inliers[:, 0]
        rvec, tvec = cv2.solvePnPRefineLM(
            points[chosen] / unit, pixels[chosen], K, np.zeros(0), rvec, tvec
        )
    except cv2.error:
        return None
    R = np.asarray(cv2.Rodrigues(rvec)[0], float)
    return _checked_pose(points, pixels, K, R, np.asarray(tvec, float)[:, 0] * unit, settings)


def _checked_pose(
    points: FloatArray,
    pixels: FloatArray,
    K: FloatArray,
    R: FloatArray,
    t: FloatArray,
    settings: PoseSettings,
) -> ViewPose | None:
    if not (np.isfinite(R).all() and np.isfinite(t).all()):
        return None
    error = _reprojection_errors(points, pixels, K, make_se3(R, t))
    agree = error < settings.reprojection_px
    ratio = float(agree.mean())
    if ratio < settings.min_inlier_ratio or not agree.any():
        return None
    return ViewPose(invert_se3(make_se3(R, t)), K, ratio, float(np.median(error[agree])))


def _reprojection_errors(
    points: FloatArray, pixels: FloatArray, K: FloatArray, T_cam_window: FloatArray
) -> FloatArray:
    """Return reprojection errors in pixels; inf for points behind the camera."""
    cam = points @ T_cam_window[:3, :3].T + T_cam_window[:3, 3]
    homogeneous = cam @ K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.linalg.norm(homogeneous[:, :2] / homogeneous[:, 2:] - pixels, axis=1)
    return np.where(cam[:, 2] > 0, error, np.inf)


def sample_confident(
    points: FloatArray, conf: FloatArray, quantile: float
) -> tuple[FloatArray, FloatArray]:
    """Sample about PNP_POINTS confident points of a pointmap, evenly spread over the image.

    Returns:
        (N, C) float64 values of `points` (H, W, C), and (N, 2) float64 pixels (u, v).
    """
    height, width = conf.shape
    stride = max(1, int(np.sqrt(height * width * (1 - quantile) / PNP_POINTS)))
    rows = slice(stride // 2, None, stride)
    sampled = conf[rows, rows]
    valid = is_point(sampled)
    if not valid.any():
        return np.zeros((0, points.shape[2])), np.zeros((0, 2))
    keep = valid & (sampled >= np.quantile(sampled[valid], quantile))
    pixels = pixel_grid(height, width)[rows, rows][keep]
    return points[rows, rows][keep].astype(np.float64), pixels
