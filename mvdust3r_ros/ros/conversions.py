"""Incoming messages to datatypes.

Works on the messages of rclpy and of rosbags alike; needs no ROS installation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Frame, FrameError
from mvdust3r_ros.geometry import AlignmentError, se3_from_quaternion
from mvdust3r_ros.ros.images import (
    DEFAULT_MAX_PIXELS,
    ConversionError,
    compressed_to_rgb,
    depth_to_m,
    image_to_rgb,
)
from mvdust3r_ros.tones import Tones

DISTORTION_MODELS = ("plumb_bob", "rational_polynomial", "equidistant")
DEFAULT_CAMERA_FRAME = "camera_optical"
ASPECT_TOLERANCE = 0.02


def stamp_to_ns(stamp: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
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
) -> Frame:
    """One camera image with all that is known about it.

    Args:
        image: sensor_msgs/Image or sensor_msgs/CompressedImage.
        camera_info: sensor_msgs/CameraInfo of that camera; an uncalibrated one counts as none.
        T_odom_cam: (4, 4) camera-to-odometry pose at the image's stamp, or None.
        depth: depth image (sensor_msgs/Image) registered to the image, or None; brought to the
            size of the image by nearest neighbour.
        camera_name: name of the camera; empty for the frame id of the image.
        T_rig_cam: (4, 4) place of the camera among several, or None.
        T_odom_base: (4, 4) pose of the robot where the camera's place on it is unknown, or None.
        max_pixels: larger images are refused.
        tones: as in `image_to_rgb`.

    Raises:
        ConversionError: a message cannot be used; its reason names what kind of fault.
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
    try:
        return Frame(
            stamp_ns=stamp_ns,
            image_rgb=rgb,
            camera=None if camera_info is None else camera_from_info(camera_info),
            T_odom_cam=T_odom_cam,
            depth_m=None if depth is None else _depth_for(depth, rgb.shape[:2], max_pixels),
            camera_name=camera_name or image.header.frame_id or DEFAULT_CAMERA_FRAME,
            T_rig_cam=T_rig_cam,
            T_odom_base=T_odom_base,
        )
    except FrameError as error:
        raise ConversionError("camera_info", str(error)) from None


def camera_from_info(info: Any) -> CameraModel | None:
    """Intrinsics of a sensor_msgs/CameraInfo, in pixels of the image that is sent.

    Binning and region of interest are taken into account.

    Returns:
        The camera, or None when it is not calibrated (K[0] is 0, as the message defines).

    Raises:
        ConversionError: K is not a pinhole matrix, or the distortion model is unknown.
    """
    K = np.array(info.k, dtype=np.float64).reshape(3, 3)
    if K[0, 0] == 0:
        return None
    distortion = tuple(float(d) for d in info.d)
    if not any(distortion):
        distortion = ()
    if distortion and info.distortion_model not in DISTORTION_MODELS:
        raise ConversionError(
            "camera_info",
            f"camera_info: distortion model {info.distortion_model!r} is not one of "
            f"{', '.join(DISTORTION_MODELS)}",
        )
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
    try:
        return CameraModel(
            K,
            int(width) // bin_x,
            int(height) // bin_y,
            distortion,
            info.distortion_model or "plumb_bob",
        )
    except FrameError as error:
        raise ConversionError("camera_info", f"camera_info: {error}") from None


def pose_from_odometry(msg: Any) -> FloatArray:
    """(4, 4) T_frame_child of a nav_msgs/Odometry.

    Raises:
        ConversionError: the quaternion is zero or a number is not finite.
    """
    return pose_from_pose(msg.pose.pose, "odometry")


def pose_from_pose(pose: Any, what: str = "pose") -> FloatArray:
    """(4, 4) T_frame_child of a geometry_msgs/Pose; `what` names it in the error.

    Raises:
        ConversionError: the quaternion is zero or a number is not finite.
    """
    return _se3(pose.orientation, pose.position, what)


def pose_from_transform(transform: Any) -> FloatArray:
    """(4, 4) T_frame_child of a geometry_msgs/Transform.

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
    except AlignmentError as error:
        raise ConversionError("odometry", f"{what}: {error}") from None


def _depth_for(depth: Any, shape_hw: tuple[int, ...], max_pixels: int) -> FloatArray:
    """Depth map at the image's size; nearest neighbour never mixes near and far."""
    depth_m = depth_to_m(depth, max_pixels)
    if depth_m.shape == shape_hw:
        return depth_m
    height, width = depth_m.shape
    if abs(width * shape_hw[0] / (height * shape_hw[1]) - 1) > ASPECT_TOLERANCE:
        raise ConversionError(
            "depth",
            f"depth of {width}x{height} pixels has another shape than the image of "
            f"{shape_hw[1]}x{shape_hw[0]}: it has to be registered to the image",
        )
    rows = (np.arange(shape_hw[0]) + 0.5) * depth_m.shape[0] / shape_hw[0]
    cols = (np.arange(shape_hw[1]) + 0.5) * depth_m.shape[1] / shape_hw[1]
    resized: FloatArray = depth_m[rows.astype(int)[:, None], cols.astype(int)]
    return resized
