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

from box_room import BoxRoom
from mvdust3r_ros.config import PoseSettings
from mvdust3r_ros.datatypes import FloatArray, View, WindowPrediction
from mvdust3r_ros.geometry import backproject, invert_se3, rotation_angle_deg
from mvdust3r_ros.window.pose_recovery import (
    MIN_PNP_POINTS,
    PoseError,
    align_view,
    recover_poses,
    sample_confident,
    solve_pose,
)

SETTINGS = PoseSettings()


def seen_from(
    room: BoxRoom, T_ref: FloatArray, T_cam: FloatArray, scale: float = 1.0
) -> FloatArray:
    """(H, W, 3) pointmap of a camera in the frame of a reference camera."""
    T_ref_world = invert_se3(T_ref)
    return scale * (room.points(T_cam) @ T_ref_world[:3, :3].T + T_ref_world[:3, 3])


def predict(
    room: BoxRoom, poses: list[FloatArray], scale: float = 1.0, ref: int = 0
) -> WindowPrediction:
    points = np.stack([seen_from(room, poses[ref], T, scale) for T in poses])[None]
    return WindowPrediction(points.astype(np.float32), np.full(points.shape[:4], 5.0), (ref,))


def views(room: BoxRoom, count: int, K: FloatArray | None) -> list[View]:
    width, height = room.image_wh
    return [View(np.zeros((height, width, 3), np.uint8), K)] * count


def pose_error(found: FloatArray, truth: FloatArray) -> tuple[float, float]:
    """Metres and degrees."""
    delta = invert_se3(truth) @ found
    return float(np.linalg.norm(delta[:3, 3])), float(rotation_angle_deg(delta[:3, :3]))


@pytest.mark.parametrize("scale", [1.0, 0.01, 300.0])
@pytest.mark.parametrize("ref", [0, 2])
def test_poses_of_a_window_in_any_scale(room: BoxRoom, scale: float, ref: int) -> None:
    poses = room.walk(24)[:5]
    found = recover_poses(predict(room, poses, scale, ref), views(room, 5, room.K), SETTINGS)
    for index, (view_pose, T) in enumerate(zip(found, poses, strict=True)):
        truth = invert_se3(poses[ref]) @ T
        truth[:3, 3] *= scale
        off, turned_deg = pose_error(view_pose.T_window_cam, truth)
        assert off < 1e-4 * scale
        assert turned_deg < 1e-2
        assert view_pose.inlier_ratio == 1.0
        assert view_pose.reprojection_px < 0.01
        assert np.array_equal(view_pose.K, room.K)
        if index == ref:
            assert np.array_equal(view_pose.T_window_cam, np.eye(4))


def test_the_order_of_views_does_not_matter(room: BoxRoom) -> None:
    poses = room.walk(24)[:4]
    start = predict(room, poses)
    turned = WindowPrediction(start.points[:, ::-1], start.conf[:, ::-1], (3,))
    a = recover_poses(start, views(room, 4, room.K), SETTINGS)
    b = recover_poses(turned, views(room, 4, room.K), SETTINGS)
    for p, q in zip(a, b[::-1], strict=True):
        assert np.array_equal(p.T_window_cam, q.T_window_cam)


def test_two_runs_agree_to_the_bit(room: BoxRoom) -> None:
    poses = room.walk(24)
    points = seen_from(room, poses[0], poses[2])
    points = points + np.random.default_rng(1).normal(size=points.shape) * 0.05
    conf = np.full(points.shape[:2], 3.0)
    first, second = (solve_pose(points, conf, room.K, SETTINGS) for _ in range(2))
    assert np.array_equal(first.T_window_cam, second.T_window_cam)
    assert first.reprojection_px == second.reprojection_px


def test_a_third_of_wild_points_does_not_move_the_pose(room: BoxRoom) -> None:
    poses = room.walk(24)
    truth = invert_se3(poses[0]) @ poses[3]
    points = seen_from(room, poses[0], poses[3])
    rng = np.random.default_rng(2)
    wild = rng.random(points.shape[:2]) < 1 / 3
    points[wild] += rng.normal(size=(wild.sum(), 3)) * 3
    found = solve_pose(points, np.full(wild.shape, 3.0), room.K, SETTINGS)
    off, turned_deg = pose_error(found.T_window_cam, truth)
    assert off < 0.01
    assert turned_deg < 0.3
    assert found.inlier_ratio == pytest.approx(2 / 3, abs=0.06)
    assert found.reprojection_px < 0.1


