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

import json
from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import WindowPrediction
from mvdust3r_ros.evaluation.trials.apartment_drives import (
    CORRUPTIONS,
    ApartmentOptions,
    ApartmentsError,
    apartment_drive,
    corrupt_prediction,
    drifting_frames,
    rooms_visited,
)
from mvdust3r_ros.evaluation.trials.apartments import evaluate_apartments, format_apartments
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.sequence import odometry

OPTIONS = ApartmentOptions(path_m=5.0, min_rooms=1, hw=(64, 64))
CONFIG = with_values(MapperConfig(), {"map.camera_height_m": 0.6, "keyframes.min_sharpness": 0.0})


def test_a_drive_is_as_long_as_asked() -> None:
    drive = apartment_drive(9000, OPTIONS, Rig())
    way = np.linalg.norm(np.diff(drive.truth.T_world_cam[:, :3, 3], axis=0), axis=1).sum()
    assert 5.0 <= way < 5.0 + 2 * OPTIONS.step_m


def test_frames_carry_drifting_odometry_and_the_truth() -> None:
    drive = apartment_drive(9000, ApartmentOptions(path_m=1.0, min_rooms=1, hw=(32, 32)), Rig())
    T_odom_cam = odometry(drive, 0.02)
    frames = list(drifting_frames(drive, T_odom_cam))
    assert len(frames) == len(drive.truth)
    assert np.array_equal(frames[-1].T_world_cam, drive.truth.T_world_cam[-1])
    assert np.array_equal(frames[-1].T_odom_cam, T_odom_cam[-1])
    assert not np.allclose(frames[-1].T_odom_cam, frames[-1].T_world_cam)


@pytest.mark.slow
def test_a_drive_goes_through_the_rooms_asked_for() -> None:
    drive = apartment_drive(9000, ApartmentOptions(path_m=8.0, min_rooms=2), Rig())
    assert rooms_visited(drive) >= 2
    with pytest.raises(ApartmentsError, match="99 rooms"):
        apartment_drive(9000, ApartmentOptions(path_m=1.0, min_rooms=99), Rig())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corrupted_window_keeps_its_shape_and_the_good_one(kind: str) -> None:
    rng = np.random.default_rng(0)
    good = WindowPrediction(
        rng.normal(size=(1, 4, 8, 8, 3)).astype(np.float32), np.full((1, 4, 8, 8), 5, np.float32)
    )
    before = good.points.copy()
    bad = corrupt_prediction(good, kind, rng)
    assert bad.points.shape == good.points.shape
    assert np.isfinite(bad.points).all()
    assert np.abs(bad.points[:, 2:] - before[:, 2:]).mean() > 0.5
    assert np.array_equal(good.points, before)


@pytest.mark.slow
def test_a_short_drive_with_corrupted_windows(tmp_path: Path) -> None:
    options = ApartmentOptions(path_m=5.0, min_rooms=1, hw=(64, 64), corrupt=0.7)
    (result,) = evaluate_apartments(range(9000, 9001), CONFIG, options, tmp_path)
    assert result.spoiled > 0
    assert result.spoiled_committed == 0
    assert result.opened_after == 1
    assert result.ate_m < 0.15
    assert abs(result.scale_error) < 0.05
    assert result.scale_sigma < 0.025
    assert result.ate_clean_m < 0.15
    assert result.ate_without_loops_m < 0.15
    assert len(result.window_scale_errors) == result.windows["COMMITTED"]
    assert result.grid is not None
    assert result.exact_grid is not None
    assert result.grid.right > 0.7
    assert result.grid.free_precision > 0.95
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["flats"][0]["ate_m"] == result.ate_m
    assert written["flats"][0]["grid"]["right"] == result.grid.right
    assert (tmp_path / "table.md").read_text() == format_apartments([result])
    assert format_apartments([result, result]).count("\n") == 7


def test_no_seeds_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ApartmentsError, match="no seeds"):
        evaluate_apartments(range(0), CONFIG, OPTIONS, tmp_path)
