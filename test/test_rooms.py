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

"""The evaluation on rooms: exact for the oracle engine, honest for the trivial predictors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.datatypes import View, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.evaluation.trials.rooms import (
    Results,
    RoomsError,
    Trivial,
    evaluate_rooms,
    format_results,
    judge,
    row_name,
    summary,
)
from mvdust3r_ros.synthetic.dataset import exact_views

pytestmark = pytest.mark.slow

HW = (64, 64)


def windows(seed: int, views: int) -> list[View]:
    return exact_views(seed, views, HW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rooms")


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    seen: list[tuple[int, int]] = []
    made = evaluate_rooms(
        OracleEngine(HW), windows, range(50, 53), [3, 4], range(60, 64), folder,
        lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(k + 1, 6) for k in range(6)]
    return made


def test_the_oracle_is_exact_in_every_column(results: Results) -> None:
    for rows in results.values():
        for case in rows["oracle"]:
            assert case.published.nd < 1e-3
            assert case.published.dac == 1.0
            assert case.published.cd < 1e-5
            assert case.nd_metric < 1e-4
            assert case.abs_rel < 1e-4
            assert abs(case.scale) < 1e-4
            assert max(case.rotation_deg) < 0.1
            assert max(case.translation) < 0.01


def test_trivial_predictors_are_far_off_but_metric(results: Results) -> None:
    for count, rows in results.items():
        assert {len(cases) for cases in rows.values()} == {3}
        for name in ("mean pointmap", "constant depth"):
            numbers = summary(rows[name])
            assert 0.2 < numbers["nd_metric"] < 2.0
            assert numbers["scale_error_median"] < 1.0
            assert all(len(case.rotation_deg) == count - 1 for case in rows[name])


def test_oracle_reference_is_never_worse(results: Results) -> None:
    for rows in results.values():
        for one, best in zip(rows["oracle"], rows["oracle, oracle reference"], strict=True):
            assert best.published.nd <= one.published.nd + 1e-6


def test_files(results: Results, folder: Path) -> None:
    stored = json.loads((folder / "results.json").read_text())
    assert stored["engine"]["backend"] == "oracle"
    assert [case["seed"] for case in stored["views"]["4"]["oracle"]["cases"]] == [50, 51, 52]
    assert (folder / "table.md").read_text() == format_results(results)
    assert "| oracle " in format_results(results)
    assert len(list(folder.glob("oracle_04_*.jpg"))) == 3


class Pairwise(OracleEngine):
    """The oracle in the place of pairs and their global alignment."""

    def describe(self) -> EngineInfo:
        return replace(super().describe(), backend="dust3r")


def test_wanted_rows_alone_are_scored() -> None:
    scored = {
        wanted: [name for name, *_ in judge(OracleEngine(HW), windows(50, 3), 50, {wanted})]
        for wanted in ("oracle", "oracle, oracle reference", "MVD")
    }
    assert scored == {
        "oracle": ["oracle"], "oracle, oracle reference": ["oracle, oracle reference"], "MVD": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "rows"),
    [
        ("onnx", ["MVD", "MVD, oracle reference", "MVD+", "MVD+, oracle path"]),
        ("mvs", ["mvs", "mvs, oracle reference", "mvs+", "mvs+, oracle path"]),
    ],
)
def test_a_row_has_the_name_of_the_system(backend: str, rows: list[str]) -> None:
    info = EngineInfo("some engine", backend, HW)
    assert [row_name(info, j, o) for j in (False, True) for o in (False, True)] == rows


def test_aligned_pairs_have_one_row_as_they_have_no_reference(tmp_path: Path) -> None:
    made = evaluate_rooms(Pairwise(HW), windows, [50], [3], [60], tmp_path, lambda *_: None)
    assert set(made[3]) == {"mean pointmap", "constant depth", "DUSt3R"}
    assert [path.name for path in tmp_path.glob("*.jpg")] == ["DUSt3R_03_50.jpg"]


class Sequential(OracleEngine):
    """The oracle in the place of a spatial memory."""

    def describe(self) -> EngineInfo:
        return replace(super().describe(), backend="spann3r")

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        stamps = [token.view.stamp_ns for token in tokens]
        assert stamps == sorted(stamps)
        return super().decode(tokens, n_ref)


def test_a_sequence_has_one_row_and_begins_with_the_first_view(tmp_path: Path) -> None:
    def stamped(seed: int, count: int) -> list[View]:
        return [replace(view, stamp_ns=n) for n, view in enumerate(windows(seed, count))]

    made = evaluate_rooms(Sequential(HW), stamped, [50], [3], [60], tmp_path, lambda *_: None)
    assert set(made[3]) == {"mean pointmap", "constant depth", "Spann3R"}
    assert made[3]["Spann3R"][0].nd_metric < 1e-3


def test_mean_pointmap_is_the_mean() -> None:
    many = [windows(seed, 3) for seed in (70, 71)]
    mean = Trivial(many).mean_pointmap(many[0])
    depths = [views[0].depth_m for views in many]
    expected = np.mean([d for d in depths if d is not None], axis=0)
    assert np.allclose(mean.points[0, 0, ..., 2], expected, atol=1e-4)
    assert np.array_equal(mean.points[0, 1], mean.points[0, 2])


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    args = (range(5, 7), [2], range(6, 8), tmp_path, lambda _a, _b: None)
    with pytest.raises(RoomsError, match="2 seeds"):
        evaluate_rooms(OracleEngine(HW), windows, *args)
    with pytest.raises(RoomsError, match="exact depth"):
        Trivial([[replace(v, depth_m=None) for v in windows(1, 2)]])
