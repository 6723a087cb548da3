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

"""The node understands a robot as the reader of bags does: the same messages, over DDS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from mvdust3r_ros.datatypes import Frame
from robot_bags import IMAGE, NOT_KNOWN, ODOM, STATIC, UNDERSTOOD, frames_of
from room_bag import STORE
from short_drive import Drive, Recorded

LIVE = (
    "slashes everywhere", "two slashes and spaces", "TF of robot1 with its name in front",
    "odometry names no child", "images name no frame, camera_info does",
    "odometry names no frame at all", "two robots on one topic",
)  # fmt: skip
LIVE_TF = ("TF alone with slashes",)
LIVE_NOT_KNOWN = ("another base", "empty frames", "camera counts from boot", "two trees")


class Robot:
    """The node's inputs, and a publisher of a bag's messages beside them."""

    def __init__(self, odom_source: str) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from mvdust3r_ros.ros.inputs import Inputs
        from mvdust3r_ros.ros.settings import RosSettings

        self.context = rclpy.Context()
        self.context.init()
        names = {"image": IMAGE, "camera_info": "/camera/camera_info", "odom": ODOM}
        words = [w for name, to in names.items() for w in ("-r", f"{name}:={to}")]
        self.node = rclpy.create_node(
            "robot_test", context=self.context, cli_args=["--ros-args", *words]
        )
        self.images: list[Any] = []
        self.faults: list[tuple[str, str]] = []
        kinds = ("image", "camera_info", "odom")
        reliable = dict.fromkeys((f"{k}_reliability" for k in kinds), "reliable")
        settings = RosSettings(odom_source=odom_source, image_depth=50, **reliable)
        self.inputs = Inputs(
            self.node, settings, self.images.append, lambda *words: self.faults.append(words)
        )
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def hear(self, items: list[Recorded]) -> None:
        """Publish everything and take it in."""
        from rclpy.duration import Duration
        from rclpy.qos import QoSProfile
        from rclpy.serialization import deserialize_message

        from mvdust3r_ros.ros.message_types import message_class
        from mvdust3r_ros.ros.qos import STATIC_TF

        kinds = {i.topic: i.message.__msgtype__ for i in items}
        outputs = {
            topic: self.node.create_publisher(
                message_class(kind), topic, STATIC_TF if topic == STATIC else QoSProfile(depth=50)
            )
            for topic, kind in kinds.items()
        }
        self.spin_until(lambda: all(o.get_subscription_count() for o in outputs.values()))
        count = len(self.images) + sum(i.topic == IMAGE for i in items)
        for item in sorted(items, key=lambda i: (i.topic == IMAGE, i.log_ns)):
            kind = item.message.__msgtype__
            raw = bytes(STORE.serialize_cdr(item.message, kind))
            outputs[item.topic].publish(deserialize_message(raw, message_class(kind)))
        for output in outputs.values():
            assert output.wait_for_all_acked(Duration(seconds=30))
        self.spin_until(lambda: len(self.images) == count)
        end_s = time.monotonic() + 0.3
        while time.monotonic() < end_s:
            self.executor.spin_once(0.05)

    def spin_until(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 30.0
        while not condition():
            assert time.monotonic() < end_s
            self.executor.spin_once(0.05)

    def frames(self) -> list[Frame]:
        return [self.inputs.frame(image) for image in self.images]

    def close(self) -> None:
        self.inputs.close()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.mark.parametrize("kind", [*LIVE, *LIVE_TF, *LIVE_NOT_KNOWN])
def test_the_node_agrees_with_the_reader_of_bags(kind: str, drive: Drive, tmp_path: Path) -> None:
    edit, options, words = UNDERSTOOD.get(kind) or NOT_KNOWN[kind]
    items = edit(drive.items())
    bag_frames, _ = frames_of(items, drive, tmp_path, **options)
    robot = Robot("tf" if kind in LIVE_TF else "topic")
    try:
        robot.hear(items)
        frames = robot.frames()
        said = "\n".join(words for _, words in robot.faults)
    finally:
        robot.close()
    assert [f.stamp_ns for f in frames] == [f.stamp_ns for f in bag_frames]
    for live, read in zip(frames, bag_frames, strict=True):
        assert live.camera_name == read.camera_name
        np.testing.assert_allclose(live.camera.K, read.camera.K)
        for name in ("T_odom_cam", "T_odom_base"):
            one, other = getattr(live, name), getattr(read, name)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, other, atol=1e-9)
    assert words in said
    assert words or not said


def test_the_first_image_waits_for_a_calibration_that_comes(drive: Drive) -> None:
    """The driver's first camera_info is zero, the next one comes while the image waits."""
    items = drive.items()
    calibrations = [i for i in items if i.topic == "/camera/camera_info"]
    calibrations[0].message.k = np.zeros(9)
    calibrations[0].message.p = np.zeros(12)
    robot = Robot("none")
    try:
        robot.hear([calibrations[0], *[i for i in items if i.topic == IMAGE][:1]])
        taken: list[Frame] = []
        thread = threading.Thread(target=lambda: taken.extend(robot.frames()))
        robot.inputs.settings = replace(robot.inputs.settings, odom_wait_s=5.0)
        thread.start()
        robot.hear(calibrations[1:2])
        thread.join()
    finally:
        robot.close()
    assert taken[0].camera is not None
    np.testing.assert_allclose(taken[0].camera.K, drive.K)
