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

"""Measure the rows of the paper's tables: each engine is loaded once, each window judged once."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np

from mvdust3r_ros.datatypes import MvDust3rError, View
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.evaluation.metrics.window_metrics import mean_columns
from mvdust3r_ros.evaluation.paper.layout import (
    CD_MEDIAN,
    GS_ROWS,
    LAYOUTS,
    MEASURED,
    PaperError,
    Row,
)
from mvdust3r_ros.evaluation.paper.systems import System, runs_on_torch
from mvdust3r_ros.evaluation.trials.rooms import Case, judge
from mvdust3r_ros.wording import plural

JUDGED = ("ND", "DAc", "CD", CD_MEDIAN, "RRE", "RTE", "mAE", "sec")
"""Columns that come of the same cases."""
SAME_POINTS = (
    "the Gaussian heads are separate outputs: trained alone, as by train-gaussians, they leave "
    "the points as in the row without"
)
NEEDS_NO_HEADS = "needs weights that were trained without Gaussian heads"
NO_NEW_VIEWS = "no new views were rendered"
Report = Callable[[str, int, int], None]
"""Receives what is being done, and the numbers of finished and of all windows."""


class Windows(Protocol):
    """Test windows with exact truth, of views of one size."""

    @property
    def name(self) -> str:
        """Name of the data set."""

    def seeds(self, views: int) -> Sequence[int]:
        """Return the windows there are for a number of views."""

    def window(self, index: int, views: int) -> list[View]:
        """Return the views of a window, with exact K, depth_m and T_odom_cam."""


@dataclass(frozen=True)
class Rooms:
    """Held-out synthetic rooms; no network of this package was trained on them.

    Attributes:
        image_hw: height and width of the views, pixels.
        first: seed of the first room; the others follow.
        count: number of rooms.
    """

    image_hw: tuple[int, int]
    first: int
    count: int
    name: str = "rooms"

    def seeds(self, views: int) -> range:  # noqa: ARG002 - the same rooms at each number
        """Return the seeds of the rooms."""
        return range(self.first, self.first + self.count)

    def window(self, index: int, views: int) -> list[View]:
        """Return the views of a room in time order."""
        from mvdust3r_ros.synthetic.dataset import exact_views

        return exact_views(index, views, self.image_hw)


OpenWindows = Callable[[tuple[int, int]], Sequence[Windows]]
"""Height and width of the views -> the data sets."""
NewViews = Callable[[Engine, Windows, int, int, bool], Mapping[str, Mapping[str, float]]]
"""Engine, windows, one of their seeds, input views, whether with oracles -> row of `judge` ->
columns of table 4."""


@dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
        tables: their numbers, of 2 to 6.
        systems: rows of tables 2, 3, 4 and 6.
        recipes: rows of table 5.
        open_windows: returns the data sets.
        windows: windows of each data set and number of views.
        views: numbers of views; empty for those of each table.
        threads: CPU threads; 0 for all.
        new_views: renders new views; None leaves these columns out.
    """

    tables: Sequence[int]
    systems: Sequence[System]
    recipes: Sequence[System]
    open_windows: OpenWindows
    windows: int
    views: Sequence[int] = ()
    threads: int = 0
    new_views: NewViews | None = None

    def counts(self, tables: Sequence[int]) -> list[int]:
        """Return the numbers of views of some of the tables that are asked for."""
        given = set(self.views)
        return sorted({n for t in tables if t in self.tables for n in given or LAYOUTS[t].views})


@dataclass
class Made:
    """What came of one engine on one data set.

    Attributes:
        windows: the data set.
        cases: (views, row of `judge`) -> one case for each window.
        images: (views, row of `judge`) -> columns of table 4 for each window.
        failed: (views, whether in new views) -> why windows failed.
    """

    windows: Windows
    cases: dict[tuple[int, str], list[Case]] = field(default_factory=dict)
    images: dict[tuple[int, str], list[Mapping[str, float]]] = field(default_factory=dict)
    failed: dict[tuple[int, bool], list[str]] = field(default_factory=dict)


def measure(job: Job, report: Report) -> Iterator[list[Row]]:
    """Measure tables 2 to 6, and yield the rows of one engine on one data set at a time.

    An engine that cannot be loaded, or fails on every window, has rows with a note and no values.
    """
    for tables, systems in (((2, 3, 4, 6), job.systems), ((5,), job.recipes)):
        wanted = [t for t in tables if t in job.tables]
        if not wanted:
            continue
        groups: dict[tuple[str, str, bool], list[System]] = {}
        for system in systems:
            if any(_names(table, system) for table in wanted):
                groups.setdefault(_engine_of(system), []).append(system)
        for group in groups.values():
            yield from _measure_engine(job, wanted, group, report)


def _engine_of(system: System) -> tuple[str, str, bool]:
    return system.spec, system.missing, _every_path(system)


def _every_path(system: System) -> bool:
    """Whether an engine has to compute all paths for a row; torch does so only when told to."""
    return system.joined and system.oracle and runs_on_torch(system.spec)


