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

"""The picture of a map: drawn for every kind of map, errors in words."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from mvdust3r_ros.datatypes import (
    MapSnapshot,
    OccupancyGrid,
    ScaleEstimate,
    ScaleSource,
    Trajectory,
)
from mvdust3r_ros.evaluation.report.pictures import (
    Caption,
    PictureError,
    TrueMap,
    below_ceiling,
    best_azimuth,
    core_of,
    map_figure,
    map_picture,
    nice_length,
    path_parts,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

matplotlib_text = pytest.importorskip("matplotlib.text", reason="matplotlib is not installed")


def make_map(n_poses: int = 12) -> MapSnapshot:
    """A walled 5 x 4 m room with a green floor."""
    rng = np.random.default_rng(0)
    floor = np.column_stack([rng.uniform(0, 5, 5000), rng.uniform(0, 4, 5000), np.zeros(5000)])
    wall = np.column_stack([rng.uniform(0, 5, 3000), np.full(3000, 4.0), rng.uniform(0, 2, 3000)])
    cells = np.full((100, 120), -1, np.int8)
    cells[10:90, 10:110], cells[90, 10:110] = 0, 100
    poses = np.tile(np.eye(4), (n_poses, 1, 1))
    poses[:, :3, 3] = np.linspace((1, 1, 1.5), (4, 3, 1.5), n_poses)
    return MapSnapshot(
        points_map=np.concatenate([floor, wall]).astype(np.float32),
        colors_rgb=np.array([(40, 160, 60)] * 5000 + [(120, 110, 100)] * 3000, np.uint8),
        conf=np.ones(8000, np.float32),
        grid=OccupancyGrid(cells, 0.05, (-0.5, -0.5)),
        trajectory=Trajectory(np.arange(n_poses), poses),
        T_map_odom=None,
        scale=ScaleEstimate(),
    )


@pytest.mark.slow
def test_the_picture_shows_cloud_grid_and_path(tmp_path: Path) -> None:
    map_picture(make_map(), tmp_path / "deep" / "map.png", caption=Caption("room"))
    image = cv2.imread(str(tmp_path / "deep" / "map.png"))
    assert image is not None
    assert min(image.shape[:2]) > 600
    blue, green, red = image.astype(int).transpose(2, 0, 1)
    assert ((green > red + 60) & (green > blue + 60)).mean() > 0.02
    assert ((blue > red + 100) & (blue > green + 60)).sum() > 300
    assert ((abs(red - 205) < 4) & (abs(green - 210) < 4) & (abs(blue - 218) < 4)).mean() > 0.01
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["map.png"]


@pytest.mark.slow
def test_truth_adds_a_panel_and_a_dashed_path(tmp_path: Path) -> None:
    made = make_map()
    truth = TrueMap(made.grid, made.trajectory)
    map_picture(made, tmp_path / "both.png", truth)
    orange = [b < 90 and 100 < g < 180 and r > 190 for b, g, r in
              cv2.imread(str(tmp_path / "both.png"))[::2, ::2].reshape(-1, 3)]  # fmt: skip
    assert sum(orange) > 50


@pytest.mark.parametrize("n_poses", [0, 1])
@pytest.mark.slow
def test_small_maps_are_drawn_too(tmp_path: Path, n_poses: int) -> None:
    small = dataclasses.replace(
        make_map(n_poses),
        points_map=np.zeros((0, 3), np.float32),
        colors_rgb=np.zeros((0, 3), np.uint8),
        conf=np.zeros(0, np.float32),
        grid=OccupancyGrid(np.full((3, 3), -1, np.int8), 0.05, (0.0, 0.0)),
    )
    map_picture(small, tmp_path / "small.png")
    assert (tmp_path / "small.png").stat().st_size > 1000


@pytest.mark.parametrize("with_grid", [True, False])
@pytest.mark.slow
def test_a_map_without_metres_is_drawn_and_names_its_units(with_grid: bool) -> None:
    made = make_map()
    made = dataclasses.replace(made, grid=made.grid if with_grid else None)
    figure = map_figure(made, None, Caption("kitchen"))
    plans = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [axes.get_title(loc="left") for axes in plans] == [
        "Cloud from above", *["Occupancy grid"] * with_grid
    ]  # fmt: skip
    x_min, x_max = plans[0].get_xlim()
    assert x_min < 0.1
    assert x_max > 4.9  # all of the room, not the way alone
    words = [text.get_text() for text in figure.findobj(matplotlib_text.Text)]
    assert any("not in metres" in text for text in words)
    assert {text.get_text() for axes in plans for text in axes.texts} == {"1 unit"}
    assert plans[-1].get_legend() is not None


@pytest.mark.slow
def test_errors_are_in_words(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no window"):
        map_picture(dataclasses.replace(make_map(0), grid=None), tmp_path / "no.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(PictureError, match="cannot write"):
        map_picture(make_map(), tmp_path / "file" / "map.png")


def test_scale_bars_have_round_lengths() -> None:
    assert [nice_length(v) for v in (0.07, 0.1, 0.3, 1.0, 2.3, 4.9, 7, 49)] == pytest.approx(
        [0.05, 0.1, 0.2, 1, 2, 2, 5, 20]
    )


SPLIT = ((0, 2), (3, 5))


@pytest.fixture(scope="module")
def figure() -> Figure:
    """A map with a known scale, whose path has a gap."""
    made = dataclasses.replace(make_map(6), scale=ScaleEstimate(1.0, 0.021, ScaleSource.ODOMETRY))
    caption = Caption("hall $1$_2", "room (ONNX Runtime)", 1_700_000_000 * 10**9)
    drawn = map_figure(made, None, caption, SPLIT)
    drawn.canvas.draw()
    return drawn


@pytest.mark.slow
def test_the_picture_says_what_it_shows(figure: Figure) -> None:
    text = "\n".join(t.get_text() for t in figure.findobj(matplotlib_text.Text))
    for words in (
        "hall $1$_2",
        "engine room (ONNX Runtime)",
        "scale known to 2.1 % by odometry",
        "recorded 2023-11-14 22:13 UTC",
        "x in the map frame (m)",
    ):
        assert words in text


def test_plans_have_the_coordinates_of_the_map(figure: Figure) -> None:
    for plan in figure.axes[:2]:
        shown = [float(t.get_text()) for t in plan.get_xticklabels() if t.get_text()]
        inside = [x for x in shown if plan.get_xlim()[0] <= x <= plan.get_xlim()[1]]
        assert len(inside) >= 3
        assert inside == [x for x in plan.get_xticks() if x in inside]


def test_a_path_is_not_drawn_where_no_window_joins_it(figure: Figure) -> None:
    made = make_map(6)
    assert [len(part) for part in path_parts(made.trajectory, ((0, 5),))] == [6]
    assert [len(part) for part in path_parts(made.trajectory, SPLIT)] == [3, 3]
    (line,) = [a for a in figure.axes[1].lines if a.get_label() == "path"]
    assert np.isnan(line.get_xdata()).nonzero()[0].tolist() == [3]


def test_stamps_that_are_no_dates_are_not_shown_as_one() -> None:
    words = Caption("room", first_stamp_ns=12 * 10**9).summary(ScaleEstimate())
    assert "1970" not in words
    assert f"mapped {datetime.now(timezone.utc):%Y-}" in words
    assert "scale unknown: not in metres" in words


def test_a_cloud_above_the_camera_is_shown_whole() -> None:
    made = make_map()
    high = dataclasses.replace(made, points_map=made.points_map + np.float32([0, 0, 5]))
    assert len(below_ceiling(high)[0]) == len(made.points_map)
    assert 0 < len(below_ceiling(made)[0]) < len(made.points_map)
    nothing = np.zeros((0, 3))
    assert len(core_of(nothing)) == 0
    assert best_azimuth(nothing) == 0
