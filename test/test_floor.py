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
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from box_room import BoxRoom
from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.placing.floor import Floor, fit_floor

CAMERA = np.array([0.3, -0.2, 1.2])


def patch(low: tuple[float, float], high: tuple[float, float], z: float, count: int) -> FloatArray:
    """Random points on a level rectangle."""
    xy = np.random.default_rng(int(abs(z) * 100) + count).uniform(low, high, (count, 2))
    return np.column_stack([xy, np.full(count, z)])


def wall(count: int, z: tuple[float, float] = (0.0, 2.5)) -> FloatArray:
    rng = np.random.default_rng(count)
    return np.column_stack(
        [np.full(count, 3.0), rng.uniform(-2, 2, count), rng.uniform(*z, count)]
    )


def tilted(points: FloatArray, degrees: float, axis: str = "x") -> FloatArray:
    """The points and the camera are turned about the camera."""
    R = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    return (points - CAMERA) @ R.T + CAMERA


ROOM = np.vstack([patch((-2, -2), (3, 2), 0.0, 800), wall(700)])


def test_a_level_floor_exactly() -> None:
    floor = fit_floor(ROOM, CAMERA, 10.0)
    np.testing.assert_allclose(floor.normal, [0, 0, 1], atol=2e-3)
    assert floor.height_at(CAMERA[:2]) == pytest.approx(0.0, abs=1e-3)
    assert floor.support == pytest.approx(800 / 1500, abs=0.03)


@settings(max_examples=20)
@given(st.floats(-8, 8), st.floats(0.05, 50), st.floats(-100, 100), st.sampled_from("xy"))
def test_tilt_scale_and_height_are_followed(
    degrees: float, scale: float, shift: float, axis: str
) -> None:
    points = scale * tilted(ROOM, degrees, axis) + shift
    camera = scale * CAMERA + shift
    floor = fit_floor(points, camera, 12.0)
    R = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    np.testing.assert_allclose(floor.normal, R[:, 2], atol=5e-3)
    distance = floor.normal @ camera - floor.offset
    assert distance == pytest.approx(1.2 * scale, rel=0.01)


def test_the_most_tilted_floor_that_is_allowed() -> None:
    points = tilted(ROOM, 20.0)
    assert fit_floor(points, CAMERA, 15.0) is None
    assert fit_floor(points, CAMERA, 25.0).normal[2] == pytest.approx(
        np.cos(np.radians(20)), abs=0.01
    )


def test_a_larger_table_is_no_floor() -> None:
    points = np.vstack([ROOM, patch((-2, -2), (3, 2), 0.7, 3000)])
    assert fit_floor(points, CAMERA, 10.0).height_at(CAMERA[:2]) == pytest.approx(0.0, abs=0.02)


def test_a_ceiling_is_no_floor() -> None:
    ceiling = patch((-2, -2), (3, 2), 2.4, 2000)
    assert fit_floor(np.vstack([ceiling, wall(500, (1.2, 2.4))]), CAMERA, 10.0) is None


def test_a_few_points_below_the_floor_do_not_matter() -> None:
    noise = patch((-2, -2), (3, 2), -0.6, 45)
    floor = fit_floor(np.vstack([ROOM, noise]), CAMERA, 10.0)
    assert floor.height_at(CAMERA[:2]) == pytest.approx(0.0, abs=0.01)


def test_a_floor_that_is_seen_tilted_is_as_high_as_where_it_is_seen() -> None:
    turned = ROOM.copy()
    turned[:, 2] += 0.1 * (turned[:, 0] - 3.0)
    floor = fit_floor(turned, CAMERA, 10.0)
    level = floor.height_at(floor.middle_xy)
    assert floor.height == pytest.approx(level)
    assert floor.height == pytest.approx(0.1 * (floor.middle_xy[0] - 3.0), abs=0.02)
    assert abs(floor.height - floor.height_at(np.array([-5.0, 0.0]))) > 0.3


