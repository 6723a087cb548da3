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

"""`mvdust3r_ros compare`: reports side by side, paths in one frame."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvdust3r_ros.cli import main
from mvdust3r_ros.evaluation.report.compare import compare, labels_of
from mvdust3r_ros.evaluation.report.report_files import read_report
from room_bag import RoomBag

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture
def reports(oracle_report: Path, other_report: Path) -> list[dict[str, Any]]:
    return [read_report(oracle_report), read_report(other_report)]


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.slow
def test_paths_lie_over_each_other(
    reports: list[dict[str, Any]], room_bag: RoomBag, *, truth: bool
) -> None:
    T_first_true = np.linalg.inv(reports[0]["trajectory"]["T_true_map"])
    if not truth:
        reports[1]["trajectory"]["T_true_map"] = None
    runs = compare(reports, ["a", "b"]).runs
    for run in runs:
        assert run.path is not None, run.why_not
        stamps = run.report["trajectory"]["stamp_ns"]
        true = np.array([room_bag.poses[room_bag.stamps_ns.index(s)] for s in stamps])
        assert len(stamps) > 8
        np.testing.assert_allclose(run.path, (T_first_true @ true)[:, :3, 3], atol=0.005)


@pytest.mark.slow
def test_what_cannot_be_laid_over_is_said(reports: list[dict[str, Any]]) -> None:
    other, empty = copy.deepcopy(reports[1]), copy.deepcopy(reports[1])
    other["input"]["name"] = "kitchen"
    empty["trajectory"] = {"stamp_ns": [], "position_map": [], "T_true_map": None}
    runs = compare([*reports, other, empty], ["a", "b", "c", "d"]).runs
    assert [run.path is None for run in runs] == [False, False, True, True]
    assert "another recording (kitchen)" in runs[2].why_not
    assert runs[3].why_not == "it has no map"


@pytest.mark.slow
def test_the_best_is_found_with_its_sign(reports: list[dict[str, Any]]) -> None:
    for report, ate, scale, iou in zip(
        reports, (0.2, 0.3), (-0.04, 0.01), (0.7, 0.7), strict=True
    ):
        report["numbers"] |= {"ate_m": ate, "scale_error": scale, "grid_iou": iou, "nd": None}
    found = compare(reports, ["a", "b"])
    assert found.best["ate_m"] == {0}
    assert found.best["scale_error"] == {1}
    assert found.best["grid_iou"] == found.best["nd"] == set()
    assert found.settings["keyframes.window_size"] == [4, 6]


def test_labels_tell_the_reports_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "office", tmp_path / "b" / "office" / "report.json"]
    for folder in (paths[0], paths[1].parent):
        folder.mkdir(parents=True)
    assert labels_of(paths) == ["a/office", "b/office"]
    assert labels_of([paths[0], paths[0]]) == ["office", "office (2)"]


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_a_page(
    oracle_report: Path,
    other_report: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = tmp_path / "page.html"
    files = [str(oracle_report / "report.json"), str(other_report)]
    assert main(["compare", *files, "--out", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-2:] == [oracle_report.name, other_report.name]
    assert {"ate_m", "grid_iou", "window_p50_ms"} <= {line.split()[0] for line in lines[1:-1]}
    assert lines[-1] == str(page)
    assert main(["compare", *(files * 3), "--out", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == oracle_report.name
    assert len(lines) == 8


@pytest.mark.slow
def test_what_is_no_report_is_one_line(
    oracle_report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(oracle_report), str(tmp_path)]) == 1
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "report.json").write_text('{"format": 2, "mode": "lockstep"}')
    assert main(["compare", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "it lacks complete, input" in err
    assert err.count("\n") == 1
