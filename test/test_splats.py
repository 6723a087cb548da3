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

"""The map as Gaussians: where they lie, and the file that viewers open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from box_room import BoxRoom
from mvdust3r_ros.cli import main
from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import (
    MvDust3rError,
    PixelGaussians,
    Verdict,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.drawing.map_files import MapFileError, read_ply
from mvdust3r_ros.drawing.splats import Splats, map_splats, read_splats, write_splats
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.engines.create import EngineOptions
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.geometry import invert_se3, rotated_wxyz
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.graph.seen_keyframes import in_camera
from mvdust3r_ros.image_quality import psnr_db
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.model.splatting import Gaussians3d, RenderOptions, render
from room_bag import RoomBag

HW = (72, 96)
LAYOUT = [
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2",
    *[f"f_rest_{i}" for i in range(45)],
    "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
]  # fmt: skip
"""As `save_ply` of the first implementation writes it with harmonics of degree 3."""


def splats(count: int = 50) -> Splats:
    rng = np.random.default_rng(2)
    values = (
        rng.normal(size=(count, 3)),
        rng.uniform(1e-4, 0.2, (count, 3)),
        np.roll(Rotation.random(count, rng=rng).as_quat(), 1, axis=1),
        rng.uniform(0, 1, count),
        rng.uniform(0, 1, (count, 3)),
    )
    return Splats(*(v.astype(np.float32) for v in values))


def covariances(scale: np.ndarray, quat_wxyz: np.ndarray) -> np.ndarray:
    R = Rotation.from_quat(np.roll(quat_wxyz, -1, axis=-1)).as_matrix()
    return (R * scale[:, None] ** 2) @ np.swapaxes(R, 1, 2)


class SplattingOracle(OracleEngine):
    """The truth, with a Gaussian for each pixel that is about as large as the pixel."""

    def describe(self) -> EngineInfo:
        return replace(super().describe(), gaussians=True)

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        made = super().decode(tokens, n_ref)
        assert made.poses is None
        shape = made.conf.shape
        K = tokens[0].view.K
        assert K is not None
        depth = np.stack([t.view.depth_m for t in tokens])[None]  # type: ignore[misc]
        scale = np.repeat(0.3 * depth[..., None] / K[0, 0], 3, -1).astype(np.float32)
        quat = np.zeros((*shape, 4), np.float32)
        quat[..., 0] = 1
        gaussians = PixelGaussians(np.full(shape, 0.95, np.float32), scale, quat)
        return replace(made, gaussians=gaussians)


class BrokenOracle(SplattingOracle):
    """One of its Gaussians has no opacity."""

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        made = super().decode(tokens, n_ref)
        assert made.gaussians is not None
        made.gaussians.opacity[0, 1, 2, 3] = np.nan
        return made


def run(engine: OracleEngine, pixel_stride: int) -> tuple[Mapper, set[Verdict]]:
    room = BoxRoom()
    config = with_values(
        MapperConfig(),
        {
            "keyframes.window_size": 6, "keyframes.window_overlap": 3,
            "keyframes.min_sharpness": 0.0, "keyframes.max_interval_s": 0.1,
            "map.conf_quantile": 0.0, "map.pixel_stride": pixel_stride,
        },
    )  # fmt: skip
    mapper = Mapper(config, engine)
    updates = [mapper.process(frame) for frame in room.frames(room.walk(12))]
    return mapper, {u.verdict for u in updates if u is not None}


def test_a_window_with_gaussians_that_are_not_finite_is_rejected() -> None:
    assert run(BrokenOracle(HW), 2)[1] == {Verdict.REJECTED_NOT_FINITE}


@pytest.mark.slow
@pytest.mark.parametrize(("pixel_stride", "least_db"), [(1, 18), (2, 13)])
def test_a_camera_of_the_map_sees_in_it_what_it_saw(pixel_stride: int, least_db: float) -> None:
    """The room is made of squares of random colours; a view beside the right one has 9 dB."""
    mapper, verdicts = run(SplattingOracle(HW), pixel_stride)
    assert verdicts == {Verdict.COMMITTED}
    keyframes = list(mapper.now.graph.keyframes.values())
    made = map_splats(keyframes)
    values = (made.means, made.scale, made.quat_wxyz, made.opacity, made.rgb)
    gaussians = Gaussians3d(*(torch.from_numpy(v) for v in values))
    others = [item.keyframe.view.image_rgb / 255 for item in keyframes]
    for item in keyframes[::4]:
        view = item.keyframe.view
        assert view.K is not None
        K, T_cam = (torch.from_numpy(m).float() for m in (view.K, invert_se3(item.T_map_cam)))
        seen = render(gaussians, K, T_cam, HW, RenderOptions(blur_px2=0.1))
        assert float(seen.alpha.mean()) > 0.9
        values = [psnr_db(seen.rgb.numpy(), image) for image in others]
        assert values[keyframes.index(item)] == max(values) > least_db


def test_a_keyframe_turns_and_sizes_its_gaussians() -> None:
    g = splats(20)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec((0.3, 1.2, -2.0)).as_matrix(), (1, 2, 3)
    item = MapKeyframe(
        keyframe=None, T_map_cam=T, stored_cam=g.means,
        colors_rgb=np.round(g.rgb * 255).astype(np.uint8), conf=np.ones(20, np.float32),
        pointmap=None, size=1.5, level=0.8,
        gaussians=PixelGaussians(g.opacity, g.scale, g.quat_wxyz),
    )  # type: ignore[arg-type]  # fmt: skip
    made = map_splats([replace(item, gaussians=None), item])
    R = T[:3, :3]
    np.testing.assert_allclose(made.means, 1.2 * g.means @ R.T + T[:3, 3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        covariances(made.scale, made.quat_wxyz),
        1.44 * R @ covariances(g.scale, g.quat_wxyz) @ R.T, rtol=1e-4, atol=1e-7,
    )  # fmt: skip
    np.testing.assert_array_equal(made.opacity, g.opacity)
    np.testing.assert_allclose(made.rgb, g.rgb, atol=0.5 / 255 + 1e-6)


def test_a_view_takes_its_gaussians_into_its_camera_frame() -> None:
    g, use = splats(12), np.array([1, 5, 7])
    R = Rotation.from_rotvec((0.5, -1.0, 0.2)).as_matrix()
    image = PixelGaussians(
        g.opacity.reshape(3, 4), g.scale.reshape(3, 4, 3), g.quat_wxyz.reshape(3, 4, 4)
    )
    made = in_camera(image, R, 3.0, use)
    np.testing.assert_array_equal(made.opacity, g.opacity[use])
    np.testing.assert_allclose(
        covariances(made.scale, made.quat_wxyz),
        9 * R.T @ covariances(g.scale[use], g.quat_wxyz[use]) @ R, rtol=1e-4, atol=1e-7,
    )  # fmt: skip


def test_a_map_without_gaussians_is_refused() -> None:
    with pytest.raises(MvDust3rError, match="no Gaussians"):
        map_splats([])


def test_turning_a_quaternion_is_turning_its_rotation() -> None:
    rng = np.random.default_rng(0)
    turn, own = Rotation.random(rng=rng), Rotation.random(7, rng=rng)
    made = rotated_wxyz(turn.as_matrix(), np.roll(own.as_quat(), 1, axis=-1))
    got = Rotation.from_quat(np.roll(made, -1, axis=-1)).as_matrix()
    np.testing.assert_allclose(got, (turn * own).as_matrix(), atol=1e-12)


def test_gaussians_come_back_from_the_file(tmp_path: Path) -> None:
    g, path = splats(), tmp_path / "deep" / "room.ply"
    write_splats(path, g)
    back = read_splats(path)
    assert len(back) == len(g)
    for name, tolerance in (
        ("means", 0), ("scale", 1e-7), ("quat_wxyz", 1e-6), ("opacity", 2e-6), ("rgb", 1e-6)
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(back, name), getattr(g, name), atol=tolerance)


def test_the_layout_is_that_of_the_first_implementation(tmp_path: Path) -> None:
    g, path = splats(3), tmp_path / "room.ply"
    write_splats(path, g)
    head, _, body = path.read_bytes().partition(b"end_header\n")
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 3\n")
    assert re.findall(r"property float (\w+)", head.decode()) == LAYOUT
    rows = np.frombuffer(body, "<f4").reshape(3, len(LAYOUT))
    column = dict(zip(LAYOUT, rows.T, strict=True))
    opacity = 1 / (1 + np.exp(-column["opacity"]))
    np.testing.assert_allclose(opacity, g.opacity, atol=1e-5)
    np.testing.assert_allclose(np.exp(column["scale_1"]), g.scale[:, 1], rtol=1e-5)
    np.testing.assert_allclose(column["rot_0"], g.quat_wxyz[:, 0])
    np.testing.assert_allclose(0.5 + column["f_dc_2"] / np.sqrt(4 * np.pi), g.rgb[:, 2], atol=1e-6)
    assert not rows[:, 9:54].any() and not rows[:, 3:6].any()


def test_another_reader_of_ply_reads_it(tmp_path: Path) -> None:
    plyfile = pytest.importorskip("plyfile", reason="plyfile is not installed")
    g, path = splats(), tmp_path / "room.ply"
    write_splats(path, g)
    vertex = plyfile.PlyData.read(path)["vertex"]
    assert [p.name for p in vertex.properties] == LAYOUT
    np.testing.assert_array_equal(np.stack([vertex[n] for n in "xyz"], -1), g.means)


def test_opaque_and_invisible_ones_stay_finite(tmp_path: Path) -> None:
    g = replace(splats(2), opacity=np.array([0, 1], np.float32))
    write_splats(tmp_path / "a.ply", g)
    np.testing.assert_allclose(read_splats(tmp_path / "a.ply").opacity, (0, 1), atol=2e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("rot_0 rot_1 rot_2 rot_3", 0), ("x", np.nan), ("scale_0", 1e9)]
)
def test_values_that_are_no_gaussians_are_refused(tmp_path: Path, name: str, value: float) -> None:
    path = tmp_path / "room.ply"
    write_splats(path, splats(4))
    head, mark, body = path.read_bytes().partition(b"end_header\n")
    rows = np.frombuffer(body, "<f4").reshape(4, -1).copy()
    rows[2, [LAYOUT.index(n) for n in name.split()]] = value
    path.write_bytes(head + mark + rows.tobytes())
    with pytest.raises(MapFileError, match="no Gaussians"):
        read_splats(path)


def test_a_cloud_is_no_splat_file(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 0\n"
    path.write_text(head + "".join(f"property float {a}\n" for a in "xyz") + "end_header\n")
    with pytest.raises(MapFileError, match="property f_dc_0 is missing"):
        read_splats(path)


@pytest.mark.slow
def test_the_command_writes_the_map_as_gaussians(
    room_bag: RoomBag, params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def engine(source: str, options: EngineOptions) -> OracleEngine:
        asked.append((source, options.gaussians))
        return SplattingOracle(HW)

    monkeypatch.setattr("mvdust3r_ros.commands.map_bag.create_engine", engine)
    words = ["map", str(room_bag.bag), "--engine", "oracle", "--depth", str(room_bag.depth)]
    words += ["--params", str(params), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    path = tmp_path / "views" / "room.ply"
    assert main([*words, "--splat", str(path)]) == 0
    assert asked == [("oracle", False), ("oracle", True)]
    made, cloud = read_splats(path), read_ply(next((tmp_path / "out").glob("*.ply")))
    for far in (np.min, np.max):
        np.testing.assert_allclose(far(made.means, 0), far(cloud.points, 0), atol=0.05)
    assert np.allclose(made.opacity, 0.95, atol=1e-4)


def test_an_engine_without_gaussians_is_said_in_one_line(
    room_bag: RoomBag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["map", str(room_bag.bag), "--engine", "oracle", "--depth", str(room_bag.depth)]
    words += ["--out", str(tmp_path / "out"), "--splat", str(tmp_path / "room.ply")]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "predicts no Gaussians: --splat needs a network with Gaussian heads" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
