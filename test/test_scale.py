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

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray, ScaleEstimate, ScaleSource
from mvdust3r_ros.geometry import Sim3
from mvdust3r_ros.placing.scale import ScaleEvidence, ScaleFilter, odometry_evidence

ODOM, MODEL, NONE = ScaleSource.ODOMETRY, ScaleSource.MODEL, ScaleSource.NONE


def path(positions: Sequence[Sequence[float]]) -> FloatArray:
    T = np.tile(np.eye(4), (len(positions), 1, 1))
    T[:, :3, 3] = positions
    return T


# Evidence from odometry


@given(st.floats(0.01, 100), st.integers(2, 8), st.integers(0, 100))
def test_exact_odometry_gives_the_exact_scale(scale: float, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    T_odom = path(rng.normal(size=(count, 3)))
    S = Sim3(1 / scale, Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3))
    T_window = np.stack([S.apply_pose(T) for T in T_odom])
    found = odometry_evidence(T_window, T_odom, 0.0, 0.02)
    assert found.scale == pytest.approx(scale)
    assert found.rel_sigma == pytest.approx(0.02, abs=1e-6)
    assert found.source == ODOM


def test_sigma_by_hand() -> None:
    # centres one metre from their mean; the recovered ones are off by 0.3 m to the side
    T_odom = path([[-1, 0, 0], [1, 0, 0], [-1, 0, 0], [1, 0, 0]])
    T_window = path([[-1, 0.3, 0], [1, 0.3, 0], [-1, -0.3, 0], [1, -0.3, 0]])
    found = odometry_evidence(T_window, T_odom, 0.1, 0.05)
    assert found.scale == pytest.approx(1.0)
    # noise averages out over four centres; the square of the residual does not
    assert found.rel_sigma == pytest.approx(math.hypot(0.3 / 2, 0.3**2, 0.05))


def test_the_noise_of_a_coarse_network_does_not_make_the_map_smaller() -> None:
    """Noise makes recovered ways longer; a fit the other way round would shrink them by half."""
    rng = np.random.default_rng(1)
    T_odom = path(np.c_[np.arange(8.0), np.zeros((8, 2))])
    noise_m = float(T_odom[:, 0, 3].std())
    found = []
    for _ in range(300):
        T_window = T_odom.copy()
        T_window[:, 0, 3] += rng.normal(0, noise_m, 8)
        if (item := odometry_evidence(T_window, T_odom, 0.1, 0.02)) is not None:
            found.append(item.scale)
    assert 0.9 < np.median(found) < 1.1


def test_a_short_path_is_no_evidence() -> None:
    T = path([[0, 0, 0], [0.2, 0, 0]])  # 0.1 m from the mean
    assert odometry_evidence(T, T, 0.101, 0.02) is None
    assert odometry_evidence(T, T, 0.099, 0.02).scale == pytest.approx(1.0)


