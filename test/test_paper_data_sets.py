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


"""Windows of the paper's data sets, from small folders in each layout."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

import paper_folders as folders
from mvdust3r_ros.datatypes import FloatArray, View
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.evaluation.paper.data_sets import find_tuples, open_tuples
from mvdust3r_ros.evaluation.paper.tuple_list import DataSetError, published_order
from mvdust3r_ros.evaluation.trials.rooms import evaluate_rooms
from mvdust3r_ros.geometry import backproject, invert_se3, project

CROP = (58, 58)
"""As high as stored views about their principal point: not resized, so exact in every pixel."""
SMALL = (42, 56)
"""Resized, from colour of 96x125 and depth of 64x80 pixels, and cropped."""
ALL = range(folders.STEPS)


def step_of(view: View) -> int:
    """The step of the turn whose pose a view has."""
    assert view.T_odom_cam is not None
    gaps = [np.abs(view.T_odom_cam - folders.pose(k)).max() for k in ALL]
    assert min(gaps) < 1e-6
    return int(np.argmin(gaps))


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "hm3d"
    folders.write_list(root / "trajectories", [folders.strip_tuple(root, ALL)])
    return root


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "scannet"
    folders.write_scan(root / "scans" / "scene0707_00", ALL, lost=4)
    return root


@pytest.fixture(scope="module")
def scan_tuples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "ScanNet_test"
    folders.write_list(root, [folders.scan_tuple(root, [5, 4, 3, 2])])
    return root


def test_data_sets_are_named_as_in_the_paper(strips: Path, scan: Path, scan_tuples: Path) -> None:
    names = [open_tuples(folder, CROP).name for folder in (strips, scan, scan_tuples)]
    assert names == ["HM3D", "ScanNet", "ScanNet"]
    assert [found.name for found in find_tuples(strips.parent, CROP)] == ["HM3D"]


def test_a_published_tuple_is_exact_to_the_pixel(strips: Path) -> None:
    for view in open_tuples(strips, CROP).window(0, 4):
        rgb, depth_m = folders.rendered(view)
        assert view.depth_m is not None
        assert np.mean(np.abs(view.depth_m - depth_m) < 6e-4) > 0.998  # stored in millimetres
        assert np.mean(np.all(view.image_rgb == rgb, -1)) > 0.99


def test_inputs_come_in_the_published_order_and_held_out_views_after_24(strips: Path) -> None:
    found = open_tuples(strips, CROP)
    assert found.seeds(4) == range(1)
    assert [step_of(v) for v in found.window(0, 4)] == [1, 3, 2, 0]
    assert [step_of(v) for v in found.held_out(0, 4)] == [24]
    assert sorted(step_of(v) for v in found.window(0, 24)) == list(range(24))
    assert [step_of(v) for v in found.held_out(0, 24)] == list(range(24, 30))


@pytest.mark.parametrize(
    ("views", "order"),
    [
        (4, [1, 3, 2, 0]),
        (8, [1, 3, 6, 0, 4, 5, 2, 7]),
        (12, [1, 4, 7, 10, 0, 5, 6, 2, 8, 9, 3, 11]),
        (24, [1, 7, 13, 19, 4, 5, 6, 0, *range(8, 13), 2, *range(14, 19), 3, *range(20, 24)]),
    ],
)
def test_the_published_order(views: int, order: list[int]) -> None:
    assert published_order(views) == order


@pytest.mark.parametrize("which", ["strips", "scan", "scan_tuples"])
def test_the_principal_point_is_in_the_middle(which: str, request: pytest.FixtureRequest) -> None:
    for view in open_tuples(request.getfixturevalue(which), SMALL).window(0, 2):
        assert view.K is not None
        assert np.abs(view.K[:2, 2] - np.array(SMALL[::-1]) / 2).max() < 0.75


def shifted_errors(view: View, error: Callable[[View], float]) -> tuple[float, float]:
    """Errors with the intrinsics as they are, and the least with a principal point elsewhere."""
    assert view.K is not None
    others = []
    for shift in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
        K = view.K.copy()
        K[:2, 2] += shift
        others.append(error(View(view.image_rgb, K, view.T_odom_cam, view.depth_m)))
    return error(view), min(others)


def image_error(view: View) -> float:
    return float(np.abs(view.image_rgb.astype(float) - folders.rendered(view)[0]).mean())


def depth_error(view: View) -> float:
    assert view.depth_m is not None
    gaps = np.abs(view.depth_m - folders.rendered(view)[1])[view.depth_m > 0]
    return float(np.minimum(gaps, 0.05).mean())  # edges do not count for more


@pytest.mark.parametrize("which", ["strips", "scan", "scan_tuples"])
def test_resized_views_keep_exact_intrinsics(which: str, request: pytest.FixtureRequest) -> None:
    view = open_tuples(request.getfixturevalue(which), SMALL).window(0, 2)[1]
    assert view.image_rgb.shape == (*SMALL, 3)
    for error in (image_error, depth_error):
        exact, shifted = shifted_errors(view, error)
        assert exact < shifted
    assert depth_error(view) < 0.01


def agreement(a: View, b: View, T_b_a: FloatArray) -> float:
    """Share of a's points, of those that fall into b, at b's depth there."""
    assert a.depth_m is not None and b.depth_m is not None
    assert a.K is not None and b.K is not None
    points = backproject(a.depth_m.astype(float), a.K)[a.depth_m > 0] @ T_b_a[:3, :3].T
    uv = project(points + T_b_a[:3, 3], b.K)
    inside = np.all((uv > 0) & (uv < np.array(b.depth_m.shape[::-1]) - 1), 1)
    u, v = np.rint(uv[inside]).astype(int).T
    gap = np.abs((points + T_b_a[:3, 3])[inside, 2] - b.depth_m[v, u])
    return float(np.mean(gap < 0.05)) if len(gap) > 100 else 0.0


@pytest.mark.parametrize("which", ["strips", "scan", "scan_tuples"])
def test_one_view_reprojects_into_the_other(which: str, request: pytest.FixtureRequest) -> None:
    a, b = open_tuples(request.getfixturevalue(which), SMALL).window(0, 2)
    assert a.T_odom_cam is not None and b.T_odom_cam is not None
    T_b_a = invert_se3(b.T_odom_cam) @ a.T_odom_cam
    assert agreement(a, b, T_b_a) > 0.9
    assert agreement(a, b, invert_se3(T_b_a)) < 0.5


def test_windows_of_a_scan_are_chosen_by_overlap_and_seed(scan: Path) -> None:
    found = open_tuples(scan, CROP)
    assert found.seeds(4) == range(1000)
    seen = set()
    for index in range(6):
        steps = [step_of(view) for view in found.window(index, 4)]
        for k in range(1, 4):
            apart = [min(abs(steps[k] - s), 30 - abs(steps[k] - s)) for s in steps[:k]]
            assert sum(a < 4 for a in apart) == 1  # steps of 12 degrees: 36 % overlap at three
            assert 1 < min(apart) < 4
        assert steps == [step_of(view) for view in found.window(index, 4)]
        others = [step_of(view) for view in found.held_out(index, 4)]
        assert len(others) == 1
        assert not set(others) & set(steps)
        seen |= {*steps, *others}
    assert len(seen) > 12
    assert 4 not in seen  # of which ScanNet has no finite pose


def test_each_scene_has_its_share_of_windows(tmp_path: Path) -> None:
    folders.write_scan(tmp_path / "a", range(10))
    folders.write_scan(tmp_path / "b", range(15, 25))
    found = open_tuples(tmp_path, CROP)
    assert found.name == tmp_path.name
    sides = [{step_of(v) < 12 for v in found.window(index, 2)} for index in (0, 499, 500, 999)]
    assert sides == [{True}, {True}, {False}, {False}]


def test_a_scene_without_such_a_window_is_passed_over(tmp_path: Path) -> None:
    folders.write_scan(tmp_path / "a", [0, 1])
    folders.write_scan(tmp_path / "b", range(15, 25))
    assert all(step_of(v) >= 15 for v in open_tuples(tmp_path, CROP).window(0, 3))
    with pytest.raises(
        DataSetError, match=r"a: no 9 of 2 views overlap .* nor in any other scene"
    ):
        open_tuples(tmp_path, CROP).window(0, 9)


def test_a_thousand_tuples_are_judged_evenly(tmp_path: Path) -> None:
    empty = {"rgb_list": [], "depth_list": [], "nv": 3}
    folders.write_list(tmp_path, [empty] * 1500)
    found = open_tuples(tmp_path, CROP)
    assert len(found.seeds(4)) == 1000
    for index, place in ((0, 0), (1, 1), (2, 3), (999, 1498)):
        with pytest.raises(DataSetError, match=rf"tuple {place} has 3 input views, not 4"):
            found.window(index, 4)


def test_a_list_in_hdf5_reads_as_the_same_in_json(strips: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    (tmp_path / "hm3d").symlink_to(strips / "hm3d")
    entries = json.loads(next(strips.rglob("dps_test*.json")).read_text())
    texts = np.array([json.dumps(entry) for entry in entries], "S")
    with h5py.File(tmp_path / "dps_test.h5", "w") as file:
        file.create_dataset("json_strs", data=texts, compression="gzip")
    for one, other in zip(
        open_tuples(tmp_path, CROP).window(0, 4), open_tuples(strips, CROP).window(0, 4),
        strict=True,
    ):  # fmt: skip
        assert np.array_equal(one.image_rgb, other.image_rgb)
        assert np.array_equal(one.T_odom_cam, other.T_odom_cam)  # type: ignore[arg-type]


def refused(folder: Path, views: int = 3) -> str:
    """The one line that says why a window cannot be read."""
    with pytest.raises(DataSetError) as caught:
        open_tuples(folder, CROP).window(0, views)
    text = str(caught.value)
    assert "\n" not in text
    return text


FEW = [0, 2, 4]
Spoil = Callable[[Path], object]


def write_grey(path: Path) -> None:
    cv2.imwrite(str(path), np.full(folders.HW, 200, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda f: (f / "depth/2.png").unlink(),
            r"names ./data/scannet/.*depth/2.png, and .* put",
        ),
        (
            lambda f: (f / "color/2.png").write_bytes(b"none"),
            r"color/2.png .*starts with 6e6f",
        ),
        (lambda f: write_grey(f / "depth/2.png"), r"tuple 0: .*is not a 16-bit grey PNG.* again"),
        (
            lambda f: folders.write_depth(f / "depth/2.png", np.ones((64, 64))),
            r"2.png with 2.png: of 64x64 pixels has another shape than the image of 160x128",
        ),
        (
            lambda f: (f / "pose/2.txt").write_text("-inf -inf -inf -inf\n" * 4),
            r"pose/2.txt is no finite matrix: ScanNet lost track there, .* leave it out",
        ),
        (lambda f: (f / "pose/2.txt").write_text("1 0 0 0\n"), r"pose/2.txt is no finite matrix"),
        (lambda f: (f / "pose/2.txt").write_text("a b"), r"not as the public code writes it"),
    ],
)
def test_a_bad_file_of_a_tuple_is_named(tmp_path: Path, spoil: Spoil, says: str) -> None:
    folders.write_list(tmp_path, [folders.scan_tuple(tmp_path, FEW)])
    spoil(tmp_path / "scene0707_00" / "frames")
    assert re.search(says, refused(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nv": 7}, r"a width of 240 or 240 pixels is not that of 7 views"),
        ({"nv": 2}, r"2 input views, not 3"),
        ({"nv": "many"}, r"tuple 0 is not as the public code writes it .*'many'"),
        ({"rgb_list": ["../../etc/passwd"]}, r"names ../../etc/passwd"),
        ({"rgb_list": [3]}, r"not as the public code writes it"),
        ({"intrinsic_raw": [[0, 0, 0]] * 3}, r"not a pinhole matrix"),
        (
            {"intrinsic_raw": [[60, 0, 70], [0, 60, 29], [0, 0, 1]]},
            r"pixel 70 of 80 is too far off",
        ),
        ({"pose_raw_list": []}, r"not as the public code writes it \(list index out of range\)"),
    ],
)
def test_a_bad_entry_of_a_list_is_refused(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    folders.write_list(tmp_path, [{**folders.strip_tuple(tmp_path, FEW), **change}])
    assert re.search(says, refused(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"is no JSON"),
        ("{}", r"is no list of tuples"),
        ("[]", r"lists no tuples: make it again"),
        ("[3]", r"tuple 0 is not as the public code writes it"),
        ("[{}]", r"tuple 0 is not as the public code writes it \(no 'rgb_list'\)"),
    ],
)
def test_a_bad_list_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "dps_test.json").write_text(text)
    assert re.search(says, refused(tmp_path))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "intrinsic/intrinsic_color.txt").unlink(), r"extract the scan again"),
        (lambda f: (f / "intrinsic/intrinsic_depth.txt").unlink(), r"intrinsic_depth.txt"),
        (
            lambda f: [path.unlink() for path in (f / "depth").iterdir()],
            r"no image with a depth image and a finite pose",
        ),
        (
            lambda f: [path.write_text("-inf " * 16) for path in (f / "pose").iterdir()],
            r"no image with a depth image and a finite pose",
        ),
        (lambda f: write_grey(f / "depth/1.png"), r"depth/1.png .*extract it again"),
        (
            lambda f: folders.write_depth(f / "depth/1.png", np.ones((32, 40))),
            r"the depth images of a scene have to be of one size: extract",
        ),
        (
            lambda f: [(f / f"color/{k}.png").write_bytes(b"") for k in (0, 1)],
            r"image is empty: 0 bytes; the first is .*png: extract it again",
        ),
    ],
)
def test_a_bad_scan_is_refused(tmp_path: Path, spoil: Spoil, says: str) -> None:
    spoil(folders.write_scan(tmp_path / "scene", range(0, 8, 2)))
    assert re.search(says, refused(tmp_path))


def test_folders_without_a_data_set_are_refused(tmp_path: Path) -> None:
    assert "holds neither dps_test*.h5 nor a scene" in refused(tmp_path)
    assert "docs/paper_data.md" in refused(tmp_path / "nowhere")
    with pytest.raises(DataSetError, match="none of the folders hm3d, scannet, mp3d"):
        find_tuples(tmp_path, CROP)
    for name in ("a", "b"):
        folders.write_list(tmp_path / name, [])
    assert "several lists of tuples, keep one: a/dps_test_sample.json, b/" in refused(tmp_path)
    (tmp_path / "dps_test_local.h5").touch()  # the one that the published test scripts read
    assert "dps_test_local.h5" in refused(tmp_path)


def test_views_beyond_those_of_a_tuple_are_refused(strips: Path, scan_tuples: Path) -> None:
    with pytest.raises(DataSetError, match="has 24 input views, not 25"):
        open_tuples(strips, CROP).window(0, 25)
    with pytest.raises(DataSetError, match=r"has 4 views, but those held out of 4 .* 24 to 24"):
        open_tuples(scan_tuples, CROP).held_out(0, 4)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["strips", "scan", "scan_tuples"])
def test_the_oracle_scores_without_error(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = open_tuples(request.getfixturevalue(which), CROP)
    seeds: Sequence[int] = found.seeds(4)[:1]
    rows = evaluate_rooms(
        OracleEngine(CROP), lambda index, views: found.window(max(index, 0), views), seeds, [4],
        [-1], tmp_path, lambda *_: None,
    )[4]  # fmt: skip
    for name in ("oracle", "oracle, oracle reference"):
        (case,) = rows[name]
        assert case.published.nd < 1e-3
        assert case.published.dac == 1
        assert case.published.cd < 1e-5
        assert max(case.published.rre, case.published.rte) == 0
        assert case.published.mae < 0.15  # the metric takes W / 2 for the principal point
        assert case.nd_metric < 1e-4
        assert abs(case.scale) < 1e-4
        assert max(case.rotation_deg) < 0.5
