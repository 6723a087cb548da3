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

"""Network against odometry: who is believed follows from how they disagree."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import invert_se3, make_se3, rotation_angle_deg
from mvdust3r_ros.placing.pose_fusion import (
    MIN_SIGMA_M,
    UNIT_FACTORS,
    PoseSigma,
    fuse_poses,
    network_sigma,
    odometry_sigma,
)

N = 8


def drive() -> dict[int, FloatArray]:
    """A curved drive of 8 keyframes, half a metre apart."""
    return {
        i: make_se3(
            Rotation.from_euler("z", 0.15 * i).as_matrix(), np.array([0.5 * i, 0.04 * i * i, 0.0])
        )
        for i in range(N)
    }


def jolted(poses: dict[int, FloatArray], seed: int, sigma_m: float) -> dict[int, FloatArray]:
    """Every pose moved on its own."""
    rng = np.random.default_rng(seed)
    return {
        i: make_se3(
            Rotation.from_rotvec(rng.normal(0, 0.2 * sigma_m, 3)).as_matrix() @ T[:3, :3],
            T[:3, 3] + rng.normal(0, sigma_m, 3),
        )
        for i, T in poses.items()
    }


def error_m(a: dict[int, FloatArray], b: dict[int, FloatArray]) -> float:
    """Root mean square distance of the steps between keyframes."""
    steps = [
        (invert_se3(a[i]) @ a[i + 1])[:3, 3] - (invert_se3(b[i]) @ b[i + 1])[:3, 3]
        for i in range(N - 1)
    ]
    return float(np.sqrt(np.mean(np.square(steps).sum(1))))


def test_agreeing_opinions_change_nothing() -> None:
    truth = drive()
    T_odom_map = make_se3(Rotation.from_euler("z", 1.0).as_matrix(), np.array([3.0, 1.0, 0.0]))
    odometry = {i: T_odom_map @ T for i, T in truth.items()}
    fused = fuse_poses(truth, odometry, {}, 0.02).T_map_cam
    for i, T in truth.items():
        np.testing.assert_allclose(fused[i], T, atol=1e-9)


def test_a_coarse_network_hands_over_to_odometry() -> None:
    truth = drive()
    for seed in range(5):
        network = jolted(truth, seed, 0.3)
        fused = fuse_poses(network, truth, {}, 0.02).T_map_cam
        assert error_m(network, truth) > 0.3
        assert error_m(fused, truth) < 0.05


def test_a_precise_network_keeps_its_poses_against_drift() -> None:
    truth = drive()
    stretched = {i: make_se3(T[:3, :3], 1.02 * T[:3, 3]) for i, T in truth.items()}
    fused = fuse_poses(truth, stretched, {}, 0.02).T_map_cam
    assert max(float(np.abs(fused[i] - T).max()) for i, T in truth.items()) < 0.01


def test_mapped_keyframes_stay_where_they_are() -> None:
    truth = drive()
    network = jolted(truth, 1, 0.3)
    mapped = {i: truth[i] for i in range(4)}
    fused = fuse_poses(network, truth, mapped, 0.02).T_map_cam
    for i in mapped:
        np.testing.assert_array_equal(fused[i], truth[i])
    far = max(float(np.linalg.norm((fused[i] - truth[i])[:3, 3])) for i in range(4, N))
    assert far < 0.1


def test_what_a_coarse_network_is_always_off_by_does_not_turn_the_map() -> None:
    """Sixty windows, all bent to the same side, beside an exact odometry."""
    bend_deg = 2.0
    step = make_se3(Rotation.from_euler("z", 3, degrees=True).as_matrix(), np.array([0.1, 0, 0]))
    bend = make_se3(Rotation.from_euler("z", bend_deg, degrees=True).as_matrix(), np.zeros(3))
    truth = [np.eye(4)]
    for _ in range(4 * 60 + 4):
        truth.append(truth[-1] @ step)
    poses = {i: truth[i] for i in range(4)}
    for first in range(0, 4 * 60, 4):
        seen = {first: poses[first]}
        for i in range(first, first + 7):
            seen[i + 1] = seen[i] @ step @ bend
        driven = {i: truth[i] for i in seen}
        mapped = {i: poses[i] for i in seen if i in poses}
        poses.update(fuse_poses(seen, driven, mapped, 0.02).T_map_cam)
    last = max(poses)
    turned_deg = rotation_angle_deg(truth[last][:3, :3].T @ poses[last][:3, :3])
    assert turned_deg < 0.05 * bend_deg * last


def test_without_odometry_the_network_decides() -> None:
    truth = drive()
    network = jolted(truth, 2, 0.1)
    fused = fuse_poses(network, {0: truth[0]}, {0: truth[0]}, 0.02).T_map_cam
    np.testing.assert_array_equal(fused[0], truth[0])
    for i in range(1, N):
        np.testing.assert_array_equal(fused[i], network[i])


def test_sigmas_have_the_size_of_the_errors() -> None:
    truth = np.stack(list(drive().values()))
    assert network_sigma(truth, truth, 0.02).m == MIN_SIGMA_M
    found = [
        network_sigma(np.stack(list(jolted(drive(), s, 0.2).values())), truth, 0.02).m
        for s in range(40)
    ]
    # one rotation and one translation are fitted to 8 poses, so a little less than 0.2 is left
    assert 0.15 < np.mean(found) < 0.21
    step = make_se3(Rotation.from_euler("z", 0.5).as_matrix(), np.array([1.0, 0, 0]))
    sigma = odometry_sigma(np.eye(4), step, 0.02)
    np.testing.assert_allclose(sigma.m, 0.005 + 0.02, atol=1e-12)
    np.testing.assert_allclose(sigma.rad, np.radians(0.2) + 0.02 * 0.5, atol=1e-9)


def test_the_share_of_the_network_is_what_it_knows_better_than_odometry() -> None:
    truth = drive()
    fused = [fuse_poses(jolted(truth, 3, m), truth, {}, 0.02) for m in (0, 0.05, 1)]
    shares = [f.network_share for f in fused]
    assert shares[0] > 0.5
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.01
    assert fuse_poses(truth, {}, {}, 0.02).network_share == 1.0
    # both opinions together are more certain than odometry alone
    left = [f.sigma_factors for f in fused]
    assert 0 < left[0].m < 0.7
    assert 0 < left[0].rad < 0.7
    assert left[0].m < left[1].m < left[2].m < 1
    assert left[0].rad < left[1].rad < left[2].rad < 1
    assert left[2].m > 0.99
    assert left[2].rad > 0.95
    assert fuse_poses(truth, {}, {}, 0.02).sigma_factors == PoseSigma(1.0, 1.0)


def test_a_map_begins_exactly_where_it_is_told() -> None:
    """However far off a coarse network's poses are as a whole; odometry leads on from there."""
    truth = drive()
    T_off = make_se3(Rotation.from_euler("z", 0.2).as_matrix(), np.array([0.5, -0.3, 0.0]))
    coarse = {i: T_off @ T for i, T in jolted(truth, 4, 0.3).items()}
    fused = fuse_poses(coarse, truth, {}, 0.001, start=(0, truth[0])).T_map_cam
    np.testing.assert_array_equal(fused[0], truth[0])
    assert max(np.linalg.norm(fused[i][:3, 3] - T[:3, 3]) for i, T in truth.items()) < 0.1


