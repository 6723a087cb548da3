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

"""An executor in whose way something stands: fixed, said once with its count, or ended."""

from __future__ import annotations

import gc
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from rclpy.executors import MultiThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.waitable import NumberOfEntities, Waitable
from std_msgs.msg import String

from mvdust3r_ros.ros import spinning
from mvdust3r_ros.ros.spinning import drop_destroyed, spin

LIMIT_S = 10.0


class Spun:
    """A node with a timer, spun in a thread."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("spun", context=self.context)
        self.ticks = 0
        self.node.create_timer(0.01, self._tick)
        self.went_on: bool | None = None
        executor = MultiThreadedExecutor(num_threads=2, context=self.context)
        executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin, args=(executor,))

    def _tick(self) -> None:
        self.ticks += 1

    def _spin(self, executor: Any) -> None:
        self.went_on = spin(self.node, executor)

    def ticks_on(self) -> bool:
        before, end_s = self.ticks, time.monotonic() + LIMIT_S
        while self.ticks < before + 20 and time.monotonic() < end_s:
            time.sleep(0.01)
        return self.ticks >= before + 20

    def end(self) -> None:
        rclpy.try_shutdown(context=self.context)
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def spun(new_domain: Callable[[], int]) -> Iterator[Spun]:
    made = Spun(new_domain())
    yield made
    made.end()


class Stumbling(Waitable):
    """Fails in each round although nothing about it is dead."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def get_num_entities(self) -> NumberOfEntities:
        return NumberOfEntities()

    def is_ready(self, _wait_set: Any) -> bool:
        return False

    def add_to_wait_set(self, _wait_set: Any) -> None:
        raise rclpy_implementation.InvalidHandle("stumbled")


def test_what_is_destroyed_behind_the_nodes_back_is_taken_out_and_named(
    spun: Spun, capfd: pytest.CaptureFixture[str]
) -> None:
    node = spun.node
    publisher = node.create_publisher(String, "beats", 1)
    subscription = node.create_subscription(String, "beats", lambda _: None, 1)
    spun.thread.start()
    assert spun.ticks_on()
    subscription.destroy()
    publisher.destroy()
    assert spun.ticks_on()
    assert "beats" not in {s.topic for s in (*node.subscriptions, *node.publishers)}
    spun.end()
    assert spun.went_on
    said = capfd.readouterr().err
    assert "Subscription of String, Publisher of String was destroyed" in said
    assert said.count("a round of the executor failed and is repeated") == 1


def test_an_executor_that_cannot_be_fixed_ends_with_a_word(
    spun: Spun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spinning, "GIVE_UP_S", 1.0)
    spun.node.add_waitable(Stumbling(spun.node.default_callback_group))
    spun.thread.start()
    spun.thread.join(LIMIT_S)
    assert spun.went_on is False
    said = capfd.readouterr().err
    assert "rounds of the executor failed in 1 s, the node answers nobody; it ends" in said
    assert said.count("stumbled") == 1


def test_a_callback_that_always_fails_is_said_once_and_hinders_nobody(
    spun: Spun, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ValueError("broken callback")

    spun.node.create_timer(0.02, fail)
    spun.thread.start()
    assert spun.ticks_on()
    assert capfd.readouterr().err.count("broken callback") == 1


def test_ctrl_c_ends_it_well_also_while_it_deals_with_a_failure(
    spun: Spun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    spun.node.add_waitable(Stumbling(spun.node.default_callback_group))
    monkeypatch.setattr(spinning.time, "sleep", interrupted)
    spun.thread.start()
    spun.thread.join(LIMIT_S)
    assert spun.went_on is True


def test_both_kinds_of_failure_are_said_one_after_the_other(
    spun: Spun, capfd: pytest.CaptureFixture[str]
) -> None:
    subscription = spun.node.create_subscription(String, "beats", lambda _: None, 1)
    spun.thread.start()
    subscription.destroy()
    assert spun.ticks_on()

    def fail() -> None:
        raise ValueError("broken callback")

    spun.node.create_timer(0.02, fail)
    assert spun.ticks_on()
    said = capfd.readouterr().err
    assert "a round of the executor failed" in said
    assert "request refused: ValueError: broken callback" in said


def test_nothing_alive_is_taken_out(spun: Spun) -> None:
    spun.node.create_subscription(String, "beats", lambda _: None, 1)
    count = len(list(spun.node.subscriptions))
    spun.thread.start()
    assert drop_destroyed(spun.node) == []
    assert len(list(spun.node.subscriptions)) == count


def end_first(made: Any) -> Callable[..., Any]:
    def end(*words: Any) -> Any:
        rclpy.shutdown()
        return made(*words)

    return end


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["the context ends", "Ctrl-C"])
@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        ("node", "MapperNode", []),
        ("player", "Player", ["bag", "--wait", "0"]),
        ("recorder", "Recorder", ["/image", "--out", "out"]),
    ],
)
def test_a_program_that_is_told_to_stop_while_it_starts_ends_without_a_word(
    name: str, part: str, words: list[str], how: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], tmp_path: Path, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    folder = "mvdust3r_ros.ros" if name == "node" else "mvdust3r_ros.ros.play"
    module = importlib.import_module(f"{folder}.{name}")
    if name == "player":
        words = [str(request.getfixturevalue("room_bag").bag), *words[1:]]
    monkeypatch.chdir(tmp_path)
    start = interrupt if how == "Ctrl-C" else end_first(getattr(module, part))
    monkeypatch.setattr(module, part, start)
    gc.collect()  # tasks of other tests, which complain as they go
    capfd.readouterr()
    assert module.main(words) == 0
    assert capfd.readouterr().err == ""
    assert not rclpy.ok()
