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

"""Render coloured clouds as small squares with a depth buffer, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from mvdust3r_ros.datatypes import FloatArray, ImageArray

SUPERSAMPLING = 2
"""Edges get four samples per pixel, at four times the computing time."""
MAX_SPLATS = 400_000
"""A bound on computing time: the largest picture has 1.2 million pixels."""
SPLAT_SIZE = 1.7
"""Size in point spacings: squares overlap, so that walls have no holes."""
MAX_SPLAT_PX = 15
"""A bound on computing time, which grows with the square of this size, where points are sparse."""
OUTLINE_REACH_PX = 2
"""One pixel of the picture, rendered at twice its resolution."""
OUTLINE_STRENGTH = 2.5
"""Chosen for appearance: a full drop on all four sides leaves exp(-2.5), 8 % of the light."""


@dataclass(frozen=True)
class Viewpoint:
    """An orthographic camera.

    Attributes:
        R: (3, 3) rows are the picture's right, down and forward directions in the map frame.
        centre: (3,) map point at the middle of the picture.
        px_per_m: scale.
        width: width of the picture, pixels.
        height: height of the picture, pixels.
    """

    R: FloatArray
    centre: FloatArray
    px_per_m: float
    width: int
    height: int

    def project(self, points: FloatArray) -> FloatArray:
        """Project points to (N, 3): pixel u, pixel v, distance along the view (m, any origin)."""
        local = (np.asarray(points, np.float64) - self.centre) @ self.R.T
        local[:, :2] = local[:, :2] * self.px_per_m + (self.width / 2, self.height / 2)
        projected: FloatArray = local
        return projected


def looking_down(centre: FloatArray, size_m: tuple[float, float], width: int) -> Viewpoint:
    """Return the top view of a rectangle, x to the right and y up in the picture.

    Args:
        centre: (3,) centre of the rectangle.
        size_m: its extent along x and y.
        width: width of the picture, pixels; the height follows.
    """
    px_per_m = width / size_m[0]
    R = np.array([[1.0, 0, 0], [0, -1.0, 0], [0, 0, -1.0]])
    return Viewpoint(R, centre, px_per_m, width, max(1, round(size_m[1] * px_per_m)))


def looking_from(
    azimuth_rad: float, elevation_rad: float, points: FloatArray, size_px: tuple[int, int]
) -> Viewpoint:
    """Return an oblique view that contains all points.

    Args:
        azimuth_rad: direction from the scene to the viewer, in the ground plane.
        elevation_rad: elevation of the viewer above the ground.
        points: (N, 3) points that must fit.
        size_px: width and height of the picture.
    """
    ca, sa = np.cos(azimuth_rad), np.sin(azimuth_rad)
    ce, se = np.cos(elevation_rad), np.sin(elevation_rad)
    forward = np.array([-ca * ce, -sa * ce, -se])
    right = np.array([-sa, ca, 0.0])
    R = np.stack([right, np.cross(forward, right), forward])
    local = np.asarray(points, np.float64) @ R.T
    low, high = local.min(0), local.max(0)
    extent = np.maximum(high - low, 1e-3)
    px_per_m = 0.96 * min(size_px[0] / extent[0], size_px[1] / extent[1])
    return Viewpoint(R, (low + high) / 2 @ R, float(px_per_m), *size_px)


def point_spacing(points: FloatArray) -> float:
    """Return the typical distance between neighbours, metres; 0.05 for a handful of points."""
    if len(points) < 10:
        return 0.05
    chosen = np.random.default_rng(0).choice(len(points), min(len(points), 2000), replace=False)
    return float(np.median(cKDTree(points).query(points[chosen], k=2)[0][:, 1]))


def render_cloud(
    points: FloatArray,
    colors_rgb: ImageArray,
    view: Viewpoint,
    spacing_m: float,
    background: tuple[int, int, int] = (246, 247, 249),
) -> ImageArray:
    """Render a cloud, nearest points in front, with darkened depth edges.

    Args:
        points: (N, 3) map frame.
        colors_rgb: (N, 3) uint8.
        view: the camera.
        spacing_m: typical distance between neighbours; the squares are a little larger.
        background: colour of empty pixels.

    Returns:
        (height, width, 3) uint8.
    """
    if len(points) > MAX_SPLATS:
        chosen = np.random.default_rng(0).choice(len(points), MAX_SPLATS, replace=False)
        spacing_m *= float(np.sqrt(len(points) / MAX_SPLATS))
        points, colors_rgb = points[chosen], colors_rgb[chosen]
    k = SUPERSAMPLING
    width, height = view.width * k, view.height * k
    projected = view.project(points)
    side = int(np.clip(round(SPLAT_SIZE * spacing_m * view.px_per_m * k), 1, MAX_SPLAT_PX))
    index = _nearest_point(projected, k, width, height, side)
    hit = index >= 0
    image = np.full((height, width, 3), background, np.float32)
    depth = np.full((height, width), np.inf)
    image[hit], depth[hit] = colors_rgb[index[hit]], projected[index[hit], 2]
    image[hit] *= _outline_shade(depth, spacing_m)[hit][:, None]
    small = cv2.resize(image, (view.width, view.height), interpolation=cv2.INTER_AREA)
    return np.asarray(small.clip(0, 255), np.uint8)


def _nearest_point(
    projected: FloatArray, k: int, width: int, height: int, side: int
) -> npt.NDArray[np.int64]:
    """Return (height, width) which point's square is nearest at each pixel, -1 for none."""
    order = np.argsort(-projected[:, 2], kind="stable")
    corner = np.floor(projected[order, :2] * k - side / 2 + 0.5).astype(np.int64)
    rank = np.full(height * width, -1, np.int64)
    positions = np.arange(len(order))
    for dy in range(side):
        for dx in range(side):
            u, v = corner[:, 0] + dx, corner[:, 1] + dy
            inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
            pixel, candidate = v[inside] * width + u[inside], positions[inside]
            # positions run from far to near: where squares share a pixel, the last write wins
            nearer = candidate > rank[pixel]
            rank[pixel[nearer]] = candidate[nearer]
    rank[rank >= 0] = order[rank[rank >= 0]]
    return rank.reshape(height, width)


def _outline_shade(depth: FloatArray, spacing_m: float) -> FloatArray:
    """Return a factor per pixel, darker where neighbouring pixels are much nearer."""
    padded = np.pad(depth, OUTLINE_REACH_PX, constant_values=np.inf)
    height, width = depth.shape
    reach = OUTLINE_REACH_PX
    drop = np.zeros(depth.shape)
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        rows = slice(reach * (1 + dy), reach * (1 + dy) + height)
        cols = slice(reach * (1 + dx), reach * (1 + dx) + width)
        with np.errstate(invalid="ignore"):
            nearer = depth - padded[rows, cols]
        drop += np.nan_to_num(nearer, nan=0.0, posinf=0.0, neginf=0.0).clip(0, 20 * spacing_m)
    shade: FloatArray = np.exp(-OUTLINE_STRENGTH * drop / (4 * 20 * spacing_m))
    return shade
