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

"""Convert incoming messages to datatypes.

Works on the messages of rclpy and rosbags alike; needs no ROS installation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mvdust3r_ros.datatypes import (
    DISTORTION_COUNTS,
    DISTORTION_NAMES,
    CameraModel,
    FloatArray,
    Frame,
    FrameError,
    pinhole_fault,
)
from mvdust3r_ros.geometry import AlignmentError, se3_from_quaternion
from mvdust3r_ros.messages.frame_ids import plain_frame
from mvdust3r_ros.messages.images import (
    DEFAULT_MAX_PIXELS,
    ConversionError,
    compressed_to_rgb,
    depth_to_m,
    image_to_rgb,
)
from mvdust3r_ros.tones import Tones
from mvdust3r_ros.window.preprocess import registered_depth, scale_intrinsics

DEFAULT_CAMERA_FRAME = "camera_optical"


def stamp_to_ns(stamp: Any) -> int:
    """Return the nanoseconds of a builtin_interfaces/Time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def frame_from_msgs(
    image: Any,
    camera_info: Any | None = None,
    T_odom_cam: FloatArray | None = None,
    depth: Any | None = None,
    *,
    camera_name: str = "",
    T_rig_cam: FloatArray | None = None,
    T_odom_base: FloatArray | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    tones: Tones | None = None,
    on_bad_depth: Callable[[str], None] | None = None,
) -> Frame:
    """Make a frame of a camera image and everything known about it.

    Args:
        image: sensor_msgs/Image or sensor_msgs/CompressedImage.
        camera_info: sensor_msgs/CameraInfo of that camera, an uncalibrated one counts as none; or
            a function of the image's width and height that returns the camera or None.
        T_odom_cam: (4, 4) camera-to-odometry pose at the image's stamp, or None.
        depth: depth image (sensor_msgs/Image) registered to the image, or None; resized to the
            image by nearest neighbour.
        camera_name: name of the camera; empty for the frame id of the image.
        T_rig_cam: (4, 4) pose of the camera on a rig of several, or None.
        T_odom_base: (4, 4) pose of the robot by odometry, or None.
        max_pixels: larger images are rejected.
        tones: as in `image_to_rgb`.
        on_bad_depth: called with why depth cannot be used, and the frame has none; None to raise.

    Raises:
        ConversionError: a message cannot be used; its reason names the kind of fault.
    """
    stamp_ns = stamp_to_ns(image.header.stamp)
    if stamp_ns <= 0:
        raise ConversionError(
            "stamp",
            f"the image has the stamp {stamp_ns} ns; its driver has to say when it was taken",
        )
    compressed = hasattr(image, "format")
    to_rgb = compressed_to_rgb if compressed else image_to_rgb
    rgb = to_rgb(image, max_pixels, tones)
    height, width = rgb.shape[:2]
    if callable(camera_info):
        camera = camera_info(width, height)
    else:
        camera = None if camera_info is None else camera_from_info(camera_info)
    depth_m = None
    try:
        depth_m = None if depth is None else _depth_for(depth, rgb.shape[:2], max_pixels)
    except ConversionError as error:
        if on_bad_depth is None:
            raise
        on_bad_depth(str(error))
    try:
        return Frame(
            stamp_ns=stamp_ns,
            image_rgb=rgb,
            camera=camera,
            T_odom_cam=T_odom_cam,
            depth_m=depth_m,
            camera_name=camera_name or plain_frame(image.header.frame_id) or DEFAULT_CAMERA_FRAME,
            T_rig_cam=T_rig_cam,
            T_odom_base=T_odom_base,
        )
    except FrameError as error:
        raise ConversionError("camera_info", str(error)) from None


def camera_from_info(info: Any, *, rectified: bool = False) -> CameraModel | None:
    """Return the intrinsics of a sensor_msgs/CameraInfo, in pixels of the published image.

    Binning and region of interest are taken into account.

    Args:
        info: the message; 0x0 means that the size is not given.
        rectified: the image has no distortion left: P applies to it, K and D do not.

    Returns:
        The camera, or None if not calibrated (K[0] is 0, as the message defines).

    Raises:
        ConversionError: K does not fit an image of this size, or the distortion is unknown.
    """
    K = _matrix_of(info, rectified=rectified)
    if K is None:
        return None
    _check_matrix(K, int(info.width), int(info.height))
    roi = info.roi
    whole = roi.width == 0 or roi.height == 0
    width, height = (info.width, info.height) if whole else (roi.width, roi.height)
    if not whole:
        K[:2, 2] -= roi.x_offset, roi.y_offset
    bin_x, bin_y = max(1, info.binning_x), max(1, info.binning_y)
    if bin_x > 1 or bin_y > 1:
        # Pixel centres are integers: pixel u of the binned image covers bin * u ... + bin - 1.
        K[0, :2] /= bin_x
        K[1, 1] /= bin_y
        K[:2, 2] = (K[0, 2] + 0.5) / bin_x - 0.5, (K[1, 2] + 0.5) / bin_y - 0.5
    name = info.distortion_model.strip() or "plumb_bob"
    plain = re.sub(r"[ -]", "_", name.lower())
    model = DISTORTION_NAMES.get(plain, plain)
    model = model if model in DISTORTION_COUNTS else name
    distortion = () if rectified else _distortion_of(info, model)
    try:
        size = int(width) // bin_x, int(height) // bin_y
        return CameraModel(K, *size, distortion, model if distortion else "plumb_bob")
    except FrameError as error:
        raise ConversionError("camera_info", f"camera_info: {error}") from None


