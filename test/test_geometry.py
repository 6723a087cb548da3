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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import (
    R_BODY_OPTICAL,
    AlignmentError,
    Sim3,
    align_cameras_sim3,
    align_sim3,
    align_sim3_robust,
    backproject,
    focal_from_pointmap,
    interpolate_se3,
    invert_se3,
    make_se3,
    mean_rotation,
    pixel_grid,
    project,
    quaternion_xyzw,
    rotation_angle_deg,
    se3_from_quaternion,
)

K = np.array([[50.0, 0.0, 30.0], [0.0, 60.0, 20.0], [0.0, 0.0, 1.0]])
ROT_Z_90 = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

small = st.floats(-5, 5)
vectors = hnp.arrays(float, 3, elements=small)
rotations = hnp.arrays(float, 3, elements=st.floats(-3, 3)).map(
    lambda v: Rotation.from_rotvec(v).as_matrix()
)
sim3s = st.builds(Sim3, st.floats(0.1, 10), rotations, vectors)
poses = st.builds(make_se3, rotations, vectors)


def cloud(count: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(count, 3)) * (1.0, 2.0, 3.0)


# Rigid transforms and rotations


def test_body_axes_of_optical_axes() -> None:
    right, down, ahead = np.eye(3)
    assert (R_BODY_OPTICAL @ ahead).tolist() == [1, 0, 0]
    assert (R_BODY_OPTICAL @ right).tolist() == [0, -1, 0]
    assert (R_BODY_OPTICAL @ down).tolist() == [0, 0, -1]


def test_make_se3_maps_points_by_rotation_then_translation() -> None:
    T = make_se3(ROT_Z_90, np.array([10.0, 20.0, 30.0]))
    assert (T @ [1.0, 2.0, 3.0, 1.0]).tolist() == [8.0, 21.0, 33.0, 1.0]


@given(poses)
def test_inverse_of_a_pose(T: FloatArray) -> None:
    np.testing.assert_allclose(invert_se3(T) @ T, np.eye(4), atol=1e-12)
    assert invert_se3(T)[3].tolist() == [0, 0, 0, 1]


def test_inverse_of_many_poses_is_that_of_each() -> None:
    T = np.stack([make_se3(Rotation.from_rotvec(v).as_matrix(), 2 * v) for v in cloud(6)])
    many = invert_se3(T.reshape(2, 3, 4, 4))
    np.testing.assert_allclose(many.reshape(6, 4, 4), [np.linalg.inv(t) for t in T], atol=1e-12)


def test_quaternion_of_a_quarter_turn() -> None:
    half = np.sqrt(0.5)
    np.testing.assert_allclose(quaternion_xyzw(ROT_Z_90), [0, 0, half, half], atol=1e-12)
    T = se3_from_quaternion(np.array([0, 0, 7.0, 7.0]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(T, make_se3(ROT_Z_90, np.array([1.0, 2.0, 3.0])), atol=1e-12)


@given(rotations)
def test_quaternions_there_and_back(R: FloatArray) -> None:
    quat = quaternion_xyzw(R)
    assert quat[3] >= 0
    np.testing.assert_allclose(se3_from_quaternion(quat, np.zeros(3))[:3, :3], R, atol=1e-9)


@pytest.mark.parametrize(
    ("quat", "t"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, np.nan, 1.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0, 1.0], [0.0, np.inf, 0.0]),
    ],
)
def test_what_is_no_pose_is_refused(quat: list[float], t: list[float]) -> None:
    with pytest.raises(AlignmentError, match="not a pose: quaternion"):
        se3_from_quaternion(np.array(quat), np.array(t))


@given(rotations, st.floats(0, 180))
def test_rotation_angle(R: FloatArray, degrees: float) -> None:
    turned = R @ Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    assert rotation_angle_deg(R.T @ turned) == pytest.approx(degrees, abs=1e-5)


def test_rotation_angles_of_a_stack() -> None:
    R = Rotation.from_euler("x", [[0], [90], [180], [-45]], degrees=True).as_matrix()
    np.testing.assert_allclose(rotation_angle_deg(R), [0, 90, 180, 45], atol=1e-6)


def test_mean_rotation_is_weighted() -> None:
    R = Rotation.from_euler("z", [[0], [30]], degrees=True).as_matrix()
    assert rotation_angle_deg(mean_rotation(R)) == pytest.approx(15)
    assert rotation_angle_deg(mean_rotation(R, np.array([0.0, 1.0]))) == pytest.approx(30)


