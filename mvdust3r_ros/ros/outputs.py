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

"""Convert datatypes to outgoing messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, TransformStamped
from nav_msgs.msg import OccupancyGrid as OccupancyGridMsg
from nav_msgs.msg import Path as PathMsg
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from mvdust3r_ros.datatypes import (
    FloatArray,
    ImageArray,
    MapSnapshot,
    MapUpdate,
    OccupancyGrid,
    ScaleEstimate,
    Trajectory,
)
from mvdust3r_ros.drawing.occupancy import OccupancyStats
from mvdust3r_ros.geometry import quaternion_xyzw
from mvdust3r_ros.msg import OccupancySummary, WindowStatus

MAX_PATH_POSES = 1000
"""The whole path is published with each window: 1000 poses of 80 bytes each."""
POINT_DTYPE = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("confidence", "<f4")]
)
POINT_FIELDS = [
    PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
    for i, name in enumerate(POINT_DTYPE.names or ())
]


def time_msg(stamp_ns: int) -> Time:
    """Convert nanoseconds to builtin_interfaces/Time."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def header_msg(stamp_ns: int, frame_id: str) -> Header:
    """Make a std_msgs/Header."""
    return Header(stamp=time_msg(stamp_ns), frame_id=frame_id)


def points_to_msg(
    points: FloatArray, colors_rgb: ImageArray, conf: FloatArray, header: Header
) -> PointCloud2:
    """Make an unordered cloud with fields x y z rgb confidence, without non-finite points.

    Args:
        points: (N, 3) in the frame of the header, metres.
        colors_rgb: (N, 3) uint8; packed as 0x00RRGGBB in the bits of a float, as PCL does.
        conf: (N,) confidence.
        header: stamp and frame.
    """
    keep = np.isfinite(points).all(1) & np.isfinite(conf)
    points, colors_rgb, conf = points[keep], colors_rgb[keep], conf[keep]
    cloud = np.empty(len(points), POINT_DTYPE)
    cloud["x"], cloud["y"], cloud["z"] = points.T
    red, green, blue = colors_rgb.astype(np.uint32).T
    cloud["rgb"] = red << 16 | green << 8 | blue
    cloud["confidence"] = conf
    msg = PointCloud2(
        header=header,
        height=1,
        width=len(cloud),
        fields=POINT_FIELDS,
        is_bigendian=False,
        point_step=POINT_DTYPE.itemsize,
        row_step=POINT_DTYPE.itemsize * len(cloud),
        is_dense=True,
    )
    # The generated setter checks bytes one by one, but accepts an array.array as it is.
    msg.data.frombytes(cloud.tobytes())
    return msg


def grid_to_msg(grid: OccupancyGrid, header: Header) -> OccupancyGridMsg:
    """Make a grid for Nav2: values 0, 100 and -1, origin in the lower left corner, not rotated."""
    rows, cols = grid.cells.shape
    msg = OccupancyGridMsg(header=header)
    msg.info.map_load_time = header.stamp
    msg.info.resolution = float(grid.resolution_m)
    msg.info.width, msg.info.height = cols, rows
    msg.info.origin.position.x = float(grid.origin_xy_m[0])
    msg.info.origin.position.y = float(grid.origin_xy_m[1])
    msg.data.frombytes(np.ascontiguousarray(grid.cells, np.int8).tobytes())
    return msg


def trajectory_to_msg(trajectory: Trajectory, header: Header) -> PathMsg:
    """Make a path of stamped camera poses; a long one keeps every n-th and the newest."""
    step = -(-len(trajectory) // MAX_PATH_POSES)
    chosen = slice(None, None, -max(step, 1))
    stamps_ns, T = trajectory.stamps_ns[chosen][::-1], trajectory.T_world_cam[chosen][::-1]
    quaternions = quaternion_xyzw(T[:, :3, :3]) if len(T) else np.zeros((0, 4))
    poses = [
        PoseStamped(
            header=header_msg(stamp_ns, header.frame_id),
            pose=Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=i, y=j, z=k, w=w)),
        )
        for stamp_ns, (x, y, z), (i, j, k, w) in zip(
            stamps_ns.tolist(), T[:, :3, 3].tolist(), quaternions.tolist(), strict=True
        )
    ]
    return PathMsg(header=header, poses=poses)


