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

"""The engine `mvs`: sources, sweep, votes, confidence, and depth of rooms nobody trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.datatypes import FloatArray, View
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.create import create_engine, default_engine_folder
from mvdust3r_ros.engines.manifest import load_manifest
from mvdust3r_ros.engines.mvs.agreement import Agreement, agreement, on_edges
from mvdust3r_ros.engines.mvs.confidence import ConfidenceRule, fit_rule, rule_inputs
from mvdust3r_ros.engines.mvs.sources import choose_sources
from mvdust3r_ros.engines.mvs.sweep_inputs import depth_range, half_intrinsics, unit_projection
from mvdust3r_ros.geometry import backproject, invert_se3, make_se3, project
from mvdust3r_ros.sfm.window_poses import WindowPoses, given_poses

HW = (96, 128)
K = np.array([[100.0, 0, 63.5], [0, 100.0, 47.5], [0, 0, 1]])


def turned(yaw_deg: float, t: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> FloatArray:
    a = np.radians(yaw_deg)
    R = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    return make_se3(R, np.array(t))


def poses_of(T: FloatArray, points: FloatArray) -> WindowPoses:
    seen = np.ones((len(points), len(T)), bool)
    return given_poses(T, np.repeat(K[None], len(T), 0), points, seen)


def plane_depth(T: FloatArray, wall_m: float, K: FloatArray, hw: tuple[int, int]) -> FloatArray:
    """Depth of the wall z = wall_m of the reference, seen from T."""
    rays = backproject(np.ones(hw), K)
    forward = rays @ T[2, :3]
    return np.asarray((wall_m - T[2, 3]) / forward, np.float32)


def test_a_source_needs_parallax_and_the_same_surface() -> None:
    T = np.stack(
        [
            np.eye(4),
            turned(0, (0.01, 0, 0)),  # hardly moved
            turned(0, (0.3, 0, 0)),
            turned(180),  # looks away
            turned(40, (-0.4, 0, 0.2)),
        ]
    )
    chosen = choose_sources(0, T, np.repeat(K[None], 5, 0), HW, 2.0, range(5), 4)
    assert chosen[0] == 2
    assert 4 in chosen
    assert 1 not in chosen
    assert 3 not in chosen
    assert choose_sources(0, T, np.repeat(K[None], 5, 0), HW, 2.0, [0, 1, 3], 4) == []


def test_the_projection_of_a_sweep_is_that_of_the_camera() -> None:
    T = turned(15, (0.3, -0.1, 0.05))
    P = unit_projection(K, K, T, HW).astype(float)
    pixel, depth = np.array([20.0, 70.0]), 2.5
    point = backproject(np.array([depth]), K, pixel[None])[0]
    u, v = project(T[:3, :3] @ point + T[:3, 3], K)
    unit = [(2 * pixel[0] + 1) / HW[1] - 1, (2 * pixel[1] + 1) / HW[0] - 1]
    x, y, z = P @ np.array([*unit, 1.0, 1 / depth])
    np.testing.assert_allclose([x / z, y / z], [(2 * u + 1) / HW[1] - 1, (2 * v + 1) / HW[0] - 1],
                               atol=1e-5)  # fmt: skip


def test_half_the_size_has_its_pixel_centres_between_four() -> None:
    half = half_intrinsics(K[None])[0]
    point = np.array([[0.3, -0.2, 1.5]])
    np.testing.assert_allclose(project(point, half), (project(point, K) - 0.5) / 2)


def test_depth_is_looked_for_where_the_points_are() -> None:
    points = np.stack([np.zeros(100), np.zeros(100), np.linspace(1.0, 3.0, 100)], 1)
    reach = depth_range(poses_of(np.eye(4)[None], points), 0)
    assert reach.near < 0.6
    assert reach.far > 5.5
    assert reach.typical == pytest.approx(2.0, abs=0.05)
    bare = depth_range(poses_of(np.eye(4)[None], points[:3]), 0)
    assert bare.near < 0.5
    assert bare.far > 10


def test_views_agree_on_a_wall_and_look_through_what_is_not_there() -> None:
    T = np.stack([np.eye(4), turned(5, (0.3, 0, 0)), turned(-5, (-0.3, 0, 0.1))])
    views_K = np.repeat(K[None], 3, 0)
    depth = np.stack([plane_depth(pose, 2.0, K, HW) for pose in T])
    depth[0, 40:60, 50:80] = 1.0  # a thing that only view 0 claims to see
    votes = agreement(depth, np.zeros_like(depth), T, views_K)
    middle = (slice(10, 30), slice(50, 80))
    assert (votes.same[0][middle] == 2).all()
    assert (votes.through[0][middle] == 0).all()
    ghost = (slice(45, 55), slice(58, 70))
    assert (votes.same[0][ghost] == 0).all()
    assert (votes.through[0][ghost] == 2).all()
    np.testing.assert_allclose(votes.depth[0][middle], 2.0, rtol=1e-3)
    np.testing.assert_allclose(votes.depth[0][ghost], 1.0)


def test_depth_of_views_that_agree_is_their_mean_by_expected_error() -> None:
    T = np.stack([np.eye(4), turned(5, (0.3, 0, 0)), turned(-5, (-0.3, 0, 0.1))])
    depth = np.stack([plane_depth(pose, 2.0, K, HW) for pose in T])
    depth[0] *= 1.06  # by so much view 0 is wrong, and unsure of it
    log_error = np.log(np.array([0.2, 0.02, 0.02]))[:, None, None] * np.ones_like(depth)
    middle = (slice(10, 30), slice(50, 80))
    fused = agreement(depth, log_error, T, np.repeat(K[None], 3, 0)).depth
    assert np.abs(fused[0][middle] / 2.0 - 1).max() < 0.005
    # those that are sure stay, though view 0 contradicts them
    assert np.abs(fused[1:, 10:30, 50:80] / depth[1:, 10:30, 50:80] - 1).max() < 0.005


def test_edges_are_where_depth_jumps_and_nowhere_else() -> None:
    depth = np.full((1, 20, 20), 2.0, np.float32)
    depth[0, :, 10:] = 3.0
    depth *= np.linspace(1, 1.3, 20)[:, None]
    edge = on_edges(depth)[0]
    assert edge[:, 9:11].all()
    assert not edge[:, :9].any()
    assert not edge[:, 11:].any()


def test_a_confidence_rule_is_fitted_to_what_was_right() -> None:
    rng = np.random.default_rng(0)
    log_error = rng.uniform(-4, -1, (1, 60, 500)).astype(np.float32)
    same = rng.integers(0, 4, log_error.shape).astype(np.uint8)
    votes = Agreement(same, np.zeros_like(same), np.zeros_like(log_error))
    share = 1 / (1 + np.exp(-(-1.0 - 0.8 * log_error + 0.7 * same - 1.5)))
    right = rng.random(share.shape) < share
    rule = fit_rule(np.stack([c.ravel() for c in rule_inputs(log_error, votes)], 1), right.ravel())
    fitted = rule.share_right(log_error, votes)
    assert np.abs(fitted - share).mean() < 0.02
    conf = rule.confidence(log_error, votes, np.zeros(same.shape, bool))
    assert (conf[same == 0] == 1).all()
    likely = fitted >= 0.5
    assert (conf[~likely] == 1).all()
    seen = (same > 0) & likely
    assert seen.mean() > 0.3
    np.testing.assert_allclose(1 - 1 / conf[seen], np.minimum(fitted[seen], 0.99), atol=1e-4)
    denied = votes._replace(through=np.full_like(same, 4))
    assert (rule.confidence(log_error, denied, np.zeros(same.shape, bool)) == 1).all()


def test_a_manifest_without_a_rule_is_refused() -> None:
    with pytest.raises(EngineError, match=r"network.confidence must be 5 numbers, not \[1.0\]"):
        ConfidenceRule.from_manifest({"confidence": [1.0]})


def test_the_default_engine_is_small_and_states_its_confidence() -> None:
    folder = default_engine_folder()
    manifest = load_manifest(folder)
    assert manifest.backend == "mvs"
    assert manifest.licence == "Apache-2.0"
    assert sum(f.stat().st_size for f in folder.iterdir()) < 15_000_000
    rows = manifest.info["right_by_confidence"]
    assert rows[-1]["promised"] > 0.9
    for row in rows:
        assert row["right"] > row["promised"] - 0.05


@pytest.fixture(scope="module")
def room() -> list[View]:
    pytest.importorskip("torch")
    from mvdust3r_ros.synthetic.mvs_rooms import make_mvs_window

    window = make_mvs_window(9_700_001, 6, (192, 256))
    return [
        View(rgb, window.K, T, depth)
        for rgb, T, depth in zip(window.rgb, window.T_world_cam, window.depth_m, strict=True)
    ]


@pytest.mark.slow
def test_a_room_nobody_trained_on_is_mapped_and_its_confidence_holds(room: list[View]) -> None:
    engine = create_engine()
    prediction = engine.infer(room)
    engine.close()
    assert prediction.metric
    assert prediction.used_odometry
    assert prediction.poses is not None
    errors, right, promised = [], [], []
    for index, view in enumerate(room):
        pose = prediction.poses[index]
        assert pose is not None
        assert room[0].T_odom_cam is not None
        assert view.T_odom_cam is not None
        true = invert_se3(room[0].T_odom_cam) @ view.T_odom_cam
        errors.append(np.linalg.norm(pose.T_window_cam[:3, 3] - true[:3, 3]))
        T = invert_se3(pose.T_window_cam)
        z = prediction.points[0, index] @ T[2, :3] + T[2, 3]
        conf = prediction.conf[0, index]
        use = conf > 1
        right.append(np.abs(z[use] / view.depth_m[use] - 1) < 0.1)
        promised.append(1 - 1 / conf[use])
    assert max(errors) < 0.05
    share = np.concatenate(right).mean()
    assert share > 0.9
    assert share > np.concatenate(promised).mean() - 0.05
    assert np.concatenate(right).size > 0.4 * len(room) * 192 * 256


@pytest.mark.slow
def test_the_graphs_say_what_the_network_says(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from mvdust3r_ros.engines.mvs.depth_reader import DepthReader
    from mvdust3r_ros.engines.mvs.export import export_graphs
    from mvdust3r_ros.model.sweep import Features, SweepNetwork, place_to_q

    torch.manual_seed(0)
    network = SweepNetwork().eval()
    export_graphs(network, tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 128, 192, 3), dtype=np.uint8)  # not the size it was made at
    reader = DepthReader(tmp_path)
    features = [reader.encode(View(image)) for image in images]
    T = np.stack([np.eye(4), turned(3, (0.2, 0, 0)), turned(-3, (-0.2, 0, 0))])
    points = np.stack([rng.uniform(-1, 1, 50), rng.uniform(-1, 1, 50), rng.uniform(1, 4, 50)], 1)
    poses = poses_of(T, points)
    depth, log_error = reader.depth(features, poses, (128, 192))
    with torch.no_grad():
        encoded = network.encoder(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        order = choose_sources(0, T, poses.K, (128, 192), depth_range(poses, 0).typical,
                               [0, 1, 2], 4)  # fmt: skip
        filled = [*order, *[order[0]] * 4][:4]
        P = np.stack([unit_projection(K, K, invert_se3(T[s]) @ T[0], (128, 192)) for s in filled])
        reach = torch.from_numpy(depth_range(poses, 0).range_q)[None]
        read = network.reader(
            Features(*(f[:1] for f in encoded)),
            (encoded.match[filled][None], encoded.fine[filled][None]),
            torch.from_numpy(P)[None],
            torch.tensor([[1.0] * len(order) + [0.0] * (4 - len(order))]),
            reach,
        )
        q = place_to_q(read.place, reach[:, :, None, None], network.config.planes)
    np.testing.assert_allclose(1 / depth[0], torch.maximum(q, 0.7 * reach[:, :1, None])[0],
                               rtol=1e-3)  # fmt: skip
    np.testing.assert_allclose(log_error[0], read.log_error[0], atol=1e-3)


def test_a_view_of_a_size_that_it_does_not_take_is_refused() -> None:
    engine = create_engine()
    with pytest.raises(EngineError, match=r"a view of 200x100 pixels; mvs .* multiples of 32"):
        engine.encode([View(np.zeros((100, 200, 3), np.uint8))])
    engine.close()
