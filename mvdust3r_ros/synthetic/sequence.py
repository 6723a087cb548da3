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

"""A drive through a synthetic scene as a stream of frames with exact depth and pose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Frame, ImageArray, Trajectory
from mvdust3r_ros.synthetic.paths import Rig, trajectory
from mvdust3r_ros.synthetic.render import Renderer, Rendering, pinhole
from mvdust3r_ros.synthetic.scenes import Scene, sample_apartment, sample_room
from mvdust3r_ros.synthetic.textures import Rng

START_NS = 1_700_000_000_000_000_000
"""2023-11-14, UTC: a date, so that timestamps are as large as those of a robot."""
CAMERA_NAME = "camera_optical"
ROWS_AT_ONCE = 12
"""Rows of a rolling-shutter image that are rendered from one pose."""


@dataclass(frozen=True)
class SequenceConfig:
    """Configuration of a drive.

    Attributes:
        seed: seed of scene, path and noise.
        frames: number of frames.
        hw: height and width of the images.
        rate_hz: frame rate.
        step_m: distance between frames; a turn of 5 degrees counts as one step.
        apartment: an apartment of several rooms instead of one room.
        walker: a person walks around (with exact depth, too).
        noise: sensor noise, standard deviation in grey levels; 0 keeps the colours exact.
        readout_s: time from the first to the last row of an image. The middle row is read at the
            timestamp, which is also the time of the depth image.
        supersample: see `Renderer.render`.
        rig: mounting of the camera.
    """

    seed: int = 0
    frames: int = 80
    hw: tuple[int, int] = (240, 320)
    rate_hz: float = 10.0
    step_m: float = 0.08
    apartment: bool = False
    walker: bool = False
    noise: float = 2.0
    readout_s: float = 0.0
    supersample: int = 2
    rig: Rig = field(default_factory=Rig)


@dataclass(frozen=True)
class Sequence:
    """The scene of a drive, the camera, and its exact poses in the world."""

    config: SequenceConfig
    scene: Scene
    camera: CameraModel
    truth: Trajectory

    def rendering(self, index: int) -> Rendering:
        """Render a frame, with camera noise and exposure on the colours."""
        config = self.config
        scene = self.scene.at_time(index / config.rate_hz)
        pose = self.truth.T_world_cam[index]
        renderer = Renderer(scene)
        rendering = renderer.render(self.camera.K, config.hw, pose, config.supersample)
        if config.readout_s:
            rendering = rendering._replace(rgb=self._row_by_row(renderer, index))
        rng = np.random.default_rng([config.seed, index, 6])
        return rendering._replace(rgb=_sensor(rng, rendering.rgb, config.noise))

    def _row_by_row(self, renderer: Renderer, index: int) -> ImageArray:
        """Render (H, W, 3) colours in which every few rows have their own pose."""
        config, (height, width) = self.config, self.config.hw
        image = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, ROWS_AT_ONCE):
            rows = min(ROWS_AT_ONCE, height - top)
            share = (top + rows / 2) / height - 0.5
            pose = self._pose_at(index + share * config.readout_s * config.rate_hz)
            K = self.camera.K - np.array([[0, 0, 0], [0, 0, top], [0, 0, 0]], float)
            image[top : top + rows] = renderer.render(
                K, (rows, width), pose, config.supersample
            ).rgb
        return image

    def _pose_at(self, place: float) -> FloatArray:
        """Interpolate the (4, 4) camera pose between frames; extrapolate slightly at the ends."""
        T = self.truth.T_world_cam
        a = min(max(math.floor(place), 0), len(T) - 2)
        turn = Rotation.from_matrix(T[a, :3, :3].T @ T[a + 1, :3, :3]).as_rotvec()
        between = np.eye(4)
        between[:3, :3] = T[a, :3, :3] @ Rotation.from_rotvec((place - a) * turn).as_matrix()
        between[:3, 3] = T[a, :3, 3] + (place - a) * (T[a + 1, :3, 3] - T[a, :3, 3])
        return between


def make_sequence(config: SequenceConfig) -> Sequence:
    """Create scene, camera and path of a drive without rendering.

    Raises:
        SceneError: the scene of this seed has no free floor.
    """
    sample = sample_apartment if config.apartment else sample_room
    scene = sample(config.seed, walker=config.walker)
    poses = trajectory(scene, config.seed, config.frames, config.rig, config.step_m)
    K = pinhole(config.rig.fov_rad, config.hw)
    period = round(1e9 / config.rate_hz)
    stamps = START_NS + period * np.arange(config.frames, dtype=np.int64)
    camera = CameraModel(K, config.hw[1], config.hw[0])
    return Sequence(config, scene, camera, Trajectory(stamps, poses))


def synthetic_frames(seed: int, n: int, hw: tuple[int, int] = (240, 320)) -> Iterator[Frame]:
    """Yield frames of a drive through one room with exact depth; `T_odom_cam` is the exact pose.

    Args:
        seed: same seed, same frames.
        n: number of frames.
        hw: height and width in pixels.
    """
    return sequence_frames(make_sequence(SequenceConfig(seed=seed, frames=n, hw=hw)))


def sequence_frames(sequence: Sequence) -> Iterator[Frame]:
    """Yield frames of a drive, like `synthetic_frames`."""
    for k, stamp in enumerate(sequence.truth.stamps_ns):
        rendering = sequence.rendering(k)
        yield Frame(
            stamp_ns=int(stamp),
            image_rgb=rendering.rgb,
            camera=sequence.camera,
            T_odom_cam=sequence.truth.T_world_cam[k],
            depth_m=rendering.depth_m,
            camera_name=CAMERA_NAME,
        )


def _sensor(rng: Rng, rgb: ImageArray, noise: float) -> ImageArray:
    """Simulate slightly varying exposure and per-pixel noise."""
    if noise <= 0:
        return rgb
    gain = np.exp(rng.normal(0, 0.02)) * np.exp(rng.normal(0, 0.005, 3))
    noisy = rgb * gain + rng.normal(0, noise, rgb.shape)
    return np.asarray(np.clip(noisy + 0.5, 0, 255), np.uint8)


def odometry(
    sequence: Sequence, drift: float = 0.02, noise_m: float = 0.002, bias: float = 0.0
) -> FloatArray:
    """Simulate wheel odometry for the camera's poses.

    Each step is measured with an error of its length, an error of the heading, and noise, all in
    the plane. The errors are random walks over the distance, scaled so that a straight drive of 60
    m ends `drift` times 60 m from the truth (one sigma), mostly sideways.

    Args:
        sequence: the drive.
        drift: length error per metre, one sigma, drawn for each step; the heading error is a
            quarter of it in radians per metre.
        noise_m: standard deviation of each step.
        bias: a wheel of the wrong size: standard deviation of a length error that is constant over
            the drive, with a heading error of a quarter of it in radians per metre.

    Returns:
        (n, 4, 4) T_odom_cam, equal to the truth at the first frame.
    """
    rng = np.random.default_rng([sequence.config.seed, 8])
    truth = sequence.truth.T_world_cam
    scale, turn = 1 + rng.normal(0, bias), rng.normal(0, bias / 4)
    poses = [truth[0]]
    for before, after in pairwise(truth):
        step = np.linalg.inv(before) @ after
        length = float(np.linalg.norm(step[:3, 3]))
        moves = length > 1e-6
        walk = drift * rng.normal(0, 1, 2) * moves / np.sqrt(max(length, 1e-6))
        step[:3, 3] = (scale + walk[0]) * step[:3, 3] + rng.normal(0, noise_m, 3) * moves
        angle = (turn + walk[1] / 4) * length + rng.normal(0, noise_m) * moves
        pose = poses[-1] @ step
        c, s = np.cos(angle), np.sin(angle)
        pose[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ pose[:3, :3]
        pose[2, 3] = after[2, 3]
        poses.append(pose)
    return np.stack(poses)
