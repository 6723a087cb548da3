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

"""Real nodes as processes, in ROS domains of their own, and a camera for them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from box_room import BoxRoom
from mvdust3r_ros.ros.play.processes import Processes

if TYPE_CHECKING:
    from mvdust3r_ros.ros.play.control import MapperControl

ANSWER_S = 30.0
# Where `demo` and `evaluate --mode live` do not go, and their ports are not for outgoing traffic.
DOMAINS: tuple[int, ...] = (*range(1, 20), *range(215, 233))


@contextmanager
def reserved_domains() -> Iterator[Callable[[], int]]:
    """Gives ROS domains that nobody else's tests on this machine use meanwhile."""
    held: list[socket.socket] = []

    def new() -> int:
        for domain in DOMAINS:
            mark = socket.socket()
            try:
                mark.bind(("127.0.0.1", 7400 + 250 * domain))  # TCP; the domain's own is UDP
            except OSError:
                mark.close()
                continue
            held.append(mark)
            return domain
        raise RuntimeError(f"all {len(DOMAINS)} ROS domains of the tests are in use")

    yield new
    for mark in held:
        mark.close()


@dataclass
class Stage:
    """A domain with real nodes in it and a control node to watch them."""

    processes: Processes
    control: MapperControl
    logs: Path

    def mapper(
        self,
        *,
        topics: dict[str, str] | None = None,
        script: str = "",
        process: str = "mapper",
        **values: object,
    ) -> None:
        """Start a mapper node, or a script that makes one; parameters with __ for the dot."""
        given = {
            **SETTINGS,
            **values,
        }
        words = ["--ros-args"]
        for name, to in (topics or {}).items():
            words += ["-r", f"{name}:={to}"]
        for name, value in given.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += ["-p", f"{name.replace('__', '.')}:={text}"]
        start = ["-c", script] if script else ["-m", "mvdust3r_ros.ros.node"]
        self.processes.run(process, [*start, *words])

    def log(self, name: str = "mapper") -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def set_parameter(self, name: str, value: object) -> Any:
        """The node's answer to a change of one parameter."""
        from rcl_interfaces.srv import SetParametersAtomically
        from rclpy.parameter import Parameter

        request = SetParametersAtomically.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        service = "/mapper/set_parameters_atomically"
        return self.control.call(SetParametersAtomically, service, request).result

    def bring_up(self) -> None:
        for step in ("configure", "activate"):
            assert self.control.transition(step), self.log()


# Small windows, so that a short drive makes several.
SETTINGS = {
    "engine__engine": "oracle", "keyframes__window_size": 4, "keyframes__window_overlap": 2,
    "keyframes__max_translation_m": 0.2, "ros__map_period_s": 0.0,
    "ros__use_depth": True, "ros__diagnostics_period_s": 0.2,
}  # fmt: skip


class LiveCamera:
    """Publishes what a test wants to a live node."""

    def __init__(self, stage: Stage, room: BoxRoom) -> None:
        from nav_msgs.msg import Odometry
        from sensor_msgs.msg import CameraInfo, Image

        self.stage, self.control, self.room = stage, stage.control, room
        self.image = self.control.create_publisher(Image, "/image", 100)
        self.depth = self.control.create_publisher(Image, "/depth", 100)
        self.info = self.control.create_publisher(CameraInfo, "/camera_info", 100)
        self.odom = self.control.create_publisher(Odometry, "/odom", 100)
        self.sent = 0
        for publisher in (self.image, self.depth, self.info, self.odom):
            self.control.wait(publisher.get_subscription_count, ANSWER_S, publisher.topic_name)
        self.control.spin_for(1.0)

    def message(self, stamp_ns: int, **changes: Any) -> Any:
        from sensor_msgs.msg import Image

        from mvdust3r_ros.ros.outputs import header_msg

        width, height = self.room.image_wh
        fields: dict[str, Any] = {
            "header": header_msg(stamp_ns, "camera_optical"), "encoding": "rgb8",
            "width": width, "height": height, "step": 3 * width, "data": bytes(3 * width * height),
        }  # fmt: skip
        data = {**fields, **changes}.pop("data")
        message = Image(**{k: v for k, v in {**fields, **changes}.items() if k != "data"})
        message.data.frombytes(data)
        return message

    def send(self, message: Any) -> None:
        self.image.publish(message)
        self.sent += 1

    def drive(self, start_ns: int, count: int) -> None:
        """Good images with everything that belongs to them."""
        from nav_msgs.msg import Odometry
        from sensor_msgs.msg import CameraInfo

        from mvdust3r_ros.ros.outputs import header_msg, pose_msg

        width, height = self.room.image_wh
        for i, T in enumerate(self.room.walk(count, turns=count / 60)):
            stamp_ns = start_ns + i * 200_000_000
            header = header_msg(stamp_ns, "camera_optical")
            odom = Odometry(header=header_msg(stamp_ns, "odom"), child_frame_id="camera_optical")
            odom.pose.pose = pose_msg(T)
            self.odom.publish(odom)
            k = [float(v) for v in self.room.K.ravel()]
            self.info.publish(CameraInfo(header=header, width=width, height=height, k=k))
            depth_mm = np.rint(self.room.depth(T) * 1000).astype("<u2").tobytes()
            self.depth.publish(
                self.message(stamp_ns, encoding="16UC1", step=2 * width, data=depth_mm)
            )
            self.send(self.message(stamp_ns, data=self.room.image(T).tobytes()))
            self.control.spin_for(0.05)

    def settle(self) -> dict[str, str]:
        """Wait until the node has seen all images; its counts."""
        control = self.control

        def done() -> bool:
            seen = control.value("input", "images received") == str(self.sent)
            waiting = control.value("input", "images waiting")
            return seen and (waiting, control.value("engine", "windows waiting")) == ("0", "0")

        control.wait(done, ANSWER_S, f"{self.sent} images to be dealt with")
        return dict(control.values("input"))

    def committed(self) -> int:
        return sum(w.verdict == w.COMMITTED for w in self.control.windows)
