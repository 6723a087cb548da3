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

"""`mvdust3r_ros evaluate` on bags: the numbers, the errors, the files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import Trajectory
from mvdust3r_ros.drawing.map_files import write_tum
from mvdust3r_ros.evaluation.report.metric_catalogue import METRICS
from mvdust3r_ros.evaluation.report.report_files import same_numbers
from mvdust3r_ros.recordings.bag import BagOptions
from mvdust3r_ros.recordings.bag_recording import bag_recording
from mvdust3r_ros.recordings.recording import TruthOptions
from room_bag import BagKind, RoomBag
from stored_data import OFFICE, needs_more_data

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
STORE = get_typestore(Stores.ROS2_JAZZY)
BIN = Path(sys.executable).parent


def truth_file(made: RoomBag, folder: Path, shift_m: float = 0.0, later_s: int = 0) -> Path:
    """The true path of a bag of the box room as a TUM file."""
    poses = np.array(made.poses)
    poses[:, 0, 3] += shift_m * np.arange(len(poses))
    stamps = np.array(made.stamps_ns, np.int64) + later_s * 10**9
    write_tum(folder / "truth.tum", Trajectory(stamps, poses))
    return folder / "truth.tum"


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def report_in(folder: Path) -> dict[str, Any]:
    return json.loads(
        (folder / "report.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} in report.json"),
    )


@pytest.mark.slow
def test_the_oracle_is_right_in_every_column(oracle_report: Path) -> None:
    report = report_in(oracle_report)
    numbers = report["numbers"]
    assert set(numbers) == {n for n, q in METRICS.items() if not q.measured}
    assert set(report["timing"]["numbers"]) == {n for n, q in METRICS.items() if q.measured}
    missing = {name for name, value in numbers.items() if value is None}
    # all points of the oracle are equally sure
    assert missing == {"confidence_rank"}
    assert numbers["frames"] == 36
    assert numbers["windows_committed"] == numbers["windows"] == numbers["windows_scored"] >= 4
    # depth is in whole millimetres
    for name in ("ate_m", "ate_sim3_m", "rpe_m", "rpe_sim3_m", "odometry_ate_m"):
        assert 0 <= numbers[name] < 0.002, name
    assert abs(numbers["scale_error"]) < 0.002
    assert numbers["nd"] < 0.002
    assert numbers["dac"] == 1
    assert numbers["rre"] == numbers["rte"] == 0
    assert numbers["grid_iou"] > 0.85
    assert numbers["grid_occupied_recall"] > 0.95
    assert report["complete"]
    assert report["mode"] == "lockstep"
    assert report["settings"]["keyframes"]["window_size"] == 4
    assert report["engine"]["backend"] == "oracle"
    assert report["environment"]["versions"]["numpy"] == np.__version__
    assert {"decode", "pose", "stitch", "total"} <= set(report["timing"]["stages"])
    for stage in report["timing"]["stages"].values():
        assert 0 <= stage["p50"] <= stage["p95"] <= stage["max"]
    assert report["timing"]["numbers"]["peak_memory_mb"] > 20


@pytest.mark.slow
def test_the_page_stands_alone(oracle_report: Path) -> None:
    html = (oracle_report / "report.html").read_text()
    assert html.count("<svg") >= 10
    assert "http-equiv" in html
    for outside in ('src="http', 'href="http', "url(http", 'src="//', "@import"):
        assert outside not in html
    assert len(html) < 3_000_000


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["oracle", ""])
def test_twice_gives_the_same_numbers_to_the_bit(
    room_bag: RoomBag, params: Path, tmp_path: Path, engine: str
) -> None:
    truth = truth_file(room_bag, tmp_path)
    words = (*(("--engine", engine) if engine else ()), "--params", params, "--truth", truth)
    reports = []
    for name in ("a", "b"):
        out = tmp_path / name
        assert evaluate(room_bag.bag, *words, "--max-frames", 14, "--out", out) == 0
        reports.append(report_in(out))
    first, again = reports
    assert first["numbers"]["windows"] >= 2
    assert engine or first["engine"]["manifest"]["name"]
    assert same_numbers(first, again)
    again["numbers"]["windows"] += 1e-15
    assert not same_numbers(first, again)


@pytest.mark.slow
def test_the_path_errors_are_those_of_evo(room_bag: RoomBag, params: Path, tmp_path: Path) -> None:
    """A truth that bends away from the path, so that the errors are not zero."""
    if not (BIN / "evo_ape").exists():
        pytest.skip("evo is not installed")
    truth = truth_file(room_bag, tmp_path, shift_m=0.01)
    out = tmp_path / "out"
    words = ("--engine", "oracle", "--params", params, "--truth", truth, "--out", out)
    assert evaluate(room_bag.bag, *words, "--odometry", "topic", "--max-frames", 22) == 0
    numbers = report_in(out)["numbers"]
    steps = ("--delta", "1", "--delta_unit", "f")
    ate = evo("evo_ape", truth, out / "map.tum", "-a", "-r", "trans_part")
    assert ate["rmse"] > 0.01
    assert numbers["ate_m"] == pytest.approx(ate["rmse"], rel=1e-5)
    assert numbers["ate_max_m"] == pytest.approx(ate["max"], rel=1e-5)
    for name, rel, command, call in (
        ("ate_sim3_m", 1e-5, "evo_ape", ("-as", "-r", "trans_part")),
        ("ate_deg", 1e-4, "evo_ape", ("-a", "-r", "angle_deg")),
        ("rpe_m", 1e-5, "evo_rpe", ("-a", "-r", "trans_part", *steps)),
        ("rpe_sim3_m", 1e-5, "evo_rpe", ("-as", "-r", "trans_part", *steps)),
        ("rpe_deg", 1e-4, "evo_rpe", ("-a", "-r", "angle_deg", *steps)),
    ):
        want = evo(command, truth, out / "map.tum", *call)["rmse"]
        assert numbers[name] == pytest.approx(want, rel=rel, abs=1e-4 * name.endswith("deg")), name


def evo(command: str, truth: Path, estimate: Path, *words: str) -> dict[str, float]:
    """Statistics that evo's own command line prints into its results."""
    zipped = estimate.parent / "evo.zip"
    zipped.unlink(missing_ok=True)
    call = [str(BIN / command), "tum", str(truth), str(estimate), *words]
    subprocess.run([*call, "--save_results", str(zipped)], check=True, capture_output=True)
    with zipfile.ZipFile(zipped) as archive:
        stats: dict[str, float] = json.loads(archive.read("stats.json"))
    return stats


