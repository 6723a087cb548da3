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

"""The default engine on views that show nothing: no confident point, no warning of arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mvdust3r_ros.config import KeyframeSettings, MapperConfig
from mvdust3r_ros.datatypes import Frame, View, WindowPrediction
from mvdust3r_ros.engines.base import Engine, EngineError
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.synthetic.sequence import SequenceConfig, make_sequence, sequence_frames

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error::RuntimeWarning")]
SURE = 4.0


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """A drive with exact odometry."""
    drive = make_sequence(
        SequenceConfig(seed=0, frames=24, hw=(288, 384), rate_hz=5.0, step_m=0.1, supersample=1)
    )
    pairs = zip(sequence_frames(drive), drive.truth.T_world_cam, strict=True)
    return [replace(f, T_odom_cam=T, T_world_cam=None, depth_m=None) for f, T in pairs]


@pytest.fixture(scope="module")
def views(frames: list[Frame]) -> list[View]:
    return [View(f.image_rgb, f.camera.K, f.T_odom_cam) for f in frames[:12:2]]


def dark(view: View) -> View:
    return replace(view, image_rgb=np.full_like(view.image_rgb, 3))


def decoded(engine: Engine, views: list[View]) -> WindowPrediction:
    prediction = engine.decode(engine.encode(views))
    assert np.isfinite(prediction.points).all()
    assert np.isfinite(prediction.conf).all()
    return prediction


def test_a_covered_lens_in_a_window_takes_its_own_points_alone(
    engine: Engine, views: list[View]
) -> None:
    whole = decoded(engine, views).conf[0]
    one_dark = decoded(engine, [*views[:2], dark(views[2]), *views[3:]]).conf[0]
    assert (one_dark[2] == 1).all()
    others = [0, 1, 3, 4, 5]
    assert (one_dark[others] > SURE).mean() > 0.5 * (whole[others] > SURE).mean() > 0.1


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_nothing_is_sure_where_nothing_is_seen(
    engine: Engine, views: list[View], grey: int
) -> None:
    blank = [replace(v, image_rgb=np.full_like(v.image_rgb, grey)) for v in views]
    prediction = decoded(engine, blank)
    assert (prediction.conf == 1).all()
    assert "odometry stays" in prediction.note
    with pytest.raises(EngineError, match="texture"):
        decoded(engine, [replace(v, T_odom_cam=None) for v in blank])


def test_a_drive_in_the_dark_leaves_no_map(engine: Engine, frames: list[Frame]) -> None:
    settings = KeyframeSettings(max_interval_s=0.4)
    mapper = Mapper(MapperConfig(keyframes=settings), engine)
    dim = [replace(f, image_rgb=np.full_like(f.image_rgb, 3)) for f in frames]
    assert any(mapper.process(frame) is not None for frame in dim)
    assert len(mapper.snapshot().points_map) == 0
