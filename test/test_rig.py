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

"""Cameras on one rig: metres and poses from their known distances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from box_room import BoxRoom
from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import FloatArray, Frame, Keyframe, ScaleSource, Verdict, View
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.geometry import invert_se3, make_se3
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.placing.pose_fusion import fuse_poses
from mvdust3r_ros.placing.rig import CALIBRATION_REL_SIGMA, RigPair, rig_evidence, rig_pairs

IMAGE = np.zeros((32, 32, 3), np.uint8)
LEFT = make_se3(Rotation.from_euler("y", -30, degrees=True).as_matrix(), np.array([-0.4, 0, 0.1]))
PLACES = {"front": np.eye(4), "left": LEFT}


def keyframe(key: int, stamp_ms: float, camera: str, T_rig_cam: FloatArray | None) -> Keyframe:
    return Keyframe(key, round(stamp_ms * 1e6), View(IMAGE, T_rig_cam=T_rig_cam), camera)


def drive(count: int) -> tuple[dict[int, FloatArray], list[RigPair]]:
    """True poses of both cameras at each of `count` places: even keys front, odd keys left."""
    poses, pairs = {}, []
    for i in range(count):
        T = make_se3(
            Rotation.from_euler("y", 0.2 * i).as_matrix(), np.array([0.3 * i, 0, 0.1 * i])
        )
        poses |= {2 * i: T, 2 * i + 1: T @ LEFT}
        pairs.append(RigPair(2 * i, 2 * i + 1, LEFT))
    return poses, pairs


def jolted(
    poses: dict[int, FloatArray], rng: np.random.Generator, m: float
) -> dict[int, FloatArray]:
    moved = {k: T.copy() for k, T in poses.items()}
    for T in moved.values():
        T[:3, 3] += rng.normal(0, m, 3)
    return moved


def test_pairs_are_of_two_cameras_at_the_same_time() -> None:
    front, left = PLACES["front"], PLACES["left"]
    pairs = rig_pairs(
        [
            keyframe(0, 1000, "front", front), keyframe(1, 1000, "left", left),
            keyframe(2, 1009, "front", front), keyframe(3, 1040, "left", left),
            keyframe(4, 1040, "rear", None),
        ]
    )  # fmt: skip
    assert [(p.a, p.b) for p in pairs] == [(0, 1), (1, 2)]
    np.testing.assert_allclose(pairs[0].T_a_b, LEFT)
    np.testing.assert_allclose(pairs[1].T_a_b, invert_se3(LEFT))


def test_scale_is_known_over_recovered_distance() -> None:
    poses, pairs = drive(3)
    window = {k: T.copy() for k, T in poses.items()}
    for T in window.values():
        T[:3, 3] *= 0.25
    found = rig_evidence(window, pairs, 0.05)
    assert found is not None
    assert found.source == ScaleSource.RIG
    assert found.scale == pytest.approx(4.0)
    assert found.rel_sigma == pytest.approx(CALIBRATION_REL_SIGMA)
    del window[1], window[3]
    assert rig_evidence(window, pairs, 0.05) == found
    assert rig_evidence(window, pairs, 0.5) is None  # the cameras are nearer to each other
    del window[5]
    assert rig_evidence(window, pairs, 0.05) is None
    assert rig_evidence(window, [], 0.05) is None


@pytest.mark.parametrize("pairs", [1, 4])
@pytest.mark.parametrize("noise_m", [0.01, 0.04])
def test_two_thirds_of_the_errors_are_within_one_sigma(pairs: int, noise_m: float) -> None:
    rng, errors = np.random.default_rng(5), []
    poses, all_pairs = drive(pairs)
    for _ in range(600):
        found = rig_evidence(jolted(poses, rng, noise_m), all_pairs, 0.05)
        assert found is not None
        errors.append(abs(np.log(found.scale)) / found.rel_sigma)
    assert 0.58 < np.mean(np.array(errors) < 1.0) < 0.85


def test_the_rig_straightens_coarse_poses_without_odometry() -> None:
    truth, pairs = drive(4)
    coarse = jolted(truth, np.random.default_rng(1), 0.1)
    fused = fuse_poses(coarse, {}, {}, 0.02, pairs).T_map_cam

    def error_m(poses: dict[int, FloatArray]) -> float:
        return float(
            np.linalg.norm([p.seen(poses)[:3, 3] - LEFT[:3, 3] for p in pairs], axis=1).max()
        )

    assert error_m(fused) < 0.1 * error_m(coarse)
    assert fuse_poses(coarse, {}, {}, 0.02, [RigPair(0, 99, LEFT)]).T_map_cam == coarse


def test_keyframes_in_the_map_stay_where_they_are() -> None:
    truth, pairs = drive(2)
    coarse = jolted(truth, np.random.default_rng(1), 0.1)
    fused = fuse_poses(coarse, {}, {0: truth[0]}, 0.02, pairs).T_map_cam
    np.testing.assert_array_equal(fused[0], truth[0])
    np.testing.assert_allclose(fused[1][:3, 3], truth[1][:3, 3], atol=0.02)


@pytest.mark.slow
def test_two_cameras_give_metres_without_odometry(room: BoxRoom) -> None:
    """Each window comes in a scale of its own; the gate opens with the first one."""
    rules = {"keyframes.window_size": 8, "keyframes.min_sharpness": 0.0,
             "keyframes.max_interval_s": 0.1, "map.pixel_stride": 2}  # fmt: skip
    config = with_values(MapperConfig(), rules)
    mapper = Mapper(config, OracleEngine((72, 96), OracleNoise(scale=0.5)))
    path = room.walk(16, turns=0.5)
    frames: list[Frame] = []
    for name, T_rig_cam in PLACES.items():
        seen = room.frames([T @ T_rig_cam for T in path])
        frames += [
            replace(
                f, T_odom_cam=None, T_world_cam=f.T_odom_cam, camera_name=name, T_rig_cam=T_rig_cam
            )
            for f in seen
        ]
    updates = [mapper.process(f) for f in sorted(frames, key=lambda f: f.stamp_ns)]
    verdicts = [u.verdict for u in updates if u is not None]
    assert verdicts
    assert set(verdicts) == {Verdict.COMMITTED}
    first = next(u for u in updates if u is not None)
    assert first.gate_open
    snapshot = mapper.snapshot()
    assert snapshot.scale.source == ScaleSource.RIG
    assert snapshot.scale.rel_sigma < 0.02
    mapper.path_camera = "front"
    track = mapper.snapshot().trajectory.T_world_cam[:, :3, 3]
    true = np.array([T[:3, 3] for T in path])[: len(track)]
    lengths = [np.linalg.norm(np.diff(t, axis=0), axis=1).sum() for t in (track, true)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.01)
