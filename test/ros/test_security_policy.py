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

"""The SROS 2 policy grants what a running node uses, and no more than its options need."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from live_nodes import Stage

LIMIT_S = 30.0
POLICY = Path(__file__).parents[2] / "config" / "security" / "policy.xml"
OPTIONAL = {"/bond", "/clock", "/image/compressed"}
# The first from ROS 2 Jazzy on, the second where /clock or parameters are watched.
DISTRIBUTION = {"/mapper/get_type_description", "/parameter_events"}


def granted(kind: str, right: str) -> set[str]:
    (profile,) = ET.parse(POLICY).getroot().iter("profile")
    assert (profile.get("ns"), profile.get("node")) == ("/", "mapper")
    parts = [p for p in profile if p.get(right) == "ALLOW"]
    return {str(item.text) for part in parts for item in part.iter(kind)}


def test_the_policy_is_that_of_a_running_node(new_stage: Callable[[], Stage]) -> None:
    stage = new_stage()
    stage.mapper(ros__use_depth=True)
    stage.bring_up()
    control = stage.control

    def used(question: Callable[..., Any]) -> set[str]:
        return {name for name, _ in question("mapper", "/")}

    def knows(question: Callable[..., Any], needed: set[str]) -> bool:
        return needed <= used(question)

    for question, allowed in (
        (control.get_publisher_names_and_types_by_node, granted("topic", "publish")),
        (control.get_subscriber_names_and_types_by_node, granted("topic", "subscribe")),
        (control.get_service_names_and_types_by_node, granted("service", "reply")),
    ):
        needed = allowed - OPTIONAL - DISTRIBUTION
        control.wait(partial(knows, question, needed), LIMIT_S, f"all of {sorted(needed)}")
        control.spin_for(0.5)  # also for what is not granted
        assert used(question) - DISTRIBUTION <= allowed
    assert used(control.get_client_names_and_types_by_node) == set()
