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

"""A furnished box room whose depth is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Frame, ImageArray
from mvdust3r_ros.geometry import R_BODY_OPTICAL, make_se3, pixel_grid


@dataclass(frozen=True)
class BoxRoom:
    """Walls, floor (z = 0) and ceiling of a box, and one cupboard inside; z up, metres."""

    size: tuple[float, float, float] = (6.0, 5.0, 2.6)
    cupboard_low: tuple[float, float, float] = (2.5, 2.0, 0.0)
    cupboard_high: tuple[float, float, float] = (3.5, 3.0, 1.0)
    image_wh: tuple[int, int] = (96, 72)
    focal_px: float = 55.0

    @property
    def K(self) -> FloatArray:  # noqa: N802
        width, height = self.image_wh
        f = self.focal_px
        return np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])

    def camera(self) -> CameraModel:
        return CameraModel(self.K, *self.image_wh)

    def pose(self, x: float, y: float, z: float, yaw_deg: float, pitch_deg: float) -> FloatArray:
        """T_world_cam of a camera looking along yaw, pitched down by pitch_deg."""
        yaw, pitch = np.radians([yaw_deg, pitch_deg])
        c, s = np.cos(yaw), np.sin(yaw)
        R_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        c, s = np.cos(pitch), np.sin(pitch)
        R_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        return make_se3(R_z @ R_y @ R_BODY_OPTICAL, np.array([x, y, z]))

    def walk(self, count: int, turns: float = 1.0) -> list[FloatArray]:
        """Poses on an ellipse around the cupboard, looking ahead and a little inwards."""
        poses = []
        for angle in np.linspace(0, 2 * np.pi * turns, count, endpoint=False):
            x = self.size[0] / 2 + 1.9 * np.cos(angle)
            y = self.size[1] / 2 + 1.6 * np.sin(angle)
            yaw = np.degrees(angle) + 110 + 5 * np.sin(5 * angle)
            poses.append(self.pose(x, y, 1.3 + 0.05 * np.sin(3 * angle), yaw, 20.0))
        return poses

    def depth(self, T_world_cam: FloatArray) -> FloatArray:
        """(H, W) float32 depth along the optical axis."""
        width, height = self.image_wh
        uv = pixel_grid(height, width)
        rays = np.concatenate([uv - self.K[:2, 2], np.full((height, width, 1), self.focal_px)], -1)
        rays = rays / self.focal_px @ T_world_cam[:3, :3].T
        origin = T_world_cam[:3, 3]
        with np.errstate(divide="ignore"):
            to_walls = (np.where(rays > 0, self.size, 0.0) - origin) / rays
            to_low = (self.cupboard_low - origin) / rays
            to_high = (self.cupboard_high - origin) / rays
        depth = to_walls.min(-1)
        enter, leave = np.minimum(to_low, to_high).max(-1), np.maximum(to_low, to_high).min(-1)
        hit = (enter < leave) & (enter > 0)
        nearest: FloatArray = np.where(hit, np.minimum(depth, enter), depth).astype(np.float32)
        return nearest

    def image(self, T_world_cam: FloatArray) -> ImageArray:
        """Tiles of 25 cm, each with a colour of its own."""
        points = self.points(T_world_cam)
        tile = np.floor(points * 4 + 1e-3).astype(np.int64)
        mixed = (tile * (73856093, 19349663, 83492791)).sum(-1)
        return np.stack([mixed * k % 251 for k in (1, 7, 31)], -1).astype(np.uint8)

    def points(self, T_world_cam: FloatArray) -> FloatArray:
        """(H, W, 3) surface points in the world."""
        width, height = self.image_wh
        uv = pixel_grid(height, width)
        rays = np.concatenate([uv - self.K[:2, 2], np.full((height, width, 1), self.focal_px)], -1)
        cam = rays / self.focal_px * self.depth(T_world_cam)[..., None]
        points: FloatArray = cam @ T_world_cam[:3, :3].T + T_world_cam[:3, 3]
        return points

    def frame(self, stamp_ns: int, T_world_cam: FloatArray) -> Frame:
        return Frame(
            stamp_ns, self.image(T_world_cam), self.camera(), T_world_cam, self.depth(T_world_cam)
        )

    def frames(self, poses: list[FloatArray], period_ns: int = 200_000_000) -> list[Frame]:
        return [self.frame((i + 1) * period_ns, T) for i, T in enumerate(poses)]

    def distance_to_surface(self, points: FloatArray) -> FloatArray:
        """Distance of points (N, 3) to the nearest surface of room or cupboard."""
        to_walls = np.minimum(np.abs(points), np.abs(points - self.size)).min(-1)
        low, high = np.array(self.cupboard_low), np.array(self.cupboard_high)
        outside = np.linalg.norm(np.maximum(np.maximum(low - points, points - high), 0), axis=-1)
        inside = np.minimum(points - low, high - points).min(-1)
        distance: FloatArray = np.minimum(to_walls, np.where(inside > 0, inside, outside))
        return distance


def with_drift(frames: list[Frame], deg: float) -> list[Frame]:
    """The frames with odometry that turns too far by an angle in each; the truth beside it."""
    c, s = np.cos(np.radians(deg)), np.sin(np.radians(deg))
    too_far = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    poses = [_odometry(frames[0])]
    for before, after in pairwise(frames):
        pose = poses[-1] @ np.linalg.inv(_odometry(before)) @ _odometry(after)
        pose[:3, :3] = too_far @ pose[:3, :3]
        poses.append(pose)
    return [
        replace(f, T_odom_cam=T, T_world_cam=f.T_odom_cam)
        for f, T in zip(frames, poses, strict=True)
    ]


def _odometry(frame: Frame) -> FloatArray:
    assert frame.T_odom_cam is not None
    return frame.T_odom_cam
