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

"""Range image of a view by direction, independent of its intrinsics."""

from __future__ import annotations

import cv2
import numpy as np

from mvdust3r_ros.datatypes import BoolArray, FloatArray

MIN_RANGE_POINTS = 16
"""Fewer rays do not reveal their density and are ignored."""
RAYS_PER_BIN = 2.0
"""Insensitive from 1 to 2 (benchmarks/constants.py); at 4 the nearest ray of a bin hides what lies
next to it, and the precision of obstacles falls from 82 % to 78 %."""
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
"""A bin and its four neighbours."""
PITCH_RAD = (np.radians(0.2), np.radians(4.0))
"""Limits of the bin size that no view of the trials reaches: a pixel of a wide view, and 20 cm at
3 m."""


class RangeImage:
    """Shortest range in each bin of azimuth and elevation around a camera.

    The bin size follows the density of the points, about two rays per bin. A camera that looks
    straight up or down gets larger bins, which see less far.
    """

    def __init__(self, camera_map: FloatArray, points_map: FloatArray) -> None:
        """Sort the points into bins.

        Args:
            camera_map: (3,) camera centre.
            points_map: (N, 3) points it saw.
        """
        self._camera = np.asarray(camera_map, np.float32)
        self._heading = 0.0
        self._empty = len(points_map) < MIN_RANGE_POINTS
        if self._empty:
            return
        mean = points_map.mean(0) - camera_map
        self._heading = float(np.arctan2(mean[1], mean[0]))
        angles, ranges = self._directions(points_map)
        self._low = angles.min(1)
        span = angles.max(1) - self._low
        pitch = np.sqrt(RAYS_PER_BIN * max(float(span[0] * span[1]), 1e-9) / len(points_map))
        self._pitch = float(np.clip(pitch, *PITCH_RAD))
        self._shape = tuple((span[::-1] // self._pitch + 1).astype(int).tolist())
        rows, cols = (
            i.clip(0, n - 1) for i, n in zip(self._bins(angles), self._shape, strict=True)
        )
        nearest = np.full(self._shape, np.inf, np.float32)
        np.minimum.at(nearest, (rows, cols), ranges)
        # a thin object between two rays may be hit by one of them: use the nearer one
        self._nearest = cv2.erode(nearest, CROSS)
        self._nearest[np.isinf(nearest)] = 0.0

    def sees_past(self, places_map: FloatArray, margin_m: float) -> BoolArray:
        """(M,) mask of the places that the view sees past on all sides.

        Args:
            places_map: (M, 3) places in the frame of the camera's centre.
            margin_m: how far beyond the place the rays must end.
        """
        seen_m, ranges = self.ranges_to(places_map)
        past: BoolArray = seen_m > ranges + margin_m
        return past

    def ranges_to(self, places_map: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return observed ranges in the directions of places, and the ranges of the places.

        Args:
            places_map: (M, 3) places in the frame of the camera's centre.

        Returns:
            (M,) range of the nearest surrounding ray, 0 if there is none; (M,) range of the place.
        """
        if self._empty or len(places_map) == 0:
            return np.zeros(len(places_map), np.float32), np.zeros(len(places_map), np.float32)
        angles, ranges = self._directions(places_map)
        rows, cols = self._bins(angles)
        inside = (rows >= 0) & (rows < self._shape[0]) & (cols >= 0) & (cols < self._shape[1])
        seen_m = self._nearest[np.where(inside, rows, 0), np.where(inside, cols, 0)]
        return np.where(inside, seen_m, np.float32(0)), ranges

    def _directions(self, places_map: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Azimuth from the heading, in (-pi, pi], and elevation (2, N); range (N,)."""
        d = places_map.astype(np.float32) - self._camera
        level = np.hypot(d[:, 0], d[:, 1])
        c, s = np.float32(np.cos(self._heading)), np.float32(np.sin(self._heading))
        azimuth = np.arctan2(c * d[:, 1] - s * d[:, 0], c * d[:, 0] + s * d[:, 1])
        return np.stack([azimuth, np.arctan2(d[:, 2], level)]), np.hypot(level, d[:, 2])

    def _bins(self, angles: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return row and column of each direction; they may lie outside the image."""
        cols, rows = np.floor((angles - self._low[:, None]) / self._pitch).astype(np.int64)
        return rows, cols
