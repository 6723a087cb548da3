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

"""The mapper as a managed lifecycle node."""
# ruff: noqa: E402 - the heap is set up before rclpy is imported, which starts threads

from __future__ import annotations

from mvdust3r_ros.ros.health.heap import give_back_memory, large_blocks_apart, share_one_heap

share_one_heap()
large_blocks_apart()

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import MultiThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool, Trigger

from mvdust3r_ros.config import ConfigError
from mvdust3r_ros.datatypes import JUMP_BACK_NS, MvDust3rError
from mvdust3r_ros.drawing.map_files import NO_GRID
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.ros.bond import break_bond, make_bond
from mvdust3r_ros.ros.health.diagnosis import Health, diagnose, diagnostics_msg
from mvdust3r_ros.ros.health.faults import RECENT_S, FaultLog
from mvdust3r_ros.ros.health.ros_graph import clock_stopped, namesakes
from mvdust3r_ros.ros.oracle_needs import check_node
from mvdust3r_ros.ros.parameters import NodeParameters
from mvdust3r_ros.ros.pipeline import JOIN_S
from mvdust3r_ros.ros.session import Session
from mvdust3r_ros.ros.settings import NodeConfig
from mvdust3r_ros.ros.spinning import quiet_end, spin
from mvdust3r_ros.srv import LoadMap, SaveMap
from mvdust3r_ros.wording import plural

WATCH_S = 0.5
"""How soon the node stops after the network has failed on every level."""
ADVICE_S = 10.0
"""A node unconfigured for longer logs the next command: nothing seems to manage it."""
GIVE_BACK_S = 1.0
"""How often free memory is returned to the system: about as often as windows free some."""
END_S = 1.0
"""How long shutdown waits for the network: `ros2 launch` escalates 5 s after its first signal, and
the map may have to be saved before that."""
FINISH_S = 60.0
"""How long ~/save_map waits for the network to map the newest keyframes; a network that takes
longer counts as hung (diagnosis.py)."""
LAST_MAP = "last"
EXECUTOR_THREADS = 3
"""One per callback group: transitions and inputs, background, saving."""
SWITCH_S = 0.0005
"""How long a thread may hold the GIL while a callback waits for it; 5 ms by default."""
START_HINT = (
    "look at what follows --ros-args, at ROS_DOMAIN_ID, and at the ROS_SECURITY_ variables "
    "(SECURITY.md)"
)
Transition = Callable[["MapperNode", LifecycleState], TransitionCallbackReturn]


