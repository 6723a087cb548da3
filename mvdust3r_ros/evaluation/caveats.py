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

"""Caveats that qualify the numbers of a report, one sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mvdust3r_ros.datatypes import Verdict
from mvdust3r_ros.evaluation.run import RunResult
from mvdust3r_ros.wording import percent, plural

ALL_SHARE = 0.995
"""Rounds to 100 %, as `percent` writes it."""
WARN_SHARE = 0.95
"""Warn below this share of a drive: a drive ends a little after its last keyframe."""
REASONS = {
    Verdict.REJECTED_ENGINE_ERROR: "failed in the network",
    Verdict.REJECTED_NOT_FINITE: "not finite",
    Verdict.REJECTED_POSE: "without camera poses",
    Verdict.REJECTED_NO_OVERLAP: "without overlap with the map",
    Verdict.REJECTED_RESIDUAL: "not fitting the map",
    Verdict.REJECTED_DEGENERATE: "with too few points",
    Verdict.REJECTED_LOW_CONFIDENCE: "with too little confidence",
    Verdict.REJECTED_ODOMETRY: "against odometry",
    Verdict.REJECTED_STALE: "from before a reset",
}


def describe_verdict(verdict: Verdict) -> str:
    """Describe the outcome of a window: "committed", "rejected (against odometry)"."""
    if verdict == Verdict.COMMITTED:
        return "committed"
    return f"rejected ({REASONS[verdict]})"


def extent(numbers: Mapping[str, float | None]) -> str:
    """Describe the extent of the errors: "over 38 % of the drive"; empty if unknown."""
    share = numbers.get("mapped_share")
    if share is None:
        return ""
    return "over the whole drive" if share >= ALL_SHARE else f"over {percent(share)} of the drive"


def caveats(
    numbers: Mapping[str, float | None], result: RunResult, left_out: int = 0
) -> list[str]:
    """List the reasons why a run's numbers mean less than they seem to.

    Args:
        numbers: the counts of the report.
        result: the run.
        left_out: keyframes in no processed window, as the network was busy.
    """
    found = []
    if result.keyframes and not result.windows:
        found.append(
            f"no window was made of {plural(result.keyframes, 'keyframe')}: the camera has to "
            "move, or lower keyframes.max_translation_m"
        )
    if rejected := [w for w in result.windows if w.verdict != Verdict.COMMITTED]:
        counts = Counter(REASONS[w.verdict] for w in rejected).most_common()
        found.append(
            f"{len(rejected)} of {plural(len(result.windows), 'window')} rejected: "
            + ", ".join(f"{count} {reason}" for reason, count in counts)
        )
    if gone := result.committed - len(result.in_map):
        found.append(
            f"{plural(gone, 'window')} left the map again: a later one contradicted "
            + ("it" if gone == 1 else "them")
        )
    if left_out:
        found.append(
            f"{plural(left_out, 'keyframe')} left out while the network was busy: a lower --rate "
            "uses all"
        )
    share = numbers.get("mapped_share")
    if result.in_map and share is not None and share < WARN_SHARE:
        found.append(
            f"the map holds {percent(share)} of the drive: errors of the path are of that part"
        )
    snapshot = result.snapshot
    if result.in_map and not snapshot.gate_open and snapshot.gate_hint:
        found.append(f"the grid is withheld from navigation: {snapshot.gate_hint}")
    return found
