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

"""Limits that a report has to keep."""

from __future__ import annotations

from typing import Any

import pytest

from mvdust3r_ros.evaluation.report.metric_catalogue import METRICS, show
from mvdust3r_ros.evaluation.report.requirements import (
    RequirementError,
    failures,
    parse_requirements,
)

REPORT: dict[str, Any] = {
    "numbers": {"ate_m": 0.15, "grid_iou": 0.7, "nd": None},
    "timing": {"numbers": {"window_p95_ms": 80.0}},
    "notes": ["no truth"],
}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("ate_m<0.2, grid_iou >= 0.7,window_p95_ms<=80", []),
        ("ate_m<0.15", ["ate_m<0.15: it is 0.15"]),
        ("grid_iou>0.9,ate_m<0.1", ["grid_iou>0.9: it is 0.7", "ate_m<0.1: it is 0.15"]),
        ("nd<1", ["nd<1: there is no nd (no truth)"]),
    ],
)
def test_failing_limits_are_told_with_the_value(text: str, lines: list[str]) -> None:
    assert failures(parse_requirements(text), REPORT) == lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ate<0.1", "did you mean ate_m"),
        ("ate_m=0.1", "not NAME<LIMIT"),
        ("ate_m<ten", "not NAME<LIMIT"),
        ("<1", "not NAME<LIMIT"),
    ],
)
def test_a_term_that_cannot_be_meant_is_explained(text: str, words: str) -> None:
    with pytest.raises(RequirementError, match=words):
        parse_requirements(text)


def test_every_number_says_what_it_means() -> None:
    assert all(q.meaning and q.better in ("lower", "higher", "") for q in METRICS.values())


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("ate_m", 0.01234, "0.012 m"), ("grid_iou", 0.705, "70.5 %"), ("frames", 100, "100"),
     ("scale_error", -1e-9, "0.0 %"), ("nd", None, "-"), ("window_p50_ms", 61.234, "61.2 ms")],
)  # fmt: skip
def test_numbers_are_shown_with_their_unit(name: str, value: float | None, text: str) -> None:
    assert show(name, value) == text
