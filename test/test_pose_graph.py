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

"""Pose graph: exact recovery, weighting, outliers, errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import invert_se3, make_se3, rotation_angle_deg
from mvdust3r_ros.placing.pose_graph import PoseEdge, PoseGraphError, optimize_poses, relative_edge

CIRCLE = 60
RADIUS_M = 5.0


def circle() -> list[FloatArray]:
    """A closed drive, looking along the path."""
    angles = np.linspace(0, 2 * np.pi, CIRCLE, endpoint=False)
    return [
        make_se3(
            Rotation.from_euler("z", a).as_matrix(),
            RADIUS_M * np.array([np.cos(a), np.sin(a), 0.1 * np.sin(3 * a)]),
        )
        for a in angles
    ]


def disturbed(T: FloatArray, rng: np.random.Generator, sigma_m: float, rad: float) -> FloatArray:
    """A pose with noise on its right."""
    R = Rotation.from_rotvec(rng.normal(0, rad, 3)).as_matrix()
    return T @ make_se3(R, rng.normal(0, sigma_m, 3))


def chain(truth: list[FloatArray], seed: int) -> tuple[list[PoseEdge], dict[int, FloatArray]]:
    """Noisy edges along the path, and the poses they add up to."""
    rng = np.random.default_rng(seed)
    edges = []
    start = {0: truth[0]}
    for i in range(len(truth) - 1):
        measured = disturbed(invert_se3(truth[i]) @ truth[i + 1], rng, 0.02, 0.01)
        edges.append(PoseEdge(i, i + 1, measured, 0.02, 0.01))
        start[i + 1] = start[i] @ measured
    return edges, start


def rms_m(poses: dict[int, FloatArray], truth: list[FloatArray]) -> float:
    """Root mean square distance of the positions."""
    return float(
        np.sqrt(np.mean([np.sum((poses[i] - t)[:3, 3] ** 2) for i, t in enumerate(truth)]))
    )


def test_exact_measurements_are_met_from_any_start() -> None:
    truth = circle()[:10]
    edges = [relative_edge(i, i + 1, truth[i], truth[i + 1], 0.1, 0.1) for i in range(9)]
    rng = np.random.default_rng(1)
    start = {i: disturbed(T, rng, 0.3, 0.3) if i else T for i, T in enumerate(truth)}
    found = optimize_poses(start, edges, {0})
    for i, T in enumerate(truth):
        np.testing.assert_allclose(found[i], T, atol=1e-6)


def test_two_opinions_are_averaged_by_inverse_variance() -> None:
    poses = {0: np.eye(4), 1: np.eye(4)}
    near = make_se3(np.eye(3), np.array([1.0, 0, 0]))
    far = make_se3(np.eye(3), np.array([2.0, 0, 0]))
    edges = [PoseEdge(0, 1, near, 0.1, 0.1), PoseEdge(0, 1, far, 0.2, 0.1)]
    found = optimize_poses(poses, edges, {0})
    # weights 100 and 25
    np.testing.assert_allclose(found[1][:3, 3], [1.2, 0, 0], atol=1e-9)


def test_a_closure_takes_the_drift_out() -> None:
    truth = circle()
    before = after = 0.0
    for seed in range(5):
        edges, start = chain(truth, seed)
        closing = relative_edge(CIRCLE - 1, 0, truth[-1], truth[0], 0.02, 0.01)
        edges.append(PoseEdge(CIRCLE - 1, 0, closing.T_a_b, 0.02, 0.01, robust=True))
        found = optimize_poses(start, edges, {0})
        before, after = before + rms_m(start, truth), after + rms_m(found, truth)
        gap = invert_se3(found[CIRCLE - 1]) @ found[0] @ invert_se3(closing.T_a_b)
        assert np.linalg.norm(gap[:3, 3]) < 0.02
        assert rotation_angle_deg(gap[:3, :3]) < 1.0
    assert after < 0.6 * before


def test_a_false_closure_is_given_up() -> None:
    truth = circle()
    edges, start = chain(truth, 3)
    false = PoseEdge(CIRCLE // 2, 0, np.eye(4), 0.02, 0.01, robust=True)
    found = optimize_poses(start, [*edges, false], {0})
    moved = max(float(np.linalg.norm((found[i] - start[i])[:3, 3])) for i in start)
    assert moved < 0.1
    believed = PoseEdge(CIRCLE // 2, 0, np.eye(4), 0.02, 0.01)
    assert rms_m(optimize_poses(start, [*edges, believed], {0}), truth) > 2.0


def test_fixed_poses_do_not_move() -> None:
    truth = circle()
    edges, start = chain(truth, 4)
    found = optimize_poses(start, edges, {0, 7})
    np.testing.assert_array_equal(found[0], start[0])
    np.testing.assert_array_equal(found[7], start[7])
    assert optimize_poses(start, edges, set(start)) == start


def test_the_frame_does_not_matter() -> None:
    truth = circle()[:12]
    edges, start = chain(truth, 5)
    edges.append(relative_edge(0, 11, truth[0], truth[11], 0.01, 0.01))
    T_other = make_se3(Rotation.from_euler("xyz", [0.3, -0.2, 2.0]).as_matrix(), np.ones(3))
    here = optimize_poses(start, edges, {0})
    there = optimize_poses({i: T_other @ T for i, T in start.items()}, edges, {0})
    for i in here:
        np.testing.assert_allclose(there[i], T_other @ here[i], atol=1e-6)


def test_bad_graphs_are_named() -> None:
    poses = {0: np.eye(4), 1: np.eye(4), 2: np.eye(4)}
    edge = PoseEdge(0, 1, np.eye(4), 0.1, 0.1)
    with pytest.raises(PoseGraphError, match="no pose is fixed"):
        optimize_poses(poses, [edge], set())
    with pytest.raises(PoseGraphError, match="not connected"):
        optimize_poses(poses, [edge], {0})
    with pytest.raises(PoseGraphError, match=r"\[9\]"):
        optimize_poses(poses, [PoseEdge(0, 9, np.eye(4), 0.1, 0.1)], {0})
