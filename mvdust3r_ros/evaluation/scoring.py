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

"""Scoring of a run against ground truth: every number and curve of a report."""

from __future__ import annotations

import math
import resource
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from mvdust3r_ros.datatypes import (
    FREE,
    OCCUPIED,
    FloatArray,
    MvDust3rError,
    OccupancyGrid,
    Trajectory,
    Verdict,
)
from mvdust3r_ros.evaluation.caveats import caveats
from mvdust3r_ros.evaluation.coverage import joined, mapped_share
from mvdust3r_ros.evaluation.metrics.map_metrics import (
    absolute_errors,
    align_trajectory,
    compare_grids,
    match_stamps,
    relative_errors,
)
from mvdust3r_ros.evaluation.report.metric_catalogue import COUNTS, METRICS
from mvdust3r_ros.evaluation.run import RunResult, WindowRecord
from mvdust3r_ros.evaluation.true_map import TrueMapBuilder
from mvdust3r_ros.evaluation.window_scores import WindowLog
from mvdust3r_ros.geometry import Sim3, invert_se3, rotation_angle_deg
from mvdust3r_ros.wording import plural

SCALE_STRETCH = 8
"""The scale is measured over this many keyframes back: enough distance to divide by, short enough
to show its drift."""
MIN_STRETCH_M = 0.2
"""Over shorter distances, errors of centimetres would pass for scale errors."""
SAME_PATH_M = 0.001
"""Odometry that never deviates more than this from the truth is the truth, written to the
millimetre."""
CONFIDENCE_BINS = 12
"""Chosen for appearance: points of the curve, each from equally many pixels."""
GRID_COLUMNS = (
    "iou", "known_iou", "free_precision", "free_recall",
    "occupied_precision", "occupied_recall", "false_free",
)  # fmt: skip


@dataclass
class Evidence:
    """Results of a run and its recording, to be scored.

    Attributes:
        result: the run.
        truth: true camera poses, or None.
        windows: scores of the windows, or None where predictions are not available (live).
        true_map: true points, or None.
        drops: reason -> images dropped; lockstep drops none.
        superseded: windows that a newer one replaced before they reached the network.
        left_out: keyframes in no processed window, as the network was busy.
        peak_memory_mb: peak memory of the mapping process; 0 for this process.
        notes: the recording reader's remarks, one sentence for each kind of trouble.
    """

    result: RunResult
    truth: Trajectory | None = None
    windows: WindowLog | None = None
    true_map: TrueMapBuilder | None = None
    drops: dict[str, int] = field(default_factory=dict)
    superseded: int = 0
    left_out: int = 0
    peak_memory_mb: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass
class RunScores:
    """The numbers of a report and the data its charts are drawn from.

    Attributes:
        numbers: name (see `metric_catalogue`) -> value, or None if unknown.
        measured: the same for numbers that depend on the machine.
        notes: why something is missing, in words.
        path: curves along the matched keyframes, lists of equal length; empty without a truth.
        T_true_map: (4, 4) pose of the map frame in the true frame; None without a truth.
        true_path: true camera poses in the map frame, during the map's time; None without a truth.
        true_grid: grid of the true cloud in the map frame, or None.
        windows: one row for each window.
        stages: stage -> p50, p95 and max in milliseconds.
        confidence: error of the points by confidence, in bins of equal size.
        stretches: first and last timestamp (ns) of each part of the drive joined by mapped
            windows.
    """

    numbers: dict[str, float | None] = field(default_factory=dict)
    measured: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    path: dict[str, list[Any]] = field(default_factory=dict)
    T_true_map: FloatArray | None = None
    true_path: Trajectory | None = None
    true_grid: OccupancyGrid | None = None
    windows: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    confidence: list[dict[str, float]] = field(default_factory=list)
    stretches: list[tuple[int, int]] = field(default_factory=list)


