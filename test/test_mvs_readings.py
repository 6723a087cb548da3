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

"""Depth of the window before is kept where it says as much as another reading would."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mvdust3r_ros.datatypes import FloatArray, View, ViewTokens
from mvdust3r_ros.descriptors import image_descriptor
from mvdust3r_ros.engines.mvs.readings import FOLLOWING, Readings
from mvdust3r_ros.sfm.window_poses import WindowPoses, given_poses
from sfm_world import pose

HW = (6, 8)
VIEWS = 6


class Features:
    """Stands for the features of one view: what counts is that it is the same object."""


def poses(T: FloatArray) -> WindowPoses:
    nothing = np.zeros((0, 3)), np.zeros((0, len(T)), bool)
    return given_poses(T, np.repeat(np.eye(3)[None], len(T), 0), *nothing)


def way(start: int = 0, unit: float = 1.0) -> FloatArray:
    return np.stack(
        [pose((0, 3.0 * k, 0), (0.3 * k * unit, 0, 0)) for k in range(start, start + VIEWS)]
    )


def tokens(features: list[Features]) -> list[ViewTokens]:
    view = View(np.zeros((4, 4, 3), np.uint8))
    return [ViewTokens(one, view, image_descriptor(view)) for one in features]


def started() -> tuple[Readings, list[Features], FloatArray]:
    readings, features = Readings(), [Features() for _ in range(VIEWS)]
    depth = np.full((VIEWS, *HW), 2.0, np.float32) + np.arange(VIEWS)[:, None, None]
    readings.remember(
        tokens(features), poses(way()), depth, np.full((VIEWS, *HW), -3.0, np.float32)
    )
    return readings, features, depth


def test_views_with_others_on_both_sides_are_kept_in_the_new_unit() -> None:
    readings, features, depth = started()
    shared = [*features[2:], Features(), Features()]
    kept = readings.kept(shared, poses(way(2, 1.5)))
    assert sorted(kept) == list(range(VIEWS - 2 - FOLLOWING))
    for index, (known, log_error) in kept.items():
        np.testing.assert_allclose(known, 1.5 * depth[index + 2], rtol=1e-6)
        assert (log_error == -3.0).all()


def test_views_before_the_shared_ones_come_along_where_the_window_follows() -> None:
    readings = Readings()
    views = [View(np.zeros((4, 4, 3), np.uint8), stamp_ns=k) for k in range(8)]
    every = [ViewTokens(Features(), view, image_descriptor(view)) for view in views]
    first, depth = every[:VIEWS], np.full((VIEWS, *HW), 2.0, np.float32)
    assert readings.earlier(first) == []
    readings.remember(first, poses(way()), depth, np.zeros_like(depth))
    assert readings.earlier(every[2:]) == every[:2]
    assert readings.earlier([every[0], *every[3:]]) == []  # a closure
    assert readings.earlier(every[VIEWS:]) == []  # another place


def test_poses_of_shared_views_come_along() -> None:
    readings, features, _ = started()
    before = readings.poses_before([*features[2:], Features()])
    assert before is not None
    assert before.metric
    np.testing.assert_allclose(before.T[1], way()[3])
    assert readings.poses_before([features[0], Features()]) is None


@pytest.mark.parametrize("change", ["turned", "bent", "not by images"])
def test_views_whose_poses_have_changed_are_read_again(change: str) -> None:
    readings, features, _ = started()
    T = way(2)
    now = poses(T)
    if change == "turned":
        T[1] = T[1] @ pose((0, 1.0, 0), (0, 0, 0))
    elif change == "bent":
        T[1, :3, 3] += (0, 0.05 * math.sqrt(2), 0.1)
    else:
        now = replace(now, by_images=np.zeros(VIEWS, bool))
    assert readings.kept(features[2:], now) == {}


def test_only_the_window_right_before_counts() -> None:
    readings, features, depth = started()
    others = [Features() for _ in range(VIEWS)]
    readings.remember(tokens(others), poses(way()), depth, np.zeros_like(depth))
    assert readings.kept(features[2:], poses(way(2))) == {}
    assert readings.poses_before(features) is None


def test_views_that_stand_show_no_unit() -> None:
    readings, features, depth = started()
    still = np.repeat(way()[:1], VIEWS, 0)
    readings.remember(tokens(features), poses(still), depth, np.zeros_like(depth))
    assert readings.kept(features, poses(still)) == {}
