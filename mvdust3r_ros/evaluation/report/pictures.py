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

"""The overview image of a map: cloud from above, grid and oblique view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mvdust3r_ros.datatypes import (
    FREE,
    FloatArray,
    ImageArray,
    MapSnapshot,
    MvDust3rError,
    OccupancyGrid,
    ScaleEstimate,
    ScaleSource,
    Trajectory,
)
from mvdust3r_ros.drawing.map_files import CELL_OCCUPIED_FROM
from mvdust3r_ros.evaluation.coverage import stretch_of
from mvdust3r_ros.evaluation.report.splat import (
    Viewpoint,
    looking_down,
    looking_from,
    point_spacing,
    render_cloud,
)
from mvdust3r_ros.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PAPER = "#1f2430", "#ffffff"
UNKNOWN_RGB, FREE_RGB, OCCUPIED_RGB = (205, 210, 218), (255, 255, 255), (31, 36, 48)
"""Chosen for appearance, as all colours here: grids as map_server shows them, in softer greys."""
PATH_RGB, TRUE_PATH_RGB = (30, 110, 220), (230, 140, 20)
"""Blue and orange, which colour-blind people can distinguish."""
START_RGB, END_RGB = (30, 160, 80), (215, 50, 60)
"""Also distinguished by their markers."""
HEADROOM_M = 0.1
"""Views from above are cut this far above the cameras: ceilings and lamps hide the rest."""
ELEVATION_DEG = 38.0
"""Chosen for appearance: floors and walls are equally visible."""
VIEW_PX = (1500, 800)
"""Chosen for appearance: the oblique view, almost twice as wide as high."""
MARGIN_M = 0.3
"""Chosen for appearance: margin around the drawing."""
FIRST_DATE_NS = 946_684_800 * 10**9
"""2000-01-01: earlier timestamps count from the start of a robot or a simulation."""


Stretches = Sequence[tuple[int, int]]


class PictureError(MvDust3rError):
    """A picture cannot be drawn."""


@dataclass(frozen=True)
class TrueMap:
    """The true map, in its own frame.

    Attributes:
        grid: true occupancy grid, or None.
        trajectory: true camera-to-map poses, or None.
    """

    grid: OccupancyGrid | None = None
    trajectory: Trajectory | None = None


@dataclass(frozen=True)
class Bounds:
    """Rectangle of plan views, metres (units of the network if the scale is unknown)."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        return self.x_max - self.x_min, self.y_max - self.y_min

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Extent in matplotlib's order."""
        return self.x_min, self.x_max, self.y_min, self.y_max


@dataclass(frozen=True)
class Caption:
    """Origin of a map, shown on its picture.

    Attributes:
        recording: name of the recording; empty for none.
        engine: name of the engine; empty if unknown.
        first_stamp_ns: first timestamp of the recording; 0 if unknown.
    """

    recording: str = ""
    engine: str = ""
    first_stamp_ns: int = 0

    def summary(self, scale: ScaleEstimate) -> str:
        """Return engine, scale and date for the line under the title."""
        engine = f"engine {self.engine}" if self.engine else ""
        return "  ·  ".join(w for w in (engine, describe_scale(scale), self.date()) if w)

    def date(self) -> str:
        """Return the recording date, or the mapping date if the timestamps are not dates."""
        if self.first_stamp_ns >= FIRST_DATE_NS:
            when = datetime.fromtimestamp(self.first_stamp_ns * 1e-9, timezone.utc)
            return f"recorded {when:%Y-%m-%d %H:%M} UTC"
        return f"mapped {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"


def describe_scale(scale: ScaleEstimate) -> str:
    """Describe how well the scale is known: "scale known to 2.1 % by odometry"."""
    if not math.isfinite(scale.rel_sigma):
        return "scale unknown: not in metres"
    source = scale.source.name.lower().replace("_", " ")
    by = f" by {source}" if scale.source != ScaleSource.NONE else ""
    return f"scale known to {percent(scale.rel_sigma, 1)}{by}"


def length_unit(scale: ScaleEstimate) -> str:
    """Return the unit of the map's coordinates: metres only if the scale is known."""
    return "m" if math.isfinite(scale.rel_sigma) else "units of the network"


def map_picture(
    snapshot: MapSnapshot,
    path: Path,
    truth: TrueMap | None = None,
    caption: Caption | None = None,
    stretches: Stretches = (),
) -> None:
    """Draw the cloud from above, the grid with the path, and the cloud at an angle as one PNG.

    Args:
        snapshot: the map; without a grid, only the cloud is drawn.
        path: the file to write.
        truth: if given, drawn next to and over the map.
        caption: origin of the map, written at the top.
        stretches: first and last timestamp (ns) of parts of the path; no line is drawn between
            them.

    Raises:
        PictureError: no window has been committed yet, matplotlib is missing, or writing to disk
            failed.
    """
    _save(map_figure(snapshot, truth, caption or Caption(), stretches), path)


