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


"""Views chosen by overlap: cameras before a wall, where every overlap is known."""

from __future__ import annotations

import numpy as np
import pytest

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.evaluation.paper.sampling import (
    Candidates,
    SamplingError,
    choose_held_out,
    choose_inputs,
)
from mvdust3r_ros.geometry import make_se3

HW = (60, 80)
K = np.array([[80.0, 0, 39.5], [0, 80, 29.5], [0, 0, 1]])
WALL_M = 2.0
STEP_M = 0.2  # a tenth of what is seen of the wall, 80 / 80 * 2 m


def camera(x_m: float) -> FloatArray:
    return make_se3(np.eye(3), np.array([x_m, 0, 0]))


def before_a_wall(views: int) -> Candidates:
    """Cameras that move along a wall: k steps apart, they share 1 - k / 10 of it."""
    poses = np.stack([camera(STEP_M * k) for k in range(views)])
    return Candidates([np.full(HW, WALL_M)] * views, [K] * views, poses)


def test_an_overlap_is_the_shared_part_of_the_wall() -> None:
    wall = before_a_wall(14)
    expected = [1 - min(abs(k - 3) / 10, 1) for k in range(14)]
    assert np.allclose(wall.overlaps(3), expected, atol=1e-9)


def test_depth_of_any_size_gives_the_same_overlap() -> None:
    fine = np.array([[320.0, 0, 159.5], [0, 320, 119.5], [0, 0, 1]])
    poses = np.stack([camera(0), camera(0.6)])
    large = Candidates([np.full((240, 320), WALL_M)] * 2, [fine] * 2, poses)
    assert large.overlaps(0) == pytest.approx([1, 0.7], abs=0.05)


def test_what_is_hidden_is_not_shared() -> None:
    near, far = np.full(HW, 1.0), np.full(HW, WALL_M)
    pair = Candidates([near, far], [K] * 2, np.stack([camera(0)] * 2))
    # The near surface is in front of the far one, and hides it from the other view.
    assert pair.overlaps(0).tolist() == [1.0, 0.5]


def test_cameras_back_to_back_share_nothing() -> None:
    turned = make_se3(np.diag([-1.0, 1, -1]), np.zeros(3))
    pair = Candidates([np.full(HW, WALL_M)] * 2, [K] * 2, np.stack([camera(0), turned]))
    assert pair.overlaps(0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("unknown", [0.0, np.nan, np.inf])
def test_pixels_without_depth_do_not_count(unknown: float) -> None:
    half = np.full(HW, WALL_M)
    half[:, 40:] = unknown
    pair = Candidates([half, np.full(HW, WALL_M)], [K] * 2, np.stack([camera(0)] * 2))
    # All of the half is seen by the other view, half of the other by it.
    assert pair.overlaps(0) == pytest.approx([1, 0.75])
    blank = Candidates([np.full(HW, unknown)] * 2, [K] * 2, np.stack([camera(0)] * 2))
    assert blank.overlaps(0).tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_each_view_overlaps_with_one_before_it(seed: int) -> None:
    chosen = choose_inputs(before_a_wall(40), 5, seed)
    assert len(set(chosen)) == 5
    for k in range(1, 5):
        nearest, *others = sorted(abs(chosen[k] - earlier) for earlier in chosen[:k])
        assert 3 <= nearest <= 7
        assert all(other > 7 for other in others)


def test_the_same_seed_chooses_the_same_views() -> None:
    wall = before_a_wall(40)
    assert choose_inputs(wall, 5, 3) == choose_inputs(before_a_wall(40), 5, 3)
    assert choose_inputs(wall, 4, 3) == choose_inputs(wall, 5, 3)[:4]
    assert len({tuple(choose_inputs(wall, 4, seed)) for seed in range(8)}) > 4


def test_a_scene_too_small_is_refused() -> None:
    with pytest.raises(SamplingError, match=r"no 6 of 12 views overlap by 30% to 70% .*\(\d do\)"):
        choose_inputs(before_a_wall(12), 6, 0)


def test_a_held_out_view_is_seen_by_the_inputs() -> None:
    wall = before_a_wall(30)
    inputs = [8, 13, 18, 3]
    (other,) = choose_held_out(wall, inputs, 0)
    assert other not in inputs
    assert 3 < other < 18
    two, four = wall.covered(inputs, [2, 4])
    assert four[other] == 1
    assert [two[19], four[19]] == pytest.approx([0.4, 0.9])


def test_one_view_is_held_out_for_four_inputs() -> None:
    wall = before_a_wall(60)
    inputs = list(range(5, 50, 5))[:8]
    first, second = choose_held_out(wall, inputs, 0)
    assert 5 < first < 20  # seen by the first four
    assert second not in (first, *inputs)
    assert len(choose_held_out(wall, [5, 10], 0)) == 1


def test_inputs_that_see_no_other_view_are_refused() -> None:
    wall = before_a_wall(30)
    with pytest.raises(SamplingError, match="no view of which 2 input views see 95%"):
        choose_held_out(wall, [0, 29], 0)


def test_depth_of_several_sizes_is_refused() -> None:
    with pytest.raises(SamplingError, match="of one size"):
        Candidates([np.ones(HW), np.ones((30, 40))], [K] * 2, np.stack([camera(0)] * 2))
