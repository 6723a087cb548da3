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

"""Score an engine and trivial predictors on windows with exact truth: tables and images.

`judge` is where a window is scored, for `evaluate rooms` and for the paper's tables alike.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mvdust3r_ros.config import PoseSettings
from mvdust3r_ros.datatypes import (
    FloatArray,
    ImageArray,
    MvDust3rError,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import Engine, EngineInfo
from mvdust3r_ros.evaluation.metrics.window_metrics import (
    WindowScores,
    WindowTruth,
    depth_abs_rel,
    format_table,
    scale_error,
    score_window,
)
from mvdust3r_ros.geometry import backproject, invert_se3, rotation_angle_deg
from mvdust3r_ros.synthetic.window_tiles import window_row
from mvdust3r_ros.window.pose_recovery import recover_poses
from mvdust3r_ros.window.reference_views import REFERENCES, best_path, order_views

Windows = Callable[[int, int], list[View]]
"""(seed, number of views) -> views with exact K, depth_m and T_odom_cam, in time order."""

LEAST_MOTION_M = 0.1
"""Translation errors are relative to the distance moved; below this they would be meaningless."""
LOST_ROTATION_DEG = 180.0
"""The largest possible angle, for a view without a pose."""
LOST_TRANSLATION = 10.0
"""Ten times the distance moved: the error of a lost view, and the upper limit of errors."""
PICTURES = 3
"""Chosen for appearance: per number of views, enough to see what the numbers mean."""
MOST_POINTS = 10_000
"""Number of pixels per window for the published columns, which need a nearest neighbour for
each."""

NETWORK = "MVD"
"""Name of the rows of MV-DUSt3R, on any backend; "MVD+" with several references."""
NAMES = {
    "mvs": "mvs", "dust3r": "DUSt3R", "spann3r": "Spann3R", "colmap": "COLMAP", "oracle": "oracle",
}  # fmt: skip
"""Backend -> name of the rows of what is not MV-DUSt3R."""


class RoomsError(MvDust3rError):
    """An evaluation on rooms is impossible."""


@dataclass(frozen=True)
class Case:
    """Result of one predictor on one window.

    Attributes:
        seed: the window.
        published: the published columns.
        nd_metric: mean distance to the truth over the truth's mean distance, without any fit.
        abs_rel: AbsRel of the reference view's depth, without any fit.
        scale: relative scale error, see `metrics.scale_error`.
        rotation_deg: rotation error of each other view in the reference's frame; 180 if lost.
        translation: position error of each other view over its distance from the reference (at
            least 0.1 m); 10 if lost.
        seconds: time of encode and decode.
    """

    seed: int
    published: WindowScores
    nd_metric: float
    abs_rel: float
    scale: float
    rotation_deg: tuple[float, ...]
    translation: tuple[float, ...]
    seconds: float


Results = dict[int, dict[str, list[Case]]]
"""Number of views -> name of the predictor -> one case per window."""


class Trivial:
    """Predictors that ignore the images: the baseline a network has to beat."""

    def __init__(self, windows: Sequence[list[View]]) -> None:
        """Average over windows with seeds other than the evaluated ones."""
        if not windows:
            raise RoomsError("the trivial predictors need at least one window to average over")
        truths = [_truth(views) for views in windows]
        self._first: FloatArray = np.mean([t.points_world[0] for t in truths], axis=0)
        self._rest: FloatArray = np.mean([t.points_world[1:].mean(0) for t in truths], axis=0)
        self._depth = float(np.mean([t.points_world[0, ..., 2].mean() for t in truths]))

    def mean_pointmap(self, views: Sequence[View]) -> WindowPrediction:
        """Return the average pointmap, one for the reference and one for all other views."""
        rest = np.repeat(self._rest[None], len(views) - 1, 0)
        return _as_prediction(np.concatenate([self._first[None], rest]))

    def constant_depth(self, views: Sequence[View]) -> WindowPrediction:
        """Return a wall at the average distance in front of a camera that never moves."""
        depth = np.full(self._first.shape[:2], self._depth)
        return _as_prediction(np.stack([backproject(depth, _intrinsics(v)) for v in views]))


def evaluate_rooms(
    engine: Engine,
    windows: Windows,
    seeds: Sequence[int],
    view_counts: Sequence[int],
    baseline_seeds: Sequence[int],
    out: Path,
    report: Callable[[int, int], None],
) -> Results:
    """Evaluate an engine and the trivial predictors, and write the results.

    The rows of the engine are those of `judge`.

    Args:
        engine: the engine to evaluate.
        windows: returns the windows.
        seeds: windows to evaluate.
        view_counts: numbers of views.
        baseline_seeds: windows that the trivial predictors average over.
        out: folder for results.json, table.md and pictures.
        report: called with the numbers of processed and of all windows.

    Raises:
        RoomsError: there are no seeds, or baseline and evaluated seeds overlap.
    """
    if not seeds or not view_counts or set(seeds) & set(baseline_seeds):
        raise RoomsError(f"nothing to judge, or to compare with: {len(seeds)} seeds")
    out.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    info = engine.describe()
    pictured = (row_name(info), row_name(info, joined=True))
    done = 0
    for count in view_counts:
        rows = results.setdefault(count, {})
        ordered = [_ordered(windows(seed, count), 1) for seed in baseline_seeds]
        trivial = Trivial(ordered)
        for number, seed in enumerate(seeds):
            views = windows(seed, count)
            for name, case, prediction in _judge(engine, trivial, views, seed):
                rows.setdefault(name, []).append(case)
                if number < PICTURES and name in pictured:
                    picture = draw_window(_fed(views, prediction), prediction)
                    path = out / f"{name.replace('+', 'p')}_{count:02d}_{seed}.jpg"
                    cv2.imwrite(str(path), picture[..., ::-1])
            done += 1
            report(done, len(seeds) * len(view_counts))
    _write(results, engine, out)
    return results


def _judge(
    engine: Engine, trivial: Trivial, views: list[View], seed: int
) -> Iterator[tuple[str, Case, WindowPrediction]]:
    """Yield cases of all predictors; views of a prediction stay in time order."""
    first = _ordered(views, 1)
    for name in ("mean_pointmap", "constant_depth"):
        prediction = getattr(trivial, name)(first)
        yield name.replace("_", " "), _case(seed, prediction, first, 0, 0.0), prediction
    yield from judge(engine, views, seed)


def row_name(info: EngineInfo, joined: bool = False, oracle: bool = False) -> str:
    """Return the name of one of an engine's rows.

    Args:
        info: of the engine.
        joined: with its own number of references rather than one.
        oracle: with the reference, or the path, that is best according to the truth.
    """
    name = NAMES.get(info.backend, NETWORK)
    if joined:
        return f"{name}+, oracle path" if oracle else f"{name}+"
    return f"{name}, oracle reference" if oracle else name


def judge(
    engine: Engine,
    views: list[View],
    seed: int,
    wanted: Container[str] | None = None,
    references_first: bool = False,
) -> Iterator[tuple[str, Case, WindowPrediction]]:
    """Score an engine on one window.

    The engine runs with one reference and, if designed for more, with its own number (read from
    the path of the central reference and from the most confident path). Oracle rows use the
    reference, or the path, that is best according to the truth. What has no reference has one row.

    Args:
        engine: the engine to score.
        views: of the window, with exact K, depth_m and T_odom_cam, in time order.
        seed: of the window.
        wanted: rows to score, see `row_name`; None for all.
        references_first: whether the views come in the order of a published list instead, with
            the references first; otherwise `order_views` chooses them.

    Yields:
        Name of the row, its case, and the prediction, whose views are in the order given.

    Raises:
        RoomsError: a view lacks depth, pose or intrinsics.
    """
    info = engine.describe()
    started = time.perf_counter()
    tokens = engine.encode(views if info.needs_truth else _blind(views))
    encoded = time.perf_counter() - started
    as_given = tuple(range(len(views)))
    if not info.has_reference:
        kept = references_first or info.in_time_order
        order = as_given if kept else order_views(views, 1)
        prediction, seconds = _decode(engine, tokens, order, 1)
        yield row_name(info), _case(seed, prediction, views, 0, encoded + seconds), prediction
        return
    order, first = as_given, 0
    if not references_first:
        order = order_views(views, min(REFERENCES, len(views)))
        first = order_views(views, 1)[0]
    yield from _one_reference(engine, views, seed, (tokens, encoded, order, first), wanted)
    n_ref = min(info.n_ref, len(views))
    rows = (row_name(info, joined=True), row_name(info, joined=True, oracle=True))
    if n_ref > 1 and (wanted is None or any(row in wanted for row in rows)):
        prediction, seconds = _decode(engine, tokens, order, n_ref)
        paths = range(len(prediction.references))
        cases = [_case(seed, prediction, views, p, encoded + seconds) for p in paths]
        yield rows[0], cases[0], prediction
        yield f"{rows[0]}, most confident path", cases[best_path(prediction)], prediction
        yield rows[1], min(cases, key=lambda c: c.published.nd), prediction


def _one_reference(
    engine: Engine,
    views: list[View],
    seed: int,
    encoded: tuple[list[ViewTokens], float, tuple[int, ...], int],
    wanted: Container[str] | None,
) -> Iterator[tuple[str, Case, WindowPrediction]]:
    """Yield the rows with one reference: tokens, seconds they took, order, first choice."""
    tokens, encode_s, order, first = encoded
    rows = (row_name(engine.describe()), row_name(engine.describe(), oracle=True))
    plain, oracle = (wanted is None or row in wanted for row in rows)
    if not plain and not oracle:
        return
    references = (first, *(order[:REFERENCES] if oracle else ()))
    single = []
    for reference in dict.fromkeys(references):
        one = (reference, *(i for i in order if i != reference))
        prediction, seconds = _decode(engine, tokens, one, 1)
        single.append((_case(seed, prediction, views, 0, encode_s + seconds), prediction))
    if plain:
        yield (rows[0], *single[0])
    if oracle:
        yield (rows[1], *min(single, key=lambda s: s[0].published.nd))


def _blind(views: list[View]) -> list[View]:
    """Return the views without anything only the truth provides."""
    return [replace(v, depth_m=None, T_odom_cam=None) for v in views]


def _decode(
    engine: Engine, tokens: Sequence[ViewTokens], order: tuple[int, ...], n_ref: int
) -> tuple[WindowPrediction, float]:
    started = time.perf_counter()
    prediction = engine.decode([tokens[i] for i in order], n_ref)
    return prediction.in_caller_order(order), time.perf_counter() - started


def _case(
    seed: int, prediction: WindowPrediction, views: list[View], path: int, seconds: float
) -> Case:
    reference = prediction.references[path]
    truth = _truth(views, reference)
    points, valid = prediction.points[path], truth.valid
    chosen = replace(
        prediction,
        points=prediction.points[path : path + 1],
        conf=prediction.conf[path : path + 1],
        references=(reference,),
        poses=None if path else prediction.poses,  # poses are in the frame of path 0
        pose_covariance=None,
        used_odometry=prediction.used_odometry and not path,
    )
    rotations, translations = _pose_errors(chosen, views, truth)
    distance = np.linalg.norm(points - truth.points_world, axis=-1)[valid].mean()
    size = np.linalg.norm(truth.points_world, axis=-1)[valid].mean()
    z, z_true = points[reference, ..., 2], truth.points_world[reference, ..., 2]
    return Case(
        seed=seed,
        published=_published(chosen, truth),
        nd_metric=float(distance / size),
        abs_rel=depth_abs_rel(z, z_true, valid[reference]),
        scale=scale_error(points, truth.points_world, valid),
        rotation_deg=rotations,
        translation=translations,
        seconds=seconds,
    )


def _published(prediction: WindowPrediction, truth: WindowTruth) -> WindowScores:
    """Compute the published columns on evenly spaced pixels: the Chamfer distance is slow."""
    step = math.ceil(math.sqrt(truth.valid.size / MOST_POINTS))
    some = (slice(None), slice(step // 2, None, step), slice(step // 2, None, step))
    thinned = replace(
        prediction,
        points=prediction.points[(slice(None), *some)],
        conf=prediction.conf[(slice(None), *some)],
    )
    thin_truth = WindowTruth(truth.points_world[some], truth.valid[some], truth.T_world_cam)
    return score_window(thinned, thin_truth)


def _pose_errors(
    prediction: WindowPrediction, views: list[View], truth: WindowTruth
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rotations, translations = [], []
    poses = recover_poses(prediction, views, PoseSettings())
    for index, (pose, T_true) in enumerate(zip(poses, truth.T_world_cam, strict=True)):
        if index == prediction.references[0]:
            continue
        if pose is None:
            rotations.append(LOST_ROTATION_DEG)
            translations.append(LOST_TRANSLATION)
            continue
        T = pose.T_window_cam
        rotations.append(float(rotation_angle_deg(T[:3, :3].T @ T_true[:3, :3])))
        moved = max(float(np.linalg.norm(T_true[:3, 3])), LEAST_MOTION_M)
        gap = float(np.linalg.norm(T[:3, 3] - T_true[:3, 3])) / moved
        translations.append(min(gap, LOST_TRANSLATION))
    return tuple(rotations), tuple(translations)


def _truth(views: Sequence[View], reference: int = 0) -> WindowTruth:
    """Return exact pointmaps and poses of views in the frame of one of them."""
    T_world_cam = np.stack([_exact(v.T_odom_cam) for v in views])
    T = invert_se3(T_world_cam[reference]) @ T_world_cam
    depth = np.stack([_exact(v.depth_m) for v in views]).astype(np.float64)
    valid = np.isfinite(depth) & (depth > 0)
    points = [
        backproject(np.where(ok, d, 0.0), _intrinsics(v))
        for v, d, ok in zip(views, depth, valid, strict=True)
    ]
    moved = [p @ t[:3, :3].T + t[:3, 3] for p, t in zip(points, T, strict=True)]
    return WindowTruth(np.stack(moved), valid, T)


def _exact(value: FloatArray | None) -> FloatArray:
    if value is None:
        raise RoomsError("a view without exact depth or pose cannot be scored")
    return value


def _intrinsics(view: View) -> FloatArray:
    if view.K is None:
        raise RoomsError("a view without intrinsics cannot be scored")
    return view.K


def _ordered(views: list[View], n_ref: int) -> list[View]:
    return [views[i] for i in order_views(views, n_ref)]


def _fed(views: list[View], prediction: WindowPrediction) -> list[View]:
    """Return the views with the reference of path 0 first."""
    reference = prediction.references[0]
    return [views[reference], *(v for i, v in enumerate(views) if i != reference)]


def _as_prediction(points: FloatArray) -> WindowPrediction:
    return WindowPrediction(
        points[None].astype(np.float32), np.full((1, *points.shape[:3]), 2.0, np.float32)
    )


def summary(cases: Sequence[Case]) -> dict[str, float]:
    """Return medians and means over windows that the published columns lack."""
    rotation = np.concatenate([c.rotation_deg for c in cases])
    translation = np.concatenate([c.translation for c in cases])
    return {
        "nd_metric": float(np.mean([c.nd_metric for c in cases])),
        "abs_rel": float(np.mean([c.abs_rel for c in cases])),
        "scale_error_median": float(np.median([abs(c.scale) for c in cases])),
        "rotation_deg_median": float(np.median(rotation)),
        "translation_median": float(np.median(translation)),
        "lost_views": float(np.mean(rotation == LOST_ROTATION_DEG)),
        "seconds_median": float(np.median([c.seconds for c in cases])),
    }


def format_results(results: Results) -> str:
    """Format Markdown: for each number of views the published columns, then ours."""
    parts = []
    for count, rows in results.items():
        parts.append(f"### {count} views\n")
        parts.append(format_table({n: [c.published for c in cases] for n, cases in rows.items()}))
        parts.append("\n" + _own_table({n: summary(cases) for n, cases in rows.items()}))
    return "\n".join(parts)


def _own_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    lines = [
        "| windows | ND metric | AbsRel | scale error | rotation | translation | lost | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, s in rows.items():
        lines.append(
            f"| {name} | {s['nd_metric']:.3f} | {s['abs_rel']:.3f} "
            f"| {100 * s['scale_error_median']:.1f} % | {s['rotation_deg_median']:.1f} deg "
            f"| {100 * s['translation_median']:.0f} % | {100 * s['lost_views']:.0f} % "
            f"| {s['seconds_median']:.2f} s |"
        )
    return "\n".join([*lines, ""])


def _write(results: Results, engine: Engine, out: Path) -> None:
    content = {
        "engine": asdict(engine.describe()),
        "views": {
            str(count): {
                name: {"summary": summary(cases), "cases": [asdict(c) for c in cases]}
                for name, cases in rows.items()
            }
            for count, rows in results.items()
        },
    }
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "table.md").write_text(format_results(results))


def draw_window(views: Sequence[View], prediction: WindowPrediction) -> ImageArray:
    """Draw a row: up to four views, true and predicted reference depth, both maps from above.

    Args:
        views: reference of path 0 first, with exact depth and pose.
        prediction: path 0 is drawn.
    """
    reference = prediction.references[0]
    others = [i for i in range(prediction.points.shape[1]) if i != reference]
    points = prediction.points[0][[reference, *others]]
    truth = _truth(views).points_world
    rgb = np.stack([v.image_rgb for v in views])
    return window_row(rgb, truth, points, range(min(4, len(rgb))))
