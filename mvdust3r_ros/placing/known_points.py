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

"""Joints of a window with mapped points: weighted point pairs, robustly fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvdust3r_ros.datatypes import BoolArray, FloatArray, is_point
from mvdust3r_ros.geometry import Sim3, align_sim3_robust
from mvdust3r_ros.window.window_geometry import NEAREST, WindowGeometry


@dataclass(frozen=True, eq=False)
class Pointmap:
    """Thinned points of a view, used to join windows and loops to it.

    Attributes:
        stored_cam: (h, w, 3) in the camera frame, as first seen.
        conf: (h, w) confidence, see `is_point`.
        size: metres per stored unit, by the current estimate.
    """

    stored_cam: FloatArray
    conf: FloatArray
    size: float = 1.0

    @property
    def points_cam(self) -> FloatArray:
        """(h, w, 3) points in the camera frame, metres."""
        return times(self.stored_cam, self.size)

    @property
    def valid(self) -> BoolArray:
        """(h, w) mask of the pixels that have a point."""
        return is_point(self.conf)

    def resized(self, factor: float) -> Pointmap:
        """Return the points with their distances from the camera scaled by a factor."""
        return replace(self, size=self.size * factor)


def times(points: FloatArray, factor: float) -> FloatArray:
    """Return points scaled by a factor; the same array for 1."""
    return points if factor == 1.0 else np.asarray(points * points.dtype.type(factor))


@dataclass(frozen=True, eq=False)
class KnownView:
    """A view of a window that has points in the map.

    Attributes:
        index: of the view.
        known: its points in the map.
        T_map_cam: (4, 4) its pose in the map.
    """

    index: int
    known: Pointmap
    T_map_cam: FloatArray

    def use(self, geometry: WindowGeometry) -> BoolArray:
        """(h, w) mask of the pixels with a point both in the window and in the map."""
        return np.asarray(geometry.valid[self.index] & self.known.valid)


@dataclass(frozen=True, eq=False)
class Joint:
    """Pairs of points of a window and of the map.

    Attributes:
        window: (N, 3) in the window's frame.
        map: (N, 3) in the map frame.
        weight: (N,) weight.
        depth: (N,) distance from the camera in the map, metres.
    """

    window: FloatArray
    map: FloatArray
    weight: FloatArray
    depth: FloatArray

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.depth)

    def fit(self) -> tuple[Sim3, FloatArray]:
        """Return the similarity from the window to the map, and the (N,) residuals (m).

        Raises:
            AlignmentError: the points do not determine it.
        """
        return align_sim3_robust(self.window, self.map, self.weight, symmetric=True)


def joint_of(geometry: WindowGeometry, known: Sequence[KnownView]) -> Joint:
    """Return the point pairs of all pixels of views with points in the map."""
    window, in_map, weights, depths = [], [], [], []
    for view in known:
        use = view.use(geometry)
        points_cam, T = view.known.points_cam[use].astype(np.float64), view.T_map_cam
        depth = np.maximum(np.linalg.norm(points_cam, axis=1), NEAREST)
        sure = np.log(np.minimum(geometry.conf[view.index], view.known.conf)[use])
        window.append(geometry.points[view.index][use].astype(np.float64))
        in_map.append(points_cam @ T[:3, :3].T + T[:3, 3])
        weights.append(sure / depth_product(geometry, view.index, use, depth))
        depths.append(depth)
    nothing = np.zeros((0, 3))
    return Joint(
        np.concatenate([nothing, *window]),
        np.concatenate([nothing, *in_map]),
        np.concatenate([np.zeros(0), *weights]),
        np.concatenate([np.zeros(0), *depths]),
    )


def depth_product(
    geometry: WindowGeometry, index: int, use: BoolArray, depth_map: FloatArray
) -> FloatArray:
    """Return (N,) divisors for the weights of a view's pixels, roughly the squared depth.

    They are the product of the depths measured in window and map. With the square of only one of
    them, points that it measures too near would weigh more and bias the scale.

    Args:
        geometry: the window.
        index: the view.
        use: (h, w) pixels.
        depth_map: (N,) their depth in the map, metres.
    """
    depth_map = np.maximum(depth_map, NEAREST)
    if geometry.poses[index] is None or not depth_map.size:
        return depth_map**2
    window = geometry.distance(index, use)
    scale = float(np.median(depth_map) / max(float(np.median(window)), 1e-9))
    product: FloatArray = np.maximum(scale * window.astype(np.float64), NEAREST) * depth_map
    return product
