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

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from box_room import BoxRoom
from mvdust3r_ros.config import StitchSettings
from mvdust3r_ros.datatypes import FloatArray, ScaleEstimate, ScaleSource, Verdict, Window
from mvdust3r_ros.geometry import Sim3, invert_se3, make_se3, rotation_angle_deg
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.seen_keyframes import seen_keyframes
from mvdust3r_ros.placing.scale import ScaleFilter
from mvdust3r_ros.placing.stitching import (
    MIN_SHARED_POINTS,
    MapEnd,
    Placement,
    Stitcher,
    agrees_with_odometry,
    attainable,
    level_by_floor,
    on_the_floor,
)
from mvdust3r_ros.window.window_geometry import WindowError, WindowGeometry
from room_windows import EVERY_POINT, SPREAD, Scene, at_end_of, begun_with, followed_by, made_of


@pytest.fixture(scope="module")
def scene(room: BoxRoom) -> Scene:
    return Scene(room)


def started(
    scene: Scene, scale: float = 1.0, settings: StitchSettings | None = None, **options: Any
) -> Stitcher:
    """At the end of a map of keyframes 0 to 5."""
    return at_end_of(begun_with(scene.window(range(6), scale, **options)), settings)


def worst(T_map_cam: dict[int, FloatArray], truth: list[FloatArray]) -> tuple[float, float]:
    """Largest error of the poses, metres and degrees."""
    deltas = np.stack([invert_se3(truth[i]) @ T for i, T in T_map_cam.items()])
    off = np.linalg.norm(deltas[:, :3, 3], axis=1).max()
    return float(off), float(rotation_angle_deg(deltas[:, :3, :3]).max())


def refused(stitcher: Stitcher, geometry: WindowGeometry, verdict: Verdict, message: str) -> None:
    with pytest.raises(WindowError, match=message) as error:
        stitcher.place(geometry)
    assert error.value.verdict == verdict


def spoilt(geometry: WindowGeometry, share: float, seed: int = 0) -> WindowGeometry:
    """Some points are somewhere else."""
    rng = np.random.default_rng(seed)
    wild = rng.random(geometry.conf.shape) < share
    points = geometry.points.copy()
    points[wild] += rng.normal(size=(wild.sum(), 3)) * 2
    return replace(geometry, points=points)


# The first window


@pytest.mark.parametrize("scale", [1.0, 0.05, 40.0])
def test_the_first_window_lies_where_odometry_says_in_metres(scene: Scene, scale: float) -> None:
    placement = Stitcher(StitchSettings()).place(scene.window(range(6), scale))
    off, turned_deg = worst(placement.T_map_cam, scene.poses)
    assert off < 0.01  # the floor is found to a few millimetres
    assert turned_deg < 1e-4
    assert placement.S_map_window.scale == pytest.approx(1 / scale)
    assert placement.scale.estimate.scale == pytest.approx(1 / scale)
    assert placement.scale.estimate.rel_sigma == pytest.approx(np.hypot(0.02, 0.01), abs=1e-3)
    assert placement.scale.estimate.source == ScaleSource.ODOMETRY
    assert np.isnan(placement.residual_m)


def test_odometry_of_any_height_puts_the_floor_at_zero(scene: Scene) -> None:
    T_odom_world = make_se3(
        Rotation.from_euler("z", 70, degrees=True).as_matrix(), np.array([5.0, -3.0, 1.7])
    )
    stitcher = started(scene, T_odom_world=T_odom_world)
    shift = np.eye(4)
    shift[2, 3] = -1.7
    np.testing.assert_allclose(stitcher.end.T_map_odom, shift, atol=0.01)
    assert np.allclose(stitcher.end.T_map_odom[:2, 3], 0, atol=1e-6)


def test_without_odometry_the_floor_is_level_and_the_scale_open(scene: Scene) -> None:
    placement = Stitcher(StitchSettings()).place(scene.window(range(6), 0.3, odometry=False))
    assert placement.S_map_window.scale == 1.0
    assert placement.scale.estimate == ScaleEstimate(1.0, float("inf"), ScaleSource.NONE)
    for i, T in placement.T_map_cam.items():
        assert T[2, 3] == pytest.approx(0.3 * scene.poses[i][2, 3], abs=3e-3)
        np.testing.assert_allclose(T[2, :3], scene.poses[i][2, :3], atol=0.01)  # z up


def test_without_odometry_a_metric_engine_gives_the_scale(scene: Scene) -> None:
    geometry = scene.window(range(6), odometry=False, metric=True)
    placement = Stitcher(StitchSettings(model_rel_sigma=0.11)).place(geometry)
    assert placement.scale.estimate == ScaleEstimate(1.0, pytest.approx(0.11), ScaleSource.MODEL)


