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
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from box_room import BoxRoom
from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    FloatArray,
    OccupancyGrid,
)
from mvdust3r_ros.drawing.occupancy import (
    SUBCELL_BITS,
    OccupancyError,
    OccupancyMap,
    distinct_to_half_a_cell,
    summarize_grid,
)

RULE = MapSettings(
    grid_resolution_m=0.1, robot_radius_m=0.0, min_hits=1, obstacle_min_z_m=0.2,
    obstacle_max_z_m=1.0, free_max_z_m=0.2, point_rel_sigma=0.0,
)  # fmt: skip
CAMERA = np.array([0.05, 0.05, 0.5])


def value(occupancy: OccupancyMap, x: float, y: float) -> int:
    """Grid value at a place; UNKNOWN outside."""
    grid = occupancy.grid()
    col = math.floor((x - grid.origin_xy_m[0]) / grid.resolution_m + 1e-9)
    row = math.floor((y - grid.origin_xy_m[1]) / grid.resolution_m + 1e-9)
    inside = 0 <= row < grid.cells.shape[0] and 0 <= col < grid.cells.shape[1]
    return int(grid.cells[row, col]) if inside else UNKNOWN


def seen(
    points: list[list[float]], views: int = 1, camera: FloatArray = CAMERA, **rule: Any
) -> OccupancyMap:
    occupancy = OccupancyMap(replace(RULE, **rule), rule.pop("floor_z_m", 0.0))
    for _ in range(views):
        occupancy.add_view(camera, np.array(points, float).reshape(-1, 3))
    return occupancy


def known(occupancy: OccupancyMap) -> dict[tuple[int, int], int]:
    """{(x cell, y cell): value} of what is known."""
    grid = occupancy.grid()
    low = np.rint(np.array(grid.origin_xy_m) / grid.resolution_m).astype(int)
    rows, cols = np.nonzero(grid.cells != UNKNOWN)
    return {
        (int(c + low[0]), int(r + low[1])): int(grid.cells[r, c])
        for r, c in zip(rows, cols, strict=True)
    }


def test_before_any_view_there_is_nothing() -> None:
    assert OccupancyMap(RULE, 0.0).grid().cells.shape == (0, 0)


def wall(x: float, z: tuple[float, float] = (0.25, 0.95)) -> FloatArray:
    """Points of a wall across the x axis, 2 cm apart."""
    y, height = np.meshgrid(np.arange(-1, 1, 0.02), np.arange(*z, 0.02))
    return np.column_stack([np.full(y.size, x), y.ravel(), height.ravel()])


def floor(low: float, high: float, z: float = 0.0) -> FloatArray:
    """Points of a floor along the x axis, 2 cm apart."""
    x, y = np.meshgrid(np.arange(low, high, 0.02), np.arange(-0.5, 0.5, 0.02))
    return np.column_stack([x.ravel(), y.ravel(), np.full(x.size, z)])


def test_a_ray_clears_where_it_is_low_above_the_floor() -> None:
    # from z = 0.5 at x = 0.05 to the floor at x = 1.05: below 0.2 from x = 0.65 on
    assert known(seen([[1.05, 0.05, 0.0]])) == {(x, 0): FREE for x in range(6, 11)}
    assert known(seen([[1.05, 0.05, 0.0]], free_max_z_m=0.3)) == {
        (x, 0): FREE for x in range(4, 11)
    }
    assert known(seen([[1.05, 0.05, 0.5]])) == {(10, 0): OCCUPIED}


def test_a_camera_that_never_sees_the_floor_may_clear_with_all_rays() -> None:
    # up to one and a half cells before the obstacle
    found = known(seen([[1.03, 0.05, 0.5]], free_max_z_m=1.0))
    assert found == dict.fromkeys([(i, 0) for i in range(9)], FREE) | {(10, 0): OCCUPIED}


