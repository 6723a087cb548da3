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

"""The ladder: what steps down, what climbs, and that it never does anything else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mvdust3r_ros.ros.health.degradation import (
    LATENCY_WINDOWS,
    MAX_PATIENCE,
    DegradationLimits,
    DegradationPolicy,
    Outcome,
    ServiceLevel,
)

GOOD = Outcome(0.1)
BAD = Outcome(0.1, "ONNX Runtime failed")
FULL_MEMORY = Outcome(0.1, "out of memory", out_of_memory=True)
MIDDLE = (ServiceLevel.FEWER_VIEWS, ServiceLevel.ONE_REFERENCE, ServiceLevel.FALLBACK_ENGINE)
outcomes = st.lists(
    st.one_of(
        st.just(GOOD),
        st.just(BAD),
        st.just(FULL_MEMORY),
        st.floats(0, 10).map(Outcome),
    ),
    max_size=200,
)
levels = st.sets(st.sampled_from(MIDDLE))


@given(outcomes, levels, st.integers(1, 4), st.integers(1, 30), st.sampled_from([0.0, 0.5, 5.0]))
def test_each_outcome_moves_at_most_one_level_and_never_to_one_that_is_not_there(
    sequence: list[Outcome], there: set[ServiceLevel], failures: int, healthy: int, limit_s: float
) -> None:
    policy = DegradationPolicy(DegradationLimits(failures, healthy, limit_s), sorted(there))
    steps = [ServiceLevel.FULL, *sorted(there), ServiceLevel.STOPPED]
    for outcome in sequence:
        before = policy.level
        said = policy.record(outcome)
        assert said is None or said == policy.level != before
        moved = steps.index(policy.level) - steps.index(before)
        assert moved in (-1, 0, 1)
        if moved == 1 and not outcome.failure:
            assert limit_s
            assert policy.level != ServiceLevel.STOPPED
        if moved == -1:
            assert not outcome.failure
        if outcome.out_of_memory and before != ServiceLevel.STOPPED:
            assert moved == 1
        if before == ServiceLevel.STOPPED:
            assert policy.level == ServiceLevel.STOPPED


@given(outcomes, levels)
def test_health_leads_back_to_the_top(sequence: list[Outcome], there: set[ServiceLevel]) -> None:
    policy = DegradationPolicy(DegradationLimits(3, 5, 1.0), sorted(there))
    for outcome in sequence:
        policy.record(outcome)
    if policy.level == ServiceLevel.STOPPED:
        return
    for _ in range(len(MIDDLE) * (5 * MAX_PATIENCE + LATENCY_WINDOWS) + 1):
        policy.record(GOOD)
    assert policy.level == ServiceLevel.FULL


@given(st.lists(st.booleans(), max_size=100))
def test_fewer_failures_in_a_row_than_the_limit_change_nothing(fails: list[bool]) -> None:
    policy = DegradationPolicy(DegradationLimits(3, 1000), MIDDLE)
    in_a_row = 0
    for bad in fails:
        in_a_row = in_a_row + 1 if bad and in_a_row < 2 else 0
        policy.record(BAD if in_a_row else GOOD)
    assert policy.level == ServiceLevel.FULL


def test_failures_walk_down_level_by_level_and_end_at_the_last() -> None:
    policy = DegradationPolicy(DegradationLimits(failures=2), MIDDLE)
    walked = [policy.record(BAD) for _ in range(20)]
    assert [level for level in walked if level is not None] == [*MIDDLE, ServiceLevel.STOPPED]
    assert policy.reason == BAD.failure


def test_latency_steps_down_after_enough_windows_and_says_by_how_much() -> None:
    policy = DegradationPolicy(DegradationLimits(max_latency_s=1.0), MIDDLE)
    for i in range(LATENCY_WINDOWS):
        assert policy.level == ServiceLevel.FULL, i
        policy.record(Outcome(2.0))
    assert policy.level == ServiceLevel.FEWER_VIEWS
    assert policy.reason == "95 % of the windows take up to 2.00 s, the limit is 1 s"
    assert policy.latency_p95_s is None, "measured anew on each level"


def test_one_slow_window_in_twenty_is_within_the_budget() -> None:
    policy = DegradationPolicy(DegradationLimits(max_latency_s=1.0, healthy=10**6), MIDDLE)
    for i in range(400):
        policy.record(Outcome(9.0 if i % LATENCY_WINDOWS == 7 else 0.9))
    assert policy.level == ServiceLevel.FULL
    assert policy.latency_p95_s == 0.9


def test_it_stays_down_while_the_latency_leaves_no_room() -> None:
    policy = DegradationPolicy(DegradationLimits(max_latency_s=1.0, healthy=5), MIDDLE)
    for _ in range(LATENCY_WINDOWS):
        policy.record(Outcome(2.0))
    for _ in range(300):
        policy.record(Outcome(0.8))
    assert policy.level == ServiceLevel.FEWER_VIEWS
    for _ in range(LATENCY_WINDOWS):
        policy.record(Outcome(0.4))
    assert policy.level == ServiceLevel.FULL


def test_each_climb_that_fails_waits_twice_as_long_for_the_next() -> None:
    policy = DegradationPolicy(
        DegradationLimits(failures=1, healthy=4), [ServiceLevel.FEWER_VIEWS]
    )
    policy.record(BAD)
    waits = []
    for _ in range(7):
        waits.append(0)
        while policy.level != ServiceLevel.FULL:
            policy.record(GOOD)
            waits[-1] += 1
        policy.record(BAD)
    assert waits == [4, 8, 16, 32, 64, 64, 64]
