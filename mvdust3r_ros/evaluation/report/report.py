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

"""Results of a run: map files, overview image, statistics, and the summary on the terminal."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mvdust3r_ros.config import settings_dict
from mvdust3r_ros.datatypes import FREE, OCCUPIED, MvDust3rError, Trajectory, Verdict
from mvdust3r_ros.drawing.map_files import save_map
from mvdust3r_ros.evaluation.caveats import caveats, describe_verdict, extent
from mvdust3r_ros.evaluation.coverage import joined, mapped_share
from mvdust3r_ros.evaluation.metrics.map_metrics import (
    absolute_errors,
    align_trajectory,
    associate,
    relative_errors,
)
from mvdust3r_ros.evaluation.report.pictures import (
    Caption,
    PictureError,
    TrueMap,
    map_picture,
)
from mvdust3r_ros.evaluation.run import RunResult, outside_engine_ms, stage_latencies
from mvdust3r_ros.messages.input_counts import by_kind
from mvdust3r_ros.wording import decimal, percent, plural

STEM = "map"


class ReportError(MvDust3rError):
    """A recording produced no map, or its results cannot be written."""


def summarize_run(result: RunResult, truth: Trajectory | None = None) -> dict[str, Any]:
    """Summarise settings and numbers of a run as plain values for JSON.

    Args:
        result: the run.
        truth: true camera poses, for the trajectory error.
    """
    stages = stage_latencies(result.windows)
    summary: dict[str, Any] = {
        "engine": asdict(result.engine),
        "frames": result.frames,
        "keyframes": result.keyframes,
        "blurred_frames": result.blurred,
        "unusable_frames": by_kind(result.faults),
        "windows": len(result.windows),
        "verdicts": dict(Counter(w.verdict.name for w in result.windows)),
        "rejections": [
            {"window": w.index, "verdict": w.verdict.name, "reason": w.message}
            for w in result.windows
            if w.verdict != Verdict.COMMITTED
        ],
        "seconds": result.seconds,
        "stage_median_ms": stages,
        "outside_engine_median_ms": outside_engine_ms(result.windows),
        "map": _map_numbers(result, truth),
        "settings": settings_dict(result.config),
    }
    summary["notes"] = caveats(summary["map"], result)
    for name, reference in (("truth", truth), ("odometry", result.odometry)):
        if reference is not None and len(result.snapshot.trajectory):
            summary[f"against_{name}"] = trajectory_numbers(result.snapshot.trajectory, reference)
    plain: dict[str, Any] = plain_values(summary)
    return plain


def _map_numbers(result: RunResult, truth: Trajectory | None) -> dict[str, Any]:
    snapshot, in_map = result.snapshot, result.in_map
    reference = result.odometry if truth is None else truth
    covered = mapped_share(in_map, reference, result.first_stamp_ns, result.last_stamp_ns)
    steps = np.diff(snapshot.trajectory.T_world_cam[:, :3, 3], axis=0)
    numbers: dict[str, Any] = {
        "windows": len(in_map),
        "mapped_share": covered.share,
        "drive_m": covered.drive_m,
        "points": len(snapshot.points_map),
        "path_m": float(np.linalg.norm(steps, axis=1).sum()),
        "scale": snapshot.scale.scale,
        "scale_rel_sigma": snapshot.scale.rel_sigma,
        "scale_source": snapshot.scale.source.name,
        "floor_z_m": snapshot.floor_z_m,
    }
    if snapshot.grid is not None and snapshot.gate_open:
        area = snapshot.grid.resolution_m**2
        cells = snapshot.grid.cells
        numbers["free_m2"] = float((cells == FREE).sum() * area)
        numbers["occupied_m2"] = float((cells == OCCUPIED).sum() * area)
    return numbers


def trajectory_numbers(estimate: Trajectory, reference: Trajectory) -> dict[str, Any]:
    """Return ATE after Sim(3) and SE(3) alignment and RPE, or why they are missing."""
    try:
        sim3 = absolute_errors(estimate, reference, "sim3")
        se3 = absolute_errors(estimate, reference, "se3")
        numbers: dict[str, Any] = {
            "ate_sim3_m": sim3.rmse_m,
            "ate_se3_m": se3.rmse_m,
            "rotation_deg": se3.rotation_deg,
            "scale_error": 1.0 / sim3.scale - 1.0,
            "poses": sim3.pairs,
        }
        if sim3.pairs > 1:
            numbers["rpe_m"] = relative_errors(estimate, reference, 1, "se3").rmse_m
        return numbers
    except MvDust3rError as error:
        return {"none_because": str(error)}


def plain_values(value: Any) -> Any:
    """Replace NaN and infinity by None, which JSON can store, and convert keys to text."""
    if isinstance(value, dict):
        return {str(k): plain_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_outputs(
    result: RunResult,
    directory: Path,
    truth: Trajectory | None = None,
    recording: str = "",
    details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write map.pgm, map.yaml, map.ply, map.tum, map.png and summary.json.

    Args:
        result: the run.
        directory: created if missing.
        truth: true camera poses to draw and score against, if given.
        recording: name of the recording, for the picture.
        details: additional values for summary.json, for example the bag.

    Returns:
        The summary; `files` lists the written files.

    Raises:
        ReportError: no window was committed (summary.json is still written), or writing to disk
            failed.
        MapFileError: the map cannot be written.
    """
    summary = {"notes": [], **(details or {})}
    about_input = [*summary.get("mountings", []), *summary["notes"]]
    of_run = summarize_run(result, truth)
    summary = {**summary, **of_run, "notes": [*summary["notes"], *of_run["notes"]]}
    files: list[Path] = []
    if result.committed:
        files = save_map(result.snapshot, directory, STEM)
        try:
            picture = directory / f"{STEM}.png"
            caption = Caption(recording, result.engine.name, result.first_stamp_ns or 0)
            spans = joined([(w.first_ns, w.stamp_ns) for w in result.in_map])
            map_picture(result.snapshot, picture, _true_map(result, truth), caption, spans)
            files.append(picture)
        except PictureError as error:
            summary["picture"] = str(error)
    files.append(directory / "summary.json")
    summary["files"] = [str(path) for path in files]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files[-1].write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise ReportError(f"cannot write {files[-1]}: {error.strerror or error}") from None
    if not result.committed:
        raise ReportError("; ".join([no_map_reason(result), *about_input]))
    return summary


