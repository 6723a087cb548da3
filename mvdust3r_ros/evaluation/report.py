"""What a run leaves behind: the map's files, a picture, numbers, and words for the terminal."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mvdust3r_ros.config import settings_dict
from mvdust3r_ros.datatypes import MapSnapshot, MvDust3rError, Trajectory, Verdict
from mvdust3r_ros.evaluation.input_counts import by_kind
from mvdust3r_ros.evaluation.map_metrics import (
    absolute_errors,
    align_trajectory,
    associate,
    relative_errors,
)
from mvdust3r_ros.evaluation.pictures import PictureError, TrueMap, map_picture
from mvdust3r_ros.evaluation.run import RunResult, outside_engine_ms, stage_latencies
from mvdust3r_ros.map_files import save_map

STEM = "map"


class ReportError(MvDust3rError):
    """A recording gave no map, or its results cannot be written."""


def summarize_run(result: RunResult, truth: Trajectory | None = None) -> dict[str, Any]:
    """Settings and numbers of a run as plain values that JSON can hold.

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
        "map": _map_numbers(result.snapshot),
        "settings": settings_dict(result.config),
    }
    for name, reference in (("truth", truth), ("odometry", result.odometry)):
        if reference is not None and len(result.snapshot.trajectory):
            summary[f"against_{name}"] = trajectory_numbers(result.snapshot.trajectory, reference)
    plain: dict[str, Any] = plain_values(summary)
    return plain


def _map_numbers(snapshot: MapSnapshot) -> dict[str, Any]:
    steps = np.diff(snapshot.trajectory.T_world_cam[:, :3, 3], axis=0)
    numbers: dict[str, Any] = {
        "points": len(snapshot.points_map),
        "path_m": float(np.linalg.norm(steps, axis=1).sum()),
        "scale": snapshot.scale.scale,
        "scale_rel_sigma": snapshot.scale.rel_sigma,
        "scale_source": snapshot.scale.source.name,
        "floor_z_m": snapshot.floor_z_m,
    }
    if snapshot.grid is not None:
        area = snapshot.grid.resolution_m**2
        cells = snapshot.grid.cells
        numbers["free_m2"] = float((cells == 0).sum() * area)
        numbers["occupied_m2"] = float((cells == 100).sum() * area)
    return numbers


def trajectory_numbers(estimate: Trajectory, reference: Trajectory) -> dict[str, Any]:
    """ATE after Sim(3) and SE(3) alignment and RPE, or the reason why there is none."""
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
    """The same with None for NaN and infinity, which JSON does not know, and text for keys."""
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
    title: str = "",
    details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write map.pgm, map.yaml, map.ply, map.tum, map.png and summary.json.

    Args:
        result: the run.
        directory: created when missing.
        truth: true camera poses, drawn and judged against when given.
        title: of the picture.
        details: more to store in summary.json, for example the bag.

    Returns:
        The summary; `files` lists what was made.

    Raises:
        ReportError: no window was committed (summary.json is written all the same), or the disk.
        MapFileError: the map cannot be written.
    """
    summary = {**(details or {}), **summarize_run(result, truth)}
    files: list[Path] = []
    if result.committed:
        files = save_map(result.snapshot, directory, STEM)
        try:
            picture = directory / f"{STEM}.png"
            map_picture(result.snapshot, picture, _true_map(result, truth), title)
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
        raise ReportError("; ".join([no_map_reason(result), *summary.get("inputs", [])]))
    return summary


def _true_map(result: RunResult, truth: Trajectory | None) -> TrueMap | None:
    """The true path in the frame of the map; None where the two cannot be laid over each other."""
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
    """Why a run has no map, in one line."""
    if result.frames == 0:
        return "no map: the recording holds no images"
    if result.faults:
        message, count = result.faults.most_common(1)[0]
        if count == result.frames:
            return f"no map: none of the {count} images can be used; {message}"
    if not result.windows:
        size = result.config.keyframes.window_size
        return (
            f"no map: {result.keyframes} keyframes in {result.frames} frames, a window needs 2 "
            f"of them at least ({size} by default); move the camera more or lower "
            "keyframes.max_translation_m"
        )
    reasons = Counter((w.verdict, w.message) for w in result.windows)
    (verdict, message), count = reasons.most_common(1)[0]
    return f"no map: {count} of {len(result.windows)} windows {verdict.name.lower()}: {message}"


def describe_run(summary: dict[str, Any]) -> str:
    """The numbers of a run and how to open its files, for a terminal."""
    committed = summary["verdicts"].get(Verdict.COMMITTED.name, 0)
    seconds = max(summary["seconds"], 1e-9)
    stages = ", ".join(f"{k} {v:.0f}" for k, v in summary["stage_median_ms"].items())
    made, scale = summary["map"], summary["map"]["scale_rel_sigma"]
    known = f"known to {100 * scale:.1f} %" if scale is not None else "unknown"
    lines = [
        f"{summary['frames']} frames, {summary['keyframes']} keyframes, {committed} of "
        f"{summary['windows']} windows in the map, {seconds:.1f} s "
        f"({summary['frames'] / seconds:.0f} frames/s)",
        f"median ms per window: {stages}",
        f"map: {made['points']} points, {made['free_m2']:.1f} m2 free, "
        f"{made['occupied_m2']:.1f} m2 occupied, path {made['path_m']:.1f} m",
        f"scale: {known}, from {made['scale_source'].lower()}",
    ]
    lines += summary.get("mountings", [])
    had = ", ".join(f"{kind} {n}" for kind, n in summary.get("images_with", {}).items())
    lines += [f"images with {had}"] if had else []
    lines += summary.get("inputs", [])
    for rejection in summary["rejections"][:3]:
        lines.append(f"window {rejection['window']}: {rejection['reason']}")
    for message, count in summary["unusable_frames"].items():
        lines.append(f"{count} frames not used: {message}")
    for name in ("truth", "odometry"):
        numbers = summary.get(f"against_{name}")
        if numbers is not None and "ate_sim3_m" in numbers:
            lines.append(
                f"against {name}: ATE {numbers['ate_sim3_m']:.3f} m after Sim(3), "
                f"{numbers['ate_se3_m']:.3f} m after SE(3), scale off by "
                f"{100 * numbers['scale_error']:.1f} %"
            )
    if "picture" in summary:
        lines.append(summary["picture"])
    return "\n".join([*lines, "", *_how_to_open(summary["files"])])


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
