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

from dataclasses import replace

import numpy as np
import pytest

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import FloatArray, Keyframe, OccupancyGrid
from mvdust3r_ros.evaluation.trials.apartment_drives import (
    ApartmentOptions,
    apartment_drive,
    drifting_frames,
)
from mvdust3r_ros.evaluation.trials.apartment_grid import (
    observable_truth,
    score_apartment_grid,
    true_views,
)
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.scenes import scene_occupancy
from mvdust3r_ros.synthetic.sequence import Sequence as Drive
from mvdust3r_ros.window.preprocess import view_from_frame

HW = (64, 64)
RULE = MapSettings()
BAND = (RULE.obstacle_min_z_m, RULE.obstacle_max_z_m)


@pytest.fixture(scope="module")
def drive() -> Drive:
    return apartment_drive(9000, ApartmentOptions(path_m=2.0, hw=HW, min_rooms=1), Rig())


@pytest.fixture(scope="module")
def keyframes(drive: Drive) -> list[Keyframe]:
    frames = drifting_frames(drive, drive.truth.T_world_cam)
    return [Keyframe(i, f.stamp_ns, view_from_frame(f, HW), "") for i, f in enumerate(frames)]


def moved(grid: OccupancyGrid, cells: int) -> OccupancyGrid:
    x, y = grid.origin_xy_m
    return replace(grid, origin_xy_m=(x + cells * grid.resolution_m, y))


def test_the_true_grid_itself_is_right(drive: Drive, keyframes: list[Keyframe]) -> None:
    truth = scene_occupancy(drive.scene, 0.05, BAND)
    scores, exact = score_apartment_grid(truth, drive.scene, keyframes, RULE)
    assert (scores.right, scores.free_iou, scores.free_precision) == (1.0, 1.0, 1.0)
    assert scores.raw_occupied_iou == 1.0
    assert exact.right > 0.9
    assert exact.free_precision > 0.97
    assert exact.raw_free_iou < 0.9  # most of the apartment is not seen on two metres
    worse, _ = score_apartment_grid(moved(truth, 4), drive.scene, keyframes, RULE)
    assert worse.right < 0.98
    assert worse.free_precision < 0.97


def test_free_cells_outside_the_apartment_are_wrong(
    drive: Drive, keyframes: list[Keyframe]
) -> None:
    truth = scene_occupancy(drive.scene, 0.05, BAND)
    everywhere = replace(truth, cells=np.zeros_like(truth.cells))
    scores, _ = score_apartment_grid(everywhere, drive.scene, keyframes, RULE)
    assert scores.free_precision == pytest.approx((truth.cells == 0).mean())


def test_only_cells_with_a_true_point_can_be_known() -> None:
    truth = OccupancyGrid(np.array([[0, 0, 100, 100]], np.int8), 1.0, (0.0, 0.0))
    points: FloatArray = np.array(
        [[0.5, 0.5, 0.0], [1.5, 0.5, 2.0], [2.5, 0.5, 0.6], [3.5, 0.5, -0.5], [9.0, 9.0, 0.0]]
    )
    known = observable_truth(truth, [points], RULE)
    assert known.cells.tolist() == [[0, -1, 100, -1]]


def test_true_points_lie_in_the_apartment(drive: Drive, keyframes: list[Keyframe]) -> None:
    x0, y0, x1, y1 = drive.scene.bounds
    for camera, points in true_views(keyframes, 8.0):
        assert camera[2] == pytest.approx(0.6, abs=0.1)
        assert points[:, 0].min() > x0 - 0.2
        assert points[:, 1].max() < y1 + 0.2
        assert points[:, 0].max() < x1 + 0.2
        assert points[:, 1].min() > y0 - 0.2
        assert points[:, 2].min() > -0.02
