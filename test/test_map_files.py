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

"""Maps on disk: round trips, and the exact bytes Nav2's tools expect."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import MapSnapshot, OccupancyGrid, ScaleEstimate, Trajectory
from mvdust3r_ros.drawing.map_files import (
    Cloud,
    MapFileError,
    load_occupancy,
    read_ply,
    read_tum,
    save_map,
    write_ply,
    write_tum,
)

CELLS = np.array([[0, 100, -1], [100, 0, 0]], np.int8)


def make_trajectory(n: int, seed: int = 0) -> Trajectory:
    rng = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (n, 1, 1))
    if n:
        T[:, :3, :3] = Rotation.random(n, random_state=seed).as_matrix()
    T[:, :3, 3] = rng.normal(0, 5, (n, 3))
    return Trajectory(1_700_000_000_123_456_789 + np.arange(n) * 100_000_001, T)


def make_snapshot(cells: np.ndarray = CELLS, n: int = 5) -> MapSnapshot:
    rng = np.random.default_rng(1)
    return MapSnapshot(
        points_map=rng.normal(size=(n, 3)).astype(np.float32),
        colors_rgb=rng.integers(0, 256, (n, 3), np.uint8),
        conf=rng.uniform(1, 9, n).astype(np.float32),
        grid=OccupancyGrid(cells, 0.05, (-1.25, 3.5)),
        trajectory=make_trajectory(4),
        T_map_odom=None,
        scale=ScaleEstimate(),
        gate_open=True,
    )


def write_map(folder: Path, pixels: np.ndarray, name: str = "m.png", **changes: object) -> Path:
    """A hand-made map; a key set to None is left out."""
    cv2.imwrite(str(folder / name), pixels)
    meta: dict[str, object] = {
        "image": name,
        "resolution": 0.1,
        "origin": [1.0, 2.0, 0.0],
        "negate": 0,
        "occupied_thresh": 0.65,
        "free_thresh": 0.196,
    }
    meta.update(changes)
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in meta.items() if v is not None}))
    return path


def test_files_have_the_bytes_of_navigation_map_saver(tmp_path: Path) -> None:
    paths = save_map(make_snapshot(), tmp_path / "new" / "folder", "office")
    assert [p.name for p in paths] == ["office.pgm", "office.yaml", "office.ply", "office.tum"]
    assert paths[0].read_bytes() == b"P5\n3 2\n255\n" + bytes([0, 254, 254, 254, 0, 205])
    assert yaml.safe_load(paths[1].read_text()) == {
        "image": "office.pgm",
        "mode": "trinary",
        "resolution": 0.05,
        "origin": [-1.25, 3.5, 0],
        "negate": 0,
        "occupied_thresh": 0.65,
        "free_thresh": 0.196,
    }
    header, body = paths[2].read_bytes().split(b"end_header\n")
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 5",
        *(f"property float {k}" for k in "xyz"),
        *(f"property uchar {k}" for k in ("red", "green", "blue")),
        "property float confidence",
    ]
    assert len(body) == 5 * 19
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(
        p.name for p in paths
    )


def test_a_grid_whose_metres_are_unknown_is_not_written_and_an_older_one_goes(
    tmp_path: Path,
) -> None:
    save_map(make_snapshot(), tmp_path, "m", {"npz": b"old"})
    save_map(make_snapshot(), tmp_path, "other")
    shut = dataclasses.replace(make_snapshot(), gate_open=False, gate_hint="nothing gives metres")
    for snapshot in (shut, dataclasses.replace(shut, grid=None)):
        paths = save_map(snapshot, tmp_path, "m", {"npz": b"new"})
        assert [p.name for p in paths] == ["m.ply", "m.tum", "m.npz"]
        assert {p.name for p in tmp_path.glob("m.*")} == {"m.ply", "m.tum", "m.npz"}
    assert (tmp_path / "m.npz").read_bytes() == b"new"
    assert (tmp_path / "other.yaml").exists()
    assert (tmp_path / "other.pgm").exists()
    assert save_map(make_snapshot(), tmp_path, "m")[1].name == "m.yaml"
    with pytest.raises(MapFileError, match="cannot read map"):
        save_map(shut, tmp_path, "m")
        load_occupancy(tmp_path / "m.yaml")


@settings(max_examples=50)
@given(
    cells=hnp.arrays(
        np.int8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.sampled_from([-1, 0, 100]),
    ),
    resolution=st.integers(1, 200),
    origin=st.tuples(*[st.integers(-99_999, 99_999)] * 2),
)
@pytest.mark.slow
def test_saved_map_loads_as_it_was(
    cells: np.ndarray, resolution: int, origin: tuple[int, int]
) -> None:
    grid = OccupancyGrid(cells, resolution / 100, (origin[0] / 1000, origin[1] / 1000))
    snapshot = dataclasses.replace(make_snapshot(), grid=grid)
    with tempfile.TemporaryDirectory() as folder:
        back = load_occupancy(save_map(snapshot, Path(folder), "m")[1])
    np.testing.assert_array_equal(back.cells, cells)
    assert back.resolution_m == pytest.approx(grid.resolution_m)
    assert back.origin_xy_m == pytest.approx(grid.origin_xy_m)


@settings(max_examples=50)
@given(
    points=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 30), st.just(3)),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    seed=st.integers(0, 2**31),
)
def test_ply_round_trip_is_exact(points: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, points.shape, np.uint8)
    conf = rng.uniform(1, 50, len(points)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        write_ply(Path(folder) / "c.ply", Cloud(points, colors, conf))
        back = read_ply(Path(folder) / "c.ply")
    np.testing.assert_array_equal(back.points, points)
    np.testing.assert_array_equal(back.colors_rgb, colors)
    np.testing.assert_array_equal(back.conf, conf)


@settings(max_examples=50)
@given(
    stamps=st.lists(st.integers(-(10**18), 4 * 10**18), unique=True, max_size=10).map(sorted),
    seed=st.integers(0, 2**31),
)
def test_trajectory_keeps_every_nanosecond(stamps: list[int], seed: int) -> None:
    made = dataclasses.replace(
        make_trajectory(len(stamps), seed), stamps_ns=np.array(stamps, np.int64)
    )
    with tempfile.TemporaryDirectory() as folder:
        write_tum(Path(folder) / "t.tum", made)
        back = read_tum(Path(folder) / "t.tum")
    np.testing.assert_array_equal(back.stamps_ns, made.stamps_ns)
    np.testing.assert_allclose(back.T_world_cam, made.T_world_cam, atol=1e-8)


def test_trajectory_lines_are_tum_format(tmp_path: Path) -> None:
    pose = np.eye(4)
    pose[:3, 3] = (1, -2, 0.5)
    write_tum(tmp_path / "t.tum", Trajectory(np.array([1_700_000_000_100_000_000]), pose[None]))
    line = (tmp_path / "t.tum").read_text().splitlines()[1]
    assert line == (
        "1700000000.100000000 1.000000000 -2.000000000 0.500000000 "
        "0.000000000 0.000000000 0.000000000 1.000000000"
    )


def test_trinary_thresholds_follow_the_yaml(tmp_path: Path) -> None:
    image = np.array([[0, 80, 100, 205, 206, 254]], np.uint8)
    assert load_occupancy(write_map(tmp_path, image)).cells.tolist() == [[100, 100, -1, -1, 0, 0]]
    path = write_map(tmp_path, image, free_thresh=0.5, occupied_thresh=0.9)
    assert load_occupancy(path).cells.tolist() == [[100, -1, -1, 0, 0, 0]]


def test_negate_turns_black_to_free(tmp_path: Path) -> None:
    image = np.array([[0, 255]], np.uint8)
    for negate in (1, True):
        path = write_map(tmp_path, image, negate=negate)
        assert load_occupancy(path).cells.tolist() == [[0, 100]]


def test_scale_mode_is_linear_between_thresholds_and_alpha_is_unknown(tmp_path: Path) -> None:
    image = np.zeros((1, 4, 4), np.uint8)
    image[0, :, :3] = np.array([0, 102, 255, 102])[:, None]
    image[0, :, 3] = (255, 255, 255, 0)
    path = write_map(tmp_path, image, mode="scale", free_thresh=0.2, occupied_thresh=0.8)
    assert load_occupancy(path).cells.tolist() == [[100, 67, 0, -1]]


def test_raw_mode_takes_pixels_as_they_are(tmp_path: Path) -> None:
    path = write_map(tmp_path, np.array([[0, 42, 100, 101, 255]], np.uint8), mode="raw")
    assert load_occupancy(path).cells.tolist() == [[0, 42, 100, -1, -1]]


def test_image_is_flipped_so_that_row_zero_is_smallest_y(tmp_path: Path) -> None:
    grid = load_occupancy(write_map(tmp_path, np.array([[0], [254]], np.uint8)))
    assert grid.cells.tolist() == [[0], [100]]
    assert (grid.resolution_m, grid.origin_xy_m) == (0.1, (1.0, 2.0))


def test_pgm_with_comment_as_the_old_saver_writes_it(tmp_path: Path) -> None:
    path = write_map(tmp_path, np.zeros((1, 1), np.uint8), image="c.pgm")
    (tmp_path / "c.pgm").write_bytes(b"P5\n# CREATOR: 0.050 m/pix\n2 1\n255\n" + bytes([254, 0]))
    assert load_occupancy(path).cells.tolist() == [[0, 100]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resolution": None}, "resolution"),
        ({"resolution": 0}, "positive"),
        ({"origin": [1.0, 2.0]}, "origin"),
        ({"origin": [0.0, 0.0, 0.3]}, "yaw"),
        ({"mode": "magic"}, "magic"),
        ({"image": "gone.pgm"}, "gone.pgm"),
        ({"image": "m.yaml"}, "decoded"),
        ({"free_thresh": "low"}, "free_thresh"),
    ],
)
def test_a_bad_map_is_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = write_map(tmp_path, np.zeros((1, 1), np.uint8), **changes)
    with pytest.raises(MapFileError, match=words):
        load_occupancy(path)


def test_saving_says_why_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(MapFileError, match="no window"):
        save_map(dataclasses.replace(make_snapshot(), grid=None), tmp_path, "m")
    for stem in ("../m", "a/b", "", ".m"):
        with pytest.raises(MapFileError, match="plain file name"):
            save_map(make_snapshot(), tmp_path, stem)
    (tmp_path / "file").write_text("")
    with pytest.raises(MapFileError, match="cannot write"):
        save_map(make_snapshot(), tmp_path / "file", "m")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_save_leaves_the_old_map_whole(tmp_path: Path) -> None:
    paths = save_map(make_snapshot(), tmp_path, "m")
    before = [p.read_bytes() for p in paths]
    broken = dataclasses.replace(make_snapshot(n=9), conf=np.ones(3, np.float32))
    with pytest.raises(MapFileError, match="9 points"):
        save_map(broken, tmp_path, "m")
    assert [p.read_bytes() for p in paths] == before


def test_broken_clouds_and_trajectories_are_named(tmp_path: Path) -> None:
    path = save_map(make_snapshot(), tmp_path, "m")[2]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MapFileError, match="ends early"):
        read_ply(path)
    path.write_bytes(b"solid cube")
    with pytest.raises(MapFileError, match="not a binary"):
        read_ply(path)
    text = tmp_path / "t.tum"
    for content, words in {
        "1.0 0 0 0 0 0 0 1\n1.1 0 0 zero 0 0 0 1\n": "line 2",
        "1.0 0 0 0 0 0 1\n": "line 1",
        "1.0 0 0 0 0 0 0 0\n": "line 1",
        "nan 0 0 0 0 0 0 1\n": "line 1",
        "2.0 0 0 0 0 0 0 1\n1.0 0 0 0 0 0 0 1\n": "increase",
    }.items():
        text.write_text(content)
        with pytest.raises(MapFileError, match=words):
            read_tum(text)
