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

"""The true grid of recorded depth: against exact geometry, under jitter, and beside tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvdust3r_ros.config import MapperConfig, MapSettings
from mvdust3r_ros.datatypes import FloatArray, Frame, OccupancyGrid
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.evaluation.metrics.map_metrics import (
    GridScores,
    compare_grids,
    on_common_lattice,
)
from mvdust3r_ros.evaluation.trials.apartment_drives import (
    ApartmentOptions,
    apartment_drive,
    drifting_frames,
)
from mvdust3r_ros.evaluation.true_floor import TrueFloor, find_true_floor
from mvdust3r_ros.evaluation.true_grid import true_grid
from mvdust3r_ros.evaluation.true_map import TrueMapBuilder
from mvdust3r_ros.geometry import Sim3, make_se3
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.scenes import scene_occupancy
from mvdust3r_ros.synthetic.sequence import Sequence as Drive

pytestmark = pytest.mark.slow

HW = (80, 80)
RULE = MapSettings()
SAME = Sim3(1.0, np.eye(3), np.zeros(3))
NO_ROBOT = np.zeros((0, 3))


@pytest.fixture(scope="module")
def drive() -> Drive:
    return apartment_drive(
        9003, ApartmentOptions(path_m=5.0, hw=HW, min_rooms=1, step_m=0.1), Rig()
    )


@pytest.fixture(scope="module")
def frames(drive: Drive) -> list[Frame]:
    return list(drifting_frames(drive, drive.truth.T_world_cam))


def built(frames: Sequence[Frame], S_map_world: Sim3 = SAME) -> OccupancyGrid:
    builder = TrueMapBuilder(RULE, OracleEngine(HW).describe())
    for frame in frames:
        builder.add(frame)
    grid = builder.grid(S_map_world, 0.0)
    assert grid is not None
    return grid


def jittered(frames: Sequence[Frame], sigma_m: float, sigma_deg: float) -> list[Frame]:
    """The frames with a truth that is off, differently in each."""
    rng = np.random.default_rng(0)
    made = []
    for frame in frames:
        assert frame.T_world_cam is not None
        turn = Rotation.from_rotvec(rng.normal(0, np.radians(sigma_deg), 3)).as_matrix()
        off = make_se3(turn, rng.normal(0, sigma_m, 3))
        made.append(replace(frame, T_world_cam=frame.T_world_cam @ off))
    return made


def test_the_grid_of_depth_is_that_of_the_exact_geometry(
    drive: Drive, frames: list[Frame]
) -> None:
    exact = scene_occupancy(drive.scene, 0.05, (RULE.obstacle_min_z_m, RULE.obstacle_max_z_m))
    got = built(frames)
    cells, true = on_common_lattice(got, exact)
    known = (cells != -1) & (true != -1)
    assert known.sum() > 3000
    # the geometry counts a cell that an obstacle fills by a sixteenth as occupied
    for value, least in ((0, 0.95), (100, 0.8)):
        either = known & ((cells == value) | (true == value))
        assert (cells == true)[either].mean() > least
    scores = compare_grids(got, exact, tolerance_m=0.05)
    assert scores.free_precision > 0.99
    assert scores.occupied_precision > 0.99
    assert scores.false_free < 0.01


@pytest.fixture(scope="module")
def scores(frames: list[Frame]) -> Callable[[Sequence[Frame]], GridScores]:
    """Scores of one and the same map against the truth of these frames."""
    mapper = Mapper(MapperConfig(), OracleEngine(HW))
    for frame in frames[::2]:
        mapper.process(frame)
    grid = mapper.snapshot().grid
    assert grid is not None
    return lambda truth: compare_grids(grid, built(truth), 0.05)


@pytest.mark.parametrize(("sigma_deg", "less"), [(0.0, 0.04), (1.0, 0.1)])
def test_a_truth_that_is_off_by_centimetres_changes_the_score_of_a_map_by_little(
    frames: list[Frame],
    scores: Callable[[Sequence[Frame]], GridScores],
    sigma_deg: float,
    less: float,
) -> None:
    exact, off = scores(frames), scores(jittered(frames, 0.02, sigma_deg))
    assert abs(off.iou - exact.iou) < less
    assert abs(off.free_iou - exact.free_iou) < less / 2
    assert off.free_precision > 0.97


def test_the_grid_moves_with_the_map(frames: list[Frame]) -> None:
    R = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    moved = built(frames[:20], Sim3(1.0, R, np.array([1.0, 2.0, 0.7])))
    here = built(frames[:20])
    turned = OccupancyGrid(
        np.rot90(here.cells, -1), 0.05,
        (1.0 - here.origin_xy_m[1] - 0.05 * here.cells.shape[0], 2.0 + here.origin_xy_m[0]),
    )  # fmt: skip
    cells, want = on_common_lattice(moved, turned)
    assert (cells == want).mean() > 0.97


# The floor


def level(x: tuple[float, float], y: tuple[float, float], z: float, step: float) -> FloatArray:
    """Points of a level rectangle."""
    xs, ys = np.meshgrid(np.arange(*x, step), np.arange(*y, step))
    return np.column_stack([xs.ravel(), ys.ravel(), np.full(xs.size, z)])


def kitchen(views: int, tables: int, seed: int = 0) -> list[FloatArray]:
    """Views of a table top of 2 x 1 m that fills the picture, and some that see the floor too."""
    rng = np.random.default_rng(seed)
    made: list[FloatArray] = []
    for k in range(views):
        top = level((1, 3), (1, 2), 0.75, 0.02)
        seen = [top[rng.random(len(top)) < 0.9]]
        if k >= tables:
            seen.append(level((0, 4), (0, 1), 0.0, 0.08))
        points = np.concatenate(seen)
        made.append(points + rng.normal(0, 0.01, points.shape) + rng.normal(0, 0.02, 3))
    return made


@pytest.mark.parametrize("tables", [5, 9])
def test_a_table_in_most_views_is_not_taken_for_the_floor(tables: int) -> None:
    """Nine views of ten show the table alone, and a hundred points of it for each of the floor."""
    clouds = kitchen(10, tables)
    floor = find_true_floor(np.concatenate(clouds))
    assert floor is not None
    assert floor.heights(np.array([[2.0, 0.5, 0.0]]))[0] == pytest.approx(0.0, abs=0.05)
    grid = true_grid(clouds, floor, NO_ROBOT, RULE)
    col, row = np.floor((np.array([2.0, 1.5]) - grid.origin_xy_m) / 0.05).astype(int)
    assert grid.cells[row, col] == 100


def test_a_floor_that_is_not_level_is_found_and_measured_from() -> None:
    rng = np.random.default_rng(1)
    floor = level((0, 6), (0, 4), 0.0, 0.05)
    box = level((2, 3), (2, 3), 0.4, 0.02)
    points = np.concatenate([floor, box]) + rng.normal(0, 0.01, (len(floor) + len(box), 3))
    R = Rotation.from_euler("xy", [4, -3], degrees=True).as_matrix()
    found = find_true_floor(points @ R.T)
    assert found is not None
    heights = found.heights(points @ R.T)
    assert abs(np.median(heights[: len(floor)])) < 0.01
    assert np.std(heights[: len(floor)]) < 0.015
    assert np.median(heights[len(floor) :]) == pytest.approx(0.4, abs=0.02)


def test_reflections_below_the_floor_do_not_pull_it_down() -> None:
    rng = np.random.default_rng(2)
    floor = level((0, 4), (0, 4), 0.0, 0.05)
    ghosts = rng.uniform((0, 0, -2), (4, 4, -0.3), (120, 3))
    found = find_true_floor(np.concatenate([floor, ghosts]))
    assert found is not None
    assert found.heights(np.zeros((1, 3)))[0] == pytest.approx(0.0, abs=0.01)


def test_where_there_is_no_floor_none_is_found() -> None:
    wall = level((0, 4), (0, 2), 0.0, 0.05)[:, [0, 2, 1]]
    assert find_true_floor(wall) is None
    assert find_true_floor(np.zeros((0, 3))) is None
    assert find_true_floor(np.zeros((2, 3))) is None


# The rules


def cells_of(clouds: Sequence[FloatArray], base: FloatArray = NO_ROBOT) -> OccupancyGrid:
    """The grid of these views and of two that see the ceiling alone."""
    ceiling = np.array([[0.0, 0.0, 9.0], [2.0, 2.0, 9.0]])
    return true_grid([*clouds, ceiling, ceiling], TrueFloor.level(0.0), base, RULE)


def at(grid: OccupancyGrid, x: float, y: float) -> int:
    col, row = np.floor((np.array([x, y]) - grid.origin_xy_m) / grid.resolution_m).astype(int)
    return int(grid.cells[row, col])


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([0.0], -1),  # one view alone says nothing
        ([0.0, 0.05], 0),
        ([0.12, 0.12], -1),  # neither floor nor obstacle
        ([0.5], -1),
        ([0.5, 0.5], 100),
        ([0.0] * 5 + [0.5] * 2, 100),  # a table over a floor
        ([0.0] * 30 + [0.5], 0),  # a speck
        ([1.6, 1.6], -1),  # above the robot
        ([-0.5, -0.5], 100),  # a hole
        ([-0.2, -0.2], -1),
    ],
)
def test_what_counts_as_free_and_as_occupied(heights: list[float], expected: int) -> None:
    grid = cells_of([np.array([[1.02, 1.02, z]]) for z in heights])
    assert at(grid, 1.02, 1.02) == expected


def test_the_blur_beside_an_obstacle_is_not_known() -> None:
    wall, blur = np.array([[1.02, 1.02, 0.5]]), np.array([[1.07, 1.02, 0.5]])
    floor = np.array([[1.07, 1.02, 0.0]])
    grid = cells_of([*[wall] * 10, *[blur] * 3, *[floor] * 3])
    assert at(grid, 1.02, 1.02) == 100
    assert at(grid, 1.07, 1.02) == -1


def test_where_a_robot_truly_drove_is_free_but_not_through_what_stands_there() -> None:
    stands = [np.array([[1.12, 1.02, 0.5]])] * 3
    base = np.array([[1.02, 1.02, 0.1], [0.4, 0.4, 0.9]])
    grid = cells_of(stands, base)
    assert at(grid, 1.02, 1.02) == 0
    assert at(grid, 1.12, 1.02) == 100
    assert at(grid, 0.4, 0.4) == -1  # it flew
    assert at(grid, 1.02, 1.32) == -1
