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

import struct

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")

from rclpy.serialization import deserialize_message, serialize_message

from mvdust3r_ros.datatypes import (
    Keyframe,
    MapSnapshot,
    MapUpdate,
    OccupancyGrid,
    ScaleEstimate,
    ScaleSource,
    Trajectory,
    Verdict,
    View,
    Window,
)
from mvdust3r_ros.drawing.occupancy import summarize_grid
from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.messages.conversions import pose_from_transform, stamp_to_ns
from mvdust3r_ros.msg import OccupancySummary, WindowStatus
from mvdust3r_ros.ros.outputs import (
    MAX_PATH_POSES,
    grid_to_msg,
    header_msg,
    points_to_msg,
    summary_to_msg,
    trajectory_to_msg,
    transform_msg,
    window_status_msg,
)

STAMP_NS = 1_700_000_000_123_456_789
HEADER = header_msg(STAMP_NS, "map")
TURN = make_se3(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, -2, 3]))


def over_the_wire(message):  # type: ignore[no-untyped-def]
    return deserialize_message(serialize_message(message), type(message))


def test_points_by_byte_without_those_that_are_not_finite() -> None:
    points = np.array([[1, 2, 3], [np.nan, 0, 0], [-4, 5.5, 6], [0, np.inf, 0]], np.float32)
    colors = np.array([[255, 128, 1], [9, 9, 9], [2, 3, 4], [9, 9, 9]], np.uint8)
    message = over_the_wire(points_to_msg(points, colors, np.array([7, 1, 8, 1.0]), HEADER))
    assert [f.name for f in message.fields] == ["x", "y", "z", "rgb", "confidence"]
    assert [(f.offset, f.datatype, f.count) for f in message.fields] == [
        (4 * i, 7, 1) for i in range(5)
    ]
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 2, 20, 40)
    assert message.is_dense and not message.is_bigendian
    assert bytes(message.data) == (
        struct.pack("<fff", 1, 2, 3) + bytes([1, 128, 255, 0]) + struct.pack("<f", 7)
        + struct.pack("<fff", -4, 5.5, 6) + bytes([4, 3, 2, 0]) + struct.pack("<f", 8)
    )  # fmt: skip
    assert stamp_to_ns(message.header.stamp) == STAMP_NS


def test_an_empty_cloud_is_a_message_too() -> None:
    empty = np.zeros((0, 3), np.float32)
    message = over_the_wire(points_to_msg(empty, empty.astype(np.uint8), np.zeros(0), HEADER))
    assert (message.width, len(message.data)) == (0, 0)


def test_a_grid_begins_with_its_lower_left_cell() -> None:
    cells = np.array([[0, 100, -1], [-1, -1, 0]], np.int8)
    message = over_the_wire(grid_to_msg(OccupancyGrid(cells, 0.05, (-1.5, 2.0)), HEADER))
    assert list(message.data) == [0, 100, -1, -1, -1, 0]
    info = message.info
    assert (info.width, info.height) == (3, 2)
    assert info.resolution == pytest.approx(0.05)
    assert (info.origin.position.x, info.origin.position.y) == (-1.5, 2.0)
    assert info.origin.orientation.w == 1.0
    assert info.map_load_time == message.header.stamp


def test_each_pose_of_a_path_has_its_stamp() -> None:
    stamps = np.array([STAMP_NS, STAMP_NS + 5])
    path = over_the_wire(
        trajectory_to_msg(Trajectory(stamps, np.stack([np.eye(4), TURN])), HEADER)
    )
    assert [stamp_to_ns(p.header.stamp) for p in path.poses] == stamps.tolist()
    assert all(p.header.frame_id == "map" for p in path.poses)
    pose = path.poses[1].pose
    assert (pose.position.x, pose.position.y, pose.position.z) == (1.0, -2.0, 3.0)
    assert (pose.orientation.z, pose.orientation.w) == pytest.approx((np.sqrt(0.5),) * 2)


