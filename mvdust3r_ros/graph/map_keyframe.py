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

"""A keyframe in the map: its pose, and the part of its observations that the map keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mvdust3r_ros.datatypes import Descriptor, FloatArray, ImageArray, Keyframe, PixelGaussians
from mvdust3r_ros.geometry import R_BODY_OPTICAL
from mvdust3r_ros.graph.range_image import RangeImage
from mvdust3r_ros.placing.known_points import Pointmap, times

NO_DESCRIPTOR = Descriptor("", np.zeros(0, np.float32))


@dataclass(frozen=True, eq=False)
class MapKeyframe:
    """A committed keyframe, with everything needed to draw it again.

    Attributes:
        keyframe: the keyframe.
        T_map_cam: (4, 4) pose.
        stored_cam: (N, 3) float32 points to draw, camera frame, in a window's units. Corrections
            of size do not change the array, which several revisions of the map share.
        colors_rgb: (N, 3) uint8.
        conf: (N,) float32.
        pointmap: its points as seen by the window that added it.
        window: number that identifies the window of its points to draw.
        size: metres per stored unit, by the current estimate.
        level: additional factor that levels its depth, see `depth_levels`.
        descriptor: appearance of the place.
        sized_by: number of the window in the scale history whose size it follows.
        network_share: share of the motion to it that follows that size, see `FusedPoses`.
        floor_cam: (3,) visible floor, camera frame, metres; None if it sees none.
        gaussians: (N,) of the points to draw, camera frame, in their unit; None from an engine
            without, and in a loaded map.
    """

    keyframe: Keyframe
    T_map_cam: FloatArray
    stored_cam: FloatArray
    colors_rgb: ImageArray
    conf: FloatArray
    pointmap: Pointmap
    window: int = 0
    size: float = 1.0
    level: float = 1.0
    descriptor: Descriptor = NO_DESCRIPTOR
    sized_by: int = 0
    network_share: float = 1.0
    floor_cam: FloatArray | None = None
    gaussians: PixelGaussians | None = None

    @property
    def id(self) -> int:
        """Id of the keyframe."""
        return self.keyframe.id

    @property
    def points_cam(self) -> FloatArray:
        """(N, 3) float32 points to draw, camera frame, metres, levelled."""
        return times(self.stored_cam, self.size * self.level)

    def points_map(self) -> FloatArray:
        """Return (N, 3) float32 points to draw, map frame."""
        R, t = self.T_map_cam[:3, :3], self.T_map_cam[:3, 3]
        moved: FloatArray = self.points_cam @ R.T.astype(np.float32) + t.astype(np.float32)
        return moved

    @property
    def floor_z_m(self) -> float | None:
        """Height of the floor that it sees, map frame; None if it sees none."""
        T = self.T_map_cam
        return None if self.floor_cam is None else float(T[2, :3] @ self.floor_cam + T[2, 3])

    def resized(self, factor: float) -> MapKeyframe:
        """Return it with the distances of all points from the camera scaled by a factor."""
        return replace(
            self, size=self.size * factor, pointmap=self.pointmap.resized(factor),
            floor_cam=None if self.floor_cam is None else factor * self.floor_cam,
        )  # fmt: skip

    def levelled(self, level: float) -> MapKeyframe:
        """Return it with another level of the points to draw."""
        return replace(self, level=level)

    def drawn_as(self, other: MapKeyframe) -> MapKeyframe:
        """Return it with the points to draw of another window's view of it."""
        return replace(
            self, stored_cam=other.stored_cam, colors_rgb=other.colors_rgb, conf=other.conf,
            window=other.window, size=other.size, level=other.level, gaussians=other.gaussians,
        )  # fmt: skip

    @cached_property
    def ranges(self) -> RangeImage:
        """Range image in a body frame whose x axis is the optical axis."""
        R = R_BODY_OPTICAL.T.astype(np.float32)
        return RangeImage(np.zeros(3), self.points_cam @ R)

    def ranges_to(self, places_map: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return observed ranges in the directions of map places, and the ranges of the places.

        Args:
            places_map: (M, 3) places, map frame.

        Returns:
            (M,) metres each, see `RangeImage.ranges_to`.
        """
        R, t = self.T_map_cam[:3, :3], self.T_map_cam[:3, 3]
        return self.ranges.ranges_to(((places_map - t) @ R) @ R_BODY_OPTICAL.T)
