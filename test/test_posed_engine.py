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

"""An engine that gives poses itself, and what the house makes of them: odometry enters once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from box_room import BoxRoom
from mvdust3r_ros.config import ConfigError, KeyframeDefaults, MapperConfig, with_values
from mvdust3r_ros.datatypes import (
    CameraModel,
    FloatArray,
    Frame,
    MapUpdate,
    ScaleSource,
    Verdict,
    View,
    ViewPose,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.descriptors import image_descriptor
from mvdust3r_ros.engines.base import EngineError, EngineInfo
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.metrics.map_metrics import absolute_errors
from mvdust3r_ros.evaluation.true_map import TrueMapBuilder, TrueView
from mvdust3r_ros.geometry import align_sim3, backproject, invert_se3, make_se3
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.window.keyframes import KeyframeError

HW = (72, 96)
CONFIG = with_values(
    MapperConfig(),
    {
        "keyframes.window_size": 8, "keyframes.window_overlap": 4, "keyframes.min_sharpness": 0.0,
        "keyframes.max_interval_s": 0.1, "map.min_hits": 1, "map.conf_quantile": 0.0,
        "loop.enabled": False,
    },
)  # fmt: skip
NOISY = OracleNoise(points=0.05, smooth=0.05, seed=1)
MAX_SCALE_ERROR = 0.007


class PosedEngine(OracleEngine):
    """Sees true depth with noise; its poses are odometry's where all views have it, else true."""

    def __init__(self, noise: OracleNoise | None = None, **says: Any) -> None:
        super().__init__(HW, noise)
        self.says, self.unit, self.by_images = says, 1.0, False
        self.seen: list[Frame] = []
        self.windows: list[list[View]] = []
        self.info: dict[str, Any] = {}

    def describe(self) -> EngineInfo:
        return replace(super().describe(), metric=False, **self.info)

    def observe(self, view: View) -> None:
        self.seen.append(view)

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """A view of any size that it takes."""
        for view in views:
            if not self.describe().takes(view.image_rgb.shape[:2]):
                raise EngineError(f"a view of {view.image_rgb.shape}")
        return [ViewTokens(None, view, image_descriptor(view)) for view in views]

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        truth = super().decode(tokens, n_ref)
        views = [token.view for token in tokens]
        self.windows.append(views)
        driven = all(view.T_odom_cam is not None for view in views)
        chosen = driven and not self.by_images
        own = [view.T_odom_cam if chosen else view.T_world_cam for view in views]
        T_ref_cam = [invert_se3(own[0]) @ T for T in own]
        T_ref_true = [invert_se3(views[0].T_world_cam) @ view.T_world_cam for view in views]
        poses, points = [], []
        for k, (T, T_true) in enumerate(zip(T_ref_cam, T_ref_true, strict=True)):
            cam = (truth.points[0, k].astype(float) - T_true[:3, 3]) @ T_true[:3, :3]
            points.append(self.unit * (cam @ T[:3, :3].T + T[:3, 3]))
            T = make_se3(T[:3, :3], self.unit * T[:3, 3])
            poses.append(ViewPose(T, views[k].K, 1.0, 0.0))
        given = replace(
            truth, points=np.stack(points)[None].astype(np.float32), poses=tuple(poses),
            metric=driven, used_odometry=driven,
        )  # fmt: skip
        return replace(given, **self.says)


def drifted(frames: Sequence[Frame], yaw_deg: float = 0.0, stretch: float = 1.0) -> list[Frame]:
    """Odometry that turns so much too far, and moves so much too far, in each frame."""
    R = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix()
    poses = [frames[0].T_odom_cam]
    for before, after in pairwise(frames):
        step = invert_se3(before.T_odom_cam) @ after.T_odom_cam
        pose = poses[-1] @ make_se3(step[:3, :3], stretch * step[:3, 3])
        pose[:3, :3] = R @ pose[:3, :3]
        poses.append(pose)
    return [
        replace(f, T_odom_cam=T, T_world_cam=f.T_odom_cam)
        for f, T in zip(frames, poses, strict=True)
    ]


@pytest.fixture(scope="module")
def frames(room: BoxRoom) -> list[Frame]:
    """Twice around the room with perfect odometry."""
    return drifted(room.frames(room.walk(48, turns=2.0)))