@pytest.mark.parametrize("count", [0, 1, MAX_PATH_POSES, MAX_PATH_POSES + 1, 5 * MAX_PATH_POSES])
def test_a_long_path_is_thinned_out_to_its_newest_pose(count: int) -> None:
    trajectory = Trajectory(np.arange(count), np.tile(np.eye(4), (count, 1, 1)))
    stamps = [p.header.stamp.nanosec for p in trajectory_to_msg(trajectory, HEADER).poses]
    assert len(stamps) == (count if count <= MAX_PATH_POSES else len(stamps))
    assert len(stamps) <= MAX_PATH_POSES
    assert stamps[-1:] == ([count - 1] if count else [])
    assert len(set(np.diff(stamps).tolist())) <= 1


def test_transforms_come_back() -> None:
    message = over_the_wire(transform_msg(TURN, HEADER, "odom"))
    assert (message.header.frame_id, message.child_frame_id) == ("map", "odom")
    np.testing.assert_allclose(pose_from_transform(message.transform), TURN, atol=1e-12)


def test_the_summary_repeats_the_grid_in_numbers() -> None:
    cells = np.full((20, 20), -1, np.int8)
    cells[5:15, 5:15] = 0
    cells[10, 14] = 100
    grid = OccupancyGrid(cells, 0.1, (0.0, 0.0))
    snapshot = MapSnapshot(
        np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8), np.array([2.0, 4.0], np.float32),
        grid, Trajectory(np.zeros(0, np.int64), np.zeros((0, 4, 4))), None,
        ScaleEstimate(2.5, 0.1, ScaleSource.ODOMETRY), floor_z_m=-0.5,
    )  # fmt: skip
    stats = summarize_grid(grid, (1.0, 1.05), 0.0, 4)
    message = over_the_wire(summary_to_msg(snapshot, grid, stats, (0.1, 1.4), HEADER))
    assert (message.free_cells, message.occupied_cells, message.unknown_cells) == (99, 1, 300)
    assert message.explored_area == pytest.approx(1.0)
    low, high = message.bounds_min, message.bounds_max
    assert (low.x, low.y, low.z) == pytest.approx((0.5, 0.5, -0.4))
    assert (high.x, high.y, high.z) == pytest.approx((1.5, 1.5, 0.9))
    assert message.nearest_obstacle_distance == pytest.approx(0.45)
    assert message.nearest_obstacle_bearing == pytest.approx(0.0, abs=1e-6)
    assert np.nanargmin(message.sector_obstacle_distances) == 2
    assert message.mean_confidence == 3.0
    assert (message.scale, message.scale_source) == (2.5, OccupancySummary.SCALE_ODOMETRY)


def test_the_window_status_says_what_happened() -> None:
    view = View(np.zeros((4, 4, 3), np.uint8))
    keyframes = tuple(Keyframe(i, STAMP_NS + i, view, "cam") for i in range(3))
    update = MapUpdate(
        Window(7, keyframes, 2), Verdict.REJECTED_RESIDUAL, "too far", residual_m=0.4,
        latency_ms={"encode": 1.5, "pose": 2.0},
    )  # fmt: skip
    counts = {
        "received_frames": 9, "dropped_frames": 2, "superseded_windows": 1, "rejected_windows": 1,
    }  # fmt: skip
    message = over_the_wire(window_status_msg(update, HEADER, counts, 55.0))
    assert (message.window_index, message.epoch) == (7, 2)
    assert message.verdict == WindowStatus.REJECTED_RESIDUAL
    assert message.message == "too far"
    assert [stamp_to_ns(s) for s in message.keyframe_stamps] == [STAMP_NS + i for i in range(3)]
    assert dict(zip(message.stage_names, message.stage_latencies_ms, strict=True)) == {
        "encode": 1.5, "pose": 2.0,
    }  # fmt: skip
    assert (message.received_frames, message.dropped_frames) == (9, 2)
    assert (message.total_latency_ms, message.points_added) == (55.0, 0)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_verdicts_are_those_of_the_message(verdict: Verdict) -> None:
    assert getattr(WindowStatus, verdict.name) == verdict


@pytest.mark.parametrize("source", list(ScaleSource))
def test_scale_sources_are_those_of_the_message(source: ScaleSource) -> None:
    assert getattr(OccupancySummary, f"SCALE_{source.name}") == source