def logged(transition: Transition) -> Transition:
    """Log an exception in a transition and return FAILURE; rclpy would swallow it."""

    @wraps(transition)
    def run(self: MapperNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except MvDust3rError as error:
            self.blocked = str(error)
        except Exception as error:  # noqa: BLE001 - rclpy swallows it silently
            self.blocked = f"{type(error).__name__}: {error}"
        self.get_logger().error(f"{transition.__name__} failed: {self.blocked}")
        return TransitionCallbackReturn.FAILURE

    return run


class MapperNode(LifecycleNode):
    """Images in; clouds, poses and an occupancy grid out.

    Callbacks only queue images for the session; its inference thread publishes.

    Attributes:
        blocked: why the last transition failed; empty after a successful one.
    """

    def __init__(self, **node_options: Any) -> None:
        """Declare the parameters; everything else waits for `configure`."""
        super().__init__(
            "mapper", automatically_declare_parameters_from_overrides=True, **node_options
        )
        self.blocked = ""
        self._session: Session | None = None
        self._offered: list[Any] = []
        self._bond: Any | None = None
        self._faults = FaultLog(self.get_logger().warning)
        self._settings = NodeParameters(self, lambda: self._session is not None, self._reconfigure)
        self._background = MutuallyExclusiveCallbackGroup()
        # Saving waits for the network; diagnostics continue.
        self._saving = MutuallyExclusiveCallbackGroup()
        backward = JumpThreshold(
            min_forward=None,
            min_backward=Duration(nanoseconds=-JUMP_BACK_NS),
            on_clock_change=False,
        )
        self._jumps = self.get_clock().create_jump_callback(
            backward, post_callback=self._on_clock_jump
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A simulated clock may stand still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics_timer = self.create_timer(
            self.config.ros.diagnostics_period_s,
            self._send_diagnostics,
            self._background,
            clock=steady,
        )
        self._memory_timer = self.create_timer(
            GIVE_BACK_S, give_back_memory, self._background, clock=steady
        )
        # In the callback group of the transitions, so that it never runs during one.
        self._watch_timer = self.create_timer(WATCH_S, self._look_after, clock=steady)
        self._autostart_timer: Any | None = None
        self._advice_s = math.inf
        self._log_start()

    @property
    def config(self) -> NodeConfig:
        """The current settings."""
        return self._settings.config

    def _log_start(self) -> None:
        for name, message in {**self._settings.faults, **self._settings.unknown}.items():
            self._faults.report(f"parameter {name}", message)
        if self.config.ros.autostart:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=steady)
            return
        self._advice_s = time.monotonic() + ADVICE_S

    def _advise(self) -> None:
        """Log the next command if no launch file or lifecycle manager seems to do it."""
        if time.monotonic() > self._advice_s:
            self._advice_s = math.inf
            name = self.get_fully_qualified_name()
            self.get_logger().info(
                f"still unconfigured; next: ros2 lifecycle set {name} configure, then activate "
                "(or start it with -p ros.autostart:=true)"
            )

    def _autostart(self) -> None:
        if self._autostart_timer is not None:
            self.destroy_timer(self._autostart_timer)
            self._autostart_timer = None
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()

    @logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the engine, create publishers and services."""
        self._advice_s = math.inf
        if self._settings.faults:
            raise ConfigError("; ".join(self._settings.faults.values()))
        self._session = Session(self, self.config, load_engine, self._faults)
        self._offer_services()
        self.blocked = ""
        name = self._session.mapper.engine.describe().name
        self.get_logger().info(f"configured with engine {name}")
        return super().on_configure(state)

    @logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the threads and subscribe."""
        if self._session is None:
            raise ConfigError("activated without being configured")
        done = super().on_activate(state)
        topic = self._session.start()
        self._bond = make_bond(self)
        self.blocked = ""
        self.get_logger().info(f"active, images from {topic}")
        return done

    @logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the threads; the map is kept."""
        self._break_bond()
        if self._session is not None:
            self._session.stop()
        self.get_logger().info("inactive: images are not taken, the map stays")
        return super().on_deactivate(state)

    @logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the engine and discard the map."""
        self.close()
        self.get_logger().info("unconfigured: the engine is given back, the map forgotten")
        return super().on_cleanup(state)

    @logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Shut down from any state; save the map first if so configured."""
        self._advice_s = math.inf
        self.close(save=self.config.ros.save_on_shutdown)
        self.get_logger().info("shut down: it can only be ended now")
        return super().on_shutdown(state)

    @logged
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, so that the node can be configured again."""
        self.close()
        self.get_logger().error("unconfigured after an error in a transition")
        return super().on_error(state)

    def close(self, *, save: bool = False, join_s: float = JOIN_S) -> bool:
        """Stop the threads and release the engine, in any state.

        Args:
            save: whether to write the map into the map folder first.
            join_s: how long to wait for the network.

        Returns:
            Whether all threads ended.
        """
        self._break_bond()
        session, self._session = self._session, None
        if session is not None and save:
            self._save_last(session)
        for service in self._offered:
            self.destroy_service(service)
        self._offered = []
        if session is None or session.close(join_s):
            return True
        self.get_logger().error("the engine does not answer; its memory is not given back")
        return False

    def _save_last(self, session: Session) -> None:
        try:
            paths = session.save(LAST_MAP)
        except MvDust3rError as error:
            self.get_logger().error(f"the map is not saved: {error}")
        else:
            self.get_logger().info(f"the map is saved as {paths[0].with_suffix('')}")

    def _break_bond(self) -> None:
        bond, self._bond = self._bond, None
        if bond is not None:
            break_bond(self, bond)

    def _offer_services(self) -> None:
        group, saving = self._background, self._saving
        self._offered = [
            self.create_service(SaveMap, "~/save_map", self._save_map, callback_group=saving),
            self.create_service(LoadMap, "~/load_map", self._load_map, callback_group=group),
            self.create_service(Trigger, "~/reset", self._reset, callback_group=group),
            self.create_service(SetBool, "~/pause", self._pause, callback_group=group),
        ]

    def _save_map(self, request: Any, response: Any) -> Any:
        def save() -> str:
            session = self._require_session()
            complete = session.finish(FINISH_S)
            paths = session.save(request.filename)
            response.paths = [str(path) for path in paths]
            said = f"saved {', '.join(response.paths)}"
            if not complete:
                said += "; the newest keyframes are not in it: the network is busy"
            if not any(path.suffix == ".yaml" for path in paths):
                said += f"; {NO_GRID}"
            return said

        return self._answer("save_map", response, save)

    def _load_map(self, request: Any, response: Any) -> Any:
        def load() -> str:
            count = self._require_session().load(request.filename)
            return f"loaded {plural(count, 'keyframe')}; looking for the camera among them"

        return self._answer("load_map", response, load)

    def _reset(self, _request: Any, response: Any) -> Any:
        def reset() -> str:
            self._require_session().reset()
            return "the map is empty"

        return self._answer("reset", response, reset)

    def _pause(self, request: Any, response: Any) -> Any:
        def pause() -> str:
            session = self._session
            if session is None or not session.pause(request.data):
                raise ConfigError("the node is not active")
            return "paused" if request.data else "mapping"

        return self._answer("pause", response, pause)

    def _answer(self, service: str, response: Any, serve: Callable[[], str]) -> Any:
        """Serve a request; report the result in the response, the log and diagnostics."""
        try:
            response.success, response.message = True, serve()
        except MvDust3rError as error:
            self.get_logger().error(f"{service}: {error}")
            response.success, response.message = False, str(error)
        else:
            self.get_logger().info(f"{service}: {response.message}")
            self._send_diagnostics()
        return response

    def _require_session(self) -> Session:
        session = self._session
        if session is None:
            raise ConfigError("the node is not configured")
        return session

    def _reconfigure(self, config: NodeConfig) -> None:
        if self._session is not None:
            self._session.reconfigure(config)

    def _look_after(self) -> None:
        """Stop mapping when the network has failed on every level."""
        self._advise()
        session = self._session
        if session is not None and session.active and session.supervisor.gave_up:
            self.blocked = (
                f"stopped mapping: {session.supervisor.gave_up}; fix the engine, then activate "
                "the node again"
            )
            self.get_logger().error(self.blocked)
            self.trigger_deactivate()

    def _on_clock_jump(self, jump: Any) -> None:
        if self._session is not None:
            self.get_logger().warning(f"time jumped by {jump.delta.nanoseconds * 1e-9:.3f} s")
            self._session.time_jumped()

    def _send_diagnostics(self) -> None:
        session = self._session
        state = "unconfigured" if session is None else "active" if session.active else "inactive"
        health = Health(
            state=state,
            recent=self._faults.recent(RECENT_S),
            counts=self._faults.counts(),
            clock_stopped=clock_stopped(self),
            blocked=self.blocked,
            namesakes=namesakes(self),
        )
        if session is not None:
            health = replace(health, **session.health())
        statuses = diagnose(health, self.get_fully_qualified_name().lstrip("/"))
        self._diagnostics.publish(diagnostics_msg(statuses, self.get_clock().now().to_msg()))


def load_engine(config: NodeConfig, fallback: bool) -> Engine:
    """Load the configured engine, or the fallback engine on the CPU.

    Raises:
        EngineError: no such engine, or its backend is not installed.
    """
    rule = config.engine
    check_node(config, config.ladder.fallback_engine if fallback else rule.engine)
    if fallback:
        options = EngineOptions(rule.threads, "CPUExecutionProvider", "cpu")
        return create_engine(config.ladder.fallback_engine, options)
    return create_engine(rule.engine, EngineOptions(rule.threads, rule.provider))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is stopped (`ros2 run mvdust3r_ros mapper_node`)."""
    sys.setswitchinterval(SWITCH_S)
    node = None
    try:
        rclpy.init(args=args)
        executor = MultiThreadedExecutor(num_threads=EXECUTOR_THREADS)
        with quiet_end():
            node = MapperNode()
    except rclpy_implementation.RCLError as error:
        sys.stderr.write(f"mapper: ROS did not start the node: {error}\n{START_HINT}\n")
        return 1
    if node is None:
        rclpy.try_shutdown()
        return 0
    executor.add_node(node)
    went_on = False
    try:
        went_on = spin(node, executor)
    finally:
        ended = node.close(save=node.config.ros.save_on_shutdown, join_s=END_S)
        node.destroy_node()
        rclpy.try_shutdown()
    status = 0 if went_on else 1
    if not ended:
        exit_now(status)
    return status


def exit_now(status: int) -> None:
    """Exit at once: a thread still in native code would crash a normal exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
