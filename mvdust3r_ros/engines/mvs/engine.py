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

"""The engine `mvs`: estimates poses from images, then each view's depth from its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mvdust3r_ros.datatypes import FloatArray, View, ViewPose, ViewTokens, WindowPrediction
from mvdust3r_ros.descriptors import image_descriptor
from mvdust3r_ros.engines.base import SIDE_MULTIPLE, Engine, EngineError, EngineInfo
from mvdust3r_ros.engines.manifest import load_manifest
from mvdust3r_ros.engines.mvs.agreement import agreement, on_edges
from mvdust3r_ros.engines.mvs.confidence import ConfidenceRule
from mvdust3r_ros.engines.mvs.depth_reader import GRAPHS, Arrays, DepthReader
from mvdust3r_ros.engines.mvs.readings import Readings
from mvdust3r_ros.engines.mvs.sweep_inputs import half_intrinsics
from mvdust3r_ros.engines.onnx_engine import OnnxOptions
from mvdust3r_ros.geometry import backproject
from mvdust3r_ros.rolling_shutter import straightened_by
from mvdust3r_ros.sfm.camera_beliefs import CameraBelief, CameraKey, camera_key
from mvdust3r_ros.sfm.features import ViewFeatures, view_features
from mvdust3r_ros.sfm.tracks import FrameTracks
from mvdust3r_ros.sfm.window_poses import SfmError, WindowPoses, window_poses

LEAST_FEATURES = 8
"""A view with fewer features shows nothing with a measurable depth: darkness, a covered lens, a
bare wall."""

BENT_S = 0.003
"""An image corrected for a rolling-shutter readout this far off is encoded again. This happens in
the first windows, before the readout is known. At 0.3 rad/s it bends a view of 384 pixels by 0.3
pixels."""
TYPICAL_DEPTH = 2.0
"""Median depth of a window without metric scale: that of a room, `METRIC_TYPICAL_M`."""


@dataclass(eq=False)
class MvsFeatures:
    """Features kept for a view.

    Attributes:
        arrays: the network's features.
        corners: features for pose estimation.
        straightened_s: rolling-shutter readout that the image of `arrays` was corrected for; None
            for that of the view.
    """

    arrays: Arrays
    corners: ViewFeatures
    straightened_s: float | None = None


class MvsEngine(Engine):
    """Multi-view stereo with an engine folder of backend `mvs`."""

    def __init__(self, folder: Path, options: OnnxOptions | None = None) -> None:
        """Load the network.

        Raises:
            EngineError: the folder is incomplete or damaged, ONNX Runtime lacks the provider or
                cannot load a graph.
        """
        manifest = load_manifest(folder, reads=GRAPHS)
        self._rule = ConfidenceRule.from_manifest(manifest.network)
        self._reader = DepthReader(folder, options)
        self._tracks = FrameTracks()
        self._readings = Readings()
        self._cameras: dict[CameraKey, CameraBelief] = {}
        self._info = manifest.engine_info(f"ONNX Runtime, {self._reader.provider}")

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Compute the features of each view independently.

        Raises:
            EngineError: the engine does not accept the size of a view.
        """
        for view in views:
            height, width = view.image_rgb.shape[:2]
            if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
                raise EngineError(
                    f"a view of {width}x{height} pixels; {self._info.name} takes sides that are "
                    f"multiples of {SIDE_MULTIPLE}"
                )

        def encoded(view: View) -> ViewTokens:
            features = MvsFeatures(self._reader.encode(view), view_features(view))
            return ViewTokens(features, view, image_descriptor(view))

        with ThreadPoolExecutor(self._reader.threads) as pool:
            return list(pool.map(encoded, views))

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Estimate poses, depth and confidence of a window, in the frame of the first view placed.

        A view without texture has a pose if odometry provides one, but no confident point.

        Raises:
            EngineError: neither the images nor anything else determine the poses.
        """
        del n_ref  # all poses are adjusted jointly, without a choice of reference
        order = sorted(range(len(tokens)), key=lambda k: tokens[k].view.stamp_ns)
        return self._decoded([tokens[k] for k in order]).in_caller_order(tuple(order))

    def _decoded(self, tokens: Sequence[ViewTokens]) -> WindowPrediction:
        """Predict from views in time order."""
        views = [t.view for t in tokens]
        features: list[MvsFeatures] = [t.features for t in tokens]
        image_hw = views[0].image_rgb.shape[:2]
        try:
            poses = self._poses(tokens)
        except SfmError as error:
            raise EngineError(str(error)) from None
        if not (poses.metric or poses.unit_before):
            poses = _as_large_as_a_room(poses)
        shows = np.array([len(f.corners) >= LEAST_FEATURES for f in features])
        read = replace(poses, placed=poses.placed & shows, by_images=poses.by_images & shows)
        known = self._readings.kept(features, read)
        arrays = [self._straight_arrays(token) for token in tokens]
        depth, log_error = self._reader.depth(arrays, read, image_hw, known)
        self._readings.remember(tokens, read, depth, log_error)
        votes = agreement(depth, log_error, poses.T_ref_cam, half_intrinsics(poses.K))
        conf = self._rule.confidence(log_error, votes, on_edges(depth) | (depth <= 0))
        return WindowPrediction(
            points=_points(votes.depth, poses)[None],
            conf=_doubled(conf)[None],
            references=(poses.reference,),
            poses=tuple(
                ViewPose(T, K, 1.0, 0.0) if placed else None
                for T, K, placed in zip(poses.T_ref_cam, poses.K, poses.placed, strict=True)
            ),
            pose_covariance=poses.covariance,
            metric=poses.metric,
            used_odometry=poses.used_odometry,
            note=poses.note,
            readouts_s={
                name: belief.readout_s
                for (name, _, _), belief in self._cameras.items()
                if belief.shows_readout
            },
        )

    def _poses(self, tokens: Sequence[ViewTokens]) -> WindowPoses:
        """Estimate the views' poses; without odometry, views of the previous window help.

        Raises:
            SfmError: neither images nor odometry determine the poses.
        """
        no_odometry = all(t.view.T_odom_cam is None for t in tokens)
        earlier = self._readings.earlier(tokens) if no_odometry else []
        every = [*earlier, *tokens]
        views, times = (
            [t.view for t in every],
            [(t.view.stamp_ns, t.view.camera_name) for t in every],
        )
        found = window_poses(
            views,
            [t.features.corners for t in every],
            lambda: self._tracks.between(times),
            [view.stamp_ns for view in views] if views[-1].stamp_ns else None,
            self._readings.poses_before([t.features for t in every]),
            self._cameras,
        )
        self._cameras |= {key: belief.faded() for key, belief in found.cameras.items()}
        return found.of_last(len(tokens)) if earlier else found

    def _straight_arrays(self, token: ViewTokens) -> Arrays:
        """Return the network's features of a view, recomputed if its rows prove strongly bent."""
        features: MvsFeatures = token.features
        belief = self._cameras.get(camera_key(token.view))
        if belief is None or not belief.shows_readout:
            return features.arrays
        done_s = features.straightened_s
        if done_s is None:
            done_s = token.view.straightened_s
        if abs(belief.readout_s - done_s) > BENT_S:
            straight = straightened_by(token.view, belief.readout_s)
            if straight is not token.view:
                features.arrays = self._reader.encode(straight)
            features.straightened_s = belief.readout_s
        return features.arrays

    def observe(self, view: View) -> None:
        """Store the image, through which points are tracked where features are too few."""
        gray = cv2.cvtColor(view.image_rgb, cv2.COLOR_RGB2GRAY)
        self._tracks.observe(view.stamp_ns, view.camera_name, np.asarray(gray, np.uint8))

    def describe(self) -> EngineInfo:
        """Describe the engine, naming its execution provider."""
        return self._info

    def close(self) -> None:
        """Free the network."""
        del self._reader


