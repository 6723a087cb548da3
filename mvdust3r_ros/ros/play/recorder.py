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

"""Record topics into an MCAP bag, message bytes unchanged (`ros2 run mvdust3r_ros recorder`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.ros.message_types import message_class
from mvdust3r_ros.ros.play.bag_types import bag_qos, typestore_with
from mvdust3r_ros.ros.qos import QUEUE_DEPTH
from mvdust3r_ros.ros.spinning import quiet_end
from mvdust3r_ros.wording import plural

LOOK_PERIOD_S = 0.1
"""At most this much of a new topic is lost in addition to DDS discovery."""


class RecorderError(MvDust3rError):
    """A bag cannot be written."""


class Recorder(Node):
    """Subscribes to each topic as soon as it has a publisher, with a matching QoS."""

    def __init__(self, bag: Path, topics: Sequence[str]) -> None:
        """Create the bag.

        Args:
            bag: folder to create.
            topics: topics to record.

        Raises:
            RecorderError: the bag exists already or cannot be written.
        """
        super().__init__("recorder")
        self._topics = [self.resolve_topic_name(topic) for topic in topics]
        self._connections: dict[str, Any] = {}
        self.count = 0
        try:
            self._writer = Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise RecorderError(f"cannot write bag {bag}: {error}") from None
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(LOOK_PERIOD_S, self._look, clock=steady)

    def _look(self) -> None:
        """Subscribe to new topics; with simulated time not before the clock runs."""
        if self.get_clock().now().nanoseconds == 0:
            return
        for topic in self._topics:
            publishers = self.get_publishers_info_by_topic(topic)
            if topic not in self._connections and publishers:
                self._record(topic, publishers)

    def _record(self, topic: str, publishers: Sequence[Any]) -> None:
        kind = publishers[0].topic_type
        try:
            message_type, store = message_class(kind), typestore_with([kind])
        except MvDust3rError as error:
            self.get_logger().error(f"{topic} is not recorded: {error}")
            self._topics.remove(topic)
            return
        offers = [p.qos_profile for p in publishers]
        reliable = all(o.reliability == ReliabilityPolicy.RELIABLE for o in offers)
        latched = all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
        connection = self._writer.add_connection(
            topic,
            kind,
            typestore=store,
            offered_qos_profiles=[bag_qos(reliable=reliable, latched=latched)],
        )
        self._connections[topic] = connection
        qos = QoSProfile(
            depth=QUEUE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self.create_subscription(
            message_type, topic, lambda data: self._write(connection, data), qos, raw=True
        )
        self.get_logger().info(f"recording {topic}")

    def _write(self, connection: Any, data: bytes) -> None:
        self._writer.write(connection, self.get_clock().now().nanoseconds, data)
        self.count += 1

    def close(self) -> None:
        """Finish the bag."""
        self._writer.close()


def main(args: Sequence[str] | None = None) -> int:
    """Record until stopped."""
    words = list(sys.argv if args is None else ["recorder", *args])
    parser = argparse.ArgumentParser(prog="recorder", description=__doc__)
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    parser.add_argument("--out", type=Path, required=True, metavar="BAG", help="folder to make")
    options = parser.parse_args(remove_ros_args(words)[1:])
    rclpy.init(args=words)
    recorder = None
    try:
        with quiet_end():
            recorder = Recorder(options.out, options.topics)
            rclpy.spin(recorder)
    except MvDust3rError as error:
        sys.stderr.write(f"recorder: {error}\n")
        return 1
    finally:
        if recorder is not None:
            recorder.close()
            recorder.destroy_node()
        rclpy.try_shutdown()
    if recorder is not None:
        sys.stderr.write(f"recorder: {plural(recorder.count, 'message')} in {options.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
