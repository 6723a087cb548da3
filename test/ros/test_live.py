"""`mvdust3r_ros evaluate --mode live`: the real node, judged by what it published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvdust3r_ros.cli import main
from mvdust3r_ros.evaluation.report_files import read_report

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.mark.slow
def test_a_bag_played_to_the_real_node_is_judged(
    make_bag: Callable[..., Any], bag_kind: Any, params: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")
    pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")
    made = make_bag(bag_kind(odometry="base", frames=30))
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
    assert numbers["frames"] == 30 - lost
    assert numbers["windows_committed"] >= 1
    assert len(report["windows"]) == numbers["windows"]
    assert numbers["ate_m"] < 0.01
    assert numbers["grid_free_precision"] > 0.8
    assert {"decode", "total"} <= set(report["timing"]["stages"])
    assert report["timing"]["numbers"]["peak_memory_mb"] > 50
    assert any("cannot be seen from outside" in note for note in report["notes"])
    assert (tmp_path / "report.html").exists()


def test_what_live_mode_cannot_play_is_said(
    room_bag: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, hint in (
        ((str(tmp_path),), "plays ROS 2 bags alone"),
        ((str(room_bag.bag), "--max-frames", "3"), "leave out --max-frames"),
    ):
        assert main(["evaluate", *words, "--mode", "live", "--out", str(tmp_path / "out")]) == 1
        assert hint in capsys.readouterr().err
