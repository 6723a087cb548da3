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

"""Clouds as pictures: where a point lands, and what hides what."""

from __future__ import annotations

import numpy as np
import pytest

from mvdust3r_ros.evaluation.report.splat import (
    looking_down,
    looking_from,
    point_spacing,
    render_cloud,
)

RED, GREEN = np.array([255, 0, 0], np.uint8), np.array([0, 255, 0], np.uint8)


def centre_of(mask: np.ndarray) -> tuple[float, float]:
    v, u = np.nonzero(mask)
    return float(u.mean()), float(v.mean())


def test_top_view_has_x_to_the_right_and_y_up() -> None:
    view = looking_down(np.array([1.0, 2.0, 0.0]), (4.0, 2.0), 200)
    assert (view.width, view.height) == (200, 100)
    points = np.array([[2.0, 2.0, 0.0], [1.0, 2.8, 0.0]])
    image = render_cloud(points, np.stack([RED, GREEN]), view, 0.1)
    assert centre_of((image == RED).all(-1)) == pytest.approx((149.5, 49.5), abs=1)
    assert centre_of((image == GREEN).all(-1)) == pytest.approx((99.5, 9.5), abs=1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_point_hides_the_farther_one(order: tuple[int, int]) -> None:
    points = np.array([[0.0, 0, 0], [0.0, 0, 1]])[list(order)]
    colors = np.stack([RED, GREEN])[list(order)]
    image = render_cloud(points, colors, looking_down(np.zeros(3), (1.0, 1.0), 51), 0.1)
    assert image[25, 25].tolist() == GREEN.tolist()
    assert not (image == RED).all(-1).any()


def test_points_outside_and_none_at_all_leave_the_background() -> None:
    view = looking_down(np.zeros(3), (1.0, 1.0), 20)
    blank = render_cloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), view, 0.1, (1, 2, 3))
    assert (blank == (1, 2, 3)).all()
    far = render_cloud(np.array([[9.0, 0, 0]]), RED[None], view, 0.1, (1, 2, 3))
    np.testing.assert_array_equal(far, blank)


@pytest.mark.parametrize("azimuth", np.linspace(-3, 3, 7))
def test_oblique_view_is_upright_and_holds_everything(azimuth: float) -> None:
    points = np.random.default_rng(0).uniform(-3, 3, (500, 3)) * (2, 1, 0.3)
    view = looking_from(azimuth, 0.6, points, (300, 200))
    np.testing.assert_allclose(view.R @ view.R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view.R) == pytest.approx(1.0)
    uv = view.project(points)[:, :2]
    assert (uv >= 0).all()
    assert (uv <= (300, 200)).all()
    foot, head = view.project(np.array([[0.0, 0, 0], [0.0, 0, 1]]))
    assert head[0] == pytest.approx(foot[0])
    assert head[1] < foot[1]
    viewer = np.array([np.cos(azimuth), np.sin(azimuth), 0.5])
    assert view.project(viewer[None])[0, 2] < view.project(-viewer[None])[0, 2]


def test_an_edge_in_depth_is_darkened_on_the_far_side_only() -> None:
    xy = np.stack(np.meshgrid(np.arange(-20, 20), np.arange(-20, 20)), -1).reshape(-1, 2) * 0.05
    points = np.concatenate([xy, 1.0 * (xy[:, :1] > 0)], 1)  # a step up towards +x
    colors = np.full((len(points), 3), 200, np.uint8)
    image = render_cloud(points, colors, looking_down(np.zeros(3), (1.6, 1.6), 160), 0.05)
    row = image[80, :, 0]
    darkest = int(row.argmin())
    assert row[darkest] < 175
    assert 75 <= darkest <= 82
    assert row[: darkest - 3].min() == row[darkest + 3 :].min() == 200


def test_spacing_of_a_lattice() -> None:
    lattice = np.stack(np.meshgrid(*[np.arange(8) * 0.05] * 3), -1).reshape(-1, 3)
    assert point_spacing(lattice) == pytest.approx(0.05)
    assert point_spacing(lattice[:3]) == 0.05
