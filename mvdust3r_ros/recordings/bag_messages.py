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

"""Read messages of an open bag, with a clear error for each kind of damage."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rosbags.interfaces import Connection

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.messages.images import ConversionError

if TYPE_CHECKING:
    from mvdust3r_ros.recordings.bag_files import BagReader

STAMP_BEGIN, STAMP_END = 4, 12
"""Stamp in std_msgs/Header, int32 sec and uint32 nanosec, after the 4 bytes of the CDR
encapsulation header (DDSI-RTPS, 10)."""
RECOVER = "`mcap recover` or sqlite3's `.recover` may save the rest"


class BagError(MvDust3rError):
    """A bag cannot be read, or lacks requested data."""


def raw_messages(
    reader: BagReader, connections: Sequence[Connection]
) -> Iterator[tuple[Connection, int, bytes]]:
    """Yield connection, log time and bytes of some connections' messages; none if empty.

    Raises:
        BagError: the bag is damaged; messages before the damage are yielded.
    """
    if not connections:
        return
    source = reader.messages(connections=connections)
    count, expected = 0, sum(c.msgcount for c in connections)
    while True:
        try:
            item = next(source, None)
        except Exception as error:  # noqa: BLE001 - rosbags may raise anything
            raise BagError(
                f"bag {reader.path} is damaged after {count} messages ({error}); {RECOVER}"
            ) from None
        if item is None and count < expected:
            raise BagError(
                f"bag {reader.path} is damaged: only {count} of its {expected} messages of "
                f"{', '.join(sorted({c.topic for c in connections}))} can be read; {RECOVER}"
            )
        if item is None:
            return
        count += 1
        yield item


def decoded(reader: BagReader, connection: Connection, log_ns: int, raw: bytes) -> Any:
    """Decode a message.

    Raises:
        ConversionError: its bytes are not a valid message.
    """
    try:
        return reader.deserialize(raw, connection.msgtype)
    except Exception as error:  # noqa: BLE001 - as above
        raise ConversionError(
            "corrupt",
            f"{connection.topic}: message at {log_ns / 1e9:.3f} s is corrupt ({error})",
        ) from None


def header_stamp_ns(raw: bytes) -> int:
    """Return the stamp of a message with a header, without decoding the rest (CDR).

    Returns 0 for bytes that are not a message.
    """
    if len(raw) < STAMP_END:
        return 0
    little = raw[1] & 1
    sec, nanosec = struct.unpack("<iI" if little else ">iI", raw[STAMP_BEGIN:STAMP_END])
    return int(sec) * 10**9 + int(nanosec)
