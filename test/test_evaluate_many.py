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

"""Many recordings at once: in processes, and on a local Ray of two workers."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvdust3r_ros.cli import main
from mvdust3r_ros.commands.evaluate_many import Outcome, attempt, in_processes, on_ray
from mvdust3r_ros.commands.evaluate_one import EvaluateJob
from mvdust3r_ros.evaluation.report.report_files import read_report, same_numbers
from mvdust3r_ros.recordings.bag import BagOptions
from room_bag import RoomBag

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture
def jobs(room_bag: RoomBag, params: Path, tmp_path: Path) -> list[EvaluateJob]:
    """Two that can be done, and between them one that cannot."""
    return [
        EvaluateJob(source, tmp_path / name, "oracle", params, BagOptions(max_frames=frames))
        for name, source, frames in (
            ("a", room_bag.bag, 8), ("lost", tmp_path / "nowhere", 8), ("b", room_bag.bag, 10),
        )
    ]  # fmt: skip


def check(outcomes: Iterator[Outcome], jobs: list[EvaluateJob]) -> None:
    found = {outcome.job.out.name: outcome for outcome in outcomes}
    assert set(found) == {"a", "lost", "b"}
    assert found["lost"].done is None
    assert found["lost"].error.endswith("nowhere does not exist")
    for job in (jobs[0], jobs[2]):
        done = found[job.out.name].done
        assert done is not None, found[job.out.name].error
        assert done.report["numbers"]["frames"] == job.topics.max_frames
        assert same_numbers(done.report, read_report(job.out))


@pytest.mark.slow
def test_processes_give_what_one_gives_and_a_failure_stays_alone(jobs: list[EvaluateJob]) -> None:
    check(in_processes(jobs, 2), jobs)
    report = read_report(jobs[0].out)
    here = attempt(jobs[0])
    assert here.done is not None
    assert same_numbers(here.done.report, report)


@pytest.mark.slow
def test_the_command_tells_of_each_and_ends_with_a_table(
    room_bag: RoomBag,
    params: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    bags = (room_bag.bag, tmp_path / "nowhere", room_bag.bag)
    words = ["--engine", "oracle", "--params", str(params), "--max-frames", "6"]
    words += ["--require", "frames>99"]
    assert main(["evaluate", *map(str, bags), *words]) == 1
    said = capsys.readouterr()
    name = room_bag.bag.parent.name
    assert said.err.splitlines() == [
        f"mvdust3r_ros: {name}: required frames>99: it is 6",
        f"mvdust3r_ros: nowhere: {tmp_path / 'nowhere'} does not exist",
        f"mvdust3r_ros: {name}-3: required frames>99: it is 6",
    ]
    assert (tmp_path / "evaluation" / name / "report.html").exists()
    assert (tmp_path / "evaluation" / f"{name}-3" / "report.html").exists()
    head = next(line for line in said.out.splitlines() if line.startswith("* best"))
    assert head.split() == ["*", "best", name, f"{name}-3"]


@pytest.mark.slow
def test_a_process_that_is_killed_takes_no_other_along(room_bag: RoomBag, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stuck.yaml")  # reading it never ends
    jobs = [
        EvaluateJob(room_bag.bag, tmp_path / "out", params=tmp_path / "stuck.yaml"),
        EvaluateJob(tmp_path / "nowhere", tmp_path / "out"),
    ]
    outcomes = in_processes(jobs, 2)
    assert next(outcomes).error.endswith("nowhere does not exist")
    (stuck,) = multiprocessing.active_children()
    stuck.kill()
    assert next(outcomes).error == "its process ended (-9)"
    assert next(outcomes, None) is None


@pytest.mark.slow
def test_ray_gives_the_same_and_a_failed_task_stays_alone(
    jobs: list[EvaluateJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ray of one worker a core, started here."""
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")
    check(on_ray(jobs, "local"), jobs)


def test_no_cluster_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["evaluate", str(tmp_path), "--ray", "127.0.0.1:1"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    try:
        import ray  # noqa: F401 - only whether it is there
    except ImportError:
        assert "pip install 'mvdust3r_ros[ray]'" in error
    else:
        assert "no Ray cluster at 127.0.0.1:1" in error
