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

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")

from mvdust3r_ros.datatypes import Frame, Keyframe, MapUpdate, Verdict, View, Window
from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.messages.transforms import FrameTree
from mvdust3r_ros.ros.settings import RosSettings
from mvdust3r_ros.ros.tf_output import TfOutput

S = 1_000_000_000
TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
T_MAP_CAM = make_se3(TURN, np.array([4.0, 1, 0.5]))
T_ODOM_CAM = make_se3(np.eye(3), np.array([1.0, 2, 0.5]))
IMAGE = np.zeros((4, 4, 3), np.uint8)


class Heard:
    """The part of the inputs that the output asks, with what others said on TF."""

    def __init__(self, settings: RosSettings) -> None:
        self.settings, self.odom_frame = settings, "odom"
        self.tree = FrameTree()
        self.sent: list[tuple[Any, int, str]] = []
        self.faults: list[tuple[str, str]] = []
        self.output = TfOutput(
            self,  # type: ignore[arg-type]
            lambda T, stamp_ns, child: self.sent.append((T, stamp_ns, child)),
            lambda reason, message: self.faults.append((reason, message)),
        )

    def parent_of(self, frame: str) -> str | None:
        return self.tree.parent_of(frame)

    def root_of(self, frame: str) -> str:
        return self.tree.root_of(frame)

    def transform(self, target: str, source: str, stamp_ns: int) -> Any:
        return self.tree.lookup(target, source, stamp_ns)


def update(stamp_ns: int, odometry: bool, verdict: Verdict = Verdict.COMMITTED) -> MapUpdate:
    view = View(IMAGE, T_odom_cam=T_ODOM_CAM if odometry else None)
    keyframe = Keyframe(5, stamp_ns, view, "camera")
    poses = {5: T_MAP_CAM} if verdict == Verdict.COMMITTED else {}
    return MapUpdate(Window(0, (keyframe,)), verdict, T_map_cam=poses)


def test_with_odometry_the_correction_is_computed_at_the_keyframe_and_repeated() -> None:
    heard = Heard(RosSettings(tf_ahead_s=0.1))
    heard.output.on_frame(Frame(1 * S, IMAGE))
    assert heard.sent == []
    heard.output.on_update(update(2 * S, odometry=True))
    heard.output.on_frame(Frame(3 * S, IMAGE))
    assert [(stamp, child) for _, stamp, child in heard.sent] == [
        (2 * S + S // 10, "odom"), (3 * S + S // 10, "odom"),
    ]  # fmt: skip
    for T, _, _ in heard.sent:
        np.testing.assert_allclose(T @ T_ODOM_CAM, T_MAP_CAM, atol=1e-12)
    assert heard.faults == []


def test_a_correction_that_comes_late_gets_a_stamp_of_its_own() -> None:
    heard = Heard(RosSettings(tf_ahead_s=0.0))
    heard.output.on_update(update(2 * S, odometry=True))
    heard.output.on_frame(Frame(4 * S, IMAGE))
    heard.output.on_update(update(3 * S, odometry=True))
    assert [stamp for _, stamp, _ in heard.sent] == [2 * S, 4 * S, 4 * S + 1]


def test_after_a_jump_back_transforms_go_on() -> None:
    heard = Heard(RosSettings(tf_ahead_s=0.0))
    heard.output.on_update(update(50 * S, odometry=True))
    heard.output.on_frame(Frame(51 * S, IMAGE))
    heard.output.on_frame(Frame(2 * S, IMAGE))
    assert [stamp for _, stamp, _ in heard.sent] == [50 * S, 51 * S, 2 * S]


def test_odom_never_gets_a_second_parent() -> None:
    heard = Heard(RosSettings())
    heard.tree.set_fixed("world", "odom", np.eye(4))
    heard.output.on_update(update(2 * S, odometry=True))
    heard.output.on_frame(Frame(3 * S, IMAGE))
    assert heard.sent == []
    assert "odom has the parent world already" in heard.faults[0][1]


def test_without_odometry_a_free_camera_is_placed_itself() -> None:
    heard = Heard(RosSettings())
    heard.output.on_update(update(2 * S, odometry=False))
    ((T, stamp, child),) = heard.sent
    assert (stamp, child) == (2 * S, "camera")
    np.testing.assert_array_equal(T, T_MAP_CAM)


def test_without_odometry_each_new_keyframe_of_a_window_is_placed_once() -> None:
    heard = Heard(RosSettings())
    keyframes = [Keyframe(i, i * S, View(IMAGE), "camera") for i in range(1, 6)]
    for window in (keyframes[:3], keyframes[1:]):
        poses = {k.id: T_MAP_CAM for k in window}
        made = MapUpdate(Window(0, tuple(window)), Verdict.COMMITTED, T_map_cam=poses)
        heard.output.on_update(made)
    assert [stamp for _, stamp, _ in heard.sent] == [i * S for i in range(1, 6)]


def test_without_odometry_a_mounted_camera_carries_its_robot() -> None:
    heard = Heard(RosSettings())
    T_base_cam = make_se3(TURN.T, np.array([0.2, 0, 1]))
    heard.tree.set_fixed("base_link", "mount", T_base_cam)
    heard.tree.set_fixed("mount", "camera", np.eye(4))
    heard.output.on_update(update(2 * S, odometry=False))
    ((T, _, child),) = heard.sent
    assert child == "base_link"
    np.testing.assert_allclose(T @ T_base_cam, T_MAP_CAM, atol=1e-12)


def test_what_cannot_be_placed_is_said() -> None:
    heard = Heard(RosSettings())
    heard.tree.set_moving("base_link", "camera", 100 * S, np.eye(4))
    heard.output.on_update(update(2 * S, odometry=False))
    assert heard.sent == []
    assert "base_link" in heard.faults[0][1]


@pytest.mark.parametrize("odometry", [True, False])
def test_none_is_silent(odometry: bool) -> None:
    heard = Heard(RosSettings(publish_tf="none"))
    heard.output.on_update(update(2 * S, odometry=odometry))
    heard.output.on_frame(Frame(3 * S, IMAGE))
    assert heard.sent == []


def test_map_to_odom_without_odometry_is_a_fault_and_a_rejected_window_changes_nothing() -> None:
    heard = Heard(RosSettings(publish_tf="map_to_odom"))
    heard.output.on_update(update(2 * S, odometry=True, verdict=Verdict.REJECTED_RESIDUAL))
    assert heard.sent == heard.faults == []
    heard.output.on_update(update(2 * S, odometry=False))
    assert heard.sent == []
    assert "needs odometry" in heard.faults[0][1]


def test_a_reset_stops_the_transform() -> None:
    heard = Heard(RosSettings())
    heard.output.on_update(update(2 * S, odometry=True))
    heard.output.reset()
    heard.output.on_frame(Frame(3 * S, IMAGE))
    assert len(heard.sent) == 1
