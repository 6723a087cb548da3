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

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from map_world import SAW_NOTHING, grown
from mvdust3r_ros.atlas.revision import Revision
from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import BoolArray, FloatArray, Frame, Keyframe, View
from mvdust3r_ros.geometry import R_BODY_OPTICAL, invert_se3, make_se3
from mvdust3r_ros.graph import driven_path
from mvdust3r_ros.graph.driven_path import MAX_PLACES, DrivenPath, Host, OdometryTrack
from mvdust3r_ros.graph.map_keyframe import MapKeyframe


def rotation_z(yaw: float) -> FloatArray:
    return np.asarray(Rotation.from_euler("z", yaw).as_matrix())


IMAGE = np.zeros((16, 16, 3), np.uint8)
T_BASE_CAM = make_se3(R_BODY_OPTICAL, np.array([0.2, 0.0, 0.6]))
T_MAP_ODOM = make_se3(rotation_z(0.4), np.array([3.0, -1.0, 0.0]))
SECOND = 1_000_000_000
RULE = MapSettings(robot_radius_m=0.2)


def base(x: float, y: float = 0.0, yaw: float = 0.0) -> FloatArray:
    """T_odom_base on the floor."""
    return make_se3(rotation_z(yaw), np.array([x, y, 0.0]))


def frame(stamp_s: float, T: FloatArray) -> Frame:
    """With the robot at a (4, 4) pose in the odometry frame."""
    return Frame(int(stamp_s * SECOND), IMAGE, T_odom_cam=T @ T_BASE_CAM, T_odom_base=T)


def T_odom_base(of: Frame) -> FloatArray:  # noqa: N802
    assert of.T_odom_base is not None
    return of.T_odom_base


def mapped(key: int, of: Frame, T_map_odom: FloatArray = T_MAP_ODOM) -> MapKeyframe:
    """A keyframe of a frame, without points, where odometry puts it."""
    assert of.T_odom_cam is not None
    view = View(IMAGE, T_odom_cam=of.T_odom_cam, T_odom_base=of.T_odom_base)
    nothing = np.zeros((0, 3), np.float32)
    return MapKeyframe(
        Keyframe(key, of.stamp_ns, view, "camera"), T_map_odom @ of.T_odom_cam,
        nothing, nothing.astype(np.uint8), nothing[:, 0], SAW_NOTHING,
    )  # fmt: skip


def bend(count: int = 41) -> list[Frame]:
    """A quarter of a circle of 2 m from (0, 0) to (2, 2), a frame every 8 cm."""
    turns = np.linspace(0, np.pi / 2, count)
    return [frame(0.1 * k, base(2 * np.sin(a), 2 - 2 * np.cos(a), a)) for k, a in enumerate(turns)]


def driven(frames: list[Frame], keys: tuple[int, ...], rule: MapSettings = RULE) -> Revision:
    """A map that saw all frames, of which some are keyframes without points."""
    new = [mapped(k, frames[k]) for k in keys]
    return grown(Revision.empty(rule), new, track_of(frames))


def track_of(frames: list[Frame]) -> OdometryTrack:
    track = OdometryTrack()
    for one in frames:
        track.add(one)
    return track


def moved(revision: Revision, poses: dict[int, FloatArray]) -> Revision:
    graph = revision.graph.at(poses)
    return replace(revision, graph=graph, drawing=revision.drawing.of(graph))


def free_at(revision: Revision, places: FloatArray) -> BoolArray:
    """Whether the cells of places (N, 3) are free."""
    assert revision.drawing.grid is not None
    grid = revision.drawing.grid.grid()
    cells = np.floor((places[:, :2] - grid.origin_xy_m) / grid.resolution_m).astype(int)
    inside = np.all((cells >= 0) & (cells < grid.cells.shape[::-1]), axis=1)
    col, row = np.where(inside[:, None], cells, 0).T
    free: BoolArray = inside & (grid.cells[row, col] == 0)
    return free


def in_map(frames: list[Frame], T_map_odom: FloatArray = T_MAP_ODOM) -> FloatArray:
    bases = [T_map_odom @ T_odom_base(f) for f in frames]
    return np.stack(bases)[:, :3, 3]


def test_the_path_between_keyframes_is_free_as_wide_as_the_robot() -> None:
    """Keyframes at both ends of a bend: the chord between them was not driven."""
    frames = bend()
    revision = driven(frames, (0, 40))
    path = in_map(frames)
    assert free_at(revision, path).all()
    outwards = np.array([T_MAP_ODOM[:3, :3] @ T_odom_base(f)[:3, 1] for f in frames])
    for side_m in (-0.2, 0.2):
        assert free_at(revision, path + side_m * outwards).all()
    for side_m in (-0.35, 0.35):
        assert not free_at(revision, path + side_m * outwards).any()
    assert not free_at(revision, (path[:1] + path[-1:]) / 2).any()