@pytest.mark.parametrize("turn", range(4))
def test_all_four_directions_are_alike(turn: int) -> None:
    c, s = [(1, 0), (0, 1), (-1, 0), (0, -1)][turn]
    found = known(seen([[0.05 + c, 0.05 + s, 0.5], [0.05 + 0.8 * c, 0.05 + 0.8 * s, 0.0]]))
    assert found == {(10 * c, 10 * s): OCCUPIED} | {(i * c, i * s): FREE for i in range(5, 9)}


def test_a_diagonal_ray_runs_through_the_diagonal_cells() -> None:
    found = known(seen([[1.05, 1.05, 0.0]]))
    assert all(found[(i, i)] == FREE for i in range(7, 11))
    assert all(abs(x - y) <= 1 for x, y in found)


def test_rays_stop_short_of_the_error_of_their_points() -> None:
    found = known(seen([[1.05, 0.05, 0.0]], point_rel_sigma=0.1))  # two sigma are 0.2 m
    assert found == {(x, 0): FREE for x in range(6, 9)}


def test_a_ray_that_ends_below_the_floor_clears_nothing() -> None:
    assert known(seen([[2.05, 0.05, -0.2]])) == {}
    assert value(seen([[2.05, 0.05, -0.1]]), 1.95, 0.05) == FREE  # noise of the floor


def test_a_ray_through_the_band_clears_nothing_below_it() -> None:
    """A bed under the line of sight is neither hit nor free."""
    high = np.array([0.05, 0.05, 0.9])
    found = known(seen(wall(3.05, (0.5, 0.9)).tolist(), views=5, camera=high))
    assert set(found.values()) == {OCCUPIED}


@pytest.mark.parametrize(
    ("z", "obstacle"), [(0.19, False), (0.2, True), (1.0, True), (1.01, False), (-0.3, False)]
)
def test_the_obstacle_band(z: float, obstacle: bool) -> None:
    assert (value(seen([[1.05, 0.05, z]]), 1.05, 0.05) == OCCUPIED) == obstacle


def test_heights_count_from_the_floor() -> None:
    occupancy = OccupancyMap(RULE, 2.0)
    camera = np.array([0.05, 0.05, 2.5])
    occupancy.add_view(camera, np.array([[1.05, 0.05, 2.5], [0.05, 1.05, 2.0], [0.05, 3.0, 0.5]]))
    assert value(occupancy, 1.05, 0.05) == OCCUPIED
    assert value(occupancy, 0.05, 0.95) == FREE


def test_what_hangs_in_the_band_is_an_obstacle_though_the_floor_shows_below() -> None:
    board = [[1.05, 0.05, 0.8]]
    assert value(seen([*board, *floor(0.6, 2.0).tolist()], views=9), 1.05, 0.05) == OCCUPIED
    above = [[1.05, 0.05, 1.2]]
    assert value(seen([*above, *floor(0.6, 2.0).tolist()], views=9), 1.05, 0.05) == FREE


def test_between_obstacles_too_close_for_the_robot_nothing_is_free() -> None:
    rails = [[x, y, 0.5] for x in np.arange(1.5, 2.6, 0.05) for y in (-0.25, 0.35)]
    points = [*rails, *floor(0.6, 3.0).tolist()]
    assert value(seen(points, robot_radius_m=0.1), 2.05, 0.05) == FREE
    assert value(seen(points, robot_radius_m=0.4), 2.05, 0.05) == UNKNOWN


def test_a_hole_is_an_obstacle_and_what_the_eye_passes_over_it_is_not_free() -> None:
    hole = floor(2.0, 3.0, -0.6)
    occupancy = seen([*floor(0.6, 1.5).tolist(), *hole.tolist()], views=3)
    assert value(occupancy, 1.05, 0.05) == FREE
    assert value(occupancy, 1.75, 0.05) == UNKNOWN
    assert value(occupancy, 2.55, 0.05) == OCCUPIED
    assert value(seen(hole.tolist(), drop_m=0.0), 2.55, 0.05) == UNKNOWN
    assert value(seen(floor(2.0, 3.0, -0.25).tolist()), 2.55, 0.05) == UNKNOWN


