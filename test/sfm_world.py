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

"""Points in space and what cameras see of them: exact geometry, with noise and mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray, View
from mvdust3r_ros.geometry import invert_se3, make_se3, rotation_angle_deg
from mvdust3r_ros.sfm.bundle import Observations, Scene
from mvdust3r_ros.sfm.features import ViewFeatures

HW = (288, 384)
K = np.array([[300.0, 0, 191.5], [0, 300.0, 143.5], [0, 0, 1]])
IMAGE = np.zeros((*HW, 3), np.uint8)


def pose(turn_deg: Sequence[float], place: Sequence[float]) -> FloatArray:
    """T_world_cam from a rotation vector and a place."""
    turn = Rotation.from_rotvec(np.radians(turn_deg)).as_matrix()
    return make_se3(turn, np.array(place, float))


def drive(count: int = 8, step_m: float = 0.12, turn_deg: float = 6.0) -> FloatArray:
    """(V, 4, 4) a camera that drives a bend and looks a little about."""
    return np.stack(
        [
            pose(
                (2 * np.sin(i), turn_deg * (i - count / 2), np.cos(i)),
                (step_m * i - 0.4, 0.03 * np.sin(2 * i), 0.06 * i),
            )
            for i in range(count)
        ]
    )


def box(count: int = 500, seed: int = 0) -> FloatArray:
    """(N, 3) points on the walls of a room in front of the first camera, and in it."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((-3.5, -1.4, 1.2), (3.5, 1.4, 5.0), (count, 3))
    wall = rng.integers(4, size=count)
    points[wall == 0, 2] = 5.0
    points[wall == 1, 1] = 1.4
    points[wall == 2, 0] = 3.5
    return points


def poster(count: int = 400, seed: int = 0) -> FloatArray:
    """(N, 3) points of one plane across the view."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((-2.5, -1.8, 0), (2.5, 1.8, 0), (count, 3))
    points[:, 2] = 2.2 + 0.2 * points[:, 0]
    return points


@dataclass(frozen=True)
class Sight:
    """How well cameras see.

    Attributes:
        noise_px: of each pixel coordinate.
        wrong: share of the features that look like another one's.
        seed: of noise and mistakes.
        focal_px: of all cameras.
    """

    noise_px: float = 0.3
    wrong: float = 0.1
    seed: int = 0
    focal_px: float = 300.0

    @property
    def K(self) -> FloatArray:  # noqa: N802
        """(3, 3) of all cameras."""
        return np.array([[self.focal_px, 0, K[0, 2]], [0, self.focal_px, K[1, 2]], [0, 0, 1]])


def project(points: FloatArray, T_world_cam: FloatArray, K: FloatArray) -> FloatArray:
    """(N, 2) pixels; NaN outside of the image or behind the camera."""
    cam = (points - T_world_cam[:3, 3]) @ T_world_cam[:3, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = cam[:, :2] / cam[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2]
    inside = (cam[:, 2] > 0.1) & ((uv >= 0) & (uv < HW[::-1])).all(1)
    return np.where(inside[:, None], uv, np.nan)


def look(points: FloatArray, T_world_cam: FloatArray, sight: Sight) -> list[ViewFeatures]:
    """What each of the cameras sees of (N, 3) points, or of (V, N, 3) that move."""
    rng = np.random.default_rng([sight.seed, 77])
    names = np.abs(rng.normal(size=(points.shape[-2], 128))) ** 2
    seen = []
    for v, T in enumerate(T_world_cam):
        uv = project(points if points.ndim == 2 else points[v], T, sight.K)
        at = np.flatnonzero(~np.isnan(uv[:, 0]))
        called = at.copy()
        wrong = rng.random(len(at)) < sight.wrong
        called[wrong] = rng.permutation(called[wrong])
        shown = names[called] * np.exp(0.1 * rng.normal(size=(len(at), 128)))
        unit = shown / np.linalg.norm(shown, axis=1, keepdims=True)
        pixels = uv[at] + rng.normal(0, sight.noise_px, (len(at), 2))
        size = np.full(len(at), 4.0)
        seen.append(ViewFeatures(pixels, size, unit.astype(np.float32), HW[::-1]))
    return seen


def views(
    K: FloatArray | None, T_odom_cam: FloatArray | None = None, count: int = 8
) -> list[View]:
    """Views without a picture."""
    if T_odom_cam is None:
        return [View(IMAGE, K)] * count
    return [View(IMAGE, K, T) for T in T_odom_cam]


def odometry(
    T_world_cam: FloatArray, seed: int, rel: float = 0.02, turn_deg: float = 0.3
) -> FloatArray:
    """(V, 4, 4) steps with errors of their own: share of the length, and degrees."""
    rng = np.random.default_rng([seed, 5])
    poses = [np.eye(4)]
    for before, after in pairwise(T_world_cam):
        step = invert_se3(before) @ after
        length = float(np.linalg.norm(step[:3, 3]))
        step[:3, 3] += rng.normal(0, np.hypot(rel * length, 0.003), 3)
        turn = Rotation.from_rotvec(rng.normal(0, np.radians(turn_deg), 3)).as_matrix()
        step[:3, :3] = step[:3, :3] @ turn
        poses.append(poses[-1] @ step)
    return np.stack(poses)


def relative(T: FloatArray) -> FloatArray:
    """(V, 4, 4) poses in the frame of the first."""
    return np.asarray(invert_se3(T[0]) @ T)


def scale_of(T: FloatArray, truth: FloatArray) -> float:
    """Size of a path over that of the true one."""
    spread = [np.linalg.norm(P[:, :3, 3] - P[:, :3, 3].mean(0)) for P in (T, truth)]
    return float(spread[0] / spread[1])


def worst(T: FloatArray, truth: FloatArray, any_scale: bool = False) -> tuple[float, float]:
    """Largest error in degrees, and in metres of the truth, of poses in the frame of the first."""
    truth = relative(truth)
    places = T[:, :3, 3] / (scale_of(T, truth) if any_scale else 1.0)
    turn = rotation_angle_deg(np.swapaxes(truth[:, :3, :3], 1, 2) @ T[:, :3, :3])
    return float(turn.max()), float(np.linalg.norm(places - truth[:, :3, 3], axis=1).max())


def seen_by(
    points: FloatArray, T: FloatArray, noise_px: float, seed: int
) -> tuple[Observations, FloatArray]:
    """Observations of the points that two or more views see, and these points."""
    uv = np.stack([project(points, P, K) for P in T], 1)
    uv += np.random.default_rng(seed).normal(0, noise_px, uv.shape)
    points, uv = (x[(~np.isnan(uv[..., 0])).sum(1) >= 2] for x in (points, uv))
    point, view = np.nonzero(~np.isnan(uv[..., 0]))
    return Observations(view, point, uv[point, view]), points


def world(
    noise_px: float = 0.3, seed: int = 0, count: int = 120, views: int = 5
) -> tuple[Scene, Observations]:
    """The true scene in the frame of the first view, and what is seen of it."""
    T = drive(views)
    seen, points = seen_by(box(count), T, noise_px, seed)
    first = invert_se3(T[0])
    return Scene(
        relative(T), np.repeat(K[None], views, 0), points @ first[:3, :3].T + first[:3, 3]
    ), seen
