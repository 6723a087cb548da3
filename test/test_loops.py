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

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mvdust3r_ros.config import LoopSettings, MapperConfig, with_values
from mvdust3r_ros.datatypes import (
    Frame,
    Keyframe,
    ScaleEstimate,
    Verdict,
    View,
    ViewPose,
    Window,
)
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.map_metrics import absolute_errors
from mvdust3r_ros.geometry import Sim3, make_se3
from mvdust3r_ros.loops import MAX_TIES, LoopCloser, LoopError, _Node
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.pose_fusion import PoseSigma, odometry_sigma
from mvdust3r_ros.pose_graph import PoseEdge, PoseGraphError, edge_sigmas, relative_edge
from mvdust3r_ros.stitching import Placement, WindowGeometry

HW = (72, 96)
COUNT = 48
CONFIG = with_values(
    MapperConfig(),
    {
        "keyframes.window_size": 6, "keyframes.window_overlap": 3, "keyframes.min_sharpness": 0.0,
        "keyframes.max_interval_s": 0.1, "map.min_hits": 1,
        "loop.min_gap": 18, "loop.min_windows": 1,
    },
)  # fmt: skip


def turned(yaw: float, x: float = 0.0, y: float = 0.0) -> Any:
    c, s = np.cos(yaw), np.sin(yaw)
    return make_se3(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), np.array([x, y, 0.0]))


@pytest.fixture(scope="module")
def drifting(room: Any) -> list[Frame]:
    """Twice around a room with odometry that turns 0.4 degrees too far in each frame."""
    frames = room.frames(room.walk(COUNT, turns=2.0))
    poses = [frames[0].T_odom_cam]
    for before, after in pairwise(frames):
        step = np.linalg.inv(before.T_odom_cam) @ after.T_odom_cam
        pose = poses[-1] @ step
        pose[:3, :3] = turned(np.radians(0.4))[:3, :3] @ pose[:3, :3]
        poses.append(pose)
    return [
        replace(f, T_odom_cam=T, T_world_cam=f.T_odom_cam)
        for f, T in zip(frames, poses, strict=True)
    ]


def drive(frames: list[Frame], **values: Any) -> tuple[Mapper, float]:
    """The mapper and its absolute error in metres."""
    config = with_values(CONFIG, {k.replace("__", "."): v for k, v in values.items()})
    mapper = Mapper(config, OracleEngine(HW, OracleNoise(points=0.02, smooth=0.03, seed=2)))
    updates = [u for u in (mapper.process(f) for f in frames) if u is not None]
    assert {u.verdict for u in updates} == {Verdict.COMMITTED}
    s = mapper.snapshot()
    truth = replace(s.trajectory, T_world_cam=np.stack([f.T_world_cam for f in frames]))
    return mapper, absolute_errors(s.trajectory, truth, "none").rmse_m


@pytest.mark.slow
def test_closures_bring_the_second_round_onto_the_first(drifting: list[Frame]) -> None:
    plain, without = drive(drifting, loop__enabled=False)
    closed, with_loops = drive(drifting)
    assert plain.snapshot().loop_closures == 0
    assert closed.snapshot().loop_closures >= 2
    assert without > 0.05
    assert with_loops < 0.8 * without


@pytest.mark.slow
def test_the_map_moves_with_its_keyframes(drifting: list[Frame]) -> None:
    mapper, _ = drive(drifting)
    snapshot, state = mapper.snapshot(), mapper._state
    poses = state.loops.poses
    for key, item in state.dense.keyframes.items():
        assert np.array_equal(item.T_map_cam, poses[key])
    rebuilt = Mapper(CONFIG, OracleEngine(HW))._state.dense.now.voxels
    for item in state.dense.keyframes.values():
        rebuilt.integrate(item.points_map(), item.colors_rgb, item.conf)
    # windows that were committed after the last closure come on top of the rebuilt map
    assert len(rebuilt) == len(snapshot.points_map)
    newest = max(state.dense.keyframes)
    T_map_cam = snapshot.T_map_odom @ state.dense.keyframes[newest].keyframe.view.T_odom_cam
    np.testing.assert_allclose(T_map_cam, poses[newest], atol=1e-9)
    for key, T in state.stitcher._last.T_map_cam.items():
        np.testing.assert_allclose(T, poses[key], atol=1e-12)


