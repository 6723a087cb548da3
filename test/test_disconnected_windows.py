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

"""What has to speak for a window that shares no view with the map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from box_room import BoxRoom
from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import (
    FloatArray,
    Frame,
    MapUpdate,
    Verdict,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.geometry import backproject, rotation_angle_deg
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.window.disconnected_windows import MAX_OFF_DEG, Match

HW = (72, 96)
CONFIG = with_values(
    MapperConfig(),
    {
        "keyframes.window_size": 6, "keyframes.window_overlap": 3, "keyframes.min_sharpness": 0.0,
        "keyframes.max_interval_s": 0.1, "map.min_hits": 1, "loop.enabled": False,
    },
)  # fmt: skip
COARSE = 0.27
Wrong = Callable[[FloatArray, int], FloatArray]


class Engine(OracleEngine):
    """Sees true depth from cameras that it takes to be elsewhere, and is sure of itself."""

    def __init__(self, wrong: Wrong | None = None, points: float = 0.0) -> None:
        super().__init__(HW, OracleNoise(points=points, seed=3))
        self.wrong = turned(0.0) if wrong is None else wrong

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        good = super().decode(tokens, n_ref)
        T_ref = np.linalg.inv(_true(tokens[0].view))
        points = []
        for k, token in enumerate(tokens):
            assert token.view.depth_m is not None and token.view.K is not None
            T = self.wrong(T_ref @ _true(token.view), k)
            cam = backproject(token.view.depth_m.astype(float), token.view.K)
            points.append(cam @ T[:3, :3].T + T[:3, 3])
        return replace(good, points=np.stack(points)[None].astype(np.float32))

    def describe(self) -> EngineInfo:
        return replace(super().describe(), rel_error=COARSE)


def _true(view: View) -> FloatArray:
    T = view.T_odom_cam if view.T_world_cam is None else view.T_world_cam
    assert T is not None
    return T


def turned(step_deg: float) -> Wrong:
    """Every camera but the first is turned by so much more than the one before it."""

    def wrong(T: FloatArray, k: int) -> FloatArray:
        angle = np.radians(step_deg * k)
        c, s = np.cos(angle), np.sin(angle)
        R = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1.0]])
        return T @ R

    return wrong


def swaying(angle_deg: float) -> Wrong:
    """Every second camera is turned by so much."""
    return lambda T, k: turned(angle_deg)(T, k % 2)


def still(_: FloatArray, __: int) -> FloatArray:
    """A network that does not notice that the camera moves."""
    return np.eye(4)


@pytest.fixture(scope="module")
def frames(room: BoxRoom) -> list[Frame]:
    return room.frames(room.walk(40)[:12])


def blind(frames: Sequence[Frame]) -> list[Frame]:
    return [replace(f, T_odom_cam=None, T_world_cam=f.T_odom_cam) for f in frames]


def run(
    engine: OracleEngine, frames: Sequence[Frame], config: MapperConfig = CONFIG
) -> list[MapUpdate]:
    mapper = Mapper(config, engine)
    return [u for u in (mapper.process(f) for f in frames) if u is not None]


@pytest.mark.parametrize("odometry", [True, False])
@pytest.mark.parametrize("points", [0.0, 0.02, 0.1])
@pytest.mark.slow
def test_a_good_first_window_is_committed(
    frames: list[Frame], odometry: bool, points: float
) -> None:
    engine = Engine(points=points) if points == 0 else OracleEngine(HW, OracleNoise(points))
    updates = run(engine, frames if odometry else blind(frames))
    assert [u.verdict for u in updates] == [Verdict.COMMITTED] * 3


@pytest.mark.parametrize("wrong", [turned(8.0), swaying(25.0)], ids=["more", "sway"])
def test_a_first_window_that_turns_unlike_odometry_is_refused(
    frames: list[Frame], wrong: Wrong
) -> None:
    update, *_ = run(Engine(wrong), frames)
    assert update.verdict == Verdict.REJECTED_ODOMETRY
    assert "unlike odometry" in update.message
    assert f"limit {MAX_OFF_DEG:g} deg" in update.message


@pytest.mark.parametrize(
    "wrong", [turned(8.0), swaying(25.0), still], ids=["more", "sway", "still"]
)
def test_without_odometry_the_pictures_refuse_it(frames: list[Frame], wrong: Wrong) -> None:
    updates = run(Engine(wrong), blind(frames))
    assert {u.verdict for u in updates} == {Verdict.REJECTED_POSE}
    assert "pictures" in updates[0].message


def test_a_good_window_after_garbage_begins_the_map(frames: list[Frame]) -> None:
    engine = Engine(turned(30.0))
    mapper = Mapper(CONFIG, engine)
    verdicts = []
    for frame in blind(frames):
        update = mapper.process(frame)
        if update is not None:
            verdicts.append(update.verdict)
            engine.wrong = turned(0.0)
    assert verdicts == [Verdict.REJECTED_POSE] + [Verdict.COMMITTED] * (len(verdicts) - 1)
    assert len(verdicts) > 1
    path = mapper.snapshot().trajectory.T_world_cam
    truth = np.stack([f.T_odom_cam for f in frames if f.T_odom_cam is not None])
    by = {f.stamp_ns: k for k, f in enumerate(frames)}
    T = truth[[by[t] for t in mapper.snapshot().trajectory.stamps_ns.tolist()]]
    mapped = path[0, :3, :3].T @ path[-1, :3, :3]
    assert rotation_angle_deg(mapped.T @ T[0, :3, :3].T @ T[-1, :3, :3]) < 1.0


class LostEngine(Engine):
    """Garbage from its second window on: so much with views of the map that they do not fit."""

    mapped: Sequence[View] = ()

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        views = [token.view for token in tokens]
        if not self.mapped:
            self.mapped = views
        elif any(known is view for known in self.mapped for view in views):
            self.wrong = turned(60.0)
        else:
            self.wrong = swaying(25.0)
        return super().decode(tokens, n_ref)


def test_a_window_that_lost_the_map_has_to_earn_its_place_again(room: BoxRoom) -> None:
    updates = run(LostEngine(), room.frames(room.walk(60)[:40]))
    disconnected = [u for u in updates if "without a view of the map" in u.message]
    assert updates[0].verdict == Verdict.COMMITTED
    assert Verdict.COMMITTED not in {u.verdict for u in updates[1:]}
    assert disconnected
    assert all("unlike odometry" in u.message for u in disconnected)


def test_a_window_that_sways_unlike_odometry_does_not_join_the_map(frames: list[Frame]) -> None:
    engine = Engine()
    mapper = Mapper(CONFIG, engine)
    updates = []
    for frame in frames:
        update = mapper.process(frame)
        if update is not None:
            updates.append(update)
            engine.wrong = swaying(25.0)
    assert [u.verdict for u in updates[:2]] == [Verdict.COMMITTED, Verdict.REJECTED_ODOMETRY]
    assert "a window turns 25 deg unlike odometry" in updates[1].message
    assert "limit 20 deg" in updates[1].message


def test_without_texture_and_odometry_a_coarse_network_begins_no_map(frames: list[Frame]) -> None:
    gray = [replace(f, image_rgb=np.full_like(f.image_rgb, 128)) for f in blind(frames)]
    update, *_ = run(Engine(), gray)
    assert update.verdict == Verdict.REJECTED_POSE
    assert "nothing but a coarse network speaks for" in update.message
    (first, *_) = run(OracleEngine(HW), gray)  # known to be good
    assert first.verdict == Verdict.COMMITTED


def test_a_camera_that_stands_has_nothing_to_explain(room: BoxRoom) -> None:
    frames = blind(room.frames([room.walk(24)[3]] * 6))
    assert [u.verdict for u in run(Engine(), frames)] == [Verdict.COMMITTED]
    assert Match(0.95, 0.95).good
    assert not Match(0.7, 0.68).good
    assert not Match(0.5, 0.1).good
    assert Match(0.65, 0.5).good
