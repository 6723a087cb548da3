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

"""Write report.json and report.html of one evaluated recording."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mvdust3r_ros.config import settings_dict
from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.drawing.map_files import save_map
from mvdust3r_ros.engines.create import default_engine_folder
from mvdust3r_ros.engines.manifest import MANIFEST_NAME, load_manifest
from mvdust3r_ros.evaluation.caveats import extent
from mvdust3r_ros.evaluation.report.environment import describe_environment
from mvdust3r_ros.evaluation.report.metric_catalogue import show
from mvdust3r_ros.evaluation.report.page import report_page
from mvdust3r_ros.evaluation.report.report import ReportError, plain_values
from mvdust3r_ros.evaluation.scoring import Evidence, RunScores, rejects, score_run
from mvdust3r_ros.messages.input_counts import by_kind
from mvdust3r_ros.recordings.recording import Recording
from mvdust3r_ros.wording import plural

REPORT_FORMAT = 2
"""Increases with each change that breaks readers of older reports."""
SECTIONS = (
    "complete", "mode", "input", "engine", "numbers", "windows", "path", "trajectory", "settings",
    "timing", "environment",
)  # fmt: skip
MEASURED = ("timing", "environment")
"""Sections that differ between two runs of the same recording; all others are identical."""


def write_report(
    out: Path, recording: Recording, evidence: Evidence, mode: str = "lockstep", stopped: str = ""
) -> dict[str, Any]:
    """Score a run and write its report, map and pictures.

    Args:
        out: folder, created if missing.
        recording: the evaluated recording.
        evidence: results of the run.
        mode: "lockstep" or "live".
        stopped: why reading stopped before the end of the recording; empty if it did not.

    Returns:
        The report, as in report.json.

    Raises:
        ReportError: writing to disk failed.
        PictureError: matplotlib is not installed; report.json is still written.
        MapFileError: the map cannot be written.
    """
    made = score_run(evidence)
    report = _report(recording, evidence, made, mode, stopped)
    files: list[Path] = []
    if len(evidence.result.snapshot.trajectory):
        files = save_map(evidence.result.snapshot, out, "map")
    report["files"] = [path.name for path in files]
    write_text(out / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    log = evidence.windows
    thumbnails = [] if log is None else log.thumbnails
    html = report_page(report, evidence.result.snapshot, made, thumbnails)
    write_text(out / "report.html", html)
    return report


def _report(
    recording: Recording, evidence: Evidence, made: RunScores, mode: str, stopped: str
) -> dict[str, Any]:
    result = evidence.result
    report: dict[str, Any] = {
        "format": REPORT_FORMAT,
        "complete": not stopped,
        "stopped": stopped,
        "mode": mode,
        "input": {
            "name": recording.name,
            "kind": recording.kind,
            "images": recording.total,
            "first_stamp_ns": result.first_stamp_ns,
            "truth": recording.truth_source,
            "true_poses": 0 if recording.truth is None else len(recording.truth),
            "depth": recording.depth_source,
            "images_with": recording.inputs.numbers(),
            **recording.details,
        },
        "engine": {**asdict(result.engine), "manifest": _manifest(result.config.engine.engine)},
        "numbers": made.numbers,
        "rejects": rejects(result.windows),
        "unusable": by_kind(result.faults),
        "drops": evidence.drops,
        "notes": [*recording.notes.lines(), *made.notes, *recording.inputs.lines()],
        "windows": made.windows,
        "path": made.path,
        "trajectory": _trajectory(evidence, made),
        "confidence": made.confidence,
        "settings": settings_dict(result.config),
        "timing": {
            "numbers": made.measured,
            "stages": made.stages,
            "windows_ms": {w.index: w.latency_ms for w in result.windows},
        },
        "environment": {
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **describe_environment(),
        },
    }
    plain: dict[str, Any] = plain_values(report)
    return plain


def _trajectory(evidence: Evidence, made: RunScores) -> dict[str, Any]:
    """Return all keyframes of the map, the stretches joined by windows, and T_true_map."""
    trajectory = evidence.result.snapshot.trajectory
    return {
        "stamp_ns": trajectory.stamps_ns.tolist(),
        "position_map": trajectory.T_world_cam[:, :3, 3].tolist(),
        "stretches_ns": [list(span) for span in made.stretches],
        "T_true_map": None if made.T_true_map is None else made.T_true_map.tolist(),
    }


def _manifest(engine: str) -> dict[str, Any] | None:
    """Return the manifest of an engine folder; None for the oracle and plain weights."""
    try:
        folder = Path(engine) if engine else default_engine_folder()
        if not (folder / MANIFEST_NAME).is_file():
            return None
        return asdict(load_manifest(folder, check_files=False))
    except MvDust3rError:
        return None


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: it appears complete or not at all.

    Raises:
        ReportError: writing to disk failed.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror or error}") from None


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json, or the one in a folder.

    Raises:
        ReportError: the file is missing, or is not a report.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"report {path} cannot be read: {error}") from None
    if not isinstance(report, dict) or report.get("format") != REPORT_FORMAT:
        raise ReportError(f"{path} is no report of this version's `mvdust3r_ros evaluate`")
    if missing := [name for name in SECTIONS if name not in report]:
        raise ReportError(f"report {path} is damaged: it lacks {', '.join(missing)}")
    return report


def same_numbers(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two reports agree in everything that does not depend on the machine."""
    return all(a.get(k) == b.get(k) for k in {*a, *b} if k not in MEASURED)


