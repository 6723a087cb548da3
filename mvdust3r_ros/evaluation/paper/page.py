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

"""Write paper.html: the tables as the paper lays them out, and plots against the views."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mvdust3r_ros.evaluation.paper.layout import (
    COLUMNS,
    LAYOUTS,
    MEASURED,
    PUBLISHED_SETS,
    SYSTEMS,
    Row,
)
from mvdust3r_ros.evaluation.paper.published import TIMES_OF, published
from mvdust3r_ros.evaluation.paper.tables import (
    SOURCE,
    Results,
    data_sets,
    grid,
    lines,
    notes,
    shown,
)
from mvdust3r_ros.evaluation.report.charts import GREY, from_zero, svg_of
from mvdust3r_ros.evaluation.report.compare_page import color_of
from mvdust3r_ros.evaluation.report.page import cards, page, section
from mvdust3r_ros.evaluation.report.report_files import write_text
from mvdust3r_ros.wording import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTS = {
    1: ("sec", "MB"),
    2: ("ND", "CD"),
    3: ("RRE", "mAE"),
    4: ("PSNR", "SSIM", "LPIPS"),
    5: ("ND", "mAE", "PSNR"),
    6: (),
}
"""Number of the table -> columns that are plotted against the number of views."""
TITLES = {"sec": "Time of a window (s)", "MB": "Peak memory (MB)"}
"""Of plots; that of others is the title of the column."""
NEAREST_TICKS = 1.12
"""Numbers of views closer than this factor would be printed over each other."""
TICKS = (1.0, 2.0, 5.0)  # in each decade of a logarithmic axis
LOGARITHMIC = ("ND", "CD", "sec", "MB")
"""Columns whose values differ by orders of magnitude between the systems."""


def write_page(path: Path, results: Results) -> None:
    """Write the page.

    Raises:
        ReportError: writing to disk failed.
        PictureError: matplotlib is not installed.
    """
    write_text(path, paper_page(results))


def paper_page(results: Results) -> str:
    """Build the page.

    Raises:
        PictureError: matplotlib is not installed.
    """
    machine = results.environment
    about = (
        f"at most {plural(results.windows, 'window')} for each number of views, "
        f"{machine.get('cpu', '')}"
    )
    parts = [
        f'<p class="note">Measured here, beside what {escape(SOURCE)} publishes. Published '
        "numbers are of other scenes and another computer: compare the order of the methods and "
        "their growth with the number of views rather than values.</p>",
        *(_section(results, table) for table in results.tables),
    ]
    return page("The tables of MV-DUSt3R+", about, "\n".join(parts))


def _section(results: Results, table: int) -> str:
    said = "".join(f'<li class="note">{escape(note)}</li>' for note in notes(results, table))
    body = (
        _charts(results, table)
        + f'<p></p><div class="wide">{_table(results, table)}</div>'
        + (f"<ul>{said}</ul>" if said else "")
    )
    return section(f"Table {table}. {LAYOUTS[table].title}", body)


def _table(results: Results, table: int) -> str:
    laid = grid(results, table)
    first = "".join(
        f'<th class=first colspan="{len(part)}">{escape(label)}</th>'
        for label, part in laid.groups
    )
    columns = [(c, place == 0) for _, part in laid.groups for place, c in enumerate(part)]
    kinds = ["n first" if begins else "n" for _, begins in columns]
    second = "".join(
        f'<th class="{kind}">{escape(COLUMNS[c].title)}</th>'
        for (c, _), kind in zip(columns, kinds, strict=True)
    )
    rows = []
    before = 0
    for views, name, cells in laid.body:
        if views != before:
            width = 1 + len(cells)
            rows.append(f'<tr><th colspan="{width}">{plural(views, "view")}</th></tr>')
            before = views
        inner = "".join(
            f'<td class="{kind}">{escape(cell)}</td>'
            for cell, kind in zip(cells, kinds, strict=True)
        )
        rows.append(f"<tr><td class=run>{escape(name)}</td>{inner}</tr>")
    return (
        f'<table class="beside"><tr><th></th>{first}</tr><tr><th></th>{second}</tr>'
        f"{''.join(rows)}</table>"
    )


def _charts(results: Results, table: int) -> str:
    if not any(row.values for row in results.rows if row.table == table):
        return ""
    colors = _colors(results, table)
    plots = []
    for column in PLOTS[table]:
        curves = _curves(results, table, column)
        if any(len(curve) > 1 for curve in curves.values()):
            title = f"{_title(column)}, {COLUMNS[column].better} is better"
            plots.append((title, _plot(curves, colors, column)))
    return _legend(results, table, colors) + cards(*plots) if plots else ""


def _colors(results: Results, table: int) -> dict[str, str]:
    """Return the colour of each row; a system has the same one in all tables."""
    names = dict.fromkeys(line.name for line in lines(results, table))
    order = list(dict.fromkeys([*LAYOUTS[table].rows, *names]))
    if set(order) & set(SYSTEMS):
        order = list(dict.fromkeys([*SYSTEMS, *order]))
    return {name: color_of(order.index(name)) for name in names}


def _title(column: str) -> str:
    return TITLES.get(column, COLUMNS[column].title)


def _legend(results: Results, table: int, colors: Mapping[str, str]) -> str:
    dots = "".join(
        f'<span><i class="dot" style="background:{color}"></i>{escape(shown(name))}</span>'
        for name, color in colors.items()
    )
    measured = ", ".join(data_sets(results, table)) or "nothing"
    other = TIMES_OF if table == 1 else PUBLISHED_SETS[0]
    return (
        f'<div class="controls">{dots}<span>solid: measured on {escape(measured)}, '
        f"dashed: published, {escape(other)}</span></div><p></p>"
    )


Curves = dict[tuple[str, str], list[Row]]
"""Name of the row, and source -> rows by number of views."""


def _curves(results: Results, table: int, column: str) -> Curves:
    """Return what is plotted: measured on the first data set, published on the paper's first."""
    measured = data_sets(results, table)[:1]
    names = {row.name for row in results.rows if row.table == table}
    beside = (TIMES_OF, PUBLISHED_SETS[0])
    others = [r for r in published(table) if r.data in beside and r.name in names]
    ours = [r for r in results.rows if r.table == table and r.data in measured]
    found: Curves = {}
    for row in sorted((*ours, *others), key=lambda row: row.views):
        if column in row.values:
            found.setdefault((row.name, row.source), []).append(row)
    return found


