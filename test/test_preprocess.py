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

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Frame, FrameError
from mvdust3r_ros.engines.base import EngineInfo, aspect_size
from mvdust3r_ros.geometry import backproject, project
from mvdust3r_ros.window.preprocess import (
    crop_geometry,
    resize_image,
    scale_intrinsics,
    view_from_frame,
)

sides = st.integers(16, 2000)


def intrinsics(f: float, width: int, height: int) -> FloatArray:
    return np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])


def ramp(height: int, width: int) -> FloatArray:
    """Red grows by 2 with u, green by 2 with v."""
    v, u = np.mgrid[0:height, 0:width]
    return np.stack([2 * u, 2 * v, np.zeros_like(u)], -1).astype(np.uint8)


def test_crop_of_common_sizes() -> None:
    assert crop_geometry((480, 640), (224, 224)) == ((299, 224), (37, 0))
    assert crop_geometry((360, 540), (224, 224)) == ((336, 224), (56, 0))
    assert crop_geometry((1920, 1080), (224, 224)) == ((224, 398), (0, 87))
    assert crop_geometry((100, 100), (224, 224)) == ((224, 224), (0, 0))
    assert crop_geometry((300, 400), (150, 100)) == ((200, 150), (50, 0))


@given(sides, sides, st.integers(16, 512), st.integers(16, 512))
def test_crop_lies_inside_and_touches_two_borders(h: int, w: int, th: int, tw: int) -> None:
    (sw, sh), (x, y) = crop_geometry((h, w), (th, tw))
    assert 0 <= x <= sw - tw
    assert 0 <= y <= sh - th
    assert sw == tw or sh == th
    assert abs(2 * x - (sw - tw)) <= 1
    assert abs(2 * y - (sh - th)) <= 1
    assert abs(sw / w - sh / h) * min(h, w) <= 1  # aspect kept to the pixel


@pytest.mark.parametrize(
    ("camera_hw", "view_hw"),
    [
        ((720, 1280), (224, 384)),
        ((1080, 1920), (224, 384)),
        ((480, 640), (288, 384)),
        ((640, 480), (384, 288)),
        ((1280, 720), (384, 224)),
        ((512, 512), (384, 384)),
        ((428, 760), (224, 384)),
        ((240, 320), (288, 384)),
        ((20, 1280), (32, 384)),
        ((1024, 1280), (320, 384)),
        ((1279, 1280), (384, 384)),
    ],
)
def test_sizes_in_the_aspect_of_the_camera(
    camera_hw: tuple[int, int], view_hw: tuple[int, int]
) -> None:
    assert aspect_size(camera_hw, 384, 32) == view_hw


@given(sides, sides, st.integers(1, 16), st.sampled_from([8, 14, 32]))
def test_views_in_the_aspect_show_all_but_the_rounding(
    h: int, w: int, count: int, multiple: int
) -> None:
    view_hw = aspect_size((h, w), count * multiple, multiple)
    info = EngineInfo("a", "mvs", view_hw, long_side=count * multiple, side_multiple=multiple)
    assert info.takes(view_hw)
    assert info.view_hw((h, w)) == view_hw
    exact = count * multiple * min(h, w) / max(h, w)
    if exact < multiple:
        return  # narrower than one step
    (sw, sh), _ = crop_geometry((h, w), view_hw)
    shown = view_hw[0] * view_hw[1] / (sw * sh)
    assert shown > exact / (exact + multiple) - 0.02


