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

"""Files written as one survive a kill at any moment; files of strangers do no harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvdust3r_ros.drawing.map_files import MapFileError, load_occupancy, read_ply, read_tum
from mvdust3r_ros.safe_files import (
    JOURNAL,
    MAX_YAML_BYTES,
    FileError,
    finish_writing,
    read_limited,
    read_yaml,
    write_together,
)

pytestmark = pytest.mark.slow

# Each save n has n + 1 rows, points and poses, so that a mixture of two saves shows.
SAVER = """
import os, random, resource, signal, sys, time
from pathlib import Path
import numpy as np
from mvdust3r_ros.datatypes import MapSnapshot, OccupancyGrid, ScaleEstimate, Trajectory
from mvdust3r_ros.drawing.map_files import save_map

folder = Path(sys.argv[1])

def save(n, cells=40):
    rows = n % 50 + 1
    poses = Trajectory(np.arange(rows) + 1, np.tile(np.eye(4), (rows, 1, 1)))
    save_map(MapSnapshot(
        points_map=np.zeros((rows, 3), np.float32), colors_rgb=np.zeros((rows, 3), np.uint8),
        conf=np.ones(rows, np.float32),
        grid=OccupancyGrid(np.zeros((rows, cells), np.int8), 0.05, (rows * 0.05, 0.0)),
        trajectory=poses, T_map_odom=None, scale=ScaleEstimate(), gate_open=True,
    ), folder, "map")

def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child
"""


def run_saver(folder: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SAVER + code, str(folder)],
        capture_output=True, text=True, timeout=300, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def saved_number(folder: Path) -> int:
    """Which save the four files are of; fails when they are not of one."""
    grid = load_occupancy(folder / "map.yaml")
    rows = grid.cells.shape[0]
    assert grid.origin_xy_m == (pytest.approx(rows * 0.05), 0.0)
    assert len(read_ply(folder / "map.ply").points) == rows
    assert len(read_tum(folder / "map.tum")) == rows
    return rows - 1


def test_a_map_survives_fifty_kills_at_random_moments(tmp_path: Path) -> None:
    code = """
begin = time.monotonic()
save(0)
took_s = time.monotonic() - begin
rng = random.Random(7)
def forever():
    n = attempt
    while True:
        n += 1
        save(n)
for attempt in range(50):
    child = in_child(forever)
    # later ones wait longer: on a machine that has become busy a save takes several times as long
    time.sleep(rng.uniform(0.0, 3 * took_s) * (1 + attempt / 10))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    copy = folder / f"after{attempt}"
    copy.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
"""
    run_saver(tmp_path, code)
    found = [saved_number(tmp_path / f"after{i}") for i in range(50)]
    assert len(set(found)) > 5, "the kills all came at the same moment"


def test_a_kill_before_each_file_operation_leaves_the_old_map_or_the_new_one(
    tmp_path: Path,
) -> None:
    code = """
def kill_at(k):
    count = 0
    def counted(real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    for name in ("open", "fsync", "replace", "rename", "unlink", "close"):
        setattr(os, name, counted(getattr(os, name)))
k, ended = 0, False
while not ended:
    k += 1
    folder = Path(sys.argv[1]) / f"at{k}"
    save(1)
    child = in_child(lambda: (kill_at(k), save(2)))
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(k)
"""
    steps = int(run_saver(tmp_path, code))
    assert steps > 15
    found = [saved_number(tmp_path / f"at{k}") for k in range(1, steps + 1)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 2)
    left = {p.name for p in (tmp_path / f"at{steps}").iterdir()}
    assert left == {"map.pgm", "map.yaml", "map.ply", "map.tum"}


def test_a_full_disk_leaves_the_old_map_and_nothing_else(tmp_path: Path) -> None:
    code = """
save(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    save(2, cells=4000)
except Exception as error:
    print(type(error).__name__, error)
"""
    assert "MapFileError cannot write to" in run_saver(tmp_path, code)
    assert saved_number(tmp_path) == 1
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pgm", ".ply", ".tum", ".yaml"]


def test_a_folder_that_must_not_be_written_is_named(tmp_path: Path) -> None:
    code = """
save(1)
folder.chmod(0o555)
folder.parent.chmod(0o755)
if os.geteuid() == 0:
    os.setuid(65534)
try:
    save(2)
except Exception as error:
    print(type(error).__name__, error)
"""
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    said = run_saver(tmp_path, code)
    tmp_path.chmod(0o755)
    assert f"MapFileError cannot write to {tmp_path}: Permission denied" in said
    assert saved_number(tmp_path) == 1


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".map.ply.part").write_bytes(b"half")
    write_together(tmp_path, {"a": b"1"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_drafts_are_never_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / ".a.part").symlink_to(outside)
    (folder / "a").symlink_to(outside)
    write_together(folder, {"a": b"new"})
    assert outside.read_text() == "untouched"
    assert not (folder / "a").is_symlink()
    assert (folder / "a").read_bytes() == b"new"


FORGED = (
    b"", b"{", b'{"a": 1}', b"[1]", b'["../a"]', b'["/etc/passwd"]', b'[".."]', b'[""]',
    b'["a\\u0000"]', b"[" * 60_000,
)  # fmt: skip


@pytest.mark.parametrize("journal", FORGED, ids=range(len(FORGED)))
def test_a_forged_journal_moves_nothing(tmp_path: Path, journal: bytes) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / ".a.part").write_bytes(b"x")
    (tmp_path / "folder" / JOURNAL).write_bytes(journal)
    with pytest.raises(FileError, match="delete it"):
        finish_writing(tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.part", "folder"]


def test_a_journal_is_finished_by_the_next_reader(tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(b"new a")
    (tmp_path / "a").write_bytes(b"old a")
    (tmp_path / "b").write_bytes(b"new b")
    (tmp_path / JOURNAL).write_text(json.dumps(["a", "b"]))
    finish_writing(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"new a", "b": b"new b"}


def test_sizes_are_limited_before_anything_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: takes no space on the disk
    with pytest.raises(FileError, match="larger than"):
        read_yaml(path)
    with pytest.raises(FileError, match=str(path)):
        read_limited(path, MAX_YAML_BYTES)


BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [*a, *a]\n" for b in "bcd")


NO_PLAIN_YAML = (
    "[" * 100_000, BOMB, "!!python/object/apply:os.system [exit]", "a: \x00", "1: [",
    "!!python/name:os.system", "? [a]\n: b", "!!timestamp x", "!!bool x", "!!int ''",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_PLAIN_YAML, ids=range(len(NO_PLAIN_YAML)))
def test_yaml_is_plain_values_or_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(FileError, match=r"settings\.yaml is not YAML of plain values") as caught:
        read_yaml(path)
    assert len(str(caught.value)) < 2000


def test_a_map_image_is_measured_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "image: m.pgm\nresolution: 0.05\norigin: [0, 0, 0]\nnegate: 0\n"
        "occupied_thresh: 0.65\nfree_thresh: 0.196\n"
    )
    (tmp_path / "m.pgm").write_bytes(b"P5\n# comment\n99999 99999\n255\n" + bytes(10))
    with pytest.raises(MapFileError, match="has 99999x99999 pixels"):
        load_occupancy(tmp_path / "m.yaml")