def test_interpolation_between_poses_and_beyond() -> None:
    T_0 = make_se3(np.eye(3), np.array([1.0, 0.0, 0.0]))
    T_1 = make_se3(ROT_Z_90, np.array([3.0, 0.0, 4.0]))
    for alpha, angle, t in [(0, 0, (1, 0, 0)), (0.5, 45, (2, 0, 2)), (2, 180, (5, 0, 8))]:
        T = interpolate_se3(T_0, T_1, alpha)
        assert rotation_angle_deg(T[:3, :3]) == pytest.approx(angle, abs=1e-6)
        np.testing.assert_allclose(T[:3, 3], t, atol=1e-12)


@given(poses, poses, poses, st.floats(0, 1))
@pytest.mark.slow
def test_interpolation_does_not_depend_on_the_world(
    T_w: FloatArray, T_0: FloatArray, T_1: FloatArray, alpha: float
) -> None:
    if rotation_angle_deg(T_0[:3, :3].T @ T_1[:3, :3]) > 179:
        return  # two shortest ways
    moved = interpolate_se3(T_w @ T_0, T_w @ T_1, alpha)
    np.testing.assert_allclose(moved, T_w @ interpolate_se3(T_0, T_1, alpha), atol=1e-7)


# Similarities


def test_similarity_by_hand() -> None:
    S = Sim3(2.0, ROT_Z_90, np.array([10.0, 0.0, 0.0]))
    assert S.apply(np.array([[1.0, 2.0, 3.0]])).tolist() == [[6.0, 2.0, 6.0]]
    assert S.apply(np.array([1, 2, 3])).tolist() == [6.0, 2.0, 6.0]


@given(sim3s, sim3s, vectors)
@pytest.mark.slow
def test_similarities_compose_like_functions(S: Sim3, S_2: Sim3, point: FloatArray) -> None:
    np.testing.assert_allclose((S @ S_2).apply(point), S.apply(S_2.apply(point)), atol=1e-9)
    np.testing.assert_allclose(S.inverse().apply(S.apply(point)), point, atol=1e-8)


@given(sim3s, poses, vectors)
@pytest.mark.slow
def test_a_moved_camera_sees_the_same_scaled_scene(
    S: Sim3, T_b_cam: FloatArray, p: FloatArray
) -> None:
    p_a = S.apply((T_b_cam @ [*p, 1.0])[:3])
    cam = invert_se3(S.apply_pose(T_b_cam)) @ [*p_a, 1.0]
    np.testing.assert_allclose(cam[:3], S.scale * p, atol=1e-8)


def test_points_keep_shape_and_precision() -> None:
    S = Sim3(2.0, np.eye(3), np.ones(3))
    moved = S.apply(np.ones((2, 5, 3), np.float32))
    assert moved.dtype == np.float32
    assert np.array_equal(moved, np.full((2, 5, 3), 3.0))


# Alignment


@given(sim3s, st.integers(3, 30), st.integers(0, 1000))
@pytest.mark.slow
def test_alignment_finds_the_similarity(S: Sim3, count: int, seed: int) -> None:
    src = cloud(count, seed)
    found = align_sim3(src, S.apply(src))
    assert found.scale == pytest.approx(S.scale, rel=1e-6)
    np.testing.assert_allclose(found.R, S.R, atol=1e-6)
    np.testing.assert_allclose(found.t, S.t, atol=1e-4)


def test_alignment_of_the_example_by_umeyama() -> None:
    src = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    dst = np.array([[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    S = align_sim3(src[:, :2] @ np.eye(2, 3), dst)
    # in space, a mirrored triangle is a turned one
    np.testing.assert_allclose(S.R, np.diag([-1.0, 1.0, -1.0]), atol=1e-12)
    assert S.scale == pytest.approx(1.0)


def test_alignment_is_never_a_reflection() -> None:
    src = cloud(50)
    S = align_sim3(src, src * (1, 1, -1))
    assert np.linalg.det(S.R) == pytest.approx(1.0)
    np.testing.assert_allclose(S.R.T @ S.R, np.eye(3), atol=1e-12)


def test_mirrored_axes_by_hand() -> None:
    # x**2 sums to 2, y**2 to 8, z**2 to 18; x, the weakest, is mirrored: (8 + 18 - 2) / 28
    src = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 3], [0, 0, -3]])
    S = align_sim3(src, src * (-1, 1, 1))
    np.testing.assert_allclose(S.R, np.eye(3), atol=1e-12)
    assert S.scale == pytest.approx(24 / 28)


