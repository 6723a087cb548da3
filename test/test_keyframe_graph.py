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

import inspect
import pickle
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from box_room import BoxRoom
from mvdust3r_ros.config import LoopSettings
from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import Sim3, invert_se3, make_se3
from mvdust3r_ros.graph.driven_path import OdometryTrack
from mvdust3r_ros.graph.floor_views import floor_heights
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.loops import close_loop, loop_candidate
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.placing.known_points import Pointmap
from mvdust3r_ros.placing.pose_graph import relative_edge
from mvdust3r_ros.window.window_geometry import WindowGeometry
from room_windows import Scene, at_end_of, followed_by

ASIDE = make_se3(np.eye(3), np.array([0.5, -0.25, 0.0]))


def driven(geometry: WindowGeometry) -> WindowGeometry:
    """Odometry says where the robot's base was as well: below the camera."""
    frames = []
    for k in geometry.window.keyframes:
        assert k.view.T_odom_cam is not None
        base = make_se3(np.eye(3), k.view.T_odom_cam[:3, 3] * (1, 1, 0))
        frames.append(replace(k, view=replace(k.view, T_odom_base=base)))
    return replace(geometry, window=replace(geometry.window, keyframes=tuple(frames)))


@pytest.fixture(scope="module")
def graph(room: BoxRoom) -> KeyframeGraph:
    """Three windows, a keyframe that has left, floors, looks, and a closure."""
    scene, made = Scene(room), KeyframeGraph()
    for begin in (0, 3, 6):
        geometry = driven(scene.window(range(begin, begin + 6), 1.0 + begin))
        made = followed_by(made, geometry, at_end_of(made).place(geometry))
    edge = relative_edge(0, 11, made.poses[0], ASIDE @ made.poses[11], 0.2, 0.1)
    made = made.without([4]).closed(replace(edge, robust=True), None)
    assert len(made.driven_path) > 10
    assert len(made.past) == 1
    floors = {
        k: replace(m, floor_cam=np.array([0.1 * k, 1.2, 3.0 - 0.2 * k]))
        for k, m in made.keyframes.items()
    }
    return replace(made, keyframes=floors)


def moved(graph: KeyframeGraph) -> dict[int, FloatArray]:
    return {key: ASIDE @ T for key, T in graph.poses.items()}


def better(graph: KeyframeGraph) -> MapKeyframe:
    return replace(graph.keyframes[5], stored_cam=np.ones((1, 3), np.float32), window=77)


def one_more(graph: KeyframeGraph) -> list[MapKeyframe]:
    newest = graph.keyframes[11]
    return [newest, replace(newest, keyframe=replace(newest.keyframe, id=12, stamp_ns=12))]


CALLS: dict[str, Callable[[KeyframeGraph], object]] = {
    "path": lambda g: g.path("camera"),
    "end_at": lambda g: g.end_at(g.overlap_keyframes),
    "with_window": lambda g: g.with_window(one_more(g), g.scale, OdometryTrack(), 0.02),
    "tied_to": lambda g: g.tied_to(g.keyframes[2].keyframe),
    "at": lambda g: g.at(moved(g)),
    "drawn_as": lambda g: g.drawn_as([better(g)]),
    "levelled": lambda g: g.levelled({m.window: 1.25 for m in g.keyframes.values()}),
    "with_way_within": lambda g: g.with_way_within(g.poses[0][:3, 3], 1.0),
    "with_past_within": lambda g: g.with_past_within(g.poses[0][:3, 3], 0.01),
    "closed": lambda g: g.closed(g.edges[-1], moved(g)),
    "higher": lambda g: g.higher(0.3),
    "resized": lambda g: g.resized(np.log([2.0, 1.5, 0.5]), np.ones(3)),
    "factors": lambda g: g.factors(np.log([2.0, 1.5, 0.5])),
    "without": lambda g: g.without([3, 0, 11]),
}


