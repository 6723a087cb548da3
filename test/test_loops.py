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
from itertools import pairwise

import numpy as np
import pytest

from box_room import BoxRoom, with_drift
from map_world import SAW_NOTHING
from mvdust3r_ros.atlas.revision import Revision
from mvdust3r_ros.config import LoopSettings, MapperConfig, MapSettings, with_values
from mvdust3r_ros.datatypes import Descriptor, FloatArray, Frame, Keyframe, Verdict, View
from mvdust3r_ros.drawing.drawing import Drawing
from mvdust3r_ros.drawing.voxel_map import VoxelMap
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.metrics.map_metrics import absolute_errors
from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.graph.driven_path import OdometryTrack
from mvdust3r_ros.graph.keyframe_graph import MAX_TIES, KeyframeGraph
from mvdust3r_ros.graph.loops import (
    LoopCandidate,
    LoopError,
    close_loop,
    loop_candidate,
    measure_loop,
)
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.placing.pose_fusion import PoseSigma, odometry_sigma
from mvdust3r_ros.placing.pose_graph import PoseEdge, PoseGraphError, edge_sigmas, relative_edge
from mvdust3r_ros.placing.scale import ScaleFilter, ScaleHistory, SizedWindow
from room_windows import Scene, begun_with

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


def turned(yaw: float, x: float = 0.0, y: float = 0.0) -> FloatArray:
    c, s = np.cos(yaw), np.sin(yaw)
    return make_se3(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), np.array([x, y, 0.0]))


@pytest.fixture(scope="module")
def drifting(room: BoxRoom) -> list[Frame]:
    """Twice around a room with odometry that turns 0.4 degrees too far in each frame."""
    return with_drift(room.frames(room.walk(COUNT, turns=2.0)), 0.4)


def drive(frames: list[Frame], **values: object) -> tuple[Mapper, float]:
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
    snapshot, now = mapper.snapshot(), mapper.now
    poses, keyframes = now.graph.poses, now.graph.keyframes
    by_stamp = dict(
        zip(snapshot.trajectory.stamps_ns, snapshot.trajectory.T_world_cam, strict=True)
    )
    for key, item in keyframes.items():
        assert np.array_equal(item.T_map_cam, by_stamp[item.keyframe.stamp_ns])
        assert np.array_equal(item.T_map_cam, now.drawing.drawn[key].T_map_cam)
    rebuilt = VoxelMap(CONFIG.map.voxel_size_m)
    for item in keyframes.values():
        rebuilt.integrate(item.points_map(), item.colors_rgb, item.conf)
    # windows that were committed after the last closure come on top of the rebuilt map
    assert len(rebuilt) == len(snapshot.points_map)
    newest = max(keyframes)
    T_map_cam = snapshot.T_map_odom @ keyframes[newest].keyframe.view.T_odom_cam
    np.testing.assert_allclose(T_map_cam, poses[newest], atol=1e-9)
    end = now.graph.end
    assert list(end.T_map_cam) == list(end.points) == list(poses)[-CONFIG.keyframes.window_size :]


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


def keyframe(key: int) -> Keyframe:
    return Keyframe(key, key, View(np.zeros((4, 4, 3), np.uint8)), "camera")


def blank(key: int, T_map_cam: FloatArray) -> MapKeyframe:
    """A keyframe that sees nothing, sized by a window of its own."""
    nothing = np.zeros((0, 3), np.float32)
    return MapKeyframe(
        keyframe(key),
        T_map_cam,
        nothing,
        nothing.astype(np.uint8),
        nothing[:, 0],
        SAW_NOTHING,
        sized_by=key,
    )


def square() -> tuple[KeyframeGraph, dict[int, FloatArray]]:
    """40 nodes around a 10 m square; the measured path turns 0.2 degrees too far a step."""
    truth, measured = {0: turned(0)}, {0: turned(0)}
    for k in range(1, 40):
        step = turned(np.pi / 2 if k % 10 == 0 else 0.0, 1.0)
        truth[k] = truth[k - 1] @ step
        measured[k] = measured[k - 1] @ step @ turned(np.radians(0.2))
    edges = tuple(
        relative_edge(k, k + 1, measured[k], measured[k + 1], 0.025, np.radians(0.4))
        for k in range(39)
    )
    history = ScaleHistory(tuple(SizedWindow(0.0, None, ()) for _ in truth))
    keyframes = {k: blank(k, T) for k, T in measured.items()}
    return KeyframeGraph(keyframes, edges, scale=ScaleFilter(history=history)), truth


