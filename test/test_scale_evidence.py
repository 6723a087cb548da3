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

import numpy as np
import pytest

from mvdust3r_ros.datatypes import FloatArray, ScaleEstimate, ScaleSource
from mvdust3r_ros.placing import scale
from mvdust3r_ros.placing.scale import (
    ScaleEvidence,
    ScaleFilter,
    ScaleHistory,
    SizedWindow,
    depth_evidence,
    height_evidence,
    model_evidence,
    scale_gate,
)

ODOM, HEIGHT = ScaleSource.ODOMETRY, ScaleSource.CAMERA_HEIGHT


def run(scale: ScaleFilter, windows: list[list[ScaleEvidence]]) -> ScaleEstimate:
    for index, evidence in enumerate(windows):
        _, scale = scale.fuse((1.0, 0.0) if index else None, evidence)
    return scale.estimate


# Biases that windows share


def test_a_shared_bias_does_not_average_out() -> None:
    item = ScaleEvidence(1.0, 0.05, ODOM, 0.03)
    sigma = [run(ScaleFilter(), [[item]] * n).rel_sigma for n in (1, 4, 400)]
    own = math.sqrt(0.05**2 - 0.03**2)
    assert sigma[0] == pytest.approx(0.05)
    assert sigma[1] == pytest.approx(math.hypot(0.03, own / 2), rel=1e-4)
    assert sigma[2] == pytest.approx(math.hypot(0.03, own / 20), rel=1e-3)


def test_two_sources_tell_their_biases_apart() -> None:
    wheels, height = ScaleEvidence(1.03, 0.03, ODOM, 0.03), ScaleEvidence(1.0, 0.02, HEIGHT, 0.01)
    estimate = run(ScaleFilter(), [[wheels, height]] * 50)
    # the height's own errors average out, its bias of 1 % and the wheels' of 3 % stay
    assert estimate.rel_sigma == pytest.approx(1 / math.hypot(1 / 0.01, 1 / 0.03), rel=0.05)


@pytest.mark.parametrize("windows", [1, 5, 30])
def test_two_thirds_of_the_errors_are_within_one_sigma(windows: int) -> None:
    rng = np.random.default_rng(4)
    inside, count = 0, 400
    for _ in range(count):
        bias, log_scale = rng.normal(0, 0.02), 0.0  # of the map, true metres per unit
        scale = ScaleFilter()
        for k in range(windows):
            truth = rng.normal(0, 0.5)  # log of metres per window unit
            joint = rng.normal(0, 0.005)
            seen = math.exp(truth + bias + rng.normal(0, 0.03))
            item = ScaleEvidence(seen, math.hypot(0.03, 0.02), ODOM, 0.02)
            chained = (math.exp(truth + log_scale + joint), 0.005) if k else None
            factor, scale = scale.fuse(chained, [item])
            log_scale = math.log(factor) - truth  # what the map is too large by
        inside += abs(log_scale) < scale.estimate.rel_sigma
    assert 0.60 < inside / count < 0.76


# The gate


def test_the_gate_is_shut_without_evidence_and_says_what_to_do() -> None:
    is_open, hint = scale_gate(ScaleEstimate(), 0.1)
    assert not is_open
    for remedy in (
        "odometry", "TF", "map.camera_height_m", "stitch.use_depth", "ros.cameras", "engine that"
    ):  # fmt: skip
        assert remedy in hint


def test_the_gate_opens_at_the_limit() -> None:
    assert scale_gate(ScaleEstimate(1.0, 0.1, ODOM), 0.1) == (True, "")
    is_open, hint = scale_gate(ScaleEstimate(1.0, 0.1501, ScaleSource.MODEL), 0.1)
    assert not is_open
    assert "15% from model (limit 10%)" in hint


def test_a_metric_model_opens_the_gate_within_three_windows() -> None:
    opened = [
        scale_gate(run(ScaleFilter(), [[model_evidence(0.15)]] * n), 0.1)[0] for n in (1, 2, 3)
    ]
    assert opened == [False, False, True]


# Camera height


def room(rng: np.random.Generator, size: float) -> FloatArray:
    """Floor at z = 0 and two walls, in units of 1 / size metres."""
    floor = rng.uniform([0, 0, 0], [4, 4, 0], (1500, 3))
    walls = rng.uniform([0, 0, 0], [4, 0, 2.5], (800, 3)), rng.uniform(0, [0, 4, 2.5], (800, 3))
    return np.concatenate([floor, *walls]) / size


@pytest.mark.parametrize("size", [0.2, 1.0, 7.0])
def test_the_height_above_the_floor_gives_the_scale(size: float) -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[1.0, 1, 0.6], [1.5, 1, 0.6], [2, 1.2, 0.6]]) / size
    points = room(rng, size)
    noisy = centres[0] + (points - centres[0]) * (1 + rng.normal(0, 0.01, (len(points), 1)))
    found = height_evidence(noisy, centres, 0.6, 10.0)
    assert found is not None
    assert found.source == HEIGHT
    assert found.scale == pytest.approx(size, rel=0.01)
    assert found.rel_sigma == pytest.approx(0.02, abs=1e-3)
    assert found.bias_sigma == 0.01


def test_cameras_at_different_heights_are_weaker_evidence() -> None:
    points = room(np.random.default_rng(0), 1.0)
    centres = np.array([[1.0, 1, 0.5], [1.5, 1, 0.6], [2, 1.2, 0.7]])
    found = height_evidence(points, centres, 0.6, 10.0)
    assert found is not None
    spread = math.sqrt(0.02 / 3) / 0.6 / math.sqrt(3)
    assert found.rel_sigma == pytest.approx(math.hypot(0.02, spread), rel=0.02)


