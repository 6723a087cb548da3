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

"""A node with a bond: it lives on after `deactivate`, and ends well on Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from live_nodes import Stage

LIMIT_S = 20.0
STAND_IN = '''
"""Beats and destroys what it made itself, without a word to the node."""

import threading

from std_msgs.msg import String


class Bond:
    heartbeat_period = heartbeat_timeout = 1.0

    def __init__(self, node, topic, bond_id):
        self.node, self.topic, self.id, self.over = node, topic, bond_id, False
        self.lock = threading.Condition()
        self.pub = node.create_publisher(String, topic, 1)

    def start(self):
        self.sub = self.node.create_subscription(String, self.topic, lambda _: None, 1)
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self):
        with self.lock:
            while not self.over:
                if self.pub.get_subscription_count():
                    self.pub.publish(String(data=f"{self.id} alive"))
                self.lock.wait(self.heartbeat_period)

    def shutdown(self):
        self.sub.destroy()
        with self.lock:
            self.over = True
            self.pub.publish(String(data=f"{self.id} dead"))
            self.pub.destroy()
            self.lock.notify_all()
'''


@dataclass
class BondedStage(Stage):
    """A stage that keeps the beats of its node's bond."""

    beats: list[str] = field(default_factory=list)


@pytest.fixture
def bonded(
    new_stage: Callable[[], Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., BondedStage]:
    """Starts a mapper that finds the stand-in; heard are the beats of its bond."""
    package = tmp_path / "path" / "bondpy"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "bondpy.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{os.environ.get('PYTHONPATH', '')}")

    def make(**values: object) -> BondedStage:
        from std_msgs.msg import String

        made = new_stage()
        stage = BondedStage(made.processes, made.control, made.logs)
        stage.control.create_subscription(
            String, "/bond", lambda m: stage.beats.append(m.data), 100
        )
        stage.mapper(**values)
        return stage

    return make


def test_the_node_lives_on_after_each_deactivate(bonded: Callable[..., BondedStage]) -> None:
    from std_srvs.srv import Trigger

    stage = bonded()
    control = stage.control
    assert control.transition("configure")
    for _ in range(3):
        stage.beats.clear()
        assert control.transition("activate"), stage.log()
        control.wait(lambda: "mapper alive" in stage.beats, LIMIT_S, "a beating bond")
        assert control.transition("deactivate"), stage.log()
        gone = lambda: control.count_publishers("/bond") == 0  # noqa: E731
        control.wait(gone, LIMIT_S, "the end of its publisher, which may overtake the farewell")
        control.diagnostics.clear()
        control.wait(lambda: "inactive" in control.message("input"), LIMIT_S, "diagnostics")
        answer = control.call(Trigger, "/mapper/reset", Trigger.Request(), LIMIT_S)
        assert answer.success
        alone = lambda: control.count_subscribers("/bond") == 1  # noqa: E731
        control.wait(alone, LIMIT_S, "no subscription to the bond but that of the test")
    spent_s = processor_s(stage)
    control.spin_for(1.0)
    assert processor_s(stage) - spent_s < 0.5, "an executor that fails takes all of a core"
    assert control.transition("cleanup")
    assert control.state() == "unconfigured"


def processor_s(stage: Stage) -> float:
    """Processor time of the mapper so far."""
    fields = Path(f"/proc/{stage.processes.pid('mapper')}/stat").read_text().rpartition(")")[2]
    return sum(map(int, fields.split()[11:13])) / os.sysconf("SC_CLK_TCK")


def test_a_bond_does_not_keep_the_last_map_from_being_saved(
    bonded: Callable[..., BondedStage], tmp_path: Path
) -> None:
    stage = bonded(ros__save_on_shutdown=True, ros__map_dir=tmp_path / "maps")
    stage.bring_up()
    stage.control.wait(lambda: "mapper alive" in stage.beats, LIMIT_S, "a beating bond")
    assert stage.processes.stop("mapper") == 0
    assert "Traceback" not in stage.log()
    assert "the map is not saved: " in stage.log(), "for it is empty; but it was tried"
