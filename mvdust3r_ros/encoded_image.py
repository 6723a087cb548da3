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

"""Validation of encoded camera images: repaired if no pixel is missing, otherwise refused."""

from __future__ import annotations

import os
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np

from mvdust3r_ros.datatypes import ImageArray, MvDust3rError
from mvdust3r_ros.image_size import (
    JPEG_MAGIC,
    PNG_MAGIC,
    PNM,
    Data,
    ImageSizeError,
    image_size,
)

JPEG_END = b"\xff\xd9"
PADDING = b"\0\xff\r\n "
"""Bytes that drivers and protocols leave after the end marker of a JPEG."""
MAX_PREFIX_BYTES = 4096
"""Longest driver header before the start of a JPEG. Without a limit, pixels that happen to look
like a start marker could match anywhere."""
MAX_EXIF_BYTES = 1 << 17
"""Two segments of a JPEG of at most 65 535 bytes each (ITU-T T.81, B.1.1.4): EXIF is in the first
or, after JFIF, in the second."""
END_OF_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""A marker in coded data that is neither a stuffed byte nor a restart (ITU-T T.81, B.1.1.2)."""
PNM_TOP = re.compile(rb"(?:\s+|#[^\n]*\n)+(\d{1,9})\s")
"""The maximum value, after the size."""
MORE_DATA = (
    bytes.fromhex("d5b39a6c27f1584ee38b1d7ac4529f36") * 4,
    bytes.fromhex("2f76c91be05d83a4713c6ed8159a4bf0") * 4,
)
NO_PIXELS = 128
"""Zero level of the samples (ITU-T T.81, A.3.1), that of a block without coefficients."""
CUT_OFF = "is cut off"
STDERR = threading.Lock()
JPEG_WARNINGS = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Unsupported marker type")


class EncodedImageError(MvDust3rError):
    """An encoded image cannot be used.

    Attributes:
        reason: "empty", "undecodable" or "too_large".
    """

    def __init__(self, reason: str, message: str) -> None:
        """Store the reason with the message."""
        super().__init__(message)
        self.reason = reason


def decode_image(data: Data, flags: int, max_pixels: int) -> ImageArray:
    """Decode a PNG, JPEG, PNM or BMP with OpenCV.

    A JPEG may have bytes before its start and after its end, and may lack its end marker if no
    pixel is missing. Orientation tags are ignored, since intrinsics and depth refer to the stored
    pixels.

    Args:
        data: the encoded image.
        flags: of cv2.imdecode.
        max_pixels: larger images are refused before memory is allocated.

    Returns:
        (H, W, 3) BGR, or as requested by `flags`.

    Raises:
        EncodedImageError: another format, truncated, damaged, or too large; the message continues
            after the name of the image.
    """
    if not len(data):
        raise EncodedImageError("empty", "is empty: 0 bytes")
    data = _from_start(data)
    height, width = size_within(data, max_pixels)
    if bytes(data[:2]) == JPEG_MAGIC:
        data = _whole_jpeg(data)
    elif _is_truncated(data, height, width):
        raise EncodedImageError("undecodable", CUT_OFF)
    elif bytes(data[: len(PNG_MAGIC)]) == PNG_MAGIC and not _is_sound_png(data):
        raise EncodedImageError("undecodable", "is damaged")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise EncodedImageError("undecodable", f"cannot be decoded: {error.err}") from None
    if image is None:
        raise EncodedImageError("undecodable", "is damaged")
    if bytes(data[:2]) == JPEG_MAGIC and _ends_in_nothing(image):
        _whole_jpeg(data, by_its_end=False)
    return image  # type: ignore[return-value]


def _ends_in_nothing(image: Any) -> bool:
    """Whether an image ends in the uniform grey that a decoder fills in for missing pixels."""
    return bool(np.all(image[-2:, -2:] == NO_PIXELS))


def size_within(data: Data, max_pixels: int) -> tuple[int, int]:
    """Return height and width of an encoded image.

    Raises:
        EncodedImageError: it has no size, or too many pixels.
    """
    try:
        height, width = image_size(data)
    except ImageSizeError as error:
        raise EncodedImageError("undecodable", str(error)) from None
    if height <= 0 or width <= 0:
        raise EncodedImageError("empty", f"of {width}x{height} pixels holds nothing")
    if height * width > max_pixels:
        raise EncodedImageError(
            "too_large", f"of {width}x{height} pixels is over the limit of {max_pixels} pixels"
        )
    return height, width


def _from_start(data: Data) -> Data:
    """Strip bytes before the start marker of a JPEG."""
    head = bytes(data[: MAX_PREFIX_BYTES + 4])
    if head.startswith(JPEG_MAGIC + b"\xff") and head[3:4] != b"\xd8":
        return data
    if head.startswith(JPEG_MAGIC) and head[2:4] == JPEG_MAGIC:  # the start marker twice
        return _from_start(data[2:])
    try:
        image_size(data)
    except ImageSizeError:
        start = head.find(JPEG_MAGIC + b"\xff", 1)
        return data if start < 0 else data[start:]
    return data


def _whole_jpeg(data: Data, *, by_its_end: bool = True) -> Data:
    """Return the JPEG with its end marker.

    Args:
        data: from the start marker on.
        by_its_end: accept a final end marker as proof. Some cameras also write one after
            truncated images.

    Raises:
        EncodedImageError: pixels are missing.
    """
    if by_its_end and bytes(data[-4096:]).rstrip(PADDING).endswith(JPEG_END):
        return data
    end, progressive = _end_of_jpeg(data)
    if by_its_end and bytes(data[end : end + 2]) == JPEG_END:
        return data[: end + 2]
    coded = _without_padding(bytes(data[:end]))
    if progressive and not by_its_end:
        return data
    if progressive or not _has_all_pixels(coded):
        raise EncodedImageError("undecodable", f"{CUT_OFF} (JPEG)")
    return coded + JPEG_END


def _end_of_jpeg(data: Data) -> tuple[int, bool]:
    """Return the actual or expected end of the first image, and whether it is progressive."""
    at, progressive = 2, False
    while at + 2 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0xD8, 0xD9):  # start and end of an image (ITU-T T.81, table B.1)
            return at, progressive
        progressive |= marker in (0xC2, 0xCA)  # SOF2, SOF10
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:  # start of scan: coded data follow
            found = END_OF_SCAN.search(data, at)
            if found is None:
                break
            at = found.end() - 2
    return len(data), progressive


def _without_padding(coded: bytes) -> bytes:
    """Strip buffer padding from the end of coded data."""
    bare = coded.rstrip(b"\0")
    if len(coded) - len(bare) < 4:  # a few zeros may be data
        bare = coded
    elif bare.endswith(b"\xff"):
        bare += b"\0"  # FF 00 is data
    return bare[: len(bare.rstrip(b"\xff"))] if bare.endswith(b"\xff") else bare


def _has_all_pixels(coded: bytes) -> bool:
    """Whether the image stays the same when arbitrary data are appended.

    A decoder that has all pixels skips other bytes until the next marker; one that lacks pixels
    decodes these bytes.
    """
    seen: list[Any] = []
    flags = cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION
    with without_jpeg_warnings():
        for more in (b"", *MORE_DATA):
            seen.append(cv2.imdecode(np.frombuffer(coded + more + JPEG_END, np.uint8), flags))
    if any(image is None for image in seen):
        return False
    return all(np.array_equal(a, b) for a, b in pairwise(seen))


@contextmanager
def without_jpeg_warnings() -> Iterator[None]:
    """Filter libjpeg's warnings from stderr; all other output is passed on."""
    with STDERR:
        try:
            kept, aside = os.dup(2), os.memfd_create("stderr")
        except OSError:  # there is no stderr
            yield
            return
        os.dup2(aside, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            with os.fdopen(aside, "rb") as written:
                written.seek(0)
                others = [line for line in written if not line.startswith(JPEG_WARNINGS)]
            if others:
                os.write(2, b"".join(others))


def _is_sound_png(data: Data) -> bool:
    """Whether the checksums of the image's critical chunks are correct."""
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        kind = bytes(data[at + 4 : at + 8])
        if kind[:1].isupper() and zlib.crc32(data[at + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            return False
        if kind == b"IEND":
            break
        at = end + 4
    return True


def _is_truncated(data: Data, height: int, width: int) -> bool:
    """Whether a PNG lacks its last chunk, or a PNM or BMP has too few bytes."""
    head = bytes(data[:4096])
    if head.startswith(PNG_MAGIC):
        at = len(PNG_MAGIC)
        while at + 12 <= len(data):
            if bytes(data[at + 4 : at + 8]) == b"IEND":
                return False
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        return True
    if found := PNM.match(head):
        kind = int(found[1])
        bits = {4: 1, 5: 8, 6: 24}.get(kind, 0)  # ASCII formats have no fixed length
        top = PNM_TOP.match(head, found.end() - 1)
        if top is not None and int(top[1]) > 255 and kind in (5, 6):  # two bytes a value
            bits *= 2
        return len(data) - found.end() < height * ((width * bits + 7) // 8)
    if head.startswith(b"BM"):
        start, bits = int.from_bytes(head[10:14], "little"), int.from_bytes(head[28:30], "little")
        is_plain = head[30:34] in (b"\0\0\0\0", b"\x03\0\0\0")
        return is_plain and len(data) < start + height * ((width * bits + 31) // 32 * 4)
    return False


def orientation_tag(data: Data) -> int:
    """Return the EXIF orientation for display, 1 to 8; 1 for as stored."""
    head = bytes(data[:MAX_EXIF_BYTES])
    marks = (head.find(b"Exif\0\0"), head.find(b"eXIf"))
    begin = min((at + size for at, size in zip(marks, (6, 4), strict=True) if at >= 0), default=-1)
    tiff = head[begin:] if begin >= 0 else b""
    order: Literal["little", "big"] = "little" if tiff.startswith(b"II") else "big"
    at = int.from_bytes(tiff[4:8], order)
    for k in range(int.from_bytes(tiff[at : at + 2], order)):
        entry = tiff[at + 2 + 12 * k : at + 14 + 12 * k]  # 12 bytes each (TIFF 6.0, section 2)
        if len(entry) < 12:
            break
        if int.from_bytes(entry[:2], order) == 0x0112:  # Orientation
            value = int.from_bytes(entry[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1
