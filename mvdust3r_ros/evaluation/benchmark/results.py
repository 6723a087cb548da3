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

"""What a benchmark came to: rows of ours and published ones, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvdust3r_ros.evaluation.benchmark.data_sets import DATA_SETS
from mvdust3r_ros.evaluation.benchmark.published import PUBLISHED
from mvdust3r_ros.evaluation.report.report_files import write_text

if TYPE_CHECKING:
    from rich.table import Table

NUMBERS = (
    "ate_sim3_m", "ate_m", "scale_error", "mapped_share", "frames", "keyframes", "windows",
    "windows_committed",
)  # fmt: skip
"""Of a report that the results keep."""
SIM3, SE3, MAPPED = "ATE, Sim(3)", "ATE, SE(3)", "mapped"
FIGURES = {SIM3: "ate_sim3_m", SE3: "ate_m", MAPPED: "mapped_share"}
"""What a row is of -> number of the report."""


@dataclass(frozen=True)
class SequenceRun:
    """One sequence, mapped once.

    Attributes:
        sequence: its name.
        calibrated: whether the mapper was given the intrinsics.
        numbers: of its report, see `NUMBERS`; empty when there is none.
        error: why there is no report, or what is missing in it; empty for nothing.
        report: folder of the report; empty when there is none.
        complete: whether the sequence was read to its end.
    """

    sequence: str
    calibrated: bool
    numbers: dict[str, float | None] = field(default_factory=dict)
    error: str = ""
    report: str = ""
    complete: bool = True


@dataclass(frozen=True)
class Results:
    """All runs of a benchmark.

    Attributes:
        key: of `DATA_SETS`.
        data: folder of the data set.
        engine: name of the engine.
        every: the first of so many images was taken.
        truth: folder of true poses; empty for those of the data set.
        sequences: names, in order.
        runs: what came out.
        missing: a line about each sequence that is not there.
    """

    key: str
    data: str
    engine: str
    every: int
    truth: str
    sequences: tuple[str, ...]
    runs: tuple[SequenceRun, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        method: engine of ours, or published system.
        calibrated: whether it was given the intrinsics.
        figure: what the cells are.
        cells: a value for each sequence, metres or a share; None where there is none.
        average: over all sequences of the table; None unless each has a value.
        source: "measured", or "published" with paper and table.
    """

    method: str
    calibrated: bool
    figure: str
    cells: tuple[float | None, ...]
    average: float | None
    source: str


def rows(results: Results) -> list[Row]:
    """Our rows, then the published ones; an average over other sequences is left out of those."""
    made = []
    for calibrated in sorted({run.calibrated for run in results.runs}, reverse=True):
        numbers = {r.sequence: r.numbers for r in results.runs if r.calibrated == calibrated}
        for figure, name in FIGURES.items():
            cells = tuple(numbers.get(one, {}).get(name) for one in results.sequences)
            known = [cell for cell in cells if cell is not None]
            average = sum(known) / len(known) if len(known) == len(cells) else None
            made.append(Row(results.engine, calibrated, figure, cells, average, "measured"))
    all_of_them = set(results.sequences) == set(DATA_SETS[results.key].folders)
    for other in PUBLISHED[results.key]:
        cells = tuple(other.ate_m.get(one) for one in results.sequences)
        average = other.average_m if all_of_them else None
        if average is not None or any(cell is not None for cell in cells):
            source = f"published: {other.source}"
            made.append(Row(other.method, other.calibrated, SIM3, cells, average, source))
    return made


def as_text(row: Row) -> list[str]:
    """The cells of a row for people, the average last: metres with 3 digits, or percent."""
    digits = "{:.0%}" if row.figure == MAPPED else "{:.3f}"
    return ["-" if v is None else digits.format(v) for v in (*row.cells, row.average)]


def results_table(results: Results) -> Table:
    """The rows for a terminal; the sources follow as notes of their own."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("method", "calibrated", "figure"):
        table.add_column(name)
    for name in (*results.sequences, "mean"):
        table.add_column(Text(name), justify="right")
    table.add_column("")
    for row in rows(results):
        known = "yes" if row.calibrated else "no"
        mark = row.source.split(":")[0]
        table.add_row(Text(row.method), known, Text(row.figure), *as_text(row), mark)
    return table


def results_markdown(results: Results) -> str:
    """The same as a table of Markdown, with the sources."""
    head = ["method", "calibrated", "figure", *results.sequences, "mean", "source"]
    lines = [head, ["---"] * 3 + ["---:"] * (len(results.sequences) + 1) + ["---"]]
    for row in rows(results):
        known = "yes" if row.calibrated else "no"
        lines.append([row.method, known, row.figure, *as_text(row), row.source])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_results(results: Results, out: Path) -> None:
    """Write results.json and table.md.

    Raises:
        ReportError: the disk.
    """
    data_set = DATA_SETS[results.key]
    content: dict[str, Any] = {
        "benchmark": results.key,
        "title": data_set.title,
        **asdict(results),
        "rows": [asdict(row) for row in rows(results)],
    }
    write_text(out / "results.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(out / "table.md", f"# {data_set.title}\n\n{results_markdown(results)}")


def sequence_run(
    sequence: str, calibrated: bool, report: dict[str, Any] | None, folder: Path, error: str = ""
) -> SequenceRun:
    """What is kept of the report of a sequence; None for one that could not be made."""
    if report is None:
        return SequenceRun(sequence, calibrated, error=error, complete=False)
    numbers = {name: report["numbers"].get(name) for name in NUMBERS}
    lacks = "" if numbers["ate_sim3_m"] is not None else "; ".join(report["notes"])
    why = lacks if report["complete"] else f"partial report: {report['stopped']}"
    return SequenceRun(sequence, calibrated, numbers, why, str(folder), report["complete"])


def sources(found: Sequence[Row]) -> list[str]:
    """A line for each published row: where it comes from."""
    lines = [
        f"{row.method}, {'calibrated' if row.calibrated else 'not calibrated'}: {row.source}"
        for row in found
        if row.source.startswith("published")
    ]
    return list(dict.fromkeys(lines))
