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

"""Detect other publishers of the node's transforms, which would make TF jump."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mvdust3r_ros.messages.conversions import stamp_to_ns
from mvdust3r_ros.ros.health.faults import RECENT_S

MAX_OWN = 2000
"""Limit of own transforms not received back yet, as some are lost: 20 s at 100 Hz."""
MAX_CHILDREN = 100
"""Bounds memory against a sender that invents frames: the map frame has a few children, odom and
cameras."""


@dataclass
class _Heard:
    """A foreign transform: time of the last arrival, topic and parent."""

    last_s: float
    topic: str
    parent: str


class TfConflicts:
    """Distinguishes foreign transforms from the node's own, which also arrive on /tf.

    Each own transform arrives once, with the stamp and values it was sent with; a ROS message does
    not name its sender.
    """

    def __init__(self, others_on: Callable[[str], list[str]]) -> None:
        """Start without transforms.

        Args:
            others_on: returns the other nodes that publish a topic.
        """
        self._others_on = others_on
        self._lock = threading.Lock()
        self._own: dict[tuple[object, ...], None] = {}
        self._children: set[str] = set()
        self._heard: dict[str, _Heard] = {}

    def restart(self) -> None:
        """Forget received transforms, as the subscriptions start again."""
        with self._lock:
            self._own.clear()
            self._children.clear()
            self._heard.clear()

    def sent(self, item: Any) -> None:
        """Record a geometry_msgs/TransformStamped before it is published."""
        with self._lock:
            self._own[_key(item)] = None
            self._children.add(item.child_frame_id)
            while len(self._own) > MAX_OWN:
                del self._own[next(iter(self._own))]

    def heard(self, item: Any, fixed: bool) -> None:
        """Record a transform from the map frame, from /tf_static if `fixed`, else from /tf."""
        key, child = _key(item), item.child_frame_id.lstrip("/")
        with self._lock:
            if not fixed and key in self._own:
                del self._own[key]
            elif child in self._heard or len(self._heard) < MAX_CHILDREN:
                topic = "/tf_static" if fixed else "/tf"
                self._heard[child] = _Heard(time.monotonic(), topic, item.header.frame_id)

    def message(self, also: Iterable[str]) -> str:
        """Name other publishers of the node's transforms and the remedy; empty without any.

        Args:
            also: frames that the node will publish, in addition to those it has published.
        """
        with self._lock:
            ours = {*self._children, *also}
            found = [
                (child, heard)
                for child, heard in self._heard.items()
                if child in ours
                and (heard.topic == "/tf_static" or time.monotonic() < heard.last_s + RECENT_S)
            ]
        messages = [
            _describe(child, heard, self._others_on(heard.topic)) for child, heard in found
        ]
        return "; ".join(words for words in messages if words)


def _describe(child: str, heard: _Heard, others: list[str]) -> str:
    if not others and heard.topic == "/tf_static":
        return ""  # a static transform is sent once: it lasts as long as a possible sender
    who = f"one of {', '.join(others)}" if len(others) > 1 else "".join(others) or "another node"
    return (
        f"{who} publishes {heard.parent}->{child} on {heard.topic} too, and TF jumps between the "
        "two; stop it, or set ros.publish_tf to none"
    )


def _key(item: Any) -> tuple[object, ...]:
    shift, turn = item.transform.translation, item.transform.rotation
    numbers = (shift.x, shift.y, shift.z, turn.x, turn.y, turn.z, turn.w)
    return (item.child_frame_id, stamp_to_ns(item.header.stamp), *numbers)
