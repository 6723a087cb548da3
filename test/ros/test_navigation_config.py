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

"""What the shipped Nav2, RViz and Foxglove files name, against what a node really publishes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import yaml

from box_room import BoxRoom
from live_nodes import Stage
from room_bag import BagKind, RoomBag

if TYPE_CHECKING:
    from mvdust3r_ros.ros.play.control import MapperControl

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
CLOUD, GRID = "sensor_msgs/msg/PointCloud2", "nav_msgs/msg/OccupancyGrid"
Listened = tuple[Stage, dict[str, list[Any]], RoomBag]
"""Node, what was heard of it, and the bag."""


def nav2() -> Any:
    return yaml.safe_load((ROOT / "config" / "nav2_params.yaml").read_text())


def costmap(name: str) -> Any:
    return nav2()[name][name]["ros__parameters"]


def sources() -> Iterator[Any]:
    for name in ("global_costmap", "local_costmap"):
        settings = costmap(name)
        for plugin in settings["plugins"]:
            layer = settings[plugin]
            for source in layer.get("observation_sources", "").split():
                yield layer, layer[source]


def named_topics(value: Any) -> Iterator[str]:
    """Every text that is a topic of the mapper, wherever it stands; fields are cut off."""
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from named_topics(inner_key)
            yield from named_topics(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from named_topics(inner)
    elif isinstance(value, str) and value.startswith(("/mapper/", "/diagnostics")):
        yield value.split(".")[0]


@pytest.fixture(scope="module")
def listened(new_stage: Callable[[], Stage], make_bag: Callable[[BagKind], RoomBag]) -> Listened:
    """A drive with odometry, heard on the topics that navigation takes."""
    from rclpy.qos import qos_profile_sensor_data

    from mvdust3r_ros.ros.message_types import message_class

    bag, stage = make_bag(BagKind(odometry="base")), new_stage()
    topics = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info",
              "depth": "/camera/depth", "odom": "/odom"}  # fmt: skip
    stage.mapper(topics=topics, use_sim_time=True, ros__use_depth=True, ros__queue_size=100,
                 ros__image_depth=100, ros__odom_wait_s=5.0)  # fmt: skip
    heard: dict[str, list[Any]] = defaultdict(list)
    wanted = {
        "/mapper/obstacle_points": CLOUD,
        "/mapper/window_status": "mvdust3r_ros/msg/WindowStatus",
    }
    for topic, kind in wanted.items():
        stage.control.create_subscription(
            message_class(kind), topic, heard[topic].append, qos_profile_sensor_data
        )
    listen_to_grids(stage.control, heard["/mapper/occupancy_grid"].append)
    stage.bring_up()
    play(stage, bag.bag, bag.depth)
    return stage, {topic: list(messages) for topic, messages in heard.items()}, bag


def listen_to_grids(control: MapperControl, take: Callable[[Any], None]) -> None:
    from rclpy.qos import DurabilityPolicy, QoSProfile

    from mvdust3r_ros.ros.message_types import message_class

    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    control.create_subscription(message_class(GRID), "/mapper/occupancy_grid", take, latched)


def play(stage: Stage, bag: Path, depth: Path) -> None:
    """Play a bag and wait until it is mapped."""
    stage.processes.start("player", "play.player", [str(bag), "--depth", str(depth), "--clock"])
    control = stage.control
    control.wait(lambda: stage.processes.ended("player"), LIMIT_S, "the player to end")
    idle = lambda: (  # noqa: E731
        control.value("engine", "windows waiting") == "0"
        and control.value("input", "images waiting") == "0"
    )
    control.wait(idle, LIMIT_S, "the bag to be mapped")


def published(listened: Listened) -> dict[str, list[str]]:
    control = listened[0].control
    return {
        topic: kinds
        for topic, kinds in control.get_topic_names_and_types()
        if any(i.node_name == "mapper" for i in control.get_publishers_info_by_topic(topic))
    }


def test_nav2_takes_topics_and_types_that_the_node_publishes(listened: Listened) -> None:
    topics = published(listened)
    static = costmap("global_costmap")["static_layer"]
    assert topics[static["map_topic"]] == [GRID]
    assert static["map_subscribe_transient_local"] and static["subscribe_to_updates"]
    assert costmap("global_costmap")["track_unknown_space"], "read by the static layer too"
    updates = f"{static['map_topic']}_updates"
    assert topics[updates] == ["map_msgs/msg/OccupancyGridUpdate"]
    found = list(sources())
    assert len(found) == 4
    for _, source in found:
        assert topics[source["topic"]] == [CLOUD]
        assert source["data_type"] == "PointCloud2"


def test_nav2_frames_are_those_of_the_map(listened: Listened) -> None:
    _, heard, _ = listened
    assert {g.header.frame_id for g in heard["/mapper/occupancy_grid"]} == {
        costmap("global_costmap")["global_frame"]
    }
    assert costmap("local_costmap")["global_frame"] == "odom"
    for _, source in sources():
        assert "expected_update_rate" in source
        assert "sensor_frame" not in source


def test_obstacle_points_are_what_each_camera_saw_at_its_time(
    listened: Listened, room: BoxRoom
) -> None:
    """In the optical frame at the image's stamp: with the true pose they lie on true surfaces."""
    _, heard, bag = listened
    clouds = heard["/mapper/obstacle_points"]
    truth = dict(zip(bag.stamps_ns, bag.poses, strict=True))
    stamps = [c.header.stamp.sec * 10**9 + c.header.stamp.nanosec for c in clouds]
    assert len(stamps) >= 6
    assert len(set(stamps)) == len(stamps), "each keyframe once"
    mapped = {
        s.sec * 10**9 + s.nanosec
        for w in heard["/mapper/window_status"]
        for s in w.keyframe_stamps
    }
    assert set(stamps) <= mapped
    for stamp, cloud in zip(stamps, clouds, strict=True):
        assert cloud.header.frame_id == "camera_optical"
        points = np.frombuffer(bytes(cloud.data), "<f4").reshape(-1, 5)[:, :3]
        assert (points[:, 2] > 0).all(), "in front of the camera"
        T = truth[stamp]
        off = room.distance_to_surface(points @ T[:3, :3].T + T[:3, 3])
        assert np.percentile(off, 90) < 0.05


