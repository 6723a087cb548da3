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

"""Format and size of an encoded image, from its header without decoding."""

from __future__ import annotations

import re
import struct

from mvdust3r_ros.datatypes import MvDust3rError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8"
HEAD_BYTES = 4096
"""The size is in the first 24 bytes of a PNG and 26 of a BMP; comments of a PNM are longer. A JPEG
is searched completely."""
PNM = re.compile(rb"P([1-6])(?:\s+|#[^\n]*\n)+(\d{1,9})(?:\s+|#[^\n]*\n)+(\d{1,9})\s")
OTHER_KINDS = (
    (rb"RIFF....WEBP", "WebP"),
    (rb"GIF8", "GIF"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"....ftyp(?:heic|heix|mif1|hevc)", "HEIC"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\0\0\0\x01|\0\0\x01[\x67\x68\x65\x61\x40\x42\x44]", "H.264 or H.265 video"),
    (rb"version https://git-lfs", "a pointer of Git LFS"),
    (rb"\s*<", "HTML or XML"),
)
"""Unsupported formats, recognised to tell the user what to convert."""
JPEG_LOSSY = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
"""Frame headers SOF0 to SOF2, SOF9 and SOF10: baseline, extended and progressive, with Huffman or
arithmetic coding (ITU-T T.81, table B.1)."""
Data = bytes | memoryview


class ImageSizeError(MvDust3rError):
    """An encoded image has an unknown format or is damaged."""


def image_size(data: Data) -> tuple[int, int]:
    """Return height and width of a PNG, JPEG, PNM or BMP.

    Raises:
        ImageSizeError: another format, or an incomplete header.
    """
    head = bytes(data[:HEAD_BYTES])
    if head.startswith(PNG_MAGIC) and len(head) >= 24:  # IHDR comes first (PNG, 5.6)
        width, height = struct.unpack(">II", head[16:24])
        return height, width
    if head.startswith(JPEG_MAGIC):
        return _jpeg_size(data)
    if found := PNM.match(head):
        return int(found[3]), int(found[2])
    if head.startswith(b"BM") and len(head) >= 26:
        width, height = struct.unpack("<ii", head[18:26])
        return abs(height), width
    raise ImageSizeError(_unknown(head))


def _unknown(head: bytes) -> str:
    if not head:
        return "is empty"
    for pattern, kind in OTHER_KINDS:
        if re.match(pattern, head, re.DOTALL):
            if "LFS" in kind:
                return f"is {kind}: fetch the file by `git lfs pull`"
            return f"is {kind}: convert it to JPEG or PNG"
    return f"starts with {head[:4].hex()}, neither JPEG, PNG, BMP nor PNM"


def _jpeg_size(data: Data) -> tuple[int, int]:
    """Return height and width from the frame header (ITU-T T.81, B.2.2)."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        # SOF0 to SOF15; DHT, JPG and DAC lie between them (ITU-T T.81, table B.1)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits = data[at + 4]
            if bits != 8 or marker not in JPEG_LOSSY:
                raise ImageSizeError(
                    f"is a lossless or {bits}-bit JPEG; only lossy 8 bits are read"
                )
            height, width = struct.unpack(">HH", bytes(data[at + 5 : at + 9]))
            return height, width
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ImageSizeError("is a JPEG without a frame header")
