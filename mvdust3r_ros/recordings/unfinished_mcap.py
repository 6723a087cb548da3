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

"""Make MCAP files without an end, an index or a profile readable by rosbags."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from mvdust3r_ros.recordings.repaired_file import RepairedFile

MAGIC = b"\x89MCAP0\r\n"
FOOTER = struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + MAGIC
"""Declares that there is no index, so that readers scan the records."""
HEADER, FOOTER_OPCODE, CHANNEL, CHUNK_INDEX, SUMMARY_OFFSET, DATA_END = 1, 2, 4, 8, 14, 15
"""Opcodes of records (mcap.dev/spec, Records)."""
HEAD = struct.Struct("<BQ")
PROFILE = b"ros2"
MAX_NAME_BYTES = 1000
"""A bound against garbage: the writing library records its name and version."""


def repaired_mcap(file: Path) -> tuple[RepairedFile | None, int]:
    """Return a file in a form that rosbags can read.

    Args:
        file: a file with the magic bytes of MCAP.

    Returns:
        The repaired file, None if it needs no repair; and the number of bytes lost at its end.
    """
    size = file.stat().st_size
    with file.open("rb") as data:
        patches = _profile(data)
        data.seek(max(size - len(MAGIC), 0))
        is_closed = data.read() == MAGIC and size > 2 * len(MAGIC)
        if is_closed and _is_indexed(data, size):
            return (RepairedFile(file, size, patches=patches) if patches else None), 0
        end = _whole(data, size)
    return RepairedFile(file, end, FOOTER, patches), 0 if is_closed else size - end


def _whole(data: BinaryIO, size: int) -> int:
    """Return the end of the last complete record."""
    end = data.seek(len(MAGIC))
    while len(head := data.read(HEAD.size)) == HEAD.size:
        opcode, length = HEAD.unpack(head)
        after = end + HEAD.size + length
        if not 0 < opcode <= DATA_END or opcode in (FOOTER_OPCODE, DATA_END) or after > size:
            break
        end = data.seek(after)
    return end


def _is_indexed(data: BinaryIO, size: int) -> bool:
    """Whether the summary, if any, lists channels and the messages of each chunk."""
    data.seek(size - len(FOOTER) + HEAD.size)
    (at,) = struct.unpack("<Q", data.read(8))
    if at == 0:
        return True
    data.seek(at)
    has_channels = False
    while len(head := data.read(HEAD.size)) == HEAD.size:
        opcode, length = HEAD.unpack(head)
        if opcode in (FOOTER_OPCODE, SUMMARY_OFFSET):
            break
        # after four uint64, the length of the map of offsets: 0 if messages have no index
        if opcode == CHUNK_INDEX and not any(data.read(36)[32:]):
            return False
        has_channels |= opcode == CHANNEL
        at = data.seek(at + HEAD.size + length)
    return has_channels


def _profile(data: BinaryIO) -> dict[int, bytes]:
    """Return a patch that adds the ROS 2 profile to a header without one, of equal length."""
    data.seek(len(MAGIC))
    opcode, _ = HEAD.unpack(data.read(HEAD.size).ljust(HEAD.size, b"\0"))
    place = data.tell()
    lengths = data.read(8).ljust(8, b"\xff")
    profile, library = struct.unpack("<II", lengths)
    if opcode != HEADER or profile != 0 or not len(PROFILE) <= library < MAX_NAME_BYTES:
        return {}
    words = struct.pack("<I", len(PROFILE)) + PROFILE
    return {place: words + struct.pack("<I", library - len(PROFILE))}
