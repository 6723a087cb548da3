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

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvdust3r_ros.geometry import invert_se3, make_se3
from mvdust3r_ros.messages.transforms import FrameTree, PoseBuffer

S = 1_000_000_000


def pose(yaw_deg: float, x: float) -> np.ndarray:
    return make_se3(
        Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix(), np.array([x, 0, 0])
    )


def buffer(horizon_ns: int = 0) -> PoseBuffer:
    made = PoseBuffer(horizon_ns)
    for i in range(5):
        made.add(i * S, pose(10.0 * i, float(i)))
    return made


def test_between_two_poses_motion_is_even() -> None:
    np.testing.assert_allclose(buffer().at(int(1.25 * S)), pose(12.5, 1.25), atol=1e-12)


def test_at_a_stamp_the_pose_is_exact() -> None:
    np.testing.assert_array_equal(buffer().at(3 * S), pose(30, 3))


def test_beyond_the_ends_motion_goes_on_for_a_bounded_time() -> None:
    poses = buffer()
    np.testing.assert_allclose(poses.at(int(4.1 * S), S // 5), pose(41, 4.1), atol=1e-9)
    np.testing.assert_allclose(poses.at(-S // 10, S // 5), pose(-1, -0.1), atol=1e-9)
    assert poses.at(int(4.1 * S), S // 20) is None
    assert poses.at(int(4.1 * S)) is None


def test_a_long_gap_is_not_bridged() -> None:
    poses = buffer()
    poses.add(10 * S, pose(0, 9))
    assert poses.at(7 * S) is None


def test_the_order_of_arrival_does_not_matter() -> None:
    mixed = PoseBuffer()
    for i in (3, 0, 4, 1, 2):
        mixed.add(i * S, pose(10.0 * i, float(i)))
    np.testing.assert_array_equal(mixed.at(int(2.5 * S)), buffer().at(int(2.5 * S)))


def test_an_empty_buffer_knows_nothing_and_one_pose_holds_nearby() -> None:
    poses = PoseBuffer()
    assert poses.at(0, S) is None
    poses.add(S, pose(5, 1))
    np.testing.assert_array_equal(poses.at(S + 10, 100), pose(5, 1))
    assert poses.at(S + 10) is None


def test_old_poses_go_and_a_jump_back_starts_again() -> None:
    poses = buffer(horizon_ns=2 * S)
    assert len(poses) == 3
    poses.add(2 * S, pose(0, 7))
    assert len(poses) == 1
    assert poses.newest_ns == 2 * S


def test_the_same_stamp_replaces() -> None:
    poses = buffer()
    poses.add(2 * S, pose(0, 9))
    assert len(poses) == 5
    np.testing.assert_array_equal(poses.at(2 * S), pose(0, 9))


@pytest.fixture
def tree() -> FrameTree:
    frames = FrameTree()
    for i in range(3):
        frames.set_moving("odom", "base", i * S, pose(0, float(i)))
    frames.set_fixed("base", "mount", pose(90, 0.5))
    frames.set_fixed("mount", "camera", pose(0, 0.25))
    frames.set_fixed("base", "lidar", pose(180, 0.1))
    return frames


def test_chains_multiply(tree: FrameTree) -> None:
    expected = pose(0, 1.5) @ pose(90, 0.5) @ pose(0, 0.25)
    np.testing.assert_allclose(tree.lookup("odom", "camera", int(1.5 * S)), expected, atol=1e-12)


def test_branches_meet_at_their_common_frame_at_any_time(tree: FrameTree) -> None:
    expected = invert_se3(pose(180, 0.1)) @ pose(90, 0.5) @ pose(0, 0.25)
    np.testing.assert_allclose(tree.lookup("lidar", "camera", 99 * S), expected, atol=1e-12)


def test_lookup_inverts(tree: FrameTree) -> None:
    there, back = tree.lookup("odom", "camera", S), tree.lookup("camera", "odom", S)
    assert there is not None and back is not None
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-12)


def test_unknown_frames_and_times_give_none(tree: FrameTree) -> None:
    assert tree.lookup("odom", "arm", S) is None
    assert tree.lookup("odom", "camera", 9 * S) is None
    assert tree.lookup("map", "camera", S) is None


def test_roots_parents_and_newest_time(tree: FrameTree) -> None:
    assert tree.root_of("camera") == "odom"
    assert tree.root_of("arm") == "arm"
    assert tree.parent_of("camera") == "mount"
    assert tree.parent_of("odom") is None
    assert tree.newest_ns("odom", "camera") == 2 * S
    assert tree.newest_ns("base", "camera") is None


def test_a_new_parent_replaces_the_old_one(tree: FrameTree) -> None:
    tree.set_moving("world", "base", S, pose(0, 4))
    assert tree.lookup("odom", "camera", S) is None
    assert tree.root_of("camera") == "world"


def test_forgetting_what_moves_keeps_what_is_fixed(tree: FrameTree) -> None:
    tree.forget_moving()
    assert tree.lookup("odom", "base", S) is None
    assert tree.lookup("base", "camera", S) is not None


def test_a_loop_of_frames_ends() -> None:
    frames = FrameTree()
    frames.set_fixed("a", "b", np.eye(4))
    frames.set_fixed("b", "a", np.eye(4))
    assert frames.lookup("a", "b", 0) is not None
    assert frames.lookup("a", "c", 0) is None


def test_the_frame_right_below_another_one() -> None:
    tree = FrameTree()
    for parent, child in (("odom", "footprint"), ("footprint", "base"), ("base", "camera")):
        tree.set_fixed(parent, child, np.eye(4))
    assert tree.below("odom", "camera") == "footprint"
    assert tree.below("base", "camera") == "camera"
    assert tree.below("camera", "camera") is None
    assert tree.below("camera", "odom") is None
    assert tree.below("nowhere", "camera") is None
