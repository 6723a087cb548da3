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

"""From the views of a window to its geometry: network, poses, and what the map needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import (
    FloatArray,
    Keyframe,
    MvDust3rError,
    PixelGaussians,
    StageClock,
    Verdict,
    View,
    ViewTokens,
    Window,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import Engine, EngineError
from mvdust3r_ros.rolling_shutter import RollingShutter
from mvdust3r_ros.window.limits import attainable
from mvdust3r_ros.window.pose_recovery import recover_poses
from mvdust3r_ros.window.pose_refinement import refine_poses
from mvdust3r_ros.window.reference_views import order_views
from mvdust3r_ros.window.window_geometry import WindowError, WindowGeometry

STITCH_STRIDE = 4
"""Windows are joined on every fourth pixel of every fourth row, since neighbours have similar
errors. Insensitive from 2 to 8 (benchmarks/constants.py)."""
MIN_POSED_SHARE = 0.5
"""Where most views have no pose, the network has failed on the window."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A window as reconstructed by the network.

    Attributes:
        geometry: poses and thinned points in the window's own frame.
        points: (V, H, W, 3) all points.
        conf: (V, H, W) their confidence.
        tokens: of each view.
        gaussians: (V, H, W) of the points, window frame; None from an engine without.
    """

    geometry: WindowGeometry
    points: FloatArray
    conf: FloatArray
    tokens: list[ViewTokens]
    gaussians: PixelGaussians | None = None


class Reconstructor:
    """Runs an engine on windows and caches the encoded views of the last one.

    Attributes:
        engine: the network.
        shutter: known or estimated row readout times of the cameras.
        uses_odometry: whether the engine has used the views' odometry for its poses.
    """

    def __init__(self, engine: Engine, shutter: RollingShutter) -> None:
        """Start with an empty cache."""
        self.engine = engine
        self.shutter = shutter
        self.uses_odometry = False
        self._tokens: dict[int, ViewTokens] = {}

    def continue_from(self, made: Reconstruction) -> None:
        """Let the next window follow one that was reconstructed as a one-off."""
        ids = (k.id for k in made.geometry.window.keyframes)
        self._tokens = dict(zip(ids, made.tokens, strict=True))

    def tokens(self, keyframes: Sequence[Keyframe], remember: bool = True) -> list[ViewTokens]:
        """Encode the new keyframes of a window; others come from the cache.

        Args:
            keyframes: of the window.
            remember: whether the next window follows this one; otherwise the cache is unchanged.

        Returns:
            Tokens of each keyframe, in their order.

        Raises:
            MvDust3rError: the engine fails.
        """
        new = [k for k in keyframes if k.id not in self._tokens]
        encoded = self.engine.encode([k.view for k in new]) if new else []
        if len(encoded) != len(new):
            raise EngineError(f"the engine encoded {len(encoded)} of {len(new)} views")
        known = {**self._tokens, **dict(zip((k.id for k in new), encoded, strict=True))}
        if remember:
            self._tokens = {k.id: known[k.id] for k in keyframes}
        return [known[k.id] for k in keyframes]

    def reconstruct(
        self,
        window: Window,
        config: MapperConfig,
        clock: StageClock,
        *,
        one_off: bool = False,
        without_odometry: Sequence[Keyframe] = (),
    ) -> Reconstruction:
        """Reconstruct a window in its own frame: network and poses.

        Args:
            window: the window.
            config: settings.
            clock: records the latencies.
            one_off: whether the next window will not follow this one.
            without_odometry: keyframes whose odometry is hidden from an engine that would use it.

        Raises:
            WindowError: the verdict gives the reason.
        """
        views = [k.view for k in window.keyframes]
        try:
            with clock.stage("encode"):
                tokens = self.tokens(window.keyframes, remember=not one_off)
                fed = tokens
                if self.uses_odometry:
                    hidden = {k.id for k in without_odometry}
                    fed = [
                        _without_odometry(t) if k.id in hidden else t
                        for k, t in zip(window.keyframes, tokens, strict=True)
                    ]
            with clock.stage("decode"):
                info = self.engine.describe()
                n_ref = min(config.engine.n_ref or info.n_ref, len(views))
                order = order_views(views, n_ref)
                prediction = self.engine.decode([fed[i] for i in order], n_ref)
                prediction = prediction.in_caller_order(order)
                check_size(prediction, views)
                self.shutter.learn(prediction.readouts_s)
        except MvDust3rError as error:
            raise WindowError(Verdict.REJECTED_ENGINE_ERROR, str(error)) from None
        with clock.stage("pose"):
            check_finite(prediction)
            try:
                poses = recover_poses(prediction, views, config.pose)
            except MvDust3rError as error:
                raise WindowError(Verdict.REJECTED_POSE, str(error)) from None
        rel_error = info.rel_error if prediction.rel_error is None else prediction.rel_error
        points, note = prediction.points[0], prediction.note
        if config.pose.refine == "tracks" and prediction.poses is None:
            with clock.stage("refine"):
                limit = attainable(config.stitch, rel_error).max_residual
                refined = refine_poses(prediction, views, poses, rel_error, limit)
            points, poses, note = refined.points, refined.poses, note or refined.note
        self.uses_odometry |= prediction.used_odometry
        placed = sum(p is not None for p in poses)
        if placed < max(2, MIN_POSED_SHARE * len(poses)):
            raise WindowError(
                Verdict.REJECTED_POSE, f"only {placed} of {len(poses)} views have a pose"
            )
        thin = slice(STITCH_STRIDE // 2, None, STITCH_STRIDE)
        conf = prediction.conf[0]
        geometry = WindowGeometry(
            window,
            points[:, thin, thin],
            conf[:, thin, thin],
            poses,
            info.metric if prediction.metric is None else prediction.metric,
            depth_images(views, thin) if config.stitch.use_depth else None,
            rel_error,
            prediction.used_odometry,
            prediction.pose_covariance,
            note,
        )
        gaussians = None if prediction.gaussians is None else prediction.gaussians[0]
        return Reconstruction(geometry, points, conf, tokens, gaussians)


def _without_odometry(tokens: ViewTokens) -> ViewTokens:
    return replace(tokens, view=replace(tokens.view, T_odom_cam=None, T_odom_base=None))


def depth_images(views: Sequence[View], thin: slice) -> FloatArray:
    """(V, h, w) thinned depth images of the views; NaN where there is none."""
    height, width = views[0].image_rgb.shape[:2]
    nothing = np.full((height, width), np.nan, np.float32)
    depth = [nothing if v.depth_m is None else v.depth_m for v in views]
    return np.stack(depth)[:, thin, thin]


def check_finite(prediction: WindowPrediction) -> None:
    """Refuse predictions with NaN or infinity.

    Raises:
        WindowError: with the share of bad values.
    """
    points, conf = np.isfinite(prediction.points), np.isfinite(prediction.conf)
    if not (points.all() and conf.all()):
        bad = ~(points.all(-1) & conf)
        raise WindowError(
            Verdict.REJECTED_NOT_FINITE, f"{bad.mean():.1%} of the engine's values are not finite"
        )
    if prediction.gaussians is not None and not prediction.gaussians.finite():
        raise WindowError(Verdict.REJECTED_NOT_FINITE, "the engine's Gaussians are not finite")


def check_size(prediction: WindowPrediction, views: Sequence[View]) -> None:
    """Refuse pointmaps whose size differs from the views'.

    Raises:
        EngineError: with both sizes.
    """
    height, width = prediction.conf.shape[2:]
    for view in views:
        if view.image_rgb.shape[:2] != (height, width):
            size = "x".join(map(str, view.image_rgb.shape[1::-1]))
            raise EngineError(f"the engine gave {width}x{height} points for a view of {size}")
