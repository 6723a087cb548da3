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

"""Paths stay on free floor and views overlap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mvdust3r_ros.geometry import rotation_angle_deg
from mvdust3r_ros.synthetic.paths import FreeSpace, Rig, camera_pose, trajectory, window_poses
from mvdust3r_ros.synthetic.scenes import Scene, sample_apartment, sample_room, scene_occupancy


def test_camera_looks_where_it_is_told() -> None:
    T = camera_pose((1.0, 2.0, math.pi / 2), 0.7, 0.0, 0.0)
    assert np.allclose(T[:3, 2], [0, 1, 0])  # forward along +y
    assert np.allclose(T[:3, 1], [0, 0, -1])  # image down is world down
    assert np.allclose(T[:3, 3], [1, 2, 0.7])
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)
    assert camera_pose((0, 0, 0), 1.0, 0.3, 0.0)[2, 2] == pytest.approx(-math.sin(0.3))


def clearance(scene: Scene, poses: np.ndarray, height_m: float) -> float:
    """Distance of the camera's path to the nearest thing below the camera's top."""
    grid = scene_occupancy(scene, 0.05, (0.02, height_m + 0.1))
    y, x = np.nonzero(grid.cells == 100)
    occupied = (np.stack([x, y], 1) + 0.5) * 0.05 + grid.origin_xy_m
    return float(np.linalg.norm(poses[:, None, :2, 3] - occupied[None], axis=-1).min())


@pytest.mark.parametrize("seed", range(6))
def test_tour_never_touches_anything(seed: int) -> None:
    scene = sample_apartment(seed)
    rig = Rig(height_m=0.6)
    poses = trajectory(scene, seed, 200, rig)
    assert clearance(scene, poses, 0.6) > 0.15


@pytest.mark.parametrize("seed", range(6))
def test_tour_has_even_steps(seed: int) -> None:
    poses = trajectory(sample_room(seed), seed, 80, step_m=0.08)
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    turns = rotation_angle_deg(np.swapaxes(poses[:-1, :3, :3], 1, 2) @ poses[1:, :3, :3])
    assert steps.max() < 0.13
    assert turns.max() < 9.0
    assert np.mean(steps + 0.08 * turns / 5 > 0.04) > 0.9  # it hardly ever stands still
    assert poses[:, 2, 3] == pytest.approx(0.6, abs=0.02)


def test_plan_goes_round_and_finds_no_way_through_a_wall() -> None:
    scene = sample_apartment(1)
    free = FreeSpace(scene, 0.6)
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(20):
        path = free.plan(free.draw(rng), free.draw(rng))
        if path is None or len(path) < 2:
            continue
        found += 1
        assert all(free.is_free(x, y) for x, y in path)
        assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 0.15
    assert found >= 10


def test_window_poses_are_free_and_differ() -> None:
    made = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scene, rig = sample_room(seed), Rig.draw(rng)
        assert 0.2 <= rig.height_m <= 1.7
        assert 50 <= math.degrees(rig.fov_rad) <= 100
        poses = window_poses(rng, scene, rig, 8)
        if poses is None:
            continue
        made += 1
        assert clearance(scene, poses, rig.height_m) > 0.15
    assert made >= 15
