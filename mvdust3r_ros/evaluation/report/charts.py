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

"""The plots of a report, as inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mvdust3r_ros.datatypes import BoolArray, FloatArray, MapSnapshot
from mvdust3r_ros.evaluation.coverage import stretch_of
from mvdust3r_ros.evaluation.metrics.map_metrics import on_common_lattice
from mvdust3r_ros.evaluation.report.grid_difference import (
    CELLS,
    classify_cells,
    common_origin,
    paint_cells,
)
from mvdust3r_ros.evaluation.report.pictures import (
    INK,
    TRUE_PATH_RGB,
    Bounds,
    PictureError,
    TrueMap,
    draw_grid,
    draw_path,
    draw_top,
    frame_plan,
    length_unit,
    map_bounds,
    unit_rgb,
)
from mvdust3r_ros.evaluation.scoring import RunScores
from mvdust3r_ros.wording import decimal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREEN, GREY = "#1e6edc", "#e68c14", "#c22f3d", "#1e8a4c", "#aab2c0"
WIDTH_IN, HEIGHT_IN = 4.6, 2.9
"""Chosen for appearance: two plots fit side by side on the page."""
LEGEND_IN = 0.3
"""One legend row at the font size below."""
PLAN_DPI = 160
"""Chosen for appearance: sharp on screens with a pixel ratio of two."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8b94a3",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#5b6475",
    "ytick.color": "#5b6475",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ef",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}
Draw = Callable[["Axes"], None]


