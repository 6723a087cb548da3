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

"""An engine that knows the answer: back-projects true depth with true poses.

It replaces the network wherever depth and poses are recorded, so that all later stages can be
evaluated against exact truth, optionally with errors of known size.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, Frame, View, ViewTokens, WindowPrediction
from mvdust3r_ros.descriptors import image_descriptor
from mvdust3r_ros.engines.base import Engine, EngineError, EngineInfo
from mvdust3r_ros.geometry import backproject, invert_se3

CONFIDENT, UNSURE = 5.0, 1.0
"""Confidences are 1 + exp(...). Pixels without depth get 1, the minimum; all others are equally
confident."""


@dataclass(frozen=True)
class OracleNoise:
    """Errors added to the truth.

    Attributes:
        points: standard deviation of each point along its ray, as a fraction of its depth.
        smooth: the same for one error per view (a depth scale error).
        scale: standard deviation of the logarithm of one random scale per window.
        seed: random seed; the errors of a window depend on the seed and on the poses of its views,
            not on windows decoded earlier.
    """

    points: float = 0.0
    smooth: float = 0.0
    scale: float = 0.0
    seed: int = 0


def missing_truth(image: Frame | View) -> str:
    """Name the oracle's inputs that an image lacks, in words; empty if none."""
    calibrated = image.camera if isinstance(image, Frame) else image.K
    needs = {
        "depth": image.depth_m,
        "an odometry pose": _true_pose(image),
        "camera_info": calibrated,
    }
    return " and ".join(name for name, value in needs.items() if value is None)


class OracleEngine(Engine):
    """The truth, with noise of known size."""

    def __init__(
        self, image_hw: tuple[int, int] = (224, 224), noise: OracleNoise | None = None
    ) -> None:
        """Make views of `image_hw` pixels; add `noise` if given."""
        self._image_hw = image_hw
        self._noise = noise or OracleNoise()

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Keep the views; raise EngineError if one lacks depth, pose or intrinsics."""
        for view in views:
            if missing := missing_truth(view):
                raise EngineError(f"the oracle engine needs {missing} with each image")
            if view.image_rgb.shape[:2] != self._image_hw:
                raise EngineError(f"view of {view.image_rgb.shape[:2]}, expected {self._image_hw}")
        return [ViewTokens(None, view, image_descriptor(view)) for view in views]

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:  # noqa: ARG002
        """Return true pointmaps in the frame of the first view, with the configured noise."""
        if len(tokens) < 2:
            raise EngineError(f"a window of {len(tokens)} views, at least 2 are needed")
        views = [token.view for token in tokens]
        rng = np.random.default_rng([self._noise.seed, window_seed(views)])
        scale = float(np.exp(rng.normal(0.0, self._noise.scale)))
        T_ref_world = invert_se3(_pose(views[0]))
        maps = [self._pointmap(view, T_ref_world, scale, rng) for view in views]
        points = np.stack([m[0] for m in maps])[None].astype(np.float32)
        conf = np.stack([m[1] for m in maps])[None].astype(np.float32)
        return WindowPrediction(points, conf)

    def _pointmap(
        self, view: View, T_ref_world: FloatArray, scale: float, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray]:
        assert view.depth_m is not None and view.K is not None
        valid = np.isfinite(view.depth_m) & (view.depth_m > 0)
        depth = np.where(valid, view.depth_m, 1.0).astype(np.float64)
        depth *= 1.0 + rng.normal(0.0, self._noise.smooth)
        if self._noise.points > 0:
            depth *= 1.0 + rng.normal(0.0, self._noise.points, depth.shape)
        T_ref_cam = T_ref_world @ _pose(view)
        points = backproject(depth, view.K) @ T_ref_cam[:3, :3].T + T_ref_cam[:3, 3]
        return points * scale, np.where(valid, CONFIDENT, UNSURE)

    def describe(self) -> EngineInfo:
        """Describe the engine: metric unless a random scale is added."""
        return EngineInfo(
            name="oracle (recorded depth and poses)",
            backend="oracle",
            image_hw=self._image_hw,
            metric=self._noise.scale == 0,
            needs_truth=True,
            intrinsics=True,
        )

    def close(self) -> None:
        """Do nothing: there are no resources to free."""


def window_seed(views: Iterable[View]) -> int:
    """Return a seed derived from the poses of a window's views, in order."""
    poses = [_true_pose(view) for view in views]
    return zlib.crc32(b"".join(pose.tobytes() for pose in poses if pose is not None))


def _true_pose(view: Frame | View) -> FloatArray | None:
    return view.T_odom_cam if view.T_world_cam is None else view.T_world_cam


def _pose(view: View) -> FloatArray:
    pose = _true_pose(view)
    assert pose is not None
    return pose
