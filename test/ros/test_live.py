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

"""`mvdust3r_ros evaluate --mode live`: the real node, judged by what it published."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvdust3r_ros.cli import main
from mvdust3r_ros.config import with_values
from mvdust3r_ros.datatypes import Trajectory
from mvdust3r_ros.drawing.map_files import write_tum
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.evaluation.report.report_files import read_report
from mvdust3r_ros.ros.play.processes import FASTDDS_VARIABLES, Processes, fastdds_environment
from mvdust3r_ros.ros.settings import NodeConfig

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.mark.slow
def test_a_bag_played_to_the_real_node_is_judged(
    make_bag: Callable[..., Any], bag_kind: Any, params: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")
    pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")
    # every image is a keyframe, every second one fills a window: the last one does not
    made = make_bag(bag_kind(odometry="base", frames=31))
    words = ["--mode", "live", "--engine", "oracle", "--truth", "/odom"]
    words += ["--params", str(params), "--out", str(tmp_path)]
    assert main(["evaluate", str(made.bag), *words]) == 0
    report = read_report(tmp_path)
    numbers = report["numbers"]
    assert report["mode"] == "live"
    assert report["settings"]["keyframes"]["window_size"] == 4
    dropped = sum(report["drops"].values())
    assert numbers["dropped_frames"] == dropped
    lost = report["drops"].get("lost on the way to the node", 0)
    assert numbers["frames"] == 31 - lost
    assert numbers["windows_committed"] >= 1
    assert report["trajectory"]["stamp_ns"][-1] == made.stamps_ns[-1]
    assert 0.5 < numbers["mapped_share"] <= 1
    assert numbers["scale_rel_sigma"] < 0.1
    assert len(report["windows"]) == numbers["windows"]
    assert numbers["ate_m"] < 0.01
    assert numbers["grid_free_precision"] > 0.8
    assert {"decode", "total"} <= set(report["timing"]["stages"])
    assert report["timing"]["numbers"]["peak_memory_mb"] > 50
    assert any("cannot be seen from outside" in note for note in report["notes"])
    assert (tmp_path / "report.html").exists()


def test_fast_dds_gets_its_profile_unless_a_person_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FASTDDS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    found = variables_of_a_child(tmp_path / "none")
    for name in FASTDDS_VARIABLES:
        assert "images_in_shared_memory" in Path(found[name]).read_text()
    assert found["RMW_FASTRTPS_USE_QOS_FROM_XML"] == "1"
    for name in FASTDDS_VARIABLES:
        monkeypatch.setenv(name, "/mine.xml")
        found = variables_of_a_child(tmp_path / name)
        assert [found.get(n) for n in FASTDDS_VARIABLES if n in found] == ["/mine.xml"]
        monkeypatch.delenv(name)


def variables_of_a_child(logs: Path) -> dict[str, str]:
    """What a process that the demo starts finds in its environment."""
    logs.mkdir()
    processes = Processes(logs, 1, fastdds_environment())
    processes.run("child", ["-c", "import json, os; print(json.dumps(dict(os.environ)))"])
    while not processes.ended("child"):
        time.sleep(0.01)
    found: dict[str, str] = json.loads((logs / "child.log").read_text())
    return found


@pytest.mark.parametrize("command", ["evaluate", "live", "map", "demo"])
def test_the_oracle_without_depth_or_poses_is_refused_at_once(
    make_bag: Callable[..., Any],
    bag_kind: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    made = make_bag(bag_kind(odometry="", frames=3))
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


def test_the_oracle_is_content_with_a_truth_in_place_of_odometry(
    make_bag: Callable[..., Any], bag_kind: Any, tmp_path: Path
) -> None:
    made = make_bag(bag_kind(odometry="", frames=3))
    poses = Trajectory(np.array(made.stamps_ns, np.int64), np.array(made.poses))
    write_tum(tmp_path / "truth.tum", poses)
    words = ["--engine", "oracle", "--truth", str(tmp_path / "truth.tum")]
    assert main(["evaluate", str(made.bag), *words, "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ros.odom_source": "topic"}, "needs recorded depth: set ros.use_depth:=true"),
        ({"ros.use_depth": True, "ros.odom_source": "none"}, "camera poses: set ros.odom_source"),
    ],
)
def test_a_node_refuses_the_oracle_without_its_inputs(values: dict[str, Any], words: str) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")
    from mvdust3r_ros.ros.node import load_engine

    config = with_values(NodeConfig(), {"engine.engine": "oracle", **values})
    with pytest.raises(EngineError, match=words):
        load_engine(config, fallback=False)
    spare = with_values(NodeConfig(), {"ladder.fallback_engine": "oracle", **values})
    with pytest.raises(EngineError, match=words):
        load_engine(spare, fallback=True)


def test_what_live_mode_cannot_play_is_said(
    room_bag: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, hint in (
        ((str(tmp_path),), "live mode plays bags alone"),
        ((str(room_bag.bag), "--max-frames", "3"), "leave out --max-frames"),
    ):
        assert main(["evaluate", *words, "--mode", "live", "--out", str(tmp_path / "out")]) == 1
        assert hint in capsys.readouterr().err
