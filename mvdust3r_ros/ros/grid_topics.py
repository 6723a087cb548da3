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

"""Publish the grid on a latched topic, and its changes on `_updates`, as Nav2 expects."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import OccupancyGrid as OccupancyGridMsg
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from mvdust3r_ros.datatypes import OccupancyGrid
from mvdust3r_ros.ros.message_types import MessageTypeError, message_class
from mvdust3r_ros.ros.outputs import grid_to_msg
from mvdust3r_ros.ros.qos import LATCHED, RELIABLE, UnsupportedEventTypeError, match_events

UPDATE_TYPE = "map_msgs/msg/OccupancyGridUpdate"


class GridTopics:
    """Publishes full grids, and the changes in between if map_msgs is installed.

    A subscriber that joins between two full grids would receive the latched one, which is older
    than the updates sent since. So each new subscriber to either topic triggers a full grid.
    """

    def __init__(self, node: LifecycleNode, topic: str) -> None:
        """Create the publishers; updates go to the topic with `_updates` appended."""
        self._node = node
        self._lock = threading.RLock()
        self._newest: tuple[OccupancyGrid, Header] | None = None
        self._updated = False
        self._subscribers = 0
        self._group = MutuallyExclusiveCallbackGroup()
        self._whole = self._add(OccupancyGridMsg, topic, LATCHED)
        self._changes: Any | None = None
        try:
            self._kind = message_class(UPDATE_TYPE)
        except MessageTypeError:
            return
        self._changes = self._add(self._kind, f"{self._whole.topic_name}_updates", RELIABLE)

    def _add(self, kind: type, topic: str, qos: Any) -> Any:
        make, events = self._node.create_lifecycle_publisher, match_events(self._on_match)
        try:
            return make(kind, topic, qos, callback_group=self._group, event_callbacks=events)
        except UnsupportedEventTypeError:
            return make(kind, topic, qos)

    def close(self) -> None:
        """Remove the publishers."""
        for publisher in self._all():
            self._node.destroy_lifecycle_publisher(publisher)

    def _all(self) -> list[Any]:
        return [p for p in (self._whole, self._changes) if p is not None]

    def subscriber_counts(self) -> dict[str, int]:
        """Return the number of subscribers of each topic."""
        return {p.topic_name: p.get_subscription_count() for p in self._all()}

    @property
    def takes_changes(self) -> bool:
        """Whether an update would reach a subscriber that has the full grid."""
        if self._changes is None or self._newest is None:
            return False
        return bool(self._changes.get_subscription_count() > 0)

    def send_whole(self, grid: OccupancyGrid, header: Header) -> None:
        """Publish a full grid, to which later updates refer."""
        with self._lock:
            self._whole.publish(grid_to_msg(grid, header))
            self._newest, self._updated = (grid, header), False

    def send_change(self, grid: OccupancyGrid, header: Header) -> None:
        """Publish the changed rectangle; nothing if the grid has grown."""
        with self._lock:
            rectangle = None if self._newest is None else changed_rectangle(self._newest[0], grid)
            if rectangle is None or self._changes is None:
                return
            rows, cols = rectangle
            part = np.ascontiguousarray(grid.cells[rows, cols])
            msg = self._kind(header=header, x=cols.start, y=rows.start)
            msg.height, msg.width = part.shape
            msg.data.frombytes(part.tobytes())
            self._changes.publish(msg)
            self._newest, self._updated = (grid, header), True

    def bring_up_to_date(self) -> None:
        """Publish the newest grid in full if updates were sent since the last full one."""
        with self._lock:
            can_send = self._whole.is_activated and rclpy.ok(context=self._node.context)
            if self._updated and self._newest is not None and can_send:
                self.send_whole(*self._newest)

    def serve_new_subscribers(self) -> None:
        """Send new subscribers a full grid; needed on Humble, where no event reports them."""
        count = sum(self.subscriber_counts().values())
        came, self._subscribers = count > self._subscribers, count
        if came:
            self.bring_up_to_date()

    def _on_match(self, event: Any) -> None:
        if event.current_count_change > 0:
            self.bring_up_to_date()


def changed_rectangle(old: OccupancyGrid, new: OccupancyGrid) -> tuple[slice, slice] | None:
    """Return the rows and columns that enclose all changed cells.

    Returns:
        None if nothing differs, or if the grids do not cover the same cells.
    """
    same_place = old.origin_xy_m == new.origin_xy_m and old.resolution_m == new.resolution_m
    if not same_place or old.cells.shape != new.cells.shape:
        return None
    rows, cols = np.nonzero(old.cells != new.cells)
    if not len(rows):
        return None
    return (
        slice(int(rows.min()), int(rows.max()) + 1),
        slice(int(cols.min()), int(cols.max()) + 1),
    )