def pose_msg(T: FloatArray) -> Pose:
    """Convert a (4, 4) transform to geometry_msgs/Pose."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = map(float, T[:3, 3])
    _set_quaternion(pose.orientation, T)
    return pose


def transform_msg(T: FloatArray, header: Header, child_frame_id: str) -> TransformStamped:
    """Convert T_header_child to geometry_msgs/TransformStamped."""
    msg = TransformStamped(header=header, child_frame_id=child_frame_id)
    shift = msg.transform.translation
    shift.x, shift.y, shift.z = map(float, T[:3, 3])
    _set_quaternion(msg.transform.rotation, T)
    return msg


def _set_quaternion(quaternion: Any, T: FloatArray) -> None:
    values = map(float, quaternion_xyzw(T[:3, :3]))
    quaternion.x, quaternion.y, quaternion.z, quaternion.w = values


def summary_to_msg(
    snapshot: MapSnapshot,
    grid: OccupancyGrid,
    stats: OccupancyStats,
    band_m: tuple[float, float],
    header: Header,
) -> OccupancySummary:
    """Summarise the grid in a few numbers.

    Args:
        snapshot: map that the grid belongs to.
        grid: the grid.
        stats: its statistics, seen from the robot.
        band_m: height band of obstacles above the floor.
        header: stamp of the newest keyframe, map frame.
    """
    low, high = (snapshot.floor_z_m + height for height in band_m)
    x_min, y_min, x_max, y_max = stats.bounds_m
    conf = snapshot.conf
    return OccupancySummary(
        header=header,
        resolution=float(grid.resolution_m),
        height_min=float(band_m[0]),
        height_max=float(band_m[1]),
        free_cells=stats.free_cells,
        occupied_cells=stats.occupied_cells,
        unknown_cells=stats.unknown_cells,
        explored_area=stats.explored_area_m2,
        bounds_min=Point(x=x_min, y=y_min, z=low),
        bounds_max=Point(x=x_max, y=y_max, z=high),
        nearest_obstacle_distance=stats.nearest_distance_m,
        nearest_obstacle_bearing=stats.nearest_bearing_rad,
        sector_obstacle_distances=[float(d) for d in stats.sector_distances_m],
        mean_confidence=float(conf.mean()) if len(conf) else math.nan,
        **_scale_fields(snapshot.scale),
        scale_source=int(snapshot.scale.source),
    )


def window_status_msg(
    update: MapUpdate, header: Header, counts: Mapping[str, int], total_latency_ms: float
) -> WindowStatus:
    """Report the outcome of a window.

    Args:
        update: the outcome.
        header: stamp of the newest keyframe, map frame.
        counts: received_frames, dropped_frames, superseded_windows and rejected_windows so far,
            and ladder_rung.
        total_latency_ms: from the newest image to now.
    """
    return WindowStatus(
        header=header,
        window_index=update.window.index,
        epoch=update.window.epoch,
        keyframe_stamps=[time_msg(k.stamp_ns) for k in update.window.keyframes],
        verdict=int(update.verdict),
        message=update.message,
        residual_m=float(update.residual_m),
        points_added=len(update.points_map),
        **_scale_fields(update.scale),
        stage_names=list(update.latency_ms),
        stage_latencies_ms=[float(v) for v in update.latency_ms.values()],
        total_latency_ms=float(total_latency_ms),
        **counts,
    )


def _scale_fields(scale: ScaleEstimate) -> dict[str, float]:
    return {"scale": float(scale.scale), "scale_rel_sigma": float(scale.rel_sigma)}


def status_msg(
    level: int, name: str, message: str, values: Sequence[tuple[str, object]]
) -> DiagnosticStatus:
    """Make a diagnostic_msgs/DiagnosticStatus; level 0 is OK, 1 WARN, 2 ERROR."""
    return DiagnosticStatus(
        level=bytes([level]),
        name=name,
        message=message,
        hardware_id="",
        values=[KeyValue(key=key, value=str(value)) for key, value in values],
    )
