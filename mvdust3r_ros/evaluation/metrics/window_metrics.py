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

"""Metrics of a window's pointmaps and cameras, as in MV-DUSt3R+ (Tang et al. 2024).

The pose of the reference view is the identity, and all pointmaps are in its frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from mvdust3r_ros.datatypes import BoolArray, FloatArray, MvDust3rError, WindowPrediction
from mvdust3r_ros.engines.views import path_order
from mvdust3r_ros.geometry import focal_from_pointmap, invert_se3, make_se3, pixel_grid

ERROR_CEILING = 10.0
"""Limit of ND and CD, as in the published evaluation: a single lost view does not dominate the
mean."""
DAC_THRESHOLD = 0.2
"""Threshold on ND, metres (the paper's DAc)."""
ANGLE_LIMIT_DEG = 15
"""Limit of RRE and RTE, as in the paper."""
MAA_LIMIT_DEG = 30
"""Limit of mAE, as in the paper: mAA@30."""
LEAST_CONFIDENT = 0.03
"""Fraction of the pixels, the least confident, that the published evaluation ignores in camera
estimation."""
ALIGNMENTS = ("scale_shift", "scale_depth_shift", "scale")


class MetricError(MvDust3rError):
    """A prediction cannot be compared with the truth."""


@dataclass(frozen=True)
class WindowTruth:
    """The true points and poses of a window.

    Attributes:
        points_world: (V, H, W, 3) true point of each pixel, metres.
        valid: (V, H, W) bool, where the points are known.
        T_world_cam: (V, 4, 4) camera poses.
    """

    points_world: FloatArray
    valid: BoolArray
    T_world_cam: FloatArray

    def __post_init__(self) -> None:
        shape = np.shape(self.points_world)
        if len(shape) != 4 or shape[3] != 3 or np.shape(self.valid) != shape[:3]:
            raise MetricError(f"true points {shape} do not fit the mask {np.shape(self.valid)}")
        if np.shape(self.T_world_cam) != (shape[0], 4, 4):
            raise MetricError(f"{shape[0]} views but true poses {np.shape(self.T_world_cam)}")

    def in_slots(self, reference: int) -> WindowTruth:
        """Return this truth with the reference first, in the reference's frame."""
        order = path_order(reference, len(self.valid))
        T_ref_world = invert_se3(np.asarray(self.T_world_cam[reference], np.float64))
        points = self.points_world[order] @ T_ref_world[:3, :3].T + T_ref_world[:3, 3]
        return WindowTruth(points, self.valid[order], T_ref_world @ self.T_world_cam[order])


def mean_distance(points: FloatArray, valid: BoolArray) -> float:
    """Return the mean distance of the valid points (..., 3) from the origin, at least 1e-8."""
    distances = np.linalg.norm(np.asarray(points[valid], np.float64), axis=-1)
    return max(float(distances.sum() / (len(distances) + 1e-8)), 1e-8)


def align_pointmaps(
    predicted: FloatArray, truth: FloatArray, valid: BoolArray, alignment: str = "scale_shift"
) -> tuple[FloatArray, FloatArray]:
    """Remove scale, and optionally shift, before errors are computed; no rotation is fitted.

    Args:
        predicted: (V, H, W, 3) in the frame of the reference.
        truth: (V, H, W, 3) in the frame of the reference, metres.
        valid: (V, H, W) bool.
        alignment: "scale_shift" (medians of all axes and of the spread, the truth stays in
            metres), "scale_depth_shift" (shift along z only) or "scale" (both to mean distance 1).

    Returns:
        Aligned prediction and truth.

    Raises:
        MetricError: nothing is valid, shapes differ, or an unknown alignment.
    """
    if np.shape(predicted) != np.shape(truth) or np.shape(valid) != np.shape(truth)[:-1]:
        raise MetricError(
            f"prediction {np.shape(predicted)}, truth {np.shape(truth)} and mask "
            f"{np.shape(valid)} do not fit"
        )
    if alignment not in ALIGNMENTS:
        raise MetricError(f"alignment {alignment!r} is not one of {', '.join(ALIGNMENTS)}")
    if not np.any(valid):
        raise MetricError("no pixel of the truth is valid")
    pred = np.asarray(predicted, np.float64) / mean_distance(predicted, valid)
    true = np.asarray(truth, np.float64)
    if alignment == "scale":
        return pred, true / mean_distance(true, valid)
    axes = slice(0, 3) if alignment == "scale_shift" else slice(2, 3)
    pred[..., axes] -= _lower_median(pred[valid][:, axes])
    true = true.copy()
    true[..., axes] -= _lower_median(true[valid][:, axes])
    spread = min(max(_spread(pred[valid]), 1e-3), 1e3)
    return pred * (_spread(true[valid]) / spread), true


def _lower_median(values: FloatArray) -> FloatArray:
    """Return the median along axis 0, the lower one of an even count."""
    middle = (len(values) - 1) // 2
    median: FloatArray = np.partition(values, middle, axis=0)[middle]
    return median


def _spread(points: FloatArray) -> float:
    """Return the median distance of points (N, 3) from their median."""
    return float(_lower_median(np.linalg.norm(points - _lower_median(points), axis=1)))


def view_errors(predicted: FloatArray, truth: FloatArray, valid: BoolArray) -> FloatArray:
    """Return the mean error of valid points per view, shape (V,); 0 for a view without any."""
    distance = np.linalg.norm(predicted - truth, axis=-1)
    counts = np.maximum(valid.sum((1, 2)), 1)
    errors: FloatArray = np.where(valid, distance, 0.0).sum((1, 2)) / counts
    return errors


def normalized_distance(predicted: FloatArray, truth: FloatArray, valid: BoolArray) -> float:
    """Compute ND: mean distance per view, at most 10, averaged over views; inputs are aligned."""
    return float(np.minimum(view_errors(predicted, truth, valid), ERROR_CEILING).mean())


def chamfer_distance(cloud_a: FloatArray, cloud_b: FloatArray) -> float:
    """Compute CD: the sum of the mean squared nearest-neighbour distances in both directions.

    Args:
        cloud_a: (N, 3), not empty.
        cloud_b: (M, 3), not empty.

    Raises:
        MetricError: a cloud is empty.
    """
    if len(cloud_a) == 0 or len(cloud_b) == 0:
        raise MetricError(f"cannot compare clouds of {len(cloud_a)} and {len(cloud_b)} points")
    to_b = cKDTree(cloud_b).query(cloud_a)[0]
    to_a = cKDTree(cloud_a).query(cloud_b)[0]
    return float((to_b**2).mean() + (to_a**2).mean())


def confident_pixels(conf: FloatArray, least: float = LEAST_CONFIDENT) -> BoolArray:
    """Mask all but the least confident fraction of pixels, any shape, ranked together."""
    threshold = np.sort(conf, axis=None)[int(conf.size * least)]
    mask: BoolArray = conf >= threshold
    return mask


def estimate_intrinsics(points_ref: FloatArray, conf: FloatArray) -> FloatArray:
    """Estimate the reference view's K (3, 3) from its (H, W, 3) pointmap and (H, W) confidence."""
    height, width = conf.shape
    f = focal_from_pointmap(points_ref, confident_pixels(conf))
    return np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]])


