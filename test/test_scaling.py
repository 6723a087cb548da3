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

import numpy as np
import pytest

from mvdust3r_ros.evaluation.paper.scaling import Point, ScalingError, Spec, fit, measure

COUNTS = (4, 8, 12, 24, 48)


def points(power: int) -> list[Point]:
    return [Point(n, 0.02 * n**power, 3_000_000 * n) for n in COUNTS]


def test_a_parabola_and_a_line_are_told_apart() -> None:
    fits = fit(points(2))
    assert fits.seconds.exponent == pytest.approx(2)
    assert fits.seconds.parabola.quadratic == pytest.approx(0.02)
    assert fits.seconds.parabola.r2 == pytest.approx(1)
    assert fits.seconds.line.r2 < 0.8
    assert fits.peak_bytes.exponent == pytest.approx(1)
    assert fits.peak_bytes.line.r2 == pytest.approx(1)
    assert fits.peak_bytes.parabola.at(100) == pytest.approx(300_000_000)


def test_errors_count_by_their_share() -> None:
    rng = np.random.default_rng(1)
    noisy = [Point(p.views, p.seconds * rng.uniform(0.9, 1.1), p.peak_bytes) for p in points(1)]
    fits = fit(noisy)
    assert fits.seconds.line.linear == pytest.approx(0.02, rel=0.1)
    assert fits.seconds.line.r2 > 0.98


def test_extrapolated_points_are_not_fitted() -> None:
    wrong = Point(100, 1e6, 1, extrapolated=True)
    assert fit([*points(2), wrong]) == fit(points(2))
    with pytest.raises(ScalingError, match="2 measured windows; a fit needs 3"):
        fit([*points(2)[:2], wrong])


@pytest.mark.slow
def test_windows_over_the_limit_are_extrapolated() -> None:
    found = measure(Spec("oracle"), (2, 24, 1_000_000_000), limit_s=60)
    assert [p.extrapolated for p in found] == [False, False, True]
    assert all(0 < p.seconds < 60 and p.peak_bytes > 100_000 for p in found[:2])
    assert found[1].peak_bytes > found[0].peak_bytes
    assert found[2].seconds > 60


@pytest.mark.slow
def test_what_cannot_be_measured_is_named() -> None:
    with pytest.raises(ScalingError, match=r"none failed with 2 views: .*no engine at none"):
        measure(Spec("none"), (2, 3))
    with pytest.raises(ScalingError, match="takes more than 1 s, and 0 smaller ones"):
        measure(Spec("oracle"), (400, 401), limit_s=1)