def test_alignment_without_scale() -> None:
    src = cloud(20)
    S = align_sim3(src, 3 * src @ ROT_Z_90.T + 5, with_scale=False)
    assert S.scale == 1.0
    np.testing.assert_allclose(S.R, ROT_Z_90, atol=1e-9)
    np.testing.assert_allclose(S.t, 5 + 3 * ROT_Z_90 @ src.mean(0) - ROT_Z_90 @ src.mean(0))


def test_a_symmetric_fit_is_not_shrunk_by_noise_and_inverts_the_fit_the_other_way() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(4000, 3))
    src, dst = truth + rng.normal(0, 0.5, truth.shape), 3 * truth @ ROT_Z_90.T + 5
    dst += 3 * rng.normal(0, 0.5, truth.shape)
    weights = rng.uniform(0.5, 2.0, len(src))
    assert align_sim3(src, dst, weights).scale == pytest.approx(3 / 1.25, rel=0.03)
    there = align_sim3(src, dst, weights, symmetric=True)
    back = align_sim3(dst, src, weights, symmetric=True)
    assert there.scale == pytest.approx(3.0, rel=0.02)
    assert there.scale * back.scale == pytest.approx(1.0)


def test_a_pair_without_weight_does_not_count_and_a_double_weight_is_two_pairs() -> None:
    src, dst = cloud(8), cloud(8, 1)
    dst = src + 0.1 * dst
    weights = np.array([0.0, 2, 1, 1, 1, 1, 1, 1])
    a = align_sim3(src, dst, weights)
    b = align_sim3(np.vstack([src[1:], src[1]]), np.vstack([dst[1:], dst[1]]))
    assert a.scale == pytest.approx(b.scale)
    np.testing.assert_allclose(a.R, b.R, atol=1e-9)
    np.testing.assert_allclose(a.t, b.t, atol=1e-9)


def test_alignment_is_the_least_squares_optimum() -> None:
    src = cloud(40)
    dst = Sim3(1.5, ROT_Z_90, np.ones(3)).apply(src) + 0.2 * cloud(40, 7)
    S = align_sim3(src, dst)

    def cost(candidate: Sim3) -> float:
        return float(((candidate.apply(src) - dst) ** 2).sum())

    rng = np.random.default_rng(3)
    for _ in range(30):
        turn = Rotation.from_rotvec(rng.normal(size=3) * 0.01).as_matrix()
        near = Sim3(
            S.scale * (1 + rng.normal() * 0.01), turn @ S.R, S.t + rng.normal(size=3) * 0.01
        )
        assert cost(near) > cost(S)


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), "2 pairs of points, at least 3"),
        (np.zeros((4, 3)), np.zeros((5, 3)), r"cannot pair points \(4, 3\) with \(5, 3\)"),
        (np.zeros((4, 2)), np.zeros((4, 2)), r"cannot pair points \(4, 2\)"),
        (np.zeros((4, 3, 3)), np.zeros((4, 3, 3)), r"cannot pair points \(4, 3, 3\)"),
        (np.ones((4, 3)), np.eye(4, 3), "on a line or in one place"),
        (np.arange(12.0).reshape(4, 3), np.arange(12.0).reshape(4, 3), "on a line"),
        (np.eye(4, 3) * np.nan, np.eye(4, 3), "not finite"),
        (np.eye(4, 3), np.full((4, 3), np.inf), "not finite"),
    ],
)
def test_pairs_without_an_answer(src: FloatArray, dst: FloatArray, message: str) -> None:
    with pytest.raises(AlignmentError, match=message):
        align_sim3(src, dst)


@pytest.mark.parametrize("weight", [0.0, np.nan, -1.0])
def test_useless_weights_are_named(weight: float) -> None:
    with pytest.raises(AlignmentError, match="weights"):
        align_sim3(np.eye(3), np.eye(3), np.full(3, weight))


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(AlignmentError, match="weights"):
        align_sim3(np.eye(4, 3), np.eye(4, 3), np.array([5.0, 5.0, 5.0, -1.0]))


