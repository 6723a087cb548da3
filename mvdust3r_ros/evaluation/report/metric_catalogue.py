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

"""Catalogue of the metrics in a report: name, meaning and unit of each."""

from __future__ import annotations

from dataclasses import dataclass

from mvdust3r_ros.wording import decimal, percent

WHOLE_UNITS = ("", "ms", "MB", "s")
"""Units of numbers that need no decimals if they are whole."""


@dataclass(frozen=True)
class Metric:
    """A number of a report.

    Attributes:
        meaning: one phrase for people.
        unit: "m", "deg", "%" (stored as a fraction of 1), "ms", "MB", "1/s", "s", "m²" or "".
        better: "lower", "higher" or "" if neither.
        measured: whether it depends on the machine and its load, so that two runs differ.
    """

    meaning: str
    unit: str = ""
    better: str = ""
    measured: bool = False


TRAJECTORY = {
    "ate_m": Metric("position error, aligned without scale, root mean square", "m", "lower"),
    "ate_max_m": Metric("largest position error, aligned without scale", "m", "lower"),
    "ate_deg": Metric("rotation error, root mean square", "deg", "lower"),
    "ate_sim3_m": Metric("position error, scale aligned too", "m", "lower"),
    "rpe_m": Metric("error of the motion between keyframes", "m", "lower"),
    "rpe_deg": Metric("rotation error of the motion between keyframes", "deg", "lower"),
    "rpe_sim3_m": Metric("error of the motion between keyframes, scale aligned", "m", "lower"),
    "scale_error": Metric("size of the path against the truth; positive: too large", "%"),
    "scale_drift": Metric("largest scale error of a stretch of 8 keyframes", "%", "lower"),
    "odometry_ate_m": Metric("position error of odometry alone, on the same keyframes", "m"),
    "odometry_rpe_m": Metric("motion between keyframes: error of odometry alone", "m"),
    "odometry_rpe_deg": Metric("motion between keyframes: rotation error of odometry", "deg"),
}
WINDOWS = {
    "nd": Metric("ND: mean distance of a window's points from the truth", "m", "lower"),
    "dac": Metric("DAc: share of the windows with ND below 0.2", "%", "higher"),
    "cd": Metric("CD: median over windows of the Chamfer distance", "m²", "lower"),
    "rre": Metric("RRE: camera pairs turned wrong by 15 degrees or more", "%", "lower"),
    "rte": Metric("RTE: camera pairs displaced wrong by 15 degrees or more", "%", "lower"),
    "mae": Metric("mAE: one minus the mean accuracy up to 30 degrees", "%", "lower"),
    "window_scale_error": Metric("median size error of a window that claims metres", "%"),
    "confidence_rank": Metric("rank correlation of confidence and error", "", "lower"),
}
GRID = {
    "grid_iou": Metric("mean of the overlap of free and of occupied cells", "%", "higher"),
    "grid_known_iou": Metric("cells equal in both over cells known in either", "%", "higher"),
    "grid_free_precision": Metric("free cells that are truly free", "%", "higher"),
    "grid_free_recall": Metric("truly free cells that are free", "%", "higher"),
    "grid_occupied_precision": Metric(
        "occupied cells a cell or less from a true one", "%", "higher"
    ),
    "grid_occupied_recall": Metric(
        "true obstacles a cell or less from an occupied one", "%", "higher"
    ),
    "grid_false_free": Metric("true obstacle cells that are free", "%", "lower"),
}
COUNTS = {
    "frames": Metric("images read"),
    "unusable_frames": Metric("images that could not be used", "", "lower"),
    "blurred_frames": Metric("images skipped as blurred"),
    "dropped_frames": Metric("images dropped by the node", "", "lower"),
    "keyframes": Metric("images kept"),
    "windows": Metric("windows that went through the network"),
    "windows_committed": Metric("windows in the map", "", "higher"),
    "windows_rejected": Metric("windows rejected", "", "lower"),
    "windows_rolled_back": Metric("windows that left the map again", "", "lower"),
    "windows_superseded": Metric("windows that a newer one replaced while the network was busy"),
    "windows_scored": Metric("windows compared with recorded depth"),
    "committed_share": Metric("windows in the map, of all", "%", "higher"),
    "mapped_share": Metric("part of the drive that is in the map", "%", "higher"),
    "drive_m": Metric("length of the drive, by the truth or else by odometry", "m"),
    "loop_closures": Metric("loops closed"),
    "map_points": Metric("points of the map"),
    "free_m2": Metric("free area", "m²"),
    "occupied_m2": Metric("occupied area", "m²"),
    "path_m": Metric("length of the path of the mapped keyframes", "m"),
    "scale_rel_sigma": Metric("how well the mapper thinks it knows the scale", "%", "lower"),
}
MEASURED = {
    "window_p50_ms": Metric("time of a window, median", "ms", "lower", measured=True),
    "window_p95_ms": Metric("time of a window, 95 of 100 are faster", "ms", "lower", True),
    "window_max_ms": Metric("time of the slowest window", "ms", "lower", True),
    "windows_per_s": Metric("windows in a second of work", "1/s", "higher", measured=True),
    "frames_per_s": Metric("images in a second of work", "1/s", "higher", measured=True),
    "seconds": Metric("reading and mapping", "s", "lower", measured=True),
    "peak_memory_mb": Metric("largest memory of the process", "MB", "lower", measured=True),
}
GROUPS = {
    "Trajectory": TRAJECTORY,
    "Grid": GRID,
    "Windows, scored as in the paper": WINDOWS,
    "Counts": COUNTS,
    "Speed": MEASURED,
}
SIGNED = ("scale_error", "scale_drift")
"""Deviations from 0, not fractions of a whole: a value near zero is 0.0 %."""
METRICS = {name: q for group in GROUPS.values() for name, q in group.items()}


def show(name: str, value: float | None) -> str:
    """Format a number with its unit for people; a dash if there is none."""
    if value is None:
        return "-"
    unit = METRICS[name].unit if name in METRICS else ""
    if unit == "%":
        return f"{decimal(100 * value, 1)} %" if name in SIGNED else percent(value, 1)
    if isinstance(value, int) or (float(value).is_integer() and unit in WHOLE_UNITS):
        return f"{int(value)} {unit}".strip()
    digits = max(0, 3 - len(str(int(abs(value)))))
    return f"{decimal(value, digits + (unit == 'm' and abs(value) < 1))} {unit}".strip()
