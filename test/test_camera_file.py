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

"""Intrinsics in every form that people have: the same numbers come out, or it is said why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.recordings.camera_file import read_camera, sidecar_camera
from mvdust3r_ros.recordings.recording import RecordingError

FX, FY, CX, CY = 104.5, 103.25, 79.5, 58.75
K = [FX, 0, CX, 0, FY, CY, 0, 0, 1]
SIZE = (160, 120)
BY_COLUMN = [FX, 0, 0, 0, FY, 0, CX, CY, 1]
ROWS = [K[:3], K[3:6], K[6:]]


def ros(model: str = "plumb_bob", data: str = "[]", head: str = "") -> str:
    return (
        f"{head}image_width: 160\nimage_height: 120\ncamera_name: cam\ncamera_matrix:\n  rows: 3\n"
        f"  cols: 3\n  data: {K}\ndistortion_model: {model}\ndistortion_coefficients:\n"
        f"  rows: 1\n  cols: 5\n  data: {data}\n"
    )


def echo(names: str = "kd", tail: str = "") -> str:
    k, d = names
    return (
        "header:\n  stamp:\n    sec: 1\n    nanosec: 0\n  frame_id: cam\nheight: 120\nwidth: 160\n"
        f"distortion_model: plumb_bob\n{d}:\n- 0.01\n- 0.0\n- 0.0\n- 0.0\n- 0.0\n{k}: {K}\n"
        "binning_x: 0\nbinning_y: 0\nroi:\n  x_offset: 0\n  y_offset: 0\n  height: 0\n  width: 0\n"
        f"  do_rectify: false\n{tail}"
    )


def kalibr(model: str = "radtan", cameras: tuple[str, ...] = ("cam0",)) -> str:
    return "".join(
        f"{name}:\n  camera_model: pinhole\n  distortion_coeffs: [0.01, 0, 0, 0]\n"
        f"  distortion_model: {model}\n  intrinsics: "
        f"[{FX + 100 * (name != 'cam0')}, {FY}, {CX}, {CY}]\n"
        "  resolution: [160, 120]\n  rostopic: /cam0/image_raw\n  T_cam_imu:\n  - [1, 0, 0, 0]\n"
        for name in cameras
    )


OPENCV = (
    "%YAML:1.0\n---\nimage_width: 160\nimage_height: 120\ncamera_matrix: !!opencv-matrix\n"
    "   rows: 3\n   cols: 3\n   dt: d\n   data: [ 104.5, 0., 79.5, 0.,\n"
    "       103.25, 58.75, 0., 0., 1. ]\n"
    "distortion_coefficients: !!opencv-matrix\n   rows: 1\n   cols: 5\n   dt: d\n"
    "   data: [ 1.0e-02, 0., 0., 0., 0. ]\n"
)
ORB_SLAM = (
    '%YAML:1.0\n\n# Camera\nCamera.type: "PinHole"\nCamera.fx: 104.5\nCamera.fy: 103.25\n'
    "Camera.cx: 79.5\nCamera.cy: 58.75\nCamera.k1: 0.01\nCamera.k2: 0.0\nCamera.p1: 0.0\n"
    "Camera.p2: 0.0\nCamera.width: 160\nCamera.height: 120\nCamera.fps: 20.0\n"
)
EUROC = (
    "# Camera\nsensor_type: camera\ncomment: VI-Sensor cam0\nT_BS:\n  cols: 4\n  rows: 4\n"
    "  data: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]\nrate_hz: 20\n"
    "resolution: [160, 120]\n"
    "camera_model: pinhole\nintrinsics: [104.5, 103.25, 79.5, 58.75]\n"
    "distortion_model: radial-tangential\ndistortion_coefficients: [0.01, 0, 0, 0]\n"
)
REALSENSE = {
    "width": 160,
    "height": 120,
    "fx": FX,
    "fy": FY,
    "ppx": CX,
    "ppy": CY,
    "model": "distortion.inverse_brown_conrady",
    "coeffs": [0.0] * 5,
}
ORB_FISHEYE = (
    '%YAML:1.0\nCamera.type: "KannalaBrandt8"\nCamera1.fx: 104.5\nCamera1.fy: 103.25\n'
    "Camera1.cx: 79.5\nCamera1.cy: 58.75\nCamera1.k1: 0.01\nCamera1.k2: 0.0\nCamera1.k3: 0.002\n"
    "Camera1.k4: 0.003\nCamera.width: 160\nCamera.height: 120\n"
)
VINS = (
    "%YAML:1.0\n---\nmodel_type: PINHOLE\nimage_width: 160\nimage_height: 120\n"
    "distortion_parameters:\n   k1: 0.01\n   k2: 0.0\n   p1: 0.0\n   p2: 0.0\n"
    "projection_parameters:\n   fx: 104.5\n   fy: 103.25\n   cx: 79.5\n   cy: 58.75\n"
)
TEXTS = (
    "Image_Width: '160'\nImage_Height: '120'\nFx: '104.5'\nFy: '103,25'\nCx: '79.5'\nCy: '58.75'\n"
    "k1: '0.01'\nk2: '0'\n"
)
NERF: dict[str, object] = {
    "w": 160, "h": 120, "fl_x": FX, "fl_y": FY, "cx": CX + 0.5, "cy": CY + 0.5, "k1": 0.01,
    "k2": 0, "p1": 0, "p2": 0, "camera_angle_x": 1.2, "camera_model": "OPENCV", "frames": [],
}  # fmt: skip
COLMAP_HEAD = "# Camera list\n#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
DISTORTED = (0.01, 0.0, 0.0, 0.0)
FORMS: dict[str, tuple[str | bytes, tuple[float, ...], str]] = {
    "ros.yaml": (ros(), (), "plumb_bob"),
    "ros, distorted.yaml": (ros(data="[0.01, 0, 0, 0, 0]"), (*DISTORTED, 0), "plumb_bob"),
    "ros, dos.yaml": (ros().replace("\n", "\r\n"), (), "plumb_bob"),
    "ros, byte order mark.yaml": (b"\xef\xbb\xbf" + ros().encode(), (), "plumb_bob"),
    "ros, utf-16.yaml": (ros().encode("utf-16"), (), "plumb_bob"),
    "ros, windows-1252.yaml": (ros(head="# für Büro\n").encode("cp1252"), (), "plumb_bob"),
    "fisheye.yaml": (ros("fisheye", "[0.01, 0, 0, 0]"), DISTORTED, "equidistant"),
    "equidistant of five.yaml": (
        ros("equidistant", "[0.01, 0, 0, 0, 0]"),
        DISTORTED,
        "equidistant",
    ),
    "kannala.yaml": (ros("Kannala-Brandt", "[0.01, 0, 0, 0]"), DISTORTED, "equidistant"),
    "radtan.yaml": (ros("radtan", "[0.01, 0, 0, 0]"), DISTORTED, "plumb_bob"),
    "upper case.yaml": (ros("PLUMB_BOB", "[0.01, 0, 0, 0]"), DISTORTED, "plumb_bob"),
    "rational.yaml": (
        ros("rational_polynomial", "[0.01, 0, 0, 0, 0, 0, 0, 0]"),
        (*DISTORTED, 0, 0, 0, 0),
        "rational_polynomial",
    ),
    "none.yaml": (ros("none", "[0.0, 0, 0, 0, 0]"), (), "plumb_bob"),
    "echo.yaml": (echo(), (*DISTORTED, 0), "plumb_bob"),
    "echo, twice.yaml": (echo() + "---\n" + echo() + "---\n", (*DISTORTED, 0), "plumb_bob"),
    "echo of ros 1.yaml": (echo("KD"), (*DISTORTED, 0), "plumb_bob"),
    "opencv.yml": (OPENCV, (*DISTORTED, 0), "plumb_bob"),
    "orb_slam.yaml": (ORB_SLAM, DISTORTED, "plumb_bob"),
    "kalibr.yaml": (kalibr(), DISTORTED, "plumb_bob"),
    "kalibr, equi.yaml": (kalibr("equi"), DISTORTED, "equidistant"),
    "euroc.yaml": (EUROC, DISTORTED, "plumb_bob"),
    "nested.yaml": (f"width: 160\nheight: 120\nK: {ROWS}\n", (), "plumb_bob"),
    "realsense.json": (json.dumps(REALSENSE), (), "plumb_bob"),
    "open3d.json": (
        json.dumps({"width": 160, "height": 120, "intrinsic_matrix": BY_COLUMN}),
        (),
        "plumb_bob",
    ),
    "tabs.json": (json.dumps({"w": 160, "h": 120, "K": ROWS}, indent="\t"), (), "plumb_bob"),
    "opencv of fourteen.yml": (
        OPENCV.replace(
            "0., 0., 0., 0. ]", "0., 0., 0., 0., .1, .2, .3, .01, 0., 0., 0., .02, 0. ]"
        ),
        (*DISTORTED, 0, 0.1, 0.2, 0.3, 0.01, 0, 0, 0, 0.02, 0),
        "rational_polynomial",
    ),
    "opencv, fisheye.yml": (
        OPENCV.replace("0., 0., 0., 0. ]", "0., 0., 0. ]") + "fisheye_model: 1\n",
        DISTORTED,
        "equidistant",
    ),
    "orb_slam, fisheye.yaml": (ORB_FISHEYE, (0.01, 0, 0.002, 0.003), "equidistant"),
    "orb_slam, rectified.yaml": (
        ORB_SLAM.replace("PinHole", "Rectified").replace("0.01", "0.0"),
        (),
        "plumb_bob",
    ),
    "vins.yaml": (VINS, DISTORTED, "plumb_bob"),
    "texts.yaml": (TEXTS, DISTORTED, "plumb_bob"),
    "part.json": (
        json.dumps({"camera": {"w": 160, "h": 120, "fx": FX, "fy": FY, "cx": CX, "cy": CY}}),
        (),
        "plumb_bob",
    ),
    "transforms.json": (json.dumps(NERF), DISTORTED, "plumb_bob"),
    "transforms, fisheye.json": (
        json.dumps({**NERF, "is_fisheye": True, "k3": 0.002, "k4": 0.003}),
        (0.01, 0, 0.002, 0.003),
        "equidistant",
    ),
    "echo, region of all.yaml": (
        echo().replace("  height: 0\n  width: 0", "  height: 120\n  width: 160"),
        (*DISTORTED, 0),
        "plumb_bob",
    ),
    "keys.txt": (f"fx = {FX}\nfy = {FY}\ncx = {CX}\ncy = {CY}\n", (), "plumb_bob"),
    "keys with colons.txt": (f"fx: {FX}\nfy: {FY}\ncx: {CX}\ncy: {CY}\n", (), "plumb_bob"),
    "keys with spaces.txt": (f"fx {FX}\nfy {FY}\ncx {CX}\ncy {CY}\n", (), "plumb_bob"),
    "3x3.txt": ("\n".join(" ".join(f"{v:.18e}" for v in r) for r in ROWS), (), "plumb_bob"),
    "3x3, commas.txt": ("\n".join(", ".join(map(str, r)) for r in ROWS), (), "plumb_bob"),
    "3x3, decimal commas.txt": (
        "\n".join("\t".join(f"{v:.3f}" for v in r) for r in ROWS).replace(".", ","),
        (),
        "plumb_bob",
    ),
    "3x3, brackets.txt": (str(ROWS).replace("], ", "],\n"), (), "plumb_bob"),
    "nine in a line.txt": (" ".join(map(str, K)), (), "plumb_bob"),
    "4x4.txt": (f"{FX} 0 {CX} 0\n0 {FY} {CY} 0\n0 0 1 0\n0 0 0 1\n", (), "plumb_bob"),
    "four.txt": (f"# fx fy cx cy\n{FX} {FY} {CX} {CY}\n", (), "plumb_bob"),
    "eight.txt": (f"{FX} {FY} {CX} {CY} 0.01 0 0 0\n", DISTORTED, "plumb_bob"),
    "nine.txt": (f"{FX},{FY},{CX},{CY},0.01,0,0,0,0\n", (*DISTORTED, 0), "plumb_bob"),
    "colmap.txt": (
        COLMAP_HEAD + f"1 PINHOLE 160 120 {FX} {FY} {CX + 0.5} {CY + 0.5}\n",
        (),
        "plumb_bob",
    ),
    "colmap, opencv.txt": (
        f"1 OPENCV 160 120 {FX} {FY} {CX + 0.5} {CY + 0.5} 0.01 0 0 0\n",
        DISTORTED,
        "plumb_bob",
    ),
    "colmap, fisheye.txt": (
        f"1 OPENCV_FISHEYE 160 120 {FX} {FY} {CX + 0.5} {CY + 0.5} 0.01 0 0 0\n",
        DISTORTED,
        "equidistant",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_camera_comes_out_of_every_form(tmp_path: Path, name: str) -> None:
    content, distortion, model = FORMS[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    camera = read_camera(path, SIZE)
    np.testing.assert_allclose(camera.K.ravel(), K, rtol=1e-12)
    assert (camera.width, camera.height) == SIZE
    assert camera.distortion == distortion
    assert camera.distortion_model == model


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected image_width, image_height and camera_matrix"),
        ("just words", "expected image_width"),
        ("image_width: 160\n", "expected image_width"),
        ("a: [1, 2\nb: 3\n", r"line \d: "),
        ("a: *b\n", "aliases are not supported"),
        ("<?xml version='1.0'?><opencv_storage/>", "XML is not read"),
        ('{"fx": 1,', "is no JSON"),
        (
            ros("plumb_bob", "[0.01, 0, 0]"),
            "plumb_bob takes 4 or 5 or 8 or 12 or 14 coefficients, there are 3",
        ),
        (
            ros("rational_polynomial", "[1, 0, 0, 0, 0, 1]"),
            "takes 4 or 5 or 8 or 12 or 14 coefficients",
        ),
        (ros("equidistant", "[0.1, 0, 0, 0, 0.1]"), "equidistant takes 4 coefficients"),
        (ros("eucm", "[0.6, 1.1]"), "'eucm' is not known; use plumb_bob, rational_polynomial"),
        (ros("inverse_brown_conrady", "[0.1, 0, 0, 0, 0]"), "inverse_brown_conrady' is not known"),
        (ros("none", "[0.1, 0, 0, 0, 0]"), "coefficients that are not zero"),
        (ros(data=""), "distortion coefficients have no data; write "),
        (ros().replace("104.5", "0"), "not a pinhole matrix"),
        (ros().replace("104.5", ".nan"), "not a pinhole matrix"),
        (ros().replace("104.5", "abc"), "expected numbers"),
        (ros().replace("160", "320"), "are for 320x120 pixels, the images have 160x120"),
        (echo().replace("binning_x: 0", "binning_x: 2"), "binning or a region of interest"),
        (echo().replace("  width: 0", "  width: 80"), "binning or a region of interest"),
        (
            kalibr(cameras=("cam0", "cam1")),
            "several cameras .cam0, cam1.: keep that of the images",
        ),
        (kalibr().replace("pinhole", "omni"), "'omni' is not known"),
        ("1 PINHOLE 160 120 99 99 1 1\n2 PINHOLE 160 120 1 1 1 1\n", "2 cameras"),
        (
            "1 THIN_PRISM_FISHEYE 160 120 1 1 1 1 0 0 0 0 0 0 0 0\n",
            "THIN_PRISM_FISHEYE is not known",
        ),
        ("1 PINHOLE 160 120 99 99 1 1 1\n", "PINHOLE takes 4 parameters, there are 5"),
        (
            echo().replace("  x_offset: 0", "  x_offset: 1").replace("  width: 0", "  width: 159"),
            "binning or a region of interest",
        ),
        (
            echo("kD").replace(
                "D:\n- 0.01\n- 0.0\n- 0.0\n- 0.0\n- 0.0", "d: '<sequence type: double>'"
            ),
            "expected numbers, got '<sequence",
        ),
        (TEXTS.replace("'0.01'", "'much'"), "expected numbers, got 'much'"),
        (TEXTS.replace("'104.5'", "[]"), "expected one number"),
        (ros().replace("160", ".inf"), "an image of infx120"),
        (ros().replace("160", "1e400"), "an image of infx120"),
        (ros().replace("104.5, 0, 79.5", "104.5, 2.5, 79.5"), "has a skew of 2.5 pixels"),
        ("418 413 318 235\n", "not of 160x120 pixels: its centre lies outside"),
        ("52.25 51.6 39.25 28.9\n", "of images of about 80x59 pixels, these have 160x120: scale"),
        ("104.5 103.25 0.5 0.49\n", "centre of 0.5, 0.49 pixels: is it normalised"),
        (ros().replace("79.5", "0.5").replace("58.75", "0.5"), "is it normalised"),
        (ros().replace("79.5", "318"), "centre lies outside"),
        ("[image]\n\nwidth\n160\n\nheight\n120\n", "line 3: .*expected image_width"),
        ("1 2 3\n", "a camera matrix has 9 numbers, or 4 .*there are 3"),
        ("1 2 3 4 5 6 7 8 9\n", "normalised"),
        ("0.65 0.87 0.5 0.5\n", "focal length of 0.65 pixels in images of 160 columns: is the"),
        ("100 0 50 0 100 40 0 0 2\n", "no camera matrix"),
    ],
)
def test_what_is_no_camera_is_named_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "intrinsics.yaml"
    path.write_text(content)
    with pytest.raises(RecordingError, match=words) as caught:
        read_camera(path, SIZE)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_matrix_alone_needs_the_size_of_the_images(tmp_path: Path) -> None:
    (tmp_path / "K.txt").write_text(" ".join(map(str, K)))
    with pytest.raises(RecordingError, match="no size of the image"):
        read_camera(tmp_path / "K.txt")


def test_the_folder_tells_which_camera_of_a_rig_is_meant(tmp_path: Path) -> None:
    (tmp_path / "cam1").mkdir()
    (tmp_path / "camchain.yaml").write_text(kalibr(cameras=("cam0", "cam1")))
    camera = sidecar_camera(tmp_path / "cam1", SIZE)
    assert camera is not None
    assert camera.K[0, 0] == FX + 100


@pytest.mark.parametrize("name", ["intrinsics.yaml", "camera_info.yml", "camera.json", "K.txt"])
def test_a_file_is_found_in_the_folder_and_above_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    assert sidecar_camera(tmp_path / "images") is None
    (tmp_path / name).write_text(FORMS["tabs.json" if "json" in name else "ros.yaml"][0])
    camera = sidecar_camera(tmp_path / "images", SIZE)
    assert camera is not None
    assert camera.K[0, 2] == CX
