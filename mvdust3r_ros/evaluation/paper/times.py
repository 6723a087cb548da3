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

"""Table 1: time and memory of a window against its number of views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.evaluation.paper.layout import MEASURED, PaperError, Row
from mvdust3r_ros.evaluation.paper.measured import Report
from mvdust3r_ros.evaluation.paper.scaling import Growth, Point, Spec, fit, measure
from mvdust3r_ros.evaluation.paper.systems import System
from mvdust3r_ros.wording import decimal

DATA = "rooms"
"""What the views show does not matter."""
LEAST_FITTED = 3
"""Numbers of views that a fit needs."""


def measure_times(
    systems: Sequence[System], counts: Sequence[int], report: Report
) -> Iterator[list[Row]]:
    """Measure systems on one thread, and yield the rows of one at a time.

    Those with an oracle have no rows: they would be of several tries.

    Args:
        systems: rows of the table.
        counts: numbers of views.
        report: called before each system.
    """
    timed = [system for system in systems if not system.oracle]
    for done, system in enumerate(timed):
        report(f"time of {system.name}", done, len(timed))
        try:
            if system.missing:
                raise PaperError(system.missing)
            points = measure(Spec(system.spec, n_ref=0 if system.joined else 1), counts)
        except MvDust3rError as error:
            yield [Row(1, n, system.name, "", MEASURED, {}, str(error)) for n in sorted(counts)]
            continue
        yield [_row(system, point, _growth(points)) for point in points]


def _row(system: System, point: Point, note: str) -> Row:
    values = {
        "sec": point.seconds,
        "FPS": point.views / point.seconds,
        "MB": point.peak_bytes / 1e6,
    }
    return Row(1, point.views, system.name, DATA, MEASURED, values, note, point.extrapolated)


def _growth(points: Sequence[Point]) -> str:
    """How time and memory grow, in words; nothing of too few points."""
    if sum(not point.extrapolated for point in points) < LEAST_FITTED:
        return ""
    fits = fit(points)
    time, memory = _words(fits.seconds), _words(fits.peak_bytes)
    return f"time grows as {time}; memory as {memory}"


def _words(growth: Growth) -> str:
    line, parabola = (decimal(f.r2, 3) for f in (growth.line, growth.parabola))
    exponent = decimal(growth.exponent, 2)
    return f"N^{exponent} (R^2 {line} of a line, {parabola} of a parabola)"
