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

"""Spread the clouds of a window over time, because a costmap uses one cloud per update.

With `observation_persistence: 0.0` Nav2 keeps only the newest cloud and uses it at its next
update, on the wall clock; from a burst of clouds it loses all but the last. So the time between
two clouds is measured on the steady clock, independent of ROS time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

SPREAD_S = 3.0
"""All clouds of a window are sent within this time: TF forgets their stamps after 10 s."""
LAST_SEND_S = 1.0
"""How long `close` waits for the thread, which is inside one publish at most."""


class Outbox:
    """Sends a batch item by item; leftovers are sent as soon as the next batch arrives.

    So nothing is lost, and no item is sent after one of a later batch.

    Attributes:
        hurried: items sent sooner than the period allows.
        dropped: items that were never sent, for example because the map is gone.
    """

    def __init__(self, send: Callable[[Any], None]) -> None:
        """Send items with `send`, from any thread."""
        self.hurried = self.dropped = 0
        self._send = send
        self._change = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._period_s = 0.0
        self._sent_s = float("-inf")
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, items: Sequence[Any], period_s: float) -> None:
        """Queue items; the first is sent at once if the last one was long enough ago.

        Args:
            items: oldest first.
            period_s: time between two items; shorter for many items, 0 to send all at once.
        """
        if not items:
            return
        with self._change:
            self.hurried += len(self._waiting)
            self._send_all()
            self._period_s = min(period_s, SPREAD_S / len(items))
            self._waiting.extend(items)
            if not period_s:
                self._send_all()
            self._change.notify_all()

    def flush(self) -> None:
        """Send all waiting items at once."""
        with self._change:
            self._send_all()

    def drop(self) -> None:
        """Drop all waiting items."""
        with self._change:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def close(self) -> None:
        """Drop waiting items and stop the thread."""
        self.drop()
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join(LAST_SEND_S)

    def _send_all(self) -> None:
        while self._waiting:
            self._send_next()

    def _send_next(self) -> None:
        try:
            self._send(self._waiting.popleft())
        except Exception:  # noqa: BLE001 - ROS has ended: the thread must end silently
            self.dropped += 1
        self._sent_s = time.monotonic()

    def _run(self) -> None:
        with self._change:
            while not self._closed:
                left_s = self._sent_s + self._period_s - time.monotonic()
                if not self._waiting:
                    self._change.wait()
                elif left_s > 0:
                    self._change.wait(left_s)
                else:
                    self._send_next()
