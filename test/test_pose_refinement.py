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

"""Poses from pointmaps refined by features: better where images hold them, else as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from box_room import BoxRoom
from mvdust3r_ros.config import ConfigError, MapperConfig, PoseSettings, with_values
from mvdust3r_ros.datatypes import (
    FloatArray,
    Frame,
    MapUpdate,
    Verdict,
    View,
    ViewPose,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.geometry import invert_se3, make_se3, rotation_angle_deg
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.window.pose_recovery import recover_poses
from mvdust3r_ros.window.pose_refinement import Refined, refine_poses

HW = (192, 256)
COUNT = 6
REL_ERROR, MAX_RESIDUAL = 0.2, 0.3


@pytest.fixture(scope="module")
def large(room: BoxRoom) -> BoxRoom:
    """The room as cameras with more pixels see it."""
    return replace(room, image_wh=HW[::-1], focal_px=147.0)


@pytest.fixture(scope="module")
def views(large: BoxRoom) -> list[View]:
    """A drive along a bend, with true depth and poses."""
    return [
        View(f.image_rgb, large.K, depth_m=f.depth_m, T_world_cam=f.T_odom_cam)
        for f in large.frames(large.walk(36)[:COUNT])
    ]


def moved(prediction: WindowPrediction, sigma_deg: float, sigma_m: float) -> WindowPrediction:
    """Pointmaps of all views but the reference turned about their cameras and shifted."""
    rng = np.random.default_rng(4)
    points = prediction.points.copy()
    for v in range(points.shape[1]):
        turn = Rotation.from_rotvec(rng.normal(0, np.radians(sigma_deg), 3)).as_matrix()
        shift = rng.normal(0, sigma_m, 3)
        if v != prediction.references[0]:
            points[:, v] = points[:, v] @ turn.T + shift
    return replace(prediction, points=points.astype(np.float32))


def seen(views: Sequence[View], reference: int = 0, scale: float = 1.0) -> WindowPrediction:
    """The oracle's pointmaps with errors of their poses."""
    engine = OracleEngine(HW)
    order = [reference, *(v for v in range(len(views)) if v != reference)]
    found = engine.decode(engine.encode([views[v] for v in order])).in_caller_order(tuple(order))
    off = moved(found, 3.0, 0.1)
    return replace(off, points=off.points * np.float32(scale))


def refined(
    prediction: WindowPrediction, views: Sequence[View]
) -> tuple[list[ViewPose | None], Refined]:
    """Recovered poses, and what becomes of them."""
    poses = recover_poses(prediction, views, PoseSettings())
    return poses, refine_poses(prediction, views, poses, REL_ERROR, MAX_RESIDUAL)


def errors(
    poses: Sequence[ViewPose | None], views: Sequence[View], reference: int = 0, scale: float = 1.0
) -> FloatArray:
    """(V, 2) degrees, and metres of the room, of poses in the frame of the reference."""
    found = []
    for pose, view in zip(poses, views, strict=True):
        truth = invert_se3(views[reference].T_world_cam) @ view.T_world_cam
        turn = truth[:3, :3].T @ pose.T_window_cam[:3, :3]
        away = pose.T_window_cam[:3, 3] / scale - truth[:3, 3]
        found.append((float(rotation_angle_deg(turn)), float(np.linalg.norm(away))))
    return np.array(found)


@pytest.mark.parametrize(("reference", "scale"), [(0, 1.0), (3, 1.0), (2, 40.0)])
def test_features_correct_the_poses_in_the_scale_of_the_pointmaps(
    views: list[View], reference: int, scale: float
) -> None:
    before, after = refined(seen(views, reference, scale), views)
    was, now = (errors(p, views, reference, scale) for p in (before, after.poses))
    assert after.note == ""
    assert np.array_equal(after.poses[reference].T_window_cam, np.eye(4))
    others = [v for v in range(COUNT) if v != reference]
    assert (now[others] < was[others] / 3).all()
    assert now[:, 0].max() < 1.0
    assert now[:, 1].max() < 0.05