@pytest.mark.slow
def test_tries_are_limited(drifting: list[Frame]) -> None:
    engine = OracleEngine(HW)
    decode, calls = engine.decode, []
    engine.decode = lambda *a: (calls.append(1), decode(*a))[1]  # type: ignore[method-assign]
    config = with_values(CONFIG, {"loop.min_windows": 4})
    mapper = Mapper(config, engine)
    windows = [u for u in (mapper.process(f) for f in drifting) if u is not None]
    assert len(windows) < len(calls) <= len(windows) + len(windows) // 4


# The graph alone: a square of 1 m steps with drift


def square() -> tuple[LoopCloser, dict[int, Any]]:
    """40 nodes around a 10 m square; the measured path turns 0.5 degrees too far a step."""
    closer = LoopCloser(LoopSettings(), 0.02)
    truth, measured = {0: turned(0)}, {0: turned(0)}
    for k in range(1, 40):
        step = turned(np.pi / 2 if k % 10 == 0 else 0.0, 1.0)
        truth[k] = truth[k - 1] @ step
        measured[k] = measured[k - 1] @ step @ turned(np.radians(0.2))
    closer.poses = dict(measured)
    closer._edges = [
        relative_edge(k, k + 1, measured[k], measured[k + 1], 0.025, np.radians(0.4))
        for k in range(39)
    ]
    return closer, truth


def closure(truth: dict[int, Any], shift_m: float = 0.0) -> PoseEdge:
    T = turned(0, shift_m, shift_m) @ np.linalg.inv(truth[0]) @ truth[39]
    return PoseEdge(0, 39, T, 0.02, np.radians(0.4), robust=True)


def error(poses: dict[int, Any], truth: dict[int, Any]) -> float:
    return max(float(np.linalg.norm(poses[k][:3, 3] - truth[k][:3, 3])) for k in truth)


def test_a_true_closure_takes_the_drift_out() -> None:
    closer, truth = square()
    before = error(closer.poses, truth)
    moved = closer.close(closure(truth))
    assert before > 0.5
    assert error(moved, truth) < 0.3 * before
    assert moved is not closer.poses
    assert np.array_equal(moved[0], truth[0])
    assert closer.closures == 1


def test_a_closure_that_strains_the_motions_is_undone() -> None:
    closer, truth = square()
    before, edges = dict(closer.poses), list(closer._edges)
    with pytest.raises(LoopError, match=r"strains the measured motions by .* sigmas"):
        closer.close(closure(truth, shift_m=20.0))
    assert closer.closures == 0
    assert closer._edges == edges
    assert all(np.array_equal(before[k], closer.poses[k]) for k in before)


def test_a_closure_that_fits_already_moves_nothing() -> None:
    closer, _ = square()
    before = dict(closer.poses)
    assert closer.close(closure(before)) == {}
    assert closer.closures == 1
    assert all(np.array_equal(before[k], closer.poses[k]) for k in before)


@pytest.mark.parametrize("closed", [False, True])
def test_resizing_again_and_again_leaves_rotations_rotations(closed: bool) -> None:
    """What rounding does to one pose must not grow along the path and from round to round."""
    closer, truth = square()
    if closed:
        closer.close(closure(truth))
    before = dict(closer.poses)
    for k in range(60):
        factor = 1.01 if k % 2 == 0 else 1 / 1.01
        closer.resize(dict.fromkeys(truth, factor), np.zeros(3))
    off = [T[:3, :3].T @ T[:3, :3] - np.eye(3) for T in closer.poses.values()]
    assert np.abs(off).max() < 1e-12
    for key, T in closer.poses.items():
        np.testing.assert_allclose(T, before[key], atol=1e-3 if closed else 1e-9)


def test_each_stretch_takes_the_factor_of_the_window_that_it_came_with() -> None:
    closer, truth = square()
    before = dict(closer.poses)
    factors = {k: 2.0 if k < 20 else 0.5 for k in truth}
    anchor = np.array([1.0, 0.0, 0.0])
    moved = closer.resize(factors, anchor)
    np.testing.assert_allclose(moved[0][:3, 3], anchor + 2.0 * (before[0][:3, 3] - anchor))
    for a, b in pairwise(truth):
        step = moved[b][:3, 3] - moved[a][:3, 3]
        np.testing.assert_allclose(step, factors[b] * (before[b] - before[a])[:3, 3], atol=1e-12)
        assert np.array_equal(moved[b][:3, :3], before[b][:3, :3])


