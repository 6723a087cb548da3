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

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import FloatArray, View, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.create import EngineOptions, create_engine, needs_truth
from mvdust3r_ros.engines.dust3r.alignment import AlignmentSettings, align_pairs
from mvdust3r_ros.engines.dust3r.engine import (
    Dust3rEngine,
    dust3r_manifest,
    export_dust3r,
)
from mvdust3r_ros.engines.dust3r.pairs import PairMaps, pair_graph
from mvdust3r_ros.engines.dust3r.pairwise import PairwiseEngine, WindowSettings
from mvdust3r_ros.engines.manifest import MANIFEST_NAME, load_manifest, save_manifest
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.engines.torch_engine import TorchOptions
from mvdust3r_ros.geometry import align_cameras_sim3, backproject, invert_se3, make_se3, pixel_grid
from mvdust3r_ros.model.dust3r import PairConfig, PairNetwork
from mvdust3r_ros.model.dust3r_weights import PairCheckpoint, save_pair_checkpoint
from mvdust3r_ros.model.heads import PointHead, PointMaps
from mvdust3r_ros.synthetic.dataset import exact_views

CONFIG = PairConfig(
    image_hw=(32, 48), enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=24, dec_depth=4, dec_heads=2,
    head="dpt", dpt_levels=(4, 6, 8, 10), dpt_features=8,
)  # fmt: skip
LINEAR = dataclasses.replace(CONFIG, head="linear")
QUICK = WindowSettings(alignment=AlignmentSettings(iterations=20))
CPU = TorchOptions("cpu", "fp32")
K = np.array([[45.0, 0, 23.5], [0, 45, 15.5], [0, 0, 1]])


def network() -> PairNetwork:
    """Random weights, but in each patch points as a camera sees them."""
    torch.manual_seed(0)
    made = PairNetwork(LINEAR).eval()
    y, x = torch.meshgrid(*2 * [(torch.arange(16) - 7.5) / 30], indexing="ij")
    for head in (made.downstream_head1, made.downstream_head2):
        assert isinstance(head, PointHead)
        torch.nn.init.normal_(head.proj.weight, std=0.02)
        with torch.no_grad():
            head.proj.bias.copy_(torch.stack((x, y, torch.ones(16, 16), x)).flatten())
    return made


def weights(folder: Path) -> Path:
    path = folder / "small.safetensors"
    state = network().state_dict()
    save_pair_checkpoint(path, PairCheckpoint(LINEAR, state, "CC-BY-NC-SA-4.0", "a call"))
    return path


def random_views(count: int, image_hw: tuple[int, int] = (32, 48)) -> list[View]:
    rng = np.random.default_rng(5)
    return [View(rng.integers(0, 256, (*image_hw, 3), np.uint8)) for _ in range(count)]


