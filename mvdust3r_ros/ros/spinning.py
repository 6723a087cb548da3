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

"""Keep a node's executor running, and report what interrupts it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node

from mvdust3r_ros.ros.health.faults import FaultLog

InvalidHandle = rclpy_implementation.InvalidHandle
PAUSE_S = 0.01
"""Pause after a failed spin, so that immediate failures do not use a whole core."""
GAP_S = 0.2
"""Failures further apart are of different series: failing spins follow each other within some 0.01
s."""
LASTING_S = 0.5
"""A series of failures this long does not end by itself."""
GIVE_UP_S = 10.0
"""Then the node exits, to be restarted from outside: Nav2 misses the bond after 4 s."""


@contextmanager
def quiet_end() -> Iterator[None]:
    """Leave the block silently when ROS is stopped inside it (Ctrl-C, SIGTERM).

    Once the context has ended, every pending call fails with an error of its own. ROS must be
    initialised before the block.
    """
    try:
        yield
    except KeyboardInterrupt:
        pass
    except Exception:
        if rclpy.ok():
            raise


def spin(node: Node, executor: Executor) -> bool:
    """Spin until the context ends, whatever a callback raises.

    A transition may remove an entity that the executor is about to wait for: that spin fails and
    the next one works. If spins keep failing, destroyed entities are removed from the node's
    lists.

    Returns:
        False if spins kept failing although the node held no destroyed entity.
    """
    try:
        return _spin_on(node, executor)
    except KeyboardInterrupt:  # anywhere, for example while a failure is logged
        return True


def _spin_on(node: Node, executor: Executor) -> bool:
    # Not the logger's methods themselves: rclpy allows one severity per logging line.
    passing = FaultLog(lambda words: node.get_logger().info(words))
    refused = FaultLog(lambda words: node.get_logger().error(words))
    row = FailureRow()
    while rclpy.ok(context=node.context):
        try:
            executor.spin()
        except ExternalShutdownException:
            return True
        except InvalidHandle as error:
            passing.report("executor", f"a round of the executor failed and is repeated: {error}")
            if not _recover(node, row):
                return False
            time.sleep(PAUSE_S)
        except Exception as error:  # noqa: BLE001 - the node outlives a bad request
            # For example an invalid transition, which rclpy raises here.
            if rclpy.ok(context=node.context):
                kind = type(error).__name__
                refused.report(kind, f"request refused: {kind}: {error}")
                time.sleep(PAUSE_S)
    return True


def _recover(node: Node, row: FailureRow) -> bool:
    """Recover from a failed spin; return False if that is impossible."""
    lasted_s = row.failed()
    if lasted_s < LASTING_S:
        return True
    dropped = drop_destroyed(node)
    if dropped:
        node.get_logger().error(
            f"{row.count} rounds of the executor failed: {', '.join(dropped)} was destroyed "
            "without being taken from the node; now it is"
        )
        row.restart()
    elif lasted_s > GIVE_UP_S:
        node.get_logger().fatal(
            f"{row.count} rounds of the executor failed in {lasted_s:.0f} s, the node answers "
            "nobody; it ends"
        )
        return False
    return True


class FailureRow:
    """A series of consecutive failures.

    Attributes:
        count: failures in the current series.
    """

    def __init__(self) -> None:
        """Start without failures."""
        self.restart()

    def restart(self) -> None:
        """Start a new series."""
        self.count = 0
        self._begin_s = self._last_s = 0.0

    def failed(self) -> float:
        """Count a failure; return the duration of the series (s)."""
        now_s = time.monotonic()
        if not self.count or now_s > self._last_s + GAP_S:
            self.count, self._begin_s = 0, now_s
        self.count, self._last_s = self.count + 1, now_s
        return now_s - self._begin_s


def drop_destroyed(node: Node) -> list[str]:
    """Remove destroyed entities from a node's lists.

    Returns:
        A description of each, for example "Subscription of Status".
    """
    dropped = []
    for entities, destroy in (
        (node.subscriptions, node.destroy_subscription),
        (node.publishers, node.destroy_publisher),
        (node.timers, node.destroy_timer),
        (node.clients, node.destroy_client),
        (node.services, node.destroy_service),
    ):
        for entity in [e for e in entities if _is_dead(e.handle)]:
            dropped.append(_describe(entity))
            destroy(entity)
    for waitable in [w for w in node.waitables if _is_dead(w)]:
        dropped.append(type(waitable).__name__)
        node.remove_waitable(waitable)
    return dropped


def _is_dead(handle: Any) -> bool:
    try:
        with handle:
            return False
    except InvalidHandle:
        return True


def _describe(entity: Any) -> str:
    kind = getattr(entity, "msg_type", None) or getattr(entity, "srv_type", None)
    name = type(entity).__name__
    return f"{name} of {kind.__name__}" if kind is not None else name
