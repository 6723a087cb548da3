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

"""Rolling shutter: how fast a camera turns, how long its rows take, and images made straight."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import (
    FloatArray,
    ImageArray,
    Keyframe,
    Trajectory,
    View,
    Window,
)
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.rolling_shutter import RollingShutter, row_drift, turn_between
from mvdust3r_ros.sfm import bundle
from mvdust3r_ros.sfm.bundle import Problem, Scene, adjust
from mvdust3r_ros.sfm.camera_beliefs import CameraBelief, belief_of, camera_key, with_known_focal
from mvdust3r_ros.synthetic.render import Renderer
from mvdust3r_ros.synthetic.sequence import (
    Sequence,
    SequenceConfig,
    make_sequence,
    sequence_frames,
)
from sfm_world import K as WORLD_K
from sfm_world import world

HW = (192, 256)


@pytest.fixture(scope="module")
def drive() -> Sequence:
    return make_sequence(SequenceConfig(seed=3, frames=40, hw=HW, supersample=1, noise=0.0))


def fastest(drive: Sequence) -> int:
    """The frame in whose middle the camera turns most."""
    R = drive.truth.T_world_cam[:, :3, :3]
    turn = Rotation.from_matrix(np.swapaxes(R[:-2], 1, 2) @ R[2:]).magnitude()
    return int(turn[1:-1].argmax()) + 2


def turn_rad_s(drive: Sequence, index: int) -> FloatArray:
    R = drive.truth.T_world_cam[index - 1 : index + 2, :3, :3]
    turn = Rotation.from_matrix(R[0].T @ R[2]).as_rotvec()
    return np.asarray(turn * drive.config.rate_hz / 2)


def view_at(drive: Sequence, index: int) -> View:
    shot = drive.rendering(index)
    stamp_ns = int(drive.truth.stamps_ns[index])
    return View(shot.rgb, drive.camera.K, stamp_ns=stamp_ns, camera_name="camera")


def inner_gray(image: ImageArray) -> FloatArray:
    return np.asarray(image[16:-16, 16:-16].astype(float).mean(-1))


def test_drift_is_that_of_a_ray_turned_while_its_row_is_read() -> None:
    K = np.array([[200.0, 0, 127.5], [0, 190.0, 95.5], [0, 0, 1]])
    turn, readout_s, height = np.array([0.3, -0.8, 0.5]), 1e-4, 192
    rays = np.array([[0.2, -0.3, 1.0], [-0.5, 0.4, 1.0], [0.0, 0.1, 1.0]])
    uv = (rays @ K.T)[:, :2]
    share = (uv[:, 1] - (height - 1) / 2) / height
    later = Rotation.from_rotvec(turn * (share * readout_s)[:, None]).inv().apply(rays)
    moved = later[:, :2] / later[:, 2:] @ K[:2, :2].T + K[:2, 2]
    drift = row_drift(uv, K, turn, height)
    np.testing.assert_allclose(drift * readout_s, moved - uv, atol=1e-6)
    np.testing.assert_array_equal(drift[np.isclose(share, 0)], 0.0)


def test_turn_of_a_camera_is_seen(drive: Sequence) -> None:
    index = fastest(drive)
    T = drive.truth.T_world_cam[index]
    R = Rotation.from_euler("xyz", [1.5, -4.0, 2.0], degrees=True)
    turned = T.copy()
    turned[:3, :3] = T[:3, :3] @ R.as_matrix()
    renderer = Renderer(drive.scene)
    a, b = (renderer.render(drive.camera.K, HW, P, 1).rgb for P in (T, turned))
    gray = [np.asarray(image.astype(float).mean(-1), np.uint8) for image in (a, b)]
    found = turn_between(gray[0], gray[1], drive.camera.K)
    assert found is not None
    np.testing.assert_allclose(np.degrees(found), np.degrees(R.as_rotvec()), atol=0.15)
    assert turn_between(np.zeros_like(gray[0]), gray[1], drive.camera.K) is None


def test_a_straightened_image_is_that_of_one_moment(drive: Sequence) -> None:
    index = fastest(drive)
    slow = Sequence(replace(drive.config, readout_s=0.05), drive.scene, drive.camera, drive.truth)
    shutter = RollingShutter(0.05)
    for k in (index - 1, index, index + 1):
        shutter.observe(view_at(slow, k))
    bent = view_at(slow, index)
    straight = shutter.straight(bent)
    assert straight.turn_rad_s is not None
    # what the camera moves sideways looks like a turn as well
    error = np.linalg.norm(straight.turn_rad_s - turn_rad_s(drive, index))
    assert error < 0.35 * np.linalg.norm(turn_rad_s(drive, index))
    once = inner_gray(view_at(drive, index).image_rgb)
    before, after = (np.abs(inner_gray(v.image_rgb) - once).mean() for v in (bent, straight))
    assert after < 0.5 * before
    assert shutter.straight(straight) is straight


def test_what_is_made_straight_once_stays_the_same_object(drive: Sequence) -> None:
    """An engine's features and the view that they are of belong together."""
    shutter = RollingShutter(0.02)
    first = view_at(drive, 5)
    shutter.observe(first)
    assert shutter.straight(first) is first  # nothing is known of its turn yet
    shutter.observe(view_at(drive, 6))
    assert shutter.straight(first) is first


