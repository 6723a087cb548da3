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

import gc
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from box_room import BoxRoom
from mvdust3r_ros.config import ConfigError, MapperConfig, with_values
from mvdust3r_ros.datatypes import (
    Frame,
    MapUpdate,
    ScaleSource,
    Verdict,
    View,
    ViewTokens,
    Window,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import EngineError, EngineInfo
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.geometry import Sim3, align_sim3, invert_se3, rotation_angle_deg
from mvdust3r_ros.mapper import Mapper, StageClock
from mvdust3r_ros.placing.scale import ScaleHistory
from mvdust3r_ros.window.keyframes import KeyframeError

HW = (72, 96)
COUNT = 24
CONFIG = with_values(
    MapperConfig(),
    {
        "keyframes.window_size": 6, "keyframes.window_overlap": 3, "keyframes.min_sharpness": 0.0,
        "keyframes.max_interval_s": 0.1,  # every frame
        "map.pixel_stride": 1, "map.min_hits": 1, "map.conf_quantile": 0.0,
    },
)  # fmt: skip
Change = Callable[[WindowPrediction], WindowPrediction]


class Engine(OracleEngine):
    """The oracle; can spoil what it gives, and knows poses that the mapper does not."""

    def __init__(self, room: BoxRoom | None = None, noise: OracleNoise | None = None) -> None:
        super().__init__(HW, noise)
        self.change: Change = lambda prediction: prediction
        self.decoded: list[int] = []
        self.encoded: list[int] = []
        self.tokens: list[weakref.ref[ViewTokens]] = []
        poses = [] if room is None else room.walk(COUNT)
        self.known = {room.image(T).tobytes(): T for T in poses}

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        self.encoded.append(len(views))
        if self.known:
            views = [replace(v, T_odom_cam=self.known[v.image_rgb.tobytes()]) for v in views]
        tokens = super().encode(views)
        self.tokens += map(weakref.ref, tokens)
        return tokens

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        self.decoded.append(n_ref)
        return self.change(super().decode(tokens, n_ref))


@pytest.fixture(scope="session")
def frames(room: BoxRoom) -> list[Frame]:
    return room.frames(room.walk(COUNT))


def blind(frame: Frame) -> Frame:
    """The frame without odometry."""
    return replace(frame, T_odom_cam=None)


def run(mapper: Mapper, frames: Sequence[Frame]) -> list[MapUpdate]:
    updates = [mapper.process(frame) for frame in frames]
    return [u for u in updates if u is not None]


def verdicts(updates: Sequence[MapUpdate]) -> list[Verdict]:
    return [u.verdict for u in updates]


def frozen(mapper: Mapper) -> tuple[object, ...]:
    """All of the map, to the byte."""
    s = mapper.snapshot()
    grid = None if s.grid is None else (s.grid.cells.tobytes(), s.grid.origin_xy_m)
    T = None if s.T_map_odom is None else s.T_map_odom.tobytes()
    return (
        s.points_map.tobytes(), s.colors_rgb.tobytes(), s.conf.tobytes(), grid, T, s.scale,
        s.trajectory.stamps_ns.tobytes(), s.trajectory.T_world_cam.tobytes(), s.floor_z_m,
    )  # fmt: skip


def trajectory_error(
    mapper: Mapper, frames: Sequence[Frame], *, with_scale: bool
) -> tuple[float, float, Sim3]:
    """Root mean square of position (m) and largest rotation error (deg), and S_world_map."""
    s = mapper.snapshot()
    truth = {f.stamp_ns: f.T_odom_cam for f in frames}
    T_truth = np.stack([truth[t] for t in s.trajectory.stamps_ns.tolist()])
    T_map = s.trajectory.T_world_cam
    S = align_sim3(T_map[:, :3, 3], T_truth[:, :3, 3], with_scale=with_scale)
    moved = np.stack([S.apply_pose(T) for T in T_map])
    delta = invert_se3(T_truth) @ moved
    rms = float(np.sqrt((delta[:, :3, 3] ** 2).sum(1).mean()))
    return rms, float(rotation_angle_deg(delta[:, :3, :3]).max()), S


# Error of pose and map on a known room


@pytest.mark.slow
def test_with_exact_pointmaps_the_map_is_exact(room: BoxRoom, frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    updates = run(mapper, frames)
    assert verdicts(updates) == [Verdict.COMMITTED] * 7
    rms, turned_deg, S = trajectory_error(mapper, frames, with_scale=False)
    assert rms < 1e-4
    assert turned_deg < 0.01
    snapshot = mapper.snapshot()
    assert len(snapshot.trajectory) == COUNT
    assert (np.diff(snapshot.trajectory.stamps_ns) > 0).all()
    np.testing.assert_allclose(S.R, np.eye(3), atol=1e-5)
    assert np.abs(S.t[:2]).max() < 1e-4
    assert abs(S.t[2]) < 0.01  # the floor
    for update in updates:
        off = room.distance_to_surface(S.apply(update.points_map.astype(float)))
        assert off.max() < 1e-3
    off = room.distance_to_surface(S.apply(snapshot.points_map.astype(float)))
    assert np.percentile(off, 90) < 1e-3  # voxels on edges hold points of two surfaces
    assert off.max() < 0.05
    assert snapshot.scale.source == ScaleSource.ODOMETRY
    assert snapshot.scale.scale == pytest.approx(1.0, abs=1e-4)
    assert abs(snapshot.floor_z_m) < 0.01


def test_colours_and_keyframes_belong_to_the_points(room: BoxRoom, frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    (update,) = run(mapper, frames[:6])
    assert [k.id for k in update.window.keyframes] == sorted(update.T_map_cam) == list(range(6))
    assert sorted(update.K) == list(range(6))
    assert np.array_equal(update.K[3], room.K)
    for i in (0, 4):
        of_view = update.keyframe_ids == i
        assert of_view.sum() == HW[0] * HW[1]
        assert np.array_equal(update.colors_rgb[of_view].reshape(*HW, 3), frames[i].image_rgb)
        T_cam = invert_se3(update.T_map_cam[i])
        depth = (update.points_map[of_view] @ T_cam[:3, :3].T + T_cam[:3, 3])[:, 2]
        np.testing.assert_allclose(depth.reshape(HW), frames[i].depth_m, atol=1e-4)
    assert (update.conf == 5.0).all()
    assert set(update.latency_ms) == {"encode", "decode", "pose", "stitch", "integrate", "grid"}
    assert min(update.latency_ms.values()) >= 0.0
    assert np.isnan(update.residual_m)


@pytest.mark.slow
def test_noise_and_a_random_scale_of_each_window(room: BoxRoom, frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine(noise=OracleNoise(points=0.02, scale=0.5, seed=1)))
    assert verdicts(run(mapper, frames)) == [Verdict.COMMITTED] * 7
    rms, turned_deg, S = trajectory_error(mapper, frames, with_scale=False)
    assert rms < 0.02
    assert turned_deg < 0.5
    scaled = trajectory_error(mapper, frames, with_scale=True)[2].scale
    snapshot = mapper.snapshot()
    assert scaled == pytest.approx(1.0, abs=0.01)
    assert 0.01 < snapshot.scale.rel_sigma < 0.015  # the bias of odometry stays
    off = room.distance_to_surface(S.apply(snapshot.points_map.astype(float)))
    assert np.median(off) < 0.03  # one point is off by 2 % of up to 5 m
    assert np.percentile(off, 95) < 0.12


@pytest.mark.slow
def test_without_odometry_the_map_is_level_and_its_scale_open(
    room: BoxRoom, frames: list[Frame]
) -> None:
    mapper = Mapper(CONFIG, Engine(room, OracleNoise(points=0.02, scale=0.5, seed=1)))
    updates = run(mapper, [blind(f) for f in frames])
    assert verdicts(updates) == [Verdict.COMMITTED] * 7
    rms, turned_deg, S = trajectory_error(mapper, frames, with_scale=True)
    snapshot = mapper.snapshot()
    assert snapshot.scale.source == ScaleSource.NONE
    assert snapshot.scale.rel_sigma == float("inf")
    assert snapshot.T_map_odom is None
    assert abs(np.log(S.scale)) > 0.05  # the scale of the first window
    assert rms < 0.04
    assert turned_deg < 1.5
    assert np.degrees(np.arccos(S.R[2, 2])) < 1.5
    assert abs(S.t[2]) < 0.05
    assert abs(snapshot.floor_z_m) < 0.05
    off = room.distance_to_surface(S.apply(snapshot.points_map.astype(float)))
    assert np.median(off) < 0.03


@pytest.mark.slow
def test_a_metric_engine_without_odometry_gives_metres(room: BoxRoom, frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine(room))
    run(mapper, [blind(f) for f in frames[:12]])
    assert mapper.snapshot().scale.source == ScaleSource.MODEL
    assert trajectory_error(mapper, frames, with_scale=True)[2].scale == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_points_of_a_coarse_network_count_as_uncertain_in_the_grid(frames: list[Frame]) -> None:
    class Coarse(Engine):
        def describe(self) -> EngineInfo:
            return replace(super().describe(), rel_error=0.3)

    precise, coarse = Mapper(CONFIG, Engine()), Mapper(CONFIG, Coarse())
    for mapper in (precise, coarse):
        run(mapper, frames[:12])
    cells = [m.snapshot().grid.cells for m in (precise, coarse)]
    assert (cells[1] == 0).sum() < 0.9 * (cells[0] == 0).sum()  # rays stop shorter
    precise.use_engine(Coarse())
    assert precise.now.drawing.grid.settings.point_rel_sigma == pytest.approx(0.135)


def test_odometry_in_a_frame_of_its_own(frames: list[Frame]) -> None:
    c, s = np.cos(1.0), np.sin(1.0)
    T = np.array([[c, -s, 0, 4], [s, c, 0, -7], [0, 0, 1, 0.8], [0, 0, 0, 1.0]])
    moved = [replace(f, T_odom_cam=T @ f.T_odom_cam) for f in frames[:12]]
    mapper = Mapper(CONFIG, Engine(noise=OracleNoise(scale=0.3)))
    run(mapper, moved)
    snapshot = mapper.snapshot()
    expected = np.eye(4)
    expected[2, 3] = -0.8  # down to the floor
    np.testing.assert_allclose(snapshot.T_map_odom, expected, atol=0.01)
    assert trajectory_error(mapper, moved, with_scale=False)[0] < 1e-3
    assert snapshot.scale.source == ScaleSource.ODOMETRY


@pytest.mark.slow
def test_the_grid_shows_the_walls(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames)
    grid = mapper.snapshot().grid
    rows, cols = np.mgrid[: grid.cells.shape[0], : grid.cells.shape[1]]
    x = grid.origin_xy_m[0] + (cols + 0.5) * grid.resolution_m
    y = grid.origin_xy_m[1] + (rows + 0.5) * grid.resolution_m
    free = grid.cells == 0
    assert free[(x > 1) & (x < 2) & (y > 1) & (y < 4)].mean() > 0.95
    assert grid.cells[(x < -0.1) | (x > 6.1) | (y < -0.1) | (y > 5.1)].max() == -1
    occupied = grid.cells == 100
    for wall in ((np.abs(x) < 0.06), (np.abs(x - 6) < 0.06)):
        along = occupied & wall & (y > 0.5) & (y < 4.5)
        assert along.any(1).sum() > 0.9 * 80


@pytest.mark.slow
def test_the_same_recording_gives_the_same_map_to_the_byte(frames: list[Frame]) -> None:
    noise = OracleNoise(points=0.02, scale=0.3, seed=4)
    maps = []
    for _ in range(2):
        mapper = Mapper(CONFIG, Engine(noise=noise))
        run(mapper, frames[:12])
        maps.append(frozen(mapper))
    assert maps[0] == maps[1]


# Settings


@pytest.mark.slow
def test_points_that_are_too_far_or_doubtful_are_left_out(frames: list[Frame]) -> None:
    near = with_values(CONFIG, {"map.max_depth_m": 2.0})
    (update,) = run(Mapper(near, Engine()), frames[:6])
    depths = [f.depth_m[f.depth_m < 2.0] for f in frames[:6]]
    assert len(update.points_map) == pytest.approx(sum(map(len, depths)), abs=5)

    engine = Engine()
    ramp = np.linspace(1.01, 9.0, 6 * HW[0] * HW[1], dtype=np.float32).reshape(1, 6, *HW)
    engine.change = lambda p: replace(p, conf=ramp)
    (update,) = run(Mapper(with_values(CONFIG, {"map.min_conf": 5.0}), engine), frames[:6])
    assert update.conf.min() >= 5.0
    assert len(update.conf) == (ramp >= 5.0).sum()
    (update,) = run(Mapper(with_values(CONFIG, {"map.conf_quantile": 0.75}), engine), frames[:6])
    assert len(update.conf) == pytest.approx(0.25 * ramp.size, abs=2)


def test_every_nth_pixel_goes_into_the_map(frames: list[Frame]) -> None:
    (update,) = run(Mapper(with_values(CONFIG, {"map.pixel_stride": 4}), Engine()), frames[:6])
    assert len(update.points_map) == 6 * 18 * 24
    assert np.array_equal(update.colors_rgb[:24], frames[0].image_rgb[2, 2::4])


def test_aknown_camera_height_sets_the_floor(frames: list[Frame]) -> None:
    mapper = Mapper(with_values(CONFIG, {"map.camera_height_m": 1.1}), Engine())
    (update,) = run(mapper, frames[:6])
    heights = [T[2, 3] for T in update.T_map_cam.values()]
    assert mapper.snapshot().floor_z_m == pytest.approx(np.median(heights) - 1.1)


def test_new_settings_count_from_the_next_window(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:6])
    mapper.reconfigure(
        with_values(CONFIG, {
            "map.pixel_stride": 4, "keyframes.window_size": 5, "keyframes.window_overlap": 2,
            "stitch.max_residual": 0.002,
        })
    )  # fmt: skip
    (update,) = run(mapper, frames[6:9])
    assert [k.id for k in update.window.keyframes] == [4, 5, 6, 7, 8]
    assert len(update.points_map) == 5 * 18 * 24
    mapper.engine.change = noisy(0.02)
    (rejected,) = run(mapper, frames[9:12])
    assert rejected.verdict == Verdict.REJECTED_RESIDUAL
    assert "limit 0.2%" in rejected.message


def test_structural_settings_cannot_change_under_a_map(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:6])
    with pytest.raises(ConfigError, match=r"map\.voxel_size_m, map\.grid_resolution_m: cannot"):
        mapper.reconfigure(
            with_values(CONFIG, {"map.voxel_size_m": 0.1, "map.grid_resolution_m": 0.1})
        )
    assert mapper.config == mapper.engine.describe().filled_in(CONFIG)


# Windows that are rejected


def noisy(share: float) -> Change:
    rng = np.random.default_rng(0)

    def change(p: WindowPrediction) -> WindowPrediction:
        noise = (
            rng.normal(size=p.points.shape) * share * np.linalg.norm(p.points, axis=-1)[..., None]
        )
        return replace(p, points=(p.points + noise).astype(np.float32))

    return change


def one_nan(p: WindowPrediction) -> WindowPrediction:
    points = p.points.copy()
    points[0, 3, 7, 9, 1] = np.nan
    return replace(p, points=points)


def infinite_confidence(p: WindowPrediction) -> WindowPrediction:
    conf = p.conf.copy()
    conf[0, 0, 0, 0] = np.inf
    return replace(p, conf=conf)


def fails(_: WindowPrediction) -> WindowPrediction:
    raise EngineError("out of memory on the accelerator")


def shuffled(p: WindowPrediction) -> WindowPrediction:
    flat = np.random.default_rng(0).permutation(p.points.reshape(-1, 3))
    return replace(p, points=flat.reshape(p.points.shape))


def stretched(p: WindowPrediction) -> WindowPrediction:
    """Depth of the second half of the views is three times too large."""
    points = p.points.copy()
    points[:, ::2] *= 3.0
    return replace(p, points=points)


def no_confidence(p: WindowPrediction) -> WindowPrediction:
    return replace(p, conf=np.ones_like(p.conf))


def fewer_views(p: WindowPrediction) -> WindowPrediction:
    return WindowPrediction(p.points[:, :-1], p.conf[:, :-1])


def smaller(p: WindowPrediction) -> WindowPrediction:
    return WindowPrediction(p.points[:, :, ::2, ::2], p.conf[:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("change", "verdict", "message"),
    [
        (one_nan, Verdict.REJECTED_NOT_FINITE, "0.0% of the engine's values are not finite"),
        (infinite_confidence, Verdict.REJECTED_NOT_FINITE, "of the engine's values"),
        (fails, Verdict.REJECTED_ENGINE_ERROR, "out of memory on the accelerator"),
        (shuffled, Verdict.REJECTED_POSE, "only 1 of 6 views have a pose"),
        (no_confidence, Verdict.REJECTED_POSE, "only 1 of 6 views have a pose"),
        (fewer_views, Verdict.REJECTED_ENGINE_ERROR, "5 pointmaps do not match the order"),
        (smaller, Verdict.REJECTED_ENGINE_ERROR, "gave 48x36 points for a view of 96x72"),
    ],
)
@pytest.mark.slow
def test_a_rejected_window_changes_nothing_and_the_next_one_fits(
    frames: list[Frame], change: Change, verdict: Verdict, message: str
) -> None:
    engine = Engine()
    mapper = Mapper(CONFIG, engine)
    run(mapper, frames[:9])
    before, good = frozen(mapper), engine.change
    engine.change = change
    (rejected,) = run(mapper, frames[9:12])
    assert rejected.verdict == verdict
    assert message in rejected.message
    assert rejected.T_map_cam == {}
    assert len(rejected.points_map) == 0
    assert "encode" in rejected.latency_ms
    assert frozen(mapper) == before
    engine.change = good
    (after,) = run(mapper, frames[12:15])
    assert after.verdict == Verdict.COMMITTED
    assert [k.id for k in after.window.keyframes] == [6, 7, 8, 10, 12, 14]
    assert trajectory_error(mapper, frames, with_scale=False)[0] < 1e-3


def test_views_of_different_scale_are_rejected(frames: list[Frame]) -> None:
    engine = Engine()
    mapper = Mapper(CONFIG, engine)
    run(mapper, frames[:9])
    before = frozen(mapper)
    engine.change = stretched
    (rejected,) = run(mapper, frames[9:12])
    assert rejected.verdict == Verdict.REJECTED_POSE
    assert frozen(mapper) == before


def test_a_scale_far_from_odometry_is_rejected(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:9])
    before = frozen(mapper)
    grown = []
    for f in frames[9:12]:
        T = f.T_odom_cam.copy()
        T[:3, 3] = frames[8].T_odom_cam[:3, 3] + 9 * (T[:3, 3] - frames[8].T_odom_cam[:3, 3])
        grown.append(replace(f, T_odom_cam=T))
    engine_truth = Engine()
    engine_truth.known = {f.image_rgb.tobytes(): f.T_odom_cam for f in frames}
    mapper.use_engine(engine_truth)
    (rejected,) = run(mapper, grown)
    assert rejected.verdict in (Verdict.REJECTED_RESIDUAL, Verdict.REJECTED_ODOMETRY)
    assert "odometry" in rejected.message
    assert frozen(mapper) == before


def test_a_first_window_that_fails_leaves_an_empty_map(frames: list[Frame]) -> None:
    engine = Engine()
    engine.change = fails
    mapper = Mapper(CONFIG, engine)
    (rejected,) = run(mapper, frames[:6])
    assert rejected.verdict == Verdict.REJECTED_ENGINE_ERROR
    snapshot = mapper.snapshot()
    assert snapshot.grid is None
    assert len(snapshot.points_map) == len(snapshot.trajectory) == 0
    engine.change = lambda p: p
    fresh = CONFIG.keyframes.window_size - CONFIG.keyframes.window_overlap
    (update,) = run(mapper, frames[6 : 6 + fresh])  # and keyframes of the one that failed
    assert update.verdict == Verdict.COMMITTED
    assert len(mapper.snapshot().trajectory) == 6


def test_an_engine_that_loses_views_is_rejected(frames: list[Frame]) -> None:
    class Lossy(Engine):
        def encode(self, views: Sequence[View]) -> list[ViewTokens]:
            return super().encode(views)[:-1]

    (rejected,) = run(Mapper(CONFIG, Lossy()), frames[:6])
    assert rejected.verdict == Verdict.REJECTED_ENGINE_ERROR
    assert rejected.message == "the engine encoded 5 of 6 views"


def test_frames_that_an_engine_cannot_use_are_rejected_by_name(frames: list[Frame]) -> None:
    (rejected,) = run(Mapper(CONFIG, Engine()), [replace(f, depth_m=None) for f in frames[:6]])
    assert rejected.verdict == Verdict.REJECTED_ENGINE_ERROR
    assert rejected.message == "the oracle engine needs depth with each image"


@pytest.mark.slow
def test_a_frame_that_an_engine_cannot_use_does_not_stop_the_mapping(frames: list[Frame]) -> None:
    damaged = list(frames)
    mapper = Mapper(CONFIG, Engine())
    (first,) = run(mapper, frames[:6])
    start = len(first.window.keyframes)
    damaged[start + 1] = replace(frames[start + 1], depth_m=None)
    seen = verdicts(run(mapper, damaged[start:]))
    failures = seen.count(Verdict.REJECTED_ENGINE_ERROR)
    assert 1 <= failures <= 2
    assert set(seen[failures:]) == {Verdict.COMMITTED}


@pytest.mark.parametrize("offset_m", [3_000.0, 1e6])
@pytest.mark.slow
def test_odometry_that_jumps_out_of_reach_is_rejected(
    frames: list[Frame], offset_m: float
) -> None:
    """A lost epoch comes back by odometry, from far away."""
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:6])
    before = frozen(mapper)
    far = []
    for f in frames[6:12]:
        T = f.T_odom_cam.copy()
        T[:2, 3] += offset_m
        far.append(replace(f, stamp_ns=f.stamp_ns - 10**12, T_odom_cam=T))
    (rejected,) = run(mapper, far)
    assert rejected.verdict == Verdict.REJECTED_DEGENERATE
    assert "farther than" in rejected.message or "grid would be" in rejected.message
    assert frozen(mapper) == before


