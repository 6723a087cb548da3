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

"""Control a mapper node from outside: transitions, progress, services."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.msg import WindowStatus
from mvdust3r_ros.ros.qos import RELIABLE
from mvdust3r_ros.srv import LoadMap, SaveMap

MATCH_S = 0.5
"""DDS discovery works in one direction at a time: time for the other side to find this one, on one
machine or a local network."""
ASK_AGAIN_S = 5.0
"""Matters only if a response gets lost: then the state is queried. Configuring may take longer and
is waited for."""
REACHED = {
    "configure": "inactive", "activate": "active", "deactivate": "inactive",
    "cleanup": "unconfigured",
}  # fmt: skip
"""Transition -> state of the node after it; all others end in finalized."""
BEGINS = {
    "configure": "unconfigured", "activate": "inactive", "deactivate": "active",
    "cleanup": "inactive",
}  # fmt: skip
"""Transition -> state of a node that has not received the request."""
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "shutdown_unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "shutdown_inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "shutdown_active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}


class ControlError(MvDust3rError):
    """A node does not respond, or refuses."""


class MapperControl(Node):
    """Client of a mapper node's services and status topics.

    Attributes:
        windows: all window statuses so far.
        diagnostics: status name ("mapper: input") -> its newest message.
        watch: called while waiting; raises if waiting is pointless.
    """

    def __init__(self, mapper: str = "/mapper", **node_options: Any) -> None:
        """Connect to the node called `mapper`."""
        super().__init__("mapper_control", **node_options)
        self._spinner = SingleThreadedExecutor(context=self.context)
        self._spinner.add_node(self)
        self.mapper = mapper
        self.windows: list[WindowStatus] = []
        self._known: dict[str, Any] = {}
        self.diagnostics: dict[str, Any] = {}
        self.watch: Callable[[], None] = lambda: None
        self.create_subscription(
            WindowStatus, f"{mapper}/window_status", self.windows.append, RELIABLE
        )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = status

    def wait(self, condition: Callable[[], Any], timeout_s: float, what: str) -> None:
        """Spin until a condition holds.

        Raises:
            ControlError: it does not hold within the time; `what` names it.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            self.watch()
            if time.monotonic() > end:
                raise ControlError(f"{what}: not within {timeout_s:g} s")
            self._spinner.spin_once(timeout_sec=0.05)

    def call(self, kind: Any, service: str, request: Any, timeout_s: float = 60.0) -> Any:
        """Call a service and wait for the response.

        Raises:
            ControlError: no such service, or no response within the time.
        """
        client = self._client(kind, service, timeout_s)
        future = client.call_async(request)
        self.wait(future.done, timeout_s, f"answer of {service}")
        return future.result()

    def _client(self, kind: Any, service: str, timeout_s: float) -> Any:
        """Return a client connected in both directions; cached, because connecting takes time."""
        client = self._known.get(service) or self.create_client(kind, service)
        if service not in self._known or not client.service_is_ready():
            self.wait(client.service_is_ready, timeout_s, f"service {service}")
            # The service may not have found the client yet: its response would be lost.
            self.spin_for(MATCH_S)
            self._known[service] = client
        return client

    def transition(self, name: str, timeout_s: float = 120.0) -> bool:
        """Request a lifecycle transition; return whether it succeeded.

        On a busy machine DDS can lose the first request to a service, or its response. So after a
        request without a response the state is queried. It shows that the transition is done, or
        that the node has not received the request, which is then repeated.

        Raises:
            ControlError: no response within the time; the message has the state if known.
        """
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
        service = f"{self.mapper}/change_state"
        client = self._client(ChangeState, service, timeout_s)
        asked, state, end = [client.call_async(request)], "", time.monotonic() + timeout_s
        answer: Callable[[], Any] = lambda: next((f for f in asked if f.done()), None)  # noqa: E731
        while True:
            with suppress(ControlError):
                self.wait(answer, ASK_AGAIN_S, f"answer of {service}")
            if not answer():
                with suppress(ControlError):
                    state = self.state(ASK_AGAIN_S)
            if (found := answer()) is not None:
                return bool(found.result().success)
            if state == REACHED.get(name, "finalized"):
                return True
            if time.monotonic() > end:
                tells = f"the node is {state}" if state else "nor does it tell its state"
                raise ControlError(f"answer of {service}: not within {timeout_s:g} s; {tells}")
            if state == BEGINS.get(name):
                asked.append(client.call_async(request))

    def state(self, timeout_s: float = 60.0) -> str:
        """Return the lifecycle state of the node."""
        answer = self.call(GetState, f"{self.mapper}/get_state", GetState.Request(), timeout_s)
        return str(answer.current_state.label)

    def save_map(self, filename: str, timeout_s: float = 60.0) -> Any:
        """Call ~/save_map; return the response."""
        request = SaveMap.Request(filename=filename)
        return self.call(SaveMap, f"{self.mapper}/save_map", request, timeout_s)

    def load_map(self, filename: str) -> Any:
        """Call ~/load_map; return the response."""
        return self.call(LoadMap, f"{self.mapper}/load_map", LoadMap.Request(filename=filename))

    def spin_for(self, seconds: float) -> None:
        """Process messages for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._spinner.spin_once(timeout_sec=left)

    def values(self, part: str) -> dict[str, str]:
        """Return values of the newest "input", "engine" or "map" diagnostics; empty before any."""
        status = self.diagnostics.get(f"{self.mapper.lstrip('/')}: {part}")
        return {v.key: v.value for v in status.values} if status else {}

    def value(self, part: str, key: str) -> str:
        """Return one value, for example of "images received"; empty before there is one."""
        return self.values(part).get(key, "")

    def message(self, part: str) -> str:
        """Return the message of a part's newest diagnostics; empty before there are any."""
        status = self.diagnostics.get(f"{self.mapper.lstrip('/')}: {part}")
        return str(status.message) if status else ""


@contextmanager
def control_node(domain: int, mapper: str = "/mapper") -> Iterator[MapperControl]:
    """Run a control node in a ROS domain for the duration of the block."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = MapperControl(mapper, context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
