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

"""`evaluate benchmark` on made-up folders of each layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from box_room import BoxRoom
from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.evaluation.benchmark.data_sets import (
    DATA_SETS,
    BenchmarkError,
    BenchmarkSequence,
    find_sequences,
)
from mvdust3r_ros.evaluation.benchmark.published import PUBLISHED
from mvdust3r_ros.evaluation.benchmark.results import SIM3, Results, SequenceRun, rows
from mvdust3r_ros.evaluation.benchmark.true_poses import true_poses
from mvdust3r_ros.geometry import invert_se3, quaternion_xyzw
from mvdust3r_ros.recordings.formats import FileOptions, files_recording
from mvdust3r_ros.recordings.recording import RecordingError, TruthOptions
from mvdust3r_ros.recordings.truth_files import read_truth

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
ROOM = BoxRoom()
POSES = ROOM.walk(36)[:24]
NS = 10**9


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def picture(path: Path, T: FloatArray) -> None:
    write(path, ROOM.image(T)[..., ::-1])


def depth(path: Path, T: FloatArray, steps: float) -> None:
    write(path, np.rint(ROOM.depth(T) * steps).astype(np.uint16))


def tum_line(time: str, T: FloatArray) -> str:
    numbers = (*T[:3, 3], *quaternion_xyzw(T[:3, :3]))
    return f"{time} {' '.join(f'{v:.9f}' for v in numbers)}"


def tum(data: Path) -> Path:
    folder = data / "rgbd_dataset_freiburg1_desk"
    images, depths, poses = [], [], []
    for k, T in enumerate(POSES):
        time = f"{1305031000 + k / 10:.6f}"
        picture(folder / "rgb" / f"{time}.png", T)
        depth(folder / "depth" / f"{time}.png", T, 5000)
        images.append(f"{time} rgb/{time}.png")
        depths.append(f"{time} depth/{time}.png")
        poses.append(tum_line(time, T))
    for name, lines in (("rgb", images), ("depth", depths), ("groundtruth", poses)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    np.savetxt(folder / "K.txt", ROOM.K)
    return folder


def seven_scenes(data: Path, sequence: str = "seq-01") -> Path:
    folder = data / "chess" / sequence
    for k, T in enumerate(POSES):
        stem = f"{folder}/frame-{k:06d}"
        picture(Path(f"{stem}.color.png"), T)
        depth(Path(f"{stem}.depth.png"), T, 1000)
        np.savetxt(f"{stem}.pose.txt", T)
    np.savetxt(folder / "K.txt", ROOM.K)
    return folder


def replica(data: Path) -> Path:
    folder = data / "office0"
    for k, T in enumerate(POSES):
        picture(folder / "results" / f"frame{k:06d}.jpg", T)
        depth(folder / "results" / f"depth{k:06d}.png", T, 6553.5)
    np.savetxt(folder / "traj.txt", [T.ravel() for T in POSES])
    np.savetxt(folder / "K.txt", ROOM.K)
    return folder


def euroc(data: Path, room: BoxRoom, poses: list[FloatArray]) -> Path:
    """The camera lies on the body as T_BS of its sensor.yaml says; the truth is of the body."""
    folder = data / "MH_01_easy"
    T_body_cam = np.eye(4)
    T_body_cam[:3, 3] = 0.1, -0.2, 0.05
    rows_of_truth = []
    for k, T in enumerate(poses):
        stamp = 1_403_636_579_000_000_000 + k * NS // 20
        write(folder / f"mav0/cam0/data/{stamp}.png", room.image(T)[..., ::-1])
        write(folder / f"mav0/cam1/data/{stamp}.png", room.image(T)[..., ::-1])
        T_body = T @ invert_se3(T_body_cam)
        x, y, z, w = quaternion_xyzw(T_body[:3, :3])
        rows_of_truth.append(
            f"{stamp}," + ",".join(f"{v:.9f}" for v in (*T_body[:3, 3], w, x, y, z))
        )
    K, (width, height) = room.K, room.image_wh
    (folder / "mav0/cam0/sensor.yaml").write_text(
        f"T_BS:\n  cols: 4\n  rows: 4\n  data: {T_body_cam.ravel().tolist()}\n"
        f"resolution: [{width}, {height}]\ncamera_model: pinhole\n"
        f"intrinsics: {K[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()}\n"
    )
    truth = folder / "mav0/state_groundtruth_estimate0"
    truth.mkdir()
    (truth / "data.csv").write_text(
        "#timestamp,p_x,p_y,p_z,q_w,q_x,q_y,q_z\n" + "\n".join(rows_of_truth)
    )
    return folder


def benchmark(*words: object) -> int:
    return main(["evaluate", "benchmark", *map(str, words)])


def results_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.parametrize(
    ("key", "make", "name", "frames"),
    [
        ("tum", tum, "desk", 12),
        ("7scenes", seven_scenes, "chess", 12),
        ("replica", replica, "office0", 24),
    ],
)
@pytest.mark.slow
def test_the_oracle_has_no_error_on_any_layout(
    key: str,
    make: Callable[[Path], Path],
    name: str,
    frames: int,
    tmp_path: Path,
    params: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    make(tmp_path / "data")
    words = ("--data", tmp_path / "data", "--engine", "oracle", "--params", params)
    assert benchmark(key, *words, "--out", tmp_path / "out") == 0
    results = results_in(tmp_path / "out" / key)
    (run,) = results["runs"]
    assert run["calibrated"]
    assert run["numbers"]["frames"] == frames
    assert run["numbers"]["ate_sim3_m"] < 0.002
    assert run["numbers"]["ate_m"] < 0.002
    assert run["numbers"]["mapped_share"] > 0.8
    assert (Path(run["report"]) / "report.html").is_file()
    assert len(results["missing"]) == len(DATA_SETS[key].folders) - 1
    assert [row["figure"] for row in results["rows"][:3]] == [
        "ATE, Sim(3)", "ATE, SE(3)", "mapped",
    ]  # fmt: skip
    others = [row for row in results["rows"] if row["source"].startswith("published: ")]
    shown = [p for p in PUBLISHED[key] if name in p.ate_m]
    assert [row["cells"] for row in others] == [[p.ate_m[name]] for p in shown]
    assert {row["average"] for row in others} == {None}
    said = capsys.readouterr()
    assert "the oracle needs the intrinsics" in said.err
    assert "is not there, or has no" in said.err
    assert said.err.count("\n") < 10
    assert "published: " in said.out
    assert (tmp_path / "out" / key / "table.md").read_text().count("| published: ") == len(others)


@pytest.mark.slow
def test_the_default_engine_maps_with_and_without_calibration(tmp_path: Path) -> None:
    room = BoxRoom(image_wh=(320, 240), focal_px=180.0)
    euroc(tmp_path / "data", room, room.walk(120)[:40])
    words = ("--data", tmp_path / "data", "--every", 1, "--sequences", "MH_01")
    assert benchmark("euroc", *words, "--out", tmp_path / "out") == 0
    results = results_in(tmp_path / "out" / "euroc")
    assert [run["calibrated"] for run in results["runs"]] == [True, False]
    for run in results["runs"]:
        assert run["numbers"]["frames"] == 40
        assert run["numbers"]["ate_sim3_m"] < 0.02  # of a path of 4 m
        assert run["numbers"]["mapped_share"] > 0.8
        report = json.loads((Path(run["report"]) / "report.json").read_text())
        assert report["input"]["images_with"]["camera_info"] == 40 * run["calibrated"]
        assert any("moved to the camera by T_BS" in note for note in report["notes"])


def pseudo_truth(path: Path) -> None:
    """World to camera, w first, not in order of time, with another sequence between."""
    lines = ["seq-02/frame-000000.color.png 1 0 0 0 9 9 9 527.7"]
    for k, T in enumerate(POSES):
        T_cam_world = invert_se3(T)
        x, y, z, w = quaternion_xyzw(T_cam_world[:3, :3])
        numbers = " ".join(f"{v:.9f}" for v in (w, x, y, z, *T_cam_world[:3, 3]))
        lines.append(f"seq-01/frame-{k:06d}.color.png {numbers} 527.7")
    path.write_text("\n".join(reversed(lines)))


def test_pseudo_truth_is_of_the_camera_in_the_world(tmp_path: Path) -> None:
    one = BenchmarkSequence("chess", tmp_path / "chess/seq-01", tmp_path / "chess/seq-01")
    pseudo_truth(tmp_path / "chess_train.txt")
    poses = read_truth(Path(true_poses(one, tmp_path, tmp_path / "out")))
    np.testing.assert_allclose(poses.T_world_cam, POSES, atol=1e-6)
    np.testing.assert_allclose(poses.stamps_ns, np.arange(len(POSES)) * NS / 30, atol=1)


@pytest.mark.parametrize("kind", ["pseudo truth", "numbered"])
@pytest.mark.slow
def test_other_true_poses_take_the_place_of_those_of_7_scenes(
    kind: str, tmp_path: Path, params: Path
) -> None:
    """Without those of the data set the oracle would have no poses at all."""
    folder = seven_scenes(tmp_path / "data")
    for path in folder.glob("*.pose.txt"):
        path.unlink()
    truth = tmp_path / "truth"
    truth.mkdir()
    if kind == "numbered":
        lines = [tum_line(str(k), T) for k, T in enumerate(POSES)]
        (truth / "chess.txt").write_text("\n".join(lines))
    else:
        pseudo_truth(truth / "chess_test.txt")
    words = ("--engine", "oracle", "--params", params, "--truth", truth)
    assert benchmark("7scenes", "--data", tmp_path / "data", *words, "--out", tmp_path / "o") == 0
    (run,) = results_in(tmp_path / "o" / "7scenes")["runs"]
    assert run["numbers"]["ate_m"] < 0.002
    assert run["numbers"]["mapped_share"] > 0.8


@pytest.mark.parametrize("key", DATA_SETS)
def test_a_refusal_names_the_folder_what_was_looked_for_and_where_to_get_it(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for data in (tmp_path / "nowhere", tmp_path):
        assert benchmark(key, "--data", data, "--out", out) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(data) in error
        assert "get it from https://" in error
    assert next(iter(DATA_SETS[key].folders.values())) in error
    assert not out.exists()
    assert benchmark(key, "--data", tmp_path, "--sequences", "attic", "--out", out) == 1
    assert "has no sequence attic: it has " in capsys.readouterr().err


def test_the_test_split_is_that_of_the_data_set(tmp_path: Path) -> None:
    for sequence in ("seq-01", "seq-02", "seq-05"):
        folder = tmp_path / "chess" / sequence
        write(folder / "frame-000000.color.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "chess" / "TestSplit.txt").write_text("sequence2\nsequence5\n")
    found, missing = find_sequences("7scenes", tmp_path, split="test")
    assert [one.name for one in found] == ["chess/seq-02", "chess/seq-05"]
    assert missing == []
    (one,), _ = find_sequences("7scenes", tmp_path, ["chess/seq-05"], "test")
    assert one.source == tmp_path / "chess" / "seq-05"
    assert [one.name for one in find_sequences("7scenes", tmp_path)[0]] == ["chess"]
    with pytest.raises(BenchmarkError, match=r"fire: not in the split test"):
        find_sequences("7scenes", tmp_path, ["fire"], "test")


def test_a_folder_without_true_poses_of_a_sequence_is_refused(tmp_path: Path) -> None:
    one = BenchmarkSequence("chess", tmp_path / "chess/seq-01", tmp_path / "chess/seq-01")
    (tmp_path / "chess_test.txt").write_text("seq-02/frame-000000.color.png 1 0 0 0 0 0 0 527\n")
    with pytest.raises(BenchmarkError, match=r"no poses of chess, looked for in chess\.txt"):
        true_poses(one, tmp_path, tmp_path / "out")
    (tmp_path / "chess_test.txt").write_text("seq-01/frame-000000.color.png 1 0 0 no\n")
    with pytest.raises(BenchmarkError, match="no pose in 'seq-01/frame-000000"):
        true_poses(one, tmp_path, tmp_path / "out")


def test_published_rows_are_of_the_sequences_and_their_averages_are_right() -> None:
    assert set(PUBLISHED) == set(DATA_SETS)
    for key, others in PUBLISHED.items():
        for row in others:
            assert row.source
            if row.ate_m:
                assert list(row.ate_m) == list(DATA_SETS[key].folders)
                assert abs(np.mean(list(row.ate_m.values())) - row.average_m) < 0.001


def test_the_docs_have_every_published_row() -> None:
    page = (Path(__file__).parents[1] / "docs" / "benchmarks_slam.md").read_text()
    for row in (row for others in PUBLISHED.values() for row in others):
        numbers = (*row.ate_m.values(), row.average_m)
        known = "yes" if row.calibrated else "no"
        cells = (row.method, known, *(f"{v:.3f}" for v in numbers))
        assert f"| {' | '.join(cells)} |" in page


def results(*runs: SequenceRun, names: tuple[str, ...]) -> Results:
    return Results("euroc", "data", "ours", 2, "", names, runs)


def test_an_average_needs_every_sequence() -> None:
    done = SequenceRun("MH_01", True, {"ate_sim3_m": 0.1, "ate_m": 0.2, "mapped_share": 1.0})
    failed = SequenceRun("MH_02", True, error="no window")
    ours = rows(results(done, failed, names=("MH_01", "MH_02")))
    assert [row.cells for row in ours] == [(0.1, None), (0.2, None), (1.0, None)]
    assert {row.average for row in ours} == {None}
    assert rows(results(done, names=("MH_01",)))[0].average == 0.1


def test_published_averages_stand_beside_all_sequences_alone() -> None:
    names = tuple(DATA_SETS["euroc"].folders)
    runs = [SequenceRun(name, True, {"ate_sim3_m": 0.1}) for name in names]
    others = [row for row in rows(results(*runs, names=names)) if row.source != "measured"]
    assert [row.average for row in others] == [0.041, 0.164]
    assert {row.figure for row in others} == {SIM3}


def test_replica_is_read_as_rendered_for_nice_slam(tmp_path: Path) -> None:
    folder = replica(tmp_path)
    for place in (folder, folder / "results", tmp_path):
        recording = files_recording(place, TruthOptions(), FileOptions(every=3, max_frames=5))
        assert recording.kind == "Replica"
        assert recording.total == 5
        frames = list(recording.frames(lambda error: pytest.fail(str(error))))
        assert len(frames) == 5
        for frame, T in zip(frames, POSES[::3], strict=False):
            assert frame.camera is not None
            assert frame.depth_m is not None
            np.testing.assert_allclose(frame.T_world_cam, T, atol=1e-6)
            np.testing.assert_allclose(frame.depth_m, ROOM.depth(T), atol=1e-3)
    (folder / "K.txt").unlink()
    with pytest.raises(RecordingError, match=r"intrinsics of this data set are for 1200x680"):
        files_recording(folder, TruthOptions(), FileOptions())


def test_without_calibration_no_image_has_intrinsics(tmp_path: Path) -> None:
    folder = replica(tmp_path)
    recording = files_recording(folder, TruthOptions(), FileOptions(calibrated=False))
    frames = list(recording.frames(lambda error: pytest.fail(str(error))))
    assert {frame.camera for frame in frames} == {None}
    with pytest.raises(RecordingError, match="every 0 images: expected 1 or more"):
        FileOptions(every=0)
