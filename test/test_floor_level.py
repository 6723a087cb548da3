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

"""The floor is at z = 0, also when the first window has misjudged it."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from map_world import SAW_NOTHING
from mvdust3r_ros.config import MapperConfig, MapSettings, with_values
from mvdust3r_ros.datatypes import Frame, Keyframe, Verdict, View
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.trials.apartment_drives import (
    ApartmentOptions,
    apartment_drive,
    drifting_frames,
)
from mvdust3r_ros.geometry import Sim3
from mvdust3r_ros.graph.floor_views import floor_off
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.placing import stitching
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.sequence import odometry
from mvdust3r_ros.window.window_geometry import WindowGeometry

pytestmark = pytest.mark.slow

SEED = 9010
TOO_HIGH_M = 0.08


@pytest.fixture
def misjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first window takes something 8 cm below the floor for it, whatever it sees."""
    on_the_floor = stitching.on_the_floor

    def too_high(geometry: WindowGeometry, S_map_window: Sim3) -> Sim3:
        S = on_the_floor(geometry, S_map_window)
        return Sim3(S.scale, S.R, S.t + np.array([0.0, 0.0, TOO_HIGH_M]))

    monkeypatch.setattr(stitching, "on_the_floor", too_high)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    options = ApartmentOptions()
    drive = apartment_drive(SEED, options, Rig())
    return list(islice(drifting_frames(drive, odometry(drive, options.drift)), 100))


def drive(frames: list[Frame], **values: object) -> tuple[Mapper, list[float]]:
    """A mapper after some of the frames, and how far each committed window is too high."""
    config = with_values(MapperConfig(), {k.replace("__", "."): v for k, v in values.items()})
    mapper = Mapper(config, OracleEngine((112, 112), OracleNoise(0.02, scale=0.5, seed=SEED)))
    heights = []
    for frame in frames:
        update = mapper.process(frame)
        if update is not None and update.verdict == Verdict.COMMITTED:
            off = [
                update.T_map_cam[k.id][2, 3] - k.view.T_world_cam[2, 3]
                for k in update.window.keyframes
                if k.id in update.T_map_cam and k.view.T_world_cam is not None
            ]
            heights.append(float(np.median(off)))
    return mapper, heights


@pytest.mark.usefixtures("misjudged")
def test_later_windows_put_the_floor_right(frames: list[Frame]) -> None:
    mapper, heights = drive(frames)
    assert abs(heights[0]) > 0.05
    assert abs(heights[-1]) < 0.03
    snapshot, keyframes = mapper.snapshot(), mapper.now.graph.keyframes
    assert abs(snapshot.floor_z_m) < 0.05
    ground = snapshot.points_map[:, 2][np.abs(snapshot.points_map[:, 2]) < 0.2]
    assert abs(np.median(ground)) < 0.03
    newest = keyframes[max(keyframes)]
    T = snapshot.T_map_odom @ newest.keyframe.view.T_odom_cam
    np.testing.assert_allclose(T, newest.T_map_cam, atol=1e-9)


@pytest.mark.usefixtures("misjudged")
def test_putting_the_floor_right_moves_everything_alike(
    frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    mapper, _ = drive(frames, loop__enabled=False)
    monkeypatch.setattr("mvdust3r_ros.atlas.revision.floor_off", lambda *_: 0.0)
    left, heights_left = drive(frames, loop__enabled=False)
    assert abs(heights_left[-1]) > 0.05
    a, b = mapper.snapshot(), left.snapshot()
    shift = a.trajectory.T_world_cam[:, :3, 3] - b.trajectory.T_world_cam[:, :3, 3]
    rise_m = shift[0, 2]
    np.testing.assert_allclose(shift, np.tile([0.0, 0.0, rise_m], (len(shift), 1)), atol=1e-6)
    assert a.floor_z_m - b.floor_z_m == pytest.approx(rise_m, abs=1e-6)
    assert a.grid.origin_xy_m == b.grid.origin_xy_m
    assert np.mean(a.grid.cells == b.grid.cells) > 0.99


def floors(*heights_m: float) -> float:
    nothing, view = np.zeros((0, 3), np.float32), View(np.zeros((4, 4, 3), np.uint8))
    items = [
        MapKeyframe(
            Keyframe(key, key, view, "camera"), np.eye(4), nothing, nothing.astype(np.uint8),
            nothing[:, 0], SAW_NOTHING, floor_cam=np.array([0.0, 0.0, height_m]),
        )
        for key, height_m in enumerate(heights_m)
    ]  # fmt: skip
    return floor_off(KeyframeGraph({m.id: m for m in items}), MapSettings())


def test_few_views_a_small_residual_or_views_that_disagree_move_nothing() -> None:
    assert floors(*[0.08] * 7) == 0.0
    assert floors(*[0.08] * 8) == 0.08
    assert floors(*[0.04] * 50) == 0.0
    assert floors(*[-0.07, -0.08, -0.09] * 5) == -0.08
    assert floors(*[-0.4, 0.07, 0.5] * 4) == 0.0
