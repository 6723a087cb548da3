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

"""Run a recording through the mapper frame by frame: deterministic, no frame dropped."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import Frame, MapUpdate, MvDust3rError
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.engines.oracle_engine import missing_truth
from mvdust3r_ros.evaluation.run import run_mapper
from mvdust3r_ros.evaluation.scoring import Evidence
from mvdust3r_ros.evaluation.true_map import TrueMapBuilder
from mvdust3r_ros.evaluation.window_dumps import WindowDumpWriter
from mvdust3r_ros.evaluation.window_scores import WatchedEngine, WindowLog
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.recordings.recording import Recording

Progress = Callable[[int, int], None]


@dataclass
class _Feed:
    """Frames on their way to the mapper.

    Attributes:
        needs_truth: the engine needs true depth and pose with each image; images without are
            skipped.
        stopped: why reading stopped before the end of the recording; empty if it did not.
        excluded_s: time spent on work the mapper does not need.
    """

    recording: Recording
    true_map: TrueMapBuilder
    interrupted: threading.Event
    unusable: Counter[str]
    needs_truth: bool = False
    stopped: str = ""
    excluded_s: float = 0.0

    def frames(self) -> Iterator[Frame]:
        source = self.recording.frames(lambda error: self.unusable.update([str(error)]))
        while not self.interrupted.is_set():
            try:
                frame = next(source, None)
            except MvDust3rError as error:
                self.stopped = str(error)
                return
            if frame is None:
                return
            if self.needs_truth and (missing := missing_truth(frame)):
                self.unusable[f"the oracle engine needs {missing} with each image"] += 1
                continue
            since = time.perf_counter()
            self.true_map.add(frame)
            self.excluded_s += time.perf_counter() - since
            yield frame
        self.stopped = "interrupted"


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets; a second Ctrl-C interrupts as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        if event.is_set():
            signal.default_int_handler(signum, frame)
        event.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def run_lockstep(
    recording: Recording,
    config: MapperConfig,
    engine: Engine,
    dumps: WindowDumpWriter | None = None,
    progress: Progress | None = None,
) -> tuple[Evidence, str]:
    """Map a recording frame by frame.

    Args:
        recording: the recording to map.
        config: settings of the mapper.
        engine: the network; stays open.
        dumps: stores rejected windows; None to discard them.
        progress: called with the numbers of processed and of all frames.

    Returns:
        The result, and why reading stopped before the end of the recording (empty if it did not).
        Ctrl-C or a damaged recording ends the run early; the map so far is kept.
    """
    watched = WatchedEngine(engine)
    log = WindowLog(watched, config.pose)
    true_map = TrueMapBuilder(config.map, engine.describe())

    def observe(update: MapUpdate) -> None:
        prediction = log.observe(update)
        if dumps is not None:
            dumps.observe(update, prediction)

    with interruptible() as interrupted:
        needs_truth = engine.describe().needs_truth
        feed = _Feed(recording, true_map, interrupted, Counter(), needs_truth)
        result = run_mapper(
            feed.frames(),
            Mapper(config, watched),
            None if progress is None else lambda done: progress(done, recording.total),
            observe,
        )
    result.frames += feed.unusable.total()
    result.faults += feed.unusable
    result.seconds -= feed.excluded_s
    return Evidence(result, recording.truth, log, true_map), feed.stopped
