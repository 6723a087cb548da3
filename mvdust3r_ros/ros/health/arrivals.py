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

"""Statistics of arriving inputs and callback times, and explanations for missing inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

FASTEST_S, BINS_PER_FACTOR_TWO, BINS = 1e-6, 4, 120
"""From 1 us to about 1000 s, each bin 19 % wider than the previous one."""


class Durations:
    """A histogram of durations in constant memory, with percentiles to within 19 %."""

    def __init__(self) -> None:
        """Start empty."""
        self._counts = [0] * BINS
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        steps = math.log2(max(seconds, FASTEST_S) / FASTEST_S) * BINS_PER_FACTOR_TWO
        self._counts[min(int(steps), BINS - 1)] += 1
        self.count += 1

    def percentile(self, share: float) -> float:
        """Return the upper end (s) of the bin at this share of the durations; 0 without any."""
        left = share * self.count
        for i, count in enumerate(self._counts):
            left -= count
            if left <= 0 and self.count:
                return float(FASTEST_S * 2 ** ((i + 1) / BINS_PER_FACTOR_TWO))
        return 0.0


@dataclass(frozen=True)
class Offer:
    """QoS and type that a publisher offers.

    Attributes:
        node: full name of its node.
        kind: message type, for example "sensor_msgs/msg/Image".
        reliability: "reliable" or "best_effort".
    """

    node: str
    kind: str
    reliability: str


class Arrivals:
    """Counts the messages that arrive on one topic.

    Attributes:
        topic: resolved name.
        kind: message type, for example "sensor_msgs/msg/Image".
        reliability: the reliability that the node requests.
        parameter: name of the parameter that sets it.
        count: messages so far.
        lost: messages lost in transit, as far as DDS reports them.
        last_s: monotonic time of the newest message; of the subscription before the first.
        durations: durations of the callback, without ROS's own work on the message.
    """

    def __init__(self, topic: str, kind: str, reliability: str, parameter: str) -> None:
        """Start without messages."""
        self.topic, self.kind = topic, kind
        self.reliability, self.parameter = reliability, parameter
        self.count = 0
        self.lost = 0
        self.last_s = time.monotonic()
        self.durations = Durations()

    def add(self, callback_s: float) -> None:
        """Count a message and the duration of its callback."""
        self.count += 1
        self.last_s = time.monotonic()
        self.durations.add(callback_s)

    def count_lost(self, messages: int) -> None:
        """Count messages that were lost in transit."""
        self.lost += messages

    @property
    def silent_s(self) -> float:
        """Time since the newest message."""
        return time.monotonic() - self.last_s


@dataclass(frozen=True)
class Silence:
    """Why nothing arrives.

    Attributes:
        message: the reason and the remedy.
        published: whether the topic has a publisher.
    """

    message: str
    published: bool


def explain_silence(
    arrivals: Arrivals, offers: Sequence[Offer], others: Sequence[str], *, clock_stopped: bool
) -> Silence:
    """Return the likely reason why nothing arrives on a topic, and the remedy.

    Args:
        arrivals: the topic.
        offers: its publishers.
        others: names of other topics that may be the intended ones.
        clock_stopped: whether the node waits for simulated time without a publisher.
    """
    reasons = [_reason(arrivals, offers, others)]
    if clock_stopped:
        reasons.append(CLOCK_HINT)
    head = f"nothing on {arrivals.topic} for {arrivals.silent_s:.0f} s: "
    return Silence(head + "; ".join(reasons), bool(offers))


CLOCK_HINT = (
    "use_sim_time is set and /clock stands still: play the bag with --clock, or set use_sim_time "
    "to false"
)


def _reason(arrivals: Arrivals, offers: Sequence[Offer], others: Sequence[str]) -> str:
    if not offers:
        there = ", ".join(others) if others else "none"
        return f"nobody publishes it; of this type there are: {there}"
    fitting = [o for o in offers if o.kind == arrivals.kind]
    if not fitting:
        return _other_kind(arrivals, offers[0])
    unreliable = [o for o in fitting if o.reliability == "best_effort"]
    if arrivals.reliability == "reliable" and len(unreliable) == len(fitting):
        return (
            f"{unreliable[0].node} offers best_effort and this node asks for reliable; set "
            f"ros.{arrivals.parameter} to best_effort"
        )
    names = ", ".join(f"{o.node} ({o.reliability})" for o in fitting)
    return f"published by {names}, and it would fit; look at that node and at the network"


def _other_kind(arrivals: Arrivals, offer: Offer) -> str:
    remedy = "remap the topic"
    if "Image" in arrivals.kind and "Image" in offer.kind:
        transport = "compressed" if "Compressed" in offer.kind else "raw"
        remedy = f"set ros.image_transport to {transport}"
    return f"{offer.node} sends {offer.kind} and this node takes {arrivals.kind}; {remedy}"
