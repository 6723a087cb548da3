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

"""A planner by Nav2's rules, of our own, finds the way back along what a robot has driven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import BoolArray, FloatArray, Frame, OccupancyGrid
from mvdust3r_ros.drawing.occupancy import OccupancyMap
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.trials.apartment_drives import (
    ApartmentOptions,
    apartment_drive,
    drifting_frames,
)
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.recordings.bag import BagOptions, read_frames
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.sequence import SequenceConfig, make_sequence, odometry
from stored_data import MORE_DATA, needs_more_data

pytestmark = pytest.mark.slow

HW = (112, 112)
DEMO = SequenceConfig(seed=4, frames=90, rate_hz=6.0, step_m=0.16)
"""That of demo/README.md."""
NAV2_RADIUS_M = 0.22
CONFIG = with_values(
    MapperConfig(), {"map.robot_radius_m": NAV2_RADIUS_M, "keyframes.min_sharpness": 0.0}
)


def passable(grid: OccupancyGrid, radius_m: float = NAV2_RADIUS_M) -> BoolArray:
    """Cells that NavFn goes through with `allow_unknown: false` and `track_unknown_space: true`.

    Neither unknown ones nor those whose centre is within the inscribed radius of an obstacle's.
    """
    obstacles = grid.cells == 100
    off_m = ndimage.distance_transform_edt(~obstacles) * grid.resolution_m
    clear = off_m > radius_m if obstacles.any() else np.ones_like(obstacles)
    return np.asarray((grid.cells == 0) & clear, bool)


def cell(grid: OccupancyGrid, place: FloatArray) -> tuple[int, int]:
    col, row = np.floor((place[:2] - grid.origin_xy_m) / grid.resolution_m).astype(int)
    return int(row), int(col)


def is_reachable(grid: OccupancyGrid, start: FloatArray, goal: FloatArray) -> bool:
    """Whether a chain of neighbouring passable cells leads from one place to the other."""
    areas, _ = ndimage.label(passable(grid))
    a, b = areas[cell(grid, start)], areas[cell(grid, goal)]
    return bool(a == b > 0)


def mapped(frames: Sequence[Frame], noise: OracleNoise | None = None) -> Mapper:
    mapper = Mapper(CONFIG, OracleEngine(HW, noise or OracleNoise()))
    for frame in frames:
        mapper.process(frame)
    mapper.finish()
    return mapper


def base_places(mapper: Mapper) -> FloatArray:
    """(N, 3) where the robot's base was at each keyframe, in the map."""
    poses = mapper.snapshot().trajectory
    views = {k.stamp_ns: k.view for k in mapper.mapped_keyframes()}
    places = []
    for stamp_ns, T in zip(poses.stamps_ns.tolist(), poses.T_world_cam, strict=True):
        view = views.get(stamp_ns)
        if view is not None and view.T_odom_cam is not None and view.T_odom_base is not None:
            places.append((T @ invert_se3(view.T_odom_cam) @ view.T_odom_base)[:3, 3])
    return np.array(places)


def check_return_path(mapper: Mapper) -> None:
    grid, places = mapper.snapshot().grid, base_places(mapper)
    assert grid is not None
    assert np.linalg.norm(places[-1] - places[0]) > 0.5 or len(places) > 10
    assert is_reachable(grid, places[-1], places[0])
    ways = passable(grid)
    assert np.mean([ways[cell(grid, place)] for place in places]) > 0.95


@pytest.mark.parametrize("drive", [DEMO, SequenceConfig(seed=1)], ids=["demo", "another"])
def test_the_return_path_in_a_room(drive: SequenceConfig) -> None:
    """In smaller pictures than `demo` has."""
    made = make_sequence(replace(drive, hw=(120, 160), noise=0.0, supersample=1))
    frames = list(drifting_frames(made, odometry(made, 0.02)))
    check_return_path(mapped(frames, OracleNoise(points=0.02, scale=0.5, seed=drive.seed)))


def test_the_return_path_in_an_apartment() -> None:
    """With noisy points and odometry that drifts."""
    seed = 9003
    drive = apartment_drive(seed, ApartmentOptions(path_m=8.0, min_rooms=1, hw=HW), Rig())
    frames = list(drifting_frames(drive, odometry(drive, 0.02)))
    check_return_path(mapped(frames, OracleNoise(points=0.02, scale=0.5, seed=seed)))


def recorded(name: str) -> list[Frame]:
    folder = MORE_DATA / "data" / name
    return list(read_frames(folder / "bag", BagOptions(depth_folder=folder / "depth")))


def as_if_driven(frames: Sequence[Frame], height_m: float) -> list[Frame]:
    """The frames as a robot would have them whose base rolls below the camera."""
    made = []
    for frame in frames:
        assert frame.T_odom_cam is not None
        base = np.eye(4)
        base[:3, 3] = frame.T_odom_cam[:3, 3]
        base[2, 3] -= height_m
        made.append(replace(frame, T_odom_base=base))
    return made


@needs_more_data
@pytest.mark.parametrize("name", ["hololens_office", "office_walk"])
def test_the_return_path_where_a_robot_would_have_driven_a_recorded_walk(name: str) -> None:
    frames = recorded(name)
    floor = mapped(frames[:40]).snapshot()
    height_m = float(floor.trajectory.T_world_cam[:, 2, 3].mean() - floor.floor_z_m)
    check_return_path(mapped(as_if_driven(frames, height_m)))


@needs_more_data
def test_a_camera_on_a_head_leaves_no_free_way_behind_that_nobody_has_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driven: list[FloatArray] = []
    monkeypatch.setattr(OccupancyMap, "add_drive", lambda _, places, *__: driven.extend(places))
    mapper = mapped(recorded("hololens_office"))
    grid = mapper.now.drawing.grid
    assert grid is not None
    free = grid.grid().cells == 0
    assert len(mapper.now.graph.driven_path) == 0
    assert free.any()
    assert driven == []


# The planner itself


def grid_of(text: str) -> OccupancyGrid:
    signs = {"#": 100, ".": 0, " ": -1}
    cells = np.array([[signs[c] for c in row] for row in text.split("|")], np.int8)
    return OccupancyGrid(cells, 0.05, (0.0, 0.0))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("." * 30, True),
        ("." * 15 + " " + "." * 14, False),
        ("|".join(["." * 15 + "#" + "." * 14] + ["." * 30] * 4), False),
        ("|".join(["." * 15 + "#" + "." * 14] + ["." * 30] * 5), True),
    ],
)
def test_the_planner_keeps_its_distance_and_shuns_the_unknown(text: str, found: bool) -> None:
    grid = grid_of(text)
    y = (grid.cells.shape[0] - 0.5) * 0.05
    assert is_reachable(grid, np.array([0.02, y]), np.array([1.47, y])) == found
