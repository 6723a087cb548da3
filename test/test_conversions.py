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

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mvdust3r_ros.geometry import make_se3, project, se3_from_quaternion
from mvdust3r_ros.messages.conversions import (
    camera_from_info,
    frame_from_msgs,
    pose_from_odometry,
    pose_from_transform,
    stamp_to_ns,
)
from mvdust3r_ros.messages.images import ConversionError

K = [500.0, 0, 320.0, 0, 510.0, 240.0, 0, 0, 1]


def info(**changes: Any) -> Any:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    fields = {
        "k": K, "d": [0.0] * 5, "distortion_model": "plumb_bob", "width": 640, "height": 480,
        "binning_x": 0, "binning_y": 0, "roi": roi,
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


def image(width: int = 8, height: int = 6, frame_id: str = "cam") -> Any:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=12, nanosec=345), frame_id=frame_id)
    return SimpleNamespace(
        header=header, encoding="rgb8", width=width, height=height, step=3 * width,
        is_bigendian=0, data=bytes(range(256))[: 3 * width * height] * 1,
    )  # fmt: skip


def depth_image(depth_mm: np.ndarray) -> Any:
    height, width = depth_mm.shape
    return SimpleNamespace(
        encoding="16UC1", width=width, height=height, step=2 * width, is_bigendian=0,
        data=depth_mm.astype("<u2").tobytes(),
    )  # fmt: skip


def test_stamps_are_exact() -> None:
    assert stamp_to_ns(SimpleNamespace(sec=1700000000, nanosec=999999999)) == 1700000000999999999


def test_an_uncalibrated_camera_is_none() -> None:
    assert camera_from_info(info(k=[0.0] * 9)) is None


def test_zero_distortion_counts_as_none() -> None:
    camera = camera_from_info(info(distortion_model=""))
    assert camera is not None
    assert camera.distortion == ()
    np.testing.assert_array_equal(camera.K, np.reshape(K, (3, 3)))
    assert (camera.width, camera.height) == (640, 480)


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial", "equidistant"])
def test_distortion_is_kept(model: str) -> None:
    camera = camera_from_info(info(d=[0.1, -0.2, 0.0, 0.0], distortion_model=model))
    assert camera is not None
    assert (camera.distortion, camera.distortion_model) == ((0.1, -0.2, 0.0, 0.0), model)


def test_an_unknown_distortion_model_is_refused() -> None:
    with pytest.raises(ConversionError, match="thin_prism"):
        camera_from_info(info(d=[0.1], distortion_model="thin_prism"))


def test_a_matrix_that_is_no_pinhole_is_refused() -> None:
    with pytest.raises(ConversionError, match="camera_info"):
        camera_from_info(info(k=[-5.0, *K[1:]]))


def test_region_of_interest_and_binning_show_the_same_rays() -> None:
    roi = SimpleNamespace(x_offset=100, y_offset=40, width=400, height=300)
    camera = camera_from_info(info(roi=roi, binning_x=2, binning_y=2))
    assert camera is not None
    assert (camera.width, camera.height) == (200, 150)
    points = np.array([[0.1, -0.2, 2.0], [-0.3, 0.25, 3.0]])
    full = project(points, np.reshape(K, (3, 3)))
    expected = (full - (100, 40) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(project(points, camera.K), expected, atol=1e-9)


def odometry(quat: tuple[float, ...], position: tuple[float, ...]) -> Any:
    orientation = SimpleNamespace(**dict(zip("xyzw", quat, strict=True)))
    where = SimpleNamespace(**dict(zip("xyz", position, strict=True)))
    return SimpleNamespace(pose=SimpleNamespace(pose=SimpleNamespace(
        orientation=orientation, position=where)))  # fmt: skip


def test_odometry_and_transforms_give_the_same_pose() -> None:
    quat, position = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)), (1.0, 2.0, 3.0)
    pose = pose_from_odometry(odometry(quat, position))
    expected = make_se3(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array(position))
    np.testing.assert_allclose(pose, expected, atol=1e-12)
    inner = odometry(quat, position).pose.pose
    transform = SimpleNamespace(rotation=inner.orientation, translation=inner.position)
    np.testing.assert_allclose(pose_from_transform(transform), pose, atol=1e-12)


@pytest.mark.parametrize(
    ("quat", "position"),
    [((0.0,) * 4, (0.0,) * 3), ((0, 0, 0, np.nan), (0.0,) * 3), ((0, 0, 0, 1.0), (np.inf, 0, 0))],
)
def test_bad_odometry_is_refused(quat: tuple[float, ...], position: tuple[float, ...]) -> None:
    with pytest.raises(ConversionError, match="odometry"):
        pose_from_odometry(odometry(quat, position))


def test_a_frame_has_everything() -> None:
    pose = se3_from_quaternion(np.array([0, 0, 0, 1.0]), np.array([1.0, 0, 0]))
    depth = np.arange(48).reshape(6, 8) * 100
    small = info(width=8, height=6, k=[6.0, 0.0, 3.5, 0.0, 6.1, 2.5, 0.0, 0.0, 1.0])
    frame = frame_from_msgs(image(), small, pose, depth_image(depth))
    assert frame.stamp_ns == 12_000_000_345
    assert frame.camera_name == "cam"
    assert frame.camera is not None
    np.testing.assert_array_equal(frame.image_rgb.ravel(), np.arange(144))
    np.testing.assert_array_equal(frame.T_odom_cam, pose)
    np.testing.assert_allclose(frame.depth_m, depth / 1000, rtol=1e-6)


def test_depth_of_another_size_is_brought_to_that_of_the_image_without_mixing() -> None:
    depth = np.array([[1000, 2000, 1500, 700], [3000, 0, 10, 20], [9, 8, 7, 6]])
    frame = frame_from_msgs(image(), depth=depth_image(depth))
    assert frame.depth_m is not None
    expected = np.repeat(np.repeat(depth / 1000, 2, 0), 2, 1)
    np.testing.assert_allclose(frame.depth_m, expected, rtol=1e-6)


def test_depth_of_another_shape_is_refused_not_squeezed() -> None:
    with pytest.raises(ConversionError, match=r"6x8 pixels has another shape .* of 8x6") as caught:
        frame_from_msgs(image(), depth=depth_image(np.full((8, 6), 1000)))
    assert caught.value.reason == "depth"
    said: list[str] = []
    frame = frame_from_msgs(image(), depth=depth_image(np.ones((8, 6))), on_bad_depth=said.append)
    assert frame.depth_m is None
    assert "has to be registered" in said[0]


def test_camera_info_of_another_size_is_refused() -> None:
    with pytest.raises(ConversionError, match="640x480") as caught:
        frame_from_msgs(image(), info())
    assert caught.value.reason == "camera_info"


def test_a_camera_without_a_frame_id_gets_the_usual_one() -> None:
    assert frame_from_msgs(image(frame_id="")).camera_name == "camera_optical"
    assert frame_from_msgs(image(frame_id=""), camera_name="left").camera_name == "left"