@pytest.mark.slow
def test_a_limit_that_does_not_hold_is_an_exit_code(
    room_bag: RoomBag, params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = truth_file(room_bag, tmp_path)
    words = (room_bag.bag, "--engine", "oracle", "--params", params, "--truth", truth)
    words = (*words, "--max-frames", 12, "--out", tmp_path / "out")
    assert evaluate(*words, "--require", "ate_m<0.1,frames>100") == 1
    assert capsys.readouterr().err == "mvdust3r_ros: required frames>100: it is 12\n"
    assert evaluate(*words, "--require", "atem<0.1") == 1
    assert "did you mean ate_m" in capsys.readouterr().err


@pytest.mark.slow
def test_no_truth_is_said_and_the_rest_reported(
    room_bag: RoomBag, params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--engine", "oracle", "--params", params, "--out", tmp_path / "out")
    assert evaluate(room_bag.bag, *words) == 0
    assert "note: no truth" in capsys.readouterr().out
    report = report_in(tmp_path / "out")
    assert report["numbers"]["ate_m"] is None
    assert report["numbers"]["windows_committed"] >= 4
    assert report["notes"][0].startswith("no truth")


@pytest.mark.parametrize("odometry", ["topic", "base", "tf"])
def test_truth_from_a_topic_is_of_the_camera(
    make_bag: Callable[[BagKind], RoomBag], odometry: str
) -> None:
    made = make_bag(BagKind(odometry=odometry, frames=6))
    topic = "/tf" if odometry == "tf" else "/odom"
    recording = bag_recording(made.bag, BagOptions(), TruthOptions(truth=topic))
    assert recording.truth is not None
    assert recording.truth_source == topic
    assert recording.truth.stamps_ns.tolist() == made.stamps_ns
    np.testing.assert_allclose(recording.truth.T_world_cam, made.poses, atol=1e-9)


def copied(bag: Path, folder: Path, change: Callable[[str, int, bytes], bytes | None]) -> Path:
    """A copy of a bag with other bytes in some messages; None leaves a message out."""
    counts: dict[str, int] = {}
    out = folder / "copy"
    with (
        AnyReader([bag]) as reader,
        Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        topics = {
            c.topic: writer.add_connection(c.topic, c.msgtype, typestore=STORE)
            for c in reader.connections
        }
        for connection, log_ns, raw in reader.messages():
            number = counts[connection.topic] = counts.get(connection.topic, -1) + 1
            data = change(connection.topic, number, bytes(raw))
            if data is not None:
                writer.write(topics[connection.topic], log_ns, data)
    return out


@pytest.mark.slow
def test_a_corrupt_message_is_counted_named_and_passed_over(
    room_bag: RoomBag, params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(topic: str, number: int, raw: bytes) -> bytes:
        spoiled = (topic, number) in {("/camera/image_raw", 5), ("/odom", 9)}
        return raw[:40] if spoiled else raw

    bag = copied(room_bag.bag, tmp_path, change)
    words = ("--engine", "oracle", "--params", params, "--depth", room_bag.depth)
    assert evaluate(bag, *words, "--out", tmp_path / "out") == 0
    report = report_in(tmp_path / "out")
    assert report["complete"]
    topics = sorted(line.split(":")[0] for line in report["unusable"])
    assert topics == ["/camera/image_raw"]
    assert any(n.startswith("1 message not used: /odom: message at") for n in report["notes"])
    assert all("corrupt" in line for line in report["unusable"])
    assert report["numbers"]["windows_committed"] >= 3
    assert "1 image not used: /camera/image_raw: message at" in capsys.readouterr().out


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err.startswith("mvdust3r_ros: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_each_mistake_gives_one_clear_line(
    make_bag: Callable[[BagKind], RoomBag],
    room_bag: RoomBag,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag, out = room_bag.bag, ("--out", tmp_path / "out")
    assert evaluate(tmp_path / "nowhere", *out) == 1
    assert "nowhere does not exist" in one_line(capsys)

    assert evaluate(bag, "--image-topic", "/cam", *out) == 1
    assert "no image topic /cam; it has /camera/image_raw" in one_line(capsys)

    no_images = copied(bag, tmp_path, lambda t, _, raw: None if "image" in t else raw)
    assert evaluate(no_images, *out) == 1
    assert "image topic /camera/image_raw holds no messages" in one_line(capsys)

    assert evaluate(bag, "--truth", "/vicon", *out) == 1
    assert (
        "neither a file nor a topic of poses in the bag; its topics of poses: /odom"
        in one_line(capsys)
    )
    later = truth_file(room_bag, tmp_path, later_s=1000)
    assert evaluate(bag, "--truth", later, *out) == 1
    assert "no common time" in one_line(capsys)

    assert evaluate(bag, "--depth", "/depth", *out) == 1
    assert "neither a folder nor an image topic" in one_line(capsys)

    two = make_bag(BagKind(second_camera=True, frames=3))
    assert evaluate(two.bag, *out) == 1
    assert "choose one by --image-topic: /camera/image_raw, /rear/image_raw" in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_bag_that_was_cut_off_is_named_with_the_remedy(
    make_bag: Callable[[BagKind], RoomBag],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    storage: StoragePlugin,
) -> None:
    made = make_bag(BagKind(storage=storage, frames=8))
    bag = tmp_path / "cut"
    shutil.copytree(made.bag, bag)
    file = next(f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert evaluate(bag, "--out", tmp_path / "out") == 1
    line = one_line(capsys)
    assert str(bag) in line
    assert "recover" in line


@pytest.mark.slow
def test_ctrl_c_leaves_a_valid_partial_report(
    room_bag: RoomBag,
    params: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def interrupting(unit: str) -> Iterator[Callable[[int, int], None]]:
        assert unit == "images"
        yield lambda done, _: os.kill(os.getpid(), signal.SIGINT) if done == 20 else None

    monkeypatch.setattr("mvdust3r_ros.commands.evaluate.progress", interrupting)
    words = ("--engine", "oracle", "--params", params, "--truth", "/odom", "--out", tmp_path)
    assert evaluate(room_bag.bag, *words) == 130
    assert one_line(capsys) == "mvdust3r_ros: partial report: interrupted\n"
    report = report_in(tmp_path)
    assert not report["complete"]
    assert report["numbers"]["frames"] == 20
    assert report["numbers"]["ate_m"] < 0.002
    assert "Partial report: interrupted" in (tmp_path / "report.html").read_text()


def test_rooms_and_apartments_are_still_there(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, words in (("rooms", "--views"), ("apartments", "--drift")):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", kind, "--help"])
        assert ended.value.code == 0
        assert words in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    out = capsys.readouterr().out
    assert "evaluate rooms --help" in out
    assert "--require" in out


def test_what_live_mode_cannot_play_is_said(
    room_bag: RoomBag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, hint in (
        ((str(tmp_path),), "live mode plays bags alone"),
        ((str(room_bag.bag), "--max-frames", "3"), "leave out --max-frames"),
    ):
        assert main(["evaluate", *words, "--mode", "live", "--out", str(tmp_path / "out")]) == 1
        assert hint in capsys.readouterr().err


@needs_more_data
@pytest.mark.slow
def test_the_real_bag_in_full(tmp_path: Path) -> None:
    assert evaluate(OFFICE / "bag", "--engine", "oracle", "--out", tmp_path) == 0
    report = report_in(tmp_path)
    assert Path(report["input"]["truth"]).resolve() == (OFFICE / "poses.txt").resolve()
    assert Path(report["input"]["depth"]).resolve() == (OFFICE / "depth").resolve()
    numbers = report["numbers"]
    assert numbers["windows_committed"] == numbers["windows"] == 8
    assert numbers["ate_m"] < 0.001
    assert numbers["grid_iou"] > 0.65
    assert numbers["grid_free_precision"] > 0.97
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/jpeg") >= 20