def test_every_method_of_a_graph_is_among_those_that_are_called_here() -> None:
    methods = inspect.getmembers(KeyframeGraph, inspect.isfunction)
    assert {name for name, _ in methods if not name.startswith("_")} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_no_method_changes_a_graph(graph: KeyframeGraph, name: str) -> None:
    before = pickle.dumps(graph)
    made = CALLS[name](graph)
    assert pickle.dumps(graph) == before
    if isinstance(made, KeyframeGraph) and name != "without":
        after = pickle.dumps(made)
        for call in CALLS.values():
            call(made)
        assert pickle.dumps(made) == after
        assert pickle.dumps(graph) == before


def test_nor_do_loops(graph: KeyframeGraph) -> None:
    before = pickle.dumps(graph)
    settings = LoopSettings(min_gap=8, radius_m=9.0, max_angle_deg=179.0, max_sigmas=100.0)
    assert loop_candidate(graph, 2, settings) is not None
    closed = close_loop(graph, graph.edges[-1], settings)
    assert closed.closures == 2
    assert not np.array_equal(closed.poses[11], graph.poses[11])
    assert pickle.dumps(graph) == before


@pytest.mark.parametrize("name", ["at", "levelled", "closed", "higher", "resized", "without"])
def test_graphs_of_several_moments_share_the_points(graph: KeyframeGraph, name: str) -> None:
    """Each of them would else cost the memory of the whole map."""
    made = CALLS[name](graph)
    assert made.keyframes.keys() <= graph.keyframes.keys()
    for key, item in made.keyframes.items():
        same = graph.keyframes[key]
        assert item.stored_cam is same.stored_cam
        assert item.colors_rgb is same.colors_rgb
        assert item.conf is same.conf
        assert item.pointmap.stored_cam is same.pointmap.stored_cam
        assert item.pointmap.conf is same.pointmap.conf
    for key, points in made.overlap.items():
        assert points.stored_cam is graph.overlap[key].stored_cam


def test_odometrys_frame_goes_along_with_the_keyframe_that_says_where_it_is(
    graph: KeyframeGraph,
) -> None:
    T_odom_cam = graph.keyframes[11].keyframe.view.T_odom_cam
    np.testing.assert_allclose(graph.T_map_odom @ T_odom_cam, graph.poses[11], atol=1e-12)
    for made in (graph.at(moved(graph)), graph.higher(0.3), CALLS["resized"](graph)):
        assert not np.array_equal(made.poses[11], graph.poses[11])
        np.testing.assert_allclose(made.T_map_odom @ T_odom_cam, made.poses[11], atol=1e-12)
    for ids in ([11], [11, 10, 9]):  # a neighbour says it when that keyframe has left
        gone = graph.without(ids)
        np.testing.assert_allclose(gone.T_map_odom, graph.T_map_odom, atol=1e-12)
        expected = ASIDE @ graph.T_map_odom
        np.testing.assert_allclose(gone.at(moved(gone)).T_map_odom, expected, atol=1e-12)
    earlier = graph.tied_to(graph.keyframes[5].keyframe)
    for ids in ([11, 9], [3, 0]):  # others that leave have no say in it
        assert np.array_equal(earlier.without(ids).T_map_odom, earlier.T_map_odom)
    silent = replace(graph.keyframes[5].keyframe, view=replace(
        graph.keyframes[5].keyframe.view, T_odom_cam=None
    ))  # fmt: skip
    assert graph.tied_to(silent) is graph


def test_the_last_keyframe_stays_and_holds_the_way(graph: KeyframeGraph) -> None:
    alone = graph.without(list(graph.keyframes))
    assert list(alone.keyframes) == [11]
    assert len(alone.driven_path) == len(graph.driven_path)
    assert set(alone.driven_path.hosts.ravel().tolist()) == {11}
    np.testing.assert_allclose(
        alone.driven_path.places(alone.poses), graph.driven_path.places(graph.poses), atol=1e-9
    )


