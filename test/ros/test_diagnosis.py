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

"""Each subsystem says in words what is wrong with it, and how bad that is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")

from mvdust3r_ros.datatypes import Keyframe, MapUpdate, ScaleEstimate, Verdict, View, Window
from mvdust3r_ros.ros.health.arrivals import Arrivals, Silence
from mvdust3r_ros.ros.health.diagnosis import BUSY_S, LOST_WINDOWS, Health, diagnose
from mvdust3r_ros.ros.pipeline import PipelineCounters

OK, WARN, ERROR, STALE = 0, 1, 2, 3
PARTS = ("input", "odometry", "engine", "stitching", "scale", "map", "outputs")


def levels(**changes: Any) -> dict[str, tuple[int, str]]:
    """Part -> level and words of a node that is active but for some changes."""
    statuses = diagnose(Health(**{"state": "active", **changes}), "mapper")
    assert [s.name for s in statuses] == [f"mapper: {part}" for part in PARTS]
    return {part: (s.level[0], s.message) for part, s in zip(PARTS, statuses, strict=True)}


def arrivals(count: int) -> Arrivals:
    made = Arrivals("/image", "sensor_msgs/msg/Image", "reliable", "image_reliability")
    made.count = count
    return made


def rejected(verdict: Verdict, message: str) -> MapUpdate:
    return MapUpdate(Window(0, ()), verdict, message)


def test_a_node_without_a_fault_is_ok_everywhere() -> None:
    assert {level for level, _ in levels().values()} == {OK}
    assert levels(state="inactive")["input"] == (OK, "the node is inactive")
    assert levels(paused=True)["input"] == (OK, "paused")


@pytest.mark.parametrize(("count", "level"), [(0, WARN), (7, STALE)])
@pytest.mark.parametrize(("source", "part"), [("image", "input"), ("odom", "odometry")])
def test_a_source_that_never_came_warns_and_one_that_stopped_is_stale(
    source: str, part: str, count: int, level: int
) -> None:
    silence = Silence("nothing for 6 s", published=True)
    found = levels(arrivals={source: arrivals(count)}, silences={source: silence})
    assert found[part] == (level, "nothing for 6 s")


def test_odometry_that_nobody_offers_is_no_fault() -> None:
    silence = Silence("nobody publishes it", published=False)
    found = levels(arrivals={"odom": arrivals(0)}, silences={"odom": silence})
    assert found["odometry"] == (OK, "nobody publishes it")


def test_one_silent_camera_of_several_is_named() -> None:
    silence = Silence("nothing on /left/image for 6 s", published=False)
    assert levels(silences={"left/image": silence})["input"] == (WARN, silence.message)


def test_a_clock_that_stands_still_is_said() -> None:
    level, words = levels(clock_stopped=True)["input"]
    assert level == WARN
    assert "/clock stands still" in words


@pytest.mark.parametrize(
    ("reason", "part"),
    [("encoding", "input"), ("no_odometry", "odometry"), ("tf", "outputs"), ("save", "outputs")],
)
def test_a_recent_fault_is_said_where_it_belongs(reason: str, part: str) -> None:
    assert levels(recent={reason: "what happened"})[part] == (WARN, "what happened")


def test_a_node_that_cannot_be_configured_says_why() -> None:
    found = levels(state="unconfigured", blocked="no engine at x")
    assert found["engine"] == (ERROR, "no engine at x")


def test_a_network_that_hangs_is_an_error() -> None:
    level, words = levels(busy_s=BUSY_S + 1)["engine"]
    assert level == ERROR
    assert "has not answered for 61 s; restart the process" in words


@pytest.mark.parametrize("verdict", [Verdict.REJECTED_ENGINE_ERROR, Verdict.REJECTED_NOT_FINITE])
def test_a_network_that_failed_last_is_an_error(verdict: Verdict) -> None:
    found = levels(last=rejected(verdict, "broken"), rejected_in_a_row=1, engine="oracle")
    assert found["engine"] == (ERROR, "broken")
    assert found["map"] == (WARN, "last window rejected: broken")


def test_a_step_down_the_ladder_warns() -> None:
    words = "mapping with half the views: out of memory"
    assert levels(ladder=words, engine="oracle")["engine"] == (WARN, words)


def test_a_camera_that_is_lost_is_an_error_with_a_remedy() -> None:
    last = rejected(Verdict.REJECTED_RESIDUAL, "too far")
    level, words = levels(last=last, rejected_in_a_row=1)["stitching"]
    assert (level, words) == (WARN, "1 window rejected in a row: too far")
    level, words = levels(last=last, rejected_in_a_row=LOST_WINDOWS)["stitching"]
    assert level == ERROR
    assert words.endswith("go back to known ground, or call ~/reset")


def test_a_node_of_the_same_name_is_said_with_a_remedy() -> None:
    level, words = levels(namesakes=1)["outputs"]
    assert level == WARN
    assert "rename one with -r __node:=NAME" in words


def test_every_drop_is_shown_by_reason() -> None:
    counters = PipelineCounters(
        received=9, keyframes=3, skipped=1, dropped=Counter(encoding=2, stopped=1)
    )
    counters.had.update(odometry=3, camera_info=4)
    (status, *_) = diagnose(Health("active", counters=counters, counts={"qos": 4}), "mapper")
    values = {v.key: v.value for v in status.values}
    assert values["images received"] == "9"
    assert values["images waiting"] == "2"
    assert values["images dropped"] == "3"
    assert values["images with odometry"] == "3"
    assert values["images with camera_info"] == "4"
    assert values["images with depth"] == "0"
    assert values["images dropped: encoding"] == "2"
    assert values["faults: qos"] == "4"


def test_a_second_publisher_of_a_transform_is_an_error() -> None:
    words = "/amcl publishes map->odom on /tf too"
    assert levels(tf_conflicts=words, namesakes=1, recent={"rival": words})["outputs"] == (
        ERROR,
        words,
    )
    assert levels(recent={"rival": words})["input"][0] == OK


def test_a_loaded_map_in_which_the_camera_is_not_found_yet_is_said_at_once() -> None:
    for part in ("stitching", "map"):
        level, words = levels(looking_in=12)[part]
        assert level == WARN
        assert "looking for the camera in the loaded map of 12 keyframes" in words
    last = rejected(Verdict.REJECTED_NO_OVERLAP, "not found in the loaded map yet")
    assert "not found in the loaded map yet" in levels(looking_in=12, last=last)["map"][1]


@pytest.mark.parametrize("sigma", [float("inf"), 0.4])
def test_a_robot_that_stands_is_told_to_drive_and_one_without_odometry_is_not(
    sigma: float,
) -> None:
    for T_odom_cam, told in ((np.eye(4), True), (None, False)):
        view = View(np.zeros((4, 4, 3), np.uint8), T_odom_cam=T_odom_cam)
        last = MapUpdate(
            Window(0, (Keyframe(0, 1, view, "camera"),)), Verdict.COMMITTED,
            scale=ScaleEstimate(rel_sigma=sigma), gate_hint="nothing gives metres",
        )  # fmt: skip
        found = levels(last=last)
        for part in ("scale", "map"):
            level, words = found[part]
            assert level == WARN
            assert ("drive 1 to 2 m, or set map.camera_height_m" in words) == told
            assert ("nothing gives metres" in words) == (not told or sigma < 1)


def test_what_the_engine_says_of_a_window_is_passed_on() -> None:
    view = View(np.zeros((4, 4, 3), np.uint8))
    last = MapUpdate(
        Window(0, (Keyframe(0, 1, view, "camera"),)), Verdict.COMMITTED,
        gate_hint="nothing gives metres", note="odometry stayed: 12 tracks",
    )  # fmt: skip
    for part in ("scale", "map"):
        assert levels(last=last)[part][1].endswith(
            "nothing gives metres (the engine says: odometry stayed: 12 tracks)"
        )
    for update, shown in ((last, True), (replace(last, note=""), False)):
        statuses = diagnose(Health("active", last=update), "mapper")
        (engine,) = (s for s in statuses if s.name == "mapper: engine")
        values = {v.key: v.value for v in engine.values}
        assert values.get("note on the last window") == (last.note if shown else None)


def test_figures_of_the_outputs_are_shown() -> None:
    (*_, status) = diagnose(Health("active", figures={"obstacle clouds dropped": 3}), "mapper")
    assert {v.key: v.value for v in status.values}["obstacle clouds dropped"] == "3"
