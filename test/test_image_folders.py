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

"""Folders as people have them: names as times, one bad item, one level too high or too low."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import Frame, MvDust3rError
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.evaluation.lockstep import run_lockstep
from mvdust3r_ros.geometry import quaternion_xyzw, se3_from_quaternion
from mvdust3r_ros.recordings.formats import FileOptions, files_recording
from mvdust3r_ros.recordings.image_times import times_of_names
from mvdust3r_ros.recordings.recording import Recording, RecordingError, TruthOptions

HW = (48, 64)
K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
COUNT = 12
NS = 10**9
START = 1_700_000_000 * NS
STAMPS = [START + k * NS // 10 + 7000 for k in range(COUNT)]


def picture(k: int) -> np.ndarray:
    """A textured wall, two metres ahead, seen from a step further to the right each time."""
    rng = np.random.default_rng(2)
    wall = cv2.resize(rng.integers(0, 256, (40, 80)).astype(np.uint8), (320, 160))
    shift = 3 * k
    return np.repeat(wall[50:98, 100 + shift : 164 + shift, None], 3, -1)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, image)
    assert done
    return data.tobytes()


def pose(k: int) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = 0.1 * k
    return T


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def image_folder(
    root: Path, name: Callable[[int], str] = "{:05d}".format, suffix: str = ".png"
) -> Path:
    """images/, depth/, poses.txt with 16 numbers a line and K.txt, as DeepVideoMVS has them."""
    for k in range(COUNT):
        write(root / "images" / f"{name(k)}{suffix}", encoded(picture(k), suffix))
        depth = np.full(HW, 2000, np.uint16)
        write(root / "depth" / f"{name(k)}.png", encoded(depth, ".png"))
    np.savetxt(root / "poses.txt", [pose(k).ravel() for k in range(COUNT)])
    np.savetxt(root / "K.txt", K)
    return root


def seven_scenes(root: Path, suffix: str = ".png") -> Path:
    for k in range(COUNT):
        stem = root / f"frame-{k:06d}"
        write(Path(f"{stem}.color{suffix}"), encoded(picture(k), suffix))
        write(Path(f"{stem}.depth.png"), encoded(np.full(HW, 2000, np.uint16), ".png"))
        np.savetxt(f"{stem}.pose.txt", pose(k))
    np.savetxt(root / "K.txt", K)
    return root


def scannet(root: Path) -> Path:
    for k in range(COUNT):
        write(root / "color" / f"{k}.jpg", encoded(picture(k), ".jpg"))
        write(root / "depth" / f"{k}.png", encoded(np.full(HW, 2000, np.uint16), ".png"))
        (root / "pose").mkdir(exist_ok=True)
        np.savetxt(root / "pose" / f"{k}.txt", pose(k))
    (root / "intrinsic").mkdir()
    for which in ("color", "depth"):
        matrix = np.eye(4)
        matrix[:3, :3] = K
        np.savetxt(root / "intrinsic" / f"intrinsic_{which}.txt", matrix)
    return root


def tum(root: Path) -> Path:
    images, depths, poses = [], [], []
    for k, stamp in enumerate(STAMPS):
        seconds = f"{stamp // NS}.{stamp % NS:09d}"
        write(root / "rgb" / f"{seconds}.png", encoded(picture(k), ".png"))
        write(root / "depth" / f"{seconds}.png", encoded(np.full(HW, 10_000, np.uint16), ".png"))
        images.append(f"{seconds} rgb/{seconds}.png")
        depths.append(f"{seconds} depth/{seconds}.png")
        poses.append(f"{seconds} {0.1 * k} 0 0 0 0 0 1")
    for name, lines in (("rgb", images), ("depth", depths), ("groundtruth", poses)):
        write(root / f"{name}.txt", "# list\n" + "\n".join(lines) + "\n")
    np.savetxt(root / "K.txt", K)
    return root


def opened(path: Path, truth: str = "", depth: str = "", **options: float) -> Recording:
    return files_recording(path, TruthOptions(truth, depth), FileOptions(**options))


def read(recording: Recording) -> tuple[list[Frame], list[str]]:
    """Frames, and what was said of those left out."""
    errors: list[str] = []
    return list(recording.frames(lambda error: errors.append(str(error)))), errors


def check_all(recording: Recording, count: int = COUNT) -> list[Frame]:
    frames, errors = read(recording)
    assert errors == []
    assert len(frames) == count
    for k, frame in enumerate(frames):
        np.testing.assert_allclose(frame.depth_m, 2.0)
        np.testing.assert_allclose(frame.T_world_cam, pose(k), atol=1e-9)
        assert frame.camera is not None
        np.testing.assert_allclose(frame.camera.K, K)
        assert np.abs(frame.image_rgb.astype(int) - picture(k)).mean() < 6
    return frames


@pytest.mark.parametrize(
    ("make", "named", "kind"),
    [
        (image_folder, "scene/000", "images"),
        (image_folder, "scene/000/images", "images"),
        (image_folder, "scene", "images"),
        (image_folder, ".", "images"),
        (seven_scenes, "scene/000", "7-Scenes"),
        (seven_scenes, "scene", "7-Scenes"),
        (lambda root: seven_scenes(root, ".jpg"), "scene/000", "7-Scenes"),
        (scannet, "scene/000", "ScanNet"),
        (scannet, "scene/000/color", "ScanNet"),
        (scannet, "scene", "ScanNet"),
        (tum, "scene/000", "TUM RGB-D"),
        (tum, "scene/000/rgb", "TUM RGB-D"),
        (tum, "scene", "TUM RGB-D"),
    ],
)
@pytest.mark.slow
def test_a_recording_is_found_in_above_and_below_the_folder_named(
    tmp_path: Path, make: Callable[[Path], Path], named: str, kind: str
) -> None:
    make_folder = tmp_path / "scene" / "000"
    make_folder.mkdir(parents=True)
    make(make_folder)
    recording = opened(tmp_path / named)
    assert recording.kind == kind
    check_all(recording)


@pytest.mark.slow
def test_the_oracle_maps_the_layout_of_deep_video_mvs(tmp_path: Path) -> None:
    config = with_values(
        MapperConfig(),
        {
            "keyframes.window_size": 3,
            "keyframes.window_overlap": 1,
            "keyframes.max_interval_s": 0.01,
        },
    )
    root = image_folder(tmp_path)
    (root / "depth" / "00004.png").unlink()
    recording = opened(root)
    evidence, stopped = run_lockstep(recording, config, OracleEngine(HW))
    assert stopped == ""
    assert evidence.result.committed == len(evidence.result.windows) > 0
    assert dict(evidence.result.faults) == {"the oracle engine needs depth with each image": 1}


def euroc(root: Path, T_body_cam: np.ndarray, T_body_marker: np.ndarray) -> tuple[Path, Path]:
    """cam0 and the truth of a marker, each with its place on the body; EuRoC has w first."""
    for name, T in (("cam0", T_body_cam), ("vicon0", T_body_marker)):
        numbers = ", ".join(f"{v:.17g}" for v in T.ravel())
        lines = f"T_BS:\n  cols: 4\n  rows: 4\n  data: [{numbers}]\n"
        if name == "cam0":
            lines += (
                "resolution: [64, 48]\ncamera_model: pinhole\nintrinsics: [60, 60, 31.5, 23.5]\n"
            )
        write(root / "mav0" / name / "sensor.yaml", lines)
    rows = []
    for k, stamp in enumerate(STAMPS):
        write(root / "mav0" / "cam0" / "data" / f"{stamp}.png", encoded(picture(k), ".png"))
        T = pose(k) @ np.linalg.inv(T_body_cam) @ T_body_marker
        x, y, z, w = quaternion_xyzw(T[:3, :3])
        numbers = ",".join(f"{v:.15f}" for v in (*T[:3, 3], w, x, y, z))
        rows.append(f"{stamp},{numbers}")
    truth = root / "mav0" / "vicon0" / "data.csv"
    write(truth, "#timestamp [ns],p_x,p_y,p_z,q_w,q_x,q_y,q_z\n" + "\n".join(rows) + "\n")
    return root / "mav0" / "cam0", truth


def test_the_truth_of_a_body_is_moved_to_the_camera(tmp_path: Path) -> None:
    T_body_cam = se3_from_quaternion(np.array([0.5, -0.5, 0.5, 0.5]), np.array([0.1, -0.2, 0.3]))
    T_body_marker = se3_from_quaternion(np.array([0.1, 0, 0.2, 1.0]), np.array([0, 0.05, 0.1]))
    camera, truth = euroc(tmp_path, T_body_cam, T_body_marker)
    for place in (camera, camera / "data"):
        recording = opened(place, truth=str(truth))
        frames, errors = read(recording)
        assert errors == []
        for k, frame in enumerate(frames):
            np.testing.assert_allclose(frame.T_world_cam, pose(k), atol=1e-9)
        assert (
            sum("is of the body: moved to the camera" in n for n in recording.notes.lines()) == 1
        )
    (camera / "sensor.yaml").write_text((camera / "sensor.yaml").read_text().replace("[", "[9", 1))
    with pytest.raises(RecordingError, match=r"sensor\.yaml: T_BS is no rigid transform"):
        opened(camera, truth=str(truth))


def test_several_recordings_are_named_instead_of_one_being_guessed(tmp_path: Path) -> None:
    for name in ("seq-01", "seq-02"):
        (tmp_path / name).mkdir()
        seven_scenes(tmp_path / name)
    with pytest.raises(RecordingError, match=r"several recordings, name one: .*seq-01, .*seq-02"):
        opened(tmp_path)


def test_a_thumbnail_beside_the_folder_of_images_is_no_recording(tmp_path: Path) -> None:
    write(image_folder(tmp_path) / "preview.jpg", encoded(picture(0), ".jpg"))
    check_all(opened(tmp_path))


def date(stamp: int, pattern: str) -> str:
    since = (stamp - START) / NS
    return pattern.format(20 + since, round((20 + since) * 1e6))


NAMES: dict[str, tuple[Callable[[int], str], int]] = {
    # how the name is made of nanoseconds, and to how many of them it is exact
    "ns": (str, 0),
    "us": (lambda t: str(t // 1000), 0),
    "ms": (lambda t: str(t // 10**6), 10**6),
    "s with decimals": (lambda t: f"{t // NS}.{t % NS // 1000:06d}", 0),
    "s with all decimals": (lambda t: f"{t // NS}.{t % NS:09d}", 0),
    "prefix": (lambda t: f"frame_{t // 1000}", 0),
    "prefix with a number": (lambda t: f"cam0_{t}", 0),
    "suffix": (lambda t: f"{t}_left", 0),
    "prefix and suffix": (lambda t: f"rgb-{t // NS}.{t % NS:09d}-1", 0),
    "number in front": (lambda t: f"{(t - START) // 10**8:06d}_{t}", 0),
    "s and ns apart": (lambda t: f"{t // NS}_{t % NS:09d}", 0),
    "s and ns apart, no zeros": (lambda t: f"{t // NS}-{t % NS}", 0),
    "s and us apart": (lambda t: f"img_{t // NS}_{t % NS // 1000:06d}", 0),
    "iso": (lambda t: date(t, "2023-11-14T22-13-{:09.6f}"), 10**3),
    "iso, colons": (lambda t: date(t, "2023-11-14T22:13:{:09.6f}Z"), 10**3),
    "iso, spaces": (lambda t: date(t, "2023-11-14 22_13_{:09.6f}"), 10**3),
    "compact": (lambda t: date(t, "IMG_20231114_2213{1:08d}"), 10**3),
    "compact, all digits": (lambda t: date(t, "202311142213{1:08d}"), 10**3),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_names_are_times_of_any_unit(tmp_path: Path, name: str) -> None:
    make, exact_ns = NAMES[name]
    image_folder(tmp_path, lambda k: make(STAMPS[k]))
    recording = opened(tmp_path / "images")
    frames = check_all(recording)
    assert max(abs(f.stamp_ns - s) for f, s in zip(frames, STAMPS, strict=True)) <= exact_ns
    (said,) = [line for line in recording.notes.lines() if "times are those of the names" in line]
    assert "2023-11-14 22:13:20 UTC" in said
    assert "10 images a second" in said


@pytest.mark.parametrize(
    "names",
    [
        ["{:06d}"], ["frame{:d}"], ["{:010d}"], ["IMG_{:04d}"], ["2023-11-14_{:03d}"],
        ["20231114_{:03d}"], ["v1.2_{:03d}"], ["99999999999999999999999999{:03d}"],
        ["9{:018d}"], ["\N{SUPERSCRIPT TWO}_{:d}"], ["\N{ARABIC-INDIC DIGIT THREE}{:d}"],
        ["IMG_20231114_221320 ({:d})"], ["a{:0200d}"], ["20231114_221320_{:04d}"],
        ["IMG_20231114_221320_{:02d}"],
    ],
)  # fmt: skip
@pytest.mark.slow
def test_numbers_of_frames_are_no_times(tmp_path: Path, names: list[str]) -> None:
    image_folder(tmp_path, lambda k: names[0].format(k + 1))
    recording = opened(tmp_path / "images", fps=5.0)
    frames = check_all(recording)
    assert [f.stamp_ns for f in frames] == [k * NS // 5 for k in range(COUNT)]
    assert any("5 images a second taken" in line for line in recording.notes.lines())


def test_seconds_of_a_clock_of_its_own_need_decimals() -> None:
    named = times_of_names([f"rgb_{0.05 * k:.6f}" for k in range(9)])
    assert named is not None
    assert named.stamps_ns == [k * NS // 20 for k in range(9)]
    assert times_of_names([f"{k}.5" for k in range(9)]) is None
    assert times_of_names([f"8700000000.{k:03d}" for k in range(9)]) is None
    assert times_of_names([f"{k}" for k in range(9)]) is None
    assert times_of_names([]) is None


def test_times_of_several_units_are_refused(tmp_path: Path) -> None:
    image_folder(tmp_path, lambda k: str(STAMPS[k] if k % 2 else STAMPS[k] // 1000))
    with pytest.raises(RecordingError, match="in microseconds and nanoseconds: rename them, or"):
        opened(tmp_path / "images")


def test_photos_of_a_year_are_no_drive() -> None:
    assert times_of_names([f"IMG_{1_600_000_000_000 + k * 10**10}" for k in range(9)]) is None


@pytest.mark.parametrize("unit", [1, 10**3, 10**6])
def test_times_beside_the_images_may_be_of_any_unit(tmp_path: Path, unit: int) -> None:
    image_folder(tmp_path)
    write(tmp_path / "times.txt", "".join(f"{s // unit}\n" for s in STAMPS))
    frames = check_all(opened(tmp_path / "images"))
    assert [f.stamp_ns for f in frames] == [s // unit * unit for s in STAMPS]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inf\n" * COUNT, "line 1: expected a time"),
        ("nan\n" * COUNT, "line 1: expected a time"),
        ("0.1 00000.png\n" * COUNT, "line 1: expected a time"),
        ("0.1\n" * 3, "3 times for 12 images"),
        ("1700000000\n1700000000000\n" * 6, "seconds and milliseconds; give all of them"),
        ("7.5\n" * COUNT, "11 images have the same time as another"),
        ("\0\1\0", "no text"),
    ],
)
def test_times_that_cannot_be_used_are_refused(tmp_path: Path, text: str, words: str) -> None:
    image_folder(tmp_path)
    write(tmp_path / "times.txt", text)
    with pytest.raises(MvDust3rError, match=words) as caught:
        opened(tmp_path / "images")
    assert "\n" not in str(caught.value)


def cut_off(root: Path) -> None:
    path = root / "images" / "00003.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def of_another_size(root: Path) -> None:
    write(root / "images" / "00003.jpg", encoded(picture(3)[:, :40], ".jpg"))


def a_folder(root: Path) -> None:
    (root / "images" / "00003.jpg").unlink()
    (root / "images" / "00003.jpg").mkdir()


def broken_link(root: Path) -> None:
    (root / "images" / "00003.jpg").unlink()
    (root / "images" / "00003.jpg").symlink_to(root / "nowhere.jpg")


BAD_IMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (cut_off, "image is cut off"),
    "empty": (lambda root: write(root / "images" / "00003.jpg", b""), "image is empty"),
    "text": (lambda root: write(root / "images" / "00003.jpg", "<html>"), "is HTML"),
    "webp": (lambda root: write(root / "images" / "00003.jpg", b"RIFF1234WEBP"), "is WebP"),
    "of another size": (of_another_size, "is not of 64x48 pixels as the others are"),
    "a folder": (a_folder, "cannot be read: Is a directory"),
    "broken link": (broken_link, "cannot be read: No such file"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_one_bad_image_is_named_and_the_rest_goes_on(tmp_path: Path, name: str) -> None:
    spoil, words = BAD_IMAGES[name]
    spoil(image_folder(tmp_path, suffix=".jpg"))
    frames, errors = read(opened(tmp_path))
    assert len(frames) == COUNT - 1
    (error,) = errors
    assert words in error
    assert error.endswith("the first is " + str(tmp_path / "images" / "00003.jpg"))
    for frame in frames:  # each keeps its own pose
        assert frame.T_world_cam is not None
        k = round(frame.stamp_ns * 30 / NS)
        np.testing.assert_allclose(frame.T_world_cam, pose(k))


def test_bad_images_of_one_kind_are_one_line(tmp_path: Path) -> None:
    root = image_folder(tmp_path, suffix=".jpg")
    for k in range(3, 9):
        path = root / "images" / f"{k:05d}.jpg"
        path.write_bytes(path.read_bytes()[: -100 - 10 * k])
    _, errors = read(opened(tmp_path))
    assert len(errors) == 6
    assert len(set(errors)) == 1


def test_the_first_image_may_be_the_bad_one(tmp_path: Path) -> None:
    for make, first in ((image_folder, "images/00000.png"), (scannet, "color/0.jpg")):
        root = tmp_path / first[:2]
        root.mkdir()
        write(make(root) / first, b"nothing")
        frames, errors = read(opened(root))
        assert (len(frames), len(errors)) == (COUNT - 1, 1)


BAD_DEPTHS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "no depth image belongs to: 00003.png"),
    "empty": (b"", "depth image is empty: 0 bytes and is not used: 00003.png"),
    "of 8 bits": (encoded(np.full(HW, 90, np.uint8), ".png"), "is not a 16-bit grey PNG"),
    "turned": (
        encoded(np.full(HW[::-1], 2000, np.uint16), ".png"),
        "of 48x64 pixels has another shape than the image of 64x48: it has to be registered",
    ),
}


@pytest.mark.parametrize("name", BAD_DEPTHS)
def test_an_image_whose_depth_is_bad_is_used_without(tmp_path: Path, name: str) -> None:
    content, words = BAD_DEPTHS[name]
    place = image_folder(tmp_path) / "depth" / "00003.png"
    if content is None:
        place.unlink()
    else:
        write(place, content)
    recording = opened(tmp_path)
    frames, errors = read(recording)
    assert errors == []
    assert [k for k, frame in enumerate(frames) if frame.depth_m is None] == [3]
    assert any(words in line for line in recording.notes.lines())


def test_depth_of_half_the_size_is_of_the_same_view(tmp_path: Path) -> None:
    root = image_folder(tmp_path)
    for path in (root / "depth").iterdir():
        write(path, encoded(np.full((HW[0] // 2, HW[1] // 2), 2000, np.uint16), ".png"))
    check_all(opened(root))


def test_zeros_in_front_of_a_number_do_not_part_image_depth_and_pose(tmp_path: Path) -> None:
    root = scannet(tmp_path)
    for path in list((root / "color").iterdir()):
        path.rename(path.with_name(path.name.zfill(10)))
    check_all(opened(root))
    write(root / "color" / "11.jpg", encoded(picture(11), ".jpg"))
    shutil.rmtree(root / "pose")
    (root / "pose").mkdir()
    said = opened(root).notes.lines()
    assert any("the number of another are left out" in line for line in said)


def test_the_unit_of_depth_is_said_and_can_be_given(tmp_path: Path) -> None:
    recording = opened(image_folder(tmp_path / "a"))
    assert any("to be in millimetres (--depth-factor)" in n for n in recording.notes.lines())
    recording = opened(tmp_path / "a", depth_factor=5000.0)
    frames, _ = read(recording)
    np.testing.assert_allclose(frames[0].depth_m, 0.4)
    assert not any("--depth-factor" in n for n in recording.notes.lines())
    (tmp_path / "b").mkdir()
    frames, _ = read(opened(tum(tmp_path / "b"), depth_factor=1000.0))
    np.testing.assert_allclose(frames[0].depth_m, 10.0)
    with pytest.raises(RecordingError, match="such as 1000 for millimetres"):
        opened(tmp_path / "a", depth_factor=-1.0)


def test_an_empty_list_of_depth_leaves_the_images(tmp_path: Path) -> None:
    (tum(tmp_path) / "depth.txt").write_text("# nothing\n")
    frames, errors = read(opened(tmp_path))
    assert (len(frames), errors) == (COUNT, [])
    assert all(frame.depth_m is None for frame in frames)


def test_timestamps_beside_the_images_are_times(tmp_path: Path) -> None:
    image_folder(tmp_path)
    seconds = [f"2023-11-14 22:13:{20 + (s - START) / NS:012.9f}" for s in STAMPS]
    write(tmp_path / "timestamps.txt", "\n".join(seconds))
    frames = check_all(opened(tmp_path / "images"))
    assert max(abs(f.stamp_ns - s) for f, s in zip(frames, STAMPS, strict=True)) <= 1000


def test_depth_of_other_names_is_said(tmp_path: Path) -> None:
    root = image_folder(tmp_path)
    for path in list((root / "depth").iterdir()):
        path.rename(path.with_name(f"d{path.name}"))
    recording = opened(root)
    assert recording.depth_source == ""
    assert any("holds no PNG named as an image is" in line for line in recording.notes.lines())


def test_one_bad_pose_or_line_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    root = seven_scenes(tmp_path / "a")
    write(root / "frame-000002.pose.txt", "1 2 3")
    (root / "frame-000004.pose.txt").unlink()
    np.savetxt(root / "frame-000006.pose.txt", 2 * pose(6))
    write(root / "frame-000008.pose.txt", "nan " * 16)
    recording = opened(root)
    frames, _ = read(recording)
    assert [k for k, f in enumerate(frames) if f.T_world_cam is None] == [2, 4, 6, 8]
    said = recording.notes.lines()
    for words in ("no matrix of 4x4", "no file for", "no rotation in", "tracking was lost in"):
        assert sum(words in line for line in said) == 1

    root = tum(tmp_path / "b")
    with (root / "rgb.txt").open("a") as lines:
        lines.write("garbage\n1700000009.5\nnan rgb/1.png\n")
    recording = opened(root)
    assert recording.total == COUNT
    (line,) = [line for line in recording.notes.lines() if "left out" in line]
    assert line.endswith("line 14 and 2 more")

    root = image_folder(tmp_path / "c")
    poses = np.array([pose(k).ravel() for k in range(COUNT)])
    poses[5] = np.nan
    np.savetxt(root / "poses.txt", poses)
    frames, _ = read(opened(root))
    assert [k for k, f in enumerate(frames) if f.T_world_cam is None] == [5]


def test_images_without_a_true_pose_are_counted(tmp_path: Path) -> None:
    root = image_folder(tmp_path, lambda k: str(STAMPS[k]))
    rows = [f"{t + NS // 20 * (k > 3)} {0.1 * k} 0 0 0 0 0 1" for k, t in enumerate(STAMPS)]
    write(root / "poses.txt", "\n".join(rows))
    recording = opened(root)
    frames, _ = read(recording)
    assert [frame.T_world_cam is not None for frame in frames] == [k < 4 for k in range(COUNT)]
    (line,) = [line for line in recording.notes.lines() if "true pose" in line]
    assert line.endswith("within 10 ms of the image at: 1700000000.400 s and 7 more")


def test_strangers_among_the_images_are_named_and_left_out(tmp_path: Path) -> None:
    root = image_folder(tmp_path, lambda k: str(STAMPS[k]))
    write(root / "images" / "cover.png", encoded(picture(0), ".png"))
    write(root / "images" / f"{STAMPS[3]}.jpg", encoded(picture(3), ".jpg"))
    write(root / "images" / "._hidden.png", b"")
    write(root / "images" / f"mask_{STAMPS[0]}.png", encoded(picture(0), ".png"))
    np.savetxt(root / "times_of_poses.txt", [0])
    recording = opened(root)
    check_all(recording)
    said = " ".join(recording.notes.lines())
    assert "cover.png" in said
    assert f"{STAMPS[3]}." in said
    assert "mask_" in said


def test_images_of_two_cameras_in_one_folder_are_refused(tmp_path: Path) -> None:
    for k in range(COUNT):
        for side in ("left", "right"):
            write(tmp_path / f"{side}_{k:04d}.png", encoded(picture(k), ".png"))
    with pytest.raises(RecordingError, match=r"several series \(left_#, right_#\)"):
        opened(tmp_path)


def test_intrinsics_of_another_size_are_refused_before_the_first_image(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "a")
    write(
        root / "intrinsics.yaml", "width: 640\nheight: 480\nfx: 500\nfy: 500\ncx: 320\ncy: 240\n"
    )
    with pytest.raises(RecordingError, match="are for 640x480 pixels, the images have 64x48"):
        opened(root)
    (tmp_path / "chess").mkdir()
    (seven_scenes(tmp_path / "chess") / "K.txt").unlink()
    with pytest.raises(RecordingError, match=r"published intrinsics .* put an intrinsics\.yaml"):
        opened(tmp_path / "chess")


def with_tag(jpeg: bytes, orientation: int) -> bytes:
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_intrinsics_and_depth_stay_together_whatever_the_orientation_tag(
    tmp_path: Path, orientation: int
) -> None:
    root = image_folder(tmp_path, suffix=".jpg")
    for path in (root / "images").iterdir():
        path.write_bytes(with_tag(path.read_bytes(), orientation))
    recording = opened(root)
    check_all(recording)
    said = [line for line in recording.notes.lines() if "orientation tags" in line]
    assert len(said) == (orientation != 1)
    assert all("00000.jpg and 11 more" in line for line in said)


def test_16_bit_images_keep_one_range_and_it_is_said(tmp_path: Path) -> None:
    root = image_folder(tmp_path)
    for k in range(COUNT):
        grey = 7500 + picture(k)[..., 0].astype(np.uint16) * 4
        write(root / "images" / f"{k:05d}.png", encoded(grey, ".png"))
    recording = opened(root)
    frames, _ = read(recording)
    assert len(frames) == COUNT
    assert np.ptp(frames[0].image_rgb) > 200
    a, b = (frames[k].image_rgb[..., 0].astype(int) for k in (0, 1))
    assert np.abs(a[:, 3:] - b[:, :-3]).mean() < 4, "the same wall has the same grey"
    assert sum("stretched to 8 bits" in line for line in recording.notes.lines()) == 1


@pytest.mark.parametrize("suffix", [".webp", ".tif", ".HEIC"])
def test_images_of_a_kind_that_is_not_read_are_named(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "scene" / "images" / f"1{suffix}", b"some")
    for place in (tmp_path / "scene" / "images", tmp_path / "scene", tmp_path):
        with pytest.raises(RecordingError, match=r"images: convert them to JPEG or PNG") as caught:
            opened(place)
        assert suffix.lower() in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_few_images_of_a_kind_that_is_not_read_are_left_out_and_named(tmp_path: Path) -> None:
    root = image_folder(tmp_path)
    for k in range(2):
        write(root / "images" / f"x{k}.webp", b"RIFF")
    recording = opened(root)
    check_all(recording)
    assert any("left out" in n and "x0.webp and 1 more" in n for n in recording.notes.lines())
