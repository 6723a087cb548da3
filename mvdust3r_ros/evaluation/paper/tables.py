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

"""The tables as text, as Markdown and as JSON: measured values beside the published ones."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mvdust3r_ros.evaluation.paper.layout import (
    COLUMNS,
    LAYOUTS,
    MEASURED,
    PUBLISHED,
    PUBLISHED_SETS,
    PaperError,
    Row,
)
from mvdust3r_ros.evaluation.paper.published import published
from mvdust3r_ros.evaluation.report.environment import describe_environment
from mvdust3r_ros.evaluation.report.report_files import write_text
from mvdust3r_ros.safe_files import read_limited

SOURCE = "MV-DUSt3R+ (Tang et al., CVPR 2025, arXiv:2412.06974)"
TERMINAL_WIDTH = 100
"""Columns of characters; what the tables are laid out for."""
MAX_JSON_BYTES = 1 << 24
"""A complete paper.json is a hundred times smaller."""
SHOWN_NAMES = {"DUSt3R": "DUSt3R (GO)"}
"""The paper marks global optimisation in a column of its own."""


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Attributes:
        rows: measured ones.
        windows: of each data set and number of views, at most.
        environment: the machine.
    """

    rows: tuple[Row, ...]
    windows: int
    environment: dict[str, object]

    @property
    def tables(self) -> list[int]:
        """Numbers of the tables that have rows."""
        return sorted({row.table for row in self.rows})


def results_of(rows: Iterable[Row], windows: int) -> Results:
    """Return results of this machine."""
    return Results(tuple(rows), windows, describe_environment())


def joined(several: Sequence[Results]) -> Results:
    """Return the rows of several runs; of the same row, one with values, else the last."""
    found: dict[tuple[int, int, str, str], Row] = {}
    for row in (row for results in several for row in results.rows):
        key = (row.table, row.views, row.name, row.data)
        if row.values or not found.get(key, row).values:
            found[key] = row
    measured = {(r.table, r.views, r.name) for r in found.values() if r.values}
    kept = [r for r in found.values() if r.data or (r.table, r.views, r.name) not in measured]
    return Results(tuple(kept), max(r.windows for r in several), several[-1].environment)


