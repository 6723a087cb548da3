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

"""Bags of the box room, written message by message without ROS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from box_room import BoxRoom
from mvdust3r_ros.datatypes import FloatArray, ImageArray
from mvdust3r_ros.geometry import make_se3, quaternion_xyzw

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 200_000_000
STORE = get_typestore(Stores.ROS2_JAZZY)
T_BASE_CAM = make_se3(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.1, 0.0, 1.2]))

_YAW = np.radians(50.0)
T_FRONT_LEFT = make_se3(
    np.array([[np.cos(_YAW), 0, -np.sin(_YAW)], [0, 1, 0], [np.sin(_YAW), 0, np.cos(_YAW)]]),
    np.array([-0.25, 0.0, 0.0]),
)


@dataclass(frozen=True)
class RoomBag:
    """Where a bag is and what is in it."""

    bag: Path
    depth: Path
    stamps_ns: list[int]
    poses: list[FloatArray]


@dataclass(frozen=True)
class BagKind:
    """What is recorded of the walk, and how."""

    storage: StoragePlugin = StoragePlugin.MCAP
    compressed: bool = False
    odometry: str = "topic"  # topic: of the camera; base: of base_link with /tf_static
    # or unmounted: without; tf; none
    second_camera: bool = False
    rig: bool = False  # /front and /left instead, of different sizes, with depth; odometry="base"
    frames: int = 36


def new(kind: str, **fields: Any) -> Any:
    return STORE.types[kind](**fields)


def header(stamp_ns: int, frame: str) -> Any:
    stamp = new("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return new("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def quaternion(T: FloatArray) -> Any:
    x, y, z, w = map(float, quaternion_xyzw(T[:3, :3]))
    return new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def transform(stamp_ns: int, parent: str, child: str, T: FloatArray) -> Any:
    x, y, z = map(float, T[:3, 3])
    shift = new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)
    inner = new("geometry_msgs/msg/Transform", translation=shift, rotation=quaternion(T))
    return new(
        "geometry_msgs/msg/TransformStamped",
        header=header(stamp_ns, parent), child_frame_id=child, transform=inner,
    )  # fmt: skip


def odometry(stamp_ns: int, child: str, T: FloatArray) -> Any:
    x, y, z = map(float, T[:3, 3])
    zero = new("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
    pose = new(
        "geometry_msgs/msg/Pose",
        position=new("geometry_msgs/msg/Point", x=x, y=y, z=z), orientation=quaternion(T),
    )  # fmt: skip
    return new(
        "nav_msgs/msg/Odometry",
        header=header(stamp_ns, "odom"),
        child_frame_id=child,
        pose=new("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        twist=new(
            "geometry_msgs/msg/TwistWithCovariance",
            twist=new("geometry_msgs/msg/Twist", linear=zero, angular=zero),
            covariance=np.zeros(36),
        ),
    )


def camera_info(stamp_ns: int, K: FloatArray, width: int, height: int) -> Any:
    roi = new(
        "sensor_msgs/msg/RegionOfInterest",
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False,
    )  # fmt: skip
    return new(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp_ns, "camera_optical"), height=height, width=width,
        distortion_model="plumb_bob", d=np.zeros(5), k=K.ravel(), r=np.eye(3).ravel(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel(), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def image(stamp_ns: int, rgb: ImageArray, *, compressed: bool) -> Any:
    if compressed:
        _, data = cv2.imencode(".png", rgb[..., ::-1])
        return new(
            "sensor_msgs/msg/CompressedImage",
            header=header(stamp_ns, "camera_optical"), format="bgr8; png compressed bgr8",
            data=data.ravel(),
        )  # fmt: skip
    height, width = rgb.shape[:2]
    return new(
        "sensor_msgs/msg/Image",
        header=header(stamp_ns, "camera_optical"), height=height, width=width, encoding="rgb8",
        is_bigendian=0, step=3 * width, data=rgb.ravel(),
    )  # fmt: skip


def write_room_bag(folder: Path, room: BoxRoom, kind: BagKind) -> RoomBag:
    """A walk through the room as a bag in `folder`, its depth images beside it."""
    (folder / "depth").mkdir()
    poses = room.walk(kind.frames, turns=0.6)
    stamps = [START_NS + i * PERIOD_NS for i in range(kind.frames)]
    with Writer(folder / "bag", version=9, storage_plugin=kind.storage) as writer:
        topics: dict[str, Connection] = {}

        def write(topic: str, log_ns: int, message: Any) -> None:
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, message.__msgtype__, typestore=STORE)
            data = STORE.serialize_cdr(message, message.__msgtype__)
            writer.write(topics[topic], log_ns, data)

        suffix = "/compressed" if kind.compressed else ""
        width, height = room.image_wh
        for i, (stamp, T) in enumerate(zip(stamps, poses, strict=True)):
            _write_odometry(kind.odometry, stamp, T, write)
            if kind.rig:
                _write_rig(room, stamp, T, write)
                continue
            write("/camera/camera_info", stamp + 2, camera_info(stamp, room.K, width, height))
            picture = image(stamp, room.image(T), compressed=kind.compressed)
            write(f"/camera/image_raw{suffix}", stamp + 3, picture)
            if kind.second_camera:
                write("/rear/image_raw", stamp + 3, picture)
            millimetres = np.rint(room.depth(T) * 1000).astype(np.uint16)
            cv2.imwrite(str(folder / "depth" / f"{i:06d}.png"), millimetres)
    return RoomBag(folder / "bag", folder / "depth", stamps, poses)


def _write_odometry(kind: str, stamp: int, T: FloatArray, write: Callable[..., None]) -> None:
    T_odom_base = T @ np.linalg.inv(T_BASE_CAM)
    tf = "tf2_msgs/msg/TFMessage"
    if kind in ("base", "tf") and stamp == START_NS:
        static = transform(stamp, "base_link", "camera_optical", T_BASE_CAM)
        write("/tf_static", stamp, new(tf, transforms=[static]))
    if kind == "topic":
        write("/odom", stamp + 1, odometry(stamp, "camera_optical", T))
    elif kind in ("base", "unmounted"):
        write("/odom", stamp + 1, odometry(stamp, "base_link", T_odom_base))
    elif kind == "tf":
        moving = transform(stamp, "odom", "base_link", T_odom_base)
        write("/tf", stamp + 1, new(tf, transforms=[moving]))


def _write_rig(room: BoxRoom, stamp: int, T: FloatArray, write: Callable[..., None]) -> None:
    """The front camera where the only one else is; the left one beside it, turned to the left."""
    left = replace(room, image_wh=(80, 80), focal_px=38.0)
    tf = "tf2_msgs/msg/TFMessage"
    for name, camera, T_front_cam in (("front", room, np.eye(4)), ("left", left, T_FRONT_LEFT)):
        frame = f"{name}_optical"
        if stamp == START_NS:
            T_base_cam = T_BASE_CAM @ T_front_cam
            static = transform(stamp, "base_link", frame, T_base_cam)
            write("/tf_static", stamp, new(tf, transforms=[static]))
        width, height = camera.image_wh
        info = camera_info(stamp, camera.K, width, height)
        pose = T @ T_front_cam
        millimetres = np.rint(camera.depth(pose) * 1000).astype("<u2")
        depth = new(
            "sensor_msgs/msg/Image", header=header(stamp, frame), height=height, width=width,
            encoding="16UC1", is_bigendian=0, step=2 * width, data=millimetres.view("u1").ravel(),
        )  # fmt: skip
        picture = image(stamp, camera.image(pose), compressed=False)
        picture.header.frame_id = info.header.frame_id = frame
        write(f"/{name}/camera_info", stamp + 2, info)
        write(f"/{name}/depth", stamp + 2, depth)
        write(f"/{name}/image", stamp + 3, picture)
