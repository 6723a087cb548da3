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

"""New views of any engine's prediction: what held-out cameras see of its Gaussians or points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from mvdust3r_ros.datatypes import (
    BoolArray,
    FloatArray,
    MvDust3rError,
    View,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.geometry import backproject, invert_se3
from mvdust3r_ros.image_quality import psnr_db, ssim
from mvdust3r_ros.model.splatting import Gaussians3d, RenderOptions, render
from mvdust3r_ros.window.reference_views import REFERENCES, order_views

BLUR_PX2 = 0.1
"""As in the published training."""
POINT_SIZE_PX = 0.5
"""Of coloured points, in their own view: neighbours overlap. The published code gives DUSt3R's
0.45 pixels of a camera as long as its image is wide, which leaves gaps with wider ones."""
COINCIDENT = 1e-4
"""Of the median distance: nearer points are of pixels without depth, up to float32."""
HELD_OUT_SHARE = 4
"""One held-out view for so many input views: 1, 3 and 6 for 4, 12 and 24, as in the paper's tests
with 30 views of which 24 are inputs."""
Windows = Callable[[int, int], list[View]]
"""(index, number of views) -> views with exact K, depth_m and T_odom_cam."""
Distance = Callable[[FloatArray, FloatArray], float]
"""Of two images (H, W, 3) in [0, 1]."""


class NewViewError(MvDust3rError):
    """New views of a window cannot be compared."""


class NewViewWindow(NamedTuple):
    """A window for new views; all with exact K and T_odom_cam, the inputs with depth_m as well."""

    inputs: list[View]
    held_out: list[View]


NewViewWindows = Callable[[int, int], NewViewWindow]
"""(index, number of input views) -> window."""


class NewViewRow(NamedTuple):
    """A way to run and render an engine.

    Attributes:
        joined: with its own number of references rather than one.
        oracle: with the reference, or the path, whose points are nearest to the truth.
        as_points: as coloured points, although it has Gaussians.
    """

    joined: bool = False
    oracle: bool = False
    as_points: bool = False


@dataclass(frozen=True)
class NewViewScores:
    """How well held-out views are predicted.

    Attributes:
        psnr_db: peak signal-to-noise ratio.
        ssim: structural similarity.
        lpips: perceptual distance; None where it was not measured.
    """

    psnr_db: float
    ssim: float
    lpips: float | None = None


Show = Callable[[int, NewViewRow, FloatArray, FloatArray], None]
"""Receives index, row, image and truth of a held-out view."""
NewViewResults = dict[int, dict[NewViewRow, list[NewViewScores]]]
"""Number of input views -> row -> mean over the held-out views, for each window."""


def held_out_count(views: int) -> int:
    """Number of held-out views for a number of input views."""
    return max(1, views // HELD_OUT_SHARE)


def held_out_between(windows: Windows) -> NewViewWindows:
    """Windows whose held-out views lie evenly between the inputs in time: for rooms."""

    def window(index: int, views: int) -> NewViewWindow:
        count = held_out_count(views)
        every = windows(index, views + count)
        step = len(every) / count
        apart = [int((k + 0.5) * step) for k in range(count)]
        inputs = [view for k, view in enumerate(every) if k not in apart]
        return NewViewWindow(inputs, [every[k] for k in apart])

    return window


def measure_new_views(
    engine: Engine,
    windows: NewViewWindows,
    indices: Sequence[int],
    view_counts: Sequence[int],
    *,
    lpips: Distance | None = None,
    oracle: bool = True,
    points_too: bool = False,
    references_first: bool = False,
    device: str = "cpu",
    show: Show = lambda *_: None,
    report: Callable[[int, int], None] = lambda *_: None,
) -> NewViewResults:
    """Score what an engine's predictions look like in held-out views.

    The engine is run with one reference and, if designed for more, with its own number. Oracle
    rows take the reference, or path, whose points are nearest to the truth. Engines without
    Gaussians are rendered as coloured points.

    Args:
        engine: the engine.
        windows: returns the windows.
        indices: windows to score.
        view_counts: numbers of input views.
        lpips: perceptual distance of two images.
        oracle: whether to have oracle rows.
        points_too: whether to score an engine with Gaussians as coloured points as well.
        references_first: whether inputs come with the references first, as in published lists;
            otherwise `order_views` chooses them.
        device: that renders.
        show: called with each image.
        report: called with the numbers of finished and of all windows.

    Raises:
        NewViewError: a view lacks its exact depth, intrinsics or pose.
    """
    results: NewViewResults = {}
    for number, count in enumerate(view_counts):
        rows = results.setdefault(count, {})
        for done, index in enumerate(indices):
            window = windows(index, count)
            for row, prediction, path in _predictions(
                engine, window.inputs, oracle, references_first
            ):
                kinds = {row: prediction}
                if points_too and prediction.gaussians is not None:
                    kinds[row._replace(as_points=True)] = replace(prediction, gaussians=None)
                for name, kind in kinds.items():
                    images = new_views(kind, window, path, device)
                    truths = [view.image_rgb / 255 for view in window.held_out]
                    rows.setdefault(name, []).append(image_scores(images, truths, lpips))
                    for image, truth in zip(images, truths, strict=True):
                        show(index, name, image, truth)
            report(number * len(indices) + done + 1, len(view_counts) * len(indices))
    return results


def image_scores(
    images: Sequence[FloatArray], truths: Sequence[FloatArray], lpips: Distance | None = None
) -> NewViewScores:
    """Means over pairs of images (H, W, 3) in [0, 1]."""
    measures: list[Distance] = [psnr_db, ssim, *([lpips] if lpips else [])]
    pairs = list(zip(images, truths, strict=True))
    return NewViewScores(*(float(np.mean([f(*pair) for pair in pairs])) for f in measures))


def mean_scores(scores: Sequence[NewViewScores]) -> NewViewScores:
    """Means over windows."""
    lpips = [s.lpips for s in scores if s.lpips is not None]
    return NewViewScores(
        float(np.mean([s.psnr_db for s in scores])),
        float(np.mean([s.ssim for s in scores])),
        float(np.mean(lpips)) if lpips else None,
    )


@torch.no_grad()
def new_views(
    prediction: WindowPrediction, window: NewViewWindow, path: int = 0, device: str = "cpu"
) -> list[FloatArray]:
    """Images (H, W, 3) in [0, 1] of a prediction in the held-out views.

    Args:
        prediction: of the inputs, in their order.
        window: inputs and held-out views.
        path: reference path to take.
        device: that renders.

    Raises:
        NewViewError: a view lacks its exact depth, intrinsics or pose.
    """
    scene = Gaussians3d(*(t.to(device) for t in scene_of(prediction, window.inputs, path)))
    T_ref_world = invert_se3(_pose(window.inputs[prediction.references[path]]))
    options = RenderOptions(blur_px2=BLUR_PX2)
    images = []
    for view in window.held_out:
        T_cam_ref = invert_se3(T_ref_world @ _pose(view))
        K, T = (torch.from_numpy(m).float().to(device) for m in (_intrinsics(view), T_cam_ref))
        hw = (view.image_rgb.shape[0], view.image_rgb.shape[1])
        image = render(scene, K, T, hw, options).rgb.double().clamp(0, 1)
        images.append(np.asarray(image.cpu().numpy()))
    return images


def scene_of(prediction: WindowPrediction, inputs: Sequence[View], path: int = 0) -> Gaussians3d:
    """Gaussians of a prediction, or round ones at its points, coloured by the pixels.

    They are in the frame of the path's reference and in true units: as in the published
    evaluation, the mean distance of the points is fitted to the truth, and nothing else; all
    points count, however unsure.

    Args:
        prediction: of the inputs, in their order.
        inputs: with exact depth, intrinsics and pose.
        path: reference path to take.

    Raises:
        NewViewError: a view lacks its exact depth, intrinsics or pose, or no pixel has both a
            point and a true depth.
    """
    points = prediction.points[path].astype(np.float64)
    there = _there(prediction, path)
    truth, known = true_points(inputs, prediction.references[path])
    factor = _scale(points, truth, known & there)
    if prediction.gaussians is not None:
        own = prediction.gaussians[path][there]
        scale, rotation, opacity = own.scale * factor, own.quat_wxyz, own.opacity
    else:
        count = int(there.sum())
        size = _pixel_sizes(points * factor, inputs, prediction.references[path])
        scale = np.repeat(POINT_SIZE_PX * size[there][:, None], 3, 1)
        rotation = np.repeat([[1.0, 0.0, 0.0, 0.0]], count, 0)
        opacity = np.ones(count)
    rgb = np.stack([view.image_rgb for view in inputs])[there] / 255
    values = (points[there] * factor, scale, rotation, opacity, rgb)
    return Gaussians3d(*(torch.from_numpy(np.asarray(v, np.float32)) for v in values))


def true_points(views: Sequence[View], reference: int) -> tuple[FloatArray, BoolArray]:
    """True points (V, H, W, 3) in the frame of one of the views, and where they are known.

    Raises:
        NewViewError: a view lacks its exact depth, intrinsics or pose.
    """
    T_ref_world = invert_se3(_pose(views[reference]))
    points, known = [], []
    for view in views:
        if view.depth_m is None:
            raise NewViewError("an input view without exact depth has no scale to fit")
        there = np.isfinite(view.depth_m) & (view.depth_m > 0)
        depth = np.where(there, view.depth_m, 0.0).astype(np.float64)
        T = T_ref_world @ _pose(view)
        points.append(backproject(depth, _intrinsics(view)) @ T[:3, :3].T + T[:3, 3])
        known.append(there)
    return np.stack(points), np.stack(known)


def _predictions(
    engine: Engine, inputs: list[View], oracle: bool, references_first: bool
) -> Iterator[tuple[NewViewRow, WindowPrediction, int]]:
    """Yield rows, each with its prediction in the order of the inputs, and the path to take."""
    info = engine.describe()
    count = len(inputs)
    in_time = tuple(range(count))
    order = in_time if references_first else order_views(inputs, min(REFERENCES, count))
    blind = [replace(v, depth_m=None, T_odom_cam=None) for v in inputs]
    tokens = engine.encode(inputs if info.needs_truth else blind)

    def decoded(order: tuple[int, ...], n_ref: int) -> WindowPrediction:
        return engine.decode([tokens[i] for i in order], n_ref).in_caller_order(order)

    def with_reference(first: int) -> WindowPrediction:
        return decoded((first, *(i for i in order if i != first)), 1)

    if info.in_time_order:
        yield NewViewRow(), decoded(in_time, 1), 0
        return
    best = order[0] if references_first else order_views(inputs, 1)[0]
    single = with_reference(best)
    yield NewViewRow(), single, 0
    if not info.has_reference:
        return
    if oracle:
        others = [with_reference(i) for i in order[:REFERENCES] if i != best]
        nearest = min([single, *others], key=lambda made: _error(made, inputs, 0))
        yield NewViewRow(oracle=True), nearest, 0
    if info.n_ref > 1:
        several = decoded(order, min(info.n_ref, count))
        yield NewViewRow(joined=True), several, 0
        paths = range(len(several.references))
        if oracle and len(paths) > 1:
            nearest_path = min(paths, key=lambda path: _error(several, inputs, path))
            yield NewViewRow(joined=True, oracle=True), several, nearest_path


def _error(prediction: WindowPrediction, inputs: Sequence[View], path: int) -> float:
    """Mean distance from the truth over the truth's mean distance, scale fitted."""
    points = prediction.points[path].astype(np.float64)
    truth, known = true_points(inputs, prediction.references[path])
    known &= _there(prediction, path)
    apart = points[known] * _scale(points, truth, known) - truth[known]
    return float(
        np.linalg.norm(apart, axis=-1).mean() / np.linalg.norm(truth[known], axis=-1).mean()
    )


