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

"""Which tests can run here, and what many of them share."""

from __future__ import annotations

# ruff: noqa: E402 (libraries read the number of threads as they are imported)
import fcntl
import os

# A worker of the suite has one core: threads that wait for each other on it take most of its time.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import mvdust3r_ros


def refuse_stale_package() -> None:
    """Refuse to test a package that was built earlier, or elsewhere, than its sources.

    Before anything of it is imported: of a stale one not all of that need be there.
    """
    here = Path(__file__).parents[1] / "mvdust3r_ros"
    built = [Path(p) / "mvdust3r_ros" for p in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    tested = {Path(mvdust3r_ros.__file__).parent}  # and what the processes of tests import:
    tested |= {next((p for p in built if (p / "__init__.py").is_file()), here)}
    for package in tested - {here}:
        names = [file.relative_to(here) for file in sorted(here.rglob("*.py"))]
        stale = [n for n in names if not _same_file(package / n, here / n)]
        if stale:
            sys.stderr.write(
                f"ERROR: the tests would run {package}, which is not what lies beside them: "
                f"{stale[0]} differs; source the env.sh of this checkout and run make build\n"
            )
            raise SystemExit(pytest.ExitCode.USAGE_ERROR)


def _same_file(a: Path, b: Path) -> bool:
    return a.is_file() and a.read_bytes() == b.read_bytes()


refuse_stale_package()

from box_room import BoxRoom
from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import Trajectory
from mvdust3r_ros.drawing.map_files import write_tum
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from room_bag import BagKind, RoomBag, write_room_bag
from short_drive import Drive
from stored_data import HAS_MORE_DATA, MORE_DATA, VARIABLE, WITHOUT_MORE_DATA

# How long an example takes says something about the machine, nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if HAS_MORE_DATA:
        return
    if os.environ.get(VARIABLE):
        raise pytest.UsageError(f"{VARIABLE}: {MORE_DATA} holds no golden/ and data/")
    for item in items:
        if item.get_closest_marker("more_data"):
            item.add_marker(pytest.mark.skip(reason=WITHOUT_MORE_DATA))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """The default engine; tests of others have a fixture of their own."""
    made = create_engine("", EngineOptions(threads=1))
    yield made
    made.close()


@pytest.fixture(scope="session")
def room() -> BoxRoom:
    return BoxRoom()


@pytest.fixture(scope="session")
def make_bag(
    room: BoxRoom, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[BagKind], RoomBag]:
    def make(kind: BagKind) -> RoomBag:
        return write_room_bag(tmp_path_factory.mktemp("room_bag"), room, kind)

    return make


@pytest.fixture(scope="session")
def room_bag(make_bag: Callable[[BagKind], RoomBag]) -> RoomBag:
    return make_bag(BagKind())


@pytest.fixture(scope="session")
def drive() -> Drive:
    return Drive()


@pytest.fixture(scope="session")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings with small windows, so that a short drive makes several."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text("keyframes: {window_size: 4, window_overlap: 2, max_translation_m: 0.2}\n")
    return path


@pytest.fixture(scope="session")
def room_reports(
    room_bag: RoomBag, params: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of two reports on the room bag, which all workers of the suite share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "room_reports"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make_reports(room_bag, params, folder)
            (folder / "made").touch()
    return folder


def make_reports(room_bag: RoomBag, params: Path, folder: Path) -> None:
    first, other = folder / "oracle_report", folder / "other_report"
    for report in (first, other):
        report.mkdir()
    truth = first / "truth.tum"
    write_tum(truth, Trajectory(np.array(room_bag.stamps_ns), np.array(room_bag.poses)))
    words = ["--engine", "oracle", "--params", str(params), "--truth", str(truth)]
    words += ["--require", "ate_m<0.1,grid_iou>0.3"]
    assert main(["evaluate", str(room_bag.bag), *words, "--out", str(first)]) == 0
    (other / "params.yaml").write_text("keyframes: {window_size: 6, max_translation_m: 0.25}\n")
    words = ["--engine", "oracle", "--params", str(other / "params.yaml"), "--truth", "/odom"]
    words += ["--max-frames", "28"]
    assert main(["evaluate", str(room_bag.bag), *words, "--out", str(other)]) == 0


@pytest.fixture(scope="session")
def oracle_report(room_reports: Path) -> Path:
    """Folder of a report on the room bag with its true path in a file."""
    return room_reports / "oracle_report"


@pytest.fixture(scope="session")
def other_report(room_reports: Path) -> Path:
    """Folder of a report on the same bag with other settings and the truth on a topic."""
    return room_reports / "other_report"
