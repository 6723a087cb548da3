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

"""Play a bag, message bytes unchanged (`ros2 run mvdust3r_ros bag_player`)."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import ConnectionExtRosbag2, QosDurability
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.messages.conversions import stamp_to_ns
from mvdust3r_ros.messages.frame_ids import is_static
from mvdust3r_ros.messages.images import ConversionError
from mvdust3r_ros.recordings.bag import opened_bag
from mvdust3r_ros.recordings.bag_files import BagReader
from mvdust3r_ros.recordings.bag_messages import BagError, decoded, raw_messages
from mvdust3r_ros.recordings.bag_topics import choose_image_topic
from mvdust3r_ros.recordings.depth_folder import DepthFolder, DepthFolderError
from mvdust3r_ros.ros.message_types import MessageTypeError, message_class
from mvdust3r_ros.ros.outputs import header_msg, time_msg
from mvdust3r_ros.ros.qos import QUEUE_DEPTH
from mvdust3r_ros.ros.spinning import quiet_end
from mvdust3r_ros.wording import plural

CLOCK_PERIOD_S = 0.025
"""As `ros2 bag play --clock`: every tick wakes every node that uses the bag's time."""
DRAIN_S = 0.5
"""Time for best-effort subscribers to receive the last messages, which they do not acknowledge."""
QUIET_S = 1.0
"""All subscribers are assumed to be matched if no more appear for this long. DDS discovery on one
machine takes less."""


@dataclass(frozen=True)
class PlayOptions:
    """Options for playing a bag.

    Attributes:
        rate: playback rate; 1 is as recorded.
        clock: publish /clock, so that nodes with use_sim_time use the bag's time.
        loop: start again at the end, until stopped.
        image_topic: the image topic; empty to detect it.
        depth_folder: folder of depth maps to publish with the images; None for none.
        depth_topic: their topic; empty for `depth` next to the image topic.
        wait_s: how long to wait for a subscriber to the images; 0 not to wait.
    """

    rate: float = 1.0
    clock: bool = False
    loop: bool = False
    image_topic: str = ""
    depth_folder: Path | None = None
    depth_topic: str = ""
    wait_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise BagError(f"rate {self.rate} must be above 0")