def _true_map(result: RunResult, truth: Trajectory | None) -> TrueMap | None:
    """Return the true path in the frame of the map; None if the two cannot be aligned."""
    if truth is None:
        return None
    try:
        T_estimate, T_true = associate(result.snapshot.trajectory, truth)
        S_map_true = align_trajectory(T_true, T_estimate, "sim3")
    except MvDust3rError:
        return None
    first, last = result.snapshot.trajectory.stamps_ns[[0, -1]]
    during = (truth.stamps_ns >= first) & (truth.stamps_ns <= last)
    poses = np.array([S_map_true.apply_pose(T) for T in truth.T_world_cam[during]])
    return TrueMap(None, Trajectory(truth.stamps_ns[during], poses.reshape(-1, 4, 4)))


def no_map_reason(result: RunResult) -> str:
    """Explain in one line why a run has no map."""
    if result.frames == 0:
        return "no map: the recording holds no images"
    if result.faults:
        message, count = result.faults.most_common(1)[0]
        if count == result.frames:
            return f"no map: none of the {plural(count, 'image')} can be used; {message}"
    if not result.windows:
        size = result.config.keyframes.window_size
        return (
            f"no map: {plural(result.keyframes, 'keyframe')} in {plural(result.frames, 'frame')}, "
            f"a window needs 2 of them at least ({size} by default); move the camera more or "
            "lower keyframes.max_translation_m"
        )
    verdict, count = Counter(w.verdict for w in result.windows).most_common(1)[0]
    message = next(w.message for w in result.windows if w.verdict == verdict)
    windows, first = plural(len(result.windows), "window"), "the first one: " * (count > 1)
    return f"no map: {count} of {windows} {describe_verdict(verdict)}: {first}{message}"


def describe_run(summary: dict[str, Any]) -> str:
    """Describe the numbers of a run and how to open its files, for a terminal."""
    seconds = max(summary["seconds"], 1e-9)
    stages = ", ".join(f"{k} {decimal(v, 0)}" for k, v in summary["stage_median_ms"].items())
    made = summary["map"]
    sigma, share = made["scale_rel_sigma"], made["mapped_share"]
    source = made["scale_source"].lower().replace("_", " ")
    known = f"known to {percent(sigma, 1)}, from {source}" if sigma is not None else "unknown"
    lines = [
        f"{plural(summary['frames'], 'frame')}, {plural(summary['keyframes'], 'keyframe')}, "
        f"{made['windows']} of {plural(summary['windows'], 'window')} in the map"
        + (f" ({percent(share)} of the drive)" if share is not None else "")
        + f", {decimal(seconds, 1)} s ({decimal(summary['frames'] / seconds, 0)} frames/s)",
        f"median ms per window: {stages}",
        f"map: {plural(made['points'], 'point')}, "
        + ("not in metres" if sigma is None else _sizes(made)),
        f"scale: {known}",
    ]
    lines += summary.get("mountings", [])
    had = ", ".join(f"{kind} {n}" for kind, n in summary.get("images_with", {}).items())
    lines += [f"images with {had}"] if had else []
    lines += [f"note: {note}" for note in summary["notes"]]
    for rejection in summary["rejections"][:3]:
        lines.append(f"window {rejection['window']}: {rejection['reason']}")
    for message, count in summary["unusable_frames"].items():
        lines.append(f"{plural(count, 'frame')} not used: {message}")
    for name in ("truth", "odometry"):
        numbers = summary.get(f"against_{name}")
        if numbers is not None and "ate_sim3_m" in numbers:
            lines.append(
                f"against {name}, {extent(made)}: ATE {decimal(numbers['ate_se3_m'], 3)} m, "
                f"{decimal(numbers['ate_sim3_m'], 3)} m with the scale aligned, scale off by "
                f"{decimal(100 * numbers['scale_error'], 1)} %"
            )
    if "picture" in summary:
        lines.append(summary["picture"])
    return "\n".join([*lines, "", *_how_to_open(summary["files"])])


def _sizes(made: dict[str, Any]) -> str:
    """Describe the areas and path of a map; in metres only if its scale is known."""
    path = f"path {decimal(made['path_m'], 1)} m"
    if "free_m2" not in made:
        return f"{path} if its scale is right"
    free, occupied = (decimal(made[name], 1) for name in ("free_m2", "occupied_m2"))
    return f"{free} m² free, {occupied} m² occupied, {path}"


def _how_to_open(files: list[str]) -> list[str]:
    meaning = {
        ".yaml": "for Nav2: ros2 run nav2_map_server map_server --ros-args -p yaml_filename:=",
        ".pgm": "the grid as an image, belongs to the yaml",
        ".ply": "coloured cloud: open it in CloudCompare or MeshLab",
        ".tum": "camera path, TUM format: evo_traj tum ",
        ".png": "picture: open it in any viewer",
        ".json": "settings and numbers",
    }
    width = max(len(f) for f in files)
    lines = []
    for file in files:
        text = meaning[Path(file).suffix]
        lines.append(f"{file:<{width}}  {text}{file if text[-1] in '= ' else ''}")
    return lines