def test_nothing_with_much_below_it_is_the_floor() -> None:
    below = patch((-2, -2), (3, 2), -0.6, 300)
    floor = fit_floor(np.vstack([ROOM, below]), CAMERA, 10.0)
    assert floor.height_at(CAMERA[:2]) == pytest.approx(-0.6, abs=0.01)


def test_noise_is_averaged() -> None:
    rng = np.random.default_rng(0)
    points = np.vstack([patch((-2, -2), (3, 2), 0.0, 2500), wall(400)])
    floor = fit_floor(points + rng.normal(size=points.shape) * 0.008, CAMERA, 10.0)
    assert floor.height_at(CAMERA[:2]) == pytest.approx(0.0, abs=3e-3)
    assert floor.normal[2] > np.cos(np.radians(0.5))


@pytest.mark.parametrize("points", [
    wall(2000), patch((-2, -2), (3, 2), 0.0, 49), np.zeros((0, 3)),
    np.random.default_rng(0).normal(size=(3000, 3)) * 3, patch((0, 0), (1, 1), 1.19, 500),
])  # fmt: skip
def test_where_there_is_no_floor(points: FloatArray) -> None:
    assert fit_floor(points, CAMERA, 10.0) is None


def test_the_floor_of_the_room_from_one_view(room: BoxRoom) -> None:
    for T in room.walk(6):
        floor = fit_floor(room.points(T).reshape(-1, 3), T[:3, 3], 10.0)
        assert floor.height_at(T[:2, 3]) == pytest.approx(0.0, abs=5e-3)
        assert floor.normal[2] > np.cos(np.radians(0.5))


def test_the_same_seed_gives_the_same_floor() -> None:
    points = ROOM + np.random.default_rng(0).normal(size=ROOM.shape) * 0.02
    a, b, c = (fit_floor(points, CAMERA, 10.0, seed) for seed in (1, 1, 2))
    assert np.array_equal(a.normal, b.normal)
    assert a.offset == b.offset
    assert a.offset != c.offset


def test_height_of_a_tilted_plane_by_hand() -> None:
    # 0.6 x + 0.8 z = 1.6, so z = 2 - 0.75 x
    floor = Floor(np.array([0.6, 0.0, 0.8]), 1.6, 1.0, np.zeros(2))
    assert floor.height_at(np.array([0.0, 9.0])) == pytest.approx(2.0)
    assert floor.height_at(np.array([4.0, -1.0])) == pytest.approx(-1.0)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-5, 5))
def test_levelling_brings_the_plane_to_zero_with_the_least_turn(
    x: float, y: float, d: float
) -> None:
    normal = np.array([x, y, 1.0]) / np.sqrt(x * x + y * y + 1)
    T = Floor(normal, d, 1.0, np.zeros(2)).level_transform()
    np.testing.assert_allclose(T[:3, :3] @ normal, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
    angle = np.arccos(np.clip((np.trace(T[:3, :3]) - 1) / 2, -1, 1))
    assert angle == pytest.approx(np.arccos(np.clip(normal[2], -1, 1)), abs=1e-6)
    on_plane = normal * d + np.cross(normal, [1.0, 2.0, 3.0])
    assert (T @ [*on_plane, 1.0])[2] == pytest.approx(0.0, abs=1e-9)
    assert T[:2, 3].tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_line_where_a_plane_cuts_a_board_close_by_is_no_floor(seed: int) -> None:
    rng = np.random.default_rng(seed)
    board = rng.uniform((-1, 0.65, 0.2), (1, 0.65, 1.0), (4000, 3))
    board += rng.normal(0, 0.004, (4000, 3))
    sofa = rng.uniform((-1, 0.8, 0.25), (-0.5, 1.4, 0.3), (120, 3))
    floor = rng.uniform((-1.2, 1.0, 0.0), (-1.0, 2.0, 0.0), (60, 3))
    camera = np.array([0.0, 0.0, 0.6])
    assert fit_floor(np.vstack([board, sofa, floor]), camera, 10.0) is None