class Player(Node):
    """Publishes the messages of an open bag with their recorded timing."""

    def __init__(self, reader: BagReader, options: PlayOptions) -> None:
        """Create a publisher for each topic whose type is installed.

        Raises:
            BagError: the bag has no image topic.
            DepthFolderError: the depth folder cannot be used.
        """
        super().__init__("bag_player")
        self._reader, self._options = reader, options
        self._image_topic = choose_image_topic(reader, options.image_topic)
        self._outputs: dict[str, Any] = {}
        for connection in reader.connections:
            self._add_output(connection)
        self._clock = self.create_publisher(Clock, "/clock", 10) if options.clock else None
        self._depth: Any | None = None
        if options.depth_folder is not None:
            self._depth_maps = DepthFolder(options.depth_folder)
            camera = self._image_topic.removesuffix("/compressed").rsplit("/", 1)[0]
            topic = options.depth_topic or f"{camera}/depth"
            self._depth = self.create_publisher(Image, topic, QUEUE_DEPTH)

    def _add_output(self, connection: Any) -> None:
        if connection.topic in self._outputs or connection.topic == "/clock":
            return
        try:
            kind = message_class(connection.msgtype)
        except MessageTypeError as error:
            self.get_logger().warning(f"{connection.topic} is not played: {error}")
            return
        ext = connection.ext
        latched = is_static(connection.topic) or (
            isinstance(ext, ConnectionExtRosbag2)
            and any(
                q.durability == QosDurability.TRANSIENT_LOCAL for q in ext.offered_qos_profiles
            )
        )
        qos = QoSProfile(
            depth=QUEUE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self._outputs[connection.topic] = self.create_publisher(kind, connection.topic, qos)

    def play(self) -> int:
        """Play to the end, or forever with `loop`; return the number of images.

        Raises:
            ExternalShutdownException: the node was stopped.
        """
        self._wait_for_subscriber()
        images = self._play_once()
        while self._options.loop:
            images += self._play_once()
        for output in self._outputs.values():
            output.wait_for_all_acked()
        time.sleep(DRAIN_S)
        return images

    def _wait_for_subscriber(self) -> None:
        """Wait with the clock stopped at the start of the bag."""
        output = self._outputs[self._image_topic]
        begin = time.monotonic()
        while output.get_subscription_count() == 0:
            if time.monotonic() > begin + self._options.wait_s:
                self.get_logger().warning(f"nobody takes {self._image_topic}; playing anyway")
                break
            self._tick(self._reader.start_time)
        # The publisher discovers the subscriber first; messages before the reverse match are lost.
        # Subscribers to the other topics may appear even later.
        seen, end = -1, time.monotonic() + QUIET_S
        while time.monotonic() < end:
            count = sum(o.get_subscription_count() for o in self._outputs.values())
            if count != seen:
                seen, end = count, time.monotonic() + QUIET_S
            self._tick(self._reader.start_time)

    def _play_once(self) -> int:
        """Play the bag once; return the number of images."""
        images, start_s, first_ns = 0, time.monotonic(), 0
        for connection, log_ns, raw in raw_messages(self._reader, self._reader.connections):
            output = self._outputs.get(connection.topic)
            if output is None or not raw:
                continue
            first_ns = first_ns or log_ns
            self._wait_until(start_s + (log_ns - first_ns) * 1e-9 / self._options.rate, log_ns)
            output.publish(bytes(raw))
            if connection.topic == self._image_topic:
                self._publish_depth(images, connection, log_ns, raw)
                images += 1
        return images

    def _publish_depth(self, index: int, connection: Any, log_ns: int, raw: bytes) -> None:
        if self._depth is None:
            return
        try:
            image = decoded(self._reader, connection, log_ns, raw)
        except ConversionError:
            return  # the node reports what is wrong with the image
        stamp_ns = stamp_to_ns(image.header.stamp)
        try:
            depth_mm = self._depth_maps.load_mm(index, stamp_ns)
        except DepthFolderError as error:
            self.get_logger().warning(f"{error}: it is not played", once=True)
            return
        if depth_mm is None:
            return
        height, width = depth_mm.shape
        message = Image(
            header=header_msg(stamp_ns, image.header.frame_id),
            height=height, width=width, encoding="16UC1", step=2 * width,
        )  # fmt: skip
        message.data.frombytes(depth_mm.astype("<u2").tobytes())
        self._depth.publish(message)

    def _wait_until(self, due_s: float, log_ns: int) -> None:
        """Sleep until a message is due, with the clock running."""
        while (left_s := due_s - time.monotonic()) > 0:
            self._tick(log_ns - int(left_s * self._options.rate * 1e9), left_s)
        self._tick(log_ns, 0.0)

    def _tick(self, now_ns: int, left_s: float = CLOCK_PERIOD_S) -> None:
        """Publish the clock and sleep for at most one clock period."""
        if not rclpy.ok():
            raise ExternalShutdownException
        if self._clock is not None:
            self._clock.publish(Clock(clock=time_msg(max(0, now_ns))))
        if left_s > 0:
            time.sleep(min(left_s, CLOCK_PERIOD_S))


def main(args: Sequence[str] | None = None) -> int:
    """Play a bag and exit."""
    words = list(sys.argv if args is None else ["bag_player", *args])
    parser = argparse.ArgumentParser(prog="bag_player", description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--rate", type=float, default=1.0, help="speed (default %(default)s)")
    parser.add_argument("--clock", action="store_true", help="publish /clock")
    parser.add_argument("--loop", action="store_true", help="start again at the end")
    parser.add_argument("--image-topic", default="", help="needed when the bag has several")
    parser.add_argument("--depth", type=Path, metavar="DIR", help="publish these depth maps too")
    parser.add_argument("--depth-topic", default="", help="default: `depth` beside the images")
    parser.add_argument("--wait", type=float, default=30.0, metavar="S", help="for a subscriber")
    given = parser.parse_args(remove_ros_args(words)[1:])
    rclpy.init(args=words)
    images = None
    try:
        options = PlayOptions(
            given.rate, given.clock, given.loop, given.image_topic,
            given.depth, given.depth_topic, given.wait,
        )  # fmt: skip
        with quiet_end(), opened_bag(given.bag) as reader:
            images = Player(reader, options).play()
    except MvDust3rError as error:
        sys.stderr.write(f"bag_player: {error}\n")
        return 1
    finally:
        rclpy.try_shutdown()
    if images is not None:
        sys.stderr.write(f"bag_player: {plural(images, 'image')} played\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
