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

"""Compare several reports: the best value of each number, and paths in a common frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.evaluation.report.metric_catalogue import METRICS, show
from mvdust3r_ros.evaluation.report.report_files import read_report
from mvdust3r_ros.geometry import AlignmentError, Sim3, align_sim3
from mvdust3r_ros.wording import percent

if TYPE_CHECKING:
    from rich.table import Table

KEY_NUMBERS = (
    "mapped_share", "ate_m", "odometry_ate_m", "ate_sim3_m", "scale_error",
    "rpe_m", "odometry_rpe_m", "rpe_deg",
    "grid_iou", "grid_free_precision", "grid_occupied_recall",
    "nd", "dac", "cd", "rre", "rte", "mae",
    "frames", "dropped_frames", "windows", "committed_share",
    "window_p50_ms", "window_p95_ms", "windows_per_s", "peak_memory_mb",
)  # fmt: skip
SHORT_NUMBERS = (
    "mapped_share", "ate_m", "scale_error", "grid_iou", "nd", "dropped_frames", "window_p50_ms",
)  # fmt: skip
MAX_COLUMNS = 4
"""Chosen for appearance: as many columns as fit in a terminal of 100 characters; more runs become
rows."""
UNEQUAL_SHARE = 0.05
"""Maps whose coverage differs by more than this have path errors of different parts of the drive;
smaller differences come from the last keyframes."""
ABOUT_ZERO = ("scale_error", "window_scale_error")
"""Signed numbers: the best is nearest to zero."""


@dataclass(frozen=True)
class Compared:
    """One of the reports.

    Attributes:
        label: short unique label.
        report: as in report.json.
        values: all its numbers, including those that depend on the machine.
        path: (N, 3) keyframes in the frame of the first report's map; None if the two cannot be
            aligned.
        why_not: the reason in words; empty if there is a path.
    """

    label: str
    report: dict[str, Any]
    values: dict[str, float | None]
    path: FloatArray | None = None
    why_not: str = ""

    def show(self, name: str) -> str:
        """Format one of its numbers for people."""
        return show(name, self.values.get(name))


@dataclass(frozen=True)
class Comparison:
    """Reports to compare.

    Attributes:
        runs: one for each report, in the order given.
        best: number -> indices of the reports that are best in it; empty if all are equal.
        settings: settings that differ -> the value in each report.
    """

    runs: list[Compared]
    best: dict[str, set[int]] = field(default_factory=dict)
    settings: dict[str, list[Any]] = field(default_factory=dict)


def read_comparison(paths: Sequence[Path]) -> Comparison:
    """Compare report.json files, or the folders that contain them.

    Raises:
        ReportError: one of the files is not a report.
    """
    return compare([read_report(path) for path in paths], labels_of(paths))


def labels_of(paths: Sequence[Path]) -> list[str]:
    """Return the shortest endings of the folder names that distinguish them."""
    folders = [p.resolve() if p.is_dir() else p.resolve().parent for p in paths]
    deepest = max(len(f.parts) for f in folders)
    for depth in range(1, deepest + 1):
        labels = ["/".join(f.parts[-depth:]) for f in folders]
        if len(set(labels)) == len(set(folders)):
            break
    seen: Counter[str] = Counter()
    for k, label in enumerate(labels):
        seen[label] += 1
        labels[k] = label if seen[label] == 1 else f"{label} ({seen[label]})"
    return labels


def compare(reports: Sequence[dict[str, Any]], labels: Sequence[str]) -> Comparison:
    """Compare reports.

    Args:
        reports: as in report.json, at least one.
        labels: one label for each report.
    """
    runs = []
    for report, label in zip(reports, labels, strict=True):
        values = {**report["numbers"], **report["timing"]["numbers"]}
        path, why_not = _overlaid_path(reports[0], report)
        runs.append(Compared(label, report, values, path, why_not))
    best = {name: _best(name, [r.values.get(name) for r in runs]) for name in METRICS}
    return Comparison(runs, best, _different_settings(reports))


def _overlaid_path(first: dict[str, Any], other: dict[str, Any]) -> tuple[FloatArray | None, str]:
    """Return a report's keyframes in the first report's map frame, or why that is impossible."""
    xyz = _positions(other)
    if len(xyz) == 0:
        return None, "it has no map"
    if first is other:
        return xyz, ""
    if any(first["input"][k] != other["input"][k] for k in ("name", "first_stamp_ns")):
        return None, f"it is of another recording ({other['input']['name']})"
    places = [r["trajectory"]["T_true_map"] for r in (first, other)]
    if None not in places:
        T_first_other = np.linalg.inv(np.array(places[0])) @ np.array(places[1])
        return xyz @ T_first_other[:3, :3].T + T_first_other[:3, 3], ""
    try:
        return _by_common_stamps(first, other).apply(xyz), ""
    except AlignmentError as error:
        return None, f"no truth, and its keyframes do not determine where it lies: {error}"


def _positions(report: dict[str, Any]) -> FloatArray:
    return np.array(report["trajectory"]["position_map"], float).reshape(-1, 3)


def _by_common_stamps(first: dict[str, Any], other: dict[str, Any]) -> Sim3:
    """Estimate the rigid motion that best aligns the keyframes of both reports."""
    ours, theirs = (np.array(r["trajectory"]["stamp_ns"], np.int64) for r in (first, other))
    _, in_first, in_other = np.intersect1d(ours, theirs, return_indices=True)
    return align_sim3(_positions(other)[in_other], _positions(first)[in_first], with_scale=False)


def _best(name: str, values: Sequence[float | None]) -> set[int]:
    better = "lower" if name in ABOUT_ZERO else METRICS[name].better
    size = [None if v is None else abs(v) if name in ABOUT_ZERO else v for v in values]
    known = [v for v in size if v is not None]
    if not better or len(set(known)) < 2:
        return set()
    goal = min(known) if better == "lower" else max(known)
    return {k for k, v in enumerate(size) if v == goal}


def _different_settings(reports: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    flat = [
        {f"{part}.{name}": v for part, f in r["settings"].items() for name, v in f.items()}
        for r in reports
    ]
    names = dict.fromkeys(name for values in flat for name in values)
    rows = {name: [values.get(name) for values in flat] for name in names}
    return {name: row for name, row in rows.items() if any(v != row[0] for v in row)}


def unequal_parts(runs: Sequence[Compared]) -> list[str]:
    """Warn if the path errors cover different parts of the drive."""
    shares = [s for run in runs if (s := run.values.get("mapped_share")) is not None]
    if not shares or max(shares) - min(shares) <= UNEQUAL_SHARE:
        return []
    return [
        f"the maps hold {percent(min(shares))} to {percent(max(shares))} of the drive: path "
        "errors are of different parts of it"
    ]


def comparison_table(compared: Comparison) -> Table:
    """Format the numbers for a terminal: one column per report, or one row if there are many."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    runs = compared.runs

    def cell(place: int, name: str) -> Text:
        good = place in compared.best[name]
        return Text(runs[place].show(name) + (" *" if good else ""), "bold green" if good else "")

    if len(runs) > MAX_COLUMNS:
        table.add_column("")
        for name in SHORT_NUMBERS:
            table.add_column(name, justify="right")
        for place, run in enumerate(runs):
            table.add_row(Text(run.label), *(cell(place, name) for name in SHORT_NUMBERS))
        return table
    table.add_column("* best")
    for run in runs:
        table.add_column(Text(run.label), justify="right")
    for name in KEY_NUMBERS:
        if any(run.values.get(name) is not None for run in runs):
            table.add_row(name, *(cell(place, name) for place in range(len(runs))))
    return table