def test_keyframes_without_a_pose_are_not_what_the_next_window_holds_on_to(
    frames: list[Frame],
) -> None:
    def lose_the_newest(p: WindowPrediction) -> WindowPrediction:
        conf = p.conf.copy()
        conf[:, -3:] = 1.0  # the engine gets the central view first, then the oldest first
        return replace(p, conf=conf)

    engine = Engine()
    engine.known = {f.image_rgb.tobytes(): f.T_odom_cam for f in frames}
    mapper = Mapper(CONFIG, engine)
    engine.change = lose_the_newest
    (first,) = run(mapper, [blind(f) for f in frames[:6]])
    assert first.verdict == Verdict.COMMITTED
    assert len(first.T_map_cam) == 3
    engine.change = lambda p: p
    (second,) = run(mapper, [blind(f) for f in frames[6:9]])
    assert second.verdict == Verdict.COMMITTED
    assert {k.id for k in second.window.keyframes[:3]} == set(first.T_map_cam)


# Time, epochs, reset


@pytest.mark.slow
def test_a_recording_played_again_starts_an_epoch(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:11])
    stale = mapper.select(frames[11])
    before = frozen(mapper)
    assert mapper.select(frames[0]) is None
    assert mapper.epoch == 1
    update = mapper.map_window(stale)
    assert update.verdict == Verdict.REJECTED_STALE
    assert frozen(mapper) == before
    (again,) = run(mapper, frames[1:6])  # placed by odometry
    assert again.verdict == Verdict.COMMITTED
    assert [k.id for k in again.window.keyframes] == list(range(12, 18))


