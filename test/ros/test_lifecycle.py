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

"""Transitions of the node as a process, and what happens when one cannot work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from live_nodes import Stage

if TYPE_CHECKING:
    from mvdust3r_ros.ros.play.control import MapperControl

LIMIT_S = 20.0
STEPS = [
    ("configure", "inactive"), ("activate", "active"),
    ("deactivate", "inactive"), ("cleanup", "unconfigured"),
]  # fmt: skip


def publishers(control: MapperControl) -> int:
    return int(control.count_publishers("/mapper/map_points"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_all_transitions_twice_and_a_clean_end(
    new_stage: Callable[[], Stage], how: signal.Signals
) -> None:
    stage = new_stage()
    stage.mapper()
    control = stage.control
    for _ in range(2):
        assert control.state() == "unconfigured"
        control.wait(lambda: publishers(control) == 0, LIMIT_S, "no publisher before configure")
        for step, state in STEPS:
            assert control.transition(step), stage.log()
            assert control.state() == state
            has_outputs = state != "unconfigured"
            control.wait(
                lambda n=int(has_outputs): publishers(control) == n, LIMIT_S, f"outputs in {state}"
            )
            takes_images = state == "active"
            control.wait(
                lambda n=int(takes_images): control.count_subscribers("/image") == n,
                LIMIT_S,
                f"inputs in {state}",
            )
    stage.bring_up()
    assert stage.processes.stop("mapper", how) == 0
    assert "Traceback" not in stage.log()


def test_transitions_in_quick_succession_never_end_the_node(
    new_stage: Callable[[], Stage],
) -> None:
    stage = new_stage()
    stage.mapper()
    for _ in range(100):
        for step, _ in STEPS:
            assert stage.control.transition(step, LIMIT_S), stage.log()[-2000:]
    assert not stage.processes.ended("mapper")


def test_shutdown_from_each_state(new_stage: Callable[[], Stage]) -> None:
    for steps, end in (
        ([], "shutdown_unconfigured"),
        (["configure"], "shutdown_inactive"),
        (["configure", "activate"], "shutdown_active"),
    ):
        stage = new_stage()
        stage.mapper()
        for step in (*steps, end):
            assert stage.control.transition(step), stage.log()
        assert stage.control.state() == "finalized"
        assert stage.processes.stop("mapper") == 0


def test_a_request_that_the_state_does_not_have_is_survived(
    new_stage: Callable[[], Stage],
) -> None:
    from mvdust3r_ros.ros.play.control import ControlError

    stage = new_stage()
    stage.mapper()
    assert stage.control.state() == "unconfigured"
    with pytest.raises(ControlError, match="answer of"):
        stage.control.transition("activate", timeout_s=5.0)
    assert stage.control.state() == "unconfigured"
    assert "request refused" in stage.log()
    stage.bring_up()
    assert stage.control.state() == "active"


def test_a_missing_engine_is_said_and_can_be_fixed(
    new_stage: Callable[[], Stage], tmp_path: Path
) -> None:
    stage = new_stage()
    stage.mapper(engine__engine=tmp_path / "nothing")
    control = stage.control
    assert not control.transition("configure")
    assert control.state() == "unconfigured"
    assert f"no engine at {tmp_path}/nothing" in stage.log()
    control.wait(lambda: "no engine at" in control.message("engine"), LIMIT_S, "diagnostics")
    status = control.diagnostics["mapper: engine"]
    assert status.level == b"\x02"
    assert stage.set_parameter("engine.engine", "oracle").successful
    stage.bring_up()
    control.wait(lambda: "oracle" in control.message("engine"), LIMIT_S, "diagnostics")


def test_wrong_values_at_the_start_are_named_and_can_be_fixed(
    new_stage: Callable[[], Stage],
) -> None:
    stage = new_stage()
    stage.mapper(map__voxel_size_m=50.0, keyframes__window_size="many", map__voxel_sise_m=0.1)
    control = stage.control
    assert not control.transition("configure")
    log = stage.log()
    assert "map.voxel_size_m: 50.0 is outside [0.005, 2.0]" in log
    assert "keyframes.window_size: expected int, got 'many'" in log
    assert "unknown setting 'map.voxel_sise_m'; did you mean map.voxel_size_m" in log
    assert stage.set_parameter("map.voxel_size_m", 0.1).successful
    assert not control.transition("configure")
    assert stage.set_parameter("keyframes.window_size", 6).successful
    stage.bring_up()


def test_autostart_needs_nobody(new_stage: Callable[[], Stage]) -> None:
    stage = new_stage()
    stage.mapper(ros__autostart=True)
    control = stage.control
    control.wait(lambda: control.message("input") == "images arrive", LIMIT_S, "active")
    assert control.state() == "active"


def test_silence_is_explained(new_stage: Callable[[], Stage]) -> None:
    from sensor_msgs.msg import CompressedImage

    stage = new_stage()
    stage.mapper(ros__no_image_s=0.5)
    control = stage.control
    other = control.create_publisher(CompressedImage, "/camera/image_raw/compressed", 1)
    stage.bring_up()
    words = (
        "nobody publishes it; of this type there are: /camera/image_raw/compressed (compressed)"
    )
    control.wait(lambda: words in control.message("input"), LIMIT_S, "the reason")
    assert "nothing on /image for" in control.message("input")
    control.destroy_publisher(other)


def test_a_hint_never_offers_what_the_node_itself_listens_to_or_publishes(
    new_stage: Callable[[], Stage],
) -> None:
    """Of several cameras with depth each listens to topics of the type that the others miss."""
    from sensor_msgs.msg import Image

    stage = new_stage()
    stage.mapper(ros__no_image_s=0.5, ros__cameras="front,left", ros__use_depth=True)
    control = stage.control
    bystander = control.create_subscription(Image, "/nobody/sends/this", lambda _: None, 1)
    other = control.create_publisher(Image, "/camera/image_raw", 1)
    stage.bring_up()
    words = "nobody publishes it; of this type there are: /camera/image_raw (raw)"
    control.wait(lambda: words in control.message("input"), LIMIT_S, "the reason")
    assert control.message("input").endswith("/camera/image_raw (raw)")
    control.destroy_publisher(other)
    words = "nobody publishes it; of this type there are: none"
    control.wait(lambda: words in control.message("input"), LIMIT_S, "no hint")
    control.destroy_subscription(bystander)


def test_every_transition_and_every_service_leaves_a_line_in_the_log(
    new_stage: Callable[[], Stage], tmp_path: Path
) -> None:
    from std_srvs.srv import SetBool, Trigger

    stage = new_stage()
    stage.mapper(ros__map_dir=tmp_path)
    control = stage.control

    def pause(data: bool) -> str:
        answer = control.call(SetBool, "/mapper/pause", SetBool.Request(data=data))
        return f"pause: {answer.message}"

    def expect(words: str) -> None:
        control.wait(lambda: words in stage.log(), LIMIT_S, words)

    stage.bring_up()
    expect("configured with engine")
    expect("active, images from /image")
    expect(pause(True))
    expect(pause(False))
    reset = control.call(Trigger, "/mapper/reset", Trigger.Request())
    expect(f"reset: {reset.message}")
    expect(f"save_map: {control.save_map('nothing').message}")
    expect(f"load_map: {control.load_map('nothing').message}")
    assert control.transition("deactivate")
    expect("inactive")
    expect(pause(True))
    assert control.transition("cleanup")
    expect("unconfigured")
    assert control.transition("shutdown_unconfigured")
    expect("shut down")
    assert "lifecycle set" not in stage.log(), "somebody did it at once"


def test_a_node_that_nobody_configures_says_what_to_do(new_stage: Callable[[], Stage]) -> None:
    script = "from mvdust3r_ros.ros import node; node.ADVICE_S = 0.5; node.main()"
    waiting, started = new_stage(), new_stage()
    waiting.mapper(script=script)
    started.mapper(script=script, ros__autostart=True)
    advice = "next: ros2 lifecycle set /mapper configure, then activate"
    waiting.control.wait(lambda: advice in waiting.log(), LIMIT_S, "advice")
    started.control.wait(lambda: "active, images" in started.log(), LIMIT_S, "active")
    started.control.spin_for(1.5)
    assert "lifecycle set" not in started.log()


def test_services_answer_in_words_when_they_cannot_help(new_stage: Callable[[], Stage]) -> None:
    from std_srvs.srv import SetBool

    stage = new_stage()
    stage.mapper()
    assert stage.control.transition("configure")
    answer = stage.control.call(SetBool, "/mapper/pause", SetBool.Request(data=True))
    assert (answer.success, answer.message) == (False, "the node is not active")
    saved = stage.control.save_map("early")
    assert not saved.success
    assert saved.message


@pytest.mark.parametrize(
    ("words", "variables", "reason"),
    [
        (["--ros-args", "-p", "nonsense"], {}, "nonsense"),
        (
            [],
            {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"},
            "ROS_SECURITY_",
        ),
    ],
)
def test_a_node_that_ros_does_not_start_says_why_without_a_traceback(
    words: list[str], variables: dict[str, str], reason: str, tmp_path: Path
) -> None:
    """For one: told to be secure without keys, it must not run insecurely."""
    done = subprocess.run(
        [sys.executable, "-m", "mvdust3r_ros.ros.node", *words],
        env={**os.environ, **variables}, cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ROS did not start the node" in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
