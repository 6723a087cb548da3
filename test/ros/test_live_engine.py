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

"""A live node whose network fails as it is told to: the ladder, the end, and what is left."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from live_nodes import LiveCamera

LIMIT_S = 30.0
FAILURES = 2
SECOND_NS = 1_000_000_000
DRIVE = 6
# One drive after the other: over a gap the node forgets the odometry of images that still wait.
times_ns = itertools.count(500_000 * SECOND_NS, DRIVE * SECOND_NS // 5)

# The real node with an engine that does what the file says: hang, raise, memory, nan or nothing;
# with a number behind it so many times.
SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.ros import node

class Moody(OracleEngine):
    def decode(self, tokens, n_ref=0):
        mood, _, left = Path("{mood}").read_text().partition(" ")
        if left:
            again = f"{{mood}} {{int(left) - 1}}" if int(left) > 1 else ""
            Path("{mood}").write_text(again)
        while mood == "hang":
            Path("{mood}").with_name("hangs").touch()
            time.sleep(1)
        if mood == "raise":
            raise RuntimeError("CUDA error 700: an illegal memory access was encountered")
        if mood == "memory":
            raise EngineError("failed to allocate memory for a buffer of 7 GB")
        prediction = super().decode(tokens, n_ref)
        if mood == "nan":
            prediction.points[:] = np.nan
        return prediction

node.load_engine = lambda config, fallback: Moody((72, 96))
sys.exit(node.main())
"""


class MoodyNode:
    """A live node, its camera and the mood of its engine."""

    def __init__(self, new_camera: Callable[..., LiveCamera], folder: Path) -> None:
        self._mood = folder / "mood"
        self.maps = folder / "maps"
        self.set("")
        self.camera = new_camera(
            script=SCRIPT.format(mood=self._mood), ros__map_dir=self.maps,
            ros__save_on_shutdown=True, ladder__failures=FAILURES, ladder__healthy_windows=2,
        )  # fmt: skip
        self.control = self.camera.control

    def set(self, mood: str) -> None:
        draft = self._mood.with_suffix(".new")
        draft.write_text(mood)
        draft.replace(self._mood)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Drive until something holds, no faster than the node can follow."""
        for _ in range(20):
            if condition():
                return
            self.camera.drive(next(times_ns), DRIVE)
            self.control.spin_for(0.5)  # longer than the period of the diagnostics
            self.control.wait(lambda: condition() or self.is_idle(), LIMIT_S, what)
        raise AssertionError(f"{what}: {self.camera.stage.log()[-2000:]}")

    def is_idle(self) -> bool:
        waiting = self.control.value("input", "images waiting")
        return (waiting, self.control.value("engine", "windows waiting")) == ("0", "0")

    def levels(self, start: int) -> list[int]:
        """Where the windows from the start-th on left the ladder."""
        return [int(w.ladder_rung) for w in self.control.windows[start:]]

    def level(self, part: str) -> int:
        return int(self.control.diagnostics[f"mapper: {part}"].level[0])


@pytest.fixture(scope="module")
def moody(
    new_camera: Callable[..., LiveCamera], tmp_path_factory: pytest.TempPathFactory
) -> MoodyNode:
    return MoodyNode(new_camera, tmp_path_factory.mktemp("moody"))


@pytest.mark.parametrize(
    ("mood", "times"),
    [("raise", FAILURES), ("memory", 1), ("nan", FAILURES)],
    ids=["raise", "memory", "nan"],
)
def test_a_network_that_fails_maps_with_half_the_views_and_recovers(
    moody: MoodyNode, mood: str, times: int
) -> None:
    """Lack of memory is enough once."""
    moody.until(lambda: moody.camera.committed() > 0, "a map")
    mapped, before = moody.camera.committed(), len(moody.control.windows)
    moody.set(f"{mood} {times}")
    moody.until(lambda: 1 in moody.levels(before), "a step down")
    words = "mapping with half the views"
    assert words in moody.camera.stage.log()
    moody.until(lambda: moody.levels(before)[-1] == 0, "a step up")
    assert set(moody.levels(before)) == {0, 1}
    assert moody.camera.committed() > mapped
    moody.control.wait(lambda: moody.level("engine") == 0, LIMIT_S, "OK again")


def test_a_network_that_fails_on_every_level_ends_in_inactive_and_can_be_fixed(
    moody: MoodyNode,
) -> None:
    control = moody.control
    moody.set("raise")
    moody.until(lambda: moody.level("engine") == 2 and control.state() == "inactive", "an end")
    control.wait(
        lambda: "stopped mapping: RuntimeError: CUDA error 700" in control.message("engine"),
        LIMIT_S, "the reason",
    )  # fmt: skip
    moody.set("")
    assert control.transition("activate"), moody.camera.stage.log()[-2000:]
    control.wait(moody.camera.image.get_subscription_count, LIMIT_S, "a subscriber")
    control.spin_for(1.0)
    before = len(control.windows)
    committed = moody.camera.committed()
    moody.until(lambda: moody.camera.committed() > committed, "mapping again")
    assert set(moody.levels(before)) == {0}


def test_told_to_end_while_the_network_hangs_it_saves_the_map_and_ends(moody: MoodyNode) -> None:
    control = moody.control
    moody.until(lambda: control.windows and control.windows[-1].verdict == 0, "a map")
    moody.set("hang")
    moody.until(moody.maps.with_name("hangs").exists, "a window")
    assert moody.camera.stage.processes.stop("mapper", signal.SIGTERM) == 0
    log = moody.camera.stage.log()
    assert "the engine does not answer; its memory is not given back" in log
    assert sorted(p.name for p in moody.maps.iterdir()) == [
        "last.npz", "last.pgm", "last.ply", "last.tum", "last.yaml",
    ]  # fmt: skip


def test_after_a_kill_in_the_middle_of_a_save_a_new_node_goes_on_with_the_map(
    new_camera: Callable[..., LiveCamera], tmp_path: Path
) -> None:
    from mvdust3r_ros.srv import SaveMap

    camera = new_camera(ros__map_dir=tmp_path)
    camera.drive(next(times_ns), 14)
    camera.settle()
    saved = camera.control.save_map("map")
    assert saved.success, saved.message
    client = camera.control.create_client(SaveMap, "/mapper/save_map")
    camera.control.wait(client.service_is_ready, LIMIT_S, "the service")
    camera.control.spin_for(0.5)
    for _ in range(8):
        client.call_async(SaveMap.Request(filename="map"))
    camera.control.spin_for(0.05)
    assert camera.stage.processes.stop("mapper", signal.SIGKILL) == -signal.SIGKILL
    after = new_camera(ros__map_dir=tmp_path)
    answer = after.control.load_map("map")
    assert answer.success, answer.message
    assert "keyframes" in answer.message
