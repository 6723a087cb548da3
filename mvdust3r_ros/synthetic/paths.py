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

"""Camera paths that a robot could drive through a synthetic scene; numpy only, seeded.

A planar pose is (x, y, yaw) in the world frame, metres and radians; yaw 0 faces +x. Random ranges
are chosen: heights, speeds and turns of common robots, and somewhat beyond.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import FREE, FloatArray
from mvdust3r_ros.synthetic.scenes import Scene, SceneError, scene_occupancy
from mvdust3r_ros.synthetic.textures import Rng

CELL_M = 0.1
"""Cell of the planning grid, and the spacing of planned points."""
CLEARANCE_M = 0.25
"""Radius of a robot 0.5 m wide."""
Planar = tuple[float, float, float]


@dataclass(frozen=True)
class Rig:
    """Camera mounting on the robot.

    Attributes:
        height_m: height above the floor.
        pitch_rad: downward tilt from the horizon.
        fov_rad: horizontal field of view.
    """

    height_m: float = 0.6
    pitch_rad: float = 0.05
    fov_rad: float = math.radians(75)

    @property
    def T_base_cam(self) -> FloatArray:  # noqa: N802
        """Pose (4, 4) of the optical frame on a base on the floor below the camera."""
        return camera_pose((0.0, 0.0, 0.0), self.height_m, self.pitch_rad, 0.0)

    @staticmethod
    def draw(rng: Rng) -> Rig:
        """Draw a random rig: 0.2 to 1.7 m high, field of view of 50 to 100 degrees."""
        height = rng.uniform(0.2, 1.7)
        pitch = rng.normal(0, 0.06) + (rng.uniform(0, 0.18) if height > 0.9 else 0.0)
        return Rig(height, pitch, math.radians(rng.uniform(50, 100)))


def camera_pose(planar: Planar, height_m: float, pitch_rad: float, roll_rad: float) -> FloatArray:
    """Return (4, 4) T_world_cam of a camera (x right, y down, z forward) above a planar pose."""
    x, y, yaw = planar
    level = math.cos(pitch_rad)
    forward = np.array([math.cos(yaw) * level, math.sin(yaw) * level, -math.sin(pitch_rad)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = math.cos(roll_rad), math.sin(roll_rad)
    T_world_cam = np.eye(4)
    T_world_cam[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward], 1)
    T_world_cam[:3, 3] = x, y, height_m
    return T_world_cam


class FreeSpace:
    """Free space for the robot's centre: floor `CLEARANCE_M` from parts below the camera's top."""

    def __init__(self, scene: Scene, camera_height_m: float) -> None:
        """Inflate the scene's exact grid."""
        grid = scene_occupancy(scene, CELL_M, (0.02, camera_height_m + 0.15))
        is_free = (grid.cells == FREE).astype(np.uint8)
        clear = cv2.distanceTransform(is_free, cv2.DIST_L2, cv2.DIST_MASK_5) * CELL_M
        self.origin = np.array(grid.origin_xy_m)
        self.free: npt.NDArray[np.bool_] = np.asarray(clear > CLEARANCE_M + CELL_M / 2)
        self._cells = np.argwhere(self.free)
        if len(self._cells) < 4:
            raise SceneError(f"no room for a robot: {len(self._cells)} free cells of {CELL_M} m")

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """Return row and column of a point."""
        col, row = np.floor((np.array([x, y]) - self.origin) / CELL_M).astype(int)
        return int(row), int(col)

    def is_free(self, x: float, y: float) -> bool:
        """Whether the robot's centre may be at (x, y)."""
        row, col = self.cell(x, y)
        rows, cols = self.free.shape
        return 0 <= row < rows and 0 <= col < cols and bool(self.free[row, col])

    def draw(self, rng: Rng) -> tuple[float, float]:
        """Draw a random free point."""
        row, col = self._cells[rng.integers(len(self._cells))]
        return self._center(int(row), int(col))

    def _center(self, row: int, col: int) -> tuple[float, float]:
        x, y = self.origin + (np.array([col, row]) + 0.5) * CELL_M
        return float(x), float(y)

    def plan(self, start: tuple[float, float], goal: tuple[float, float]) -> FloatArray | None:
        """Plan the shortest path over free cells (A*): (N, 2) points `CELL_M` apart, or None."""
        begin, end = self.cell(*start), self.cell(*goal)
        came: dict[tuple[int, int], tuple[int, int]] = {begin: begin}
        cost = {begin: 0.0}
        heap = [(0.0, begin)]
        while heap:
            _, here = heapq.heappop(heap)
            if here == end:
                break
            for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                there = (here[0] + dr, here[1] + dc)
                if not self.free[there]:
                    continue
                new = cost[here] + math.hypot(dr, dc)
                if new < cost.get(there, math.inf):
                    cost[there], came[there] = new, here
                    guess = math.hypot(end[0] - there[0], end[1] - there[1])
                    heapq.heappush(heap, (new + guess, there))
        if end not in came:
            return None
        cells = [end]
        while cells[-1] != begin:
            cells.append(came[cells[-1]])
        return np.array([self._center(*c) for c in reversed(cells)])


