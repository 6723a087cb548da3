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

"""Real nodes as processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from box_room import BoxRoom
from live_nodes import LiveCamera, Stage, reserved_domains
from mvdust3r_ros.ros.play.processes import Processes, isolated_environment


@pytest.fixture(scope="module")
def new_domain() -> Iterator[Callable[[], int]]:
    with reserved_domains() as new:
        yield new


@pytest.fixture(scope="session", autouse=True)
def _domain_of_the_worker() -> Iterator[None]:
    """Nodes made without a domain meet neither those of other workers nor a robot nearby."""
    with reserved_domains() as new, pytest.MonkeyPatch.context() as patch:
        for name, value in isolated_environment(new()).items():
            patch.setenv(name, value)
        yield


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


@pytest.fixture(scope="module")
def new_camera(new_stage: Callable[[], Stage], room: BoxRoom) -> Callable[..., LiveCamera]:
    """Makes live nodes that lose no image, with the camera, depth and odometry they listen to."""
    inputs = ("image", "depth", "odom", "camera_info")
    lossless = {
        "ros__use_depth": True,
        **{f"ros__{name}_reliability": "reliable" for name in inputs},
        **dict.fromkeys(("ros__image_depth", "ros__odom_depth", "ros__queue_size"), 100),
    }

    def make(**values: object) -> LiveCamera:
        stage = new_stage()
        stage.mapper(**{**lossless, **values})
        stage.bring_up()
        return LiveCamera(stage, room)

    return make


@pytest.fixture(scope="module")
def camera(new_camera: Callable[..., LiveCamera]) -> LiveCamera:
    return new_camera()