def test_an_epoch_that_begins_during_inference_discards_the_window(frames: list[Frame]) -> None:
    engine = Engine()
    mapper = Mapper(CONFIG, engine)
    run(mapper, frames[:11])
    before = frozen(mapper)

    def jump(p: WindowPrediction) -> WindowPrediction:
        mapper.select(frames[0])
        return p

    engine.change = jump
    (update,) = run(mapper, frames[11:12])
    assert (update.verdict, update.message) == (Verdict.REJECTED_STALE, "made before a reset")
    assert frozen(mapper) == before


def test_a_small_step_back_in_time_is_an_error_and_no_harm(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:3])
    with pytest.raises(KeyframeError, match="is not newer than"):
        mapper.process(frames[2])
    assert mapper.epoch == 0
    (update,) = run(mapper, frames[3:6])
    assert update.verdict == Verdict.COMMITTED


@pytest.mark.slow
def test_reset_forgets_the_map_and_old_windows(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:11])
    old = mapper.select(frames[11])
    assert mapper.keyframe_count == 12
    mapper.reset()
    assert (mapper.keyframe_count, mapper.epoch, mapper.blurred_count) == (0, 1, 0)
    assert mapper.map_window(old).verdict == Verdict.REJECTED_STALE
    snapshot = mapper.snapshot()
    assert snapshot.grid is None
    assert len(snapshot.points_map) == len(snapshot.trajectory) == 0
    assert snapshot.T_map_odom is None
    assert snapshot.scale.source == ScaleSource.NONE
    fresh = Mapper(CONFIG, Engine())
    run(fresh, frames[:6])
    run(mapper, frames[:6])  # the clock may start anew
    assert frozen(mapper) == frozen(fresh)