@pytest.mark.parametrize("stands", [True, False])
def test_a_camera_that_stands_does_not_become_sure_of_the_models_metres(
    scene: Scene, stands: bool
) -> None:
    graph, settings, sigmas = KeyframeGraph(), StitchSettings(model_rel_sigma=0.15), []
    for begin in range(0, 12, 3):
        ids = range(begin, begin + 6)
        geometry = scene.window(ids, odometry=False, metric=True)
        if stands:
            once = scene.window(range(1), odometry=False, metric=True)
            alike = lambda a: np.repeat(a, 6, axis=0)  # noqa: E731
            geometry = replace(
                geometry,
                points=alike(once.points), conf=alike(once.conf), poses=once.poses * 6,
            )  # fmt: skip
        placement = at_end_of(graph, settings).place(geometry)
        graph = followed_by(graph, geometry, placement)
        sigmas.append(placement.scale.estimate.rel_sigma)
    assert sigmas[0] == pytest.approx(0.15)
    assert (sigmas[-1] > 0.149) == stands


def test_depth_images_give_the_scale(scene: Scene) -> None:
    geometry = scene.window(range(6), 2.5, odometry=False)
    T = np.stack(scene.poses[:6])
    points = np.stack([scene.room.points(pose)[SPREAD, SPREAD] for pose in T])
    depth_m = np.einsum("vhwi,vi->vhw", points - T[:, None, None, :3, 3], T[:, :3, 2])
    conf = geometry.conf.copy()
    conf[:, :12], depth_m[:, :12] = 1.0, 9.0  # wrong, where the network trusts nothing
    geometry = replace(geometry, conf=conf, depth_m=depth_m.astype(np.float32))
    placement = Stitcher(StitchSettings(use_depth=True)).place(geometry)
    assert placement.scale.estimate.scale == pytest.approx(1 / 2.5, rel=1e-4)
    assert placement.scale.estimate.source == ScaleSource.DEPTH


@pytest.mark.parametrize("odometry", [False, True])
def test_the_height_of_the_camera_gives_the_scale(scene: Scene, odometry: bool) -> None:
    """Of what the network trusts: the rows without confidence would be another floor."""
    settings = StitchSettings(min_baseline_m=100.0)  # odometry says what is level, no more
    geometry = scene.window(range(6), 2.5, odometry=odometry)
    S = Sim3(2.5, np.eye(3), np.zeros(3)) @ Sim3(1.0, *_split(invert_se3(scene.poses[0])))
    points, conf = geometry.points.copy(), geometry.conf.copy()
    conf[:, :6] = 1.0
    grid = np.stack(np.meshgrid(np.linspace(0, 4, 24), np.linspace(0, 4, 6), indexing="xy"), -1)
    below = np.concatenate([grid, np.full((6, 24, 1), -2.0)], -1)
    points[:, :6] = S.apply(below)
    geometry = replace(geometry, points=points.astype(np.float32), conf=conf)
    height_m = float(np.median([T[2, 3] for T in scene.poses[:6]]))
    placement = Stitcher(settings, camera_height_m=height_m).place(geometry)
    assert placement.scale.estimate.source == ScaleSource.CAMERA_HEIGHT
    assert placement.scale.estimate.scale == pytest.approx(1 / 2.5, rel=0.02)
    assert placement.scale.estimate.rel_sigma < 0.04


def test_the_view_that_says_what_is_level_is_the_one_whose_pose_is_asked(room: BoxRoom) -> None:
    """The camera nods from view to view: up in one is not up in the next."""
    tilting = Scene(room, 24)
    for k in range(1, 6, 2):
        nod = Rotation.from_euler("x", -20, degrees=True).as_matrix()
        tilting.poses[k] = tilting.poses[k] @ make_se3(nod, np.zeros(3))
    height_m = float(np.median([T[2, 3] for T in tilting.poses[:6]]))
    stitcher = Stitcher(StitchSettings(min_baseline_m=100.0), camera_height_m=height_m)
    placement = stitcher.place(tilting.window(range(6), 2.5))
    assert placement.scale.estimate.source == ScaleSource.CAMERA_HEIGHT
    assert placement.scale.estimate.scale == pytest.approx(1 / 2.5, rel=0.02)


def test_the_height_of_the_camera_holds_in_later_windows(scene: Scene) -> None:
    height_m = float(np.median([T[2, 3] for T in scene.poses[:9]]))
    graph = KeyframeGraph()
    for ids, scale in ((range(6), 1.0), (range(3, 9), 7.0)):
        geometry = scene.window(ids, scale, odometry=False)
        placement = Stitcher(StitchSettings(), graph.end, height_m).place(geometry)
        graph = followed_by(graph, geometry, placement)
    assert placement.scale.estimate.source == ScaleSource.CAMERA_HEIGHT
    assert placement.scale.estimate.scale == pytest.approx(1 / 7.0, rel=0.02)


def _split(T: FloatArray) -> tuple[FloatArray, FloatArray]:
    return T[:3, :3], T[:3, 3]