def test_a_global_shutter_by_setting_leaves_views_as_they_are(drive: Sequence) -> None:
    shutter = RollingShutter(0.0)
    views = [view_at(drive, k) for k in (4, 5, 6)]
    for view in views:
        shutter.observe(view)
    window = Window(0, tuple(Keyframe(k, v.stamp_ns, v, "camera") for k, v in enumerate(views)))
    same = shutter.straightened(window)
    assert all(a.view is b.view for a, b in zip(same.keyframes, window.keyframes, strict=True))


def test_a_setting_goes_before_what_is_learned() -> None:
    given, free = RollingShutter(0.02), RollingShutter()
    for shutter in (given, free):
        shutter.learn({"left": 0.01})
    assert given.readout_s("left") == given.readout_s("right") == 0.02
    assert (free.readout_s("left"), free.readout_s("right")) == (0.01, 0.0)


def test_frames_far_apart_or_of_another_size_say_nothing(drive: Sequence) -> None:
    shutter = RollingShutter(0.02)
    view = view_at(drive, 5)
    shutter.observe(view)
    late = replace(view, stamp_ns=view.stamp_ns + 2_000_000_000)
    back = replace(view, stamp_ns=view.stamp_ns - 1)
    small = replace(view, image_rgb=np.ascontiguousarray(view.image_rgb[::2, ::2]),
                    stamp_ns=view.stamp_ns + 100_000_000)  # fmt: skip
    for other in (late, back, small):
        shutter.observe(other)
        assert shutter.straight(other) is other


def test_adjustment_finds_how_long_the_rows_take() -> None:
    scene, seen = world(noise_px=0.1, views=6)
    rng = np.random.default_rng(2)
    turn = rng.normal(0, 0.6, (6, 3))
    drift = row_drift(seen.uv, scene.K[seen.view], turn[seen.view], 2 * WORLD_K[1, 2])
    bent = replace(seen, uv=seen.uv + 0.012 * drift, drift=drift)
    priors = ()
    length = float(np.linalg.norm(scene.T[-1, :3, 3]))
    problem = Problem(
        bent, priors, 0.1, np.ones(6, bool), np.zeros(6, np.intp),
        np.array([[math.log(scene.K[0, 0, 0]), 1e-6]]), (5, length),
        readout_sigma_s=np.array([0.015]),
    )  # fmt: skip
    start = Scene(scene.T, scene.K, scene.points, np.zeros(6))
    found = adjust(start, problem, 30)
    np.testing.assert_allclose(found.scene.readout_s, 0.012, atol=0.001)
    blind = replace(problem, readout_sigma_s=np.array([1e-9]))
    assert found.cost < 0.2 * adjust(start, blind, 30).cost
    with_none = replace(problem, observations=seen, readout_sigma_s=np.zeros(0))
    assert adjust(Scene(scene.T, scene.K, scene.points), with_none, 30).cost <= found.cost * 2


def test_derivative_by_the_readout_is_the_drift() -> None:
    scene, seen = world(views=5)
    drift = np.random.default_rng(0).normal(0, 50, seen.uv.shape)
    seen = replace(seen, drift=drift)
    problem = Problem(
        seen, (), 1.0, np.ones(5, bool), np.array([0, 0, 1, 1, 1]),
        np.log(np.repeat(scene.K[:2, :1, 0], 2, 1)) * [1, 0] + [0, 1.0], (4, 1.0),
        readout_sigma_s=np.array([0.01, 0.02]),
    )  # fmt: skip
    at = Scene(scene.T, scene.K, scene.points, np.array([0.001, 0.001, -0.002, -0.002, -0.002]))
    normal = bundle.normal_equations(at, problem)
    for group, views in enumerate(([0, 1], [2, 3, 4])):
        step = np.zeros(5)
        step[views] = 1e-7
        there, back = (bundle.cost(replace(at, readout_s=at.readout_s + s), problem)
                       for s in (step, -step))  # fmt: skip
        slope = (there - back) / 2e-7
        np.testing.assert_allclose(normal.g_cameras[6 * 5 + 2 + group], slope, rtol=1e-3)