def test_a_camera_that_stands_still_in_either_frame_is_no_evidence() -> None:
    still, moving = path([[1, 2, 3]] * 3), path([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    for T_window, T_odom in [(still, moving), (moving, still), (still, still)]:
        assert odometry_evidence(T_window, T_odom, 0.0, 0.02) is None


# The filter


def evidence(scale: float, sigma: float, source: ScaleSource = ODOM) -> ScaleEvidence:
    return ScaleEvidence(scale, sigma, source)


def started(rel_sigma: float, source: ScaleSource = ODOM) -> ScaleFilter:
    return ScaleFilter().known(ScaleEstimate(1.0, rel_sigma, source))


def test_without_evidence_the_scale_is_one_and_unknown() -> None:
    scale, after = ScaleFilter().fuse(None, [])
    assert scale == 1.0
    assert after.estimate == ScaleEstimate(1.0, math.inf, NONE)


def test_a_joint_without_evidence_keeps_the_scale_of_the_map() -> None:
    scale, after = ScaleFilter().fuse((2.5, 0.01), [])
    assert scale == pytest.approx(2.5)
    assert (after.estimate.rel_sigma, after.estimate.source) == (math.inf, NONE)
    scale, after = started(0.03).fuse((2.5, 0.04), [])
    assert scale == pytest.approx(2.5)
    assert after.estimate.rel_sigma == pytest.approx(0.05)
    assert after.estimate.source == ODOM


def test_the_first_evidence_is_taken_as_it_is() -> None:
    scale, after = ScaleFilter().fuse(None, [evidence(3.0, 0.1)])
    assert scale == pytest.approx(3.0)
    assert after.estimate == ScaleEstimate(scale, pytest.approx(0.1), ODOM)
    scale, _ = ScaleFilter().fuse((1.7, 0.01), [evidence(3.0, 0.1)])
    assert scale == pytest.approx(3.0)


def test_two_opinions_are_weighted_by_inverse_variance() -> None:
    scale, after = ScaleFilter().fuse(None, [evidence(1.1, 0.2, MODEL), evidence(1.0, 0.1)])
    assert math.log(scale) == pytest.approx(math.log(1.1) * 0.2)
    assert after.estimate.rel_sigma == pytest.approx(1 / math.sqrt(1 / 0.01 + 1 / 0.04))
    assert after.estimate.source == ODOM


def test_map_and_evidence_are_weighted_by_inverse_variance() -> None:
    scale, after = started(0.03).fuse((2.0, 0.04), [evidence(2.1, 0.1)])
    gain = 0.0025 / (0.0025 + 0.01)
    assert math.log(scale) == pytest.approx(math.log(2.0) + gain * math.log(1.05))
    assert after.estimate.rel_sigma == pytest.approx(math.sqrt((1 - gain) * 0.0025))


def test_the_source_is_the_stronger_one() -> None:
    _, weak = started(0.05).fuse((1.0, 0.0), [evidence(1.0, 0.2, MODEL)])
    assert weak.estimate.source == ODOM
    _, strong = started(0.2, MODEL).fuse((1.0, 0.0), [evidence(1.0, 0.05)])
    assert strong.estimate.source == ODOM
    _, just = started(0.1, MODEL).fuse((1.0, 0.0), [evidence(1.0, 0.09)])
    assert just.estimate.source == ODOM
    _, first = ScaleFilter().fuse((1.0, 0.1), [evidence(1.0, 0.3, MODEL)])
    assert first.estimate.source == MODEL


def test_weak_evidence_names_the_source_only_where_there_is_none() -> None:
    for before, after in ((NONE, MODEL), (ODOM, ODOM)):
        _, found = started(0.05, before).fuse((1.0, 0.0), [evidence(1.0, 0.2, MODEL)])
        assert found.estimate.source == after


def test_the_history_holds_what_was_used_and_each_joint_from_the_window_before() -> None:
    scale, outlier = ScaleFilter(), evidence(9.0, 0.05, MODEL)
    used = [evidence(s, 0.05) for s in (2.0, 2.2, 2.1)]
    for k, item in enumerate(used):
        chained = (2.0 * 1.1**k, 0.04) if k else None
        scale = scale.fuse(chained, [item, outlier] if k else [item])[1]
    windows = scale.history.windows
    assert [w.evidence for w in windows] == [(item,) for item in used]
    assert windows[0].joint is None
    for k in (1, 2):
        grown = math.log(2.0 * 1.1**k) - windows[k - 1].log_scale
        assert windows[k].joint == pytest.approx((grown, 0.04))


def test_from_a_filter_of_earlier_it_goes_on_as_if_nothing_had_come_after_it() -> None:
    windows = [((1.0, 0.1) if k else None, [evidence(1.0 + 0.01 * k, 0.1)]) for k in range(6)]

    def filters(count: int) -> list[ScaleFilter]:
        made = [ScaleFilter()]
        for chained, opinions in windows[:count]:
            made.append(made[-1].fuse(chained, opinions)[1])
        return made

    every, alone = filters(6), filters(3)[-1]
    old = every[3]
    assert [len(scale.history.windows) for scale in every] == list(range(7))
    assert old.estimate == alone.estimate
    assert old.history.windows == alone.history.windows
    new = (1.0, 0.1), [evidence(1.1, 0.1)]
    assert old.fuse(*new)[1].estimate == alone.fuse(*new)[1].estimate
    assert old.fuse(*new)[1].estimate != every[6].fuse(*new)[1].estimate


def test_evidence_four_sigmas_off_is_left_out() -> None:
    spread = math.hypot(0.05, 0.1)
    for sigmas, used in [(3.9, True), (4.1, False), (-3.9, True), (-4.1, False)]:
        scale, after = started(0.03).fuse((1.0, 0.04), [evidence(math.exp(sigmas * spread), 0.1)])
        assert (abs(math.log(scale)) > 1e-6) == used
        assert (after.estimate.rel_sigma < 0.05 - 1e-6) == used


def test_a_filter_stays_as_it_is_whatever_comes_after_it() -> None:
    scale = ScaleFilter().fuse(None, [evidence(2.0, 0.2)])[1]
    before = pickle.dumps(scale)
    _, after = scale.fuse((1.1, 0.05), [evidence(3.0, 0.1)])
    known = scale.known(ScaleEstimate(5.0, 0.1, MODEL))
    larger = scale.resized(np.array([0.3]))
    assert pickle.dumps(scale) == before
    assert [len(s.history.windows) for s in (scale, after, known, larger)] == [1, 2, 2, 1]
    assert after.estimate != scale.estimate
    assert known.estimate == ScaleEstimate(5.0, 0.1, MODEL)
    assert larger.history.newest_log_scale == pytest.approx(math.log(2.0) + 0.3)


@given(st.permutations([evidence(1.0, 0.1), evidence(1.05, 0.2, MODEL), evidence(0.97, 0.15)]))
def test_the_order_of_opinions_does_not_matter(opinions: list[ScaleEvidence]) -> None:
    expected, by_scale = started(0.1).fuse((1.0, 0.01), sorted(opinions, key=lambda e: e.scale))
    found, after = started(0.1).fuse((1.0, 0.01), opinions)
    assert found == expected
    assert after.estimate == by_scale.estimate


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_units_of_the_window_do_not_matter(factor: float, chained: float) -> None:
    a, after_a = started(0.1).fuse((chained, 0.01), [evidence(chained * 1.02, 0.1)])
    b, after_b = started(0.1).fuse(
        (chained * factor, 0.01), [evidence(chained * factor * 1.02, 0.1)]
    )
    assert b == pytest.approx(a * factor)
    assert after_a.estimate.rel_sigma == pytest.approx(after_b.estimate.rel_sigma)


def test_many_windows_of_noisy_odometry_agree_on_the_scale() -> None:
    rng = np.random.default_rng(0)
    scale = ScaleFilter()
    error = 0.0  # of the map, on a logarithmic axis
    for window in range(30):
        unit = math.exp(rng.normal())  # each window has a scale of its own
        chained = None if window == 0 else (math.exp(error) / unit, 0.005)
        truth = math.exp(rng.normal() * 0.03) / unit
        used, scale = scale.fuse(chained, [evidence(truth, 0.03)])
        error = math.log(used * unit)
    assert abs(error) < 3 * scale.estimate.rel_sigma
    assert 0.005 < scale.estimate.rel_sigma < 0.015
