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

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdust3r_ros.datatypes import (
    CameraModel,
    FloatArray,
    Frame,
    FrameError,
    MapUpdate,
    PixelGaussians,
    ScaleEstimate,
    ScaleSource,
    Trajectory,
    Verdict,
    ViewPose,
    Window,
    WindowPrediction,
)

ROOT = Path(__file__).parents[1]
IMAGE = np.zeros((6, 8, 3), np.uint8)
K = np.array([[5.0, 0, 4], [0, 5.0, 3], [0, 0, 1]])


def prediction(views: int = 4, references: tuple[int, ...] = (0,)) -> WindowPrediction:
    """View v is full of points (v, r, 0) and confidence 10 + v in path r."""
    points = np.zeros((len(references), views, 2, 3, 3), np.float32)
    points[..., 0] += np.arange(views)[None, :, None, None]
    points[..., 1] += np.arange(len(references))[:, None, None, None]
    return WindowPrediction(points, 10 + points[..., 0], references)


def altered(row: int, col: int, value: float) -> FloatArray:
    T = np.eye(4)
    T[row, col] = value
    return T


@pytest.mark.parametrize("image", [
    np.zeros((6, 8), np.uint8), np.zeros((6, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8),
    np.zeros((6, 0, 3), np.uint8), np.zeros((6, 8, 3), np.float32),
])  # fmt: skip
def test_what_is_no_rgb_image_is_refused(image: FloatArray) -> None:
    with pytest.raises(FrameError, match=r"image must be \(H, W, 3\) uint8 and not empty, got \("):
        Frame(0, image)


def test_camera_and_depth_belong_to_the_image() -> None:
    camera = CameraModel(K, 8, 6)
    frame = Frame(0, IMAGE, camera, np.eye(4), np.zeros((6, 8), np.float32))
    assert frame.camera is camera
    with pytest.raises(FrameError, match="camera_info is for 6x8 pixels, the image has 8x6"):
        Frame(0, IMAGE, CameraModel(K, 6, 8))
    with pytest.raises(FrameError, match=r"depth \(8, 6\) does not match image \(6, 8\)"):
        Frame(0, IMAGE, depth_m=np.zeros((8, 6), np.float32))


@pytest.mark.parametrize("T", [
    altered(0, 3, np.nan), altered(1, 1, np.inf), altered(0, 0, 1.1), altered(0, 1, 0.1),
    np.zeros((4, 4)),
])  # fmt: skip
def test_odometry_that_is_no_pose_is_refused(T: FloatArray) -> None:
    with pytest.raises(FrameError, match="T_odom_cam is not a rigid transform"):
        Frame(0, IMAGE, T_odom_cam=T)


def test_odometry_of_another_shape_is_refused() -> None:
    with pytest.raises(FrameError, match=r"T_odom_cam has shape \(3, 4\), expected \(4, 4\)"):
        Frame(0, IMAGE, T_odom_cam=np.eye(3, 4))


@pytest.mark.parametrize("wrong", [
    altered(0, 0, 0.0), altered(1, 1, -1.0), altered(0, 2, np.nan), altered(0, 0, 0.0)
])  # fmt: skip
def test_what_is_no_pinhole_matrix_is_refused(wrong: FloatArray) -> None:
    with pytest.raises(FrameError, match="not a pinhole matrix"):
        CameraModel(wrong[:3, :3], 8, 6)


def test_camera_shapes_and_coefficients() -> None:
    with pytest.raises(FrameError, match=r"K has shape \(9,\), expected \(3, 3\)"):
        CameraModel(K.ravel(), 8, 6)
    with pytest.raises(FrameError, match="distortion coefficients are not finite"):
        CameraModel(K, 8, 6, (0.1, float("nan")))


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Frame(0, IMAGE).stamp_ns = 3  # type: ignore[misc]


def test_prediction_shapes() -> None:
    good = prediction(4, (2, 0))
    with pytest.raises(FrameError, match=r"points have shape .*, expected \(1, V, H, W, 3\)"):
        WindowPrediction(good.points, good.conf, (0,))
    with pytest.raises(FrameError, match="points have shape"):
        WindowPrediction(good.points[0], good.conf[0])
    with pytest.raises(FrameError, match="points have shape"):
        WindowPrediction(good.points[..., :2], good.conf, (2, 0))
    with pytest.raises(FrameError, match=r"confidence .* does not match points"):
        WindowPrediction(good.points, good.conf[:, :3], (2, 0))
    for references in [(0, 4), (-1, 0)]:
        with pytest.raises(FrameError, match="in a window of 4 views"):
            WindowPrediction(good.points, good.conf, references)
    with pytest.raises(FrameError, match="in a window of 4 views"):
        WindowPrediction(good.points[:0], good.conf[:0], ())


def test_a_prediction_comes_back_in_the_order_of_the_caller() -> None:
    # the engine got views 2, 0, 3, 1: its pointmap k belongs to view order[k]
    back = prediction(4, (0, 1)).in_caller_order((2, 0, 3, 1))
    assert back.points[0, :, 0, 0, 0].tolist() == [1, 3, 0, 2]
    assert back.conf[1, :, 0, 0].tolist() == [11, 13, 10, 12]
    assert back.points[:, 0, 0, 0, 1].tolist() == [0, 1]
    assert back.references == (2, 0)


def posed(views: int = 4, reference: int = 1, **more: Any) -> WindowPrediction:
    """A prediction with poses: view v is v - reference metres ahead; the last one has none."""
    poses = []
    for v in range(views - 1):
        T = np.eye(4)
        T[2, 3] = v - reference
        poses.append(ViewPose(T, K, 1.0, 0.1 * v))
    covariance = np.arange(views)[:, None, None] * np.eye(6)
    given = {"poses": (*poses, None), "pose_covariance": covariance, **more}
    return replace(prediction(views, (reference, 0)), **given)


def test_everything_that_a_window_says_comes_back_in_order() -> None:
    fed = posed(metric=True, rel_error=0.03, used_odometry=True, note="as it was")
    back = fed.in_caller_order((2, 0, 3, 1))
    assert back.references == (0, 2)
    assert back.poses is not None
    assert [None if p is None else p.T_window_cam[2, 3] for p in back.poses] == [0, None, -1, 1]
    assert back.pose_covariance[:, 0, 0].tolist() == [1, 3, 0, 2]
    assert (back.metric, back.rel_error, back.used_odometry, back.note) == (
        True, 0.03, True, "as it was",
    )  # fmt: skip
    plain = prediction().in_caller_order((2, 0, 3, 1))
    assert (plain.poses, plain.pose_covariance, plain.metric, plain.rel_error) == (None,) * 4


def gaussians_of(made: WindowPrediction) -> PixelGaussians:
    shape = made.conf.shape
    return PixelGaussians(made.conf / 100, np.ones((*shape, 3)), np.ones((*shape, 4)))


def test_gaussians_come_back_in_order_and_belong_to_the_points() -> None:
    plain = prediction(4, (0, 1))
    back = replace(plain, gaussians=gaussians_of(plain)).in_caller_order((2, 0, 3, 1))
    assert back.gaussians is not None
    np.testing.assert_array_equal(back.gaussians.opacity, back.conf / 100)
    assert plain.in_caller_order((2, 0, 3, 1)).gaussians is None
    with pytest.raises(FrameError, match=r"Gaussians .* do not match points"):
        replace(plain, gaussians=gaussians_of(plain)[:, :3])
    with pytest.raises(FrameError, match=r"Gaussians have opacity \(2,\), scale \(2, 2\)"):
        PixelGaussians(np.ones(2), np.ones((2, 2)), np.ones((2, 4)))


def test_poses_that_do_not_belong_to_the_window_are_refused() -> None:
    good = posed()
    assert good.poses is not None
    twice = replace(good.poses[0], T_window_cam=altered(0, 0, 2.0))
    for poses, message in [
        (good.poses[:3], "3 poses in a window of 4 views"),
        ((None, *good.poses[1:3], None), ""),
        ((good.poses[1], good.poses[0], None, None), "reference 1 is not the identity"),
        ((twice, *good.poses[1:]), "not a rigid"),
        ((replace(good.poses[0], K=-K), *good.poses[1:]), "no pinhole matrix"),
    ]:  # fmt: skip
        if not message:
            replace(good, poses=poses)
            continue
        with pytest.raises(FrameError, match=message):
            replace(good, poses=poses)
    with pytest.raises(FrameError, match=r"shape \(3, 6, 6\), expected \(4, 6, 6\)"):
        replace(good, pose_covariance=good.pose_covariance[:3])
    bad = good.pose_covariance.copy()
    bad[3] = np.nan  # the view without a pose
    replace(good, pose_covariance=bad)
    for value in (np.nan, -1.0):
        bad[2, 0, 0] = value
        with pytest.raises(FrameError, match="no covariance"):
            replace(good, pose_covariance=bad)
    for value in (-0.1, np.inf, np.nan):
        with pytest.raises(FrameError, match="is no error"):
            replace(good, rel_error=value)
    for alone in ({"used_odometry": True}, {"pose_covariance": np.zeros((4, 6, 6))}):
        with pytest.raises(FrameError, match="belong to poses"):
            replace(prediction(), **alone)


@given(st.permutations(range(6)))
def test_order_there_and_back(order: list[int]) -> None:
    start = prediction(6, (3, 1))
    fed = WindowPrediction(
        start.points[:, order], start.conf[:, order], tuple(order.index(r) for r in (3, 1))
    )
    back = fed.in_caller_order(tuple(order))
    assert np.array_equal(back.points, start.points)
    assert np.array_equal(back.conf, start.conf)
    assert back.references == start.references


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 1, 2, 3, 4), (0, 1, 2, 2), (1, 2, 3, 4)])
def test_an_order_of_other_views_is_refused(order: tuple[int, ...]) -> None:
    with pytest.raises(FrameError, match="4 pointmaps do not match the order"):
        prediction(4).in_caller_order(order)


