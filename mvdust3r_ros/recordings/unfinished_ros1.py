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

"""Rebuild the index of a ROS 1 bag whose recorder was killed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from rosbags.rosbag1.reader import decompressors

from mvdust3r_ros.recordings.repaired_file import RepairedFile

MAGIC = b"#ROSBAG V2.0\n"
BAG_HEADER, INDEX, CHUNK, CHUNK_INFO, CONNECTION = 3, 4, 5, 6, 7
"""Values of `op` (wiki.ros.org/Bags/Format/2.0)."""


@dataclass
class _Record:
    """Start of a record, its fields, and the range of its data."""

    begin: int
    fields: dict[bytes, bytes]
    data_begin: int
    data_end: int

    @property
    def kind(self) -> int:
        return self.fields.get(b"op", b"\0")[0]


@dataclass
class _Chunk:
    """A chunk, its number of messages per connection, and their times."""

    record: _Record
    counts: dict[int, int] = field(default_factory=dict)
    times: list[tuple[int, int]] = field(default_factory=list)

    def info(self) -> bytes:
        """Return its record for the index of the file."""
        counts = [struct.pack("<II", *item) for item in self.counts.items()]
        fields = {
            b"op": bytes([CHUNK_INFO]),
            b"ver": struct.pack("<I", 1),
            b"chunk_pos": struct.pack("<Q", self.record.begin),
            b"start_time": struct.pack("<II", *min(self.times)),
            b"end_time": struct.pack("<II", *max(self.times)),
            b"count": struct.pack("<I", len(counts)),
        }
        words = [name + b"=" + value for name, value in fields.items()]
        header = b"".join(struct.pack("<I", len(w)) + w for w in words)
        data = b"".join(counts)
        return struct.pack("<I", len(header)) + header + struct.pack("<I", len(data)) + data


def repaired_ros1(file: Path) -> tuple[RepairedFile | None, int]:
    """Return a bag with its index rebuilt.

    Args:
        file: a file that begins like a ROS 1 bag.

    Returns:
        The repaired file, None if it has its index, is of another version or encrypted; and the
        number of bytes lost at its end.
    """
    size = file.stat().st_size
    with file.open("rb") as data:
        head = _record(data, len(MAGIC)) if data.read(len(MAGIC)) == MAGIC else None
        if head is None or head.kind != BAG_HEADER or head.fields.get(b"encryptor"):
            return None, 0
        if 0 < int.from_bytes(head.fields.get(b"index_pos", b""), "little") < size:
            return None, 0
        chunks, end = _chunks(data, head.data_end)
        known = _connections(data, chunks)
        data.seek(head.begin)
        words = data.read(head.data_begin - head.begin)
    index = {
        b"index_pos=": struct.pack("<Q", end),
        b"conn_count=": struct.pack("<I", len(known)),
        b"chunk_count=": struct.pack("<I", len(chunks)),
    }
    places = {head.begin + words.index(name) + len(name): v for name, v in index.items()}
    tail = b"".join(known.values()) + b"".join(chunk.info() for chunk in chunks)
    return RepairedFile(file, end, tail, places), size - end


def _chunks(data: BinaryIO, begin: int) -> tuple[list[_Chunk], int]:
    """Return finished chunks, which have indexes after them, and the end of the last one."""
    chunks: list[_Chunk] = []
    started: _Chunk | None = None
    end = begin
    while (record := _record(data, begin)) is not None and record.kind in (CHUNK, INDEX):
        begin = record.data_end
        if record.kind == CHUNK:
            started = _Chunk(record)
            continue
        if started is None:
            break
        _add_index(data, record, started)
        if started.counts and started not in chunks[-1:]:
            chunks.append(started)
        end = begin
    return chunks, end


def _add_index(data: BinaryIO, record: _Record, chunk: _Chunk) -> None:
    connection = int.from_bytes(record.fields[b"conn"], "little")
    data.seek(record.data_begin)
    entries = data.read(record.data_end - record.data_begin)
    times = [(sec, nsec) for sec, nsec, _ in struct.iter_unpack("<III", entries)]
    if times:
        chunk.counts[connection] = len(times)
        chunk.times += times


def _connections(data: BinaryIO, chunks: list[_Chunk]) -> dict[int, bytes]:
    """Return the records of connections, from the chunks where they first occur."""
    known: dict[int, bytes] = {}
    for chunk in chunks:
        if all(connection in known for connection in chunk.counts):
            continue
        data.seek(chunk.record.data_begin)
        packed = data.read(chunk.record.data_end - chunk.record.data_begin)
        content = decompressors[chunk.record.fields[b"compression"].decode()](packed)
        for record in _records(BytesIO(content)):
            if record.kind == CONNECTION:
                connection = int.from_bytes(record.fields[b"conn"], "little")
                known.setdefault(connection, content[record.begin : record.data_end])
    return known


def _records(data: BinaryIO) -> Iterator[_Record]:
    record = _record(data, 0)
    while record is not None:
        yield record
        record = _record(data, record.data_end)


def _record(data: BinaryIO, begin: int) -> _Record | None:
    """Return the record at an offset; None if it is incomplete."""
    data.seek(begin)
    header = _sized(data)
    length = data.read(4)
    if header is None or len(length) < 4:
        return None
    data_begin = data.tell()
    data_end = data_begin + int.from_bytes(length, "little")
    fields, content = {}, BytesIO(header)
    while (word := _sized(content)) is not None:
        name, _, value = word.partition(b"=")
        fields[name] = value
    if data.seek(0, 2) < data_end:
        return None
    return _Record(begin, fields, data_begin, data_end)


def _sized(data: BinaryIO) -> bytes | None:
    """Read bytes with their length in front; None if incomplete."""
    head = data.read(4)
    length = int.from_bytes(head, "little")
    content = data.read(length) if len(head) == 4 else b""
    return content if len(head) == 4 and len(content) == length else None
