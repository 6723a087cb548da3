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

"""Trajectory and grid metrics: invariances, closed forms, agreement with evo where installed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import OccupancyGrid, Trajectory
from mvdust3r_ros.evaluation.metrics.map_metrics import (
    MapMetricError,
    absolute_errors,
    associate,
    compare_grids,
    on_common_lattice,
    relative_errors,
)
from mvdust3r_ros.geometry import Sim3, make_se3

SECOND = 1_000_000_000


def make_walk(n: int = 40, seed: int = 0) -> Trajectory:
    rng = np.random.default_rng(seed)
    turns = Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.1, (n, 3)), 0)).as_matrix()
    centres = np.cumsum(rng.normal(0.1, 0.2, (n, 3)), 0)
    poses = np.array([make_se3(R, t) for R, t in zip(turns, centres, strict=True)])
    return Trajectory(1_700_000_000 * SECOND + np.arange(n) * SECOND // 10, poses)


def disturb(walk: Trajectory, sigma: float, seed: int = 1) -> Trajectory:
    rng = np.random.default_rng(seed)
    n = len(walk)
    turns = Rotation.from_rotvec(rng.normal(0, sigma, (n, 3))).as_matrix()
    poses = walk.T_world_cam @ np.array(
        [make_se3(R, t) for R, t in zip(turns, rng.normal(0, sigma, (n, 3)), strict=True)]
    )
    return dataclasses.replace(walk, T_world_cam=poses)


def moved(walk: Trajectory, S: Sim3) -> Trajectory:
    return dataclasses.replace(
        walk, T_world_cam=np.array([S.apply_pose(T) for T in walk.T_world_cam])
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10))
def test_a_similarity_costs_nothing_after_alignment(seed: int, scale: float) -> None:
    walk = make_walk(seed=seed)
    R = Rotation.random(random_state=seed).as_matrix()
    got = absolute_errors(moved(walk, Sim3(scale, R, np.array([3.0, -2, 1]))), walk)
    assert got.rmse_m < 1e-6
    assert got.rotation_deg < 1e-5
    assert got.scale == pytest.approx(1 / scale)
    step = relative_errors(moved(walk, Sim3(scale, R, np.zeros(3))), walk)
    assert max(step.rmse_m, step.rotation_deg) < 1e-5


def test_less_alignment_leaves_more_error() -> None:
    walk = make_walk()
    other = moved(disturb(walk, 0.01), Sim3(1.1, np.eye(3), np.array([1.0, 0, 0])))
    sim3, se3, none = (
        absolute_errors(other, walk, kind).rmse_m for kind in ("sim3", "se3", "none")
    )
    assert sim3 < se3 < none
    with pytest.raises(MapMetricError, match="affine"):
        absolute_errors(other, walk, "affine")


def test_a_known_offset_is_measured_without_alignment() -> None:
    walk = make_walk()
    shifted = moved(walk, Sim3(1.0, np.eye(3), np.array([0.3, 0.0, -0.4])))
    got = absolute_errors(shifted, walk, "none")
    for value in (got.rmse_m, got.mean_m, got.median_m, got.max_m):
        assert value == pytest.approx(0.5)
    assert got.pairs == 40
    assert relative_errors(shifted, walk, alignment="none").rmse_m == pytest.approx(0, abs=1e-9)


def test_a_straight_path_is_aligned_by_its_orientations() -> None:
    poses = np.tile(np.eye(4), (10, 1, 1))
    poses[:, 0, 3] = np.arange(10) * 0.1
    line = Trajectory(np.arange(10) * SECOND, poses)
    turn = Rotation.from_euler("x", 70, degrees=True).as_matrix()
    got = absolute_errors(moved(line, Sim3(2.0, turn, np.zeros(3))), line)
    assert (got.rmse_m, got.rotation_deg) == pytest.approx((0, 0), abs=1e-6)


def test_only_stamps_close_together_are_paired() -> None:
    walk = make_walk(5)
    late = dataclasses.replace(
        walk, stamps_ns=walk.stamps_ns + np.array([0, 9, 11, -9, 0]) * 10**6
    )
    estimated, true = associate(late, walk)
    np.testing.assert_array_equal(estimated, walk.T_world_cam[[0, 1, 3, 4]])
    np.testing.assert_array_equal(true, walk.T_world_cam[[0, 1, 3, 4]])
    one = Trajectory(walk.stamps_ns[:1], walk.T_world_cam[:1])
    assert len(associate(walk, one)[0]) == 1
    with pytest.raises(MapMetricError, match="no stamp"):
        associate(dataclasses.replace(walk, stamps_ns=walk.stamps_ns + SECOND * 9), walk)
    with pytest.raises(MapMetricError, match="step of 5"):
        relative_errors(walk, walk, step=5)


@pytest.mark.parametrize("alignment", ["sim3", "se3", "none"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_errors_equal_those_of_evo(alignment: str, seed: int) -> None:
    evo_metrics = pytest.importorskip("evo.core.metrics", reason="evo is not installed")
    from evo.core.metrics import PoseRelation, Unit
    from evo.core.sync import associate_trajectories
    from evo.core.trajectory import PoseTrajectory3D

    walk = make_walk(seed=seed)
    every_other = Trajectory(walk.stamps_ns[::2] + 3_000_000, walk.T_world_cam[::2])
    other = moved(
        disturb(every_other, 0.02, seed),
        Sim3(1.3, Rotation.random(random_state=seed).as_matrix(), np.ones(3)),
    )

    def as_evo(trajectory: Trajectory) -> PoseTrajectory3D:
        return PoseTrajectory3D(
            poses_se3=list(trajectory.T_world_cam), timestamps=trajectory.stamps_ns * 1e-9
        )

    reference, estimate = associate_trajectories(as_evo(walk), as_evo(other), max_diff=0.01)
    if alignment != "none":
        estimate.align(reference, correct_scale=alignment == "sim3")

    ape = evo_metrics.APE(PoseRelation.translation_part)
    ape.process_data((reference, estimate))
    got = absolute_errors(other, walk, alignment)
    want = ape.get_all_statistics()
    assert got.rmse_m == pytest.approx(want["rmse"], rel=1e-6)
    assert got.mean_m == pytest.approx(want["mean"], rel=1e-6)
    assert got.median_m == pytest.approx(want["median"], rel=1e-6)
    assert got.max_m == pytest.approx(want["max"], rel=1e-6)
    turn = evo_metrics.APE(PoseRelation.rotation_angle_deg)
    turn.process_data((reference, estimate))
    assert got.rotation_deg == pytest.approx(turn.get_all_statistics()["rmse"], rel=1e-5)

    for step in (1, 3):
        rpe = evo_metrics.RPE(
            PoseRelation.translation_part, delta=step, delta_unit=Unit.frames, all_pairs=True
        )
        rpe.process_data((reference, estimate))
        step_got = relative_errors(other, walk, step, alignment)
        assert step_got.rmse_m == pytest.approx(rpe.get_all_statistics()["rmse"], rel=1e-6)


def grid(
    cells: list[list[int]], res: float = 0.1, x: float = 0.0, y: float = 0.0
) -> OccupancyGrid:
    return OccupancyGrid(np.array(cells, np.int8), res, (x, y))


def test_equal_grids_score_one_whatever_their_extent() -> None:
    small = grid([[0, 100], [0, -1]])
    large = grid([[-1] * 4, [-1, 0, 100, -1], [-1, 0, -1, -1]], x=-0.1, y=-0.1)
    for pair in ((small, small), (small, large), (large, small)):
        got = compare_grids(*pair)
        assert got.iou == got.free_iou == got.occupied_iou == 1.0
        assert got.free_precision == got.free_recall == got.occupied_precision == 1.0
        assert got.false_free == 0.0


def test_scores_of_a_grid_by_hand() -> None:
    truth = grid([[0, 0, 100, 100, -1]])
    got = compare_grids(grid([[0, 100, 0, 100, 100]]), truth)
    assert got.free_iou == pytest.approx(1 / 3)
    assert got.occupied_iou == pytest.approx(1 / 4)
    assert got.iou == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert got.known_iou == pytest.approx(2 / 5)
    assert (got.free_precision, got.free_recall) == (0.5, 0.5)
    assert (got.occupied_precision, got.occupied_recall) == (0.5, 0.5)
    assert got.false_free == 0.5


def test_tolerance_forgives_a_wall_one_cell_off() -> None:
    truth, shifted = grid([[0, 100, 0, 0]]), grid([[0, 0, 100, 0]])
    assert compare_grids(shifted, truth).occupied_precision == 0.0
    got = compare_grids(shifted, truth, tolerance_m=0.1)
    assert (got.occupied_precision, got.occupied_recall) == (1.0, 1.0)
    assert compare_grids(shifted, truth, tolerance_m=0.09).occupied_recall == 0.0


def test_nothing_to_judge_is_nan() -> None:
    got = compare_grids(grid([[-1]]), grid([[0]]))
    assert np.isnan(got.occupied_iou)
    assert np.isnan(got.free_precision)
    assert (got.free_iou, got.free_recall) == (0.0, 0.0)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    shift=st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
    factor=st.sampled_from([1, 2, 3]),
)
def test_common_lattice_keeps_every_cell_at_its_place(
    seed: int, shift: tuple[int, int], factor: int
) -> None:
    rng = np.random.default_rng(seed)
    truth = grid(rng.choice([-1, 0, 100], (6, 9)).tolist(), 0.05, -1.15, 0.35)
    coarse = rng.choice([-1, 0, 100], (4, 5))
    estimate = grid(
        coarse.tolist(), 0.05 * factor, -1.15 + 0.05 * shift[0], 0.35 + 0.05 * shift[1]
    )
    est, true = on_common_lattice(estimate, truth)
    assert est.shape == true.shape
    low = np.minimum((0, 0), shift)
    x, y = np.array(shift) - low
    fine = np.kron(coarse, np.ones((factor, factor), int))
    np.testing.assert_array_equal(est[y : y + fine.shape[0], x : x + fine.shape[1]], fine)
    assert (est != -1).sum() == (fine != -1).sum()
    np.testing.assert_array_equal(true[-low[1] :, -low[0] :][:6, :9], truth.cells)
    assert (true != -1).sum() == (truth.cells != -1).sum()


def test_grids_of_different_worlds_are_refused() -> None:
    with pytest.raises(MapMetricError, match="too far apart"):
        compare_grids(grid([[0]], x=1e6, y=1e6), grid([[0]]))
