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

"""The numbers of tables 1 to 6 of the paper (arXiv:2412.06974), as published.

ND is scaled by 10, CD by 100 with its median in brackets, SSIM and LPIPS by 10; DAc and the pose
errors are in percent, times in seconds on a GPU. A line is a number of views, a row and its cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from mvdust3r_ros.evaluation.paper.layout import (
    CD_MEDIAN,
    LAYOUTS,
    PUBLISHED,
    PUBLISHED_SETS,
    Row,
)

TIMES_OF = "GPU of the authors"
"""Stands in place of the data set in table 1."""
_TABLE_1 = """
12 MV-DUSt3R+ 0.89
20 MV-DUSt3R+ 1.54
50 MV-DUSt3R+ 6.2
100 MV-DUSt3R+ 19.1
"""
_TABLE_2 = """
4 Spann3R 37.1 0.0 225(184) 8.9 19.5 54.7(50.1) 42.7 0.0 248(202) 0.36
4 DUSt3R 1.9 75.1 5.6(2.3) 1.3 89.8 4.0(0.4) 3.9 41.7 40.0(5.3) 2.42
4 MV-DUSt3R 1.1 92.2 2.0(1.1) 1.0 93.3 2.0(0.4) 2.5 62.4 25.3(4.1) 0.05
4 MV-DUSt3R+ 1.0 95.2 1.5(0.9) 0.8 94.9 1.5(0.3) 2.2 68.0 19.9(3.4) 0.29
4 MV-DUSt3R_oracle 1.0 94.6 1.5(0.7) 0.8 95.5 1.3(0.3) 2.3 66.6 20.7(4.0) -
4 MV-DUSt3R+_oracle 0.9 96.5 1.4(0.7) 0.7 95.8 1.2(0.2) 2.1 70.6 17.9(3.3) -
12 Spann3R 32.6 0.0 125(113) 9.1 16.3 36.6(31.2) 35.0 0.0 138(112) 1.34
12 DUSt3R 3.9 30.7 18.1(3.4) 1.9 82.6 4.1(0.6) 6.6 12.0 49.6(8.3) 8.28
12 MV-DUSt3R 1.6 79.5 3.0(1.2) 1.4 86.8 2.3(0.8) 3.4 41.3 22.6(5.5) 0.15
12 MV-DUSt3R+ 1.2 91.5 1.8(0.7) 1.2 88.4 1.8(0.7) 2.6 55.0 15.1(3.8) 0.89
12 MV-DUSt3R_oracle 1.3 88.8 1.8(0.9) 1.0 90.6 1.3(0.7) 2.9 51.3 16.4(4.0) -
12 MV-DUSt3R+_oracle 1.1 94.8 1.4(0.7) 1.0 90.9 1.3(0.5) 2.5 59.8 13.6(3.5) -
24 Spann3R 41.7 0.0 139(121) 11.4 1.6 37.4(35.5) 46.6 0.0 151(121) 2.73
24 DUSt3R 6.8 7.3 32.4(5.2) 2.4 72.6 5.1(1.0) 11.4 2.5 80.9(14.3) 27.21
24 MV-DUSt3R 3.4 36.7 10.0(3.5) 2.2 75.2 2.7(0.9) 6.3 12.2 38.6(13.9) 0.35
24 MV-DUSt3R+ 2.1 64.5 3.9(2.0) 1.6 81.2 1.7(0.7) 4.3 26.7 22.0(5.9) 1.97
24 MV-DUSt3R_oracle 2.1 58.9 3.5(2.1) 1.4 82.9 1.4(0.7) 4.4 22.0 19.9(5.1) -
24 MV-DUSt3R+_oracle 1.8 77.9 2.6(1.3) 1.3 85.1 1.3(0.6) 3.6 33.1 15.1(4.4) -
"""
_TABLE_3 = """
4 DUSt3R 2.4 3.1 12.5 3.0 20.0 30.7 3.5 3.8 13.3
4 MV-DUSt3R 1.5 1.5 5.5 2.3 16.8 27.0 1.2 1.0 5.4
4 MV-DUSt3R+ 1.2 1.1 4.9 1.4 16.1 26.2 0.8 0.8 4.6
4 MV-DUSt3R_oracle 0.0 0.1 2.8 0.9 7.0 18.9 0.1 0.1 2.9
4 MV-DUSt3R+_oracle 0.0 0.0 2.4 0.9 6.8 18.7 0.1 0.0 2.4
12 DUSt3R 3.7 8.3 20.1 4.6 22.6 34.2 4.5 8.4 19.8
12 MV-DUSt3R 1.5 2.6 8.4 3.7 14.7 26.1 1.6 2.6 8.2
12 MV-DUSt3R+ 0.6 1.2 5.2 2.5 11.6 22.9 0.5 1.0 4.9
12 MV-DUSt3R_oracle 0.4 0.6 4.9 1.7 7.8 20.2 0.6 0.7 5.1
12 MV-DUSt3R+_oracle 0.3 0.3 3.4 1.7 6.0 17.9 0.3 0.3 3.3
24 DUSt3R 8.8 18.1 30.9 8.1 26.6 38.9 10.0 18.2 30.5
24 MV-DUSt3R 8.9 12.8 23.7 8.2 21.9 34.2 8.2 11.1 21.4
24 MV-DUSt3R+ 3.0 6.5 15.8 4.6 16.7 29.4 3.3 6.0 14.6
24 MV-DUSt3R_oracle 3.2 4.4 14.7 3.4 13.1 26.7 3.4 4.2 14.0
24 MV-DUSt3R+_oracle 1.4 2.4 11.1 2.6 9.9 23.7 1.8 2.4 10.6
"""
_TABLE_4 = """
4 DUSt3R 16.0 5.0 3.7 17.0 6.0 3.0 15.5 4.6 4.0
4 MV-DUSt3R 19.9 6.0 2.0 21.9 7.1 1.6 19.6 5.8 2.1
4 MV-DUSt3R+ 20.2 6.1 1.9 22.2 7.1 1.5 19.9 5.9 2.0
4 MV-DUSt3R_oracle 21.0 6.5 1.6 22.8 7.4 1.4 20.6 6.2 1.8
4 MV-DUSt3R+_oracle 21.4 6.6 1.5 23.0 7.4 1.4 21.0 6.3 1.7
12 DUSt3R 15.1 4.4 4.9 16.3 5.4 3.6 14.7 4.0 5.3
12 MV-DUSt3R 18.9 5.6 2.7 20.1 6.5 2.2 18.4 5.3 2.8
12 MV-DUSt3R+ 19.4 5.8 2.4 20.4 6.6 2.1 19.0 5.5 2.6
12 MV-DUSt3R_oracle 19.9 5.9 2.2 21.0 6.8 1.9 19.3 5.6 2.4
12 MV-DUSt3R+_oracle 20.4 6.1 2.0 21.3 6.8 1.8 19.9 5.8 2.2
24 DUSt3R 14.3 4.2 5.6 15.2 5.0 4.2 13.8 3.6 6.1
24 MV-DUSt3R 17.8 5.3 3.6 18.4 6.0 2.9 17.3 4.9 3.8
24 MV-DUSt3R+ 18.4 5.4 3.2 18.6 6.0 2.8 17.9 5.1 3.5
24 MV-DUSt3R_oracle 18.5 5.5 3.1 19.3 6.2 2.5 18.0 5.1 3.3
24 MV-DUSt3R+_oracle 19.0 5.6 2.9 19.4 6.2 2.5 18.5 5.3 3.1
"""
_TABLE_5 = """
4 0 1.0 94.4 1.7(1.2) 0.9 0.9 2.6 20.7 6.3 1.7
4 1 1.0 95.2 1.5(0.9) 1.2 1.1 4.9 20.2 6.1 1.9
4 2 0.9 95.5 1.5(0.8) 0.8 0.7 2.0 20.7 6.3 1.8
12 0 6.3 0.3 23.8(18.2) 15.1 17.5 34.1 16.5 4.9 4.4
12 1 1.2 91.5 1.8(0.7) 0.6 1.2 5.2 19.4 5.8 2.4
12 2 1.2 92.2 1.5(1.0) 0.4 0.8 3.8 19.5 5.9 2.2
24 0 17.7 0.0 81.4(55.5) 45.5 47.4 63.2 14.5 4.6 6.2
24 1 2.1 64.5 3.9(2.0) 3.0 6.5 15.8 18.4 5.4 3.2
24 2 1.7 81.4 2.6(1.3) 1.4 3.0 9.1 19.1 5.7 2.7
"""
_TABLE_6 = """
4 0 1.1 93.5 1.9(1.4) 1.0 93.3 2.0(0.4) 2.6 61.6 25.4(4.9)
4 1 1.1 92.2 2.0(1.1) 1.0 93.3 2.0(0.4) 2.5 62.4 25.3(4.1)
4 2 0.9 95.2 1.5(1.1) 0.8 94.8 1.4(0.4) 2.2 68.5 18.9(3.5)
4 3 1.0 95.2 1.5(0.9) 0.8 94.9 1.5(0.3) 2.2 68.0 19.9(3.4)
24 0 3.3 37.6 10.0(5.1) 2.2 75.8 2.7(0.7) 6.4 11.0 43.3(13.0)
24 1 3.4 36.7 10.0(3.5) 2.2 75.2 2.7(0.9) 6.3 12.2 38.6(13.9)
24 2 2.1 68.1 4.4(2.5) 1.4 84.9 1.5(0.5) 4.3 26.5 22.6(5.6)
24 3 2.1 64.5 3.9(2.0) 1.6 81.2 1.7(0.7) 4.3 26.7 22.0(5.9)
"""
_TEXTS = {2: _TABLE_2, 3: _TABLE_3, 4: _TABLE_4, 5: _TABLE_5, 6: _TABLE_6}


@lru_cache(maxsize=8)
def published(table: int) -> tuple[Row, ...]:
    """Return the rows of a table as the paper has them.

    Table 1 holds the times of table 2 too. Where rows have long names, as in tables 5 and 6, the
    texts above count them from 0.
    """
    return tuple(_times() if table == 1 else _rows(table))


def _times() -> Iterator[Row]:
    given = {(int(views), name): float(text) for views, name, text in _lines(_TABLE_1)}
    for row in published(2):
        if "sec" in row.values:
            given[row.views, row.name] = row.values["sec"]
    for (views, name), seconds in given.items():
        values = {"sec": seconds, "FPS": views / seconds}
        yield Row(1, views, name, TIMES_OF, PUBLISHED, values)


def _rows(table: int) -> Iterator[Row]:
    layout = LAYOUTS[table]
    columns = tuple(name for name in layout.columns if name != "sec")
    for views, name, *cells in _lines(_TEXTS[table]):
        row = layout.rows[int(name)] if name.isdigit() else name
        seconds = cells.pop() if "sec" in layout.columns else "-"
        sets = PUBLISHED_SETS if len(cells) > len(columns) else PUBLISHED_SETS[:1]
        for place, data in enumerate(sets):
            part = cells[place * len(columns) :][: len(columns)]
            values = dict(_values(columns, part))
            if seconds != "-":
                values["sec"] = float(seconds)
            yield Row(table, int(views), row, data, PUBLISHED, values)


def _values(columns: tuple[str, ...], cells: list[str]) -> Iterator[tuple[str, float]]:
    for column, text in zip(columns, cells, strict=True):
        mean, _, median = text.rstrip(")").partition("(")
        yield column, float(mean)
        if median:
            yield CD_MEDIAN, float(median)


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]