def _there(prediction: WindowPrediction, path: int) -> BoolArray:
    """Mask (V, H, W) of the points there are: finite, of a placed view, not in its own camera."""
    points = prediction.points[path]
    there = np.isfinite(points).all(-1)
    if path == 0:  # whose frame the poses are in
        for view, pose in enumerate(prediction.poses or ()):
            if pose is None:
                there[view] = False
                continue
            apart = np.linalg.norm(points[view] - pose.T_window_cam[:3, 3], axis=-1)
            there[view] &= apart > COINCIDENT * np.median(apart)
    return np.asarray(there)


def _scale(points: FloatArray, truth: FloatArray, known: BoolArray) -> float:
    if not known.any():
        raise NewViewError("no pixel of the inputs has both a point and a true depth")
    found, true = (float(np.linalg.norm(p[known], axis=-1).mean()) for p in (points, truth))
    return true / max(found, float(np.finfo(np.float32).tiny))


def _pixel_sizes(points: FloatArray, inputs: Sequence[View], reference: int) -> FloatArray:
    """(V, H, W) size of a pixel of its own view at each point, in the unit of the points."""
    T_ref_world = invert_se3(_pose(inputs[reference]))
    centres = np.stack([(T_ref_world @ _pose(view))[:3, 3] for view in inputs])
    focal = np.array([_intrinsics(view)[0, 0] for view in inputs])
    distance = np.linalg.norm(points - centres[:, None, None], axis=-1)
    return np.asarray(distance / focal[:, None, None])


def _pose(view: View) -> FloatArray:
    if view.T_odom_cam is None:
        raise NewViewError("a view without exact pose cannot be compared")
    return np.asarray(view.T_odom_cam, np.float64)


def _intrinsics(view: View) -> FloatArray:
    if view.K is None:
        raise NewViewError("a view without intrinsics cannot be compared")
    return np.asarray(view.K, np.float64)
