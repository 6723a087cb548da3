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

"""The node's subscriptions: images, and the data that matches the timestamp of each image."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from mvdust3r_ros.datatypes import FloatArray, Frame
from mvdust3r_ros.messages.camera_infos import NO_INFO
from mvdust3r_ros.messages.camera_input import NO_DEPTH, STALE_NS, CameraInput
from mvdust3r_ros.messages.conversions import pose_from_odometry, stamp_to_ns
from mvdust3r_ros.messages.frame_ids import is_rectified, plain_frame
from mvdust3r_ros.messages.images import ConversionError
from mvdust3r_ros.messages.input_counts import DEPTH
from mvdust3r_ros.messages.odometry import EXTRAPOLATION_NS, Placement
from mvdust3r_ros.messages.odometry import Odometry as OdometryInput
from mvdust3r_ros.ros.health.arrivals import Arrivals
from mvdust3r_ros.ros.qos import (
    STATIC_TF,
    TF,
    UnsupportedEventTypeError,
    input_events,
    input_qos,
)
from mvdust3r_ros.ros.settings import RosSettings
from mvdust3r_ros.tones import Tones

HORIZON_NS = 10_000_000_000
"""Length of the pose buffers, tf2's default."""
DEPTHS_KEPT = 30
"""One second of depth images at 30 Hz, on top of one for each image that may be waiting."""
Report = Callable[[str, str], None]


@dataclass
class _Camera:
    """One camera's topics: prefix, received messages, optical frame.

    `waited` is set once an image has waited in vain for the camera's extrinsics, and
    `uncalibrated` once one has for camera_info: later images then do not wait.
    """

    prefix: str
    messages: CameraInput
    frame: str = ""
    waited: bool = False
    uncalibrated: bool = False


@dataclass(frozen=True)
class CameraImage:
    """An image message and the index of its camera."""

    camera: int
    message: Any


