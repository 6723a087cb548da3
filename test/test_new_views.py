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
    FloatArray,
    PixelGaussians,
    View,
    ViewPose,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.geometry import project
from mvdust3r_ros.synthetic.dataset import exact_views
from mvdust3r_ros.synthetic.new_views import (
    NewViewError,
    NewViewRow,
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
    """The truth in other units; of three paths in the frame of view 0, the first is mirrored."""

    def __init__(self, unit: float) -> None:
        super().__init__(HW)
        self.unit = unit

    def describe(self) -> EngineInfo:
        return replace(super().describe(), n_ref=3, gaussians=True)

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        points = np.stack([super().decode(tokens).points[0]] * n_ref)
        if n_ref > 1:
            points[0, ..., 0] *= -1
        shape = points.shape[:4]
        gaussians = PixelGaussians(
            np.full(shape, 0.9, np.float32),
            np.full((*shape, 3), 0.02 * self.unit, np.float32),
            np.tile(np.array([1, 0, 0, 0], np.float32), (*shape, 1)),
        )
        return WindowPrediction(
            (points * self.unit).astype(np.float32), np.full(shape, 2, np.float32),
            (0,) * n_ref, gaussians=gaussians,
        )  # fmt: skip


def truth_of(views: list[View]) -> WindowPrediction:
    return OracleEngine(HW).infer(views)


@pytest.mark.slow
def test_held_out_views_lie_between_the_inputs() -> None:
    for views, apart in ((4, [2]), (8, [2, 7]), (12, [2, 7, 12])):
        window = ROOMS(1, views)
        every = room(1, views + len(apart))
        assert [v is w for v, w in zip(window.held_out, (every[i] for i in apart), strict=True)]
        assert [id(v) for v in window.inputs] == [
            id(v) for i, v in enumerate(every) if i not in apart
        ]


@pytest.mark.slow
def test_the_truth_shows_what_was_seen() -> None:
    """Share of an input view's variance that coloured points leave."""
    left = []
    for seed in range(3):
        window = ROOMS(seed, 8)
        made = new_views(truth_of(window.inputs), window._replace(held_out=window.inputs[3:4]))
        truth = window.inputs[3].image_rgb / 255
        left.append(float(((made[0] - truth) ** 2).mean() / truth.var()))
    assert np.median(left) < 0.2


def test_points_are_in_true_units_in_the_frame_of_the_reference() -> None:
    window = ROOMS(2, 4)
    prediction = truth_of(window.inputs)
    for unit in (0.2, 5.0):
        scene = scene_of(replace(prediction, points=prediction.points * unit), window.inputs)
        depth = window.inputs[0].depth_m
        assert depth is not None and len(scene.means) == prediction.conf.size
        np.testing.assert_allclose(scene.means[: depth.size, 2], depth.ravel(), rtol=1e-4)
    K = window.inputs[0].K
    assert K is not None
    distance = scene.means[: depth.size].norm(dim=-1)  # of the reference, which is the first
    np.testing.assert_allclose(scene.scale[: depth.size, 1], 0.5 * distance / K[0, 0], rtol=1e-4)


def test_unsure_points_count_and_missing_ones_do_not() -> None:
    window = ROOMS(2, 4)
    prediction = truth_of(window.inputs)
    prediction.conf[0, 1, :, :10] = 1.0
    prediction.points[0, 2, 5] = np.nan
    scene = scene_of(prediction, window.inputs)
    assert len(scene.means) == prediction.conf.size - HW[1]
    assert scene.means.isfinite().all()


def test_views_without_a_pose_and_pixels_without_depth_have_no_points() -> None:
    window = ROOMS(2, 4)
    prediction = truth_of(window.inputs)
    world = np.linalg.inv(window.inputs[0].T_odom_cam)  # type: ignore[arg-type]
    poses = [ViewPose(world @ v.T_odom_cam, v.K, 1.0, 0.0) for v in window.inputs]
    prediction.points[0, 1, :, 7] = poses[1].T_window_cam[:3, 3]
    prediction.points[0, 3] = 0
    made = replace(prediction, poses=(*poses[:3], None))
    scene, whole = (scene_of(p, window.inputs) for p in (made, truth_of(window.inputs)))
    assert len(scene.means) == 3 * HW[0] * HW[1] - HW[0]
    size = HW[0] * HW[1]
    np.testing.assert_allclose(scene.means[:size], whole.means[:size], rtol=1e-4, atol=1e-5)


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
    shown: list[tuple[int, NewViewRow, FloatArray, FloatArray]] = []
    rows = [
        measure_new_views(
            SeveralPaths(unit), ROOMS, [6], [4], points_too=True,
            show=lambda *seen: shown.append(seen),
        )[4]
        for unit in (1.0, 0.1)
    ]  # fmt: skip
    names = [
        NewViewRow(j, o, p) for j in (False, True) for o in (False, True) for p in (False, True)
    ]
    assert list(rows[0]) == names
    scores = [{name: made[0].psnr_db for name, made in row.items()} for row in rows]
    for name in names:
        assert scores[0][name] == pytest.approx(scores[1][name], abs=0.3)
    joined = NewViewRow(joined=True)
    assert scores[0][joined._replace(oracle=True)] > scores[0][joined] + 1
    assert scores[0][joined] != scores[0][joined._replace(as_points=True)]
    assert [s[1] for s in shown[: len(names)]] == names
    np.testing.assert_array_equal(shown[0][3] * 255, ROOMS(6, 4).held_out[0].image_rgb)


@pytest.mark.slow
def test_perceptual_distance_is_asked_for_each_image() -> None:
    rows = measure_new_views(
        OracleEngine(HW), ROOMS, [1, 2], [4], lpips=lambda a, b: float(np.abs(a - b).mean())
    )[4]
    assert list(rows) == [NewViewRow(), NewViewRow(oracle=True)]
    mean = mean_scores(rows[NewViewRow()])
    assert mean.lpips is not None and 0 < mean.lpips < 0.5
    assert mean.psnr_db == np.mean([scores.psnr_db for scores in rows[NewViewRow()]])


def test_published_lists_keep_their_references() -> None:
    class Noted(OracleEngine):
        def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
            first.append(next(t.view for t in tokens))
            return super().decode(tokens, n_ref)

    first: list[View] = []
    for listed in (False, True):
        measure_new_views(Noted(HW), ROOMS, [2], [4], oracle=False, references_first=listed)
    inputs = ROOMS(2, 4).inputs
    assert [next(i for i, v in enumerate(inputs) if v is f) for f in first] == [1, 0]


@pytest.mark.parametrize(("backend", "first"), [("dust3r", 1), ("spann3r", 0), ("colmap", 0)])
def test_what_has_no_reference_has_one_row(backend: str, first: int) -> None:
    class Other(OracleEngine):
        def describe(self) -> EngineInfo:
            return replace(super().describe(), backend=backend, n_ref=2)

        def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
            assert tokens[0].view is ROOMS(2, 4).inputs[first]
            return super().decode(tokens, n_ref)

    assert list(measure_new_views(Other(HW), ROOMS, [2], [4])[4]) == [NewViewRow()]


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
