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

"""The programs in examples/ do what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from mvdust3r_ros.drawing.map_files import load_occupancy, read_tum

ROOT = Path(__file__).parents[1]
ROOM = ROOT / "demo/room"
IMAGES = 30
MAP_FILES = ["map.pgm", "map.yaml", "map.ply", "map.tum"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first metres of the demo's drive, with its depth and truth beside the bag."""
    folder = tmp_path_factory.mktemp("room")
    with (
        Reader(ROOM / "bag") as reader,
        Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        copies = {
            c.id: writer.add_connection(
                c.topic,
                c.msgtype,
                msgdef=c.msgdef.data,
                rihs01=c.digest,
                offered_qos_profiles=c.ext.offered_qos_profiles,
            )
            for c in reader.connections
        }
        images = 0
        for connection, stamp_ns, data in reader.messages():
            images += "Image" in connection.msgtype
            if images > IMAGES:
                break
            writer.write(copies[connection.id], stamp_ns, data)
    for name in ("truth.tum", "frames.csv", "intrinsics.yaml"):
        shutil.copy(ROOM / name, folder)
    (folder / "depth").mkdir()
    for path in sorted((ROOM / "depth").iterdir())[:IMAGES]:
        shutil.copy(path, folder / "depth")
    return folder


def run(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, ROOT / "examples" / name, *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_bag_becomes_a_map(room: Path, tmp_path: Path) -> None:
    done = run("bag_to_map.py", room / "bag", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("window 0: COMMITTED")
    assert lines[-len(MAP_FILES) :] == [str(tmp_path / name) for name in MAP_FILES]
    assert (load_occupancy(tmp_path / "map.yaml").cells == 0).any()


@pytest.mark.slow
def test_an_own_engine_maps_depth_images(room: Path, tmp_path: Path) -> None:
    done = run("own_engine.py", room / "bag", room / "depth", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / name) for name in MAP_FILES]
    assert len(read_tum(tmp_path / "map.tum")) >= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "status", "said"),
    [
        ("ate_m<0.1,mapped_share>0.5", 0, ""),
        ("mapped_share>1", 1, "FAILED mapped_share>1: it is "),
    ],
)
def test_a_bad_map_fails_a_robots_ci(
    room: Path, tmp_path: Path, limits: str, status: int, said: str
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    done = run("robot_ci.py", room / "bag", tmp_path, "--engine", "oracle", "--require", limits)
    assert done.returncode == status, done.stderr
    assert done.stdout.startswith(said)
    assert (tmp_path / "report.html").is_file()


def test_every_example_says_how_to_run_it() -> None:
    for path in (ROOT / "examples").iterdir():
        assert f"\npython examples/{path.name} " in path.read_text()
