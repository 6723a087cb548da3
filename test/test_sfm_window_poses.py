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

"""Poses of a window: from images, beside odometry and rig, and when they are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mvdust3r_ros.datatypes import FloatArray, View
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.recordings.bag import BagOptions, read_frames
from mvdust3r_ros.sfm.features import ViewFeatures, view_features
from mvdust3r_ros.sfm.priors import PosesBefore, motion_priors
from mvdust3r_ros.sfm.tracks import KeyframeTracks
from mvdust3r_ros.sfm.window_poses import FocalError, SfmError, WindowPoses, window_poses
from mvdust3r_ros.window.preprocess import view_from_frame
from sfm_world import (
    Sight,
    box,
    drive,
    look,
    odometry,
    pose,
    poster,
    project,
    relative,
    scale_of,
    views,
    worst,
)
from stored_data import OFFICE, needs_more_data

SIGHT = Sight()
K = SIGHT.K
ROOM, WAY = box(), drive()
SPIN = np.stack([pose((1.5 * math.sin(i), 7.0 * (i - 4), 0), (0, 0, 0)) for i in range(8)])


def from_images(points: FloatArray, T: FloatArray, sight: Sight = SIGHT) -> WindowPoses:
    return window_poses(views(sight.K, count=len(T)), look(points, T, sight))


def beside(
    T_odom: FloatArray, points: FloatArray, T: FloatArray, sight: Sight = SIGHT
) -> WindowPoses:
    return window_poses(views(sight.K, T_odom), look(points, T, sight))


def nothing() -> list[ViewFeatures]:
    return [
        ViewFeatures(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 128), np.float32), (384, 288))
    ] * 8


def test_images_alone_give_poses_up_to_a_unit() -> None:
    found = from_images(ROOM, WAY)
    turn, shift = worst(found.T_ref_cam, WAY, any_scale=True)
    assert turn < 0.3
    assert shift < 0.015
    assert found.placed.all()
    assert (found.source, found.metric, found.used_odometry) == ("images", False, False)
    depth = (found.points_ref[:, None] - found.T_ref_cam[:, :3, 3]) * found.T_ref_cam[:, :3, 2]
    assert np.median(depth.sum(2)[found.seen]) == pytest.approx(1, rel=0.05)


@pytest.mark.slow
def test_the_same_window_gives_the_same_poses() -> None:
    first, second = (from_images(ROOM, WAY) for _ in range(2))
    np.testing.assert_array_equal(first.T_ref_cam, second.T_ref_cam)


def test_points_lie_where_the_world_has_them() -> None:
    found = beside(relative(WAY), ROOM, WAY)
    first = invert_se3(WAY[0])
    true = ROOM @ first[:3, :3].T + first[:3, 3]
    off = np.linalg.norm(found.points_ref[:, None] - true, axis=2).min(1)
    assert len(off) > 200
    assert np.median(off / np.linalg.norm(found.points_ref, axis=1)) < 0.02
    assert (found.seen.sum(1) >= 2).all()


def test_perfect_odometry_gives_its_metres() -> None:
    found = beside(relative(WAY), ROOM, WAY)
    assert found.source == "images and odometry"
    assert found.metric
    assert scale_of(found.T_ref_cam, WAY) == pytest.approx(1, abs=0.007)


def test_images_mend_the_turns_of_odometry() -> None:
    said = [odometry(WAY, seed) for seed in range(3)]
    errors = [worst(T, WAY) for T in said]
    mended = [worst(beside(T, ROOM, WAY).T_ref_cam, WAY) for T in said]
    assert max(turn for turn, _ in mended) < 0.6
    assert np.mean(mended, axis=0)[0] < 0.4 * np.mean(errors, axis=0)[0]


@pytest.mark.slow
def test_a_weak_view_rides_on_odometry() -> None:
    seen = look(ROOM, WAY, SIGHT)
    blind = seen[5]
    seen[5] = replace(
        blind, uv=blind.uv[:12], size_px=blind.size_px[:12], descriptors=blind.descriptors[:12]
    )
    found = window_poses(views(K, relative(WAY)), seen)
    assert found.by_images.tolist() == [True] * 5 + [False] + [True] * 2
    assert found.placed.all()
    assert "5" in found.note
    assert worst(found.T_ref_cam, WAY)[1] < 0.03
    alone = window_poses(views(K), seen)
    assert alone.placed.tolist() == found.by_images.tolist()


def test_the_window_before_gives_the_unit_and_what_images_do_not_show() -> None:
    seen = look(ROOM, WAY, SIGHT)
    blind = seen[1]
    seen[1] = replace(
        blind, uv=blind.uv[:12], size_px=blind.size_px[:12], descriptors=blind.descriptors[:12]
    )
    unit = 0.4
    T = relative(WAY)[:4].copy()
    T[:, :3, 3] *= unit
    before = PosesBefore(dict(enumerate(T)), False, 3 * unit)
    found = window_poses(views(K), seen, before=before)
    assert found.unit_before
    assert not found.metric
    assert found.placed.all()
    assert scale_of(found.T_ref_cam, WAY) == pytest.approx(unit, rel=0.02)
    assert worst(found.T_ref_cam, WAY, any_scale=True)[1] < 0.02
    assert not window_poses(views(K), seen).placed[1]


def test_views_of_the_window_before_that_images_do_not_hold_give_no_unit() -> None:
    seen = look(ROOM, WAY, SIGHT)
    for index in (0, 1):  # too little of both to tie them to the others
        lost = seen[index]
        seen[index] = replace(lost, uv=lost.uv[:9], size_px=lost.size_px[:9],
                              descriptors=lost.descriptors[:9])  # fmt: skip
    T = relative(WAY)
    # they say that the views were far away from each other: images of the others say otherwise
    before = PosesBefore({0: np.eye(4), 1: T[7] @ T[7] @ T[7]}, False, 3.0)
    found = window_poses(views(K), seen, before=before)
    assert found.placed[2:].all()
    assert worst(found.T_ref_cam[2:], WAY[2:], any_scale=True)[1] < 0.03


@pytest.mark.slow
def test_rounding_errors_do_not_grow_from_window_to_window() -> None:
    before = PosesBefore(dict(enumerate(relative(WAY)[:4])), False, 3.0)
    for _ in range(6):
        T = window_poses(views(K), look(ROOM, WAY, SIGHT), before=before).T_ref_cam
        R = T[:, :3, :3]
        assert np.abs(np.swapaxes(R, 1, 2) @ R - np.eye(3)).max() < 1e-12
        T = invert_se3(T[3]) @ T  # as the next window would have it
        before = PosesBefore(dict(enumerate(T[:4])), False, 3.0)


def test_the_last_views_of_a_window_are_told_in_their_own_frame() -> None:
    whole = from_images(ROOM, WAY)
    last = whole.of_last(5)
    T = invert_se3(whole.T_ref_cam[3]) @ whole.T_ref_cam[3:]
    np.testing.assert_allclose(last.T_ref_cam, T, atol=1e-9)
    assert last.reference == 0
    np.testing.assert_allclose(last.covariance[0], 0, atol=1e-15)
    assert np.linalg.eigvalsh(last.covariance).min() > -1e-15
    depth = last.points_ref @ last.T_ref_cam[0][2, :3] + last.T_ref_cam[0][2, 3]
    assert depth[last.seen[:, 0]].min() > 0
    assert last.seen.any(1).all()


def test_metres_of_the_window_before_are_not_said_again() -> None:
    before = PosesBefore(dict(enumerate(relative(WAY)[:4])), True, 3.0)
    found = window_poses(views(K), look(ROOM, WAY, SIGHT), before=before)
    assert found.unit_before
    assert not found.metric
    assert scale_of(found.T_ref_cam, WAY) == pytest.approx(1, rel=0.02)


def test_a_window_before_that_images_contradict_is_not_believed() -> None:
    wrong = {i: pose((0, 25 * i, 0), (0.2 * i, 0, 0)) for i in range(4)}
    found = window_poses(views(K), look(ROOM, WAY, SIGHT), before=PosesBefore(wrong, False, 3.0))
    assert not found.unit_before
    assert worst(found.T_ref_cam, WAY, any_scale=True)[1] < 0.015


def test_what_is_not_in_metres_does_not_go_with_odometry() -> None:
    T = relative(WAY)[:4].copy()
    T[:, :3, 3] *= 0.4
    before = PosesBefore(dict(enumerate(T)), False, 1.2)
    found = window_poses(views(K, relative(WAY)), look(ROOM, WAY, SIGHT), before=before)
    assert found.metric
    assert scale_of(found.T_ref_cam, WAY) == pytest.approx(1, abs=0.007)


def test_tracks_between_keyframes_help_a_weak_view() -> None:
    seen = look(ROOM, WAY, SIGHT)
    blind = seen[5]
    seen[5] = replace(
        blind, uv=blind.uv[:12], size_px=blind.size_px[:12], descriptors=blind.descriptors[:12]
    )
    followed = box(300, seed=9)
    uv = np.stack([project(followed, T, K) for T in WAY], 1)
    found = window_poses(views(K, relative(WAY)), seen, lambda: KeyframeTracks(uv))
    assert found.by_images.all()


def test_a_turn_on_the_spot_is_no_pose() -> None:
    with pytest.raises(SfmError, match="parallax"):
        from_images(ROOM, SPIN)
    said = odometry(SPIN, 1)
    found = beside(said, ROOM, SPIN)
    assert found.source == "odometry"
    assert "parallax" in found.note
    np.testing.assert_allclose(found.T_ref_cam, said, atol=1e-12)


@pytest.mark.slow
def test_a_turn_on_the_spot_without_camera_info_is_no_pose() -> None:
    with pytest.raises(SfmError):
        window_poses(views(None), look(ROOM, SPIN, SIGHT))


@pytest.mark.slow
def test_one_plane_is_no_pose_without_odometry() -> None:
    way = drive(turn_deg=1.0)
    for noise_px in (0.3, 1.0):
        with pytest.raises(SfmError):
            from_images(poster(), way, Sight(noise_px=noise_px))
    found = beside(odometry(way, 2), poster(), way)
    assert found.source == "images and odometry"
    turn, shift = worst(found.T_ref_cam, way)
    assert turn < 0.6
    assert shift < 0.05


def test_one_plane_is_seen_one_way_from_where_the_window_before_was() -> None:
    way = drive(turn_deg=1.0)
    before = PosesBefore(dict(enumerate(relative(way)[:4])), False, 3.0)
    found = window_poses(views(K), look(poster(), way, SIGHT), before=before)
    assert found.placed.all()
    turn, shift = worst(found.T_ref_cam, way)
    assert turn < 0.6
    assert shift < 0.05


def test_nothing_to_see_is_no_pose_without_odometry() -> None:
    with pytest.raises(SfmError, match="texture"):
        window_poses(views(K), nothing())
    found = window_poses(views(K, relative(WAY)), nothing())
    assert (found.source, found.by_images.any(), len(found.points_ref)) == ("odometry", False, 0)
    np.testing.assert_allclose(found.T_ref_cam, relative(WAY), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.3, 0.5])
def test_many_wrong_matches_do_no_harm(wrong: float) -> None:
    sight = Sight(wrong=wrong)
    turn, shift = worst(from_images(ROOM, WAY, sight).T_ref_cam, WAY, any_scale=True)
    assert turn < 0.6
    assert shift < 0.03
    assert worst(beside(odometry(WAY, 3), ROOM, WAY, sight).T_ref_cam, WAY)[0] < 0.5


def test_people_who_walk_do_no_harm() -> None:
    moving = np.stack([ROOM] * 8)
    walkers = np.random.default_rng(2).random(len(ROOM)) < 0.3
    moving[:, walkers] += (0.1 * np.arange(8))[:, None, None] * np.array([0.0, 0.0, -1.0])
    try:
        found = window_poses(views(K), look(moving, WAY, SIGHT))
    except SfmError:
        pass
    else:
        assert worst(found.T_ref_cam, WAY, any_scale=True)[0] < 1.0
    assert worst(beside(odometry(WAY, 3), moving, WAY).T_ref_cam, WAY)[0] < 1.0


def test_a_wheel_that_slipped_is_overruled() -> None:
    said = relative(WAY)
    step = invert_se3(said[3]) @ said[4]
    step[:3, 3] *= 3
    slipped = said.copy()
    slipped[4:] = said[3] @ step @ invert_se3(said[4]) @ said[4:]
    found = beside(slipped, ROOM, WAY)
    assert worst(slipped, WAY)[1] > 0.2
    assert found.metric
    assert found.note == "images overrule odometry from view 3 to 4"
    assert worst(found.T_ref_cam, WAY)[1] < 0.03


def test_odometry_of_another_drive_is_contradicted() -> None:
    other = drive(turn_deg=-6.0)
    found = beside(relative(other), ROOM, WAY)
    assert "contradict" in found.note
    assert (found.source, found.metric) == ("images", False)
    assert worst(found.T_ref_cam, WAY, any_scale=True)[0] < 0.5


@pytest.mark.slow
def test_turns_show_the_focal_length() -> None:
    bend = drive(turn_deg=10.0)
    sight = Sight(focal_px=340.0)
    found = window_poses(views(None, count=8), look(ROOM, bend, sight))
    assert found.K[0, 0, 0] == pytest.approx(340, rel=0.02)
    assert 0 < found.focal_rel_sigma < 0.03
    assert worst(found.T_ref_cam, bend, any_scale=True)[0] < 1.0
    found = window_poses(views(None, odometry(bend, 1)), look(ROOM, bend, sight))
    assert found.K[0, 0, 0] == pytest.approx(340, rel=0.02)


@pytest.mark.slow
def test_a_straight_drive_does_not_show_the_focal_length() -> None:
    straight = np.stack([pose((0, 0, 0), (0.05 * i, 0, 0.12 * i)) for i in range(8)])
    with pytest.raises(FocalError, match="focal length"):
        window_poses(views(None), look(ROOM, straight, SIGHT))
    assert from_images(ROOM, straight).placed.all()


def test_a_calibration_that_is_a_little_off_is_corrected() -> None:
    found = window_poses(views(Sight(focal_px=305.0).K), look(ROOM, drive(turn_deg=10.0), SIGHT))
    assert found.K[0, 0, 0] == pytest.approx(300, rel=0.01)
    assert found.focal_rel_sigma == 0


@pytest.mark.slow
def test_a_rig_gives_metres_without_odometry() -> None:
    T_rig_right = pose((0, 4, 0), (0.25, 0, 0))
    way = np.stack([T @ side for T in drive(4) for side in (np.eye(4), T_rig_right)])
    rig = [
        View(v.image_rgb, K, T_rig_cam=T)
        for v in views(K, count=4)
        for T in (np.eye(4), T_rig_right)
    ]
    stamps = [10**9 * (i // 2) for i in range(8)]
    seen = look(ROOM, way, SIGHT)
    found = window_poses(rig, seen, stamps_ns=stamps)
    assert (found.metric, found.used_odometry, found.source) == (True, False, "images")
    assert worst(found.T_ref_cam, way)[1] < 0.02
    assert not window_poses(rig, seen).metric
    apart = [10**9 * i for i in range(8)]
    assert not window_poses(rig, seen, stamps_ns=apart).metric


def test_a_rig_ties_its_cameras_closer_than_odometry() -> None:
    T_rig_right = pose((0, 4, 0), (0.25, 0, 0))
    still = [View(views(K)[0].image_rgb, K, T, T_rig_cam=T) for T in (np.eye(4), T_rig_right)]
    moved = View(still[0].image_rgb, K, pose((0, 5, 0), (0.2, 0, 0)), T_rig_cam=np.eye(4))
    tied, driven = motion_priors([*still, moved], None)
    assert (tied.a, tied.b, driven.a, driven.b) == (0, 1, 1, 2)
    assert tied.sigma_t < driven.sigma_t
    assert tied.sigma_rad < driven.sigma_rad
    np.testing.assert_allclose(tied.T_a_b, T_rig_right)


def test_odometry_that_stays_is_as_sure_as_its_steps() -> None:
    found = window_poses(views(K, relative(WAY)), nothing())
    sigma = np.sqrt(np.einsum("vii->vi", found.covariance))
    assert np.all(sigma[0] == 0)
    assert np.all(np.diff(sigma.max(1)) > 0)
    step = motion_priors(views(K, relative(WAY)), None)[0]
    np.testing.assert_allclose(sigma[1], [step.sigma_rad] * 3 + [step.sigma_t] * 3)


def test_views_with_images_are_surer_than_odometry() -> None:
    with_images = beside(relative(WAY), ROOM, WAY)
    without = window_poses(views(K, relative(WAY)), nothing())
    variance = [np.trace(f.covariance[-1, :3, :3]) for f in (with_images, without)]
    assert variance[0] < 0.5 * variance[1]


@pytest.mark.slow
def test_errors_are_as_large_as_the_covariance_says() -> None:
    truth = relative(WAY)
    errors = []
    for seed in range(12):
        found = beside(odometry(WAY, seed), ROOM, WAY, Sight(noise_px=1.0, seed=seed))
        off = found.T_ref_cam[-1, :3, 3] - truth[-1, :3, 3]
        errors.append(off / np.sqrt(np.diag(found.covariance[-1])[3:]))
    assert 0.3 < np.sqrt(np.mean(np.square(errors))) < 1.3


@pytest.mark.slow
@needs_more_data
def test_a_real_room_with_true_odometry_keeps_its_size() -> None:
    frames = list(read_frames(OFFICE / "bag", BagOptions(max_frames=40)))[8::4]
    real = [view_from_frame(frame, (256, 384)) for frame in frames]
    truth = np.stack([np.asarray(v.T_odom_cam) for v in real])
    found = window_poses(real, [view_features(v) for v in real])
    assert found.by_images.all()
    assert scale_of(found.T_ref_cam, truth) == pytest.approx(1, abs=0.007)
    assert worst(found.T_ref_cam, truth)[0] < 1.0
    alone = [replace(v, T_odom_cam=None) for v in real]
    found = window_poses(alone, [view_features(v) for v in alone])
    assert found.placed.all()
    assert worst(found.T_ref_cam, truth, any_scale=True)[0] < 1.5


@pytest.mark.parametrize("count", [1, 2])
def test_a_window_of_hardly_any_views_is_odometry(count: int) -> None:
    seen = look(ROOM, WAY[:count], SIGHT)
    found = window_poses(views(K, relative(WAY[:count])), seen)
    assert found.source == "odometry"
    with pytest.raises(SfmError):
        window_poses(views(K, count=count), seen)