def test_few_points_are_a_weaker_vote() -> None:
    point = [1.05, 0.05, 0.5]
    assert value(seen([point], min_hits=4), 1.05, 0.05) == UNKNOWN  # a quarter of 1.2
    assert value(seen([point, point], min_hits=4), 1.05, 0.05) == OCCUPIED
    assert value(seen([point], views=2, min_hits=4), 1.05, 0.05) == OCCUPIED


def test_far_points_are_a_weaker_vote_unless_there_are_many() -> None:
    far = [5.05, 0.05, 0.5]  # sigma is five cells: a tenth of 1.2
    assert value(seen([far], point_rel_sigma=0.1), 5.05, 0.05) == UNKNOWN
    assert value(seen([far] * 20, point_rel_sigma=0.1), 5.05, 0.05) == OCCUPIED
    assert value(seen([far], views=5, point_rel_sigma=0.1), 5.05, 0.05) == OCCUPIED


def test_a_little_evidence_is_enough_not_to_be_free() -> None:
    points = [[1.05, 0.05, 0.5], *floor(0.6, 2.0).tolist()]
    assert value(seen(points, min_hits=4), 1.05, 0.05) == UNKNOWN
    assert value(seen(points, min_hits=4), 1.35, 0.05) == FREE


def test_a_cell_needs_enough_views_to_be_free() -> None:
    points = floor(0.6, 2.0).tolist()
    assert value(seen(points, views=2, min_passes=3), 1.05, 0.05) == UNKNOWN
    assert value(seen(points, views=3, min_passes=3), 1.05, 0.05) == FREE


def test_a_view_does_not_clear_what_it_hits() -> None:
    points = [[1.05, 0.05, 0.55], *wall(2.05).tolist()]
    assert value(seen(points, views=20), 1.05, 0.05) == OCCUPIED
    assert value(seen(points, views=20), 2.05, 0.05) == OCCUPIED


def test_one_hit_outweighs_four_looks_past_it_and_six_outweigh_it() -> None:
    occupancy = seen([[1.05, 0.05, 0.55]])
    occupancy.add_view(CAMERA, floor(0.6, 1.5))
    for _ in range(4):
        occupancy.add_view(CAMERA, wall(2.05))
    assert value(occupancy, 1.05, 0.05) == OCCUPIED
    for _ in range(2):
        occupancy.add_view(CAMERA, wall(2.05))
    assert value(occupancy, 1.05, 0.05) == FREE


def test_rays_at_another_height_do_not_clear() -> None:
    occupancy = seen([[1.05, 0.05, 0.25]])
    for _ in range(20):
        occupancy.add_view(CAMERA, wall(2.05, (0.5, 0.95)))
    assert value(occupancy, 1.05, 0.05) == OCCUPIED


def test_evidence_is_bounded_so_that_the_world_may_change() -> None:
    occupancy = seen([[1.05, 0.05, 0.55]], views=50)  # up to 3.6
    for _ in range(16):
        occupancy.add_view(CAMERA, wall(2.05))
    assert value(occupancy, 1.05, 0.05) == OCCUPIED
    for _ in range(40):
        occupancy.add_view(CAMERA, wall(2.05))
    assert value(occupancy, 1.05, 0.05) == UNKNOWN  # the floor was not seen
    # down to -0.6: one hit is enough
    occupancy.add_view(CAMERA, np.array([[1.05, 0.05, 0.55]]))
    assert value(occupancy, 1.05, 0.05) == OCCUPIED


