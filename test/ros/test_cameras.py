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

"""Two cameras of different sizes on one robot, over DDS."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from box_room import BoxRoom
from live_nodes import Stage
from room_bag import T_FRONT_LEFT, BagKind, RoomBag

LIMIT_S = 60.0
CLOUD = "sensor_msgs/msg/PointCloud2"
Driven = tuple[Stage, RoomBag, dict[str, list[Any]]]
"""Node and bag, and what was heard."""


@pytest.fixture(scope="module")
def driven(new_stage: Callable[[], Stage], make_bag: Callable[[BagKind], RoomBag]) -> Driven:
    from nav_msgs.msg import Path
    from rclpy.qos import DurabilityPolicy, QoSProfile

    from mvdust3r_ros.ros.message_types import message_class

    bag, stage = make_bag(BagKind(odometry="base", rig=True)), new_stage()
    names = [f"{c}/{t}" for c in ("front", "left") for t in ("image", "camera_info", "depth")]
    stage.mapper(
        topics={name: f"/{name}" for name in names}, ros__cameras="front,left",
        use_sim_time=True, ros__use_depth=True, ros__queue_size=100, ros__image_depth=100,
        ros__odom_wait_s=5.0,
        keyframes__window_size=6, ros__base_frame="base_link",
    )  # fmt: skip
    heard: dict[str, list[Any]] = defaultdict(list)
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    control = stage.control
    control.create_subscription(Path, "/mapper/path", heard["path"].append, latched)
    control.create_subscription(
        message_class(CLOUD), "/mapper/obstacle_points", heard["obstacles"].append, 50
    )
    stage.bring_up()
    words = [str(bag.bag), "--clock", "--image-topic", "/front/image"]
    stage.processes.start("player", "play.player", words)
    control.wait(lambda: stage.processes.ended("player"), LIMIT_S, "the player to end")
    received = lambda: control.value("input", "images received") == str(2 * len(bag.poses))  # noqa: E731
    control.wait(received, LIMIT_S, "all images of both cameras")
    idle = lambda: (  # noqa: E731
        control.value("engine", "windows waiting") == "0"
        and control.value("input", "images waiting") == "0"
    )
    control.wait(idle, LIMIT_S, "the bag to be mapped")
    return stage, bag, heard


def test_windows_of_both_cameras_are_committed(driven: Driven) -> None:
    stage, _, _ = driven
    windows = stage.control.windows
    assert len(windows) >= 2
    assert [w.message for w in windows if w.verdict != 0] == []


def test_clouds_come_from_both_cameras_and_lie_on_true_surfaces(
    driven: Driven, room: BoxRoom
) -> None:
    """Each cloud with the true pose of its own camera; sizes and fields of view differ."""
    _, bag, heard = driven
    count = Counter(c.header.frame_id for c in heard["obstacles"])
    assert set(count) == {"front_optical", "left_optical"}
    assert min(count.values()) >= 3
    truth = dict(zip(bag.stamps_ns, bag.poses, strict=True))
    for cloud in heard["obstacles"]:
        stamp = cloud.header.stamp.sec * 10**9 + cloud.header.stamp.nanosec
        turned = T_FRONT_LEFT if cloud.header.frame_id == "left_optical" else np.eye(4)
        T = truth[stamp] @ turned
        points = np.frombuffer(bytes(cloud.data), "<f4").reshape(-1, 5)[:, :3]
        off = room.distance_to_surface(points @ T[:3, :3].T + T[:3, 3])
        assert np.percentile(off, 90) < 0.05


def test_the_path_is_that_of_the_first_camera(driven: Driven) -> None:
    """Straight differences to the front camera's truth are one constant shift: the floor's."""
    _, bag, heard = driven
    truth = dict(zip(bag.stamps_ns, bag.poses, strict=True))
    path = heard["path"][-1].poses
    assert len(path) >= 4
    off = [
        np.array([p.pose.position.x, p.pose.position.y, p.pose.position.z])
        - truth[p.header.stamp.sec * 10**9 + p.header.stamp.nanosec][:3, 3]
        for p in path
    ]
    assert np.linalg.norm(np.array(off) - np.median(off, axis=0), axis=1).max() < 0.05


def test_without_tf_the_camera_sits_where_the_parameter_says(
    new_stage: Callable[[], Stage], make_bag: Callable[[BagKind], RoomBag]
) -> None:
    bag, stage = make_bag(BagKind(odometry="unmounted")), new_stage()
    topics = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info",
              "depth": "/camera/depth"}  # fmt: skip
    stage.mapper(
        topics=topics, use_sim_time=True, ros__use_depth=True, ros__queue_size=100,
        ros__image_depth=100, ros__odom_wait_s=5.0, ros__T_base_cam="0.1 0 1.2 0 0 0",
    )  # fmt: skip
    stage.bring_up()
    words = [str(bag.bag), "--depth", str(bag.depth), "--clock", "--rate", "2"]
    stage.processes.start("player", "play.player", words)
    windows = stage.control.windows
    stage.control.wait(lambda: len(windows) >= 2, LIMIT_S, "two windows")
    assert [w.message for w in windows if w.verdict != 0] == []
    assert windows[-1].scale_rel_sigma < 0.1
