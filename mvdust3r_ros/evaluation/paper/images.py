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

"""Table 4: new views, of Gaussians where an engine has them and else of coloured points."""

from __future__ import annotations

from pathlib import Path

from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.evaluation.paper.data_sets import TestTuples
from mvdust3r_ros.evaluation.paper.measured import NewViews, Rooms, Windows
from mvdust3r_ros.evaluation.trials.rooms import row_name
from mvdust3r_ros.model.lpips import load_lpips
from mvdust3r_ros.synthetic.new_views import (
    NewViewScores,
    NewViewWindow,
    NewViewWindows,
    held_out_between,
    measure_new_views,
)


def new_views_with(lpips: Path | None) -> NewViews:
    """Return what measures new views.

    Args:
        lpips: weights of LPIPS; None leaves that column out.

    Raises:
        LpipsError: the file cannot be read.
    """
    distance = None if lpips is None else load_lpips(lpips).distance

    def measured(
        engine: Engine, windows: Windows, seed: int, views: int, oracle: bool
    ) -> dict[str, dict[str, float]]:
        found = measure_new_views(
            engine, _windows(windows), [seed], [views], lpips=distance, oracle=oracle,
            references_first=not isinstance(windows, Rooms),
        )  # fmt: skip
        info = engine.describe()
        return {
            row_name(info, row.joined, row.oracle): columns_of(scores[0])
            for row, scores in found[views].items()
        }

    return measured


def _windows(windows: Windows) -> NewViewWindows:
    if isinstance(windows, TestTuples):
        tuples = windows
        return lambda index, views: NewViewWindow(
            tuples.window(index, views), tuples.held_out(index, views)
        )
    return held_out_between(windows.window)


def columns_of(scores: NewViewScores) -> dict[str, float]:
    """Return the columns of table 4, in the paper's units."""
    columns = {"PSNR": scores.psnr_db, "SSIM": 10 * scores.ssim}
    return columns if scores.lpips is None else {**columns, "LPIPS": 10 * scores.lpips}
