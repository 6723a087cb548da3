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

"""The transform that the node publishes (REP-105)."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from mvdust3r_ros.datatypes import (
    JUMP_BACK_NS,
    FloatArray,
    Frame,
    Keyframe,
    MapUpdate,
    Verdict,
)
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.ros.inputs import Inputs, Report

Send = Callable[[FloatArray, int, str], None]


class TfOutput:
    """Publishes map->odom for each image, or map->camera for each window.

    With odometry, the correction map->odom is computed at the stamp of the newest mapped keyframe
    and holds until the next one. Without odometry, the camera's pose is published. If the camera
    has a parent on TF (it is mounted on a robot), the transform goes to the root of that tree, so
    that no frame ever gets a second parent.
    """

    def __init__(self, inputs: Inputs, send: Send, report: Report) -> None:
        """Create the output; nothing is published before the first committed window.

        Args:
            inputs: settings, and the transforms that others publish.
            send: publishes T_map_child with a stamp (ns) and the child frame.
            report: called with a reason and a message.
        """
        self._inputs, self._send, self._report = inputs, send, report
        self._lock = threading.Lock()
        self._T_map_odom: FloatArray | None = None
        self._last_ns = 0

    def reset(self) -> None:
        """Drop the correction, as the map is gone."""
        with self._lock:
            self._T_map_odom = None

    def on_frame(self, frame: Frame) -> None:
        """Repeat map->odom for a new image."""
        ahead_ns = round(self._inputs.settings.tf_ahead_s * 1e9)
        with self._lock:
            if frame.stamp_ns + ahead_ns <= self._last_ns - JUMP_BACK_NS:
                self._last_ns = 0
            if self._T_map_odom is not None:
                self._send_map_odom(frame.stamp_ns + ahead_ns)

    def on_update(self, update: MapUpdate) -> None:
        """Use the newest placed keyframe of a committed window."""
        placed = [k for k in update.window.keyframes if k.id in update.T_map_cam]
        if update.verdict != Verdict.COMMITTED or not placed:
            return
        newest = placed[-1]
        T_map_cam = update.T_map_cam[newest.id]
        mode = self._inputs.settings.publish_tf
        if mode == "auto":
            mode = "map_to_camera" if newest.view.T_odom_cam is None else "map_to_odom"
        with self._lock:
            if mode == "map_to_odom":
                self._set_map_odom(newest, T_map_cam)
            elif mode == "map_to_camera":
                self._place_cameras(placed, update.T_map_cam)

    def _set_map_odom(self, newest: Keyframe, T_map_cam: FloatArray) -> None:
        if newest.view.T_odom_cam is None:
            self._report("no_odometry", "map->odom needs odometry and the keyframe has none")
            return
        self._T_map_odom = T_map_cam @ invert_se3(newest.view.T_odom_cam)
        # tf2 ignores a repeated stamp, so the new value gets a slightly newer one.
        ahead_ns = round(self._inputs.settings.tf_ahead_s * 1e9)
        self._send_map_odom(max(newest.stamp_ns + ahead_ns, self._last_ns + 1))

    def _send_map_odom(self, stamp_ns: int) -> None:
        assert self._T_map_odom is not None
        if stamp_ns > self._last_ns and self._may_parent(self._inputs.odom_frame):
            self._last_ns = stamp_ns
            self._send(self._T_map_odom, stamp_ns, self._inputs.odom_frame)

    def _place_cameras(self, placed: list[Keyframe], T_map_cam: dict[int, FloatArray]) -> None:
        """Publish the pose of each keyframe since the last window; TF then covers all clouds."""
        newest = placed[-1]
        if newest.stamp_ns <= self._last_ns - JUMP_BACK_NS:
            self._last_ns = 0
        for keyframe in placed:
            if keyframe.stamp_ns > self._last_ns and keyframe.camera_name == newest.camera_name:
                self._place_camera(keyframe, T_map_cam[keyframe.id])
        self._last_ns = max(self._last_ns, newest.stamp_ns)

    def _place_camera(self, newest: Keyframe, T_map_cam: FloatArray) -> None:
        root = self._inputs.root_of(newest.camera_name)
        T_root_cam = self._inputs.transform(root, newest.camera_name, newest.stamp_ns)
        if T_root_cam is None:
            self._report(
                "tf", f"TF from {root} to {newest.camera_name} is not known at the keyframe's time"
            )
            return
        if not np.allclose(T_root_cam, np.eye(4)):
            T_map_cam = T_map_cam @ invert_se3(T_root_cam)
        self._send(T_map_cam, newest.stamp_ns, root)

    def _may_parent(self, child: str) -> bool:
        """Whether a frame is named and has no other parent on TF."""
        if not child:
            self._report("tf", "the odometry messages name no frame; set ros.odom_frame")
            return False
        parent = self._inputs.parent_of(child)
        if parent is not None:
            self._report(
                "tf",
                f"{child} has the parent {parent} already, {self._inputs.settings.map_frame}->"
                f"{child} is not published; stop one of the two or set ros.publish_tf to none",
            )
        return parent is None