def test_a_standing_robot_takes_axes_from_odometry_and_no_scale(scene: Scene) -> None:
    stitcher = Stitcher(StitchSettings(min_baseline_m=100.0))
    placement = stitcher.place(scene.window(range(6), 1.0))
    assert placement.scale.estimate.source == ScaleSource.NONE
    assert worst(placement.T_map_cam, scene.poses)[0] < 0.01


def test_one_odometry_pose_is_enough_for_the_axes(scene: Scene) -> None:
    geometry = scene.window(range(6))
    frames = list(geometry.window.keyframes)
    for i in (0, 1, 2, 4, 5):
        frames[i] = replace(frames[i], view=replace(frames[i].view, T_odom_cam=None))
    geometry = replace(geometry, window=Window(0, tuple(frames)))
    placement = Stitcher(StitchSettings()).place(geometry)
    assert worst(placement.T_map_cam, scene.poses)[0] < 0.01
    assert placement.scale.estimate.source == ScaleSource.NONE


def test_a_first_window_against_odometry_is_refused(scene: Scene) -> None:
    geometry = scene.window(range(6))
    frames = list(geometry.window.keyframes)
    T = frames[5].view.T_odom_cam.copy()
    T[:3, :3] = T[:3, :3] @ Rotation.from_euler("y", 60, degrees=True).as_matrix()
    frames[5] = replace(frames[5], view=replace(frames[5].view, T_odom_cam=T))
    refused(
        Stitcher(StitchSettings()), replace(geometry, window=Window(0, tuple(frames))),
        Verdict.REJECTED_ODOMETRY, r"from odometry by .* and 60.0 deg \(limits .* 20 deg\)",
    )  # fmt: skip


# Windows that share keyframes


@pytest.mark.parametrize("scale", [1.0, 0.2, 17.0])
@pytest.mark.parametrize("odometry", [True, False])
@pytest.mark.slow
def test_shared_pixels_place_a_window_of_any_scale(
    scene: Scene, scale: float, odometry: bool
) -> None:
    stitcher = started(scene, odometry=odometry)
    T_map_world = stitcher.place(scene.window(range(6), odometry=odometry)).T_map_cam[0]
    T_map_world = T_map_world @ invert_se3(scene.poses[0])
    placement = stitcher.place(scene.window(range(3, 9), scale, odometry=odometry))
    off, turned_deg = worst(placement.T_map_cam, [T_map_world @ T for T in scene.poses])
    assert off < 1e-4
    assert turned_deg < 1e-3
    assert placement.residual_m < 1e-4
    assert placement.S_map_window.scale == pytest.approx(1 / scale, rel=1e-5)
    assert sorted(placement.T_map_cam) == list(range(3, 9))


def test_a_third_of_wild_points_does_not_move_a_window(scene: Scene) -> None:
    stitcher = started(scene)
    truth = stitcher.place(scene.window(range(3, 9))).T_map_cam
    placement = stitcher.place(spoilt(scene.window(range(3, 9)), 1 / 3))
    off, turned_deg = worst(placement.T_map_cam, [truth.get(i, np.eye(4)) for i in range(9)])
    assert off < 0.01
    assert turned_deg < 0.1


def test_one_shared_keyframe_is_enough(scene: Scene) -> None:
    stitcher = started(scene)
    placement = stitcher.place(scene.window(range(5, 11), 3.0))
    assert worst(placement.T_map_cam, scene.poses)[0] < 0.01


def test_a_joint_by_one_view_is_as_uncertain_as_its_points_disagree(scene: Scene) -> None:
    stitcher = started(scene)
    before = stitcher.end.scale.estimate.rel_sigma
    geometry = scene.window(range(5, 11), 2.0, odometry=False)
    noise = np.random.default_rng(0).normal(1.0, 0.05, geometry.conf.shape)[..., None]
    noisy = replace(geometry, points=(geometry.points * noise).astype(np.float32))
    sigma = stitcher.place(noisy).scale.estimate.rel_sigma
    median = 0.05 * 0.674  # of the size of a normally distributed error
    assert sigma == pytest.approx(np.hypot(before, median), rel=0.1)


def test_odometry_takes_the_uncertainty_of_a_joint_down_to_its_own(scene: Scene) -> None:
    stitcher = started(scene)
    before = stitcher.end.scale.estimate.rel_sigma
    placement = stitcher.place(scene.window(range(3, 9), 2.0))
    assert before == pytest.approx(np.hypot(0.02, 0.01), rel=0.02)
    # the same wheels twice: their noise averages out, their bias does not
    expected = np.hypot(0.02 / np.sqrt(2), 0.01)
    assert placement.scale.estimate.rel_sigma == pytest.approx(expected, rel=0.02)
    blind = stitcher.place(scene.window(range(3, 9), 2.0, odometry=False))
    assert blind.scale.estimate.rel_sigma == pytest.approx(
        np.hypot(before, 0.001)
    )  # an exact joint
    assert blind.scale.estimate.source == ScaleSource.ODOMETRY


