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

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from box_room import BoxRoom
from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import Frame, MapUpdate, Verdict, View, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.messages.images import ConversionError
from mvdust3r_ros.ros.pipeline import Pipeline, PipelineHooks

LIMIT_S = 20.0


class SlowOracle(OracleEngine):
    """Waits for permission before each window; can be told to fail."""

    def __init__(self) -> None:
        super().__init__((72, 96))
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.fault: Exception | None = None

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        return super().encode(views)

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        self.entered.release()
        assert self.go_on.acquire(timeout=LIMIT_S)
        if self.fault is not None:
            raise self.fault
        return super().decode(tokens, n_ref)

    def describe(self) -> EngineInfo:
        return super().describe()


class Rig:
    """A pipeline over a real mapper, with frames as messages."""

    def __init__(self, engine: OracleEngine, queue_size: int = 100) -> None:
        values = {
            "keyframes.window_size": 4, "keyframes.window_overlap": 2,
            "keyframes.max_interval_s": 0.1,
        }  # fmt: skip
        self.updates: list[MapUpdate] = []
        self.faults: list[tuple[str, str]] = []
        hooks = PipelineHooks(
            on_frame=lambda _frame: None,
            on_update=self.updates.append,
            on_idle=lambda: None,
            on_fault=lambda reason, message: self.faults.append((reason, message)),
        )
        mapper = Mapper(with_values(MapperConfig(), values), engine)
        self.pipeline = Pipeline(mapper, hooks, queue_size)

    @staticmethod
    def to_frame(message: Any) -> Frame:
        if isinstance(message, Exception):
            raise message
        assert isinstance(message, Frame)
        return message

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, self.pipeline.counters()
            time.sleep(0.005)

    def settle(self) -> None:
        self.wait(lambda: self.pipeline.counters().waiting == 0)
        self.wait(lambda: self.pipeline.counters().windows_waiting == 0)


@pytest.fixture
def frames(room: BoxRoom) -> list[Frame]:
    return room.frames(room.walk(40, turns=0.7))  # type: ignore[no-any-return]


def test_every_image_is_accounted_for(frames: list[Frame]) -> None:
    rig = Rig(OracleEngine((72, 96)))
    rig.pipeline.offer(frames[0])
    rig.pipeline.start(rig.to_frame)
    bad = ConversionError("encoding", "encoding 'nv12' is not known")
    for frame in frames[:20]:
        rig.pipeline.offer(frame)
    rig.pipeline.offer(bad)
    rig.pipeline.offer(ValueError("a bug"))
    for frame in frames[20:30]:
        rig.pipeline.offer(frame)
    rig.settle()
    rig.pipeline.pause(True)
    rig.pipeline.offer(frames[30])
    rig.pipeline.pause(False)
    rig.pipeline.offer(frames[31])
    rig.settle()
    assert rig.pipeline.stop()
    rig.pipeline.offer(frames[32])
    counters = rig.pipeline.counters()
    assert counters.received == 36
    assert counters.dropped == {"stopped": 2, "encoding": 1, "internal": 1, "paused": 1}
    assert counters.keyframes + counters.skipped == 31
    assert counters.had["odometry"] == counters.had["depth"] == 31
    assert counters.windows == counters.superseded + counters.verdicts.total()
    assert counters.verdicts[Verdict.COMMITTED] == len(rig.updates) >= 1
    assert counters.waiting == counters.windows_waiting == 0
    assert ("encoding", str(bad)) in rig.faults
    assert ("internal", "ValueError: a bug") in rig.faults


def test_handing_over_returns_at_once_while_the_network_is_busy(frames: list[Frame]) -> None:
    engine = SlowOracle()
    rig = Rig(engine)
    rig.pipeline.start(rig.to_frame)
    for frame in frames:
        rig.pipeline.offer(frame)  # the network does not go on before all are handed over
    assert engine.entered.acquire(timeout=LIMIT_S)
    rig.wait(lambda: rig.pipeline.counters().waiting == 0)
    busy = rig.pipeline.counters()
    assert busy.verdicts.total() == 0
    assert busy.windows_waiting <= 2
    engine.go_on.release(100)
    rig.settle()
    assert rig.pipeline.stop()
    done = rig.pipeline.counters()
    assert done.superseded == done.windows - done.verdicts.total() >= 1
    assert all(u.verdict == Verdict.COMMITTED for u in rig.updates)


def test_the_newest_window_wins_and_still_overlaps_with_the_map(frames: list[Frame]) -> None:
    engine = SlowOracle()
    rig = Rig(engine)
    rig.pipeline.start(rig.to_frame)
    for frame in frames:
        rig.pipeline.offer(frame)
    assert engine.entered.acquire(timeout=LIMIT_S)
    rig.wait(lambda: rig.pipeline.counters().waiting == 0)
    engine.go_on.release(100)
    rig.settle()
    assert rig.pipeline.stop()
    first, second = rig.updates
    assert second.window.keyframes[-1].stamp_ns == frames[-1].stamp_ns
    shared = {k.id for k in first.window.keyframes} & {k.id for k in second.window.keyframes}
    assert len(shared) == 2