def closure(truth: dict[int, FloatArray], shift_m: float = 0.0) -> PoseEdge:
    T = turned(0, shift_m, shift_m) @ np.linalg.inv(truth[0]) @ truth[39]
    return PoseEdge(0, 39, T, 0.02, np.radians(0.4), robust=True)


def error(poses: dict[int, FloatArray], truth: dict[int, FloatArray]) -> float:
    return max(float(np.linalg.norm(poses[k][:3, 3] - truth[k][:3, 3])) for k in truth)


def test_a_true_closure_takes_the_drift_out() -> None:
    graph, truth = square()
    before = error(graph.poses, truth)
    closed = close_loop(graph, closure(truth), LoopSettings())
    assert before > 0.5
    assert error(closed.poses, truth) < 0.3 * before
    assert error(graph.poses, truth) == before
    assert np.array_equal(closed.poses[0], truth[0])
    assert (graph.closures, closed.closures) == (0, 1)


def test_a_closure_that_strains_the_motions_is_refused_and_changes_nothing() -> None:
    graph, truth = square()
    before = pickle.dumps(graph)
    with pytest.raises(LoopError, match=r"strains the measured motions by .* sigmas"):
        close_loop(graph, closure(truth, shift_m=20.0), LoopSettings())
    assert pickle.dumps(graph) == before


def test_a_closure_that_fits_already_moves_nothing() -> None:
    graph, _ = square()
    closed = close_loop(graph, closure(graph.poses), LoopSettings())
    assert closed.closures == 1
    assert len(closed.edges) == len(graph.edges) + 1
    assert closed.keyframes.keys() == graph.keyframes.keys()
    assert all(closed.keyframes[k] is item for k, item in graph.keyframes.items())


@pytest.mark.parametrize("closed", [False, True])
def test_resizing_again_and_again_leaves_rotations_rotations(closed: bool) -> None:
    """What rounding does to one pose must not grow along the path and from round to round."""
    graph, truth = square()
    if closed:
        graph = close_loop(graph, closure(truth), LoopSettings())
    before = graph.poses
    for k in range(60):
        factor = 1.01 if k % 2 == 0 else 1 / 1.01
        graph = graph.resized(np.log(np.full(40, factor)), np.zeros(3))
    off = [T[:3, :3].T @ T[:3, :3] - np.eye(3) for T in graph.poses.values()]
    assert np.abs(off).max() < 1e-12
    for key, T in graph.poses.items():
        np.testing.assert_allclose(T, before[key], atol=1e-3 if closed else 1e-9)


def test_each_stretch_takes_the_factor_of_the_window_that_it_came_with() -> None:
    graph, truth = square()
    before, factors = graph.poses, np.where(np.arange(40) < 20, 2.0, 0.5)
    anchor = np.array([1.0, 0.0, 0.0])
    moved = graph.resized(np.log(factors), anchor).poses
    np.testing.assert_allclose(moved[0][:3, 3], anchor + 2.0 * (before[0][:3, 3] - anchor))
    for a, b in pairwise(truth):
        step = moved[b][:3, 3] - moved[a][:3, 3]
        np.testing.assert_allclose(step, factors[b] * (before[b] - before[a])[:3, 3], atol=1e-12)
        assert np.array_equal(moved[b][:3, :3], before[b][:3, :3])


def test_motions_that_odometry_measured_keep_their_length() -> None:
    graph, truth = square()
    graph = replace(graph, keyframes={
        k: replace(m, network_share=0.0 if k < 20 else 0.5) for k, m in graph.keyframes.items()
    })  # fmt: skip
    before, larger = graph.poses, graph.resized(np.log(np.full(40, 4.0)), np.zeros(3))
    for a, b in pairwise(truth):
        step, old = (p[b][:3, 3] - p[a][:3, 3] for p in (larger.poses, before))
        np.testing.assert_allclose(step, (1.0 if b < 20 else 2.0) * old, atol=1e-12)
    for k, factor in ((3, 1.0), (30, 2.0)):
        old = graph.edges[k].T_a_b[:3, 3]
        np.testing.assert_allclose(larger.edges[k].T_a_b[:3, 3], factor * old)


