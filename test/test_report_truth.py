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

"""What a report claims: of which part of a drive it speaks, and what it must not hide."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import (
    MapSnapshot,
    OccupancyGrid,
    ScaleEstimate,
    ScaleSource,
    Trajectory,
    Verdict,
)
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.evaluation.caveats import extent
from mvdust3r_ros.evaluation.coverage import distance_along, mapped_share
from mvdust3r_ros.evaluation.report.compare import compare, unequal_parts
from mvdust3r_ros.evaluation.report.compare_page import comparison_page
from mvdust3r_ros.evaluation.report.report import no_map_reason
from mvdust3r_ros.evaluation.report.report_files import describe_report, write_report
from mvdust3r_ros.evaluation.run import RunResult, WindowRecord, empty_snapshot
from mvdust3r_ros.evaluation.scoring import Evidence, score_run
from mvdust3r_ros.recordings.recording import Recording

SECOND_NS = 10**9
LAST_S = 20
STEP_M = 0.5
DRIFT = 0.1


def straight(seconds: range, factor: float = 1.0, height_m: float = 1.0) -> Trajectory:
    """A drive along x at half a metre a second; `factor` times as far."""
    poses = np.tile(np.eye(4), (len(seconds), 1, 1))
    poses[:, 0, 3] = [factor * STEP_M * s for s in seconds]
    poses[:, 2, 3] = height_m
    return Trajectory(np.array([s * SECOND_NS for s in seconds], np.int64), poses)


def window(
    index: int,
    first_s: int,
    last_s: int,
    verdict: Verdict = Verdict.COMMITTED,
    rolled_back: int = 0,
) -> WindowRecord:
    return WindowRecord(
        index=index,
        stamp_ns=last_s * SECOND_NS,
        first_ns=first_s * SECOND_NS,
        keyframes=last_s - first_s + 1,
        verdict=verdict,
        message="" if verdict == Verdict.COMMITTED else "it did not fit",
        points=100,
        residual_m=0.01,
        latency_ms={"decode": 100.0},
        rolled_back=rolled_back,
    )


def drawn_map(trajectory: Trajectory, points: np.ndarray | None = None) -> MapSnapshot:
    """A map with a floor, unless other points are given."""
    rng = np.random.default_rng(0)
    if points is None:
        points = rng.uniform((0, -1, 0), (6, 1, 0.5), (400, 3))
    cells = np.full((40, 160), -1, np.int8)
    cells[10:30, 10:140], cells[30, 10:140] = 0, 100
    return MapSnapshot(
        points_map=points.astype(np.float32),
        colors_rgb=np.full((len(points), 3), 120, np.uint8),
        conf=np.ones(len(points), np.float32),
        grid=OccupancyGrid(cells, 0.05, (-0.5, -1.0)),
        trajectory=trajectory,
        T_map_odom=None,
        scale=ScaleEstimate(1.0, 0.02, ScaleSource.ODOMETRY),
        gate_open=True,
    )


def run_of(windows: list[WindowRecord], snapshot: MapSnapshot) -> RunResult:
    return RunResult(
        MapperConfig(),
        EngineInfo("oracle", "oracle", (8, 8)),
        frames=LAST_S + 1,
        keyframes=LAST_S + 1,
        windows=windows,
        odometry=straight(range(LAST_S + 1), 1.0 + DRIFT),
        snapshot=snapshot,
        seconds=2.0,
        first_stamp_ns=0,
        last_stamp_ns=LAST_S * SECOND_NS,
    )


ONE_OF_FOUR = [
    window(0, 0, 5),
    window(1, 4, 9, Verdict.REJECTED_ODOMETRY),
    window(2, 8, 14, Verdict.REJECTED_ODOMETRY),
    window(3, 13, 20, Verdict.REJECTED_POSE),
]


def one_of_four(**changes: Any) -> Evidence:
    """A quarter of a drive in the map, exact there; odometry is 10 % off."""
    snapshot = replace(drawn_map(straight(range(6))), **changes)
    return Evidence(run_of(list(ONE_OF_FOUR), snapshot), straight(range(LAST_S + 1)))


def report_on(evidence: Evidence, out: Path) -> tuple[dict[str, Any], str, str]:
    """report.json, the page, and what the terminal says."""
    recording = Recording("drive", "ROS 2 bag", LAST_S + 1, lambda _: iter(()))
    report = write_report(out, recording, evidence)
    return report, (out / "report.html").read_text(), describe_report(report, out)


def test_windows_refused_for_one_reason_with_other_figures_are_counted_together() -> None:
    refused = [window(k, k, k + 4, Verdict.REJECTED_ODOMETRY) for k in range(3)]
    windows = [window(9, 9, 12, Verdict.REJECTED_POSE), *refused]
    windows = [replace(w, message=f"off by {w.index} deg") for w in windows]
    assert no_map_reason(run_of(windows, empty_snapshot())) == (
        "no map: 3 of 4 windows rejected (against odometry): the first one: off by 0 deg"
    )
    assert no_map_reason(run_of(windows[:1], empty_snapshot())) == (
        "no map: 1 of 1 window rejected (without camera poses): off by 9 deg"
    )


def test_the_share_is_that_of_the_distance_not_of_the_windows() -> None:
    made = score_run(one_of_four()).numbers
    assert made["mapped_share"] == pytest.approx(0.25)
    assert made["drive_m"] == pytest.approx(LAST_S * STEP_M)
    assert made["windows_committed"] == 1


def test_where_the_camera_stood_is_no_part_of_the_drive() -> None:
    moving = straight(range(11)).T_world_cam
    poses = np.concatenate([moving, np.repeat(moving[-1:], 90, 0)])
    stood = Trajectory(np.arange(101, dtype=np.int64) * SECOND_NS, poses)
    found = mapped_share([window(0, 0, 5)], stood, 0, 100 * SECOND_NS)
    assert found.share == pytest.approx(0.5)


def test_noise_of_the_truth_is_no_distance() -> None:
    rng = np.random.default_rng(1)
    assert distance_along(rng.normal(0, 0.005, (1000, 3)))[-1] < 0.1


def test_without_truth_and_odometry_time_is_the_measure() -> None:
    found = mapped_share([window(0, 0, 5), window(1, 4, 10)], None, 0, 20 * SECOND_NS)
    assert (found.share, found.drive_m) == (pytest.approx(0.5), None)
    assert mapped_share([], None, None, None).share is None
    assert mapped_share([], None, 0, 20 * SECOND_NS).share == 0


def test_odometry_is_judged_on_the_keyframes_of_the_map() -> None:
    """A line that is 10 % too long is off by 10 % of the spread of its points."""
    made = score_run(one_of_four()).numbers
    assert made["ate_m"] == pytest.approx(0, abs=1e-9)
    spread_m = STEP_M * np.std(np.arange(6))
    assert made["odometry_ate_m"] == pytest.approx(DRIFT * spread_m, rel=1e-6)
    assert made["odometry_rpe_m"] == pytest.approx(DRIFT * STEP_M, rel=1e-6)


def test_a_truth_that_is_the_odometry_is_named() -> None:
    evidence = one_of_four()
    assert not [n for n in score_run(evidence).notes if "truth is the odometry" in n]
    evidence.truth = evidence.result.odometry
    assert [n for n in score_run(evidence).notes if "truth is the odometry" in n]


def test_windows_that_left_the_map_do_not_count_as_mapped() -> None:
    windows = [
        window(0, 0, 5),
        window(1, 4, 9),
        window(2, 8, 14),
        window(3, 13, 20, rolled_back=2),
    ]
    evidence = one_of_four()
    evidence.result.windows = windows
    made = score_run(evidence)
    assert [w.index for w in evidence.result.in_map] == [0, 3]
    assert made.numbers["windows_committed"] == 2
    assert made.numbers["windows_rolled_back"] == 2
    assert made.numbers["mapped_share"] == pytest.approx(12 / 20)
    assert [row["in_map"] for row in made.windows] == [True, False, False, True]
    assert any(n.startswith("2 windows left the map again") for n in made.notes)


@pytest.mark.slow
def test_page_and_terminal_say_of_what_they_speak(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    hint = "nothing gives metres: publish odometry"
    evidence = one_of_four(gate_open=False, gate_hint=hint)
    evidence.left_out = 3
    evidence.notes = ["odometry for 0 of 21 images: frame '/base_link' is not in TF"]
    report, html, text = report_on(evidence, tmp_path)
    wanted = (
        "3 of 4 windows rejected: 2 against odometry, 1 without camera poses",
        "the map holds 25 % of the drive",
        "3 keyframes left out while the network was busy: a lower --rate uses all",
        hint,
        "odometry for 0 of 21 images",
    )
    for words in wanted:
        assert any(words in note for note in report["notes"]), words
        assert words in text
        assert re.search(rf'class="warn">[^<]*{re.escape(words[1:])}', html), words
    tile = re.search(r'<div class="tile"><b>0.000 m</b><span>path error \(ATE\).*?</div>', html)
    assert tile is not None
    assert "over 25&nbsp;% of the drive" in tile[0]
    assert "odometry alone: 0.085&nbsp;m" in tile[0]
    assert "over 25 % of the drive: ATE 0.000 m" in text
    assert "odometry alone, on the same keyframes: ATE 0.085 m" in text


@pytest.mark.slow
def test_a_map_of_the_whole_drive_needs_no_yellow_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    evidence = one_of_four(trajectory=straight(range(LAST_S + 1)))
    evidence.result.windows = [window(0, 0, 12), window(1, 10, 20)]
    _, html, text = report_on(evidence, tmp_path)
    assert "over the whole drive" in html
    for words in ("rejected:", "the map holds", "left the map", "withheld"):
        assert words not in text


def above_the_camera() -> np.ndarray:
    """A camera that looks up at a ceiling."""
    return np.random.default_rng(0).uniform((0, -1, 2.4), (6, 1, 2.5), (400, 3))


def in_a_column() -> np.ndarray:
    return np.column_stack([np.full((9, 2), 1.0), np.linspace(0, 2, 9)])


EDGES = {
    "no window": (lambda: empty_snapshot(), []),
    "no window committed": (lambda: empty_snapshot(), ONE_OF_FOUR[1:]),
    "one window": (lambda: drawn_map(straight(range(6))), [window(0, 0, 5)]),
    "one keyframe": (lambda: drawn_map(straight(range(1))), [window(0, 0, 0)]),
    "no points": (lambda: drawn_map(straight(range(6)), np.zeros((0, 3))), [window(0, 0, 5)]),
    "one point": (lambda: drawn_map(straight(range(6)), np.ones((1, 3))), [window(0, 0, 5)]),
    "points in a column": (lambda: drawn_map(straight(range(6)), in_a_column()), ONE_OF_FOUR),
    "a camera that looks up": (
        lambda: drawn_map(straight(range(6)), above_the_camera()),
        [window(0, 0, 5)],
    ),
    "no keyframes": (lambda: drawn_map(straight(range(0))), [window(0, 0, 5)]),
}  # fmt: skip


def test_nearly_all_of_a_drive_is_not_called_all() -> None:
    assert extent({"mapped_share": 0.96}) == "over 96 % of the drive"
    assert extent({"mapped_share": 1.0}) == "over the whole drive"
    assert extent({"mapped_share": None}) == ""


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("case", "with_truth"),
    [*((case, True) for case in EDGES), ("no window", False), ("one window", False)],
)
@pytest.mark.slow
def test_any_map_gives_a_page_without_empty_charts(
    tmp_path: Path, case: str, *, with_truth: bool
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    make, windows = EDGES[case]
    result = run_of(list(windows), make())
    result.frames = result.keyframes = 1
    evidence = Evidence(result, straight(range(LAST_S + 1)) if with_truth else None)
    _, html, text = report_on(evidence, tmp_path)
    body = html[html.index("<main>") :]
    for card in re.findall(r'<div class="card"><h3>(.*?)</h3>(.*?)</div>', body, re.DOTALL):
        assert len(card[1]) > 100, card
    for plot in re.findall(r"<svg.*?</svg>", body, re.DOTALL):
        drawn = re.findall(r"<g id=\"(?:line2d|patch|Line|Path)|<image|<use|<path", plot)
        assert len(drawn) > 5
    for said in (re.sub(r"<script.*?</script>|<svg.*?</svg>", "", body, flags=re.DOTALL), text):
        assert not re.search(r"\b1 (images|windows|keyframes|frames|points|dumps|cores)\b", said)
        assert not re.search(r"-0\.?0* ?(m|%|deg|<)", said)
        assert not re.search(r"\bnan\b", said)


@pytest.mark.slow
def test_reports_of_different_parts_of_a_drive_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    whole = one_of_four(trajectory=straight(range(LAST_S + 1)))
    whole.result.windows = [window(0, 0, 12), window(1, 10, 20)]
    nothing = Evidence(run_of([], empty_snapshot()), straight(range(LAST_S + 1)))
    reports = [
        report_on(evidence, tmp_path / name)[0]
        for name, evidence in (("a", one_of_four()), ("b", whole), ("c", nothing))
    ]
    compared = compare(reports[:2], ["a", "b"])
    (note,) = unequal_parts(compared.runs)
    assert note.startswith("the maps hold 25 % to 100 % of the drive")
    page = comparison_page(compared)
    assert note in page
    assert "a: 3 of 4 windows rejected" in page
    assert not unequal_parts(compare([reports[1]] * 2, ["a", "b"]).runs)
    alone = comparison_page(compare([reports[2]], ["c"]))
    assert "<h1>1 run compared</h1>" in alone
    assert "<svg" not in alone
