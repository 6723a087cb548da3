"""Images that cannot be used: each is one message, is counted, and the node goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

LIMIT_S = 30.0


class Camera:
    """Publishes what a test wants to a live node."""

    def __init__(self, stage: Any, room: Any) -> None:
        from nav_msgs.msg import Odometry
        from sensor_msgs.msg import CameraInfo, Image

        self.stage, self.control, self.room = stage, stage.control, room
        self.image = self.control.create_publisher(Image, "/image", 100)
        self.depth = self.control.create_publisher(Image, "/depth", 100)
        self.info = self.control.create_publisher(CameraInfo, "/camera_info", 100)
        self.odom = self.control.create_publisher(Odometry, "/odom", 100)
        self.sent = 0
        for publisher in (self.image, self.depth, self.info, self.odom):
            self.control.wait(publisher.get_subscription_count, LIMIT_S, publisher.topic_name)
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

        control.wait(done, LIMIT_S, f"{self.sent} images to be dealt with")
        return dict(control.values("input"))

    def committed(self) -> int:
        return sum(w.verdict == w.COMMITTED for w in self.control.windows)


@pytest.fixture(scope="module")
def camera(new_stage: Callable[[], Any], room: Any) -> Camera:
    stage = new_stage()
    inputs = ("image", "depth", "odom", "camera_info")
    reliable = {f"ros__{name}_reliability": "reliable" for name in inputs}
    room_for_all = dict.fromkeys(("ros__image_depth", "ros__odom_depth", "ros__queue_size"), 100)
    stage.mapper(ros__use_depth=True, **reliable, **room_for_all)
    stage.bring_up()
    return Camera(stage, room)


times_ns = itertools.count(2_000_000_000_000, 100_000_000_000)


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"encoding": "nv12"}, "encoding", "encoding 'nv12' is not one of rgb8"),
        ({"data": bytes(100)}, "undecodable", "the message has 100 bytes"),
        ({"width": 0, "height": 0, "data": b""}, "empty", "0x0 pixels holds nothing"),
        ({"width": 60_000, "height": 60_000, "step": 180_000}, "too_large", "over the limit"),
        (
            {"width": 48, "height": 36, "step": 144, "data": bytes(144 * 36)},
            "camera_info",
            "camera_info is for 96x72 pixels, the image has 48x36",
        ),
    ],
)
def test_a_bad_image_is_named_and_counted_and_mapping_goes_on(
    camera: Camera, changes: dict[str, Any], reason: str, words: str
) -> None:
    start_ns = next(times_ns)
    camera.drive(start_ns, 2)
    before = camera.settle()
    camera.send(camera.message(start_ns + 10_000_000_000, **changes))
    after = camera.settle()
    key = f"images dropped: {reason}"
    assert int(after[key]) == int(before.get(key, 0)) + 1
    assert words in camera.control.message("input")
    assert camera.control.diagnostics["mapper: input"].level == b"\x01"
    assert words in camera.stage.log()
    mapped = camera.committed()
    camera.drive(start_ns + 20_000_000_000, 14)
    camera.settle()
    assert camera.committed() > mapped
    assert not camera.stage.processes.ended("mapper")


def test_every_image_is_accounted_for(camera: Camera) -> None:
    values = {k: int(v) for k, v in camera.settle().items() if v.isdigit()}
    assert values["images received"] == camera.sent
    assert values["images received"] == (
        values["keyframes"] + values["images skipped"] + values["images dropped"]
    )
    by_reason = [n for k, n in values.items() if k.startswith("images dropped: ")]
    assert sum(by_reason) == values["images dropped"]


def test_time_that_goes_back_starts_a_new_epoch_and_mapping_goes_on(camera: Camera) -> None:
    start_ns = next(times_ns)
    camera.drive(start_ns, 8)
    camera.settle()
    epoch, mapped = camera.control.windows[-1].epoch, camera.committed()
    camera.drive(start_ns - 50_000_000_000, 14)
    camera.settle()
    assert camera.control.windows[-1].epoch == epoch + 1
    assert camera.committed() > mapped


def test_an_image_slightly_out_of_order_is_dropped(camera: Camera) -> None:
    start_ns = next(times_ns)
    camera.drive(start_ns, 3)
    before = camera.settle()
    epoch = camera.control.windows[-1].epoch
    camera.send(camera.message(start_ns + 100_000_000))
    after = camera.settle()
    assert int(after["images dropped"]) == int(before["images dropped"]) + 1
    assert "not newer than" in camera.control.message("input")
    camera.drive(start_ns + 2_000_000_000, 12)
    camera.settle()
    assert camera.control.windows[-1].epoch == epoch


def test_a_quality_of_service_that_does_not_fit_is_said_in_words(camera: Camera) -> None:
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = camera.control.create_publisher(Image, "/image", qos)
    words = "image: a publisher's reliability does not fit"
    camera.control.wait(lambda: words in camera.control.message("input"), LIMIT_S, "the message")
    assert "set ros.image_reliability to best_effort" in camera.control.message("input")
    camera.control.destroy_publisher(publisher)


def test_a_bag_in_a_loop_is_a_new_epoch_each_time(
    new_stage: Callable[[], Any], make_bag: Callable[..., Any], bag_kind: Any
) -> None:
    made = make_bag(bag_kind(odometry="tf", frames=40))
    stage = new_stage()
    topics = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info",
              "depth": "/camera/depth"}  # fmt: skip
    stage.mapper(topics=topics, use_sim_time=True, ros__odom_source="tf", ros__use_depth=True,
                 ros__image_depth=100)  # fmt: skip
    stage.bring_up()
    words = [str(made.bag), "--depth", str(made.depth), "--clock", "--rate", "1", "--loop"]
    stage.processes.start("player", "player", words)
    control = stage.control

    def epochs_mapped() -> int:
        return len({w.epoch for w in control.windows if w.verdict == w.COMMITTED})

    control.wait(lambda: epochs_mapped() >= 3, 90.0, "three rounds to be mapped")
    assert stage.processes.stop("player") == 0
    assert "time jumped by -" in stage.log()
    stamps = [s.sec * 10**9 + s.nanosec for w in control.windows for s in w.keyframe_stamps]
    assert set(stamps) <= set(made.stamps_ns)
    for window in control.windows:
        own = [s.sec * 10**9 + s.nanosec for s in window.keyframe_stamps]
        assert own == sorted(own)