@pytest.mark.parametrize("fault", [RuntimeError("out of memory"), KeyError("x")])
def test_a_network_that_fails_is_a_verdict_and_the_next_window_works(
    frames: list[Frame], fault: Exception
) -> None:
    engine = SlowOracle()
    engine.fault = fault
    rig = Rig(engine)
    rig.pipeline.start(rig.to_frame)
    for frame in frames[:10]:
        rig.pipeline.offer(frame)
    assert engine.entered.acquire(timeout=LIMIT_S)
    engine.go_on.release()
    rig.wait(lambda: len(rig.updates) == 1)
    assert rig.updates[0].verdict == Verdict.REJECTED_ENGINE_ERROR
    assert type(fault).__name__ in rig.updates[0].message
    engine.fault = None
    engine.go_on.release(100)
    for frame in frames[10:]:
        rig.pipeline.offer(frame)
    rig.settle()
    assert rig.pipeline.stop()
    assert rig.updates[-1].verdict == Verdict.COMMITTED


def test_a_full_queue_drops_the_oldest(frames: list[Frame]) -> None:
    seen: list[int] = []
    hold = threading.Event()
    rig = Rig(OracleEngine((72, 96)), queue_size=3)

    def to_frame(frame: Frame) -> Frame:
        seen.append(frame.stamp_ns)
        assert hold.wait(LIMIT_S)
        return frame

    hooks = PipelineHooks(lambda _frame: None, rig.updates.append, lambda: None, print)
    pipeline = Pipeline(rig.pipeline.mapper, hooks, 3)
    pipeline.start(to_frame)
    pipeline.offer(frames[0])
    rig.wait(lambda: len(seen) == 1)
    for frame in frames[1:8]:
        pipeline.offer(frame)
    assert pipeline.counters().dropped == {"queue_full": 4}
    hold.set()
    rig.wait(lambda: pipeline.counters().waiting == 0)
    assert pipeline.stop()
    assert seen == [frames[i].stamp_ns for i in (0, 5, 6, 7)]


def test_a_reset_while_the_network_works_gives_a_stale_window(frames: list[Frame]) -> None:
    engine = SlowOracle()
    rig = Rig(engine)
    rig.pipeline.start(rig.to_frame)
    for frame in frames[:6]:
        rig.pipeline.offer(frame)
    assert engine.entered.acquire(timeout=LIMIT_S)
    rig.wait(lambda: rig.pipeline.counters().waiting == 0)
    rig.pipeline.clear("reset")
    rig.pipeline.mapper.reset()
    engine.go_on.release(100)
    rig.settle()
    assert rig.pipeline.stop()
    assert [u.verdict for u in rig.updates] == [Verdict.REJECTED_STALE]
    assert len(rig.pipeline.mapper.snapshot().points_map) == 0


def test_the_end_of_a_drive_is_mapped_without_a_full_window(frames: list[Frame]) -> None:
    """As `Mapper.finish` does where nothing runs in threads."""
    rig = Rig(OracleEngine((72, 96)))
    rig.pipeline.start(rig.to_frame)
    for frame in frames[:11]:
        rig.pipeline.offer(frame)
    assert rig.pipeline.finish(LIMIT_S)
    assert rig.updates[-1].window.keyframes[-1].stamp_ns == frames[10].stamp_ns
    assert all(u.verdict == Verdict.COMMITTED for u in rig.updates)
    counters = rig.pipeline.counters()
    assert counters.waiting == counters.windows_waiting == 0
    assert counters.windows == counters.superseded + counters.verdicts.total()
    done = len(rig.updates)
    assert rig.pipeline.finish(LIMIT_S)
    assert len(rig.updates) == done
    for frame in frames[11:]:
        rig.pipeline.offer(frame)
    assert rig.pipeline.finish(LIMIT_S)
    assert rig.updates[-1].window.keyframes[-1].stamp_ns == frames[-1].stamp_ns
    assert rig.updates[-1].verdict == Verdict.COMMITTED
    assert rig.pipeline.stop()


def test_a_drive_too_short_for_a_window_is_mapped_at_its_end(frames: list[Frame]) -> None:
    rig = Rig(OracleEngine((72, 96)))
    rig.pipeline.start(rig.to_frame)
    for frame in frames[:3]:
        rig.pipeline.offer(frame)
    assert rig.pipeline.finish(LIMIT_S)
    assert [len(u.window.keyframes) for u in rig.updates] == [3]
    assert rig.pipeline.stop()


def test_who_waits_for_the_end_waits_no_longer_than_told(frames: list[Frame]) -> None:
    engine = SlowOracle()
    rig = Rig(engine)
    rig.pipeline.start(rig.to_frame)
    for frame in frames[:10]:
        rig.pipeline.offer(frame)
    assert engine.entered.acquire(timeout=LIMIT_S)
    begin = time.monotonic()
    assert not rig.pipeline.finish(0.2)
    assert time.monotonic() - begin < LIMIT_S / 2
    engine.go_on.release(100)
    assert rig.pipeline.finish(LIMIT_S)
    assert rig.pipeline.stop()
    assert not rig.pipeline.finish(LIMIT_S)


def test_images_that_keep_coming_do_not_put_off_the_end(frames: list[Frame]) -> None:
    rig = Rig(OracleEngine((72, 96)))
    rig.pipeline.start(rig.to_frame)
    ended = threading.Event()

    def drive() -> None:
        for frame in frames:
            rig.pipeline.offer(frame)
            if ended.wait(0.02):
                return

    driver = threading.Thread(target=drive)
    rig.pipeline.offer(frames[0])
    driver.start()
    assert rig.pipeline.finish(LIMIT_S)
    ended.set()
    driver.join(LIMIT_S)
    assert rig.pipeline.stop()
