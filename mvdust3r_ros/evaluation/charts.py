"""The plots of a report, as SVG that stands in the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, MapSnapshot
from mvdust3r_ros.evaluation.judge import Judgement
from mvdust3r_ros.evaluation.map_metrics import FREE, OCCUPIED, on_common_lattice
from mvdust3r_ros.evaluation.pictures import (
    INK,
    TRUE_PATH_RGB,
    Bounds,
    PictureError,
    TrueMap,
    add_legend,
    draw_grid,
    draw_path,
    draw_top,
    frame_plan,
    map_bounds,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREEN, GREY = "#1e6edc", "#e68c14", "#c22f3d", "#1e8a4c", "#aab2c0"
WIDTH_IN, HEIGHT_IN = 4.6, 2.9
PLAN_DPI = 160
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
DIFFERENCE_RGB = {
    "equal": (236, 239, 243), "missed": (230, 140, 20), "invented": (194, 47, 61),
    "unknown": (255, 255, 255), "obstacle": (90, 99, 115), "extra": (200, 215, 240),
}  # fmt: skip
Draw = Callable[["Axes"], None]


def svg_of(draw: Draw, height_in: float = HEIGHT_IN, width_in: float = WIDTH_IN) -> str:
    """One plot as an SVG element.

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
        draw(figure.add_subplot())
        return _svg_text(figure)