def test_without_a_floor_there_is_no_evidence() -> None:
    wall = np.random.default_rng(0).uniform([0, 3, -1], [4, 3, 1], (500, 3))
    assert height_evidence(wall, np.zeros((2, 3)), 0.6, 10.0) is None


# Depth images


def test_depth_images_give_the_scale_in_spite_of_holes_and_outliers() -> None:
    rng = np.random.default_rng(1)
    predicted = rng.uniform(0.5, 2.0, (4, 20, 20))
    depth = predicted * 3.0
    depth[:, ::3] *= 5.0  # a third of the rows is wrong
    depth[:, 1::5] = 0.0
    depth[0, 2, :] = np.nan
    predicted[1, 5:9] = np.nan
    found = depth_evidence(predicted, depth)
    assert found is not None
    assert found.source == ScaleSource.DEPTH
    assert found.scale == pytest.approx(3.0)
    assert found.rel_sigma == pytest.approx(0.02)


def test_views_that_disagree_raise_the_sigma_of_depth() -> None:
    predicted = np.ones((3, 10, 10))
    depth = predicted * np.exp([0.0, 0.1, -0.1])[:, None, None]
    found = depth_evidence(predicted, depth)
    assert found is not None
    assert found.scale == pytest.approx(1.0)
    assert found.rel_sigma == pytest.approx(math.hypot(0.02, 0.14826 / math.sqrt(3)))


def test_few_pixels_of_depth_are_no_evidence() -> None:
    depth = np.zeros((2, 10, 10))
    depth[:, 0, :] = 2.0
    assert depth_evidence(np.ones((2, 10, 10)), depth) is None


# All windows together


def test_windows_share_a_contradiction_by_their_sigmas() -> None:
    def odometry(log_scale: float) -> tuple[ScaleEvidence, ...]:
        return (ScaleEvidence(math.exp(log_scale), 0.01, ScaleSource.ODOMETRY),)

    history = ScaleHistory((
        SizedWindow(0.0, None, odometry(0.0)),
        SizedWindow(0.0, (0.0, 0.01), odometry(0.3)),
        SizedWindow(-0.1, (-0.1, 0.001), ()),
    ))  # fmt: skip
    corrections = history.corrections()
    np.testing.assert_allclose(corrections, [0.1, 0.2, 0.2], atol=1e-4)
    resized = history.resized(corrections)
    assert resized.newest_log_scale == pytest.approx(0.1, abs=1e-4)
    np.testing.assert_allclose(resized.corrections(), 0.0, atol=1e-4)
    assert [window.log_scale for window in history.windows] == [0.0, 0.0, -0.1]


def test_windows_beyond_the_bound_are_merged_with_what_was_measured_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sizes of the windows that are left come out as with all of them."""

    def histories(most: int) -> list[ScaleHistory]:
        monkeypatch.setattr(scale, "MAX_WINDOWS", most)
        rng, found = np.random.default_rng(5), [ScaleHistory()]
        for k in range(40):
            odometry = math.exp(rng.normal(0.1, 0.02)), 0.025, ScaleSource.ODOMETRY, 0.01
            model = math.exp(rng.normal(-0.2, 0.1)), 0.3, ScaleSource.MODEL, 0.2
            joint = (rng.normal(0.0, 0.003), 0.003) if k else None
            evidence = ScaleEvidence(*odometry), ScaleEvidence(*model)
            found.append(found[-1].with_window(SizedWindow(0.0, joint, evidence)))
        return found

    everything, (*earlier, bounded) = histories(100)[-1], histories(15)
    assert (len(everything.windows), len(bounded.windows)) == (40, 15)
    assert everything.newest == bounded.newest == 39
    assert [bounded.index(number) for number in (0, 25, 26, 39)] == [0, 0, 1, 14]
    whole, part = everything.corrections()[25:], bounded.corrections()
    assert np.abs(whole).min() > 0.05
    np.testing.assert_allclose(part, whole, atol=0.002)
    assert (earlier[-3].newest, len(earlier[-3].windows)) == (36, 15)


def test_a_window_without_a_joint_forgets_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "MAX_WINDOWS", 1)
    history = ScaleHistory()
    wrong = (ScaleEvidence(3.0, 0.01, ScaleSource.ODOMETRY),)
    right = (ScaleEvidence(1.0, 0.02, ScaleSource.ODOMETRY),)
    for evidence in (wrong, right):
        history = history.with_window(SizedWindow(0.0, None, evidence))
    assert history.corrections() == pytest.approx([0.0], abs=1e-6)


def test_what_a_source_has_wrong_in_all_windows_does_not_average_out() -> None:
    """One good look at the floor counts as its sigma says against many windows of the model."""
    model = ScaleEvidence(math.exp(0.3), math.hypot(0.001, 0.2), ScaleSource.MODEL, 0.2)
    floor = ScaleEvidence(1.0, 0.1, ScaleSource.CAMERA_HEIGHT)
    history = ScaleHistory()
    for k in range(20):
        joint = (0.0, 0.001) if k else None
        window = SizedWindow(0.0, joint, (model,) if k else (model, floor))
        history = history.with_window(window)
    share = 0.1**2 / (0.1**2 + 0.2**2)
    np.testing.assert_allclose(history.corrections(), 0.3 * share, atol=2e-3)
