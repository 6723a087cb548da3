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

"""Everything after the network on real footage: true depth in, path and grid against truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import (
    Frame,
    MapSnapshot,
    OccupancyGrid,
    Trajectory,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.drawing.map_files import read_tum
from mvdust3r_ros.drawing.occupancy import OccupancyMap
from mvdust3r_ros.engines.base import Engine, EngineInfo
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.metrics.map_metrics import (
    absolute_errors,
    align_trajectory,
    associate,
    compare_grids,
)
from mvdust3r_ros.evaluation.run import RunResult, run_mapper
from mvdust3r_ros.geometry import Sim3, backproject
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.recordings.bag import BagOptions, read_frames
from mvdust3r_ros.window.preprocess import view_from_frame
from stored_data import OFFICE as DATA
from stored_data import needs_more_data

pytestmark = needs_more_data
SIZE = (224, 224)
CONFIG = MapperConfig()


class SecretOracle(Engine):
    """The oracle for a mapper without odometry: it knows the poses, the views do not."""

    def __init__(self, frames: Sequence[Frame], noise: OracleNoise) -> None:
        self._oracle = OracleEngine(SIZE, noise)
        views = [view_from_frame(f, SIZE) for f in frames]
        self._full = {v.image_rgb.tobytes(): v for v in views}

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        assert all(v.T_odom_cam is None for v in views)
        return self._oracle.encode([self._full[v.image_rgb.tobytes()] for v in views])

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        return self._oracle.decode(tokens, n_ref)

    def describe(self) -> EngineInfo:
        return self._oracle.describe()

    def close(self) -> None:
        self._oracle.close()


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return list(read_frames(DATA / "bag", BagOptions(depth_folder=DATA / "depth")))


@pytest.fixture(scope="module")
def truth() -> Trajectory:
    return read_tum(DATA / "poses.txt")


@pytest.fixture(scope="module")
def exact(frames: list[Frame]) -> RunResult:
    return run_mapper(frames, Mapper(CONFIG, OracleEngine(SIZE)))


def to_map(snapshot: MapSnapshot, truth: Trajectory) -> Sim3:
    """S_map_truth: where the true world lies in the map."""
    T_estimate, T_true = associate(snapshot.trajectory, truth)
    return align_trajectory(T_true, T_estimate, "sim3")


def true_points(frame: Frame, S_map_odom: Sim3, offset: int = 1) -> np.ndarray:
    """(N, 3) true points of every second pixel, as the mapper samples them."""
    view = view_from_frame(frame, SIZE)
    assert view.depth_m is not None
    assert view.K is not None
    assert frame.T_odom_cam is not None
    depth = np.nan_to_num(view.depth_m)
    cam = backproject(depth, view.K)[offset::2, offset::2]
    use = (depth > 0)[offset::2, offset::2] & (cam[..., 2] < CONFIG.map.max_depth_m)
    T = frame.T_odom_cam
    return S_map_odom.apply(cam[use] @ T[:3, :3].T + T[:3, 3])


def true_grid(
    frames: Sequence[Frame], snapshot: MapSnapshot, S_map_odom: Sim3, offset: int = 1
) -> OccupancyGrid:
    """The grid of the true cloud."""
    grid = OccupancyMap(CONFIG.map, snapshot.floor_z_m)
    for frame in frames:
        assert frame.T_odom_cam is not None
        camera = S_map_odom.apply(frame.T_odom_cam[:3, 3])
        grid.add_view(camera, true_points(frame, S_map_odom, offset))
    return grid.grid()


def histogram_grid(points: np.ndarray, floor_z_m: float, min_points: int) -> OccupancyGrid:
    """Obstacles alone, without rays and votes: cells with enough points in the height band."""
    z = points[:, 2] - floor_z_m
    band = points[(z > CONFIG.map.obstacle_min_z_m) & (z < CONFIG.map.obstacle_max_z_m), :2]
    res = CONFIG.map.grid_resolution_m
    low = np.floor(band.min(0) / res)
    cols, rows = (np.floor(band.max(0) / res) - low + 1).astype(int)
    edges = [low[a] * res + res * np.arange(n + 1) for a, n in ((1, rows), (0, cols))]
    counts = np.histogram2d(band[:, 1], band[:, 0], bins=edges)[0]
    cells = np.where(counts >= min_points, 100, 0).astype(np.int8)
    return OccupancyGrid(cells, res, (low[0] * res, low[1] * res))


def test_every_window_is_committed_on_the_true_path(exact: RunResult, truth: Trajectory) -> None:
    assert exact.frames == 100
    assert exact.committed == len(exact.windows) >= 6
    assert absolute_errors(exact.snapshot.trajectory, truth, "sim3").rmse_m < 0.001
    metric = absolute_errors(exact.snapshot.trajectory, truth, "se3")
    assert metric.rmse_m < 0.001
    assert metric.rotation_deg < 0.05


def test_the_grid_is_the_grid_of_the_true_cloud_of_the_keyframes(
    exact: RunResult, frames: list[Frame], truth: Trajectory
) -> None:
    kept = set(exact.snapshot.trajectory.stamps_ns.tolist())
    S = to_map(exact.snapshot, truth)
    want = true_grid([f for f in frames if f.stamp_ns in kept], exact.snapshot, S)
    assert exact.snapshot.grid is not None
    assert compare_grids(exact.snapshot.grid, want).iou > 0.99


@pytest.mark.parametrize(("offset", "least"), [(1, 0.9), (0, 0.87)])
def test_the_grid_is_close_to_that_of_all_frames(
    exact: RunResult, frames: list[Frame], truth: Trajectory, offset: int, least: float
) -> None:
    """Three times as many views, and with offset 0 other pixels than the mapper took."""
    want = true_grid(frames, exact.snapshot, to_map(exact.snapshot, truth), offset)
    assert exact.snapshot.grid is not None
    got = compare_grids(exact.snapshot.grid, want, tolerance_m=0.05)
    assert got.known_iou > least
    assert got.free_iou > least
    assert got.free_precision > 0.97
    assert got.occupied_precision > 0.97
    assert got.occupied_recall > 0.95


def test_obstacles_are_where_true_points_stand_above_the_floor(
    exact: RunResult, frames: list[Frame], truth: Trajectory
) -> None:
    S = to_map(exact.snapshot, truth)
    cloud = np.concatenate([true_points(f, S) for f in frames])
    want = histogram_grid(cloud, exact.snapshot.floor_z_m, min_points=5)
    assert exact.snapshot.grid is not None
    got = compare_grids(exact.snapshot.grid, want, tolerance_m=0.05)
    assert got.occupied_precision > 0.97
    assert got.occupied_recall > 0.85


def test_the_floor_is_where_the_true_cloud_ends(
    exact: RunResult, frames: list[Frame], truth: Trajectory
) -> None:
    S = to_map(exact.snapshot, truth)
    z = np.concatenate([true_points(f, S)[:, 2] for f in frames])
    counts, edges = np.histogram(z, bins=np.arange(z.min(), z.max(), 0.02))
    lower = edges[:-1] < np.median(z)
    assert abs(edges[int(np.argmax(counts * lower))] + 0.01 - exact.snapshot.floor_z_m) < 0.05


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_and_a_random_scale_of_each_window_do_little_harm(
    frames: list[Frame], truth: Trajectory, seed: int
) -> None:
    noise = OracleNoise(points=0.01, smooth=0.01, scale=0.3, seed=seed)
    result = run_mapper(frames, Mapper(CONFIG, OracleEngine(SIZE, noise)))
    assert result.committed == len(result.windows)
    assert absolute_errors(result.snapshot.trajectory, truth, "sim3").rmse_m < 0.02
    metric = absolute_errors(result.snapshot.trajectory, truth, "sim3")
    assert metric.scale == pytest.approx(1.0, abs=0.02)
    S = to_map(result.snapshot, truth)
    assert result.snapshot.grid is not None
    got = compare_grids(result.snapshot.grid, true_grid(frames, result.snapshot, S), 0.05)
    assert got.free_precision > 0.97
    assert got.occupied_precision > 0.9
    assert got.occupied_recall > 0.85


@pytest.mark.parametrize(
    ("noise", "limit_m"),
    [(OracleNoise(), 0.001), (OracleNoise(scale=0.5, seed=4), 0.001),
     (OracleNoise(points=0.01, smooth=0.005, scale=0.3, seed=5), 0.05)],
)  # fmt: skip
def test_without_odometry_windows_are_joined_by_what_they_share(
    frames: list[Frame], truth: Trajectory, noise: OracleNoise, limit_m: float
) -> None:
    blind = [dataclasses.replace(f, T_odom_cam=None, depth_m=None) for f in frames]
    result = run_mapper(blind, Mapper(CONFIG, SecretOracle(frames, noise)))
    assert result.committed == len(result.windows) >= 6
    assert absolute_errors(result.snapshot.trajectory, truth, "sim3").rmse_m < limit_m
