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

"""Degradation levels of the node while the network fails or is too slow; needs no ROS.

The node goes down one level at a time: fewer views, one reference view, the fallback engine, and
finally it stops mapping. After enough healthy windows it goes up again, and waits longer after
each failed attempt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from mvdust3r_ros.wording import plural

LATENCY_WINDOWS = 20
"""The 95th percentile covers this many windows, all of the current level: the fewest that have
one."""
CLIMB_SHARE = 0.5
"""Share of the latency budget below which the level above fits: its windows have up to twice the
views."""
MAX_PATIENCE = 16
"""Limit of the factor on the healthy windows that a climb needs, doubled with each fall: a level
that fails again is retried less and less often, but still retried."""


class ServiceLevel(IntEnum):
    """Degradation level of the node; the values are those of msg/WindowStatus.msg."""

    FULL = 0
    FEWER_VIEWS = 1
    ONE_REFERENCE = 2
    FALLBACK_ENGINE = 3
    STOPPED = 4


@dataclass(frozen=True)
class DegradationLimits:
    """When to step.

    Attributes:
        failures: failures in a row for one step down.
        healthy: windows without a failure for one step up.
        max_latency_s: limit for the 95th percentile of the time per window, above which the node
            steps down; 0 for no limit.
    """

    failures: int = 3
    healthy: int = 20
    max_latency_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Outcome of a window for the network.

    Attributes:
        latency_s: time spent on it.
        failure: description of the network's failure; empty if it worked.
        out_of_memory: whether it ran out of memory.
    """

    latency_s: float
    failure: str = ""
    out_of_memory: bool = False


class DegradationPolicy:
    """Counts outcomes and decides when to step.

    Attributes:
        level: the current level.
        reason: reason of the last step; empty before the first.
    """

    def __init__(self, rule: DegradationLimits, levels: Sequence[ServiceLevel]) -> None:
        """Start at the top.

        Args:
            rule: when to step.
            levels: levels that make a difference, in order; FULL and STOPPED are always included.
        """
        self.rule = rule
        self._levels = sorted({ServiceLevel.FULL, *levels, ServiceLevel.STOPPED})
        self.level = ServiceLevel.FULL
        self.reason = ""
        self._failures = 0
        self._healthy = 0
        self._patience = 1
        self._climbed = False
        self._latencies_s: deque[float] = deque(maxlen=LATENCY_WINDOWS)

    def record(self, outcome: Outcome) -> ServiceLevel | None:
        """Count an outcome; return the new level when it is time to step."""
        if self.level == ServiceLevel.STOPPED:
            return None
        if outcome.failure:
            self._failures += 1
            self._healthy = 0
            if outcome.out_of_memory or self._failures >= self.rule.failures:
                return self.step_down(outcome.failure)
            return None
        self._failures = 0
        self._healthy += 1
        self._latencies_s.append(outcome.latency_s)
        return self._slower() or self._climb()

    def step_down(self, reason: str) -> ServiceLevel:
        """Go one level down, whatever the counts."""
        if self._climbed:
            self._patience = min(2 * self._patience, MAX_PATIENCE)
        return self._go(self._next(1), reason, climbed=False)

    @property
    def latency_p95_s(self) -> float | None:
        """95th percentile on the current level; None before there are enough windows."""
        if len(self._latencies_s) < LATENCY_WINDOWS:
            return None
        return sorted(self._latencies_s)[-1 - LATENCY_WINDOWS // 20]

    def _slower(self) -> ServiceLevel | None:
        """Step down for latency, but never to STOPPED: a slow map is better than none."""
        limit, p95 = self.rule.max_latency_s, self.latency_p95_s
        if not limit or p95 is None or p95 <= limit or self._next(1) == ServiceLevel.STOPPED:
            return None
        return self.step_down(
            f"95 % of the windows take up to {p95:.2f} s, the limit is {limit:g} s"
        )

    def _climb(self) -> ServiceLevel | None:
        needed = self.rule.healthy * self._patience
        if self._healthy < needed:
            return None
        if self.level == ServiceLevel.FULL:
            self._patience = 1
            self._climbed = False
            return None
        limit, p95 = self.rule.max_latency_s, self.latency_p95_s
        if limit and (p95 is None or p95 > CLIMB_SHARE * limit):
            return None
        return self._go(
            self._next(-1), f"{plural(self._healthy, 'window')} without a fault", climbed=True
        )

    def _next(self, by: int) -> ServiceLevel:
        return self._levels[self._levels.index(self.level) + by]

    def _go(self, level: ServiceLevel, reason: str, *, climbed: bool) -> ServiceLevel:
        self.level, self.reason, self._climbed = level, reason, climbed
        self._failures = self._healthy = 0
        self._latencies_s.clear()
        return level
