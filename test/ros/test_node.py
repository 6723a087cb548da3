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

"""A mapper node and a bag player as processes, everything they say to each other over DDS."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from box_room import BoxRoom
from live_nodes import Stage
from mvdust3r_ros.drawing.map_files import load_occupancy, read_ply, read_tum
from room_bag import RoomBag

if TYPE_CHECKING:
    from mvdust3r_ros.ros.play.control import MapperControl

LIMIT_S = 60.0
TOPICS = {
    "/mapper/points": ("sensor_msgs/msg/PointCloud2", "VOLATILE"),
    "/mapper/window_status": ("mvdust3r_ros/msg/WindowStatus", "VOLATILE"),
    "/mapper/map_points": ("sensor_msgs/msg/PointCloud2", "TRANSIENT_LOCAL"),
    "/mapper/path": ("nav_msgs/msg/Path", "TRANSIENT_LOCAL"),
    "/mapper/occupancy_grid": ("nav_msgs/msg/OccupancyGrid", "TRANSIENT_LOCAL"),
    "/mapper/occupancy_summary": ("mvdust3r_ros/msg/OccupancySummary", "TRANSIENT_LOCAL"),
    "/tf": ("tf2_msgs/msg/TFMessage", "VOLATILE"),
    "/diagnostics": ("diagnostic_msgs/msg/DiagnosticArray", "VOLATILE"),
}


@dataclass
class Played:
    """What was heard while a bag was played once."""

    stage: Stage
    bag: RoomBag
    maps: Path
    heard: dict[str, list[Any]]
    late: dict[str, list[Any]]

    @property
    def control(self) -> MapperControl:
        return self.stage.control


def listen(
    control: MapperControl, topics: dict[str, tuple[str, str]], heard: dict[str, list[Any]]
) -> None:
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    from mvdust3r_ros.ros.message_types import message_class

    for topic, (kind, durability) in topics.items():
        qos = QoSProfile(
            depth=1000,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy[durability],
        )
        control.create_subscription(message_class(kind), topic, heard[topic].append, qos)


def idle(control: MapperControl, images: int) -> bool:
    received = control.value("input", "images received")
    waiting = control.value("input", "images waiting"), control.value("engine", "windows waiting")
    return received == str(images) and waiting == ("0", "0")


@pytest.fixture(scope="module")
def played(
    new_stage: Callable[[], Stage], room_bag: RoomBag, tmp_path_factory: pytest.TempPathFactory
) -> Played:
    stage, maps = new_stage(), tmp_path_factory.mktemp("maps")
    topics = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info",
              "depth": "/camera/depth"}  # fmt: skip
    stage.mapper(topics=topics, use_sim_time=True, ros__use_depth=True, ros__map_dir=maps,
                 ros__queue_size=100, ros__image_depth=100)  # fmt: skip
    heard: dict[str, list[Any]] = defaultdict(list)
    listen(stage.control, TOPICS, heard)
    stage.bring_up()
    words = [str(room_bag.bag), "--depth", str(room_bag.depth), "--clock", "--rate", "2"]
    stage.processes.start("player", "play.player", words)
    control, images = stage.control, len(room_bag.stamps_ns)
    control.wait(lambda: idle(control, images), LIMIT_S, "the bag to be mapped")
    control.wait(lambda: stage.processes.ended("player"), LIMIT_S, "the player to end")
    assert control.save_map("end").success
    control.wait(lambda: counted(control, heard), LIMIT_S, "the counts after the last window")
    late: dict[str, list[Any]] = defaultdict(list)
    latched = {t: how for t, how in TOPICS.items() if how[1] == "TRANSIENT_LOCAL"}
    listen(control, latched, late)
    control.wait(lambda: len(late) == len(latched) and all(late.values()), 10.0, "latched topics")
    return Played(stage, room_bag, maps, heard, late)


def counted(control: MapperControl, heard: dict[str, list[Any]]) -> bool:
    """Whether the counts are those after the last window that was heard of."""
    complete, superseded = (
        int(control.value("engine", f"windows {which}")) for which in ("complete", "superseded")
    )
    return complete == superseded + len(heard["/mapper/window_status"])


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


@pytest.mark.parametrize("topic", TOPICS)
def test_each_topic_has_its_type_and_quality_of_service(played: Played, topic: str) -> None:
    infos = played.control.get_publishers_info_by_topic(topic)
    (info,) = [i for i in infos if i.node_name == "mapper"]
    assert info.topic_type == TOPICS[topic][0]
    assert info.qos_profile.reliability.name == "RELIABLE"
    assert info.qos_profile.durability.name == TOPICS[topic][1]
    assert played.heard[topic]


def test_images_are_taken_best_effort(played: Played) -> None:
    infos = played.control.get_subscriptions_info_by_topic("/camera/image_raw")
    (info,) = [i for i in infos if i.node_name == "mapper"]
    assert info.qos_profile.reliability.name == "BEST_EFFORT"


def test_every_image_and_window_is_accounted_for(played: Played) -> None:
    control = played.control
    values = {**control.values("input"), **control.values("engine"), **control.values("map")}
    count = {k: int(v) for k, v in values.items() if v.isdigit()}
    assert count["images received"] == len(played.bag.stamps_ns)
    assert count["images received"] == (
        count["keyframes"] + count["images skipped"] + count["images dropped"]
    )
    assert count["images dropped"] == 0
    windows = played.heard["/mapper/window_status"]
    assert count["windows complete"] == count["windows superseded"] + len(windows)
    assert count["windows committed"] == len(windows) >= 2
    assert windows[-1].received_frames <= len(played.bag.stamps_ns)
    # of any time while the bag played: by now it may have ended long ago
    inputs = [
        s for m in played.heard["/diagnostics"] for s in m.status if s.name == "mapper: input"
    ]
    assert "images arrive" in {s.message for s in inputs}


def test_windows_carry_stamps_of_images_and_the_time_of_each_stage(played: Played) -> None:
    stamps = set(played.bag.stamps_ns)
    for status in played.heard["/mapper/window_status"]:
        assert status.verdict == status.COMMITTED, status.message
        assert status.header.frame_id == "map"
        keyframes = [s.sec * 10**9 + s.nanosec for s in status.keyframe_stamps]
        assert len(keyframes) == 4
        assert set(keyframes) <= stamps
        assert stamp_ns(status) == keyframes[-1] == max(keyframes)
        assert len(status.stage_names) == len(status.stage_latencies_ms) >= 4
        assert 0 < status.total_latency_ms < 60_000


def test_clouds_are_in_the_map_frame_at_the_time_of_the_newest_keyframe(
    played: Played, room: BoxRoom
) -> None:
    stamps = {stamp_ns(s) for s in played.heard["/mapper/window_status"]}
    for topic in ("/mapper/points", "/mapper/map_points"):
        for cloud in played.heard[topic]:
            assert cloud.header.frame_id == "map"
            assert stamp_ns(cloud) in stamps
            assert [f.name for f in cloud.fields] == ["x", "y", "z", "rgb", "confidence"]
            assert cloud.width > 500
            values = np.frombuffer(bytes(cloud.data), "<f4").reshape(-1, 5)
            assert np.isfinite(values[:, [0, 1, 2, 4]]).all()
    cloud = played.late["/mapper/map_points"][-1]
    points = np.frombuffer(bytes(cloud.data), "<f4").reshape(-1, 5)[:, :3]
    T = map_from_odom(played)
    in_odom = (points - T[:3, 3]) @ T[:3, :3]
    assert np.percentile(room.distance_to_surface(in_odom), 90) < 0.08


def map_from_odom(played: Played) -> np.ndarray:
    from mvdust3r_ros.messages.conversions import pose_from_transform

    own = [t for m in played.heard["/tf"] for t in m.transforms if t.header.frame_id == "map"]
    pose: np.ndarray = pose_from_transform(own[-1].transform)
    return pose


def test_the_transform_is_map_to_odom_ahead_of_each_image(played: Played) -> None:
    own = [t for m in played.heard["/tf"] for t in m.transforms]
    assert {(t.header.frame_id, t.child_frame_id) for t in own} == {("map", "odom")}
    stamps = [stamp_ns(t) for t in own]
    assert all(b > a for a, b in itertools.pairwise(stamps))
    ahead = {s - 100_000_000 for s in stamps}
    # All but those that repeat a new correction, one nanosecond later.
    assert len(ahead & set(played.bag.stamps_ns)) >= len(ahead) / 2
    assert {a - a % 1000 for a in ahead} <= set(played.bag.stamps_ns)


def test_the_path_follows_the_truth(played: Played) -> None:
    path = played.late["/mapper/path"][-1]
    truth = dict(zip(played.bag.stamps_ns, played.bag.poses, strict=True))
    T = map_from_odom(played)
    assert path.header.frame_id == "map"
    assert len(path.poses) >= 6
    for pose in path.poses:
        true = (T @ truth[stamp_ns(pose)])[:3, 3]
        here = pose.pose.position
        assert np.linalg.norm(true - (here.x, here.y, here.z)) < 0.05


def test_the_grid_has_three_values_and_the_summary_counts_them(played: Played) -> None:
    grid = played.late["/mapper/occupancy_grid"][-1]
    summary = played.late["/mapper/occupancy_summary"][-1]
    cells = np.array(grid.data)
    assert set(np.unique(cells)) == {-1, 0, 100}
    assert grid.header.frame_id == summary.header.frame_id == "map"
    assert stamp_ns(grid) == stamp_ns(summary)
    assert grid.info.origin.orientation.w == 1.0
    assert summary.occupied_cells == (cells == 100).sum()
    assert summary.free_cells == (cells == 0).sum()
    assert summary.resolution == grid.info.resolution
    assert 0 < summary.nearest_obstacle_distance < 5
    assert len(summary.sector_obstacle_distances) == 36
    assert summary.scale_source == summary.SCALE_ODOMETRY


def test_a_late_subscriber_gets_the_newest_map(played: Played) -> None:
    for topic, messages in played.late.items():
        assert len(messages) == 1
        assert messages[0] == played.heard[topic][-1]


def test_the_saved_map_is_the_published_one(played: Played) -> None:
    answer = played.control.save_map("floor1/office.yaml")
    assert answer.success, answer.message
    assert [Path(p).name for p in answer.paths] == [
        "office.pgm", "office.yaml", "office.ply", "office.tum", "office.npz",
    ]  # fmt: skip
    folder = played.maps / "floor1"
    saved = load_occupancy(folder / "office.yaml")
    grid = played.late["/mapper/occupancy_grid"][-1]
    shape = (grid.info.height, grid.info.width)
    np.testing.assert_array_equal(saved.cells, np.reshape(grid.data, shape))
    assert saved.resolution_m == pytest.approx(grid.info.resolution)
    origin = grid.info.origin.position
    assert saved.origin_xy_m == pytest.approx((origin.x, origin.y), abs=0.0006)
    assert (
        len(read_ply(folder / "office.ply").points) == played.late["/mapper/map_points"][0].width
    )
    assert len(read_tum(folder / "office.tum")) == len(played.late["/mapper/path"][0].poses)


@pytest.mark.parametrize("name", ["../escape", "/tmp/escape", "link/escape"])
def test_a_map_is_never_saved_outside_its_folder(played: Played, name: str) -> None:
    outside = played.maps.parent / "outside"
    outside.mkdir(exist_ok=True)
    link = played.maps / "link"
    if not link.exists():
        link.symlink_to(outside)
    answer = played.control.save_map(name)
    assert not answer.success
    assert "refused" in answer.message
    assert list(answer.paths) == []
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("map.min_conf", 2.5, ""),
        ("map.min_conf", 2, ""),
        ("map.min_conf", 0.5, "outside [1.0"),
        ("keyframes.window_size", 0, ""),
        ("keyframes.window_size", 4, ""),
        ("keyframes.window_size", 2, "outside [3"),
        ("keyframes.window_size", -1, "range"),
        ("keyframes.window_overlap", 4, "must be smaller than"),
        ("keyframes.window_size", "eight", "type"),
        ("ros.points_frame", "base", "not one of map, camera"),
        ("map.voxel_size_m", 0.1, "only change while the node is unconfigured"),
        ("map.voxel_size_m", 0.05, ""),
        ("map.voxel_sise_m", 0.1, "declared"),
    ],
)
def test_parameters_are_checked_when_they_change(
    played: Played, name: str, value: object, words: str
) -> None:
    result = played.stage.set_parameter(name, value)
    assert result.successful == (words == ""), result.reason
    assert words in result.reason


def test_parameters_have_descriptions_and_ranges(played: Played) -> None:
    from rcl_interfaces.srv import DescribeParameters

    from mvdust3r_ros.config import flat_settings
    from mvdust3r_ros.ros.settings import NodeConfig

    settings = list(flat_settings(NodeConfig()))
    request = DescribeParameters.Request(names=[s.name for s in settings])
    answer = played.control.call(DescribeParameters, "/mapper/describe_parameters", request)
    described = {d.name: d for d in answer.descriptors}
    assert set(described) == {s.name for s in settings}
    assert all(described[s.name].description == s.description for s in settings)
    size = described["keyframes.window_size"].integer_range[0]
    assert (size.from_value, size.to_value) == (0, 100)  # 0 as the engine likes
    share = described["keyframes.min_overlap"].floating_point_range[0]
    assert (share.from_value, share.to_value) == (0.0, 0.99)


def test_pause_and_reset(played: Played) -> None:
    from std_srvs.srv import SetBool, Trigger

    control = played.control
    for paused, word in ((True, "paused"), (False, "mapping")):
        answer = control.call(SetBool, "/mapper/pause", SetBool.Request(data=paused))
        assert (answer.success, answer.message) == (True, word)
    answer = control.call(Trigger, "/mapper/reset", Trigger.Request())
    assert answer.success
    clouds = played.heard["/mapper/map_points"]
    control.wait(lambda: clouds[-1].width == 0, 10.0, "an empty map")
    grid = played.heard["/mapper/occupancy_grid"]
    control.wait(lambda: list(grid[-1].data) == [-1], 10.0, "an unknown grid")
    assert not control.save_map("nothing").success


def test_the_grid_waits_until_the_scale_is_known(
    new_stage: Callable[[], Stage], room_bag: RoomBag, tmp_path: Path
) -> None:
    stage = new_stage()
    topics = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info",
              "depth": "/camera/depth"}  # fmt: skip
    stage.mapper(topics=topics, use_sim_time=True, ros__use_depth=True, ros__queue_size=100,
                 ros__image_depth=100, stitch__scale_max_rel_sigma=0.001,
                 ros__map_dir=tmp_path)  # fmt: skip
    heard: dict[str, list[Any]] = defaultdict(list)
    listen(stage.control, TOPICS, heard)
    stage.bring_up()
    words = [str(room_bag.bag), "--depth", str(room_bag.depth), "--clock", "--rate", "2"]
    stage.processes.start("player", "play.player", words)
    control, images = stage.control, len(room_bag.stamps_ns)
    control.wait(lambda: idle(control, images), LIMIT_S, "the bag to be mapped")
    control.wait(lambda: bool(heard["/mapper/occupancy_summary"]), LIMIT_S, "the summary")
    assert heard["/mapper/points"]
    assert not heard["/mapper/occupancy_grid"]
    closed = "~/occupancy_grid and ~/obstacle_points are withheld: drive 1 to 2 m, or set"
    control.wait(lambda: closed in control.message("map"), 10.0, "the reason")
    summary = heard["/mapper/occupancy_summary"][-1]
    assert (summary.free_cells, summary.occupied_cells) == (0, 0)
    assert np.isnan([summary.explored_area, summary.nearest_obstacle_distance]).all()
    assert np.isnan(summary.sector_obstacle_distances).all()
    (tmp_path / "map.pgm").write_bytes(b"of an earlier run")
    answer = control.save_map("map")
    assert answer.success
    assert "no occupancy grid: the scale is unknown" in answer.message
    written = {path.name for path in tmp_path.glob("map.*")}
    assert written == {"map.ply", "map.tum", "map.npz"} == {Path(p).name for p in answer.paths}