def test_the_next_window_follows_keyframes_that_were_moved_and_resized(scene: Scene) -> None:
    graph = begun_with(scene.window(range(6), odometry=False))
    S = Sim3(1.5, Rotation.from_euler("z", 0.5).as_matrix(), np.array([1.0, 2.0, 0.0]))
    next_window = scene.window(range(3, 9), 2.0, odometry=False)
    before = at_end_of(graph).place(next_window)
    resized = graph.resized(np.log([1.5]), np.zeros(3))
    moved = resized.at({i: S.apply_pose(T) for i, T in graph.poses.items()})
    after = at_end_of(moved).place(next_window)
    for i, T in before.T_map_cam.items():
        np.testing.assert_allclose(after.T_map_cam[i], S.apply_pose(T), atol=1e-3)


def test_a_shape_that_odometry_confirms(scene: Scene) -> None:
    assert agrees_with_odometry(scene.window(range(6), 3.0))
    assert not agrees_with_odometry(scene.window(range(6), odometry=False))
    two = scene.window(range(2))
    assert not agrees_with_odometry(two)  # any two agree in some scale
    backwards = {i: scene.poses[5 - i] for i in range(6)}
    assert not agrees_with_odometry(with_odometry(scene.window(range(6)), backwards))


@pytest.mark.parametrize(("turn_deg", "agrees"), [(8.0, True), (12.0, False), (90.0, False)])
def test_a_path_whose_views_are_turned_is_another_shape(
    scene: Scene, turn_deg: float, agrees: bool
) -> None:
    aside = make_se3(Rotation.from_euler("y", turn_deg, degrees=True).as_matrix(), np.zeros(3))
    poses = {k: T @ aside if k == 3 else T for k, T in enumerate(scene.poses[:6])}
    assert agrees_with_odometry(with_odometry(scene.window(range(6)), poses)) == agrees


def test_place_alone_changes_nothing(scene: Scene) -> None:
    graph = begun_with(scene.window(range(6)))
    stitcher, before = at_end_of(graph), pickle.dumps(graph)
    first = stitcher.place(scene.window(range(3, 9), 2.0))
    again = stitcher.place(scene.window(range(3, 9), 2.0))
    assert np.array_equal(first.T_map_cam[8], again.T_map_cam[8])
    assert pickle.dumps(graph) == before
    np.testing.assert_array_equal(stitcher.end.T_map_odom, graph.T_map_odom)
    assert stitcher.end.scale is graph.scale
    assert stitcher.end.points is graph.overlap


def test_a_chain_of_windows_around_the_room(scene: Scene) -> None:
    graph = begun_with(scene.window(range(6), odometry=False))
    rng = np.random.default_rng(0)
    start = at_end_of(graph).place(scene.window(range(6), odometry=False))
    T_map_world = start.T_map_cam[0] @ invert_se3(scene.poses[0])
    for begin in range(3, 19, 3):
        geometry = scene.window(range(begin, begin + 6), np.exp(rng.normal()), odometry=False)
        placement = at_end_of(graph).place(geometry)
        graph = followed_by(graph, geometry, placement)
        assert worst(placement.T_map_cam, [T_map_world @ T for T in scene.poses])[0] < 1e-3
        assert placement.scale.estimate.rel_sigma == float("inf")
    assert sorted(graph.overlap) == list(range(18, 24))
    assert list(graph.keyframes) == list(range(24))


def test_a_view_without_a_pose_is_neither_placed_nor_shared_later(scene: Scene) -> None:
    geometry = scene.window(range(6))
    poses = [None if i >= 4 else p for i, p in enumerate(geometry.poses)]
    geometry = replace(geometry, poses=poses)
    placement = Stitcher(StitchSettings()).place(geometry)
    graph = followed_by(KeyframeGraph(), geometry, placement)
    assert sorted(placement.T_map_cam) == sorted(graph.overlap) == [0, 1, 2, 3]
    assert list(graph.keyframes) == [0, 1, 2, 3]
    assert graph.T_map_odom is None
    refused(
        at_end_of(graph), scene.window(range(4, 10), odometry=False), Verdict.REJECTED_NO_OVERLAP,
        "shares no keyframe with the map",
    )  # fmt: skip


def test_map_to_odometry_follows_the_newest_keyframe(scene: Scene) -> None:
    graph = begun_with(scene.window(range(6)))
    drifted = make_se3(
        Rotation.from_euler("z", 2, degrees=True).as_matrix(), np.array([0.1, 0.2, 0.0])
    )
    geometry = scene.window(range(3, 9), T_odom_world=drifted)
    placement = at_end_of(graph).place(geometry)
    graph = followed_by(graph, geometry, placement)
    expected = placement.T_map_cam[8] @ invert_se3(drifted @ scene.poses[8])
    assert np.array_equal(graph.T_map_odom, expected)
    np.testing.assert_allclose(graph.T_map_odom @ drifted, np.eye(4), atol=0.01)