def to_json(results: Results) -> str:
    """Return paper.json: measured rows, then the published ones of the same tables."""
    others = [row for table in results.tables for row in published(table)]
    content = {
        "paper": SOURCE,
        "windows": results.windows,
        "environment": results.environment,
        "tables": {
            str(t): {"title": LAYOUTS[t].title, "columns": list(LAYOUTS[t].columns)}
            for t in results.tables
        },
        "rows": [asdict(row) for row in (*results.rows, *others)],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_results(path: Path) -> Results:
    """Read what was measured from a paper.json.

    Raises:
        PaperError: the file is no such JSON.
        FileError: it is missing or too large.
    """
    try:
        content = json.loads(read_limited(path, MAX_JSON_BYTES))
        rows = tuple(_row(values) for values in content["rows"] if values["source"] == MEASURED)
        results = Results(rows, int(content["windows"]), dict(content["environment"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PaperError(f"{path} is no paper.json of `evaluate paper`: {error!r}") from None
    if not set(results.tables) <= set(LAYOUTS):
        raise PaperError(f"{path} has tables {results.tables}, of which some do not exist")
    return results


def _row(values: dict[str, Any]) -> Row:
    row = Row(**values)
    numbers = {str(column): float(value) for column, value in row.values.items()}
    return Row(
        int(row.table), int(row.views), str(row.name), str(row.data), str(row.source), numbers,
        str(row.note), bool(row.extrapolated),
    )  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A row of a table with all that there is beside it.

    Attributes:
        views: number of views.
        name: of the row.
        cells: data set and source -> the row.
    """

    views: int
    name: str
    cells: dict[tuple[str, str], Row]


def lines(results: Results, table: int) -> list[Line]:
    """Return the lines of a table: by views, then in the paper's order.

    Published rows stand beside measured ones; those of other systems or views are left out. In
    table 1, other views come along.
    """
    ours = [row for row in results.rows if row.table == table]
    order = list(dict.fromkeys([*LAYOUTS[table].rows, *(row.name for row in ours)]))
    names, views = {row.name for row in ours}, {row.views for row in ours}
    others = [
        row for row in published(table) if row.name in names and (table == 1 or row.views in views)
    ]
    found: dict[tuple[int, str], Line] = {}
    for row in sorted((*ours, *others), key=lambda row: (row.views, order.index(row.name))):
        line = found.setdefault((row.views, row.name), Line(row.views, row.name, {}))
        line.cells[row.data, row.source] = row
    return list(found.values())


def data_sets(results: Results, table: int) -> list[str]:
    """Return the data sets on which a table was measured, those of the paper first."""
    found = dict.fromkeys(row.data for row in results.rows if row.table == table and row.data)
    return sorted(found, key=lambda d: PUBLISHED_SETS.index(d) if d in PUBLISHED_SETS else 9)


def notes(results: Results, table: int) -> list[str]:
    """Return what has to be said of the rows of a table, once each."""
    ours = [row for row in results.rows if row.table == table and row.note]
    return list(dict.fromkeys(f"{shown(row.name)}: {row.note}" for row in ours))


def shown(name: str) -> str:
    """Return the name of a row for people."""
    return SHOWN_NAMES.get(name, name)


def table_text(results: Results, table: int) -> str:
    """Return a table for a terminal: under each measured line the published one, marked.

    Of the paper's data sets, those that were measured stand there, else the first.
    """
    layout = LAYOUTS[table]
    names, units = zip(
        *(COLUMNS[c].title.partition(" ")[::2] for c in layout.columns), strict=True
    )
    heads = [["", "", *names], ["", "", *units]]
    measured = data_sets(results, table)
    beside = [d for d in PUBLISHED_SETS if d in measured] or [PUBLISHED_SETS[0]]
    parts = [f"Table {table}. {layout.title}"]
    found = lines(results, table)
    body = [(line.views, row) for line in found for row in _texts(line, table, beside)]
    widths = [max(map(len, cells)) for cells in zip(*heads, *(r for _, r in body), strict=True)]
    rule = "  ".join("-" * width for width in widths)
    for views in sorted({views for views, _ in body}):
        heads[1][0] = f"{views} views"
        rows = [row for count, row in body if count == views]
        parts += ["", *(_aligned(head, widths) for head in heads), rule]
        parts += [_aligned(row, widths) for row in rows]
    parts += [""] if notes(results, table) else []
    for note in notes(results, table):
        parts += textwrap.wrap(note, TERMINAL_WIDTH, subsequent_indent="  ")
    return "\n".join(parts)


def _texts(line: Line, table: int, beside: Sequence[str]) -> Iterator[list[str]]:
    """Yield the cells of the measured rows of a line, then of the published ones."""
    kept = [
        row
        for (data, source), row in line.cells.items()
        if source == MEASURED or table == 1 or data in beside
    ]
    for place, row in enumerate(sorted(kept, key=lambda row: row.source != MEASURED)):
        label = row.data or "missing"
        if row.source == PUBLISHED:
            label = PUBLISHED if table == 1 else f"{row.data}, {PUBLISHED}"
        name = "" if place else shown(line.name)
        yield [name, label, *(row.cell(c) for c in LAYOUTS[table].columns)]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    pairs = list(zip(cells, widths, strict=True))
    return "  ".join(
        [*(t.ljust(w) for t, w in pairs[:2]), *(t.rjust(w) for t, w in pairs[2:])]
    ).rstrip()


@dataclass(frozen=True)
class Grid:
    """A table laid out as in the paper: data sets side by side, the time last.

    Attributes:
        groups: label and columns of each group of columns.
        body: number of views, name and cells of each row.
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...]
    body: tuple[tuple[int, str, tuple[str, ...]], ...]


def grid(results: Results, table: int) -> Grid:
    """Lay out a table: groups of what was measured, then of what was published."""
    columns = LAYOUTS[table].columns
    sets = list(dict.fromkeys(row.data for row in published(table)))
    sources = [(d, MEASURED) for d in data_sets(results, table)] + [(d, PUBLISHED) for d in sets]
    main = columns if table == 1 else tuple(c for c in columns if c != "sec")
    groups = [(data, source, main) for data, source in sources]
    if table == 1:  # the paper gives no memory
        groups = [(d, s, tuple(c for c in p if s == MEASURED or c != "MB")) for d, s, p in groups]
    if main != columns:
        groups += [(data, source, ("sec",)) for data, source in sources if data not in sets[1:]]
    body = tuple(
        (
            line.views,
            shown(line.name),
            tuple(_cell(line.cells.get((d, s)), c) for d, s, part in groups for c in part),
        )
        for line in lines(results, table)
    )
    labelled = tuple((_label(data, source, table, part), part) for data, source, part in groups)
    return Grid(labelled, body)


def _label(data: str, source: str, table: int, part: tuple[str, ...]) -> str:
    if part == ("sec",) or table == 1:
        return data if source == MEASURED else PUBLISHED
    return f"{data}, {source}"


def _cell(row: Row | None, column: str) -> str:
    return "-" if row is None else row.cell(column)


def table_markdown(results: Results, table: int) -> str:
    """Return a table as Markdown, with its notes below."""
    laid = grid(results, table)
    heads = [
        f"{COLUMNS[c].title}<br>{label}" if k == 0 else COLUMNS[c].title
        for label, part in laid.groups
        for k, c in enumerate(part)
    ]
    rows = [["views", "method", *heads], ["---:", "---", *(["---:"] * len(heads))]]
    rows += [[str(views), name, *cells] for views, name, cells in laid.body]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    said = "".join(f"- {note}\n" for note in notes(results, table))
    title = f"### Table {table}. {LAYOUTS[table].title}\n\n"
    return title + text + (f"\n{said}" if said else "")


def results_markdown(results: Results) -> str:
    """Return all tables as Markdown."""
    return "\n".join(table_markdown(results, table) for table in results.tables)


def write_results(results: Results, out: Path) -> None:
    """Write paper.json.

    Raises:
        ReportError: writing to disk failed.
    """
    write_text(out / "paper.json", to_json(results))
