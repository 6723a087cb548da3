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

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")

from mvdust3r_ros.datatypes import OccupancyGrid
from mvdust3r_ros.ros.grid_topics import changed_rectangle

CELLS = np.full((5, 7), -1, np.int8)


def grid(cells: np.ndarray, origin: tuple[float, float] = (0.0, 0.0)) -> OccupancyGrid:
    return OccupancyGrid(cells, 0.05, origin)


def test_the_rectangle_holds_all_changed_cells_and_no_more() -> None:
    changed = CELLS.copy()
    changed[1, 2], changed[3, 5] = 100, 0
    assert changed_rectangle(grid(CELLS), grid(changed)) == (slice(1, 4), slice(2, 6))


def test_an_equal_grid_needs_no_update() -> None:
    assert changed_rectangle(grid(CELLS), grid(CELLS.copy())) is None


def test_a_grid_of_other_cells_is_no_update() -> None:
    assert changed_rectangle(grid(CELLS), grid(np.zeros((5, 8), np.int8))) is None
    assert changed_rectangle(grid(CELLS), grid(CELLS + 1, (0.05, 0.0))) is None
