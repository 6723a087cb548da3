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

"""An MCAP file whose recorder was killed, read as far as it is whole, without a copy."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

MAGIC = b"\x89MCAP0\r\n"
FOOTER = struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + MAGIC
"""Says that there is no index, so that readers go through the records."""
DATA_END, LAST_OPCODE = 0x0F, 0x0F
HEAD = struct.Struct("<BQ")


def unfinished(file: Path) -> int | None:
    """Length of the part that is whole; None for a file that was closed, or is no MCAP."""
    size = file.stat().st_size
    with file.open("rb") as data:
        if data.read(len(MAGIC)) != MAGIC:
            return None
        data.seek(max(size - len(MAGIC), 0))
        if data.read() == MAGIC and size > 2 * len(MAGIC):
            return None
        end = data.seek(len(MAGIC))
        while len(head := data.read(HEAD.size)) == HEAD.size:
            opcode, length = HEAD.unpack(head)
            after = end + HEAD.size + length
            if not 0 < opcode <= LAST_OPCODE or opcode in (0x02, DATA_END) or after > size:
                break
            end = data.seek(after)
    return end


class UnfinishedMcap:
    """Stands for the path of a file and gives its whole part with an end after it."""

    def __init__(self, file: Path, end: int) -> None:
        """The first `end` bytes of a file."""
        self._file, self._end = file, end
        self.suffix = file.suffix

    def __str__(self) -> str:
        """The path of the file."""
        return str(self._file)

    def exists(self) -> bool:
        """Whether the file is there."""
        return self._file.exists()

    def is_dir(self) -> bool:
        """Never."""
        return False

    def open(self, mode: str = "rb") -> Any:
        """The whole part with an end after it, to be read."""
        assert mode == "rb"
        return io.BufferedReader(_Mended(self._file, self._end))


class _Mended(io.RawIOBase):
    """Bytes of a file up to a place, then the footer."""

    def __init__(self, file: Path, end: int) -> None:
        self._data = file.open("rb")
        self._end, self._at = end, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._at, self._end + len(FOOTER))[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at < self._end:
            self._data.seek(self._at)
            piece = self._data.read(min(len(buffer), self._end - self._at))
        else:
            begin = self._at - self._end
            piece = FOOTER[begin : begin + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        self._data.close()
        super().close()
