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

"""A bag of the box room, and real nodes as processes."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from box_room import BoxRoom
from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import FloatArray, Trajectory
from mvdust3r_ros.drawing.map_files import write_tum
from mvdust3r_ros.geometry import make_se3, quaternion_xyzw

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 200_000_000
ANSWER_S = 30.0
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


def image(stamp_ns: int, rgb: Any, *, compressed: bool) -> Any:
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


@pytest.fixture(scope="session")
def make_bag(room: BoxRoom, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RoomBag]:
    def make(kind: BagKind) -> RoomBag:
        folder = tmp_path_factory.mktemp("room_bag")
        (folder / "depth").mkdir()
        poses = room.walk(kind.frames, turns=0.6)
        stamps = [START_NS + i * PERIOD_NS for i in range(kind.frames)]
        with Writer(folder / "bag", version=9, storage_plugin=kind.storage) as writer:
            topics: dict[str, Any] = {}

            def write(topic: str, log_ns: int, message: Any) -> None:
                if topic not in topics:
                    topics[topic] = writer.add_connection(
                        topic, message.__msgtype__, typestore=STORE
                    )
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

    return make


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


@pytest.fixture(scope="session")
def bag_kind() -> type[BagKind]:
    return BagKind


@pytest.fixture(scope="session")
def room_bag(make_bag: Callable[..., RoomBag]) -> RoomBag:
    return make_bag(BagKind())


@pytest.fixture(scope="session")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings with small windows, so that a short drive makes several."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text("keyframes: {window_size: 4, window_overlap: 2, max_translation_m: 0.2}\n")
    return path


@pytest.fixture(scope="session")
def room_reports(
    room_bag: RoomBag, params: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of two reports on the room bag, which all workers of the suite share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "room_reports"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make_reports(room_bag, params, folder)
            (folder / "made").touch()
    return folder


def make_reports(room_bag: RoomBag, params: Path, folder: Path) -> None:
    first, other = folder / "oracle_report", folder / "other_report"
    for report in (first, other):
        report.mkdir()
    truth = first / "truth.tum"
    write_tum(truth, Trajectory(np.array(room_bag.stamps_ns), np.array(room_bag.poses)))
    words = ["--engine", "oracle", "--params", str(params), "--truth", str(truth)]
    words += ["--require", "ate_m<0.1,grid_iou>0.3"]
    assert main(["evaluate", str(room_bag.bag), *words, "--out", str(first)]) == 0
    (other / "params.yaml").write_text("keyframes: {window_size: 6, max_translation_m: 0.25}\n")
    words = ["--engine", "oracle", "--params", str(other / "params.yaml"), "--truth", "/odom"]
    words += ["--max-frames", "28"]
    assert main(["evaluate", str(room_bag.bag), *words, "--out", str(other)]) == 0


@pytest.fixture(scope="session")
def oracle_report(room_reports: Path) -> Path:
    """Folder of a report on the room bag with its true path in a file."""
    return room_reports / "oracle_report"


@pytest.fixture(scope="session")
def other_report(room_reports: Path) -> Path:
    """Folder of a report on the same bag with other settings and the truth on a topic."""
    return room_reports / "other_report"


# Where `demo` and `evaluate --mode live` do not go, and their ports are not for outgoing traffic.
DOMAINS = (*range(1, 20), *range(215, 233))


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


@pytest.fixture(scope="module")
def new_domain() -> Iterator[Callable[[], int]]:
    with reserved_domains() as new:
        yield new


@pytest.fixture(scope="session", autouse=True)
def _domain_of_the_worker() -> Iterator[None]:
    """Nodes made without a domain meet neither those of other workers nor a robot nearby."""
    from mvdust3r_ros.ros.play.processes import isolated_environment

    with reserved_domains() as new, pytest.MonkeyPatch.context() as patch:
        for name, value in isolated_environment(new()).items():
            patch.setenv(name, value)
        yield


@dataclass
class Stage:
    """A domain with real nodes in it and a control node to watch them."""

    processes: Any
    control: Any
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


@pytest.fixture(scope="module")
def new_stage(
    new_domain: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Stage]]:
    """Makes stages; all their processes end with the module."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")
    pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")
    from contextlib import ExitStack

    from mvdust3r_ros.ros.play.control import control_node
    from mvdust3r_ros.ros.play.processes import Processes, isolated_environment

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:

        def make() -> Stage:
            domain = new_domain()
            for name, value in isolated_environment(domain).items():
                patch.setenv(name, value)
            logs = tmp_path_factory.mktemp("logs")
            processes = Processes(logs, domain)
            stack.callback(processes.stop_all)
            return Stage(processes, stack.enter_context(control_node(domain)), logs)

        yield make


class LiveCamera:
    """Publishes what a test wants to a live node."""

    def __init__(self, stage: Any, room: BoxRoom) -> None:
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


@pytest.fixture(scope="module")
def new_camera(new_stage: Callable[[], Any], room: BoxRoom) -> Callable[..., LiveCamera]:
    """Makes live nodes that lose no image, with the camera, depth and odometry they listen to."""
    inputs = ("image", "depth", "odom", "camera_info")
    lossless = {
        "ros__use_depth": True,
        **{f"ros__{name}_reliability": "reliable" for name in inputs},
        **dict.fromkeys(("ros__image_depth", "ros__odom_depth", "ros__queue_size"), 100),
    }

    def make(**values: Any) -> LiveCamera:
        stage = new_stage()
        stage.mapper(**{**lossless, **values})
        stage.bring_up()
        return LiveCamera(stage, room)

    return make


@pytest.fixture(scope="module")
def camera(new_camera: Callable[..., LiveCamera]) -> LiveCamera:
    return new_camera()


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
            topics: dict[str, Any] = {}
            for item in sorted(items, key=lambda i: i.log_ns):
                kind = item.message.__msgtype__
                if item.topic not in topics:
                    topics[item.topic] = writer.add_connection(item.topic, kind, typestore=STORE)
                data = STORE.serialize_cdr(item.message, kind)
                writer.write(topics[item.topic], item.log_ns, data)
        return folder / "bag"


@pytest.fixture(scope="session")
def drive() -> Drive:
    return Drive()