@pytest.mark.parametrize("wh", [(1280, 720), (720, 1280)])
def test_a_view_in_the_aspect_is_cropped_not_stretched(wh: tuple[int, int]) -> None:
    """Red and green grow evenly over the image: each pixel tells where it is from."""
    width, height = wh
    v, u = np.mgrid[0:height, 0:width]
    image = np.stack([255 * u / width, 255 * v / height, 0 * u], -1).round().astype(np.uint8)
    K = intrinsics(900.0, width, height)
    depth = np.linspace(1, 2, width * height, dtype=np.float32).reshape(height, width)
    frame = Frame(0, image, CameraModel(K, width, height), depth_m=depth)
    view = view_from_frame(frame, aspect_size((height, width), 384, 32))
    rows, cols = view.image_rgb.shape[:2]
    assert {rows, cols} == {224, 384}
    assert view.depth_m is not None and view.depth_m.shape == (rows, cols)
    assert view.K is not None
    assert view.K[0, 0] == pytest.approx(view.K[1, 1], rel=0.001)
    uv = np.array([[0.0, 0.0], [cols - 1, rows - 1], [cols / 2, rows / 2]])
    back = project(backproject(np.ones(3), view.K, uv), K)
    shown = view.image_rgb[uv[:, 1].astype(int), uv[:, 0].astype(int), :2]
    np.testing.assert_allclose(shown / 255 * (width, height), back, atol=5.0)
    assert view.depth_m[rows // 2, cols // 2] == pytest.approx(1.5, abs=0.01)


def test_intrinsics_by_hand() -> None:
    K = np.array([[100.0, 2.0, 49.5], [0, 200.0, 19.5], [0, 0, 1]])
    half = scale_intrinsics(K, (40, 100), (50, 20))
    assert half.tolist() == [[50.0, 1.0, 24.5], [0, 100.0, 9.5], [0, 0, 1]]
    wide = scale_intrinsics(K, (40, 100), (200, 40))
    assert wide.tolist() == [[200.0, 4.0, 99.5], [0, 200.0, 19.5], [0, 0, 1]]
    assert K[0, 0] == 100.0


@given(sides, sides, sides, sides)
def test_a_resize_keeps_the_corners_of_the_image(h: int, w: int, h2: int, w2: int) -> None:
    K = np.array([[300.0, 0, w / 3], [0, 250.0, h / 5], [0, 0, 1]])
    scaled = scale_intrinsics(K, (h, w), (w2, h2))
    for corner, scaled_corner in [((-0.5, -0.5),) * 2, ((w - 0.5, h - 0.5), (w2 - 0.5, h2 - 0.5))]:
        ray = backproject(np.ones(1), K, np.array([corner]))
        np.testing.assert_allclose(project(ray, scaled)[0], scaled_corner, atol=1e-6)


def test_the_same_size_is_the_same_image() -> None:
    image = ramp(20, 30)
    assert resize_image(image, (30, 20)) is image


def test_shrinking_averages_areas() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[::2, ::2] = 200
    assert np.array_equal(resize_image(image, (2, 2)), np.full((2, 2, 3), 50))


def test_growing_interpolates_without_a_shift() -> None:
    big = resize_image(ramp(20, 30), (60, 40)).astype(int)
    u = (np.arange(60) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(big[20, 4:-4, 0], 2 * u[4:-4], atol=1)
    grown_one_way = resize_image(ramp(20, 30), (60, 10))
    assert grown_one_way.shape == (10, 60, 3)


def test_a_pixel_of_the_view_shows_what_its_intrinsics_say() -> None:
    """A ramp is linear, so the colour at a pixel tells where in the frame it came from."""
    frame = Frame(0, ramp(90, 120), CameraModel(intrinsics(80.0, 120, 90), 120, 90))
    for image_hw in [(45, 45), (45, 60), (60, 40)]:
        view = view_from_frame(frame, image_hw)
        assert view.image_rgb.shape == (*image_hw, 3)
        assert view.K is not None
        uv = np.array([[10.0, 12.0], [30.0, 20.0], [22.0, 40.0]])
        back = project(backproject(np.ones(3), view.K, uv), frame.camera.K)
        shown = view.image_rgb[uv[:, 1].astype(int), uv[:, 0].astype(int), :2] / 2.0
        np.testing.assert_allclose(shown, back, atol=0.76)


def test_view_of_a_wide_frame_exactly() -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 16:48] = 7
    depth = np.arange(32 * 64, dtype=np.float32).reshape(32, 64)
    T = np.eye(4)
    camera = CameraModel(np.array([[40.0, 0, 30], [0, 41.0, 14], [0, 0, 1]]), 64, 32)
    view = view_from_frame(Frame(0, image, camera, T, depth), (32, 32))
    assert (view.image_rgb == 7).all()
    assert np.array_equal(view.depth_m, depth[:, 16:48])
    assert view.depth_m.dtype == np.float32
    assert view.K.tolist() == [[40.0, 0, 14], [0, 41.0, 14], [0, 0, 1]]
    assert view.T_odom_cam is T
    assert view.image_rgb.flags.c_contiguous
    assert view.depth_m.flags.c_contiguous


def test_view_of_a_tall_frame_exactly() -> None:
    image = np.arange(64, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(3, 2)
    camera = CameraModel(np.array([[40.0, 0, 15], [0, 41.0, 30], [0, 0, 1]]), 32, 64)
    view = view_from_frame(Frame(0, image, camera), (32, 32))
    assert view.image_rgb[:, 0, 0].tolist() == list(range(16, 48))
    assert view.K.tolist() == [[40.0, 0, 15], [0, 41.0, 14], [0, 0, 1]]


def test_an_uncalibrated_frame_gives_a_plain_view() -> None:
    view = view_from_frame(Frame(0, ramp(40, 60)), (20, 20))
    assert view.K is None
    assert view.depth_m is None
    assert view.T_odom_cam is None


def test_depth_is_never_mixed_across_an_edge() -> None:
    depth = np.full((60, 80), 1.0, np.float32)
    depth[:, 37:] = 9.0
    depth[5:9] = np.nan
    camera = CameraModel(intrinsics(50.0, 80, 60), 80, 60)
    for hw in [(32, 32), (100, 100), (45, 60)]:
        found = view_from_frame(Frame(0, ramp(60, 80), camera, None, depth), hw).depth_m
        assert set(np.unique(found[np.isfinite(found)])) == {1.0, 9.0}
        assert np.isnan(found).any()


def test_depth_comes_from_the_nearest_pixel() -> None:
    depth = np.tile(np.arange(48, dtype=np.float32), (48, 1)) + 1
    frame = Frame(0, ramp(48, 48), depth_m=depth)
    assert view_from_frame(frame, (16, 16)).depth_m[0].tolist() == list(range(2, 49, 3))
    assert view_from_frame(frame, (96, 96)).depth_m[:, 0].tolist() == [1.0] * 96
    assert view_from_frame(frame, (96, 96)).depth_m[0, [0, 1, 94, 95]].tolist() == [1, 1, 48, 48]
    tall = Frame(0, ramp(48, 48), depth_m=np.ascontiguousarray(depth.T))
    assert view_from_frame(tall, (16, 16)).depth_m[:, 0].tolist() == list(range(2, 49, 3))


# Distortion


def distorted_points(model: str, coefficients: tuple[float, ...], K: FloatArray) -> FloatArray:
    """Pixels (N, 2) where rays at known angles appear through a lens."""
    rays = np.array([[0.3, 0.2, 1.0], [-0.35, 0.1, 1.0], [0.1, -0.3, 1.0], [0.0, 0.0, 1.0]])
    if model == "equidistant":
        flat = (rays[:, :2] / rays[:, 2:])[:, None]
        return cv2.fisheye.distortPoints(flat, K, np.array(coefficients))[:, 0]
    zero = np.zeros(3)
    return cv2.projectPoints(rays, zero, zero, K, np.array(coefficients))[0][:, 0]


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", (-0.3, 0.1, 0.001, -0.002, 0.0)),
        ("rational_polynomial", (-0.2, 0.05, 0.0, 0.0, 0.01, 0.1, 0.02, 0.003)),
        ("equidistant", (0.1, -0.05, 0.01, 0.0)),
    ],
)
def test_an_undistorted_view_shows_a_pinhole_image(
    model: str, coefficients: tuple[float, ...]
) -> None:
    K = np.array([[200.0, 0, 121.0], [0, 210.0, 88.0], [0, 0, 1]])
    image = np.zeros((180, 240, 3), np.uint8)
    depth = np.full((180, 240), 1.0, np.float32)
    for index, (u, v) in enumerate(distorted_points(model, coefficients, K)):
        cv2.circle(image, (round(u * 16), round(v * 16)), 3 * 16, (0, 0, 0), -1, cv2.LINE_AA, 4)
        cv2.circle(
            image, (round(u * 16), round(v * 16)), 3 * 16, (255, 60 * index + 40, 0), -1, 8, 4
        )
        depth[round(v), round(u)] = 5.0 + index
    frame = Frame(0, image, CameraModel(K, 240, 180, coefficients, model), None, depth)
    view = view_from_frame(frame, (180, 240))
    assert np.array_equal(view.K, K)
    rays = np.array([[0.3, 0.2, 1.0], [-0.35, 0.1, 1.0], [0.1, -0.3, 1.0], [0.0, 0.0, 1.0]])
    for index, expected in enumerate(project(rays, K)):
        mask = np.abs(view.image_rgb[..., 1].astype(int) - 60 * index - 40) < 12
        mask &= view.image_rgb[..., 0] > 200
        v, u = np.nonzero(mask)
        np.testing.assert_allclose((u.mean(), v.mean()), expected, atol=0.4)
        near = view.depth_m[round(expected[1]) - 1 :, round(expected[0]) - 1 :][:3, :3]
        assert (near == 5.0 + index).any()
    assert set(np.unique(view.depth_m)) <= {0.0, 1.0, 5.0, 6.0, 7.0, 8.0}