def test_grid_updates_lie_inside_the_whole_grid_and_are_in_its_frame(
    listened: Listened, room: BoxRoom, tmp_path: Path
) -> None:
    """The same drive again, with a larger cupboard and no time for whole grids."""
    from mvdust3r_ros.ros.message_types import message_class
    from mvdust3r_ros.ros.qos import RELIABLE

    stage, _, bag = listened
    grids: list[Any] = []
    updates: list[Any] = []
    listen_to_grids(stage.control, grids.append)
    kind, topic = message_class("map_msgs/msg/OccupancyGridUpdate"), "occupancy_grid_updates"
    stage.control.create_subscription(kind, f"/mapper/{topic}", updates.append, RELIABLE)
    windows = stage.control.windows
    stage.control.wait(
        lambda: grids and grids[-1].header.stamp == windows[-1].header.stamp, LIMIT_S, "the grid"
    )
    assert stage.set_parameter("ros.map_period_s", 60.0).successful
    larger = replace(room, cupboard_low=(2.3, 1.8, 0.0), cupboard_high=(3.7, 3.2, 1.0))
    for i, T in enumerate(bag.poses):
        millimetres = np.rint(larger.depth(T) * 1000).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"{i:06d}.png"), millimetres)
    play(stage, bag.bag, tmp_path)
    stage.control.wait(lambda: updates, LIMIT_S, "an update")
    for update in updates:
        assert update.header.frame_id == grids[0].header.frame_id
        assert len(update.data) == update.width * update.height > 0
        assert set(update.data) <= {-1, 0, 100}
        assert any(
            0 <= update.x <= g.info.width - update.width
            and 0 <= update.y <= g.info.height - update.height
            for g in grids
        )


@pytest.mark.parametrize("name", ["recon.rviz", "foxglove_layout.json"])
def test_what_is_shown_is_published(listened: Listened, name: str) -> None:
    text = (ROOT / "config" / name).read_text()
    shown = set(named_topics(json.loads(text) if name.endswith("json") else yaml.safe_load(text)))
    assert {
        "/mapper/occupancy_grid", "/mapper/map_points", "/mapper/path", "/mapper/obstacle_points",
    } <= shown  # fmt: skip
    assert shown <= set(published(listened))


def test_the_layout_shows_the_state_of_the_gate(listened: Listened) -> None:
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    panel = layout["configById"]["DiagnosticStatusPanel!gate"]
    assert panel["selectedName"] in listened[0].control.diagnostics


def test_without_metres_nothing_reaches_navigation(
    new_stage: Callable[[], Stage], room_bag: RoomBag
) -> None:
    from mvdust3r_ros.ros.message_types import message_class
    from mvdust3r_ros.ros.qos import RELIABLE

    stage = new_stage()
    topics = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info",
              "depth": "/camera/depth"}  # fmt: skip
    stage.mapper(topics=topics, use_sim_time=True, ros__use_depth=True, ros__queue_size=100,
                 ros__image_depth=100, stitch__scale_max_rel_sigma=0.001)  # fmt: skip
    heard: dict[str, list[Any]] = defaultdict(list)
    for name, kind in (
        ("obstacle_points", CLOUD), ("occupancy_grid", GRID),
        ("occupancy_grid_updates", "map_msgs/msg/OccupancyGridUpdate"),
    ):  # fmt: skip
        stage.control.create_subscription(
            message_class(kind), f"/mapper/{name}", heard[name].append, RELIABLE
        )
    stage.bring_up()
    play(stage, room_bag.bag, room_bag.depth)
    control = stage.control
    control.wait(lambda: any(w.verdict == 0 for w in control.windows), LIMIT_S, "a map")
    assert not heard["obstacle_points"]
    assert not heard["occupancy_grid"] and not heard["occupancy_grid_updates"]
    words_needed = "~/occupancy_grid and ~/obstacle_points are withheld: drive 1 to 2 m, or set"
    control.wait(lambda: words_needed in control.message("map"), 10.0, "the reason")
