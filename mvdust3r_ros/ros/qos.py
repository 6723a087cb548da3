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

"""Quality of service of each topic, and messages about mismatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)

try:
    from rclpy.event_handler import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )

__all__ = [
    "CLOUDS",
    "LATCHED",
    "QUEUE_DEPTH",
    "RELIABLE",
    "STATIC_TF",
    "TF",
    "UnsupportedEventTypeError",
    "input_events",
    "input_qos",
    "match_events",
]

QUEUE_DEPTH = 100
"""The depth of tf2's listeners; 3 s of images at 30 Hz."""
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
CLOUDS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
"""Room for the clouds of all views of a window; a costmap's best-effort queue holds 50."""
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
TF = QoSProfile(depth=QUEUE_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
STATIC_TF = QoSProfile(
    depth=QUEUE_DEPTH,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def input_qos(reliability: str, depth: int) -> QoSProfile:
    """Return the volatile profile of an input; `reliability` is best_effort or reliable."""
    policy = {
        "best_effort": ReliabilityPolicy.BEST_EFFORT,
        "reliable": ReliabilityPolicy.RELIABLE,
    }[reliability]
    return QoSProfile(depth=depth, reliability=policy)


def input_events(
    topic: str, remedy: str, report: Callable[[str, str], None], on_lost: Callable[[int], None]
) -> Any:
    """Return event callbacks that report incompatible QoS and count lost messages.

    Args:
        topic: the node's name of the input.
        remedy: what to do about it.
        report: called with a reason and the message.
        on_lost: called with the number of messages that DDS lost since the last call.
    """

    def on_incompatible_qos(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        report(
            "qos",
            f"{topic}: a publisher's {policy} does not fit what this node asks for, nothing "
            f"arrives from it; {remedy}",
        )

    return SubscriptionEventCallbacks(
        incompatible_qos=on_incompatible_qos,
        message_lost=lambda event: on_lost(event.total_count_change),
    )


def match_events(on_match: Callable[[Any], None]) -> Any | None:
    """Return publisher callbacks for matched subscribers; None where ROS has none (Humble)."""
    try:
        return PublisherEventCallbacks(matched=on_match)
    except TypeError:  # ROS 2 Humble
        return None
