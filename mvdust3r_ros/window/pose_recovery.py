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

"""Pointmaps of a window to camera poses and intrinsics."""

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
"""Points of a view that a pose is found from. Insensitive from 300 to 1200
(benchmarks/constants.py)."""
MIN_PNP_POINTS = 24
"""About five samples of RANSAC; half of them are inliers at least. Insensitive from 12 to 48
(benchmarks/constants.py)."""
RANSAC_ROUNDS, RANSAC_SURE = 100, 0.999
"""So many samples of 5 points (EPnP in OpenCV, Lepetit et al. 2009) hold one without outliers, to
that probability, where 58 % are inliers (Fischler and Bolles 1981)."""
FOCAL_ROWS = 112
"""Rows and columns of a pointmap, at least, that its focal length is taken from: 12,000 points are
enough for one number."""
ALIGNED_SHARE = 0.2
"""Two maps agree on a point when it moves by less than this share of its distance: wide, as it is
to tell whether the paths agree at all, and the fit is robust by itself."""


class PoseError(MvDust3rError):
    """A camera pose cannot be recovered from a pointmap."""


def recover_poses(
    prediction: WindowPrediction, views: Sequence[View], settings: PoseSettings
) -> list[ViewPose | None]:
    """Pose of every view in the frame of the reference of path 0.

    An engine that gives poses itself has found them from more than its points: they are taken as
    they are. Otherwise they follow from the pointmaps.

    The reference is the identity by definition of the frame. A view that is the reference of
    another path was predicted in its own frame as well and is placed by `align_view`: the errors
    of the two maps are alike and cancel. For all others, and where that fails, perspective-n-point
    with RANSAC on a regular sample of the confident points; on the inliers SQPnP (Terzakis and
    Lourakis 2020) and Levenberg-Marquardt.

    Args:
        prediction: pointmaps of V views.
        views: the V views; their K is used where it is known.
        settings: thresholds.

    Returns:
        One entry per view, None where no pose explains enough points.

    Raises:
        PoseError: no intrinsics are given and the reference pointmap gives none.
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
    """Pose of a view that is a reference itself, from the maps of two paths.

    Its own path and path 0 hold the same points in two frames; the robust similarity between the
    maps of this view and of path 0's reference leads from one frame to the other.

    Args:
        prediction: pointmaps of all paths.
        index: the view.
        K: (3, 3) its intrinsics.
        settings: thresholds.

    Returns:
        The pose, or None when the view is no reference or the two paths do not agree.
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
    """The better points of a view in two paths.

    Returns:
        (N, 7): each point in the frame of `path`, in that of path 0, and the lower confidence;
        (N, 2) their pixels (u, v).
    """
    conf = np.minimum(prediction.conf[path, view], prediction.conf[0, view])
    maps = (prediction.points[path, view], prediction.points[0, view], conf[..., None])
    return sample_confident(np.concatenate(maps, -1), conf, quantile)


def _intrinsics(
    points_cam: FloatArray, conf: FloatArray, view: View, settings: PoseSettings
) -> FloatArray:
    """K of the view, or one from its pointmap with square pixels and a central principal point."""
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
    """Pose of one camera from its pointmap in another frame.

    Args:
        points_window: (H, W, 3) pointmap in the window's frame.
        conf: (H, W) confidence; points at 1 or below are invalid.
        K: (3, 3) intrinsics in pixels of the pointmap.
        settings: thresholds.

    Returns:
        The pose, or None when too few points agree on one.
    """
    points, pixels = sample_confident(points_window, conf, settings.conf_quantile)
    if len(points) < MIN_PNP_POINTS:
        return None
    # OpenCV works in absolute units; bring any scale near one
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
    """Pixels between where points are seen and where they should be; inf behind the camera."""
    cam = points @ T_cam_window[:3, :3].T + T_cam_window[:3, 3]
    homogeneous = cam @ K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.linalg.norm(homogeneous[:, :2] / homogeneous[:, 2:] - pixels, axis=1)
    return np.where(cam[:, 2] > 0, error, np.inf)


def sample_confident(
    points: FloatArray, conf: FloatArray, quantile: float
) -> tuple[FloatArray, FloatArray]:
    """About PNP_POINTS points of the better part of a pointmap, evenly spread over the image.

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
