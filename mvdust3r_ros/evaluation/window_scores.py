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

"""Score the network's prediction for each window against recorded depth and poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from mvdust3r_ros.config import PoseSettings
from mvdust3r_ros.datatypes import (
    FloatArray,
    ImageArray,
    Keyframe,
    MapUpdate,
    MvDust3rError,
    Verdict,
    View,
    ViewTokens,
    WindowPrediction,
    is_point,
)
from mvdust3r_ros.engines.base import Engine, EngineInfo
from mvdust3r_ros.engines.views import path_order
from mvdust3r_ros.evaluation.metrics.window_metrics import (
    WindowScores,
    WindowTruth,
    align_pointmaps,
    scale_error,
    score_window,
)
from mvdust3r_ros.geometry import backproject, invert_se3
from mvdust3r_ros.window.pose_recovery import recover_poses

MOST_COLUMNS = 224
"""Wider views are scored on every n-th pixel: this is the width of the published network's
views."""
CONFIDENCE_SAMPLES = 400
"""Samples per window, a bound on memory: a drive has hundreds of windows."""
SHOWN_PX = 168
"""Chosen for appearance."""
FAR_PERCENTILE = 97
"""Percentile of the depth at which the thumbnail's colours end, so that a window in the wall does
not darken the room."""


@dataclass(frozen=True)
class Decoded:
    """An engine's prediction for a window.

    Attributes:
        views: in the order the engine was fed.
        prediction: in the same order.
    """

    views: tuple[View, ...]
    prediction: WindowPrediction

    def of(self, keyframes: Sequence[Keyframe]) -> WindowPrediction | None:
        """Return the prediction in the order of these keyframes; None if it has other views."""
        places = {id(k.view): place for place, k in enumerate(keyframes)}
        order = [places.get(id(view)) for view in self.views]
        if len(order) != len(keyframes) or any(place is None for place in order):
            return None
        return self.prediction.in_caller_order(tuple(p for p in order if p is not None))


class WatchedEngine(Engine):
    """An engine wrapper that remembers the predictions since they were last read."""

    def __init__(self, inner: Engine) -> None:
        """Wrap `inner`."""
        self._inner = inner
        self._decoded: list[Decoded] = []

    def observe(self, view: View) -> None:
        """Forward to the engine."""
        self._inner.observe(view)

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Forward to the engine."""
        return self._inner.encode(views)

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Forward to the engine and remember the prediction."""
        prediction = self._inner.decode(tokens, n_ref)
        self._decoded.append(Decoded(tuple(t.view for t in tokens), prediction))
        return prediction

    def describe(self) -> EngineInfo:
        """Forward to the engine."""
        return self._inner.describe()

    def close(self) -> None:
        """Forward to the engine."""
        self._inner.close()

    def prediction_of(self, keyframes: Sequence[Keyframe]) -> WindowPrediction | None:
        """Return any prediction for these keyframes since the last call, in their order."""
        decoded, self._decoded = self._decoded, []
        found = (item.of(keyframes) for item in decoded)
        return next((p for p in found if p is not None), None)


@dataclass(frozen=True)
class Thumbnail:
    """A keyframe's image and depth, for people.

    Attributes:
        window: index of its window.
        stamp_ns: acquisition time.
        verdict: verdict on its window.
        image: JPEG.
        depth: JPEG of the predicted depth in colours; None if no pose was found.
        true_depth: JPEG of the true depth in the same colours; None without true depth.
    """

    window: int
    stamp_ns: int
    verdict: Verdict
    image: bytes
    depth: bytes | None
    true_depth: bytes | None


@dataclass
class WindowLog:
    """Scores of all windows of a run, filled in by `observe`.

    Attributes:
        engine: the mapper's engine.
        pose: settings for recovering the poses that thumbnail depth needs.
        scores: window index -> scores, for windows with depth and poses.
        metric_error: window index -> relative scale error, for engines that predict metres.
        unscored: reason for missing scores -> number of windows.
        confidence: (N, 2) confidence and error (m) of a few pixels of each window.
        thumbnails: newest keyframe of each window.
    """

    engine: WatchedEngine
    pose: PoseSettings
    scores: dict[int, WindowScores] = field(default_factory=dict)
    metric_error: dict[int, float] = field(default_factory=dict)
    unscored: dict[str, int] = field(default_factory=dict)
    confidence: list[FloatArray] = field(default_factory=list)
    thumbnails: list[Thumbnail] = field(default_factory=list)

    def observe(self, update: MapUpdate) -> WindowPrediction | None:
        """Process the outcome of a window.

        Returns:
            The engine's prediction, in the order of the window's keyframes; None if it failed.
        """
        keyframes = update.window.keyframes
        prediction = self.engine.prediction_of(keyframes)
        self.thumbnails.append(thumbnail(update, prediction, self.pose))
        try:
            if prediction is None:
                raise MvDust3rError("the engine gave no prediction")
            self._score(update.window.index, [k.view for k in keyframes], prediction)
        except MvDust3rError as error:
            self.unscored[str(error)] = self.unscored.get(str(error), 0) + 1
        return prediction

    def _score(self, index: int, views: list[View], prediction: WindowPrediction) -> None:
        truth = window_truth(views)
        thin = slice(None, None, -(-truth.valid.shape[2] // MOST_COLUMNS))
        truth = replace(
            truth, points_world=truth.points_world[:, thin, thin], valid=truth.valid[:, thin, thin]
        )
        prediction = replace(
            prediction,
            points=prediction.points[:, :, thin, thin],
            conf=prediction.conf[:, :, thin, thin],
        )
        self.scores[index] = score_window(prediction, truth)
        reference = prediction.references[0]
        order = path_order(reference, len(views))
        points, conf = prediction.points[0][order], prediction.conf[0][order]
        true = truth.in_slots(reference)
        metric = prediction.metric
        if self.engine.describe().metric if metric is None else metric:
            self.metric_error[index] = scale_error(points, true.points_world, true.valid)
        aligned, moved = align_pointmaps(points, true.points_world, true.valid)
        error = np.linalg.norm(aligned - moved, axis=-1)[true.valid]
        step = max(1, len(error) // CONFIDENCE_SAMPLES)
        pairs = np.stack([conf[true.valid], error], -1)
        self.confidence.append(pairs[step // 2 :: step])


def window_truth(views: Sequence[View]) -> WindowTruth:
    """Return the true points and poses of a window.

    Raises:
        MvDust3rError: a view lacks depth, a true pose or intrinsics, or no depth is known.
    """
    points, valid, poses = [], [], []
    for view in views:
        if view.depth_m is None or view.T_world_cam is None or view.K is None:
            needs = {
                "true depth": view.depth_m, "a true pose": view.T_world_cam, "camera_info": view.K
            }  # fmt: skip
            missing = " and ".join(name for name, value in needs.items() if value is None)
            raise MvDust3rError(f"a keyframe has no {missing.removeprefix('a ')}")
        known = np.isfinite(view.depth_m) & (view.depth_m > 0)
        cam = backproject(np.where(known, view.depth_m, 1.0).astype(np.float64), view.K)
        T = view.T_world_cam
        points.append(cam @ T[:3, :3].T + T[:3, 3])
        valid.append(known)
        poses.append(T)
    return WindowTruth(np.stack(points), np.stack(valid), np.stack(poses))


def thumbnail(
    update: MapUpdate, prediction: WindowPrediction | None, pose: PoseSettings
) -> Thumbnail:
    """Render the newest keyframe of a window with its depth."""
    keyframe = update.window.keyframes[-1]
    view = keyframe.view
    predicted = None if prediction is None else _newest_depth(update, prediction, pose)
    true = view.depth_m
    if true is not None:
        true = np.where(np.isfinite(true) & (true > 0), true, np.nan)
    known = true if true is not None and np.isfinite(true).any() else predicted
    far = 1.0 if known is None else float(np.nanpercentile(known, FAR_PERCENTILE))
    if predicted is not None and true is not None and known is true:
        predicted = predicted * _median_ratio(true, predicted)
    return Thumbnail(
        window=update.window.index,
        stamp_ns=keyframe.stamp_ns,
        verdict=update.verdict,
        image=_jpeg(view.image_rgb),
        depth=None if predicted is None else _jpeg(depth_colors(predicted, far)),
        true_depth=None if true is None else _jpeg(depth_colors(true, far)),
    )


def _newest_depth(
    update: MapUpdate, prediction: WindowPrediction, pose: PoseSettings
) -> FloatArray | None:
    """Return the (H, W) depth of the newest view along its own axis, in the window's scale."""
    if not np.isfinite(prediction.points).all():
        return None
    try:
        poses = recover_poses(prediction, [k.view for k in update.window.keyframes], pose)
    except MvDust3rError:
        return None
    newest = poses[-1]
    if newest is None:
        return None
    T_cam_window = invert_se3(newest.T_window_cam)
    depth: FloatArray = prediction.points[0, -1] @ T_cam_window[2, :3] + T_cam_window[2, 3]
    return np.where(is_point(prediction.conf[0, -1]) & (depth > 0), depth, np.nan)


def _median_ratio(true: FloatArray, predicted: FloatArray) -> float:
    both = np.isfinite(true) & np.isfinite(predicted)
    return float(np.median(true[both] / predicted[both])) if both.any() else 1.0


def depth_colors(depth: FloatArray, far: float) -> ImageArray:
    """Colour depth (H, W, 3): near is bright, far is dark, grey where unknown."""
    known = np.isfinite(depth)
    level = 255 - np.clip(np.where(known, depth, 0) / max(far, 1e-9), 0, 1) * 255
    colors = cv2.applyColorMap(level.astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return np.where(known[..., None], colors, np.uint8(214)).astype(np.uint8)


def _jpeg(image_rgb: ImageArray) -> bytes:
    height, width = image_rgb.shape[:2]
    scale = SHOWN_PX / max(height, width)
    if scale < 1:
        size_wh = round(width * scale), round(height * scale)
        image_rgb = np.asarray(cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_AREA))
    flags = [cv2.IMWRITE_JPEG_QUALITY, 80]
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(image_rgb[..., ::-1]), flags)[1])