def map_figure(
    snapshot: MapSnapshot, truth: TrueMap | None, caption: Caption, stretches: Stretches = ()
) -> Figure:
    """Draw the figure that `map_picture` saves.

    Raises:
        PictureError: no window has been committed yet, or matplotlib is missing.
    """
    if snapshot.grid is None and not len(snapshot.trajectory):
        raise PictureError("there is no map to draw yet: no window has been committed")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PictureError(
            "pictures need matplotlib; install it: pip install 'mvdust3r_ros[report]'"
        ) from None
    bounds = map_bounds(snapshot, truth)
    truth = truth or TrueMap()
    columns = 1 + (snapshot.grid is not None) + (truth.grid is not None)
    plan_height = 13.0 / columns * bounds.size[1] / bounds.size[0]
    plan_height = float(np.clip(plan_height, 2.5, 8.0))
    oblique_height = 13.0 * VIEW_PX[1] / VIEW_PX[0]
    figure = Figure(
        figsize=(13.6, plan_height + oblique_height + 2.3), facecolor=PAPER, layout="constrained"
    )
    layout = figure.add_gridspec(2, columns, height_ratios=[plan_height + 0.7, oblique_height])
    _draw_caption(figure, caption, snapshot.scale)
    axes = [figure.add_subplot(layout[0, k]) for k in range(columns)]
    _draw_plans(axes, snapshot, truth, bounds, stretches)
    _draw_oblique(figure.add_subplot(layout[1, :]), snapshot, stretches)
    return figure


def _draw_plans(
    axes: Sequence[Axes],
    snapshot: MapSnapshot,
    truth: TrueMap,
    bounds: Bounds,
    stretches: Stretches,
) -> None:
    """Draw the cloud and, where available, the grid and the true grid from above."""
    unit, path = length_unit(snapshot.scale), snapshot.trajectory
    draw_top(axes[0], snapshot, bounds, stretches)
    if snapshot.grid is not None:
        title = "Occupancy grid"
        draw_grid(axes[1], snapshot.grid, path, bounds, title, stretches, unit=unit)
    if truth.grid is not None:
        draw_grid(axes[-1], truth.grid, None, bounds, "True grid")
    for k, plan in enumerate(axes):
        if truth.trajectory is not None and (k > 0 or len(axes) == 1):
            draw_path(plan, truth.trajectory, TRUE_PATH_RGB, "true path", dashed=True)
        add_coordinates(plan, unit)
    add_legend(axes[min(1, len(axes) - 1)])


def _draw_caption(figure: Figure, caption: Caption, scale: ScaleEstimate) -> None:
    """Write the name of the recording in bold and the rest in a line below."""
    figure.suptitle(
        f"{caption.recording or 'Map'}\n", fontsize=15, color=INK, fontweight="bold",
        parse_math=False,
    )  # fmt: skip
    inches = figure.get_size_inches()[1]
    figure.text(
        0.5, 1 - 0.47 / inches, caption.summary(scale), fontsize=10.5, color="#5b6475",
        ha="center", va="top", parse_math=False,
    )  # fmt: skip


def _save(figure: Figure, path: Path) -> None:
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(draft, dpi=110, format="png")
        draft.replace(path)
    except OSError as error:
        raise PictureError(f"cannot write picture {path}: {error.strerror or error}") from None


