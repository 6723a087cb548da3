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

"""Timing of the published transforms: the `transform_tolerance` that costmaps need."""

from __future__ import annotations

from collections import deque

KEPT = 200
"""Number of recent transforms in the statistics: 7 s of a camera at 30 Hz."""


class TfTiming:
    """Gaps between the stamps of recent transforms, and the age that each reached.

    A costmap asks for the robot's newest pose and rejects one older than its
    `transform_tolerance`. The pose is as old as the newest map->odom.
    """

    def __init__(self) -> None:
        """Start without transforms."""
        self._last_ns = 0
        self._gaps_ns: deque[int] = deque(maxlen=KEPT)
        self._ages_ns: deque[int] = deque(maxlen=KEPT)

    def sent(self, stamp_ns: int, now_ns: int) -> None:
        """Record the stamp of a transform published at `now_ns` (ROS time)."""
        if 0 < self._last_ns < stamp_ns:
            self._gaps_ns.append(stamp_ns - self._last_ns)
            self._ages_ns.append(now_ns - self._last_ns)
        self._last_ns = stamp_ns

    def figures(self) -> dict[str, object]:
        """Return diagnostics in seconds; empty before the second transform."""
        if not self._gaps_ns:
            return {}
        return {
            "TF stamps apart at most (s)": f"{max(self._gaps_ns) * 1e-9:.3f}",
            "transform_tolerance needed (s)": f"{max(0, *self._ages_ns) * 1e-9:.3f}",
        }
