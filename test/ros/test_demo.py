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

"""The demo as a person starts it: three real processes, files at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console
from rosbags.highlevel import AnyReader

from mvdust3r_ros.datatypes import (
    MapSnapshot,
    MvDust3rError,
    OccupancyGrid,
    ScaleEstimate,
    Trajectory,
)
from mvdust3r_ros.drawing.map_files import load_occupancy, read_ply, read_tum, save_map
from mvdust3r_ros.recordings.bag import BagOptions, read_frames
from mvdust3r_ros.ros.message_types import message_class
from mvdust3r_ros.ros.play.demo import (
    DemoOptions,
    DemoResult,
    keyframes_in,
    prepare,
    run_demo,
    snapshot_of_files,
)
from mvdust3r_ros.ros.play.demo_report import draw, tell_numbers
from mvdust3r_ros.synthetic.sequence import SequenceConfig, make_sequence
from room_bag import BagKind, RoomBag

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")
pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")


TIME, STATUS = "builtin_interfaces/msg/Time", "mvdust3r_ros/msg/WindowStatus"


def demo(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Where PyTorch cannot be imported, as after `make build` alone."""
    (cwd / "absent").mkdir()
    (cwd / "absent" / "torch.py").write_text("raise ImportError('the demo has no PyTorch')")
    path = os.pathsep.join([str(cwd / "absent"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "mvdust3r_ros.cli", "demo", *words],
        cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=180,
    )  # fmt: skip


@pytest.mark.slow
def test_without_a_bag_the_demo_maps_its_own_room(tmp_path: Path) -> None:
    done = demo("--rate", "3", "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "90 images in" in done.stdout
    assert cv2.imread(str(tmp_path / "out" / "map.png")) is not None
    assert len(read_tum(tmp_path / "out" / "map.tum").stamps_ns) >= 8


def test_the_room_of_the_demo_is_what_is_said_of_it() -> None:
    drive = make_sequence(SequenceConfig(seed=4, frames=90, rate_hz=6.0, step_m=0.16))
    folder = Path(__file__).parents[2] / "demo" / "room"
    frames = list(read_frames(folder / "bag", BagOptions(depth_folder=folder / "depth")))
    assert [f.stamp_ns for f in frames] == drive.truth.stamps_ns.tolist()
    truth = read_tum(folder / "truth.tum")
    np.testing.assert_allclose(truth.T_world_cam, drive.truth.T_world_cam, atol=1e-5)
    for k in (0, 60):
        shot, depth_m = drive.rendering(k), frames[k].depth_m
        assert np.abs(frames[k].image_rgb.astype(float) - shot.rgb).mean() < 4  # JPEG
        assert depth_m is not None
        np.testing.assert_allclose(depth_m, shot.depth_m, atol=0.001)


@pytest.mark.slow
def test_the_demo_leaves_a_map(make_bag: Callable[[BagKind], RoomBag], tmp_path: Path) -> None:
    made = make_bag(BagKind(compressed=True, odometry="base", frames=60))
    out = tmp_path / "out"
    words = ("--bag", str(made.bag), "--engine", "oracle", "--depth", str(made.depth))
    params = tmp_path / "params.yaml"
    params.write_text("/**: {ros__parameters: {keyframes: {max_translation_m: 0.2}}}\n")
    done = demo(*words, "--rate", "3", "--out", str(out), "--params", str(params), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 images in" in done.stdout
    for name in ("map.png", "map.ply", "map.yaml", "map.tum", "bag"):
        assert str(out / name) in done.stdout.replace("\n", "")
        assert (out / name).exists()
    assert len(read_ply(out / "map.ply").points) > 1000
    assert (load_occupancy(out / "map.yaml").cells == 100).any()
    trajectory = read_tum(out / "map.tum")
    assert set(trajectory.stamps_ns.tolist()) <= set(made.stamps_ns)
    assert trajectory.stamps_ns[-1] >= made.stamps_ns[-3], "the end of the bag is missing"
    assert cv2.imread(str(out / "map.png")) is not None
    with AnyReader([out / "bag"]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        status = [
            reader.deserialize(raw, c.msgtype)
            for c, _, raw in reader.messages()
            if c.topic == "/mapper/window_status"
        ]
        begin_ns = reader.start_time
    topics = ("points", "map_points", "path", "occupancy_grid", "occupancy_summary")
    assert all(counts.get(f"/mapper/{t}", 0) > 0 for t in topics), counts
    assert counts["/tf"] > 0
    assert any(s.verdict == 0 for s in status)
    assert made.stamps_ns[0] - 2 * 10**9 <= begin_ns <= made.stamps_ns[-1]


def test_what_is_missing_is_said_in_one_line(room_bag: RoomBag, tmp_path: Path) -> None:
    with pytest.raises(MvDust3rError, match="does not exist"):
        run_demo(DemoOptions(tmp_path / "nothing", out=tmp_path), print)
    with pytest.raises(MvDust3rError, match="name its folder by --depth"):
        run_demo(DemoOptions(room_bag.bag, engine="oracle", out=tmp_path), print)
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "diary.txt").write_text("precious")
    options = DemoOptions(room_bag.bag, engine="oracle", depth=room_bag.depth, out=tmp_path)
    with pytest.raises(MvDust3rError, match="is not a bag"):
        run_demo(options, print)
    assert (tmp_path / "bag" / "diary.txt").exists()


def test_a_node_that_cannot_start_is_quoted(room_bag: RoomBag, tmp_path: Path) -> None:
    options = DemoOptions(room_bag.bag, engine=str(tmp_path / "no_engine"), out=tmp_path)
    with pytest.raises(MvDust3rError, match=r"did not configure: .*no engine at .*mapper\.log"):
        run_demo(options, print)


def test_a_bag_that_gives_no_window_is_explained(
    make_bag: Callable[[BagKind], RoomBag], tmp_path: Path
) -> None:
    made = make_bag(BagKind(frames=1))
    words = ("--bag", str(made.bag), "--engine", "oracle", "--depth", str(made.depth))
    done = demo(*words, "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 1
    assert "no window was mapped, so there is no map: too few keyframes" in done.stdout


def test_a_node_that_dies_at_once_is_not_waited_for(
    room_bag: RoomBag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a library of it is broken; without a look at the process this takes two minutes."""
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_that_is_not_there")
    begin = time.monotonic()
    with pytest.raises(MvDust3rError, match=r"the (mapper|recorder) ended .*\(log: .*\.log\)"):
        run_demo(
            DemoOptions(room_bag.bag, engine="oracle", depth=room_bag.depth, out=tmp_path / "out"),
            lambda _: None,
        )
    assert time.monotonic() - begin < 60


def test_a_withheld_grid_is_announced_as_missing_the_rest_drawn_and_an_older_map_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("map.pgm", "map.yaml", "map.png", "mine.txt"):
        (tmp_path / name).write_text("of an earlier run")
    prepare(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "log"}
    snapshot = MapSnapshot(
        np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8), np.ones(1, np.float32),
        OccupancyGrid(np.zeros((2, 2), np.int8), 0.05, (0.0, 0.0)),
        Trajectory(np.array([1], np.int64), np.eye(4)[None]), None, ScaleEstimate(),
    )  # fmt: skip
    save_map(snapshot, tmp_path, "map")
    back = snapshot_of_files(tmp_path, "map")
    assert (back.grid, back.gate_open, len(back.trajectory)) == (None, False, 1)
    nothing = DemoResult(1, {}, 1, Counter(), 0, 0, 0.0, 0.0)
    draw(DemoOptions(None, out=tmp_path), nothing, Console(soft_wrap=True))
    assert "no occupancy grid: the scale is unknown" in capsys.readouterr().out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")  # cloud and path alone


def test_keyframes_that_no_window_held_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    Time, WindowStatus = map(message_class, (TIME, STATUS))
    first, second = Time(sec=1), Time(sec=2, nanosec=5)
    stamps = [[first, first, second], [first, second, Time(sec=3)]]
    # two cameras at the first moment
    assert keyframes_in([WindowStatus(keyframe_stamps=s) for s in stamps]) == 4
    for left_out, words in ((0, ""), (1, "1 keyframe left out"), (3, "3 keyframes left out")):
        result = DemoResult(9, {}, 9, Counter(), 2, left_out, 0.0, 0.0)
        tell_numbers(result, DemoOptions(None, rate=2.0), Console(soft_wrap=True))
        told = capsys.readouterr().out
        assert words in told
        assert ("--rate than 2 " in told) == bool(left_out)
