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

"""Convert image messages to RGB arrays and depth maps, for every encoding of camera drivers.

Works on the messages of rclpy and rosbags alike; needs no ROS installation.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mvdust3r_ros.datatypes import FloatArray, ImageArray, MvDust3rError
from mvdust3r_ros.encoded_image import EncodedImageError, decode_image
from mvdust3r_ros.image_size import PNG_MAGIC
from mvdust3r_ros.tones import Tones

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DEFAULT_MAX_PIXELS = 50_000_000
"""Bounds memory against hostile headers: a frame of 8K video has 33 megapixels."""


class ConversionError(MvDust3rError):
    """A message cannot be used.

    Attributes:
        reason: short name for counting, for example "encoding".
    """

    def __init__(self, reason: str, message: str) -> None:
        """Store the reason next to the message."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Encoding:
    """Memory layout of an encoding and the OpenCV code that converts it to RGB.

    Attributes:
        channels: values per pixel.
        dtype: numpy type of a value, native byte order.
        code: OpenCV conversion; None if it is RGB already.
    """

    channels: int
    dtype: str
    code: int | None


COLORS = {
    "rgb8": Encoding(3, "u1", None),
    "8UC3": Encoding(3, "u1", cv2.COLOR_BGR2RGB),
    "bgr8": Encoding(3, "u1", cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(4, "u1", cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(4, "u1", cv2.COLOR_BGRA2RGB),
    "8UC4": Encoding(4, "u1", cv2.COLOR_BGRA2RGB),
    "rgb16": Encoding(3, "u2", None),
    "16UC3": Encoding(3, "u2", cv2.COLOR_BGR2RGB),
    "bgr16": Encoding(3, "u2", cv2.COLOR_BGR2RGB),
    "rgba16": Encoding(4, "u2", cv2.COLOR_RGBA2RGB),
    "bgra16": Encoding(4, "u2", cv2.COLOR_BGRA2RGB),
    "16UC4": Encoding(4, "u2", cv2.COLOR_BGRA2RGB),
    "yuv422": Encoding(2, "u1", cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": Encoding(2, "u1", cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": Encoding(2, "u1", cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": Encoding(2, "u1", cv2.COLOR_YUV2RGB_YUYV),
    "yuy2": Encoding(2, "u1", cv2.COLOR_YUV2RGB_YUYV),
    "yvyu": Encoding(2, "u1", cv2.COLOR_YUV2RGB_YVYU),
}
GREYS = {
    "mono8": Encoding(1, "u1", cv2.COLOR_GRAY2RGB),
    "8UC1": Encoding(1, "u1", cv2.COLOR_GRAY2RGB),
    "16UC1": Encoding(1, "u2", cv2.COLOR_GRAY2RGB),
    "32FC1": Encoding(1, "f4", cv2.COLOR_GRAY2RGB),
    **{f"mono{n}": Encoding(1, "u2", cv2.COLOR_GRAY2RGB) for n in (10, 12, 14, 16)},
}
BAYER = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}
MOSAICS = {
    f"bayer_{pattern}{bits}": Encoding(1, "u1" if bits == 8 else "u2", code)
    for pattern, code in BAYER.items()
    for bits in (8, 10, 12, 14, 16)
}
ENCODINGS = {**COLORS, **GREYS, **MOSAICS}
"""Packed encodings: one array of rows. Values of 10, 12 and 14 bits occupy two bytes each."""
PLANAR = {
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
    "i420": cv2.COLOR_YUV2RGB_I420,
    "yuv420p": cv2.COLOR_YUV2RGB_I420,
    "yv12": cv2.COLOR_YUV2RGB_YV12,
    "nv24": cv2.COLOR_YUV2RGB_UYVY,
}
"""Encodings with separate planes of brightness and colour."""
BY_SMALL_LETTERS = {name.lower(): name for name in (*ENCODINGS, *PLANAR)}
DEPTH_LIKE = ("16UC1", "32FC1")
INVALID_SHARE = 0.01
"""With a larger share of pixels without a value, 16UC1 and 32FC1 are depth, not pictures: a
thermal or grey sensor has a value for all but a few defective ones."""
MAX_MIDDLE_M = 300.0
"""A larger median depth is in another unit: 300 mm read as metres is nearer than depth cameras
see."""
DEPTH_ENCODINGS = {
    "16UC1": Encoding(1, "u2", None),
    "mono16": Encoding(1, "u2", None),
    "32FC1": Encoding(1, "f4", None),
}


def image_to_rgb(
    msg: Any, max_pixels: int = DEFAULT_MAX_PIXELS, tones: Tones | None = None
) -> ImageArray:
    """Convert a sensor_msgs/Image to (H, W, 3) uint8 RGB.

    Args:
        msg: message; `step`, `is_bigendian` and padding bytes are honoured.
        max_pixels: larger images are rejected before memory is allocated.
        tones: tone mapping of values with more than 8 bits, shared by all images of a camera; None
            to use this image alone.

    Raises:
        ConversionError: unknown encoding, no pixels, too many, too few bytes, or depth.
    """
    name = _known(msg.encoding)
    if name in PLANAR:
        return _planes_to_rgb(msg, name, max_pixels)
    values = _pixels(msg, name, ENCODINGS, max_pixels)
    layout = ENCODINGS[name]
    if values.dtype != np.uint8:
        if name in DEPTH_LIKE:
            _check_is_picture(values, name)
        values = np.asarray((tones or Tones()).to_8_bits(values, is_grey=name in GREYS))
    if layout.channels == 2 and msg.width % 2:
        raise ConversionError("size", f"{name} needs an even width, got {msg.width}")
    if layout.code is None:
        return np.ascontiguousarray(values)
    return _converted(values, layout.code, name)


def _known(encoding: str) -> str:
    """Return the name of an encoding, in any case of letters."""
    if (name := BY_SMALL_LETTERS.get(encoding.strip().lower())) is not None:
        return name
    hint = ""
    if any(word in encoding.lower() for word in ("jpeg", "jpg", "png", "mjpg")):
        hint = "; encoded images belong into sensor_msgs/CompressedImage"
    raise ConversionError(
        "encoding",
        f"encoding {encoding!r} is not one of {', '.join([*COLORS, *GREYS, *PLANAR])}, "
        f"bayer_rggb8 to 16 and its like{hint}",
    )


def _converted(values: Any, code: int, name: str) -> ImageArray:
    try:
        rgb: ImageArray = cv2.cvtColor(np.ascontiguousarray(values), code)  # type: ignore[assignment]
    except cv2.error:
        height, width = values.shape[:2]
        raise ConversionError("size", f"{name} cannot be of {width}x{height} pixels") from None
    return rgb


def _check_is_picture(values: Any, name: str) -> None:
    """Raise ConversionError for depth: pictures have no pixels without a value.

    Such pixels are not finite, zero, or all of one negative number; temperatures below zero vary.
    """
    finite = np.isfinite(values)
    below = values[finite & (values < 0)]
    unknown = ~finite | (values == 0)
    if len(below) and below.min() == below.max():
        unknown |= values < 0
    if not finite.all() or np.mean(unknown) > INVALID_SHARE:
        raise ConversionError(
            "encoding",
            f"{name} with pixels of no value is depth, no picture: name the topic of the picture, "
            "or publish greys as mono16",
        )


def _planes_to_rgb(msg: Any, name: str, max_pixels: int) -> ImageArray:
    """Convert planes of brightness and colour to RGB; colour has the same step or half of it."""
    height, width = int(msg.height), int(msg.width)
    _check_size(height, width, max_pixels)
    if width % 2 or height % 2:
        raise ConversionError("size", f"{name} needs even sides, got {width}x{height}")
    step = int(msg.step) or width
    if step < width:
        raise ConversionError("undecodable", f"{name} of width {width} has a step of {step}")
    light = _rows(msg, 0, height, width, step)
    begin = step * height
    if name == "nv24":
        both = _rows(msg, begin, height, 2 * width, 2 * step).reshape(height, width // 2, 4)
        pairs: ImageArray = both[..., :2].reshape(
            height, width
        )  # of every second pixel, enough for viewing
        return _converted(np.dstack([pairs, light]), PLANAR[name], name)
    if name in ("nv12", "nv21"):
        colour = _rows(msg, begin, height // 2, width, step)
    else:
        colour = _rows(msg, begin, height, width // 2, step // 2).reshape(height // 2, width)
    return _converted(np.vstack([light, colour]), PLANAR[name], name)


def depth_to_m(msg: Any, max_pixels: int = DEFAULT_MAX_PIXELS) -> FloatArray:
    """Convert a depth image to (H, W) float32 metres, 0 where there is none (REP-118).

    Args:
        msg: sensor_msgs/Image, 16UC1 in millimetres or 32FC1 in metres.
        max_pixels: larger images are rejected before memory is allocated.

    Raises:
        ConversionError: as `image_to_rgb`.
    """
    name = BY_SMALL_LETTERS.get(msg.encoding.strip().lower(), "")
    if name not in DEPTH_ENCODINGS:
        raise ConversionError(
            "encoding",
            f"depth encoding {msg.encoding!r} is not one of {', '.join(DEPTH_ENCODINGS)}",
        )
    values = _pixels(msg, name, DEPTH_ENCODINGS, max_pixels)
    depth: FloatArray = values.astype(np.float32)
    if values.dtype == np.uint16:
        depth *= np.float32(0.001)
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
    some = depth[::8, ::8]
    middle_m = float(np.median(some[some > 0])) if some.any() else 0.0
    if middle_m > MAX_MIDDLE_M:
        raise ConversionError(
            "depth",
            f"depth of {middle_m:.0f} m in the middle: {name} has to be in "
            f"{'millimetres' if name != '32FC1' else 'metres'} (REP-118)",
        )
    return depth


def compressed_to_rgb(
    msg: Any, max_pixels: int = DEFAULT_MAX_PIXELS, tones: Tones | None = None
) -> ImageArray:
    """Convert a sensor_msgs/CompressedImage, JPEG or PNG, to (H, W, 3) uint8 RGB.

    The content decides, not the name in `format`; orientation tags are ignored, as camera_info
    does not account for them.

    Args:
        msg: message. A format such as "rgb8; jpeg compressed rgb8" means that red and blue were
            swapped when it was written; "compressed bgr8" and plain "jpeg" are normal. With
            "bayer_rggb8; jpeg compressed" the mosaic itself was compressed.
        max_pixels: larger images are rejected before memory is allocated.
        tones: as in `image_to_rgb`, for 16-bit PNGs.

    Raises:
        ConversionError: neither JPEG nor PNG, truncated, damaged, too large, or depth.
    """
    kind = msg.format.lower()
    if "compresseddepth" in kind:
        raise ConversionError(
            "encoding",
            f"format {msg.format!r} is depth, no picture: name the topic of the picture",
        )
    image: ImageArray = _decoded(_bytes_of(msg.data), max_pixels)
    if image.dtype == np.uint16:
        if kind.startswith("16uc1"):
            _check_is_picture(image[..., 0], "16UC1")
        image = (tones or Tones()).to_8_bits(image, is_grey=_is_grey(image))
    mosaic = BAYER.get(kind[6:10]) if kind.startswith("bayer_") else None
    if mosaic is not None and _is_grey(image):
        return _converted(image[..., 0], mosaic, kind)
    if "compressed rgb" in kind:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _decoded(data: memoryview, max_pixels: int) -> Any:
    """Decode a JPEG or PNG to (H, W, 3) BGR, uint8 or uint16."""
    flags = cv2.IMREAD_COLOR
    # Bits per sample (PNG, 11.2.2).
    if bytes(data[:8]) == PNG_MAGIC and len(data) > 24 and data[24] == 16:
        flags |= cv2.IMREAD_ANYDEPTH
    if bytes(data[:1]) in (b"P", b"B"):
        raise ConversionError("undecodable", "compressed image is neither JPEG nor PNG")
    try:
        return decode_image(data, flags, max_pixels)
    except EncodedImageError as error:
        remedy = "; raise ros.max_megapixels if it is real" if error.reason == "too_large" else ""
        raise ConversionError(error.reason, f"compressed image {error}{remedy}") from None


def _is_grey(image: Any) -> bool:
    return np.array_equal(image[..., 0], image[..., 1])


def _pixels(msg: Any, name: str, encodings: dict[str, Encoding], max_pixels: int) -> Any:
    """Return an (H, W) or (H, W, C) view of the pixels, native byte order, without padding."""
    layout = encodings[name]
    height, width = int(msg.height), int(msg.width)
    _check_size(height, width, max_pixels)
    dtype = np.dtype(layout.dtype)
    row_bytes = width * layout.channels * dtype.itemsize
    if len(msg.data) >= 2 * height * max(row_bytes, int(msg.step)) > 0:
        raise ConversionError(
            "undecodable",
            f"{width}x{height} {msg.encoding} has {row_bytes * height} bytes, the message holds "
            f"{len(msg.data)}: its encoding or its size is wrong",
        )
    values = _rows(msg, 0, height, row_bytes, int(msg.step) or row_bytes).view(dtype)
    if dtype.itemsize > 1 and bool(msg.is_bigendian) != (sys.byteorder == "big"):
        values = values.byteswap()
    shape = (height, width) if layout.channels == 1 else (height, width, layout.channels)
    return values.reshape(shape)


def _rows(msg: Any, begin: int, rows: int, row_bytes: int, step: int) -> ImageArray:
    """Return (rows, row_bytes) uint8 from an offset in a message's data, without padding.

    Raises:
        ConversionError: the message has too few bytes.
    """
    data = np.frombuffer(_bytes_of(msg.data), np.uint8)
    needed = begin + step * (rows - 1) + row_bytes
    if step < row_bytes:
        raise ConversionError(
            "undecodable",
            f"{msg.width}x{msg.height} {msg.encoding} needs a step of {row_bytes} bytes or more, "
            f"the message has step {step}",
        )
    if len(data) < needed:
        raise ConversionError(
            "undecodable",
            f"{msg.width}x{msg.height} {msg.encoding} with step {step} needs {needed} bytes, the "
            f"message has {len(data)} bytes",
        )
    strided = np.lib.stride_tricks.as_strided
    view = strided(data[begin:], (rows, row_bytes), (step, 1), writeable=False)
    return np.ascontiguousarray(view)


def _bytes_of(data: Any) -> memoryview:
    """Return bytes of array.array, bytes or numpy without a copy."""
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
