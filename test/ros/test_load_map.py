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

"""A map saved by one node, loaded by another, over DDS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from live_nodes import Stage
from room_bag import RoomBag

LIMIT_S = 60.0
TOPICS = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info",
          "depth": "/camera/depth"}  # fmt: skip


@dataclass
class Watched(Stage):
    """A stage that keeps what its node shows of the map."""

    paths: list[Any] = field(default_factory=list)
    grids: list[Any] = field(default_factory=list)


def started(new_stage: Callable[[], Stage], maps: Path) -> Watched:
    made = new_stage()
    stage = Watched(made.processes, made.control, made.logs)
    stage.mapper(topics=TOPICS, use_sim_time=True, ros__use_depth=True, ros__map_dir=maps,
                 ros__queue_size=100, ros__image_depth=100)  # fmt: skip
    from nav_msgs.msg import OccupancyGrid, Path
    from rclpy.qos import DurabilityPolicy, QoSProfile

    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    control = stage.control
    control.create_subscription(Path, "/mapper/path", stage.paths.append, latched)
    control.create_subscription(
        OccupancyGrid, "/mapper/occupancy_grid", stage.grids.append, latched
    )
    stage.bring_up()
    return stage


def play(stage: Stage, bag: RoomBag) -> None:
    words = [str(bag.bag), "--depth", str(bag.depth), "--clock", "--rate", "2"]
    stage.processes.start("player", "play.player", words)
    control = stage.control
    control.wait(lambda: stage.processes.ended("player"), LIMIT_S, "the player to end")
    idle = lambda: (  # noqa: E731
        control.value("engine", "windows waiting") == "0"
        and control.value("input", "images waiting") == "0"
    )
    control.wait(idle, LIMIT_S, "the bag to be mapped")


def places(path: Any) -> dict[int, np.ndarray]:
    return {
        p.header.stamp.sec * 10**9 + p.header.stamp.nanosec: np.array(
            [p.pose.position.x, p.pose.position.y, p.pose.position.z]
        )
        for p in path.poses
    }


def test_a_new_node_goes_on_in_the_frame_of_the_saved_map(
    new_stage: Callable[[], Stage], room_bag: RoomBag, tmp_path: Path
) -> None:
    first = started(new_stage, tmp_path)
    play(first, room_bag)
    first.control.wait(lambda: bool(first.paths), LIMIT_S, "a path")
    answer = first.control.save_map("office")
    assert answer.success, answer.message
    assert f"save_map: {answer.message}" in first.log()
    before = places(first.paths[-1])

    second = started(new_stage, tmp_path)
    answer = second.control.load_map("office")
    assert answer.success, answer.message
    assert "keyframes" in answer.message
    assert f"load_map: {answer.message}" in second.log()
    for part in ("map", "stitching"):
        said = lambda p=part: second.control.message(p)  # noqa: E731
        second.control.wait(
            lambda s=said: "looking for the camera in the loaded map" in s(), 2.0, "diagnostics"
        )
    paths = second.paths
    second.control.wait(lambda: paths and paths[-1].poses, LIMIT_S, "the loaded path")
    second.control.wait(lambda: bool(second.grids), LIMIT_S, "the loaded grid")
    loaded = places(paths[-1])
    assert set(loaded) == set(before)
    assert all(loaded[s] == pytest.approx(before[s]) for s in before)

    for damage in ("nothing", "../office", "broken"):
        (tmp_path / "broken.npz").write_bytes((tmp_path / "office.npz").read_bytes()[:5000])
        refused = second.control.load_map(damage)
        assert not refused.success
        assert damage.rsplit("/", 1)[-1] in refused.message

    play(second, room_bag)
    verdicts = [w.verdict for w in second.control.windows]
    assert 0 in verdicts, [w.message for w in second.control.windows]
    second.control.wait(lambda: len(paths[-1].poses) >= len(before), LIMIT_S, "a longer path")
    after = places(paths[-1])
    common = set(before) & set(after)
    assert len(common) >= 6
    assert max(np.linalg.norm(before[s] - after[s]) for s in common) < 0.05