def test_what_windows_say_of_a_focal_length_is_remembered() -> None:
    image = np.zeros((192, 256, 3), np.uint8)
    blank = View(image, camera_name="left")
    key = camera_key(blank)
    sure, unsure = CameraBelief(230.0, 0.01), CameraBelief(230.0, 0.2)
    (known,) = with_known_focal([blank], {key: sure})
    assert known.K is not None
    np.testing.assert_allclose(known.K, [[230, 0, 127.5], [0, 230, 95.5], [0, 0, 1]])
    assert with_known_focal([blank], {key: unsure}) == [blank]
    assert with_known_focal([replace(blank, camera_name="right")], {key: sure})[0].K is None
    # a calibration and windows that are as sure: the mean of both
    calibrated = replace(blank, K=np.array([[240.0, 0, 127], [0, 240, 95], [0, 0, 1]]))
    belief = belief_of(calibrated, {key: sure})
    assert belief.focal_px == pytest.approx(math.sqrt(230 * 240), rel=1e-3)
    assert belief.focal_sigma == pytest.approx(0.01 / math.sqrt(2))
    fixed = belief_of(replace(blank, readout_s=0.02), {key: replace(sure, readout_s=0.01)})
    assert (fixed.readout_s, fixed.readout_sigma_s < 1e-5) == (0.02, True)


def looking_about(frames: int, readout_s: float) -> Sequence:
    """A camera that goes left and right while it looks about, some 60 degrees a second."""
    config = SequenceConfig(seed=12, frames=frames, hw=HW, readout_s=readout_s, supersample=1)
    drive = make_sequence(config)
    time_s = np.arange(frames) / config.rate_hz
    poses = np.repeat(drive.truth.T_world_cam[:1], frames, 0)
    yaw = math.radians(20) * np.sin(4.0 * time_s)
    turn = Rotation.from_rotvec(yaw[:, None] * np.array([0.0, 1.0, 0.0])).as_matrix()
    offset = np.stack([0.6 * np.sin(2.1 * time_s), 0 * time_s, 0.25 * np.sin(1.9 * time_s)], 1)
    poses[:, :3, 3] += offset @ poses[0, :3, :3].T
    poses[:, :3, :3] = poses[:, :3, :3] @ turn
    return replace(drive, truth=Trajectory(drive.truth.stamps_ns, poses))


@pytest.mark.slow
def test_a_drive_shows_how_long_the_rows_take(engine: Engine) -> None:
    """Images alone, rows of 25 ms: found to a third; of a global shutter next to nothing."""
    found = {}
    for readout_s in (0.0, 0.025):
        name = f"camera {readout_s}"  # its own: the engine remembers what it found of each
        mapper = Mapper(MapperConfig(), engine)
        for frame in sequence_frames(looking_about(40, readout_s)):
            mapper.process(replace(frame, T_odom_cam=None, depth_m=None, camera_name=name))
        mapper.finish()
        found[readout_s] = mapper.shutter.readout_s(name)
    assert abs(found[0.0]) < 0.004
    assert 0.017 < found[0.025] < 0.033


def test_pictures_that_have_nothing_in_common_show_no_turn(drive: Sequence) -> None:
    """A wrong turn would bend an image by more than any rolling shutter does."""
    T = drive.truth.T_world_cam[5]
    turned = T.copy()
    turned[:3, :3] = T[:3, :3] @ Rotation.from_euler("y", 100, degrees=True).as_matrix()
    renderer = Renderer(drive.scene)
    a, b = (renderer.render(drive.camera.K, HW, P, 1).rgb.mean(-1) for P in (T, turned))
    assert turn_between(a.astype(np.uint8), b.astype(np.uint8), drive.camera.K) is None
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, HW, np.uint8) for _ in range(2)]
    assert turn_between(noise[0], noise[1], drive.camera.K) is None