def test_evidence_fades_where_nobody_looks() -> None:
    occupancy = OccupancyMap(replace(RULE, half_life_s=60.0), 0.0)
    second = 1_000_000_000
    view = np.vstack([floor(0.6, 1.5), [[1.55, 0.05, 0.5]]])
    elsewhere = floor(0.6, 1.5) * (-1, 1, 1)
    for k in range(20):
        occupancy.add_view(CAMERA, view, 1000 * second + k)
    for age_s, obstacle, free in [
        (100, OCCUPIED, FREE), (240, UNKNOWN, FREE), (600, UNKNOWN, UNKNOWN)
    ]:  # fmt: skip
        occupancy.add_view(CAMERA, elsewhere, (1000 + age_s) * second)
        assert (value(occupancy, 1.55, 0.05), value(occupancy, 1.05, 0.05)) == (obstacle, free)
        assert value(occupancy, -1.05, 0.05) == FREE
    occupancy.add_view(CAMERA, view, 1700 * second)
    assert value(occupancy, 1.55, 0.05) == OCCUPIED


def test_without_a_half_life_nothing_fades() -> None:
    occupancy = OccupancyMap(RULE, 0.0)
    occupancy.add_view(CAMERA, floor(0.6, 1.5), 1)
    occupancy.add_view(CAMERA, np.zeros((0, 3)), 10**18)
    assert value(occupancy, 1.05, 0.05) == FREE


def test_the_many_rays_of_a_view_are_one_vote() -> None:
    occupancy = seen([[1.05, 0.05, 0.55]])
    occupancy.add_view(CAMERA, np.tile(wall(2.05), (5, 1)))
    assert value(occupancy, 1.05, 0.05) == OCCUPIED


def test_points_next_to_the_camera_clear_nothing() -> None:
    assert known(seen([[0.15, 0.05, 0.5]])) == {(1, 0): OCCUPIED}


def test_a_view_without_points_still_says_where_the_robot_is() -> None:
    assert known(seen([])) == {}
    found = known(seen([], robot_radius_m=0.1))
    assert found == dict.fromkeys([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], FREE)


def test_the_footprint_is_a_disc_in_spite_of_rounding() -> None:
    found = known(seen([], robot_radius_m=0.3))  # 0.3 / 0.1 is just below 3
    assert {x for x, y in found if y == 0} == set(range(-3, 4))
    assert {y for x, y in found if x == 0} == set(range(-3, 4))
    assert (3, 3) not in found


@pytest.mark.parametrize("camera_height_m", [0.0, 1.2])
def test_what_is_seen_wins_over_where_the_camera_was(camera_height_m: float) -> None:
    """What carries the camera is not known: it may be a hand above a table."""
    top = [[x, y, 0.75] for x in np.arange(-0.5, 0.6, 0.03) for y in np.arange(-0.5, 0.6, 0.03)]
    rule = {"robot_radius_m": 0.3, "camera_height_m": camera_height_m}
    occupancy = seen(top, views=3, camera=np.array([1.05, 0.05, 1.2]), **rule)
    table = {cell for cell, what in known(occupancy).items() if what == OCCUPIED}
    for _ in range(3):
        occupancy.add_view(np.array([0.05, 0.05, 1.2]), np.zeros((0, 3)))
    assert len(table) > 100
    assert all(known(occupancy)[cell] == OCCUPIED for cell in table)


@pytest.mark.parametrize(
    ("height_m", "camera_height_m", "expected"),
    [(0.5, 0.0, FREE), (0.6, 0.0, UNKNOWN), (1.6, 0.0, UNKNOWN), (1.6, 1.6, FREE)],
)
def test_under_a_camera_is_floor_only_where_something_on_the_floor_carries_it(
    height_m: float, camera_height_m: float, expected: int
) -> None:
    camera = np.array([0.05, 0.05, height_m])
    occupancy = seen([], camera=camera, robot_radius_m=0.2, camera_height_m=camera_height_m)
    assert value(occupancy, 0.15, 0.05) == expected


