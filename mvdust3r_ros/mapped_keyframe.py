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

"""A keyframe in the map, with the points that are drawn of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, ImageArray, Keyframe
from mvdust3r_ros.geometry import R_BODY_OPTICAL
from mvdust3r_ros.range_image import RangeImage


@dataclass(frozen=True)
class MappedKeyframe:
    """What the map remembers of a committed keyframe; the map can be drawn again from these.

    Attributes:
        keyframe: the keyframe.
        T_map_cam: (4, 4) pose.
        points_cam: (N, 3) float32 points in the camera frame, metres, levelled.
        colors_rgb: (N, 3) uint8.
        conf: (N,) float32.
        window: the window that its points are from; any number, another one for each.
        level: factor by which the points have been levelled, see `depth_levels`.
    """

    keyframe: Keyframe
    T_map_cam: FloatArray
    points_cam: FloatArray
    colors_rgb: ImageArray
    conf: FloatArray
    window: int = 0
    level: float = 1.0

    def points_map(self) -> FloatArray:
        """(N, 3) float32 points in the map frame."""
        R, t = self.T_map_cam[:3, :3], self.T_map_cam[:3, 3]
        moved: FloatArray = self.points_cam @ R.T.astype(np.float32) + t.astype(np.float32)
        return moved

    def farther(self, factor: float) -> MappedKeyframe:
        """With the points so many times as far from the camera."""
        return replace(self, points_cam=self.points_cam * np.float32(factor))

    def levelled(self, level: float) -> MappedKeyframe:
        """With the points levelled by another factor."""
        return replace(self.farther(level / self.level), level=level)

    @cached_property
    def ranges(self) -> RangeImage:
        """How far it saw, in the frame of a body whose x looks along the optical axis."""
        R = R_BODY_OPTICAL.T.astype(np.float32)
        return RangeImage(np.zeros(3), self.points_cam @ R)

    def ranges_to(self, places_map: FloatArray) -> tuple[FloatArray, FloatArray]:
        """How far its camera saw in the directions of places of the map, and how far these are.

        Args:
            places_map: (M, 3) places, map frame.

        Returns:
            (M,) metres each, as `RangeImage.ranges_to` says them.
        """
        R, t = self.T_map_cam[:3, :3], self.T_map_cam[:3, 3]
        return self.ranges.ranges_to(((places_map - t) @ R) @ R_BODY_OPTICAL.T)