def test_a_camera_whose_place_on_a_robot_is_not_known_frees_nothing() -> None:
    frames = [replace(f, T_odom_base=None) for f in bend()]
    revision = driven(frames, (0, 20, 40))
    assert revision.drawing.grid is not None
    assert not (revision.drawing.grid.grid().cells == 0).any()
    assert len(revision.graph.driven_path) == 0


@pytest.mark.parametrize(("height_m", "free"), [(0.0, True), (0.3, True), (0.9, False)])
def test_what_flies_or_is_worn_frees_nothing_on_the_floor(height_m: float, free: bool) -> None:
    up = make_se3(np.eye(3), np.array([0.0, 0.0, height_m]))
    frames = [frame(f.stamp_ns / SECOND, up @ T_odom_base(f)) for f in bend()]
    revision = driven(frames, (0, 20, 40), replace(RULE, camera_height_m=0.6 + height_m))
    assert free_at(revision, in_map(frames))[2:-2].all() == free


def test_the_path_moves_with_the_keyframes() -> None:
    frames = bend()
    revision = driven(frames, (0, 20, 40))
    elsewhere = make_se3(rotation_z(-0.3), np.array([0.5, 2.0, 0.0]))
    revision = moved(revision, {key: elsewhere @ T for key, T in revision.graph.poses.items()})
    assert free_at(revision, in_map(frames, elsewhere @ T_MAP_ODOM)).all()
    assert not free_at(revision, in_map(frames)).all()


def test_a_correction_is_shared_out_along_the_path() -> None:
    """The keyframe at the end is half a metre off: the path in between leads there."""
    frames = [frame(0.1 * k, base(0.1 * k)) for k in range(31)]
    revision = driven(frames, (0, 30))
    poses = {key: T.copy() for key, T in revision.graph.poses.items()}
    side = T_MAP_ODOM[:3, :3] @ np.array([0.0, 0.5, 0.0])
    poses[30][:3, 3] += side
    revision = moved(revision, poses)
    expected = in_map(frames) + np.linspace(0, 1, 31)[:, None] * side
    assert free_at(revision, expected).all()
    off = np.linalg.norm(
        revision.graph.driven_path.places(poses)[:, None] - expected, axis=-1
    ).min(0)
    assert off.max() < 0.06


def test_the_path_stays_when_keyframes_of_a_place_are_let_go() -> None:
    frames = bend()
    revision = driven(frames, tuple(range(0, 41, 5)))
    graph = revision.graph.without({5, 10, 15, 30})
    before = revision.graph.driven_path.places(revision.graph.poses)
    np.testing.assert_allclose(graph.driven_path.places(graph.poses), before, atol=1e-9)
    aside = make_se3(np.eye(3), np.array([1.0, 0, 0]))
    fewer = replace(revision, graph=graph, drawing=revision.drawing.rebuilt(graph))
    revision = moved(fewer, {k: aside @ T for k, T in graph.poses.items()})
    assert free_at(revision, in_map(frames) + np.array([1.0, 0.0, 0.0])).all()


def test_windows_that_leave_the_map_take_their_path_along_and_the_next_one_brings_it_back() -> (
    None
):
    frames = bend()
    first, track = driven(frames, (0, 10)), track_of(frames)
    more = grown(first, [mapped(k, frames[k]) for k in (20, 30)], track)
    revision = replace(more, undo=(first.graph,)).undone(1)
    assert free_at(revision, in_map(frames[:11])).all()
    assert not free_at(revision, in_map(frames[16:])).any()
    revision = grown(revision, [mapped(k, frames[k]) for k in (25, 40)], track)
    assert free_at(revision, in_map(frames)).all()


def test_where_odometry_jumps_nothing_is_invented() -> None:
    frames = [frame(0.1 * k, base(0.1 * k)) for k in range(11)]
    frames += [frame(1.0 + 0.1 * k, base(3.0 + 0.1 * k)) for k in range(1, 11)]
    revision = driven(frames, (0, 10, 11, 20))
    assert free_at(revision, in_map(frames)).all()
    gap = in_map([frame(0, base(x)) for x in np.arange(1.5, 2.7, 0.1)])
    assert not free_at(revision, gap).any()


def test_a_path_that_the_map_contradicts_is_left_out() -> None:
    frames = [frame(0.1 * k, base(0.1 * k)) for k in range(21)]
    far = make_se3(np.eye(3), np.array([0.0, 4.0, 0.0]))
    ends = [mapped(0, frames[0]), mapped(20, frames[20], far @ T_MAP_ODOM)]
    track = OdometryTrack()
    for one in frames:
        track.add(one)
    hosts = [Host.of(m.keyframe, m.T_map_cam) for m in ends]
    assert hosts[1] is not None
    assert len(DrivenPath.stretch(hosts[0], hosts[1], track)) == 0