DRIVE = np.array([[0.05, 0.05, 0.1], [0.15, 0.05, 0.1]])


def drive_over(occupancy: OccupancyMap, stamp_ns: int = 0) -> OccupancyMap:
    occupancy.add_drive(DRIVE, stamp_ns)
    return occupancy


def test_where_a_robot_has_driven_is_free_whatever_was_seen_before() -> None:
    occupancy = seen([[0.05, 0.05, 0.5]], views=20, camera=CAMERA + 1, robot_radius_m=0.2)
    assert value(occupancy, 0.05, 0.05) == OCCUPIED
    assert value(drive_over(occupancy), 0.05, 0.05) == FREE


def test_what_two_views_see_later_wins_over_the_drive() -> None:
    occupancy = drive_over(seen([], robot_radius_m=0.2))
    views = [FREE, OCCUPIED]
    for expected in views:
        occupancy.add_view(CAMERA + 1, np.array([[0.05, 0.05, 0.5]]))
        assert value(occupancy, 0.05, 0.05) == expected
    assert value(drive_over(occupancy), 0.05, 0.05) == FREE


def test_a_drive_is_as_wide_as_the_robot_and_a_cell() -> None:
    found = known(drive_over(seen([], robot_radius_m=0.3, camera=CAMERA + 9)))
    assert {x for x, y in found if y == 0} == set(range(-4, 6))
    assert {y for x, y in found if x == 0} == set(range(-4, 5))
    assert (-3, 3) not in found
    assert known(drive_over(seen([]))) == {}  # a radius of 0 says that nothing is free


def test_a_robot_drives_between_obstacles_that_look_too_close() -> None:
    rails = [[x, y, 0.5] for x in np.arange(-1, 1, 0.05) for y in (-0.35, 0.45)]
    occupancy = seen(rails, camera=CAMERA + 1, robot_radius_m=0.2)
    assert value(drive_over(occupancy), 0.05, 0.05) == FREE
    assert value(occupancy, 0.05, -0.35) == OCCUPIED


def test_a_drive_off_the_floor_or_out_of_reach_says_nothing() -> None:
    occupancy = seen([], robot_radius_m=0.2, camera=CAMERA + 9)
    occupancy.add_drive(DRIVE + np.array([0.0, 0.0, 0.6]))
    occupancy.add_drive(DRIVE - np.array([0.0, 0.0, 0.8]))
    occupancy.add_drive(np.zeros((0, 3)))
    occupancy.add_drive(np.array([[1e6, 1e6, 0.0]]))
    assert known(occupancy) == {}


def test_a_drive_fades_from_its_own_time_on() -> None:
    second = 1_000_000_000
    occupancy = OccupancyMap(replace(RULE, robot_radius_m=0.2, half_life_s=60.0), 0.0)
    occupancy.add_view(CAMERA + 9, floor(10.0, 10.5), 1000 * second)
    drive_over(occupancy, 2000 * second)
    for at_s, expected in ((2100, FREE), (2600, UNKNOWN)):
        occupancy.add_view(CAMERA + 9, floor(10.0, 10.5), at_s * second)
        assert value(occupancy, 0.05, 0.05) == expected


@pytest.mark.parametrize(("look_z_m", "left"), [(0.45, True), (0.55, False), (0.65, True)])
def test_a_view_clears_what_it_looks_through_and_not_what_it_passes_above_or_below(
    look_z_m: float, left: bool
) -> None:
    occupancy = seen([[1.05, 0.05, 0.55]] * 3)
    beyond = wall(3.05, (look_z_m - 0.04, look_z_m + 0.05))
    for _ in range(10):
        occupancy.add_view(np.array([0.05, 0.05, look_z_m]), beyond)
    assert (value(occupancy, 1.05, 0.05) == OCCUPIED) == left