def test_a_window_that_odometry_is_in_moves_as_one_body() -> None:
    truth = drive()
    network, odometry = jolted(truth, 1, 0.01), jolted(truth, 2, 0.2)
    alone = fuse_poses(network, odometry, {}, 0.02, own={})
    for i, T in network.items():
        np.testing.assert_allclose(alone.T_map_cam[i], T, atol=1e-9)
    assert (alone.network_share, alone.sigma_factors) == (1.0, UNIT_FACTORS)
    # the map knows the first four keyframes elsewhere: the others follow them
    T_map_window = make_se3(Rotation.from_euler("z", 0.3).as_matrix(), np.array([5.0, -2.0, 0.4]))
    mapped = {i: T_map_window @ network[i] for i in range(4)}
    joined = fuse_poses(network, odometry, mapped, 0.02, own={}).T_map_cam
    for i, T in network.items():
        np.testing.assert_allclose(joined[i], T_map_window @ T, atol=1e-6)
    weighed = fuse_poses(network, odometry, mapped, 0.02).T_map_cam
    assert error_m(weighed, network) > 0.005


def test_keyframes_of_the_map_pull_by_what_the_engine_knows_of_them() -> None:
    network = drive()
    off = make_se3(np.eye(3), np.array([0.0, 0.1, 0.0]))
    mapped = {**{i: network[i] for i in range(3)}, 3: off @ network[3]}
    sure = PoseSigma.of(0.0, 0.0)
    moved_m = []
    for sigma in (sure, PoseSigma(1.0, 1.0)):
        own = {**dict.fromkeys(network, sure), 3: sigma}
        found = fuse_poses(network, {}, mapped, 0.02, own=own).T_map_cam
        assert all(np.array_equal(found[i], T) for i, T in mapped.items())
        moved_m.append(float(np.linalg.norm(found[7][:3, 3] - network[7][:3, 3])))
    assert moved_m[1] < 1e-4 < 0.02 < moved_m[0]
