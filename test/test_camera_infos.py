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

"""Calibrations as drivers send them: late, zero, of another size, camera, model or image."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvdust3r_ros.datatypes import Frame
from mvdust3r_ros.messages.conversions import camera_from_info
from mvdust3r_ros.messages.images import ConversionError
from mvdust3r_ros.messages.input_counts import InputCounts
from mvdust3r_ros.recordings.bag import BagOptions, read_frames
from short_drive import Drive, Recorded

INFO, IMAGE = "/camera/camera_info", "/camera/image_raw"
NAN_K = [float("nan"), 0.0, 19.0, 0.0, 36.0, 15.5, 0.0, 0.0, 1.0]
Edit = Callable[[list[Recorded]], list[Recorded]]


def infos(items: list[Recorded]) -> list[Recorded]:
    return [i.message for i in items if i.topic == INFO]


def edited(items: list[Recorded], change: Callable[[Any], object], which: slice) -> list[Recorded]:
    for message in infos(items)[which]:
        change(message)
    return items


def put(message: Any, **fields: Any) -> None:
    for name, value in fields.items():
        array = name in "kdpr"
        setattr(message, name, np.array(value, float) if array else value)


def every(**fields: Any) -> Edit:
    return lambda m: edited(m, lambda i: put(i, **fields), slice(None))


def first(count: int, **fields: Any) -> Edit:
    return lambda m: edited(m, lambda i: put(i, **fields), slice(count))


def larger(factor: int) -> dict[str, Any]:
    """The calibration of the same camera at a larger size: pixel edges stay where they are."""
    K = [35.0 * factor, 0.0, 19.5 * factor - 0.5, 0.0, 36.0 * factor, 16.0 * factor - 0.5]
    return {"width": 40 * factor, "height": 30 * factor, "k": [*K, 0.0, 0.0, 1.0]}


def projection(f: float) -> list[float]:
    return [f, 0, 18, 0, 0, f, 14, 0, 0, 0, 1, 0]


def moved(topics: dict[str, str], **header: str) -> Edit:
    """Messages on other topics; `header` sets the frame of camera_info."""

    def edit(items: list[Recorded]) -> list[Recorded]:
        for item in items:
            if item.topic == INFO and "frame" in header:
                item.message.header.frame_id = header["frame"]
            item.topic = topics.get(item.topic, item.topic)
        return items

    return edit


def late(items: list[Recorded]) -> list[Recorded]:
    """The first three images come before any camera_info."""
    dropped = [i for i in items if i.topic == INFO][:3]
    return [i for i in items if not any(i is d for d in dropped)]


def frames_of(
    items: list[Recorded], drive: Drive, folder: Path, **options: Any
) -> tuple[list[Frame], InputCounts]:
    inputs, frames = InputCounts(), []
    for frame in read_frames(drive.write(folder, items), BagOptions(**options), inputs=inputs):
        inputs.add(frame)
        frames.append(frame)
    return frames, inputs


# Kinds after which every image has the camera's own matrix, and the words that are said.
RIGHT: dict[str, tuple[Edit, dict[str, Any], str]] = {
    "as it should be": (lambda m: m, {}, ""),
    "zero before the calibration is loaded": (first(1, k=[0] * 9, p=[0] * 12, d=[]), {}, ""),
    "zero at times": (
        lambda m: edited(m, lambda i: put(i, k=[0] * 9, p=[0] * 12), slice(2, None, 3)), {}, ""),
    "of another size at first": (first(1, **larger(4)), {}, "2 calibrations: each image takes"),
    "the first images before any": (late, {}, ""),
    "for images of twice the size": (every(**larger(2)), {}, "80x60 pixels, the images have 40"),
    "binned, said": (every(**larger(2), binning_x=2, binning_y=2), {}, ""),
    "of images without a size": (every(width=0, height=0), {}, ""),
    "stamps of another clock": (
        lambda m: edited(m, lambda i: setattr(i.header.stamp, "sec", 12), slice(None)), {}, ""),
    "P alone": (
        every(k=[0] * 9, d=[], p=[35, 0, 19, 0, 0, 36, 15.5, 0, 0, 0, 1, 0]), {}, ""),
    "zeros of a model that nobody knows": (every(distortion_model="Omni", d=[0.0] * 4), {}, ""),
    "without a model": (every(distortion_model="", d=[]), {}, ""),
    "only one of the bag, of the same frame": (
        moved({INFO: "/info"}), {}, "/info is of the same frame 'camera_optical' and is taken"),
    "named by hand": (moved({INFO: "/info"}, frame="x"), {"camera_info_topic": "/info"}, ""),
    "rectified, P and D": (
        lambda m: moved({IMAGE: "/camera/image_rect_color"})(
            every(k=[50, 0, 20, 0, 50, 15, 0, 0, 1], d=[0.3, 0.1, 0, 0, 0],
                  p=[35, 0, 19, 0, 0, 36, 15.5, 0, 0, 0, 1, 0])(m)), {}, ""),
    "rectified, without P": (
        lambda m: moved({IMAGE: "/camera/image_rect"})(every(p=[0] * 12, d=[0.3, 0, 0, 0])(m)),
        {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
def test_every_image_has_its_matrix(kind: str, drive: Drive, tmp_path: Path) -> None:
    edit, options, words = RIGHT[kind]
    frames, inputs = frames_of(edit(drive.items()), drive, tmp_path, **options)
    assert len(frames) == len(drive.stamps_ns)
    for frame in frames:
        np.testing.assert_allclose(frame.camera.K, drive.K, atol=1e-9)
        assert (frame.camera.width, frame.camera.height) == drive.image_wh
        assert frame.camera.distortion == ()
    said = "\n".join(inputs.lines())
    assert words in said
    assert words or not said


# Kinds after which images are used without a matrix, and why.
UNUSED: dict[str, tuple[Edit, dict[str, Any], str]] = {
    "of another camera": (
        moved({INFO: "/camera/depth/camera_info"}, frame="depth_optical"), {},
        "the bag has no /camera/camera_info, and others may be of other cameras than "
        "'camera_optical': /camera/depth/camera_info (of 'depth_optical')"),
    "of a camera that names no frame": (
        moved({INFO: "/left/camera_info"}, frame=""), {}, "others may be of other cameras"),
    "none": (
        lambda m: [i for i in m if i.topic != INFO], {}, "the bag has no /camera/camera_info"),
    "never calibrated": (every(k=[0] * 9, p=[0] * 12, d=[]), {}, "not calibrated: K is zero"),
    "K is zero and the lens bends": (
        every(k=[0] * 9, p=projection(35), d=[0.3, 0.1, 0, 0]), {}, "not calibrated: K is zero"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSED)
def test_why_there_are_no_intrinsics_is_one_line(kind: str, drive: Drive, tmp_path: Path) -> None:
    edit, options, words = UNUSED[kind]
    frames, inputs = frames_of(edit(drive.items()), drive, tmp_path, **options)
    assert len(frames) == len(drive.stamps_ns)
    assert all(f.camera is None for f in frames)
    (line,) = inputs.lines()
    assert line.startswith("camera_info for 0 of 8 images: ")
    assert words in line


# Kinds that would be silently wrong: images are refused, with the value and the remedy.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "not finite": ({"k": NAN_K}, "is not a pinhole matrix (nan"),
    "negative": ({"k": [-35, 0, 19, 0, 36, 15.5, 0, 0, 1]}, "not a pinhole matrix (-35"),
    "transposed": ({"k": [35, 0, 0, 0, 36, 0, 19, 15.5, 1]}, "not a pinhole matrix (35"),
    "not initialised": (
        {"k": [772.8, 0, 0, 0, 1, 0, 0, 6.9e-310, 2.5e-323]}, "not a pinhole matrix"),
    "centre of another size": (
        {"k": [168, 0, 132, 0, 170, 95, 0, 0, 1]}, "is not of 40x30 pixels: its centre lies"),
    "focal length in metres": (
        {"k": [0.035, 0, 19, 0, 0.036, 15.5, 0, 0, 1]}, "focal length is out of all bounds"),
    "another shape": (
        {"width": 848, "height": 480, "k": [420, 0, 424, 0, 420, 240, 0, 0, 1]},
        "is for 848x480 pixels, the image has 40x30"),
    "three of plumb_bob": (
        {"d": [0.01, 0, 0.001]}, "plumb_bob has 4, 5, 8, 12 or 14 coefficients, not 3"),
    "six of the rational model": (
        {"d": [0.01, 0, 0, 0, 0, 0.001], "distortion_model": "rational_polynomial"},
        "rational_polynomial has 4, 5, 8, 12 or 14 coefficients, not 6"),
    "three of a fisheye": (
        {"d": [0.01, 0, 0.001], "distortion_model": "equidistant"},
        "equidistant has 4 coefficients, not 3"),
    "another model": (
        {"d": [0.1, 0, 0, 0], "distortion_model": "double_sphere"},
        "model 'double_sphere' is not one of plumb_bob, rational_polynomial, equidistant"),
    "the inverse of a model": (
        {"d": [0.1, 0, 0, 0, 0], "distortion_model": "inverse_brown_conrady"}, "is not one of"),
    "coefficients that are not finite": ({"d": [float("inf")] * 5}, "are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_calibration_that_cannot_be_right_is_refused(
    kind: str, drive: Drive, tmp_path: Path
) -> None:
    fields, words = REFUSED[kind]
    bag = drive.write(tmp_path, every(**fields)(drive.items()))
    bad: list[ConversionError] = []
    assert list(read_frames(bag, on_bad=bad.append)) == []
    assert len(bad) == len(drive.stamps_ns)
    assert {e.reason for e in bad} == {"camera_info"}
    assert words in str(bad[0])
    assert "or map without it by --camera-info-topic none" in str(bad[0])
    assert all(f.camera is None for f in read_frames(bag, BagOptions(camera_info_topic="none")))


@pytest.mark.parametrize(
    ("model", "given", "kept", "as_model"),
    [
        ("plumb_bob", [0.1, 0.2, 0, 0], [0.1, 0.2, 0, 0], "plumb_bob"),
        ("plumb_bob", [0.1] + [0.0] * 13, [0.1] + [0.0] * 13, "plumb_bob"),
        ("plumb_bob", [0.1, 0, 0, 0, 0, 0], [0.1, 0, 0, 0, 0], "plumb_bob"),
        ("radtan", [0.1, 0.2, 0.01, 0.02], [0.1, 0.2, 0.01, 0.02], "plumb_bob"),
        ("", [0.1, 0, 0, 0, 0], [0.1, 0, 0, 0, 0], "plumb_bob"),
        ("Plumb_Bob ", [0.1, 0, 0, 0, 0], [0.1, 0, 0, 0, 0], "plumb_bob"),
        ("plumb bob", [0.1, 0, 0, 0, 0], [0.1, 0, 0, 0, 0], "plumb_bob"),
        ("Brown-Conrady", [0.1, 0, 0, 0, 0], [0.1, 0, 0, 0, 0], "plumb_bob"),
        ("rational_polynomial", [0.1] * 8, [0.1] * 8, "rational_polynomial"),
        ("rational_polynomial", [0.1] * 12, [0.1] * 12, "rational_polynomial"),
        ("rational_polynomial", [0.1] * 14, [0.1] * 14, "rational_polynomial"),
        ("equidistant", [0.1, 0.2, 0.3, 0.4, 0.0], [0.1, 0.2, 0.3, 0.4], "equidistant"),
        ("fisheye", [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], "equidistant"),
        ("KannalaBrandt8", [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], "equidistant"),
    ],
)
def test_models_and_their_other_names(
    model: str, given: list[float], kept: list[float], as_model: str, drive: Drive
) -> None:
    info = infos(drive.items())[0]
    put(info, d=given, distortion_model=model)
    camera = camera_from_info(info)
    assert camera is not None
    assert camera.distortion == tuple(kept)
    assert camera.distortion_model == as_model


def test_a_zoom_is_followed(drive: Drive, tmp_path: Path) -> None:
    """From the fifth image on; camera_info comes after the image of its stamp."""
    items = drive.items()
    for n, item in enumerate(i for i in items if i.topic == INFO):
        item.log_ns += 5
        if n >= 4:
            put(item.message, k=[70, 0, 19, 0, 72, 15.5, 0, 0, 1])
    frames, inputs = frames_of(items, drive, tmp_path)
    assert [f.camera.K[0, 0] for f in frames] == [35] * 4 + [70] * 4
    assert inputs.lines() == [
        "camera_info holds 2 calibrations: each image takes that of its time"
    ]


def test_two_cameras_on_one_topic_are_told_by_their_frames(drive: Drive, tmp_path: Path) -> None:
    """A stereo driver sends both calibrations, that of the other camera newer or wrong."""
    items = drive.items()
    others = copy.deepcopy([i for i in items if i.topic == INFO])
    for n, item in enumerate(others):
        item.message.header.frame_id = "right_optical"
        put(item.message, k=NAN_K if n == 3 else [70, 0, 19, 0, 72, 15.5, 0, 0, 1])
    frames, inputs = frames_of(items + others, drive, tmp_path)
    assert [f.camera.K[0, 0] for f in frames] == [35] * 8
    assert inputs.lines() == [
        "camera_info is of 2 frames, 'camera_optical', 'right_optical': "
        "each image takes that of its own frame"
    ]


@pytest.mark.parametrize("frame", ["camera_optical", ""])
def test_a_wrong_one_holds_images_back_until_a_good_one_comes(
    drive: Drive, tmp_path: Path, frame: str
) -> None:
    def spoil(info: Any) -> None:
        put(info, k=NAN_K)
        info.header.frame_id = frame

    bag = drive.write(tmp_path, edited(drive.items(), spoil, slice(3, 5)))
    bad: list[ConversionError] = []
    frames = list(read_frames(bag, on_bad=bad.append))
    assert [f.stamp_ns for f in frames] == [*drive.stamps_ns[:3], *drive.stamps_ns[5:]]
    assert len(bad) == 2


def test_one_image_of_another_size_is_refused(drive: Drive, tmp_path: Path) -> None:
    """Where the others have the size of the calibration it is no resized stream."""
    items = drive.items()
    odd = [i.message for i in items if i.topic == IMAGE][5]
    odd.width, odd.height, odd.step = 20, 15, 60
    odd.data = odd.data[: 15 * 60]
    bad: list[ConversionError] = []
    frames = list(read_frames(drive.write(tmp_path, items), on_bad=bad.append))
    assert len(frames) == len(drive.stamps_ns) - 1
    assert "is for 40x30 pixels, the image has 20x15" in str(bad[0])


def test_a_region_keeps_its_rays(drive: Drive) -> None:
    """The centre of a region may lie outside it; that of the whole image may not."""
    info = copy.deepcopy(infos(drive.items())[0])
    put(info, **larger(10))
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 300, 10, 80, 60
    camera = camera_from_info(info)
    assert camera is not None
    assert (camera.width, camera.height) == (80, 60)
    np.testing.assert_allclose(camera.K[:2, 2], (194.5 - 300, 159.5 - 10))