def test_a_reset_during_inference_discards_the_window(frames: list[Frame]) -> None:
    engine = Engine()
    mapper = Mapper(CONFIG, engine)

    def reset(p: WindowPrediction) -> WindowPrediction:
        mapper.reset()
        return p

    engine.change = reset
    (update,) = run(mapper, frames[:6])
    assert update.verdict == Verdict.REJECTED_STALE
    assert len(mapper.snapshot().trajectory) == 0


# Windows and tokens


def test_while_the_network_is_busy_the_newest_window_counts(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:6])
    waiting = [w for w in map(mapper.select, frames[6:20]) if w is not None]
    assert len(waiting) == 12
    update = mapper.map_window(waiting[-1])
    ids = [k.id for k in update.window.keyframes]
    assert ids[:3] == [3, 4, 5]
    assert ids[-1] == 19
    assert update.verdict == Verdict.COMMITTED
    assert trajectory_error(mapper, frames, with_scale=False)[0] < 1e-3


def test_a_window_that_waited_holds_on_to_what_was_mapped_meanwhile(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    windows = [w for w in map(mapper.select, frames[:12]) if w is not None]
    first = mapper.map_window(windows[0])
    second = mapper.map_window(windows[-1])
    assert [k.id for k in first.window.keyframes] == list(range(6))
    assert [k.id for k in second.window.keyframes] == [3, 4, 5, 7, 9, 11]
    assert second.verdict == Verdict.COMMITTED


@pytest.mark.slow
def test_each_view_is_encoded_once_and_forgotten_later(frames: list[Frame]) -> None:
    engine = Engine()
    mapper = Mapper(CONFIG, engine)
    run(mapper, frames)
    assert engine.encoded == [6] + [3] * 6
    gc.collect()
    kept = [i for i, tokens in enumerate(engine.tokens) if tokens() is not None]
    assert kept == list(range(18, 24))


@pytest.mark.slow
def test_references_are_no_more_than_views(frames: list[Frame]) -> None:
    for asked, given in [(0, 1), (4, 4), (9, 6)]:
        engine = Engine()
        (update,) = run(Mapper(with_values(CONFIG, {"engine.n_ref": asked}), engine), frames[:6])
        assert update.verdict == Verdict.COMMITTED
        assert engine.decoded == [given]


def test_finish_maps_what_is_left(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:8])
    last = mapper.finish()
    assert last.verdict == Verdict.COMMITTED
    assert [k.id for k in last.window.keyframes] == [2, 3, 4, 5, 6, 7]
    assert len(mapper.snapshot().trajectory) == 8
    assert mapper.finish() is None