def test_a_graph_that_cannot_be_solved_is_not_resized() -> None:
    graph, truth = square()
    graph = close_loop(graph, closure(truth), LoopSettings())
    edges = tuple(e for e in graph.edges if e.a not in (10, 30))  # 11 to 30 hang on nothing
    graph = replace(graph, edges=edges)
    before = pickle.dumps(graph)
    with pytest.raises(PoseGraphError):
        graph.resized(np.log(np.full(40, 2.0)), np.zeros(3))
    assert pickle.dumps(graph) == before


def test_the_network_and_odometry_are_more_certain_of_a_motion_than_odometry_alone() -> None:
    graph, truth = KeyframeGraph(), square()[1]
    for ids in (range(4), range(2, 6), range(20, 24)):
        graph = graph.with_window(
            [blank(i, truth[i]) for i in ids], ScaleFilter(), OdometryTrack(), 0.02,
            PoseSigma(0.5, 0.25),
        )  # fmt: skip
    left = {}
    for edge in graph.edges:
        odometry = odometry_sigma(truth[edge.a], truth[edge.b], 0.02)
        left[edge.a, edge.b] = edge.sigma_m / odometry.m, edge.sigma_rad / odometry.rad
    # no window has seen the way from 5 to 20
    assert left.pop((5, 20)) == pytest.approx((1.0, 1.0))
    assert list(left) == [(k, k + 1) for k in (*range(5), *range(20, 23))]
    assert all(found == pytest.approx((0.5, 0.25)) for found in left.values())


# What a joint window measures


def apart(
    room: BoxRoom, T: FloatArray, factor: float = 1.0
) -> tuple[KeyframeGraph, LoopCandidate]:
    """A map whose last three keyframes of six lie elsewhere, and are larger, than they are."""
    graph = begun_with(Scene(room).window(range(6)))
    keyframes = {
        k: m if k < 3 else replace(m.resized(factor), T_map_cam=T @ m.T_map_cam)
        for k, m in graph.keyframes.items()
    }
    views = [m.keyframe for m in keyframes.values()]
    candidate = LoopCandidate(tuple(views[:3]), tuple(views[3:]), views[1])
    return replace(graph, keyframes=keyframes), candidate


def test_a_joint_window_measures_where_the_newest_keyframe_lies(room: BoxRoom) -> None:
    graph, candidate = apart(room, turned(0.3, 2.0, -1.0))
    geometry, poses = Scene(room).window(range(6), 3.0), Scene(room).poses
    edge = measure_loop(graph, candidate, geometry, LoopSettings())
    assert (edge.a, edge.b, edge.robust) == (1, 5, True)
    np.testing.assert_allclose(edge.T_a_b, np.linalg.inv(poses[1]) @ poses[5], atol=1e-3)


def test_a_joint_window_that_fits_one_end_alone_is_no_loop(room: BoxRoom) -> None:
    graph, candidate = apart(room, turned(0.0))
    geometry = Scene(room).window(range(6))
    settings, wild = LoopSettings(), geometry.points.copy()
    wild[3:] += np.random.default_rng(0).normal(0, 1.0, wild[3:].shape)
    with pytest.raises(LoopError, match=r"off by .* of the depth at one end \(limit 6\.0%\)"):
        measure_loop(graph, candidate, replace(geometry, points=wild), settings)
    conf = geometry.conf.copy()
    conf[3:] = 1.0
    with pytest.raises(LoopError, match="too few confident points at one end"):
        measure_loop(graph, candidate, replace(geometry, conf=conf), settings)
    larger, _ = apart(room, turned(0.0), 1.3)
    with pytest.raises(LoopError, match=r"scale of both ends differs by a factor of 0\.7[78]"):
        measure_loop(larger, candidate, geometry, settings)


