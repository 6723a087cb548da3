"""Size of an encoded image from its header, before any of it is decoded."""

from __future__ import annotations

import re
import struct

from mvdust3r_ros.datatypes import MvDust3rError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8"
HEAD_BYTES = 4096
PNM = re.compile(rb"P([1-6])(?:\s+|#[^\n]*\n)+(\d{1,9})(?:\s+|#[^\n]*\n)+(\d{1,9})\s")
Data = bytes | memoryview


class ImageSizeError(MvDust3rError):
    """An encoded image of unknown kind, or one that is damaged."""


def image_size(data: Data) -> tuple[int, int]:
    """Height and width of a PNG, JPEG, PNM or BMP.

    Raises:
        ImageSizeError: of another kind, or without a complete header.
    """
    head = bytes(data[:HEAD_BYTES])
    if head.startswith(PNG_MAGIC) and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
        return height, width
    if head.startswith(JPEG_MAGIC):
        return _jpeg_size(data)
    if found := PNM.match(head):
        return int(found[3]), int(found[2])
    if head.startswith(b"BM") and len(head) >= 26:
        width, height = struct.unpack("<ii", head[18:26])
        return abs(height), width
    raise ImageSizeError(f"starts with {head[:4].hex()}, neither PNG, JPEG, PNM nor BMP")


def _jpeg_size(data: Data) -> tuple[int, int]:
    """Height and width from the frame header (ITU-T T.81, B.2.2)."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", bytes(data[at + 5 : at + 9]))
            return height, width
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ImageSizeError(f"JPEG of {len(data)} bytes has no frame header")