@given(sim3s, st.integers(0, 1000))
@pytest.mark.slow
def test_robust_alignment_ignores_a_third_of_wild_pairs(S: Sim3, seed: int) -> None:
    src = cloud(90, seed)
    dst = S.apply(src)
    dst[:30] += S.scale * 20 * cloud(30, seed + 1)
    found, residual = align_sim3_robust(src, dst, np.ones(90))
    assert found.scale == pytest.approx(S.scale, rel=1e-4)
    np.testing.assert_allclose(found.R, S.R, atol=1e-4)
    np.testing.assert_allclose(found.t, S.t, atol=1e-3 * S.scale)
    assert residual[30:].max() < 1e-2 * S.scale
    np.testing.assert_allclose(residual, np.linalg.norm(found.apply(src) - dst, axis=1))


def test_robust_alignment_without_outliers_is_least_squares_in_one_round() -> None:
    src = cloud(30)
    dst = Sim3(2.0, ROT_Z_90, np.ones(3)).apply(src)
    S, residual = align_sim3_robust(src, dst, np.ones(30), iterations=1)
    assert S.scale == pytest.approx(2.0)
    assert residual.max() < 1e-9


def test_one_round_of_reweighting_by_hand() -> None:
    src = cloud(25)
    dst = src + 0.05 * cloud(25, 9)
    dst[0] += 3.0
    weights = np.linspace(1.0, 4.0, 25)
    start = align_sim3(src, dst, weights)
    r = np.sqrt(weights / 4.0) * np.linalg.norm(start.apply(src) - dst, axis=1)
    kernel = 1 / (1 + (r / (2 * np.median(r))) ** 2) ** 2
    expected = align_sim3(src, dst, weights * kernel)
    S, _ = align_sim3_robust(src, dst, weights, iterations=1)
    assert S.scale == pytest.approx(expected.scale, abs=1e-12)
    np.testing.assert_allclose(S.t, expected.t, atol=1e-12)
    assert abs(S.scale - start.scale) > 5e-4


def test_robust_alignment_settles() -> None:
    src = cloud(200)
    dst = Sim3(1.2, ROT_Z_90, np.ones(3)).apply(src) + 0.02 * cloud(200, 5)
    dst[:60] += 5.0
    few, _ = align_sim3_robust(src, dst, np.ones(200), iterations=30)
    many, _ = align_sim3_robust(src, dst, np.ones(200), iterations=300)
    assert few.scale == many.scale
    assert np.array_equal(few.t, many.t)
    assert many.scale == pytest.approx(1.2, abs=5e-3)


# Cameras