def _measure_engine(
    job: Job, tables: Sequence[int], systems: Sequence[System], report: Report
) -> Iterator[list[Row]]:
    try:
        if systems[0].missing:
            raise PaperError(systems[0].missing)
        with _engine(job, systems[0]) as engine:
            info = engine.describe()
            wanted = {system.row_of(info) for system in systems}
            found = [Made(windows) for windows in job.open_windows(info.image_hw)]
            for views, made, seeds in _parts(job, [t for t in tables if t != 4], found):
                told = partial(report, f"{systems[0].name} on {made.windows.name}, {views} views")
                _judge_all(engine, made, views, seeds, wanted, told)
        heads = False
        if any(table in tables for table in (4, 5, 6)):
            with _engine(job, systems[0], gaussians=True) as engine:
                heads = engine.describe().gaussians
                for views, made, seeds in _parts(job, [t for t in tables if t in (4, 5)], found):
                    label = f"{systems[0].name} on {made.windows.name}, new views of {views}"
                    oracle = any(system.oracle for system in systems)
                    for done, seed in enumerate(seeds):
                        report(label, done, len(seeds))
                        _render(job.new_views, engine, made, (seed, views, oracle))
    except MvDust3rError as error:
        for system in systems:
            yield [
                Row(table, views, name, "", MEASURED, {}, str(error))
                for table in tables
                for views in job.counts((table,))
                for name in _names(table, system)
            ]
        return
    for made in found:
        for system in systems:
            yield list(_rows(job, tables, system, system.row_of(info), heads, made))


def _engine(job: Job, system: System, gaussians: bool = False) -> closing[Engine]:
    paths = 0 if _every_path(system) else 1
    options = EngineOptions(job.threads, gaussians=gaussians, paths=paths)
    return closing(create_engine(system.spec, options))


def _parts(
    job: Job, tables: Sequence[int], found: Sequence[Made]
) -> Iterator[tuple[int, Made, list[int]]]:
    """Yield the numbers of views that tables have, the data sets, and the chosen windows."""
    for made in found:
        for views in job.counts(tables):
            yield views, made, chosen(made.windows, views, job.windows)


def _judge_all(
    engine: Engine,
    made: Made,
    views: int,
    seeds: Sequence[int],
    wanted: Container[str],
    report: Callable[[int, int], None],
) -> None:
    listed = not isinstance(made.windows, Rooms)
    for done, seed in enumerate(seeds):
        report(done, len(seeds))
        try:
            window = made.windows.window(seed, views)
            for row, case, _ in judge(engine, window, seed, wanted, references_first=listed):
                made.cases.setdefault((views, row), []).append(case)
        except MvDust3rError as error:
            made.failed.setdefault((views, False), []).append(str(error))


def _render(
    new_views: NewViews | None, engine: Engine, made: Made, which: tuple[int, int, bool]
) -> None:
    """Render new views of one window: its seed, the number of views, and whether with oracles."""
    if new_views is None:
        return
    views = which[1]
    try:
        for row, values in new_views(engine, made.windows, *which).items():
            made.images.setdefault((views, row), []).append(values)
    except MvDust3rError as error:
        made.failed.setdefault((views, True), []).append(str(error))


def chosen(windows: Windows, views: int, count: int) -> list[int]:
    """Return seeds of some windows, evenly spread over all of them."""
    seeds = windows.seeds(views)
    count = min(count, len(seeds))
    return [seeds[k * len(seeds) // count] for k in range(count)]


def _rows(
    job: Job, tables: Sequence[int], system: System, row: str, heads: bool, made: Made
) -> Iterator[Row]:
    """Yield the rows of a system; `row` is its name in `judge`."""
    for table in tables:
        columns = set(LAYOUTS[table].columns)
        if "CD" in columns:
            columns.add(CD_MEDIAN)
        if system.oracle:  # as in the paper: it stands for several tries
            columns.discard("sec")
        for views in job.counts((table,)):
            values, note = _values(made, views, row, table)
            kept = {c: v for c, v in values.items() if c in columns}
            for name in _names(table, system):
                made_row = Row(table, views, name, made.windows.name, MEASURED, kept, note)
                yield _with_heads(made_row, heads) if table == 6 else made_row


def _values(made: Made, views: int, row: str, table: int) -> tuple[dict[str, float], str]:
    """Return all columns there are for a number of views, and what has to be said of them."""
    cases = made.cases.get((views, row), [])
    images = made.images.get((views, row), [])
    values = {c: float(np.mean([window[c] for window in images])) for c in (images or [{}])[0]}
    if cases:
        values |= values_of(cases)
    said = [] if images or table not in (4, 5) else [NO_NEW_VIEWS]
    for rendered, scored in ((False, cases), (True, images)):
        failed = made.failed.get((views, rendered), [])
        if failed and table in ((4, 5) if rendered else (2, 3, 5, 6)):
            count = plural(len(failed), "window")
            said = [f"{count} failed at {views} views, {len(scored)} scored: {failed[0]}"]
    return values, "; ".join(said)


def _names(table: int, system: System) -> tuple[str, ...]:
    """Names of a system's rows in a table: two in table 6, where networks alone have any."""
    if table != 6:
        return (system.name,)
    return tuple(n for n in GS_ROWS if n.split(",")[0] == system.name)


def _with_heads(row: Row, heads: bool) -> Row:
    """Leave the values to that of the two rows of table 6 which the weights are."""
    if row.name.endswith("no GS heads") != heads:
        return row
    return replace(row, values={}, note=NEEDS_NO_HEADS if heads else SAME_POINTS)


def values_of(cases: Sequence[Case]) -> dict[str, float]:
    """Return the columns of tables 2 and 3, in the paper's units, from one case a window."""
    nd, dac, cd_median, rre, rte, mae = mean_columns([case.published for case in cases])
    cd = 100 * float(np.mean([case.published.cd for case in cases]))
    seconds = float(np.median([case.seconds for case in cases]))
    return dict(zip(JUDGED, (nd, dac, cd, cd_median, rre, rte, mae, seconds), strict=True))