def test_ends_that_do_not_see_the_same_place_are_no_loop(room: BoxRoom) -> None:
    graph, candidate = apart(room, turned(0.0))
    geometry = Scene(room).window(range(6))
    share = geometry.covisible_share(range(3), range(3, 6))
    assert 0.3 < share < 0.95
    for limit, fits in ((share - 0.01, True), (share + 0.01, False)):
        settings = LoopSettings(min_covisible=limit)
        if fits:
            measure_loop(graph, candidate, geometry, settings)
        else:
            with pytest.raises(LoopError, match="of the points are seen from both ends"):
                measure_loop(graph, candidate, geometry, settings)


# Keyframes that leave the map


def true_square() -> KeyframeGraph:
    """The square without drift; what was measured of it keeps its own."""
    graph, truth = square()
    return graph.at(truth)


def test_what_keyframes_held_together_stays_when_they_leave() -> None:
    """Also the closure: without it the path would spring back to its drift."""
    graph, truth = square()
    graph = close_loop(graph, closure(truth), LoopSettings())
    moved, path = graph.poses, graph.path()
    gone = [0, 39, *range(3, 30)]
    graph = graph.without(gone)
    assert set(graph.poses) == {k for k in truth if k not in gone}
    assert all(np.array_equal(T, moved[k]) for k, T in graph.poses.items())
    assert len(graph.edges) == len(graph.poses)  # a chain and one closure
    assert edge_sigmas(graph.poses, [e for e in graph.edges if e.robust]) < 1e-6
    after = graph.path()
    assert np.array_equal(after.stamps_ns, path.stamps_ns)
    np.testing.assert_allclose(after.T_world_cam, path.T_world_cam, atol=1e-9)
    spread = graph.resized(np.zeros(40), np.zeros(3)).poses
    shift = spread[1][:3, 3] - moved[1][:3, 3]
    for key, T in spread.items():
        np.testing.assert_allclose(T[:3, 3] - shift, moved[key][:3, 3], atol=0.05)


def test_the_motion_over_a_gap_is_as_uncertain_as_its_steps_together() -> None:
    graph = true_square().without(range(5, 9))
    (edge,) = [e for e in graph.edges if e.b == 9]
    assert edge.a == 4
    assert edge.sigma_m == pytest.approx(0.025 * 5**0.5)
    assert edge.sigma_rad == pytest.approx(np.radians(0.4) * 5**0.5)
    T = np.linalg.inv(graph.poses[4]) @ graph.poses[9]
    np.testing.assert_allclose(edge.T_a_b, T, atol=1e-12)


def test_closures_of_keyframes_that_left_do_not_pile_up() -> None:
    graph = true_square()
    poses = graph.poses
    loops = [
        replace(relative_edge(a, b, poses[a], poses[b], 0.02, 0.01), robust=True)
        for a in range(15)
        for b in range(25, 40)
    ]
    graph = replace(graph, edges=(*graph.edges, *loops))
    graph = graph.without([*range(1, 14), *range(26, 38)])
    robust = [e for e in graph.edges if e.robust]
    ends = {(e.a, e.b) for e in robust}
    assert ends <= {(a, b) for a in (0, 14) for b in (25, 38, 39)}
    kept_as_they_were = 6
    assert len(robust) <= kept_as_they_were + MAX_TIES * len(graph.poses)
    measured = sorted((e.a, e.b) for e in graph.edges if not e.robust)
    assert measured == sorted(pairwise(graph.poses))


def test_the_path_of_keyframes_that_left_outlives_a_window_that_is_undone() -> None:
    """Even where only keyframes of that window could hold it since."""
    graph = true_square()
    before = replace(
        graph,
        keyframes={k: item for k, item in graph.keyframes.items() if k != 39},
        edges=tuple(e for e in graph.edges if e.b != 39),
    ).without(range(1, 38))
    path = before.path()
    later = before.with_window(
        [graph.keyframes[k] for k in (38, 39)], ScaleFilter(), OdometryTrack(), 0.02
    ).without([0, 38])
    assert list(later.keyframes) == [39]
    revision = Revision(later, Drawing.empty(MapSettings()), (before,))
    assert len(later.path()) == 40
    after = revision.undone(1).graph.path()
    assert len(after) == 39
    assert np.array_equal(after.stamps_ns, path.stamps_ns)
    expected = [T for key, T in graph.poses.items() if key != 39]
    np.testing.assert_allclose(after.T_world_cam, expected, atol=1e-9)