def test_a_pointmap_follows_the_final_pose_of_its_view(scene: Scene) -> None:
    geometry = scene.window(range(3), 4.0)
    placement = Stitcher(StitchSettings()).place(geometry)
    moved = make_se3(
        Rotation.from_euler("z", 30, degrees=True).as_matrix(), np.array([1.0, 2.0, 3.0])
    )
    T = moved @ scene.poses[1]
    placement = replace(placement, T_map_cam={**placement.T_map_cam, 1: T})
    truth = scene.room.points(scene.poses[1])[SPREAD, SPREAD] @ moved[:3, :3].T + moved[:3, 3]
    item = seen_keyframes(made_of(geometry), placement, EVERY_POINT)[1]
    in_map = item.pointmap.points_cam @ T[:3, :3].T + T[:3, 3]
    np.testing.assert_allclose(in_map, truth, atol=1e-5)
    np.testing.assert_allclose(item.points_map(), truth.reshape(-1, 3), atol=1e-5)


# Windows that do not fit


def test_shuffled_points_are_refused(scene: Scene) -> None:
    geometry = scene.window(range(3, 9))
    flat = geometry.points.reshape(-1, 3)
    points = np.random.default_rng(0).permutation(flat).reshape(geometry.points.shape)
    refused(
        started(scene), replace(geometry, points=points), Verdict.REJECTED_RESIDUAL,
        r"shared pixels disagree by \d+\.\d% of their depth \(limit 15\.0%\)",
    )  # fmt: skip


def test_the_limit_of_the_residual_is_a_setting(scene: Scene) -> None:
    stitcher = started(scene)
    geometry = scene.window(range(3, 9))
    noise = 0.03 * np.random.default_rng(0).normal(size=geometry.points.shape)
    geometry = replace(geometry, points=(geometry.points + noise).astype(np.float32))
    assert stitcher.place(geometry).residual_m == pytest.approx(0.03 * 1.54, rel=0.1)
    strict = replace(stitcher, settings=StitchSettings(max_residual=0.01))
    refused(strict, geometry, Verdict.REJECTED_RESIDUAL, r"limit 1\.0%")


def test_too_few_confident_pixels_are_refused(scene: Scene) -> None:
    stitcher = started(scene)
    for count in (MIN_SHARED_POINTS - 1, MIN_SHARED_POINTS):
        geometry = scene.window(range(3, 9))
        conf = np.ones_like(geometry.conf)
        conf[3:] = 5.0  # of the views that are not shared
        shared = conf[:3].ravel()
        shared[np.linspace(0, shared.size - 1, count).astype(int)] = 2.0
        conf[:3] = shared.reshape(conf[:3].shape)
        geometry = replace(geometry, conf=conf)
        if count < MIN_SHARED_POINTS:
            refused(
                stitcher, geometry, Verdict.REJECTED_LOW_CONFIDENCE,
                r"only 99 confident pixels are shared with the map \(at least 100\)",
            )  # fmt: skip
        else:
            assert stitcher.place(geometry).residual_m < 1e-4


@pytest.mark.filterwarnings("error")
def test_pixels_the_map_doubts_do_not_count(scene: Scene) -> None:
    first = scene.window(range(6))
    first = replace(first, conf=np.where(np.arange(6)[:, None, None] < 3, first.conf, 1.0))
    refused(
        at_end_of(begun_with(first)), scene.window(range(3, 9)), Verdict.REJECTED_LOW_CONFIDENCE,
        "only 0 confident pixels",
    )  # fmt: skip


def test_points_on_a_line_are_refused(scene: Scene) -> None:
    geometry = scene.window(range(3, 9))
    along = np.linspace(1, 2, geometry.conf.size).reshape(geometry.conf.shape)
    points = (along[..., None] * np.ones(3)).astype(np.float32)
    refused(
        started(scene), replace(geometry, points=points), Verdict.REJECTED_DEGENERATE,
        "on a line or in one place",
    )  # fmt: skip


def test_a_window_without_overlap_or_odometry_is_refused(scene: Scene) -> None:
    for stitcher in (started(scene), started(scene, odometry=False)):
        refused(
            stitcher, scene.window(range(8, 14), odometry=False), Verdict.REJECTED_NO_OVERLAP,
            "shares no keyframe with the map and there is no odometry",
        )  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_odometry_places_a_window_without_overlap(scene: Scene, scale: float) -> None:
    stitcher = started(scene)
    placement = stitcher.place(scene.window(range(12, 18), scale))
    off, turned_deg = worst(placement.T_map_cam, scene.poses)
    assert off < 0.01
    assert turned_deg < 1e-4
    assert np.isnan(placement.residual_m)
    assert placement.scale.estimate.rel_sigma == pytest.approx(np.hypot(0.02, 0.01), abs=1e-3)