def score_run(evidence: Evidence) -> RunScores:
    """Score a run against the truth where it exists; never raises for missing data."""
    made = RunScores(numbers=dict.fromkeys(n for n, q in METRICS.items() if not q.measured))
    _count(made, evidence)
    _score_coverage(made, evidence)
    _score_speed(made, evidence)
    made.notes += evidence.notes
    made.notes += caveats(made.numbers, evidence.result, evidence.left_out)
    estimate, truth = evidence.result.snapshot.trajectory, evidence.truth
    if truth is None:
        made.notes.append("no truth: errors of trajectory, grid and windows are not known")
    _score_windows(made, evidence)
    if truth is None:
        return made
    if len(estimate) == 0:
        made.notes.append("no window is in the map, so trajectory and grid cannot be scored")
        return made
    try:
        S_true_map = _score_trajectory(made, estimate, truth)
        _score_odometry(made, evidence.result.odometry, estimate, truth)
        _score_grid(made, evidence, S_true_map.inverse())
    except MvDust3rError as error:
        made.notes.append(f"trajectory and grid are not scored: {error}")
    return made


def _count(made: RunScores, evidence: Evidence) -> None:
    result, snapshot = evidence.result, evidence.result.snapshot
    in_map = result.in_map
    steps = np.diff(snapshot.trajectory.T_world_cam[:, :3, 3], axis=0)
    counts: dict[str, float | None] = {
        "frames": result.frames,
        "unusable_frames": result.faults.total(),
        "blurred_frames": result.blurred,
        "dropped_frames": sum(evidence.drops.values()),
        "keyframes": result.keyframes,
        "windows": len(result.windows),
        "windows_committed": len(in_map),
        "windows_rejected": len(result.windows) - result.committed,
        "windows_rolled_back": result.committed - len(in_map),
        "windows_superseded": evidence.superseded,
        "windows_scored": 0 if evidence.windows is None else len(evidence.windows.scores),
        "committed_share": len(in_map) / len(result.windows) if result.windows else None,
        "loop_closures": snapshot.loop_closures,
        "map_points": len(snapshot.points_map),
        "path_m": float(np.linalg.norm(steps, axis=1).sum()),
        "scale_rel_sigma": _finite(snapshot.scale.rel_sigma),
    }
    if snapshot.grid is not None and snapshot.gate_open:
        area = snapshot.grid.resolution_m**2
        counts["free_m2"] = float((snapshot.grid.cells == FREE).sum() * area)
        counts["occupied_m2"] = float((snapshot.grid.cells == OCCUPIED).sum() * area)
    assert set(counts) <= set(COUNTS)
    made.numbers.update(counts)


def _score_coverage(made: RunScores, evidence: Evidence) -> None:
    """Measure how much of the drive the map covers, and which parts."""
    result = evidence.result
    reference = result.odometry if evidence.truth is None else evidence.truth
    covered = mapped_share(result.in_map, reference, result.first_stamp_ns, result.last_stamp_ns)
    made.numbers.update(mapped_share=covered.share, drive_m=covered.drive_m)
    made.stretches = joined([(w.first_ns, w.stamp_ns) for w in result.in_map])


