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

"""Recordings through the mapper, and the reports about them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.config import KeyframeSettings, MapperConfig
from mvdust3r_ros.datatypes import Frame, Trajectory, Verdict
from mvdust3r_ros.drawing.map_files import load_occupancy, read_ply, read_tum
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.report.report import (
    ReportError,
    describe_run,
    summarize_run,
    trajectory_numbers,
    write_outputs,
)
from mvdust3r_ros.evaluation.run import RunResult, run_mapper, stage_latencies
from mvdust3r_ros.evaluation.scoring import Evidence, score_run
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.synthetic.sequence import synthetic_frames

SIZE = (112, 112)


@pytest.fixture(scope="module")
def drive() -> list[Frame]:
    return list(synthetic_frames(3, 24, (120, 160)))


@pytest.fixture(scope="module")
def config() -> MapperConfig:
    return MapperConfig(
        keyframes=KeyframeSettings(
            window_size=5, window_overlap=2, max_translation_m=0.15, max_rotation_deg=10.0
        )
    )


@pytest.fixture(scope="module")
def result(drive: list[Frame], config: MapperConfig) -> RunResult:
    return run_mapper(drive, Mapper(config, OracleEngine(SIZE)))


def true_path(drive: list[Frame]) -> Trajectory:
    poses = np.array([f.T_odom_cam for f in drive])
    return Trajectory(np.array([f.stamp_ns for f in drive]), poses)


@pytest.mark.slow
def test_every_frame_and_window_is_accounted_for(result: RunResult) -> None:
    assert result.frames == 24
    assert result.committed == len(result.windows) >= 2
    assert not result.faults
    assert len(result.snapshot.trajectory) == result.keyframes
    assert result.odometry is not None
    assert len(result.odometry) == 24
    stages = stage_latencies(result.windows)
    assert {"decode", "pose", "stitch", "integrate", "grid"} <= set(stages)
    assert all(v >= 0 for v in stages.values())


def test_frames_are_read_lazily_and_progress_is_told(
    drive: list[Frame], config: MapperConfig
) -> None:
    told: list[int] = []

    def frames() -> Iterator[Frame]:
        for index, frame in enumerate(drive[:6]):
            assert told == list(range(1, index + 1))
            yield frame

    run_mapper(frames(), Mapper(config, OracleEngine(SIZE)), told.append)
    assert told == [1, 2, 3, 4, 5, 6]


def test_an_unusable_frame_is_counted_and_left_out(
    drive: list[Frame], config: MapperConfig
) -> None:
    small = dataclasses.replace(
        drive[5], image_rgb=np.zeros((8, 8, 3), np.uint8), camera=None, depth_m=None
    )
    got = run_mapper([*drive[:5], small, *drive[6:]], Mapper(config, OracleEngine(SIZE)))
    # the change to the odd size and the change back
    assert got.faults.total() == 2
    assert got.frames == 24
    assert got.committed >= 2
    assert "8" in next(iter(summarize_run(got)["unusable_frames"]))


@pytest.mark.slow
def test_outputs_are_complete_and_agree_with_the_run(
    tmp_path: Path, result: RunResult, drive: list[Frame]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    summary = write_outputs(result, tmp_path, true_path(drive), "drive", {"bag": "drive"})
    names = ["map.pgm", "map.yaml", "map.ply", "map.tum", "map.png", "summary.json"]
    assert [Path(f).name for f in summary["files"]] == names
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    grid = result.snapshot.grid
    assert grid is not None
    np.testing.assert_array_equal(load_occupancy(tmp_path / "map.yaml").cells, grid.cells)
    assert len(read_ply(tmp_path / "map.ply").points) == summary["map"]["points"]
    assert len(read_tum(tmp_path / "map.tum")) == result.keyframes
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored == json.loads(json.dumps(summary))
    assert stored["against_truth"]["ate_sim3_m"] < 0.001
    assert stored["against_odometry"]["ate_se3_m"] < 0.001
    assert stored["settings"]["keyframes"]["window_size"] == 5
    assert stored["map"]["free_m2"] > 0.5
    text = describe_run(summary)
    for word in ("24 frames", "map_server", str(tmp_path / "map.png"), "ATE 0.000 m", "m² free"):
        assert word in text


def test_areas_are_not_told_of_a_grid_whose_metres_are_unknown(result: RunResult) -> None:
    shut = dataclasses.replace(result.snapshot, gate_open=False, gate_hint="nothing gives metres")
    withheld = dataclasses.replace(result, snapshot=shut)
    summary = summarize_run(withheld)
    assert "free_m2" not in summary["map"]
    text = describe_run({**summary, "files": ["map.ply"]})
    assert " m² " not in text
    assert "if its scale is right" in text
    numbers = score_run(Evidence(withheld)).numbers
    assert numbers["free_m2"] is numbers["occupied_m2"] is None


@pytest.mark.slow
def test_sizes_of_a_map_without_metres_are_not_told(tmp_path: Path, result: RunResult) -> None:
    summary = write_outputs(result, tmp_path)
    summary["map"] |= {"scale_rel_sigma": None, "scale_source": "NONE"}
    text = describe_run(summary)
    assert "points, not in metres\nscale: unknown\n" in text
    assert " m² " not in text


def test_nothing_that_json_does_not_know_is_written(
    tmp_path: Path, drive: list[Frame], config: MapperConfig
) -> None:
    blind = [dataclasses.replace(f, T_odom_cam=None) for f in drive]
    got = run_mapper(blind, Mapper(config, OracleEngine(SIZE)))
    with pytest.raises(ReportError, match="odometry pose"):
        write_outputs(got, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    stored = json.loads(
        (tmp_path / "summary.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} in summary.json"),
    )
    assert stored["map"]["scale_rel_sigma"] is None
    assert stored["verdicts"] == {Verdict.REJECTED_ENGINE_ERROR.name: stored["windows"]}


def test_no_map_says_why(tmp_path: Path, drive: list[Frame], config: MapperConfig) -> None:
    for frames, words in (([], "no images"), (drive[:1], "1 keyframe in 1 frame,")):
        got = run_mapper(frames, Mapper(config, OracleEngine(SIZE)))
        with pytest.raises(ReportError, match=words):
            write_outputs(got, tmp_path)


def test_a_truth_of_another_time_is_reported_not_raised(result: RunResult) -> None:
    path = result.odometry
    assert path is not None
    later = dataclasses.replace(path, stamps_ns=path.stamps_ns + 10**12)
    assert "no stamp" in trajectory_numbers(result.snapshot.trajectory, later)["none_because"]


def test_scale_error_has_the_sign_of_the_estimate(result: RunResult) -> None:
    path = result.snapshot.trajectory
    bigger = path.T_world_cam.copy()
    bigger[:, :3, 3] *= 1.25
    numbers = trajectory_numbers(dataclasses.replace(path, T_world_cam=bigger), path)
    assert numbers["scale_error"] == pytest.approx(0.25)


def test_the_same_recording_gives_the_same_map(
    result: RunResult, drive: list[Frame], config: MapperConfig
) -> None:
    again = run_mapper(drive, Mapper(config, OracleEngine(SIZE, OracleNoise())))
    np.testing.assert_array_equal(again.snapshot.points_map, result.snapshot.points_map)
    grids = again.snapshot.grid, result.snapshot.grid
    np.testing.assert_array_equal(*(g.cells for g in grids if g is not None))