def test_motions_that_odometry_measured_keep_their_length() -> None:
    closer, truth = square()
    closer._network_share = {k: 0.0 if k < 20 else 0.5 for k in truth}
    before, lengths = dict(closer.poses), [e.T_a_b[:3, 3].copy() for e in closer._edges]
    moved = closer.resize(dict.fromkeys(truth, 4.0), before[0][:3, 3])
    for a, b in pairwise(truth):
        step, old = (p[b][:3, 3] - p[a][:3, 3] for p in (moved, before))
        np.testing.assert_allclose(step, (1.0 if b < 20 else 2.0) * old, atol=1e-12)
    np.testing.assert_allclose(closer._edges[3].T_a_b[:3, 3], lengths[3])
    np.testing.assert_allclose(closer._edges[30].T_a_b[:3, 3], 2.0 * lengths[30])


def test_a_graph_that_cannot_be_solved_changes_nothing() -> None:
    closer, truth = square()
    closer.close(closure(truth))
    edges = [e for e in closer._edges if e.a not in (10, 30)]  # 11 to 30 hang on nothing
    closer._edges, before = edges, dict(closer.poses)
    with pytest.raises(PoseGraphError):
        closer.resize(dict.fromkeys(truth, 2.0), np.zeros(3))
    assert closer._edges == edges
    assert all(np.array_equal(before[k], closer.poses[k]) for k in truth)


def test_the_network_and_odometry_are_more_certain_of_a_motion_than_odometry_alone() -> None:
    closer, truth = LoopCloser(LoopSettings(), 0.02), square()[1]
    for ids in (range(4), range(2, 6), range(20, 24)):
        poses = {i: truth[i] for i in ids}
        view = View(np.zeros((4, 4, 3), np.uint8))
        window = Window(0, tuple(Keyframe(i, i, view, "camera") for i in ids))
        points, conf = np.zeros((4, 1, 1, 3), np.float32), np.ones((4, 1, 1), np.float32)
        seen: list[ViewPose | None] = [ViewPose(T, np.eye(3), 1.0, 0.0) for T in poses.values()]
        closer.commit(
            WindowGeometry(window, points, conf, seen, True),
            Placement(
                Sim3(1.0, np.eye(3), np.zeros(3)), poses, 0.0, ScaleEstimate(),
                sigma_left=PoseSigma(0.5, 0.25),
            ),
        )  # fmt: skip
    left = {}
    for edge in closer.edges:
        odometry = odometry_sigma(truth[edge.a], truth[edge.b], 0.02)
        left[edge.a, edge.b] = edge.sigma_m / odometry.m, edge.sigma_rad / odometry.rad
    # no window has seen the way from 5 to 20
    assert left.pop((5, 20)) == pytest.approx((1.0, 1.0))
    assert list(left) == [(k, k + 1) for k in (*range(5), *range(20, 23))]
    assert all(found == pytest.approx((0.5, 0.25)) for found in left.values())


# Keyframes that leave the map


def test_what_keyframes_held_together_stays_when_they_leave() -> None:
    """Also the closure: without it the path would spring back to its drift."""
    closer, truth = square()
    closer._nodes = with_nodes()[0]._nodes
    moved, path = closer.close(closure(truth)), closer.path({})
    gone = [0, 39, *range(3, 30)]
    closer.condense(gone)
    assert set(closer.poses) == {k for k in truth if k not in gone}
    assert all(np.array_equal(T, moved[k]) for k, T in closer.poses.items())
    assert len(closer.edges) == len(closer.poses)  # a chain and one closure
    assert edge_sigmas(closer.poses, [e for e in closer.edges if e.robust]) < 1e-6
    after = closer.path({})
    assert np.array_equal(after.stamps_ns, path.stamps_ns)
    np.testing.assert_allclose(after.T_world_cam, path.T_world_cam, atol=1e-9)
    spread = closer.resize(dict.fromkeys(closer.poses, 1.0), np.zeros(3))
    shift = spread[1][:3, 3] - moved[1][:3, 3]
    for key, T in spread.items():
        np.testing.assert_allclose(T[:3, 3] - shift, moved[key][:3, 3], atol=0.05)