def pnp_poses(points: FloatArray, masks: BoolArray, K: FloatArray) -> FloatArray:
    """Estimate camera poses (V, 4, 4) by OpenCV's PnP-RANSAC with its default options.

    Args:
        points: (V, H, W, 3) in one frame, of a size near 1.
        masks: (V, H, W) bool, pixels to use.
        K: (3, 3) intrinsics of all views.

    Returns:
        Camera-to-frame poses. As in the published evaluation, a failure counts as a camera at (-1,
        -1, -1) without rotation. Use this to compare numbers, and `pose_recovery` for mapping.
    """
    uv = pixel_grid(*masks.shape[1:])
    poses = []
    for pointmap, mask in zip(points, masks, strict=True):
        T_cam_frame = make_se3(np.eye(3), np.ones(3))
        if mask.sum() >= 4:  # PnP needs four points
            found, rvec, tvec, _ = cv2.solvePnPRansac(
                pointmap[mask].astype(np.float64), uv[mask], K, np.zeros(0)
            )
            if found:
                T_cam_frame = make_se3(np.asarray(cv2.Rodrigues(rvec)[0]), np.ravel(tvec))
        poses.append(invert_se3(T_cam_frame))
    return np.array(poses)


def relative_pose_errors_deg(
    T_predicted: FloatArray, T_true: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Compute the errors of the relative poses of all pairs i < j.

    Relative poses are T_i @ inv(T_j) in the common frame, so the order of the cameras matters.

    Args:
        T_predicted: (V, 4, 4) predicted camera-to-frame poses.
        T_true: (V, 4, 4) true poses.

    Returns:
        (P,) angles between the rotations and (P,) angles in [0, 90] between the lines of the
        translations, degrees.
    """
    i, j = np.array(list(combinations(range(len(T_true)), 2)), int).reshape(-1, 2).T
    pred = T_predicted[i] @ invert_se3(np.asarray(T_predicted, np.float64))[j]
    true = T_true[i] @ invert_se3(np.asarray(T_true, np.float64))[j]
    cosine = ((pred[:, :3, :3] * true[:, :3, :3]).sum((1, 2)) - 1.0) / 2.0
    return np.degrees(arccos_extrapolated(cosine)), line_angle_deg(pred[:, :3, 3], true[:, :3, 3])


def arccos_extrapolated(cosine: FloatArray, margin: float = 1e-4) -> FloatArray:
    """Compute the arc cosine, continued by its tangent beyond 1 - margin, radians.

    The published numbers use it: equal rotations differ by 0.405 degrees.
    """
    bound = 1.0 - margin
    inside = np.clip(cosine, -bound, bound)
    slope = -1.0 / np.sqrt(1.0 - bound**2)
    angle: FloatArray = np.arccos(inside) + (cosine - inside) * slope
    return angle


def line_angle_deg(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the angle in [0, 90] degrees between the lines along vectors (P, 3)."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum(-1) / np.maximum(lengths, 1e-15)
    sine_squared = np.maximum(1.0 - cosine**2, 1e-15)
    angle: FloatArray = np.degrees(np.arccos(np.sqrt(1.0 - np.minimum(sine_squared, 1.0))))
    return angle


@dataclass(frozen=True)
class PoseAccuracy:
    """Fractions of camera pairs, 0 to 1.

    Attributes:
        rra: rotation error below 15 degrees.
        rta: translation error below 15 degrees.
        maa: both errors below k degrees, mean over k = 1 to 30.
    """

    rra: float
    rta: float
    maa: float


def pose_accuracy(rotation_deg: FloatArray, translation_deg: FloatArray) -> PoseAccuracy:
    """Compute the accuracy from the errors (P,) of all pairs."""
    worst = np.maximum(rotation_deg, translation_deg)
    limits = np.arange(1, MAA_LIMIT_DEG + 1)
    return PoseAccuracy(
        rra=float((rotation_deg < ANGLE_LIMIT_DEG).mean()),
        rta=float((translation_deg < ANGLE_LIMIT_DEG).mean()),
        maa=float((worst[:, None] < limits).mean()),
    )


@dataclass(frozen=True)
class WindowScores:
    """The published columns for one window and one reference path.

    Attributes:
        nd: normalised distance.
        dac: 1 if nd is below 0.2, otherwise 0.
        cd: Chamfer distance, at most 10.
        rre: 1 - RRA@15.
        rte: 1 - RTA@15.
        mae: 1 - mAA@30.
    """

    nd: float
    dac: float
    cd: float
    rre: float
    rte: float
    mae: float


def score_window(
    prediction: WindowPrediction,
    truth: WindowTruth,
    path: int = 0,
    alignment: str = "scale_shift",
) -> WindowScores:
    """Compute all columns for one reference path of a prediction.

    Args:
        prediction: views in the order of the truth.
        truth: the truth.
        path: index of the reference path.
        alignment: as in `align_pointmaps`.

    Raises:
        MetricError: the prediction does not match the truth.
    """
    reference = prediction.references[path]
    order = path_order(reference, prediction.points.shape[1])
    points, conf = prediction.points[path][order], prediction.conf[path][order]
    true = truth.in_slots(reference)
    pred_aligned, true_aligned = align_pointmaps(points, true.points_world, true.valid, alignment)
    nd = normalized_distance(pred_aligned, true_aligned, true.valid)
    cd = chamfer_distance(pred_aligned[true.valid], true_aligned[true.valid])
    K = estimate_intrinsics(points[0], conf[0])
    poses = pnp_poses(points / mean_distance(points, true.valid), true.valid, K)
    accuracy = pose_accuracy(*relative_pose_errors_deg(poses, true.T_world_cam))
    return WindowScores(
        nd=nd,
        dac=float(nd < DAC_THRESHOLD),
        cd=min(cd, ERROR_CEILING),
        rre=1.0 - accuracy.rra,
        rte=1.0 - accuracy.rta,
        mae=1.0 - accuracy.maa,
    )


def depth_abs_rel(depth_m: FloatArray, truth_m: FloatArray, valid: BoolArray) -> float:
    """Compute AbsRel: the mean of |depth - truth| / truth over the valid pixels.

    Raises:
        MetricError: nothing is valid.
    """
    if not np.any(valid):
        raise MetricError("no pixel of the true depth is valid")
    true = np.asarray(truth_m[valid], np.float64)
    return float((np.abs(depth_m[valid] - true) / true).mean())


def scale_error(predicted: FloatArray, truth: FloatArray, valid: BoolArray) -> float:
    """Compute the scale error of a metric prediction: median of |predicted| / |truth|, minus 1.

    Args:
        predicted: (..., 3) points in the frame of the reference, metres.
        truth: (..., 3) the true points.
        valid: (...) bool.
    """
    pred, true = (np.linalg.norm(p[valid], axis=-1) for p in (predicted, truth))
    use = true > 1e-9  # the camera centre is at distance 0
    if not use.any():
        raise MetricError("no point of the truth is valid")
    return float(np.median(pred[use] / true[use]) - 1.0)


def demo_view_order(n_views: int) -> tuple[int, ...]:
    """Return the order in which the published demo feeds images, reference views first.

    Position k gets image order[k]. With up to 11 images the references are 0, 3 and 6 (those that
    exist), from 12 on image 0 and the images after each quarter. Each reference swaps places with
    the image at its new position.
    """
    if n_views < 12:
        references = [k for k in (3, 6) if k < n_views]
    else:
        references = [k * n_views // 4 + 1 for k in (1, 2, 3)]
    order = list(range(n_views))
    for position, image in enumerate(references, 1):
        order[position], order[image] = order[image], order[position]
    return tuple(order)


def demo_cameras(points: FloatArray, conf: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Estimate intrinsics and poses as the published demo does, without any truth.

    Args:
        points: (V, H, W, 3) pointmaps in the frame of view 0.
        conf: (V, H, W) confidence.

    Returns:
        K (3, 3) from view 0 and camera-to-reference poses (V, 4, 4), from all but the 3 % least
        confident pixels of all views together.
    """
    K = estimate_intrinsics(points[0], conf[0])
    return K, pnp_poses(points, confident_pixels(conf), K)


COLUMNS = ("ND x10", "DAc %", "CD x100", "RRE %", "RTE %", "mAE %")


def mean_columns(scores: Sequence[WindowScores]) -> tuple[float, ...]:
    """Average the published columns over windows: median Chamfer distance, means of the rest.

    Raises:
        MetricError: there are no windows.
    """
    if not scores:
        raise MetricError("no windows to average over")
    table = np.array([[s.nd, s.dac, s.cd, s.rre, s.rte, s.mae] for s in scores])
    nd, dac, _, rre, rte, mae = table.mean(0)
    columns = (10 * nd, 100 * dac, 100 * np.median(table[:, 2]), 100 * rre, 100 * rte, 100 * mae)
    return tuple(float(c) for c in columns)


def format_table(results: Mapping[str, Sequence[WindowScores]]) -> str:
    """Format a Markdown table with one row for each named set of windows."""
    width = max([len(name) for name in results], default=5)
    return "\n".join(_table_lines(results, max(width, len("windows"))))


def _table_lines(results: Mapping[str, Sequence[WindowScores]], width: int) -> Iterator[str]:
    yield f"| {'windows':<{width}} | {'n':>5} | " + " | ".join(f"{c:>7}" for c in COLUMNS) + " |"
    yield f"| {'-' * width} | ----: | " + " | ".join("-" * 6 + ":" for _ in COLUMNS) + " |"
    for name, scores in results.items():
        cells = " | ".join(f"{v:7.2f}" for v in mean_columns(scores))
        yield f"| {name:<{width}} | {len(scores):5d} | {cells} |"
