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

"""`mvdust3r_ros evaluate --mode live`: the real node, judged by what it published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvdust3r_ros.cli import main
from mvdust3r_ros.config import with_values
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.evaluation.report.report_files import read_report
from mvdust3r_ros.ros.settings import NodeConfig
from room_bag import BagKind, RoomBag

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.mark.slow
def test_a_bag_played_to_the_real_node_is_judged(
    make_bag: Callable[[BagKind], RoomBag], params: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")
    pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")
    # every image is a keyframe, every second one fills a window: the last one does not
    made = make_bag(BagKind(odometry="base", frames=31))
    words = ["--mode", "live", "--engine", "oracle", "--truth", "/odom"]
    words += ["--params", str(params), "--out", str(tmp_path)]
    assert main(["evaluate", str(made.bag), *words]) == 0
    report = read_report(tmp_path)
    numbers = report["numbers"]
    assert report["mode"] == "live"
    assert report["settings"]["keyframes"]["window_size"] == 4
    dropped = sum(report["drops"].values())
    assert numbers["dropped_frames"] == dropped
    lost = report["drops"].get("lost on the way to the node", 0)
    assert numbers["frames"] == 31 - lost
    assert numbers["windows_committed"] >= 1
    assert report["trajectory"]["stamp_ns"][-1] == made.stamps_ns[-1]
    assert 0.5 < numbers["mapped_share"] <= 1
    assert numbers["scale_rel_sigma"] < 0.1
    assert len(report["windows"]) == numbers["windows"]
    assert numbers["ate_m"] < 0.01
    assert numbers["grid_free_precision"] > 0.8
    assert {"decode", "total"} <= set(report["timing"]["stages"])
    assert report["timing"]["numbers"]["peak_memory_mb"] > 50
    assert any("cannot be seen from outside" in note for note in report["notes"])
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ros.odom_source": "topic"}, "needs recorded depth: set ros.use_depth:=true"),
        ({"ros.use_depth": True, "ros.odom_source": "none"}, "camera poses: set ros.odom_source"),
    ],
)
def test_a_node_refuses_the_oracle_without_its_inputs(values: dict[str, Any], words: str) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")
    from mvdust3r_ros.ros.node import load_engine

    config = with_values(NodeConfig(), {"engine.engine": "oracle", **values})
    with pytest.raises(EngineError, match=words):
        load_engine(config, fallback=False)
    spare = with_values(NodeConfig(), {"ladder.fallback_engine": "oracle", **values})
    with pytest.raises(EngineError, match=words):
        load_engine(spare, fallback=True)
