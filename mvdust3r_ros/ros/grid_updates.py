"""The changed part of the grid, on the grid's topic with `_updates` added, as Nav2 takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from mvdust3r_ros.datatypes import OccupancyGrid
from mvdust3r_ros.ros.message_types import MessageTypeError, message_class
from mvdust3r_ros.ros.qos import RELIABLE

UPDATE_TYPE = "map_msgs/msg/OccupancyGridUpdate"


class GridUpdates:
    """Publishes what changed since the last grid or update, where map_msgs is installed."""

    def __init__(self, node: LifecycleNode, grid_topic: str) -> None:
        """Make the publisher; the topic is that of the grid with `_updates` added."""
        self._node = node
        self._sent: OccupancyGrid | None = None
        self._publisher: Any | None = None
        try:
            self._kind = message_class(UPDATE_TYPE)
        except MessageTypeError:
            return
        topic = f"{grid_topic}_updates"
        self._publisher = node.create_lifecycle_publisher(self._kind, topic, RELIABLE)

    def close(self) -> None:
        """Remove the publisher."""
        if self._publisher is not None:
            self._node.destroy_lifecycle_publisher(self._publisher)

    def subscriber_counts(self) -> dict[str, int]:
        """Topic -> number of subscribers; empty without map_msgs."""
        publisher = self._publisher
        if publisher is None:
            return {}
        return {publisher.topic_name: publisher.get_subscription_count()}

    @property
    def wanted(self) -> bool:
        """Whether an update would reach anybody who has the whole grid."""
        if self._publisher is None or self._sent is None:
            return False
        return bool(self._publisher.get_subscription_count() > 0)

    def whole_grid_sent(self, grid: OccupancyGrid) -> None:
        """The whole grid went out: updates refer to it from now on."""
        self._sent = grid

    def send(self, grid: OccupancyGrid, header: Header) -> None:
        """Publish the changed rectangle; nothing when the grid has grown."""
        rectangle = None if self._sent is None else changed_rectangle(self._sent, grid)
        if rectangle is None or self._publisher is None:
            return
        rows, cols = rectangle
        part = np.ascontiguousarray(grid.cells[rows, cols])
        msg = self._kind(header=header, x=cols.start, y=rows.start)
        msg.height, msg.width = part.shape
        msg.data.frombytes(part.tobytes())
        self._publisher.publish(msg)
        self._sent = grid


def changed_rectangle(old: OccupancyGrid, new: OccupancyGrid) -> tuple[slice, slice] | None:
    """Rows and columns around all cells that differ.

    Returns:
        None when nothing differs, or when the grids do not cover the same cells.
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
