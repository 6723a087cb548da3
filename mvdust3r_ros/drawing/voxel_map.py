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

"""Fusion of the points of many windows into voxels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from mvdust3r_ros.datatypes import FloatArray, ImageArray, MvDust3rError

KEY_BITS = 21
"""Three indices fit into one 64-bit integer."""
KEY_OFFSET = 1 << (KEY_BITS - 1)
# columns of the table of voxels
X, COLOR, CONF, WEIGHT, HITS = slice(0, 3), slice(3, 6), 6, 7, 8
CHANNELS = 9
"""Number of columns."""
Cloud = tuple[FloatArray, ImageArray, FloatArray]
"""Points (N, 3) float32, colours (N, 3) uint8 and confidence (N,)."""


class VoxelMapError(MvDust3rError):
    """Points cannot be added to the map."""


class VoxelMap:
    """Sparse voxels with confidence-weighted mean position and colour.

    Integration time depends only on the number of new points, not on the size of the map: voxels
    are rows of a growing table, hashed by their packed index (Niessner et al. 2013).
    """

    def __init__(self, voxel_size_m: float) -> None:
        """Start empty.

        Args:
            voxel_size_m: side of a voxel.
        """
        self.voxel_size_m = voxel_size_m
        self._rows: dict[int, int] = {}
        self._sums = np.zeros((1024, CHANNELS))

    def __len__(self) -> int:
        """Number of occupied voxels."""
        return len(self._rows)

    def integrate(self, points_map: FloatArray, colors_rgb: ImageArray, conf: FloatArray) -> None:
        """Add points.

        Args:
            points_map: (N, 3) finite points in the map frame, metres.
            colors_rgb: (N, 3) uint8.
            conf: (N,) confidence above 1; the weight is its logarithm.

        Raises:
            VoxelMapError: the shapes differ or a point is out of the map's range.
        """
        if not len(points_map) == len(colors_rgb) == len(conf):
            raise VoxelMapError(
                f"{len(points_map)} points, {len(colors_rgb)} colours, {len(conf)} confidences"
            )
        if len(points_map) == 0:
            return
        keys = self._keys(points_map)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        rows = self._rows_for(keys[starts].tolist())
        ends = np.append(starts, len(keys))
        weight = np.maximum(np.log(np.maximum(conf, 1.0)), 1e-3)  # zero weight has no mean
        voxel_from_point = csr_array((weight[order], order, ends), (len(rows), len(keys)))
        self._sums[rows, :HITS] += voxel_from_point @ _columns(points_map, colors_rgb, conf)
        self._sums[rows, HITS] += np.diff(ends)

    def keep_within(self, centre: FloatArray, radius_m: float) -> None:
        """Drop voxels with points beyond `radius_m` of `centre` (3,)."""
        sums = self._sums[: len(self._rows)]
        mean = sums[:, X] / np.maximum(sums[:, WEIGHT : WEIGHT + 1], 1e-12)
        near = np.linalg.norm(mean - centre, axis=1) <= radius_m
        kept = [key for key, keep in zip(self._rows, near.tolist(), strict=True) if keep]
        self._rows = {key: row for row, key in enumerate(kept)}
        self._sums = np.zeros((max(1024, 2 * len(kept)), CHANNELS))
        self._sums[: len(kept)] = sums[near]

    def check_reach(self, points_map: FloatArray) -> None:
        """Raise VoxelMapError if `integrate` would refuse these points."""
        self._keys(points_map)

    def _keys(self, points_map: FloatArray) -> npt.NDArray[np.int64]:
        cells = np.floor(points_map / self.voxel_size_m)
        if not np.all(np.abs(cells) < KEY_OFFSET):  # false for NaN as well
            reach_m = KEY_OFFSET * self.voxel_size_m
            raise VoxelMapError(f"a point is not finite or farther than {reach_m:.0f} m")
        index = cells.astype(np.int64) + KEY_OFFSET
        keys: npt.NDArray[np.int64] = (
            (index[:, 0] << (2 * KEY_BITS)) | (index[:, 1] << KEY_BITS) | index[:, 2]
        )
        return keys

    def _rows_for(self, keys: list[int]) -> npt.NDArray[np.int64]:
        """Return the row of each key, appending new rows; the keys are unique."""
        table = self._rows
        rows = [table.setdefault(key, len(table)) for key in keys]
        if len(table) > len(self._sums):
            grown = np.zeros((max(2 * len(self._sums), len(table)), CHANNELS))
            grown[: len(self._sums)] = self._sums
            self._sums = grown
        return np.asarray(rows, np.int64)

    def cloud(self, min_hits: int = 1) -> Cloud:
        """Return position (N, 3) float32, colour (N, 3) uint8 and confidence (N,) of all voxels.

        Args:
            min_hits: voxels with fewer points are omitted.
        """
        sums = self._sums[: len(self._rows)]
        sums = sums[sums[:, HITS] >= min_hits]
        weight = sums[:, WEIGHT : WEIGHT + 1]
        points = (sums[:, X] / weight).astype(np.float32)
        colors = np.clip(np.rint(sums[:, COLOR] / weight), 0, 255).astype(np.uint8)
        return points, colors, (sums[:, CONF] / weight[:, 0]).astype(np.float32)


def _columns(points: FloatArray, colors: ImageArray, conf: FloatArray) -> FloatArray:
    """Return (N, HITS) position, colour, confidence and 1, the terms of the weighted sums."""
    columns = np.empty((len(points), HITS))
    columns[:, X] = points
    columns[:, COLOR] = colors
    columns[:, CONF] = conf
    columns[:, WEIGHT] = 1.0
    return columns