def drive(
    frames: Sequence[Frame], engine: PosedEngine, **values: Any
) -> tuple[Mapper, list[MapUpdate]]:
    config = with_values(CONFIG, {k.replace("__", "."): v for k, v in values.items()})
    mapper = Mapper(config, engine)
    return mapper, [u for u in (mapper.process(f) for f in frames) if u is not None]


def lengths(mapper: Mapper, frames: Sequence[Frame], name: str = "T_world_cam") -> FloatArray:
    """(N - 1,) metres between keyframes in the map over those of the frames' poses."""
    path = mapper.snapshot().trajectory
    at = {frame.stamp_ns: getattr(frame, name) for frame in frames}
    known = np.stack([at[stamp] for stamp in path.stamps_ns.tolist()])
    steps = [
        np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1) for T in (path.T_world_cam, known)
    ]
    return steps[0] / steps[1]


def scale_error(mapper: Mapper, frames: Sequence[Frame]) -> float:
    path = mapper.snapshot().trajectory
    at = {frame.stamp_ns: frame.T_world_cam for frame in frames}
    truth = np.stack([at[stamp][:3, 3] for stamp in path.stamps_ns.tolist()])
    return abs(align_sim3(path.T_world_cam[:, :3, 3], truth).scale - 1)


# Odometry once


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1.0, 1.7])
@pytest.mark.parametrize("noise", [None, NOISY])
def test_with_perfect_odometry_the_path_has_the_right_length(
    frames: list[Frame], noise: OracleNoise | None, unit: float
) -> None:
    says = {} if unit == 1.0 else {"metric": False}
    engine = PosedEngine(noise, **says)
    engine.unit = unit
    mapper, updates = drive(frames, engine)
    assert {u.verdict for u in updates} == {Verdict.COMMITTED}
    assert scale_error(mapper, frames) < MAX_SCALE_ERROR
    assert abs(lengths(mapper, frames).mean() - 1) < MAX_SCALE_ERROR
    scale = mapper.snapshot().scale
    assert scale.source == ScaleSource.ODOMETRY
    assert scale.scale == pytest.approx(1 / unit, rel=0.04)


@pytest.mark.slow
def test_engines_metres_are_odometrys_and_not_a_second_opinion(frames: list[Frame]) -> None:
    once, _ = drive(frames, PosedEngine(metric=False))
    metric, _ = drive(frames, PosedEngine())
    a, b = (m.now.graph.scale.estimate for m in (once, metric))
    assert b.rel_sigma == pytest.approx(a.rel_sigma, rel=1e-3)
    assert b.rel_sigma >= CONFIG.stitch.odom_bias_sigma
    for window in metric.now.graph.scale.history.windows:
        (item,) = window.evidence
        assert (item.source, item.scale) == (ScaleSource.ODOMETRY, 1.0)
    other, _ = drive(frames, PosedEngine(used_odometry=False))
    kinds = {e.source for w in other.now.graph.scale.history.windows for e in w.evidence}
    assert kinds == {ScaleSource.ODOMETRY, ScaleSource.MODEL}


def test_motions_within_a_window_stand_as_the_engine_gives_them(frames: list[Frame]) -> None:
    stretched = drifted(frames, stretch=1.05)
    engine = PosedEngine(metric=False)
    mapper, updates = drive(stretched[:8], engine)
    assert updates[0].verdict == Verdict.COMMITTED
    assert lengths(mapper, stretched, "T_odom_cam") == pytest.approx(np.ones(7), abs=1e-6)

    bent, off = drifted(frames, yaw_deg=1.5), []
    for used in (True, False):
        engine = PosedEngine(used_odometry=used)
        engine.by_images = True
        _, (update,) = drive(bent[:8], engine)
        seen = [update.T_map_cam[k] for k in sorted(update.T_map_cam)]
        differences = [
            np.abs(invert_se3(a) @ b - invert_se3(f.T_world_cam) @ g.T_world_cam).max()
            for (a, b), (f, g) in zip(pairwise(seen), pairwise(bent[:8]), strict=True)
        ]
        off.append(max(differences))
    assert off[0] < 1e-6 < 2e-3 < off[1]  # odometry has been weighed in where it was not used


