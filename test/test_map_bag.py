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

"""The command `mvdust3r_ros map` from a bag to files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mvdust3r_ros.cli import main
from mvdust3r_ros.commands.map_bag import count_images
from mvdust3r_ros.recordings.bag import BagOptions
from stored_data import OFFICE as BAG
from stored_data import needs_more_data


@needs_more_data
@pytest.mark.slow
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


@needs_more_data
@pytest.mark.slow
def test_settings_come_from_the_file(tmp_path: Path) -> None:
    params = tmp_path / "p.yaml"
    params.write_text("engine: {engine: oracle}\nkeyframes: {window_size: 4, window_overlap: 1}\n")
    arguments = ["map", str(BAG / "bag"), "--depth", str(BAG / "depth"), "--params", str(params)]
    assert main([*arguments, "--out", str(tmp_path), "--max-frames", "30"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["settings"]["keyframes"]["window_size"] == 4


@needs_more_data
def test_images_are_counted() -> None:
    assert count_images(BAG / "bag", BagOptions()) == 100
    assert count_images(BAG / "bag", BagOptions(max_frames=7)) == 7


def copy_with_broken_images(source: Path, target: Path, broken: set[int]) -> None:
    """The bag without the end of some of its JPEG images."""
    store = get_typestore(Stores.ROS2_JAZZY)
    with (
        AnyReader([source], default_typestore=store) as reader,
        Writer(target, version=9, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        kept = [c for c in reader.connections if "tf2" not in c.msgtype]
        copies = {
            c.id: writer.add_connection(c.topic, c.msgtype, typestore=reader.typestore)
            for c in kept
        }
        count = 0
        for connection, stamp, raw in reader.messages(connections=kept):
            if connection.msgtype.endswith("CompressedImage"):
                if count in broken:
                    message = reader.deserialize(raw, connection.msgtype)
                    message.data = message.data[:50]
                    raw = reader.typestore.serialize_cdr(message, connection.msgtype)
                count += 1
            writer.write(copies[connection.id], stamp, raw)


@needs_more_data
@pytest.mark.slow
def test_broken_images_are_counted_and_left_out(tmp_path: Path) -> None:
    copy_with_broken_images(BAG / "bag", tmp_path / "bag", {3, 60})
    arguments = ["map", str(tmp_path / "bag"), "--engine", "oracle", "--depth", str(BAG / "depth")]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["frames"] == 100
    assert sum(summary["unusable_frames"].values()) == 2
    assert summary["verdicts"] == {"COMMITTED": summary["windows"]}


@needs_more_data
def test_a_bag_of_nothing_but_broken_images_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_with_broken_images(BAG / "bag", tmp_path / "bag", set(range(100)))
    arguments = ["map", str(tmp_path / "bag"), "--engine", "oracle", "--depth", str(BAG / "depth")]
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    assert "none of the 100 images can be used" in capsys.readouterr().err


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
