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

"""A window's clouds one by one, the newest window first in line."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from mvdust3r_ros.ros.outbox import SPREAD_S, Outbox

LIMIT_S = 10.0


class Sent:
    """What an outbox sent, and when."""

    def __init__(self) -> None:
        self.items: list[object] = []
        self.at_s: list[float] = []
        self.box = Outbox(self.take)

    def take(self, item: object) -> None:
        if item == "broken":
            raise RuntimeError("ROS has ended")
        self.items.append(item)
        self.at_s.append(time.monotonic())

    def wait_for(self, count: int) -> None:
        end_s = time.monotonic() + LIMIT_S
        while len(self.items) < count and time.monotonic() < end_s:
            time.sleep(0.005)
        assert len(self.items) == count


@pytest.fixture
def sent() -> Iterator[Sent]:
    made = Sent()
    yield made
    made.box.close()


@pytest.mark.slow
def test_items_go_out_in_their_order_a_period_apart_the_first_at_once(sent: Sent) -> None:
    begin_s = time.monotonic()
    sent.box.put([1, 2, 3], 0.4)
    sent.wait_for(3)
    sent.box.put([4], 0.4)
    sent.wait_for(4)
    assert sent.items == [1, 2, 3, 4]
    assert sent.at_s[0] < begin_s + 0.4
    assert all(b - a >= 0.4 for a, b in itertools.pairwise(sent.at_s))
    assert (sent.box.hurried, sent.box.dropped) == (0, 0)


def test_what_is_left_goes_out_before_the_next_window_and_is_counted(sent: Sent) -> None:
    sent.box.put(["a", "b", "c"], 60.0)
    sent.wait_for(1)
    sent.box.put(["d", "e"], 60.0)
    assert sent.items == ["a", "b", "c"]
    assert sent.box.hurried == 2
    sent.box.flush()
    assert sent.items == ["a", "b", "c", "d", "e"]


def test_without_a_period_everything_goes_out_at_once(sent: Sent) -> None:
    sent.box.put(list(range(50)), 0.0)
    assert sent.items == list(range(50))


@pytest.mark.slow
def test_a_large_window_is_out_before_tf_forgets_its_stamps(sent: Sent) -> None:
    count = 300
    sent.box.put(list(range(count)), 0.25)
    begin_s = time.monotonic()
    sent.wait_for(count)
    assert time.monotonic() - begin_s < SPREAD_S + 2.0


def test_what_is_dropped_or_cannot_be_sent_is_counted(sent: Sent) -> None:
    sent.box.put(["broken", "a", "b", "c"], 0.2)
    sent.wait_for(1)
    sent.box.drop()
    assert sent.box.dropped == 3
    sent.box.put(["d"], 0.2)
    sent.wait_for(2)
    assert sent.items == ["a", "d"]
