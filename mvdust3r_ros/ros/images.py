"""Image messages to RGB arrays and depth maps: every encoding a camera driver sends.

Works on the messages of rclpy and of rosbags alike; needs no ROS installation.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mvdust3r_ros.datatypes import FloatArray, ImageArray, MvDust3rError
from mvdust3r_ros.image_size import JPEG_MAGIC, PNG_MAGIC, ImageSizeError, image_size

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DEFAULT_MAX_PIXELS = 50_000_000


class ConversionError(MvDust3rError):
    """A message cannot be used.

    Attributes:
        reason: short name for counting, for example "encoding".
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the reason next to the message."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Encoding:
    """Memory layout of an encoding and the OpenCV code that makes RGB of it.

    Attributes:
        channels: values per pixel.
        dtype: numpy type of a value, native byte order.
        code: OpenCV conversion; None when it is RGB already.
    """

    channels: int
    dtype: str
    code: int | None


ENCODINGS = {
    "rgb8": Encoding(3, "u1", None),
    "8UC3": Encoding(3, "u1", cv2.COLOR_BGR2RGB),
    "bgr8": Encoding(3, "u1", cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(4, "u1", cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(4, "u1", cv2.COLOR_BGRA2RGB),
    "8UC4": Encoding(4, "u1", cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(1, "u1", cv2.COLOR_GRAY2RGB),
    "8UC1": Encoding(1, "u1", cv2.COLOR_GRAY2RGB),
    "mono16": Encoding(1, "u2", cv2.COLOR_GRAY2RGB),
    "yuv422": Encoding(2, "u1", cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": Encoding(2, "u1", cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": Encoding(2, "u1", cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": Encoding(2, "u1", cv2.COLOR_YUV2RGB_YUYV),
    "bayer_rggb8": Encoding(1, "u1", cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": Encoding(1, "u1", cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": Encoding(1, "u1", cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": Encoding(1, "u1", cv2.COLOR_BayerGRBG2RGB),
}
DEPTH_ENCODINGS = {
    "16UC1": Encoding(1, "u2", None),
    "mono16": Encoding(1, "u2", None),
    "32FC1": Encoding(1, "f4", None),
}


def image_to_rgb(msg: Any, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageArray:
    """(H, W, 3) uint8 RGB of a sensor_msgs/Image.

    Args:
        msg: message; `step`, `is_bigendian` and bytes of padding are honoured. 16-bit grey keeps
            its upper eight bits.
        max_pixels: larger images are refused before memory is taken.

    Raises:
        ConversionError: unknown encoding, no pixels, too many, or too few bytes.
    """
    values = _pixels(msg, ENCODINGS, max_pixels)
    layout = ENCODINGS[msg.encoding]
    if values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    if layout.channels == 2 and msg.width % 2:
        raise ConversionError("size", f"{msg.encoding} needs an even width, got {msg.width}")
    if layout.code is None:
        return np.ascontiguousarray(values)
    rgb: ImageArray = cv2.cvtColor(np.ascontiguousarray(values), layout.code)  # type: ignore[assignment]
    return rgb


def depth_to_m(msg: Any, max_pixels: int = DEFAULT_MAX_PIXELS) -> FloatArray:
    """(H, W) float32 depth in metres of a depth image, 0 where there is none (REP-118).

    Args:
        msg: sensor_msgs/Image, 16UC1 in millimetres or 32FC1 in metres.
        max_pixels: larger images are refused before memory is taken.

    Raises:
        ConversionError: as `image_to_rgb`.
    """
    values = _pixels(msg, DEPTH_ENCODINGS, max_pixels)
    depth: FloatArray = values.astype(np.float32)
    if values.dtype == np.uint16:
        depth *= np.float32(0.001)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def compressed_to_rgb(msg: Any, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageArray:
    """(H, W, 3) uint8 RGB of a sensor_msgs/CompressedImage, JPEG or PNG.

    The content decides, not `format`; orientation tags are ignored, as camera_info does not know
    of them.

    Args:
        msg: message. A format such as "rgb8; jpeg compressed rgb8" says that red and blue were
            swapped when it was written; "compressed bgr8" and plain "jpeg" are normal.
        max_pixels: larger images are refused before memory is taken.

    Raises:
        ConversionError: neither JPEG nor PNG, cut off, damaged, or too large.
    """
    data = _bytes_of(msg.data)
    height, width = _compressed_size(data)
    _check_size(height, width, max_pixels)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ConversionError("undecodable", f"compressed image: {error}") from None
    if bgr is None:
        raise ConversionError(
            "undecodable", f"compressed image of {len(data)} bytes ({msg.format!r}) is damaged"
        )
    if "compressed rgb" in msg.format:
        return bgr  # type: ignore[return-value]
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _pixels(msg: Any, encodings: dict[str, Encoding], max_pixels: int) -> Any:
    """(H, W) or (H, W, C) view of the pixels, native byte order, padding removed."""
    layout = encodings.get(msg.encoding)
    if layout is None:
        raise ConversionError(
            "encoding", f"encoding {msg.encoding!r} is not one of {', '.join(encodings)}"
        )
    height, width = int(msg.height), int(msg.width)
    _check_size(height, width, max_pixels)
    dtype = np.dtype(layout.dtype)
    row_bytes = width * layout.channels * dtype.itemsize
    step = int(msg.step) or row_bytes
    data = np.frombuffer(_bytes_of(msg.data), np.uint8)
    needed = step * (height - 1) + row_bytes
    if step < row_bytes or len(data) < needed:
        raise ConversionError(
            "undecodable",
            f"{width}x{height} {msg.encoding} with step {step} needs {max(needed, row_bytes)} "
            f"bytes and a step of {row_bytes}, the message has {len(data)} bytes",
        )
    rows = np.lib.stride_tricks.as_strided(data, (height, row_bytes), (step, 1), writeable=False)
    values = np.ascontiguousarray(rows).view(dtype)
    if dtype.itemsize > 1 and bool(msg.is_bigendian) != (sys.byteorder == "big"):
        values = values.byteswap()
    shape = (height, width) if layout.channels == 1 else (height, width, layout.channels)
    return values.reshape(shape)


def _bytes_of(data: Any) -> memoryview:
    """Bytes of array.array, bytes or numpy without a copy."""
    return memoryview(data).cast("B") if len(data) else memoryview(b"")


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height <= 0 or width <= 0:
        raise ConversionError("empty", f"image of {width}x{height} pixels holds nothing")
    if height * width > max_pixels:
        raise ConversionError(
            "too_large",
            f"image of {width}x{height} pixels is over the limit of {max_pixels} pixels; "
            "raise ros.max_megapixels if it is real",
        )


def _compressed_size(data: memoryview) -> tuple[int, int]:
    """Height and width from the header of a complete JPEG or PNG."""
    if not len(data):
        raise ConversionError("empty", "compressed image of 0 bytes holds nothing")
    head = bytes(data[:8])
    if not head.startswith((PNG_MAGIC, JPEG_MAGIC)):
        raise ConversionError(
            "undecodable", f"compressed image starts with {head[:4].hex()}, neither JPEG nor PNG"
        )
    is_jpeg = head.startswith(JPEG_MAGIC)
    if is_jpeg and not bytes(data[-4096:]).rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ConversionError("undecodable", f"JPEG of {len(data)} bytes is cut off")
    try:
        return image_size(data)
    except ImageSizeError as error:
        raise ConversionError("undecodable", f"compressed image {error}") from None