def trajectory(
    scene: Scene, seed: int, n: int, rig: Rig | None = None, step_m: float = 0.08
) -> FloatArray:
    """Return a tour through the scene in even steps, as poses of a robot's camera.

    Args:
        scene: the scene to drive through.
        seed: same seed, same tour.
        n: number of poses.
        rig: mounting of the camera; the default rig if None.
        step_m: distance between poses; a turn of 5 degrees counts as one step.

    Returns:
        (n, 4, 4) T_world_cam.

    Raises:
        SceneError: there is no free floor to drive on.
    """
    rng = np.random.default_rng([seed, 3])
    rig = rig or Rig()
    free = FreeSpace(scene, rig.height_m)
    planar = _even_steps(_tour(rng, free, n * step_m), n, step_m)
    bob = 0.005 * np.sin(np.arange(n) * 0.9 + rng.uniform(0, 6))
    poses = [
        camera_pose(p, rig.height_m + b, rig.pitch_rad + b, 0.6 * b)
        for p, b in zip(planar, bob, strict=True)
    ]
    return np.stack(poses)


def _tour(rng: Rng, free: FreeSpace, length_m: float) -> list[Planar]:
    """Return dense poses (2 cm or 1 degree apart) on planned legs between random free points."""
    here = free.draw(rng)
    yaw = rng.uniform(-math.pi, math.pi)
    dense: list[Planar] = [(*here, yaw)]
    driven = 0.0
    for _ in range(200):
        if driven >= length_m:
            break
        leg = free.plan(here, free.draw(rng))
        if leg is None or len(leg) < 8:  # 0.8 m: too short
            continue
        leg = _smooth(leg)
        glance = rng.uniform(-0.6, 0.6)
        for k in range(len(leg)):
            ahead = leg[min(k + 25, len(leg) - 1)] - leg[k]
            if np.hypot(*ahead) > 0.1:
                target = math.atan2(ahead[1], ahead[0]) + glance * math.sin(k / 40)
            while abs(turn := _wrap(target - yaw)) > 0.05:  # turns before it continues
                yaw = _wrap(yaw + float(np.clip(turn, -0.02, 0.02)))
                dense.append((float(leg[k, 0]), float(leg[k, 1]), yaw))
                if abs(turn) < 0.7:  # it finishes the turn while moving
                    break
            yaw = _wrap(yaw + float(np.clip(_wrap(target - yaw), -0.02, 0.02)))
            dense.append((float(leg[k, 0]), float(leg[k, 1]), yaw))
        driven += len(leg) * 0.02
        here = (float(leg[-1, 0]), float(leg[-1, 1]))
    if driven == 0.0:  # a closet: turn in place
        dense = [(*here, _wrap(yaw + 0.02 * k)) for k in range(int(length_m / 0.02) + 400)]
    return dense


def _smooth(path: FloatArray) -> FloatArray:
    """Round the corners and resample to 2 cm."""
    kernel = np.ones(5) / 5
    padded = np.pad(path, ((2, 2), (0, 0)), mode="edge")
    path = np.stack([np.convolve(padded[:, k], kernel, "valid") for k in range(2)], 1)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    at = np.arange(0.0, along[-1], 0.02)
    return np.stack([np.interp(at, along, path[:, k]) for k in range(2)], 1)


