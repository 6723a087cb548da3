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

"""Count all faults, and log each kind at a limited rate."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

REPEAT_S = 10.0
"""Log period of a repeated fault: more often hides the rest of the log; less often, the fault
seems gone."""
RECENT_S = 5.0
"""Diagnostics show a fault until it has not recurred for this long: five of their periods, and the
default time after which diagnostic_aggregator calls a status stale."""


class FaultLog:
    """Counts faults by reason; logs each reason at once and then at a limited rate."""

    def __init__(
        self,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        repeat_s: float = REPEAT_S,
    ) -> None:
        """Log with `log`, a reason at most every `repeat_s`; `clock` returns seconds."""
        self._repeat_s = repeat_s
        self._log, self._clock = log, clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._seen_s: dict[str, float] = {}
        self._logged_s: dict[str, float] = {}
        self._held_back: Counter[str] = Counter()

    def report(self, reason: str, message: str) -> None:
        """Count a fault, from any thread."""
        with self._lock:
            now = self._clock()
            self._counts[reason] += 1
            self._messages[reason] = message
            self._seen_s[reason] = now
            last = self._logged_s.get(reason)
            if last is not None and now < last + self._repeat_s:
                self._held_back[reason] += 1
                return
            more = self._held_back.pop(reason, 0)
            self._logged_s[reason] = now
        self._log(f"{message} [{reason}{f', {more} more since' if more else ''}]")

    def counts(self) -> Counter[str]:
        """Return the number of faults by reason."""
        with self._lock:
            return Counter(self._counts)

    def recent(self, within_s: float) -> dict[str, str]:
        """Return reason -> last message of recent faults."""
        with self._lock:
            since = self._clock() - within_s
            return {r: m for r, m in self._messages.items() if self._seen_s[r] >= since}