def test_noise_in_depth_gives_an_error_of_its_size(room: BoxRoom) -> None:
    poses = room.walk(24)
    truth = invert_se3(poses[0]) @ poses[3]
    rng = np.random.default_rng(3)
    depth = room.depth(poses[3]) * (1 + 0.02 * rng.normal(size=room.image_wh[::-1]))
    points = backproject(depth, room.K) @ truth[:3, :3].T + truth[:3, 3]
    points += 0.01 * rng.normal(size=points.shape)
    found = solve_pose(points, np.full(depth.shape, 3.0), room.K, SETTINGS)
    off, turned_deg = pose_error(found.T_window_cam, truth)
    assert off < 0.02
    assert turned_deg < 0.4


def test_confidence_at_or_below_one_is_no_point(room: BoxRoom) -> None:
    poses = room.walk(24)
    points = seen_from(room, poses[0], poses[1])
    conf = np.full(points.shape[:2], 3.0)
    conf[:, 40:], points[:, 40:] = 1.0, 0.0
    found = solve_pose(points, conf, room.K, SETTINGS)
    assert found.inlier_ratio == 1.0
    assert pose_error(found.T_window_cam, invert_se3(poses[0]) @ poses[1])[0] < 1e-3


def test_shuffled_points_have_no_pose(room: BoxRoom) -> None:
    points = seen_from(room, room.walk(24)[0], room.walk(24)[1]).reshape(-1, 3)
    shuffled = np.random.default_rng(0).permutation(points).reshape(*room.image_wh[::-1], 3)
    assert solve_pose(shuffled, np.full(shuffled.shape[:2], 3.0), room.K, SETTINGS) is None


def test_the_share_of_inliers_that_is_asked_for(room: BoxRoom) -> None:
    poses = room.walk(24)
    points = seen_from(room, poses[0], poses[1])
    rng = np.random.default_rng(5)
    wild = rng.random(points.shape[:2]) < 0.5
    points[wild] += rng.normal(size=(wild.sum(), 3)) * 5
    conf = np.full(wild.shape, 3.0)
    assert solve_pose(points, conf, room.K, PoseSettings(min_inlier_ratio=0.4)) is not None
    assert solve_pose(points, conf, room.K, PoseSettings(min_inlier_ratio=0.7)) is None


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_points_in_one_place_have_no_pose(room: BoxRoom, value: float) -> None:
    points = np.full((72, 96, 3), value)
    assert solve_pose(points, np.full((72, 96), 3.0), room.K, SETTINGS) is None


