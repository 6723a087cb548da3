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

"""Images that cannot be used: each is one message, is counted, and the node goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from live_nodes import LiveCamera, Stage
from room_bag import BagKind, RoomBag

times_ns = itertools.count(2_000_000_000_000, 100_000_000_000)


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"encoding": "nv16"}, "encoding", "encoding 'nv16' is not one of rgb8"),
        ({"data": bytes(100)}, "undecodable", "the message has 100 bytes"),
        ({"width": 0, "height": 0, "data": b""}, "empty", "0x0 pixels holds nothing"),
        ({"width": 60_000, "height": 60_000, "step": 180_000}, "too_large", "over the limit"),
        (
            {"width": 48, "height": 36, "step": 144, "data": bytes(144 * 36)},
            "camera_info",
            "camera_info is for 96x72 pixels, the image has 48x36",
        ),
    ],
    ids=["encoding", "cut", "empty", "enormous", "resized"],
)
def test_a_bad_image_is_named_and_counted_and_mapping_goes_on(
    camera: LiveCamera, changes: dict[str, Any], reason: str, words: str
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


def test_every_image_is_accounted_for(camera: LiveCamera) -> None:
    values = {k: int(v) for k, v in camera.settle().items() if v.isdigit()}
    assert values["images received"] == camera.sent
    assert values["images received"] == (
        values["keyframes"] + values["images skipped"] + values["images dropped"]
    )
    by_reason = [n for k, n in values.items() if k.startswith("images dropped: ")]
    assert sum(by_reason) == values["images dropped"]


def test_time_that_goes_back_starts_a_new_epoch_and_mapping_goes_on(camera: LiveCamera) -> None:
    start_ns = next(times_ns)
    camera.drive(start_ns, 8)
    camera.settle()
    epoch, mapped = camera.control.windows[-1].epoch, camera.committed()
    camera.drive(start_ns - 50_000_000_000, 14)
    camera.settle()
    assert camera.control.windows[-1].epoch == epoch + 1
    assert camera.committed() > mapped


def test_an_image_slightly_out_of_order_is_dropped(camera: LiveCamera) -> None:
    start_ns = next(times_ns)
    camera.drive(start_ns, 14)
    before = camera.settle()
    epoch = camera.control.windows[-1].epoch
    camera.send(camera.message(start_ns + 13 * 200_000_000 - 100_000_000))
    after = camera.settle()
    assert int(after["images dropped"]) == int(before["images dropped"]) + 1
    assert "not newer than" in camera.control.message("input")
    camera.drive(start_ns + 10_000_000_000, 12)
    camera.settle()
    assert camera.control.windows[-1].epoch == epoch


def test_a_quality_of_service_that_does_not_fit_is_said_in_words(camera: LiveCamera) -> None:
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = camera.control.create_publisher(Image, "/image", qos)
    words = "image: a publisher's reliability does not fit"
    camera.control.wait(lambda: words in camera.control.message("input"), 30.0, "the message")
    assert "set ros.image_reliability to best_effort" in camera.control.message("input")
    camera.control.destroy_publisher(publisher)


def test_a_bag_in_a_loop_is_a_new_epoch_each_time(
    new_stage: Callable[[], Stage], make_bag: Callable[[BagKind], RoomBag]
) -> None:
    made = make_bag(BagKind(odometry="tf", frames=40))
    stage = new_stage()
    topics = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info",
              "depth": "/camera/depth"}  # fmt: skip
    stage.mapper(topics=topics, use_sim_time=True, ros__odom_source="tf", ros__use_depth=True,
                 ros__image_depth=100)  # fmt: skip
    stage.bring_up()
    words = [str(made.bag), "--depth", str(made.depth), "--clock", "--rate", "2", "--loop"]
    stage.processes.start("player", "play.player", words)
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