def test_a_drive_fades_like_a_look() -> None:
    second = 1_000_000_000
    occupancy = OccupancyMap(replace(RULE, robot_radius_m=0.2, half_life_s=60.0), 0.0)
    drive_over(occupancy, 1000 * second)
    for age_s, expected in ((100, FREE), (600, UNKNOWN)):
        occupancy.add_view(CAMERA + 9, floor(10.0, 10.5), (1000 + age_s) * second)
        assert value(occupancy, 0.05, 0.05) == expected
    for k in range(2):
        occupancy.add_view(CAMERA + 1, np.array([[0.05, 0.05, 0.5]]), (1700 + k) * second)
    assert value(occupancy, 0.05, 0.05) == OCCUPIED


def test_the_grid_grows_and_keeps_what_it_knows() -> None:
    occupancy = seen([[1.05, 0.05, 0.5]], robot_radius_m=0.1)
    before = known(occupancy)
    for x, y in [(-30, 0), (30, 5), (0, -30), (2, 40)]:
        occupancy.add_view(np.array([x, y, 0.5]), np.zeros((0, 3)))
    after = known(occupancy)
    assert {k: after[k] for k in before} == before
    assert after[(-300, 0)] == after[(20, 400)] == FREE
    shape = occupancy.grid().cells.shape
    assert shape[0] * shape[1] < 800 * 800


@given(st.integers(-200, 200), st.integers(-200, 200))
@pytest.mark.slow
def test_moving_the_world_by_cells_moves_the_grid(dx: int, dy: int) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((-2, -2, -1.5), (2, 2, 2.5), (200, 3))
    start, moved = OccupancyMap(RULE, 0.0), OccupancyMap(RULE, 0.0)
    # keep clear of cell borders, where a rounding error decides
    points[:, :2] = np.floor(points[:, :2] * 10) / 10 + 0.047
    shift = np.array([dx, dy, 0]) * 0.1
    start.add_view(CAMERA, points)
    moved.add_view(CAMERA + shift, points + shift)
    a = {(x + dx, y + dy): v for (x, y), v in known(start).items()}
    b = known(moved)
    assert {k for k, v in a.items() if v == OCCUPIED} == {k for k, v in b.items() if v == OCCUPIED}
    assert len(set(a) ^ set(b)) <= 0.02 * len(a)


def test_a_grid_too_large_is_refused_and_nothing_changes() -> None:
    occupancy = seen([[1.05, 0.05, 0.5]])
    before = occupancy.grid()
    far = np.array([[2000.0, 0.0, 0.5], [0.0, 2000.0, 0.5]])
    with pytest.raises(OccupancyError, match=r"the grid would be 200\d x 200\d m.*cells of 0.1 m"):
        occupancy.check_reach(CAMERA, far)
    with pytest.raises(OccupancyError, match="check odometry"):
        occupancy.add_view(CAMERA, far)
    after = occupancy.grid()
    assert np.array_equal(before.cells, after.cells)
    assert before.origin_xy_m == after.origin_xy_m
    occupancy.check_reach(CAMERA, far / 10)


def test_order_of_views_changes_nothing_before_the_bounds() -> None:
    views = [np.array([[1.0 + 0.5 * i, 0.05, 0.5], [0.05, 1.0, 0.0]]) for i in range(4)]
    a, b = OccupancyMap(RULE, 0.0), OccupancyMap(RULE, 0.0)
    for points in views:
        a.add_view(CAMERA, points)
    for points in reversed(views):
        b.add_view(CAMERA, points)
    assert known(a) == known(b)


