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

"""The oracle engine says in one line which recorded inputs it lacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import Trajectory
from mvdust3r_ros.drawing.map_files import write_tum
from room_bag import BagKind, RoomBag

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.mark.parametrize("command", ["evaluate", "live", "map", "demo"])
def test_the_oracle_without_depth_or_poses_is_refused_at_once(
    make_bag: Callable[[BagKind], RoomBag],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    if command == "demo":
        pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    made = make_bag(BagKind(odometry="", frames=3))
    bare = tmp_path / "bare" / "bag"
    shutil.copytree(made.bag, bare)
    out, oracle = ("--out", str(tmp_path / "out")), ("--engine", "oracle")
    calls = {
        "evaluate": ["evaluate", str(bare)],
        "live": ["evaluate", str(bare), "--mode", "live"],
        "map": ["map", str(bare)],
        "demo": ["demo", "--bag", str(bare)],
    }
    assert main([*calls[command], *oracle, *out]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "the oracle engine needs recorded depth and camera poses: name" in line
    assert "--depth" in line
    assert main([*calls[command], *oracle, *out, "--depth", str(made.depth)]) == 1
    line = capsys.readouterr().err
    assert "the oracle engine needs recorded camera poses: " in line
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.slow
def test_the_oracle_is_content_with_a_truth_in_place_of_odometry(
    make_bag: Callable[[BagKind], RoomBag], tmp_path: Path
) -> None:
    made = make_bag(BagKind(odometry="", frames=3))
    poses = Trajectory(np.array(made.stamps_ns, np.int64), np.array(made.poses))
    write_tum(tmp_path / "truth.tum", poses)
    words = ["--engine", "oracle", "--truth", str(tmp_path / "truth.tum")]
    assert main(["evaluate", str(made.bag), *words, "--out", str(tmp_path / "out")]) == 0
