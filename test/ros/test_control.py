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

"""The driver of a node copes with a request or an answer that DDS loses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")

import rclpy
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor

from mvdust3r_ros.ros.play import control as control_module
from mvdust3r_ros.ros.play.control import ControlError, MapperControl, control_node

NEVER_S = 60.0


class Loser:
    """A node that keeps the first answers to itself, as if they, or the requests, were lost."""

    def __init__(self, domain: int, lost: int, *, transition_is_made: bool) -> None:
        self.lost, self.made, self.end = lost, transition_is_made, threading.Event()
        self.state, self.requests = "unconfigured", 0
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("mapper", context=self.context)
        group = ReentrantCallbackGroup()
        for kind, name, callback in (
            (ChangeState, "change_state", self.change),
            (GetState, "get_state", self.tell),
        ):
            self.node.create_service(kind, f"/mapper/{name}", callback, callback_group=group)
        self.executor = MultiThreadedExecutor(4, context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.spin)
        self.thread.start()

    def spin(self) -> None:
        while not self.end.is_set():
            try:
                self.executor.spin_once(timeout_sec=0.05)
            except ExternalShutdownException:
                return

    def change(self, _request: Any, response: Any) -> Any:
        self.requests += 1
        heard = self.requests > self.lost
        if heard or self.made:
            self.state = "inactive"
        if not heard:
            self.end.wait(NEVER_S)
        response.success = True
        return response

    def tell(self, _request: Any, response: Any) -> Any:
        response.current_state.label = self.state
        return response

    def close(self) -> None:
        self.end.set()
        self.thread.join()
        self.executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def loser(
    new_domain: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Loser, MapperControl]]]:
    monkeypatch.setattr(control_module, "ASK_AGAIN_S", 1.0)
    open_now: list[Any] = []

    def make(lost: int, *, transition_is_made: bool) -> tuple[Loser, MapperControl]:
        domain = new_domain()
        node = Loser(domain, lost, transition_is_made=transition_is_made)
        held = control_node(domain)
        open_now.extend((held, node))
        control = held.__enter__()
        assert control.state() == "unconfigured", "nothing is lost yet"
        return node, control

    yield make
    for each in open_now:
        if isinstance(each, Loser):
            each.close()
        else:
            each.__exit__(None, None, None)


def test_a_request_that_did_not_arrive_is_made_again(
    loser: Callable[..., tuple[Loser, MapperControl]],
) -> None:
    node, control = loser(1, transition_is_made=False)
    assert control.transition("configure", timeout_s=60.0)
    assert node.requests == 2


def test_a_transition_is_done_though_its_answer_is_lost(
    loser: Callable[..., tuple[Loser, MapperControl]],
) -> None:
    node, control = loser(1, transition_is_made=True)
    assert control.transition("configure", timeout_s=60.0)
    assert node.requests == 1


def test_a_node_that_never_answers_is_told_with_its_state(
    loser: Callable[..., tuple[Loser, MapperControl]],
) -> None:
    _, control = loser(3, transition_is_made=False)
    with pytest.raises(ControlError, match=r"change_state: not within 2 s; the node is unconf"):
        control.transition("configure", timeout_s=2.0)
