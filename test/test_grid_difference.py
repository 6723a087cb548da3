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

"""The difference of two grids: every cell of one kind, colours that everybody tells apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mvdust3r_ros.evaluation.report.grid_difference import CELLS, classify_cells, paint_cells

# How people without one kind of cones see linear RGB (Machado, Oliveira, Fernandes 2009).
VISION = {
    "all cones": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
SEEN_APART = 15.0


def lab(rgb: tuple[int, int, int], vision: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of an sRGB colour as somebody sees it."""
    c = np.array(rgb) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(vision @ linear, 0, 1) / (0.9505, 1.0, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", VISION)
def test_no_two_colours_look_alike_to_anybody(eyes: str) -> None:
    vision = np.array(VISION[eyes])
    seen = {name: lab(kind.rgb, vision) for name, kind in CELLS.items()}
    for a, b in combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > SEEN_APART, (a, b)


def test_each_pair_of_cells_is_of_one_kind() -> None:
    values = np.array([0, 100, -1], np.int8)
    estimate, truth = np.meshgrid(values, values, indexing="ij")
    kinds = classify_cells(estimate, truth)
    assert list(kinds) == list(CELLS)
    np.testing.assert_array_equal(sum(mask.astype(int) for mask in kinds.values()), 1)
    want = {
        (0, 100): "free_obstacle", (-1, 100): "unseen", (100, 0): "invented",
        (100, 100): "obstacle", (0, 0): "free", (0, -1): "beyond", (100, -1): "beyond",
        (-1, 0): "neither", (-1, -1): "neither",
    }  # fmt: skip
    image = paint_cells(kinds)
    for row in range(3):
        for col in range(3):
            name = want[int(estimate[row, col]), int(truth[row, col])]
            assert kinds[name][row, col]
            assert tuple(image[row, col]) == CELLS[name].rgb


def test_what_a_robot_would_run_into_comes_first() -> None:
    assert next(iter(CELLS)) == "free_obstacle"