def test_the_room_comes_out_as_it_is(room: BoxRoom) -> None:
    occupancy = OccupancyMap(MapSettings(min_hits=1), 0.0)
    for T in room.walk(24):
        occupancy.add_view(T[:3, 3], room.points(T).reshape(-1, 3))
    grid = occupancy.grid()
    rows, cols = np.nonzero(grid.cells == OCCUPIED)
    x = grid.origin_xy_m[0] + (cols + 0.5) * 0.05
    y = grid.origin_xy_m[1] + (rows + 0.5) * 0.05
    (x_0, y_0, _), (x_1, y_1, _) = room.cupboard_low, room.cupboard_high
    on_top = (x > x_0) & (x < x_1) & (y > y_0) & (y < y_1)
    off = room.distance_to_surface(np.column_stack([x, y, np.full(len(x), 0.5)]))
    assert off[~on_top].max() < 0.03  # half a cell
    rows, cols = np.nonzero(grid.cells == FREE)
    x = grid.origin_xy_m[0] + (cols + 0.5) * 0.05
    y = grid.origin_xy_m[1] + (rows + 0.5) * 0.05
    inside = (x > x_0 + 0.05) & (x < x_1 - 0.05) & (y > y_0 + 0.05) & (y < y_1 - 0.05)
    assert inside.sum() <= 3  # rays pass above its top, of 324 cells
    assert x.min() > 0
    assert y.min() > 0
    assert x.max() < 6.05  # the foot of the wall lies on the border of a cell
    assert y.max() < 5.05
    assert len(x) * 0.05**2 > 0.8 * (6 * 5 - 1)


# Summary


def grid_of(text: str, origin: tuple[float, float] = (0.0, 0.0)) -> OccupancyGrid:
    """Rows from top (large y) to bottom; '#' occupied, '.' free, ' ' unknown; cells of 1 m."""
    signs = {"#": OCCUPIED, ".": FREE, " ": UNKNOWN}
    cells = np.array([[signs[c] for c in row] for row in text.split("|")], np.int8)[::-1]
    return OccupancyGrid(cells, 1.0, origin)


def test_summary_by_hand() -> None:
    grid = grid_of("  # |... |..  ", (10.0, 20.0))
    stats = summarize_grid(grid, (10.5, 20.5), 0.0, 4)
    assert (stats.free_cells, stats.occupied_cells, stats.unknown_cells) == (5, 1, 6)
    assert stats.explored_area_m2 == 6.0
    assert stats.bounds_m == (10.0, 20.0, 13.0, 23.0)
    assert stats.nearest_distance_m == pytest.approx(math.sqrt(8))
    assert stats.nearest_bearing_rad == pytest.approx(math.pi / 4)
    # sectors from -pi on: back right, front right, front left, back left
    assert np.isnan(stats.sector_distances_m[0])
    assert stats.sector_distances_m[2] == pytest.approx(math.sqrt(8))
    assert np.isnan(stats.sector_distances_m[1])
    assert stats.sector_distances_m[3] == math.inf


def test_area_follows_the_resolution() -> None:
    grid = OccupancyGrid(np.array([[0, 100, -1]], np.int8), 0.5, (0.0, 0.0))
    assert summarize_grid(grid, (0.0, 0.0), 0.0).explored_area_m2 == 0.5
    assert summarize_grid(grid, (0.0, 0.0), 0.0).bounds_m == (0.0, 0.0, 1.0, 0.5)


def test_places_follow_the_resolution() -> None:
    cells = np.full((8, 8), UNKNOWN, np.int8)
    cells[6, 4] = OCCUPIED
    stats = summarize_grid(OccupancyGrid(cells, 0.5, (10.0, 20.0)), (10.25, 22.25), 0.0)
    assert stats.bounds_m == (12.0, 23.0, 12.5, 23.5)
    assert stats.nearest_distance_m == pytest.approx(math.hypot(2.0, 1.0))
    assert stats.nearest_bearing_rad == pytest.approx(math.atan2(1.0, 2.0))


