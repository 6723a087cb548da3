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

"""New views of predictions: the truth shows the room, units do not matter, held-out views do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mvdust3r_ros.datatypes import (
    PixelGaussians,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.geometry import project
from mvdust3r_ros.synthetic.dataset import exact_views
from mvdust3r_ros.synthetic.new_views import (
    ALL,
    ALL_ORACLE,
    AS_POINTS,
    ONE,
    ONE_ORACLE,
    NewViewError,
    format_new_views,
    held_out_after,
    held_out_between,
    mean_scores,
    measure_new_views,
    new_views,
    scene_of,
)

HW = (48, 48)


@cache
def _room(seed: int, views: int) -> tuple[View, ...]:
    return tuple(exact_views(seed, views, HW))


def room(seed: int, views: int) -> list[View]:
    return list(_room(seed, views))


ROOMS = held_out_between(room)


class SeveralPaths(OracleEngine):
    """The truth in other units, on three paths, of which the first is bad."""

    def __init__(self, unit: float = 1.0, gaussians: bool = False) -> None:
        super().__init__(HW)
        self.unit, self.wanted = unit, gaussians

    def describe(self) -> EngineInfo:
        return replace(super().describe(), n_ref=3, gaussians=self.wanted)

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        ways = [super(SeveralPaths, self).decode(_first(tokens, k)) for k in range(n_ref or 3)]
        points = np.concatenate(
            [w.points[:, [k, *range(1, k), 0, *range(k + 1, len(tokens))] if k else slice(None)]
             for k, w in enumerate(ways)]
        )  # fmt: skip
        if n_ref > 1:
            points[0] += np.random.default_rng(0).normal(0, 0.3, points[0].shape)
        conf = np.full(points.shape[:4], 2.0, np.float32)
        gaussians = None
        if self.wanted:
            shape = conf.shape
            gaussians = PixelGaussians(
                np.full(shape, 0.9, np.float32),
                np.full((*shape, 3), 0.02 * self.unit, np.float32),
                np.tile(np.array([1, 0, 0, 0], np.float32), (*shape, 1)),
            )
        points = (points * self.unit).astype(np.float32)
        return WindowPrediction(points, conf, tuple(range(len(ways))), gaussians=gaussians)


def _first(tokens: Sequence[ViewTokens], k: int) -> list[ViewTokens]:
    """Views 0 and k change places."""
    order = list(range(len(tokens)))
    order[0], order[k] = k, 0
    return [tokens[i] for i in order]


def truth_of(views: list[View]) -> WindowPrediction:
    return OracleEngine(HW).infer(views)


@pytest.mark.slow
def test_held_out_views_lie_between_the_inputs_or_after_them() -> None:
    for views, apart in ((4, [2]), (8, [2, 7]), (12, [2, 7, 12])):
        window = ROOMS(1, views)
        every = room(1, views + len(apart))
        assert [v is w for v, w in zip(window.held_out, (every[i] for i in apart), strict=True)]
        assert [id(v) for v in window.inputs] == [
            id(v) for i, v in enumerate(every) if i not in apart
        ]
    tuples = held_out_after(lambda index, views: [index * 100 + i for i in range(views)])  # type: ignore[misc]
    assert tuples(2, 4) == ([200, 201, 202, 203], [224])
    assert tuples(0, 24) == (list(range(24)), list(range(24, 30)))


@pytest.mark.slow
def test_the_truth_shows_what_was_seen() -> None:
    """Share of an input view's variance that coloured points leave."""
    left = []
    for seed in range(3):
        window = ROOMS(seed, 8)
        made = new_views(truth_of(window.inputs), window._replace(held_out=window.inputs[3:4]))
        truth = window.inputs[3].image_rgb / 255
        left.append(float(((made[0] - truth) ** 2).mean() / truth.var()))
    assert np.median(left) < 0.1


def test_points_are_in_true_units_in_the_frame_of_the_reference() -> None:
    window = ROOMS(2, 4)
    prediction = truth_of(window.inputs)
    for unit in (0.2, 5.0):
        scene = scene_of(replace(prediction, points=prediction.points * unit), window.inputs)
        depth = window.inputs[0].depth_m
        assert depth is not None and len(scene.means) == prediction.conf.size
        np.testing.assert_allclose(scene.means[: depth.size, 2], depth.ravel(), rtol=1e-4)
    # 0.448 pixels of a camera as long as its image is wide, at the mean distance
    mean = float(scene.means.norm(dim=-1).mean())
    np.testing.assert_allclose(scene.scale, 0.448 * mean / HW[1], rtol=1e-4)


