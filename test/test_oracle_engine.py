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
from mvdust3r_ros.datatypes import FloatArray, View, WindowPrediction
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.oracle_engine import CONFIDENT, UNSURE, OracleEngine, OracleNoise
from mvdust3r_ros.geometry import invert_se3

HW = (72, 96)


@pytest.fixture(scope="module")
def views(room: BoxRoom) -> list[View]:
    return [View(room.image(T), room.K, T, room.depth(T)) for T in room.walk(24)[:4]]


def in_world(room: BoxRoom, prediction: WindowPrediction, reference: int) -> FloatArray:
    T = room.walk(24)[reference]
    return prediction.points[0].astype(float) @ T[:3, :3].T + T[:3, 3]


def truth(room: BoxRoom) -> FloatArray:
    return np.stack([room.points(T) for T in room.walk(24)[:4]])


def test_points_are_the_truth_in_the_frame_of_the_first_view(
    room: BoxRoom, views: list[View]
) -> None:
    prediction = OracleEngine(HW).infer(views)
    assert prediction.points.shape == (1, 4, *HW, 3)
    assert prediction.points.dtype == prediction.conf.dtype == np.float32
    assert prediction.references == (0,)
    np.testing.assert_allclose(in_world(room, prediction, 0), truth(room), atol=1e-5)
    np.testing.assert_allclose(prediction.points[0, 0, :, :, 2], views[0].depth_m, rtol=1e-6)
    assert (prediction.conf == CONFIDENT).all()


def test_another_order_of_views_is_another_frame(room: BoxRoom, views: list[View]) -> None:
    engine = OracleEngine(HW)
    order = (2, 0, 3, 1)
    fed = engine.decode(engine.encode([views[i] for i in order]))
    back = fed.in_caller_order(order)
    assert back.references == (2,)
    np.testing.assert_allclose(in_world(room, back, 2), truth(room), atol=1e-5)


def test_tokens_can_be_decoded_again_in_any_company(views: list[View]) -> None:
    engine = OracleEngine(HW)
    tokens = engine.encode(views)
    assert [t.view for t in tokens] == views
    first = engine.decode(tokens)
    assert np.array_equal(engine.decode(tokens).points, first.points)
    assert np.array_equal(engine.decode(tokens[:2]).points, first.points[:, :2])


@pytest.mark.parametrize("unknown", [0.0, np.nan, -1.0, np.inf])
def test_pixels_without_depth_are_finite_and_without_confidence(
    views: list[View], unknown: float
) -> None:
    depth = views[1].depth_m.copy()
    depth[3:5] = unknown
    prediction = OracleEngine(HW).infer([views[0], replace(views[1], depth_m=depth)])
    assert np.isfinite(prediction.points).all()
    assert (prediction.conf[0, 1, 3:5] == UNSURE).all()
    assert (prediction.conf[0, 1, 5:] == CONFIDENT).all()
    assert (prediction.conf[0, 0] == CONFIDENT).all()


def test_noise_along_the_ray_has_the_size_asked_for(views: list[View]) -> None:
    exact = OracleEngine(HW).infer(views).points[0]
    noisy = OracleEngine(HW, OracleNoise(points=0.02, seed=3)).infer(views).points[0]
    ratio = noisy[0, ..., 2] / exact[0, ..., 2]
    assert ratio.std() == pytest.approx(0.02, rel=0.05)
    assert ratio.mean() == pytest.approx(1.0, abs=0.001)
    # the error lies on the ray of each pixel
    np.testing.assert_allclose(
        noisy[0, ..., :2] / noisy[0, ..., 2:], exact[0, ..., :2] / exact[0, ..., 2:], atol=1e-5
    )


def test_smooth_noise_is_one_factor_a_view(views: list[View]) -> None:
    exact = OracleEngine(HW).infer(views)
    noisy = OracleEngine(HW, OracleNoise(smooth=0.1, seed=1)).infer(views)
    factors = []
    for index, view in enumerate(views):
        T = invert_se3(views[0].T_odom_cam) @ view.T_odom_cam
        cams = [(p.points[0, index] - T[:3, 3]) @ T[:3, :3] for p in (exact, noisy)]
        ratio = cams[1][..., 2] / cams[0][..., 2]
        assert np.ptp(ratio) < 1e-4
        factors.append(ratio.mean())
    assert np.ptp(factors) > 0.01


def test_scale_noise_is_one_factor_a_window(views: list[View]) -> None:
    exact = OracleEngine(HW).infer(views).points
    logs = []
    for seed in range(40):
        engine = OracleEngine(HW, OracleNoise(scale=0.5, seed=seed))
        ratio = engine.infer(views[:2]).points / exact[:, :2]
        assert np.nanmax(ratio) - np.nanmin(ratio) < 1e-2 * np.nanmedian(ratio)
        logs.append(np.log(np.nanmedian(ratio)))
    assert np.std(logs) == pytest.approx(0.5, rel=0.3)


def test_the_seed_decides_everything(views: list[View]) -> None:
    noise = OracleNoise(0.02, 0.01, 0.3, seed=5)
    a, b, c = (
        OracleEngine(HW, n).infer(views).points for n in (noise, noise, replace(noise, seed=6))
    )
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_window_has_the_same_errors_whatever_came_before(views: list[View]) -> None:
    noise = OracleNoise(0.02, 0.01, 0.3, seed=5)
    engine = OracleEngine(HW, noise)
    other = engine.infer(views[:3]).points
    assert np.array_equal(engine.infer(views).points, OracleEngine(HW, noise).infer(views).points)
    assert not np.allclose(engine.infer(views).points[:, :3], other)


def test_it_says_what_it_is() -> None:
    info = OracleEngine((10, 20)).describe()
    assert (info.backend, info.image_hw, info.metric, info.n_ref) == ("oracle", (10, 20), True, 1)
    assert OracleEngine().describe().image_hw == (224, 224)
    assert OracleEngine(noise=OracleNoise(points=0.1)).describe().metric
    assert not OracleEngine(noise=OracleNoise(scale=0.1)).describe().metric


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"depth_m": None}, "needs depth with each image"),
        ({"T_odom_cam": None}, "needs an odometry pose with each image"),
        ({"K": None}, "needs camera_info with each image"),
        ({"K": None, "depth_m": None}, "needs depth and camera_info with each image"),
    ],
)
def test_what_is_missing_is_named(
    views: list[View], missing: dict[str, None], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        OracleEngine(HW).encode([views[0], replace(views[1], **missing)])


def test_views_of_another_size_and_disconnected_views_are_refused(views: list[View]) -> None:
    with pytest.raises(EngineError, match=r"view of \(72, 96\), expected \(224, 224\)"):
        OracleEngine().encode(views)
    engine = OracleEngine(HW)
    with pytest.raises(EngineError, match="a window of 1 views, at least 2"):
        engine.decode(engine.encode(views[:1]))
    engine.close()