def test_a_window_that_joins_nothing_needs_a_motion_like_odometrys(scene: Scene) -> None:
    """Half of its views in another scale: nothing else would tell."""
    stitcher = started(scene)
    geometry = scene.window(range(12, 18))
    poses = list(geometry.poses)
    for index in range(3, 6):
        pose = poses[index]
        assert pose is not None
        T = pose.T_window_cam.copy()
        T[:3, 3] *= 3.0
        poses[index] = replace(pose, T_window_cam=T)
    refused(
        stitcher, replace(geometry, poses=poses), Verdict.REJECTED_ODOMETRY,
        "shares no keyframe with the map, and its motion is so unlike odometry's",
    )  # fmt: skip


def test_motion_that_odometry_denies_is_refused(scene: Scene) -> None:
    geometry = scene.window(range(3, 9))
    frames = []
    for n, k in enumerate(geometry.window.keyframes):
        T = k.view.T_odom_cam.copy()
        T[0, 3] += 0.8 * n  # the wheels turned, the robot did not move
        frames.append(replace(k, view=replace(k.view, T_odom_cam=T)))
    denied = replace(geometry, window=Window(0, tuple(frames)))
    stitcher = started(scene, odometry=False)
    with pytest.raises(WindowError) as error:
        stitcher.place(denied)
    assert error.value.verdict in (Verdict.REJECTED_ODOMETRY, Verdict.REJECTED_RESIDUAL)
    lax = StitchSettings(max_odom_translation=50.0, max_scale_change=100.0)
    assert len(replace(stitcher, settings=lax).place(denied).T_map_cam) == 6


def test_a_scale_that_odometry_denies_is_refused(scene: Scene) -> None:
    geometry = scene.window(range(3, 9))
    frames = []
    for k in geometry.window.keyframes:
        T = k.view.T_odom_cam.copy()
        T[:3, 3] *= 2.5
        frames.append(replace(k, view=replace(k.view, T_odom_cam=T)))
    refused(
        started(scene), replace(geometry, window=Window(0, tuple(frames))),
        Verdict.REJECTED_RESIDUAL, r"a scale 0\.40 times that of odometry \(limit 2\)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("factor", "fits"), [(1.9, True), (2.1, False), (0.53, True), (0.48, False)]
)
def test_the_limit_of_the_scale_counts_both_ways(scene: Scene, factor: float, fits: bool) -> None:
    geometry = scene.window(range(3, 9))
    frames = []
    for k in geometry.window.keyframes:
        T = k.view.T_odom_cam.copy()
        T[:3, 3] *= factor
        frames.append(replace(k, view=replace(k.view, T_odom_cam=T)))
    geometry = replace(geometry, window=Window(0, tuple(frames)))
    stitcher = started(scene, settings=StitchSettings(max_odom_translation=50.0))
    if fits:
        stitcher.place(geometry)
    else:
        refused(stitcher, geometry, Verdict.REJECTED_RESIDUAL, "times that of odometry")


def test_a_corrected_scale_grows_a_window_about_what_it_shares(scene: Scene) -> None:
    first = scene.window(range(6), odometry=False)
    stitcher = at_end_of(begun_with(first))
    T_map_world = stitcher.place(first).T_map_cam[0] @ invert_se3(scene.poses[0])
    # odometry comes up and says that all is 1.2 times larger than the map has it
    geometry = scene.window(range(3, 9))
    frames = []
    for k in geometry.window.keyframes:
        T = k.view.T_odom_cam.copy()
        T[:3, 3] *= 1.2
        frames.append(replace(k, view=replace(k.view, T_odom_cam=T)))
    placement = stitcher.place(replace(geometry, window=Window(0, tuple(frames))))
    assert placement.S_map_window.scale == pytest.approx(1.2, rel=1e-4)
    for i in (3, 4, 5):  # what is in the map stays where it is
        np.testing.assert_allclose(placement.T_map_cam[i], T_map_world @ scene.poses[i], atol=1e-5)
    shared = geometry.points[:3].reshape(-1, 3).astype(float)
    moved = placement.S_map_window.apply(shared).mean(0)
    T = T_map_world @ scene.poses[3]
    assert np.linalg.norm(moved - (shared @ T[:3, :3].T + T[:3, 3]).mean(0)) < 0.3


def with_odometry(geometry: WindowGeometry, poses: dict[int, FloatArray]) -> WindowGeometry:
    """Odometry for some keyframes, by id, and none for the others."""
    frames = [
        replace(k, view=replace(k.view, T_odom_cam=poses.get(k.id)))
        for k in geometry.window.keyframes
    ]
    return replace(geometry, window=Window(0, tuple(frames)))


