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

"""Detect other publishers of the node's transforms, between which TF would jump."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mvdust3r_ros.messages.conversions import stamp_to_ns
from mvdust3r_ros.ros.health.faults import RECENT_S

MAX_OWN = 2000
"""Own transforms that have not come back yet: some got lost on the way. 20 s at 100 Hz."""
MAX_CHILDREN = 100
"""A bound on memory against a sender that makes up frames: the map frame has a few children, odom
and cameras."""


@dataclass
class _Heard:
    """A foreign transform: when it came last, on which topic, and its parent."""

    last_s: float
    topic: str
    parent: str


class TfConflicts:
    """Tells foreign transforms from the node's own ones, which come back to it on /tf.

    Each own transform comes back once, with the stamp and the numbers it went out with; ROS does
    not say with a message who sent it.
    """

    def __init__(self, others_on: Callable[[str], list[str]]) -> None:
        """Nothing heard.

        Args:
            others_on: the other nodes that publish a topic.
        """
        self._others_on = others_on
        self._lock = threading.Lock()
        self._own: dict[tuple[object, ...], None] = {}
        self._children: set[str] = set()
        self._heard: dict[str, _Heard] = {}

    def restart(self) -> None:
        """Forget what was heard: the subscriptions begin anew."""
        with self._lock:
            self._own.clear()
            self._children.clear()
            self._heard.clear()

    def sent(self, item: Any) -> None:
        """Take a geometry_msgs/TransformStamped that is about to go out."""
        with self._lock:
            self._own[_key(item)] = None
            self._children.add(item.child_frame_id)
            while len(self._own) > MAX_OWN:
                del self._own[next(iter(self._own))]

    def heard(self, item: Any, fixed: bool) -> None:
        """Take a transform from the map frame that came on /tf, or with `fixed` on /tf_static."""
        key, child = _key(item), item.child_frame_id.lstrip("/")
        with self._lock:
            if not fixed and key in self._own:
                del self._own[key]
            elif child in self._heard or len(self._heard) < MAX_CHILDREN:
                topic = "/tf_static" if fixed else "/tf"
                self._heard[child] = _Heard(time.monotonic(), topic, item.header.frame_id)

    def message(self, also: Iterable[str]) -> str:
        """Who publishes what is ours to publish, and the remedy; empty when nobody does.

        Args:
            also: frames that the node is going to place, besides those that it has placed.
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
        return ""  # a fixed transform is sent once: it lasts as long as a node that could send it
    who = f"one of {', '.join(others)}" if len(others) > 1 else "".join(others) or "another node"
    return (
        f"{who} publishes {heard.parent}->{child} on {heard.topic} too, and TF jumps between the "
        "two; stop it, or set ros.publish_tf to none"
    )


def _key(item: Any) -> tuple[object, ...]:
    shift, turn = item.transform.translation, item.transform.rotation
    numbers = (shift.x, shift.y, shift.z, turn.x, turn.y, turn.z, turn.w)
    return (item.child_frame_id, stamp_to_ns(item.header.stamp), *numbers)