def test_too_few_points_have_no_pose_and_just_enough_do(room: BoxRoom) -> None:
    poses = room.walk(24)
    points = seen_from(room, poses[0], poses[1])
    stride = max(1, int(np.sqrt(72 * 96 / 600)))
    for count in (MIN_PNP_POINTS - 1, MIN_PNP_POINTS):
        conf = np.ones((72, 96))
        sampled = conf[stride // 2 :: stride, stride // 2 :: stride]
        chosen = np.linspace(0, sampled.size - 1, count).astype(int)
        sampled[np.unravel_index(chosen, sampled.shape)] = 3.0
        found = solve_pose(points, conf, room.K, PoseSettings(conf_quantile=0.0))
        assert (found is not None) == (count == MIN_PNP_POINTS)


def test_one_bad_view_leaves_the_others(room: BoxRoom) -> None:
    poses = room.walk(24)[:4]
    good = predict(room, poses)
    points = good.points.copy()
    points[0, 2] = np.random.default_rng(0).normal(size=points[0, 2].shape)
    found = recover_poses(WindowPrediction(points, good.conf), views(room, 4, room.K), SETTINGS)
    assert [p is None for p in found] == [False, False, True, False]


# Views that are references themselves


def bend(points_cam: FloatArray, share: float) -> FloatArray:
    """An error such as a weak network makes: smooth, and not along the rays of the camera."""
    across = np.linspace(-1, 1, points_cam.shape[1])[None, :, None]
    shift = np.concatenate([np.cos(2 * across), 0 * across, np.sin(2 * across)], -1)
    return points_cam + share * points_cam[..., 2:] * shift


def two_paths(room: BoxRoom, error: float) -> tuple[WindowPrediction, FloatArray]:
    """Two views, each a reference, with the same error of a view in both paths."""
    poses = room.walk(24)[:4:3]
    T = invert_se3(poses[0]) @ poses[1]
    own = [bend(backproject(room.depth(pose), room.K), error) for pose in poses]
    back = invert_se3(T)
    points = np.stack(
        [
            np.stack([own[0], own[1] @ T[:3, :3].T + T[:3, 3]]),
            np.stack([own[0] @ back[:3, :3].T + back[:3, 3], own[1]]),
        ]
    )
    return WindowPrediction(points, np.full(points.shape[:4], 3.0), (0, 1)), T


def test_an_error_that_both_paths_share_does_not_move_a_reference(room: BoxRoom) -> None:
    prediction, T = two_paths(room, 0.1)
    found = recover_poses(prediction, views(room, 2, room.K), SETTINGS)[1]
    assert pose_error(found.T_window_cam, T)[0] < 1e-6
    assert pose_error(found.T_window_cam, T)[1] < 1e-3
    assert found.inlier_ratio == 1.0
    single = WindowPrediction(prediction.points[:1], prediction.conf[:1], (0,))
    by_pnp = recover_poses(single, views(room, 2, room.K), SETTINGS)[1]
    assert by_pnp is None or pose_error(by_pnp.T_window_cam, T)[0] > 0.02


def test_a_path_in_another_scale_gives_the_pose_in_that_of_path_0(room: BoxRoom) -> None:
    prediction, T = two_paths(room, 0.0)
    points = prediction.points.copy()
    points[1] *= 1.7
    scaled = WindowPrediction(points, prediction.conf, (0, 1))
    found = align_view(scaled, 1, room.K, SETTINGS)
    assert pose_error(found.T_window_cam, T)[0] < 1e-6
    assert found.reprojection_px < 1e-3


def test_wild_points_of_one_path_do_not_move_the_pose(room: BoxRoom) -> None:
    prediction, T = two_paths(room, 0.1)
    rng = np.random.default_rng(3)
    points = prediction.points.copy()
    wild = rng.random(points.shape[2:4]) < 0.3
    points[1, 1, wild] += rng.normal(size=(int(wild.sum()), 3)) * 3
    found = align_view(WindowPrediction(points, prediction.conf, (0, 1)), 1, room.K, SETTINGS)
    off, turned_deg = pose_error(found.T_window_cam, T)
    assert off < 0.02
    assert turned_deg < 0.3
    assert found.inlier_ratio == pytest.approx(0.7, abs=0.1)


def test_paths_that_disagree_place_nothing_and_one_path_is_as_before(room: BoxRoom) -> None:
    prediction, _ = two_paths(room, 0.0)
    points = prediction.points.copy()
    points[1] = (
        np.random.default_rng(0).permutation(points[1].reshape(-1, 3)).reshape(points[1].shape)
    )
    broken = WindowPrediction(points, prediction.conf, (0, 1))
    assert align_view(broken, 1, room.K, SETTINGS) is None
    assert align_view(prediction, 0, room.K, SETTINGS) is None
    by_pnp = solve_pose(prediction.points[0, 1], prediction.conf[0, 1], room.K, SETTINGS)
    found = recover_poses(broken, views(room, 2, room.K), SETTINGS)[1]
    assert np.array_equal(found.T_window_cam, by_pnp.T_window_cam)


# Intrinsics


def centred(room: BoxRoom) -> FloatArray:
    width, height = room.image_wh
    return np.array([[room.focal_px, 0, width / 2], [0, room.focal_px, height / 2], [0, 0, 1]])


def test_without_camera_info_the_reference_gives_the_focal_length(room: BoxRoom) -> None:
    poses = room.walk(24)[:3]
    K = centred(room)
    maps = []
    for T in poses:
        T_ref_cam = invert_se3(poses[0]) @ T
        maps.append(backproject(room.depth(T), K) @ T_ref_cam[:3, :3].T + T_ref_cam[:3, 3])
    points = 7.0 * np.stack(maps)[None]
    prediction = WindowPrediction(points, np.full(points.shape[:4], 5.0))
    found = recover_poses(prediction, views(room, 3, None), SETTINGS)
    for view_pose, T in zip(found, poses, strict=True):
        np.testing.assert_allclose(view_pose.K, K, rtol=1e-6)
        truth = invert_se3(poses[0]) @ T
        truth[:3, 3] *= 7.0
        assert pose_error(view_pose.T_window_cam, truth)[0] < 1e-3


def test_the_focal_length_of_a_large_pointmap_is_in_its_own_pixels() -> None:
    K = np.array([[200.0, 0, 150], [0, 200.0, 120], [0, 0, 1]])
    depth = np.random.default_rng(0).uniform(1, 3, (240, 300))
    points = np.stack([backproject(depth, K)] * 2)[None]
    blank = [View(np.zeros((240, 300, 3), np.uint8))] * 2
    found = recover_poses(
        WindowPrediction(points, np.full(points.shape[:4], 5.0)), blank, SETTINGS
    )
    np.testing.assert_allclose(found[0].K, K, rtol=1e-6)
    assert np.abs(found[1].T_window_cam - np.eye(4)).max() < 1e-6


def test_doubtful_points_do_not_count_for_the_focal_length() -> None:
    K = np.array([[50.0, 0, 30], [0, 50.0, 20], [0, 0, 1]])
    points = backproject(np.full((40, 60), 2.0), K)
    conf = np.full((40, 60), 5.0)
    points[:8], conf[:8] = (0.7, 0.1, 0.5), 2.0
    both = WindowPrediction(np.stack([points] * 2)[None], np.stack([conf] * 2)[None])
    blank = [View(np.zeros((40, 60, 3), np.uint8))] * 2
    found = recover_poses(both, blank, PoseSettings(conf_quantile=0.2))
    np.testing.assert_allclose(found[0].K, K, rtol=1e-6)
    doubtful = recover_poses(both, blank, PoseSettings(conf_quantile=0.0))
    assert abs(doubtful[0].K[0, 0] - 50.0) > 0.1


def test_each_camera_keeps_its_own_intrinsics(room: BoxRoom) -> None:
    poses = room.walk(24)[:2]
    other = room.K * np.array([[1.5], [1.5], [1.0]])
    T_ref_cam = invert_se3(poses[0]) @ poses[1]
    second = backproject(room.depth(poses[1]), other) @ T_ref_cam[:3, :3].T + T_ref_cam[:3, 3]
    points = np.stack([seen_from(room, poses[0], poses[0]), second])[None]
    mixed = [views(room, 1, room.K)[0], views(room, 1, other)[0]]
    found = recover_poses(
        WindowPrediction(points, np.full(points.shape[:4], 5.0)), mixed, SETTINGS
    )
    assert np.array_equal(found[0].K, room.K)
    assert np.array_equal(found[1].K, other)
    assert pose_error(found[1].T_window_cam, T_ref_cam)[0] < 1e-4


def test_no_intrinsics_at_all_is_an_error(room: BoxRoom) -> None:
    points = np.zeros((1, 2, 72, 96, 3))
    with pytest.raises(PoseError, match="no camera_info, and the reference pointmap is empty"):
        recover_poses(
            WindowPrediction(points, np.full(points.shape[:4], 5.0)),
            views(room, 2, None),
            SETTINGS,
        )


# Sampling


def test_the_sample_is_spread_over_the_better_part() -> None:
    height, width = 224, 224
    points = np.dstack([*np.mgrid[0:height, 0:width], np.ones((height, width))])
    conf = np.linspace(1.5, 9.0, height * width).reshape(height, width)
    found, pixels = sample_confident(points.astype(np.float32), conf, 0.2)
    assert found.dtype == np.float64
    assert np.array_equal(found[:, :2], pixels[:, ::-1])
    assert 550 <= len(found) <= 650
    assert pixels[:, 1].min() == pytest.approx(0.2 * height, abs=8)
    assert set(np.diff(np.unique(pixels[:, 0]))) == {8.0}
    assert (pixels[:, 0].min(), pixels[:, 0].max()) == (4, 220)


def test_the_sample_of_a_small_map_is_every_valid_point() -> None:
    conf = np.full((5, 6), 2.0)
    conf[0, 0] = 1.0
    points, pixels = sample_confident(np.zeros((5, 6, 3)), conf, 0.0)
    assert points.shape == (29, 3)
    assert pixels[0].tolist() == [1.0, 0.0]
    assert sample_confident(np.zeros((5, 6, 3)), np.ones((5, 6)), 0.5)[0].shape == (0, 3)