def test_the_motion_over_a_gap_is_as_uncertain_as_its_steps_together() -> None:
    closer, _ = with_nodes()
    closer.condense(range(5, 9))
    (edge,) = [e for e in closer.edges if e.b == 9]
    assert edge.a == 4
    assert edge.sigma_m == pytest.approx(0.025 * 5**0.5)
    assert edge.sigma_rad == pytest.approx(np.radians(0.4) * 5**0.5)
    T = np.linalg.inv(closer.poses[4]) @ closer.poses[9]
    np.testing.assert_allclose(edge.T_a_b, T, atol=1e-12)


def test_closures_of_keyframes_that_left_do_not_pile_up() -> None:
    closer, _ = with_nodes()
    poses = closer.poses
    for a in range(15):
        for b in range(25, 40):
            closer._edges.append(
                replace(relative_edge(a, b, poses[a], poses[b], 0.02, 0.01), robust=True)
            )
    closer.condense([*range(1, 14), *range(26, 38)])
    robust = [e for e in closer.edges if e.robust]
    ends = {(e.a, e.b) for e in robust}
    assert ends <= {(a, b) for a in (0, 14) for b in (25, 38, 39)}
    kept_as_they_were = 6
    assert len(robust) <= kept_as_they_were + MAX_TIES * len(closer.poses)
    measured = sorted((e.a, e.b) for e in closer.edges if not e.robust)
    assert measured == sorted(pairwise(closer.poses))


def test_the_path_of_keyframes_that_left_outlives_a_neighbour_that_is_undone() -> None:
    closer, _ = with_nodes()
    before = closer.path({}).T_world_cam
    closer.condense(range(1, 38))
    closer.past.rehost(0, 39, np.linalg.inv(closer.poses[39]) @ closer.poses[0])
    closer.remove([39])
    after = closer.path({})
    assert len(after) == 39
    np.testing.assert_allclose(after.T_world_cam, before[:-1], atol=1e-9)


def test_the_last_keyframe_stays() -> None:
    closer, _ = with_nodes()
    closer.condense(range(40))
    assert list(closer.poses) == [39]
    assert closer.edges == []
    assert len(closer.path({})) == 40


# Candidates


def with_nodes(shift_m: float = 0.0) -> tuple[LoopCloser, dict[int, Any]]:
    """The square, whose last keyframe the path has carried `shift_m` away from the first."""
    closer, truth = square()
    closer.settings = LoopSettings(min_gap=18, min_windows=1)
    closer.poses = {k: T.copy() for k, T in truth.items()}
    closer.poses[39][:2, 3] = shift_m, 0.0
    view = View(np.zeros((4, 4, 3), np.uint8))
    closer._nodes = {
        k: _Node(Keyframe(k, k, view, "camera"), np.zeros((1, 1, 3), np.float32), np.ones((1, 1)))
        for k in truth
    }
    closer._windows_since_try = 1
    rng = np.random.default_rng(0)
    looks = {k: rng.normal(size=32).astype(np.float32) for k in truth}
    return closer, looks


def alike(looks: dict[int, Any], a: int, b: int) -> dict[int, Any]:
    return {**looks, b: looks[a] + 0.1}


def test_of_two_near_keyframes_the_one_that_looks_alike_is_tried() -> None:
    closer, looks = with_nodes()
    plain = closer.candidate(4)
    assert plain is not None
    assert plain.nearest.id == 0
    closer._windows_since_try = 1
    chosen = closer.candidate(4, alike(looks, 1, 39))
    assert chosen is not None
    assert chosen.nearest.id == 1
    assert [k.id for k in chosen.new] == [36, 37, 38, 39]
    assert 1 in [k.id for k in chosen.old]


def test_ground_that_drift_has_moved_away_is_known_by_its_looks() -> None:
    closer, looks = with_nodes(shift_m=-4.5)  # the way back to the start is 39 m
    closer.poses = {k: T @ turned(np.pi) if k == 39 else T for k, T in closer.poses.items()}
    assert closer.candidate(4) is None
    assert closer.candidate(4, looks) is None
    chosen = closer.candidate(4, alike(looks, 0, 39))
    assert chosen is not None
    assert chosen.nearest.id == 0
    closer._windows_since_try = 1
    closer.poses[39][:2, 3] = 30.0, 30.0  # no drift explains that
    assert closer.candidate(4, alike(looks, 0, 39)) is None


def test_looks_of_different_engines_are_not_compared() -> None:
    closer, looks = with_nodes()
    looks[0] = np.zeros(3, np.float32)
    chosen = closer.candidate(4, looks)
    assert chosen is not None
    assert chosen.nearest.id == 0
