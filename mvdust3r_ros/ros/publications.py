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

"""Publishers of the node's map topics."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
from nav_msgs.msg import Path as PathMsg
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import PointCloud2
from tf2_msgs.msg import TFMessage

from mvdust3r_ros.datatypes import (
    UNKNOWN,
    FloatArray,
    MapSnapshot,
    MapUpdate,
    OccupancyGrid,
)
from mvdust3r_ros.drawing.occupancy import (
    summarize_grid,
)
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.msg import OccupancySummary, WindowStatus
from mvdust3r_ros.ros.grid_topics import GridTopics
from mvdust3r_ros.ros.health.degradation import ServiceLevel
from mvdust3r_ros.ros.health.ros_graph import others_on
from mvdust3r_ros.ros.outbox import Outbox
from mvdust3r_ros.ros.outputs import (
    header_msg,
    points_to_msg,
    summary_to_msg,
    trajectory_to_msg,
    transform_msg,
    window_status_msg,
)
from mvdust3r_ros.ros.pipeline import PipelineCounters
from mvdust3r_ros.ros.qos import CLOUDS, LATCHED, RELIABLE, TF
from mvdust3r_ros.ros.settings import NodeConfig
from mvdust3r_ros.ros.tf_conflicts import TfConflicts
from mvdust3r_ros.ros.tf_timing import TfTiming


class Publications:
    """The node's lifecycle publishers and their messages.

    Attributes:
        config: the current settings.
        tf_conflicts: other publishers of the node's transforms.
        timing: timing of the stamps on TF.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig) -> None:
        """Create the publishers; they publish while the node is active."""
        self.config = config
        self.tf_conflicts = TfConflicts(lambda topic: others_on(node, topic))
        self.timing = TfTiming()
        self._node = node
        self._points = self._add(PointCloud2, "~/points", RELIABLE)
        self._status = self._add(WindowStatus, "~/window_status", RELIABLE)
        self._map_points = self._add(PointCloud2, "~/map_points", LATCHED)
        self._path = self._add(PathMsg, "~/path", LATCHED)
        self._summary = self._add(OccupancySummary, "~/occupancy_summary", LATCHED)
        self._obstacles = self._add(PointCloud2, "~/obstacle_points", CLOUDS)
        self._tf = self._add(TFMessage, "/tf", TF)
        self._grid = GridTopics(node, "~/occupancy_grid")
        self._outbox = Outbox(self._obstacles.publish)
        self._mapped: set[tuple[int, int]] = set()
        self._map_is_new = False
        self._map_is_missed = False
        self._map_sent_s = -math.inf

    def _add(self, kind: type, topic: str, qos: Any) -> Any:
        return self._node.create_lifecycle_publisher(kind, topic, qos)

    def close(self) -> None:
        """Remove the publishers."""
        self._outbox.close()
        self._grid.close()
        for publisher in self._all():
            self._node.destroy_lifecycle_publisher(publisher)

    def _all(self) -> tuple[Any, ...]:
        return (
            self._points, self._status, self._map_points, self._path,
            self._summary, self._obstacles, self._tf,
        )  # fmt: skip

    def subscriber_counts(self) -> dict[str, int]:
        """Return the number of subscribers of each topic."""
        counts = {p.topic_name: p.get_subscription_count() for p in self._all()}
        return {**counts, **self._grid.subscriber_counts()}

    def figures(self) -> dict[str, object]:
        """Return numbers about the outputs for diagnostics."""
        return {
            **self.timing.figures(),
            "obstacle clouds sent too close together": self._outbox.hurried,
            "obstacle clouds dropped": self._outbox.dropped,
        }

    def stop(self) -> None:
        """Send waiting clouds, and latch the newest grid for late subscribers."""
        self._outbox.flush()
        self._grid.bring_up_to_date()

    def forget_clouds(self) -> None:
        """Drop waiting clouds after a change of map or a time jump."""
        self._outbox.drop()

    def send_transform(self, T: FloatArray, stamp_ns: int, child: str) -> None:
        """Publish T_map_child on /tf."""
        item = transform_msg(T, header_msg(stamp_ns, self.config.ros.map_frame), child)
        self.tf_conflicts.sent(item)
        self.timing.sent(stamp_ns, self._node.get_clock().now().nanoseconds)
        self._tf.publish(TFMessage(transforms=[item]))

    def send_update(
        self, update: MapUpdate, counters: PipelineCounters, level: ServiceLevel, now_ns: int
    ) -> None:
        """Publish the outcome of a window and its points."""
        newest = update.window.keyframes[-1]
        header = header_msg(newest.stamp_ns, self.config.ros.map_frame)
        counts = {
            "received_frames": counters.received,
            "dropped_frames": counters.dropped.total(),
            "superseded_windows": counters.superseded,
            "rejected_windows": counters.rejected,
            "ladder_rung": int(level),
        }
        latency_ms = (now_ns - newest.stamp_ns) * 1e-6
        if len(update.points_map) and self._points.get_subscription_count():
            self._send_points(update)
        if update.T_map_cam:
            self._send_obstacles(update)
        self._map_is_new |= len(update.T_map_cam) > 0
        self._status.publish(window_status_msg(update, header, counts, latency_ms))

    def _send_points(self, update: MapUpdate) -> None:
        newest = update.window.keyframes[-1]
        points, colors, conf = update.points_map, update.colors_rgb, update.conf
        frame = self.config.ros.map_frame
        if self.config.ros.points_frame == "camera":
            if newest.id not in update.T_map_cam:
                return
            own = update.keyframe_ids == newest.id
            T_cam_map = invert_se3(update.T_map_cam[newest.id])
            points = points[own] @ T_cam_map[:3, :3].T + T_cam_map[:3, 3]
            colors, conf, frame = colors[own], conf[own], newest.camera_name
        header = header_msg(newest.stamp_ns, frame)
        self._points.publish(points_to_msg(points, colors, conf, header))

    def _send_obstacles(self, update: MapUpdate) -> None:
        """Send one cloud, in its optical frame, for each keyframe new to the window.

        The outbox sends them oldest first, so that newer observations win.
        """
        mapped = {(update.window.epoch, key) for key in update.T_map_cam}
        new = mapped - self._mapped
        self._mapped = mapped
        if not update.gate_open or not self._obstacles.get_subscription_count():
            return
        clouds = []
        for keyframe in sorted(update.window.keyframes, key=lambda k: k.stamp_ns):
            own = update.keyframe_ids == keyframe.id
            if (update.window.epoch, keyframe.id) not in new or not own.any():
                continue
            T_cam_map = invert_se3(update.T_map_cam[keyframe.id])
            points = update.points_map[own] @ T_cam_map[:3, :3].T + T_cam_map[:3, 3]
            header = header_msg(keyframe.stamp_ns, keyframe.camera_name)
            clouds.append(points_to_msg(points, update.colors_rgb[own], update.conf[own], header))
        self._outbox.put(clouds, self.config.ros.obstacle_cloud_period_s)

    def send_map_when_due(self, mapper: Mapper, T_cam_base: FloatArray | None) -> None:
        """Publish the map if it changed and `map_period_s` has passed.

        Until then, publish only the changed part of the grid, if it has subscribers.
        """
        self._grid.serve_new_subscribers()
        if not self._map_is_new:
            return
        if time.monotonic() >= self._map_sent_s + self.config.ros.map_period_s:
            self._map_is_new = False
            self._map_sent_s = time.monotonic()
            self.send_map(mapper.snapshot(), T_cam_base)
        elif self._grid.takes_changes:
            snapshot = mapper.snapshot()
            if snapshot.gate_open and snapshot.grid is not None:
                header = header_msg(_newest_ns(snapshot), self.config.ros.map_frame)
                self._grid.send_change(snapshot.grid, header)

    def send_map(
        self, snapshot: MapSnapshot, T_cam_base: FloatArray | None, *, another: bool = False
    ) -> None:
        """Publish cloud, path, summary, and the grid once the scale is known well enough.

        Nothing is sent before the node is active; `send_missed` catches up then.

        Args:
            snapshot: the map; an empty one clears the subscribers' displays.
            T_cam_base: (4, 4) robot frame to optical frame; None for a robot below the camera,
                facing along its view.
            another: whether it replaces another map, whose grid must not stay.
        """
        self._map_is_missed = not self._map_points.is_activated
        if self._map_is_missed:
            return
        path = snapshot.trajectory
        stamp_ns = _newest_ns(snapshot) if len(path) else self._node.get_clock().now().nanoseconds
        header = header_msg(stamp_ns, self.config.ros.map_frame)
        cloud = points_to_msg(snapshot.points_map, snapshot.colors_rgb, snapshot.conf, header)
        self._map_points.publish(cloud)
        self._path.publish(trajectory_to_msg(path, header))
        rule, withheld = self.config.map, len(path) > 0 and not snapshot.gate_open
        unknown = np.full((1, 1), UNKNOWN, np.int8)
        nothing = OccupancyGrid(unknown, rule.grid_resolution_m, (0.0, 0.0))
        grid = nothing if withheld else snapshot.grid or nothing
        if another or not withheld:
            self._grid.send_whole(grid, header)
        # with the grid withheld, metric values and the robot's pose are unknown
        poses = path.T_world_cam[:0] if withheld else path.T_world_cam
        xy, yaw = _robot_pose(poses, T_cam_base)
        stats = summarize_grid(grid, xy, yaw, self.config.ros.sectors)
        if withheld:
            stats = replace(stats, explored_area_m2=math.nan, nearest_distance_m=math.nan)
        band = (rule.obstacle_min_z_m, rule.obstacle_max_z_m)
        self._summary.publish(summary_to_msg(snapshot, grid, stats, band, header))

    def send_missed(self, mapper: Mapper) -> None:
        """Publish a map that was loaded or reset while the node was not active."""
        if self._map_is_missed:
            self.send_map(mapper.snapshot(), None, another=True)


def _newest_ns(snapshot: MapSnapshot) -> int:
    """Return the stamp of the newest keyframe; the map must have one."""
    return int(snapshot.trajectory.stamps_ns[-1])


def _robot_pose(
    T_map_cam: FloatArray, T_cam_base: FloatArray | None
) -> tuple[tuple[float, float], float]:
    """Return the robot's ground position (m) and heading (rad); NaN before the first keyframe."""
    if not len(T_map_cam):
        return (math.nan, math.nan), math.nan
    if T_cam_base is None:
        T, ahead = T_map_cam[-1], T_map_cam[-1][:2, 2]
    else:
        T = T_map_cam[-1] @ T_cam_base
        ahead = T[:2, 0]
    return (float(T[0, 3]), float(T[1, 3])), math.atan2(ahead[1], ahead[0])
