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

"""Bundle adjustment: derivatives, elimination of points, robustness, priors, covariance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import invert_se3, rotation_angle_deg
from mvdust3r_ros.sfm import bundle
from mvdust3r_ros.sfm.bundle import (
    BundleError,
    MotionPrior,
    Observations,
    Problem,
    Scene,
    adjust,
    covariance,
    derivatives,
    prior_derivatives,
)
from sfm_world import HW, K, pose, project, scale_of, world, worst

NO_FOCAL = np.zeros((0, 2))


def problem(
    scene: Scene, seen: Observations, priors: tuple[MotionPrior, ...] = (), sigma_px: float = 0.3
) -> Problem:
    views = len(scene.T)
    kept = None if priors else (views - 1, float(np.linalg.norm(scene.T[-1, :3, 3])))
    return Problem(
        seen, priors, sigma_px, np.ones(views, bool), np.full(views, -1), NO_FOCAL, kept
    )


def shaken(scene: Scene, seed: int, turn_deg: float = 1.0, shift: float = 0.02) -> Scene:
    """The scene with errors in all but the first pose."""
    rng = np.random.default_rng(seed)
    T = scene.T.copy()
    for P in T[1:]:
        P[:] = P @ pose(rng.normal(0, turn_deg, 3), rng.normal(0, shift, 3))
    return Scene(T, scene.K, scene.points + rng.normal(0, shift, scene.points.shape))


def steps(T: FloatArray, sigma_rad: float, sigma_t: float) -> tuple[MotionPrior, ...]:
    return tuple(
        MotionPrior(i, i + 1, invert_se3(T[i]) @ T[i + 1], sigma_rad, sigma_t)
        for i in range(len(T) - 1)
    )


def moved(scene: Scene, view: int, step: FloatArray) -> Scene:
    T = scene.T.copy()
    T[view, :3, 3] += T[view, :3, :3] @ step[3:]
    T[view, :3, :3] = T[view, :3, :3] @ Rotation.from_rotvec(step[:3]).as_matrix()
    return Scene(T, scene.K, scene.points)


def test_derivatives_of_pixels_are_those_of_small_steps() -> None:
    scene, seen = world()
    scene = shaken(scene, 1)
    J_cam, J_focal, J_point, _ = derivatives(scene, seen)
    pixels = lambda s: bundle.residuals(s, seen)[0]  # noqa: E731
    own = seen.view == 2
    for axis, step in enumerate(1e-6 * np.eye(6)):
        slope = (pixels(moved(scene, 2, step)) - pixels(moved(scene, 2, -step))) / 2e-6
        np.testing.assert_allclose(slope[own], J_cam[own, :, axis], atol=1e-3)
        assert np.all(slope[~own] == 0)
    for axis, step in enumerate(1e-6 * np.eye(3)):
        there, back = (Scene(scene.T, scene.K, scene.points + s) for s in (step, -step))
        np.testing.assert_allclose(
            (pixels(there) - pixels(back)) / 2e-6, J_point[..., axis], atol=1e-3
        )
    longer = scene.K.copy()
    longer[:, [0, 1], [0, 1]] *= math.exp(1e-6)
    slope = (pixels(Scene(scene.T, longer, scene.points)) - pixels(scene)) / 1e-6
    np.testing.assert_allclose(slope, J_focal, atol=1e-2)


def test_no_motion_is_contradicted_where_none_was_measured() -> None:
    scene, _ = world()
    assert bundle.prior_strain((), scene.T).shape == (0, 2)


@pytest.mark.parametrize("turn_deg", [0.0, 1e-4, 3.0, 40.0])
def test_derivatives_of_a_prior_are_those_of_small_steps(turn_deg: float) -> None:
    scene, _ = world()
    measured = invert_se3(scene.T[1]) @ scene.T[3] @ pose((turn_deg, 0, -turn_deg), (0.02, 0, 0))
    prior = MotionPrior(1, 3, measured, 0.01, 0.02)
    J, r = prior_derivatives(scene, prior)
    np.testing.assert_allclose(np.linalg.norm(r[:3]), math.radians(turn_deg) * 2**0.5 / 0.01)
    for column, (view, axis) in enumerate((v, a) for v in (1, 3) for a in range(6)):
        step = 1e-6 * np.eye(6)[axis]
        there, back = (prior_derivatives(moved(scene, view, s), prior)[1] for s in (step, -step))
        np.testing.assert_allclose((there - back) / 2e-6, J[:, column], atol=2e-4)


def test_eliminating_the_points_leaves_the_step_of_the_whole_system() -> None:
    scene, seen = world(count=25, views=3)
    scene = shaken(scene, 2)
    task = problem(scene, seen, steps(scene.T, 0.02, 0.05))
    normal = bundle.normal_equations(scene, task)
    damping = 1e-3
    D, count = task.size, len(scene.points)
    whole = np.zeros((D + 3 * count,) * 2)
    whole[:D, :D] = normal.cameras
    for p in range(count):
        at = slice(D + 3 * p, D + 3 * p + 3)
        whole[at, at] = normal.points[p]
        whole[:D, at] = normal.cross[:, :, p]
        whole[at, :D] = normal.cross[:, :, p].T
    whole += damping * np.diag(np.diag(whole))
    g = np.concatenate([normal.g_cameras, normal.g_points.ravel()])
    free = np.concatenate([task.unknown, np.ones(3 * count, bool)])
    dense = np.zeros(len(g))
    dense[free] = -np.linalg.solve(whole[np.ix_(free, free)], g[free])
    step, shift = bundle.damped_step(normal, task, damping)
    np.testing.assert_allclose(step, dense[:D], atol=1e-8)
    np.testing.assert_allclose(shift.ravel(), dense[D:], atol=1e-7)


def test_exact_observations_are_met_exactly() -> None:
    scene, seen = world(noise_px=0.0)
    found = adjust(shaken(scene, 3), problem(scene, seen), 30).scene
    turn, shift = worst(found.T, scene.T)
    assert turn < 1e-3
    assert shift < 1e-4


def test_a_tenth_of_wild_observations_changes_little() -> None:
    scene, seen = world(noise_px=0.0)
    wild = np.random.default_rng(4).random(len(seen)) < 0.1
    uv = seen.uv.copy()
    uv[wild] += np.random.default_rng(5).uniform(-40, 40, (int(wild.sum()), 2))
    seen = Observations(seen.view, seen.point, uv)
    found = adjust(shaken(scene, 3, 0.3, 0.005), problem(scene, seen), 30).scene
    turn, shift = worst(found.T, scene.T)
    assert turn < 0.1
    assert shift < 0.01


def test_what_nothing_measures_is_kept() -> None:
    scene, seen = world()
    start = shaken(scene, 6)
    found = adjust(start, problem(start, seen), 20).scene
    assert np.array_equal(found.T[0], start.T[0])
    far = [np.linalg.norm(s.T[-1, :3, 3]) for s in (start, found)]
    assert far[1] == pytest.approx(far[0], rel=1e-3)


def test_odometry_gives_the_unit_and_images_the_shape() -> None:
    scene, seen = world()
    wrong_unit = scene.T.copy()
    wrong_unit[:, :3, 3] *= 1.25
    priors = steps(scene.T, math.radians(1), 0.01)
    found = adjust(
        Scene(wrong_unit, scene.K, 1.25 * scene.points), problem(scene, seen, priors), 30
    )
    assert scale_of(found.scene.T, scene.T) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize(("sigma_deg", "share"), [(0.02, 0.0), (20.0, 1.0)])
def test_priors_and_images_meet_by_their_sigmas(sigma_deg: float, share: float) -> None:
    scene, seen = world(count=40)
    bent = scene.T.copy()
    bent[3:] = bent[3:] @ pose((0, 0.05, 0), (0, 0, 0))
    priors = steps(bent, math.radians(sigma_deg), 0.01)
    sigma_px = 3.0 if sigma_deg < 1 else 0.3
    found = adjust(scene, problem(scene, seen, priors, sigma_px), 30).scene
    off = found.T[3, :3, :3].T @ found.T[2, :3, :3] @ bent[2, :3, :3].T @ bent[3, :3, :3]
    assert float(rotation_angle_deg(off)) == pytest.approx(0.05 * share, abs=0.03)


def test_one_step_that_slipped_is_given_up() -> None:
    scene, seen = world()
    priors = list(steps(scene.T, math.radians(0.3), 0.004))
    slipped = priors[1].T_a_b.copy()
    slipped[:3, 3] *= 3
    priors[1] = MotionPrior(1, 2, slipped, priors[1].sigma_rad, priors[1].sigma_t)
    found = adjust(scene, problem(scene, seen, tuple(priors)), 30).scene
    assert worst(found.T, scene.T)[1] < 0.02


def test_an_unknown_focal_length_is_found() -> None:
    scene, seen = world(noise_px=0.1)
    longer = scene.K.copy()
    longer[:, [0, 1], [0, 1]] *= 1.15
    views = len(scene.T)
    task = Problem(
        seen, (), 0.1, np.ones(views, bool), np.zeros(views, int),
        np.array([[math.log(longer[0, 0, 0]), math.inf]]), (views - 1, 0.5),
    )  # fmt: skip
    found = adjust(Scene(scene.T, longer, scene.points), task, 40)
    sigma = float(np.sqrt(covariance(found, task)[-1, -1]))
    off = math.log(found.scene.K[0, 0, 0] / K[0, 0])
    assert sigma < 0.02
    assert abs(off) < 3 * sigma


@pytest.mark.slow
def test_the_covariance_is_the_scatter_over_seeds() -> None:
    steps_of, said = [], []
    for seed in range(60):
        scene, seen = world(seed=seed, count=60, views=4)
        task = problem(scene, seen)
        found = adjust(scene, task, 10)
        off = invert_se3(scene.T[2]) @ found.scene.T[2]
        steps_of.append([*Rotation.from_matrix(off[:3, :3]).as_rotvec(), *off[:3, 3]])
        said.append(np.diag(covariance(found, task))[12:18])
    ratio = np.std(steps_of, axis=0) / np.sqrt(np.mean(said, axis=0))
    assert np.all(ratio > 0.65)
    assert np.all(ratio < 1.25)


def test_too_few_observations_determine_no_covariance() -> None:
    scene, seen = world(count=30, views=3)
    lost = seen.chosen(seen.view != 2)
    twice = np.bincount(lost.point, minlength=len(scene.points))[lost.point] >= 2
    points, at = np.unique(lost.point[twice], return_inverse=True)
    seen = Observations(lost.view[twice], at, lost.uv[twice])
    scene = Scene(scene.T, scene.K, scene.points[points])
    task = Problem(seen, (), 0.3, np.ones(3, bool), np.full(3, -1), NO_FOCAL, (1, 0.1))
    with pytest.raises(BundleError, match="undetermined"):
        covariance(adjust(scene, task, 3), task)


def test_the_image_is_that_of_the_world() -> None:
    assert project(np.array([[0, 0, 2.0]]), np.eye(4), K)[0] == pytest.approx(K[:2, 2])
    assert K[0, 2] == (HW[1] - 1) / 2
