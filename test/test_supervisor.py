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

"""A mapper whose network fails: the supervisor walks the ladder with real windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from box_room import BoxRoom
from mvdust3r_ros.config import with_values
from mvdust3r_ros.datatypes import MapUpdate, Verdict, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.ros.health.degradation import ServiceLevel
from mvdust3r_ros.ros.health.supervisor import Supervisor
from mvdust3r_ros.ros.settings import NodeConfig


class MoodyOracle(OracleEngine):
    """Fails for as long as it is told to."""

    def __init__(self, image_hw: tuple[int, int] = (72, 96)) -> None:
        super().__init__(image_hw)
        self.fault: Exception | None = None
        self.not_finite = False
        self.views: list[int] = []
        self.closed = 0

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        assert not self.closed
        self.views.append(len(tokens))
        if self.fault is not None:
            raise self.fault
        prediction = super().decode(tokens, n_ref)
        if self.not_finite:
            prediction.points[:] = np.nan
        return prediction

    def close(self) -> None:
        self.closed += 1


class Rig:
    """A mapper with a supervisor, driven around the room."""

    def __init__(self, room: BoxRoom, **values: object) -> None:
        given = {
            "keyframes.window_size": 8, "keyframes.window_overlap": 4,
            "keyframes.max_interval_s": 0.1, "ladder.healthy_windows": 2,
        }  # fmt: skip
        self.config = with_values(NodeConfig(), {**given, **values})
        self.made: list[tuple[bool, MoodyOracle]] = []
        self.cannot_make: Exception | None = None
        self.spare_hw = (72, 96)
        self.said: list[str] = []
        self.engine = MoodyOracle()
        self.mapper = Mapper(self.config, self.engine)
        self.supervisor = Supervisor(
            self.mapper, self.config, self.make, lambda _, message: self.said.append(message)
        )
        self.room, self.at_ns = room, 0

    def make(self, _config: NodeConfig, fallback: bool) -> MoodyOracle:
        if self.cannot_make is not None:
            raise self.cannot_make
        engine = MoodyOracle(self.spare_hw)
        self.made.append((fallback, engine))
        return engine

    def windows(self, count: int) -> list[MapUpdate]:
        """Drive until so many windows are through."""
        updates: list[MapUpdate] = []
        while len(updates) < count:
            self.at_ns += 200_000_000
            T = self.room.walk(60)[self.at_ns // 200_000_000 % 60]
            window = self.mapper.select(self.room.frame(self.at_ns, T))
            if window is None:
                continue
            try:
                update = self.mapper.map_window(window)
            except Exception as error:  # noqa: BLE001 - as the pipeline does
                message = f"{type(error).__name__}: {error}"
                update = MapUpdate(window, Verdict.REJECTED_ENGINE_ERROR, message)
            self.supervisor.after(update)
            updates.append(update)
        return updates


@pytest.mark.parametrize("fault", [EngineError("broken"), RuntimeError("CUDA error 700")])
def test_three_failures_halve_the_views_and_health_brings_them_back(
    room: BoxRoom, fault: Exception
) -> None:
    rig = Rig(room)
    rig.windows(1)
    rig.engine.fault = fault
    rig.windows(3)
    assert rig.supervisor.level == ServiceLevel.FEWER_VIEWS
    assert rig.said == [rig.supervisor.message]
    assert str(fault) in rig.supervisor.message
    rig.engine.fault = None
    rig.engine.views.clear()
    updates = rig.windows(2)
    assert max(rig.engine.views) == 4
    assert updates[-1].verdict == Verdict.COMMITTED
    assert rig.supervisor.level == ServiceLevel.FULL
    assert rig.supervisor.message == ""
    rig.engine.views.clear()
    rig.windows(2)
    assert max(rig.engine.views) == 8


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        EngineError("ONNX Runtime failed: [...] Failed to allocate memory for buffer of size 7"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_out_of_memory_is_one_level_at_once(room: BoxRoom, fault: Exception) -> None:
    rig = Rig(room)
    rig.engine.fault = fault
    rig.windows(1)
    assert rig.supervisor.level == ServiceLevel.FEWER_VIEWS


def test_values_that_are_not_finite_count_as_failures(room: BoxRoom) -> None:
    rig = Rig(room)
    rig.engine.not_finite = True
    rig.windows(3)
    assert rig.supervisor.level == ServiceLevel.FEWER_VIEWS


def test_every_level_in_order_down_to_the_end(room: BoxRoom) -> None:
    rig = Rig(room, **{"engine.n_ref": 2, "ladder.fallback_engine": "spare", "ladder.failures": 1})
    walked = []
    for _ in range(4):
        rig.mapper.engine.fault = EngineError("broken")  # type: ignore[attr-defined]
        rig.windows(1)
        walked.append(rig.supervisor.level)
    assert walked == [
        ServiceLevel.FEWER_VIEWS, ServiceLevel.ONE_REFERENCE, ServiceLevel.FALLBACK_ENGINE,
        ServiceLevel.STOPPED,
    ]  # fmt: skip
    assert rig.engine.closed == 1
    assert [fallback for fallback, _ in rig.made] == [True]
    assert rig.supervisor.gave_up == "broken"
    rig.supervisor.close()
    rig.supervisor.close()
    assert [engine.closed for _, engine in rig.made] == [1]


def test_the_fallback_engine_maps_on_and_hands_back(room: BoxRoom) -> None:
    rig = Rig(room, **{"keyframes.window_size": 3, "keyframes.window_overlap": 2,
                       "ladder.fallback_engine": "spare"})  # fmt: skip
    rig.windows(1)
    points = len(rig.mapper.snapshot().points_map)
    rig.engine.fault = EngineError("broken")
    rig.windows(3)
    assert rig.supervisor.level == ServiceLevel.FALLBACK_ENGINE
    assert rig.windows(1)[-1].verdict == Verdict.COMMITTED
    assert len(rig.mapper.snapshot().points_map) > points
    rig.windows(1)
    assert rig.supervisor.level == ServiceLevel.FULL
    assert [(fallback, engine.closed) for fallback, engine in rig.made] == [(True, 1), (False, 0)]


def test_a_main_engine_that_cannot_come_back_leaves_the_fallback_in_place(room: BoxRoom) -> None:
    rig = Rig(room, **{"keyframes.window_size": 3, "keyframes.window_overlap": 2,
                       "ladder.fallback_engine": "spare"})  # fmt: skip
    rig.engine.fault = EngineError("broken")
    rig.windows(3)
    rig.cannot_make = EngineError("no engine at x")
    assert {u.verdict for u in rig.windows(4)} == {Verdict.COMMITTED}
    assert rig.supervisor.level == ServiceLevel.FALLBACK_ENGINE
    assert "no engine at x" in rig.supervisor.message
    assert rig.made[0][1].closed == 0


def test_a_fallback_that_cannot_be_loaded_ends_the_ladder_and_a_restart_mends_it(
    room: BoxRoom,
) -> None:
    rig = Rig(room, **{"keyframes.window_size": 3, "keyframes.window_overlap": 2,
                       "ladder.fallback_engine": "spare"})  # fmt: skip
    rig.engine.fault = EngineError("broken")
    rig.cannot_make = EngineError("no engine at spare")
    rig.windows(3)
    assert rig.supervisor.level == ServiceLevel.STOPPED
    assert "no engine at spare" in rig.supervisor.gave_up
    with pytest.raises(EngineError, match="no engine at spare"):
        rig.supervisor.restart()
    rig.cannot_make = None
    rig.supervisor.restart()
    assert (rig.supervisor.level, rig.supervisor.gave_up) == (ServiceLevel.FULL, "")
    assert rig.windows(1)[-1].verdict == Verdict.COMMITTED


def test_a_window_that_does_not_fit_the_map_is_no_fault_of_the_network(room: BoxRoom) -> None:
    rig = Rig(room, **{"stitch.max_odom_translation": 0.01, "ladder.failures": 1})
    rig.supervisor.after(MapUpdate(rig.windows(1)[0].window, Verdict.REJECTED_STALE, "old"))
    assert rig.supervisor.level == ServiceLevel.FULL


def test_new_settings_are_used_within_what_the_level_allows(room: BoxRoom) -> None:
    rig = Rig(room)
    rig.engine.fault = MemoryError()
    rig.windows(1)
    changed = with_values(rig.config, {"keyframes.window_size": 12, "map.min_conf": 2.0})
    rig.supervisor.reconfigure(changed)
    assert rig.mapper.config.keyframes.window_size == 6
    assert rig.mapper.config.map.min_conf == 2.0


def test_what_the_engine_likes_is_halved_where_nobody_set_it(room: BoxRoom) -> None:
    rig = Rig(room, **{"keyframes.window_size": 0, "keyframes.window_overlap": 0})
    rig.engine.fault = MemoryError()
    rig.windows(1)
    rule = rig.mapper.config.keyframes
    assert (rig.supervisor.level, rule.window_size, rule.window_overlap) == (
        ServiceLevel.FEWER_VIEWS, 4, 2,
    )  # fmt: skip


def test_a_fallback_for_views_of_another_size_is_refused(room: BoxRoom) -> None:
    rig = Rig(room, **{"keyframes.window_size": 3, "keyframes.window_overlap": 2,
                       "ladder.fallback_engine": "spare"})  # fmt: skip
    rig.windows(1)
    rig.spare_hw = (48, 48)
    rig.engine.fault = EngineError("broken")
    rig.windows(3)
    assert rig.supervisor.level == ServiceLevel.STOPPED
    size = rig.mapper.view_hw
    words = f"the engine takes views of 48x48, the map is made of {size[1]}x{size[0]}"
    assert words in rig.supervisor.gave_up
    ((_, spare),) = rig.made
    assert spare.closed == 1
