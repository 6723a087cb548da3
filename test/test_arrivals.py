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

"""Why nothing arrives, in words; and durations in constant memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdust3r_ros.ros.health.arrivals import Arrivals, Durations, Offer, explain_silence

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def why(
    offers: list[Offer],
    *,
    asks: str = "reliable",
    others: tuple[str, ...] = (),
    stands: bool = False,
) -> str:
    arrivals = Arrivals("/image", IMAGE, asks, "image_reliability")
    arrivals.last_s -= 7.0
    silence = explain_silence(arrivals, offers, others, clock_stopped=stands)
    assert silence.published == bool(offers)
    head = "nothing on /image for 7 s: "
    assert silence.message.startswith(head)
    return silence.message.removeprefix(head)


def test_nobody_publishes() -> None:
    assert why([]) == "nobody publishes it; of this type there are: none"
    assert why([], others=("/a (raw)", "/b")).endswith("there are: /a (raw), /b")


def test_another_type() -> None:
    said = why([Offer("/camera", COMPRESSED, "reliable")])
    assert said == (
        f"/camera sends {COMPRESSED} and this node takes {IMAGE}; set ros.image_transport to "
        "compressed"
    )
    assert "remap the topic" in why([Offer("/x", "std_msgs/msg/String", "reliable")])


def test_a_publisher_that_offers_less() -> None:
    said = why([Offer("/camera", IMAGE, "best_effort")])
    assert said == (
        "/camera offers best_effort and this node asks for reliable; set ros.image_reliability to "
        "best_effort"
    )


def test_a_publisher_that_would_fit() -> None:
    said = why([Offer("/camera", IMAGE, "best_effort")], asks="best_effort")
    assert said.startswith("published by /camera (best_effort), and it would fit")
    mixed = [Offer("/a", IMAGE, "best_effort"), Offer("/b", IMAGE, "reliable")]
    assert "/b (reliable)" in why(mixed)


def test_a_clock_that_stands_still_is_said_beside_everything_else() -> None:
    assert "use_sim_time is set and /clock stands still" in why([], stands=True)


def test_arrivals_count_and_time_each_message() -> None:
    arrivals = Arrivals("/image", IMAGE, "reliable", "image_reliability")
    before_s = arrivals.last_s
    arrivals.add(0.001)
    arrivals.add(0.002)
    assert (arrivals.count, arrivals.durations.count) == (2, 2)
    assert arrivals.last_s >= before_s
    assert 0.002 <= arrivals.durations.percentile(0.99) < 0.0025


@given(st.lists(st.floats(2e-6, 500.0), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_a_percentile_is_right_to_a_bin(seconds: list[float], share: float) -> None:
    durations = Durations()
    for value in seconds:
        durations.add(value)
    exact = float(np.quantile(seconds, share, method="inverted_cdf"))
    assert exact / 1.001 <= durations.percentile(share) <= exact * 2**0.25 * 1.001


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e9, float("inf")])
def test_no_duration_is_out_of_range(seconds: float) -> None:
    durations = Durations()
    durations.add(min(seconds, 1e300))
    assert durations.count == 1
    assert durations.percentile(1.0) > 0


def test_nothing_measured_is_zero() -> None:
    assert Durations().percentile(0.99) == 0.0