def test_zero_distortion_changes_nothing() -> None:
    K = intrinsics(50.0, 60, 40)
    plain = view_from_frame(Frame(0, ramp(40, 60), CameraModel(K, 60, 40)), (32, 32))
    zeros = CameraModel(K, 60, 40, (0.0,) * 5, "some other model")
    assert np.array_equal(
        view_from_frame(Frame(0, ramp(40, 60), zeros), (32, 32)).image_rgb, plain.image_rgb
    )


@pytest.mark.parametrize(
    ("model", "coefficients", "message"),
    [
        ("double_sphere", (0.1,), "distortion model 'double_sphere' is not one of plumb_bob"),
        ("plumb_bob", (0.1, 0.2), "plumb_bob has 4, 5, 8, 12 or 14 coefficients, not 2"),
        ("equidistant", (0.1, 0.2), "equidistant has 4 coefficients, not 2"),
    ],
)
def test_unknown_distortion_is_named(
    model: str, coefficients: tuple[float, ...], message: str
) -> None:
    with pytest.raises(FrameError, match=message):
        CameraModel(intrinsics(50.0, 60, 40), 60, 40, coefficients, model)


def test_a_tiny_image_is_refused() -> None:
    with pytest.raises(FrameError, match="image of 40x15 pixels is too small"):
        view_from_frame(Frame(0, ramp(15, 40)), (32, 32))
    assert view_from_frame(Frame(0, ramp(16, 16)), (32, 32)).image_rgb.shape == (32, 32, 3)
