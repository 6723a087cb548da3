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

"""A bad window that got into the map leaves it again when good ones contradict it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from box_room import BoxRoom
from mvdust3r_ros.atlas.reconsider import joint_keyframes
from mvdust3r_ros.atlas.revision import Revision
from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import (
    Frame,
    Keyframe,
    MapUpdate,
    Verdict,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.metrics.map_metrics import absolute_errors
from mvdust3r_ros.evaluation.trials.apartment_drives import CORRUPTIONS, corrupt_prediction
from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.mapper import Mapper

HW = (72, 96)
STRICT = with_values(
    MapperConfig(),
    {
        "keyframes.window_size": 6, "keyframes.window_overlap": 3, "keyframes.min_sharpness": 0.0,
        "keyframes.max_interval_s": 0.1, "map.min_hits": 1, "loop.enabled": False,
    },
)  # fmt: skip
LOOSE = with_values(
    STRICT,
    {
        "stitch.max_residual": 1e3, "stitch.max_scale_change": 1e6, "pose.reprojection_px": 200.0,
        "stitch.max_odom_translation": 1e6, "stitch.max_odom_rotation_deg": 1e6,
    },
)  # fmt: skip


class Engine(OracleEngine):
    """The oracle, corrupted on demand."""

    def __init__(self) -> None:
        super().__init__(HW, OracleNoise(points=0.01, scale=0.3, seed=4))
        self.kind = ""
        self.decoded = 0

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        self.decoded += 1
        good = super().decode(tokens, n_ref)
        return corrupt_prediction(good, self.kind, np.random.default_rng(1)) if self.kind else good


@pytest.fixture(scope="module")
def frames(room: BoxRoom) -> list[Frame]:
    return room.frames(room.walk(24))


def run(mapper: Mapper, frames: list[Frame]) -> list[MapUpdate]:
    return [u for u in (mapper.process(f) for f in frames) if u is not None]


def started(frames: list[Frame], config: MapperConfig = STRICT) -> tuple[Mapper, Engine]:
    """Three good windows."""
    engine = Engine()
    mapper = Mapper(config, engine)
    assert [u.verdict for u in run(mapper, frames[:12])] == [Verdict.COMMITTED] * 3
    return mapper, engine


def let_in(mapper: Mapper, engine: Engine, frames: list[Frame], kind: str) -> None:
    """A bad window while odometry is silent, past checks that are switched off."""
    engine.kind = kind
    mapper.reconfigure(LOOSE)
    blind = [replace(f, T_odom_cam=None, T_world_cam=f.T_odom_cam) for f in frames]
    assert [u.verdict for u in run(mapper, blind)] == [Verdict.COMMITTED]
    engine.kind = ""
    mapper.reconfigure(STRICT)


def error_m(mapper: Mapper, frames: list[Frame]) -> float:
    s = mapper.snapshot()
    truth = replace(
        s.trajectory,
        stamps_ns=np.array([f.stamp_ns for f in frames], np.int64),
        T_world_cam=np.stack([f.T_odom_cam for f in frames]),
    )
    return absolute_errors(s.trajectory, truth, "none").rmse_m


@pytest.mark.parametrize("kind", ["scale", "pose"])
@pytest.mark.slow
def test_a_bad_window_leaves_when_the_next_good_one_contradicts_it(
    frames: list[Frame], kind: str
) -> None:
    mapper, engine = started(frames)
    good = {k.id for k in mapper.mapped_keyframes()}
    let_in(mapper, engine, frames[12:15], kind)
    assert error_m(mapper, frames) > 0.3
    (update,) = run(mapper, frames[15:18])
    assert update.verdict == Verdict.COMMITTED
    assert update.rolled_back == 1
    assert update.message.startswith("1 window left the map: ")
    assert mapper.rolled_back == 1
    assert error_m(mapper, frames) < 0.05
    left = {k.id for k in mapper.mapped_keyframes()}
    assert good <= left
    updates = run(mapper, frames[18:])
    assert {u.verdict for u in updates} == {Verdict.COMMITTED}
    assert error_m(mapper, frames) < 0.05


def test_nothing_of_a_window_that_left_stays(frames: list[Frame]) -> None:
    mapper, engine = started(frames)
    before = mapper.now
    voxels, cells = before.drawing.voxels.cloud(), before.drawing.grid.grid().cells
    let_in(mapper, engine, frames[12:15], "pose")
    assert len(mapper.now.drawing.voxels) > len(voxels[0])
    assert mapper.now.undo[-1] is before.graph
    undone = mapper.now.undone(1)
    assert undone.graph is before.graph
    assert undone.undo == before.undo
    for old, new in zip(voxels, undone.drawing.voxels.cloud(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(undone.drawing.grid.grid().cells, cells)
    assert set(undone.drawing.drawn) == set(before.graph.keyframes)


def lifted(revision: Revision) -> KeyframeGraph:
    return revision.graph.higher(0.4)


def resized(revision: Revision) -> KeyframeGraph:
    graph = revision.graph
    same = np.full(len(graph.scale.history.corrections()), np.log(1.5))
    return graph.resized(same, np.zeros(3))


def turned(revision: Revision) -> KeyframeGraph:
    """As a loop may move a map."""
    T = make_se3(Rotation.from_euler("z", 0.3).as_matrix(), np.array([0.5, 0.2, 0.0]))
    return revision.graph.at({key: T @ pose for key, pose in revision.graph.poses.items()})


@pytest.mark.parametrize("corrected", [lifted, resized, turned])
def test_a_correction_since_puts_no_window_elsewhere(
    frames: list[Frame], corrected: Callable[[Revision], KeyframeGraph]
) -> None:
    now = started(frames)[0].now
    later = replace(now, graph=corrected(now))
    moved = [later.graph.keyframes[k].T_map_cam for k in now.suspects(1)]
    assert not np.allclose(moved, [m.T_map_cam for m in now.suspects(1).values()], atol=0.05)
    for key, item in later.suspects(1).items():
        then = now.graph.keyframes[key]
        np.testing.assert_allclose(item.T_map_cam, then.T_map_cam, atol=2e-3)
        np.testing.assert_allclose(
            item.pointmap.points_cam, then.pointmap.points_cam, rtol=1e-3, atol=1e-3
        )


def test_undoing_puts_the_floor_back_too(frames: list[Frame]) -> None:
    now = started(frames)[0].now
    floor_z_m = now.undone(1).drawing.floor_z_m
    graph = now.graph.higher(0.4)
    later = replace(now, graph=graph, drawing=now.drawing.rebuilt(graph, floor_z_m + 0.4))
    cell_m = STRICT.map.grid_resolution_m  # a floor within a cell is that of the grid
    assert later.undone(1).drawing.floor_z_m == pytest.approx(floor_z_m, abs=cell_m)


def test_a_reset_while_windows_are_doubted_takes_none_out(
    frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    mapper, engine = started(frames)
    let_in(mapper, engine, frames[12:15], "pose")
    undone = Revision.undone

    def reset_meanwhile(revision: Revision, count: int) -> Revision:
        mapper.reset()
        return undone(revision, count)

    monkeypatch.setattr(Revision, "undone", reset_meanwhile)
    (update,) = run(mapper, frames[15:18])
    assert (update.verdict, update.rolled_back) == (Verdict.REJECTED_STALE, 0)
    assert mapper.rolled_back == 0
    assert mapper.mapped_keyframes() == []


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.slow
def test_a_bad_window_never_takes_good_ones_out(frames: list[Frame], kind: str) -> None:
    mapper, engine = started(frames)
    kept = {k.id for k in mapper.mapped_keyframes()}
    engine.kind = kind
    (update,) = run(mapper, frames[12:15])
    assert update.verdict != Verdict.COMMITTED
    assert update.rolled_back == 0
    assert {k.id for k in mapper.mapped_keyframes()} == kept
    engine.kind = ""
    updates = run(mapper, frames[15:])
    assert {u.verdict for u in updates} == {Verdict.COMMITTED}
    assert error_m(mapper, frames) < 0.05


def test_only_the_last_commits_can_leave(frames: list[Frame]) -> None:
    never = with_values(STRICT, {"stitch.rollback_windows": 0})
    mapper, engine = started(frames, never)
    let_in(mapper, engine, frames[12:15], "pose")
    mapper.reconfigure(never)
    decoded = engine.decoded
    updates = run(mapper, frames[15:])
    assert {u.rolled_back for u in updates} == {0}
    assert mapper.rolled_back == 0
    assert engine.decoded == decoded + len(updates)


def test_a_joint_window_holds_each_keyframe_once() -> None:
    """Windows of few new views end with keyframes of the window before."""
    view = View(np.zeros((4, 4, 3), np.uint8))
    keyframes = [Keyframe(i, i, view, "camera") for i in range(12)]
    anchors, own = keyframes[:6], keyframes[4:12]
    joint = [k.id for k in joint_keyframes(anchors, own, overlap=4, size=8)]
    assert joint[:3] == [3, 4, 5]
    assert len(joint) == len(set(joint)) == 8
    assert joint[-1] == 11
    assert [k.id for k in joint_keyframes(anchors, own[:3], overlap=4, size=8)] == [3, 4, 5, 6]