def _as_large_as_a_room(poses: WindowPoses) -> WindowPoses:
    """Rescale poses of unknown scale so that voxels and cells are about as fine as in metres."""
    size = np.array([1.0, 1.0, 1.0, TYPICAL_DEPTH, TYPICAL_DEPTH, TYPICAL_DEPTH])
    T = poses.T_ref_cam.copy()
    T[:, :3, 3] *= TYPICAL_DEPTH
    return replace(
        poses,
        T_ref_cam=T,
        points_ref=poses.points_ref * TYPICAL_DEPTH,
        covariance=poses.covariance * size * size[:, None],
    )


def _doubled(half: FloatArray) -> FloatArray:
    """Upsample (V, H/2, W/2) to (V, H, W) without interpolation."""
    return half.repeat(2, axis=1).repeat(2, axis=2)


def _points(depth: FloatArray, poses: WindowPoses) -> FloatArray:
    """Return (V, H, W, 3) float32 points of all pixels in the frame of the reference."""
    full = _doubled(depth)
    out = np.empty((*full.shape, 3), np.float32)
    for index, z in enumerate(full):
        T = poses.T_ref_cam[index].astype(np.float32)
        out[index] = backproject(z, poses.K[index]).astype(np.float32) @ T[:3, :3].T + T[:3, 3]
    return out