def svg_of(draw: Draw, height_in: float = HEIGHT_IN, width_in: float = WIDTH_IN) -> str:
    """Return one plot as an SVG element.

    The plots below return an empty string instead of an empty plot.

    Raises:
        PictureError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise PictureError(
            "reports need matplotlib; install it: pip install 'mvdust3r_ros[report]'"
        ) from None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        figure.patch.set_alpha(0.0)
        draw(figure.add_subplot())
        return _svg_text(figure)


def _svg_text(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=PLAN_DPI, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # several figures share a page: unreferenced element ids would not be unique
    text = re.sub(r' id="[A-Za-z]+_?\d*"(?=>)', "", text)
    return re.sub(r'(<svg [^>]*?) width="[^"]*"', r'\1 role="img"', text, count=1).replace(
        'height="', 'data-height="', 1
    )


def from_zero(axes: Axes, least: float) -> None:
    """Set a vertical axis from 0 to at least `least`, so that noise does not look large."""
    axes.set_ylim(0, max(least, axes.get_ylim()[1]))


def top_view(snapshot: MapSnapshot, made: RunScores) -> str:
    """Draw the cloud from above with both paths."""
    if len(snapshot.points_map) == 0 and len(snapshot.trajectory) == 0:
        return ""
    bounds = _plan_bounds(snapshot, made)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        draw_top(axes, snapshot, bounds, made.stretches)
        _true_path(axes, made)
        legend_below(axes)
        axes.set_title("", loc="left")

    return svg_of(draw, plan_height(bounds) + LEGEND_IN)


def path_view(snapshot: MapSnapshot, made: RunScores) -> str:
    """Draw both paths from above, the estimate coloured by its error."""
    from matplotlib.collections import LineCollection

    if len(made.path.get("error_m", [])) < 2:
        return ""
    bounds = _path_bounds(snapshot, made)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        _true_path(axes, made)
        xy = np.array(made.path["position_map"])[:, :2]
        error = np.array(made.path["error_m"])
        stretch = stretch_of(made.path["stamp_ns"], made.stretches)
        same = stretch[:-1] == stretch[1:]
        steps = np.stack([xy[:-1], xy[1:]], 1)[same]
        lines = LineCollection(list(steps), cmap="viridis", linewidth=2.6)
        lines.set_array(((error[:-1] + error[1:]) / 2)[same])
        most = max(0.01, float(error.max()))
        lines.set_clim(0, most)
        axes.add_collection(lines)
        axes.scatter(
            xy[:, 0], xy[:, 1], c=error, cmap="viridis", vmin=0, vmax=most, s=14, zorder=4
        )
        bar = axes.figure.colorbar(lines, ax=axes, shrink=0.75, aspect=28)
        bar.set_label("position error (m)")
        bar.outline.set_visible(False)
        frame_plan(axes, bounds, "")
        legend_below(axes)

    return svg_of(draw, plan_height(bounds) + LEGEND_IN)


def _true_path(axes: Axes, made: RunScores) -> None:
    if made.true_path is not None:
        draw_path(axes, made.true_path, TRUE_PATH_RGB, "true path", dashed=True)


def _plan_bounds(snapshot: MapSnapshot, made: RunScores) -> Bounds:
    return map_bounds(snapshot, TrueMap(made.true_grid, made.true_path))


def _path_bounds(snapshot: MapSnapshot, made: RunScores) -> Bounds:
    xy = [snapshot.trajectory.T_world_cam[:, :2, 3]]
    if made.true_path is not None:
        xy.append(made.true_path.T_world_cam[:, :2, 3])
    return plan_bounds_of(np.concatenate(xy))


def plan_bounds_of(xy: FloatArray) -> Bounds:
    """Return a rectangle around (N, 2) points with a margin."""
    low, high = xy.min(0), xy.max(0)
    margin = 0.08 * max(*(high - low), 0.5)
    (x0, y0), (x1, y1) = low - margin, high + margin
    return Bounds(float(x0), float(y0), float(x1), float(y1))


def plan_height(bounds: Bounds) -> float:
    """Return the height in inches of a plan with these bounds at the width of a plot."""
    return float(np.clip(WIDTH_IN * bounds.size[1] / bounds.size[0], 1.0, 5.5))


def legend_below(axes: Axes) -> None:
    """Place the legend under a plan, where it hides nothing."""
    axes.legend(
        fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4,
        columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip


def with_gaps(
    path: dict[str, list[Any]], column: str, stretches: Sequence[tuple[int, int]]
) -> tuple[FloatArray, FloatArray]:
    """Return times (s) and values of a curve, with NaN between stretches that no window joins."""
    time_s = np.array(path["time_s"], float)
    values = np.array([np.nan if v is None else v for v in path[column]], float)
    breaks = np.flatnonzero(np.diff(stretch_of(path["stamp_ns"], stretches))) + 1
    return np.insert(time_s, breaks, np.nan), np.insert(values, breaks, np.nan)


def error_over_time(made: RunScores) -> str:
    """Plot position errors at each matched keyframe."""
    if len(made.path.get("error_m", [])) < 2:
        return ""

    def draw(axes: Axes) -> None:
        metric = with_gaps(made.path, "error_m", made.stretches)
        scaled = with_gaps(made.path, "error_sim3_m", made.stretches)
        axes.plot(*metric, color=BLUE, marker="o", ms=3, label="metric")
        axes.plot(*scaled, color=ORANGE, ls="--", label="scale aligned too")
        axes.set(xlabel="time (s)", ylabel="position error (m)")
        from_zero(axes, 0.01)
        axes.legend(fontsize=8.5)

    return svg_of(draw)


def rotation_over_time(made: RunScores) -> str:
    """Plot the rotation error at each matched keyframe."""
    if len(made.path.get("error_deg", [])) < 2:
        return ""

    def draw(axes: Axes) -> None:
        curve = with_gaps(made.path, "error_deg", made.stretches)
        axes.plot(*curve, color=BLUE, marker="o", ms=3)
        axes.set(xlabel="time (s)", ylabel="rotation error (deg)")
        from_zero(axes, 0.5)

    return svg_of(draw)


def scale_over_time(made: RunScores) -> str:
    """Plot the scale of the last stretch of the path against the truth."""
    known = [100 * abs(e) for e in made.path.get("scale_error", []) if e is not None]
    if len(known) < 2:
        return ""

    def draw(axes: Axes) -> None:
        time_s, error = with_gaps(made.path, "scale_error", made.stretches)
        axes.axhline(0, color=GREY, lw=1)
        axes.plot(time_s, 100 * error, color=BLUE, marker="o", ms=3)
        reach = max(1.0, 1.15 * max(known))
        axes.set_ylim(-reach, reach)
        axes.set(xlabel="time (s)", ylabel="scale error (%)")

    return svg_of(draw)


def grid_view(snapshot: MapSnapshot, made: RunScores, which: str) -> str:
    """Draw one of the grids "estimate" and "truth", both over the same rectangle."""
    grid = snapshot.grid if which == "estimate" else made.true_grid
    if grid is None or not (grid.cells >= 0).any():
        return ""
    bounds = _plan_bounds(snapshot, made)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        if which == "estimate":
            unit, path = length_unit(snapshot.scale), snapshot.trajectory
            draw_grid(axes, grid, path, bounds, "", made.stretches, unit=unit)
        else:
            draw_grid(axes, grid, None, bounds, "")
            _true_path(axes, made)
        legend_below(axes)

    return svg_of(draw, plan_height(bounds) + LEGEND_IN)


def difference_view(snapshot: MapSnapshot, made: RunScores) -> str:
    """Draw where the grid differs from the true grid, with the area of each difference."""
    ours, true = snapshot.grid, made.true_grid
    if ours is None or true is None:
        return ""
    bounds = _plan_bounds(snapshot, made)
    estimate, truth = on_common_lattice(ours, true)
    classes = classify_cells(estimate, truth)
    legend_in = 0.2 * len(CELLS) + 0.1

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        (rows, cols), (x, y), res = truth.shape, common_origin(ours, true), true.resolution_m
        extent = (x, x + cols * res, y, y + rows * res)
        axes.set_facecolor(unit_rgb(CELLS["neither"].rgb))
        axes.imshow(paint_cells(classes), extent=extent, origin="lower", interpolation="nearest")
        frame_plan(axes, bounds, "")
        axes.legend(
            handles=_cell_legend(classes, res), fontsize=8.5, ncols=1,
            loc="upper center", bbox_to_anchor=(0.5, -0.01), handlelength=1.2,
        )  # fmt: skip

    return svg_of(draw, plan_height(bounds) + legend_in)


def _cell_legend(classes: dict[str, BoolArray], resolution_m: float) -> list[Any]:
    """Return a patch for each class of cells with its area, most important first."""
    from matplotlib.patches import Patch

    area = {name: float(mask.sum()) * resolution_m**2 for name, mask in classes.items()}
    return [
        Patch(
            facecolor=unit_rgb(kind.rgb), edgecolor="#8b94a3", linewidth=0.6,
            label=f"{kind.label}: {decimal(area[name], 2)} m\N{SUPERSCRIPT TWO}",
        )
        for name, kind in CELLS.items() if name != "neither"
    ]  # fmt: skip


def latency_bars(stages: dict[str, dict[str, float]]) -> str:
    """Plot median, 95th percentile and maximum of each stage."""
    if not stages:
        return ""

    def draw(axes: Axes) -> None:
        names = list(stages)
        place = np.arange(len(names))
        axes.barh(place, [stages[n]["p95"] for n in names], color="#bcd3f5", label="95 %")
        axes.barh(
            place, [stages[n]["p50"] for n in names], color=BLUE, height=0.45, label="median"
        )
        axes.plot(
            [stages[n]["max"] for n in names], place, "|", color=RED, ms=11, mew=2, label="slowest"
        )
        axes.set_yticks(place, names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("ms a window")
        axes.legend(fontsize=8.5, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)

    return svg_of(draw, max(HEIGHT_IN, 0.34 * len(stages) + 0.9))


def confidence_chart(bins: list[dict[str, float]]) -> str:
    """Plot the point error by confidence: quartiles and median."""
    if len(bins) < 2:
        return ""

    def draw(axes: Axes) -> None:
        share = (np.arange(len(bins)) + 0.5) * 100 / len(bins)
        low, middle, high = ([b[f"error_p{p}_m"] for b in bins] for p in (25, 50, 75))
        axes.fill_between(share, low, high, color="#bcd3f5", label="middle half")
        axes.plot(share, middle, color=BLUE, marker="o", ms=3.5, label="median")
        axes.set(xlabel="points by confidence (%, least confident first)", ylabel="error (m)")
        from_zero(axes, 0.005)
        axes.legend(fontsize=8.5)

    return svg_of(draw)


def windows_chart(windows: list[dict[str, Any]]) -> str:
    """Plot the ND of each window, coloured by its outcome."""
    if all(w.get("nd") is None for w in windows):
        return ""

    def draw(axes: Axes) -> None:
        outcomes = ((True, GREEN, "in the map"), (False, RED, "not in the map"))
        for in_map, color, label in outcomes:
            rows = [w for w in windows if w["in_map"] == in_map]
            scored = [w for w in rows if w.get("nd") is not None]
            if scored:
                at, nd = [w["window"] for w in scored], [w["nd"] for w in scored]
                axes.bar(at, nd, color=color, label=label)
                axes.plot(at, nd, "o", ms=3.5, color=color)  # visible where a bar has no height
        axes.axhline(0.2, color=GREY, lw=1, ls="--")
        axes.set(xlabel="window", ylabel="ND (m)")
        from_zero(axes, 0.25)
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=8.5)

    return svg_of(draw)
