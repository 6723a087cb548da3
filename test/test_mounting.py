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

"""Where the camera sits on the robot, from the motion of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from box_room import BoxRoom
from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import FloatArray, Frame, ScaleSource, Verdict
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.geometry import R_BODY_OPTICAL, invert_se3, make_se3, rotation_angle_deg
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.placing.mounting import MIN_POSES, estimate_mounting
from mvdust3r_ros.ros.settings import RosSettings

TILTED = Rotation.from_euler("xyz", [6, -8, 20], degrees=True).as_matrix()
T_BASE_CAM = make_se3(TILTED @ R_BODY_OPTICAL, np.array([0.2, 0.05, 0.0]))


def drive(count: int, turn: float, pitch: float = 0.0) -> list[FloatArray]:
    """A winding drive, 20 cm a step; with `pitch` over uneven ground."""
    T, poses = np.eye(4), []
    for i in range(count):
        poses.append(T)
        yaw = turn * np.sin(i / 3) + 0.2 * turn
        R = Rotation.from_euler("zy", [yaw, pitch * np.cos(i)]).as_matrix()
        T = T @ make_se3(R, np.array([0.2, 0.0, 0.0]))
    return poses


def seen(
    base: list[FloatArray], seed: int, noise: float = 0.0, scale: float = 0.37
) -> list[FloatArray]:
    """The camera's poses in a frame and a scale of its own, with so many metres of noise."""
    rng = np.random.default_rng(seed)
    T_map_odom = make_se3(Rotation.random(random_state=seed).as_matrix(), rng.normal(0, 2, 3))
    poses = []
    for T in base:
        pose = T_map_odom @ T @ T_BASE_CAM
        pose[:3, :3] = pose[:3, :3] @ Rotation.from_rotvec(rng.normal(0, noise, 3)).as_matrix()
        pose[:3, 3] = scale * (pose[:3, 3] + rng.normal(0, noise, 3))
        poses.append(pose)
    return poses


def off_deg(T_base_cam: FloatArray) -> float:
    return float(rotation_angle_deg(T_base_cam[:3, :3].T @ T_BASE_CAM[:3, :3]))


@pytest.mark.parametrize("pitch", [0.0, 0.2])
def test_exact_motion_gives_rotation_and_place(pitch: float) -> None:
    base = drive(20, 0.3, pitch)
    found = estimate_mounting(base, seen(base, 1))
    assert found is not None
    assert off_deg(found.T_base_cam) < 0.1
    np.testing.assert_allclose(found.T_base_cam[:3, 3], T_BASE_CAM[:3, 3], atol=0.01)
    assert found.sigma_deg < 2.0


def test_a_straight_drive_leaves_the_roll_open() -> None:
    """A rotation about the way driven changes nothing that is seen."""
    base = drive(30, 0.0)
    for noise in (0.0, 0.005, 0.02):
        found = estimate_mounting(base, seen(base, 2, noise))
        assert found is None or found.sigma_deg > 2.0


def test_a_circle_leaves_open_whether_the_camera_looks_aside_or_sits_ahead() -> None:
    T, base = np.eye(4), []
    for _ in range(30):
        base.append(T)
        T = T @ make_se3(Rotation.from_euler("z", 0.1).as_matrix(), np.array([0.2, 0.0, 0.0]))
    found = estimate_mounting(base, seen(base, 2, 0.005))
    assert found is None or found.sigma_deg > 3.0


def test_a_robot_that_stands_or_has_hardly_moved_says_nothing() -> None:
    base = drive(MIN_POSES - 1, 0.3)
    assert estimate_mounting(base, seen(base, 3)) is None
    still = [np.eye(4)] * 20
    assert estimate_mounting(still, seen(still, 3)) is None


@pytest.mark.parametrize("count", [16, 40])
@pytest.mark.parametrize("turn", [0.1, 0.4])
@pytest.mark.slow
def test_the_error_is_within_what_is_said(count: int, turn: float) -> None:
    inside = []
    for seed in range(40):
        base = drive(count, turn)
        found = estimate_mounting(base, seen(base, seed, 0.01))
        assert found is not None
        inside.append(off_deg(found.T_base_cam) < 2.5 * found.sigma_deg)
    assert np.mean(inside) > 0.95


def test_the_words_can_be_copied_into_the_parameter() -> None:
    base = drive(20, 0.3)
    found = estimate_mounting(base, seen(base, 1))
    assert found is not None
    words = found.summary("front_optical")
    assert words.startswith("front_optical: ")
    again = RosSettings(T_base_cam=words.split("'")[1]).mounting()
    np.testing.assert_allclose(again, found.T_base_cam, atol=2e-3)


def unmounted(frames: list[Frame]) -> list[Frame]:
    """Odometry of the robot alone; the engine still knows the camera."""
    T_cam_base = invert_se3(T_BASE_CAM)
    return [
        replace(
            f, T_odom_cam=None, T_world_cam=f.T_odom_cam, T_odom_base=f.T_odom_cam @ T_cam_base
        )
        for f in frames
    ]


@pytest.mark.slow
def test_the_mapper_finds_the_mounting_and_then_the_metres(room: BoxRoom) -> None:
    rules = {"keyframes.window_size": 6, "keyframes.min_sharpness": 0.0,
             "keyframes.max_interval_s": 0.1, "map.pixel_stride": 2}  # fmt: skip
    config = with_values(MapperConfig(), rules)
    mapper = Mapper(config, OracleEngine((72, 96), OracleNoise(scale=0.3)))
    path = room.walk(40)
    for k, T in enumerate(path):  # not on a circle
        T[:3, :3] = T[:3, :3] @ Rotation.from_euler("y", 0.6 * np.sin(k / 2)).as_matrix()
    frames = unmounted(room.frames(path))
    updates = [u for f in frames if (u := mapper.process(f)) is not None]
    assert {u.verdict for u in updates} == {Verdict.COMMITTED}
    assert not updates[0].gate_open
    (found,) = mapper.mountings.values()
    assert off_deg(found.T_base_cam) < found.sigma_deg + 0.1
    last = updates[-1]
    assert last.gate_open
    assert last.scale.source == ScaleSource.ODOMETRY
    path = mapper.snapshot().trajectory.T_world_cam[:, :3, 3]
    true = np.array([f.T_world_cam[:3, 3] for f in frames if f.T_world_cam is not None])[
        : len(path)
    ]
    lengths = [np.linalg.norm(np.diff(p, axis=0), axis=1).sum() for p in (path, true)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.03)
    assert mapper.snapshot().T_map_odom is not None


@pytest.mark.slow
def test_odometry_of_an_unmounted_robot_can_be_left_out(room: BoxRoom) -> None:
    rules = {"stitch.max_mounting_sigma_deg": 0.0, "keyframes.window_size": 6,
             "keyframes.min_sharpness": 0.0, "keyframes.max_interval_s": 0.1}  # fmt: skip
    mapper = Mapper(with_values(MapperConfig(), rules), OracleEngine((72, 96)))
    for frame in unmounted(room.frames(room.walk(30))):
        mapper.process(frame)
    assert mapper.mountings == {}
    assert mapper.snapshot().T_map_odom is None