@pytest.mark.parametrize(
    ("factor", "fits"), [(0.4, False), (0.6, True), (1.8, True), (2.5, False)]
)
def test_a_window_in_metres_by_odometry_is_as_large_as_odometry_says(
    scene: Scene, factor: float, fits: bool
) -> None:
    geometry = replace(scene.window(range(6), metric=True), used_odometry=True)
    poses = {}
    for k, T in enumerate(scene.poses[:6]):
        poses[k] = make_se3(T[:3, :3], factor * T[:3, 3])
    driven = with_odometry(geometry, poses)
    if fits:
        placement = Stitcher(StitchSettings(max_odom_translation=10.0)).place(driven)
        assert placement.scale.estimate.scale == pytest.approx(1.0)
    else:
        refused(
            Stitcher(StitchSettings()), driven, Verdict.REJECTED_ODOMETRY,
            rf"by odometry, which moved {factor:.2f} times as far \(limit 2\)",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("way_m", "off_m", "fits"),
    [(1.0, 0.75, True), (1.0, 0.77, False), (10.0, 2.29, True), (10.0, 2.31, False)],
)
@pytest.mark.parametrize("steps", [1, 5])
def test_the_limit_of_motion_is_a_share_of_the_distance_and_a_little(
    scene: Scene, way_m: float, off_m: float, fits: bool, steps: int
) -> None:
    """In one step or five: half of at most 3 m, 3 x 2 % of the way, and 0.2 m."""
    way = np.array([way_m, 0, 0])
    odometry = {i: make_se3(np.eye(3), i / steps * way) for i in range(steps + 1)}
    geometry = with_odometry(scene.window(range(6)), odometry)
    recovered = odometry | {steps: make_se3(np.eye(3), way + np.array([0, off_m, 0]))}
    placement = Placement(Sim3(1.0, np.eye(3), np.zeros(3)), recovered, 0.0, ScaleFilter())
    stitcher = Stitcher(StitchSettings(max_odom_translation=0.5))
    if fits:
        stitcher.check_odometry(geometry, placement)
    else:
        limit = r"limits 0\.76 m, 20 deg" if way_m == 1 else r"limits 2\.30 m, 20 deg"
        with pytest.raises(WindowError, match=rf"by {off_m} m and 0\.0 deg \({limit}"):
            stitcher.check_odometry(geometry, placement)


@pytest.mark.parametrize(("turn_deg", "fits"), [(19.5, True), (20.5, False)])
def test_the_limit_of_rotation(scene: Scene, turn_deg: float, fits: bool) -> None:
    geometry = with_odometry(scene.window(range(6)), {0: np.eye(4), 1: np.eye(4)})
    turned = make_se3(Rotation.from_euler("y", turn_deg, degrees=True).as_matrix(), np.zeros(3))
    recovered = {0: np.eye(4), 1: turned}
    placement = Placement(Sim3(1.0, np.eye(3), np.zeros(3)), recovered, 0.0, ScaleFilter())
    if fits:
        Stitcher(StitchSettings()).check_odometry(geometry, placement)
    else:
        with pytest.raises(WindowError, match=r"20\.5 deg"):
            Stitcher(StitchSettings()).check_odometry(geometry, placement)


def test_two_odometry_poses_place_a_window_and_one_does_not(scene: Scene) -> None:
    stitcher = started(scene)
    far = scene.window(range(12, 18))
    two = with_odometry(far, {12: scene.poses[12], 17: scene.poses[17]})
    assert worst(stitcher.place(two).T_map_cam, scene.poses)[0] < 0.01
    one = with_odometry(replace(far, metric=True), {12: scene.poses[12]})
    refused(stitcher, one, Verdict.REJECTED_NO_OVERLAP, "shares no keyframe")
    still = with_odometry(far, dict.fromkeys((12, 17), scene.poses[12]))
    refused(stitcher, still, Verdict.REJECTED_NO_OVERLAP, "has not moved far enough by odometry")


@pytest.mark.parametrize(("sigma", "fits"), [(0.15, True), (0.11, True), (0.09, False)])
def test_only_sharp_evidence_can_refuse_a_scale(scene: Scene, sigma: float, fits: bool) -> None:
    """A window three times too large, against the metres that the model claims."""
    settings = StitchSettings(model_rel_sigma=sigma)
    stitcher = started(scene, settings=settings, odometry=False)
    geometry = scene.window(range(3, 9), 3.0, odometry=False, metric=True)
    if fits:
        stitcher.place(geometry)
    else:
        refused(stitcher, geometry, Verdict.REJECTED_RESIDUAL, r"0\.33 times that of model")


# The floor


def test_points_without_confidence_are_no_floor(scene: Scene) -> None:
    geometry = scene.window(range(6))
    S = Sim3(1.0, scene.poses[0][:3, :3], scene.poses[0][:3, 3] + (0, 0, 0.5))
    clean = on_the_floor(geometry, S)
    points, conf = geometry.points.copy(), geometry.conf.copy()
    conf[:, :6] = 1.0
    without = on_the_floor(replace(geometry, conf=conf), S)
    points[:, :6] = invert_se3(scene.poses[0])[:3, :3] @ [0.0, 0.0, -9.0]
    spoiled = on_the_floor(replace(geometry, points=points, conf=conf), S)
    assert np.array_equal(spoiled.t, without.t)
    assert clean.t[2] == pytest.approx(scene.poses[0][2, 3], abs=0.01)