def test_trajectory_has_a_pose_for_each_stamp() -> None:
    assert len(Trajectory(np.arange(3), np.stack([np.eye(4)] * 3))) == 3
    assert len(Trajectory(np.zeros(0, np.int64), np.zeros((0, 4, 4)))) == 0
    with pytest.raises(FrameError, match=r"3 stamps and poses \(2, 4, 4\), expected \(3, 4, 4\)"):
        Trajectory(np.arange(3), np.stack([np.eye(4)] * 2))


def test_a_rejected_update_is_empty() -> None:
    update = MapUpdate(Window(3, ()), Verdict.REJECTED_STALE, "late")
    assert update.points_map.shape == update.colors_rgb.shape == (0, 3)
    assert update.conf.shape == update.keyframe_ids.shape == (0,)
    assert update.T_map_cam == {}
    assert np.isnan(update.residual_m)
    assert update.scale == ScaleEstimate(1.0, float("inf"), ScaleSource.NONE)
    assert replace(update, message="x").T_map_cam is update.T_map_cam
    assert MapUpdate(Window(4, ()), Verdict.COMMITTED).T_map_cam is not update.T_map_cam


def constants(path: Path) -> dict[str, int]:
    lines = [line.split("#")[0].split() for line in path.read_text().splitlines()]
    pairs = [(" ".join(x[1:]).partition("=")) for x in lines if len(x) > 1 and "=" in " ".join(x)]
    return {name.strip(): int(value) for name, _, value in pairs}


def test_verdicts_and_sources_are_those_of_the_messages() -> None:
    status = constants(ROOT / "msg" / "WindowStatus.msg")
    summary = constants(ROOT / "msg" / "OccupancySummary.msg")
    for verdict in Verdict:
        assert status[verdict.name] == verdict
    for source in ScaleSource:
        assert summary[f"SCALE_{source.name}"] == source
