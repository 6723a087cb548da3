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

"""Training windows for the engine `mvs`: rooms seen in short steps, with grain.

The network has to learn to read a cost volume. These rooms therefore add what a robot's camera
sees and `make_window` lacks: steps of all lengths, surfaces with and without fine grain,
reflective floors, and fields of view from 50 to 100 degrees. Sizes and fractions are chosen: those
of real floors and walls, and somewhat beyond.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np

from mvdust3r_ros.datatypes import FloatArray, ImageArray
from mvdust3r_ros.geometry import backproject, interpolate_se3
from mvdust3r_ros.synthetic.dataset import CHECK_PX, RoomWindow, drawn_scenes
from mvdust3r_ros.synthetic.paths import window_poses
from mvdust3r_ros.synthetic.render import Renderer, pinhole
from mvdust3r_ros.synthetic.scenes import Scene, SceneError
from mvdust3r_ros.synthetic.textures import Rng

LATTICE = 32
"""Cells per side of the block of random values that the grain repeats in space."""
COARSEST_M, OCTAVES = 0.32, 6
"""Cell of the coarsest octave of grain; each further octave is half as large."""
PATCH_M = 1.3
"""Cell of the noise that determines where there is grain."""
SHINY_SHARE = 0.35
"""Fraction of the rooms with a reflective floor."""
LEAST_REFLECTED = (0.02, 0.3)
"""Range of the fraction of light from straight above that a reflective floor reflects."""
ON_FLOOR_M = 2e-3
"""Points this close to z = 0 belong to the floor: far above the rounding of depth."""
MIN_DEPTH_M, MIN_MEDIAN_M = 0.12, 0.5
"""A view with a smaller minimum has collided with an object; with a smaller median, it shows a
single surface."""


def make_mvs_window(seed: int, views: int, hw: tuple[int, int]) -> RoomWindow:
    """Make the window of a seed: a room or apartment along a robot's path, in steps of all sizes.

    Args:
        seed: same seed, same window.
        views: number of views.
        hw: height and width in pixels.

    Raises:
        SceneError: 200 layouts of this seed gave no usable path.
    """
    for rng, scene, rig in drawn_scenes(seed, 11):
        between = int(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2]))
        try:
            stops = window_poses(rng, scene, rig, -(-(views - 1) // between) + 1)
        except SceneError:
            continue
        if stops is None:
            continue
        poses = _with_steps_between(stops, between)[:views]
        renderer = Renderer(scene, "cpu")
        K = pinhole(rig.fov_rad, (CHECK_PX, CHECK_PX))
        checks = [renderer.depth(K, (CHECK_PX, CHECK_PX), T) for T in poses]
        if any(d.min() < MIN_DEPTH_M or np.median(d) < MIN_MEDIAN_M for d in checks):
            continue
        K = pinhole(rig.fov_rad, hw)
        renderings = [renderer.render(K, hw, T) for T in poses]
        grain = Grain(rng)
        gloss = Gloss(rng, scene)
        rgb = np.stack(
            [
                gloss.on(grain.on(s.rgb, s.depth_m, K, T), s.depth_m, K, T)
                for s, T in zip(renderings, poses, strict=True)
            ]
        )
        return RoomWindow(rgb, np.stack([s.depth_m for s in renderings]), K, poses, scene)
    raise SceneError(f"no window of {views} views found for seed {seed}")


def _with_steps_between(stops: FloatArray, between: int) -> FloatArray:
    """Return the poses with each step divided into `between` equal ones."""
    if between == 1:
        return stops
    parts = [
        interpolate_se3(a, b, k / between) for a, b in pairwise(stops) for k in range(between)
    ]
    return np.stack([*parts, stops[-1]])


def _points_world(depth_m: FloatArray, K: FloatArray, T_world_cam: FloatArray) -> FloatArray:
    """Return the (H, W, 3) points of a depth image."""
    points = backproject(depth_m, K) @ T_world_cam[:3, :3].T + T_world_cam[:3, 3]
    return np.asarray(points)


class Gloss:
    """A floor that may mirror the objects standing on it."""

    def __init__(self, rng: Rng, scene: Scene) -> None:
        """Draw whether the floor reflects, how much, and how clearly."""
        shiny = rng.random() < SHINY_SHARE
        self._least = float(rng.uniform(*LEAST_REFLECTED))
        self._blur_px = int(rng.choice([1, 3, 5]))
        # a room's floor comes first, then its ceiling
        above = scene.parts[1 : 2 * len(scene.rooms) : 2] + scene.parts[2 * len(scene.rooms) :]
        self._above = Renderer(replace(scene, parts=above), "cpu") if shiny else None

    def on(
        self, rgb: ImageArray, depth_m: FloatArray, K: FloatArray, T_world_cam: FloatArray
    ) -> ImageArray:
        """Add reflections to the image, by Schlick's law; shapes as for `Grain.on`."""
        if self._above is None:
            return rgb
        points = _points_world(depth_m, K, T_world_cam)
        floor = (np.abs(points[..., 2]) < ON_FLOOR_M) & (depth_m > 0)
        upside_down = np.diag([1.0, 1.0, -1.0, 1.0]) @ T_world_cam
        height, width = depth_m.shape
        shown = self._above.render(K, (height, width), upside_down, supersample=1).rgb
        mirrored = cv2.blur(shown, (self._blur_px, self._blur_px))
        away = points - T_world_cam[:3, 3]
        steep = np.abs(away[..., 2]) / np.linalg.norm(away, axis=-1).clip(1e-6)
        share = (self._least + (1 - self._least) * (1 - steep) ** 5) * floor
        mixed = rgb + share[..., None] * (mirrored.astype(np.float64) - rgb)
        return np.asarray(mixed, np.uint8)


