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

import numpy as np
import pytest

from box_room import BoxRoom
from map_world import SAW_NOTHING, map_of
from mvdust3r_ros.config import MapperConfig, MapSettings, with_values
from mvdust3r_ros.datatypes import Keyframe, ScaleSource, View
from mvdust3r_ros.drawing.occupancy import OccupancyMap
from mvdust3r_ros.drawing.voxel_map import VoxelMap
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.graph.forgetting import seen_often
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.mapper import Mapper

HW = (72, 96)
CONFIG = with_values(
    MapperConfig(),
    {
        "keyframes.window_size": 6, "keyframes.window_overlap": 3, "keyframes.min_sharpness": 0.0,
        "keyframes.max_interval_s": 0.1, "map.min_hits": 1,
    },
)  # fmt: skip


def test_voxels_outside_a_sphere_are_forgotten_and_the_others_stay() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-3, 3, (4000, 3)).astype(np.float32)
    voxels = VoxelMap(0.05)
    voxels.integrate(points, np.zeros((4000, 3), np.uint8), np.full(4000, 3.0))
    before = voxels.cloud()[0]
    voxels.keep_within(np.array([1.0, 0, 0]), 2.0)
    after = voxels.cloud()[0]
    near = np.linalg.norm(before - [1, 0, 0], axis=1) <= 2.0
    assert np.array_equal(after, before[near])
    voxels.integrate(points[:1], np.zeros((1, 3), np.uint8), np.full(1, 3.0))
    assert len(voxels) == len(voxels.cloud()[0])


@pytest.mark.parametrize("inside", [False, True])
def test_a_grid_takes_over_the_cells_beyond_or_within_a_circle(inside: bool) -> None:
    settings = MapSettings(min_hits=1)
    old, new = OccupancyMap(settings, 0.0), OccupancyMap(settings, 0.0)
    wall = np.stack([np.full(80, 3.0), np.linspace(-2, 2, 80), np.full(80, 0.5)], 1)
    old.add_view(np.array([0.0, 0.0, 0.6]), wall)
    new.copy_region(old, np.array([0.0, 0.0, 0.6]), 1.5, inside=inside)
    a, b = old.grid(), new.grid()
    assert a.origin_xy_m == b.origin_xy_m
    rows, cols = np.indices(a.cells.shape)
    x, y = ((n + 0.5) * 0.05 + o for n, o in zip((cols, rows), a.origin_xy_m, strict=True))
    chosen = (np.hypot(x, y) > 1.5) != inside
    assert np.array_equal(b.cells[chosen], a.cells[chosen])
    assert (b.cells[~chosen] == -1).all()


def run(room: BoxRoom, **values: object) -> Mapper:
    config = with_values(CONFIG, {f"map.{k}": v for k, v in values.items()})
    mapper = Mapper(config, OracleEngine(HW))
    for frame in room.frames(room.walk(24)):
        mapper.process(frame)
    return mapper


@pytest.mark.slow
def test_keyframes_far_from_the_camera_are_forgotten_but_not_their_cells(room: BoxRoom) -> None:
    everything, near = run(room).snapshot(), run(room, radius_m=2.5).snapshot()
    camera = everything.trajectory.T_world_cam[-1, :3, 3]
    centres = near.trajectory.T_world_cam[:, :3, 3]
    assert 0 < len(near.trajectory) < len(everything.trajectory)
    assert np.linalg.norm(centres - camera, axis=1).max() <= 2.5
    assert len(near.points_map) < len(everything.points_map)
    known = [(s.grid.cells != -1).sum() for s in (everything, near)]
    assert known[1] > 0.95 * known[0]
    forgotten = run(room, radius_m=2.5, forget_outside=True).snapshot()
    assert (forgotten.grid.cells != -1).sum() < 0.8 * known[0]


def at(key: int, x_m: float) -> MapKeyframe:
    """A keyframe without points."""
    nothing = np.zeros((0, 3), np.float32)
    view = View(np.zeros((4, 4, 3), np.uint8))
    return MapKeyframe(
        Keyframe(key, key, view, "camera"), make_se3(np.eye(3), np.array([x_m, 0.0, 0.5])),
        nothing, nothing.astype(np.uint8), nothing[:, 0], SAW_NOTHING,
    )  # fmt: skip


@pytest.mark.parametrize(("count", "gone"), [(1, 0), (7, 0), (12, 0), (13, 1), (20, 8)])
def test_a_place_keeps_its_oldest_and_newest_keyframes_and_loses_none_before_it_has_enough(
    count: int, gone: int
) -> None:
    elsewhere = [at(100 + k, 5.0) for k in range(15)]
    here = [at(200 + k, 0.01 * k) for k in range(count)]
    graph = map_of([*elsewhere, *here]).graph
    left = seen_often(graph, here[-1:], keep=set(), most=12)
    assert left == {201 + k for k in range(gone)}
    assert len(graph.without(left).keyframes) == 15 + count - gone