def test_points_move_rigidly_with_their_view(views: list[View]) -> None:
    prediction = seen(views)
    before, after = refined(prediction, views)
    for v in range(COUNT):
        old, new = (p[v].T_window_cam for p in (before, after.poses))
        cams = [
            (points.astype(float) - T[:3, 3]) @ T[:3, :3]
            for points, T in ((prediction.points[0, v], old), (after.points[v], new))
        ]
        assert np.abs(cams[0] - cams[1]).max() < 1e-4
    truth = np.stack([v.T_world_cam for v in views])
    world = invert_se3(truth[0]) @ truth
    at = [(p - world[v, :3, 3]) @ world[v, :3, :3] for v, p in enumerate(after.points)]
    true_depth = np.stack([v.depth_m for v in views])
    off = np.abs(np.stack(at)[..., 2] / true_depth - 1)
    assert np.median(off) < 0.01


def test_odometry_and_rig_have_no_say(views: list[View]) -> None:
    wild = [
        replace(v, T_odom_cam=make_se3(np.eye(3), np.array([9.0 * i, 0, 0])), T_rig_cam=np.eye(4))
        for i, v in enumerate(views)
    ]
    prediction = seen(views)
    plain, told = (refined(prediction, vs)[1] for vs in (views, wild))
    assert np.array_equal(plain.points, told.points)
    for a, b in zip(plain.poses, told.poses, strict=True):
        assert np.array_equal(a.T_window_cam, b.T_window_cam)


def stays(prediction: WindowPrediction, views: Sequence[View]) -> str:
    """The note on a window in which nothing may have changed."""
    before, after = refined(prediction, views)
    assert after.poses == before
    assert np.array_equal(after.points, prediction.points[0])
    return after.note


def test_without_texture_the_poses_stay(views: list[View]) -> None:
    bare = [replace(v, image_rgb=np.full_like(v.image_rgb, 128)) for v in views]
    assert stays(seen(views), bare) == "recovered poses stay: too few matches agree"


def test_images_of_a_camera_that_stands_move_nothing(views: list[View]) -> None:
    one = [replace(v, image_rgb=views[0].image_rgb) for v in views]
    assert stays(seen(views), one).startswith("recovered poses stay: ")


def test_without_camera_info_the_poses_stay(views: list[View]) -> None:
    blind = [replace(v, K=None) for v in views[:1]] + views[1:]
    assert stays(seen(views), blind) == "recovered poses stay: no camera_info"


def test_pointmaps_that_the_images_contradict_get_no_better_poses(views: list[View]) -> None:
    prediction = seen(views)
    poses = recover_poses(prediction, views, PoseSettings())
    points = prediction.points.copy()
    for own in points[0, 1:]:
        own[:] = np.random.default_rng(0).permutation(own.reshape(-1, 3)).reshape(own.shape)
    after = refine_poses(replace(prediction, points=points), views, poses, REL_ERROR, MAX_RESIDUAL)
    assert after.poses == poses
    assert after.note == (
        "recovered poses stay: only 1 view whose pointmaps lie where images see them"
    )


def test_a_view_of_another_size_stays_and_is_named(views: list[View]) -> None:
    prediction = seen(views)
    poses = recover_poses(prediction, views, PoseSettings())
    points, at = prediction.points.copy(), poses[4].T_window_cam[:3, 3]
    points[0, 4] = 3 * (points[0, 4] - at) + at
    after = refine_poses(
        replace(prediction, points=points.astype(np.float32)), views, poses, REL_ERROR,
        MAX_RESIDUAL,
    )  # fmt: skip
    assert after.note == "recovered poses stay in 1 view (4)"
    assert after.poses[4] is poses[4]
    assert np.array_equal(after.points[4], points[0, 4])
    was, now = (np.delete(errors(p, views), 4, 0) for p in (poses, after.poses))
    assert (now[1:] < was[1:] / 3).all()


def test_a_view_that_sees_something_else_stays(views: list[View]) -> None:
    blank = [*views[:5], replace(views[5], image_rgb=np.zeros_like(views[5].image_rgb))]
    before, after = refined(seen(views), blank)
    assert after.note == "recovered poses stay in 1 view (5)"
    assert after.poses[5] is before[5]
    assert after.poses[4] is not before[4]


