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

"""The bond with Nav2's lifecycle manager, if `bondpy` is installed."""

from __future__ import annotations

from typing import Any

import rclpy
from rclpy.lifecycle import LifecycleNode

TOPIC = "bond"
HEARTBEAT_PERIOD_S, HEARTBEAT_TIMEOUT_S = 0.1, 4.0
"""The values of Nav2's own nodes (nav2_util::LifecycleNode)."""


def make_bond(node: LifecycleNode) -> Any | None:
    """Return a bond with a running heartbeat; None without bondpy (set `bond_timeout: 0.0`)."""
    try:
        from bondpy.bondpy import Bond
    except ImportError:
        return None
    bond = Bond(node, TOPIC, node.get_name())
    bond.heartbeat_period = HEARTBEAT_PERIOD_S
    bond.heartbeat_timeout = HEARTBEAT_TIMEOUT_S
    bond.pub = LastingPublisher(node, bond.pub)
    bond.start()
    return bond


class LastingPublisher:
    """Publisher of a bond that ignores errors once ROS has shut down (Ctrl-C).

    Attributes:
        made: the wrapped publisher.
    """

    def __init__(self, node: LifecycleNode, made: Any) -> None:
        """Wrap a publisher of the node."""
        self._node, self.made = node, made

    def publish(self, message: Any) -> None:
        """Publish while ROS is up."""
        try:
            self.made.publish(message)
        except Exception:
            if rclpy.ok(context=self._node.context):
                raise

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else to the publisher."""
        return getattr(self.made, name)


def break_bond(node: LifecycleNode, bond: Any) -> None:
    """Break the bond, and remove its subscription and publisher from the node.

    `shutdown` destroys both but leaves them in the node's lists, where the executor would fail on
    them in every spin. The subscription is removed first, so that nothing waits on it; the
    publisher last, because it sends the final message.
    """
    node.destroy_subscription(bond.sub)
    try:
        bond.shutdown()
    finally:
        node.destroy_publisher(bond.pub.made)
