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

"""Cell by cell difference of a grid and the true one, in colours safe for colour blindness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import (
    FREE,
    OCCUPIED,
    BoolArray,
    FloatArray,
    ImageArray,
    OccupancyGrid,
)


@dataclass(frozen=True)
class CellKind:
    """A combination of estimated and true cell value.

    Attributes:
        rgb: its colour.
        label: for the legend.
    """

    rgb: tuple[int, int, int]
    label: str


CELLS = {
    "free_obstacle": CellKind((213, 60, 0), "free but truly an obstacle"),
    "unseen": CellKind((250, 195, 60), "unknown but truly an obstacle"),
    "invented": CellKind((0, 114, 178), "obstacle but truly free"),
    "beyond": CellKind((140, 120, 100), "known where the truth is not"),
    "obstacle": CellKind((31, 36, 48), "obstacle in both"),
    "free": CellKind((255, 255, 255), "free in both"),
    "neither": CellKind((200, 204, 210), "unknown, and no obstacle"),
}
"""Kinds of cells; the first is the one a robot would run into."""


def classify_cells(
    estimate: npt.NDArray[np.int8], truth: npt.NDArray[np.int8]
) -> dict[str, BoolArray]:
    """Classify cells; each cell belongs to exactly one kind.

    Args:
        estimate: (rows, cols) cells of the map: 0 free, 100 occupied, -1 unknown.
        truth: cells of the true grid, on the same lattice.
    """
    free, obstacle = estimate == FREE, estimate == OCCUPIED
    truly_free, truly_obstacle = truth == FREE, truth == OCCUPIED
    known, truly_known = free | obstacle, truly_free | truly_obstacle
    return {
        "free_obstacle": free & truly_obstacle,
        "unseen": ~known & truly_obstacle,
        "invented": obstacle & truly_free,
        "beyond": known & ~truly_known,
        "obstacle": obstacle & truly_obstacle,
        "free": free & truly_free,
        "neither": ~known & ~truly_obstacle,
    }


def paint_cells(classes: dict[str, BoolArray]) -> ImageArray:
    """Return the (rows, cols, 3) colour of each cell."""
    image = np.zeros((*classes["neither"].shape, 3), np.uint8)
    for name, mask in classes.items():
        image[mask] = CELLS[name].rgb
    return image


def common_origin(estimate: OccupancyGrid, truth: OccupancyGrid) -> FloatArray:
    """Return the (2,) lower left corner of the lattice of `on_common_lattice`, metres."""
    res, true_corner = truth.resolution_m, np.array(truth.origin_xy_m)
    least = np.minimum(np.array(estimate.origin_xy_m), true_corner)
    corner: FloatArray = true_corner + np.floor((least - true_corner) / res + 1e-6) * res
    return corner
