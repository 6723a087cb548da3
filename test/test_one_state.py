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

"""Whoever looks at the map from another thread finds each keyframe at one pose, whatever moves."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from box_room import BoxRoom, with_drift
from mvdust3r_ros.atlas.revision import Revision
from mvdust3r_ros.atlas.saved_map import stored_map
from mvdust3r_ros.atlas.session_file import StoredMap
from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import Frame, MapUpdate, Verdict, ViewTokens, WindowPrediction
from mvdust3r_ros.drawing.drawing import Drawing
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.trials.apartment_drives import corrupt_prediction
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.mapper import Mapper

HW = (72, 96)
COUNT = 36
PATIENCE_S = 20.0
CONFIG = with_values(
    MapperConfig(),
    {
        "keyframes.window_size": 6, "keyframes.window_overlap": 3, "keyframes.min_sharpness": 0.0,
        "keyframes.max_interval_s": 0.1, "map.min_hits": 1, "map.conf_quantile": 0.0,
        "map.pixel_stride": 1, "loop.min_gap": 12, "loop.min_windows": 1,
    },
)  # fmt: skip


class Engine(OracleEngine):
    """The oracle with noise; bad on demand, or less sure of the newest view."""

    def __init__(self, shy: bool = False) -> None:
        super().__init__(HW, OracleNoise(points=0.02, smooth=0.03, scale=0.3, seed=2))
        self.bad, self.shy = False, shy

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        good = super().decode(tokens, n_ref)
        if self.shy:
            good.conf[:, -1, : HW[0] // 2] = 1.0
        return corrupt_prediction(good, "pose", np.random.default_rng(1)) if self.bad else good


class Witness:
    """Looks at the map all the time; corrections wait until it has looked twice meanwhile."""

    def __init__(self, mapper: Mapper, sizes: bool) -> None:
        self.mapper = mapper
        self.sizes = sizes
        self.looks = 0
        self.faults: list[str] = []
        self.news = threading.Condition()
        self.stop = threading.Event()

    def watch(self) -> None:
        while not self.stop.is_set():
            try:
                now = self.mapper.now
                fault = contradiction(stored_map(now.graph, ""), self.sizes) or misdrawn(now)
            except Exception as error:  # noqa: BLE001 - reading must never raise
                fault = repr(error)
            with self.news:
                self.looks += 1
                if fault:
                    self.faults.append(fault)
                self.news.notify_all()
            self.stop.wait(0.01)

    def wait_for_looks(self) -> None:
        with self.news:
            enough = self.looks + 2
            assert self.news.wait_for(lambda: self.looks >= enough, PATIENCE_S)


def contradiction(stored: StoredMap, sizes: bool) -> str:
    """What does not fit together in a stored map; empty when all does.

    With `sizes` what is drawn of a keyframe has to be what windows are joined by, point by point.
    """
    for item in stored.keyframes:
        key = item.keyframe.id
        if sizes:
            thinned = item.points_cam.reshape(*HW, 3)[2::4, 2::4]
            if not np.allclose(item.dense_points_cam, thinned, rtol=1e-4):
                return f"keyframe {key} has points of two sizes"
    gone = {end for e in stored.edges for end in (e.a, e.b)} - {
        k.keyframe.id for k in stored.keyframes
    }
    return f"edges to keyframes that have left: {sorted(gone)}" if gone else ""


def misdrawn(now: Revision) -> str:
    """Which keyframe is drawn elsewhere than where it lies; empty when none is."""
    for key, drawn in now.drawing.drawn.items():
        off_m = np.linalg.norm((drawn.T_map_cam - now.graph.keyframes[key].T_map_cam)[:3, 3])
        if off_m > CONFIG.map.voxel_size_m / 2:  # as far as it need not be drawn again
            return f"keyframe {key} is drawn {off_m * 1e3:.1f} mm off the graph"
    return ""


@contextmanager
def witnessed(
    mapper: Mapper, monkeypatch: pytest.MonkeyPatch, settling: bool = False
) -> Iterator[Witness]:
    """Without `settling` each keyframe is drawn as its first window said."""
    witness = Witness(mapper, sizes=not settling)
    if not settling:
        monkeypatch.setattr(KeyframeGraph, "drawn_as", lambda graph, _: graph)
        monkeypatch.setattr(Revision, "levelled", lambda _, seen: list(seen))

    def slowly(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            drawing = method(*args, **kwargs)
            witness.wait_for_looks()
            return drawing

        return run

    monkeypatch.setattr(Drawing, "rebuilt", slowly(Drawing.rebuilt))
    thread = threading.Thread(target=witness.watch)
    thread.start()
    try:
        yield witness
    finally:
        witness.stop.set()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def drifting(room: BoxRoom) -> list[Frame]:
    """Twice around a room with odometry that turns 0.4 degrees too far in each frame."""
    return with_drift(room.frames(room.walk(COUNT, turns=2.0)), 0.4)


def stages(updates: list[MapUpdate | None]) -> set[str]:
    return {stage for u in updates if u is not None for stage in u.latency_ms}


@pytest.mark.parametrize(
    ("values", "corrections"),
    [
        ({}, {"loop", "resize", "level"}),
        ({}, {"loop", "level", "settle"}),
        ({"map.radius_m": 1.5, "map.keyframes_per_place": 1}, {"level"}),
    ],
    ids=["all", "settle", "forget"],
)
@pytest.mark.slow
def test_closures_resizes_levelling_and_forgetting_are_seen_whole(
    drifting: list[Frame],
    values: dict[str, Any],
    corrections: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapper = Mapper(with_values(CONFIG, values), Engine("settle" in corrections))
    monkeypatch.setattr("mvdust3r_ros.mapper.SETTLE_SHARE", 0.0)
    off_m = iter([0.0, 0.0, 0.0, 0.07])
    monkeypatch.setattr("mvdust3r_ros.atlas.revision.floor_off", lambda *_: next(off_m, 0.0))
    with witnessed(mapper, monkeypatch, "settle" in corrections) as witness:
        updates = [mapper.process(frame) for frame in drifting]
    assert corrections <= stages(updates)
    assert (mapper.snapshot().loop_closures > 0) == ("loop" in corrections)
    assert (len(mapper.mapped_keyframes()) < COUNT) == ("map.radius_m" in values)
    assert witness.faults == []


@pytest.mark.slow
def test_a_rollback_is_seen_whole(room: BoxRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = room.frames(room.walk(24))
    engine = Engine()
    mapper = Mapper(CONFIG, engine)
    anything = {
        "stitch.max_residual": 1e3, "stitch.max_scale_change": 1e6, "pose.reprojection_px": 200.0,
        "stitch.max_odom_translation": 1e6, "stitch.max_odom_rotation_deg": 1e6,
    }  # fmt: skip
    with witnessed(mapper, monkeypatch) as witness:
        updates = [mapper.process(frame) for frame in frames[:12]]
        engine.bad = True
        mapper.reconfigure(with_values(CONFIG, anything))
        blind = [replace(f, T_odom_cam=None, T_world_cam=f.T_odom_cam) for f in frames[12:15]]
        updates += [mapper.process(frame) for frame in blind]
        engine.bad = False
        mapper.reconfigure(CONFIG)
        updates += [mapper.process(frame) for frame in frames[15:]]
    assert [u.verdict for u in updates if u is not None] == [Verdict.COMMITTED] * 7
    assert mapper.rolled_back == 1
    assert witness.faults == []


@pytest.mark.slow
def test_what_is_saved_together_is_of_one_moment(drifting: list[Frame]) -> None:
    mapper = Mapper(CONFIG, Engine())
    faults, done = [], threading.Event()

    def save() -> None:
        while not done.is_set():
            snapshot, stored = mapper.saved()
            at = {k.keyframe.stamp_ns: k.T_map_cam for k in stored.keyframes}
            path = snapshot.trajectory
            drawn = dict(zip(path.stamps_ns.tolist(), path.T_world_cam, strict=True))
            if set(at) != set(drawn) or any(not np.array_equal(at[t], drawn[t]) for t in at):
                faults.append(len(at))
            done.wait(0.01)

    thread = threading.Thread(target=save)
    thread.start()
    for frame in drifting[:18]:
        mapper.process(frame)
    done.set()
    thread.join(PATIENCE_S)
    assert faults == []
    assert len(mapper.saved()[1].keyframes) == 18


def test_settings_that_change_during_a_correction_are_not_lost(
    drifting: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    mapper = Mapper(CONFIG, Engine())
    other = with_values(CONFIG, {"loop.max_sigmas": 2.5, "map.obstacle_max_z_m": 1.1})
    redrawn, drawn = Drawing.rebuilt, []

    def changed_meanwhile(*args: Any, **kwargs: Any) -> Any:
        drawn.append(redrawn(*args, **kwargs))
        mapper.reconfigure(other)
        return drawn[-1]

    off_m = iter([0.07])
    monkeypatch.setattr("mvdust3r_ros.atlas.revision.floor_off", lambda *_: next(off_m, 0.0))
    monkeypatch.setattr(Drawing, "rebuilt", changed_meanwhile)
    for frame in drifting[:6]:
        mapper.process(frame)
    drawing = mapper.now.drawing
    assert drawing.voxels is drawn[0].voxels
    assert drawing.grid is not None
    assert drawing.grid.settings.obstacle_max_z_m == 1.1
    assert mapper.config.loop == other.loop


def test_a_map_that_was_reset_leaves_memory_at_once(room: BoxRoom) -> None:
    mapper = Mapper(CONFIG, OracleEngine(HW))
    for frame in room.frames(room.walk(40, turns=0.7)):
        mapper.process(frame)
    old = weakref.ref(mapper.now.graph)
    assert old() is not None and old().keyframes
    gc.disable()
    try:
        mapper.reset()
        assert old() is None
    finally:
        gc.enable()
