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

"""Numbers in sentences: plurals, digits, and nothing that claims more than there is."""

from __future__ import annotations

import pytest

from mvdust3r_ros.evaluation.report.metric_catalogue import show
from mvdust3r_ros.wording import decimal, percent, plural


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "keyframe", "2 keyframes"),
        (1, "depth map", "1 depth map"),
        (3, "depth map", "3 depth maps"),
        (2, "box", "2 boxes"),
        (2, "entry", "2 entries"),
        (2, "way", "2 ways"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int, noun: str, text: str) -> None:
    assert plural(count, noun) == text


@pytest.mark.parametrize("value", [-0.0, -0.0004, -1e-9])
def test_a_zero_has_no_sign(value: float) -> None:
    assert decimal(value, 3) == "0.000"
    assert show("ate_m", value) == "0.000 m"
    assert show("scale_error", value / 100) == "0.0 %"
    assert show("scale_error", -value / 100) == "0.0 %"
    assert show("confidence_rank", value) in ("0", "0.00")


def test_a_negative_number_keeps_its_sign() -> None:
    assert decimal(-0.0006, 3) == "-0.001"
    assert show("scale_error", -0.021) == "-2.1 %"
    assert show("confidence_rank", -0.42) == "-0.42"


def test_a_length_that_happens_to_be_whole_keeps_its_digits() -> None:
    assert show("ate_m", 0.0) == "0.000 m"
    assert show("ate_m", 2.0) == "2.00 m"
    assert show("windows", 2) == "2"
    assert show("nd", None) == "-"


def test_a_share_reads_as_all_or_nothing_only_when_it_is() -> None:
    assert percent(1.0) == "100 %"
    assert percent(0.999) == "99 %"
    assert percent(0.0) == "0 %"
    assert percent(0.001) == "1 %"
    assert percent(0.9996, 1) == "99.9 %"
    assert percent(0.38) == "38 %"