def _score_trajectory(made: RunScores, estimate: Trajectory, truth: Trajectory) -> Sim3:
    """Fill in errors and curves; return S_true_map without a change of scale."""
    se3 = absolute_errors(estimate, truth, "se3")
    sim3 = absolute_errors(estimate, truth, "sim3")
    made.numbers.update(
        ate_m=se3.rmse_m,
        ate_max_m=se3.max_m,
        ate_deg=se3.rotation_deg,
        ate_sim3_m=sim3.rmse_m,
        scale_error=1.0 / sim3.scale - 1.0,
    )
    if se3.pairs > 1:
        step = relative_errors(estimate, truth, 1, "se3")
        made.numbers.update(rpe_m=step.rmse_m, rpe_deg=step.rotation_deg)
        made.numbers["rpe_sim3_m"] = relative_errors(estimate, truth, 1, "sim3").rmse_m
    chosen, nearest = match_stamps(estimate, truth)
    T_estimate, T_true = estimate.T_world_cam[chosen], truth.T_world_cam[nearest]
    S_true_map = align_trajectory(T_estimate, T_true, "se3")
    scaled = align_trajectory(T_estimate, T_true, "sim3")
    errors = invert_se3(T_true) @ np.array([S_true_map.apply_pose(T) for T in T_estimate])
    sim3_errors = scaled.apply(T_estimate[:, :3, 3]) - T_true[:, :3, 3]
    stretch = stretch_scale_errors(T_estimate[:, :3, 3], T_true[:, :3, 3])
    known = [abs(v) for v in stretch if v is not None]
    made.numbers["scale_drift"] = max(known, default=None)
    stamps = estimate.stamps_ns[chosen]
    made.path = {
        "stamp_ns": stamps.tolist(),
        "time_s": ((stamps - stamps[0]) * 1e-9).tolist(),
        "position_map": T_estimate[:, :3, 3].tolist(),
        "true_position_map": S_true_map.inverse().apply(T_true[:, :3, 3]).tolist(),
        "error_m": np.linalg.norm(errors[:, :3, 3], axis=1).tolist(),
        "error_sim3_m": np.linalg.norm(sim3_errors, axis=1).tolist(),
        "error_deg": rotation_angle_deg(errors[:, :3, :3]).tolist(),
        "scale_error": stretch,
    }
    made.T_true_map = S_true_map.apply_pose(np.eye(4))
    during = (truth.stamps_ns >= stamps[0]) & (truth.stamps_ns <= stamps[-1])
    S_map_true = S_true_map.inverse()
    poses = np.array([S_map_true.apply_pose(T) for T in truth.T_world_cam[during]])
    made.true_path = Trajectory(truth.stamps_ns[during], poses)
    return S_true_map


def _score_odometry(
    made: RunScores, odometry: Trajectory | None, estimate: Trajectory, truth: Trajectory
) -> None:
    """Score odometry alone at the keyframes of the map, the baseline that the map has to beat."""
    if odometry is None:
        return
    same = np.isin(odometry.stamps_ns, estimate.stamps_ns)
    alone = Trajectory(odometry.stamps_ns[same], odometry.T_world_cam[same])
    if len(alone) < 2:
        return
    try:
        made.numbers["odometry_ate_m"] = absolute_errors(alone, truth, "se3").rmse_m
        step = relative_errors(alone, truth, 1, "se3")
        same_path = absolute_errors(odometry, truth, "se3").max_m < SAME_PATH_M
    except MvDust3rError as error:
        made.notes.append(f"odometry alone is not scored: {error}")
        return
    made.numbers.update(odometry_rpe_m=step.rmse_m, odometry_rpe_deg=step.rotation_deg)
    if same_path:
        made.notes.append(
            "the truth is the odometry that the mapper was given: path errors show what mapping "
            "adds to it, not how far either is off"
        )


def stretch_scale_errors(xyz: FloatArray, true_xyz: FloatArray) -> list[float | None]:
    """Return the relative error of the path length over the last 8 steps at each pose.

    Args:
        xyz: (N, 3) estimated camera centres.
        true_xyz: (N, 3) true camera centres.

    Returns:
        N values; None at the start and where the camera hardly moved.
    """
    lengths = [
        np.concatenate([[0.0], np.linalg.norm(np.diff(p, axis=0), axis=1).cumsum()])
        for p in (xyz, true_xyz)
    ]
    errors: list[float | None] = []
    for k in range(len(xyz)):
        begin = max(0, k - SCALE_STRETCH)
        made, true = (float(length[k] - length[begin]) for length in lengths)
        # over fewer keyframes, the error of one would dominate
        errors.append(made / true - 1.0 if k >= 3 and true > MIN_STRETCH_M else None)
    return errors


def _score_grid(made: RunScores, evidence: Evidence, S_map_true: Sim3) -> None:
    snapshot = evidence.result.snapshot
    if snapshot.grid is None or evidence.true_map is None:
        return
    true_grid = evidence.true_map.grid(S_map_true, snapshot.floor_z_m)
    if true_grid is None:
        made.notes.append("no frame has depth, a true pose and intrinsics: no true grid")
        return
    made.true_grid = true_grid
    scores = compare_grids(snapshot.grid, true_grid, tolerance_m=true_grid.resolution_m)
    for column in GRID_COLUMNS:
        made.numbers[f"grid_{column}"] = _finite(getattr(scores, column))


