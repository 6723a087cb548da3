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

"""What costmaps have to tolerate, from the stamps and the times of transforms."""

from __future__ import annotations

from mvdust3r_ros.ros.tf_timing import TfTiming

MS = 1_000_000


def test_the_tolerance_is_the_age_that_the_newest_stamp_had_before_the_next_came() -> None:
    timing = TfTiming()
    assert timing.figures() == {}
    # Images every 200 ms, dealt with after 50 ms, stamps 100 ms ahead; one image is missing.
    for image_ms in (1000, 1200, 1400, 1800, 2000):
        timing.sent((image_ms + 100) * MS, (image_ms + 50) * MS)
    figures = timing.figures()
    assert figures["TF stamps apart at most (s)"] == "0.400"
    assert figures["transform_tolerance needed (s)"] == "0.350"


def test_stamps_far_enough_ahead_need_no_tolerance_and_a_jump_back_is_no_gap() -> None:
    timing = TfTiming()
    for image_ms in (90_000, 90_030, 1000, 1030):
        timing.sent((image_ms + 100) * MS, (image_ms + 10) * MS)
    figures = timing.figures()
    assert figures["TF stamps apart at most (s)"] == "0.030"
    assert figures["transform_tolerance needed (s)"] == "0.000"
