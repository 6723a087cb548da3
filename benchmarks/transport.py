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

"""Measures the delay of images over Fast DDS, with ROS defaults and with `config/fastdds.xml`.

    python benchmarks/transport.py [--seconds 20] [--rate 30] [--size 640x480]

The player of `soak.py` publishes to a process that only listens.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from soak import QUEUE, fastdds_environment

from mvdust3r_ros.messages.conversions import stamp_to_ns
from mvdust3r_ros.ros.play.processes import Processes

HERE = Path(__file__).resolve().parent
SETTLE_S = 5.0


def listen() -> int:
    """Print the delay in ms of each image, one per line: the listener process."""
    rclpy.init()
    node = rclpy.create_node("listener")

    def took(message: Image) -> None:
        late_ns = time.time_ns() - stamp_to_ns(message.header.stamp)
        print(f"{late_ns * 1e-6:.3f}", flush=True)

    qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
    node.create_subscription(Image, "/image", took, qos)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    return 0


def measure(given: argparse.Namespace, profiles: bool) -> np.ndarray:
    """Return the (N,) delays in ms of the images that arrived."""
    domain = int(os.environ.get("ROS_DOMAIN_ID", "65"))
    for key in fastdds_environment():
        os.environ.pop(key, None)
    os.environ.update(fastdds_environment() if profiles else {})
    with tempfile.TemporaryDirectory() as name:
        processes = Processes(Path(name), domain)
        try:
            processes.run("listener", [str(HERE / "transport.py"), "--listen"])
            play = ["--play", "--rate", str(given.rate), "--size", given.size]
            processes.run("player", [str(HERE / "soak.py"), *play])
            time.sleep(SETTLE_S + given.seconds)
            processes.check()
            processes.stop("player")
            processes.stop("listener", signal.SIGINT)
            lines = (Path(name) / "listener.log").read_text().split()
        finally:
            processes.stop_all()
    return np.array([float(line) for line in lines])


def main() -> int:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--listen", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.listen:
        return listen()
    print("| Fast DDS | images | median ms | 99 % ms | most ms |\n| --- | --- | --- | --- | --- |")
    for label, profiles in (("as ROS sets it up", False), ("`config/fastdds.xml`", True)):
        late = measure(given, profiles)
        if not len(late):
            print(f"{label}: no image arrived", file=sys.stderr)
            return 1
        median, most = np.percentile(late, [50, 99])
        print(f"| {label} | {len(late)} | {median:.1f} | {most:.1f} | {late.max():.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