class Inputs:
    """Receives messages; converts an image message to a `Frame` in another thread.

    Attributes:
        image_topic: resolved name of the image topic.
        arrivals: statistics of each input: "image", "odom" and so on, prefixed with the camera's
            name for all but the first.
    """

    def __init__(
        self,
        node: Node,
        settings: RosSettings,
        on_image: Callable[[CameraImage], None],
        report: Report,
        on_map_transform: Callable[[Any, bool], None] = lambda _item, _fixed: None,
    ) -> None:
        """Subscribe.

        Args:
            node: the node.
            settings: topics, QoS and frames.
            on_image: called with each image message; must return at once.
            report: called with a reason and a message for input that cannot be used.
            on_map_transform: called with each transform from the map frame, and whether it is
                static.
        """
        self.settings = settings
        self.arrivals: dict[str, Arrivals] = {}
        self._node, self._on_image, self._report = node, on_image, report
        self._on_map_transform = on_map_transform
        self._cameras = [self._camera(f"{n}/" if n else "") for n in settings.camera_names]
        self._news = threading.Condition()
        self._subscriptions: list[Any] = []
        from_tf = settings.odom_source == "tf"
        with self._news:  # latched transforms arrive at once and wait for `_odometry`
            self._subscribe_all()
            self._odometry = OdometryInput(
                from_tf=from_tf,
                odom_frame=settings.odom_frame or ("odom" if from_tf else ""),
                base_frame=settings.base_frame,
                near=self.image_topic,
                horizon_ns=HORIZON_NS,
            )

    def _camera(self, prefix: str) -> _Camera:
        topic = self._node.resolve_topic_name(self._image_topic(prefix))
        tones = Tones(lambda words: self._node.get_logger().info(f"{prefix}image: {words}"))
        camera = CameraInput(
            partial(self._notify, prefix),
            tones,
            rectified=is_rectified(topic),
            wants_depth=self.settings.use_depth,
        )
        return _Camera(prefix, camera)

    def _image_topic(self, prefix: str) -> str:
        compressed = self.settings.image_transport == "compressed"
        return f"{prefix}image/compressed" if compressed else f"{prefix}image"

    @property
    def odom_frame(self) -> str:
        """Odometry frame, empty before it is known."""
        return self._odometry.odom_frame

    def _subscribe_all(self) -> None:
        ros = self.settings
        self.image_topic = ""
        for index in range(len(self._cameras)):
            topic = self._subscribe_camera(index)
            self.image_topic = self.image_topic or topic
        if ros.odom_source == "topic":
            profile = (ros.odom_reliability, ros.odom_depth, "odom_reliability")
            self._subscribe(Odometry, "odom", profile, self._take_odom, "odom")
        for topic, qos in (("/tf", TF), ("/tf_static", STATIC_TF)):
            fixed = topic == "/tf_static"
            self._subscriptions.append(
                self._node.create_subscription(
                    TFMessage, topic, lambda m, fixed=fixed: self._take_transforms(m, fixed), qos
                )
            )

    def _subscribe_camera(self, index: int) -> str:
        """Subscribe to all topics of a camera; return the name of its image topic."""
        ros, camera = self.settings, self._cameras[index]
        before = camera.prefix if index else ""
        compressed = ros.image_transport == "compressed"
        image = self._subscribe(
            CompressedImage if compressed else Image,
            self._image_topic(camera.prefix),
            (ros.image_reliability, ros.image_depth, "image_reliability"),
            partial(self._take_image, index),
            f"{before}image",
        )
        profile = (ros.camera_info_reliability, 5, "camera_info_reliability")
        topic, name = f"{camera.prefix}camera_info", f"{before}camera_info"
        self._subscribe(CameraInfo, topic, profile, lambda m: self._take_info(camera, m), name)
        if ros.use_depth:
            profile = (ros.depth_reliability, ros.image_depth, "depth_reliability")
            topic, name = f"{camera.prefix}depth", f"{before}depth"
            self._subscribe(Image, topic, profile, lambda m: self._take_depth(camera, m), name)
        return str(image.topic_name)

    def _subscribe(
        self,
        kind: type,
        topic: str,
        profile: tuple[str, int, str],
        callback: Callable[[Any], None],
        name: str,
    ) -> Any:
        reliability, depth, parameter = profile
        other = "best_effort" if reliability == "reliable" else "reliable"
        arrivals = Arrivals(
            self._node.resolve_topic_name(topic),
            f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}",
            reliability,
            parameter,
        )
        self.arrivals[name] = arrivals

        def take(message: Any) -> None:
            begin_s = time.perf_counter()
            callback(message)
            arrivals.add(time.perf_counter() - begin_s)

        events = input_events(
            topic, f"set ros.{parameter} to {other}", self._report, arrivals.count_lost
        )
        qos = input_qos(reliability, depth)
        try:
            made = self._node.create_subscription(kind, topic, take, qos, event_callbacks=events)
        except UnsupportedEventTypeError:
            made = self._node.create_subscription(kind, topic, take, qos)
        self._subscriptions.append(made)
        return made

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def clear(self) -> None:
        """Drop odometry, moving transforms and depth images after a time jump."""
        with self._news:
            self._odometry.clear()
            for camera in self._cameras:
                camera.messages.forget_depths()

    def _take_image(self, camera: int, message: Any) -> None:
        self._on_image(CameraImage(camera, message))

    def _take_info(self, camera: _Camera, message: CameraInfo) -> None:
        with self._news:
            camera.messages.add_info(message, time.monotonic())
            self._news.notify_all()

    def _take_odom(self, message: Odometry) -> None:
        try:
            T_odom_child = pose_from_odometry(message)
        except ConversionError as error:
            self._report(error.reason, f"odom: {error}")
            return
        with self._news:
            stamp_ns = stamp_to_ns(message.header.stamp)
            self._odometry.add_pose(
                message.header.frame_id, message.child_frame_id, stamp_ns, T_odom_child
            )
            self._news.notify_all()

    def _take_depth(self, camera: _Camera, message: Image) -> None:
        with self._news:
            # one for each image that may be waiting, and a margin
            most = DEPTHS_KEPT + self.settings.queue_size + self.settings.image_depth
            camera.messages.add_depth(message, most)
            self._news.notify_all()

    def _take_transforms(self, message: TFMessage, fixed: bool) -> None:
        map_frame = plain_frame(self.settings.map_frame)
        with self._news:
            for item in message.transforms:
                if plain_frame(item.header.frame_id) == map_frame:
                    self._on_map_transform(item, fixed)
            faults = self._odometry.add_transforms(message, fixed=fixed, ignored=map_frame)
            self._news.notify_all()
        for fault in faults:
            self._report("odometry", fault)

    def frame(self, taken: CameraImage) -> Frame:
        """Return the frame of an image message, with matching odometry and depth if available.

        Waits a bounded time for them; only the intake thread calls this.

        Raises:
            ConversionError: the image, or data that belongs to it, cannot be used.
        """
        image, camera = taken.message, self._cameras[taken.camera]
        messages, stamp_ns = camera.messages, stamp_to_ns(image.header.stamp)
        name = messages.optical_frame(image, self.settings.camera_frame)
        self._check_frame(camera, name)
        with self._news:
            self._news.wait_for(
                lambda: self._is_complete(camera, name, stamp_ns), self.settings.odom_wait_s
            )
            placement = self._place(name, stamp_ns)
            camera.waited = not self._is_mounted(name, stamp_ns)
            camera.uncalibrated = not messages.infos.known
            T_rig_cam = self._place_on_rig(name, stamp_ns)
            depth = messages.depth_at(stamp_ns)
        return messages.frame(
            image,
            name,
            time.monotonic(),
            placement,
            depth,
            T_rig_cam=T_rig_cam,
            max_pixels=round(self.settings.max_megapixels * 1e6),
        )

    def _notify(self, prefix: str, kind: str, why: str) -> None:
        """Report missing camera_info or depth; the image is used without it."""
        if kind == DEPTH:
            reason = "no_depth" if why == NO_DEPTH else "depth"
            self._report(reason, f"{prefix}depth: {why}; the image is used without")
        elif why != NO_INFO:  # diagnostics report silent topics
            self._report("no_calibration", why)

    def _check_frame(self, camera: _Camera, frame: str) -> None:
        camera.frame = frame
        for other in self._cameras:
            if other is not camera and other.frame == frame:
                raise ConversionError(
                    "camera_frame",
                    f"{camera.prefix}image and {other.prefix}image both say that they are in the "
                    f"frame {frame!r}; give each camera an optical frame of its own",
                )

    @property
    def path_camera(self) -> str:
        """Optical frame of the first of several cameras; empty for one camera or if unknown."""
        return self._cameras[0].frame if len(self._cameras) > 1 else ""

    def parent_of(self, frame: str) -> str | None:
        """Return a frame's parent as other nodes publish it on TF; None without one."""
        with self._news:
            return self._odometry.tree.parent_of(self._odometry.camera_frame(frame))

    def root_of(self, frame: str) -> str:
        """Return the root of a frame's tree as other nodes publish it."""
        with self._news:
            return self._odometry.tree.root_of(self._odometry.camera_frame(frame))

    def transform(self, target: str, source: str, stamp_ns: int) -> FloatArray | None:
        """Return T_target_source as other nodes publish it, or None."""
        with self._news:
            return self._odometry.lookup(target, source, stamp_ns, EXTRAPOLATION_NS)

    def _is_complete(self, camera: _Camera, camera_frame: str, stamp_ns: int) -> bool:
        """Whether an image has nothing more to wait for."""
        if camera.messages.depth_may_come(stamp_ns):
            return False
        awaits_info = not (camera.uncalibrated or camera.messages.infos.known)
        if awaits_info and self._is_published(f"{camera.prefix}camera_info"):
            return False
        if self.settings.odom_source == "none":
            return True
        odometry = self._odometry
        newest = (
            odometry.newest_ns
            if self.settings.odom_source == "topic"
            else odometry.tree.newest_ns(
                odometry.camera_frame(self.odom_frame), odometry.camera_frame(camera_frame)
            )
        )
        if newest is None:
            topic = "odom" if self.settings.odom_source == "topic" else "/tf"
            return not self._is_published(topic)
        if newest < stamp_ns - STALE_NS:
            return True
        mounted = camera.waited or self._is_mounted(camera_frame, stamp_ns)
        return newest >= stamp_ns and mounted

    def _is_published(self, topic: str) -> bool:
        """Whether a topic has a publisher, after remapping."""
        return bool(self._node.count_publishers(self._node.resolve_topic_name(topic)))

    def _is_mounted(self, camera_frame: str, stamp_ns: int) -> bool:
        """Whether the transform from the odometry's child frame to the camera is known."""
        if self.settings.odom_source != "topic" or self.settings.T_base_cam:
            return True
        return self._odometry.is_mounted(camera_frame, stamp_ns, self._beyond_ns)

    @property
    def _beyond_ns(self) -> int:
        return round(self.settings.odom_extrapolation_s * 1e9)

    def _place_on_rig(self, camera_frame: str, stamp_ns: int) -> FloatArray | None:
        """Return T_rig_cam in the first camera's frame; None with one camera or without TF."""
        if not self.path_camera:
            return None
        return self._odometry.lookup(self.path_camera, camera_frame, stamp_ns, EXTRAPOLATION_NS)

    def _place(self, camera_frame: str, stamp_ns: int) -> Placement:
        """Return the camera pose from odometry; report why if there is none."""
        source = self.settings.odom_source
        if source == "none":
            return Placement()
        mounting = self.settings.mounting() if source == "topic" else None
        found = self._odometry.place(camera_frame, stamp_ns, self._beyond_ns, mounting)
        if found.T_odom_cam is None and found.T_odom_base is not None:
            self._report(
                "mounting",
                f"the camera's place on the robot is not known: {found.why}; publish it on "
                "/tf_static or set ros.T_base_cam; else it is estimated from the motion",
            )
        elif found.why and (len(self._odometry) or source == "tf"):
            self._report("no_odometry", found.why)
        return found
