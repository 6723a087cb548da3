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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdust3r_ros.datatypes import View, WindowPrediction
from mvdust3r_ros.window.reference_views import ReferenceViewsError, best_path, order_views

IMAGE = np.zeros((4, 4, 3), np.uint8)


def views_at(positions: list[float]) -> list[View]:
    poses = [np.eye(4) for _ in positions]
    for pose, x in zip(poses, positions, strict=True):
        pose[0, 3] = x
    return [View(IMAGE, T_odom_cam=pose) for pose in poses]


@given(st.integers(2, 30), st.data())
def test_order_is_a_permutation_with_distinct_references(count: int, data: st.DataObject) -> None:
    n_ref = data.draw(st.integers(1, count))
    positions = data.draw(st.lists(st.floats(-5, 5), min_size=count, max_size=count))
    order = order_views(views_at(positions), n_ref)
    assert sorted(order) == list(range(count))
    assert list(order[n_ref:]) == sorted(order[n_ref:])


def test_one_reference_is_the_middle_of_the_window() -> None:
    assert order_views([View(IMAGE)] * 9, 1) == (4, 0, 1, 2, 3, 5, 6, 7, 8)


def test_one_reference_is_the_middle_of_the_travelled_path() -> None:
    crowded_start = views_at([0.0, 0.01, 0.02, 0.03, 0.04, 2.1, 4.0])
    assert order_views(crowded_start, 1)[0] == 5


def test_references_spread_over_the_path() -> None:
    assert set(order_views([View(IMAGE)] * 12, 4)[:4]) == {1, 4, 7, 10}


def test_a_standing_robot_falls_back_to_the_index() -> None:
    assert order_views(views_at([1.0] * 9), 1)[0] == 4


@pytest.mark.parametrize("n_ref", [0, 5])
def test_wrong_number_of_references_is_named(n_ref: int) -> None:
    with pytest.raises(ReferenceViewsError, match=f"{n_ref} references in a window of 4 views"):
        order_views([View(IMAGE)] * 4, n_ref)


def test_best_path_has_the_highest_confidence() -> None:
    conf = np.full((3, 3, 4, 4), 2.0, np.float32)
    conf[1] = 3.0
    points = np.zeros((3, 3, 4, 4, 3), np.float32)
    assert best_path(WindowPrediction(points, conf, (0, 1, 2))) == 1
