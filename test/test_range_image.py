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
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.graph.range_image import RangeImage

CAMERA = np.array([1.0, 2.0, 0.5])


def wall(distance: float = 3.0, turn_deg: float = 0.0) -> FloatArray:
    """A wall before the camera, turned about the vertical."""
    y, z = np.meshgrid(np.linspace(-2, 2, 80), np.linspace(-1, 1, 40))
    points = np.column_stack([np.full(y.size, distance), y.ravel(), z.ravel()])
    return turned(points, turn_deg)


def turned(directions: npt.ArrayLike, turn_deg: float) -> FloatArray:
    R = Rotation.from_euler("z", turn_deg, degrees=True).as_matrix()
    moved: FloatArray = np.asarray(directions, float) @ R.T + CAMERA
    return moved


@pytest.mark.parametrize("turn_deg", [0, 90, 179, 180, 181, 270])
def test_it_sees_past_what_lies_before_the_wall_and_no_more(turn_deg: float) -> None:
    view = RangeImage(CAMERA, wall(turn_deg=turn_deg))
    places = turned([[2.8, 0, 0], [1.0, 0.2, -0.1], [3.1, 0, 0], [-1.0, 0, 0], [1.0, 3.0, 0]],
                    turn_deg)  # fmt: skip
    assert view.sees_past(places, 0.0).tolist() == [True, True, False, False, False]
    assert view.sees_past(places, 0.3).tolist() == [False, True, False, False, False]


def test_a_thin_thing_between_two_rays_is_not_looked_past() -> None:
    y = np.linspace(-0.6, 0.6, 60)
    post = np.column_stack([np.full(60, 1.5), np.zeros(60), np.linspace(-0.6, 0.6, 60)])
    view = RangeImage(CAMERA, np.vstack([wall(), turned(post, 0.0)]))
    beside = turned(np.column_stack([np.full(60, 2.0), y, np.zeros(60)]), 0.0)
    hidden = ~view.sees_past(beside, 0.0)
    assert hidden[np.abs(y) < 0.02].all()
    assert np.abs(y[hidden]).max() < 0.2


def test_where_no_ray_went_nothing_is_seen() -> None:
    y = np.abs(wall()[:, 1] - CAMERA[1])
    view = RangeImage(CAMERA, wall()[y > 1.0])
    places = turned([[1.0, 0, 0], [1.0, 0.5, 0]], 0.0)
    assert view.sees_past(places, 0.0).tolist() == [False, True]


@pytest.mark.parametrize("count", [0, 1, 15])
def test_a_few_points_tell_nothing(count: int) -> None:
    view = RangeImage(CAMERA, wall()[:count])
    assert not view.sees_past(wall(1.0), 0.0).any()
    assert view.sees_past(np.zeros((0, 3)), 0.0).shape == (0,)


def test_equal_points_are_no_trouble() -> None:
    view = RangeImage(CAMERA, np.tile(turned([[1.0, 0, 0]], 0.0), (40, 1)))
    assert view.sees_past(turned([[0.5, 0, 0]], 0.0), 0.0).tolist() == [True]
