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

"""A window as a row of small images: views, depth, and both maps from above."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mvdust3r_ros.datatypes import FloatArray, ImageArray


def window_row(
    rgb: ImageArray, truth: FloatArray, points: FloatArray, shown: Sequence[int]
) -> ImageArray:
    """Draw some views, true and predicted depth of the first, and both maps from above.

    Args:
        rgb: (V, S, S, 3) square views, the reference first.
        truth: (V, S, S, 3) true points in the frame of the reference.
        points: predicted points in the same frame.
        shown: indices of the views to draw.
    """
    limit = float(np.percentile(truth[0, ..., 2], 99))
    low, high = np.percentile(truth.reshape(-1, 3)[:, (0, 2)], [1, 99], axis=0)
    center, reach = (low + high) / 2, float((high - low).max()) * 0.6
    return np.concatenate(
        [
            *(rgb[k] for k in shown),
            *(_depth_tile(p[0, ..., 2], limit) for p in (truth, points)),
            *(_from_above(p, rgb, center, reach) for p in (truth, points)),
        ],
        1,
    )


def _depth_tile(depth: FloatArray, limit: float) -> ImageArray:
    grey = np.clip(depth / limit * 255, 0, 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO)[..., ::-1], np.uint8)


def _from_above(
    points: FloatArray, rgb: ImageArray, center: FloatArray, reach: float
) -> ImageArray:
    """Draw points from 0.8 m above to 1 m below the reference camera."""
    side = rgb.shape[1]
    image = np.full((side, side, 3), 30, np.uint8)
    p, color = points.reshape(-1, 3), rgb.reshape(-1, 3)
    col = ((p[:, 0] - center[0]) / reach * 0.5 + 0.5) * side
    row = (0.5 - (p[:, 2] - center[1]) / reach * 0.5) * side
    keep = (p[:, 1] > -0.8) & (p[:, 1] < 1.0)  # between ceiling and floor
    keep &= (col >= 0) & (col < side) & (row >= 0) & (row < side)
    image[row[keep].astype(int), col[keep].astype(int)] = color[keep]
    return image