def _plot(curves: Curves, colors: Mapping[str, str], column: str) -> str:
    from matplotlib.ticker import LogLocator

    def draw(axes: Axes) -> None:
        for (name, source), rows in curves.items():
            color = colors[name]
            views, values = ([r.views for r in rows], [r.values[column] for r in rows])
            if source == MEASURED:
                axes.plot(views, values, color=color, marker="o", ms=3.5)
            else:
                axes.plot(views, values, color=color, ls="--", lw=1, alpha=0.7)
        axes.set(xlabel="views", ylabel=_title(column))
        if column in LOGARITHMIC:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=TICKS))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        elif COLUMNS[column].title.endswith("%"):
            from_zero(axes, 1.0)
        if column in ("sec", "MB"):
            _growth(axes, curves, column)
        _whole_numbers(axes, curves)

    return svg_of(draw)


def _growth(axes: Axes, curves: Curves, column: str) -> None:
    """Draw O(N) and O(N^2) from the least measured value at the fewest views."""
    ours = [row for (_, source), rows in curves.items() if source == MEASURED for row in rows]
    if not ours:
        return
    first, last = (f(row.views for row in ours) for f in (min, max))
    start = min(row.values[column] for row in ours if row.views == first)
    views = np.geomspace(first, last, 50)
    for power, label in ((1, "O(N)"), (2, "O(N\N{SUPERSCRIPT TWO})")):
        values = start * (views / first) ** power
        axes.plot(views, values, color=GREY, ls=":", lw=1.4, zorder=1)
        axes.annotate(
            label, (views[-1], values[-1]), xytext=(3, 0), textcoords="offset points",
            fontsize=8, color=GREY, va="center",
        )  # fmt: skip


def _whole_numbers(axes: Axes, curves: Curves) -> None:
    """Label the axis of views with the numbers there are; logarithmic from 10 times."""
    ticks: list[int] = []
    for views in sorted({row.views for rows in curves.values() for row in rows}):
        if not ticks or views > NEAREST_TICKS * ticks[-1]:
            ticks.append(views)
    if ticks[-1] >= 10 * ticks[0]:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [str(views) for views in ticks])
    axes.tick_params(axis="x", which="minor", bottom=False)
