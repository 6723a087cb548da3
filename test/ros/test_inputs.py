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

"""What an image is given on its way to the mapper, over DDS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.ros.settings import RosSettings

LIMIT_S = 20.0
STAMP_NS = 900_000_000_000
T_FRONT_LEFT = make_se3(np.eye(3), np.array([-0.3, 0.0, 0.1]))


class Bench:
    """Inputs in a node, and another node that publishes to it."""

    def __init__(self, settings: RosSettings) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from mvdust3r_ros.ros.inputs import Inputs

        self.context = rclpy.Context()
        self.context.init()
        self.node = rclpy.create_node("inputs_test", context=self.context)
        self.images: list[Any] = []
        self.faults: list[tuple[str, str]] = []
        self.inputs = Inputs(
            self.node, settings, self.images.append, lambda *words: self.faults.append(words)
        )
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def publish(self, kind: type, topic: str, message: Any, qos: Any = 10) -> None:
        publisher = self.node.create_publisher(kind, topic, qos)
        self.wait(lambda: publisher.get_subscription_count() > 0)
        publisher.publish(message)

    def wait(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end_s
            self.executor.spin_once(0.05)

    def close(self) -> None:
        self.inputs.close()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def make_bench() -> Iterator[Callable[[RosSettings], Bench]]:
    made: list[Bench] = []

    def make(settings: RosSettings) -> Bench:
        made.append(Bench(settings))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def image(frame: str) -> Any:
    from sensor_msgs.msg import Image

    from mvdust3r_ros.ros.outputs import header_msg

    data = np.zeros(32 * 32 * 3, np.uint8).tobytes()
    return Image(
        header=header_msg(STAMP_NS, frame),
        height=32,
        width=32,
        encoding="rgb8",
        step=96,
        data=data,
    )


def test_each_camera_of_a_rig_brings_its_place(make_bench: Callable[..., Bench]) -> None:
    from geometry_msgs.msg import TransformStamped
    from sensor_msgs.msg import Image
    from tf2_msgs.msg import TFMessage

    from mvdust3r_ros.ros.qos import STATIC_TF

    bench = make_bench(
        RosSettings(cameras="front,left", odom_source="none", image_reliability="reliable")
    )
    known = TransformStamped(child_frame_id="left_optical")
    known.header.frame_id = "front_optical"
    t = known.transform.translation
    t.x, t.y, t.z = T_FRONT_LEFT[:3, 3].tolist()
    known.transform.rotation.w = 1.0
    bench.publish(TFMessage, "/tf_static", TFMessage(transforms=[known]), STATIC_TF)
    bench.wait(lambda: bench.inputs.root_of("left_optical") == "front_optical")
    for name in ("front", "left"):
        bench.publish(Image, f"/{name}/image", image(f"{name}_optical"))
        bench.wait(lambda: bool(bench.images))
        frame = bench.inputs.frame(bench.images.pop())
        expected = np.eye(4) if name == "front" else T_FRONT_LEFT
        assert frame.T_rig_cam is not None
        np.testing.assert_allclose(frame.T_rig_cam, expected, atol=1e-9)
        assert frame.T_odom_base is None


def test_one_camera_has_no_rig(make_bench: Callable[..., Bench]) -> None:
    from sensor_msgs.msg import Image

    bench = make_bench(RosSettings(odom_source="none", image_reliability="reliable"))
    bench.publish(Image, "/image", image("camera_optical"))
    bench.wait(lambda: bool(bench.images))
    assert bench.inputs.frame(bench.images.pop()).T_rig_cam is None


def test_thermal_images_keep_one_range_and_it_is_said_once(
    make_bench: Callable[..., Bench], capfd: pytest.CaptureFixture[str]
) -> None:
    from sensor_msgs.msg import Image

    bench = make_bench(RosSettings(odom_source="none", image_reliability="reliable"))
    grey = np.tile(np.arange(32, dtype="<u2") * 30, (32, 1))
    shown = []
    for drift in (7500, 7520):
        message = image("camera_optical")
        message.encoding, message.step = "mono16", 64
        message.data = (grey + np.uint16(drift)).tobytes()
        bench.publish(Image, "/image", message)
        bench.wait(lambda: bool(bench.images))
        shown.append(bench.inputs.frame(bench.images.pop()).image_rgb.astype(int))
    assert np.ptp(shown[0]) > 240
    assert 1 <= (shown[1] - shown[0]).mean() <= 6, "the drift of the sensor is not hidden at once"
    assert capfd.readouterr().err.count("stretched to 8 bits") == 1


def test_odometry_of_a_robot_without_a_mounting_comes_as_it_is(
    make_bench: Callable[..., Bench],
) -> None:
    from nav_msgs.msg import Odometry
    from sensor_msgs.msg import Image

    from mvdust3r_ros.ros.outputs import header_msg, pose_msg

    bench = make_bench(RosSettings(image_reliability="reliable", odom_reliability="reliable"))
    T_odom_base = make_se3(np.eye(3), np.array([1.0, 2.0, 0.0]))
    odom = Odometry(header=header_msg(STAMP_NS, "odom"), child_frame_id="base_link")
    odom.pose.pose = pose_msg(T_odom_base)
    bench.publish(Odometry, "/odom", odom)
    bench.publish(Image, "/image", image("camera_optical"))
    bench.wait(lambda: bool(bench.images) and bench.inputs.odom_frame == "odom")
    frame = bench.inputs.frame(bench.images.pop())
    assert frame.T_odom_cam is None
    assert frame.T_odom_base is not None
    np.testing.assert_allclose(frame.T_odom_base, T_odom_base)
    ((reason, words),) = bench.faults
    assert reason == "mounting"
    assert "set ros.T_base_cam; else it is estimated from the motion" in words


@pytest.mark.parametrize(
    ("base_frame", "expected_z"), [("", 0.0), ("base_link", 0.1), ("camera_optical", None)]
)
def test_with_odometry_from_tf_the_robot_is_right_below_it_or_as_set(
    make_bench: Callable[..., Bench], base_frame: str, expected_z: float | None
) -> None:
    """A tree of odom, base_footprint, base_link and camera."""
    from geometry_msgs.msg import TransformStamped
    from sensor_msgs.msg import Image
    from tf2_msgs.msg import TFMessage

    from mvdust3r_ros.ros.outputs import header_msg
    from mvdust3r_ros.ros.qos import STATIC_TF, TF

    def step(parent: str, child: str, z: float) -> TransformStamped:
        made = TransformStamped(header=header_msg(STAMP_NS, parent), child_frame_id=child)
        made.transform.translation.z, made.transform.rotation.w = z, 1.0
        return made

    bench = make_bench(
        RosSettings(image_reliability="reliable", odom_source="tf", base_frame=base_frame)
    )
    fixed = [step("base_footprint", "base_link", 0.1), step("base_link", "camera_optical", 0.5)]
    bench.publish(TFMessage, "/tf_static", TFMessage(transforms=fixed), STATIC_TF)
    moving = TFMessage(transforms=[step("odom", "base_footprint", 0.0)])
    bench.publish(TFMessage, "/tf", moving, TF)
    bench.wait(lambda: bench.inputs.root_of("camera_optical") == "odom")
    bench.publish(Image, "/image", image("camera_optical"))
    bench.wait(lambda: bool(bench.images))
    frame = bench.inputs.frame(bench.images.pop())
    assert frame.T_odom_cam is not None
    assert frame.T_odom_cam[2, 3] == pytest.approx(0.6)
    found = None if frame.T_odom_base is None else frame.T_odom_base[2, 3]
    assert found == (None if expected_z is None else pytest.approx(expected_z))