def test_a_view_without_a_pose_gets_none(views: list[View]) -> None:
    prediction = seen(views)
    poses = recover_poses(prediction, views, PoseSettings())
    poses[2] = None
    after = refine_poses(prediction, views, poses, REL_ERROR, MAX_RESIDUAL)
    assert after.note == ""
    assert after.poses[2] is None
    assert np.array_equal(after.points[2], prediction.points[0, 2])
    alone = [poses[0], *[None] * (COUNT - 1)]
    assert refine_poses(prediction, views, alone, REL_ERROR, MAX_RESIDUAL).poses == alone


# --- in the mapper -----------------------------------------------------------------------------


class BentEngine(OracleEngine):
    """True depth, with views that lie where they are not; or a little off, with poses."""

    def __init__(self, posed: bool) -> None:
        super().__init__(HW)
        self.posed = posed

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        truth = super().decode(tokens, n_ref)
        if not self.posed:
            return moved(truth, 3.0, 0.1)
        prediction = moved(truth, 0.3, 0.01)
        views = [token.view for token in tokens]
        return replace(prediction, poses=tuple(recover_poses(prediction, views, PoseSettings())))


@pytest.fixture
def frames(large: BoxRoom) -> list[Frame]:
    """Of a window, without odometry."""
    known = large.frames(large.walk(36)[:COUNT])
    return [replace(f, T_odom_cam=None, T_world_cam=f.T_odom_cam) for f in known]


def first_window(frames: Sequence[Frame], refine: str, posed: bool = False) -> MapUpdate:
    """What becomes of a window."""
    config = with_values(
        MapperConfig(),
        {
            "keyframes.window_size": COUNT, "keyframes.window_overlap": 3,
            "keyframes.min_sharpness": 0.0, "keyframes.max_interval_s": 0.1,
            "pose.refine": refine,
        },
    )  # fmt: skip
    mapper = Mapper(config, BentEngine(posed))
    (update,) = [u for u in map(mapper.process, frames) if u is not None]
    return update


def motion_errors(update: MapUpdate) -> FloatArray:
    """(V,) metres that the cameras are off, seen from the first one."""
    keyframes = update.window.keyframes
    T = np.stack([update.T_map_cam[k.id] for k in keyframes])
    truth = np.stack([k.view.T_world_cam for k in keyframes])
    steps = [invert_se3(P[0]) @ P for P in (T, truth)]
    return np.linalg.norm(steps[0][:, :3, 3] - steps[1][:, :3, 3], axis=1)


def test_the_mapper_takes_a_window_whose_poses_it_has_refined(frames: list[Frame]) -> None:
    none, tracks = (first_window(frames, refine) for refine in ("none", "tracks"))
    assert none.verdict == Verdict.REJECTED_POSE
    assert "refine" not in none.latency_ms
    assert tracks.verdict == Verdict.COMMITTED
    assert "refine" in tracks.latency_ms
    assert tracks.note == ""
    assert motion_errors(tracks).max() < 0.05


def test_the_note_of_a_window_says_why_its_poses_stay(frames: list[Frame]) -> None:
    bare = [replace(f, image_rgb=np.full_like(f.image_rgb, 128)) for f in frames]
    assert first_window(bare, "tracks").note == "recovered poses stay: too few matches agree"


def test_poses_of_an_engine_that_gives_them_are_left_alone(frames: list[Frame]) -> None:
    none, tracks = (first_window(frames, refine, posed=True) for refine in ("none", "tracks"))
    assert none.verdict == Verdict.COMMITTED
    assert "refine" not in tracks.latency_ms
    assert np.array_equal(none.points_map, tracks.points_map)
    assert motion_errors(none).max() > 0.01
    for key, T in none.T_map_cam.items():
        assert np.array_equal(T, tracks.T_map_cam[key])


def test_the_ways_to_refine() -> None:
    assert MapperConfig().pose.refine == "none"
    with pytest.raises(ConfigError, match=r"pose\.refine: 'sift' is not one of none, tracks"):
        with_values(MapperConfig(), {"pose.refine": "sift"})