def test_the_last_keyframe_stays() -> None:
    graph = true_square().without(range(40))
    assert list(graph.poses) == [39]
    assert graph.edges == ()
    assert len(graph.path()) == 40


@pytest.mark.parametrize("known", [MAX_TIES - 1, MAX_TIES])
def test_a_closure_is_handed_on_up_to_so_many_of_both_ends(known: int) -> None:
    graph = true_square()
    poses = graph.poses
    pairs = [
        (6, 20),
        *((5, k) for k in range(25, 25 + known)),
        *((20, k) for k in range(30, 30 + known)),
    ]
    ties = [
        replace(relative_edge(a, b, poses[a], poses[b], 0.02, 0.01), robust=True) for a, b in pairs
    ]
    left = replace(graph, edges=(*graph.edges, *ties)).without([6])  # 5 takes its place
    handed_on = [(e.a, e.b) for e in left.edges if e.robust and {e.a, e.b} == {5, 20}]
    assert handed_on == ([(5, 20)] if known < MAX_TIES else [])


# Candidates

NEAR = LoopSettings(min_gap=18, min_windows=1)


def carried(shift_m: float = 0.0) -> tuple[KeyframeGraph, dict[int, FloatArray]]:
    """The square, whose last keyframe the path has carried `shift_m` away from the first."""
    graph = true_square()
    poses = graph.poses
    poses[39] = poses[39].copy()
    poses[39][:2, 3] = shift_m, 0.0
    rng = np.random.default_rng(0)
    descriptors = {k: rng.normal(size=32).astype(np.float32) for k in poses}
    return graph.at(poses), descriptors


def looking(graph: KeyframeGraph, descriptors: dict[int, FloatArray]) -> KeyframeGraph:
    keyframes = {
        k: replace(m, descriptor=Descriptor("tokens", descriptors[k]))
        for k, m in graph.keyframes.items()
    }
    return replace(graph, keyframes=keyframes)


def alike(descriptors: dict[int, FloatArray], a: int, b: int) -> dict[int, FloatArray]:
    return {**descriptors, b: descriptors[a] + 0.1}


def test_of_two_near_keyframes_the_one_that_looks_alike_is_tried() -> None:
    graph, descriptors = carried()
    plain = loop_candidate(graph, 4, NEAR)
    assert plain is not None
    assert plain.nearest.id == 0
    chosen = loop_candidate(looking(graph, alike(descriptors, 1, 39)), 4, NEAR)
    assert chosen is not None
    assert chosen.nearest.id == 1
    assert [k.id for k in chosen.new] == [36, 37, 38, 39]
    assert 1 in [k.id for k in chosen.old]


def test_ground_that_drift_has_moved_away_is_known_by_its_descriptor() -> None:
    graph, descriptors = carried(shift_m=-4.5)  # the way back to the start is 39 m
    poses = {k: T @ turned(np.pi) if k == 39 else T for k, T in graph.poses.items()}
    graph, same = graph.at(poses), alike(descriptors, 0, 39)
    assert loop_candidate(graph, 4, NEAR) is None
    assert loop_candidate(looking(graph, descriptors), 4, NEAR) is None
    chosen = loop_candidate(looking(graph, same), 4, NEAR)
    assert chosen is not None
    assert chosen.nearest.id == 0
    poses[39][:2, 3] = 30.0, 30.0  # no drift explains that
    assert loop_candidate(looking(graph.at(poses), same), 4, NEAR) is None


def test_descriptors_of_different_engines_are_not_compared() -> None:
    graph, descriptors = carried()
    alike_tokens = looking(graph, alike(descriptors, 1, 39))
    newest = alike_tokens.keyframes[39]
    other = replace(newest, descriptor=Descriptor("other tokens", newest.descriptor.vector))
    mixed = replace(alike_tokens, keyframes={**alike_tokens.keyframes, 39: other})
    nearest = [loop_candidate(g, 4, NEAR) for g in (graph, alike_tokens, mixed)]
    assert [c.nearest.id for c in nearest if c is not None] == [0, 1, 0]