def _matrix_of(info: Any, *, rectified: bool) -> FloatArray | None:
    """Return the (3, 3) matrix in pixels before binning; None if not calibrated."""
    K = np.array(info.k, dtype=np.float64).reshape(3, 3)
    P = np.array(getattr(info, "p", np.zeros(12)), dtype=np.float64).reshape(3, 4)[:, :3].copy()
    # Without distortion K and P are equal, and some drivers fill in only one of them.
    order = (P, K) if rectified else (K, P) if not any(info.d) else (K,)
    return next((matrix for matrix in order if matrix[0, 0] != 0), None)


def _distortion_of(info: Any, model: str) -> tuple[float, ...]:
    """Return the coefficients without zeros that pad an array; none if all are zero."""
    distortion = tuple(float(d) for d in info.d)
    if not any(distortion):
        return ()
    counts = DISTORTION_COUNTS.get(model, ())
    while counts and len(distortion) not in counts and distortion[-1] == 0:
        distortion = distortion[:-1]
    return distortion


def _check_matrix(K: FloatArray, width: int, height: int) -> None:
    """Raise ConversionError for a matrix impossible for a camera of this image size."""
    fault = pinhole_fault(K, width, height)
    if fault:
        numbers = " ".join(f"{v:.6g}" for v in np.ravel(K))
        raise ConversionError("camera_info", f"camera_info: K {fault} ({numbers})")


def resized_camera(camera: CameraModel, width: int, height: int) -> CameraModel:
    """Return the camera of an image resized as a whole; a missing size is filled in."""
    if (camera.width, camera.height) == (width, height):
        return camera
    if camera.width == 0 or camera.height == 0:
        return replace(camera, width=width, height=height)
    K = scale_intrinsics(camera.K, (camera.height, camera.width), (width, height))
    return replace(camera, K=K, width=width, height=height)


def pose_from_odometry(msg: Any) -> FloatArray:
    """Return (4, 4) T_frame_child of a nav_msgs/Odometry.

    Raises:
        ConversionError: the quaternion is zero or a number is not finite.
    """
    return pose_from_pose(msg.pose.pose, "odometry")


def pose_from_pose(pose: Any, what: str = "pose") -> FloatArray:
    """Return (4, 4) T_frame_child of a geometry_msgs/Pose; `what` names it in the error.

    Raises:
        ConversionError: the quaternion is zero or a number is not finite.
    """
    return _se3(pose.orientation, pose.position, what)


def pose_from_stamped(msg: Any) -> tuple[int, str, FloatArray]:
    """Return stamp (ns), child frame and (4, 4) T_frame_child of a message with one pose.

    Args:
        msg: nav_msgs/Odometry, or geometry_msgs/PoseStamped, PoseWithCovarianceStamped or
            TransformStamped; the child frame is empty if the type has none.

    Raises:
        ConversionError: the quaternion is zero or a number is not finite.
    """
    child = str(getattr(msg, "child_frame_id", ""))
    if hasattr(msg, "transform"):
        T = pose_from_transform(msg.transform)
    else:
        T = pose_from_pose(getattr(msg.pose, "pose", msg.pose), "odometry")
    return stamp_to_ns(msg.header.stamp), child, T


def pose_from_transform(transform: Any) -> FloatArray:
    """Return (4, 4) T_frame_child of a geometry_msgs/Transform.

    Raises:
        ConversionError: the quaternion is zero or a number is not finite.
    """
    return _se3(transform.rotation, transform.translation, "transform")


def _se3(rotation: Any, translation: Any, what: str) -> FloatArray:
    quat = np.array([rotation.x, rotation.y, rotation.z, rotation.w])
    t = np.array([translation.x, translation.y, translation.z])
    if not np.all(np.isfinite(t)):
        raise ConversionError("odometry", f"{what} has the position {t}, expected finite numbers")
    try:
        return se3_from_quaternion(quat, t)
    except AlignmentError:
        words = ", ".join(f"{v:g}" for v in quat)
        raise ConversionError(
            "odometry", f"{what}: the quaternion ({words}) is no rotation"
        ) from None


def _depth_for(depth: Any, shape_hw: tuple[int, ...], max_pixels: int) -> FloatArray:
    """Return the depth map at the image's size."""
    try:
        return registered_depth(depth_to_m(depth, max_pixels), (shape_hw[1], shape_hw[0]))
    except FrameError as error:
        raise ConversionError("depth", f"depth {error}") from None