@given(sim3s, st.integers(2, 8), st.integers(0, 1000))
@pytest.mark.slow
def test_cameras_on_a_line_determine_a_similarity(S: Sim3, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    R = Rotation.random(count, random_state=rng).as_matrix()
    T = np.stack([make_se3(R[i], np.array([i, 2.0 * i, 1.0])) for i in range(count)])
    found, rms = align_cameras_sim3(T, np.stack([S.apply_pose(t) for t in T]))
    assert found.scale == pytest.approx(S.scale)
    np.testing.assert_allclose(found.R, S.R, atol=1e-9)
    np.testing.assert_allclose(found.t, S.t, atol=1e-8)
    assert rms == pytest.approx(0.0, abs=1e-8)


def test_root_mean_square_of_cameras_by_hand() -> None:
    T = np.stack([np.eye(4)] * 4)
    T[:, 0, 3] = [-1, 1, -1, 1]
    moved = T.copy()
    moved[:, 0, 3] = [-2, 2, -2, 2]
    moved[:, 1, 3] = [3, 3, -3, -3]
    S, rms = align_cameras_sim3(T, moved)
    assert S.scale == pytest.approx(2.0)
    assert rms == pytest.approx(3.0)
    S, rms = align_cameras_sim3(T, moved, with_scale=False)
    assert S.scale == 1.0
    assert rms == pytest.approx(np.sqrt(10.0))


def test_cameras_that_stand_still_have_no_scale_but_a_place() -> None:
    T = np.stack([np.eye(4)] * 3)
    with pytest.raises(AlignmentError, match="do not move enough"):
        align_cameras_sim3(T, T)
    goal = make_se3(ROT_Z_90, np.ones(3))
    S, rms = align_cameras_sim3(T[:1], goal[None], with_scale=False)
    np.testing.assert_allclose(S.apply_pose(np.eye(4)), goal, atol=1e-12)
    assert rms == 0.0


def test_motion_the_other_way_has_no_scale() -> None:
    T = np.stack([np.eye(4)] * 2)
    T[1, 0, 3] = 1.0
    back = T.copy()
    back[1, 0, 3] = -1.0
    with pytest.raises(AlignmentError, match="do not move enough"):
        align_cameras_sim3(T, back)


@pytest.mark.parametrize("counts", [(0, 0), (2, 3)])
def test_cameras_that_do_not_pair_are_refused(counts: tuple[int, int]) -> None:
    a, b = (np.zeros((n, 4, 4)) + np.eye(4) for n in counts)
    with pytest.raises(AlignmentError, match="cannot pair poses"):
        align_cameras_sim3(a, b)


# Pinhole camera


def test_pixel_grid_is_u_then_v() -> None:
    assert pixel_grid(2, 3).tolist() == [[[0, 0], [1, 0], [2, 0]], [[0, 1], [1, 1], [2, 1]]]


def test_a_point_and_its_pixel() -> None:
    assert project(np.array([1.0, -2.0, 4.0]), K).tolist() == [42.5, -10.0]
    point = backproject(np.array([4.0]), K, np.array([[42.5, -10.0]]))
    assert point.tolist() == [[1.0, -2.0, 4.0]]


@given(hnp.arrays(float, (4, 5), elements=st.floats(0.1, 100)))
def test_back_projected_depth_projects_to_its_pixels(depth: FloatArray) -> None:
    points = backproject(depth, K)
    assert np.array_equal(points[..., 2], depth)
    np.testing.assert_allclose(project(points, K), pixel_grid(4, 5), atol=1e-9)


@pytest.mark.parametrize("z", [0.0, -1.0, 1e-10])
def test_what_lies_behind_has_no_pixel(z: float) -> None:
    assert np.isnan(project(np.array([[1.0, 1.0, z]]), K)).all()


# Focal length


def central(f: float, height: int, width: int) -> FloatArray:
    return np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]])


@given(st.floats(20, 300), st.floats(0.01, 100), st.integers(0, 100))
def test_focal_length_does_not_depend_on_scene_or_scale(f: float, scale: float, seed: int) -> None:
    depth = np.random.default_rng(seed).uniform(1, 5, (12, 16))
    points = backproject(depth * scale, central(f, 12, 16))
    assert focal_from_pointmap(points) == pytest.approx(f)


def test_focal_length_in_spite_of_bad_points() -> None:
    rng = np.random.default_rng(0)
    points = backproject(rng.uniform(1, 5, (40, 60)), central(70.0, 40, 60))
    bad = rng.random((40, 60)) < 0.2
    spoilt = points + np.where(bad[..., None], rng.normal(size=points.shape) * (0.3, 0.3, 0), 0.0)
    spoilt[0, 0] = (1.0, 1.0, 0.0)
    assert focal_from_pointmap(spoilt) == pytest.approx(70.0, rel=0.01)
    assert focal_from_pointmap(spoilt, ~bad) == pytest.approx(70.0, rel=1e-4)
    assert focal_from_pointmap(spoilt, ~bad, 0) == pytest.approx(70.0)


def test_focal_length_starts_from_least_squares() -> None:
    points = backproject(np.ones((2, 4)), np.array([[50.0, 0, 2], [0, 80.0, 1], [0, 0, 1]]))
    # u - 2 in (-2, -1, 0, 1), v - 1 in (-1, 0): sums of squares 12 and 4
    squares = np.array([12 / 50**2, 4 / 80**2])
    expected = (12 / 50 + 4 / 80) / squares.sum()
    assert focal_from_pointmap(points, iterations=0) == pytest.approx(expected)


def test_no_focal_length_without_points() -> None:
    points = backproject(np.ones((4, 4)), central(9.0, 4, 4))
    with pytest.raises(AlignmentError, match="empty"):
        focal_from_pointmap(points, np.zeros((4, 4), bool))
    with pytest.raises(AlignmentError, match="empty"):
        focal_from_pointmap(np.zeros((4, 4, 3)))
    with pytest.raises(AlignmentError, match=r"focal length of -9\.0"):
        focal_from_pointmap(points * (1, 1, -1))