def test_a_higher_map_has_its_floors_and_its_path_higher(graph: KeyframeGraph) -> None:
    higher = graph.higher(0.3)
    np.testing.assert_allclose(
        floor_heights(higher, 0.0), np.array(floor_heights(graph, 0.0)) + 0.3, atol=1e-12
    )
    rise = higher.path().T_world_cam - graph.path().T_world_cam
    expected = np.zeros((12, 4, 4))
    expected[:, 2, 3] = 0.3
    np.testing.assert_allclose(rise, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_floor_goes_along_with_the_keyframe_that_sees_it(
    graph: KeyframeGraph, seed: int
) -> None:
    """A loop, a correction of sizes: whatever moves the keyframe moves what it saw."""
    rng = np.random.default_rng(seed)
    turn = cv2.Rodrigues(rng.normal(size=3))[0]
    S = Sim3(rng.uniform(0.5, 2.0), turn, rng.normal(size=3))
    items = {k: m.resized(S.scale) for k, m in graph.keyframes.items()}
    poses = {k: S.apply_pose(T) for k, T in graph.poses.items()}
    moved = replace(graph, keyframes=items).at(poses)
    seen = [(m.T_map_cam @ np.append(m.floor_cam, 1))[:3] for m in graph.keyframes.values()]
    expected = S.apply(np.stack(seen))[:, 2]
    np.testing.assert_allclose(floor_heights(moved, 0.0), expected, atol=1e-9)


def test_with_a_camera_of_known_height_every_keyframe_says_where_the_floor_is(
    graph: KeyframeGraph,
) -> None:
    resized = CALLS["resized"](graph)
    expected = [T[2, 3] - 1.3 for T in resized.poses.values()]
    assert floor_heights(resized, 1.3) == expected


def test_of_a_resized_map_with_a_loop_the_first_keyframe_holds_the_place(
    graph: KeyframeGraph,
) -> None:
    assert any(edge.robust for edge in graph.edges)
    first, anchor = graph.poses[0], np.array([1.0, 2.0, 3.0])
    moved = graph.resized(np.log([2.0, 1.5, 0.5]), anchor).poses[0]
    np.testing.assert_array_equal(moved[:3, :3], first[:3, :3])
    np.testing.assert_allclose(moved[:3, 3], anchor + 2.0 * (first[:3, 3] - anchor), atol=1e-12)


def test_a_keyframe_of_any_number_leaves(graph: KeyframeGraph) -> None:
    """Python holds one object for each number up to 256 only."""
    ids = [key + 1000 for key in range(6)]
    items = [m for m in graph.keyframes.values() if m.id < 7]
    new = [
        replace(m, keyframe=replace(m.keyframe, id=key)) for m, key in zip(items, ids, strict=True)
    ]
    large = KeyframeGraph().with_window(new, graph.scale, OdometryTrack(), 0.02)
    left = large.without([int("1002"), int("1005")])
    assert list(left.keyframes) == list(left.overlap) == [1000, 1001, 1003, 1004]
    assert {(e.a, e.b) for e in left.edges} == {(1000, 1001), (1001, 1003), (1003, 1004)}


def test_a_resized_map_is_larger_by_the_window_that_each_keyframe_came_with(
    graph: KeyframeGraph,
) -> None:
    """Also what the next window is joined to, and the history of the sizes."""
    logs = np.log([2.0, 1.5, 0.5])
    larger, factors = graph.resized(logs, np.zeros(3)), graph.factors(logs)
    by_window = {**dict.fromkeys(range(6), 2.0), **dict.fromkeys(range(6, 9), 1.5)}
    by_window |= dict.fromkeys(range(9, 12), 0.5)
    assert factors == pytest.approx({k: f for k, f in by_window.items() if k != 4})
    for key, item in larger.keyframes.items():
        same = graph.keyframes[key]
        np.testing.assert_allclose(item.points_cam, factors[key] * same.points_cam, rtol=1e-6)
        np.testing.assert_allclose(
            item.pointmap.points_cam, factors[key] * same.pointmap.points_cam, rtol=1e-6
        )
    for key, points in larger.overlap.items():
        np.testing.assert_allclose(points.points_cam, factors[key] * graph.overlap[key].points_cam)
    sizes = [w.log_scale for w in graph.scale.history.windows]
    assert [w.log_scale for w in larger.scale.history.windows] == pytest.approx(sizes + logs)


def test_keyframes_that_leave_are_no_end_to_join_to(graph: KeyframeGraph) -> None:
    assert list(graph.overlap) == [6, 7, 8, 9, 10, 11]
    left = graph.without([7, 9])
    assert list(left.overlap) == [6, 8, 10, 11]
    assert [k.id for k in left.overlap_keyframes] == [6, 8, 10, 11]
    assert np.array_equal(left.path().stamps_ns, graph.path().stamps_ns)
    assert set(left.driven_path.hosts.ravel().tolist()) <= set(left.keyframes)


# One keyframe


def seen() -> MapKeyframe:
    rng = np.random.default_rng(0)
    points = rng.uniform((-1, -1, 1), (1, 1, 4), (50, 3)).astype(np.float32)
    dense = rng.uniform((-1, -1, 1), (1, 1, 4), (6, 8, 3)).astype(np.float32)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    return MapKeyframe(
        keyframe=None, T_map_cam=make_se3(turn, np.array([3.0, 2, 1])), stored_cam=points,
        colors_rgb=np.zeros((50, 3), np.uint8), conf=np.ones(50, np.float32),
        pointmap=Pointmap(dense, np.full((6, 8), 2.0, np.float32)),
    )  # type: ignore[arg-type] # fmt: skip


def test_sizes_multiply_and_levels_replace_each_other() -> None:
    item, before = seen(), pickle.dumps(seen())
    made = item.resized(2.0).levelled(1.5).levelled(1.25).resized(0.8)
    np.testing.assert_allclose(made.points_cam, 2.0 * item.stored_cam, rtol=1e-6)
    # windows are joined to what was seen, not to what is drawn
    np.testing.assert_allclose(made.pointmap.points_cam, 1.6 * item.pointmap.stored_cam, rtol=1e-6)
    assert made.points_cam.dtype == made.pointmap.points_cam.dtype == np.float32
    assert item.points_cam is made.stored_cam is item.stored_cam
    assert item.pointmap.points_cam is made.pointmap.stored_cam is item.pointmap.stored_cam
    assert pickle.dumps(item) == before


def test_points_in_the_map_are_those_of_the_camera_at_its_pose() -> None:
    item = seen().resized(2.0)
    expected = [
        item.T_map_cam[:3, :3] @ (2.0 * p.astype(float)) + item.T_map_cam[:3, 3]
        for p in item.stored_cam
    ]
    np.testing.assert_allclose(item.points_map(), expected, atol=1e-5)


def test_ranges_are_those_of_the_size_and_the_level() -> None:
    item = seen()
    rays = invert_se3(item.T_map_cam)[:3, :3].T @ np.array([[0.0, 0, 5.0], [0.5, 0.2, 4.0]]).T
    places = rays.T + item.T_map_cam[:3, 3]
    near, off_m = item.ranges_to(places)
    far, _ = item.resized(2.0).levelled(1.5).ranges_to(places)
    assert np.isfinite(near).any()
    np.testing.assert_allclose(far, 3.0 * near, rtol=1e-5)
    np.testing.assert_allclose(off_m, np.linalg.norm(rays, axis=0))


def test_a_keyframe_drawn_as_another_window_saw_it_stays_where_it_is() -> None:
    item = seen().resized(3.0)
    other = replace(
        seen(), stored_cam=np.ones((2, 3), np.float32), T_map_cam=np.eye(4), size=0.5, level=1.2,
        window=7, sized_by=9,
    )  # fmt: skip
    made = item.drawn_as(other)
    assert np.array_equal(made.points_cam, other.points_cam)
    assert (made.window, made.sized_by) == (7, 0)
    assert made.T_map_cam is item.T_map_cam
    assert made.pointmap is item.pointmap