def _wrap(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _even_steps(dense: list[Planar], n: int, step_m: float) -> list[Planar]:
    """Return poses `step_m` apart, counting turns as distance; too short a tour runs back."""
    travelled = [0.0]
    for a, b in pairwise(dense):
        turn = abs(_wrap(b[2] - a[2])) * step_m / math.radians(5)
        travelled.append(travelled[-1] + math.hypot(b[0] - a[0], b[1] - a[1]) + turn)
    at = np.abs((np.arange(n) * step_m + travelled[-1]) % (2 * travelled[-1]) - travelled[-1])
    if (n - 1) * step_m <= travelled[-1]:
        at = np.arange(n) * step_m
    index = np.minimum(np.searchsorted(travelled, at), len(dense) - 1)
    return [dense[i] for i in index]


def window_poses(rng: Rng, scene: Scene, rig: Rig, n: int) -> FloatArray | None:
    """Return poses of a window of keyframes: orbiting, driving, turning or touring.

    Args:
        rng: source of randomness.
        scene: the robot's surroundings.
        rig: its camera.
        n: number of views.

    Returns:
        (n, 4, 4) T_world_cam whose neighbours overlap by roughly 30 to 60 % (to be checked on
        depth), or None if the robot got stuck.
    """
    free = FreeSpace(scene, rig.height_m)
    mode = rng.choice(["orbit", "drive", "spin", "tour"], p=[0.4, 0.3, 0.1, 0.2])
    if mode == "tour":
        dense = _tour(rng, free, 1.2 * n)
        planar: list[Planar] | None = _keyframes(rng, dense, n, rig.fov_rad)
    else:
        planar = _wander(rng, scene, free, str(mode), n, rig.fov_rad)
    if planar is None:
        return None
    if rng.random() < 0.5:
        planar = planar[::-1]
    jitter = rng.normal(0, [0.02, 0.025, 0.015], (n, 3))
    heights = np.clip(rig.height_m + jitter[:, 0], 0.15, scene.height - 0.3)
    return np.stack(
        [
            camera_pose(p, float(h), rig.pitch_rad + j[1], j[2])
            for p, h, j in zip(planar, heights, jitter, strict=True)
        ]
    )


def _keyframes(rng: Rng, dense: list[Planar], n: int, fov: float) -> list[Planar] | None:
    """Sample poses of the tour so that neighbours overlap by about half."""
    chosen, want = [dense[0]], rng.uniform(0.4, 0.9)
    for p in dense:
        q = chosen[-1]
        moved = math.hypot(p[0] - q[0], p[1] - q[1]) / 1.5 + abs(_wrap(p[2] - q[2])) / fov
        if moved > want:
            chosen.append(p)
            want = rng.uniform(0.4, 0.9)
            if len(chosen) == n:
                return chosen
    return None


def _wander(
    rng: Rng, scene: Scene, free: FreeSpace, mode: str, n: int, fov: float
) -> list[Planar] | None:
    room = scene.rooms[int(rng.integers(len(scene.rooms)))]
    for _ in range(30):
        x, y = free.draw(rng)
        focus = (
            room.x0 + rng.uniform(0.25, 0.75) * room.size[0],
            room.y0 + rng.uniform(0.25, 0.75) * room.size[1],
        )
        # a robot circles things that are neither at its feet nor across the apartment
        if not 0.9 < math.hypot(focus[0] - x, focus[1] - y) < 5.0:
            continue
        yaw = math.atan2(focus[1] - y, focus[0] - x) + rng.normal(0, 0.15)
        poses = _random_walk(rng, free, mode, (x, y, yaw), focus, n, fov)
        if poses is not None:
            return poses
    return None


def _random_walk(
    rng: Rng,
    free: FreeSpace,
    mode: str,
    start: Planar,
    focus: tuple[float, float],
    n: int,
    fov: float,
) -> list[Planar] | None:
    poses, side = [start], float(rng.choice([-1, 1]))
    step = {"orbit": _orbit_step, "drive": _drive_step, "spin": _spin_step}[mode]
    while len(poses) < n:
        for _ in range(8):
            new = step(rng, poses[-1], focus, side, fov)
            if free.is_free(new[0], new[1]):
                poses.append(new)
                break
            side = -side
        else:
            return None
    return poses


def _orbit_step(
    rng: Rng, pose: Planar, focus: tuple[float, float], side: float, fov: float
) -> Planar:
    x, y, yaw = pose
    angle = math.atan2(y - focus[1], x - focus[0]) + side * rng.uniform(0.2, 0.7)
    radius = math.hypot(x - focus[0], y - focus[1]) * rng.uniform(0.85, 1.15)
    dx, dy = focus[0] + radius * math.cos(angle) - x, focus[1] + radius * math.sin(angle) - y
    shrink = min(1.0, 1.4 / max(math.hypot(dx, dy), 1e-6))
    x, y = x + dx * shrink, y + dy * shrink
    turn = _wrap(math.atan2(focus[1] - y, focus[0] - x) + rng.normal(0, 0.15) - yaw)
    return x, y, yaw + float(np.clip(turn, -0.6 * fov, 0.6 * fov))


def _drive_step(rng: Rng, pose: Planar, _: tuple[float, float], side: float, fov: float) -> Planar:
    x, y, yaw = pose
    ahead = rng.uniform(0.2, 0.9) * (1 if rng.random() < 0.85 else -1)
    turn = side * rng.uniform(0.0, 0.6) * fov
    middle = yaw + turn / 2
    return x + ahead * math.cos(middle), y + ahead * math.sin(middle), yaw + turn


def _spin_step(rng: Rng, pose: Planar, _: tuple[float, float], side: float, fov: float) -> Planar:
    dx, dy = rng.normal(0, 0.08, 2)
    return pose[0] + dx, pose[1] + dy, pose[2] + side * rng.uniform(0.35, 0.65) * fov