@pytest.mark.parametrize(("tilt_deg", "found"), [(8.0, True), (18.0, False)])
def test_with_odometry_the_floor_may_be_tilted_by_ten_degrees(
    scene: Scene, tilt_deg: float, found: bool
) -> None:
    T = scene.poses[0]
    R = Rotation.from_euler("x", tilt_deg, degrees=True).as_matrix()
    S = Sim3(1.0, R @ T[:3, :3], R @ T[:3, 3] + (0, 0, 5.0))
    moved = on_the_floor(scene.window(range(6)), S)
    assert (moved.t[2] < S.t[2] - 1.0) == found


def test_levelling_a_window_without_a_floor_keeps_the_camera_level(scene: Scene) -> None:
    geometry = scene.window(range(3))
    geometry = replace(geometry, conf=np.ones_like(geometry.conf))
    S = level_by_floor(geometry)
    T = S.apply_pose(geometry.poses[0].T_window_cam)
    assert np.array_equal(T[:3, 3], np.zeros(3))
    np.testing.assert_allclose(T[:3, :3], [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-12)
    assert on_the_floor(geometry, Sim3(1.0, np.eye(3), np.ones(3))).t.tolist() == [1, 1, 1]


def test_levelling_uses_the_first_view_that_has_a_pose(scene: Scene) -> None:
    geometry = scene.window(range(4))
    geometry = replace(
        geometry, conf=np.ones_like(geometry.conf), poses=[None, *geometry.poses[1:]]
    )
    S = level_by_floor(geometry)
    np.testing.assert_allclose(
        S.apply_pose(geometry.poses[1].T_window_cam)[:3, 3], np.zeros(3), atol=1e-12
    )


def test_a_shared_keyframe_without_a_pose_still_holds_a_window_to_odometry(scene: Scene) -> None:
    """What the network lost this time is known from the map."""
    stitcher = Stitcher(StitchSettings(), MapEnd(T_map_cam={0: np.eye(4)}))
    far = {i: make_se3(np.eye(3), np.array([9.0 + i, 0, 0])) for i in (1, 2)}
    geometry = with_odometry(scene.window(range(3)), {0: np.eye(4)} | far)
    near = {i: make_se3(np.eye(3), np.array([1.0 + i, 0, 0])) for i in (1, 2)}
    placement = Placement(Sim3(1.0, np.eye(3), np.zeros(3)), near, 0.0, ScaleFilter())
    with pytest.raises(WindowError, match=r"by 8\.00 m"):
        stitcher.check_odometry(geometry, placement)
    fused = stitcher.fused(geometry, placement).T_map_cam
    assert fused.keys() == {1, 2}
    assert fused[1][0, 3] == pytest.approx(10.0, abs=0.5)


def test_a_coarse_network_gets_wider_limits_and_a_precise_one_those_configured() -> None:
    settings = StitchSettings()
    assert attainable(settings, 0.0) == attainable(settings, 0.05) == settings
    wide = attainable(settings, 0.3)
    assert wide.max_residual == pytest.approx(0.45)
    assert wide.max_odom_rotation_deg == pytest.approx(45.0)
    assert attainable(replace(settings, max_residual=0.6), 0.3).max_residual == 0.6


def test_shared_views_of_different_scale_are_refused(scene: Scene) -> None:
    """Both fit the map but for their scale; the limit is that of the settings."""
    geometry = scene.window(range(3, 9))
    points = geometry.points.copy()
    for index, grown in ((0, 1.0), (1, 1.08), (2, 1.0)):
        pose = geometry.poses[index]
        assert pose is not None
        centre = pose.T_window_cam[:3, 3]
        points[index] = centre + grown * (points[index] - centre)
    spoiled = replace(geometry, points=points.astype(np.float32))
    for limit, fits in ((1.5, True), (1.05, False)):
        stitcher = started(scene, settings=StitchSettings(max_scale_change=limit))
        if fits:
            stitcher.place(spoiled)
        else:
            refused(
                stitcher,
                spoiled,
                Verdict.REJECTED_RESIDUAL,
                r"differ in scale by a factor of 1\.08",
            )


def test_views_that_see_through_each_other_are_refused(scene: Scene) -> None:
    factor = 1 / 3
    good = scene.window(range(8, 14))
    assert good.worst_conflict() < 0.1
    points, poses = good.points.copy(), list(good.poses)
    for index in range(3, 6):
        points[index] *= factor
        pose = poses[index]
        assert pose is not None
        T = pose.T_window_cam.copy()
        T[:3, 3] *= factor
        poses[index] = replace(pose, T_window_cam=T)
    bad = replace(good, points=points, poses=poses)
    assert bad.worst_conflict() > 0.45
    with pytest.raises(WindowError, match="contradict each other") as error:
        Stitcher(StitchSettings()).place(bad)
    assert error.value.verdict == Verdict.REJECTED_POSE