class KnowingNetwork(PairNetwork):
    """Sees in a view's first pixel which one it is, and knows the scene."""

    def __init__(self, T: FloatArray, depth: FloatArray) -> None:
        super().__init__(CONFIG)
        self.T, self.depth = T, depth

    def encode(self, images: Tensor) -> Tensor:
        number = torch.round((images[:, 0, 0, 0] + 1) * 127.5)
        return number[:, None, None].expand(-1, CONFIG.image_hw[0] // 16 * 3, CONFIG.enc_dim)

    def pair_maps(
        self, first: Tensor, second: Tensor, grid_hw: tuple[int, int]
    ) -> tuple[PointMaps, PointMaps]:
        assert grid_hw == (2, 3)
        pairs = torch.stack((first[:, 0, 0], second[:, 0, 0]), 1).int().tolist()
        points = np.stack([[self.seen(i, i), self.seen(i, j)] for i, j in pairs])
        maps = torch.from_numpy(points.astype(np.float32))
        conf = torch.full(maps.shape[:4], 3.0)
        return PointMaps(maps[:, 0], conf[:, 0]), PointMaps(maps[:, 1], conf[:, 1])

    def seen(self, by: int, view: int) -> FloatArray:
        """Points of a view in the camera frame of another, half as large as they are."""
        T = invert_se3(self.T[by]) @ self.T[view]
        return 0.5 * (backproject(self.depth[view], K) @ T[:3, :3].T + T[:3, 3])


def knowing_engine(views: int, intrinsics: bool = False) -> tuple[Dust3rEngine, FloatArray]:
    x, y = np.moveaxis(pixel_grid(32, 48) / (48, 32), -1, 0)
    depth = np.stack([2 + np.sin(4 * x + v) * 0.5 + y * np.cos(v + 3 * y) for v in range(views)])
    T = np.stack([make_se3(np.eye(3), np.array([0.3 * v, 0, 0.1 * v * v])) for v in range(views)])
    known = KnowingNetwork(T, depth)
    manifest = dust3r_manifest(PairCheckpoint(CONFIG, {}), "knowing", QUICK)
    manifest = dataclasses.replace(manifest, intrinsics=intrinsics)
    return Dust3rEngine(known, manifest, CPU), T


def numbered_views(count: int, matrix: FloatArray | None = None) -> list[View]:
    return [View(np.full((32, 48, 3), n, np.uint8), matrix) for n in range(count)]


def test_all_pairs_become_poses_and_points_in_the_frame_of_the_first_view() -> None:
    engine, T = knowing_engine(4)
    views = numbered_views(4)
    order = (2, 0, 3, 1)
    window = engine.infer([views[i] for i in order])
    assert window.poses is not None
    poses = np.stack([pose.T_window_cam for pose in window.poses if pose is not None])
    expected = invert_se3(T[2]) @ T[list(order)]
    S, rms = align_cameras_sim3(poses, expected)
    assert rms < 1e-4 and S.scale == pytest.approx(2, rel=1e-4)
    for pose, points in zip(window.poses, window.points[0], strict=True):
        assert pose is not None
        np.testing.assert_allclose(pose.K, K, rtol=1e-4)
        cam = (points - pose.T_window_cam[:3, 3]) @ pose.T_window_cam[:3, :3]
        pixels = cam @ K.T
        np.testing.assert_allclose(
            pixels[..., :2] / pixels[..., 2:], pixel_grid(32, 48), atol=1e-2
        )
    np.testing.assert_array_equal(window.conf, np.float32(3))


def test_intrinsics_are_used_only_where_the_manifest_says_so() -> None:
    other = K * np.array([[1.1], [1.1], [1]])
    other[:2, 2] = K[:2, 2]
    for intrinsics, expected in ((True, other), (False, K)):
        engine, _ = knowing_engine(3, intrinsics)
        poses = engine.infer(numbered_views(3, other)).poses
        assert poses is not None and poses[1] is not None
        np.testing.assert_allclose(poses[1].K, expected, rtol=1e-4)


def test_kept_tokens_give_the_same_window() -> None:
    manifest = dust3r_manifest(PairCheckpoint(LINEAR, {}), "small", QUICK)
    engine = Dust3rEngine(network(), manifest, CPU)
    views = random_views(3)
    kept = [token for view in views for token in engine.encode([view])]
    np.testing.assert_array_equal(engine.decode(kept).points, engine.infer(views).points)
    engine.close()


@pytest.mark.slow
def test_an_engine_folder_from_weights(tmp_path: Path) -> None:
    path = weights(tmp_path)
    folder = tmp_path / "engine"
    assert main(["engine", "export", "--weights", str(path), "--out", str(folder)]) == 0
    assert load_manifest(folder).backend == "dust3r"
    engine = create_engine(folder, EngineOptions(device="cpu"))
    info = engine.describe()
    assert (info.backend, info.licence, info.metric) == ("dust3r", "CC-BY-NC-SA-4.0", False)
    direct = create_engine(path, EngineOptions(device="cpu"))
    views = random_views(2)
    a, b = (e.infer(views) for e in (engine, direct))
    np.testing.assert_array_equal(a.points, b.points)
    assert a.poses is not None and a.points.shape == (1, 2, 32, 48, 3)


def test_views_in_the_aspect_of_the_camera_for_the_models_of_512() -> None:
    config = dataclasses.replace(CONFIG, image_hw=(512, 512))
    info = dust3r_manifest(PairCheckpoint(config, {}), "large").engine_info("CPU")
    assert info.view_hw((720, 1280)) == (288, 512)
    assert info.takes((384, 512)) and not info.takes((224, 224))
    small = dust3r_manifest(PairCheckpoint(CONFIG, {}), "small").engine_info("CPU")
    assert small.view_hw((720, 1280)) == (32, 48)


def test_wrong_windows_are_refused_in_words() -> None:
    engine, _ = knowing_engine(3)
    with pytest.raises(EngineError, match="a view of 48x16 pixels, the engine takes 48x32"):
        engine.encode(random_views(1, (16, 48)))
    with pytest.raises(EngineError, match="no views"):
        engine.encode([])
    tokens = engine.encode(numbered_views(3))
    with pytest.raises(EngineError, match="a window of 1 views"):
        engine.decode(tokens[:1])


def test_pointmaps_that_fit_nothing_are_an_error_of_the_window() -> None:
    engine, T = knowing_engine(3)
    flat = KnowingNetwork(T, np.zeros((3, 32, 48)))
    manifest = dust3r_manifest(PairCheckpoint(CONFIG, {}), "flat", QUICK)
    engine = Dust3rEngine(flat, manifest, CPU)
    with pytest.raises(EngineError, match="the pairs cannot be aligned"):
        engine.infer(numbered_views(3))


def test_settings_that_are_none_are_named(tmp_path: Path) -> None:
    settings = WindowSettings("window", 2, AlignmentSettings(30, 0.02, 500))
    assert WindowSettings.from_dict(settings.to_dict()) == settings
    for change, message in (
        ({"graph": "ring"}, "graph 'ring'"),
        ({"iterations": -1}, "alignment in -1 iterations"),
        ({"iterations": "many"}, "alignment"),
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
    ):
        with pytest.raises(EngineError, match=message):
            WindowSettings.from_dict(change)
    folder = export_dust3r(weights(tmp_path), tmp_path / "engine", settings)
    manifest = load_manifest(folder)
    assert WindowSettings.from_dict(manifest.network["alignment"]) == settings
    save_manifest(folder, dataclasses.replace(manifest, network={"head": "conv"}))
    with pytest.raises(EngineError, match="head 'conv'"):
        create_engine(folder, EngineOptions(device="cpu"))
    assert (folder / MANIFEST_NAME).is_file()


def test_true_pairs_become_the_true_room() -> None:
    views = exact_views(7_500_000, 4, (48, 48))
    engine = PairwiseEngine(OracleEngine((48, 48)), QUICK)
    window, true = engine.infer(views), OracleEngine((48, 48)).infer(views)
    np.testing.assert_allclose(window.points, true.points, atol=1e-3)  # metres
    assert engine.describe().metric and window.poses is not None
    for pose, view in zip(window.poses, views, strict=True):
        assert pose is not None and view.T_odom_cam is not None and views[0].T_odom_cam is not None
        np.testing.assert_allclose(
            pose.T_window_cam, invert_se3(views[0].T_odom_cam) @ view.T_odom_cam, atol=1e-3
        )
        np.testing.assert_array_equal(pose.K, view.K)


@pytest.mark.slow
def test_the_pairs_of_the_room_model_are_those_decoded_by_hand() -> None:
    room = create_engine("models/room", EngineOptions(threads=1))
    engine = create_engine("dust3r:models/room", EngineOptions(threads=1, device="cpu"))
    info = engine.describe()
    assert (info.backend, info.n_ref, info.metric) == ("dust3r", 1, True)
    views = exact_views(7_500_001, 3, (128, 128))
    tokens, pairs = room.encode(views), pair_graph(3)
    seen = [room.decode([tokens[i], tokens[j]], 1) for i, j in pairs]
    points, conf = (np.concatenate([getattr(p, of) for p in seen]) for of in ("points", "conf"))
    maps = PairMaps(pairs, points, conf)
    aligned = align_pairs(maps, K=np.stack([view.K for view in views if view.K is not None]))
    window = engine.infer(views)
    assert window.poses is not None and window.points.shape == (1, 3, 128, 128, 3)
    for pose, T in zip(window.poses, aligned.T_ref_cam, strict=True):
        assert pose is not None
        np.testing.assert_array_equal(pose.T_window_cam, T)
    np.testing.assert_array_equal(window.conf[0], aligned.conf)
    np.testing.assert_allclose(window.points[0, 0, ..., 2], aligned.depth[0], rtol=1e-6)
    engine.close()


def test_an_engine_that_chooses_the_reference_makes_no_pairs() -> None:
    class Backwards(OracleEngine):
        def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
            return dataclasses.replace(super().decode(tokens, n_ref), references=(1,))

    engine = PairwiseEngine(Backwards((48, 48)), QUICK)
    with pytest.raises(EngineError, match="chooses the reference itself"):
        engine.infer(exact_views(7_500_000, 2, (48, 48)))


def test_pairs_need_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs_truth("dust3r:oracle") and not needs_truth("dust3r:models/room")
    monkeypatch.setitem(sys.modules, "mvdust3r_ros.engines.dust3r.pairwise", None)
    with pytest.raises(EngineError, match="dust3r:oracle needs PyTorch: pip install"):
        create_engine("dust3r:oracle")