def test_metres_that_odometry_contradicts_are_refused(frames: list[Frame]) -> None:
    engine = PosedEngine()
    engine.unit = 3.0
    _, (update,) = drive(frames[:8], engine)
    assert update.verdict == Verdict.REJECTED_ODOMETRY
    assert "in metres by odometry, which moved 0.33 times as far (limit 2)" in update.message


def test_a_camera_that_stands_gets_no_metres_from_odometry(room: BoxRoom) -> None:
    still = drifted(room.frames([room.walk(24)[0]] * 8))
    mapper, updates = drive(still, PosedEngine())
    assert [u.verdict for u in updates] == [Verdict.COMMITTED]
    assert mapper.snapshot().scale.source == ScaleSource.NONE
    assert not updates[0].gate_open


@pytest.mark.slow
def test_a_closure_is_measured_without_odometry_of_the_older_end(room: BoxRoom) -> None:
    bent = drifted(room.frames(room.walk(48, turns=2.0)), yaw_deg=0.4)
    rules = {"loop__min_gap": 18, "loop__min_windows": 1}
    errors = []
    for enabled in (False, True):
        engine = PosedEngine()
        mapper, _ = drive(bent, engine, loop__enabled=enabled, **rules)
        path = mapper.snapshot().trajectory
        at = {f.stamp_ns: f.T_world_cam for f in bent}
        truth = replace(path, T_world_cam=np.stack([at[s] for s in path.stamps_ns.tolist()]))
        errors.append(absolute_errors(path, truth, "none").rmse_m)
    joint = [w for w in engine.windows if any(v.T_odom_cam is None for v in w)]
    assert mapper.snapshot().loop_closures >= 2
    assert {sum(v.T_odom_cam is None for v in w) for w in joint} == {4}
    assert errors[0] > 0.05
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.slow
def test_a_disconnected_window_with_odometry_in_it_needs_its_pictures(frames: list[Frame]) -> None:
    class Garbage(PosedEngine):
        """Poses by odometry, points at random."""

        def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
            good = super().decode(tokens, n_ref)
            rng, points = np.random.default_rng(5), good.points.copy()
            for k, token in enumerate(tokens):
                depth = np.full(HW, 1.0) + rng.random(HW)
                T = good.poses[k].T_window_cam
                points[0, k] = backproject(depth, token.view.K) @ T[:3, :3].T + T[:3, 3]
            return replace(good, points=points)

    _, (good,) = drive(frames[:8], PosedEngine(NOISY))
    assert good.verdict == Verdict.COMMITTED
    _, (bad,) = drive(frames[:8], Garbage(), stitch__max_conflict=1.0)
    assert bad.verdict == Verdict.REJECTED_POSE
    assert "do not fit its motion" in bad.message


# What a window says of itself


@pytest.mark.slow
def test_a_coarse_window_of_a_precise_engine_has_its_own_limits(frames: list[Frame]) -> None:
    noise = OracleNoise(points=0.9, seed=2)
    plain = {"stitch__max_residual": 0.02, "stitch__max_conflict": 1.0}
    _, strict = drive(frames[:12], PosedEngine(noise, rel_error=0.0), **plain)
    mapper, wide = drive(frames[:12], PosedEngine(noise, rel_error=0.6), **plain)
    assert strict[1].verdict == Verdict.REJECTED_RESIDUAL
    assert [u.verdict for u in wide] == [Verdict.COMMITTED] * 2
    grid = mapper.now.drawing.grid
    assert grid is not None
    assert grid.settings.point_rel_sigma == pytest.approx(0.27)
    mapper.reconfigure(CONFIG)
    assert mapper.now.drawing.settings.point_rel_sigma == pytest.approx(0.27)
    mapper.reset()
    assert mapper.now.drawing.settings.point_rel_sigma == pytest.approx(0.02)


def test_the_note_of_a_window_comes_with_its_outcome(frames: list[Frame]) -> None:
    said = PosedEngine(note="odometry stayed: 12 tracks")
    _, (good,) = drive(frames[:8], said)
    assert (good.verdict, good.note) == (Verdict.COMMITTED, "odometry stayed: 12 tracks")
    said.unit = 3.0
    _, (bad,) = drive(frames[:8], said)
    assert (bad.verdict, bad.note) == (Verdict.REJECTED_ODOMETRY, "odometry stayed: 12 tracks")


