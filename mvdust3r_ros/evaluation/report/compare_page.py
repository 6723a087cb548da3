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

"""Write compare.html: several reports overlaid and side by side, in one standalone file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.evaluation.coverage import stretch_of
from mvdust3r_ros.evaluation.report.charts import (
    GREY,
    HEIGHT_IN,
    from_zero,
    plan_bounds_of,
    plan_height,
    svg_of,
)
from mvdust3r_ros.evaluation.report.compare import (
    ABOUT_ZERO,
    KEY_NUMBERS,
    Compared,
    Comparison,
    unequal_parts,
)
from mvdust3r_ros.evaluation.report.metric_catalogue import GROUPS, METRICS
from mvdust3r_ros.evaluation.report.page import cards, page, section
from mvdust3r_ros.evaluation.report.pictures import TRUE_PATH_RGB, frame_plan
from mvdust3r_ros.evaluation.report.report_files import write_text
from mvdust3r_ros.wording import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#1e6edc", "#c22f3d", "#1e8a4c", "#8a4fc2", "#00889a", "#a0522d", "#d6439b", "#5b6475")
DASHES = ("-", "--", ":", "-.")
TRUTH = f"#{TRUE_PATH_RGB[0]:02x}{TRUE_PATH_RGB[1]:02x}{TRUE_PATH_RGB[2]:02x}"


def write_comparison(path: Path, compared: Comparison) -> None:
    """Write the page.

    Raises:
        ReportError: writing to disk failed.
        PictureError: matplotlib is not installed.
    """
    write_text(path, comparison_page(compared))


def comparison_page(compared: Comparison) -> str:
    """Build the page of a comparison.

    Raises:
        PictureError: matplotlib is not installed.
    """
    runs = compared.runs
    parts = [
        _legend(runs),
        *(f'<p class="warn">{escape(line)}</p>' for line in _warnings(runs)),
        section("Over each other", cards(*_charts(runs))),
        "<h2>Side by side</h2>" + _numbers(compared, KEY_NUMBERS),
        _settings(compared),
        "<h2>All numbers</h2>" + _groups(compared),
    ]
    names = sorted({run.report["input"]["name"] for run in runs})
    return page(
        f"{plural(len(runs), 'run')} compared", ", ".join(names), "\n".join(p for p in parts if p)
    )


def color_of(place: int) -> str:
    """Return the colour of a run; the eight colours repeat with another line style."""
    return COLORS[place % len(COLORS)]


def line_of(place: int) -> dict[str, Any]:
    """Return the colour and dashes of a run for matplotlib."""
    dashes = DASHES[place // len(COLORS) % len(DASHES)]
    return {"color": color_of(place), "ls": dashes}


def _dot(place: int) -> str:
    return f'<i class="dot" style="background:{color_of(place)}"></i>'


def _legend(runs: Sequence[Compared]) -> str:
    rows = "".join(
        f"<tr><td class=run>{_dot(k)}{escape(run.label)}</td>"
        f"<td>{escape(run.report['input']['name'])}</td>"
        f"<td>{escape(run.report['engine']['name'])}</td><td>{run.report['mode']}</td>"
        f"<td>{escape(run.report['environment']['cpu'])}</td></tr>"
        for k, run in enumerate(runs)
    )
    head = "<tr><th>run</th><th>recording</th><th>engine</th><th>mode</th><th>processor</th></tr>"
    return f'<div class="wide"><table>{head}{rows}</table></div>'


def _warnings(runs: Sequence[Compared]) -> list[str]:
    found = [
        f"{run.label}: partial report: {run.report['stopped']}"
        for run in runs
        if not run.report["complete"]
    ]
    found += unequal_parts(runs)
    found += [f"{run.label}: {note}" for run in runs for note in run.report["notes"]]
    return found + [
        f"{run.label}: path not laid over the first: {run.why_not}" for run in runs if run.why_not
    ]


def _charts(runs: Sequence[Compared]) -> list[tuple[str, str]]:
    charts = []
    if any(run.path is not None and len(run.path) > 1 for run in runs):
        charts.append(("Paths from above", _paths(runs)))
    charts += [
        ("Position error over time", _curves(runs, "error_m", "error (m)", 1.0)),
        ("Scale error over time", _curves(runs, "scale_error", "scale error (%)", 100.0)),
    ]
    if any(w.get("nd") is not None for run in runs for w in run.report["windows"]):
        charts.append(("Distance of each window from the truth", _window_errors(runs)))
    if any(run.values.get("window_p50_ms") is not None for run in runs):
        charts.append(("Time of a window", _window_times(runs)))
    return charts


def _paths(runs: Sequence[Compared]) -> str:
    shown = [(k, run.path[:, :2]) for k, run in enumerate(runs) if run.path is not None]
    true = np.array(runs[0].report["path"].get("true_position_map", [])).reshape(-1, 3)[:, :2]
    bounds = plan_bounds_of(np.concatenate([true, *(xy for _, xy in shown)]))

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        if len(true):
            axes.plot(*true.T, color=TRUTH, lw=3.5, alpha=0.55, label="true path")
        for place, xy in shown:
            stamps = runs[place].report["trajectory"]["stamp_ns"]
            line = _with_gaps(runs[place], stamps, xy)
            axes.plot(
                *line.T, lw=1.8, marker="o", ms=2.5, label=runs[place].label, **line_of(place)
            )
        frame_plan(axes, bounds, "")
        _legend_below(axes, len(shown) + 1)

    return svg_of(draw, plan_height(bounds))


def _with_gaps(run: Compared, stamps_ns: Sequence[int], rows: FloatArray) -> FloatArray:
    """Return (N, 2) points of a line, with a row of NaN where no window of the run joins them."""
    stretch = stretch_of(stamps_ns, run.report["trajectory"].get("stretches_ns", []))
    return np.insert(rows, np.flatnonzero(np.diff(stretch)) + 1, np.nan, axis=0)


def _legend_below(axes: Axes, entries: int) -> None:
    """Place the legend under the plot, where it hides nothing; omit it if it is too long."""
    if entries <= len(COLORS) + 1:
        axes.legend(fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2)


def _curves(runs: Sequence[Compared], column: str, label: str, factor: float) -> str:
    """Plot a column of the paths over time; empty if no run has two values in it."""
    if all(sum(v is not None for v in r.report["path"].get(column, [])) < 2 for r in runs):
        return ""

    def draw(axes: Axes) -> None:
        reach = 0.01 * factor
        for place, run in enumerate(runs):
            path = run.report["path"]
            first_ns = run.report["input"]["first_stamp_ns"]
            known = [
                (stamp, (stamp - first_ns) * 1e-9, factor * value)
                for stamp, value in zip(
                    path.get("stamp_ns", []), path.get(column, []), strict=True
                )
                if value is not None
            ]
            if known:
                curve = _with_gaps(run, [k[0] for k in known], np.array([k[1:] for k in known]))
                axes.plot(*curve.T, marker="o", ms=2.5, **line_of(place))
                reach = max(reach, 1.15 * max(abs(v) for *_, v in known))
        if column in ABOUT_ZERO:
            axes.axhline(0, color=GREY, lw=1)
            axes.set_ylim(-reach, reach)
        else:
            from_zero(axes, 0.01)
        axes.set(xlabel="time (s)", ylabel=label)

    return svg_of(draw)


def _window_errors(runs: Sequence[Compared]) -> str:
    def draw(axes: Axes) -> None:
        for place, run in enumerate(runs):
            scored = [w for w in run.report["windows"] if w.get("nd") is not None]
            axes.plot(
                [(w["stamp_ns"] - run.report["input"]["first_stamp_ns"]) * 1e-9 for w in scored],
                [w["nd"] for w in scored], marker="o", ms=3, **line_of(place),
            )  # fmt: skip
        axes.axhline(0.2, color=GREY, lw=1, ls="--")
        from_zero(axes, 0.25)
        axes.set(xlabel="time (s)", ylabel="ND (m)")

    return svg_of(draw)


def _window_times(runs: Sequence[Compared]) -> str:
    def draw(axes: Axes) -> None:
        place = np.arange(len(runs))
        colors = [color_of(k) for k in range(len(runs))]
        p95, p50 = (
            [run.values.get(f"window_{p}_ms") or 0.0 for run in runs] for p in ("p95", "p50")
        )
        axes.barh(place, p95, color=colors, alpha=0.3)
        axes.barh(place, p50, color=colors, height=0.45)
        axes.set_yticks(place, [run.label for run in runs])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("ms: median, and pale 95 of 100 windows")

    return svg_of(draw, min(max(HEIGHT_IN, 0.3 * len(runs) + 0.9), 12.0))


def _numbers(compared: Comparison, names: Sequence[str]) -> str:
    runs = compared.runs
    head = "".join(f"<th class=n>{_dot(k)}{escape(r.label)}</th>" for k, r in enumerate(runs))
    rows = "".join(
        f"<tr><td><code>{name}</code><br><span>{escape(METRICS[name].meaning)}</span></td>"
        + "".join(_cell(compared, place, name) for place in range(len(runs)))
        + "</tr>"
        for name in names
        if any(run.values.get(name) is not None for run in runs)
    )
    return f'<div class="wide"><table class="beside"><tr><th></th>{head}</tr>{rows}</table></div>'


def _cell(compared: Comparison, place: int, name: str) -> str:
    kind = "n best" if place in compared.best[name] else "n"
    return f'<td class="{kind}">{compared.runs[place].show(name)}</td>'


def _settings(compared: Comparison) -> str:
    if not compared.settings:
        return ""
    head = "".join(f"<th>{_dot(k)}{escape(r.label)}</th>" for k, r in enumerate(compared.runs))
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td>"
        + "".join(f"<td>{escape(str(value)) or '-'}</td>" for value in row)
        + "</tr>"
        for name, row in compared.settings.items()
    )
    return (
        "<h2>Settings that differ</h2>"
        f'<div class="wide"><table class="beside"><tr><th></th>{head}</tr>{rows}</table></div>'
    )


def _groups(compared: Comparison) -> str:
    return "".join(
        f"<details><summary>{escape(title)}</summary>{_numbers(compared, tuple(group))}</details>"
        for title, group in GROUPS.items()
    )
