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

"""Folders and videos as recordings: each layout, written from a synthetic room, read exactly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from mvdust3r_ros.cli import main
from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import FloatArray, Frame, ImageArray, MvDust3rError, Trajectory
from mvdust3r_ros.drawing.map_files import write_tum
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.evaluation.lockstep import run_lockstep
from mvdust3r_ros.evaluation.scoring import score_run
from mvdust3r_ros.geometry import quaternion_xyzw
from mvdust3r_ros.recordings.formats import FileOptions, files_recording
from mvdust3r_ros.recordings.recording import Recording, TruthOptions
from mvdust3r_ros.synthetic.render import Renderer, Rendering
from mvdust3r_ros.synthetic.sequence import Sequence, SequenceConfig, make_sequence

HW = (96, 128)
FRAMES = 14
CONFIG = with_values(
    MapperConfig(),
    {
        "keyframes.window_size": 4,
        "keyframes.window_overlap": 2,
        "keyframes.max_interval_s": 0.01,
    },
)


@pytest.fixture(scope="module")
def drive() -> Sequence:
    return make_sequence(
        SequenceConfig(seed=4, frames=FRAMES, hw=HW, step_m=0.16, noise=0.0, supersample=1)
    )


@pytest.fixture(scope="module")
def shots(drive: Sequence) -> list[Rendering]:
    return [drive.rendering(k) for k in range(FRAMES)]


def write_image(path: Path, rgb: ImageArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))


def write_depth(path: Path, depth_m: FloatArray, steps_a_metre: float = 1000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.rint(depth_m * steps_a_metre).astype(np.uint16))


def write_intrinsics(path: Path, drive: Sequence) -> None:
    values = {
        "image_width": HW[1], "image_height": HW[0],
        "camera_matrix": {"rows": 3, "cols": 3, "data": drive.camera.K.ravel().tolist()},
        "distortion_model": "plumb_bob", "distortion_coefficients": {"data": [0.0] * 5},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))


def tum(folder: Path, drive: Sequence, shots: list[Rendering]) -> Path:
    """Depth and truth have stamps of their own, a little later and a little earlier."""
    images, depths, poses = ["# color images"], ["# depth maps"], ["# ground truth"]
    for shot, stamp_ns, T in zip(
        shots, drive.truth.stamps_ns, drive.truth.T_world_cam, strict=True
    ):
        stamp = f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}"
        later = f"{stamp_ns // 10**9}.{stamp_ns % 10**9 + 4_000_000:09d}"
        write_image(folder / "rgb" / f"{stamp}.png", shot.rgb)
        write_depth(folder / "depth" / f"{later}.png", shot.depth_m, 5000)
        images.append(f"{stamp} rgb/{stamp}.png")
        depths.append(f"{later} depth/{later}.png")
        numbers = [*T[:3, 3], *quaternion_xyzw(T[:3, :3])]
        poses.append(" ".join([stamp, *(f"{v:.9f}" for v in numbers)]))
    for name, lines in (("rgb", images), ("depth", depths), ("groundtruth", poses)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    write_intrinsics(folder / "intrinsics.yaml", drive)
    return folder


def seven_scenes(folder: Path, drive: Sequence, shots: list[Rendering]) -> Path:
    for k, shot in enumerate(shots):
        write_image(folder / f"frame-{k:06d}.color.png", shot.rgb)
        write_depth(folder / f"frame-{k:06d}.depth.png", shot.depth_m)
        np.savetxt(folder / f"frame-{k:06d}.pose.txt", drive.truth.T_world_cam[k], "%.7e")
    write_intrinsics(folder / "intrinsics.yaml", drive)
    return folder


def scannet(folder: Path, drive: Sequence, shots: list[Rendering], lost: int = -1) -> Path:
    """Colour is larger than depth and of another camera at the same place."""
    K_color = drive.camera.K * np.array([[1.9], [1.9], [1]]) + np.array(
        [[0, 0, 5.0], [0, 0, -3.0], [0, 0, 0]]
    )
    renderer = Renderer(drive.scene)
    for k, shot in enumerate(shots):
        T = drive.truth.T_world_cam[k]
        rgb = renderer.render(K_color, (184, 250), T, 1).rgb
        write_image(folder / "color" / f"{k}.jpg", rgb)
        write_depth(folder / "depth" / f"{k}.png", shot.depth_m)
        (folder / "pose").mkdir(exist_ok=True)
        pose = np.full((4, 4), -np.inf) if k == lost else T
        np.savetxt(folder / "pose" / f"{k}.txt", pose)
    (folder / "intrinsic").mkdir()
    for name, K in (("color", K_color), ("depth", drive.camera.K)):
        matrix = np.eye(4)
        matrix[:3, :3] = K
        np.savetxt(folder / "intrinsic" / f"intrinsic_{name}.txt", matrix)
    return folder


def images(folder: Path, drive: Sequence, shots: list[Rendering]) -> Path:
    """Numbers without leading zeros; times and truth as KITTI has them, beside the folder."""
    for k, shot in enumerate(shots):
        write_image(folder / "images" / f"{k}.png", shot.rgb)
        write_depth(folder / "depth" / f"{k}.png", shot.depth_m)
    times = (drive.truth.stamps_ns - drive.truth.stamps_ns[0])[: len(shots)] * 1e-9
    np.savetxt(folder / "times.txt", times, "%.6f")
    np.savetxt(folder / "poses.txt", drive.truth.T_world_cam[: len(shots), :3].reshape(-1, 12))
    write_intrinsics(folder / "intrinsics.yaml", drive)
    return folder / "images"


def video(folder: Path, drive: Sequence, shots: list[Rendering]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "walk.mkv"
    code = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 10.0, HW[::-1])
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no lossless video")
    for k, shot in enumerate(shots):
        writer.write(np.ascontiguousarray(shot.rgb[..., ::-1]))
        write_depth(folder / "depth" / f"{k:06d}.png", shot.depth_m)
    writer.release()
    stamps = np.arange(FRAMES, dtype=np.int64) * 100_000_000
    write_tum(folder / "truth.tum", Trajectory(stamps, drive.truth.T_world_cam))
    write_intrinsics(folder / "intrinsics.yaml", drive)
    return path


def opened(path: Path, truth: str = "", depth: str = "", **options: Any) -> Recording:
    return files_recording(path, TruthOptions(truth, depth), FileOptions(**options))


def frames_of(recording: Recording) -> list[Frame]:
    return list(recording.frames(lambda error: pytest.fail(str(error))))


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (tum, "TUM RGB-D"), (seven_scenes, "7-Scenes"), (scannet, "ScanNet"),
        (images, "images"), (video, "video"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_layout_is_found_out_and_its_map_has_no_error(
    write: Callable[..., Path], kind: str, drive: Sequence, shots: list[Rendering], tmp_path: Path
) -> None:
    recording = opened(write(tmp_path / "made", drive, shots))
    assert (recording.kind, recording.total) == (kind, FRAMES)
    assert recording.truth_source
    assert recording.depth_source
    evidence, stopped = run_lockstep(recording, CONFIG, OracleEngine(HW))
    assert stopped == ""
    assert not evidence.result.faults
    numbers = score_run(evidence).numbers
    assert numbers["windows_committed"] == numbers["windows"] == numbers["windows_scored"]
    assert numbers["windows"] is not None and numbers["windows"] >= 2
    # not rte: where the camera turns on the spot, its motion has no direction
    for name in ("ate_m", "rpe_m", "nd", "scale_error", "rre"):
        assert numbers[name] is not None, name
        assert abs(numbers[name]) < 0.003, name
    assert numbers["grid_iou"] is not None and numbers["grid_iou"] > 0.5


@pytest.mark.parametrize("write", [tum, seven_scenes, images, video])
def test_images_depth_and_poses_are_those_written(
    write: Callable[..., Path], drive: Sequence, shots: list[Rendering], tmp_path: Path
) -> None:
    frames = frames_of(opened(write(tmp_path / "made", drive, shots)))
    assert len(frames) == FRAMES
    for frame, shot, T in zip(frames, shots, drive.truth.T_world_cam, strict=True):
        # the video's colours went through YUV
        assert np.abs(frame.image_rgb.astype(int) - shot.rgb).mean() < 3.0
        np.testing.assert_allclose(frame.depth_m, shot.depth_m, atol=6e-4)
        np.testing.assert_allclose(frame.T_world_cam, T, atol=1e-6)
        assert frame.camera is not None
        np.testing.assert_allclose(frame.camera.K, drive.camera.K)
    assert (np.diff([f.stamp_ns for f in frames]) > 0).all()


def test_scannets_depth_is_moved_to_the_pixels_of_colour(
    drive: Sequence, shots: list[Rendering], tmp_path: Path
) -> None:
    frame, without_pose = frames_of(opened(scannet(tmp_path / "made", drive, shots[:2], lost=1)))
    assert frame.T_world_cam is not None
    assert without_pose.T_world_cam is None
    assert frame.camera is not None and frame.depth_m is not None
    size = frame.image_rgb.shape[:2]
    exact = Renderer(drive.scene).render(frame.camera.K, size, drive.truth.T_world_cam[0], 1)
    known = frame.depth_m > 0
    assert known.mean() > 0.9
    error = np.abs(frame.depth_m - exact.depth_m)[known]
    assert np.median(error) < 0.01
    assert np.percentile(error, 90) < 0.05


def test_published_intrinsics_are_used_where_no_file_says_otherwise(tmp_path: Path) -> None:
    grey = np.full((480, 640, 3), 99, np.uint8)
    folder = tmp_path / "rgbd_dataset_freiburg2_desk"
    write_image(folder / "rgb" / "1.png", grey)
    (folder / "rgb.txt").write_text("1.5 rgb/1.png\n")
    (frame,) = frames_of(opened(folder))
    assert frame.stamp_ns == 1_500_000_000
    assert frame.camera is not None
    assert frame.camera.K[0, 0] == 520.9
    assert frame.camera.distortion[0] == 0.2312
    write_image(tmp_path / "chess" / "frame-000007.color.png", grey)
    (frame,) = frames_of(opened(tmp_path / "chess"))
    assert frame.camera is not None
    assert frame.camera.K[0, 0] == 585


def test_times_come_from_names_and_depth_can_be_left_out(
    drive: Sequence, shots: list[Rendering], tmp_path: Path
) -> None:
    for name in ("1403636579763555584", "1403636579813555456"):
        write_image(tmp_path / "data" / f"{name}.png", shots[0].rgb)
    stamps = [f.stamp_ns for f in frames_of(opened(tmp_path / "data"))]
    assert stamps == [1403636579763555584, 1403636579813555456]
    folder = images(tmp_path / "made", drive, shots[:2])
    (tmp_path / "made" / "times.txt").unlink()
    recording = opened(folder, truth="none", depth="none", fps=5.0)
    frames = frames_of(recording)
    assert [f.stamp_ns for f in frames] == [0, 200_000_000]
    assert frames[0].depth_m is None
    assert (recording.truth, recording.depth_source) == (None, "")


def test_a_damaged_image_is_named_and_passed_over(
    drive: Sequence, shots: list[Rendering], tmp_path: Path
) -> None:
    folder = images(tmp_path / "made", drive, shots[:4])
    (tmp_path / "made" / "poses.txt").unlink()
    (folder / "1.png").write_bytes(b"no image")
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[:40])
    errors: list[str] = []
    frames = list(opened(folder).frames(lambda error: errors.append(str(error))))
    assert len(frames) == 2
    assert len(errors) == 2
    assert "1.png" in errors[0]
    assert "2.png" in errors[1]


def test_each_mistake_says_what_to_do(
    drive: Sequence, shots: list[Rendering], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("nothing")
    assert main(["evaluate", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "empty is no recording of a kind that is understood" in error
    assert "it holds inner/, notes.txt" in error
    for kind in ("ROS 2 bag", "TUM RGB-D", "7-Scenes", "ScanNet", "images", "video"):
        assert f"\n  {kind} " in error
    assert not (tmp_path / "out").exists()

    (tmp_path / "scan.sens").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(b"no video")
    made = images(tmp_path / "made", drive, shots[:2])
    (tmp_path / "made" / "times.txt").write_text("0.0\n")
    listed = tmp_path / "listed"
    listed.mkdir()
    (listed / "rgb.txt").write_text("# nothing\n")
    for path, words, hint in (
        (tmp_path / "scan.sens", {}, "SensReader"),
        (tmp_path / "cut.mp4", {"truth": "none"}, "cannot be opened"),
        (tmp_path / "nowhere", {}, "does not exist"),
        (made, {}, "1 times for 2 images"),
        (listed, {}, "lists no images"),
    ):
        with pytest.raises(MvDust3rError, match=hint):
            opened(path, **words)
    shutil.copy(tmp_path / "scan.sens", tmp_path / "made" / "intrinsics.yaml")
    (tmp_path / "made" / "times.txt").unlink()
    with pytest.raises(MvDust3rError, match=r"intrinsics\.yaml: expected image_width"):
        opened(made)


def test_a_video_is_read_as_it_is_stored_and_its_bad_depth_left_out(tmp_path: Path) -> None:
    """Phones turn it by a matrix in the header (ISO 14496-12) instead of turning pixels."""
    path = tmp_path / "phone.mp4"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10.0, HW[::-1]
    )
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no mp4")
    for _ in range(3):
        writer.write(np.full((*HW, 3), 90, np.uint8))
    writer.release()
    (tmp_path / "depth").mkdir()
    for k, depth in enumerate((HW, HW[::-1], HW)):
        cv2.imwrite(str(tmp_path / "depth" / f"{k:06d}.png"), np.full(depth, 2000, np.uint16))
    recording = opened(path)
    assert [f.depth_m is None for f in frames_of(recording)] == [False, True, False]
    (said,) = recording.notes.lines()
    assert "it has to be registered to the image and is not used: 000001.png" in said
    shutil.rmtree(tmp_path / "depth")

    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    quarter = (0, 1 << 16, 0, -(1 << 16), 0, 0)
    data[matrix : matrix + 24] = b"".join(v.to_bytes(4, "big", signed=True) for v in quarter)
    path.write_bytes(data)
    recording = opened(path)
    assert [f.image_rgb.shape[:2] for f in frames_of(recording)] == [HW] * 3
    (said,) = recording.notes.lines()
    assert "asks to be turned by" in said