def test_time_that_jumps_back_begins_anew() -> None:
    track = OdometryTrack()
    for k in range(5):
        track.add(frame(100 + k, base(k)))
    track.add(frame(3, base(50.0)))
    assert [p[0] for p in track.between(0, 200 * SECOND)] == [50.0]


def test_neither_a_robot_that_stands_nor_one_that_is_lost_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driven_path, "MAX_FRAMES", 50)
    track = OdometryTrack()
    for k in range(100):
        track.add(frame(k, base(0.01 * (k % 2))))
    assert len(track.between(-1, 100 * SECOND)) == 1
    for k in range(100):
        track.add(frame(100 + k, base(0.1 * k)))
    assert len(track.between(-1, 1000 * SECOND)) == 50


def test_a_robot_that_drives_to_and_fro_for_days_fills_no_memory() -> None:
    rng = np.random.default_rng(0)
    count = MAX_PLACES + 5
    spots = np.column_stack([rng.uniform(0, 3, (count, 2)), np.zeros(count)])
    path = DrivenPath(
        np.arange(count), np.zeros((count, 2), np.int64), np.zeros(count),
        np.repeat(spots[:, None], 2, 1),
    )  # fmt: skip
    poses = {0: np.eye(4)}
    kept = path.bounded(poses)
    assert len(kept) <= 31**2
    assert kept.until[-1] == count - 1
    assert (np.diff(kept.until) > 0).all()
    off = np.linalg.norm(kept.places(poses)[None] - spots[:500, None], axis=-1).min(1)
    assert off.max() < 0.15
    assert kept.bounded(poses) is kept


def test_what_lies_outside_the_map_is_forgotten() -> None:
    frames = [frame(0.1 * k, base(0.1 * k)) for k in range(61)]
    revision = driven(frames, tuple(range(0, 61, 10)), replace(RULE, radius_m=2.0))
    newest = revision.graph.poses[60][:3, 3]
    near = revision.within(newest, 2.0)
    places = near.graph.driven_path.places(near.graph.poses)
    assert np.linalg.norm(places - newest, axis=1).max() <= 2.0
    assert free_at(near, in_map(frames)).all()
    assert free_at(replace(near, drawing=near.drawing.rebuilt(near.graph)), in_map(frames)).all()


def wall(x: float, y: float) -> FloatArray:
    """Points of something 0.4 m wide in the band, before a camera that looks along x."""
    y_m, z_m = np.meshgrid(np.arange(y - 0.2, y + 0.2, 0.02), np.arange(0.2, 1.0, 0.02))
    return np.column_stack([np.full(y_m.size, x), y_m.ravel(), z_m.ravel()])


def seeing(item: MapKeyframe, points_map: FloatArray) -> MapKeyframe:
    T = invert_se3(item.T_map_cam)
    cam = (points_map @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
    return replace(
        item, stored_cam=cam, colors_rgb=np.zeros(cam.shape, np.uint8),
        conf=np.full(len(cam), 5, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("redrawn", [False, True])
def test_only_what_is_seen_after_the_drive_wins_over_it(later: bool, redrawn: bool) -> None:
    """A box on the path is carried off before the robot comes, or put there when it has left."""
    rule = replace(RULE, camera_height_m=0.6)
    there = [frame(0.1 * k, base(0.1 * k)) for k in range(31)]
    back = [frame(4 + 0.1 * k, base(3.0 - 0.1 * k)) for k in range(16)]
    frames = [*there, *back]
    revision, track, T = Revision.empty(rule), track_of(frames), np.eye(4)
    box = wall(1.0, 0.0)
    looks = {
        k: seeing(mapped(k, frames[k], T), box) for k in ((44, 45, 46) if later else (0, 1, 2))
    }
    plain = {k: mapped(k, frames[k], T) for k in (10, 20, 30)}
    items = [item for _, item in sorted({**plain, **looks}.items())]
    for some in (items[:3], items[3:]):
        revision = grown(revision, some, track)
    if redrawn:
        revision = replace(revision, drawing=revision.drawing.rebuilt(revision.graph))
    assert free_at(revision, in_map(there, T)).all() != later
    assert free_at(revision, np.array([[0.97, 0.0, 0.0], [1.02, 0.0, 0.0]])).all() != later


def test_the_cells_of_a_path_do_not_depend_on_where_windows_end() -> None:
    frames = bend()
    whole = driven(frames, (0, 10, 20, 30, 40)).drawing
    parts, track = Revision.empty(RULE), track_of(frames)
    for a, b in pairwise((0, 2, 3, 5)):
        new = [mapped(k, frames[k]) for k in (0, 10, 20, 30, 40)[a:b]]
        parts = grown(parts, new, track)
    assert whole.grid is not None
    assert parts.drawing.grid is not None
    np.testing.assert_array_equal(whole.grid.grid().cells, parts.drawing.grid.grid().cells)
