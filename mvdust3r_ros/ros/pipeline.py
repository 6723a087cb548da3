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

"""Two threads between the callbacks and the map, with exact counts of all images.

Callbacks put images into a short queue and return. The intake thread decodes them and selects
keyframes; the inference thread maps the newest complete window. Needs no ROS.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mvdust3r_ros.datatypes import Frame, MapUpdate, MvDust3rError, Verdict, Window
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.messages.input_counts import kinds_of

POLL_S = 0.1
"""How often the inference thread wakes up without being notified."""
JOIN_S = 20.0
"""How long a transition waits for the window in the network, which takes seconds on a slow CPU. A
hung network keeps its thread."""


@dataclass
class PipelineCounters:
    """Outcomes of all images and windows since the pipeline was created.

    Attributes:
        received: images handed over by callbacks.
        keyframes: images kept as keyframes.
        skipped: images not kept on purpose: blurred, or too similar to the last keyframe.
        dropped: images that could not be used, by reason.
        windows: complete windows.
        superseded: windows that never reached the network: a newer one, chosen from their
            keyframes and later ones, was complete before the network was free; or waiting windows
            were dropped.
        verdicts: outcomes of the windows that reached the network.
        had: "odometry", "camera_info", "depth" -> decoded images that had it.
    """

    received: int = 0
    keyframes: int = 0
    skipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    windows: int = 0
    superseded: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    had: Counter[str] = field(default_factory=Counter)

    @property
    def rejected(self) -> int:
        """Windows that reached the network but not the map."""
        return sum(n for v, n in self.verdicts.items() if v != Verdict.COMMITTED)

    @property
    def waiting(self) -> int:
        """Images handed over but not decided on yet."""
        return self.received - self.keyframes - self.skipped - self.dropped.total()

    @property
    def windows_waiting(self) -> int:
        """Windows that wait for the network or are in it."""
        return self.windows - self.superseded - self.verdicts.total()


@dataclass(frozen=True)
class PipelineHooks:
    """Callbacks of the pipeline; none may raise.

    Attributes:
        on_frame: called with each good frame (intake thread).
        on_update: called with each outcome (inference thread).
        on_idle: called about ten times a second while there is no window (inference thread).
        on_fault: called with a reason and a message for each image or window that failed.
    """

    on_frame: Callable[[Frame], None]
    on_update: Callable[[MapUpdate], None]
    on_idle: Callable[[], None]
    on_fault: Callable[[str, str], None]


class Pipeline:
    """Runs a mapper behind a queue of images and a slot for one window."""

    def __init__(self, mapper: Mapper, hooks: PipelineHooks, queue_size: int) -> None:
        """Create the pipeline; nothing runs before `start`.

        Args:
            mapper: the mapper.
            hooks: the callbacks.
            queue_size: images that may wait; the oldest is dropped when another arrives.
        """
        self.mapper = mapper
        self._hooks = hooks
        self._queue_size = queue_size
        self._counters = PipelineCounters()
        self._images: deque[Any] = deque()
        self._window: Window | None = None
        self._change = threading.Condition()
        self._running = False
        self._paused = False
        self._finish_after: int | None = None
        self._busy_since_s: float | None = None
        self._threads: list[threading.Thread] = []

    def start(self, to_frame: Callable[[Any], Frame]) -> None:
        """Start both threads.

        Args:
            to_frame: converts a message to a frame (intake thread); raises MvDust3rError for a bad
                message.
        """
        self._running = True
        self._threads = [
            threading.Thread(target=self._intake, args=(to_frame,), name="intake", daemon=True),
            threading.Thread(target=self._inference, name="inference", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, join_s: float = JOIN_S) -> bool:
        """Let both threads finish their current work, and drop everything that waits.

        Args:
            join_s: how long to wait for them.

        Returns:
            Whether both ended; a hung network keeps its thread.
        """
        end_s = time.monotonic() + join_s
        with self._change:
            self._running = False
            self._drop_waiting("stopped")
            self._change.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        with self._change:
            self._drop_waiting("stopped")
        return self.ended

    @property
    def ended(self) -> bool:
        """Whether both threads have ended."""
        return not any(t.is_alive() for t in self._threads)

    @property
    def busy_s(self) -> float:
        """Time spent so far on the window being mapped; 0 without one."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def offer(self, message: Any) -> None:
        """Hand over an image; returns at once."""
        with self._change:
            self._counters.received += 1
            if not self._running or self._paused:
                self._counters.dropped["paused" if self._running else "stopped"] += 1
                return
            if len(self._images) >= self._queue_size:
                self._images.popleft()
                self._counters.dropped["queue_full"] += 1
            self._images.append(message)
            self._change.notify_all()

    def pause(self, paused: bool) -> None:
        """Drop images as they arrive, or accept them again."""
        with self._change:
            self._paused = paused
            if paused:
                self._drop_waiting("paused")

    def clear(self, reason: str) -> None:
        """Drop all waiting images and the waiting window."""
        with self._change:
            self._drop_waiting(reason)

    def finish(self, wait_s: float) -> bool:
        """Map everything received so far, including keyframes that do not fill a window.

        Args:
            wait_s: how long to wait for the network.

        Returns:
            Whether everything went through the network; the rest keeps waiting.
        """
        with self._change:
            self._finish_after = self._counters.received
            self._change.notify_all()
            self._change.wait_for(lambda: self._finish_after is None or not self._running, wait_s)
            done, self._finish_after = self._finish_after is None, None
            return done

    @property
    def paused(self) -> bool:
        """Whether images are dropped on purpose."""
        return self._paused

    def counters(self) -> PipelineCounters:
        """Return a consistent copy of the counts."""
        with self._change:
            now = self._counters
            return PipelineCounters(
                now.received,
                now.keyframes,
                now.skipped,
                Counter(now.dropped),
                now.windows,
                now.superseded,
                Counter(now.verdicts),
                Counter(now.had),
            )

    def _drop_waiting(self, reason: str) -> None:
        if self._images:
            self._counters.dropped[reason] += len(self._images)
            self._images.clear()
        if self._window is not None:
            self._counters.superseded += 1
            self._window = None

    def _intake(self, to_frame: Callable[[Any], Frame]) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: bool(self._images) or not self._running)
                if not self._running:
                    return
                message = self._images.popleft()
            self._take_image(message, to_frame)

    def _take_image(self, message: Any, to_frame: Callable[[Any], Frame]) -> None:
        before = self.mapper.keyframe_count
        try:
            frame = self.mapper.mounted(to_frame(message))
            with self._change:
                self._counters.had.update(kinds_of(frame))
            self._hooks.on_frame(frame)
            window = self.mapper.select(frame)
        except MvDust3rError as error:
            self._count_dropped(getattr(error, "reason", "rejected"), str(error))
            return
        except Exception as error:  # noqa: BLE001 - one image must never end the thread
            self._count_dropped("internal", f"{type(error).__name__}: {error}")
            return
        with self._change:
            if self.mapper.keyframe_count != before:
                self._counters.keyframes += 1
            else:
                self._counters.skipped += 1
            if window is not None:
                self._counters.windows += 1
                self._counters.superseded += self._window is not None
                self._window = window
            self._change.notify_all()

    def _count_dropped(self, reason: str, message: str) -> None:
        with self._change:
            self._counters.dropped[reason] += 1
            self._change.notify_all()
        self._hooks.on_fault(reason, message)

    def _inference(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(self._has_work, POLL_S)
                if not self._running:
                    return
                window, self._window = self._window, None
                ends = self._may_finish()
            if window is not None:
                self._map(window)
            if ends:
                self._map_the_rest()
            elif window is None:
                self._hooks.on_idle()

    def _has_work(self) -> bool:
        return self._window is not None or self._may_finish() or not self._running

    def _may_finish(self) -> bool:
        """Whether `finish` waits, and all images received before it are decided on."""
        decided = self._counters.received - self._counters.waiting
        return self._finish_after is not None and decided >= self._finish_after

    def _map_the_rest(self) -> None:
        rest = self.mapper.unfilled()
        if rest is not None:
            with self._change:
                self._counters.windows += 1
                self._counters.superseded += self._window is not None
                self._window = None  # older than the rest
            self._map(rest)
        with self._change:
            self._finish_after = None
            self._change.notify_all()

    def _map(self, window: Window) -> None:
        self._busy_since_s = time.monotonic()
        try:
            update = self.mapper.map_window(window)
        except Exception as error:  # noqa: BLE001 - no fault of a backend may end the thread
            message = f"{type(error).__name__}: {error}"
            update = MapUpdate(window, Verdict.REJECTED_ENGINE_ERROR, message)
        self._busy_since_s = None
        with self._change:
            self._counters.verdicts[update.verdict] += 1
        if update.verdict != Verdict.COMMITTED:
            self._hooks.on_fault(update.verdict.name.lower(), update.message)
        self._hooks.on_update(update)
