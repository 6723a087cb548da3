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

"""What the paper's tables look like: titles, columns, and the rows in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.wording import decimal

MEASURED, PUBLISHED = "measured", "published"
PUBLISHED_SETS = ("HM3D", "ScanNet", "MP3D")
"""Data sets of the paper, in its order."""
SYSTEMS = (
    "Spann3R", "DUSt3R", "MV-DUSt3R", "MV-DUSt3R+", "MV-DUSt3R_oracle", "MV-DUSt3R+_oracle",
    "mvs", "COLMAP",
)  # fmt: skip
"""Rows of tables 1 to 4: the paper's, in its order, then those that it lacks."""
RECIPES = ("1-stage, 4 views", "1-stage, 8 views", "2-stage, mixed views")
"""Rows of table 5."""
GS_ROWS = (
    "MV-DUSt3R, no GS heads", "MV-DUSt3R, GS heads",
    "MV-DUSt3R+, no GS heads", "MV-DUSt3R+, GS heads",
)  # fmt: skip
"""Rows of table 6."""


class PaperError(MvDust3rError):
    """A table of the paper cannot be made."""


@dataclass(frozen=True)
class Column:
    """A column of the tables.

    Attributes:
        title: with the factor or unit that the paper uses.
        digits: after the point.
        better: "less" or "more".
    """

    title: str
    digits: int
    better: str


COLUMNS = {
    "ND": Column("ND x10", 1, "less"),
    "DAc": Column("DAc %", 1, "more"),
    "CD": Column("CD x100", 1, "less"),
    "RRE": Column("RRE %", 1, "less"),
    "RTE": Column("RTE %", 1, "less"),
    "mAE": Column("mAE %", 1, "less"),
    "PSNR": Column("PSNR dB", 1, "more"),
    "SSIM": Column("SSIM x10", 1, "more"),
    "LPIPS": Column("LPIPS x10", 1, "less"),
    "sec": Column("sec", 2, "less"),
    "FPS": Column("views/s", 1, "more"),
    "MB": Column("peak MB", 0, "less"),
}
LARGE = 100.0
"""From here on, values have no digits after the point, as in the paper."""
CD_MEDIAN = "CD median"
"""Stands in brackets behind the mean."""


@dataclass(frozen=True)
class Layout:
    """One of the tables.

    Attributes:
        title: of the table.
        columns: of `COLUMNS`, in order.
        rows: names of its rows, in order.
        views: numbers of views that the paper tests.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    views: tuple[int, ...]


_NO_ORACLE = tuple(name for name in SYSTEMS if not name.endswith("_oracle"))
_SURFACE, _POSES, _IMAGES = ("ND", "DAc", "CD"), ("RRE", "RTE", "mAE"), ("PSNR", "SSIM", "LPIPS")
LAYOUTS = {
    1: Layout("Time and memory", ("sec", "FPS", "MB"), _NO_ORACLE, (4, 8, 12, 24, 48, 100)),
    2: Layout("Reconstruction", (*_SURFACE, "sec"), SYSTEMS, (4, 12, 24)),
    3: Layout("Camera poses", _POSES, SYSTEMS, (4, 12, 24)),
    4: Layout("New views", _IMAGES, SYSTEMS, (4, 12, 24)),
    5: Layout(
        "Input views in training", (*_SURFACE, *_POSES, *_IMAGES), RECIPES, (4, 12, 24)
    ),
    6: Layout("Reconstruction with Gaussian heads", _SURFACE, GS_ROWS, (4, 24)),
}  # fmt: skip
"""Number of the table -> its layout."""


@dataclass(frozen=True)
class Row:
    """A row of a table, for one number of views on one data set.

    Attributes:
        table: number of the table.
        views: input views of a window.
        name: of the system or the training, see `Layout.rows`; engines of the user have others.
        data: data set.
        source: `MEASURED` or `PUBLISHED`.
        values: column -> value in the paper's units; what was not measured is left out.
        note: what is missing and the remedy, or what the values mean; empty for nothing.
        extrapolated: whether the values follow from those at fewer views.
    """

    table: int
    views: int
    name: str
    data: str
    source: str
    values: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    extrapolated: bool = False

    def cell(self, column: str) -> str:
        """Format one value; "-" where there is none, "~" before an extrapolated one."""
        if column not in self.values:
            return "-"
        text = _text(self.values[column], column)
        if column == "CD" and CD_MEDIAN in self.values:
            return f"{text}({_text(self.values[CD_MEDIAN], column)})"
        return f"~{text}" if self.extrapolated else text


def _text(value: float, column: str) -> str:
    return decimal(value, 0 if abs(value) >= LARGE else COLUMNS[column].digits)