def _score_windows(made: RunScores, evidence: Evidence) -> None:
    log, in_map = evidence.windows, evidence.result.in_map
    for window in evidence.result.windows:
        row: dict[str, Any] = {
            "window": window.index,
            "stamp_ns": window.stamp_ns,
            "keyframes": window.keyframes,
            "verdict": window.verdict.name.lower(),
            "in_map": window in in_map,
            "reason": window.message,
            "points": window.points,
            "residual_m": _finite(window.residual_m),
        }
        if log is not None and window.index in log.scores:
            row |= asdict(log.scores[window.index])
            row["scale_error"] = log.metric_error.get(window.index)
        made.windows.append(row)
    if log is None:
        made.notes.append("predictions of windows cannot be seen from outside the node")
        return
    for reason, count in log.unscored.items() if evidence.truth is not None else ():
        made.notes.append(f"{plural(count, 'window')} without scores: {reason}")
    if log.scores:
        table = {k: [getattr(s, k) for s in log.scores.values()] for k in _PAPER}
        means = {name: float(np.mean(values)) for name, values in table.items()}
        made.numbers.update({**means, "cd": float(np.median(table["cd"]))})
    if log.metric_error:
        made.numbers["window_scale_error"] = float(np.median(list(log.metric_error.values())))
    if log.confidence:
        pairs = np.concatenate(log.confidence)
        made.confidence = confidence_bins(pairs)
        if len(np.unique(pairs[:, 0])) > 1:
            made.numbers["confidence_rank"] = _finite(float(spearmanr(pairs).statistic))


_PAPER = ("nd", "dac", "cd", "rre", "rte", "mae")


def confidence_bins(pairs: FloatArray) -> list[dict[str, float]]:
    """Return error quartiles in bins of equally many points, in order of increasing confidence.

    Args:
        pairs: (N, 2) confidence and error (m).
    """
    order = np.argsort(pairs[:, 0], kind="stable")
    bins = []
    for part in np.array_split(pairs[order], min(CONFIDENCE_BINS, len(pairs))):
        low, middle, high = np.percentile(part[:, 1], [25, 50, 75])
        bins.append(
            {
                "confidence": float(np.median(part[:, 0])),
                "error_p25_m": float(low),
                "error_p50_m": float(middle),
                "error_p75_m": float(high),
            }
        )
    return bins


def _score_speed(made: RunScores, evidence: Evidence) -> None:
    result = evidence.result
    own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    made.stages = stage_percentiles(result.windows)
    total = made.stages.get("total", {})
    work_s = sum(sum(w.latency_ms.values()) for w in result.windows) / 1e3
    made.measured = {
        "window_p50_ms": total.get("p50"),
        "window_p95_ms": total.get("p95"),
        "window_max_ms": total.get("max"),
        "windows_per_s": len(result.windows) / work_s if work_s > 0 else None,
        "frames_per_s": result.frames / result.seconds if result.seconds > 0 else None,
        "seconds": result.seconds,
        "peak_memory_mb": evidence.peak_memory_mb or own_mb,
    }


def stage_percentiles(windows: list[WindowRecord]) -> dict[str, dict[str, float]]:
    """Return p50, p95 and max in ms of each stage and their sum ("total") over all windows."""
    stages: dict[str, list[float]] = {}
    for window in windows:
        for name, value in window.latency_ms.items():
            stages.setdefault(name, []).append(value)
        if window.latency_ms:
            stages.setdefault("total", []).append(sum(window.latency_ms.values()))
    return {
        name: {
            "p50": float(np.percentile(values, 50)),
            "p95": float(np.percentile(values, 95)),
            "max": float(max(values)),
        }
        for name, values in sorted(stages.items(), key=lambda item: item[0] == "total")
    }


def rejects(windows: list[WindowRecord]) -> dict[str, int]:
    """Count the rejected windows by verdict."""
    return dict(Counter(w.verdict.name.lower() for w in windows if w.verdict != Verdict.COMMITTED))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
