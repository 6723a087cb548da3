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

"""A robot's short drive as messages of a bag, to be changed and written."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer

from mvdust3r_ros.geometry import make_se3
from room_bag import (
    START_NS,
    STORE,
    T_BASE_CAM,
    camera_info,
    image,
    new,
    odometry,
    transform,
)


@dataclass
class Recorded:
    """A message of a bag: topic, log time (ns) and message of rosbags."""

    topic: str
    log_ns: int
    message: Any


class Drive:
    """A robot's short drive in small grey images, as messages to be changed and written."""

    image_wh = (40, 30)
    K = np.array([[35.0, 0, 19.0], [0, 36.0, 15.5], [0, 0, 1]])

    def __init__(self, frames: int = 8) -> None:
        self.stamps_ns = [START_NS + i * 100_000_000 for i in range(frames)]
        self.T_odom_base = []
        for i in range(frames):
            c, s = np.cos(0.1 * i), np.sin(0.1 * i)
            turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            self.T_odom_base.append(make_se3(turn, np.array([0.1 * i, 0.02 * i, 0.0])))
        self.T_odom_cam = [T @ T_BASE_CAM for T in self.T_odom_base]

    def items(self) -> list[Recorded]:
        """All messages, fresh ones each time."""
        tf = "tf2_msgs/msg/TFMessage"
        static = transform(START_NS, "base_link", "camera_optical", T_BASE_CAM)
        made = [Recorded("/tf_static", START_NS, new(tf, transforms=[static]))]
        rgb = np.full((*self.image_wh[::-1], 3), 90, np.uint8)
        for stamp, T in zip(self.stamps_ns, self.T_odom_base, strict=True):
            moving = transform(stamp, "odom", "base_link", T)
            made += [
                Recorded("/tf", stamp + 1, new(tf, transforms=[moving])),
                Recorded("/odom", stamp + 1, odometry(stamp, "base_link", T)),
                Recorded(
                    "/camera/camera_info", stamp + 2, camera_info(stamp, self.K, *self.image_wh)
                ),
                Recorded("/camera/image_raw", stamp + 3, image(stamp, rgb, compressed=False)),
            ]
        return made

    @staticmethod
    def write(
        folder: Path, items: list[Recorded], storage: StoragePlugin = StoragePlugin.MCAP
    ) -> Path:
        """A bag of messages in `folder`/bag."""
        with Writer(folder / "bag", version=9, storage_plugin=storage) as writer:
            topics: dict[str, Connection] = {}
            for item in sorted(items, key=lambda i: i.log_ns):
                kind = item.message.__msgtype__
                if item.topic not in topics:
                    topics[item.topic] = writer.add_connection(item.topic, kind, typestore=STORE)
                data = STORE.serialize_cdr(item.message, kind)
                writer.write(topics[item.topic], item.log_ns, data)
        return folder / "bag"


def large_images(drive: Drive) -> list[Recorded]:
    items = drive.items()
    for item in items:
        if item.topic == "/camera/image_raw":
            item.message.height, item.message.width, item.message.step = 480, 640, 1920
            item.message.data = np.full(480 * 1920, 80, np.uint8)
    return items


def mcap_records(content: bytes, at: int) -> list[tuple[int, bytes]]:
    records = []
    while at < len(content) - 8:
        opcode, length = struct.unpack_from("<BQ", content, at)
        records.append((opcode, content[at + 9 : at + 9 + length]))
        at += 9 + length
    return records