def test_views_without_a_pose_are_left_out_and_too_many_of_them_refused(
    frames: list[Frame],
) -> None:
    class Lossy(PosedEngine):
        kept = 6

        def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
            good = super().decode(tokens, n_ref)
            kept = good.poses[: self.kept] + (None,) * (8 - self.kept)
            return replace(good, poses=kept)

    engine = Lossy()
    _, (update,) = drive(frames[:8], engine)
    assert (update.verdict, len(update.T_map_cam)) == (Verdict.COMMITTED, 6)
    engine.kept = 3
    _, (update,) = drive(frames[:8], engine)
    assert (update.verdict, update.message) == (
        Verdict.REJECTED_POSE, "only 3 of 8 views have a pose",
    )  # fmt: skip


def test_a_view_that_the_engine_doubts_hardly_moves_the_window(frames: list[Frame]) -> None:
    class Shaky(PosedEngine):
        """Of the second window the second of the views that the map knows is 10 cm off."""

        doubt = True

        def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
            good = super().decode(tokens, n_ref)
            known = [k for k, t in enumerate(tokens) if t.view.T_odom_cam is self.shaken]
            covariance = np.tile(1e-6 * np.eye(6), (8, 1, 1))
            if len(self.windows) < 2 or not known:
                return replace(good, pose_covariance=covariance)
            (k,) = known
            T = good.poses[k].T_window_cam.copy()
            T[:3, 3] += (0.1, 0.0, 0.0)
            poses = list(good.poses)
            poses[k] = replace(good.poses[k], T_window_cam=T)
            covariance[k] = 0.01 * np.eye(6) if self.doubt else covariance[k]
            return replace(good, poses=tuple(poses), pose_covariance=covariance)

    off_m = []
    for doubt in (True, False):
        engine = Shaky()
        engine.doubt, engine.shaken = doubt, frames[5].T_odom_cam
        _, updates = drive(frames[:12], engine)
        assert [u.verdict for u in updates] == [Verdict.COMMITTED] * 2
        T = updates[1].T_map_cam
        moved = invert_se3(T[4]) @ T[11]
        true = invert_se3(frames[4].T_world_cam) @ frames[11].T_world_cam
        off_m.append(np.linalg.norm(moved[:3, 3] - true[:3, 3]))
    assert off_m[0] < 0.005 < 0.015 < off_m[1]


# Every frame, and views in the camera's aspect


def test_the_engine_sees_every_good_frame_before_it_can_be_a_keyframe(room: BoxRoom) -> None:
    frames = drifted(room.frames(room.walk(96)[:12]))
    engine = PosedEngine()
    mapper = Mapper(with_values(CONFIG, {"keyframes.max_interval_s": 0.5}), engine)
    for frame in frames:
        mapper.select(frame)
        with pytest.raises(KeyframeError):
            mapper.select(frame)  # the same stamp again
    assert [f.stamp_ns for f in engine.seen] == [f.stamp_ns for f in frames]
    assert mapper.keyframe_count < len(frames)


def test_what_the_engine_likes_fills_in_what_nobody_has_set(frames: list[Frame]) -> None:
    engine = PosedEngine()
    engine.info = {
        "keyframes": KeyframeDefaults(6, 3, 0.8, 0.2, 12.0), "min_conf": 1.5, "conf_quantile": 0.0
    }  # fmt: skip
    mapper = Mapper(MapperConfig(), engine)
    rule = mapper.config.keyframes
    assert (rule.window_size, rule.window_overlap, rule.min_overlap) == (6, 3, 0.8)
    assert (rule.max_translation_m, rule.max_rotation_deg) == (0.2, 12.0)
    assert (mapper.config.map.min_conf, mapper.config.map.conf_quantile) == (1.5, 0.0)
    given = with_values(
        MapperConfig(),
        {"keyframes.window_size": 4, "keyframes.min_overlap": 0.5, "map.conf_quantile": 0.3},
    )
    mapper.reconfigure(given)
    rule = mapper.config.keyframes
    assert (rule.window_size, rule.window_overlap, rule.min_overlap) == (4, 2, 0.5)
    assert (mapper.config.map.min_conf, mapper.config.map.conf_quantile) == (1.5, 0.3)
    mapper.use_engine(OracleEngine(HW))
    rule = mapper.config.keyframes
    assert (rule.window_size, rule.window_overlap, rule.min_overlap) == (4, 2, 0.5)
    assert (rule.max_translation_m, mapper.config.map.min_conf) == (0.5, 1.0)
    updates = [u for u in (mapper.process(f) for f in frames[:12]) if u is not None]
    assert {len(u.window.keyframes) for u in updates} == {4}


