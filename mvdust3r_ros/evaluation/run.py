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

"""Run a recording through the mapper and record the outcome of every frame and window."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import (
    FloatArray,
    Frame,
    MapSnapshot,
    MapUpdate,
    MvDust3rError,
    ScaleEstimate,
    Trajectory,
    Verdict,
)
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.mapper import Mapper

ENGINE_STAGES = ("encode", "decode")
Progress = Callable[[int], None]
Observe = Callable[[MapUpdate], object]


@dataclass(frozen=True)
class WindowRecord:
    """Recorded outcome of a window, without points or images.

    Attributes:
        index: index of the window.
        stamp_ns: timestamp of its newest keyframe.
        first_ns: timestamp of its oldest keyframe.
        keyframes: number of keyframes.
        verdict: committed, or the reason for rejection.
        message: the reason in words.
        points: number of points it added.
        residual_m: as in `MapUpdate`.
        latency_ms: stage name -> milliseconds.
        rolled_back: earlier windows that it removed from the map.
    """

    index: int
    stamp_ns: int
    first_ns: int
    keyframes: int
    verdict: Verdict
    message: str
    points: int
    residual_m: float
    latency_ms: dict[str, float]
    rolled_back: int = 0


@dataclass
class RunResult:
    """Result of mapping a recording.

    Attributes:
        config: settings used.
        engine: engine used.
        frames: number of frames read.
        keyframes: number of frames kept as keyframes.
        blurred: number of frames skipped as blurred.
        faults: message -> number of frames rejected with it.
        windows: outcomes in order.
        odometry: camera poses from the recording's odometry, or None.
        seconds: wall time of mapping.
        snapshot: the final map.
        first_stamp_ns: timestamp of the first frame; None without frames.
        last_stamp_ns: timestamp of the last frame; None without frames.
    """

    config: MapperConfig
    engine: EngineInfo
    frames: int = 0
    keyframes: int = 0
    blurred: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    windows: list[WindowRecord] = field(default_factory=list)
    odometry: Trajectory | None = None
    seconds: float = 0.0
    snapshot: MapSnapshot = field(default_factory=lambda: empty_snapshot())
    first_stamp_ns: int | None = None
    last_stamp_ns: int | None = None

    @property
    def committed(self) -> int:
        """Number of windows that were committed, some of which may have been rolled back since."""
        return sum(w.verdict == Verdict.COMMITTED for w in self.windows)

    @property
    def in_map(self) -> list[WindowRecord]:
        """The windows that make up the final map."""
        found: list[WindowRecord] = []
        for window in self.windows:
            if window.verdict == Verdict.COMMITTED:
                del found[max(0, len(found) - window.rolled_back) :]
                found.append(window)
        return found


def empty_snapshot() -> MapSnapshot:
    """Return the map before the first window."""
    return MapSnapshot(
        points_map=np.zeros((0, 3), np.float32),
        colors_rgb=np.zeros((0, 3), np.uint8),
        conf=np.zeros(0, np.float32),
        grid=None,
        trajectory=Trajectory(np.zeros(0, np.int64), np.zeros((0, 4, 4))),
        T_map_odom=None,
        scale=ScaleEstimate(),
    )


def run_mapper(
    frames: Iterable[Frame],
    mapper: Mapper,
    progress: Progress | None = None,
    observe: Observe | None = None,
) -> RunResult:
    """Map frames one after the other, without dropping any.

    Args:
        frames: the recording; read lazily.
        mapper: with an empty map.
        progress: called with the number of processed frames.
        observe: called with the outcome of each window; its time is not counted.

    Returns:
        Outcome of every window and the final map. A frame the mapper rejects is counted and
        skipped; errors of the frame source propagate.
    """
    result = RunResult(mapper.config, mapper.engine.describe())
    odometry: dict[int, FloatArray] = {}
    observed_s = 0.0

    def take(update: MapUpdate | None) -> None:
        nonlocal observed_s
        if update is None:
            return
        result.windows.append(window_record(update))
        if observe is not None:
            since = time.perf_counter()
            observe(update)
            observed_s += time.perf_counter() - since

    begin = time.perf_counter()
    for frame in frames:
        result.frames += 1
        if result.first_stamp_ns is None:
            result.first_stamp_ns = frame.stamp_ns
        result.last_stamp_ns = frame.stamp_ns
        if frame.T_odom_cam is not None:
            odometry[frame.stamp_ns] = frame.T_odom_cam
        try:
            take(mapper.process(frame))
        except MvDust3rError as error:
            result.faults[str(error)] += 1
        if progress is not None:
            progress(result.frames)
    take(mapper.finish())
    result.seconds = time.perf_counter() - begin - observed_s
    result.keyframes, result.blurred = mapper.keyframe_count, mapper.blurred_count
    result.snapshot = mapper.snapshot()
    if odometry:
        stamps = sorted(odometry)
        poses = np.array([odometry[s] for s in stamps])
        result.odometry = Trajectory(np.array(stamps, np.int64), poses)
    return result


def window_record(update: MapUpdate) -> WindowRecord:
    """Reduce a window's outcome to the record that is kept."""
    return WindowRecord(
        index=update.window.index,
        stamp_ns=update.window.keyframes[-1].stamp_ns,
        first_ns=update.window.keyframes[0].stamp_ns,
        keyframes=len(update.window.keyframes),
        verdict=update.verdict,
        message=update.message,
        points=len(update.points_map),
        residual_m=update.residual_m,
        latency_ms=dict(update.latency_ms),
        rolled_back=update.rolled_back,
    )


def stage_latencies(windows: Iterable[WindowRecord]) -> dict[str, float]:
    """Return each stage's median milliseconds over committed windows, in stage order."""
    stages: dict[str, list[float]] = {}
    for window in windows:
        if window.verdict == Verdict.COMMITTED:
            for name, value in window.latency_ms.items():
                stages.setdefault(name, []).append(value)
    return {name: float(np.median(values)) for name, values in stages.items()}


def outside_engine_ms(windows: Iterable[WindowRecord]) -> float:
    """Return the median time outside the network over committed windows; NaN without any."""
    totals = [
        sum(v for k, v in w.latency_ms.items() if k not in ENGINE_STAGES)
        for w in windows
        if w.verdict == Verdict.COMMITTED
    ]
    return float(np.median(totals)) if totals else math.nan