@pytest.mark.parametrize(
    ("yaw", "bearing"),
    [(0.0, math.pi / 2), (math.pi / 2, 0.0), (math.pi, -math.pi / 2), (-1.0, 1 + math.pi / 2)],
)
def test_bearings_are_in_the_robot_frame(yaw: float, bearing: float) -> None:
    stats = summarize_grid(grid_of("#|.|."), (0.5, 0.5), yaw, 8)
    assert stats.nearest_distance_m == 2.0
    assert math.remainder(stats.nearest_bearing_rad - bearing, 2 * math.pi) == pytest.approx(0)
    sector = int((bearing + math.pi) / (2 * math.pi) * 8)
    found = np.array(stats.sector_distances_m)
    assert 2.0 in found[[sector, (sector - 1) % 8]]


def test_each_sector_has_its_nearest_obstacle() -> None:
    grid = grid_of("#   #|     |  .  |   # |#   #")
    stats = summarize_grid(grid, (2.5, 2.5), 0.0, 4)
    r = math.sqrt(2)
    np.testing.assert_allclose(stats.sector_distances_m, [2 * r, r, 2 * r, 2 * r])
    assert stats.nearest_distance_m == pytest.approx(r)
    assert stats.nearest_bearing_rad == pytest.approx(-math.pi / 4)


def test_a_known_sector_without_obstacle_is_endless() -> None:
    stats = summarize_grid(grid_of("...|...|..."), (1.5, 1.5), 0.1, 4)
    assert stats.sector_distances_m == (math.inf,) * 4
    assert stats.nearest_distance_m == math.inf
    assert math.isnan(stats.nearest_bearing_rad)


@pytest.mark.parametrize(
    "grid", [grid_of("   |   "), OccupancyGrid(np.zeros((0, 0), np.int8), 1.0, (0.0, 0.0))]
)
def test_a_grid_without_knowledge(grid: OccupancyGrid) -> None:
    stats = summarize_grid(grid, (0.5, 0.5), 0.0, 3)
    assert (stats.free_cells, stats.occupied_cells) == (0, 0)
    assert stats.unknown_cells == grid.cells.size
    assert stats.explored_area_m2 == 0.0
    assert np.isnan(stats.bounds_m).all()
    assert np.isnan(stats.sector_distances_m).all()
    assert len(stats.sector_distances_m) == 3


@given(st.floats(-3, 3), st.floats(-20, 20), st.floats(-20, 20), st.integers(1, 40))
def test_the_nearest_obstacle_is_the_smallest_sector(
    yaw: float, x: float, y: float, n: int
) -> None:
    rng = np.random.default_rng(3)
    cells = rng.choice([FREE, OCCUPIED, UNKNOWN], (12, 15)).astype(np.int8)
    stats = summarize_grid(OccupancyGrid(cells, 0.5, (-2.0, -3.0)), (x, y), yaw, n)
    assert np.nanmin(stats.sector_distances_m) == stats.nearest_distance_m
    assert -math.pi <= stats.nearest_bearing_rad < math.pi


def test_rays_are_one_only_when_both_ends_share_half_cells() -> None:
    halves = np.random.default_rng(0).integers(-6, 6, (20000, 4))
    segments = (halves << (SUBCELL_BITS - 1)).astype(np.int32)
    kept = distinct_to_half_a_cell(segments.T)
    np.testing.assert_array_equal(kept, np.unique(segments, axis=0))


@pytest.mark.parametrize("inside", [False, True])
def test_taking_over_cells_beyond_or_within_a_circle(inside: bool) -> None:
    old = seen([[1.05, 0.05, 0.5], [3.05, 1.05, 0.5], [3.05, 0.05, 0.0]], views=4)
    new = OccupancyMap(RULE, 0.0)
    new.copy_region(old, CAMERA, 2.02, inside=inside)
    expected = {
        (x, y): v
        for (x, y), v in known(old).items()
        if (math.hypot(x * 0.1 + 0.05 - CAMERA[0], y * 0.1 + 0.05 - CAMERA[1]) <= 2.02) == inside
    }
    assert OCCUPIED in expected.values()
    assert known(new) == expected