ASPECT = {"long_side": 64, "side_multiple": 16, "image_hw": (48, 64)}


@pytest.mark.slow
def test_views_in_the_cameras_aspect_make_the_same_map(frames: list[Frame]) -> None:
    engine = PosedEngine()
    engine.info = ASPECT
    mapper, updates = drive(frames[:24], engine)
    assert {u.verdict for u in updates} == {Verdict.COMMITTED}
    assert {v.image_rgb.shape for w in engine.windows for v in w} == {(48, 64, 3)}
    assert mapper.view_hw == (48, 64)
    assert scale_error(mapper, frames) < 0.001


@pytest.mark.slow
def test_the_first_camera_decides_and_others_are_cropped_to_it(room: BoxRoom) -> None:
    wide = drifted(room.frames(room.walk(24)))
    tall = []
    for frame in wide:
        camera = frame.camera
        cut = slice(24, 72)
        K = camera.K - np.array([[0, 0, 24], [0, 0, 0], [0, 0, 0.0]])
        tall.append(
            replace(
                frame, image_rgb=np.ascontiguousarray(frame.image_rgb[:, cut]),
                camera=CameraModel(K, 48, 72), camera_name="tall",
                depth_m=frame.depth_m[:, cut],
            )
        )  # fmt: skip
    for pair, size in ((wide, tall), (48, 64)), ((tall, wide), (64, 48)):
        engine = PosedEngine()
        engine.info = ASPECT
        both = [frame for two in zip(*pair, strict=True) for frame in two]
        mapper, updates = drive(both, engine)
        assert {u.verdict for u in updates} == {Verdict.COMMITTED}
        assert mapper.view_hw == size
        assert {v.image_rgb.shape[:2] for w in engine.windows for v in w} == {size}
        mapper.reset()
        mapper.select(pair[1][0])
        assert mapper.view_hw == size[::-1]


@pytest.mark.slow
def test_a_saved_map_of_aspect_views_goes_on(frames: list[Frame]) -> None:
    engine = PosedEngine()
    engine.info = ASPECT
    mapper, _ = drive(frames[:12], engine)
    _, stored = mapper.saved()
    fresh = Mapper(CONFIG, engine)
    fresh.restore(stored)
    assert fresh.view_hw == (48, 64)
    assert fresh.looking_in == 12
    updates = [u for u in (fresh.process(f) for f in frames[:12]) if u is not None]
    assert updates[0].verdict == Verdict.COMMITTED
    with pytest.raises(ConfigError, match=r"views of 64x48, the engine .* takes 96x72"):
        Mapper(CONFIG, PosedEngine()).restore(stored)


def test_the_truth_shows_what_views_in_the_cameras_aspect_show(room: BoxRoom) -> None:
    engine = PosedEngine()
    engine.info = ASPECT
    (frame,) = drifted(room.frames(room.walk(24)[:1]))
    square = TrueMapBuilder(CONFIG.map, OracleEngine((48, 48)).describe())
    builder = TrueMapBuilder(CONFIG.map, engine.describe())
    for each in (square, builder):
        each.add(frame)
    across = [np.ptp(bearings_of(b.views[0], frame)[:, 0]) for b in (square, builder)]
    assert across[1] > 1.2 * across[0]  # 64 columns of the same camera, not 48


def bearings_of(view: TrueView, frame: Frame) -> FloatArray:
    """Bearings of the true points, x and y at depth 1, in the camera."""
    T = invert_se3(frame.T_world_cam)
    cam = view.points_world @ T[:3, :3].T + T[:3, 3]
    bearings: FloatArray = cam[:, :2] / cam[:, 2:]
    return bearings
