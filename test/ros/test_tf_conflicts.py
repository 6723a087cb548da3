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

"""Own transforms that come back on /tf, and those of others."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")

from typing import Any

from rclpy.serialization import deserialize_message, serialize_message

from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.ros import tf_conflicts as module
from mvdust3r_ros.ros.outputs import header_msg, transform_msg
from mvdust3r_ros.ros.tf_conflicts import TfConflicts

ODOM = ["odom"]


def transform(stamp_ns: int, child: str = "odom", x: float = 0.1) -> Any:
    T = make_se3(np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]), np.array([x, 1 / 3, 0]))
    return transform_msg(T, header_msg(stamp_ns, "map"), child)


def over_the_wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


def heard_by(*names: str) -> TfConflicts:
    return TfConflicts(lambda _topic: list(names))


def test_own_transforms_come_back_and_are_nobody_elses() -> None:
    conflicts = heard_by("/robot_state_publisher")
    for i in range(5000):
        conflicts.sent(transform(i))
        conflicts.heard(over_the_wire(transform(i)), fixed=False)
    assert conflicts.message(ODOM) == ""


def test_own_transforms_that_get_lost_do_not_pile_up() -> None:
    conflicts = heard_by()
    for i in range(3 * module.MAX_OWN):
        conflicts.sent(transform(i))
    conflicts.heard(transform(3 * module.MAX_OWN - 1), fixed=False)
    assert conflicts.message(ODOM) == ""
    conflicts.heard(transform(0), fixed=False)
    assert "another node" in conflicts.message(ODOM), "it is long forgotten"


@pytest.mark.parametrize(
    "foreign",
    [transform(7, x=0.2), transform(8), transform(7)],
    ids=["same stamp", "same place", "a twin that says the same"],
)
def test_the_transform_of_another_is_noticed_whatever_it_has_in_common(foreign: Any) -> None:
    conflicts = heard_by("/amcl")
    conflicts.sent(transform(7))
    conflicts.heard(transform(7), fixed=False)
    assert conflicts.message(ODOM) == ""
    conflicts.heard(foreign, fixed=False)
    words = conflicts.message(ODOM)
    assert words.startswith("/amcl publishes map->odom on /tf too")
    assert "set ros.publish_tf to none" in words


def test_a_transform_is_noticed_before_the_node_has_sent_its_own() -> None:
    conflicts = heard_by("/amcl", "/robot_state_publisher")
    conflicts.heard(transform(7), fixed=False)
    assert conflicts.message(ODOM).startswith("one of /amcl, /robot_state_publisher publishes")
    assert conflicts.message([]) == "", "not ours to publish"
    conflicts.restart()
    assert conflicts.message(ODOM) == ""


def test_other_frames_below_the_map_are_their_owners_affair() -> None:
    conflicts = heard_by("/docks")
    for i in range(2 * module.MAX_CHILDREN):
        conflicts.heard(transform(7, f"dock_{i}"), fixed=True)
    assert conflicts.message(ODOM) == ""


def test_who_stops_is_forgotten_but_a_fixed_transform_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RECENT_S", 0.0)
    names = ["/static_transform_publisher"]
    conflicts = TfConflicts(lambda topic: names if topic == "/tf_static" else [])
    conflicts.heard(transform(7), fixed=False)
    assert conflicts.message(ODOM) == ""
    conflicts.heard(transform(7), fixed=True)
    assert "/static_transform_publisher publishes map->odom on /tf_static" in conflicts.message(
        ODOM
    )
    names.clear()
    assert conflicts.message(ODOM) == ""
