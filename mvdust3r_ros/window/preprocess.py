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

"""Frames to views: resize, centre-crop and undistort, with exactly matching intrinsics."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Frame, FrameError, ImageArray, View

MIN_SIDE_PX = 16
"""Patch of the networks' encoders (`NetworkConfig.patch_size`): smaller images have no token."""
ASPECT_TOLERANCE = 0.02
"""Sizes are whole pixels: half a pixel in 25 rows. 4:3 and 16:9 are 33 % apart."""


def view_from_frame(frame: Frame, image_hw: tuple[int, int]) -> View:
    """Resize the short side to the engine's input and crop the centre, without stretching.

    Args:
        frame: a camera image of any size.
        image_hw: height and width of the view in pixels; `EngineInfo.view_hw` gives those of an
            engine, also in the aspect of the camera.

    Returns:
        The view; its K applies to its pixels, undistorted.

    Raises:
        FrameError: the image is too small.
    """
    height, width = frame.image_rgb.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise FrameError(f"image of {width}x{height} pixels is too small (at least {MIN_SIDE_PX})")
    scaled_wh, crop_xy = crop_geometry((height, width), image_hw)
    image = resize_image(frame.image_rgb, scaled_wh)
    K = None
    depth = None if frame.depth_m is None else _resize_nearest(frame.depth_m, scaled_wh)
    if frame.camera is not None:
        K = scale_intrinsics(frame.camera.K, (height, width), scaled_wh)
        if any(frame.camera.distortion):
            image, depth = _undistort(image, depth, K, frame.camera)
        K = K - np.array([[0, 0, crop_xy[0]], [0, 0, crop_xy[1]], [0, 0, 0]], float)
    rows = slice(crop_xy[1], crop_xy[1] + image_hw[0])
    cols = slice(crop_xy[0], crop_xy[0] + image_hw[1])
    return View(
        image_rgb=np.ascontiguousarray(image[rows, cols]),
        K=K,
        T_odom_cam=frame.T_odom_cam,
        depth_m=None if depth is None else np.ascontiguousarray(depth[rows, cols]),
        T_world_cam=frame.T_world_cam,
        T_rig_cam=frame.T_rig_cam,
        T_odom_base=frame.T_odom_base,
        stamp_ns=frame.stamp_ns,
        camera_name=frame.camera_name,
    )


def crop_geometry(
    image_hw: tuple[int, int], target_hw: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size (width, height) to resize to and the crop's top left (x, y), in pixels."""
    scale = max(target_hw[0] / image_hw[0], target_hw[1] / image_hw[1])
    scaled_w = max(target_hw[1], round(image_hw[1] * scale))
    scaled_h = max(target_hw[0], round(image_hw[0] * scale))
    return (scaled_w, scaled_h), ((scaled_w - target_hw[1]) // 2, (scaled_h - target_hw[0]) // 2)


def resize_image(image: ImageArray, size_wh: tuple[int, int]) -> ImageArray:
    """Resize without aliasing: area average down, bicubic up."""
    if (image.shape[1], image.shape[0]) == size_wh:
        return image
    shrink = size_wh[0] <= image.shape[1] and size_wh[1] <= image.shape[0]
    method = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size_wh, interpolation=method), np.uint8)


def scale_intrinsics(
    K: FloatArray, image_hw: tuple[int, int], size_wh: tuple[int, int]
) -> FloatArray:
    """Return the pinhole matrix after a resize, with integers at pixel centres."""
    sx, sy = size_wh[0] / image_hw[1], size_wh[1] / image_hw[0]
    scaled = np.array(K, float)
    scaled[0, 0] *= sx
    scaled[0, 1] *= sx
    scaled[1, 1] *= sy
    scaled[0, 2] = (K[0, 2] + 0.5) * sx - 0.5
    scaled[1, 2] = (K[1, 2] + 0.5) * sy - 0.5
    return scaled


def registered_depth(depth_m: FloatArray, size_wh: tuple[int, int]) -> FloatArray:
    """Return (H, W) float32 depth at the size of its image; values are never interpolated.

    Raises:
        FrameError: its aspect differs from the image's, so it shows something else; the message
            continues after the name of the depth image.
    """
    height, width = depth_m.shape
    if (width, height) == size_wh:
        return depth_m
    if abs(width * size_wh[1] / (height * size_wh[0]) - 1) > ASPECT_TOLERANCE:
        raise FrameError(
            f"of {width}x{height} pixels has another shape than the image of "
            f"{size_wh[0]}x{size_wh[1]}: it has to be registered to the image"
        )
    return _resize_nearest(depth_m, size_wh)


def _resize_nearest(depth_m: FloatArray, size_wh: tuple[int, int]) -> FloatArray:
    """Return depth at the nearest source pixel, never interpolated across an edge."""
    height, width = depth_m.shape
    cols = np.clip(np.rint((np.arange(size_wh[0]) + 0.5) * width / size_wh[0] - 0.5), 0, width - 1)
    rows = np.clip(
        np.rint((np.arange(size_wh[1]) + 0.5) * height / size_wh[1] - 0.5), 0, height - 1
    )
    return np.asarray(depth_m[np.ix_(rows.astype(int), cols.astype(int))], np.float32)


def _undistort(
    image: ImageArray, depth: FloatArray | None, K: FloatArray, camera: CameraModel
) -> tuple[ImageArray, FloatArray | None]:
    """Remove lens distortion, keeping the pinhole matrix K."""
    size_wh = (image.shape[1], image.shape[0])
    map_x, map_y = _undistort_maps(
        tuple(K.ravel()), camera.distortion, camera.distortion_model, size_wh
    )
    flat = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if depth is not None:
        depth = np.asarray(cv2.remap(depth, map_x, map_y, cv2.INTER_NEAREST), np.float32)
    return np.asarray(flat, np.uint8), depth


@lru_cache(maxsize=16)
def _undistort_maps(
    K_flat: tuple[float, ...], distortion: tuple[float, ...], model: str, size_wh: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    K, coefficients = np.reshape(K_flat, (3, 3)), np.asarray(distortion, float)
    if model == "equidistant":
        maps = cv2.fisheye.initUndistortRectifyMap(
            K, coefficients[:4], np.eye(3), K, size_wh, cv2.CV_32FC1
        )
    else:
        maps = cv2.initUndistortRectifyMap(K, coefficients, np.eye(3), K, size_wh, cv2.CV_32FC1)
    return np.asarray(maps[0], np.float32), np.asarray(maps[1], np.float32)
