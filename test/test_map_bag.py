"""The command `mvdust3r_ros map` from a bag to files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mvdust3r_ros.cli import main
from mvdust3r_ros.ros.bag import BagOptions
from mvdust3r_ros.ros.map_bag import count_images

BAG = Path(__file__).parents[2] / "shared" / "data" / "hololens_office"
real = pytest.mark.skipif(not BAG.exists(), reason=f"no real footage at {BAG}")


@real
def test_a_bag_becomes_a_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["map", str(BAG / "bag"), "--engine", "oracle", "--depth", str(BAG / "depth")]
    arguments += ["--truth", str(BAG / "poses.txt"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--max-frames", "50"]) == 0
    printed = capsys.readouterr().out
    assert "50 frames" in printed
    assert "map_server" in printed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["frames"] == 50
    assert summary["against_truth"]["ate_sim3_m"] < 0.02
    assert summary["bag"] == str(BAG / "bag")
    assert (tmp_path / "out" / "map.yaml").exists()


@real
def test_settings_come_from_the_file(tmp_path: Path) -> None:
    params = tmp_path / "p.yaml"
    params.write_text("engine: {engine: oracle}\nkeyframes: {window_size: 4, window_overlap: 1}\n")
    arguments = ["map", str(BAG / "bag"), "--depth", str(BAG / "depth"), "--params", str(params)]
    assert main([*arguments, "--out", str(tmp_path), "--max-frames", "30"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["settings"]["keyframes"]["window_size"] == 4


@real
def test_images_are_counted() -> None:
    assert count_images(BAG / "bag", BagOptions()) == 100
    assert count_images(BAG / "bag", BagOptions(max_frames=7)) == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone"], "does not exist"),
        (["gone", "--truth", "gone.tum"], "gone.tum"),
        (["gone", "--params", "gone.yaml"], "gone.yaml"),
    ],
)
def test_what_is_missing_is_named(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", *arguments, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mvdust3r_ros: ")
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_help_is_fast_enough_for_tab_completion() -> None:
    code = "import sys, mvdust3r_ros.cli as c; c.build_parser(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"cv2", "scipy", "torch", "rclpy", "matplotlib", "rosbags"} & set(loaded)
