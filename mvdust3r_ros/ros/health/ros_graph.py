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

"""Queries to the ROS graph."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy

from mvdust3r_ros.ros.health.arrivals import Offer


def offers_on(node: Node, topic: str) -> list[Offer]:
    """Return the offers of a topic's publishers."""
    return [
        Offer(
            f"{info.node_namespace.rstrip('/')}/{info.node_name}",
            info.topic_type,
            "best_effort"
            if info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
            else "reliable",
        )
        for info in node.get_publishers_info_by_topic(topic)
    ]


def clock_stopped(node: Node) -> bool:
    """Whether the node waits for simulated time that is not published yet."""
    simulated = bool(node.get_parameter("use_sim_time").value)
    return simulated and node.get_clock().now().nanoseconds == 0


def namesakes(node: Node) -> int:
    """Return the number of other nodes with this node's full name."""
    own = (node.get_name(), node.get_namespace())
    return max(0, int(node.get_node_names_and_namespaces().count(own)) - 1)


def others_on(node: Node, topic: str) -> list[str]:
    """Return full names of the other nodes that publish a topic, including namesakes."""
    names = sorted(offer.node for offer in offers_on(node, topic))
    own = node.get_fully_qualified_name()
    if own in names:
        names.remove(own)
    return list(dict.fromkeys(names))