def _svg_text(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=PLAN_DPI, transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # several figures share a page: names of parts that nothing refers to would not be unique
    text = re.sub(r' id="[A-Za-z]+_?\d*"(?=>)', "", text)
    return re.sub(r'(<svg [^>]*?) width="[^"]*"', r'\1 role="img"', text, count=1).replace(
        'height="', 'data-height="', 1
    )


def from_zero(axes: Axes, least: float) -> None:
    """A vertical axis from 0 up to `least` at least, so that noise does not look large."""
    axes.set_ylim(0, max(least, axes.get_ylim()[1]))


def top_view(snapshot: MapSnapshot, made: Judgement) -> str:
    """The cloud from above with both paths."""
    bounds = _plan_bounds(snapshot, made)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        draw_top(axes, snapshot, bounds)
        _true_path(axes, made)
        add_legend(axes)
        axes.set_title("", loc="left")

    return svg_of(draw, plan_height(bounds))


def path_view(snapshot: MapSnapshot, made: Judgement) -> str:
    """Both paths from above, the estimate in the colour of its error."""
    from matplotlib.collections import LineCollection

    bounds = _path_bounds(snapshot, made)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        _true_path(axes, made)
        xy = np.array(made.path["position_map"])[:, :2]
        error = np.array(made.path["error_m"])
        lines = LineCollection(list(np.stack([xy[:-1], xy[1:]], 1)), cmap="viridis", linewidth=2.6)
        lines.set_array((error[:-1] + error[1:]) / 2)
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
        add_legend(axes)

    return svg_of(draw, plan_height(bounds))


def _true_path(axes: Axes, made: Judgement) -> None:
    if made.true_path is not None:
        draw_path(axes, made.true_path, TRUE_PATH_RGB, "true path", dashed=True)


def _plan_bounds(snapshot: MapSnapshot, made: Judgement) -> Bounds:
    return map_bounds(snapshot, TrueMap(made.true_grid, made.true_path))


def _path_bounds(snapshot: MapSnapshot, made: Judgement) -> Bounds:
    xy = [snapshot.trajectory.T_world_cam[:, :2, 3]]
    if made.true_path is not None:
        xy.append(made.true_path.T_world_cam[:, :2, 3])
    return plan_bounds_of(np.concatenate(xy))


def plan_bounds_of(xy: FloatArray) -> Bounds:
    """A rectangle around (N, 2) points with a margin."""
    low, high = xy.min(0), xy.max(0)
    margin = 0.08 * max(*(high - low), 0.5)
    (x0, y0), (x1, y1) = low - margin, high + margin
    return Bounds(float(x0), float(y0), float(x1), float(y1))


def plan_height(bounds: Bounds) -> float:
    """Inches that a plan of these bounds needs at the width of a plot."""
    return float(np.clip(WIDTH_IN * bounds.size[1] / bounds.size[0], 2.4, 5.5))


def error_over_time(made: Judgement) -> str:
    """Position errors at each matched keyframe."""

    def draw(axes: Axes) -> None:
        time_s = made.path["time_s"]
        axes.plot(time_s, made.path["error_m"], color=BLUE, marker="o", ms=3, label="metric")
        axes.plot(
            time_s, made.path["error_sim3_m"], color=ORANGE, ls="--", label="scale aligned too"
        )
        axes.set(xlabel="time (s)", ylabel="position error (m)")
        from_zero(axes, 0.01)
        axes.legend(fontsize=8.5)

    return svg_of(draw)


def rotation_over_time(made: Judgement) -> str:
    """Rotation error at each matched keyframe."""

    def draw(axes: Axes) -> None:
        axes.plot(made.path["time_s"], made.path["error_deg"], color=BLUE, marker="o", ms=3)
        axes.set(xlabel="time (s)", ylabel="rotation error (deg)")
        from_zero(axes, 0.5)

    return svg_of(draw)


def scale_over_time(made: Judgement) -> str:
    """Size of the last stretch of the path against the truth."""

    def draw(axes: Axes) -> None:
        pairs = zip(made.path["time_s"], made.path["scale_error"], strict=True)
        known = [(t, 100 * e) for t, e in pairs if e is not None]
        axes.axhline(0, color=GREY, lw=1)
        if known:
            time_s, error = zip(*known, strict=True)
            axes.plot(time_s, error, color=BLUE, marker="o", ms=3)
            reach = max(1.0, 1.15 * max(abs(e) for e in error))
            axes.set_ylim(-reach, reach)
        axes.set(xlabel="time (s)", ylabel="scale error (%)")

    return svg_of(draw)


def grid_view(snapshot: MapSnapshot, made: Judgement, which: str) -> str:
    """One of "estimate", "truth" and "difference", all of the same rectangle."""
    bounds = _plan_bounds(snapshot, made)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        if which == "difference":
            _draw_difference(axes, snapshot, made)
            frame_plan(axes, bounds, "")
            return
        grid = snapshot.grid if which == "estimate" else made.true_grid
        path = snapshot.trajectory if which == "estimate" else made.true_path
        assert grid is not None
        draw_grid(axes, grid, path, bounds, "")
        add_legend(axes)

    return svg_of(draw, plan_height(bounds))


def _draw_difference(axes: Axes, snapshot: MapSnapshot, made: Judgement) -> None:
    assert snapshot.grid is not None and made.true_grid is not None
    estimate, truth = on_common_lattice(snapshot.grid, made.true_grid)
    colors = DIFFERENCE_RGB
    image = np.full((*truth.shape, 3), colors["unknown"], np.uint8)
    image[(estimate == FREE) & (truth == FREE)] = colors["equal"]
    image[(estimate == OCCUPIED) & (truth == OCCUPIED)] = colors["obstacle"]
    image[(truth == OCCUPIED) & (estimate != OCCUPIED)] = colors["missed"]
    image[(estimate == OCCUPIED) & (truth != OCCUPIED)] = colors["invented"]
    image[(estimate == FREE) & (truth < FREE)] = colors["extra"]
    res = made.true_grid.resolution_m
    corners = [np.array(g.origin_xy_m) for g in (snapshot.grid, made.true_grid)]
    origin = corners[1] + np.floor((np.min(corners, 0) - corners[1]) / res + 1e-6) * res
    rows, cols = truth.shape
    extent = (origin[0], origin[0] + cols * res, origin[1], origin[1] + rows * res)
    axes.imshow(image, extent=extent, origin="lower", interpolation="nearest")


def latency_bars(stages: dict[str, dict[str, float]]) -> str:
    """Median, 95th percentile and maximum of each stage."""

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
    """Error of the points by confidence: quartiles and median."""

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
    """ND of each window in the colour of its verdict."""

    def draw(axes: Axes) -> None:
        for verdict, color, label in ((True, GREEN, "in the map"), (False, RED, "rejected")):
            rows = [w for w in windows if (w["verdict"] == "committed") == verdict]
            scored = [w for w in rows if w.get("nd") is not None]
            if scored:
                axes.bar(
                    [w["window"] for w in scored], [w["nd"] for w in scored],
                    color=color, label=label,
                )  # fmt: skip
        axes.axhline(0.2, color=GREY, lw=1, ls="--")
        axes.set(xlabel="window", ylabel="ND (m)")
        from_zero(axes, 0.25)
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=8.5)

    return svg_of(draw)