def map_bounds(snapshot: MapSnapshot, truth: TrueMap | None) -> Bounds:
    """Return the plan views' extent: known cells, else the cloud, and cameras, with a margin."""
    grids = [snapshot.grid, None if truth is None else truth.grid]
    centres = snapshot.trajectory.T_world_cam[:, :2, 3]
    corners = [centres.min(0), centres.max(0)] if len(centres) else []
    if snapshot.grid is None and len(core := core_of(below_ceiling(snapshot)[0])):
        corners += [core[:, :2].min(0), core[:, :2].max(0)]
    for grid in grids:
        if grid is None:
            continue
        rows, cols = np.nonzero(grid.cells >= 0)
        if len(rows):
            origin, res = np.array(grid.origin_xy_m), grid.resolution_m
            corners.append(origin + res * np.array([cols.min(), rows.min()]))
            corners.append(origin + res * np.array([cols.max() + 1, rows.max() + 1]))
    if not corners:
        corners = [np.zeros(2), np.ones(2)]
    low, high = np.min(corners, 0) - MARGIN_M, np.max(corners, 0) + MARGIN_M
    return Bounds(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def below_ceiling(snapshot: MapSnapshot) -> tuple[FloatArray, ImageArray]:
    """Return the points up to a little above the cameras, so that views from above see inside.

    Returns all points if none is that low, because the camera looks up.
    """
    points = snapshot.points_map
    keep = points[:, 2] < cut_height(snapshot)
    if not keep.any():
        return points, snapshot.colors_rgb
    return points[keep], snapshot.colors_rgb[keep]


def cut_height(snapshot: MapSnapshot) -> float:
    """Return the height where top views are cut, a little above the cameras; inf without any."""
    heights = snapshot.trajectory.T_world_cam[:, 2, 3]
    return float(np.median(heights)) + HEADROOM_M if len(heights) else float("inf")


def draw_top(axes: Axes, snapshot: MapSnapshot, bounds: Bounds, stretches: Stretches = ()) -> None:
    """Draw the cloud from above, cut above the cameras, with the path in its stretches."""
    points, colors = below_ceiling(snapshot)
    centre = np.array([(bounds.x_min + bounds.x_max) / 2, (bounds.y_min + bounds.y_max) / 2, 0.0])
    view = looking_down(centre, bounds.size, 700)
    image = render_cloud(points, colors, view, point_spacing(points))
    axes.imshow(image, extent=bounds.extent, interpolation="bilinear")
    draw_path(axes, snapshot.trajectory, PATH_RGB, "path", stretches)
    frame_plan(axes, bounds, "Cloud from above", length_unit(snapshot.scale))


def draw_grid(
    axes: Axes,
    grid: OccupancyGrid,
    trajectory: Trajectory | None,
    bounds: Bounds,
    title: str,
    stretches: Stretches = (),
    *,
    unit: str = "m",
) -> None:
    """Draw an occupancy grid and a path over it, in its stretches; `bounds` are in `unit`."""
    image = np.full((*grid.cells.shape, 3), UNKNOWN_RGB, np.uint8)
    image[grid.cells >= FREE] = FREE_RGB
    image[grid.cells >= CELL_OCCUPIED_FROM] = OCCUPIED_RGB
    (x, y), (rows, cols), res = grid.origin_xy_m, grid.cells.shape, grid.resolution_m
    axes.set_facecolor(unit_rgb(UNKNOWN_RGB))
    axes.imshow(
        image,
        extent=(x, x + cols * res, y, y + rows * res),
        origin="lower",
        interpolation="nearest",
    )
    if trajectory is not None:
        draw_path(axes, trajectory, PATH_RGB, "path", stretches)
    frame_plan(axes, bounds, title, unit)


def unit_rgb(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """Convert a colour for matplotlib."""
    return rgb[0] / 255, rgb[1] / 255, rgb[2] / 255


def draw_path(
    axes: Axes,
    trajectory: Trajectory,
    rgb: tuple[int, int, int],
    label: str,
    stretches: Stretches = (),
    *,
    dashed: bool = False,
) -> None:
    """Draw a camera path from above; a dashed path has no start and end markers.

    Args:
        axes: target axes.
        trajectory: camera poses.
        rgb: colour.
        label: for the legend.
        stretches: first and last timestamp (ns) of parts between which no line is drawn.
        dashed: whether the line is dashed.
    """
    if len(trajectory) == 0:
        return
    breaks = np.flatnonzero(np.diff(stretch_of(trajectory.stamps_ns, stretches))) + 1
    x, y = trajectory.T_world_cam[:, 0, 3], trajectory.T_world_cam[:, 1, 3]
    line = np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan)
    if not dashed:
        axes.plot(*line, color=PAPER, linewidth=4.5, solid_capstyle="round")
    axes.plot(*line, color=unit_rgb(rgb), linewidth=2.2, ls="--" if dashed else "-", label=label)
    if dashed:
        return
    ends = (("start", "o", START_RGB, 0), ("end", "s", END_RGB, -1))
    for name, marker, colour, k in ends:
        axes.plot(
            x[k], y[k], marker, color=unit_rgb(colour), markersize=9,
            markeredgecolor=PAPER, markeredgewidth=1.5, label=name, ls="", zorder=5,
        )  # fmt: skip


def frame_plan(axes: Axes, bounds: Bounds, title: str, unit: str = "m") -> None:
    """Set limits, title, a light frame and, instead of ticks, a scale bar in the given unit."""
    axes.set_xlim(bounds.x_min, bounds.x_max)
    axes.set_ylim(bounds.y_min, bounds.y_max)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#b8bec8")
    _scale_bar(axes, bounds, unit)


def add_coordinates(axes: Axes, unit: str) -> None:
    """Draw ticks in the coordinates of the map frame."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{value + 0.0:g}")
    axes.tick_params(labelsize=8, colors="#5b6475")
    axes.set_xlabel(f"x in the map frame ({unit})", fontsize=8.5, color="#5b6475")
    axes.set_ylabel(f"y ({unit})", fontsize=8.5, color="#5b6475")


def _scale_bar(axes: Axes, bounds: Bounds, unit: str) -> None:
    length = nice_length(bounds.size[0] / 4)
    if unit != "m":  # otherwise the axes name the unit
        unit = "unit" if length == 1 else "units"
    x = bounds.x_min + 0.04 * bounds.size[0]
    y = bounds.y_min + 0.04 * bounds.size[1]
    axes.plot([x, x + length], [y, y], color=PAPER, linewidth=6, solid_capstyle="butt", zorder=6)
    axes.plot([x, x + length], [y, y], color=INK, linewidth=3, solid_capstyle="butt", zorder=7)
    axes.annotate(
        f"{length:g} {unit}", (x + length / 2, y), xytext=(0, 4), textcoords="offset points",
        ha="center", va="bottom", fontsize=9, color=INK, zorder=7,
        bbox={"facecolor": PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def nice_length(about_m: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that does not exceed `about_m`."""
    power = 10.0 ** np.floor(np.log10(max(about_m, 1e-6)) + 1e-9)
    return float(max(k * power for k in (1, 2, 5) if k == 1 or k * power <= about_m))


def add_legend(axes: Axes) -> None:
    """Draw a legend where there is room."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="best", fontsize=8, framealpha=0.85, edgecolor="none")


def _draw_oblique(axes: Axes, snapshot: MapSnapshot, stretches: Stretches) -> None:
    points, colors = below_ceiling(snapshot)
    axes.set_axis_off()
    if len(points) == 0:
        return
    view = looking_from(best_azimuth(points), np.radians(ELEVATION_DEG), core_of(points), VIEW_PX)
    image = render_cloud(points, colors, view, point_spacing(points))
    drawn = with_path(image, snapshot.trajectory, view, stretches)
    axes.imshow(drawn, interpolation="bilinear")
    axes.set_title("Cloud at an angle, cut above the camera", fontsize=11, color=INK, loc="left")


def core_of(points: FloatArray) -> FloatArray:
    """Return the points without outliers at the borders."""
    if len(points) == 0:
        return points
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    core: FloatArray = points[((points >= low) & (points <= high)).all(1)]
    return core if len(core) else points


def best_azimuth(points: FloatArray) -> float:
    """Return the azimuth across the long side, seen from the lower side; 0 for too few points."""
    if len(points) < 3:
        return 0.0
    xy = points[:, :2] - points[:, :2].mean(0)
    across = np.linalg.svd(xy.T @ xy)[0][:, 1]
    along = xy @ across
    far, near = along > np.median(along), along <= np.median(along)
    if far.any() and points[far, 2].mean() < points[near, 2].mean():
        across = -across
    # from the low side, slightly from its right
    return float(np.arctan2(-across[1], -across[0]) + 0.35)


def path_parts(trajectory: Trajectory, stretches: Stretches) -> list[FloatArray]:
    """Return (N, 3) camera centres of each stretch of a path."""
    breaks = np.flatnonzero(np.diff(stretch_of(trajectory.stamps_ns, stretches))) + 1
    return np.split(trajectory.T_world_cam[:, :3, 3], breaks)


def with_path(
    image: ImageArray, trajectory: Trajectory, view: Viewpoint, stretches: Stretches = ()
) -> ImageArray:
    """Draw the camera path over the picture, in its stretches."""
    if len(trajectory) == 0:
        return image
    parts = [
        np.rint(view.project(xyz)[:, :2] * 16).astype(np.int32)
        for xyz in path_parts(trajectory, stretches)
    ]
    canvas = image.copy()
    for colour, thickness in (((255, 255, 255), 8), (PATH_RGB, 4)):
        cv2.polylines(canvas, parts, False, colour, thickness, cv2.LINE_AA, 4)
    for point, colour in ((parts[0][0], START_RGB), (parts[-1][-1], END_RGB)):
        cv2.circle(
            canvas, (int(point[0]), int(point[1])), 12 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4
        )
        cv2.circle(canvas, (int(point[0]), int(point[1])), 9 * 16, colour, -1, cv2.LINE_AA, 4)
    return canvas