def test_keyframes_that_may_still_be_undone_stay() -> None:
    here = [at(k, 0.0) for k in range(6)]
    assert seen_often(map_of(here).graph, here[-1:], keep={1, 4, 5}, most=2) == {2, 3}


@pytest.mark.slow
def test_a_camera_that_stays_in_one_place_does_not_fill_the_memory(room: BoxRoom) -> None:
    """What the forgotten keyframes saw stays, and so does the path."""
    few = with_values(CONFIG, {"map.keyframes_per_place": 4, "loop.enabled": False})
    bounded, unbounded = (
        Mapper(with_values(few, values), OracleEngine(HW))
        for values in ({}, {"map.keyframes_per_place": 0})
    )
    path = room.walk(12, turns=0.1) * 6
    for mapper in (bounded, unbounded):
        for frame in room.frames(path):
            mapper.process(frame)
    kept, everything = (len(m.mapped_keyframes()) for m in (bounded, unbounded))
    assert everything == len(path)
    assert kept < 40
    a, b = bounded.snapshot(), unbounded.snapshot()
    np.testing.assert_array_equal(a.trajectory.stamps_ns, b.trajectory.stamps_ns)
    np.testing.assert_allclose(a.trajectory.T_world_cam, b.trajectory.T_world_cam, atol=1e-9)
    np.testing.assert_array_equal(a.grid.cells, b.grid.cells)
    assert len(a.points_map) == len(b.points_map)
    _, stored = bounded.saved()
    assert len(stored.keyframes) == kept
    assert len(stored.edges) == kept - 1
    keyframes = bounded.now.graph.keyframes
    assert len(keyframes) == len(bounded.now.drawing.drawn) == kept
    assert all(len(m.descriptor.vector) and m.floor_z_m is not None for m in keyframes.values())


def test_camera_height_alone_makes_metres(room: BoxRoom) -> None:
    config = with_values(CONFIG, {"map.camera_height_m": 1.3})
    mapper = Mapper(config, OracleEngine(HW, OracleNoise(points=0.01, scale=0.5, seed=3)))
    frames = [replace(f, T_world_cam=f.T_odom_cam) for f in room.frames(room.walk(24))]
    updates = [mapper.process(replace(f, T_odom_cam=None)) for f in frames]
    first = next(u for u in updates if u is not None)
    assert first.gate_open
    assert first.gate_hint == ""
    snapshot = mapper.snapshot()
    assert snapshot.scale.source == ScaleSource.CAMERA_HEIGHT
    T = np.stack([f.T_world_cam for f in frames])[: len(snapshot.trajectory), :3, 3]
    way = [np.linalg.norm(np.diff(c, axis=0), axis=1).sum()
           for c in (snapshot.trajectory.T_world_cam[:, :3, 3], T)]  # fmt: skip
    assert way[0] == pytest.approx(way[1], rel=0.05)


def test_depth_images_make_metres_when_asked(room: BoxRoom) -> None:
    config = with_values(CONFIG, {"stitch.use_depth": True})
    mapper = Mapper(config, OracleEngine(HW, OracleNoise(points=0.01, scale=0.5, seed=3)))
    for f in room.frames(room.walk(12)):
        mapper.process(replace(f, T_odom_cam=None, T_world_cam=f.T_odom_cam))
    snapshot = mapper.snapshot()
    assert snapshot.scale.source == ScaleSource.DEPTH
    truth = np.stack(room.walk(12))
    way = [
        np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1).sum()
        for T in (snapshot.trajectory.T_world_cam, truth)
    ]
    assert way[0] == pytest.approx(way[1], rel=0.02)


def test_without_evidence_the_gate_stays_shut_and_says_why(room: BoxRoom) -> None:
    mapper = Mapper(CONFIG, OracleEngine(HW, OracleNoise(scale=0.5, seed=3)))
    for f in room.frames(room.walk(12)):
        mapper.process(replace(f, T_odom_cam=None, T_world_cam=f.T_odom_cam))
    snapshot = mapper.snapshot()
    assert len(snapshot.trajectory) == 12
    assert not snapshot.gate_open
    assert "nothing gives metres" in snapshot.gate_hint


def test_what_is_kept_of_a_keyframe_holds_no_more_than_that_in_memory(room: BoxRoom) -> None:
    """A slice of the network's output would keep all of it."""
    mapper = run(room)
    graph = mapper.now.graph
    kept = [a for seen in graph.overlap.values() for a in (seen.stored_cam, seen.conf)]
    for item in graph.keyframes.values():
        view = item.keyframe.view
        kept += [item.stored_cam, item.colors_rgb, item.conf, view.image_rgb, view.depth_m]
        kept += [item.pointmap.stored_cam, item.pointmap.conf]
    assert len(kept) > 100
    for array in kept:
        held = array
        while isinstance(held.base, np.ndarray):
            held = held.base
        assert held.nbytes <= 2 * array.nbytes
