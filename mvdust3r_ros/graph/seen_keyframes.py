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

"""The keyframes of a placed window, in the form that the map keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import FloatArray, IntArray, PixelGaussians, is_point
from mvdust3r_ros.geometry import rotated_wxyz
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.placing.known_points import Pointmap
from mvdust3r_ros.placing.stitching import Placement
from mvdust3r_ros.window.reconstruct import Reconstruction


def seen_keyframes(
    made: Reconstruction, placement: Placement, rule: MapSettings
) -> list[MapKeyframe]:
    """Return the map's form of each view with a pose.

    Args:
        made: the window, all points in its own frame.
        placement: its placement, with metres per window unit.
        rule: which points to keep: every `pixel_stride`-th, more confident than `min_conf` and the
            quantile `conf_quantile`, nearer than `max_depth_m`.

    Returns:
        Keyframes with float32 points in metres, camera frame.
    """
    geometry, scale = made.geometry, placement.S_map_window.scale
    thin = slice(rule.pixel_stride // 2, None, rule.pixel_stride)
    points = np.ascontiguousarray(made.points[:, thin, thin])
    conf = np.ascontiguousarray(made.conf[:, thin, thin])
    valid = conf[is_point(conf)]
    worst = float(np.quantile(valid, rule.conf_quantile)) if valid.size else 1.0
    seen = []
    for index, keyframe, pose in geometry.posed():
        R, t = pose.T_window_cam[:3, :3], pose.T_window_cam[:3, 3]
        cam = (points[index] - t.astype(np.float32)) @ (np.float32(scale) * R.astype(np.float32))
        depth = cam[..., 2]
        trusted = (conf[index] >= worst) & (conf[index] > rule.min_conf)
        use = np.flatnonzero(trusted & (depth > 0) & (depth < rule.max_depth_m))
        colors = np.ascontiguousarray(keyframe.view.image_rgb[thin, thin])
        gaussians = None
        if made.gaussians is not None:
            own = made.gaussians[index, thin, thin]
            gaussians = in_camera(own, R, scale * rule.pixel_stride, use)
        thinned = (geometry.points_cam(index) * scale).astype(np.float32)
        seen.append(
            MapKeyframe(
                keyframe,
                placement.T_map_cam[keyframe.id],
                cam.reshape(-1, 3).take(use, 0),
                colors.reshape(-1, 3).take(use, 0),
                conf[index].take(use),
                # a view would keep the confidences of the whole window in memory
                pointmap=Pointmap(thinned, geometry.conf[index].copy()),
                descriptor=made.tokens[index].descriptor,
                sized_by=placement.scale.history.newest,
                network_share=placement.network_share,
                gaussians=gaussians,
            )
        )
    return seen


def in_camera(
    gaussians: PixelGaussians, R_window_cam: FloatArray, scale: float, use: IntArray
) -> PixelGaussians:
    """Some Gaussians of a view, in its camera frame.

    Args:
        gaussians: (h, w) of the view, window frame.
        R_window_cam: (3, 3) attitude of the view.
        scale: their new size over the old: metres of the window's unit, times the pixels that
            each stands for.
        use: (N,) which of them.
    """
    some = PixelGaussians(
        gaussians.opacity.ravel()[use],
        gaussians.scale.reshape(-1, 3)[use] * np.float32(scale),
        gaussians.quat_wxyz.reshape(-1, 4)[use],
    )
    return replace(some, quat_wxyz=rotated_wxyz(R_window_cam.T, some.quat_wxyz))