def explain_no_images(report: dict[str, Any]) -> str:
    """Explain why no image was usable, and what to do; empty if one was usable."""
    numbers = report["numbers"]
    if numbers["keyframes"]:
        return ""
    reasons = report["unusable"] or report["drops"]
    why = max(reasons, key=lambda r: reasons[r], default="")
    if not why:
        why = "all are blurred" if numbers["blurred_frames"] else "none came"
    return f"not one of {report['input']['images']} images could be used: {why}"


def describe_report(report: dict[str, Any], out: Path, dumps: Sequence[Path] = ()) -> str:
    """Describe the main numbers and where to look, for a terminal."""
    numbers = {**report["numbers"], **report["timing"]["numbers"]}
    shown = {name: show(name, value) for name, value in numbers.items()}
    had = ", ".join(f"{kind} {n}" for kind, n in report["input"]["images_with"].items())
    lines = [_mapped_line(numbers, shown), f"images with {had}", *_error_lines(numbers, shown)]
    if numbers["window_p50_ms"] is not None:
        lines.append("speed: {window_p50_ms} a window, {window_p95_ms} at 95 %".format(**shown))
    lines += [f"{plural(n, 'image')} not used: {why}" for why, n in report["unusable"].items()]
    lines += [f"{plural(n, 'image')} dropped: {why}" for why, n in report["drops"].items()]
    lines += [f"note: {note}" for note in report["notes"]]
    if dumps:
        lines.append(
            f"{plural(len(dumps), 'rejected window')} kept; to run one again: "
            f"mvdust3r_ros evaluate --replay {dumps[0]}"
        )
    return "\n".join([*lines, f"{out / 'report.html'}"])


def _mapped_line(numbers: dict[str, Any], shown: dict[str, str]) -> str:
    drive = f" of {shown['drive_m']}" if numbers["drive_m"] is not None else ""
    share = f": {shown['mapped_share']} of the drive{drive}" if numbers["windows"] else ""
    return (
        f"{plural(numbers['frames'], 'image')}, {plural(numbers['keyframes'], 'keyframe')}, "
        f"{shown['windows_committed']} of {plural(numbers['windows'], 'window')} in the map{share}"
    )


def _error_lines(numbers: dict[str, Any], shown: dict[str, str]) -> list[str]:
    lines = []
    if numbers["ate_m"] is not None:
        lines.append(
            f"path, {extent(numbers)}: ATE {shown['ate_m']}, {shown['ate_sim3_m']} with the scale "
            f"aligned, scale off by {shown['scale_error']}, RPE {shown['rpe_m']}"
        )
    if numbers["odometry_ate_m"] is not None:
        lines.append(
            f"odometry alone, on the same keyframes: ATE {shown['odometry_ate_m']}, "
            f"RPE {shown['odometry_rpe_m']}"
        )
    if numbers["grid_iou"] is not None:
        lines.append(
            "grid: IoU {grid_iou}, free cells right {grid_free_precision}, obstacles found "
            "{grid_occupied_recall}, obstacles called free {grid_false_free}".format(**shown)
        )
    if numbers["nd"] is not None:
        scored = plural(numbers["windows_scored"], "window")
        lines.append(
            f"network, mean of {scored}: "
            "ND {nd}, DAc {dac}, CD {cd}, RRE {rre}, RTE {rte}, mAE {mae}".format(**shown)
        )
    return lines