def test_pixels_without_a_point_and_the_least_sure_are_left_out() -> None:
    window = ROOMS(2, 4)
    prediction = truth_of(window.inputs)
    prediction.conf[0, 1, :, :10] = 1.0  # no point
    prediction.points[0, 2, 5] = np.nan
    prediction.conf[0, 3] += np.arange(prediction.conf[0, 3].size).reshape(HW)
    size = HW[0] * HW[1]
    scene = scene_of(prediction, window.inputs)
    assert len(scene.means) == 4 * size - 10 * HW[0] - HW[1] - int(0.03 * size)
    assert scene.means.isfinite().all()


def test_unknown_depth_is_no_part_of_the_scale() -> None:
    window = ROOMS(2, 4)
    prediction = truth_of(window.inputs)
    holes = [
        replace(v, depth_m=np.where(np.arange(HW[1]) < 20, hole, v.depth_m).astype(np.float32))
        for v, hole in zip(window.inputs, (0, np.nan, 0, np.nan), strict=True)
    ]
    whole, part = (scene_of(prediction, v) for v in (window.inputs, holes))
    np.testing.assert_allclose(part.means, whole.means, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_gaussians_grow_with_the_unit_and_oracles_take_the_best_path() -> None:
    shown = []
    rows = [
        measure_new_views(
            SeveralPaths(unit, gaussians=True), ROOMS, [3], [4], points_too=True,
            show=lambda index, name, image, truth: shown.append((index, name, image, truth)),
        )[4]
        for unit in (1.0, 0.1)
    ]  # fmt: skip
    names = [ONE, ONE_ORACLE, ALL, ALL_ORACLE]
    assert list(rows[0]) == [n + kind for n in names for kind in ("", AS_POINTS)]
    for name in rows[0]:
        assert rows[0][name][0].psnr_db == pytest.approx(rows[1][name][0].psnr_db, abs=0.3)
    assert rows[0][ALL_ORACLE][0].psnr_db > rows[0][ALL][0].psnr_db + 1
    assert rows[0][ALL][0] != rows[0][ALL + AS_POINTS][0]
    assert [s[1] for s in shown[:8]] == list(rows[0])
    np.testing.assert_array_equal(shown[0][3] * 255, ROOMS(3, 4).held_out[0].image_rgb)


@pytest.mark.slow
def test_perceptual_distance_is_asked_for_each_image() -> None:
    rows = measure_new_views(
        OracleEngine(HW), ROOMS, [1, 2], [4], lpips=lambda a, b: float(np.abs(a - b).mean())
    )[4]
    assert list(rows) == [ONE, ONE_ORACLE]
    mean = mean_scores(rows[ONE])
    assert mean.lpips is not None and 0 < mean.lpips < 0.5
    table = format_new_views(rows)
    assert f"| one reference | {mean.psnr_db:.2f} | {mean.ssim:.3f} | {mean.lpips:.3f} |" in table


def test_the_first_view_is_where_its_pixels_are() -> None:
    """A point of an input lies at its pixel: poses are not inverted, centres not shifted."""
    window = ROOMS(4, 4)
    scene = scene_of(truth_of(window.inputs), window.inputs)
    K = window.inputs[0].K
    assert K is not None
    uv = project(scene.means[: HW[0] * HW[1]].double().numpy(), K)
    v, u = np.mgrid[: HW[0], : HW[1]]
    np.testing.assert_allclose(uv, np.stack([u.ravel(), v.ravel()], -1), atol=1e-2)


def test_views_without_truth_are_refused() -> None:
    window = ROOMS(2, 4)
    prediction = truth_of(window.inputs)
    for name, words in (("depth_m", "depth"), ("T_odom_cam", "pose"), ("K", "intrinsics")):
        bad = [replace(v, **{name: None}) for v in window.inputs]
        with pytest.raises(NewViewError, match=f"without .*{words}"):
            scene_of(prediction, bad)
    nothing = [replace(v, depth_m=np.zeros(HW, np.float32)) for v in window.inputs]
    with pytest.raises(NewViewError, match="no pixel"):
        scene_of(prediction, nothing)
