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

"""Faults thrown at one live node: each is said or counted, and mapping goes on."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from live_nodes import LiveCamera

LIMIT_S = 30.0
SECOND_NS = 1_000_000_000
times_ns = itertools.count(500_000 * SECOND_NS, 1000 * SECOND_NS)


def maps_on(camera: LiveCamera, start_ns: int, count: int = 10) -> None:
    """Drive, and see that windows are committed and every image is accounted for.

    After a jump in time an image can overtake its odometry; a window that it spoils is one of the
    next three drives' windows at most.
    """
    mapped = camera.committed()
    for i in range(3):
        camera.drive(start_ns + i * count * SECOND_NS // 5, count)
        values = {k: int(v) for k, v in camera.settle().items() if v.isdigit()}
        if camera.committed() > mapped:
            break
    assert camera.committed() > mapped, camera.stage.log()[-2000:]
    assert values["images received"] == camera.sent
    assert values["images received"] == (
        values["keyframes"] + values["images skipped"] + values["images dropped"]
    )


def dropped(camera: LiveCamera, reason: str) -> int:
    return int(camera.settle().get(f"images dropped: {reason}", 0))


def hear(camera: LiveCamera, part: str, words: str) -> None:
    camera.control.wait(lambda: words in camera.control.message(part), LIMIT_S, words)


def restart_publisher(camera: LiveCamera) -> None:
    """As when a driver dies and comes back; its subscriptions match anew."""
    from sensor_msgs.msg import Image

    camera.control.destroy_publisher(camera.image)
    camera.control.spin_for(0.3)
    camera.image = camera.control.create_publisher(Image, "/image", 100)
    camera.control.wait(camera.image.get_subscription_count, LIMIT_S, "a subscriber")
    camera.control.spin_for(0.5)


def test_an_image_with_a_stamp_of_zero_is_refused_and_costs_no_epoch(camera: LiveCamera) -> None:
    start_ns = next(times_ns)
    maps_on(camera, start_ns)
    epoch, before = camera.control.windows[-1].epoch, dropped(camera, "stamp")
    camera.send(camera.message(0))
    assert dropped(camera, "stamp") == before + 1
    hear(camera, "input", "its driver has to say when it was taken")
    maps_on(camera, start_ns + 100 * SECOND_NS)
    assert camera.control.windows[-1].epoch == epoch


def test_an_image_from_the_far_future_costs_one_epoch(camera: LiveCamera) -> None:
    start_ns = next(times_ns)
    maps_on(camera, start_ns)
    epoch = camera.control.windows[-1].epoch
    camera.send(camera.message((2**31 - 1) * SECOND_NS))
    maps_on(camera, start_ns + 100 * SECOND_NS)
    assert camera.control.windows[-1].epoch == epoch + 1


def test_a_second_publisher_with_older_images_is_counted_and_harms_nobody(
    camera: LiveCamera,
) -> None:
    from sensor_msgs.msg import Image

    start_ns = next(times_ns)
    maps_on(camera, start_ns)
    epoch, before = camera.control.windows[-1].epoch, dropped(camera, "rejected")
    other = camera.control.create_publisher(Image, "/image", 100)
    camera.control.wait(other.get_subscription_count, LIMIT_S, "a subscriber")
    camera.control.spin_for(0.5)
    for i in range(5):
        other.publish(camera.message(start_ns + 1_500_000_000 + i))
        camera.sent += 1
    assert dropped(camera, "rejected") == before + 5
    camera.control.destroy_publisher(other)
    maps_on(camera, start_ns + 100 * SECOND_NS)
    assert camera.control.windows[-1].epoch == epoch


def test_a_publisher_that_restarts_is_heard_again(camera: LiveCamera) -> None:
    start_ns = next(times_ns)
    maps_on(camera, start_ns)
    epoch = camera.control.windows[-1].epoch
    restart_publisher(camera)
    maps_on(camera, start_ns + 100 * SECOND_NS)
    assert camera.control.windows[-1].epoch == epoch


def test_a_camera_info_that_is_no_pinhole_is_named_until_a_good_one_comes(
    camera: LiveCamera,
) -> None:
    from sensor_msgs.msg import CameraInfo

    start_ns, before = next(times_ns), dropped(camera, "camera_info")
    width, height = camera.room.image_wh
    k = [-55.0, 0.0, 48.0, 0.0, 55.0, 36.0, 0.0, 0.0, 1.0]
    camera.info.publish(CameraInfo(width=width, height=height, k=k))
    camera.control.spin_for(0.3)
    camera.send(camera.message(start_ns))
    assert dropped(camera, "camera_info") == before + 1
    hear(camera, "input", "camera_info")
    maps_on(camera, start_ns + 10 * SECOND_NS)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_odometry_that_is_no_pose_is_named_and_left_out(camera: LiveCamera, bad: float) -> None:
    from nav_msgs.msg import Odometry

    from mvdust3r_ros.ros.outputs import header_msg

    start_ns = next(times_ns)
    message = Odometry(header=header_msg(start_ns, "odom"), child_frame_id="camera_optical")
    message.pose.pose.orientation.w = bad
    message.pose.pose.position.x = 1.0 if bad == 0.0 else bad
    camera.odom.publish(message)
    hear(camera, "odometry", "odom: ")
    maps_on(camera, start_ns + 10 * SECOND_NS)


def test_a_depth_image_that_is_none_leaves_its_image_without_depth(camera: LiveCamera) -> None:
    start_ns, before = next(times_ns), dropped(camera, "encoding")
    camera.depth.publish(camera.message(start_ns))
    camera.control.spin_for(0.3)
    camera.send(camera.message(start_ns))
    said = "; the image is used without"  # by then the images have stopped, and input says that
    camera.control.wait(lambda: said in camera.stage.log(), LIMIT_S, "a word on the depth")
    assert dropped(camera, "encoding") == before
    maps_on(camera, start_ns + 10 * SECOND_NS)


def test_transforms_in_a_circle_or_without_numbers_harm_nobody(camera: LiveCamera) -> None:
    from geometry_msgs.msg import TransformStamped
    from tf2_msgs.msg import TFMessage

    publisher = camera.control.create_publisher(TFMessage, "/tf", 10)
    camera.control.wait(publisher.get_subscription_count, LIMIT_S, "a subscriber")
    camera.control.spin_for(0.5)
    pairs = [("a", "b"), ("b", "a"), ("a", "a"), ("", "")]
    for x, w in itertools.product((0.0, float("nan")), (1.0, 0.0)):
        transforms = []
        for parent, child in pairs:
            made = TransformStamped(child_frame_id=child)
            made.header.frame_id = parent
            made.transform.translation.x, made.transform.rotation.w = x, w
            transforms.append(made)
        publisher.publish(TFMessage(transforms=transforms))
    camera.control.wait(
        lambda: int(camera.control.value("input", "faults: odometry") or 0) > 0, LIMIT_S, "a count"
    )
    maps_on(camera, next(times_ns))
    camera.control.destroy_publisher(publisher)


@pytest.mark.parametrize("topic", ["/tf", "/tf_static"])
def test_a_second_publisher_of_map_to_odom_is_an_error_with_its_name(
    camera: LiveCamera, topic: str
) -> None:
    from geometry_msgs.msg import TransformStamped
    from tf2_msgs.msg import TFMessage

    from mvdust3r_ros.ros.outputs import header_msg
    from mvdust3r_ros.ros.qos import STATIC_TF, TF

    control, start_ns = camera.control, next(times_ns)
    maps_on(camera, start_ns)
    level = lambda: control.diagnostics["mapper: outputs"].level  # noqa: E731
    control.spin_for(0.5)
    assert level() == b"\x00", "its own transforms come back to it: " + control.message("outputs")
    publisher = control.create_publisher(TFMessage, topic, STATIC_TF if "static" in topic else TF)
    made = TransformStamped(header=header_msg(start_ns, "map"), child_frame_id="odom")
    publisher.publish(TFMessage(transforms=[made]))

    def is_said() -> bool:
        if topic == "/tf":
            publisher.publish(TFMessage(transforms=[made]))
        return f"/mapper_control publishes map->odom on {topic} too" in control.message("outputs")

    control.wait(is_said, LIMIT_S, "a word")
    assert level() == b"\x02"
    assert "publishes map->odom" in camera.stage.log()
    control.destroy_publisher(publisher)
    control.wait(lambda: level() == b"\x00", LIMIT_S, "its end")
    maps_on(camera, start_ns + 100 * SECOND_NS)


def test_bursts_of_images_are_counted_to_the_last(camera: LiveCamera) -> None:
    """Each half as long as the queues of DDS, which would lose more without a word."""
    start_ns = next(times_ns)
    maps_on(camera, start_ns)
    camera.drive(start_ns + 10 * SECOND_NS, 1)  # so that no image waits for odometry
    before = dropped(camera, "encoding")
    for i in range(200):
        camera.send(camera.message(start_ns + 9 * SECOND_NS + i, encoding="nv16"))
        if i % 50 == 49:
            camera.settle()
    assert dropped(camera, "encoding") == before + 200
    maps_on(camera, start_ns + 100 * SECOND_NS)


def test_a_storm_of_parameters_is_answered_and_leaves_what_was_accepted(
    camera: LiveCamera,
) -> None:
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    rng = random.Random(5)
    client = camera.control.create_client(SetParameters, "/mapper/set_parameters")
    camera.control.wait(client.service_is_ready, LIMIT_S, "the service")
    camera.control.spin_for(0.5)
    values: list[Any] = [1, 2, 2.5, 0.5, -1.0, "x", True, float("nan"), 10**9, ""]
    names = ("map.min_conf", "keyframes.window_size", "ros.points_frame", "ros.map_period_s",
             "map.voxel_size_m", "no.such_thing", "use_sim_time")  # fmt: skip
    start_ns, results = next(times_ns), []
    for i in range(15):
        asked = []
        for _ in range(8):  # a service has room for ten requests; DDS drops more
            name, value = rng.choice(names), rng.choice(values)
            if (name, value) != ("use_sim_time", True):
                parameters = [Parameter(name, value=value).to_parameter_msg()]
                asked.append(client.call_async(SetParameters.Request(parameters=parameters)))
        camera.drive(start_ns + i * SECOND_NS, 1)
        camera.control.wait(lambda a=asked: all(f.done() for f in a), LIMIT_S, "all answers")
        results += [r for f in asked for r in f.result().results]
    assert {r.successful for r in results} == {True, False}
    assert all(r.reason for r in results if not r.successful)
    good = {"map.min_conf": 1.5, "keyframes.window_size": 4, "ros.points_frame": "map",
            "ros.map_period_s": 0.0}  # fmt: skip
    for name, value in good.items():
        assert camera.stage.set_parameter(name, value).successful
    maps_on(camera, start_ns + 500 * SECOND_NS)


def test_a_storm_of_services_is_answered_while_images_flow(camera: LiveCamera) -> None:
    from std_srvs.srv import SetBool, Trigger

    from mvdust3r_ros.srv import LoadMap, SaveMap

    control = camera.control
    requests = [
        (SetBool, "pause", SetBool.Request(data=True)),
        (SaveMap, "save_map", SaveMap.Request(filename="../out")),
        (Trigger, "reset", Trigger.Request()),
        (LoadMap, "load_map", LoadMap.Request(filename="no such map")),
        (SetBool, "pause", SetBool.Request(data=False)),
    ]
    clients = [control.create_client(kind, f"/mapper/{name}") for kind, name, _ in requests]
    control.wait(lambda: all(c.service_is_ready() for c in clients), LIMIT_S, "the services")
    control.spin_for(0.5)
    start_ns, asked = next(times_ns), []
    for i in range(10):
        asked += [
            c.call_async(request) for c, (_, _, request) in zip(clients, requests, strict=True)
        ]
        camera.drive(start_ns + i * 10 * SECOND_NS, 2)
        control.wait(lambda a=asked: all(f.done() for f in a), LIMIT_S, "all answers")
    assert all(f.result().message for f in asked)
    answer = control.call(SetBool, "/mapper/pause", SetBool.Request(data=False))
    assert answer.success
    maps_on(camera, start_ns + 500 * SECOND_NS)


def test_requests_for_transitions_that_do_not_exist_are_refused(camera: LiveCamera) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    client = camera.control.create_client(ChangeState, "/mapper/change_state")
    camera.control.wait(client.service_is_ready, LIMIT_S, "the service")
    camera.control.spin_for(0.5)
    for number in (0, 1, 3, 42, 255):
        client.call_async(ChangeState.Request(transition=Transition(id=number)))
    maps_on(camera, next(times_ns))
    assert camera.control.state() == "active"
    assert "request refused" in camera.stage.log()


def test_a_clock_that_stands_jumps_ahead_and_jumps_back(camera: LiveCamera) -> None:
    from rosgraph_msgs.msg import Clock

    from mvdust3r_ros.ros.outputs import time_msg

    control, now_ns = camera.control, next(times_ns)
    assert camera.stage.set_parameter("use_sim_time", True).successful
    try:
        hear(camera, "input", "/clock stands still")
        publisher = control.create_publisher(Clock, "/clock", 10)
        control.wait(publisher.get_subscription_count, LIMIT_S, "a subscriber")
        control.spin_for(0.5)

        def set_clock(at_ns: int) -> None:
            for i in range(3):
                publisher.publish(Clock(clock=time_msg(at_ns + i)))
                control.spin_for(0.1)

        set_clock(now_ns)
        control.wait(
            lambda: "stands still" not in control.message("input"), LIMIT_S, "a clock that runs"
        )
        maps_on(camera, now_ns)
        epoch = control.windows[-1].epoch
        set_clock(now_ns + 3600 * SECOND_NS)
        maps_on(camera, now_ns + 3600 * SECOND_NS)
        assert control.windows[-1].epoch == epoch, "ahead the map goes on"
        set_clock(now_ns + 100 * SECOND_NS)
        control.wait(lambda: "time jumped by -3500" in camera.stage.log(), LIMIT_S, "a word")
        maps_on(camera, now_ns + 100 * SECOND_NS)
        assert control.windows[-1].epoch == epoch + 1, "back is a new epoch"
        control.destroy_publisher(publisher)
    finally:
        assert camera.stage.set_parameter("use_sim_time", False).successful


def test_a_second_node_of_the_same_name_is_said_and_its_end_too(camera: LiveCamera) -> None:
    camera.stage.mapper(process="twin")
    hear(camera, "outputs", "1 more node(s) of this name")
    assert camera.stage.processes.stop("twin") == 0
    camera.control.wait(
        lambda: "of this name" not in camera.control.message("outputs"), LIMIT_S, "its end"
    )
    maps_on(camera, next(times_ns))


def test_transitions_under_images_lose_neither_node_nor_map(camera: LiveCamera) -> None:
    """Deactivated and activated while images come; the map stays and grows afterwards."""
    start_ns = next(times_ns)
    for i in range(5):
        for step in ("deactivate", "activate"):
            assert camera.control.transition(step), camera.stage.log()[-2000:]
            camera.drive(start_ns + i * 10 * SECOND_NS, 2)
    camera.control.wait(camera.image.get_subscription_count, LIMIT_S, "a subscriber")
    # The account begins anew with each activation.
    for step in ("deactivate", "activate"):
        assert camera.control.transition(step)
    camera.control.wait(camera.image.get_subscription_count, LIMIT_S, "a subscriber")
    camera.control.spin_for(1.0)
    camera.sent = 0
    maps_on(camera, start_ns + 500 * SECOND_NS)


def test_it_ends_as_it_should_after_all_that(camera: LiveCamera) -> None:
    assert camera.stage.processes.stop("mapper") == 0
    assert "Traceback" not in camera.stage.log()