class Grain:
    """Noise fixed in space that darkens and lightens some surfaces and leaves others plain.

    Attributes:
        strength: amplitude, as the logarithm of a factor.
    """

    def __init__(self, rng: Rng) -> None:
        """Draw the noise, its strength and how much of the room it covers."""
        self._values = rng.standard_normal((LATTICE,) * 3).astype(np.float32)
        self._shift = rng.uniform(0, LATTICE, (OCTAVES + 1, 3))
        self.strength = float(rng.uniform(0.0, 0.35))
        self._bare = float(rng.normal(-0.1, 0.35))
        decay = rng.uniform(0.6, 1.0)
        self._weights = decay ** np.arange(OCTAVES)
        self._weights /= math.sqrt(float((self._weights**2).sum()))

    def on(
        self, rgb: ImageArray, depth_m: FloatArray, K: FloatArray, T_world_cam: FloatArray
    ) -> ImageArray:
        """Add grain to the image.

        Args:
            rgb: (H, W, 3) uint8.
            depth_m: (H, W).
            K: (3, 3) intrinsics.
            T_world_cam: (4, 4).
        """
        points = _points_world(depth_m, K, T_world_cam)
        pixel_m = depth_m / K[0, 0]
        where = np.clip(2 * (self._noise(points, PATCH_M, OCTAVES) - self._bare), 0, 1)
        total = np.zeros(depth_m.shape, np.float32)
        for octave, weight in enumerate(self._weights):
            cell_m = COARSEST_M / 2**octave
            seen = np.clip(1.5 - 2 * pixel_m / cell_m, 0, 1)
            total += weight * seen * self._noise(points, cell_m, octave)
        factor = np.exp(self.strength * where * total)[..., None]
        return np.asarray(np.clip(rgb * factor, 0, 255), np.uint8)

    def _noise(self, points: FloatArray, cell_m: float, octave: int) -> FloatArray:
        """Look up the periodic noise with trilinear interpolation."""
        at = points / cell_m + self._shift[octave]
        low = np.floor(at).astype(np.int64)
        part = (at - low).astype(np.float32)
        i0, i1 = low % LATTICE, (low + 1) % LATTICE
        total = np.zeros(points.shape[:-1], np.float32)
        for corner in range(8):
            bits = [(corner >> axis) & 1 for axis in range(3)]
            index = [(i1 if b else i0)[..., axis] for axis, b in enumerate(bits)]
            weight = np.ones_like(total)
            for axis, bit in enumerate(bits):
                weight *= part[..., axis] if bit else 1 - part[..., axis]
            total += weight * self._values[index[0], index[1], index[2]]
        return total