def test_nothing_comes_of_nothing() -> None:
    mapper = Mapper(CONFIG, Engine())
    assert mapper.finish() is None
    snapshot = mapper.snapshot()
    assert snapshot.trajectory.T_world_cam.shape == (0, 4, 4)
    assert snapshot.floor_z_m == 0.0


@pytest.mark.slow
def test_a_snapshot_does_not_change_later(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:6])
    early = mapper.snapshot()
    copies = [
        early.points_map.copy(),
        early.grid.cells.copy(),
        early.trajectory.T_world_cam.copy(),
    ]
    run(mapper, frames[6:18])
    kept = [early.points_map, early.grid.cells, early.trajectory.T_world_cam]
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert len(mapper.snapshot().points_map) > len(early.points_map)


def test_time_of_a_stage_adds_up() -> None:
    clock = StageClock()
    for _ in range(3):
        with pytest.raises(ValueError, match="x"), clock.stage("a"):
            threading.Event().wait(0.01)
            raise ValueError("x")
    assert 30.0 <= clock.stages_ms["a"] < 1000.0


# Threads


@pytest.mark.slow
def test_three_threads_share_a_mapper(frames: list[Frame]) -> None:
    """One selects, one maps the newest window, one looks at the map; at the end all is well."""
    mapper = Mapper(CONFIG, Engine(noise=OracleNoise(points=0.01, scale=0.2)))
    newest: list[Window] = []
    updates: list[MapUpdate] = []
    sizes: list[int] = []
    faults: list[BaseException] = []
    done, mapped = threading.Event(), threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def body() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001
                faults.append(error)

        return body

    def select() -> None:
        for frame in frames:
            window = mapper.select(frame)
            if window is not None:
                newest[:] = [window]
            threading.Event().wait(0.01)
        done.set()

    def map_windows() -> None:
        while not done.is_set() or newest:
            if newest:
                updates.append(mapper.map_window(newest.pop()))
        mapped.set()

    def look() -> None:
        while not mapped.is_set():
            snapshot = mapper.snapshot()
            assert len(snapshot.points_map) == len(snapshot.conf) == len(snapshot.colors_rgb)
            assert (snapshot.grid is None) == (len(snapshot.trajectory) == 0)
            sizes.append(len(snapshot.trajectory))

    threads = [threading.Thread(target=guarded(w)) for w in (select, map_windows, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert not any(t.is_alive() for t in threads)
    assert set(verdicts(updates)) == {Verdict.COMMITTED}
    assert sizes == sorted(sizes)
    assert mapper.keyframe_count == COUNT
    assert trajectory_error(mapper, frames, with_scale=False)[0] < 0.03


@pytest.mark.slow
def test_resets_from_another_thread_never_break_a_window(frames: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    stop = threading.Event()

    def reset() -> None:
        while not stop.wait(0.03):
            mapper.reset()

    thread = threading.Thread(target=reset)
    thread.start()
    updates = []
    for lap in range(6):
        for frame in frames:
            update = mapper.process(replace(frame, stamp_ns=frame.stamp_ns + lap * 10**11))
            updates += [] if update is None else [update]
    stop.set()
    thread.join(10)
    assert set(verdicts(updates)) <= {Verdict.COMMITTED, Verdict.REJECTED_STALE}
    snapshot = mapper.snapshot()
    assert len(snapshot.trajectory) <= mapper.keyframe_count
    rest = frames[:6]
    mapper.reset()
    (update,) = run(mapper, rest)
    assert update.verdict == Verdict.COMMITTED


class Interrupted(Engine):
    """Something happens while it encodes a window."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], None] = lambda: None

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        tokens = super().encode(views)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return tokens


def test_a_reset_while_a_window_is_encoded_leaves_nothing_of_it(frames: list[Frame]) -> None:
    """Keyframes are numbered anew: what was encoded of the old ones is of other places."""
    engine = Interrupted()
    mapper = Mapper(CONFIG, engine)
    engine.meanwhile = mapper.reset
    (stale,) = run(mapper, frames[:6])
    assert stale.verdict == Verdict.REJECTED_STALE
    (update,) = run(mapper, frames[6:12])
    assert update.verdict == Verdict.COMMITTED
    assert engine.encoded == [6, 6]


def test_a_first_window_is_not_undone_because_settings_changed_meanwhile(
    frames: list[Frame],
) -> None:
    engine = Interrupted()
    mapper = Mapper(CONFIG, engine)
    engine.meanwhile = lambda: mapper.reconfigure(CONFIG)
    (update,) = run(mapper, frames[:6])
    assert update.verdict == Verdict.COMMITTED
    assert mapper.now.undo == ()


@pytest.mark.parametrize(("sigma", "resized"), [(0.1, False), (0.02, True), (math.inf, True)])
@pytest.mark.slow
def test_corrections_that_are_small_against_what_the_scale_may_be_off_by_wait(
    frames: list[Frame], monkeypatch: pytest.MonkeyPatch, sigma: float, resized: bool
) -> None:
    """To draw the map again takes as long as all of it."""
    mapper = Mapper(CONFIG, Engine())
    run(mapper, frames[:9])
    graph = mapper.now.graph
    estimate = replace(graph.scale.estimate, rel_sigma=sigma)
    graph = replace(graph, scale=replace(graph.scale, estimate=estimate))
    before = replace(mapper.now, graph=graph)
    monkeypatch.setattr(ScaleHistory, "corrections", lambda self: np.full(len(self.windows), 0.01))
    assert (before.resized() is not before) == resized
